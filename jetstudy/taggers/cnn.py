"""P-CNN, a convolutional tagger on particles by falling ptrel (1902.08570, section 3.1).

One-dimensional convolutions of three neighbouring particles: a first one, then residual pairs with batch normalisation
and ReLU, two a stage, of which all but the first stage begin with every other particle; average over particles, a dense
layer, the output. The paper gives P-CNN 14 convolutions, a dense layer of 512 and 348k parameters; docs/taggers.md says
where this differs from its authors' code.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.particles import MaskedBatchNorm, leading_first, mean

DROPOUT = 0.2


class Pair(nn.Module):
    """Two convolutions around a skip, of every ``stride``-th particle; padded ones are zero before each, as beyond the
    ends of the list.
    """

    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.first = nn.Conv1d(width_in, width, 3, stride, padding=1, bias=False)
        self.second = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.skip = nn.Identity() if (width_in, stride) == (width, 1) else nn.Linear(width_in, width, bias=False)
        self.norms = nn.ModuleList(MaskedBatchNorm(width) for _ in range(2))

    def forward(self, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        left = mask[:, :: self.stride]
        padding = ~left[..., None]
        new = self.norms[0](self.first(h.mT).mT, left).relu().masked_fill(padding, 0)
        new = self.norms[1](self.second(new.mT).mT, left)
        return (new + self.skip(h[:, :: self.stride])).relu().masked_fill(padding, 0), left


class CNN(nn.Module):
    """A convolution of the first of ``widths``, two pairs at each of the others, a dense layer of width ``jet``."""

    sizes: ClassVar = {
        "paper": {"widths": [32, 64, 64, 128], "jet": 512},
        "small": {"widths": [16, 16, 32], "jet": 64},
    }
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "cosine", "rate": 1e-3, "weight_decay": 1e-4}

    def __init__(self, features: Features, widths: Sequence[int] = (32, 64, 64, 128), jet: int = 512):
        super().__init__()
        self.stem = nn.Conv1d(3, widths[0], 3, padding=1, bias=False)
        self.norm = MaskedBatchNorm(widths[0])
        stages = list(enumerate(pairwise(widths)))
        self.pairs = nn.ModuleList(pair for k, (a, b) in stages for pair in (Pair(a, b, 2 if k else 1), Pair(b, b, 1)))
        self.head = nn.Sequential(nn.Linear(widths[-1], jet), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(jet, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, mask = leading_first(x, mask)
        h = self.norm(self.stem(x.mT).mT, mask).relu().masked_fill(~mask[..., None], 0)
        for pair in self.pairs:
            h, mask = pair(h, mask)
        return self.head(mean(h, mask)).squeeze(-1)
