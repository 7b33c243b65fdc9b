"""Permutation-equivariant networks for the velocity v(x_t, t) of a jet's particles.

All have the same parts: an embedding of each particle, ``layers`` blocks on each particle by itself, ``reads``
exchanges between particles, each followed by another such block, and a linear map to three numbers; time and
number of particles, and the label where one network is trained for two classes, modulate every normalisation. They
differ in the exchange:

``one_hop``          reads of a memory that each particle writes from its own features alone (below)
``transformer``      attention between the particles as they are by now (FPCD, arXiv:2304.01266; PC-JeDi, 2303.05376)
``epic``             global features, pooled from and handed back to the particles (EPiC-GAN, arXiv:2301.08128)
``cross_attention``  a few tokens that attend to the particles and are attended to by them (PC-Droid, arXiv:2307.06836)

``OneHop`` is built so that its divergence is exact and cheap. What particle i gets from particle j depends on
x_j alone: per-particle layers make the features h_i of each particle; keys and values of every read are linear
in the features; then a query, which starts at h_i, reads that memory several times by attention, with
per-particle layers between the reads. The diagonal blocks dv_i/dx_i, all that a divergence needs, then see x_i
through its own path alone (its own query, its own key and value), so three tangents a particle, carried for all
particles at once with the other particles' keys and values held constant, give them exactly.

For that, every layer here maps dual numbers: the value ``h`` (B, N, C), and the tangents ``dh`` (3, B, N, C) of it
along the three coordinates of the particle itself, or None when nobody asks for them. One code path serves
training, sampling and exact scoring.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Dual = tuple[Tensor, Tensor | None]


class DualLinear(nn.Linear):
    def forward(self, h: Tensor, dh: Tensor | None) -> Dual:
        return super().forward(h), None if dh is None else dh @ self.weight.T


class Embedding(nn.Module):
    """Features of each particle by itself, from its standardised (etarel, phirel, log ptrel).

    Beside the three stand rho^2 = etarel^2 + phirel^2, z and z (etarel, phirel, rho^2), where z = exp(s log ptrel) is
    the ptrel itself up to a constant if s is the standard deviation of log ptrel (``momentum_scale``). Sums over
    particles of these are the jet's momentum, its axis and its mass to leading order: jets are sharp in them, and a
    network that has to find them from logarithms learns them late.
    """

    def __init__(self, width: int, momentum_scale: float):
        super().__init__()
        self.momentum_scale = momentum_scale
        self.linear = DualLinear(8, width)

    def forward(self, x: Tensor, dx: Tensor | None) -> Dual:
        angles, log_ptrel = x[..., :2], x[..., 2:]
        # Of order one for the leading particles, at z = exp(3) or so.
        z = 0.1 * torch.exp(self.momentum_scale * log_ptrel)
        squared = angles.square().sum(-1, keepdim=True)
        plain = torch.cat([angles, squared, x.new_ones(1).expand_as(z)], dim=-1)
        features = torch.cat([log_ptrel, plain[..., :3], z * plain], dim=-1)
        if dx is None:
            return self.linear(features, None)
        dangles, dlog_ptrel = dx[..., :2], dx[..., 2:]
        dsquared = 2 * (angles * dangles).sum(-1, keepdim=True)
        dplain = torch.cat([dangles, dsquared, torch.zeros_like(dsquared)], dim=-1)
        dz = self.momentum_scale * z * dlog_ptrel
        dfeatures = torch.cat([dlog_ptrel, dplain[..., :3], dz * plain + z * dplain], dim=-1)
        return self.linear(features, dfeatures)


class DualModulatedNorm(nn.Module):
    """Layer normalisation over features, scaled and shifted by the condition (adaLN, arXiv:2212.09748)."""

    def __init__(self, width: int):
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, dh: Tensor | None, condition: Tensor) -> Dual:
        scale, shift = self.modulation(condition)[:, None].chunk(2, dim=-1)
        scale = 1 + scale
        unit, _, inverse = torch.native_layer_norm(h, h.shape[-1:], None, None, 1e-5)
        if dh is not None:
            along = (dh * unit).mean(-1, keepdim=True)
            dunit = (dh - dh.mean(-1, keepdim=True)).addcmul_(unit, along, value=-1)
            dh = dunit.mul_(inverse * scale)
        return torch.addcmul(shift, unit, scale), dh


def dual_silu(h: Tensor, dh: Tensor | None) -> Dual:
    if dh is None:
        return F.silu(h), None
    gate = torch.sigmoid(h)
    value = h * gate
    return value, dh * torch.addcmul(gate, value, 1 - gate)


class ParticleBlock(nn.Module):
    """Residual two-layer perceptron on each particle by itself."""

    EXPANSION = 2

    def __init__(self, width: int):
        super().__init__()
        self.norm = DualModulatedNorm(width)
        self.up = DualLinear(width, self.EXPANSION * width)
        self.down = DualLinear(self.EXPANSION * width, width)

    def forward(self, h: Tensor, dh: Tensor | None, condition: Tensor) -> Dual:
        y, dy = self.down(*dual_silu(*self.up(*self.norm(h, dh, condition))))
        return h + y, None if dh is None else dy.add_(dh)


class MemoryRead(nn.Module):
    """Attention of each particle's evolving query to the keys and values made from particle features alone.

    ``bias``, added to the scores, is minus infinity for the keys of masked entries.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = DualModulatedNorm(width)
        self.query = DualLinear(width, width, bias=False)
        self.key_value = DualLinear(width, 2 * width, bias=False)
        self.out = DualLinear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        """(..., N, C) to (..., heads, N, C / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(
        self, q: Tensor, dq: Tensor | None, memory: Tensor, dmemory: Tensor | None, bias: Tensor, condition: Tensor
    ) -> Dual:
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
    """Embedding of what all particles of a jet share: time, number of particles and, if ``labelled``, their class.

    Softmax attention is blind to the number of particles, so the network is told it.
    """

    FREQUENCIES = 8

    def __init__(self, width: int, n_max: int, labelled: bool = False):
        super().__init__()
        self.n_max = n_max
        # Up to 4 pi and no higher: what is rough in time takes a solver more steps.
        self.register_buffer("frequency", math.pi * 2.0 ** torch.linspace(-1, 2, self.FREQUENCIES), persistent=False)
        told = 4 * self.FREQUENCIES + labelled
        self.mlp = nn.Sequential(nn.Linear(told, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor, count: Tensor, label: Tensor | None) -> Tensor:
        angles = torch.cat([t[:, None] * self.frequency, (count / self.n_max)[:, None] * self.frequency], dim=-1)
        sign = [] if label is None else [2 * label[:, None] - 1]
        return self.mlp(torch.cat([angles.sin(), angles.cos(), *sign], dim=-1))


class VelocityNetwork(nn.Module):
    """What the networks share: all but the exchange between particles.

    Parameters: ``width`` features a particle, ``heads`` of attention (dividing width), ``layers`` per-particle blocks
    before the first exchange, ``reads`` exchanges, ``n_max`` the largest number of particles, ``momentum_scale``
    the standard deviation of log ptrel. With a ``label``, 0 or 1, it is one network for two classes: it takes the
    label of each jet of a batch, as in training, and without them is the velocity of the class of its own ``label``.
    The label is the same for all particles and is no function of them, so a divergence does not notice it.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        reads: int,
        n_max: int,
        momentum_scale: float = 1.0,
        label: int | None = None,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        if label not in (None, 0, 1):
            raise ValueError(f"label {label!r}: expected 0 or 1, or None for a network of one class")
        self.label = label
        self.condition = Condition(width, n_max, label is not None)
        self.embed = Embedding(width, momentum_scale)
        self.features = nn.ModuleList(ParticleBlock(width) for _ in range(layers))
        self.reads = nn.ModuleList(self.exchange(width, heads) for _ in range(reads))
        self.between = nn.ModuleList(ParticleBlock(width) for _ in range(reads))
        self.norm = DualModulatedNorm(width)
        self.out = DualLinear(width, 3)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _begin(
        self, x: Tensor, dx: Tensor | None, t: Tensor, mask: Tensor, label: Tensor | None
    ) -> tuple[Dual, Tensor]:
        """The particles' features before the first exchange, and the condition (B, width)."""
        if self.label is None and label is not None:
            raise ValueError("a network of one class takes no labels")
        if self.label is not None:
            label = x.new_full((len(x),), self.label) if label is None else label.to(x)
        condition = self.condition(t.expand(len(x)), mask.sum(1).to(x.dtype), label)
        h, dh = self.embed(torch.where(mask[..., None], x, 0), dx)
        for block in self.features:
            h, dh = block(h, dh, condition)
        return (h, dh), condition


class OneHop(VelocityNetwork):
    """Reads of a memory made of per-particle features: exact divergences by ``own_path``."""

    exchange = MemoryRead

    def _dual(self, x: Tensor, dx: Tensor | None, t: Tensor, mask: Tensor, label: Tensor | None = None) -> Dual:
        (h, dh), condition = self._begin(x, dx, t, mask, label)
        bias = torch.where(mask, 0.0, -torch.inf).to(h)[:, None, None, :]
        q, dq = h, dh
        for read, block in zip(self.reads, self.between, strict=True):
            q, dq = read(q, dq, h, dh, bias, condition)
            q, dq = block(q, dq, condition)
        return self.out(*self.norm(q, dq, condition))

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity (B, N, 3), zero where masked, of x (B, N, 3) at time t (B,) or () with mask (B, N) bool; ``label``
        (B,) of 0 and 1 for a network of two classes, None for its own.
        """
        return self._dual(x, None, t, mask, label)[0] * mask[..., None]

    def own_path(self, x: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity (B, N, 3) and its exact divergence (B,)."""
        basis = torch.eye(3, dtype=x.dtype, device=x.device)[:, None, None, :].expand(3, *x.shape)
        v, dv = self._dual(x, basis, t, mask)
        trace = torch.einsum("kbnk,bn->b", dv, mask.to(dv.dtype))
        return v * mask[..., None], trace


class ManyHops(VelocityNetwork):
    """Exchanges that carry what a particle has heard on to others: the divergence takes the whole Jacobian.

    An exchange maps the particles and a state, None at first, to both; the state passes on to the next exchange.
    """

    def forward(self, x: Tensor, t: Tensor, mask: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity (B, N, 3), zero where masked, of x (B, N, 3) at time t (B,) or () with mask (B, N) bool; ``label``
        (B,) of 0 and 1 for a network of two classes, None for its own.
        """
        (h, _), condition = self._begin(x, None, t, mask, label)
        state = None
        for exchange, block in zip(self.reads, self.between, strict=True):
            h, state = exchange(h, state, mask, condition)
            h, _ = block(h, None, condition)
        return self.out(*self.norm(h, None, condition))[0] * mask[..., None]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention (B, Q, C) of queries (B, Q, C) to keys and values (B, K, C), those that ``mask`` (B, K) keeps."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    # Written out: it differentiates twice and under vmap on every device, which fused kernels do not.
    score = q @ (k / math.sqrt(q.shape[-1])).mT
    if mask is not None:
        score = score.masked_fill(~mask[:, None, None, :], -torch.inf)
    return (score.softmax(-1) @ v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = DualModulatedNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, state: None, mask: Tensor, condition: Tensor) -> tuple[Tensor, None]:
        unit, _ = self.norm(h, None, condition)
        q, k, v = self.query_key_value(unit).chunk(3, dim=-1)
        return h + self.out(attend(q, k, v, self.heads, mask)), None


class GlobalExchange(nn.Module):
    """An EPiC layer (arXiv:2301.08128, Fig. 1): the particles' mean and sum update width / heads global features, and
    those update every particle.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.size = width // heads
        self.norm = DualModulatedNorm(width)
        self.pool = nn.Sequential(nn.Linear(2 * width + self.size, width), nn.SiLU(), nn.Linear(width, self.size))
        self.local = nn.Sequential(nn.Linear(width + self.size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, state: Tensor | None, mask: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        unit, _ = self.norm(h, None, condition)
        state = unit.new_zeros(len(h), self.size) if state is None else state
        total = (unit * mask[..., None]).sum(1)
        mean = total / mask.sum(1, keepdim=True)
        # The sum in units of 1/30, else it is that much larger than all else.
        state = state + self.pool(torch.cat([mean, total / 30, state], dim=-1))
        seen = state[:, None].expand(-1, h.shape[1], -1)
        return h + self.local(torch.cat([unit, seen], dim=-1)), state


class TokenExchange(nn.Module):
    """Tokens attend to the particles, then the particles to the tokens: a cost linear in the particles."""

    TOKENS = 8

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first = nn.Parameter(torch.randn(self.TOKENS, width) / math.sqrt(width))
        self.norm = DualModulatedNorm(width)
        self.token_norm, self.told_norm = DualModulatedNorm(width), DualModulatedNorm(width)
        self.ask, self.hear = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.token_out = nn.Linear(width, width)
        self.token_block = ParticleBlock(width)
        self.query, self.tell = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, state: Tensor | None, mask: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        unit, _ = self.norm(h, None, condition)
        tokens = self.first.expand(len(h), -1, -1) if state is None else state + self.first
        asking, _ = self.token_norm(tokens, None, condition)
        tokens = tokens + self.token_out(attend(self.ask(asking), *self.hear(unit).chunk(2, -1), self.heads, mask))
        tokens, _ = self.token_block(tokens, None, condition)
        told, _ = self.told_norm(tokens, None, condition)
        return h + self.out(attend(self.query(unit), *self.tell(told).chunk(2, -1), self.heads)), tokens


class Transformer(ManyHops):
    exchange = SelfAttention


class EPiC(ManyHops):
    exchange = GlobalExchange


class CrossAttention(ManyHops):
    exchange = TokenExchange


NETWORKS = {"one_hop": OneHop, "transformer": Transformer, "epic": EPiC, "cross_attention": CrossAttention}


def load_weights(network: nn.Module, tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Put the arrays of the file ``path`` into ``network``; ValueError, naming the file, if they are not its own."""
    try:
        network.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path}: weights of another network ({error})") from error
