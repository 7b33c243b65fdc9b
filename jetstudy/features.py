"""The numbers a jet is described by: u = (etarel, phirel, log ptrel), standardised.

The constants are shared by all classes, so the Jacobian of the map cancels in every likelihood ratio; it is
still part of every absolute log p. Densities and taggers see a jet through the same ``Features``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jetstudy.jets import Jets


@dataclass(frozen=True)
class Features:
    """Mean and standard deviation of (etarel, phirel, log ptrel), three numbers each."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def fit(cls, classes: Sequence[Jets]) -> "Features":
        """Constants of the particles of all classes together, each class with the same weight."""
        moments = []
        for jets in classes:
            u = _log_ptrel(jets.particles, jets.mask)[jets.mask]
            moments.append((u.mean(0), np.square(u).mean(0)))
        first, second = np.mean(moments, axis=0)
        return cls(tuple(first.tolist()), tuple(np.sqrt(second - np.square(first)).tolist()))

    def forward(self, jets: Jets) -> np.ndarray:
        """Standardised features (n, N, 3) float64, zero where masked."""
        u = (_log_ptrel(jets.particles, jets.mask) - self.mean) / self.std
        return np.where(jets.mask[..., None], u, 0.0)

    def inverse(self, u: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Particles (n, N, 3) = (etarel, phirel, ptrel) of standardised features, zero where masked."""
        physical = np.where(mask[..., None], u * self.std + self.mean, 0.0)
        physical[..., 2] = np.where(mask, np.exp(physical[..., 2]), 0.0)
        return physical

    def log_jacobian(self, jets: Jets) -> np.ndarray:
        """log |du / d(etarel, phirel, ptrel)| of each jet (n,), summed over its particles."""
        log_ptrel = _log_ptrel(jets.particles, jets.mask)[..., 2]
        return -log_ptrel.sum(1) - jets.count * np.log(self.std).sum()

    def to_dict(self) -> dict:
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, content: dict) -> "Features":
        return cls(tuple(content["mean"]), tuple(content["std"]))

    @classmethod
    def load(cls, path: Path) -> "Features":
        return cls.from_dict(json.loads(Path(path).read_text()))


def _log_ptrel(particles: np.ndarray, mask: np.ndarray) -> np.ndarray:
    u = particles.astype(np.float64)
    u[..., 2] = np.log(np.where(mask, u[..., 2], 1.0))
    return u
