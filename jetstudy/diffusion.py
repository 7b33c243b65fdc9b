"""Diffusion of standardised jets: x_t = alpha(t) x + sigma(t) eps, and the velocity that undoes it.

The network is the velocity, regressed on alpha'(t) x + sigma'(t) eps, whose conditional mean given x_t is the
field v(x_t, t) of the probability flow (Salimans & Ho, arXiv:2202.00512; Lipman et al., arXiv:2210.02747).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from jetstudy.schedules import SCHEDULES, Schedule

TIMES = ("uniform", "noise", "log_normal")
PAIRINGS = ("independent", "assigned")
LOG_NORMAL = (-1.2, 1.2)  # mean and width of log(sigma / alpha): EDM's noise levels (arXiv:2206.00364, Table 1)


@dataclass(frozen=True)
class Design:
    """What a velocity is trained on: choices in which the field's diffusion models differ.

    schedule: of the noise, a key of SCHEDULES
    times: where in time the error counts. ``uniform``: as for a network that predicts v; ``noise``: weighted by
        alpha^2, as for one that predicts eps (with the cosine schedule its error is 2 alpha / pi times that of v);
        ``log_normal``: at the noise levels of EDM, whose preconditioned network is v itself, for data of unit
        variance and the cosine schedule.
    pairing: of data and noise. ``independent``, or ``assigned`` (see ``assigned``), after which score, denoised x
        and all that rests on them are unknown.

    Raises ValueError for any other choice.
    """

    schedule: str = "cosine"
    times: str = "uniform"
    pairing: str = "independent"

    def __post_init__(self):
        for name, known in (("schedule", SCHEDULES), ("times", TIMES), ("pairing", PAIRINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(known)}")

    def needs_independent_noise(self, what: str) -> None:
        """Raises ValueError, naming ``what`` was asked for, if noise and data were paired by assignment."""
        if self.pairing != "independent":
            raise ValueError(f"{what} are unknown: pairing is {self.pairing!r}, so noise depends on the data")


def diffuse(x: Tensor, eps: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """x_t and the target of the velocity (B, N, 3), for data x and noise eps (B, N, 3) at times t (B,)."""
    t = t[:, None, None]
    x_t = schedule.alpha(t) * x + schedule.sigma(t) * eps
    return x_t, schedule.alpha_dot(t) * x + schedule.sigma_dot(t) * eps


def denoised(v: Tensor, x_t: Tensor, t: Tensor, design: Design) -> tuple[Tensor, Tensor]:
    """E[x | x_t] and E[eps | x_t] (B, N, 3) at a time t (), from the velocity v at x_t (B, N, 3).

    v = alpha' x + sigma' eps and x_t = alpha x + sigma eps, solved for both; the score of x_t is -E[eps | x_t] / sigma.
    Raises ValueError where noise was assigned to the data: this algebra then gives something else.
    """
    design.needs_independent_noise("the denoised jet and the score")
    schedule = SCHEDULES[design.schedule]
    alpha, sigma, alpha_dot, sigma_dot = (
        f(t) for f in (schedule.alpha, schedule.sigma, schedule.alpha_dot, schedule.sigma_dot)
    )
    determinant = alpha * sigma_dot - alpha_dot * sigma
    return (sigma_dot * x_t - sigma * v) / determinant, (alpha * v - alpha_dot * x_t) / determinant


def _times(n: int, design: Design, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times (n,) in (0, 1) and the weights of their errors (n,), of mean 1.

    Times are stratified, one in each of n intervals of equal probability: the same mean, less variance.
    """
    offset = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
    u = (torch.randperm(n, generator=generator, device=generator.device) + offset) / n
    schedule = SCHEDULES[design.schedule]
    if design.times == "log_normal":
        normal = torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))
        return schedule.time(torch.exp(LOG_NORMAL[0] + LOG_NORMAL[1] * normal)), torch.ones_like(u)
    if design.times == "noise":
        weight = schedule.alpha(u).square()
        return u, weight / weight.mean()
    return u, torch.ones_like(u)


def assigned(eps: Tensor, x: Tensor, mask: Tensor) -> Tensor:
    """The noise eps (B, N, 3), handed round among each jet's real particles such that it is nearest to x (B, N, 3).

    The least squared distance, by an optimal assignment a jet. Noise and data are as exchangeable in their particles
    as before, so the ends of the flow are the same, and v and log p stay valid; its paths cross less (equivariant
    flow matching, arXiv:2306.15030).
    """
    cost = torch.cdist(x, eps).square().cpu().numpy()
    order = torch.arange(x.shape[1]).repeat(len(x), 1)
    for jet, n in enumerate(mask.sum(1).tolist()):
        order[jet, :n] = torch.from_numpy(linear_sum_assignment(cost[jet, :n, :n])[1])
    return eps.gather(1, order.to(eps.device)[..., None].expand_as(eps))


def loss(network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator, design: Design) -> Tensor:
    """Mean squared error of the velocity over the coordinates of real particles, at times drawn in (0, 1).

    ``batch`` is the data x (B, N, 3), finite in its padding too, its mask (B, N) bool, real particles first, and for a
    network of two classes the label (B,).
    """
    x, mask, *label = batch
    t, weight = (values.to(x) for values in _times(len(x), design, generator))
    eps = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
    if design.pairing == "assigned":
        eps = assigned(eps, x, mask)
    x_t, target = diffuse(x, eps, t, SCHEDULES[design.schedule])
    error = (network(x_t, t, mask, *label) - target).square().sum(-1) * mask * weight[:, None]
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
