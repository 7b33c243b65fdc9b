import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstudy.features import Features
from jetstudy.jets import Jets, arrange

FEATURES = Features(mean=(0.02, -0.01, -4.0), std=(0.08, 0.1, 1.3))


def draw(seed, n=30, n_max=7, width=0.1, log_ptrel=-4.0):
    rng = np.random.default_rng(seed)
    mask = np.arange(n_max) < rng.integers(1, n_max + 1, (n, 1))
    angles = width * rng.standard_normal((n, n_max, 2))
    ptrel = np.exp(log_ptrel + rng.standard_normal((n, n_max, 1)))
    return arrange(np.concatenate([angles, ptrel], axis=-1), mask, np.zeros((n, 4)))


def numbers(*bounds):
    return st.tuples(*(st.floats(*bounds) for _ in range(3)))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), numbers(-5, 5), numbers(0.01, 10))
def test_the_inverse_of_forward_gives_the_particles_back(seed, mean, std):
    jets, features = draw(seed), Features(mean, std)
    back = features.inverse(features.forward(jets), jets.mask)
    np.testing.assert_allclose(back, jets.particles, rtol=1e-12, atol=1e-13)


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


def test_log_jacobian_is_that_of_forward_by_finite_differences():
    jets, step = draw(2, n=1, n_max=2), 1e-3
    jacobian = np.zeros((6, 6))
    for i in range(6):
        values = []
        for sign in (-1, 1):
            particles = jets.particles.astype(float)
            particles.reshape(-1)[i] *= 1 + sign * step
            moved = Jets(particles, np.ones((1, 2), bool), jets.features)
            values.append(FEATURES.forward(moved).ravel())
        jacobian[:, i] = (values[1] - values[0]) / (2 * step * jets.particles.reshape(-1)[i])
    full = Jets(jets.particles, np.ones((1, 2), bool), jets.features)
    assert jets.mask.all()
    assert FEATURES.log_jacobian(full).item() == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-5)


def test_the_density_in_features_becomes_one_that_integrates_to_one_over_particles():
    """log ptrel ~ N(-4, 1.3²): its density over ptrel, by quadrature, through log_jacobian."""
    ptrel = np.exp(np.linspace(-4 - 8 * 1.3, -4 + 8 * 1.3, 2001))
    particles = np.stack([np.full_like(ptrel, 0.02), np.full_like(ptrel, -0.01), ptrel], axis=-1)[:, None]
    jets = Jets(particles, np.ones((len(ptrel), 1), bool), np.zeros((len(ptrel), 4)))
    log_p = -0.5 * np.square(FEATURES.forward(jets)).sum((1, 2)) - 1.5 * np.log(2 * np.pi)
    slice_at_mean = 2 * np.pi * 0.08 * 0.1  # the two angles' Gaussians at their means, integrated
    integral = slice_at_mean * np.trapezoid(np.exp(log_p + FEATURES.log_jacobian(jets)), ptrel)
    assert integral == pytest.approx(1, abs=1e-4)


def test_fitted_constants_standardise_the_particles():
    jets = draw(3, n=2000)
    u = Features.fit([jets]).forward(jets)[jets.mask]
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


@pytest.mark.parametrize("content", [np.nan, np.inf, -1.0, 7.0])
def test_what_stands_in_masked_entries_never_matters(content):
    jets = draw(6)
    particles = np.where(jets.mask[..., None], jets.particles, np.float32(content))
    other = Jets(particles, jets.mask, jets.features)
    u = FEATURES.forward(other)
    assert not jets.mask.all()
    assert (u[~jets.mask] == 0).all()
    np.testing.assert_array_equal(u, FEATURES.forward(jets))
    np.testing.assert_array_equal(FEATURES.log_jacobian(other), FEATURES.log_jacobian(jets))
    assert Features.fit([other]) == Features.fit([jets])
    back = FEATURES.inverse(np.where(jets.mask[..., None], u, content), jets.mask)
    assert (back[~jets.mask] == 0).all()


def test_more_padding_changes_nothing():
    jets = draw(7)
    padded = jets.leading(jets.n_max + 3)
    np.testing.assert_array_equal(FEATURES.forward(padded)[:, : jets.n_max], FEATURES.forward(jets))
    np.testing.assert_allclose(FEATURES.log_jacobian(padded), FEATURES.log_jacobian(jets), rtol=1e-14)


def test_constants_come_back_from_a_file_to_the_last_bit(tmp_path):
    features = Features.fit([draw(8)])
    path = tmp_path / "features.json"
    path.write_text(json.dumps(features.to_dict()))
    assert Features.load(path) == features
    assert Features.from_dict(features.to_dict()) == features
