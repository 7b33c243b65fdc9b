"""Energy Flow Network (Komiske, Metodiev, Thaler, 1810.05165, equation 1.1): F(Σ_i z_i Φ(etarel_i, phirel_i)).

z_i is ptrel, the particle's share of the whole jet's transverse momentum, so the network sees only what is safe
under soft and collinear emissions. Φ and F are dense layers with ReLU (section 4.1).
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.particles import Physical, perceptron
from jetstudy.taggers.pfn import PFN


class EFN(nn.Module):
    """``particle`` widths of Φ, ``jet`` widths of F. The paper's have 82k parameters."""

    sizes: ClassVar = PFN.sizes
    space: ClassVar = PFN.space
    recipe: ClassVar = PFN.recipe

    def __init__(self, features: Features, particle: Sequence[int] = (100, 100, 256), jet: Sequence[int] = (100,) * 3):
        super().__init__()
        self.physical = Physical(features)
        self.particle = perceptron(2, *particle)
        self.jet = nn.Sequential(perceptron(particle[-1], *jet), nn.Linear(jet[-1], 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        real = mask[..., None]
        ptrel = self.physical(x, mask)[..., 2:].exp().masked_fill(~real, 0)
        h = (ptrel * self.particle(x[..., :2].masked_fill(~real, 0))).sum(1)
        return self.jet(h).squeeze(-1)
