"""Taggers on high-level features (n, k) of jets: gradient boosting and a random forest, fitted by scikit-learn.

A fitted model is a list of binary trees, whose nodes each compare one feature with a threshold. They are read out once
and scored here, so a model has one code path before and after it is saved, as numbers, and nothing is pickled.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from safetensors.numpy import save_file
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from jetstudy.files import read_tensors, replacing
from jetstudy.sources import kind

SIZES = {
    "boosting": {
        "paper": {"max_iter": 1000, "learning_rate": 0.05},
        "small": {"max_iter": 100, "learning_rate": 0.1},
    },
    "forest": {
        "paper": {"n_estimators": 500, "min_samples_leaf": 5},
        "small": {"n_estimators": 100, "min_samples_leaf": 10},
    },
}

BATCH = 1000  # jets at a time, so that memory stays bounded


@dataclass(frozen=True, eq=False)
class Trees:
    """Trees, each of which leads a jet from its root to a leaf, whose value counts.

    root: (T,) the first node of each tree
    feature, left, right: (nodes,) the feature compared, the node to go to if it is at most the threshold, and the other
        one; a leaf leads to itself
    threshold, value: (nodes,) float64; of a leaf, what it adds to the logit (boosting) or its share of signal (forest)
    start: the logit before the first tree; NaN for a forest, whose logit is that of the mean share
    """

    root: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    start: float

    @classmethod
    def fit(cls, name: str, features: ArrayLike, label: ArrayLike, seed: int, size: str = "paper") -> "Trees":
        """Fit "boosting" or "forest" to features (n, k) and label (n,), 1 for signal.

        Boosting stops when a tenth of the jets, held out by ``seed``, no longer gets better.
        """
        known = kind(name)
        if known not in SIZES:
            raise ValueError(f"trees {name!r}: expected one of {', '.join(SIZES)}")
        features = _finite(features)
        if known == "boosting":
            model = HistGradientBoostingClassifier(early_stopping=True, random_state=seed, **SIZES[known][size])
            nodes = [tree.nodes for (tree,) in model.fit(features, label)._predictors]
            parts = [
                (
                    tree["feature_idx"],
                    tree["num_threshold"],
                    tree["left"],
                    tree["right"],
                    tree["value"],
                    tree["is_leaf"],
                )
                for tree in nodes
            ]
            return cls._of(parts, model._baseline_prediction.item())
        model = RandomForestClassifier(random_state=seed, **SIZES[known][size])
        nodes = [tree.tree_ for tree in model.fit(features, label).estimators_]
        parts = [
            (
                tree.feature,
                tree.threshold,
                tree.children_left,
                tree.children_right,
                tree.value[:, 0, 1],
                tree.feature < 0,
            )
            for tree in nodes
        ]
        return cls._of(parts, np.nan)

    @classmethod
    def _of(cls, parts, start: float) -> "Trees":
        """One list of nodes from those of each tree: feature, threshold, left, right, value, leaf."""
        sizes = [len(part[0]) for part in parts]
        first = np.cumsum([0, *sizes[:-1]])
        feature, threshold, left, right, value, leaf = map(np.concatenate, zip(*parts, strict=True))
        node, offset = np.arange(len(leaf)), np.repeat(first, sizes)
        left, right = (np.where(leaf, node, child.astype(np.int64) + offset) for child in (left, right))
        feature, threshold = np.where(leaf, 0, feature.astype(np.int64)), np.where(leaf, 0.0, threshold)
        return cls(first, feature, threshold, left, right, value.astype(np.float64), start)

    def logits(self, features: ArrayLike) -> np.ndarray:
        """Logits (n,) float64 of jets with features (n, k)."""
        features = _finite(features)
        return np.concatenate([self._batch(features[k : k + BATCH]) for k in range(0, max(1, len(features)), BATCH)])

    def _batch(self, features: np.ndarray) -> np.ndarray:
        jet = np.arange(len(features))[:, None]
        node, before = np.broadcast_to(self.root, (len(features), len(self.root))), None
        while before is None or (node != before).any():
            before = node
            below = features[jet, self.feature[node]] <= self.threshold[node]
            node = np.where(below, self.left[node], self.right[node])
        total = self.value[node].sum(1)
        if np.isfinite(self.start):
            return self.start + total
        # Half a tree for either class keeps the logit finite where all trees agree.
        return np.log(total + 0.5) - np.log(len(self.root) - total + 0.5)

    def save(self, path: Path) -> None:
        arrays = {name: getattr(self, name) for name in ("root", "feature", "threshold", "left", "right", "value")}
        with replacing(path) as unfinished:
            save_file(arrays | {"start": np.array([self.start])}, unfinished)

    @classmethod
    def load(cls, path: Path) -> "Trees":
        arrays = read_tensors(path)
        return cls(**arrays | {"start": arrays["start"].item()})


def _finite(features: ArrayLike) -> np.ndarray:
    """Features as float32, in which scikit-learn's forests compare."""
    features = np.asarray(features, np.float32)
    if not np.isfinite(features).all():
        jet, feature = np.argwhere(~np.isfinite(features))[0]
        raise ValueError(f"feature {feature} of jet {jet} is {features[jet, feature]}: trees need finite features")
    return features
