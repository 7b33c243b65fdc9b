"""A GPU changes the speed and nothing else. Without one there is nothing to test here."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_surrogate import N_MAX, one_hop_surrogate, seeded, toy_jets  # noqa: F401, a fixture
from test_taggers import TINY, some_jets, tagger
from test_training import Interrupted
from torch import nn
from torch.testing import assert_close

from jetstudy import taggers
from jetstudy.diffusion import Design, loss
from jetstudy.networks import NETWORKS
from jetstudy.probability_flow import Solver
from jetstudy.surrogate import build_network
from jetstudy.training import OPTIMISERS, Recipe, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

DIVERGENCES = [("one_hop", "own_path"), *((name, "jacobian") for name in NETWORKS), ("one_hop", "hutchinson-2")]


def on_gpu(model):
    return replace(model, velocity=model.velocity.to("cuda"), device="cuda")


def surrogate(network, divergence, dtype):
    """A surrogate with random weights, those that start from zero too."""
    model = one_hop_surrogate(Solver("rk3", 4, 2.0), divergence, dtype, reads=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        velocity = build_network(network, width=8, heads=2, layers=1, reads=1, n_max=N_MAX).to(dtype).eval()
        with torch.no_grad():
            for parameter in velocity.parameters():
                parameter.normal_(std=0.3)
    return replace(model, velocity=velocity)


@pytest.mark.parametrize(("network", "divergence"), DIVERGENCES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-2)])
def test_log_p_is_the_same_on_a_gpu(toy_jets, network, divergence, dtype, tolerance):  # noqa: F811
    model = surrogate(network, divergence, dtype)
    jets = toy_jets[np.argsort(toy_jets.count, kind="stable")]  # the order in which probes are drawn
    expected = model.log_prob(jets, seeded(1))
    np.testing.assert_allclose(on_gpu(model).log_prob(jets, seeded(1)), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_same_random_numbers_give_the_same_jets_on_a_gpu(network):
    model = surrogate(network, "jacobian", torch.float64)
    expected, log_p = model.sample_with_log_prob(50, seeded(2))
    jets, same = on_gpu(model).sample_with_log_prob(50, seeded(2))
    np.testing.assert_allclose(jets.particles, expected.particles, atol=1e-6)
    np.testing.assert_allclose(same, log_p, atol=1e-8)


@pytest.mark.parametrize("name", TINY)
def test_logits_are_the_same_on_a_gpu(name):
    model, (x, mask) = tagger(name), some_jets()
    expected = taggers.logits(model, x, mask)
    assert_close(taggers.logits(model.to("cuda"), x, mask), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_gradients_are_the_same_on_a_gpu(name):
    x, mask = some_jets(counts=(6, 1, 4, 3))
    label, found = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64), {}
    for device in ("cpu", "cuda"):
        model = tagger(name).to(device)
        for module in model.modules():
            if isinstance(module, nn.GRU):
                module.train()  # cuDNN has no gradients of it otherwise
        batch = (x.to(device), mask.to(device), label.to(device))
        taggers.loss(model, batch, seeded(0)).backward()
        found[device] = {key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None}
    assert found["cpu"]
    assert_close(found["cuda"], found["cpu"], atol=1e-6, rtol=1e-6)


def trained(checkpoint, progress, device="cuda", **recipe):
    """The weights of a small training that draws noise, once done."""
    mask = torch.arange(N_MAX) < torch.randint(1, N_MAX + 1, (40, 1), generator=seeded(4))
    data = torch.randn(40, N_MAX, 3, generator=seeded(3)), mask
    lengths = Recipe(steps=30, batch=8, rate=1e-2, every=10, **recipe)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("one_hop", width=16, heads=2, layers=1, reads=1, n_max=N_MAX).to(device)
    train(network, partial(loss, design=Design()), data, data, lengths, seeded(5), checkpoint, progress)
    assert next(network.parameters()).device.type == device
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def stop(line):
    if line.startswith("step 20"):
        raise Interrupted


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_resumed_training_equals_an_uninterrupted_one_on_a_gpu(tmp_path, optimiser):
    lines = []
    with pytest.raises(Interrupted):
        trained(tmp_path / "stopped", stop, optimiser=optimiser)
    resumed = trained(tmp_path / "stopped", lines.append, optimiser=optimiser)
    assert lines[0] == "resuming at step 20 of 30"
    assert_close(resumed, trained(tmp_path / "whole", lines.append, optimiser=optimiser), atol=1e-5, rtol=1e-4)


def test_a_training_begun_on_a_gpu_goes_on_without_one(tmp_path):
    lines = []
    with pytest.raises(Interrupted):
        trained(tmp_path / "checkpoint", stop)
    trained(tmp_path / "checkpoint", lines.append, device="cpu")
    assert lines[0] == "resuming at step 20 of 30"
