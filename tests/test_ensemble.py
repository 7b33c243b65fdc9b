import numpy as np
import pytest

from jetstudy.limit import auc
from jetstudy.taggers.ensemble import average, both, stacked


def sample(seed, n=20_000):
    """Logits of a good, a mediocre and an uninformed tagger with independent errors, the LLR and the label."""
    generator = np.random.default_rng(seed)
    label = np.arange(n) % 2
    views = {
        name: generator.normal(d * (label - 0.5), 1) for name, d in (("good", 2.0), ("mediocre", 1.0), ("none", 0.0))
    }
    # The logits of each view alone; all views together have the LLR 2 good + 1 mediocre.
    logits = {"good": 2 * views["good"], "mediocre": 3 * views["mediocre"], "none": views["none"]}
    return logits, 2 * views["good"] + views["mediocre"], label


def test_an_average_is_the_mean_logit():
    assert average({"a": [1.0, 2.0], "b": [3.0, -2.0]}).tolist() == [2.0, 0.0]


def test_a_stack_finds_the_weights_of_the_likelihood_ratio_and_beats_its_taggers():
    validation, _, label = sample(0)
    logits, llr, truth = sample(1)
    found, weights = stacked(validation, label, logits)
    assert weights == pytest.approx({"good": 1.0, "mediocre": 1 / 3, "none": 0.0}, abs=0.05)
    np.testing.assert_allclose(found, llr, atol=0.4)
    assert auc(found, truth) > max(auc(values, truth) for values in logits.values())


def test_a_stack_without_the_logits_of_a_tagger_is_refused():
    validation, _, label = sample(0, 100)
    with pytest.raises(KeyError, match="good"):
        stacked(validation, label, {"mediocre": validation["mediocre"]})


def test_both_ensembles_come_by_name():
    (validation, _, label), (logits, _, _) = sample(0, 500), sample(1, 500)
    found = both(validation, label, logits)
    assert list(found) == ["average", "stacked"]
    np.testing.assert_array_equal(found["average"], average(logits))
    np.testing.assert_array_equal(found["stacked"], stacked(validation, label, logits)[0])
