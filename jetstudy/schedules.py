"""Noise schedules: x_t = alpha(t) x + sigma(t) eps, with t = 0 the data and t = 1 the noise.

``cosine``: alpha = cos(pi t / 2), sigma = sin(pi t / 2), variance preserving (Salimans & Ho, arXiv:2202.00512).
``linear``: alpha = 1 - t, sigma = t, the straight line of flow matching (Lipman et al., arXiv:2210.02747).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """alpha, sigma and their time derivatives, each a function of a tensor of times in [0, 1].

    ``time`` is the time at which sigma / alpha, the ratio of noise to signal, has a given value.

    >>> t = torch.tensor([0.0, 0.5, 1.0])
    >>> [[round(x, 3) + 0.0 for x in f(t).tolist()] for f in (SCHEDULES["cosine"].alpha, SCHEDULES["cosine"].sigma)]
    [[1.0, 0.707, 0.0], [0.0, 0.707, 1.0]]
    >>> SCHEDULES["linear"].time(torch.tensor(3.0)).item()  # three times as much noise as signal
    0.75
    """

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    alpha_dot: Callable[[Tensor], Tensor]
    sigma_dot: Callable[[Tensor], Tensor]
    time: Callable[[Tensor], Tensor]


_RATE = math.pi / 2

SCHEDULES = {
    "linear": Schedule(
        alpha=lambda t: 1 - t,
        sigma=lambda t: t,
        alpha_dot=lambda t: -torch.ones_like(t),
        sigma_dot=torch.ones_like,
        time=lambda ratio: ratio / (1 + ratio),
    ),
    "cosine": Schedule(
        alpha=lambda t: torch.cos(_RATE * t),
        sigma=lambda t: torch.sin(_RATE * t),
        alpha_dot=lambda t: -_RATE * torch.sin(_RATE * t),
        sigma_dot=lambda t: _RATE * torch.cos(_RATE * t),
        time=lambda ratio: torch.atan(ratio) / _RATE,
    ),
}
