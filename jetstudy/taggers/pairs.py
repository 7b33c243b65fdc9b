"""Pairs of massless particles around a reference jet at η = 0, φ = 0, pT = 1.

With p = pT (cosh η, cos φ, sin φ, sinh η), the Minkowski product of two particles is

    p_i · p_j = pTi pTj (cosh Δη − cos Δφ) = 2 pTi pTj (sinh²(Δη/2) + sin²(Δφ/2)),

and m² = 2 p_i · p_j. E² − p² would be a small difference of large numbers, in float32 mostly rounding error. All
functions take u (B, N, 3) = (etarel, phirel, log ptrel), finite everywhere, as ``particles.Physical`` makes it.
"""

import math

import torch
from torch import Tensor

# Directions closer than this (a particle's distance to itself, for one) are as far apart as this to a logarithm.
FLOOR = 1e-5

# Networks that take Minkowski products through a logarithm of 1 + |.| were made for GeV: as if of a 1 TeV jet.
LOG_GEV = math.log(1000.0)


def _difference(u: Tensor, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
    """Δη and Δφ (B, P)."""
    return (u[:, i, :2] - u[:, j, :2]).unbind(-1)


def _opening(d_eta: Tensor, d_phi: Tensor) -> Tensor:
    """cosh Δη − cos Δφ without cancellation."""
    return 2 * (torch.sinh(0.5 * d_eta).square() + torch.sin(0.5 * d_phi).square())


def logarithms(u: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """ln kT, ln z, ln Δ and ln m² (B, P, 4) of the pairs of particles (i, j), each (P,) (2202.03772, section 4)."""
    d_eta, d_phi = _difference(u, i, j)
    first, second = u[:, i, 2], u[:, j, 2]
    softer = torch.minimum(first, second)
    ln_delta = 0.5 * (d_eta.square() + d_phi.square()).clamp(min=FLOOR**2).log()
    ln_m2 = math.log(2) + first + second + _opening(d_eta, d_phi).clamp(min=0.5 * FLOOR**2).log()
    return torch.stack([softer + ln_delta, softer - torch.logaddexp(first, second), ln_delta, ln_m2], dim=-1)


def products(u: Tensor, beam_mass: float) -> Tensor:
    """Minkowski products (B, 2 + N, 2 + N), in GeV² for a 1 TeV jet, of two beams and all particles with each other.

    The beams, (√(1 + beam_mass²), 0, 0, ±1) GeV, come first. They tell a Lorentz-invariant network where the
    detector is.
    """
    n = u.shape[1]
    d_eta, d_phi = (u[:, :, None, :2] - u[:, None, :, :2]).unbind(-1)
    pt = (u[..., 2] + LOG_GEV).exp()
    energy, eta = math.sqrt(1 + beam_mass**2), u[..., 0]
    gram = u.new_empty(len(u), 2 + n, 2 + n)
    gram[:, :2, :2] = u.new_tensor([[beam_mass**2, 2 + beam_mass**2], [2 + beam_mass**2, beam_mass**2]])
    beams = torch.stack([pt * (energy * eta.cosh() - eta.sinh()), pt * (energy * eta.cosh() + eta.sinh())], dim=1)
    gram[:, :2, 2:], gram[:, 2:, :2] = beams, beams.mT
    gram[:, 2:, 2:] = pt[:, :, None] * pt[:, None, :] * _opening(d_eta, d_phi)
    return gram
