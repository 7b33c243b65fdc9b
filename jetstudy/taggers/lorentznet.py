"""LorentzNet (2201.08187): a Lorentz-equivariant graph network on four-vectors.

All pairs of nodes exchange messages (section 3, with ψ(z) = sign(z) ln(1 + |z|)):

    m_ij = φ_e(h_i, h_j, ψ(‖x_i − x_j‖²), ψ(x_i · x_j)),
    x_i ← x_i + c mean_j φ_x(m_ij) (x_i − x_j),      h_i ← h_i + φ_h(h_i, Σ_j φ_m(m_ij) m_ij, s_i),

and the average of h over the nodes is classified. The nodes are the particles and two beams of mass 1 GeV, their
scalars s the masses of particle and beam. The mean over x_i − x_j is that of the authors' code, where the paper
writes a sum over x_j.

Nodes enter through Minkowski products alone, and every x_i stays a sum of the initial four-vectors, x = A x⁰. So
what is carried here is A (B, M, M), and the products of any layer are A G Aᵀ with those of the first, G, which
``pairs`` knows without cancellation: the network is Lorentz-invariant to float precision.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.pairs import products
from jetstudy.taggers.particles import MaskedBatchNorm, Physical, mean

BEAM_MASS = 1.0
COORDINATES = 1e-3  # c


def psi(z: Tensor) -> Tensor:
    return z.sign() * z.abs().log1p()


class Layer(nn.Module):
    """One Lorentz group equivariant block; the last one leaves the four-vectors alone."""

    def __init__(self, width: int, last: bool):
        super().__init__()
        self.pair = nn.Linear(2 * width + 2, width, bias=False)
        self.pair_norm = MaskedBatchNorm(width)
        self.message = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.weight = nn.Linear(width, 1)
        self.node = nn.Linear(2 * width + 2, width)
        self.node_norm = MaskedBatchNorm(width)
        self.out = nn.Linear(width, width)
        self.shift = None
        if not last:
            self.shift = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1, bias=False))
            nn.init.xavier_uniform_(self.shift[-1].weight, gain=0.001)

    def forward(
        self, h: Tensor, scalars: Tensor, coordinates: Tensor, gram: Tensor, mask: Tensor, edges: Tensor
    ) -> tuple[Tensor, Tensor]:
        dots = coordinates @ gram @ coordinates.mT
        squares = dots.diagonal(dim1=1, dim2=2)
        distances = squares[:, :, None] + squares[:, None, :] - 2 * dots
        # The layer on (h_i, h_j, two products) is a sum of three, of which two are done a node at a time.
        receiver, sender, invariants = self.pair.weight.split((h.shape[-1], h.shape[-1], 2), dim=1)
        pair = (h @ receiver.T)[:, :, None] + (h @ sender.T)[:, None, :]
        pair = pair + F.linear(torch.stack([psi(distances), psi(dots)], dim=-1), invariants)
        message = self.message(self.pair_norm(pair, edges))
        if self.shift is not None:
            shift = self.shift(message).squeeze(-1).masked_fill(~edges, 0)
            shift = COORDINATES * shift / edges.sum(-1, keepdim=True).clamp(min=1)
            coordinates = coordinates + shift.sum(-1, keepdim=True) * coordinates - shift @ coordinates
        weight = self.weight(message).squeeze(-1).sigmoid().masked_fill(~edges, 0)
        received = (weight[:, :, None] @ message).squeeze(2)
        node = self.node_norm(self.node(torch.cat([h, received, scalars], dim=-1)), mask)
        return h + self.out(node.relu()), coordinates


class LorentzNet(nn.Module):
    """``blocks`` of ``width`` features a node. The paper's 6 of 72 have 224k parameters."""

    sizes: ClassVar = {
        "paper": {"width": 72, "blocks": 6, "dropout": 0.2},
        "small": {"width": 16, "blocks": 2, "dropout": 0.0},
    }
    space: ClassVar = {"width": [16, 32, 72], "blocks": [2, 4, 6], "dropout": [0.0, 0.1, 0.2]}
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "warm_restarts", "rate": 1e-3, "weight_decay": 1e-2}

    def __init__(self, features: Features, width: int = 72, blocks: int = 6, dropout: float = 0.2):
        super().__init__()
        self.physical = Physical(features)
        self.embed = nn.Linear(2, width)
        self.layers = nn.ModuleList(Layer(width, last=k == blocks - 1) for k in range(blocks))
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        gram = products(self.physical(x, mask), BEAM_MASS)
        return self.invariant(gram, F.pad(mask, (2, 0), value=True))

    def invariant(self, gram: Tensor, mask: Tensor) -> Tensor:
        """Logits (B,) from the Minkowski products (B, M, M) of all nodes, the two beams first; mask (B, M)."""
        edges = mask[:, :, None] & mask[:, None, :] & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        gram = gram.masked_fill(~(mask[:, :, None] & mask[:, None, :]), 0)
        scalars = gram.new_zeros(*mask.shape, 2)
        scalars[:, :2, 1] = BEAM_MASS  # particles have no mass
        h = self.embed(scalars)
        coordinates = torch.eye(mask.shape[1], dtype=gram.dtype, device=gram.device).expand_as(gram)
        for layer in self.layers:
            h, coordinates = layer(h, scalars, coordinates, gram, mask, edges)
        return self.head(mean(h, mask)).squeeze(-1)
