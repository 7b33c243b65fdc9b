from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from jetstudy import surrogate, training
from jetstudy.certificate import logistic_fit
from jetstudy.diffusion import Design
from jetstudy.features import Features, Stretch
from jetstudy.files import random_seed
from jetstudy.jets import Jets, arrange, concatenate, split
from jetstudy.networks import NETWORKS
from jetstudy.probability_flow import Solver
from jetstudy.schedules import SCHEDULES
from jetstudy.sources import toy
from jetstudy.surrogate import (
    Surrogate,
    build_network,
    checks,
    count_probabilities,
    of_class,
    score,
    score_in_chunks,
)

N_MAX = 6
CLASSES = ("gluon", "top")
FEATURES = Features(mean=(0.01, -0.02, -3.2), std=(0.09, 0.1, 0.9))
MIDPOINT = Solver("midpoint", 20, 2.0)


def toy_surrogate(label, solver=MIDPOINT):
    """The toy's own velocity and p(N), so that log p and the distribution of samples are known."""
    velocity = toy.ToyVelocity(label, FEATURES, SCHEDULES["cosine"])
    return Surrogate(label, velocity, FEATURES, toy.p_count(label, N_MAX), solver, "jacobian", dtype=torch.float64)


def one_hop_surrogate(solver=MIDPOINT, divergence="own_path", dtype=torch.float64, reads=2):
    """A one-hop network whose weights, the zero-initialised ones too, are random."""
    network = build_network("one_hop", width=8, heads=2, layers=1, reads=reads, n_max=N_MAX).to(dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return Surrogate("top", network, FEATURES, toy.p_count("top", N_MAX), solver, divergence, dtype=dtype)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def toy_jets():
    return concatenate([toy.generate(label, 32, N_MAX, np.random.default_rng(i)) for i, label in enumerate(CLASSES)])


# The density


@pytest.fixture(scope="module")
def toy_errors(toy_jets):
    """{steps: error (2, n) of log p of each class} and the true log p (2, n)."""
    true = np.array([toy.log_prob(toy_jets, label) for label in CLASSES])
    found = {
        steps: np.array([toy_surrogate(c, Solver("midpoint", steps, 2.0)).log_prob(toy_jets) for c in CLASSES])
        for steps in (10, 20)
    }
    return {steps: log_p - true for steps, log_p in found.items()}


def test_log_p_of_toy_jets_is_the_true_one_within_the_solvers_error(toy_errors):
    medians = {steps: np.median(abs(error), axis=1) for steps, error in toy_errors.items()}
    assert (medians[20] < 0.005).all()
    assert (abs(toy_errors[20]) < 0.05).all()
    assert (medians[20] < medians[10] / 3).all()


def test_the_log_likelihood_ratio_of_toy_jets_is_the_true_one_within_the_solvers_error(toy_errors):
    medians = {steps: np.median(abs(error[1] - error[0])) for steps, error in toy_errors.items()}
    assert medians[20] < 0.005
    assert medians[20] < medians[10] / 3


class Standing(nn.Module):
    def forward(self, x, t, mask):
        return torch.zeros_like(x)


def test_log_p_without_a_flow_is_p_of_n_times_a_normal_and_log_normal_density(toy_jets):
    # Independent of the features' Jacobian: a log-normal in ptrel.
    model = replace(toy_surrogate("top"), velocity=Standing())
    particles = toy_jets.particles.astype(np.float64)
    particles[~toy_jets.mask] = 1.0
    (eta, phi, log_ptrel), (d_eta, d_phi, d_log_ptrel) = FEATURES.mean, FEATURES.std
    log_p = stats.norm.logpdf(particles[..., 0], eta, d_eta) + stats.norm.logpdf(particles[..., 1], phi, d_phi)
    log_p += stats.lognorm.logpdf(particles[..., 2], d_log_ptrel, scale=np.exp(log_ptrel))
    expected = (log_p * toy_jets.mask).sum(1) + np.log(model.p_count[toy_jets.count])
    np.testing.assert_allclose(model.log_prob(toy_jets), expected, rtol=1e-12)


@pytest.mark.parametrize("model", [one_hop_surrogate(), toy_surrogate("top", Solver("midpoint", 4, 2.0))])
def test_log_p_does_not_depend_on_the_order_of_the_particles(model, toy_jets):
    order = np.tile(np.arange(N_MAX), (len(toy_jets), 1))
    generator = np.random.default_rng(0)
    for row, count in zip(order, toy_jets.count, strict=True):
        row[:count] = generator.permutation(count)
    shuffled = Jets(np.take_along_axis(toy_jets.particles, order[..., None], axis=1), toy_jets.mask, toy_jets.features)
    np.testing.assert_allclose(model.log_prob(shuffled), model.log_prob(toy_jets), atol=1e-9)


@pytest.mark.parametrize("model", [one_hop_surrogate(), toy_surrogate("top", Solver("midpoint", 4, 2.0))])
def test_log_p_does_not_depend_on_the_padding(model, toy_jets):
    expected = model.log_prob(toy_jets)
    np.testing.assert_allclose(model.log_prob(toy_jets.leading(N_MAX + 3)), expected, rtol=1e-13)
    overwritten = np.where(toy_jets.mask[..., None], toy_jets.particles, np.float32(np.nan))
    np.testing.assert_array_equal(model.log_prob(Jets(overwritten, toy_jets.mask, toy_jets.features)), expected)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("size", [1, 7])
def test_log_p_does_not_depend_on_the_other_jets_of_the_batch(monkeypatch, toy_jets, dtype, tolerance, size):
    model = one_hop_surrogate(Solver("midpoint", 4, 2.0), dtype=dtype)
    expected = model.log_prob(toy_jets)
    monkeypatch.setitem(surrogate.BATCH, "cpu", size * N_MAX)
    some = np.arange(len(toy_jets))[::-3]
    np.testing.assert_allclose(model.log_prob(toy_jets[some]), expected[some], atol=tolerance, rtol=0)


def test_log_p_does_not_depend_on_what_was_generated_before(toy_jets):
    model = one_hop_surrogate()
    expected = model.log_prob(toy_jets)
    model.sample(10, seeded(0))
    np.testing.assert_array_equal(model.log_prob(toy_jets), expected)


def test_a_jet_with_a_number_of_particles_that_is_never_drawn_is_refused_by_name(toy_jets):
    model = one_hop_surrogate()
    few = np.arange(N_MAX) < np.where(np.arange(len(toy_jets)) == 5, 2, toy_jets.count)[:, None]
    with pytest.raises(ValueError, match="surrogate top: jet 5 has 2 particles"):
        model.log_prob(Jets(toy_jets.particles, few, toy_jets.features))
    many = Jets(np.full((1, 9, 3), 0.1, np.float32), np.ones((1, 9), bool), np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match="jet 0 has 9 particles"):
        model.log_prob(many)


def test_hutchinson_scores_are_right_on_average_and_need_a_generator(toy_jets):
    exact = one_hop_surrogate(Solver("midpoint", 4, 2.0))
    noisy = replace(exact, divergence="hutchinson-4")
    copies = toy_jets[np.zeros(800, int)]
    scores = noisy.log_prob(copies, seeded(1))
    error = scores.std() / np.sqrt(len(scores))
    assert 0 < error < 0.1
    assert abs(scores.mean() - exact.log_prob(copies[:1])[0]) < 4 * error
    np.testing.assert_array_equal(noisy.log_prob(copies[:100], seeded(1)), noisy.log_prob(copies[:100], seeded(1)))
    with pytest.raises(ValueError, match="generator"):
        noisy.log_prob(copies)


# Every design


STRETCHES = (
    Stretch(centre=0.01, scale=0.08, skew=0.1, tail=0.9, width=0.1),
    Stretch(centre=-0.02, scale=0.1, skew=-0.2, tail=1.1, width=0.12),
    Stretch(centre=-3.2, scale=1.0, skew=-0.3, tail=1.2, width=0.9),
)
STRETCHED = replace(FEATURES, stretches=STRETCHES)
every_design = pytest.mark.parametrize(
    ("name", "features"), [*((name, FEATURES) for name in NETWORKS), ("one_hop", STRETCHED)]
)


def random_surrogate(name, features, seed, n_max, p_count, scale, **label):
    """A network of random weights: a smooth flow to a density that is no normal one."""
    generator, sizes = seeded(seed), {"width": 8, "heads": 2, "layers": 1, "reads": 1}
    with training.seeded(generator):
        network = build_network(name, **sizes, n_max=n_max, momentum_scale=0.9, **label).double()
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # what starts at zero would leave the network standing
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    divergence = "own_path" if name == "one_hop" else "jacobian"
    return Surrogate("top", network, features, p_count, Solver("rk4", 5, 1.0), divergence, dtype=torch.float64)


@every_design
def test_the_density_of_one_particle_integrates_to_one(name, features):
    """By quadrature over (etarel, phirel, log ptrel); half the step is good to 0.01 %."""
    model = random_surrogate(name, features, seed=3, n_max=1, p_count=np.array([0.0, 1.0]), scale=0.05)
    axis = np.linspace(-5, 5, 21)
    u = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    mask = np.ones((len(u), 1), dtype=bool)
    particles = FEATURES.inverse(u, mask)
    # Not through `arrange`, whose float32 would spoil the quadrature.
    jets = Jets(particles, mask, np.zeros((len(u), 4)))
    log_p = model.log_prob(jets) - FEATURES.log_jacobian(jets)
    assert np.abs(log_p + 0.5 * np.square(u).sum((1, 2)) + 1.5 * np.log(2 * np.pi)).max() > 0.2  # not the normal one
    assert np.exp(log_p).sum() * (axis[1] - axis[0]) ** 3 == pytest.approx(1, abs=0.01)


@every_design
def test_jets_drawn_from_two_surrogates_have_a_calibrated_ratio(name, features):
    p_count = np.array([0, 0, 0.5, 0.5])
    models = [random_surrogate(name, features, seed, 3, p_count, scale=0.3) for seed in (1, 2)]
    jets = concatenate([model.sample(500, seeded(i)) for i, model in enumerate(models)])
    background, signal = (model.log_prob(jets) for model in models)
    (intercept, slope), error = logistic_fit(signal - background, np.repeat([0, 1], 500))
    assert error[1] < 0.25  # far enough apart for the slope to mean something
    assert abs(slope - 1) < 4 * error[1]
    assert abs(intercept) < 4 * error[0]


def both_classes(model, p_counts):
    """The surrogates of both labels of one network of two classes."""
    return [
        replace(model, label=CLASSES[k], velocity=of_class(model.velocity, k), p_count=np.array(p))
        for k, p in enumerate(p_counts)
    ]


def test_jets_of_both_labels_of_one_network_have_a_calibrated_ratio():
    model = random_surrogate("one_hop", FEATURES, 1, 3, None, scale=0.5, label=0)
    models = both_classes(model, [[0, 0, 0.3, 0.7], [0, 0, 0.5, 0.5]])
    jets = concatenate([model.sample(500, seeded(i)) for i, model in enumerate(models)])
    background, signal = (model.log_prob(jets) for model in models)
    (intercept, slope), error = logistic_fit(signal - background, np.repeat([0, 1], 500))
    assert error[1] < 0.3  # far enough apart for the slope to mean something
    assert abs(slope - 1) < 4 * error[1]
    assert abs(intercept) < 4 * error[0]


def gaussian_jets(centre, width, n, seed):
    """Jets of one particle, whose (etarel, phirel, log ptrel) are normal."""
    u = centre + width * np.random.default_rng(seed).standard_normal((n, 1, 3))
    u[..., 2] = np.exp(u[..., 2])
    return arrange(u, np.ones((n, 1), bool), np.zeros((n, 4)))


@pytest.fixture(scope="module")
def learned_together(tmp_path_factory):
    """Two classes of one particle a jet with known normal densities, learned by one network: the surrogates, test jets
    of each class, and their true log p under each class."""
    centre, width = [np.array([0.0, 0.0, -3.0]), np.array([0.1, 0.0, -2.9])], [0.1, 0.13]
    classes = [gaussian_jets(c, w, 4000, k) for k, (c, w) in enumerate(zip(centre, width, strict=True))]
    features, generator = Features.fit(classes), seeded(0)
    with training.seeded(generator):
        network = build_network("one_hop", width=24, heads=2, layers=1, reads=1, n_max=1, label=0)
    recipe = training.Recipe(400, 128, 5e-3, 100, ema=0.98, optimiser="muon")
    checkpoint = tmp_path_factory.mktemp("joint") / "checkpoint.safetensors"
    surrogate.fit(network, classes, features, Design(), recipe, generator, checkpoint, lambda line: None)
    one = np.array([0.0, 1.0])
    model = Surrogate("gluon", network, features, one, Solver("rk4", 8, 2.0), "own_path")
    tests = [jets[split(len(jets), "test")][:400] for jets in classes]

    def truth(jets):
        u = jets.particles[:, 0].astype(np.float64)
        log_ptrel = np.log(u[:, 2])
        u = np.stack([u[:, 0], u[:, 1], log_ptrel], axis=1)
        log_p = [stats.norm.logpdf(u, c, w).sum(1) - log_ptrel for c, w in zip(centre, width, strict=True)]
        return np.stack(log_p, axis=1)

    return both_classes(model, [one, one]), tests, [truth(jets) for jets in tests]


def test_one_network_learns_two_known_densities(learned_together):
    models, tests, truths = learned_together
    for own, (jets, true) in enumerate(zip(tests, truths, strict=True)):
        found = np.stack([model.log_prob(jets) for model in models], axis=1)
        assert np.abs(np.mean(true[:, own] - found[:, own])) < 0.15  # the Kullback-Leibler divergence of the own model
        assert np.mean(true[:, own] - found[:, 1 - own]) > 0.5  # and of the other label's
        llr, true_llr = (log_p[:, 1] - log_p[:, 0] for log_p in (found, true))
        assert np.corrcoef(llr, true_llr)[0, 1] > 0.8


def test_both_densities_of_one_network_integrate_to_one(learned_together):
    """By quadrature over (etarel, phirel, log ptrel)."""
    models, _, _ = learned_together
    axis = np.linspace(-5, 5, 21)
    u = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    mask, features = np.ones((len(u), 1), bool), models[0].features
    jets = Jets(features.inverse(u, mask), mask, np.zeros((len(u), 4)))
    for model in models:
        density = np.exp(model.log_prob(jets) - features.log_jacobian(jets))
        assert density.sum() * (axis[1] - axis[0]) ** 3 == pytest.approx(1, abs=0.02)


def test_a_surrogate_of_one_label_comes_back_from_its_files(learned_together, tmp_path):
    models, (jets, _), _ = learned_together
    for model in models:
        (tmp_path / model.label).mkdir()
        model.save(tmp_path / model.label)
        loaded = Surrogate.load(tmp_path / model.label)
        np.testing.assert_array_equal(loaded.log_prob(jets[:50]), model.log_prob(jets[:50]))
    first, second = ((tmp_path / label / "weights.safetensors").read_bytes() for label in CLASSES)
    assert first == second


def test_a_network_of_one_class_has_no_labels(toy_jets, tmp_path):
    model = one_hop_surrogate(dtype=torch.float32)
    with pytest.raises(ValueError, match="made for one class: there is no label 1"):
        of_class(model.velocity, 1)
    recipe = training.Recipe(1, 8, 1e-3, 1)
    with pytest.raises(ValueError, match="a network of one class takes no labels"):
        surrogate.fit(model.velocity, [toy_jets] * 2, FEATURES, Design(), recipe, seeded(0), tmp_path / "checkpoint")


def test_partial_diffusion_leaves_jets_alone_at_first_and_draws_new_ones_at_last(toy_jets):
    model = toy_surrogate("top")
    jets = toy.generate("top", 500, N_MAX, np.random.default_rng(5))
    near, half, new = (model.resample(jets, t, seeded(1)) for t in (1e-3, 0.5, 1.0))
    for back in (near, half, new):
        np.testing.assert_array_equal(back.count, jets.count)

    def likeness(back):
        return np.corrcoef(jets.mass, back.mass)[0, 1]

    assert likeness(near) > 0.999 > 0.9 > likeness(half) > 0.2
    assert abs(likeness(new)) < 4 / np.sqrt(len(jets))
    # With the exact velocity they keep the density that they came from.
    for back in (half, new):
        assert stats.ks_2samp(jets.mass, back.mass).pvalue > 1e-3


def test_partial_diffusion_needs_a_time_and_noise_that_is_independent_of_the_data(toy_jets):
    model = toy_surrogate("top")
    with pytest.raises(ValueError, match=r"surrogate top: time 1\.5 is not in \(0, 1\]"):
        model.resample(toy_jets, 1.5, seeded(0))
    with pytest.raises(ValueError, match="noised jets on the flow are unknown: pairing is 'assigned'"):
        replace(model, design=Design(pairing="assigned")).resample(toy_jets, 0.5, seeded(0))


# Samples


@pytest.fixture(scope="module", params=CLASSES)
def two_samples(request):
    """Jets of the toy's surrogate and of the toy itself."""
    sampled = toy_surrogate(request.param).sample(2000, seeded(2))
    return sampled, toy.generate(request.param, 20_000, N_MAX, np.random.default_rng(3)), request.param


def test_samples_are_distributed_as_the_toys_jets(two_samples):
    def observables(jets):
        eta, phi, ptrel = np.moveaxis(jets.particles.astype(np.float64), 2, 0)
        around = np.angle((ptrel * (eta + 1j * phi)).sum(1))
        values = [
            *(eta[:, 0], phi[:, 0], ptrel[:, 0], ptrel[:, -1], eta.mean(1), phi.mean(1), (eta * phi).sum(1)),
            *(jets.mass, jets.ptrel_sum, jets.count, np.cos(6 * around), toy.log_prob(jets, label)),
        ]
        values = np.array(values, dtype=float)
        return np.concatenate([values, np.square(values - values.mean(1, keepdims=True))])

    *samples, label = two_samples
    ours, theirs = map(observables, samples)
    error = np.sqrt(ours.var(1) / ours.shape[1] + theirs.var(1) / theirs.shape[1])
    assert (abs(ours.mean(1) - theirs.mean(1)) < 4 * error).all()


def test_the_numbers_of_particles_are_drawn_from_p_of_n(two_samples):
    jets, _, label = two_samples
    expected = len(jets) * toy.p_count(label, N_MAX)
    found = np.bincount(jets.count, minlength=N_MAX + 1)
    assert found[expected == 0].sum() == 0
    support = expected > 0
    assert stats.chisquare(found[support], expected[support]).pvalue > 1e-3


def test_samples_are_jets_as_a_source_gives_them(two_samples):
    jets, _, _ = two_samples
    ptrel = np.where(jets.mask, jets.particles[..., 2], 0)
    assert (np.diff(ptrel, axis=1) <= 0).all()
    assert (ptrel[jets.mask] > 0).all()
    assert (jets.particles[~jets.mask] == 0).all()
    np.testing.assert_allclose(jets.features[:, 2], jets.mass, rtol=1e-5)
    np.testing.assert_array_equal(jets.features[:, [0, 1, 3]], np.stack([jets.count**0, 0 * jets.count, jets.count], 1))


def test_the_same_seed_draws_the_same_jets_and_another_seed_others():
    model = one_hop_surrogate(Solver("midpoint", 4, 2.0))
    first, again, other = (model.sample(100, seeded(seed)).particles for seed in (4, 4, 5))
    np.testing.assert_array_equal(again, first)
    assert not (np.sort(other.ravel()) == np.sort(first.ravel())).any(where=np.sort(first.ravel()) != 0)


def test_one_generator_never_draws_the_same_jets_twice():
    model, generator = one_hop_surrogate(Solver("midpoint", 4, 2.0)), seeded(4)
    leading = np.concatenate([model.sample(100, generator).particles[:, 0, 0] for _ in range(2)])
    assert len(np.unique(leading)) == 200


def test_progress_is_reported_after_each_batch(monkeypatch, toy_jets):
    monkeypatch.setitem(surrogate.BATCH, "cpu", 64 * N_MAX)
    model, done = one_hop_surrogate(Solver("euler", 1, 1.0)), []
    assert len(model.sample(130, seeded(0), done.append)) == 130
    assert done == [64, 128, 130]
    done.clear()
    model.log_prob(concatenate([toy_jets, toy_jets])[:100], report=done.append)
    assert done == [64, 100]


def test_no_jets_have_no_log_p_and_cannot_be_drawn(toy_jets):
    model = one_hop_surrogate()
    assert model.log_prob(toy_jets[:0]).shape == (0,)
    never = replace(model, p_count=np.eye(N_MAX + 1)[0])
    assert np.isnan(score([never], toy_jets[:3])).all()
    with pytest.raises(ValueError, match="0 jets asked for"):
        model.sample(0, seeded(1))


@pytest.mark.parametrize("speed", [float("nan"), float("inf"), 1e3, -1e3])
def test_a_jet_that_float32_cannot_hold_stops_the_sampling(speed):
    # An untrained network may run away: to no number, to an infinite ptrel or to a ptrel of zero.
    class Runaway(nn.Module):
        def forward(self, x, t, mask):
            return torch.full_like(x, speed)

    model = replace(one_hop_surrogate(), velocity=Runaway())
    with pytest.raises(FloatingPointError, match="surrogate top"):
        model.sample(3, seeded(0))
    with pytest.raises(FloatingPointError, match="surrogate top"):
        model.resample(toy.generate("top", 3, N_MAX, np.random.default_rng(0)), 1.0, seeded(0))


# The density of the samples


def test_sampler_and_scorer_agree_on_the_true_log_p_to_an_error_that_falls_at_the_solvers_order():
    medians = []
    for steps in (10, 20):
        model = toy_surrogate("top", Solver("midpoint", steps, 2.0))
        jets, own = model.sample_with_log_prob(48, seeded(6))
        errors = own - model.log_prob(jets), own - toy.log_prob(jets, "top")
        medians.append(np.median(np.abs(errors), axis=1))
    assert (medians[1] < 0.005).all()
    assert (medians[1] < medians[0] / 3).all()


def test_a_sample_with_log_p_is_the_sample_without():
    model = one_hop_surrogate()
    np.testing.assert_allclose(
        model.sample_with_log_prob(70, seeded(8))[0].particles, model.sample(70, seeded(8)).particles, rtol=1e-5
    )


def test_jets_go_to_noise_and_come_back_to_an_error_that_falls_at_the_solvers_order(toy_jets):
    def largest_change(steps):
        there, back = toy_surrogate("top", Solver("midpoint", steps, 2.0)).round_trip(toy_jets)
        return np.abs(back - there).max(axis=(1, 2))

    coarse, fine = largest_change(10), largest_change(20)
    assert coarse.shape == (len(toy_jets),)
    assert np.median(fine) < np.median(coarse) / 3
    assert fine.max() < 0.01


def test_the_round_trip_does_not_depend_on_the_batches(monkeypatch, toy_jets):
    model = one_hop_surrogate(Solver("midpoint", 4, 2.0))
    expected = model.round_trip(toy_jets)
    monkeypatch.setitem(surrogate.BATCH, "cpu", 10 * N_MAX)
    np.testing.assert_allclose(np.stack(model.round_trip(toy_jets)), np.stack(expected), atol=1e-12)


def test_the_divergences_of_all_estimators_are_taken_at_the_same_point(toy_jets):
    model = one_hop_surrogate()
    found = model.divergences(toy_jets, seeded(3))
    assert list(found) == ["jacobian", "own_path", "hutchinson"]
    np.testing.assert_allclose(found["own_path"], found["jacobian"], atol=1e-10)
    assert (found["hutchinson"] != found["jacobian"]).all()
    many = [model.divergences(toy_jets, seeded(seed)) for seed in range(30)]
    pulls = np.array([each["hutchinson"] - each["jacobian"] for each in many])
    assert abs(pulls.mean()) < 4 * pulls.std() / np.sqrt(pulls.size)


# p(N)

tables = st.dictionaries(st.integers(0, 20), st.integers(1, 1000), min_size=1)


@settings(deadline=None, database=None)
@given(tables, tables)
def test_p_of_n_sums_to_one_with_the_same_support_for_both_classes(gluon, top):
    counts = {"gluon": gluon, "top": top}
    p = {label: count_probabilities(counts, label, 20) for label in counts}
    seen = np.isin(np.arange(21), [*gluon, *top])
    for values in p.values():
        assert values.shape == (21,)
        assert values.sum() == pytest.approx(1)
        np.testing.assert_array_equal(values > 0, seen)


def test_p_of_n_is_the_counts_and_one_pseudo_jet_shared_out_as_the_pool():
    counts = {"gluon": {"2": 3}, "top": {"2": 1, "3": 4}}  # as JSON gives them back
    np.testing.assert_allclose(count_probabilities(counts, "gluon", 3), np.array([0, 0, 3 + 4 / 8, 4 / 8]) / 4)
    np.testing.assert_allclose(count_probabilities(counts, "top", 3), np.array([0, 0, 1 + 4 / 8, 4 + 4 / 8]) / 6)


def test_p_of_n_of_a_class_without_counts_is_refused():
    with pytest.raises(KeyError, match="quark"):
        count_probabilities({"gluon": {2: 3}}, "quark", 3)


# Files


def test_a_loaded_surrogate_equals_the_saved_one_bit_by_bit(tmp_path, toy_jets):
    model = one_hop_surrogate(Solver("rk4", 3, 2.0), dtype=torch.float32)
    model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["surrogate.json", "weights.safetensors"]
    loaded = Surrogate.load(tmp_path)
    np.testing.assert_array_equal(loaded.log_prob(toy_jets), model.log_prob(toy_jets))
    np.testing.assert_array_equal(loaded.sample(70, seeded(9)).particles, model.sample(70, seeded(9)).particles)
    np.testing.assert_array_equal(loaded.p_count, model.p_count)
    assert replace(loaded, velocity=None, p_count=None) == replace(model, velocity=None, p_count=None)
    assert not loaded.velocity.training


def test_saving_again_replaces_the_files(tmp_path, toy_jets):
    one_hop_surrogate(dtype=torch.float32).save(tmp_path)
    model = replace(one_hop_surrogate(Solver("rk4", 3, 2.0), dtype=torch.float32, reads=1), label="gluon")
    model.save(tmp_path)
    np.testing.assert_array_equal(Surrogate.load(tmp_path).log_prob(toy_jets), model.log_prob(toy_jets))


def test_an_unknown_network_is_refused_by_name():
    with pytest.raises(ValueError, match="network 'two_hop': expected one of one_hop"):
        build_network("two_hop", width=8)


def test_scoring_in_chunks_is_scoring_with_the_random_numbers_of_each_chunk(toy_jets, tmp_path):
    models = [replace(one_hop_surrogate(Solver("euler", 2, 2.0), "hutchinson-1"), label=c) for c in CLASSES]
    told = []
    found = score_in_chunks(models, toy_jets[:10], "these", tmp_path / "scored", told.append, size=4)
    chunks = [score(models, toy_jets[:10][k : k + 4], seeded(random_seed(f"these/{k}"))) for k in (0, 4, 8)]
    np.testing.assert_array_equal(found, np.concatenate(chunks))
    assert told[0] == 4 and told[-1] == 20
    again = score_in_chunks(models, toy_jets[:10], "others", tmp_path / "scored", size=4)
    np.testing.assert_array_equal(again, found)


def test_checks_are_those_of_the_own_model_in_the_order_of_their_random_numbers(toy_jets):
    models = [replace(one_hop_surrogate(Solver("midpoint", 3, 2.0)), label=c) for c in CLASSES]
    jets, travelling = toy_jets[:5], toy_jets[:9]
    found, generator = checks(models, 1, jets, travelling, seeded(2)), seeded(2)
    fresh, sampled = models[1].sample_with_log_prob(5, generator)
    there, back = models[1].round_trip(travelling)
    finer = [replace(model, solver=Solver("midpoint", 6, 2.0)) for model in models]
    expected = {"sampled": sampled, "scored": models[1].log_prob(fresh), "there": there, "back": back}
    expected |= {"mask": travelling.mask, "doubled": score(finer, jets), **models[1].divergences(jets, generator)}
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
