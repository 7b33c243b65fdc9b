"""A convolutional tagger on particles by falling ptrel, in the manner of P-CNN (1902.08570, section 3.1).

One-dimensional convolutions of three neighbouring particles, in residual pairs with batch normalisation and ReLU, the
first pair of each stage at its new width; average over particles, a dense layer, the output. The paper gives P-CNN
14 convolutions, a dense layer of 512 and 348k parameters; the widths of the stages are ours.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.particles import MaskedBatchNorm, leading_first, mean

DROPOUT = 0.1


class Pair(nn.Module):
    """Two convolutions around a skip; padded particles are zero before each, as beyond the ends of the list."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.first = nn.Conv1d(width_in, width, 3, padding=1, bias=False)
        self.second = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.skip = nn.Linear(width_in, width, bias=False)
        self.norms = nn.ModuleList(MaskedBatchNorm(width) for _ in range(3))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        padding = ~mask[..., None]
        new = self.norms[0](self.first(h.mT).mT, mask).relu().masked_fill(padding, 0)
        new = self.norms[1](self.second(new.mT).mT, mask)
        return (new + self.norms[2](self.skip(h), mask)).relu().masked_fill(padding, 0)


class CNN(nn.Module):
    """Two residual pairs, of two convolutions each, at each of ``widths``, a dense layer of width ``jet``."""

    sizes: ClassVar = {"paper": {"widths": [32, 64, 128], "jet": 512}, "small": {"widths": [16, 32], "jet": 64}}
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "cosine", "rate": 1e-3, "weight_decay": 1e-4}

    def __init__(self, features: Features, widths: Sequence[int] = (32, 64, 128), jet: int = 512):
        super().__init__()
        ins = [3, *(width for width in widths for _ in range(2))]
        self.pairs = nn.ModuleList(Pair(a, b) for a, b in pairwise(ins))
        self.head = nn.Sequential(nn.Linear(widths[-1], jet), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(jet, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h, mask = leading_first(x, mask)
        for pair in self.pairs:
            h = pair(h, mask)
        return self.head(mean(h, mask)).squeeze(-1)
