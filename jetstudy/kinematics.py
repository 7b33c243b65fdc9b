"""Jets as massless particles around a reference jet at η = 0, φ = 0, pT = 1.

A particle (η_rel, φ_rel, pT_rel) has the four-vector

    (E, px, py, pz) = pT (cosh η, cos φ, sin φ, sinh η),

so a jet's mass is a sum over pairs, which only differences of η and φ enter:

    m² = Σ_{i<j} 2 pTi pTj (cosh Δη − cos Δφ) = Σ_{i<j} 4 pTi pTj (sinh²(Δη/2) + sin²(Δφ/2)).

E² − p² gives the same number as a small difference of large ones. It stops cancelling in the frame where the
jet has pz = py = 0: there, with W = Σ pT, A = Σ pT sinh²(η/2) and B = Σ pT sin²(φ/2), E = W + 2A and
px = W − 2B, hence

    m² = 4 A (W + A) + 4 B (W − B),

in which no term is negative. The price is N operations a jet, not N².

All functions of jets take `particles` (n, N, 3) = (etarel, phirel, ptrel) and `mask` (n, N), true for real particles;
all compute in float64. What stands in masked entries never matters.
"""

import numpy as np
from numpy.typing import ArrayLike

BATCH = 10_000  # jets at a time, so that memory stays bounded


def batches(n: int, size: int = BATCH) -> list[slice]:
    """`n` jets, `size` at a time; of none one empty batch."""
    return [slice(first, first + size) for first in range(0, max(1, n), size)]


def _unpadded(particles: ArrayLike, mask: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """η, φ and pT, each (n, N) float64, zero where masked."""
    real = np.where(np.asarray(mask, bool)[..., None], np.asarray(particles, np.float64), 0.0)
    return real[..., 0], real[..., 1], real[..., 2]


def four_vectors(particles: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """(n, N, 4) array of E, px, py, pz in units of the jet's pT; zeros where masked."""
    eta, phi, pt = _unpadded(particles, mask)
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)


def jet_mass(particles: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """(n,) invariant mass in units of the jet's pT; 0 for a jet without particles.

    >>> pair = [[[0.3, 0.0, 0.5], [-0.1, 0.0, 0.5]]]
    >>> round(jet_mass(pair, [[True, True]]).item(), 12)  # 2 pT sinh(Δη/2)
    0.201336002541
    """
    particles, mask = np.asarray(particles), np.asarray(mask)
    return np.concatenate([_batch_mass(particles[batch], mask[batch]) for batch in batches(len(mask))])


def _batch_mass(particles: np.ndarray, mask: np.ndarray) -> np.ndarray:
    eta, phi, pt = _unpadded(particles, mask)
    forward, backward = (pt * np.exp(eta)).sum(-1), (pt * np.exp(-eta)).sum(-1)
    ratio = np.divide(forward, backward, out=np.ones_like(forward), where=backward > 0)
    eta = eta - 0.5 * np.log(ratio)[:, None]
    phi = phi - np.arctan2((pt * np.sin(phi)).sum(-1), (pt * np.cos(phi)).sum(-1))[:, None]
    total = pt.sum(-1)
    along = (pt * np.sinh(0.5 * eta) ** 2).sum(-1)
    around = (pt * np.sin(0.5 * phi) ** 2).sum(-1)
    opposite = (pt * np.cos(0.5 * phi) ** 2).sum(-1)
    return 2.0 * np.sqrt(along * (total + along) + around * opposite)


def pair_mass(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """(n,) invariant mass of each particle of `first` (n, 3) with that of `second` (n, 3), in units of the jet's pT.

    >>> round(pair_mass([[0.3, 0.0, 0.5]], [[-0.1, 0.0, 0.5]]).item(), 12)
    0.201336002541
    """
    (eta, phi, pt), (other_eta, other_phi, other_pt) = (np.asarray(p, np.float64).T for p in (first, second))
    along, around = np.sinh((eta - other_eta) / 2), np.sin((phi - other_phi) / 2)
    return 2 * np.sqrt(pt * other_pt * (along**2 + around**2))


def ptrel_sum(particles: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """(n,) Σ ptrel: 1 up to the jet's width when all constituents are kept."""
    return _unpadded(particles, mask)[2].sum(-1)


def momentum_closure(particles: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """(n,) |Σ ptrel exp(i phirel) − 1|: 0 exactly when all constituents of a jet are kept.

    >>> momentum_closure([[[0.1, 0.0, 0.75], [-0.2, 0.0, 0.25]]], [[True, False]]).tolist()  # the softer one is lost
    [0.25]
    """
    _, phi, pt = _unpadded(particles, mask)
    return np.abs((pt * np.exp(1j * phi)).sum(-1) - 1.0)
