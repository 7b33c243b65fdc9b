"""Row 5's network on toy jets whose LLR is known."""

import numpy as np
import pytest
import torch

from jetstudy import certificate, residual
from jetstudy.features import Features
from jetstudy.jets import concatenate
from jetstudy.sources import toy

CLASSES, N_MAX, N = ("gluon", "top"), 6, 2000
FEATURES = Features(mean=(0.0, 0.0, -3.3), std=(0.1, 0.1, 0.9))


@pytest.fixture(scope="module")
def jets():
    rng = np.random.default_rng(1)
    return concatenate([toy.generate(c, N, N_MAX, rng) for c in CLASSES])


def llr(jets, mask):
    """The LLR of the particles in `mask` (n, N)."""
    x, mask = torch.from_numpy(FEATURES.forward(jets)), torch.from_numpy(mask)
    inner = [toy.ToyVelocity(c, FEATURES).log_density(x, mask).numpy() for c in CLASSES]
    outer = [np.log(toy.p_count(c, N_MAX)[jets.count]) for c in CLASSES]
    return inner[1] - inner[0] + outer[1] - outer[0]


def rows(jets, llr, steps):
    """Row 5 by the quadratic f, without a tagger's logit, and by the network."""
    label, inputs = np.repeat([0, 1], N), np.column_stack([jets.count, jets.mass, jets.ptrel_sum])
    fit = residual.network(steps, torch.Generator().manual_seed(1), lambda text: None)
    particles = residual.particles(FEATURES, jets)
    return [
        certificate.residual(llr, label, inputs, np.random.default_rng(1)),
        certificate.residual(llr, label, particles, np.random.default_rng(1), "5 residual: network", fit),
    ]


@pytest.mark.timeout(300)
def test_the_network_sees_more_of_what_the_llr_has_not_looked_at_than_the_quadratic_f(jets):
    rest = jets.mask.copy()
    rest[:, :3] = False  # without the three leading particles
    quadratic, network = rows(jets, llr(jets, rest), 100)
    assert network.row == "5 residual: network" and network.verdict == "fail"
    assert network.value < 1.5 * quadratic.value < 0


def test_beside_the_exact_llr_the_network_finds_nothing(jets):
    _, network = rows(jets, llr(jets, jets.mask), 200)
    assert network.verdict == "pass"
    assert abs(network.value) < network.resolution / 2  # nor does what it learns by heart cost anything to speak of


def test_the_quadratic_f_sees_number_mass_summed_ptrel_and_logits(jets):
    few, logits = jets[:5], [np.arange(5.0), -np.arange(5.0)]
    expected = np.stack([few.count, few.mass, few.ptrel_sum, *logits], axis=1)
    np.testing.assert_array_equal(residual.observables(few, logits), expected)


def test_a_network_without_training_corrects_nothing(jets):
    few = jets[np.r_[0:8, N : N + 8]]
    inputs, label = residual.particles(FEATURES, few), np.repeat([0, 1], 8)
    f = residual.network(0, torch.Generator().manual_seed(1), lambda text: None)(inputs, np.zeros(16), label)
    assert (f(inputs, np.zeros(16)) == 0).all()


def test_the_network_takes_the_mask_from_its_inputs(jets):
    x, mask = residual._tensors(residual.particles(FEATURES, jets))
    assert (mask.numpy() == jets.mask).all()
    np.testing.assert_allclose(x.numpy()[jets.mask], FEATURES.forward(jets)[jets.mask], rtol=1e-6)
