"""The divergence of a velocity field, div v = sum_i dv_i/dx_i over the coordinates of a jet's real particles.

Three estimators behind one signature, ``(velocity, x, t, mask, generator) -> (v, div)``:

``jacobian``    exact for any network, at the price of 3N vector-Jacobian products: the reference.
``hutchinson``  unbiased and noisy: z . (dv/dx) z for Rademacher probes z (FFJORD, arXiv:1810.01367, eq. 7).
``own_path``    exact at the price of three products, for networks that offer it (see ``networks``).
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]  # x (B, N, 3), t () or (B,), mask (B, N) to v (B, N, 3)
Divergence = Callable[..., tuple[Tensor, Tensor]]

# Particles times directions handled at once: enough to fill the cores, few enough for their caches.
CHUNK = 4096


def _quadratic(velocity: Velocity, x: Tensor, t: Tensor, mask: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity (B, N, 3) and z . (dv/dx) z (K, B) for directions z (K, B, N, 3).

    Backwards, z . (dv/dx) costs one more pass a direction, and all directions share the pass forwards.
    """
    v, pull = torch.func.vjp(lambda y: velocity(y, t, mask), x)
    form = torch.vmap(lambda direction: (direction * pull(direction)[0]).sum((1, 2)))
    return v, torch.cat([form(chunk) for chunk in z.split(max(1, CHUNK // mask.numel()))])


def jacobian(
    velocity: Velocity, x: Tensor, t: Tensor, mask: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Velocity and exact divergence (B,) from the Jacobian's diagonal, one direction a coordinate."""
    _, n, d = x.shape
    basis = torch.eye(n * d, dtype=x.dtype, device=x.device).view(n * d, 1, n, d)
    v, diagonal = _quadratic(velocity, x, t, mask, basis * mask[..., None])
    return v, diagonal.sum(0)


def hutchinson(
    velocity: Velocity, x: Tensor, t: Tensor, mask: Tensor, generator: torch.Generator, probes: int = 1
) -> tuple[Tensor, Tensor]:
    """Velocity and an unbiased estimate of the divergence (B,) from Rademacher probes, fresh at every call.

    Raises ValueError without a generator: the estimate is random.
    """
    if generator is None:
        raise ValueError("hutchinson draws random probes: it needs a generator")
    bits = torch.randint(2, (probes, *x.shape), generator=generator, device=generator.device)
    z = (2 * bits - 1).to(x) * mask[..., None]
    v, estimates = _quadratic(velocity, x, t, mask, z)
    return v, estimates.mean(0)


def own_path(
    velocity: Velocity, x: Tensor, t: Tensor, mask: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Velocity and exact divergence (B,) of a one-hop network.

    Raises TypeError for any network that does not offer ``own_path``.
    """
    if not hasattr(velocity, "own_path"):
        raise TypeError(f"own_path needs a one-hop network; {type(velocity).__name__} is none (use 'jacobian')")
    return velocity.own_path(x, t, mask)


EXACT = {"own_path": own_path, "jacobian": jacobian}


def estimator(name: str) -> Divergence:
    """The estimator called 'own_path', 'jacobian' or 'hutchinson-K' with K probes; ValueError otherwise."""
    kind, _, probes = name.partition("-")
    if kind == "hutchinson" and probes.isdecimal() and int(probes) > 0:
        return partial(hutchinson, probes=int(probes))
    if name in EXACT:
        return EXACT[name]
    raise ValueError(f"divergence {name!r}: expected 'own_path', 'jacobian' or 'hutchinson-K' with K probes")
