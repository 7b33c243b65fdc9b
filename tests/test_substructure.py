from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstudy import substructure
from jetstudy.jets import Jets, arrange
from jetstudy.kinematics import jet_mass
from jetstudy.sources import draw

# The edges of each connected graph, vertices numbered from 0: what its name stands for.
EDGES = {
    **{f"line{k}": [(0, 1)] * k for k in (1, 2, 3, 4)},
    "path11": [(0, 1), (1, 2)],
    "path21": [(0, 1), (0, 1), (1, 2)],
    "path31": [(0, 1), (0, 1), (0, 1), (1, 2)],
    "path22": [(0, 1), (0, 1), (1, 2), (1, 2)],
    "triangle": [(0, 1), (1, 2), (2, 0)],
    "triangle211": [(0, 1), (0, 1), (1, 2), (2, 0)],
    "path111": [(0, 1), (1, 2), (2, 3)],
    "path211": [(0, 1), (0, 1), (1, 2), (2, 3)],
    "path121": [(0, 1), (1, 2), (1, 2), (2, 3)],
    "path1111": [(0, 1), (1, 2), (2, 3), (3, 4)],
    "star111": [(0, 1), (0, 2), (0, 3)],
    "star211": [(0, 1), (0, 1), (0, 2), (0, 3)],
    "star1111": [(0, 1), (0, 2), (0, 3), (0, 4)],
    "square": [(0, 1), (1, 2), (2, 3), (3, 0)],
    "paw": [(0, 1), (1, 2), (2, 0), (0, 3)],
    "fork": [(0, 1), (0, 2), (0, 3), (3, 4)],
}


def random_jets(n_jets, n_particles, seed=0, n_max=None):
    rng = np.random.default_rng(seed)
    particles = rng.normal(0, 0.2, size=(n_jets, n_particles, 3))
    particles[..., 2] = rng.uniform(0.05, 0.5, size=(n_jets, n_particles))
    room = (n_max or n_particles) - n_particles
    particles = np.pad(particles, ((0, 0), (0, room), (0, 0)))
    return particles, np.broadcast_to(np.arange(n_particles + room) < n_particles, particles.shape[:2])


def jets_of(particles, mask):
    return arrange(particles, mask, np.ones((len(particles), 4)))


def by_definition(particle, edges):
    """The sum over all assignments of particles to vertices, as the paper writes it."""
    z, place = particle[:, 2], particle[:, :2]
    total = 0.0
    for vertices in product(range(len(z)), repeat=1 + max(map(max, edges))):
        theta = [np.linalg.norm(place[vertices[k]] - place[vertices[m]]) for k, m in edges]
        total += np.prod(z[list(vertices)]) * np.prod(theta)
    return total


# Energy-flow polynomials


def test_there_are_as_many_multigraphs_of_at_most_four_edges_as_the_field_uses():
    assert [len(names) for names in substructure.CONNECTED.values()] == [1, 2, 5, 12]
    assert len(substructure.GRAPHS) == 36
    edges = [sum(len(EDGES[part]) for part in parts if part != "dot") for parts in substructure.GRAPHS.values()]
    assert np.bincount(edges).tolist() == [1, 1, 3, 8, 23]
    assert set(EDGES) == {part for parts in substructure.GRAPHS.values() for part in parts} - {"dot"}


def test_polynomials_are_their_definition():
    particles, mask = random_jets(3, 4)
    table = substructure.efps(particles, mask)
    assert list(table.columns) == list(substructure.GRAPHS)
    for name, edges in EDGES.items():
        np.testing.assert_allclose(table[name], [by_definition(jet, edges) for jet in particles], rtol=1e-10)
    np.testing.assert_allclose(table["dot"], particles[..., 2].sum(1))
    np.testing.assert_allclose(table["line1*path21"], table["line1"] * table["path21"])


def test_two_particles_are_a_dumbbell():
    z1, z2, theta = 0.5, 0.25, 0.5
    table = substructure.efps([[[0.3, 0.0, z1], [0.0, 0.4, z2]]], [[True, True]]).loc[0]
    for k in (1, 2, 3, 4):
        assert table[f"line{k}"] == pytest.approx(2 * z1 * z2 * theta**k)
    assert table["path11"] == pytest.approx((z1 * z2**2 + z2 * z1**2) * theta**2)
    assert table["triangle"] == table["triangle211"] == table["paw"] == 0  # a third particle is wanting
    assert table["square"] == pytest.approx(2 * z1**2 * z2**2 * theta**4)  # the corners 1, 2, 1, 2 and 2, 1, 2, 1


@pytest.mark.parametrize("pairs", [1, 50])
def test_batches_change_nothing(monkeypatch, pairs):
    particles, mask = random_jets(7, 5)
    expected = substructure.efps(particles, mask)
    monkeypatch.setattr(substructure, "PAIRS", pairs)
    pd.testing.assert_frame_equal(substructure.efps(particles, mask), expected)


def test_no_jets_have_no_polynomials():
    assert substructure.efps(np.zeros((0, 4, 3)), np.zeros((0, 4), bool)).shape == (0, 36)


# N-subjettiness


def test_n_subjettiness_of_three_particles_by_hand():
    """kT merges the near pair first; a winner-takes-all axis is its harder particle."""
    particles = [[[0.0, 0.0, 0.5], [0.1, 0.0, 0.2], [0.0, 0.4, 0.3]]]
    tau = substructure.n_subjettiness(particles, [[True] * 3])
    np.testing.assert_allclose(tau, [[0.2 * 0.1 + 0.3 * 0.4, 0.2 * 0.1, 0, 0]], atol=1e-9)


def test_n_subjettiness_is_normalised_to_the_particles_kept_and_falls_with_each_axis():
    particles, mask = random_jets(50, 8, n_max=10)
    tau = substructure.n_subjettiness(particles, mask)
    assert np.all(np.diff(tau, axis=1) <= 1e-12)
    np.testing.assert_allclose(substructure.n_subjettiness(particles * [1, 1, 3], mask), tau, rtol=1e-9)


# High-level features


def test_ratios_of_n_subjettiness_have_the_larger_number_above():
    particles = [[0.0, 0.0, 0.5], [0.1, 0.0, 0.2], [0.0, 0.4, 0.2], [0.3, 0.3, 0.1]]
    row = substructure.high_level(jets_of([particles], [[True] * 4])).loc[0]
    for above, below in ((2, 1), (3, 2)):
        ratio = row[f"tau{above}{below}"]
        assert ratio == pytest.approx(row[f"tau{above}"] / row[f"tau{below}"]) and 0 < ratio < 1


def test_features_of_two_particles_by_hand():
    jets = jets_of([[[0.3, 0.0, 0.5], [0.0, 0.4, 0.25], [9, 9, 9]]], [[True, True, False]])
    row = substructure.high_level(jets).loc[0]
    assert list(row.index[: len(substructure.FEATURES)]) == list(substructure.FEATURES)
    assert len(row) == len(substructure.FEATURES) + 20
    expected = {
        "mass": np.sqrt(2 * 0.125 * (np.cosh(0.3) - np.cos(0.4))),
        "ptrel_sum": 0.75,
        "multiplicity": 2,
        "ptrel_1": 0.5,
        "ptrel_2": 0.25,
        "ptrel_3": 0,
        "ptrel_last": 0.25,
        "girth": (0.5 * 0.3 + 0.25 * 0.4) / 0.75,
        "ptd": np.sqrt(0.25 + 0.0625) / 0.75,
        "tau1": 0.25 * 0.5 / 0.75,
        "line1": 0.125,
    }
    np.testing.assert_allclose(row[list(expected)].to_numpy(), list(expected.values()), rtol=1e-6)
    np.testing.assert_allclose(row[["tau2", "tau3", "tau4", "tau21", "tau32", "tau43", "c2", "d2"]], 0, atol=1e-9)


def test_correlators_of_three_equal_particles_at_equal_distances():
    """z = 1/3 each, θ = s: e2 = 3 s/9 and e3 = s³/27, so c2 = s/3 and d2 = 1."""
    s = 0.2
    corners = [[0, 0, 0.3], [s, 0, 0.3], [s / 2, s * np.sqrt(3) / 2, 0.3]]
    row = substructure.high_level(jets_of([corners], [[True] * 3])).loc[0]
    assert row["c2"] == pytest.approx(s / 3, rel=1e-5)
    assert row["d2"] == pytest.approx(1, rel=1e-5)


def test_a_single_particle_is_a_point():
    row = substructure.high_level(jets_of([[[0.1, -0.2, 0.5]]], [[True]])).loc[0]
    assert row["ptrel_1"] == row["ptrel_last"] == 0.5 and row["ptd"] == 1 and row["multiplicity"] == 1
    others = row.drop(["ptrel_sum", "ptrel_1", "ptrel_last", "ptd", "multiplicity", "girth"])
    np.testing.assert_allclose(others, 0, atol=1e-6)


@settings(max_examples=15, deadline=None, database=None)
@given(st.permutations(range(6)), st.integers(0, 4), st.floats(-3, 3))
def test_order_padding_and_rotations_change_nothing(order, room, angle):
    particles, mask = random_jets(4, 6)
    expected = substructure.high_level(jets_of(particles, mask))
    moved = np.pad(particles[:, order], ((0, 0), (0, room), (0, 0)), constant_values=7.0)
    moved = jets_of(moved, np.pad(mask, ((0, 0), (0, room))))
    pd.testing.assert_frame_equal(substructure.high_level(moved), expected, rtol=1e-5, atol=1e-9)
    rotation = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned = np.concatenate([particles[..., :2] @ rotation, particles[..., 2:]], axis=-1)
    turned = substructure.high_level(jets_of(turned, mask)).drop(columns="mass")  # cosh Δη is not cos Δφ
    pd.testing.assert_frame_equal(turned, expected.drop(columns="mass"), rtol=1e-4, atol=1e-7)


def test_features_of_generated_jets_are_finite():
    table = substructure.high_level(draw("toy", "top", 300, 8, 1, ("gluon", "top")))
    assert np.isfinite(table.to_numpy()).all() and len(table) == 300


# Masses of pairs


def test_pairs_are_counted_by_their_mass(monkeypatch):
    """Against the mass of each two particles as a jet of their own, with jets of 0, 1 and more particles in a batch."""
    rng = np.random.default_rng(0)
    particles = np.concatenate([rng.normal(0, 0.02, (40, 7, 2)), rng.uniform(1e-3, 0.1, (40, 7, 1))], axis=2)
    jets = jets_of(particles, np.arange(7) < rng.permutation(40)[:, None] % 8)
    counts = substructure.pair_masses(jets)
    assert list(counts.columns) == list(substructure.PAIR_COUNTS)
    expected = np.zeros(counts.shape, int)
    for i, (jet, mask) in enumerate(zip(jets.particles, jets.mask, strict=True)):
        couples = list(combinations(np.flatnonzero(mask), 2))
        masses = [jet_mass(jet[[couple]], [[True, True]]).item() for couple in map(list, couples)]
        expected[i] = np.histogram(masses, substructure.PAIR_MASSES)[0]
    assert expected.sum() > 50
    np.testing.assert_array_equal(counts, expected)
    monkeypatch.setattr(substructure, "PAIRS", 60)
    pd.testing.assert_frame_equal(substructure.pair_masses(jets), counts)
    turned = Jets(jets.particles[:, ::-1], jets.mask[:, ::-1], jets.features)
    pd.testing.assert_frame_equal(substructure.pair_masses(turned), counts)


def test_a_jet_with_room_for_one_particle_has_no_pairs():
    assert substructure.pair_masses(jets_of([[[0.1, 0.0, 0.5]]], [[True]])).to_numpy().tolist() == [[0] * 30]
