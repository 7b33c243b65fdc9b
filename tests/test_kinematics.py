from itertools import combinations
from math import cosh, fsum, pi, sin, sinh, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstudy import kinematics
from jetstudy.kinematics import four_vectors, jet_mass, momentum_closure, ptrel_sum


def for_all(*strategies):
    return lambda test: settings(deadline=None, max_examples=60)(given(*strategies)(test))


def draw(seed, n=20, n_max=12, spread=0.4):
    """Jets with 0 to n_max particles, the real ones anywhere; NaN where masked."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n, n_max)) < rng.random((n, 1))
    particles = np.stack(
        [*(spread * rng.standard_normal((2, n, n_max))), np.exp(-4 + 1.5 * rng.standard_normal((n, n_max)))],
        axis=-1,
    )
    particles[~mask] = np.nan
    return particles, mask


def mass_by_pairs(jet):
    """m² = Σ_{i<j} 4 pTi pTj (sinh²(Δη/2) + sin²(Δφ/2)): N² operations, no cancellation."""
    pairs = (
        4 * a[2] * b[2] * (sinh((a[0] - b[0]) / 2) ** 2 + sin((a[1] - b[1]) / 2) ** 2)
        for a, b in combinations(np.asarray(jet, float), 2)
    )
    return sqrt(fsum(pairs))


seeds = st.integers(0, 2**32 - 1)


def test_the_mass_of_two_particles_is_that_of_the_textbook():
    eta, phi, pt = 0.7, 0.4, (0.6, 0.3)
    mass = jet_mass([[[eta, phi, pt[0]], [-0.1, 0.0, pt[1]]]], [[True, True]]).item()
    assert mass == pytest.approx(sqrt(2 * pt[0] * pt[1] * (cosh(eta + 0.1) - np.cos(phi))), rel=1e-14)


def test_back_to_back_particles_of_equal_pt_have_the_sum_of_their_energies_as_mass():
    assert jet_mass([[[0.0, 0.0, 0.5], [0.0, pi, 0.5]]], [[True, True]]).item() == pytest.approx(1.0, rel=1e-15)


def test_four_vectors_are_massless_and_those_of_the_definition():
    particles, mask = draw(0)
    vectors = four_vectors(particles, mask)
    for vector, (eta, phi, pt) in zip(vectors[mask], particles[mask], strict=True):
        assert vector == pytest.approx(pt * np.array([cosh(eta), np.cos(phi), np.sin(phi), sinh(eta)]))
    energy, momentum = vectors[..., 0], vectors[..., 1:]
    np.testing.assert_allclose(energy, np.linalg.norm(momentum, axis=-1), rtol=1e-14)


@for_all(seeds)
def test_the_mass_of_wide_jets_is_that_of_the_sum_of_four_vectors(seed):
    particles, mask = draw(seed, spread=1.0)
    energy, *momentum = four_vectors(particles, mask).sum(axis=1).T
    squared = energy**2 - np.square(momentum).sum(axis=0)
    np.testing.assert_allclose(jet_mass(particles, mask) ** 2, squared, atol=1e-13 * (energy.max() ** 2))


@for_all(seeds, st.floats(-6, 0))
def test_the_mass_is_the_sum_over_pairs_for_wide_and_for_narrow_jets(seed, log_spread):
    particles, mask = draw(seed, spread=10**log_spread)
    expected = [mass_by_pairs(jet[real]) for jet, real in zip(particles, mask, strict=True)]
    np.testing.assert_allclose(jet_mass(particles, mask), expected, rtol=1e-8, atol=1e-15)


@for_all(seeds, st.floats(-3, 3), st.floats(-pi, pi))
def test_the_mass_does_not_change_with_a_boost_along_or_a_rotation_about_the_beam(seed, boost, rotation):
    particles, mask = draw(seed)
    moved = particles + np.array([boost, rotation, 0.0])
    np.testing.assert_allclose(jet_mass(moved, mask), jet_mass(particles, mask), rtol=1e-12, atol=1e-14)


@for_all(seeds)
def test_angles_that_differ_by_full_turns_are_the_same(seed):
    particles, mask = draw(seed)
    turns = np.random.default_rng(seed).integers(-2, 3, mask.shape)
    turned = particles + 2 * pi * turns[..., None] * [0.0, 1.0, 0.0]
    for function in (four_vectors, jet_mass, momentum_closure):
        np.testing.assert_allclose(function(turned, mask), function(particles, mask), atol=1e-13)


@for_all(seeds, st.floats(1e-3, 1e3))
def test_mass_and_sum_grow_with_the_momenta(seed, factor):
    particles, mask = draw(seed)
    for function in (jet_mass, ptrel_sum):
        np.testing.assert_allclose(
            function(particles * [1.0, 1.0, factor], mask), factor * function(particles, mask), rtol=1e-12, atol=1e-12
        )


@for_all(seeds)
def test_the_order_of_particles_does_not_matter(seed):
    particles, mask = draw(seed)
    order = np.random.default_rng(seed).permutation(mask.shape[1])
    for function in (jet_mass, ptrel_sum, momentum_closure):
        np.testing.assert_allclose(
            function(particles[:, order], mask[:, order]), function(particles, mask), rtol=1e-13, atol=1e-15
        )


@pytest.mark.parametrize("function", [four_vectors, jet_mass, ptrel_sum, momentum_closure])
@pytest.mark.parametrize("content", [0.0, 1e300, -5.0, np.inf])
def test_what_stands_in_masked_entries_never_matters(function, content):
    particles, mask = draw(3)
    other = np.where(mask[..., None], particles, content)
    np.testing.assert_array_equal(function(other, mask), function(particles, mask))


def test_masked_entries_have_no_momentum():
    particles, mask = draw(4)
    assert (four_vectors(particles, mask)[~mask] == 0).all()


def test_a_jet_without_particles_has_no_mass_and_no_momentum():
    particles, mask = np.full((1, 3, 3), np.nan), np.zeros((1, 3), bool)
    assert jet_mass(particles, mask).tolist() == [0.0]
    assert ptrel_sum(particles, mask).tolist() == [0.0]
    assert momentum_closure(particles, mask).tolist() == [1.0]


def test_no_jets_have_no_masses():
    assert jet_mass(np.zeros((0, 3, 3)), np.zeros((0, 3), bool)).shape == (0,)


def test_float32_jets_have_the_mass_of_their_stored_numbers():
    """E² − p² in float32 would lose all digits of this mass."""
    jet = np.array([[2.0, 1.0, 0.5], [2.0001, 1.0, 0.5]], np.float32)
    assert jet_mass(jet[None], [[True, True]]).item() == pytest.approx(mass_by_pairs(jet), rel=1e-11)


def test_masses_do_not_depend_on_the_batch(monkeypatch):
    particles, mask = draw(5, n=23)
    whole = jet_mass(particles, mask)
    monkeypatch.setattr(kinematics, "BATCH", 5)
    np.testing.assert_array_equal(jet_mass(particles, mask), whole)


def test_the_momenta_of_a_complete_jet_close_and_of_its_leading_particles_do_not():
    particles, mask = draw(6, n=1, n_max=8)
    mask[:] = True
    rng = np.random.default_rng(6)
    momentum = rng.exponential(size=8) * np.exp(0.3j * rng.standard_normal(8))
    momentum /= momentum.sum()
    particles = np.stack([rng.standard_normal(8), np.angle(momentum), np.abs(momentum)], axis=-1)[None]
    assert momentum_closure(particles, mask).item() < 1e-15
    mask[0, 3] = False
    assert momentum_closure(particles, mask).item() == pytest.approx(np.abs(momentum[3]), rel=1e-12)
