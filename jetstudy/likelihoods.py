"""What the likelihoods look like: maps and distributions of log p, of the LLR, and of what an acceptance does to them.

Densities are not probabilities. What holds for each class c is E_c[log p_other] <= E_c[log p_c]: the mean
of the same-jet difference log p_own - log p_other is the Kullback-Leibler divergence, never negative.

Histograms have at most `n_bins` bins an axis, fewer where the jets are too few to fill them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from jetstudy.acceptance import Acceptance, set_aside
from jetstudy.fidelity import affordable, density, standard_error
from jetstudy.jets import Jets, split
from jetstudy.limit import checked


def _checked(log_prob: ArrayLike, label: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    (label,) = checked(label)
    log_prob = np.asarray(log_prob, dtype=np.float64)
    if log_prob.shape != (len(label), 2):
        raise ValueError(f"log_prob has shape {log_prob.shape}, {len(label)} labels ask for ({len(label)}, 2)")
    if not np.isfinite(log_prob).all():
        jet, model = np.argwhere(~np.isfinite(log_prob))[0]
        raise ValueError(f"log_prob[{jet}, {model}] is {log_prob[jet, model]}: likelihoods must be finite")
    return log_prob, label


def maps(
    log_prob: ArrayLike, mass: ArrayLike, label: ArrayLike, classes: Sequence[str], n_bins: int = 40
) -> pd.DataFrame:
    """Jets of each class x model of each class: log p_model(x) minus its mean over own jets, against mass.

    log_prob (n, 2) under the models of `classes` (background first), mass (n,), label (n,). Columns: jets,
    model, mass_low, mass_high, log_prob_low, log_prob_high (nats), share (of these jets), mean (over these
    jets), outside (share of these jets beyond the axes). All four maps have the same bins; they cover the
    central 99 % of masses, and of likelihoods all but the lowest 2 % and the highest 0.1 % of the four
    maps' jets. ValueError for wrong shapes, numbers that are not finite, or a class without jets.
    """
    log_prob, label = _checked(log_prob, label)
    _, mass = checked(label, mass=mass)
    n_bins = affordable(n_bins, np.bincount(label).min() // 4)  # a map has n_bins² bins
    own_mean = np.array([log_prob[label == c, c].mean() for c in (0, 1)])
    centred = log_prob - own_mean
    x = np.linspace(*np.quantile(mass, [0.005, 0.995]), n_bins + 1)
    y = np.linspace(*np.quantile(centred, [0.02, 0.999]), n_bins + 1)
    tables = []
    for c, jets in enumerate(classes):
        for m, model in enumerate(classes):
            values = centred[label == c, m]
            counts, _, _ = np.histogram2d(mass[label == c], values, bins=(x, y))
            share = counts.ravel() / len(values)
            columns = {"jets": jets, "model": model}
            columns |= {"mass_low": np.repeat(x[:-1], n_bins), "mass_high": np.repeat(x[1:], n_bins)}
            columns |= {"log_prob_low": np.tile(y[:-1], n_bins), "log_prob_high": np.tile(y[1:], n_bins)}
            columns |= {"share": share, "mean": values.mean(), "outside": max(0.0, 1 - share.sum())}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def differences(log_prob: ArrayLike, label: ArrayLike, classes: Sequence[str], n_bins: int = 60) -> pd.DataFrame:
    """Distributions of the same-jet differences log p_own - log p_other, whose means are the KL divergences.

    Columns: jets, low, high (nats), density, error, mean, mean_error (of all jets of the class, also those
    beyond the bins, which cover the central 98 %), below (share of jets below zero). ValueError as for
    `maps`.
    """
    log_prob, label = _checked(log_prob, label)
    by_class = [log_prob[label == c, c] - log_prob[label == c, 1 - c] for c in (0, 1)]
    n_bins = affordable(n_bins, np.bincount(label).min())
    bins = np.linspace(*np.quantile(np.concatenate(by_class), [0.01, 0.99]), n_bins + 1)
    tables = []
    for name, values in zip(classes, by_class, strict=True):
        height, error = density(values, np.arange(len(values)), len(values), bins)
        columns = {"jets": name, "low": bins[:-1], "high": bins[1:], "density": height, "error": error}
        columns |= {"mean": values.mean(), "mean_error": standard_error(values)}
        tables.append(pd.DataFrame(columns | {"below": np.mean(values < 0)}))
    return pd.concat(tables, ignore_index=True)


def llr_distributions(
    samples: Mapping[str, tuple[ArrayLike, ArrayLike]], classes: Sequence[str], n_bins: int = 60
) -> pd.DataFrame:
    """Distributions of the LLR by class, of each sample's (llr, label): "synthetic", and maybe "source".

    Columns: sample, class, low, high (nats), density, error, mean, mean_error, jets. The bins reach from
    where 2 % of the first sample's background lies below to where 2 % of its signal lies above. ValueError
    for wrong shapes, numbers that are not finite, or a class without jets.
    """
    samples = {name: checked(label, llr=llr) for name, (llr, label) in samples.items()}
    label, llr = next(iter(samples.values()))
    n_bins = affordable(n_bins, np.bincount(label).min())
    bins = np.linspace(np.quantile(llr[~label], 0.02), np.quantile(llr[label], 0.98), n_bins + 1)
    tables = []
    for sample, (label, llr) in samples.items():
        for c, name in enumerate(classes):
            values = llr[label == c]
            height, error = density(values, np.arange(len(values)), len(values), bins)
            columns = {"sample": sample, "class": name, "low": bins[:-1], "high": bins[1:]}
            columns |= {"density": height, "error": error, "mean": values.mean()}
            columns |= {"mean_error": standard_error(values), "jets": len(values)}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def log_odds(source: Mapping[str, ArrayLike], drawn: Mapping[str, ArrayLike], n_bins: int = 40) -> pd.DataFrame:
    """Distributions of an acceptance's log(w / cap) on the source's jets and on those a flow draws, and what it does.

    source, drawn: {class: log(w / cap) (n,)}, of jets it was not trained on; from 0 on all are kept. Columns: class,
    sample ("source" or "flow"), low, high (nats), density, error, kept and kept_error (the share of the sample's jets
    that are kept; for the flow's, on which the caps were set, the rate and its error), gain and
    gain_error (nats by which log p of the source's jets grows).
    """
    tables = []
    for name in source:
        values = {"source": np.asarray(source[name]), "flow": np.asarray(drawn[name])}
        n = affordable(n_bins, min(map(len, values.values())))
        bins = np.linspace(*np.quantile(np.concatenate(list(values.values())), [0.002, 0.998]), n + 1)
        share = {sample: np.minimum(0.0, excess) for sample, excess in values.items()}
        kept = {sample: (np.exp(log_a).mean(), standard_error(np.exp(log_a))) for sample, log_a in share.items()}
        gain = share["source"].mean() - np.log(kept["flow"][0])
        gain_error = np.hypot(standard_error(share["source"]), kept["flow"][1] / kept["flow"][0])
        for sample, excess in values.items():
            height, error = density(excess, np.arange(len(excess)), len(excess), bins)
            columns = {"class": name, "sample": sample, "low": bins[:-1], "high": bins[1:]}
            columns |= {"density": height, "error": error}
            columns |= dict(zip(("kept", "kept_error"), kept[sample], strict=True))
            tables.append(pd.DataFrame(columns | {"gain": gain, "gain_error": gain_error}))
    return pd.concat(tables, ignore_index=True)


def log_odds_of(acceptance: Acceptance, source: Mapping[str, Jets], drawn: Mapping[str, Jets]) -> pd.DataFrame:
    """`log_odds` of an `acceptance` on jets {class: jets} that its network was not trained on: of the `source`'s the
    test split, of those `drawn` from the flow the ones that were set aside. Classes are in the order of its labels.
    """
    unseen = {name: own[split(len(own), "test")] for name, own in source.items()}
    excess = [
        {name: acceptance.of_class(k).log_excess(own) for k, (name, own) in enumerate(sample.items())}
        for sample in (unseen, {name: set_aside(own) for name, own in drawn.items()})
    ]
    return log_odds(*excess)


def rates_error(tables: Iterable[pd.DataFrame]) -> float:
    """By how much, in nats, all differences of log p may be off alike: the error of the shares of jets that are kept,
    one a class in the ``tables`` of `log_odds`; 0 without any.
    """
    rates = [table[table["sample"] == "flow"].drop_duplicates("class") for table in tables]
    return math.sqrt(sum(((table["kept_error"] / table["kept"]) ** 2).sum() for table in rates))


def mean_difference(log_prob: ArrayLike, own: int, alike: float = 0.0) -> tuple[float, float, int]:
    """Mean over jets of log p under the model ``own`` (0 or 1) minus that under the other, its error, both in nats, and
    the number of jets left out because they have no density (NaN), of log p (n, 2).

    The error has in it that of the jets' number and, in quadrature, one common to all jets, ``alike`` (`rates_error`).
    """
    log_prob = np.asarray(log_prob)
    known = ~np.isnan(log_prob).any(axis=1)
    difference = (log_prob[:, own] - log_prob[:, 1 - own])[known]
    return float(difference.mean()), math.hypot(standard_error(difference), alike), int((~known).sum())
