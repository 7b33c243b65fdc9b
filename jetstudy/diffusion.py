"""Diffusion of standardised jets: x_t = alpha(t) x + sigma(t) eps, and the velocity that undoes it.

The network is the velocity, regressed on alpha'(t) x + sigma'(t) eps, whose conditional mean given x_t is the
field v(x_t, t) of the probability flow (Salimans & Ho, arXiv:2202.00512; Lipman et al., arXiv:2210.02747).
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from jetstudy.schedules import Schedule


def diffuse(x: Tensor, eps: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """x_t and the target of the velocity (B, N, 3), for data x and noise eps (B, N, 3) at times t (B,)."""
    t = t[:, None, None]
    x_t = schedule.alpha(t) * x + schedule.sigma(t) * eps
    return x_t, schedule.alpha_dot(t) * x + schedule.sigma_dot(t) * eps


def denoised(v: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """E[x | x_t] and E[eps | x_t] (B, N, 3) at a time t (), from the velocity v at x_t (B, N, 3).

    v = alpha' x + sigma' eps and x_t = alpha x + sigma eps, solved for both; the score of x_t is -E[eps | x_t] / sigma.
    Only for noise drawn independently of the data.
    """
    alpha, sigma, alpha_dot, sigma_dot = (
        f(t) for f in (schedule.alpha, schedule.sigma, schedule.alpha_dot, schedule.sigma_dot)
    )
    determinant = alpha * sigma_dot - alpha_dot * sigma
    return (sigma_dot * x_t - sigma * v) / determinant, (alpha * v - alpha_dot * x_t) / determinant


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


@torch.no_grad()
def velocity_error(
    velocity: nn.Module,
    exact: nn.Module,
    x: Tensor,
    mask: Tensor,
    schedule: Schedule,
    times: Sequence[float],
    generator: torch.Generator,
) -> pd.DataFrame:
    """E|v - v*|^2 against t: a velocity beside the exact one on diffused data x (n, N, 3) with mask (n, N).

    Means over the coordinates of real particles, on the data's device and in their precision. Columns: t, error,
    uncertainty (of the error, over jets), exact (E|v*|^2, to compare with).
    """
    rows = []
    for time in times:
        t = torch.full((len(x),), time, dtype=x.dtype, device=x.device)
        eps = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        x_t, _ = diffuse(x, eps, t, schedule)
        truth = exact(x_t, t, mask)
        error, scale = (
            (a.square().sum(-1) * mask).sum(1).double() * len(x) / (x.shape[-1] * mask.sum())
            for a in (velocity(x_t, t, mask) - truth, truth)
        )
        rows.append((time, float(error.mean()), float(error.std() / len(x) ** 0.5), float(scale.mean())))
    return pd.DataFrame(rows, columns=["t", "error", "uncertainty", "exact"])
