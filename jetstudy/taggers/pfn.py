"""Particle Flow Network (Komiske, Metodiev, Thaler, 1810.05165, equation 1.2): F(Σ_i Φ(p_i)).

Φ and F are dense layers with ReLU (section 4.1). The sum, not an average, is the paper's: the network can count.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.particles import perceptron


class PFN(nn.Module):
    """``particle`` widths of Φ, ``jet`` widths of F. The paper's have 82k parameters."""

    sizes: ClassVar = {
        "paper": {"particle": [100, 100, 256], "jet": [100, 100, 100]},
        "small": {"particle": [32, 32, 64], "jet": [32, 32]},
    }
    space: ClassVar = {
        "particle": [[32, 32, 64], [64, 64, 128], [100, 100, 256], [200, 200, 512]],
        "jet": [[32, 32], [100, 100, 100], [256, 256, 256]],
    }
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "constant", "rate": 1e-3, "weight_decay": 0.0}

    def __init__(self, features: Features, particle: Sequence[int] = (100, 100, 256), jet: Sequence[int] = (100,) * 3):
        super().__init__()
        self.particle = perceptron(3, *particle)
        self.jet = nn.Sequential(perceptron(particle[-1], *jet), nn.Linear(jet[-1], 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        real = mask[..., None]
        h = self.particle(x.masked_fill(~real, 0)).masked_fill(~real, 0).sum(1)
        return self.jet(h).squeeze(-1)
