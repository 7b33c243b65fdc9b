"""The numbers a jet is described by: u = (etarel, phirel, log ptrel), standardised.

The constants are shared by all classes, so the Jacobian of the map cancels in every likelihood ratio; it is
still part of every absolute log p. Taggers see a jet through plain ``Features``; a density may have its *stretched*
ones, which hold the same information.

Stretching. The jet's own momentum nearly fixes three numbers of its particles,

    q = (sum z etarel, sum z phirel, log sum ptrel),  z = ptrel / sum ptrel:

their axis is within a hundredth of the jet's, and their summed ptrel ends sharply at 1. A diffusion sees so narrow a
structure only in the last few per cent of the time, when the noise of q (sqrt(sum z^2), some 0.3 of a coordinate's)
is narrower still. So all particles of a jet are shifted by f(q) - q, where f is monotone and f(q) nearly normal and
about as wide as that noise. The shift changes no z; so q becomes f(q), the shift f^-1(q) - q undoes it, and by the
matrix determinant lemma the Jacobian (the identity plus the outer product of f' - 1 and z, whose sum is 1) has the
product of the three f'(q) as determinant.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from jetstudy.files import read_json
from jetstudy.jets import Jets


@dataclass(frozen=True)
class Stretch:
    """f(q) = centre + width sinh(tail asinh((q - centre) / scale) - skew), monotone and closed-form both ways.

    f(q) - centre is ``width`` times a normal variable if q has the sinh-arcsinh distribution (Jones & Pewsey,
    Biometrika 96, 761, eq. 1).
    """

    centre: float
    scale: float
    skew: float
    tail: float
    width: float

    @classmethod
    def fit(cls, q: np.ndarray, weight: np.ndarray, width: float) -> "Stretch":
        """The most likely one for q (n,) with weights (n,), for a given ``width``."""
        centre = np.average(q, weights=weight)
        spread = np.sqrt(np.average(np.square(q - centre), weights=weight))

        def surprise(theta: np.ndarray) -> float:
            f = cls(theta[0] * spread + centre, np.exp(theta[1]) * spread, theta[2], np.exp(theta[3]), 1.0)
            normal = f(q) - f.centre
            return np.average(0.5 * np.square(normal) - np.log(f.slope(q)), weights=weight)

        bounds = [(-3, 3), (-3, 3), (-5, 5), (-2, 2)]
        shift, log_scale, skew, log_tail = minimize(surprise, np.zeros(4), method="L-BFGS-B", bounds=bounds).x
        scale, tail = np.exp([log_scale, log_tail])
        return cls(float(centre + shift * spread), float(scale * spread), float(skew), float(tail), width)

    def __call__(self, q: np.ndarray) -> np.ndarray:
        return self.centre + self.width * np.sinh(self.tail * np.arcsinh((q - self.centre) / self.scale) - self.skew)

    def inverse(self, f: np.ndarray) -> np.ndarray:
        normal = (f - self.centre) / self.width
        return self.centre + self.scale * np.sinh((np.arcsinh(normal) + self.skew) / self.tail)

    def slope(self, q: np.ndarray) -> np.ndarray:
        """f'(q)."""
        x = (q - self.centre) / self.scale
        bend = np.cosh(self.tail * np.arcsinh(x) - self.skew) / np.sqrt(1 + np.square(x))
        return self.width * self.tail / self.scale * bend


@dataclass(frozen=True)
class Edge:
    """A jet ends at a distance ``radius`` of its axis; each particle's distance r = |(etarel, phirel)| becomes

        g(r) = r + gap (s(r) - s(0)),  s(r) = (r - radius) / sqrt((r - radius)^2 + width^2),

    its direction stays: hardly a change inside, ``gap`` more at the radius, twice as much far outside; the steep end is
    1 + gap / width times as wide.
    """

    radius: float
    width: float
    gap: float

    @classmethod
    def at(cls, radius: float) -> "Edge | None":
        """The study's choice (docs/surrogates.md): a twentieth of the ``radius`` becomes eight times as wide; no edge
        for a radius of 0.
        """
        return cls(radius, width=0.05 * radius, gap=0.35 * radius) if radius else None

    def __call__(self, u: np.ndarray) -> np.ndarray:
        """u (..., 3) = (etarel, phirel, log ptrel) with the distances changed."""
        r = np.hypot(u[..., 0], u[..., 1])
        return _scaled(u, self._ratio(self._distance(r), r))

    def inverse(self, u: np.ndarray) -> np.ndarray:
        """By bisection: r is at least g - 2 gap and at most g."""
        g = np.hypot(u[..., 0], u[..., 1])
        low, high = np.maximum(g - 2 * self.gap, 0.0), g
        for _ in range(60):
            r = (low + high) / 2
            below = self._distance(r) < g
            low, high = np.where(below, r, low), np.where(below, high, r)
        return _scaled(u, 1 / self._ratio(g, r))

    def log_jacobian(self, u: np.ndarray) -> np.ndarray:
        """log of the determinant of each particle's map (...): g'(r) g(r) / r."""
        r = np.hypot(u[..., 0], u[..., 1])
        return np.log(self._slope(r)) + np.log(self._ratio(self._distance(r), r))

    def _distance(self, r: np.ndarray) -> np.ndarray:
        def s(r):
            return (r - self.radius) / np.hypot(r - self.radius, self.width)

        return r + self.gap * (s(r) - s(0.0))

    def _slope(self, r: np.ndarray) -> np.ndarray:
        return 1 + self.gap * self.width**2 / np.hypot(r - self.radius, self.width) ** 3

    def _ratio(self, g: np.ndarray, r: np.ndarray) -> np.ndarray:
        """g / r, and its limit g'(0) at r = 0."""
        return np.where(r > 1e-9, g / np.maximum(r, 1e-9), self._slope(np.zeros_like(r)))


@dataclass(frozen=True)
class Features:
    """Mean and standard deviation of (etarel, phirel, log ptrel), three numbers each, of stretched particles if there
    are ``stretches``, one for each of the three, and of ones with the end of the jet spread if there is an ``edge``.

    >>> features = Features(mean=(0.0, 0.0, -1.0), std=(0.1, 0.1, 0.5))
    >>> jets = Jets(np.array([[[0.1, -0.2, 1.0]]], np.float32), np.array([[True]]), np.zeros((1, 4), np.float32))
    >>> u = features.forward(jets)
    >>> u.round(6).tolist()
    [[[1.0, -2.0, 2.0]]]
    >>> features.inverse(u, jets.mask).round(6).tolist()
    [[[0.1, -0.2, 1.0]]]
    >>> features.log_jacobian(jets).round(4).tolist()  # -log(0.1 · 0.1 · 0.5), for ptrel is 1
    [5.2983]
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stretches: tuple[Stretch, ...] = ()
    edge: Edge | None = None

    @classmethod
    def fit(cls, classes: Sequence[Jets], stretch: float = 0.0, edge: Edge | None = None) -> "Features":
        """Constants of the particles of all classes together, each class with the same weight.

        ``stretch`` is the width that the jet's axis and momentum get, in units of the particles' own; 0 leaves them.
        With an ``edge``, the end of the jet is spread before.
        """
        values = [_coordinates(jets, edge) for jets in classes]
        plain = cls._standard(values, classes, (), edge)
        if not stretch:
            return plain
        totals = [_total(u, jets.mask) for u, jets in zip(values, classes, strict=True)]
        q = np.concatenate(totals)
        weight = np.concatenate([np.full(len(jets), 1 / len(jets)) for jets in classes])
        stretches = tuple(Stretch.fit(q[:, k], weight, stretch * plain.std[k]) for k in range(3))
        shifted = [u + _shift(total, stretches) for u, total in zip(values, totals, strict=True)]
        return cls._standard(shifted, classes, stretches, edge)

    @classmethod
    def _standard(
        cls,
        values: Sequence[np.ndarray],
        classes: Sequence[Jets],
        stretches: tuple[Stretch, ...],
        edge: Edge | None,
    ) -> "Features":
        moments = [
            (u[jets.mask].mean(0), np.square(u[jets.mask]).mean(0)) for u, jets in zip(values, classes, strict=True)
        ]
        first, second = np.mean(moments, axis=0)
        return cls(tuple(first.tolist()), tuple(np.sqrt(second - np.square(first)).tolist()), stretches, edge)

    def like(self, other: "Features") -> bool:
        """Whether both can be fits of the same jets: one edge, stretches of the same widths; standard deviations, and
        means in units of them, within a hundredth.
        """
        stretched = [f.width for f in self.stretches] == [f.width for f in other.stretches]
        stretched &= self.edge == other.edge
        near = np.isclose(self.std, other.std, rtol=0.01, atol=0)
        near &= np.abs(np.subtract(self.mean, other.mean)) < np.multiply(0.01, self.std)
        return stretched and bool(near.all())

    def forward(self, jets: Jets) -> np.ndarray:
        """Standardised features (n, N, 3) float64, zero where masked."""
        u = _coordinates(jets, self.edge)
        if self.stretches:
            u = u + _shift(_total(u, jets.mask), self.stretches)
        return np.where(jets.mask[..., None], (u - self.mean) / self.std, 0.0)

    def inverse(self, u: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Particles (n, N, 3) = (etarel, phirel, ptrel) of standardised features, zero where masked."""
        physical = np.where(mask[..., None], u * self.std + self.mean, 0.0)
        if self.stretches:
            total = _total(physical, mask)
            back = np.stack([f.inverse(total[:, k]) for k, f in enumerate(self.stretches)], axis=1)
            physical = np.where(mask[..., None], physical + (back - total)[:, None], 0.0)
        if self.edge:
            physical = self.edge.inverse(physical)
        physical[..., 2] = np.where(mask, np.exp(physical[..., 2]), 0.0)
        return physical

    def log_jacobian(self, jets: Jets) -> np.ndarray:
        """log |du / d(etarel, phirel, ptrel)| of each jet (n,), summed over its particles."""
        u = _coordinates(jets, None)
        result = -u[..., 2].sum(1) - jets.count * np.log(self.std).sum()
        if self.edge:
            result += np.where(jets.mask, self.edge.log_jacobian(u), 0.0).sum(1)
            u = self.edge(u)
        if self.stretches:
            total = _total(u, jets.mask)
            result += sum(np.log(f.slope(total[:, k])) for k, f in enumerate(self.stretches))
        return result

    def to_dict(self) -> dict:
        edge = {"edge": asdict(self.edge)} if self.edge else {}
        return {"mean": list(self.mean), "std": list(self.std), "stretches": [asdict(f) for f in self.stretches]} | edge

    @classmethod
    def from_dict(cls, content: dict) -> "Features":
        stretches = tuple(Stretch(**f) for f in content["stretches"])
        edge = Edge(**content["edge"]) if "edge" in content else None
        return cls(tuple(content["mean"]), tuple(content["std"]), stretches, edge)

    @classmethod
    def load(cls, path: Path) -> "Features":
        return cls.from_dict(read_json(path))


def _coordinates(jets: Jets, edge: Edge | None) -> np.ndarray:
    """(etarel, phirel, log ptrel) (n, N, 3) float64, with the end of the jet spread if there is an ``edge``; 0 where
    masked.
    """
    u = np.where(jets.mask[..., None], jets.particles.astype(np.float64), 0.0)
    u[..., 2] = np.log(np.where(jets.mask, u[..., 2], 1.0))
    return edge(u) if edge else u


def _scaled(u: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """u (..., 3) with the two angles times ``ratio`` (...)."""
    return np.stack([u[..., 0] * ratio, u[..., 1] * ratio, u[..., 2]], axis=-1)


def _total(u: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Axis and log of the summed ptrel (n, 3) of jets with features u = (etarel, phirel, log ptrel) (n, N, 3)."""
    u = np.where(mask[..., None], u, 0.0)
    log_sum = logsumexp(np.where(mask, u[..., 2], -np.inf), axis=1)
    z = np.where(mask, np.exp(u[..., 2] - log_sum[:, None]), 0.0)
    return np.stack([(z * u[..., 0]).sum(1), (z * u[..., 1]).sum(1), log_sum], axis=1)


def _shift(total: np.ndarray, stretches: Sequence[Stretch]) -> np.ndarray:
    """What each particle of a jet is shifted by, (n, 1, 3)."""
    return np.stack([f(total[:, k]) - total[:, k] for k, f in enumerate(stretches)], axis=1)[:, None]
