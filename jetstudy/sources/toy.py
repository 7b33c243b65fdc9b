"""Toy jets whose log p and whose diffusion velocity are known in closed form.

A jet of either class has N particles, N from a table p(N), and one of K orientations o, each equally likely.
Given o, its particles are independent draws of u = (etarel, phirel, log ptrel) from a mixture of prongs,
Gaussians whose centres turn with o:

    p(u_1 ... u_N | N) = 1/K sum_o prod_i sum_p w_p N(u_i; mu_{p,o}, diag(s_p^2)) .

It is exchangeable, the orientation makes it multi-modal and its particles dependent, and the ratio of two
such densities is the optimal tagger. Under x_t = alpha x + sigma eps a Gaussian stays one, with mean alpha mu
and variance alpha^2 s^2 + sigma^2, so v(x_t, t) = E[alpha' x + sigma' eps | x_t] is closed-form too.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.jets import Jets, arrange
from jetstudy.kinematics import jet_mass
from jetstudy.schedules import Schedule
from jetstudy.sources import kind

ORIENTATIONS = 6
BATCH = 4096  # jets scored at a time, so that memory stays bounded
IDENTITY = Features(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Prong:
    """A prong in orientation 0: weight, radius and angle of its centre, mean log ptrel, widths."""

    weight: float
    radius: float
    angle: float
    log_ptrel: float
    width: float
    log_ptrel_width: float


@dataclass(frozen=True)
class ToyClass:
    """Prongs, and the mean of N as a fraction of the way from the smallest to the largest N."""

    prongs: tuple[Prong, ...]
    filling: float


CLASSES = {
    "gluon": ToyClass(
        prongs=(
            Prong(0.6, 0.04, 0.0, -3.0, 0.05, 0.8),
            Prong(0.4, 0.10, math.pi, -3.6, 0.12, 0.9),
        ),
        filling=0.6,
    ),
    "top": ToyClass(
        prongs=(
            Prong(0.45, 0.07, 0.0, -3.0, 0.05, 0.8),
            Prong(0.30, 0.11, 2 * math.pi / 3, -3.3, 0.06, 0.8),
            Prong(0.25, 0.13, 4 * math.pi / 3, -3.5, 0.07, 0.9),
        ),
        filling=0.5,
    ),
}


def p_count(label: str, n_max: int) -> np.ndarray:
    """p(N) (n_max + 1,): binomial between about n_max / 2 and n_max."""
    low = (n_max + 1) // 2
    k = np.arange(n_max - low + 1)
    choose = np.array([math.comb(n_max - low, int(i)) for i in k], dtype=float)
    p = CLASSES[kind(label)].filling
    return np.concatenate([np.zeros(low), choose * p**k * (1 - p) ** (n_max - low - k)])


class ToyVelocity(nn.Module):
    """Closed-form velocity of a class's diffusion, and its log density, in standardised features.

    A drop-in for a trained network: ``velocity(x, t, mask)`` with x (B, N, 3), t () or (B,), mask (B, N).
    What stands in masked entries never matters, and the velocity is zero there. ``log_density`` needs no
    schedule. ``own_path`` is the estimator of that name. Raises ValueError for other than plain features.
    """

    def __init__(self, label: str, features: Features, schedule: Schedule | None = None):
        super().__init__()
        if features.stretches or features.edge:
            raise ValueError("the toy's velocity is known in plain features: set stretch and edge to 0")
        prongs = CLASSES[kind(label)].prongs
        turn = 2 * math.pi / ORIENTATIONS * np.arange(ORIENTATIONS)[:, None]
        radius, angle, log_ptrel, width, log_width, weight = (
            np.array([getattr(prong, name) for prong in prongs])
            for name in ("radius", "angle", "log_ptrel", "width", "log_ptrel_width", "weight")
        )
        flat = np.broadcast_to(log_ptrel, (ORIENTATIONS, len(prongs)))
        mean = np.stack([radius * np.cos(angle + turn), radius * np.sin(angle + turn), flat], axis=-1)
        std = np.stack([width, width, log_width], axis=-1)
        self.schedule = schedule
        self.register_buffer("mean", torch.from_numpy((mean - features.mean) / features.std))  # (O, P, 3)
        self.register_buffer("std", torch.from_numpy(std / features.std))  # (P, 3)
        self.register_buffer("log_weight", torch.from_numpy(np.log(weight)))  # (P,)

    def _components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x - alpha mu (B, N, O, P, 3), variance (B, 1, 1, P, 3) and log w_p N(x) (B, N, O, P)."""
        alpha, sigma = (value.reshape(-1, 1, 1, 1, 1) for value in (alpha, sigma))
        centred = x[:, :, None, None, :] - alpha * self.mean
        variance = alpha.square() * self.std.square() + sigma.square()
        log_p = -0.5 * (centred.square() / variance + torch.log(2 * math.pi * variance)).sum(-1)
        return centred, variance, log_p + self.log_weight

    def log_density(self, x: Tensor, mask: Tensor) -> Tensor:
        """log p(u_1 ... u_N | N) (B,) in standardised features."""
        _, _, log_p = self._components(x, x.new_ones(1), x.new_zeros(1))
        a_particle = torch.where(mask[..., None], log_p.logsumexp(-1), 0)
        return a_particle.sum(1).logsumexp(-1) - math.log(ORIENTATIONS)

    def _posterior(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each orientation and prong, given x_t: its probability (B, N, O, P), velocity and -grad log p (B, N, O, P,
        3), and the derivative of each coordinate's velocity by itself (B, 1, 1, P, 3).
        """
        t = t.to(x)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        centred, variance, log_p = self._components(x, alpha, sigma)
        a_particle = torch.where(mask[..., None], log_p.logsumexp(-1), 0)
        orientation = a_particle.sum(1).softmax(-1)  # (B, O)
        weight = orientation[:, None, :, None] * log_p.softmax(-1)
        alpha, sigma, alpha_dot, sigma_dot = (
            value.reshape(-1, 1, 1, 1, 1)
            for value in (alpha, sigma, self.schedule.alpha_dot(t), self.schedule.sigma_dot(t))
        )
        slope = (alpha_dot * alpha * self.std.square() + sigma_dot * sigma) / variance
        return weight, alpha_dot * self.mean + slope * centred, centred / variance, slope

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        weight, velocity, _, _ = self._posterior(x, t, mask)
        return torch.where(mask[..., None], (weight[..., None] * velocity).sum((2, 3)), 0)

    def own_path(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity (B, N, 3) and its exact divergence (B,), in closed form too.

        With w the probabilities of orientations and prongs, v = sum w v_op and, along a particle's own coordinates,
        grad w = w (grad log p_op - sum w grad log p_op).
        """
        weight, velocity, pull, slope = self._posterior(x, t, mask)
        v, mean_pull = ((weight[..., None] * value).sum((2, 3)) for value in (velocity, pull))
        own = (weight * (slope - velocity * pull).sum(-1)).sum((2, 3)) + (v * mean_pull).sum(-1)
        return torch.where(mask[..., None], v, 0), torch.where(mask, own, 0).sum(1)


def log_prob(jets: Jets, label: str) -> np.ndarray:
    """True log p (n,) of jets under class ``label``, in the convention of ``Surrogate.log_prob``.

    p(N) is the one of ``generate`` with n_max = ``jets.n_max``; a jet with an N outside its support has -inf.
    """
    toy = ToyVelocity(label, IDENTITY)
    x, mask = torch.from_numpy(IDENTITY.forward(jets)), torch.from_numpy(jets.mask)
    batches = zip(x.split(BATCH), mask.split(BATCH), strict=True)
    inner = torch.cat([toy.log_density(*batch) for batch in batches]).numpy()
    with np.errstate(divide="ignore"):
        log_count = np.log(p_count(label, jets.n_max)[jets.count])
    return inner + log_count + IDENTITY.log_jacobian(jets)


def generate(label: str, n_jets: int, n_max: int, generator: np.random.Generator) -> Jets:
    """Draw toy jets with at most n_max particles, as if of 1 TeV; raises ValueError for an unknown class."""
    if kind(label) not in CLASSES:
        raise ValueError(f"class {label!r} is unknown to the toy; it has {', '.join(CLASSES)}")
    toy = ToyVelocity(label, IDENTITY)
    count = generator.choice(n_max + 1, size=n_jets, p=p_count(label, n_max))
    mask = np.arange(n_max) < count[:, None]
    weight = toy.log_weight.exp().numpy()
    prong = generator.choice(len(weight), size=(n_jets, n_max), p=weight / weight.sum())
    orientation = generator.integers(ORIENTATIONS, size=(n_jets, 1))
    normal = generator.standard_normal((n_jets, n_max, 3))
    u = toy.mean.numpy()[orientation, prong] + toy.std.numpy()[prong] * normal
    u[..., 2] = np.exp(u[..., 2])
    mass, zero, tev = jet_mass(u, mask), np.zeros(n_jets), np.full(n_jets, 1000.0)
    return arrange(u, mask, np.stack([tev, zero, 1000.0 * mass, count], axis=1))
