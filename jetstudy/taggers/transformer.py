"""The poster's transformer tagger.

Per-particle dense layers (LeakyReLU 0.01) up to the width; blocks of LayerNorm, attention (dropout 0.1), skip,
LayerNorm, a dense layer to four times the width and back with GELU, skip; LayerNorm, the average over real
particles, two dense layers with dropout and LeakyReLU, one output. Attention and averaging make it blind to the
number of particles.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.particles import mean

DROPOUT = 0.1


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_dense = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        qkv = self.query_key_value(self.norm_attention(h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        dropout = DROPOUT if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :], dropout)
        h = h + self.out(attended.transpose(1, 2).flatten(2))
        return h + self.dense(self.norm_dense(h))


class Transformer(nn.Module):
    """``width`` features a particle, ``heads`` attention heads, ``blocks`` of attention.

    The poster's are 32, 4 and 4: 55,713 parameters.
    """

    sizes: ClassVar = {"paper": {"width": 32, "heads": 4, "blocks": 4}, "small": {"width": 16, "heads": 2, "blocks": 2}}
    space: ClassVar = {"width": [16, 32, 64, 128], "heads": [2, 4, 8], "blocks": [1, 2, 4, 8]}
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "cosine", "rate": 1e-3, "weight_decay": 1e-4}

    def __init__(self, features: Features, width: int = 32, heads: int = 4, blocks: int = 4):
        super().__init__()
        self.embed = nn.Sequential(
            nn.Linear(3, width // 2), nn.LeakyReLU(0.01), nn.Linear(width // 2, width), nn.LeakyReLU(0.01)
        )
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Linear(width, 2 * width), nn.Dropout(DROPOUT), nn.LeakyReLU(0.01),
            nn.Linear(2 * width, width), nn.Dropout(DROPOUT), nn.LeakyReLU(0.01),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(x.masked_fill(~mask[..., None], 0))
        for block in self.blocks:
            h = block(h, mask)
        return self.head(mean(self.norm(h), mask)).squeeze(-1)
