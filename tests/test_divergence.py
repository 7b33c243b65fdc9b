import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from jetstudy import divergence
from jetstudy.networks import OneHop

N_MAX = 5


def one_hop(seed, reads, heads=2):
    """A float64 network whose weights, the zero-initialised ones too, are random."""
    network = OneHop(width=8, heads=heads, layers=1, reads=reads, n_max=N_MAX).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def some_jets(seed=0, counts=(5, 1, 3)):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(counts), N_MAX, 3, generator=generator, dtype=torch.float64)
    t = torch.rand(len(counts), generator=generator, dtype=torch.float64)
    return x, t, torch.arange(N_MAX) < torch.tensor(counts)[:, None]


def trace_of_autograd(velocity, x, t, mask):
    """Divergence (B,) from the whole Jacobian, jet by jet, over the coordinates of real particles."""
    traces = []
    for i in range(len(x)):
        one = slice(i, i + 1)
        full = torch.autograd.functional.jacobian(lambda y, one=one: velocity(y, t[one], mask[one]), x[one])
        real = mask[i].repeat_interleave(3)
        traces.append(full.reshape(3 * N_MAX, 3 * N_MAX).diagonal()[real].sum())
    return torch.stack(traces)


class Linear(nn.Module):
    """v_i = A x_i + m, with m the sum of the jet's particles times ``coupling``."""

    def __init__(self, matrix, coupling=0.0):
        super().__init__()
        self.matrix, self.coupling = matrix, coupling

    def forward(self, x, t, mask):
        x = x * mask[..., None]
        return (x @ self.matrix.T + self.coupling * x.sum(1, keepdim=True)) * mask[..., None]


class Coupled(nn.Module):
    """A velocity that is not one-hop: particles exchange a nonlinear message twice."""

    def forward(self, x, t, mask):
        x = x * mask[..., None]
        h = torch.tanh(x + x.sum(1, keepdim=True))
        return torch.sin(x * h.sum(1, keepdim=True) + t.reshape(-1, 1, 1)) * mask[..., None]


jets = st.builds(some_jets, st.integers(0, 2**31), st.lists(st.integers(1, N_MAX), min_size=1, max_size=3))
property_test = settings(max_examples=12, deadline=None, database=None)


@property_test
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from([1, 2, 4]), jets)
def test_own_path_and_jacobian_are_the_trace_of_autograds_jacobian(seed, reads, heads, batch):
    network = one_hop(seed, reads, heads)
    expected = trace_of_autograd(network, *batch)
    for exact in (divergence.own_path, divergence.jacobian):
        velocity, div = exact(network, *batch)
        assert_close(velocity, network(*batch))
        assert_close(div, expected)


@property_test
@given(jets)
def test_jacobian_is_exact_for_any_network(batch):
    velocity, div = divergence.jacobian(Coupled(), *batch)
    assert_close(velocity, Coupled()(*batch))
    assert_close(div, trace_of_autograd(Coupled(), *batch))


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_jacobian_does_not_depend_on_how_many_directions_it_carries_at_once(monkeypatch, chunk):
    _, expected = divergence.jacobian(Coupled(), *some_jets())
    monkeypatch.setattr(divergence, "CHUNK", chunk)
    assert_close(divergence.jacobian(Coupled(), *some_jets())[1], expected)


def test_the_divergence_of_a_linear_velocity_is_its_trace_times_the_particles():
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, t, mask = some_jets()
    _, div = divergence.jacobian(Linear(matrix, coupling=0.2), x, t, mask)
    assert_close(div, mask.sum(1) * (matrix.trace() + 3 * 0.2))


@pytest.mark.parametrize("probes", [1, 20])
def test_hutchinson_is_exact_for_a_diagonal_velocity(probes):
    matrix = torch.diag(torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64))
    x, t, mask = some_jets()
    velocity, div = divergence.hutchinson(Linear(matrix), x, t, mask, torch.Generator().manual_seed(0), probes)
    assert_close(velocity, Linear(matrix)(x, t, mask))
    assert_close(div, mask.sum(1) * torch.tensor(1.5, dtype=torch.float64))


@pytest.mark.parametrize("probes", [1, 8])
def test_hutchinson_is_unbiased_and_its_variance_is_the_one_of_rademacher_probes(probes):
    # z'Az has mean tr A and, for Rademacher z, variance 2 (|S|^2 - |diag S|^2) with S = (A + A') / 2.
    network, copies = one_hop(seed=1, reads=2), 3000
    x, t, mask = (part[2:] for part in some_jets())
    full = torch.autograd.functional.jacobian(lambda y: network(y, t, mask), x).reshape(3 * N_MAX, 3 * N_MAX)
    symmetric = 0.5 * (full + full.T)
    variance = 2 * (symmetric.square().sum() - symmetric.diagonal().square().sum()) / probes
    many = x.repeat(copies, 1, 1), t.repeat(copies), mask.repeat(copies, 1)
    _, div = divergence.hutchinson(network, *many, torch.Generator().manual_seed(2), probes)
    assert abs(div.mean() - full.trace()) < 4 * (variance / copies).sqrt()
    assert div.var() / variance == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", ["jacobian", "hutchinson-1"])
def test_padding_does_not_count_even_if_the_velocity_moves_it(name):
    x, t, mask = some_jets()
    _, div = divergence.estimator(name)(lambda x, t, mask: 2 * x, x, t, mask, torch.Generator().manual_seed(0))
    assert_close(div, 6.0 * mask.sum(1).double())


def test_hutchinson_draws_fresh_probes_at_every_call_from_its_generator():
    generator, batch = torch.Generator().manual_seed(3), some_jets()
    first, second = (divergence.hutchinson(Coupled(), *batch, generator)[1] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(divergence.hutchinson(Coupled(), *batch, generator.manual_seed(3))[1], first)


def test_hutchinson_without_a_generator_is_refused():
    with pytest.raises(ValueError, match="generator"):
        divergence.hutchinson(Coupled(), *some_jets(), None)


def test_own_path_refuses_a_network_that_does_not_offer_it():
    with pytest.raises(TypeError, match="Coupled"):
        divergence.own_path(Coupled(), *some_jets())


def test_every_estimator_has_a_name_and_serves_the_same_call():
    network, batch = one_hop(seed=4, reads=1), some_jets()
    expected = trace_of_autograd(network, *batch)
    for name in ("own_path", "jacobian", "hutchinson-1", "hutchinson-40"):
        velocity, div = divergence.estimator(name)(network, *batch, torch.Generator().manual_seed(0))
        assert_close(velocity, network(*batch))
        assert div.shape == expected.shape
        assert torch.allclose(div, expected) == (not name.startswith("hutchinson"))


def test_the_number_in_a_hutchinson_name_is_its_number_of_probes():
    batch = some_jets()
    named = divergence.estimator("hutchinson-7")(Coupled(), *batch, torch.Generator().manual_seed(0))
    expected = divergence.hutchinson(Coupled(), *batch, torch.Generator().manual_seed(0), probes=7)
    assert torch.equal(named[1], expected[1])


@pytest.mark.parametrize(
    "name", ["exact", "", "hutchinson", "hutchinson-0", "hutchinson-x", "hutchinson-²", "jacobian-2"]
)
def test_an_unknown_estimator_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"divergence '{name}'"):
        divergence.estimator(name)
