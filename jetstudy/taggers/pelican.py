"""PELICAN (2211.00454, 2307.16506): permutation-equivariant layers on Minkowski products of pairs of particles.

The network is the package `pelican-lite` of 2508.14898's authors, an efficient reimplementation: blocks in which each
pair receives all 15 permutation-equivariant averages of the other pairs. The size is the largest of PELICAN's own
authors (github.com/abogatskiy/PELICAN, config/208k.yaml: layers of 132 and 78 features, five of averages and one of
messages more, which the package counts as a sixth block). As the package authors', its inputs are ln (p_i + p_j)² of
each pair, with itself too, and on each node which kind it is: a particle, or one of the two light-like beams
(1, 0, 0, ±1) GeV. It sees nothing else of a jet.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from pelican.nets import PELICAN
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.pairs import products
from jetstudy.taggers.particles import Physical

# Of the pairs of a 1 TeV jet: GeV² below which nothing is told apart, then mean and spread of the logarithm.
SMALLEST, MEAN, STD = 1e-6, 2.0, 5.0


class Pelican(nn.Module):
    """``width`` features a pair, times ``inner`` inside a block, ``blocks``; ``factorize`` its weights."""

    sizes: ClassVar = {
        "paper": {"width": 132, "inner": 0.591, "blocks": 6, "factorize": True},
        "small": {"width": 8, "inner": 1.0, "blocks": 2, "factorize": False},
    }
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "warm_restarts", "rate": 2.5e-3, "weight_decay": 1e-2}

    def __init__(
        self, features: Features, width: int = 132, inner: float = 0.591, blocks: int = 6, factorize: bool = True
    ):
        super().__init__()
        self.physical = Physical(features)
        self.network = PELICAN(
            in_channels_rank2=1,
            in_channels_rank1=2,
            in_channels_rank0=0,
            out_rank=0,
            out_channels=1,
            num_blocks=blocks,
            hidden_channels=width,
            increase_hidden_channels=inner,
            factorize=factorize,
            activation="gelu",
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.invariant(products(self.physical(x, mask), 0.0), F.pad(mask, (2, 0), value=True))

    def invariant(self, gram: Tensor, mask: Tensor) -> Tensor:
        """Logits (B,) from the Minkowski products (B, M, M) of all nodes, the two beams first; mask (B, M)."""
        # The package takes the real nodes of all jets in one list, and pairs of places in it.
        place = mask.flatten().cumsum(0).reshape(mask.shape) - 1
        jet, i, j = (mask[:, :, None] & mask[:, None, :]).nonzero(as_tuple=True)
        squares = gram[jet, i, i] + gram[jet, j, j] + 2 * gram[jet, i, j]
        logarithm = (squares.clamp(min=SMALLEST).log() - MEAN) / STD
        owner, node = mask.nonzero(as_tuple=True)
        kind = torch.stack([node < 2, node >= 2], dim=-1).to(gram.dtype)
        pairs = torch.stack([place[jet, i], place[jet, j]])
        return self.network(
            in_rank2=logarithm[:, None], edge_index=pairs, batch=owner, in_rank1=kind, num_graphs=len(mask)
        ).squeeze(-1)
