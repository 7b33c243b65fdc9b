"""Ensembles of taggers, from the logits that each has given to the same jets: arrays in, logits out."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

NAMES = ("average", "stacked")


def both(
    validation: Mapping[str, ArrayLike], label: ArrayLike, logits: Mapping[str, ArrayLike]
) -> dict[str, np.ndarray]:
    """Logits (n,) of the two ensembles, by name. Arguments are those of `stacked`."""
    return dict(zip(NAMES, (average(logits), stacked(validation, label, logits)[0]), strict=True))


def average(logits: Mapping[str, ArrayLike]) -> np.ndarray:
    """The mean (n,) of the taggers' logits (each (n,)), that is, the geometric mean of their odds."""
    return np.mean([np.asarray(values, np.float64) for values in logits.values()], axis=0)


def stacked(
    validation: Mapping[str, ArrayLike], label: ArrayLike, logits: Mapping[str, ArrayLike]
) -> tuple[np.ndarray, dict[str, float]]:
    """The weighted sum (n,) of the taggers' logits, and the weights by tagger.

    Weights and an offset are those of a logistic regression of the label on the logits of the *validation* jets, of
    which taggers have seen no more than when to stop. KeyError for a tagger without logits of the jets to score.
    """
    names = list(validation)
    scale = StandardScaler()
    known = scale.fit_transform(np.stack([np.asarray(validation[name], np.float64) for name in names], axis=1))
    # Taggers agree so much that, without any penalty, their weights would be large and of opposite sign.
    model = LogisticRegression(C=1.0).fit(known, label)
    x = np.stack([np.asarray(logits[name], np.float64) for name in names], axis=1)
    weights = model.coef_[0] / scale.scale_
    return model.decision_function(scale.transform(x)), dict(zip(names, weights.tolist(), strict=True))
