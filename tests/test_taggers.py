import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.testing import assert_close

from jetstudy import taggers
from jetstudy.features import Features
from jetstudy.sources import toy
from jetstudy.training import Recipe, seeded, train

N_MAX = 6


def tagger(seed=0, width=8, heads=2, blocks=2):
    """A float64 tagger with random weights, its biases and norms too, ready to score."""
    model = taggers.build("transformer", width=width, heads=heads, blocks=blocks).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def some_jets(seed=0, counts=(6, 1, 4)):
    """x (B, N_MAX, 3) with noise in the padding too, and mask (B, N_MAX)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(counts), N_MAX, 3, generator=generator, dtype=torch.float64)
    return x, torch.arange(N_MAX) < torch.tensor(counts)[:, None]


models = st.builds(tagger, st.integers(0, 2**31), heads=st.sampled_from([1, 2, 4]), blocks=st.integers(1, 3))
jets = st.builds(some_jets, st.integers(0, 2**31), st.lists(st.integers(1, N_MAX), min_size=1, max_size=4))
property_test = settings(max_examples=15, deadline=None, database=None)


@property_test
@given(models, jets, st.permutations(range(N_MAX)))
def test_the_order_of_the_particles_does_not_matter(model, batch, order):
    x, mask = batch
    assert_close(model(x[:, order], mask[:, order]), model(x, mask))


@property_test
@given(models, jets, st.sampled_from([0.0, -1e6, float("inf"), float("nan")]))
def test_what_stands_in_the_padding_does_not_matter(model, batch, content):
    x, mask = batch
    assert torch.equal(model(torch.where(mask[..., None], x, content), mask), model(x, mask))


@property_test
@given(models, jets, st.integers(1, 5))
def test_more_padding_does_not_matter(model, batch, room):
    x, mask = batch
    pad = nn.functional.pad
    assert_close(model(pad(x, (0, 0, 0, room), value=7.0), pad(mask, (0, room))), model(x, mask))


@property_test
@given(models, jets)
def test_a_jet_does_not_see_the_other_jets_of_its_batch(model, batch):
    alone = [model(x[None], mask[None]) for x, mask in zip(*batch, strict=True)]
    assert_close(torch.cat(alone), model(*batch))


@property_test
@given(models, jets)
def test_the_transformer_is_blind_to_the_number_of_particles(model, batch):
    x, mask = batch
    assert_close(model(x.repeat(1, 3, 1), mask.repeat(1, 3)), model(x, mask))


def test_every_particle_counts():
    x, mask = some_jets()
    expected = tagger()(x, mask)
    for i in range(N_MAX):
        moved = x.clone()
        moved[:, i] += 0.3
        assert torch.equal((tagger()(moved, mask) - expected).abs() > 1e-8, mask[:, i])


def test_gradients_reach_every_parameter():
    model = tagger()
    model(*some_jets()).square().sum().backward()
    # A bias that all keys share moves all scores of a particle alike, which softmax does not see.
    for name, parameter in model.named_parameters():
        reached = parameter.grad.abs() > 1e-12
        if name.endswith("query_key_value.bias"):
            queries, keys, values = reached.chunk(3)
            assert queries.all() and values.all() and not keys.any()
        else:
            assert reached.any(), name


def test_the_posters_transformer_has_as_many_parameters_as_its_docstring_says():
    count = sum(p.numel() for p in taggers.build("transformer", width=32, heads=4, blocks=4).parameters())
    embedding = (3 + 1) * 16 + (16 + 1) * 32
    block = 2 * 2 * 32 + (32 + 1) * 96 + (32 + 1) * 32 + (32 + 1) * 128 + (128 + 1) * 32
    head = 2 * 32 + (32 + 1) * 64 + (64 + 1) * 32 + (32 + 1)
    assert count == embedding + 4 * block + head == 55_713
    assert "55,713 parameters" in taggers.Transformer.__doc__
    assert count == sum(p.numel() for p in taggers.Transformer().parameters())


def test_dropout_acts_in_training_only():
    model, batch = tagger(), some_jets()
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
    with seeded(torch.Generator().manual_seed(0)):
        model = taggers.build("transformer", width=16, heads=2, blocks=1)
    recipe, generator = Recipe(steps=150, batch=128, rate=1e-2, every=75, ema=0.9), torch.Generator().manual_seed(0)
    train(model, taggers.loss, data, validation, recipe, generator, tmp_path / "checkpoint", lambda line: None)
    score = taggers.logits(model, *validation[:2])
    assert roc_auc_score(validation[2], score) > 0.65
    assert np.corrcoef(truth[held_out], score)[0, 1] > 0.4


def test_a_loaded_tagger_equals_the_saved_one_bit_by_bit(tmp_path):
    x, mask = some_jets()
    saved = tagger(width=16, heads=4, blocks=1).float()
    taggers.save(saved, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tagger.json", "weights.safetensors"]
    loaded = taggers.load(tmp_path)
    assert torch.equal(loaded(x.float(), mask), saved(x.float(), mask))
    assert not loaded.training


def test_a_tagger_is_trained_on_the_features_that_the_density_is_a_function_of():
    jets = toy.generate("top", 5, N_MAX, np.random.default_rng(0))
    features = Features.fit([jets])
    x, mask, label = taggers.tensors(features, jets, np.array([0, 1, 1, 0, 1]))
    assert (x.dtype, mask.dtype, label.dtype) == (torch.float32, torch.bool, torch.float32)
    np.testing.assert_allclose(x, features.forward(jets), rtol=1e-6)
    np.testing.assert_array_equal(mask, jets.mask)
    assert label.tolist() == [0, 1, 1, 0, 1]


def test_an_unknown_tagger_is_refused_by_name():
    with pytest.raises(ValueError, match="tagger 'forest': expected one of transformer"):
        taggers.build("forest")
