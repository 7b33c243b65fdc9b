"""Diffusion of standardised jets: x_t = alpha(t) x + sigma(t) eps, and the velocity that undoes it.

The network is the velocity, regressed on alpha'(t) x + sigma'(t) eps, whose conditional mean given x_t is the
field v(x_t, t) of the probability flow (Salimans & Ho, arXiv:2202.00512; Lipman et al., arXiv:2210.02747).
"""

import torch
from torch import Tensor, nn

from jetstudy.schedules import Schedule


def diffuse(x: Tensor, eps: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """x_t and the target of the velocity (B, N, 3), for data x and noise eps (B, N, 3) at times t (B,)."""
    t = t[:, None, None]
    x_t = schedule.alpha(t) * x + schedule.sigma(t) * eps
    return x_t, schedule.alpha_dot(t) * x + schedule.sigma_dot(t) * eps


def loss(network: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator, schedule: Schedule) -> Tensor:
    """Mean squared error of the velocity over the coordinates of real particles, at times drawn in (0, 1).

    ``batch`` is the data x (B, N, 3), finite in its padding too, and its mask (B, N) bool. The times of a batch are
    stratified, one in each of B equal intervals: the same mean, less variance.
    """
    x, mask = batch
    offset = torch.rand(len(x), generator=generator, device=generator.device)
    t = ((torch.randperm(len(x), generator=generator, device=generator.device) + offset) / len(x)).to(x)
    eps = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    x_t, target = diffuse(x, eps, t, schedule)
    error = (network(x_t, t, mask) - target).square().sum(-1) * mask
    return error.sum() / (x.shape[-1] * mask.sum())
