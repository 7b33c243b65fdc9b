import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from jetstudy.divergence import jacobian
from jetstudy.networks import NETWORKS, Embedding, OneHop

N_MAX = 6


def build(name="one_hop", seed=0, width=16, heads=2, layers=1, reads=2, n_max=N_MAX, label=None):
    """A float64 network whose weights, the zero-initialised ones too, are random."""
    network = NETWORKS[name](width, heads, layers, reads, n_max, momentum_scale=0.9, label=label).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def some_jets(seed=0, counts=(6, 1, 4)):
    """x (B, N_MAX, 3) with noise in the padding too, t (B,), mask (B, N_MAX)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(counts), N_MAX, 3, generator=generator, dtype=torch.float64)
    t = torch.rand(len(counts), generator=generator, dtype=torch.float64)
    return x, t, torch.arange(N_MAX) < torch.tensor(counts)[:, None]


def both_paths(network, x, t, mask):
    """Velocity (B, N, 3), and of a one-hop network velocity and divergence (B,) by its own path too."""
    return network(x, t, mask), *(network.own_path(x, t, mask) if isinstance(network, OneHop) else ())


networks = st.builds(
    build,
    st.sampled_from(list(NETWORKS)),
    seed=st.integers(0, 2**31),
    heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(0, 2),
    reads=st.integers(1, 3),
    label=st.sampled_from([None, 0, 1]),
)
jets = st.builds(some_jets, st.integers(0, 2**31), st.lists(st.integers(1, N_MAX), min_size=1, max_size=4))
every_network = pytest.mark.parametrize("name", NETWORKS)
property_test = settings(max_examples=15, deadline=None, database=None)


@property_test
@given(networks.filter(lambda network: isinstance(network, OneHop)), jets)
def test_both_paths_through_the_network_give_the_same_velocity(network, batch):
    forward, own_path, _ = both_paths(network, *batch)
    assert_close(own_path, forward)


@property_test
@given(networks, jets, st.permutations(range(N_MAX)))
def test_permuting_the_particles_permutes_the_velocity_and_keeps_the_divergence(network, batch, order):
    x, t, mask = batch
    expected = both_paths(network, x, t, mask)
    found = both_paths(network, x[:, order], t, mask[:, order])
    for permuted, original in zip(found[:2], expected[:2], strict=True):
        assert_close(permuted, original[:, order])
    assert_close(found[2:], expected[2:])


@property_test
@given(networks, jets, st.sampled_from([0.0, -1e6, float("inf"), float("nan")]))
def test_what_stands_in_the_padding_changes_nothing(network, batch, content):
    x, t, mask = batch
    overwritten = torch.where(mask[..., None], x, content)
    for found, expected in zip(both_paths(network, overwritten, t, mask), both_paths(network, *batch), strict=True):
        assert torch.equal(found, expected)


@property_test
@given(networks, jets, st.integers(1, 5))
def test_more_padding_changes_nothing(network, batch, room):
    x, t, mask = batch
    pad = torch.nn.functional.pad
    wider = pad(x, (0, 0, 0, room), value=7.0), t, pad(mask, (0, room))
    for found, expected in zip(both_paths(network, *wider), both_paths(network, *batch), strict=True):
        assert_close(found[:, :N_MAX] if found.dim() == 3 else found, expected)


@property_test
@given(networks, jets)
def test_a_jet_does_not_see_the_other_jets_of_its_batch(network, batch):
    together = both_paths(network, *batch)
    for i in range(len(batch[0])):
        alone = both_paths(network, *(part[i : i + 1] for part in batch))
        for found, expected in zip(alone, together, strict=True):
            assert_close(found, expected[i : i + 1])


def test_the_velocity_is_zero_where_masked_and_nowhere_else():
    x, t, mask = some_jets()
    for velocity in (*both_paths(build(), x, t, mask)[:2], *(build(name)(x, t, mask) for name in NETWORKS)):
        assert torch.equal((velocity != 0).all(-1), mask)
        assert torch.equal((velocity != 0).any(-1), mask)


@every_network
def test_an_untrained_network_stands_still(name):
    network = NETWORKS[name](16, 2, 1, 2, N_MAX).double()
    assert not torch.stack([part.abs().sum() for part in both_paths(network, *some_jets())]).any()


def test_a_time_for_all_jets_is_the_same_time_for_each():
    x, _, mask = some_jets()
    t = torch.tensor(0.3, dtype=torch.float64)
    network = build()
    assert torch.equal(network(x, t, mask), network(x, t.repeat(len(x)), mask))


@every_network
def test_the_velocity_depends_on_the_time(name):
    x, t, mask = some_jets()
    network = build(name)
    assert ((network(x, t, mask) - network(x, t + 0.1, mask)).abs() > 1e-3)[mask].any(1).all()


def test_the_velocity_depends_on_the_number_of_particles():
    # Attention does not notice that every particle comes twice; only N, relative to n_max, tells.
    x, t, mask = some_jets()
    x, mask = x[:, :4], mask[:, :4]
    twice, twice_mask = x.repeat(1, 2, 1), mask.repeat(1, 2)
    velocity = build()(x, t, mask)
    same_share = build(n_max=2 * N_MAX)(twice, t, twice_mask)[:, :4]
    assert_close(same_share, velocity)
    double_share = build()(twice, t, twice_mask)[:, :4]
    assert ((double_share - velocity).abs() > 1e-3)[mask].any(1).all()


@every_network
def test_a_network_of_two_classes_is_each_ones_velocity_by_the_label(name):
    x, t, mask = some_jets()
    background, signal = (build(name, label=label) for label in (0, 1))
    assert ((background(x, t, mask) - signal(x, t, mask)).abs() > 1e-3)[mask].any(1).all()
    for network in (background, signal):  # what the batch says counts more than the network's own label
        mixed = network(x, t, mask, torch.tensor([1, 0, 1]))
        assert torch.equal(mixed[1], background(x, t, mask)[1])
        assert torch.equal(mixed[[0, 2]], signal(x, t, mask)[[0, 2]])


@pytest.mark.parametrize("label", [0, 1])
def test_the_label_leaves_the_divergence_of_the_own_path_exact(label):
    network, batch = build(label=label), some_jets()
    velocity, divergence = jacobian(network, *batch)
    own_velocity, own_divergence = network.own_path(*batch)
    assert_close(own_velocity, velocity)
    assert_close(own_divergence, divergence, rtol=1e-10, atol=1e-10)


def test_labels_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="label 2: expected 0 or 1"):
        build(label=2)
    with pytest.raises(ValueError, match="a network of one class takes no labels"):
        build()(*some_jets(), torch.zeros(3))


@every_network
def test_a_particle_feels_the_others_beyond_their_number(name):
    network = build(name, seed=2)  # one whose attention is not saturated
    x, t, mask = some_jets()
    moved = x.clone()
    moved[:, 0] += 0.5
    change = (network(moved, t, mask) - network(x, t, mask)).abs().amax(-1)
    assert (change[:, 1:][mask[:, 1:]] > 1e-4).all()


@every_network
def test_the_diagonal_of_the_jacobian_is_that_of_finite_differences(name):
    network = build(name)
    x, t, mask = some_jets()
    _, divergence = jacobian(network, x, t, mask)
    total, step = torch.zeros_like(divergence), 1e-5
    for i in range(N_MAX):
        for k in range(3):
            moved = torch.zeros_like(x)
            moved[:, i, k] = step
            change = network(x + moved, t, mask) - network(x - moved, t, mask)
            total += change[:, i, k] / (2 * step)
    assert_close(divergence, total, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "path"), [*((name, "forward") for name in NETWORKS), ("one_hop", "own_path")])
def test_gradients_reach_every_parameter(name, path):
    network = build(name)
    x, t, mask = some_jets()
    result = network(x, t, mask).square().sum() if path == "forward" else network.own_path(x, t, mask)[1].sum()
    result.backward()
    # The last bias shifts the velocity without a divergence.
    silent = {"out.bias"} if path == "own_path" else set()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {name for name, _ in network.named_parameters()} - silent


def test_the_embedding_holds_ptrel_itself_and_the_sums_that_make_a_mass():
    generator, scale = torch.Generator().manual_seed(0), 0.7
    x = torch.randn(2, N_MAX, 3, generator=generator, dtype=torch.float64)
    embedding = Embedding(8, scale).double()
    with torch.no_grad():
        embedding.linear.weight.copy_(torch.eye(8))
        embedding.linear.bias.zero_()
    features, _ = embedding(x, None)
    eta, phi, log_ptrel = x.unbind(-1)
    ptrel, squared = 0.1 * torch.exp(scale * log_ptrel), eta**2 + phi**2
    expected = [log_ptrel, eta, phi, squared, ptrel * eta, ptrel * phi, ptrel * squared, ptrel]
    assert_close(features, torch.stack(expected, dim=-1))


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 10 is not a multiple of heads 4"):
        OneHop(width=10, heads=4, layers=1, reads=1, n_max=N_MAX)
