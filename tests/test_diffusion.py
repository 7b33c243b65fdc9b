import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from jetstudy import diffusion
from jetstudy.diffusion import Design
from jetstudy.features import Features
from jetstudy.schedules import SCHEDULES
from jetstudy.sources import toy

MEAN = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
STD = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


class Gaussian(nn.Module):
    """Closed-form velocity of data that are N(MEAN, std^2) in each coordinate, with an offset (N, 3) to spoil it."""

    def __init__(self, schedule, std=STD, offset=0.0):
        super().__init__()
        self.schedule, self.std, self.offset = schedule, std, offset

    def forward(self, x, t, mask):
        t = t[:, None, None]
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        unit = (x - alpha * MEAN) / (alpha.square() * self.std.square() + sigma.square())
        data, noise = MEAN + alpha * self.std.square() * unit, sigma * unit
        return self.schedule.alpha_dot(t) * data + self.schedule.sigma_dot(t) * noise + self.offset


class Recorder(nn.Module):
    """Stands still and remembers what it was asked."""

    def forward(self, x, t, mask):
        self.x, self.t, self.mask = x, t, mask
        return torch.zeros_like(x)


def gaussian_batch(n, generator, slots=4):
    x = MEAN + STD * torch.randn(n, slots, 3, generator=generator, dtype=torch.float64)
    return x, torch.ones(n, slots, dtype=torch.bool)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_target_is_the_time_derivative_of_the_path(name):
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 5, 4, 3, generator=generator, dtype=torch.float64)
    t = torch.rand(5, generator=generator, dtype=torch.float64)
    x_t, target = diffusion.diffuse(x, eps, t, SCHEDULES[name])
    path, derivative = torch.autograd.functional.jvp(
        lambda s: diffusion.diffuse(x, eps, s, SCHEDULES[name])[0], t, torch.ones_like(t)
    )
    assert_close(path, x_t)
    assert_close(derivative, target)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_loss_is_the_mean_squared_error_over_the_coordinates_of_real_particles(name):
    # Data that are a point leave nothing to guess: the exact velocity has no loss, an offset has its square.
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(4) < torch.tensor([4, 1, 3, 2, 2])[:, None]
    offset = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    point = torch.zeros_like(STD)
    batch = torch.where(mask[..., None], MEAN, 50.0), mask
    exact = diffusion.loss(Gaussian(SCHEDULES[name], point), batch, generator, Design(name))
    assert exact < 1e-20
    off = diffusion.loss(Gaussian(SCHEDULES[name], point, offset), batch, generator, Design(name))
    assert_close(off, offset[mask].square().mean())


@pytest.mark.parametrize(("name", "area"), [("cosine", math.pi**2 / 4), ("linear", math.pi / 2)])
@pytest.mark.parametrize("offset", [0.0, 0.4])
def test_the_loss_of_the_exact_velocity_of_a_gaussian_is_the_integral_of_the_posterior_variance(name, area, offset):
    # Var(alpha' x + sigma' eps | x_t) = s^2 (alpha' sigma - alpha sigma')^2 / (alpha^2 s^2 + sigma^2), whose
    # integral over t is s pi^2 / 4 for the cosine and s pi / 2 for the linear schedule.
    generator, velocity = torch.Generator().manual_seed(1), Gaussian(SCHEDULES[name], offset=offset)
    losses = torch.stack(
        [diffusion.loss(velocity, gaussian_batch(512, generator), generator, Design(name)) for _ in range(50)]
    )
    error = losses.std() / math.sqrt(len(losses))
    assert error < 0.01
    assert abs(losses.mean() - (area * STD.mean() + offset**2)) < 4 * error


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_velocity_has_a_lower_loss_than_the_closed_form_one_of_the_toy(name):
    # Not standardised, so that the velocity is far from zero.
    jets = toy.generate("top", 4000, 6, np.random.default_rng(0))
    features = Features(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    x, mask = torch.from_numpy(features.forward(jets)), torch.from_numpy(jets.mask)
    top, gluon = (toy.ToyVelocity(label, features, SCHEDULES[name]) for label in ("top", "gluon"))

    def loss(velocity):
        return diffusion.loss(velocity, (x, mask), torch.Generator().manual_seed(2), Design(name))

    best = loss(top)
    others = {
        "larger": lambda x, t, mask: 1.1 * top(x, t, mask),
        "smaller": lambda x, t, mask: 0.9 * top(x, t, mask),
        "shifted up": lambda x, t, mask: top(x, t, mask) + 0.1,
        "shifted down": lambda x, t, mask: top(x, t, mask) - 0.1,
        "contracting": lambda x, t, mask: top(x, t, mask) - 0.1 * x,
        "expanding": lambda x, t, mask: top(x, t, mask) + 0.1 * x,
        "early": lambda x, t, mask: top(x, 0.9 * t, mask),
        "of the other class": gluon,
    }
    excess = {kind: float(loss(velocity) - best) for kind, velocity in others.items()}
    assert min(excess.values()) > 1e-3, excess


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_times_are_one_in_each_of_equal_intervals_in_random_order(size):
    batch, network = gaussian_batch(size, torch.Generator().manual_seed(0)), Recorder()
    diffusion.loss(network, batch, torch.Generator().manual_seed(3), Design("cosine"))
    first = network.t
    assert torch.equal((first.sort().values * size).floor(), torch.arange(size, dtype=first.dtype))
    assert size == 1 or not torch.equal(first, first.sort().values)


def test_the_loss_is_a_function_of_the_batch_and_the_state_of_the_generator():
    batch, schedule = gaussian_batch(8, torch.Generator().manual_seed(0)), SCHEDULES["cosine"]
    generator = torch.Generator().manual_seed(4)
    first, second = (diffusion.loss(Gaussian(schedule), batch, generator, Design()) for _ in range(2))
    assert first != second
    assert diffusion.loss(Gaussian(schedule), batch, generator.manual_seed(4), Design()) == first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_is_asked_in_the_precision_of_the_data(dtype):
    x, mask = gaussian_batch(4, torch.Generator().manual_seed(0))
    network = Recorder()
    diffusion.loss(network, (x.to(dtype), mask), torch.Generator().manual_seed(0), Design("linear"))
    assert (network.x.dtype, network.t.dtype) == (dtype, dtype)
    assert network.mask is mask


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_data_and_noise_come_back_from_the_velocity_of_their_path(name, t):
    generator, t = torch.Generator().manual_seed(0), torch.tensor(t, dtype=torch.float64)
    x, eps = torch.randn(2, 5, 4, 3, generator=generator, dtype=torch.float64)
    x_t, v = diffusion.diffuse(x, eps, t.expand(5), SCHEDULES[name])
    data, noise = diffusion.denoised(v, x_t, t, Design(name))
    assert_close(data, x)
    assert_close(noise, eps)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_the_noise_of_a_gaussians_velocity_gives_its_score(name, t):
    schedule, x_t = SCHEDULES[name], gaussian_batch(7, torch.Generator().manual_seed(1))[0]
    t = torch.tensor(t, dtype=torch.float64)
    _, noise = diffusion.denoised(Gaussian(schedule)(x_t, t.expand(7), None), x_t, t, Design(name))
    variance = schedule.alpha(t) ** 2 * STD**2 + schedule.sigma(t) ** 2
    assert_close(-noise / schedule.sigma(t), -(x_t - schedule.alpha(t) * MEAN) / variance)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_velocitys_error_is_measured_over_real_particles_at_each_time(name):
    generator = torch.Generator().manual_seed(0)
    x, _ = gaussian_batch(2000, generator)
    mask = torch.arange(4) < torch.tensor([4, 1, 3, 2]).repeat(500)[:, None]
    offset = torch.tensor([0.1, -0.2, 0.4], dtype=torch.float64)
    exact, off = Gaussian(SCHEDULES[name]), Gaussian(SCHEDULES[name], offset=offset)
    x = torch.where(mask[..., None], x, 50.0)
    table = diffusion.velocity_error(off, exact, x, mask, SCHEDULES[name], [0.0, 0.4, 1.0], generator)
    assert table["t"].tolist() == [0.0, 0.4, 1.0]
    assert table["error"].to_numpy() == pytest.approx(float(offset.square().mean()))
    # At t = 1 the velocity is alpha' MEAN + sigma' eps.
    alpha_dot, sigma_dot = (f(torch.tensor(1.0)) for f in (SCHEDULES[name].alpha_dot, SCHEDULES[name].sigma_dot))
    expected = alpha_dot**2 * MEAN.square().mean() + sigma_dot**2
    assert table["exact"].iloc[2] == pytest.approx(float(expected), rel=0.1)


def test_the_uncertainty_of_the_velocitys_error_is_its_spread_over_repeated_samples():
    schedule, generator = SCHEDULES["cosine"], torch.Generator().manual_seed(0)
    exact = Gaussian(schedule)
    tables = [
        diffusion.velocity_error(
            lambda x, t, mask: 1.1 * exact(x, t, mask),
            exact,
            *gaussian_batch(100, generator),
            schedule,
            [0.6],
            generator,
        )
        for _ in range(200)
    ]
    spread = np.std([table["error"].iloc[0] for table in tables])
    assert np.mean([table["uncertainty"].iloc[0] for table in tables]) == pytest.approx(spread, rel=0.25)


# Designs


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_normal_times_have_the_noise_levels_of_edm(name):
    batch, network = gaussian_batch(4000, torch.Generator().manual_seed(0), slots=1), Recorder()
    diffusion.loss(network, batch, torch.Generator().manual_seed(3), Design(name, times="log_normal"))
    t, schedule = network.t, SCHEDULES[name]
    level = (schedule.sigma(t) / schedule.alpha(t)).log()
    assert level.mean().item() == pytest.approx(-1.2, abs=0.01)
    assert level.std().item() == pytest.approx(1.2, abs=0.01)


def test_an_error_of_v_weighted_as_noise_is_the_error_of_eps():
    # With the cosine schedule the error of eps is 2 alpha / pi times that of v.
    schedule, offset, n = SCHEDULES["cosine"], 0.3, 200_000
    point = torch.zeros_like(STD)
    batch = MEAN.expand(n, 1, 3), torch.ones(n, 1, dtype=torch.bool)
    spoilt = Gaussian(schedule, point, offset)
    uniform, noise = (
        diffusion.loss(spoilt, batch, torch.Generator().manual_seed(1), Design(times=times))
        for times in ("uniform", "noise")
    )
    assert_close(noise, uniform)  # the weight has mean 1

    class Early(Gaussian):
        def forward(self, x, t, mask):
            return super().forward(x, t, mask) + offset * (t < 0.5)[:, None, None]

    early = diffusion.loss(Early(schedule, point), batch, torch.Generator().manual_seed(1), Design(times="noise"))
    share = 0.5 + 1 / math.pi  # of the integral of 2 cos^2(pi t / 2) that lies before t = 1/2
    assert early.item() == pytest.approx(offset**2 * share, rel=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_assigned_noise_is_the_same_noise_nearest_to_its_jet(seed, counts):
    generator = torch.Generator().manual_seed(seed)
    x, eps = torch.randn(2, len(counts), 5, 3, generator=generator, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor(counts)[:, None]
    found = diffusion.assigned(eps, x, mask)
    for jet, n in enumerate(counts):
        assert torch.equal(found[jet, n:], eps[jet, n:])
        distances = {o: (x[jet, :n] - eps[jet, list(o)]).square().sum() for o in itertools.permutations(range(n))}
        best = min(distances, key=distances.get)
        assert torch.equal(found[jet, :n], eps[jet, list(best)])


def test_the_loss_of_an_assigned_design_sees_the_assigned_noise():
    batch, network = gaussian_batch(3, torch.Generator().manual_seed(0)), Recorder()
    seen = []
    for pairing in diffusion.PAIRINGS:
        diffusion.loss(network, batch, torch.Generator().manual_seed(3), Design(pairing=pairing))
        seen.append(network.x)
    t = network.t[:, None, None]
    alpha, sigma = SCHEDULES["cosine"].alpha(t), SCHEDULES["cosine"].sigma(t)
    independent, assigned = ((x - alpha * batch[0]) / sigma for x in seen)
    assert_close(assigned, diffusion.assigned(independent, *batch))
    assert (assigned != independent).any()


@pytest.mark.parametrize("key", ["schedule", "times", "pairing"])
def test_an_unknown_design_is_refused_by_name(key):
    with pytest.raises(ValueError, match=f"{key} 'sigmoid': expected one of "):
        Design(**{key: "sigmoid"})


def test_without_independent_noise_nothing_is_denoised():
    x = torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match="the denoised jet and the score are unknown: pairing is 'assigned'"):
        diffusion.denoised(x, x, torch.tensor(0.5), Design(pairing="assigned"))
