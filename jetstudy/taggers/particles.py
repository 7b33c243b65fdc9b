"""What taggers share on single particles: physical coordinates, averages, order, masked batch normalisation.

What stands in masked entries never matters, and batches, averages and statistics count real particles only.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from jetstudy.features import Features


class Physical(nn.Module):
    """(etarel, phirel, log ptrel) (B, N, 3) of standardised features, zero where masked.

    The constants are buffers, so they are saved with a tagger's weights.
    """

    def __init__(self, features: Features):
        super().__init__()
        self.register_buffer("mean", torch.tensor(features.mean))
        self.register_buffer("std", torch.tensor(features.std))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x * self.std + self.mean).masked_fill(~mask[..., None], 0)


def seven(u: Tensor, mask: Tensor) -> Tensor:
    """The seven kinematic inputs a particle (B, N, 7) of ParticleNet and ParT (1902.08570), zero where masked.

    From u = (etarel, phirel, log ptrel): these, ln E, ln of the shares of the particles' summed pT and E, and the
    distance to the axis; all in the frame in which the reference jet is at η = 0.
    """
    ln_pt = u[..., 2]
    ln_energy = ln_pt + u[..., 0].cosh().log()
    shares = [a - a.masked_fill(~mask, -torch.inf).logsumexp(1, keepdim=True) for a in (ln_pt, ln_energy)]
    found = torch.stack([*u.unbind(-1), ln_energy, *shares, u[..., :2].norm(dim=-1)], dim=-1)
    return found.masked_fill(~mask[..., None], 0)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of h (..., C) whose statistics are those of the entries under mask (...).

    Finite entries come out finite where masked, and mean nothing.
    """

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        rows = h.flatten(0, -2)
        if not self.training or mask.all():  # all entries may take part, which saves two copies
            return super().forward(rows).view_as(h)
        real = mask.flatten().nonzero().squeeze(-1)
        normed = super().forward(rows.index_select(0, real))
        return torch.zeros_like(rows).index_copy(0, real, normed).view_as(h)


def perceptron(*widths: int) -> nn.Sequential:
    """Dense layers with a ReLU after each."""
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return nn.Sequential(*(module for layer in layers for module in layer))


def mean(h: Tensor, mask: Tensor) -> Tensor:
    """Average (B, C) of h (B, N, C) over the real particles."""
    return h.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)


def leading_first(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, N, 3) and mask with particles by falling ptrel, zeroed padding last, whatever order they came in."""
    order = x[..., 2].masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    mask = mask.gather(1, order)
    return x.gather(1, order[..., None].expand_as(x)).masked_fill(~mask[..., None], 0), mask
