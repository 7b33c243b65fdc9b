"""Two public ways to the same density with the same network: zuko's free-form flow and FFJORD's probe with torchdiffeq.

Each follows dx/dt = f(t, x) from jets x (B, 3N) at t = 0 to noise z at t = 1 with an adaptive Dormand-Prince solver,
and integrates the divergence along: (f, x, tolerance) -> z (B, 3N), integral (B,).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchdiffeq import odeint
from zuko.transforms import FreeFormJacobianTransform

Flow = Callable[[Tensor, Tensor], Tensor]


def zuko(f: Flow, x: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The exact trace, from the whole Jacobian."""
    return FreeFormJacobianTransform(f, 0.0, 1.0, atol=tolerance, rtol=tolerance, exact=True).call_and_ladj(x)


def torchdiffeq(f: Flow, x: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """One Rademacher probe a jet, kept along the path as in FFJORD (arXiv:1810.01367), the same in every call."""
    probe = 2.0 * torch.randint(2, x.shape, generator=torch.Generator().manual_seed(0)) - 1

    def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            v = f(t, y)
        (pulled,) = torch.autograd.grad(v, y, probe)
        return v.detach(), (pulled * probe).sum(1)

    start = x, x.new_zeros(len(x))
    z, integral = odeint(rate, start, torch.tensor([0.0, 1.0]), method="dopri5", rtol=tolerance, atol=tolerance)
    return z[-1], integral[-1]


RIVALS = {"zuko": zuko, "torchdiffeq": torchdiffeq}
