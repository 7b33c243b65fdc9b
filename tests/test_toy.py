from dataclasses import replace
from math import cos, exp, log, pi, sin, sqrt

import numpy as np
import pytest
import torch
from scipy.stats import binom

from jetstudy.diffusion import diffuse
from jetstudy.divergence import jacobian
from jetstudy.features import Edge, Features, Stretch
from jetstudy.jets import Jets, arrange
from jetstudy.schedules import SCHEDULES
from jetstudy.sources.toy import CLASSES, ToyVelocity, generate, log_prob, p_count

FEATURES = Features(mean=(0.01, -0.02, -3.2), std=(0.11, 0.12, 0.9))

both_classes = pytest.mark.parametrize("label", CLASSES)
both_schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def jets_of(label, n=4000, n_max=6, seed=0):
    return generate(label, n, n_max, np.random.default_rng(seed))


def normal(x, mean, width):
    return exp(-0.5 * ((x - mean) / width) ** 2) / (sqrt(2 * pi) * width)


def slow_log_prob(label, particles, n_max):
    """log p of one jet (N, 3), from the definition, one number at a time."""
    toy, n, low = CLASSES[label], len(particles), (n_max + 1) // 2
    orientations = []
    for orientation in range(6):
        p_jet = 1.0
        for etarel, phirel, ptrel in particles.astype(float):
            p_particle = 0.0
            for prong in toy.prongs:
                angle = prong.angle + 2 * pi * orientation / 6
                p_particle += (
                    prong.weight
                    * normal(etarel, prong.radius * cos(angle), prong.width)
                    * normal(phirel, prong.radius * sin(angle), prong.width)
                    * normal(log(ptrel), prong.log_ptrel, prong.log_ptrel_width)
                    / ptrel
                )
            p_jet *= p_particle
        orientations.append(p_jet)
    return log(np.mean(orientations)) + binom(n_max - low, toy.filling).logpmf(n - low)


def log_density(toy, x, mask, alpha, sigma):
    """log of the density of x_t (B,), as a product of torch's own mixtures: each orientation a mixture of
    Gaussians with means alpha mu and variances alpha² s² + sigma²."""
    width = (alpha**2 * toy.std**2 + sigma**2).sqrt()
    prongs = torch.distributions.Categorical(logits=toy.log_weight)
    orientations = []
    for mean in toy.mean:
        gaussians = torch.distributions.Independent(torch.distributions.Normal(alpha * mean, width), 1)
        particles = torch.distributions.MixtureSameFamily(prongs, gaussians).log_prob(x)
        orientations.append((particles * mask).sum(1))
    return torch.stack(orientations).logsumexp(0) - log(len(toy.mean))


# The density


@both_classes
@pytest.mark.parametrize("n_max", [1, 2, 7, 30])
def test_the_probabilities_of_n_are_binomial_and_sum_to_one(label, n_max):
    p, low = p_count(label, n_max), (n_max + 1) // 2
    assert p.shape == (n_max + 1,)
    assert p.sum() == pytest.approx(1, rel=1e-14)
    expected = binom(n_max - low, CLASSES[label].filling).pmf(np.arange(n_max + 1) - low)
    np.testing.assert_allclose(p, expected, rtol=1e-12)


def test_both_classes_have_the_same_support_of_n():
    assert ((p_count("gluon", 9) > 0) == (p_count("top", 9) > 0)).all()


@both_classes
@pytest.mark.parametrize("of", CLASSES)
def test_log_prob_is_that_of_the_definition(label, of):
    jets = jets_of(of, 40)
    expected = [slow_log_prob(label, p[m], 6) for p, m in zip(jets.particles, jets.mask, strict=True)]
    np.testing.assert_allclose(log_prob(jets, label), expected, rtol=1e-11)


def test_log_prob_does_not_depend_on_the_batch(monkeypatch):
    jets = jets_of("top", 23)
    whole = log_prob(jets, "top")
    monkeypatch.setattr("jetstudy.sources.toy.BATCH", 10)
    np.testing.assert_allclose(log_prob(jets, "top"), whole, rtol=1e-13)


def test_a_number_of_particles_that_is_never_drawn_has_no_probability():
    jets = jets_of("top", 1, n_max=2).leading(6)
    assert log_prob(jets, "top").tolist() == [-np.inf]


@both_classes
def test_the_density_of_one_particle_integrates_to_one_and_gives_the_mean_of_log_p(label):
    """Trapezoidal rule over (etarel, phirel, log ptrel), which converges exponentially for Gaussians."""
    angle, log_ptrel = np.arange(-0.82, 0.82, 0.04), np.arange(-10.0, 3.5, 0.6)
    nodes = np.stack(np.meshgrid(angle, angle, np.exp(log_ptrel), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    jets = arrange(nodes, np.ones((len(nodes), 1), bool), np.zeros((len(nodes), 4)))
    log_p = log_prob(jets, label)
    weight = 0.04 * 0.04 * 0.6 * nodes[:, 0, 2] * np.exp(log_p)
    assert weight.sum() == pytest.approx(1, abs=1e-5)

    drawn = log_prob(jets_of(label, 20_000, n_max=1), label)
    assert drawn.mean() == pytest.approx((weight * log_p).sum(), abs=5 * drawn.std() / sqrt(len(drawn)))


def test_the_ratio_of_densities_is_that_of_the_jets_drawn():
    """E_gluon[min(1, r)] = E_top[min(1, 1/r)]: the overlap of the two densities, seen from either side."""
    overlap = {}
    for label, sign in (("gluon", 1), ("top", -1)):
        jets = jets_of(label, 20_000, seed=sign + 1)
        overlap[label] = np.exp(np.minimum(0, sign * (log_prob(jets, "top") - log_prob(jets, "gluon"))))
    means = [values.mean() for values in overlap.values()]
    error = sqrt(sum(values.var() / len(values) for values in overlap.values()))
    assert 0.05 < means[0] < 0.95
    assert abs(means[0] - means[1]) < 5 * error


# The jets


@both_classes
def test_n_is_drawn_with_its_probabilities(label):
    jets, p = jets_of(label, 20_000, n_max=9), p_count(label, 9)
    observed = np.bincount(jets.count, minlength=10)
    error = np.sqrt(20_000 * p * (1 - p))
    assert (np.abs(observed - 20_000 * p) <= 5 * error).all()


@both_classes
def test_particles_are_drawn_around_the_prongs_of_one_orientation_a_jet(label):
    """Moments of u from the definition, averaged over a jet's particles, and harmonics of its pairs.

    With z = etarel + i phirel, a prong at c gives E[z^k] = c^k, and turning the whole jet leaves the product of
    z_1^k and conj(z_2^k) alone: its mean is |sum_p w_p c_p^k|^2.
    """
    jets = jets_of(label, 10_000, n_max=30)
    etarel, phirel, ptrel = np.moveaxis(jets.particles.astype(float), -1, 0)
    z, log_ptrel = etarel + 1j * phirel, np.log(np.where(jets.mask, ptrel, 1))
    prongs, n = CLASSES[label].prongs, jets.count

    def pairs(k):
        values = (np.abs((z**k).sum(1)) ** 2 - (np.abs(z) ** (2 * k)).sum(1)) / (n * (n - 1))
        return values, abs(sum(p.weight * (p.radius * np.exp(1j * p.angle)) ** k for p in prongs)) ** 2

    for values, expected in (
        (etarel.sum(1) / n, 0.0),
        (phirel.sum(1) / n, 0.0),
        (log_ptrel.sum(1) / n, sum(p.weight * p.log_ptrel for p in prongs)),
        ((np.abs(z) ** 2).sum(1) / n, sum(p.weight * (p.radius**2 + 2 * p.width**2) for p in prongs)),
        ((log_ptrel**2).sum(1) / n, sum(p.weight * (p.log_ptrel**2 + p.log_ptrel_width**2) for p in prongs)),
        pairs(1),
        pairs(2),
    ):
        error = values.std() / sqrt(len(values))
        assert values.mean() == pytest.approx(expected, abs=5 * error)
    # The last of these sees a fresh orientation for every particle, which would give 0.
    assert expected > 10 * error


@both_classes
def test_jets_are_arranged_and_their_features_are_those_of_their_particles(label):
    jets = jets_of(label, 200)
    assert (np.diff(jets.particles[..., 2], axis=1) <= 0).all() and (jets.particles[~jets.mask] == 0).all()
    pt, eta, mass, count = jets.features.T
    assert (pt == 1000).all() and (eta == 0).all()
    np.testing.assert_array_equal(count, jets.count)
    np.testing.assert_allclose(mass, 1000 * jets.mass, rtol=1e-5)


def test_the_same_generator_draws_the_same_jets():
    np.testing.assert_array_equal(jets_of("top").particles, jets_of("top").particles)
    assert (jets_of("top", seed=1).particles != jets_of("top").particles).any()


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="class 'quark' is unknown to the toy; it has gluon, top"):
        jets_of("quark")


# The velocity


@pytest.mark.parametrize("changed", [{"stretches": (Stretch(0, 1, 0, 1, 1),) * 3}, {"edge": Edge.at(0.4)}])
def test_the_velocity_is_known_in_plain_features_only(changed):
    with pytest.raises(ValueError, match="set stretch and edge to 0"):
        ToyVelocity("top", replace(FEATURES, **changed))


def in_features(label, n=50, n_max=6, seed=0):
    jets = jets_of(label, n, n_max, seed)
    return torch.from_numpy(FEATURES.forward(jets)), torch.from_numpy(jets.mask)


@both_classes
def test_the_density_in_features_and_its_jacobian_make_log_prob(label):
    jets = jets_of(label, 50)
    x, mask = torch.from_numpy(FEATURES.forward(jets)), torch.from_numpy(jets.mask)
    inner = ToyVelocity(label, FEATURES).log_density(x, mask).numpy()
    total = inner + FEATURES.log_jacobian(jets) + np.log(p_count(label, 6)[jets.count])
    np.testing.assert_allclose(total, log_prob(jets, label), rtol=1e-12)


@both_classes
@both_schedules
@pytest.mark.parametrize("t", [0.01, 0.3, 0.7, 0.99])
def test_the_velocity_is_that_of_the_score_of_the_diffused_density(label, schedule, t):
    """With score s = grad log p_t: E[eps | x_t] = -sigma s and E[x | x_t] = (x_t + sigma² s) / alpha."""
    toy = ToyVelocity(label, FEATURES, schedule)
    x, mask = in_features(label)
    t = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    x_t = alpha * x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    x_t.requires_grad_()
    (score,) = torch.autograd.grad(log_density(toy, x_t, mask, alpha, sigma).sum(), x_t)
    data, noise = (x_t + sigma**2 * score) / alpha, -sigma * score
    expected = (schedule.alpha_dot(t) * data + schedule.sigma_dot(t) * noise) * mask[..., None]
    with torch.no_grad():
        np.testing.assert_allclose(toy(x_t, t, mask), expected.detach(), rtol=1e-9, atol=1e-11)


@both_classes
@both_schedules
def test_the_velocity_is_the_regression_of_its_target(label, schedule):
    """E[(target - v(x_t, t)) h(x_t, t)] = 0 for any h: the definition, by Monte Carlo and without a score."""
    toy = ToyVelocity(label, FEATURES, schedule)
    x, mask = in_features(label, 4_000, n_max=20)
    generator = torch.Generator().manual_seed(1)
    t = torch.rand(len(x), generator=generator).double()
    eps = torch.randn(x.shape, generator=generator).double()
    x_t, target = diffuse(x, eps, t, schedule)
    velocity = toy(x_t, t, mask)
    alone = toy(x_t.reshape(-1, 1, 3), t.repeat_interleave(20), mask.reshape(-1, 1)).reshape(x.shape)

    def significance(v, h):
        values = ((target - v) * h * mask[..., None]).sum((1, 2))
        return values.mean().abs() / values.std() * sqrt(len(values))

    mean = (x_t * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    per_jet = t[:, None, None]
    for h in (torch.ones_like(x), x_t, x_t**2, velocity, torch.sin(3 * x_t) * per_jet, mean, velocity - alone):
        assert significance(velocity, h) < 5
    # The last of these sees a velocity that takes each particle by itself.
    assert significance(alone, velocity - alone) > 10


@both_classes
@both_schedules
def test_at_its_ends_the_velocity_knows_the_data_or_their_mean(label, schedule):
    toy = ToyVelocity(label, FEATURES, schedule)
    x, mask = in_features(label)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    at_data = schedule.alpha_dot(zero) * x  # where the noise is not known at all: its mean is 0
    np.testing.assert_allclose(toy(x, zero, mask), at_data, atol=1e-12)
    mean = (toy.log_weight.exp()[:, None] * toy.mean).sum(1).mean(0)
    at_noise = (schedule.alpha_dot(one) * mean + schedule.sigma_dot(one) * x) * mask[..., None]
    np.testing.assert_allclose(toy(x, one, mask), at_noise, atol=1e-12)


@both_schedules
def test_the_velocity_takes_one_time_or_one_a_jet(schedule):
    toy = ToyVelocity("top", FEATURES, schedule)
    x, mask = in_features("top")
    t = torch.linspace(0, 1, len(x)).double()
    together = toy(x, t, mask)
    alone = torch.cat([toy(x[i : i + 1], t[i], mask[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(together, alone, atol=1e-12)


@both_schedules
def test_the_velocity_is_permutation_equivariant(schedule):
    toy = ToyVelocity("top", FEATURES, schedule)
    x, mask = in_features("top")
    t, order = torch.tensor(0.4).double(), torch.randperm(6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(toy(x[:, order], t, mask[:, order]), toy(x, t, mask)[:, order], atol=1e-12)
    np.testing.assert_allclose(toy.log_density(x[:, order], mask[:, order]), toy.log_density(x, mask))


@both_schedules
@pytest.mark.parametrize("content", [float("nan"), float("inf"), 1e30, -2.0])
def test_what_stands_in_masked_entries_never_matters(schedule, content):
    toy = ToyVelocity("top", FEATURES, schedule)
    x, mask = in_features("top")
    other, t = torch.where(mask[..., None], x, content), torch.tensor(0.4).double()
    assert not mask.all()
    assert torch.equal(toy(other, t, mask), toy(x, t, mask))
    assert torch.equal(toy.log_density(other, mask), toy.log_density(x, mask))
    assert (toy(other, t, mask)[~mask] == 0).all()


def test_more_padding_changes_nothing():
    toy = ToyVelocity("top", FEATURES, SCHEDULES["cosine"])
    x, mask = in_features("top")
    wide, longer = torch.nn.functional.pad(x, (0, 0, 0, 3)), torch.nn.functional.pad(mask, (0, 3))
    t = torch.tensor(0.4).double()
    np.testing.assert_allclose(toy(wide, t, longer)[:, :6], toy(x, t, mask), atol=1e-13)
    np.testing.assert_allclose(toy.log_density(wide, longer), toy.log_density(x, mask), rtol=1e-13)


def test_log_prob_is_that_of_the_stored_jet_in_any_order():
    jets = jets_of("gluon", 30)
    order = np.random.default_rng(0).permutation(6)
    turned = Jets(jets.particles[:, order], jets.mask[:, order], jets.features)
    np.testing.assert_allclose(log_prob(turned, "gluon"), log_prob(jets, "gluon"), rtol=1e-13)


@both_classes
@both_schedules
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_own_path_of_the_toy_is_its_exact_divergence(label, schedule, t):
    toy = ToyVelocity(label, FEATURES, schedule)
    x, mask = in_features(label)
    t = torch.tensor(t, dtype=torch.float64)
    x_t = torch.where(mask[..., None], x + 0.3, float("nan"))  # what stands in padding never matters
    v, divergence = toy.own_path(x_t, t, mask)
    reference_v, reference = jacobian(toy, x + 0.3, t, mask)
    np.testing.assert_allclose(v, reference_v, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(divergence, reference, rtol=1e-10, atol=1e-10)
