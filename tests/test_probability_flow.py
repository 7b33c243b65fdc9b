import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from jetstudy.diffusion import Design
from jetstudy.divergence import jacobian, own_path
from jetstudy.probability_flow import METHODS, Solver, integrate, log_normal, reverse_sde
from jetstudy.schedules import SCHEDULES

ORDER = {"euler": 1, "midpoint": 2, "heun": 2, "rk4": 4, "rk3": 3}
MEAN = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
STD = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
MASK = torch.arange(4) < torch.tensor([4, 1, 3])[:, None]


class Gaussian(nn.Module):
    """Closed-form velocity of data that are N(MEAN, STD^2) in each coordinate; the flow maps x to (x - MEAN) / STD."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x, t, mask):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        unit = (x - alpha * MEAN) / (alpha.square() * STD.square() + sigma.square())
        data, noise = MEAN + alpha * STD.square() * unit, sigma * unit
        return (self.schedule.alpha_dot(t) * data + self.schedule.sigma_dot(t) * noise) * mask[..., None]


class Wave(nn.Module):
    """v = 3 t^2 sin x, neither linear nor the same at all times: tan(x / 2) grows as exp(t^3)."""

    def forward(self, x, t, mask):
        return 3 * t.square() * torch.sin(x) * mask[..., None]

    def own_path(self, x, t, mask):
        return self(x, t, mask), (3 * t.square() * torch.cos(x) * mask[..., None]).sum((1, 2))

    @staticmethod
    def exact(x, mask, direction):
        """The end of the path through all times, and log |d end / d x| (B,)."""
        end = torch.where(mask[..., None], 2 * torch.atan(math.exp(direction) * torch.tan(x / 2)), x)
        return end, (torch.log(torch.sin(end) / torch.sin(x)).sum(-1) * mask).sum(1)


def data(seed=0):
    x = MEAN + STD * torch.randn(*MASK.shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x * MASK[..., None]


def flow(velocity, x, solver, mask=MASK, backward=False, divergence=jacobian):
    times = solver.times()[::-1] if backward else solver.times()
    return integrate(velocity, x, mask, times, solver.method, divergence, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_log_p_of_gaussian_data_is_the_gaussian_log_density(name, power):
    x = data()
    z, integral = flow(Gaussian(SCHEDULES[name]), x, Solver("rk4", 40, power))
    exact = (torch.distributions.Normal(MEAN, STD).log_prob(x).sum(-1) * MASK).sum(1)
    assert_close(log_normal(z, MASK) + integral, exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_flows_back_to_the_gaussian_data_it_stands_for(name):
    z = torch.randn(2000, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.ones(2000, 1, dtype=torch.bool)
    x, _ = flow(Gaussian(SCHEDULES[name]), z, Solver("rk4", 50, 2.0), mask, backward=True, divergence=None)
    assert_close(x, MEAN + STD * z, atol=1e-5, rtol=0)
    assert ((x.mean((0, 1)) - MEAN).abs() < 4 * STD / math.sqrt(2000)).all()
    assert ((x.std((0, 1)) / STD - 1).abs() < 4 / math.sqrt(2 * 2000)).all()


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_error_falls_at_the_order_of_the_method(method, power, backward):
    generator = torch.Generator().manual_seed(2)
    x = 0.3 + 2 * torch.rand(*MASK.shape, 3, generator=generator, dtype=torch.float64)
    end, log_determinant = Wave.exact(x, MASK, -1 if backward else 1)
    coarse = Solver(method, 64, power)
    errors = []
    for solver in (coarse, coarse.refined(2)):
        found, integral = flow(Wave(), x, solver, backward=backward, divergence=own_path)
        errors.append(torch.stack([(found - end).abs().max(), (integral - log_determinant).abs().max()]))
    assert_close((errors[0] / errors[1]).log2(), torch.full((2,), ORDER[method] * 1.0).double(), atol=0.3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_there_and_back_again_up_to_an_error_that_falls_at_the_order_of_the_method(method):
    x, velocity = data(), Wave()
    changes = []
    for solver in (Solver(method, 40, 1.0), Solver(method, 80, 1.0)):
        z, forth = flow(velocity, x, solver, divergence=own_path)
        found, back = flow(velocity, z, solver, backward=True, divergence=own_path)
        changes.append([(found - x).abs().max(), (forth + back).abs().max()])
    (coarse, coarse_integral), (fine, fine_integral) = changes
    # The leading errors of the two directions may cancel, so the order is a lower bound here.
    assert fine < coarse / 2 ** (ORDER[method] - 0.3)
    assert fine_integral < coarse_integral / 2 ** (ORDER[method] - 0.3)
    assert fine < {1: 0.2, 2: 5e-3, 3: 1e-4, 4: 1e-6}[ORDER[method]]


def test_padding_does_not_move_and_does_not_count():
    velocity, solver, x = Gaussian(SCHEDULES["cosine"]), Solver("midpoint", 10, 2.0), data()
    z, integral = flow(velocity, x + 9.0 * ~MASK[..., None], solver)
    expected, expected_integral = flow(velocity, x, solver)
    assert (z[~MASK] == 9.0).all()
    assert torch.equal(z[MASK], expected[MASK])
    assert torch.equal(integral, expected_integral)
    assert torch.equal(log_normal(z, MASK), log_normal(expected, MASK))


def test_without_a_divergence_the_path_is_the_same_and_the_integral_zero():
    velocity, solver, x = Gaussian(SCHEDULES["linear"]), Solver("heun", 10, 1.0), data()
    z, integral = flow(velocity, x, solver, divergence=None)
    assert_close(z, flow(velocity, x, solver)[0])
    assert torch.equal(integral, torch.zeros(3, dtype=torch.float64))


def test_the_network_computes_in_its_own_precision_and_the_path_is_kept_in_float64():
    asked = []

    def velocity(x, t, mask):
        asked.append((x.dtype, t.dtype))
        return torch.full_like(x, 1 / 3)

    x = torch.zeros(1, 1, 3, dtype=torch.float64)
    z, integral = integrate(velocity, x, torch.ones(1, 1, dtype=torch.bool), [0.0, 1.0], "rk4")
    assert set(asked) == {(torch.float32, torch.float32)}
    assert (z.dtype, integral.dtype) == (torch.float64, torch.float64)
    assert_close(z, torch.full_like(z, float(torch.tensor(1 / 3))), atol=1e-15, rtol=0)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("euler", [0, 0.25]),
        ("midpoint", [0, 0.125, 0.25, 0.625]),
        ("heun", [0, 0.25, 0.25, 1]),
        ("rk4", [0, 0.125, 0.125, 0.25, 0.25, 0.625, 0.625, 1]),
    ],
)
def test_the_velocity_is_asked_at_the_nodes_of_the_method(method, expected, backward):
    asked = []
    solver = Solver(method, 2, 2.0)
    if backward:  # the same grid, each step entered from its other end
        nodes = {"euler": [1, 0.25], "midpoint": [1, 0.625, 0.25, 0.125], "heun": [1, 0.25, 0.25, 0]}
        expected = nodes.get(method, expected[::-1])

    def velocity(x, t, mask):
        asked.append(float(t))
        return torch.zeros_like(x)

    flow(velocity, data(), solver, backward=backward, divergence=None)
    assert asked == expected
    assert len(asked) == solver.evaluations


def test_the_divergence_is_asked_for_with_the_generator_at_every_stage():
    generator, given = torch.Generator(), []

    def ones(velocity, x, t, mask, generator):
        given.append(generator)
        return velocity(x, t, mask), mask.sum(1).to(x)

    solver = Solver("heun", 3, 1.0)
    _, integral = integrate(Wave(), data(), MASK, solver.times(), "heun", ones, generator)
    assert given == [generator] * solver.evaluations
    assert_close(integral, MASK.sum(1).double())


def test_log_normal_is_the_standard_normal_density_of_the_real_coordinates():
    z = data()
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z)[MASK]
    assert log_normal(z, MASK).dtype == torch.float64
    by_jet = torch.stack([part.sum() for part in expected.split(MASK.sum(1).tolist())])
    assert_close(log_normal(z, MASK), by_jet, atol=0, rtol=1e-14)


@pytest.mark.parametrize(("power", "growth"), [(0.5, -1), (1.0, 0), (2.0, 1)])
def test_the_grid_runs_from_0_to_1_in_steps_that_grow_for_powers_above_1(power, growth):
    times = torch.tensor(Solver("euler", 4, power).times(), dtype=torch.float64)
    assert len(times) == 5
    assert (times[0], times[-1]) == (0, 1)
    assert (times.diff() > 0).all()
    assert (times.diff().diff().sign() == growth).all()


def test_refining_multiplies_the_steps_and_keeps_the_rest():
    assert Solver("rk4", 10, 2.0).refined(3) == Solver("rk4", 30, 2.0)
    assert set(Solver("rk4", 10, 2.0).times()) <= set(Solver("rk4", 20, 2.0).times())


@pytest.mark.parametrize(
    ("method", "steps", "power", "message"),
    [
        ("rk5", 10, 1.0, "'rk5'.*midpoint"),
        ("rk4", 0, 1.0, "steps 0"),
        ("rk4", -3, 1.0, "steps -3"),
        ("rk4", 10, 0.0, "power 0.0"),
        ("rk4", 10, -2.0, "power -2.0"),
    ],
)
def test_a_solver_that_cannot_be_is_refused(method, steps, power, message):
    with pytest.raises(ValueError, match=message):
        Solver(method, steps, power)


# The reverse SDE


def reversed_sde(velocity, n, churn, steps=300, seed=5, name="cosine"):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 4, 3, generator=generator, dtype=torch.float64) * MASK[:1, :, None]
    mask, times = MASK[:1].expand(n, 4), Solver("euler", steps, 1.5).times()[::-1]
    return z, reverse_sde(velocity, z, mask, times, Design(name), churn, generator, torch.float64), times


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_noise_the_reverse_sde_is_eulers_probability_flow(name):
    velocity = Gaussian(SCHEDULES[name])
    z, x, times = reversed_sde(velocity, 20, churn=0.0, name=name)
    flowed, _ = integrate(velocity, z, MASK[:1].expand(20, 4), times, "euler", dtype=torch.float64)
    assert_close(x, flowed)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("churn", [0.5, 2.0])
def test_with_the_exact_velocity_the_reverse_sde_draws_from_the_same_density(name, churn):
    velocity = Gaussian(SCHEDULES[name])
    z, x, times = reversed_sde(velocity, 3000, churn, name=name)
    particles = 3000 * 4
    assert ((x.mean((0, 1)) - MEAN).abs() < 5 * STD / math.sqrt(particles) + 0.01).all()
    assert ((x.std((0, 1)) / STD - 1).abs() < 5 / math.sqrt(2 * particles) + 0.02).all()
    flowed, _ = integrate(velocity, z, MASK[:1].expand(3000, 4), times, "euler", dtype=torch.float64)
    assert (x - flowed).square().mean() > 0.1 * STD.square().mean()  # other jets of the same density


def test_with_another_velocity_the_reverse_sde_draws_from_another_density_than_the_flow():
    exact = Gaussian(SCHEDULES["cosine"])

    def poor(x, t, mask):
        return exact(x, t, mask) + 0.3

    means = [reversed_sde(poor, 1000, churn)[1].mean((0, 1)) for churn in (0.0, 4.0)]
    assert ((means[0] - means[1]).abs() > 0.1 * STD).any()


def test_the_reverse_sde_leaves_padding_at_zero():
    mask = MASK.clone()
    z = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(6), dtype=torch.float64) * mask[..., None]
    velocity = Gaussian(SCHEDULES["cosine"])
    times = Solver("euler", 10, 1.0).times()[::-1]
    x = reverse_sde(velocity, z, mask, times, Design(), 1.0, torch.Generator().manual_seed(7), torch.float64)
    assert (x[~mask] == 0).all() and (x[mask] != z[mask]).all()


def test_without_the_score_there_is_no_reverse_sde():
    z, mask = torch.zeros(3, 4, 3, dtype=torch.float64), MASK
    design = Design(pairing="assigned")
    with pytest.raises(ValueError, match="the score are unknown: pairing is 'assigned'"):
        reverse_sde(Gaussian(SCHEDULES["cosine"]), z, mask, [1.0, 0.5], design, 1.0, torch.Generator())
