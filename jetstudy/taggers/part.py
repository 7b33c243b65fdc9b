"""Particle Transformer, ParT (Qu, Li, Qian, 2202.03772).

All of section 4: particles are embedded by three dense layers with GELU; pairs, described by ln kT, ln z, ln Δ and
ln m², by dense layers with batch normalisation, one output a head, which is added to the scores of every attention
block. The blocks are NormFormer's: layer normalisation before and after the attention and inside the dense part, a
scale a head and a scale of the residual. Then a class token reads the particles in two blocks of class attention,
without dropout.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.pairs import logarithms
from jetstudy.taggers.particles import MaskedBatchNorm, Physical, seven


class ParticleEmbedding(nn.Module):
    """Of seven kinematic inputs: of three alone, the first layer normalisation would leave an angle."""

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.norm = MaskedBatchNorm(7)
        layers = []
        for a, b in zip([7, *widths[:-1]], widths, strict=True):
            layers += [nn.LayerNorm(a), nn.Linear(a, b), nn.GELU()]
        self.dense = nn.Sequential(*layers)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        return self.dense(self.norm(seven(u, mask), mask))


class PairEmbedding(nn.Module):
    """Scores (B, heads, N, N) added to the attention's, minus infinity for padded keys."""

    def __init__(self, widths: Sequence[int], heads: int):
        super().__init__()
        ins, outs = [4, *widths], [*widths, heads]
        self.norm = MaskedBatchNorm(4)
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in zip(ins, outs, strict=True))
        self.norms = nn.ModuleList(map(MaskedBatchNorm, outs))

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        # All four features are symmetric: half of the pairs will do.
        i, j = torch.tril_indices(*mask.shape[1:] * 2, device=mask.device)
        pairs = mask[:, i] & mask[:, j]
        h = self.norm(logarithms(u, i, j), pairs)
        for dense, norm in zip(self.dense, self.norms, strict=True):
            h = F.gelu(norm(dense(h), pairs))
        scores = h.new_empty(len(h), h.shape[-1], *mask.shape[1:] * 2)
        scores[:, :, i, j] = scores[:, :, j, i] = h.mT
        return scores.masked_fill(~mask[:, None, None, :], -torch.inf)


class Block(nn.Module):
    """Attention of the particles to each other (``forward``), or of the class token to them (``read``)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before_attention, self.after_attention = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.scale_heads = nn.Parameter(torch.ones(heads))
        self.dense = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout),
            nn.LayerNorm(4 * width), nn.Linear(4 * width, width), nn.Dropout(dropout),
        )  # fmt: skip
        self.scale_residual = nn.Parameter(torch.ones(width))

    def attend(self, query: Tensor, keys: Tensor, scores: Tensor) -> Tensor:
        weights, biases = self.query_key_value.weight.chunk(3), self.query_key_value.bias.chunk(3)
        q, k, v = (
            F.linear(source, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for source, weight, bias in zip((query, keys, keys), weights, biases, strict=True)
        )
        dropout = self.dropout if self.training else 0.0
        attended = self.out(F.scaled_dot_product_attention(q, k, v, scores, dropout).transpose(1, 2).flatten(2))
        # The authors scale the heads after they are mixed, and lay the feature axis out anew with heads last.
        scaled = attended.unflatten(-1, (self.heads, -1)) * self.scale_heads[:, None]
        return F.dropout(self.after_attention(scaled.mT.flatten(2)), self.dropout, self.training)

    def forward(self, h: Tensor, scores: Tensor) -> Tensor:
        normed = self.before_attention(h)
        h = h + self.attend(normed, normed, scores)
        return self.scale_residual * h + self.dense(h)

    def read(self, token: Tensor, h: Tensor, scores: Tensor) -> Tensor:
        """The class token (B, 1, C) after it has read itself and the particles h (B, N, C)."""
        keys = self.before_attention(torch.cat([token, h], dim=1))
        token = token + self.attend(token, keys, scores)
        return self.scale_residual * token + self.dense(token)


class ParT(nn.Module):
    """``embed`` widths of a particle's embedding (the last is the blocks'), ``pair`` widths of a pair's, ``heads``
    of attention, ``blocks`` on particles and ``class_blocks`` on the class token.

    The paper's has 2.14M parameters with 17 inputs, charge and type among them, and 10 outputs; the
    small one has 31k.
    """

    sizes: ClassVar = {
        "paper": {"embed": [128, 512, 128], "pair": [64] * 3, "heads": 8, "blocks": 8, "class_blocks": 2},
        "small": {"embed": [32, 64, 32], "pair": [8] * 3, "heads": 4, "blocks": 1, "class_blocks": 1},
    }
    recipe: ClassVar = {"optimiser": "ranger", "schedule": "flat_exponential", "rate": 1e-3, "weight_decay": 0.0}

    def __init__(
        self,
        features: Features,
        embed: Sequence[int] = (128, 512, 128),
        pair: Sequence[int] = (64, 64, 64),
        heads: int = 8,
        blocks: int = 8,
        class_blocks: int = 2,
        dropout: float = 0.1,
    ):
        super().__init__()
        width = embed[-1]
        self.physical = Physical(features)
        self.embed = ParticleEmbedding(embed)
        self.pair = PairEmbedding(pair, heads)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.class_blocks = nn.ModuleList(Block(width, heads, 0.0) for _ in range(class_blocks))
        self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        u = self.physical(x, mask)
        h, scores = self.embed(u, mask), self.pair(u, mask)
        for block in self.blocks:
            h = block(h, scores)
        token = self.token.expand(len(h), 1, -1)
        seen = F.pad(mask, (1, 0), value=True)[:, None, None, :]
        for block in self.class_blocks:
            token = block.read(token, h, seen)
        return self.head(self.norm(token)).squeeze((1, 2))
