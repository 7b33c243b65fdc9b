import pytest
import torch

from jetstudy.schedules import SCHEDULES

T = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_data_at_time_0_and_unit_noise_at_time_1(name):
    schedule = SCHEDULES[name]
    torch.testing.assert_close(schedule.alpha(T)[[0, -1]], torch.tensor([1.0, 0.0], dtype=T.dtype))
    torch.testing.assert_close(schedule.sigma(T)[[0, -1]], torch.tensor([0.0, 1.0], dtype=T.dtype))


@pytest.mark.parametrize("name", SCHEDULES)
def test_signal_falls_and_noise_rises(name):
    assert (SCHEDULES[name].alpha(T).diff() < 0).all()
    assert (SCHEDULES[name].sigma(T).diff() > 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("coefficient", ["alpha", "sigma"])
def test_the_derivatives_are_those_of_autograd(name, coefficient):
    t = T.clone().requires_grad_()
    (expected,) = torch.autograd.grad(getattr(SCHEDULES[name], coefficient)(t).sum(), t)
    torch.testing.assert_close(getattr(SCHEDULES[name], f"{coefficient}_dot")(T), expected)


def test_the_cosine_schedule_preserves_the_variance():
    cosine = SCHEDULES["cosine"]
    torch.testing.assert_close(cosine.alpha(T).square() + cosine.sigma(T).square(), torch.ones_like(T))


def test_the_linear_schedule_is_a_straight_line_from_data_to_noise():
    linear = SCHEDULES["linear"]
    torch.testing.assert_close(linear.alpha(T) + linear.sigma(T), torch.ones_like(T))
    torch.testing.assert_close(linear.sigma(T), T)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_is_the_inverse_of_the_ratio_of_noise_to_signal(name):
    schedule, t = SCHEDULES[name], T[1:-1]
    torch.testing.assert_close(schedule.time(schedule.sigma(t) / schedule.alpha(t)), t)
