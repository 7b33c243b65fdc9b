import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from jetstudy.limit import auc
from jetstudy.taggers import trees
from jetstudy.taggers.trees import Trees


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    sizes = {"boosting": {"max_iter": 12, "learning_rate": 0.2}, "forest": {"n_estimators": 9, "min_samples_leaf": 5}}
    monkeypatch.setattr(trees, "SIZES", {name: {"paper": settings} for name, settings in sizes.items()})


def sample(seed, n=600):
    """Three features, of which two differ between the classes, and the label."""
    generator = np.random.default_rng(seed)
    label = np.arange(n) % 2
    return generator.normal(size=(n, 3)) + np.stack([label, 0 * label, -0.5 * label], axis=1), label


both = pytest.mark.parametrize("name", ["boosting", "forest"])


@both
def test_trees_learn_and_their_logits_are_large_for_signal(name):
    model, (features, label) = Trees.fit(name, *sample(0), seed=1), sample(1)
    logits = model.logits(features)
    assert logits.dtype == np.float64 and np.isfinite(logits).all()
    assert auc(logits, label) > 0.7


def test_a_number_behind_a_name_is_another_fit():
    first, second = (Trees.fit(name, *sample(0), seed=1) for name in ("forest", "forest.2"))
    np.testing.assert_array_equal(first.value, second.value)


def test_boosting_is_scored_as_by_scikit_learn():
    model, (features, _) = Trees.fit("boosting", *sample(0), seed=1), sample(1)
    theirs = HistGradientBoostingClassifier(early_stopping=True, random_state=1, **trees.SIZES["boosting"]["paper"])
    theirs.fit(sample(0)[0].astype(np.float32), sample(0)[1])
    expected = theirs.decision_function(features.astype(np.float32))
    np.testing.assert_allclose(model.logits(features), expected, rtol=1e-12, atol=1e-12)


def test_a_forest_is_scored_as_by_scikit_learn():
    model, (features, _) = Trees.fit("forest", *sample(0), seed=1), sample(1)
    theirs = RandomForestClassifier(random_state=1, **trees.SIZES["forest"]["paper"])
    share = theirs.fit(sample(0)[0].astype(np.float32), sample(0)[1]).predict_proba(features)[:, 1]
    np.testing.assert_allclose(model.logits(features), np.log((9 * share + 0.5) / (9.5 - 9 * share)), atol=1e-12)


@both
def test_loaded_trees_equal_the_saved_ones_and_the_same_seed_gives_the_same_trees(tmp_path, name):
    features, _ = sample(1)
    model = Trees.fit(name, *sample(0), seed=1)
    model.save(tmp_path / "trees.safetensors")
    np.testing.assert_array_equal(Trees.load(tmp_path / "trees.safetensors").logits(features), model.logits(features))
    np.testing.assert_array_equal(Trees.fit(name, *sample(0), seed=1).logits(features), model.logits(features))
    assert (Trees.fit(name, *sample(0), seed=2).logits(features) != model.logits(features)).any()


def test_logits_in_batches_are_those_of_all_jets_at_once(monkeypatch):
    model, (features, _) = Trees.fit("forest", *sample(0), seed=1), sample(1)
    expected = model.logits(features)
    monkeypatch.setattr(trees, "BATCH", 7)
    np.testing.assert_array_equal(model.logits(features), expected)


def test_features_that_are_not_finite_are_refused_by_place():
    features, label = sample(0)
    features[7, 2] = np.nan
    with pytest.raises(ValueError, match="feature 2 of jet 7 is nan"):
        Trees.fit("forest", features, label, seed=1)


def test_unknown_trees_are_refused_by_name():
    with pytest.raises(ValueError, match="trees 'oak': expected one of boosting, forest"):
        Trees.fit("oak", *sample(0), seed=1)
