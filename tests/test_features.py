import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from jetstudy.features import Edge, Features, Stretch
from jetstudy.jets import Jets, arrange

FEATURES = Features(mean=(0.02, -0.01, -4.0), std=(0.08, 0.1, 1.3))
STRETCHES = (
    Stretch(centre=0.01, scale=0.02, skew=0.1, tail=0.6, width=0.1),
    Stretch(centre=-0.01, scale=0.03, skew=-0.2, tail=0.8, width=0.2),
    Stretch(centre=-1.5, scale=0.4, skew=-1.0, tail=1.3, width=0.9),
)
STRETCHED = Features(FEATURES.mean, FEATURES.std, STRETCHES)
EDGE = Edge(radius=0.2, width=0.02, gap=0.1)
EDGED = Features(FEATURES.mean, FEATURES.std, STRETCHES, EDGE)
each = pytest.mark.parametrize("features", [FEATURES, STRETCHED, EDGED], ids=["plain", "stretched", "edge"])


def draw(seed, n=30, n_max=7, width=0.1, log_ptrel=-4.0):
    rng = np.random.default_rng(seed)
    mask = np.arange(n_max) < rng.integers(1, n_max + 1, (n, 1))
    angles = width * rng.standard_normal((n, n_max, 2))
    ptrel = np.exp(log_ptrel + rng.standard_normal((n, n_max, 1)))
    return arrange(np.concatenate([angles, ptrel], axis=-1), mask, np.zeros((n, 4)))


def numbers(*bounds):
    return st.tuples(*(st.floats(*bounds) for _ in range(3)))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from(STRETCHES), st.floats(0.01, 3))
def test_the_inverse_of_a_stretched_jet_gives_the_particles_back(seed, stretch, width):
    jets, f = draw(seed), Stretch(stretch.centre, stretch.scale, stretch.skew, stretch.tail, width)
    features = Features((0.1, 0.0, -3.0), (0.1, 0.2, 1.0), (f, STRETCHES[1], STRETCHES[2]))
    back = features.inverse(features.forward(jets), jets.mask)
    np.testing.assert_allclose(back, jets.particles, rtol=1e-6, atol=1e-8)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1), st.floats(0.005, 0.3), st.floats(0.001, 1), st.floats(0.02, 3))
def test_the_inverse_of_a_spread_edge_gives_the_particles_back(seed, radius, width, gap, size):
    u, edge = size * np.random.default_rng(seed).standard_normal((50, 3)), Edge(radius, width, gap)
    u[0, :2] = 0, 0  # a particle on the axis
    np.testing.assert_allclose(edge.inverse(edge(u)), u, rtol=1e-9, atol=1e-12)
    near = np.array([[1e-10, 0.0, 0.0], [0.0, -1e-8, 0.0]])
    np.testing.assert_allclose(edge.inverse(edge(near)), near, rtol=1e-4, atol=0)
    assert np.isfinite(edge.log_jacobian(u)).all()


def test_a_spread_edge_moves_particles_outwards_and_hardly_inside():
    u = np.array([[0.05, 0.0, -1.0], [0.0, 0.2, -2.0], [-0.5, 0.0, -3.0]])
    moved = EDGE(u)
    np.testing.assert_allclose(moved[0], u[0], rtol=0.02)
    np.testing.assert_allclose(moved[1], [0, 0.3, -2], atol=1e-3)  # the gap at the radius ...
    np.testing.assert_allclose(moved[2], [-0.7, 0, -3], atol=1e-3)  # ... and twice as much in the end
    at = EDGE(np.array([[0.2 - 1e-6, 0, 0], [0.2 + 1e-6, 0, 0]]))
    assert (at[1, 0] - at[0, 0]) / 2e-6 == pytest.approx(1 + 0.1 / 0.02, rel=1e-6)


def test_the_studys_edge_is_eight_times_as_wide_and_there_is_none_at_a_radius_of_0():
    edge = Edge.at(0.4)
    assert edge.log_jacobian(np.array([[0.4, 0.0, 0.0]])) == pytest.approx(np.log(8 * (0.4 + 0.14) / 0.4), rel=1e-3)
    assert Edge.at(0.0) is None


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), numbers(-5, 5), numbers(0.01, 10))
def test_the_inverse_of_forward_gives_the_particles_back(seed, mean, std):
    jets, features = draw(seed), Features(mean, std)
    back = features.inverse(features.forward(jets), jets.mask)
    np.testing.assert_allclose(back, jets.particles, rtol=1e-12, atol=1e-13)


@each
def test_the_inverse_undoes_all_steps_the_last_one_first(features):
    jets = draw(5)
    back = features.inverse(features.forward(jets), jets.mask)
    np.testing.assert_allclose(back, jets.particles, rtol=1e-6, atol=1e-8)


def test_forward_is_the_standardised_logarithm():
    jets = draw(0)
    u = FEATURES.forward(jets)
    assert u.dtype == np.float64
    etarel, phirel, ptrel = jets.particles[jets.mask].astype(float).T
    expected = [(etarel - 0.02) / 0.08, (phirel + 0.01) / 0.1, (np.log(ptrel) + 4.0) / 1.3]
    np.testing.assert_allclose(u[jets.mask].T, expected, rtol=1e-13)


def test_log_jacobian_is_the_log_determinant_that_autograd_finds():
    jets = draw(1, n=5, n_max=4)
    mean, std = torch.tensor(FEATURES.mean).double(), torch.tensor(FEATURES.std).double()

    def forward(flat):
        etarel, phirel, ptrel = flat.reshape(-1, 3).T
        return ((torch.stack([etarel, phirel, ptrel.log()], dim=-1) - mean) / std).flatten()

    for jet, value in zip(range(len(jets)), FEATURES.log_jacobian(jets), strict=True):
        particles = torch.from_numpy(jets.particles[jet][jets.mask[jet]].astype(float)).flatten()
        jacobian = torch.autograd.functional.jacobian(forward, particles)
        assert value == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), rel=1e-6)


@each
def test_log_jacobian_is_that_of_forward_by_finite_differences(features):
    jets, step = draw(2, n=1, n_max=2), 1e-3
    jacobian = np.zeros((6, 6))
    for i in range(6):
        values = []
        for sign in (-1, 1):
            particles = jets.particles.astype(float)
            particles.reshape(-1)[i] *= 1 + sign * step
            moved = Jets(particles, np.ones((1, 2), bool), jets.features)
            values.append(features.forward(moved).ravel())
        jacobian[:, i] = (values[1] - values[0]) / (2 * step * jets.particles.reshape(-1)[i])
    full = Jets(jets.particles, np.ones((1, 2), bool), jets.features)
    assert jets.mask.all()
    assert features.log_jacobian(full).item() == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-5)


def test_the_density_in_features_becomes_one_that_integrates_to_one_over_particles():
    """log ptrel ~ N(-4, 1.3²): its density over ptrel, by quadrature, through log_jacobian."""
    ptrel = np.exp(np.linspace(-4 - 8 * 1.3, -4 + 8 * 1.3, 2001))
    particles = np.stack([np.full_like(ptrel, 0.02), np.full_like(ptrel, -0.01), ptrel], axis=-1)[:, None]
    jets = Jets(particles, np.ones((len(ptrel), 1), bool), np.zeros((len(ptrel), 4)))
    log_p = -0.5 * np.square(FEATURES.forward(jets)).sum((1, 2)) - 1.5 * np.log(2 * np.pi)
    slice_at_mean = 2 * np.pi * 0.08 * 0.1  # the two angles' Gaussians at their means, integrated
    integral = slice_at_mean * np.trapezoid(np.exp(log_p + FEATURES.log_jacobian(jets)), ptrel)
    assert integral == pytest.approx(1, abs=1e-4)


def test_permuting_the_particles_permutes_the_stretched_features():
    jets, order = draw(3), np.random.default_rng(0).permutation(7)
    permuted = Jets(jets.particles[:, order], jets.mask[:, order], jets.features)
    np.testing.assert_allclose(STRETCHED.forward(permuted), STRETCHED.forward(jets)[:, order], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(STRETCHED.log_jacobian(permuted), STRETCHED.log_jacobian(jets), rtol=1e-12)


def test_a_stretch_has_the_slope_of_finite_differences():
    q = np.linspace(-3, 1, 201)
    for f in STRETCHES:
        np.testing.assert_allclose((f(q + 1e-6) - f(q - 1e-6)) / 2e-6, f.slope(q), rtol=1e-6)
        np.testing.assert_allclose(f.inverse(f(q)), q, rtol=1e-9, atol=1e-12)


def test_a_fitted_stretch_makes_a_skewed_sharp_distribution_normal():
    rng = np.random.default_rng(0)
    q = -0.1 * rng.weibull(1.2, 20_000)  # ends at 0, as a jet's summed ptrel ends at 1
    f = Stretch.fit(q, np.ones(len(q)), 0.5)
    assert kstest((f(q) - f.centre) / f.width, "norm").statistic < 0.03


def test_stretched_jets_have_an_axis_and_a_momentum_as_wide_as_asked_for():
    jets = draw(9, n=5000)
    features = Features.fit([jets], 0.5)
    u = features.forward(jets)
    z = jets.particles[..., 2] / jets.particles[..., 2].sum(1, keepdims=True)
    axis = (z[..., None] * u[..., :2]).sum(1)
    plain = Features.fit([jets])
    np.testing.assert_allclose(axis.std(0) * features.std[:2], 0.5 * np.array(plain.std[:2]), rtol=0.05)
    np.testing.assert_allclose(u[jets.mask].std(0), 1, atol=1e-10)


@each
def test_fitted_constants_standardise_the_particles(features):
    jets = draw(3, n=2000)
    u = Features.fit([jets], 0.5 * bool(features.stretches), features.edge).forward(jets)[jets.mask]
    np.testing.assert_allclose(u.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(u.std(0), 1, atol=1e-10)


def test_classes_share_constants_to_which_each_contributes_alike():
    narrow, wide = draw(4, n=500), draw(5, n=100, width=0.3, log_ptrel=-2.0)
    features = Features.fit([narrow, wide])
    u = [features.forward(jets)[jets.mask] for jets in (narrow, wide)]
    np.testing.assert_allclose(sum(v.mean(0) for v in u), 0, atol=1e-10)
    np.testing.assert_allclose(sum(np.square(v).mean(0) for v in u) / 2, 1, rtol=1e-10)
    other = Features.fit([wide, narrow])
    np.testing.assert_allclose([other.mean, other.std], [features.mean, features.std], rtol=1e-12)


@each
@pytest.mark.parametrize("content", [np.nan, np.inf, -1.0, 7.0])
def test_what_stands_in_masked_entries_never_matters(features, content):
    jets = draw(6)
    particles = np.where(jets.mask[..., None], jets.particles, np.float32(content))
    other = Jets(particles, jets.mask, jets.features)
    u = features.forward(other)
    assert not jets.mask.all()
    assert (u[~jets.mask] == 0).all()
    np.testing.assert_array_equal(u, features.forward(jets))
    np.testing.assert_array_equal(features.log_jacobian(other), features.log_jacobian(jets))
    assert Features.fit([other]) == Features.fit([jets])
    back = features.inverse(np.where(jets.mask[..., None], u, content), jets.mask)
    assert (back[~jets.mask] == 0).all()


@each
def test_more_padding_changes_nothing(features):
    jets = draw(7)
    padded = jets.leading(jets.n_max + 3)
    np.testing.assert_allclose(features.forward(padded)[:, : jets.n_max], features.forward(jets), rtol=1e-12)
    np.testing.assert_allclose(features.log_jacobian(padded), features.log_jacobian(jets), rtol=1e-14)


def test_fits_of_the_same_jets_are_alike_and_of_others_are_not():
    a_hair_off = [replace(f, skew=f.skew + 1e-3) for f in STRETCHES]
    assert STRETCHED.like(Features((0.0205, -0.01, -4.01), (0.08, 0.1005, 1.3), tuple(a_hair_off)))
    assert not STRETCHED.like(FEATURES) and not STRETCHED.like(EDGED)
    assert not STRETCHED.like(Features(FEATURES.mean, (0.08, 0.102, 1.3), STRETCHES))
    assert not STRETCHED.like(Features((0.022, -0.01, -4.0), FEATURES.std, STRETCHES))
    wider = (*STRETCHES[:2], replace(STRETCHES[2], width=0.901))
    assert not STRETCHED.like(Features(FEATURES.mean, FEATURES.std, wider))


def test_constants_come_back_from_a_file_to_the_last_bit(tmp_path):
    features = Features.fit([draw(8)], 0.3)
    path = tmp_path / "features.json"
    path.write_text(json.dumps(features.to_dict()))
    assert Features.load(path) == features
    for each in (features, EDGED):
        assert Features.from_dict(each.to_dict()) == each
