"""The probability flow dx/dt = v(x, t) (Song et al., arXiv:2011.13456): samples and densities from one ODE.

Sampling integrates t = 1 -> 0, scoring 0 -> 1, with the same fixed-step solver on the same grid, and

    log p(x_0) = log N(x_1; 0, 1) + int_0^1 div v(x_t, t) dt .

The two directions are each other's inverse up to the solver's error, which falls with its order. States and
integrals are kept in float64; the network computes in its own precision.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from jetstudy.diffusion import Design, denoised
from jetstudy.divergence import Divergence, Velocity
from jetstudy.schedules import SCHEDULES

# Explicit Runge-Kutta methods: (nodes, coefficients of each stage, weights); Hairer, Norsett & Wanner, ch. II.1;
# rk3 is Ralston's.
METHODS = {
    "euler": ((0.0,), ((),), (1.0,)),
    "midpoint": ((0.0, 0.5), ((), (0.5,)), (0.0, 1.0)),
    "heun": ((0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "rk3": ((0.0, 0.5, 0.75), ((), (0.5,), (0.0, 0.75)), (2 / 9, 1 / 3, 4 / 9)),
    "rk4": ((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


@dataclass(frozen=True)
class Solver:
    """A fixed-step solver: ``method`` of METHODS, ``steps`` on the grid t = (k / steps) ** ``power``.

    A power above 1 puts more steps near the data, where the velocity changes fastest. Raises ValueError for an
    unknown method, fewer than one step or a power that is not positive.
    """

    method: str
    steps: int
    power: float

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"solver method {self.method!r}: expected one of {', '.join(METHODS)}")
        if self.steps < 1 or self.power <= 0:
            raise ValueError(f"solver: steps {self.steps} and power {self.power} must be positive")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one pass."""
        return self.steps * len(METHODS[self.method][0])

    def refined(self, factor: int) -> "Solver":
        """The same solver with ``factor`` times the steps."""
        return replace(self, steps=factor * self.steps)

    def times(self) -> list[float]:
        """The grid from data (0) to noise (1), steps + 1 values."""
        return [(k / self.steps) ** self.power for k in range(self.steps + 1)]


def integrate(
    velocity: Velocity,
    x: Tensor,
    mask: Tensor,
    times: list[float],
    method: str,
    divergence: Divergence | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Follow the flow along ``times``, from x (B, N, 3) float64 at times[0] to times[-1].

    Returns the end point and the integral of the divergence over the times passed, in the direction of travel
    (B,); zero if no ``divergence`` is asked for. ``dtype`` is the network's precision.
    """
    nodes, coefficients, weights = METHODS[method]
    integral = x.new_zeros(len(x))

    def rate(x: Tensor, t: float) -> tuple[Tensor, Tensor | float]:
        t = torch.tensor(t, dtype=dtype, device=x.device)
        if divergence is None:
            return velocity(x.to(dtype), t, mask).double(), 0.0
        v, div = divergence(velocity, x.to(dtype), t, mask, generator)
        return v.double(), div.double()

    for start, end in pairwise(times):
        h, rates = end - start, []
        for node, row in zip(nodes, coefficients, strict=True):
            stage = x + h * sum(a * v for a, (v, _) in zip(row, rates, strict=True) if a)
            rates.append(rate(stage, start + node * h))
        x = x + h * sum(w * v for w, (v, _) in zip(weights, rates, strict=True) if w)
        integral = integral + h * sum(w * div for w, (_, div) in zip(weights, rates, strict=True) if w)
    return x, integral


def reverse_sde(
    velocity: Velocity,
    z: Tensor,
    mask: Tensor,
    times: list[float],
    design: Design,
    churn: float,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Samples x (B, N, 3) from noise z (B, N, 3) float64 by dx = [v - eta^2 score / 2] dt + eta dW, run backwards.

    eta^2 = ``churn`` sigma, which tames the score -E[eps | x_t] / sigma at the data's end (Ma et al., arXiv:2401.08740,
    for this freedom of eta). Euler-Maruyama steps along ``times``, from noise to data. Only with the exact velocity
    do these samples have the density of the probability flow: it is a mismatch to study, not the surrogate's sampler.

    Raises ValueError for a design whose score is unknown.
    """
    x = z
    for start, end in pairwise(times):
        h, t = start - end, torch.tensor(start, dtype=torch.float64, device=x.device)
        v = velocity(x.to(dtype), t.to(dtype), mask).double()
        _, eps = denoised(v, x, t, design)
        dw = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device).to(x) * mask[..., None]
        x = x - h * (v + 0.5 * churn * eps) + (h * churn * SCHEDULES[design.schedule].sigma(t)).sqrt() * dw
    return x


def log_normal(z: Tensor, mask: Tensor) -> Tensor:
    """log N(z; 0, 1) (B,) over the coordinates of real particles."""
    a_particle = z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi)
    return -0.5 * (a_particle * mask).sum(1)
