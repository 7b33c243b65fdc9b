import json
import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.testing import assert_close

from jetstudy import kinematics, taggers
from jetstudy.features import Features
from jetstudy.jets import concatenate
from jetstudy.limit import auc
from jetstudy.sources import toy
from jetstudy.taggers import pairs, particles
from jetstudy.training import Recipe, seeded

N_MAX = 6
FEATURES = Features(mean=(0.01, -0.02, -4.0), std=(0.1, 0.12, 1.2))

# Settings of every tagger, tiny.
TINY = {
    "transformer": {"width": 8, "heads": 2, "blocks": 2},
    "pfn": {"particle": [8, 8], "jet": [8]},
    "efn": {"particle": [8, 8], "jet": [8]},
    "particlenet": {"blocks": [[8, 8], [8]], "k": 3, "jet": 8},
    "part": {"embed": [8, 8], "pair": [4], "heads": 2, "blocks": 2, "class_blocks": 1},
    "lorentznet": {"width": 8, "blocks": 2, "dropout": 0.1},
    "pelican": {"width": 6, "inner": 0.5, "blocks": 1, "factorize": True},
    "lgatr": {"width": 4, "scalars": 4, "heads": 2, "blocks": 1},
    "cnn": {"widths": [4, 4, 6], "jet": 8},
    "gru": {"width": 8, "layers": 2, "jet": 8},
    "image": {"filters": [4, 4, 4, 4], "jet": [8], "pixels": 24},
}
PACKAGES = {"pelican": "pelican", "lgatr": "lgatr"}


def new(name, **settings):
    """A tiny tagger of PyTorch's own initial weights."""
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    with seeded(torch.Generator().manual_seed(0)):
        return taggers.build(name, FEATURES, **TINY[name] | settings)


def tagger(name="transformer", seed=0, **settings):
    """A tiny float64 tagger with random weights, its biases, norms and running statistics too, ready to score."""
    model = new(name, **settings).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
    return model


def some_jets(seed=0, counts=(6, 1, 4)):
    """x (B, N_MAX, 3) with noise in the padding too, and mask (B, N_MAX)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(counts), N_MAX, 3, generator=generator, dtype=torch.float64)
    return x, torch.arange(N_MAX) < torch.tensor(counts)[:, None]


def trained(model):
    """The parameters of a tagger, but for what L-GATr's package does with scalars put in or multivectors taken out."""
    unused = ["linear_in.mvs2s.weight", "linear_out.weight", "linear_out.s2mvs.weight", "linear_out.s2mvs.bias"]
    unused = [f"network.{name}" for name in unused]
    return {name: parameter for name, parameter in model.named_parameters() if name not in unused}


every_tagger = pytest.mark.parametrize("name", TINY)
seeds = st.integers(0, 2**31)
jets = st.builds(some_jets, seeds, st.lists(st.integers(1, N_MAX), min_size=1, max_size=4))
property_test = settings(max_examples=5, deadline=None, database=None)


def test_every_tagger_is_tested():
    assert set(TINY) == set(taggers.TAGGERS) - set(taggers.DEPTHS)


# Invariances


@every_tagger
@property_test
@given(seed=seeds, batch=jets, order=st.permutations(range(N_MAX)))
def test_the_order_of_the_particles_does_not_matter(name, seed, batch, order):
    (x, mask), model = batch, tagger(name, seed)
    assert_close(model(x[:, order], mask[:, order]), model(x, mask))


@every_tagger
@property_test
@given(seed=seeds, batch=jets, content=st.sampled_from([0.0, -1e6, float("inf"), float("nan")]))
def test_what_stands_in_the_padding_does_not_matter(name, seed, batch, content):
    (x, mask), model = batch, tagger(name, seed)
    assert torch.equal(model(torch.where(mask[..., None], x, content), mask), model(x, mask))


@every_tagger
@pytest.mark.parametrize("content", [-1e6, float("nan")])
def test_what_stands_in_the_padding_does_not_matter_to_the_training(name, content):
    # Batch statistics, dropout and gradients too.
    x, mask = some_jets()
    found = []
    for inputs in (x, torch.where(mask[..., None], x, content)):
        model = tagger(name).train()
        with seeded(torch.Generator().manual_seed(0)):
            model(inputs, mask).sum().backward()
        found.append([*(p.grad for p in trained(model).values()), *model.buffers()])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


@every_tagger
@property_test
@given(seed=seeds, batch=jets, room=st.integers(1, 5))
def test_more_padding_does_not_matter(name, seed, batch, room):
    (x, mask), model = batch, tagger(name, seed)
    pad = nn.functional.pad
    assert_close(model(pad(x, (0, 0, 0, room), value=7.0), pad(mask, (0, room))), model(x, mask))


@every_tagger
@property_test
@given(seed=seeds, batch=jets)
def test_a_jet_does_not_see_the_other_jets_of_its_batch(name, seed, batch):
    model = tagger(name, seed)
    alone = [model(x[None], mask[None]) for x, mask in zip(*batch, strict=True)]
    assert_close(torch.cat(alone), model(*batch))


@every_tagger
def test_every_particle_counts_and_no_padding_does(name):
    # In an image, one in the middle of it and by more than a pixel.
    x, mask = some_jets()
    x[..., :2] *= 0.5
    model = tagger(name)
    expected = model(x, mask)
    for i in range(N_MAX):
        moved = x.clone()
        moved[:, i] += 0.5
        assert torch.equal((model(moved, mask) - expected).abs() > 1e-9, mask[:, i])


def twice(x, mask):
    """Every particle once more: what only averages and neighbours see stays as it was."""
    return x.repeat(1, 2, 1), mask.repeat(1, 2)


@pytest.mark.parametrize(("name", "sees_it"), [("transformer", False), ("pfn", True), ("part", True)])
def test_which_taggers_see_the_number_of_particles(name, sees_it):
    model, batch = tagger(name), some_jets()
    change = (model(*twice(*batch)) - model(*batch)).abs()
    assert (change > 1e-6).all() if sees_it else (change < 1e-12).all()


def test_what_is_measured_of_a_tagger_agrees_on_whether_it_sees_the_number_of_particles():
    jets = concatenate([toy.generate(c, 20, N_MAX, np.random.default_rng(5)) for c in ("gluon", "top")])

    def sees(name):
        model = tagger(name, 3)

        def logits(some):
            x, mask, _ = taggers.tensors(FEATURES, some, np.zeros(len(some)))
            return taggers.logits(model, x.double(), mask).numpy()

        return taggers.sees_number(logits, jets)

    # An image keeps the sum of ptrel in a pixel and an energy flow all of it, however many share it.
    found = {name: sees(name) for name in ("transformer", "efn", "image", "pfn", "part", "lorentznet", "cnn", "gru")}
    assert [name for name, can in found.items() if not can] == ["transformer", "efn", "image"]
    assert taggers.sees_number(lambda some: some.count.astype(float), jets)
    assert not taggers.sees_number(lambda some: some.ptrel_sum, jets)


def moved(x, d_eta, d_phi):
    return x + torch.tensor([d_eta / FEATURES.std[0], d_phi / FEATURES.std[1], 0.0], dtype=x.dtype)


@pytest.mark.parametrize("name", ["lorentznet", "pelican", "lgatr"])
def test_a_rotation_around_the_beam_does_not_matter_to_lorentz_invariant_taggers(name):
    (x, mask), model = some_jets(), tagger(name)
    assert_close(model(moved(x, 0, 0.3), mask), model(x, mask), atol=1e-11, rtol=1e-7)
    single = tagger(name).float()
    assert_close(single(moved(x, 0, 0.3).float(), mask), single(x.float(), mask), atol=1e-3, rtol=1e-3)
    # The beams' energies are those of the frame at rest, so a boost along them is seen.
    assert (model(moved(x, 0.3, 0), mask) - model(x, mask)).abs().max() > 1e-8


@pytest.mark.parametrize(("name", "beam_mass"), [("lorentznet", 1.0), ("pelican", 0.0)])
def test_a_lorentz_transformation_of_all_four_vectors_with_the_beams_does_not_matter(name, beam_mass):
    (x, mask), model = some_jets(counts=(6, 6)), tagger(name)
    u = model.physical(x, mask)
    vectors = torch.from_numpy(kinematics.four_vectors(torch.cat([u[..., :2], u[..., 2:].exp()], -1), mask)) * 1000
    beams = torch.tensor([[[math.sqrt(1 + beam_mass**2), 0, 0, sign] for sign in (1.0, -1.0)]] * 2).double()
    vectors = torch.cat([beams, vectors], dim=1)
    metric = torch.diag(torch.tensor([1.0, -1, -1, -1], dtype=torch.float64))
    generator = torch.tensor([[0, 0.3, -0.2, 0.4], [0.3, 0, 0.7, -0.5], [-0.2, -0.7, 0, 0.1], [0.4, 0.5, -0.1, 0]])
    transformed = vectors @ torch.matrix_exp(generator.double()).T
    nodes = nn.functional.pad(mask, (2, 0), value=True)
    found = model.invariant(transformed @ metric @ transformed.mT, nodes)
    assert_close(found, model(x, mask), atol=1e-10, rtol=1e-7)


def test_a_boost_along_the_beam_with_the_references_does_not_matter_to_lgatr():
    lgatr = pytest.importorskip("lgatr")
    (x, mask), model = some_jets(), tagger("lgatr")
    expected = model(x, mask)
    # The plane across the beam is the same in every frame along it, the direction of time is not.
    plane, time = model.references
    boosted = lgatr.embed_vector(torch.tensor([math.cosh(0.3), 0, 0, math.sinh(0.3)]).double())
    assert (boosted - time).abs().max() > 0.1
    model.references = torch.stack([plane, boosted])
    assert_close(model(moved(x, 0.3, 0.2), mask), expected, atol=1e-10, rtol=1e-7)


def test_an_energy_flow_is_blind_to_soft_particles_and_collinear_splittings():
    (x, mask), model = some_jets(counts=(4, 4)), tagger("efn")
    split = x.clone()
    split[:, 4] = split[:, 3]
    for i, share in ((3, 0.3), (4, 0.7)):
        split[:, i, 2] += math.log(share) / FEATURES.std[2]
    split[:, 5, 2] = -100  # ptrel of e^-124
    assert_close(model(split, torch.ones_like(mask)), model(x, mask))


# Pairs of particles


def test_minkowski_products_are_those_of_four_vectors():
    generator = np.random.default_rng(0)
    u = np.stack(
        [generator.normal(0, 0.3, (3, 5)), generator.normal(0, 0.3, (3, 5)), generator.normal(-4, 1, (3, 5))], -1
    )
    p = kinematics.four_vectors(np.concatenate([u[..., :2], np.exp(u[..., 2:])], -1), np.ones((3, 5))) * 1000
    metric = np.diag([1, -1, -1, -1])
    beams = np.array([[math.sqrt(1.25), 0, 0, 1], [math.sqrt(1.25), 0, 0, -1]])
    vectors = np.concatenate([np.broadcast_to(beams, (3, 2, 4)), p], axis=1)
    expected = vectors @ metric @ vectors.swapaxes(1, 2)
    assert_close(pairs.products(torch.from_numpy(u), 0.5), torch.from_numpy(expected), atol=1e-8, rtol=1e-9)


def test_pair_features_are_their_definitions():
    u = torch.tensor([[[0.2, 0.1, -2.0], [-0.1, 0.3, -3.0]]], dtype=torch.float64)
    found = pairs.logarithms(u, torch.tensor([0]), torch.tensor([1])).squeeze().exp()
    delta, soft, hard = math.hypot(0.3, 0.2), math.exp(-3), math.exp(-2)
    m2 = kinematics.jet_mass(torch.cat([u[..., :2], u[..., 2:].exp()], -1), np.ones((1, 2))).item() ** 2
    assert found.tolist() == pytest.approx([soft * delta, soft / (soft + hard), delta, m2])


def test_pair_features_of_close_particles_are_right_in_float32():
    # At a distance of 1e-3 almost nothing is left of E² − p² in float32.
    u = torch.tensor([[[0.3, 0.2, -2.0], [0.301, 0.2, -3.0]]])
    found = pairs.logarithms(u, torch.tensor([0]), torch.tensor([1]))
    expected = pairs.logarithms(u.double(), torch.tensor([0]), torch.tensor([1]))
    assert_close(found.double(), expected, atol=1e-3, rtol=0)
    assert_close(pairs.products(u, 0.0).double(), pairs.products(u.double(), 0.0), atol=1e-6, rtol=1e-3)


def test_a_particle_is_its_own_pair_without_infinities():
    u = torch.zeros(1, 1, 3, requires_grad=True)
    found = pairs.logarithms(u, torch.tensor([0]), torch.tensor([0]))
    found.sum().backward()
    assert found.isfinite().all() and u.grad.isfinite().all()


def test_the_seven_inputs_are_those_of_the_four_vectors():
    (x, mask), physical = some_jets(), particles.Physical(FEATURES).double()
    u = physical(x, mask)
    found = particles.seven(u, mask)
    pt = u[..., 2].exp().masked_fill(~mask, 0)
    energy = torch.from_numpy(kinematics.four_vectors(torch.cat([u[..., :2], pt[..., None]], -1), mask)[..., 0])
    expected = [*u.unbind(-1), energy.log(), (pt / pt.sum(1, True)).log(), (energy / energy.sum(1, True)).log()]
    expected.append(torch.hypot(u[..., 0], u[..., 1]))
    assert_close(found[mask], torch.stack(expected, dim=-1)[mask])
    assert (found[~mask] == 0).all()


def test_masked_batch_normalisation_is_the_plain_one_of_the_real_entries():
    h, mask = torch.randn(4, 5, 3), torch.rand(4, 5) > 0.4
    masked, plain = particles.MaskedBatchNorm(3), nn.BatchNorm1d(3)
    for _ in range(2):
        assert_close(masked(h, mask)[mask], plain(h[mask]))
    assert_close(masked.running_var, plain.running_var)
    assert_close(masked.eval()(h, mask)[mask], plain.eval()(h[mask]))


def test_neighbours_are_the_nearest_real_particles_and_never_itself():
    from jetstudy.taggers.particlenet import nearest

    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.1, 0.0]]])
    index, real = nearest(points, torch.tensor([[True, True, True, False]]), 3)
    assert index[0, :3, :2].tolist() == [[1, 2], [0, 2], [1, 0]]
    assert real[0].tolist() == [[True, True, False]] * 3 + [[False] * 3]


def test_an_image_is_the_sum_of_ptrel_in_each_pixel():
    model = tagger("image")
    u = torch.tensor(
        [[[-0.39, 0.39, -1.0], [-0.38, 0.38, -2.0], [0.01, 0.01, -1.5], [0.41, 0.0, -1.0], [0.0, 0.0, 0.0]]]
    )
    x = (u.double() - model.physical.mean) / model.physical.std
    image = model.images(x, torch.tensor([[True] * 4 + [False]])).squeeze(0)
    assert image[0, 23].item() == pytest.approx(math.exp(-1) + math.exp(-2))
    assert image[12, 12].item() == pytest.approx(math.exp(-1.5))
    assert image.count_nonzero() == 2  # a particle beyond its edge is lost


# Sizes


def count(name, size):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return sum(p.numel() for p in taggers.build(name, FEATURES, size).parameters())


# Published with more inputs a particle than ours and with an output a class; `more` is what these add.
@pytest.mark.parametrize(
    ("name", "size", "more", "published"),
    [
        ("transformer", "paper", 0, 55_713),
        ("pfn", "paper", 101, 82e3),  # two outputs
        ("efn", "paper", 101, 82e3),
        ("particlenet", "paper", 257, 366e3),
        ("particlenet", "small", 129, 26e3),
        ("part", "paper", 10 * (2 + 2 + 128) + 9 * 129, 2.14e6),  # 17 inputs, 10 outputs
        ("part", "small", 33, 31e3),
        ("lorentznet", "paper", 73, 224e3),
        ("lgatr", "paper", 0, 1.1e6),
        ("cnn", "paper", 4 * 3 * 32 + 513, 348e3),
    ],
)
def test_a_tagger_has_as_many_parameters_as_its_paper_says(name, size, more, published):
    digits = 5 if published % 1000 else len(f"{published:.0f}".rstrip("0"))
    assert float(f"{count(name, size) + more:.{digits}g}") == published


# What the authors' code counts with its config/208k.yaml, 48k.yaml and 11k.yaml; the package's layers differ a little.
@pytest.mark.parametrize(("width", "inner", "published"), [(132, 78, 208_652), (60, 35, 48_337), (25, 15, 11_202)])
def test_pelican_has_as_many_parameters_as_its_authors_networks(width, inner, published):
    pytest.importorskip("pelican")
    settings = taggers.find("pelican").sizes["paper"] | {"width": width, "inner": (inner + 0.5) / width}
    network = taggers.build("pelican", FEATURES, **settings)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(published, rel=0.015)
    if width == 132:
        assert count("pelican", "paper") == sum(p.numel() for p in network.parameters())


def test_the_posters_transformer_has_as_many_parameters_as_its_docstring_says():
    embedding = (3 + 1) * 16 + (16 + 1) * 32
    block = 2 * 2 * 32 + (32 + 1) * 96 + (32 + 1) * 32 + (32 + 1) * 128 + (128 + 1) * 32
    head = 2 * 32 + (32 + 1) * 64 + (64 + 1) * 32 + (32 + 1)
    assert count("transformer", "paper") == embedding + 4 * block + head == 55_713
    assert "55,713 parameters" in taggers.find("transformer").__doc__
    assert count("transformer-8", "paper") == embedding + 8 * block + head


@every_tagger
def test_a_small_tagger_is_small_and_a_tagger_without_settings_is_the_papers(name):
    assert count(name, "small") < 50_000 <= count(name, "paper") == count(name, None)


@every_tagger
def test_a_tagger_names_a_recipe_that_training_knows(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    recipe = taggers.recipe(name, steps=10, batch=2, every=5, patience=3)
    assert recipe == Recipe(steps=10, batch=2, every=5, patience=3, **taggers.find(name).recipe)
    assert taggers.recipe(name, steps=10, batch=2, every=5, rate=0.5).rate == 0.5
    assert taggers.recipe(name, steps=10, batch=2, every=5, rate=0.0).rate == recipe.rate


# Training


@every_tagger
def test_gradients_reach_every_parameter(name):
    model = tagger(name)
    x, mask = some_jets(counts=(6, 4, 6))
    x[..., :2] *= 0.5
    model(x, mask).square().sum().backward()
    # A bias that all keys share moves all scores of a particle alike, which softmax does not see.
    for parameter_name, parameter in trained(model).items():
        reached = parameter.grad.abs() > 1e-12
        if parameter_name.endswith("query_key_value.bias"):
            queries, keys, values = reached.chunk(3)
            assert queries.any() and values.any() and not keys.any()
        else:
            assert reached.any(), parameter_name


@every_tagger
def test_every_tagger_learns_a_bit_in_thirty_steps(name):
    # Wide jets are signal. The particles' ptrel add up to about 1.
    generator, label = torch.Generator().manual_seed(1), torch.arange(100) % 2
    x = torch.randn(100, N_MAX, 3, generator=generator)
    x[..., :2] *= (0.3 + 1.2 * label)[:, None, None]
    x[..., 2] = 0.5 * x[..., 2] + 1.8
    batch = (x, torch.ones(100, N_MAX, dtype=torch.bool), label.float())
    model = new(name).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    with seeded(generator):
        for _ in range(30):
            losses.append(taggers.loss(model, batch, generator))
            optimiser.zero_grad()
            losses[-1].backward()
            optimiser.step()
    assert losses[-1] < 0.9 * losses[0]
    assert losses[-1] < 0.69


@pytest.mark.parametrize("name", ["transformer", "particlenet", "part", "lorentznet", "cnn"])
def test_dropout_acts_in_training_only(name):
    model, batch = tagger(name), some_jets()
    assert torch.equal(model(*batch), model(*batch))
    with seeded(torch.Generator().manual_seed(0)):
        assert not torch.equal(model.train()(*batch), model(*batch))


def test_attention_has_dropout_of_its_own():
    model, batch = tagger().train(), some_jets()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with seeded(torch.Generator().manual_seed(0)):
        assert not torch.equal(model(*batch), model(*batch))
    assert torch.equal(model.eval()(*batch), model(*batch))


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_logits_in_batches_are_those_of_all_jets_at_once(monkeypatch, size):
    x, mask = some_jets(counts=(6, 1, 4, 3, 3, 5, 2, 6, 4))
    expected = tagger()(x, mask)
    monkeypatch.setattr(taggers, "BATCH", size)
    found = taggers.logits(tagger().train(), x, mask)
    assert_close(found, expected.detach())
    assert not found.requires_grad


def test_logits_are_float64_whatever_the_tagger_computes_in():
    x, mask = some_jets()
    assert taggers.logits(tagger().float(), x.float(), mask).dtype == torch.float64


def test_the_loss_is_the_mean_cross_entropy_with_label_1_for_large_logits():
    x, mask = some_jets()
    label = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    probability = tagger()(x, mask).sigmoid()
    expected = -(label * probability.log() + (1 - label) * (1 - probability).log()).mean()
    assert_close(taggers.loss(tagger(), (x, mask, label), torch.Generator()), expected)


def test_the_transformer_learns_to_tell_the_toys_classes_apart(tmp_path):
    samples = [toy.generate(label, 2000, 12, np.random.default_rng(i)) for i, label in enumerate(("gluon", "top"))]
    features = Features.fit(samples)
    x = torch.from_numpy(np.concatenate([features.forward(jets) for jets in samples])).float()
    mask = torch.from_numpy(np.concatenate([jets.mask for jets in samples]))
    label = torch.arange(2).repeat_interleave(2000).float()
    truth = np.concatenate([toy.log_prob(jets, "top") - toy.log_prob(jets, "gluon") for jets in samples])
    held_out = torch.arange(4000) % 4 == 0
    data, validation = (tuple(part[chosen] for part in (x, mask, label)) for chosen in (~held_out, held_out))
    said, recipe = [], Recipe(steps=200, batch=128, rate=5e-3, every=100, ema=0.9)

    def fitted():
        new = partial(taggers.build, "transformer", features, width=16, heads=2, blocks=1)
        generator, checkpoint = torch.Generator().manual_seed(0), tmp_path / "checkpoint"
        return taggers.fitted(new, data, validation, recipe, generator, checkpoint, progress=said.append)

    model, losses = fitted()
    score = taggers.logits(model, *validation[:2])
    again, same = fitted()  # from the checkpoint
    assert "resuming at step 200 of 200" in said and same.equals(losses)
    assert torch.equal(taggers.logits(again, *validation[:2]), score)
    np.testing.assert_array_equal(taggers.on_jets(model, features)(concatenate(samples))[held_out], score)
    assert roc_auc_score(validation[2], score) > 0.65
    assert np.corrcoef(truth[held_out], score)[0, 1] > 0.4


def toy_sample(seed, n):
    """n toy jets per class, and their labels."""
    samples = [toy.generate(label, n, 8, np.random.default_rng([seed, i])) for i, label in enumerate(("gluon", "top"))]
    return concatenate(samples), np.repeat([0, 1], n)


@pytest.fixture(scope="module")
def abundant():
    """Toy jets to train on, to validate with and to test on, the last with their true LLR."""
    training, validation, (held_out, truth) = toy_sample(1, 200_000), toy_sample(2, 10_000), toy_sample(3, 20_000)
    return training, validation, held_out, truth, toy.log_prob(held_out, "top") - toy.log_prob(held_out, "gluon")


def behind_the_optimum(folder, name, abundant, steps, rate):
    """How far the cross-entropy of a small tagger is above the optimum's, jet by jet, and both AUCs."""
    (jets, label), validation, held_out, truth, llr = abundant
    features, generator = Features.fit([jets]), torch.Generator().manual_seed(0)
    recipe = taggers.recipe(name, steps=steps, batch=256, every=400, rate=rate)
    data = (taggers.tensors(features, jets, label), taggers.tensors(features, *validation))
    new = partial(taggers.build, name, features, "small")
    model, _ = taggers.fitted(new, *data, recipe, generator, folder / "checkpoint", progress=lambda line: None)
    logit = taggers.on_jets(model, features)(held_out)
    sign = np.where(truth == 1, -1, 1)
    return np.logaddexp(0, sign * logit) - np.logaddexp(0, sign * llr), auc(logit, truth), auc(llr, truth)


# How far above the smallest possible cross-entropy (nats; guessing is 0.228 above it) and below the largest AUC it may
# stay, after so many steps.
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("name", "steps", "excess", "below"),
    [("transformer", 8000, 0.025, 0.018), ("part", 2000, 0.04, 0.03), ("pfn", 4000, 0.035, 0.025)],
)
def test_a_tagger_with_abundant_jets_comes_near_the_known_optimum(tmp_path, abundant, name, steps, excess, below):
    difference, reached, possible = behind_the_optimum(tmp_path, name, abundant, steps, rate=3e-3)
    assert -3 * difference.std(ddof=1) / math.sqrt(len(difference)) < difference.mean() < excess
    assert possible - below < reached < possible + 3e-3


@pytest.mark.long
@pytest.mark.timeout(1200)
@every_tagger
def test_no_tagger_is_better_than_the_known_optimum(tmp_path, abundant, name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    steps = 400 if name in PACKAGES else 800  # the packages' are slow
    difference, reached, possible = behind_the_optimum(tmp_path, name, abundant, steps, rate=0)
    assert difference.mean() > -3 * difference.std(ddof=1) / math.sqrt(len(difference))
    assert 0.6 < reached < possible + 3e-3


# Save, load and taggers of one's own


@every_tagger
def test_a_loaded_tagger_equals_the_saved_one_bit_by_bit(tmp_path, name):
    x, mask = some_jets()
    saved = tagger(name).float()
    taggers.save(saved, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tagger.json", "weights.safetensors"]
    loaded = taggers.load(tmp_path)
    assert torch.equal(loaded(x.float(), mask), saved(x.float(), mask))
    assert not loaded.training


def test_trees_are_no_network_and_their_reader_is_named(tmp_path):
    (tmp_path / "trees.safetensors").touch()
    with pytest.raises(ValueError, match=r"trees\.safetensors: no network: jetstudy\.taggers\.trees\.Trees\.load"):
        taggers.load(tmp_path)


def test_a_tagger_is_trained_on_the_features_that_the_density_is_a_function_of():
    jets = toy.generate("top", 5, N_MAX, np.random.default_rng(0))
    features = Features.fit([jets])
    x, mask, label = taggers.tensors(features, jets, np.array([0, 1, 1, 0, 1]))
    assert (x.dtype, mask.dtype, label.dtype) == (torch.float32, torch.bool, torch.float32)
    np.testing.assert_allclose(x, features.forward(jets), rtol=1e-6)
    np.testing.assert_array_equal(mask, jets.mask)
    assert label.tolist() == [0, 1, 1, 0, 1]


def test_an_unknown_tagger_is_refused_by_name():
    with pytest.raises(ValueError, match=r"tagger 'forest': expected package.module:Class or one of transformer, pfn"):
        taggers.build("forest", FEATURES)


def test_a_size_that_a_tagger_lacks_is_refused():
    with pytest.raises(ValueError, match="tagger 'pfn': size 'huge', expected one of its sizes: paper, small"):
        taggers.build("pfn", FEATURES, "huge")


def test_a_number_behind_a_name_is_another_training_of_the_same_tagger(tmp_path):
    again = taggers.build("pfn.2", FEATURES, "small")
    lengths = {"steps": 7, "batch": 8, "every": 7}
    assert type(again) is taggers.find("pfn") and taggers.recipe("pfn.2", **lengths) == taggers.recipe("pfn", **lengths)
    assert len(taggers.build("transformer-8.12", FEATURES, "small").blocks) == 8
    taggers.save(again, tmp_path)
    assert type(taggers.load(tmp_path)) is type(again)
    with pytest.raises(ValueError, match=r"tagger 'nothing.2': expected package.module:Class"):
        taggers.build("nothing.2", FEATURES)


def test_a_depth_of_the_transformer_is_a_name():
    assert len(taggers.build("transformer-8", FEATURES, "small").blocks) == 8
    assert len(taggers.build("transformer", FEATURES, "small").blocks) == 2


OWN = """
from torch import nn

from jetstudy.taggers.particles import mean


class Mine(nn.Module):
    def __init__(self, features, width=4):
        super().__init__()
        self.particle, self.jet = nn.Linear(3, width), nn.Linear(width, 1)

    def forward(self, x, mask):
        h = self.particle(x.masked_fill(~mask[..., None], 0)).relu()
        return self.jet(mean(h, mask)).squeeze(-1)


class Wrong(Mine):
    def forward(self, x, mask):
        return super().forward(x, mask)[:, None]


class Fixed(Mine):
    def forward(self, x, mask):
        return x.reshape(len(x), 10, -1).sum((1, 2))


class Empty(nn.Module):
    recipe = {"optimizer": "adamw"}

    def __init__(self, features):
        super().__init__()


class Shared(Mine):
    def __init__(self, features):
        super().__init__(features)
        self.again = nn.Linear(3, 4)
        self.again.weight = self.particle.weight


def function(features):
    return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_taggers.py").write_text(OWN)
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_taggers", None)


def test_a_tagger_of_ones_own_is_built_scored_saved_and_loaded(own, tmp_path):
    model, (x, mask) = taggers.build("own_taggers:Mine", FEATURES, "small", width=5), some_jets()
    assert model.particle.out_features == 5 and model.training
    assert type(taggers.build("own_taggers:Mine.2", FEATURES, "small")) is type(model)
    taggers.save(model, tmp_path)
    assert json.loads((tmp_path / "tagger.json").read_text())["name"] == "own_taggers:Mine"
    found = taggers.logits(taggers.load(tmp_path, "own_taggers:Mine"), x.float(), mask)
    assert torch.equal(found, taggers.logits(model, x.float(), mask))


def test_a_tagger_whose_file_was_changed_is_trained_afresh(own, tmp_path):
    from jetstudy.study import Part

    values = {"taggers": "own_taggers:Mine", "samples": "source", "seeds": 1}
    part = Part("05_taggers", values, {"parameter_set": "smoke"})
    before = part.checkpoint(code=taggers.code("own_taggers:Mine"))
    assert part.checkpoint(code=taggers.code("own_taggers:Mine.2")) == before
    (tmp_path / "own_taggers.py").write_text(OWN.replace(".relu()", ".tanh()"))
    assert part.checkpoint(code=taggers.code("own_taggers:Mine")) != before


def test_no_module_is_imported_because_a_file_names_it(own, tmp_path):
    taggers.save(taggers.build("own_taggers:Mine", FEATURES, "small"), tmp_path)
    del sys.modules["own_taggers"]
    for name in (None, "own_taggers:Other", "pfn"):
        with pytest.raises(ValueError, match=r"tagger\.json: a tagger 'own_taggers:Mine'; if it is yours, say so"):
            taggers.load(tmp_path, name)
    assert "own_taggers" not in sys.modules


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("no_such_module:Mine", ValueError, "no module 'no_such_module'; install it or put its folder on PYTHONPATH"),
        ("mine.py:Mine", ValueError, "a module is named without its .py"),
        ("needs_more:Mine", ValueError, "no module 'a_package_that_is_not_there'"),
        ("own_taggers:Yours", ValueError, "module own_taggers has no Yours"),
        ("own_taggers:function", TypeError, "function is not a class of torch.nn.Module"),
        ("own_taggers:Wrong", ValueError, r"output of shape torch.Size\(\[2, 1\]\) for 2 jets, expected \(2,\)"),
        ("own_taggers:Fixed", ValueError, "forward.x, mask. was tried on two jets of 4 and 3 particles.*RuntimeError"),
        ("own_taggers:Empty", ValueError, "it has no parameters to train"),
        ("own_taggers:Shared", ValueError, "its settings or weights cannot be saved"),
    ],
)
def test_a_wrong_tagger_of_ones_own_is_refused_by_what_is_wrong(own, name, error, message):
    with pytest.raises(error, match=f"tagger '{name}': {message}"):
        taggers.build(name, FEATURES)


def test_a_recipe_of_ones_own_is_refused_by_the_key_that_training_does_not_know(own):
    with pytest.raises(ValueError, match="tagger 'own_taggers:Empty': recipe has 'optimizer'; there are steps, batch"):
        taggers.recipe("own_taggers:Empty", steps=2, batch=2, every=1)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    for module in ("pelican", "pelican.nets"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "jetstudy.taggers.pelican", raising=False)
    with pytest.raises(ValueError, match=r"tagger 'pelican': no module 'pelican.*'; pip install -e '.\[taggers\]'"):
        taggers.build("pelican", FEATURES)
