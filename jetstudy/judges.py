"""Judges: can anything be trained to tell synthetic jets from the source's?

A judge that separates them (AUC above 0.5) proves a difference, whatever it is. One that doesn't proves nothing until
it has shown its power: the same training must separate the source from its own jets with a known, small distortion.
Hence three kinds of contest, all between equally many jets and with the same source jets A on one side: A against
synthetic jets S (the verdict), against other source jets B (the floor, where the AUC is 0.5 but for chance) and
against B distorted (the power).

Several judges look, and the best counts. Which one that is, its AUC on a validation part decides; what is quoted is
its AUC on a test part that neither training nor choice has seen, so looking with many eyes makes no false alarm.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from jetstudy import taggers
from jetstudy.features import Features
from jetstudy.jets import Jets, arrange, concatenate
from jetstudy.limit import auc, checked
from jetstudy.sources import kind, seed_sequence
from jetstudy.substructure import high_level, pair_masses
from jetstudy.training import Recipe

Sample = tuple[Jets, np.ndarray]  # jets and label (n,) int: 0 for the source's, 1 for the others
Score = Callable[[Jets], np.ndarray]
Judge = Callable[[Sample, Sample, np.random.Generator, Path], Score]  # training, validation, generator, checkpoint

BEST = "best"
SIGNIFICANT = 3.0  # standard deviations above 0.5
SHARES = {"train": 0.6, "validation": 0.1}  # the rest is for the test


def delong(score: ArrayLike, label: ArrayLike) -> tuple[float, float]:
    """(AUC, its standard error) of scores (n,) on independent jets (DeLong, DeLong, Clarke-Pearson, Biometrics 1988).

    The error is that of the finite test sample; it knows nothing of how another training would have come out.
    """
    label, score = checked(label, score=score)
    if min(label.sum(), (~label).sum()) < 2:
        raise ValueError(f"{label.sum()} and {(~label).sum()} jets: a standard error needs two of each")
    rank = rankdata(score)
    # The share of the other class that each jet outranks, ties half.
    signal = (rank[label] - rankdata(score[label])) / (~label).sum()
    background = (rank[~label] - rankdata(score[~label])) / label.sum()
    variance = signal.var(ddof=1) / len(signal) + background.var(ddof=1) / len(background)
    return float(signal.mean()), float(np.sqrt(variance))


# Judges


def boosting(training: Sample, validation: Sample, generator: np.random.Generator, checkpoint: Path) -> Score:
    """Gradient boosting of trees on `substructure.high_level`; it stops itself, on a tenth of its training jets."""
    return boosted(high_level, training, generator)


def pairs(training: Sample, validation: Sample, generator: np.random.Generator, checkpoint: Path) -> Score:
    """The same, given `substructure.pair_masses` as well."""
    return boosted(lambda jets: high_level(jets).join(pair_masses(jets)), training, generator)


def boosted(features: Callable[[Jets], pd.DataFrame], training: Sample, generator: np.random.Generator) -> Score:
    """Gradient boosting on a table of `features` of the jets, with early stopping."""
    forest = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=400,
        max_leaf_nodes=15,
        early_stopping=True,
        n_iter_no_change=20,
        random_state=int(generator.integers(2**31)),
    )
    jets, label = training
    forest.fit(features(jets).to_numpy(), label)
    return lambda jets: forest.decision_function(features(jets).to_numpy())


ON_FEATURES = {"boosting": boosting, "pairs": pairs}


def on_features(name: str) -> bool:
    """Whether a judge looks at features; if not, it is a tagger. (`pairs.2` is another training of `pairs`.)"""
    return kind(name) in ON_FEATURES


def tagger(
    build: Callable[[Features], nn.Module],
    recipe: Recipe,
    device: str = "cpu",
    progress: Callable[[str], None] = print,
) -> Judge:
    """A judge that is a tagger of the package, trained by `recipe` on the particles.

    `build` makes it from the features it is to see: ``lambda features: taggers.build("pfn", features, "small")``.
    """

    def judge(training: Sample, validation: Sample, generator: np.random.Generator, checkpoint: Path) -> Score:
        jets, label = training
        features = Features.fit([jets[label == c] for c in (0, 1)])
        stream = torch.Generator().manual_seed(int(generator.integers(2**62)))
        data = (taggers.tensors(features, *sample) for sample in (training, validation))
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        model, _ = taggers.fitted(lambda: build(features), *data, recipe, stream, checkpoint, device, progress)
        return taggers.on_jets(model, features)

    return judge


def named(name: str, steps: int, device: str = "cpu", progress: Callable[[str], None] = print) -> Judge:
    """The judge called `name`: of `ON_FEATURES`, or a small tagger of that name trained for so many `steps`."""
    if on_features(name):
        return ON_FEATURES[kind(name)]
    recipe = taggers.recipe(name, steps=steps, batch=128, every=max(1, steps // 8))
    return tagger(lambda features: taggers.build(name, features, "small"), recipe, device, progress)


# Distortions


def wider(jets: Jets, excess: float) -> Jets:
    """The same jets with all angles 1 + `excess` times as large."""
    return Jets((jets.particles * [1 + excess, 1 + excess, 1]).astype(np.float32), jets.mask, jets.features)


def steeper(jets: Jets, tilt: float) -> Jets:
    """The same jets with each ptrel times a constant times ptrel^`tilt`: soft particles softer, hard ones harder.

    The constant keeps a jet's sum of ptrel, whose sharp edge near 1 would betray the smallest change of it.
    """
    particles = jets.particles.astype(np.float64)
    pt = np.where(jets.mask, particles[..., 2], 0)
    tilted = pt ** (1 + tilt)
    particles[..., 2] = tilted * (pt.sum(1) / tilted.sum(1))[:, None]
    return arrange(particles, jets.mask, jets.features)


DISTORTIONS = {"angles + 5 %": partial(wider, excess=0.05), "ptrel tilted by 0.05": partial(steeper, tilt=0.05)}


# Verdicts


def contest(
    source: Jets, other: Jets, judges: Mapping[str, Judge], generator: np.random.Generator, folder: Path
) -> pd.DataFrame:
    """Train each judge to tell `other` from `source`, both in random order, and test it on jets it has not seen.

    A row a judge, and a last one, `best`, for the one with the largest validation AUC. Columns: metric, judge, value
    and uncertainty (test AUC and its DeLong error). The checkpoint of a judge is `folder`/<name>-<digest of the
    jets>.safetensors: an interrupted training goes on, and no training goes on with other jets. ValueError for unequal
    numbers of jets, or fewer than 20.
    """
    n = len(source)
    if len(other) != n or n < 20:
        raise ValueError(f"{n} and {len(other)} jets: a contest needs equal numbers, at least 20")
    if BEST in judges:
        raise ValueError(f"no judge may be called {BEST!r}")
    ends = np.cumsum([round(share * n) for share in SHARES.values()])
    parts = [slice(0, ends[0]), slice(ends[0], ends[1]), slice(ends[1], n)]
    training, validation, test = (
        (concatenate([source[part], other[part]]), np.repeat([0, 1], len(range(n)[part]))) for part in parts
    )
    content = hashlib.sha256(source.particles.tobytes() + other.particles.tobytes()).hexdigest()[:8]
    found, rows = {}, {}
    for name, judge in judges.items():
        score = judge(training, validation, generator, Path(folder) / f"{name}-{content}.safetensors")
        found[name] = auc(score(validation[0]), validation[1])
        value, uncertainty = delong(score(test[0]), test[1])
        rows[name] = {"judge": name, "value": value, "uncertainty": uncertainty}
    rows[BEST] = rows[max(found, key=found.get)]
    return pd.DataFrame([{"metric": f"auc_{name}", **row} for name, row in rows.items()])


def verdicts(
    source: Mapping[str, Jets],
    synthetic: Mapping[str, Mapping[str, Jets]],
    judges: Mapping[str, Judge],
    generator: np.random.Generator,
    folder: Path,
    distortions: Mapping[str, Callable[[Jets], Jets]] = DISTORTIONS,
) -> pd.DataFrame:
    """AUC of each judge, and of the best, on the synthetic jets of each surrogate and class.

    source: jets by class, none of which a surrogate was trained on
    synthetic: jets by surrogate and class
    generator: each contest has random numbers of its own from it, whichever others there are
    folder: for checkpoints, <class>/<contest>/<judge>-<digest>.safetensors

    Columns as of `fidelity.distances`, the floor being the AUC of the same judge on source against source, and
    judge (for `auc_best` the one chosen) and verdict: "separates" (AUC above 0.5 by 3 standard errors), "finds
    nothing", or "has not learned" where it separates no distortion either, so that its AUC says nothing. Distorted
    source jets have rows of their own, `surrogate` being "source, <distortion>". jets is the number of jets on
    each side, three tenths of them for the test.

    Raises ValueError for too few jets; KeyError for a class of which a surrogate has no jets.
    """
    tables, root = [], int(generator.integers(2**62))
    for label, jets in source.items():

        def numbers(contest: str, label=label) -> np.random.Generator:
            return np.random.default_rng(seed_sequence(root, f"{label}/{contest}"))

        n = min([len(jets) // 2, *(len(by_class[label]) for by_class in synthetic.values())])
        order = numbers("halves").permutation(len(jets))
        a, b = jets[order[:n]], jets[order[n : 2 * n]]
        distorted = {f"source, {name}": distort(b) for name, distort in distortions.items()}
        drawn = {
            name: by_class[label][numbers(f"jets of {name}").permutation(len(by_class[label]))[:n]]
            for name, by_class in synthetic.items()
        }
        floor = contest(a, b, judges, numbers("source"), Path(folder) / label / "source")
        floor = floor[floor["metric"] != f"auc_{BEST}"].set_index("judge")
        for name, other in {**drawn, **distorted}.items():
            table = contest(a, other, judges, numbers(name), Path(folder) / label / name)
            table.insert(0, "surrogate", name)
            table.insert(1, "class", label)
            table["floor"] = table["judge"].map(floor["value"])
            table["floor_uncertainty"], table["jets"] = table["judge"].map(floor["uncertainty"]), n
            tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    separates = table["value"] - 0.5 > SIGNIFICANT * table["uncertainty"]
    of_distorted = table["surrogate"].isin([f"source, {name}" for name in distortions])
    learned = (separates & of_distorted).groupby([table["class"], table["metric"]]).transform("any")
    table["verdict"] = np.select([separates, learned], ["separates", "finds nothing"], "has not learned")
    columns = ["surrogate", "class", "metric", "value", "uncertainty", "floor", "floor_uncertainty", "jets"]
    return table[[*columns, "judge", "verdict"]]
