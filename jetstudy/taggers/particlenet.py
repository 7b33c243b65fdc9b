"""ParticleNet (Qu, Gouskos, 1902.08570): dynamic graph convolutions on a cloud of particles.

An EdgeConv block (section 2.2, figure 1) joins each particle to its k nearest ones, passes (h_i, h_j − h_i) of each
edge through three dense layers, each with batch normalisation and ReLU, averages over the neighbours and adds the
particle's own features through one more dense layer. The first features are seven kinematic ones. Neighbours are near
in (etarel, phirel) for the first block and in the features of the block before for all others. Average over particles,
a dense layer with dropout, the output (figure 2). A particle with fewer than k neighbours averages over those it has.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.particles import MaskedBatchNorm, Physical, mean, seven

DROPOUT = 0.1


def nearest(points: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices (B, N, k) of the particles nearest to each other than itself, and which of them are real."""
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    with torch.no_grad():
        # Through a matrix product, small distances would be rounding error.
        distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        distance = distance.masked_fill(~mask[:, None, :] | itself, torch.inf)
        distance, index = distance.topk(min(k, mask.shape[1]), largest=False)
    return index, distance.isfinite() & mask[..., None]


class EdgeConv(nn.Module):
    def __init__(self, width_in: int, widths: Sequence[int], k: int):
        super().__init__()
        self.k = k
        ins = [2 * width_in, *widths[:-1]]
        self.dense = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip(ins, widths, strict=True))
        self.norms = nn.ModuleList(map(MaskedBatchNorm, widths))
        self.shortcut = nn.Linear(width_in, widths[-1], bias=False)
        self.shortcut_norm = MaskedBatchNorm(widths[-1])

    def forward(self, points: Tensor, h: Tensor, mask: Tensor) -> Tensor:
        index, edges = nearest(points, mask, self.k)
        neighbours = h[torch.arange(len(h), device=h.device)[:, None, None], index]
        own = h[:, :, None].expand_as(neighbours)
        message = torch.cat([own, neighbours - own], dim=-1)
        for dense, norm in zip(self.dense, self.norms, strict=True):
            message = norm(dense(message), edges).relu()
        received = message.masked_fill(~edges[..., None], 0).sum(2) / edges.sum(2, keepdim=True).clamp(min=1)
        return (received + self.shortcut_norm(self.shortcut(h), mask)).relu()


class ParticleNet(nn.Module):
    """EdgeConv ``blocks`` of three widths each over ``k`` neighbours, a dense layer of width ``jet``.

    The paper's has 366k parameters, ParticleNet-Lite, the small one, 26k.
    """

    sizes: ClassVar = {
        "paper": {"blocks": [[64] * 3, [128] * 3, [256] * 3], "k": 16, "jet": 256},
        "small": {"blocks": [[32] * 3, [64] * 3], "k": 7, "jet": 128},
    }
    # Section 3.2 has one cycle of AdamW; this is what the authors use since (2202.03772, section 5).
    recipe: ClassVar = {"optimiser": "ranger", "schedule": "flat_exponential", "rate": 1e-2, "weight_decay": 0.0}

    def __init__(
        self,
        features: Features,
        blocks: Sequence[Sequence[int]] = ((64,) * 3, (128,) * 3, (256,) * 3),
        k: int = 16,
        jet: int = 256,
    ):
        super().__init__()
        self.physical = Physical(features)
        self.norm = MaskedBatchNorm(7)
        ins = [7, *(widths[-1] for widths in blocks[:-1])]
        self.blocks = nn.ModuleList(EdgeConv(a, widths, k) for a, widths in zip(ins, blocks, strict=True))
        self.head = nn.Sequential(nn.Linear(blocks[-1][-1], jet), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(jet, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        u = self.physical(x, mask)
        points = u[..., :2]
        h = self.norm(seven(u, mask), mask)
        for block in self.blocks:
            h = block(points, h, mask)
            points = h
        return self.head(mean(h, mask)).squeeze(-1)
