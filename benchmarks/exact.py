"""Toy jets, their true log p, and surrogates whose velocity is the closed-form one: nothing here is trained."""

import numpy as np
import torch

from jetstudy import surrogate
from jetstudy.features import Features
from jetstudy.jets import Jets, concatenate
from jetstudy.probability_flow import Solver
from jetstudy.schedules import SCHEDULES
from jetstudy.sources import toy
from jetstudy.surrogate import Surrogate

CLASSES = ("gluon", "top")
N_MAX = 8
surrogate.BATCH["cpu"] = 1024 * N_MAX  # the toy's velocity needs little memory


def draw(n: int, rng: np.random.Generator) -> tuple[Jets, np.ndarray]:
    """n toy jets of either class, background first, and their labels."""
    return concatenate([toy.generate(c, n, N_MAX, rng) for c in CLASSES]), np.repeat([0, 1], n)


def true_log_prob(jets: Jets) -> np.ndarray:
    """True log p (n, 2) under both classes."""
    return np.stack([toy.log_prob(jets, c) for c in CLASSES], axis=1)


def surrogates(features: Features, solver: Solver, divergence: str = "own_path") -> list[Surrogate]:
    """Both classes' surrogates with the closed-form velocity, the cosine schedule and float32."""
    return [
        Surrogate(
            label=c,
            velocity=toy.ToyVelocity(c, features, SCHEDULES["cosine"]).float(),
            features=features,
            p_count=toy.p_count(c, N_MAX),
            solver=solver,
            divergence=divergence,
            dtype=torch.float32,
        )
        for c in CLASSES
    ]
