"""High-level features of jets, from massless particles in the relative coordinates of `kinematics`.

Energy-flow polynomials (Komiske, Metodiev, Thaler, 1712.07124, eq. 1.1) are sums over particles, one factor
z_i for each vertex and one θ_ij for each edge of a multigraph G,

    EFP_G = Σ_i1 ... Σ_iN  z_i1 ... z_iN  Π_{(k,l) in G} θ_{ik il},   z = ptrel,  θ² = Δη² + Δφ²

(not normalised, as in the field's Fréchet distance, 2211.10295). All 36 multigraphs of at most four edges follow
from a few sums: with d_k(i) = Σ_j z_j θ_ij^k a vertex sees its k-fold-edge leaves, with e(i) = Σ_j z_j θ_ij d_1(j)
its paths of two edges, and M_ij = Σ_k z_k θ_ik θ_kj closes triangles and squares. One N x N matrix product a jet
is the price of all. A disconnected graph is the product of its parts.
"""

from collections.abc import Iterator
from itertools import pairwise

import awkward as ak
import fastjet
import numpy as np
import pandas as pd
from fastjet._swig import ClusterSequence as _ClusterSequence
from numpy.typing import ArrayLike

from jetstudy import kinematics
from jetstudy.jets import Jets

PAIRS = 2_000_000  # of particles at a time, so that memory stays bounded: some 150 MB

# Connected multigraphs by their number of edges. A number is the multiplicity of an edge.
CONNECTED = {
    1: ("line1",),
    2: ("line2", "path11"),
    3: ("line3", "path21", "triangle", "path111", "star111"),
    4: (
        *("line4", "path31", "path22", "triangle211"),
        *("path211", "path121", "star211", "square", "paw"),
        *("path1111", "star1111", "fork"),
    ),
}
DOT = "dot"  # the graph of one vertex and no edge, Σ ptrel

# The connected graphs of four vertices and four edges, whose mean W1 the field quotes (2106.11535).
FOUR_OF_FOUR = ("path211", "path121", "star211", "square", "paw")

# Masses of pairs, in units of the jet's pT, between which `pair_masses` counts: about two photons of a neutral pion
# (0.135 GeV) in jets of 0.14 to 2.7 TeV, in steps as narrow as the jets' spread of pT leaves their peak.
PAIR_MASSES = np.geomspace(5e-5, 1e-3, 31)
# (What was learned from these counts goes by their names: other masses, or another definition, need other names.)
PAIR_COUNTS = tuple(f"pairs_{low:.5g}_{high:.5g}" for low, high in pairwise(PAIR_MASSES))

FEATURES = (
    *("mass", "ptrel_sum", "multiplicity", "ptrel_1", "ptrel_2", "ptrel_3", "ptrel_last", "girth", "ptd"),
    *("tau1", "tau2", "tau3", "tau4", "tau21", "tau32", "tau43", "c2", "d2"),
)


def _products(edges: int, least: tuple[int, str] = (0, "")) -> Iterator[tuple[str, ...]]:
    """Multisets of connected graphs with `edges` edges in all, each graph not before `least`."""
    if edges == 0:
        yield ()
    for size in range(max(1, least[0]), edges + 1):
        for graph in CONNECTED[size]:
            if (size, graph) >= least:
                for rest in _products(edges - size, (size, graph)):
                    yield (graph, *rest)


# Name and connected parts of each multigraph of at most four edges: 1 + 1 + 3 + 8 + 23 = 36.
GRAPHS = {DOT: (DOT,)} | {"*".join(parts): parts for edges in CONNECTED for parts in _products(edges)}


def efps(particles: ArrayLike, mask: ArrayLike) -> pd.DataFrame:
    """All 36 energy-flow polynomials of degree at most four, a row a jet, columns `GRAPHS`.

    particles (n, N, 3) = (etarel, phirel, ptrel), mask (n, N); β = 1, z = ptrel.

    >>> dumbbell = efps([[[0.3, 0.0, 0.5], [0.0, 0.4, 0.25]]], [[True, True]])  # θ = 0.5
    >>> dumbbell["line1"].item()  # 2 z1 z2 θ
    0.125
    """
    particles, mask = np.asarray(particles), np.asarray(mask, bool)
    batches = kinematics.batches(len(mask), max(1, PAIRS // mask.shape[1] ** 2))
    parts = [_connected(particles[batch], mask[batch]) for batch in batches]
    connected = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return pd.DataFrame({name: np.prod([connected[p] for p in graph], axis=0) for name, graph in GRAPHS.items()})


def _connected(particles: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    real = np.where(mask[..., None], particles.astype(np.float64), 0.0)
    z = real[..., 2]
    theta = np.hypot(*(real[:, :, None, k] - real[:, None, :, k] for k in (0, 1)))
    weighted = theta * z[:, None, :]
    d1 = weighted.sum(-1)
    square = theta**2
    d2 = (square @ z[..., None])[..., 0]
    d3 = (square * weighted).sum(-1)
    e = (weighted @ d1[..., None])[..., 0]
    m = weighted @ theta  # Σ_k θ_ik z_k θ_kj
    pairs = z[:, :, None] * weighted  # z_i z_j θ_ij

    def vertices(*factors: np.ndarray) -> np.ndarray:
        return np.prod([z, *factors], axis=0).sum(-1)

    corner = (pairs * m).sum(-1)  # triangles at vertex i
    return {
        DOT: z.sum(-1),
        "line1": vertices(d1),
        "line2": vertices(d2),
        "path11": vertices(d1, d1),
        "line3": vertices(d3),
        "path21": vertices(d2, d1),
        "triangle": corner.sum(-1),
        "path111": vertices(d1, e),
        "star111": vertices(d1, d1, d1),
        "line4": (pairs * square * theta).sum((-1, -2)),
        "path31": vertices(d3, d1),
        "path22": vertices(d2, d2),
        "triangle211": (pairs * theta * m).sum((-1, -2)),
        "path211": vertices(d2, e),
        "path121": (z * d1 * (square @ (z * d1)[..., None])[..., 0]).sum(-1),
        "star211": vertices(d2, d1, d1),
        "square": np.einsum("ni,nij,nij,nj->n", z, m, m, z, optimize=False),
        "paw": (d1 * corner).sum(-1),
        "path1111": vertices(e, e),
        "star1111": vertices(d1, d1, d1, d1),
        "fork": vertices(d1, d1, e),
    }


def n_subjettiness(particles: ArrayLike, mask: ArrayLike) -> np.ndarray:
    """(n, 4) τ1 to τ4 = Σ ptrel min_axes ΔR / Σ ptrel (Thaler, Van Tilburg, 1011.2268, β = 1, R0 = 1).

    Axes are those of exclusive kT with winner-takes-all recombination. 0 for as many axes as particles.
    """
    particles, mask = np.asarray(particles), np.asarray(mask, bool)
    return np.concatenate([_batch_tau(particles[batch], mask[batch]) for batch in kinematics.batches(len(mask))])


def _batch_tau(particles: np.ndarray, mask: np.ndarray) -> np.ndarray:
    _ClusterSequence.set_fastjet_banner_stream(None)
    momenta = kinematics.four_vectors(particles, mask)
    columns = ("px", "py", "pz", "E")
    components = dict(zip(columns, np.moveaxis(momenta[mask][:, [1, 2, 3, 0]], 1, 0), strict=True))
    events = ak.unflatten(ak.zip(components, with_name="Momentum4D"), mask.sum(1))
    sequence = fastjet.ClusterSequence(events, fastjet.JetDefinition(fastjet.kt_algorithm, 1.0))
    return ak.to_numpy(sequence.njettiness("NormalizedMeasure", "WTA_KT_Axes", [1, 2, 3, 4], beta=1.0, R0=1.0))


def high_level(jets: Jets) -> pd.DataFrame:
    """What a physicist would look at first, a row a jet: `FEATURES`, then the 20 connected energy-flow polynomials.

    mass, ptrel_sum and ptrel_1 to _3 (leading; 0 where there are fewer) in units of the jet's pT; ptrel_last is the
    softest particle's. girth = Σ ptrel ΔR / Σ ptrel about the jet's axis, ptd = (Σ ptrel²)^½ / Σ ptrel. tau21 and so
    on are ratios of `n_subjettiness`. c2 = e3/e2² (1305.0007) and d2 = e3/e2³ (1409.6298) with β = 1 and ptrel
    normalised to its sum: the correlators e2 and e3 are the polynomials line1 / 2 and triangle / 6. Ratios of 0 to 0
    are 0.
    """
    polynomials = efps(jets.particles, jets.mask)
    tau = n_subjettiness(jets.particles, jets.mask)
    real = np.where(jets.mask[..., None], jets.particles.astype(np.float64), 0.0)
    pt, total = real[..., 2], polynomials[DOT].to_numpy()
    falling = -np.sort(-np.pad(pt, ((0, 0), (0, 3))), axis=1)
    e2 = polynomials["line1"].to_numpy() / (2 * total**2)
    e3 = polynomials["triangle"].to_numpy() / (6 * total**3)
    columns = {"mass": jets.mass, "ptrel_sum": total, "multiplicity": jets.count.astype(np.float64)}
    columns |= {f"ptrel_{i + 1}": falling[:, i] for i in range(3)}
    columns["ptrel_last"] = np.min(np.where(jets.mask, pt, np.inf), axis=1)
    columns["girth"] = (pt * np.hypot(real[..., 0], real[..., 1])).sum(1) / total
    columns["ptd"] = np.sqrt((pt**2).sum(1)) / total
    columns |= {f"tau{i + 1}": tau[:, i] for i in range(4)}
    columns |= {f"tau{i + 2}{i + 1}": _ratio(tau[:, i + 1], tau[:, i]) for i in range(3)}
    columns |= {"c2": _ratio(e3, e2**2), "d2": _ratio(e3, e2**3)}
    connected = [name for names in CONNECTED.values() for name in names]
    return pd.DataFrame(columns).join(polynomials[connected])


def pair_masses(jets: Jets) -> pd.DataFrame:
    """How many pairs of a jet's particles have a mass between each two of `PAIR_MASSES`, a row a jet.

    High-level features add up all pairs, weighted by powers of ptrel and angle, and hardly see the lightest ones: yet
    two particles that a light hadron decays into stand out there, above all the photons of a neutral pion.

    >>> from jetstudy.jets import arrange
    >>> photons = arrange([[[0.0, 0.0, 0.04], [0.003, 0.004, 0.04]]], [[True, True]], np.ones((1, 4)))
    >>> counts = pair_masses(photons).loc[0]  # a mass of 0.04 x 0.005
    >>> counts[counts > 0].to_dict()
    {'pairs_0.00018313_0.00020236': 1}
    """
    first, second = np.triu_indices(jets.n_max, 1)
    size = max(1, PAIRS // max(1, len(first)))
    counts = np.zeros((len(jets), len(PAIR_MASSES) + 1), np.int64)  # below, in each bin, above
    for start in range(0, len(jets), size):
        batch = jets[start : start + size]
        jet, pair = np.nonzero(batch.mask[:, first] & batch.mask[:, second])
        mass = kinematics.pair_mass(*(batch.particles[jet, which[pair]] for which in (first, second)))
        np.add.at(counts, (start + jet, np.searchsorted(PAIR_MASSES, mass, side="right")), 1)
    return pd.DataFrame(counts[:, 1:-1], columns=PAIR_COUNTS)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
