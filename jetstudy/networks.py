"""Permutation-equivariant networks for the velocity v(x_t, t) of a jet's particles.

``OneHop`` is built so that its divergence is exact and cheap. What particle i gets from particle j depends on
x_j alone: per-particle layers make the features h_i of each particle; keys and values of every read are linear
in the features; then a query, which starts at h_i, reads that memory several times by attention, with
per-particle layers between the reads. The diagonal blocks dv_i/dx_i, all that a divergence needs, then see x_i
through its own path alone (its own query, its own key and value), so three tangents a particle, carried for all
particles at once with the other particles' keys and values held constant, give them exactly.

For that, every layer here maps a pair: the value ``h`` (B, N, C), and the tangents ``dh`` (3, B, N, C) of it
along the three coordinates of the particle itself, or None when nobody asks for them. One code path serves
training, sampling and exact scoring.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor | None]


class PairLinear(nn.Linear):
    def forward(self, h: Tensor, dh: Tensor | None) -> Pair:
        return super().forward(h), None if dh is None else dh @ self.weight.T


class PairModulatedNorm(nn.Module):
    """Layer normalisation over features, scaled and shifted by the condition (adaLN, arXiv:2212.09748)."""

    def __init__(self, width: int, condition: int):
        super().__init__()
        self.modulation = nn.Linear(condition, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, dh: Tensor | None, condition: Tensor) -> Pair:
        scale, shift = self.modulation(condition)[:, None].chunk(2, dim=-1)
        scale = 1 + scale
        unit, _, inverse = torch.native_layer_norm(h, h.shape[-1:], None, None, 1e-5)
        if dh is not None:
            along = (dh * unit).mean(-1, keepdim=True)
            dunit = (dh - dh.mean(-1, keepdim=True)).addcmul_(unit, along, value=-1)
            dh = dunit.mul_(inverse * scale)
        return torch.addcmul(shift, unit, scale), dh


def pair_silu(h: Tensor, dh: Tensor | None) -> Pair:
    if dh is None:
        return F.silu(h), None
    gate = torch.sigmoid(h)
    value = h * gate
    return value, dh * torch.addcmul(gate, value, 1 - gate)


class ParticleBlock(nn.Module):
    """Residual two-layer perceptron on each particle by itself."""

    def __init__(self, width: int, condition: int, expansion: int = 2):
        super().__init__()
        self.norm = PairModulatedNorm(width, condition)
        self.up = PairLinear(width, expansion * width)
        self.down = PairLinear(expansion * width, width)

    def forward(self, h: Tensor, dh: Tensor | None, condition: Tensor) -> Pair:
        y, dy = self.down(*pair_silu(*self.up(*self.norm(h, dh, condition))))
        return h + y, None if dh is None else dy.add_(dh)


class MemoryRead(nn.Module):
    """Attention of each particle's evolving query to the keys and values made from particle features alone.

    ``bias``, added to the scores, is minus infinity for the keys of masked entries.
    """

    def __init__(self, width: int, heads: int, condition: int):
        super().__init__()
        self.heads = heads
        self.norm = PairModulatedNorm(width, condition)
        self.query = PairLinear(width, width, bias=False)
        self.key_value = PairLinear(width, 2 * width, bias=False)
        self.out = PairLinear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        """(..., N, C) to (..., heads, N, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(
        self, q: Tensor, dq: Tensor | None, memory: Tensor, dmemory: Tensor | None, bias: Tensor, condition: Tensor
    ) -> Pair:
        residual, dresidual = q, dq
        q, dq = self.query(*self.norm(q, dq, condition))
        kv, dkv = self.key_value(memory, dmemory)
        q, k, v = map(self._split, (q, *kv.chunk(2, dim=-1)))
        root = math.sqrt(q.shape[-1])
        k = k / root
        weight = (q @ k.mT + bias).softmax(-1)
        o = weight @ v
        do = None
        if dq is not None:
            # The tangents stand beside the particles, (B, heads, 3, N, C / heads), so that one product serves all.
            dq, dk, dv = (self._split(d).movedim(0, 2) for d in (dq, *dkv.chunk(2, dim=-1)))
            # d sum_j w_ij v_j = sum_j w_ij [ds_ij (v_j - o_i) + dv_j]: the query moves every score s_ij of row i,
            # the own key only the diagonal one, and of the values only the own one moves.
            ds = (dq.flatten(2, 3) @ k.mT).unflatten(2, (3, -1))
            ds.diagonal(dim1=-2, dim2=-1).add_((q[:, :, None] * dk).sum(-1) / root)
            moved = ds.mul_(weight[:, :, None])
            do = (moved.flatten(2, 3) @ v).unflatten(2, (3, -1))
            do.addcmul_(moved.sum(-1, keepdim=True), o[:, :, None], value=-1)
            do.addcmul_(weight.diagonal(dim1=-2, dim2=-1)[:, :, None, :, None], dv)
            do = do.movedim(2, 0).transpose(-3, -2).flatten(-2)
        y, dy = self.out(o.transpose(-3, -2).flatten(-2), do)
        return residual + y, None if dq is None else dy.add_(dresidual)


class Condition(nn.Module):
    """Embedding of the time and of the number of particles, the two things all particles of a jet share.

    Softmax attention is blind to the number of particles, so the network is told it.
    """

    def __init__(self, width: int, n_max: int, frequencies: int = 8):
        super().__init__()
        self.n_max = n_max
        # Up to 4 pi and no higher: what is rough in time takes a solver more steps.
        self.register_buffer("frequency", math.pi * 2.0 ** torch.linspace(-1, 2, frequencies), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(4 * frequencies, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor, count: Tensor) -> Tensor:
        angles = torch.cat([t[:, None] * self.frequency, (count / self.n_max)[:, None] * self.frequency], dim=-1)
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))


class OneHop(nn.Module):
    """Velocity of a jet's particles: per-particle features, then several reads of the memory they make.

    Parameters: ``width`` features a particle, ``heads`` attention heads (dividing width), ``layers`` per-particle
    blocks before the memory, ``reads`` of it, ``n_max`` the largest number of particles.
    """

    def __init__(self, width: int, heads: int, layers: int, reads: int, n_max: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.condition = Condition(width, n_max)
        self.embed = PairLinear(3, width)
        self.features = nn.ModuleList(ParticleBlock(width, width) for _ in range(layers))
        self.reads = nn.ModuleList(MemoryRead(width, heads, width) for _ in range(reads))
        self.between = nn.ModuleList(ParticleBlock(width, width) for _ in range(reads))
        self.norm = PairModulatedNorm(width, width)
        self.out = PairLinear(width, 3)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _pair(self, x: Tensor, dx: Tensor | None, t: Tensor, mask: Tensor) -> Pair:
        condition = self.condition(t.expand(len(x)), mask.sum(1).to(x.dtype))
        h, dh = self.embed(torch.where(mask[..., None], x, 0), dx)
        for block in self.features:
            h, dh = block(h, dh, condition)
        bias = torch.where(mask, 0.0, -torch.inf).to(h)[:, None, None, :]
        q, dq = h, dh
        for read, block in zip(self.reads, self.between, strict=True):
            q, dq = read(q, dq, h, dh, bias, condition)
            q, dq = block(q, dq, condition)
        return self.out(*self.norm(q, dq, condition))

    def forward(self, x: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        """Velocity (B, N, 3), zero where masked, of x (B, N, 3) at time t (B,) or () with mask (B, N) bool."""
        return self._pair(x, None, t, mask)[0] * mask[..., None]

    def own_path(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity (B, N, 3) and its exact divergence (B,)."""
        basis = torch.eye(3, dtype=x.dtype, device=x.device)[:, None, None, :].expand(3, *x.shape)
        v, dv = self._pair(x, basis, t, mask)
        trace = torch.einsum("kbnk,bn->b", dv, mask.to(dv.dtype))
        return v * mask[..., None], trace
