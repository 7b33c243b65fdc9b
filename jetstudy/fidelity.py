"""How like the source's jets the synthetic ones are, and what the likelihoods look like.

Fidelity is another question than exactness: the limit is exact for the synthetic jets however they look.
Observables are compared as histograms, and by the Wasserstein distance W1 beside its floor, the distance
between halves of the source, all between equal numbers of jets (W1 of finite samples is biased upwards by
their size).

Densities are not probabilities. What holds for each class c is E_c[log p_other] <= E_c[log p_c]: the mean
of the same-jet difference log p_own - log p_other is the Kullback-Leibler divergence, never negative.

Histograms have at most `n_bins` bins an axis, fewer where the jets are too few to fill them.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import wasserstein_distance

from jetstudy.jets import Jets
from jetstudy.limit import checked

OBSERVABLES = ("etarel", "phirel", "ptrel", "mass", "ptrel_sum", "multiplicity")


def observable(jets: Jets, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(values, jet index) of an observable, (k,) each: one value a particle, or one a jet."""
    if name in ("etarel", "phirel", "ptrel"):
        column = ("etarel", "phirel", "ptrel").index(name)
        return jets.particles[..., column][jets.mask].astype(np.float64), np.nonzero(jets.mask)[0]
    per_jet = {"mass": "mass", "ptrel_sum": "ptrel_sum", "multiplicity": "count"}
    return np.asarray(getattr(jets, per_jet[name]), dtype=np.float64), np.arange(len(jets))


def edges(values: np.ndarray, name: str, n_bins: int = 40) -> np.ndarray:
    """Bin edges for the central 99.8 % of `values`: logarithmic for ptrel, symmetric for the angles.

    A bin of multiplicity holds whole numbers, each bin equally many; where all jets have the same N there
    is one bin.
    """
    low, high = np.quantile(values, [0.001, 0.999])
    if name == "multiplicity":
        low, high = np.floor(low), np.ceil(high)
        step = int(np.ceil((high - low + 1) / n_bins))
        return np.arange(low, high + step + 1, step) - 0.5
    if low == high:  # bins of no width have no density
        half = abs(low) / 2 or 0.5
        low, high = low - half, high + half
    if name == "ptrel":
        return np.geomspace(low, high, n_bins + 1)
    if name in ("etarel", "phirel"):
        low, high = -max(-low, high), max(-low, high)
    return np.linspace(low, high, n_bins + 1)


def _affordable(n_bins: int, n_jets: int) -> int:
    """`n_bins`, or the square root of the number of jets if that is less: bins narrower than this show noise."""
    return max(1, min(n_bins, math.isqrt(n_jets)))


def density(values: np.ndarray, jet: np.ndarray, n_jets: int, bins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(density, error) in `bins` of all `values` (k,), whose particles of one jet are correlated.

    `jet` (k,) says whose each value is. Values outside the bins count in the normalisation. The error is that
    of a ratio of sums over independent jets.
    """
    index = np.searchsorted(bins, values, side="right") - 1
    index[values == bins[-1]] = len(bins) - 2
    inside = (index >= 0) & (index < len(bins) - 1)
    width = np.diff(bins)
    counts = np.bincount(jet[inside] * len(width) + index[inside], minlength=n_jets * len(width))
    counts = counts.reshape(n_jets, len(width))
    total = np.bincount(jet, minlength=n_jets)
    share = counts.sum(0) / total.sum()
    error = np.sqrt(((counts - share * total[:, None]) ** 2).sum(0)) / total.sum()
    return share / width, error / width


def observables(source: Mapping[str, Jets], synthetic: Mapping[str, Jets], n_bins: int = 40) -> pd.DataFrame:
    """Histograms of the source's and of synthetic jets by class, normalised to one over all values.

    Columns: class, observable, low, high, source, source_error, synthetic, synthetic_error. The bins cover
    the central 99.8 % of the source's values. KeyError for a class of which there are no synthetic jets.
    """
    tables = []
    for name, jets in source.items():
        for kind in OBSERVABLES:
            values, index = observable(jets, kind)
            bins = edges(values, kind, _affordable(n_bins, len(jets)))
            truth = density(values, index, len(jets), bins)
            model = density(*observable(synthetic[name], kind), len(synthetic[name]), bins)
            columns = {"class": name, "observable": kind, "low": bins[:-1], "high": bins[1:]}
            columns |= {"source": truth[0], "source_error": truth[1]}
            columns |= {"synthetic": model[0], "synthetic_error": model[1]}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def distances(
    source: Mapping[str, Jets],
    synthetic: Mapping[str, Jets],
    generator: np.random.Generator,
    n_splits: int = 10,
) -> pd.DataFrame:
    """W1 of source against synthetic jets beside the floor, source against source.

    In each of `n_splits` splits the source is halved at random into A and B, and as many synthetic jets S
    are drawn without replacement (all of them, and as many of A and B, if there are fewer): W1(A, S) and
    W1(A, B). Columns: class, observable, w1, w1_uncertainty, floor, floor_uncertainty (means and standard
    deviations over splits), jets (in each of A, B, S). In the units of the observable.

    Raises ValueError for fewer than two splits, or too few jets; KeyError for a class of which there are no
    synthetic jets.
    """
    if n_splits < 2:
        raise ValueError(f"n_splits={n_splits}: the uncertainty needs at least two splits")
    rows = []
    for name, jets in source.items():
        n = min(len(jets) // 2, len(synthetic[name]))
        if n < 2:
            raise ValueError(f"{name}: {len(jets)} source and {len(synthetic[name])} synthetic jets are too few")
        found: dict[str, list] = {kind: [] for kind in OBSERVABLES}
        for _ in range(n_splits):
            halves = generator.permutation(len(jets))
            a, b = jets[halves[:n]], jets[halves[n : 2 * n]]
            s = synthetic[name][generator.permutation(len(synthetic[name]))[:n]]
            for kind, pairs in found.items():
                reference, half, model = (observable(x, kind)[0] for x in (a, b, s))
                pairs.append([wasserstein_distance(reference, other) for other in (model, half)])
        for kind, pairs in found.items():
            mean, spread = np.mean(pairs, axis=0), np.std(pairs, axis=0, ddof=1)
            row = {"class": name, "observable": kind, "w1": mean[0], "w1_uncertainty": spread[0]}
            rows.append(row | {"floor": mean[1], "floor_uncertainty": spread[1], "jets": n})
    return pd.DataFrame(rows)


def _checked(log_prob: ArrayLike, label: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    (label,) = checked(label)
    log_prob = np.asarray(log_prob, dtype=np.float64)
    if log_prob.shape != (len(label), 2):
        raise ValueError(f"log_prob has shape {log_prob.shape}, {len(label)} labels ask for ({len(label)}, 2)")
    if not np.isfinite(log_prob).all():
        jet, model = np.argwhere(~np.isfinite(log_prob))[0]
        raise ValueError(f"log_prob[{jet}, {model}] is {log_prob[jet, model]}: likelihoods must be finite")
    return log_prob, label


def likelihood_maps(
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
    n_bins = _affordable(n_bins, np.bincount(label).min() // 4)  # a map has n_bins² bins
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


def likelihood_differences(
    log_prob: ArrayLike, label: ArrayLike, classes: Sequence[str], n_bins: int = 60
) -> pd.DataFrame:
    """Distributions of the same-jet differences log p_own - log p_other, whose means are the KL divergences.

    Columns: jets, low, high (nats), density, error, mean, mean_error (of all jets of the class, also those
    beyond the bins, which cover the central 98 %), below (share of jets below zero). ValueError as for
    `likelihood_maps`.
    """
    log_prob, label = _checked(log_prob, label)
    differences = [log_prob[label == c, c] - log_prob[label == c, 1 - c] for c in (0, 1)]
    n_bins = _affordable(n_bins, np.bincount(label).min())
    bins = np.linspace(*np.quantile(np.concatenate(differences), [0.01, 0.99]), n_bins + 1)
    tables = []
    for name, values in zip(classes, differences, strict=True):
        height, error = density(values, np.arange(len(values)), len(values), bins)
        columns = {"jets": name, "low": bins[:-1], "high": bins[1:], "density": height, "error": error}
        columns |= {"mean": values.mean(), "mean_error": values.std(ddof=1) / np.sqrt(len(values))}
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
    n_bins = _affordable(n_bins, np.bincount(label).min())
    bins = np.linspace(np.quantile(llr[~label], 0.02), np.quantile(llr[label], 0.98), n_bins + 1)
    tables = []
    for sample, (label, llr) in samples.items():
        for c, name in enumerate(classes):
            values = llr[label == c]
            height, error = density(values, np.arange(len(values)), len(values), bins)
            columns = {"sample": sample, "class": name, "low": bins[:-1], "high": bins[1:]}
            columns |= {"density": height, "error": error, "mean": values.mean()}
            columns |= {"mean_error": values.std(ddof=1) / np.sqrt(len(values)), "jets": len(values)}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
