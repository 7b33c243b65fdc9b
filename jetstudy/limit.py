"""Figures of merit of taggers beside those of the optimal tagger.

A score ranks jets; "signal-like" is high. At the threshold c that keeps a share eps_S of the signal jets,
the background efficiency eps_B is the share of background jets above it, and 1/eps_B is the rejection. On
synthetic jets the log-likelihood ratio LLR = log p_top(x) - log p_gluon(x) is exact, so by the
Neyman-Pearson lemma its ROC is the limit, and eps_B can be estimated in two ways:

  counted             the background jets above c, divided by all background jets: uses labels alone, proves
  things; posterior-weighted  E_m[1(s > c) 2/(1 + r)], r = exp(LLR), over the equal mixture m of both
  classes: weights at most
                      2, far less variance where few background jets survive. It assumes the LLR: precision,
                      no proof.

Uncertainties are those of a bootstrap that is stratified (each class keeps its number of jets) and paired
(every score sees the same resampled jets), so that the ratio of a tagger to the limit is known better than
either.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit
from sklearn.metrics import roc_auc_score, roc_curve

LIMIT = "limit"  # the name of the optimal tagger in every table
SIGNAL_EFFICIENCIES = (0.5, 0.3)  # where the field quotes rejections
GRID = np.round(np.linspace(0.01, 1, 100), 2)  # signal efficiencies of a drawn ROC
MINIMAL_SURVIVORS = 30  # a rejection from fewer background jets (an error above 18 %) is not quoted
COUNTED, POSTERIOR_WEIGHTED = "counted", "posterior-weighted"


def checked(label: ArrayLike, **values: ArrayLike) -> list[np.ndarray]:
    """`label` (n,) as bool and each of `values` (n,) as float64.

    Raises
    ------
    ValueError
        If a shape differs from (n,), a label is neither 0 nor 1, a class is empty, or a value is NaN or
        infinite.
    """
    label = np.asarray(label)
    if label.ndim != 1 or not np.isin(label, (0, 1)).all():
        raise ValueError(
            f"labels must be a vector of 0 and 1, got shape {label.shape}, values {np.unique(label)[:5]}"
        )
    if not 0 < label.sum() < len(label):
        raise ValueError(f"both classes are needed, got {int(label.sum())} signal jets among {len(label)}")
    arrays = [label == 1]
    for name, value in values.items():
        value = np.asarray(value, dtype=np.float64)
        if value.shape != label.shape:
            raise ValueError(f"{name} has shape {value.shape}, the labels {label.shape}")
        if not np.isfinite(value).all():
            first = int(np.flatnonzero(~np.isfinite(value))[0])
            raise ValueError(f"{name}[{first}] is {value[first]}: scores must be finite")
        arrays.append(value)
    return arrays


def check_equal_classes(label: np.ndarray) -> None:
    """Raise ValueError unless both classes have equal numbers of jets, as the equal mixture needs."""
    n_signal = int(np.sum(label))
    if 2 * n_signal != len(label):
        raise ValueError(
            f"the equal mixture needs as many signal as background jets, got {n_signal} and {len(label) - n_signal}"
        )


class Curve:
    """The ROC of one score (n,) on fixed jets, for any weights of these jets: sorted once, resampled often.

    Jets of equal score are taken in together, and a working point that falls among them takes a share of
    them, so the figures depend on the ranking alone.
    """

    def __init__(self, score: ArrayLike, label: ArrayLike, llr: ArrayLike | None = None):
        label, score = checked(label, score=score)
        self.order = np.argsort(-score, kind="stable")
        ranked = score[self.order]
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last jet of each tie
        self.signal = label[self.order].astype(np.float64)
        self.background = {COUNTED: 1 - self.signal}
        if llr is not None:
            check_equal_classes(label)
            (_, llr) = checked(label, llr=llr)
            self.background[POSTERIOR_WEIGHTED] = 2 * expit(-llr[self.order])

    def _above(self, weights: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(weights)[self.ends]])

    def _ranked(self, weights: np.ndarray | None) -> np.ndarray:
        return (
            np.ones(len(self.order)) if weights is None else np.asarray(weights, dtype=np.float64)[self.order]
        )

    def auc(self, weights: np.ndarray | None = None) -> float:
        """Area under the ROC: the probability that a signal jet scores above a background jet, ties half."""
        w = self._ranked(weights)
        s, b = self._above(w * self.signal), self._above(w * (1 - self.signal))
        return float(np.diff(s) @ (b[-1] - (b[1:] + b[:-1]) / 2) / (s[-1] * b[-1]))

    def _at(self, signal: np.ndarray, background: np.ndarray, efficiencies: ArrayLike) -> np.ndarray:
        target = np.asarray(efficiencies, dtype=np.float64) * signal[-1] * (1 - 1e-12)
        k = np.searchsorted(signal, target, side="left")
        share = (target - signal[k - 1]) / (signal[k] - signal[k - 1])
        return background[k - 1] + share * (background[k] - background[k - 1])

    def background_efficiency(
        self, efficiencies: ArrayLike, weights: np.ndarray | None = None, estimate: str = COUNTED
    ) -> np.ndarray:
        """eps_B at the signal `efficiencies` in (0, 1], (k,)."""
        w = self._ranked(weights)
        b = self.background[estimate]
        total = (
            np.sum(w * b) if estimate == COUNTED else np.sum(w)
        )  # E_m[2/(1 + r)] is 1: no need to measure it
        return self._at(self._above(w * self.signal), self._above(w * b), efficiencies) / total

    def survivors(self, efficiencies: ArrayLike, estimate: str = COUNTED) -> np.ndarray:
        """Background jets above the threshold, (k,) int; for weighted jets their effective number (sum w)²/sum w²."""
        s, b = self._above(self.signal), self.background[estimate]
        first, second = (self._at(s, self._above(power), efficiencies) for power in (b, b**2))
        return np.floor(first**2 / np.maximum(second, np.finfo(float).tiny) + 1e-9).astype(int)


def roc(score: ArrayLike, label: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(eps_S, eps_B) at every threshold, from (0, 0) to (1, 1)."""
    label, score = checked(label, score=score)
    eps_b, eps_s, _ = roc_curve(label, score, drop_intermediate=False)
    return eps_s, eps_b


def auc(score: ArrayLike, label: ArrayLike) -> float:
    """Area under the ROC."""
    label, score = checked(label, score=score)
    return float(roc_auc_score(label, score))


def rejection(
    score: ArrayLike, label: ArrayLike, efficiency: float, llr: ArrayLike | None = None
) -> tuple[float, int]:
    """(1/eps_B, survivors) at the signal `efficiency`: counted, or posterior-weighted where the exact `llr` is given.

    The rejection is NaN if fewer than 30 background jets survive (an effective number for weighted jets).
    """
    curve, estimate = Curve(score, label, llr), COUNTED if llr is None else POSTERIOR_WEIGHTED
    survivors = int(curve.survivors([efficiency], estimate)[0])
    if survivors < MINIMAL_SURVIVORS:
        return float("nan"), survivors
    return float(1 / curve.background_efficiency([efficiency], estimate=estimate)[0]), survivors


def bootstrap(
    statistic: Callable[[np.ndarray], ArrayLike],
    label: ArrayLike,
    n_resamples: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """`statistic(weights)` for `n_resamples` resamplings of the jets, (n_resamples, ...).

    `weights` (n,) says how often each jet was drawn; each class is resampled to its own number of jets. A
    statistic that treats several scores with the same weights is paired.
    """
    (label,) = checked(label)
    classes = [np.flatnonzero(label == c) for c in (False, True)]
    weights = np.empty(len(label))
    values = []
    for _ in range(n_resamples):
        for jets in classes:
            drawn = generator.integers(len(jets), size=len(jets))
            weights[jets] = np.bincount(drawn, minlength=len(jets))
        values.append(statistic(weights))
    return np.array(values)


def cross_entropy(logit: ArrayLike, label: ArrayLike) -> np.ndarray:
    """-log of the probability that sigma(logit) gives to the true label, per jet, (n,) nats."""
    label, logit = checked(label, logit=logit)
    return -log_expit(np.where(label, logit, -logit))


def excess_kl(llr: ArrayLike, logit: ArrayLike) -> np.ndarray:
    """KL(sigma(llr) || sigma(logit)) of the two Bernoulli distributions, per jet, (n,) nats.

    Its mean over the equal mixture is the tagger's excess cross-entropy over the smallest possible one.
    """
    llr, logit = np.asarray(llr, dtype=np.float64), np.asarray(logit, dtype=np.float64)
    kl = expit(llr) * (log_expit(llr) - log_expit(logit)) + expit(-llr) * (
        log_expit(-llr) - log_expit(-logit)
    )
    return np.maximum(kl, 0)  # rounding leaves -1e-17 where both agree


def _relative(value: np.ndarray, reference: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return value / reference


def _spread(resampled: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.std(resampled, axis=0, ddof=1)


def gap(
    scores: Mapping[str, ArrayLike],
    label: ArrayLike,
    generator: np.random.Generator,
    llr: ArrayLike | None = None,
    sample: str = "synthetic",
    n_resamples: int = 200,
    efficiencies: Sequence[float] = SIGNAL_EFFICIENCIES,
) -> pd.DataFrame:
    """The headline table: figures of merit of taggers (logits (n,) by name) and, where `llr` is given, of the limit.

    Columns: tagger, sample, metric, value, uncertainty, limit, ratio, ratio_uncertainty, survivors. `limit`
    is the limit's value of the same metric on the same jets, `ratio` is value/limit with its paired
    uncertainty. Rejections from fewer than 30 survivors are NaN, with the survivors kept. Without `llr`
    (real jets) there is no limit, nothing posterior-weighted and no excess. The excess cross-entropy comes
    twice: "KL" assumes the LLR, "labels" does not.
    """
    if LIMIT in scores:
        raise ValueError(f"no tagger may be called {LIMIT!r}: pass the LLR as llr")
    label, *arrays = checked(label, **scores)
    logits = dict(zip(scores, arrays, strict=True))
    if llr is not None:
        (_, llr) = checked(label, llr=llr)
        logits = {LIMIT: llr, **logits}
    curves = {name: Curve(score, label, llr) for name, score in logits.items()}
    estimates = [COUNTED] if llr is None else [COUNTED, POSTERIOR_WEIGHTED]
    names = ["AUC", *(f"rejection at {e}, {estimate}" for estimate in estimates for e in efficiencies)]
    survivors = {
        name: np.concatenate([[len(label)], *(curve.survivors(efficiencies, e) for e in estimates)])
        for name, curve in curves.items()
    }

    means = {"accuracy": {name: (logit > 0) == label for name, logit in logits.items()}}
    means["cross-entropy"] = {name: cross_entropy(logit, label) for name, logit in logits.items()}
    if llr is not None:
        best = means["cross-entropy"][LIMIT]
        means["excess cross-entropy, KL"] = {name: excess_kl(llr, logit) for name, logit in logits.items()}
        means["excess cross-entropy, labels"] = {
            name: loss - best for name, loss in means["cross-entropy"].items()
        }
    per_jet = np.array([[jets[name] for jets in means.values()] for name in logits])  # (tagger, metric, jet)

    def statistic(weights: np.ndarray) -> np.ndarray:
        ranked = [
            [
                curve.auc(weights),
                *(1 / _floor(curve.background_efficiency(efficiencies, weights, estimates[0]))),
            ]
            + [
                r
                for e in estimates[1:]
                for r in 1 / _floor(curve.background_efficiency(efficiencies, weights, e))
            ]
            for curve in curves.values()
        ]
        return np.concatenate([ranked, per_jet @ weights / weights.sum()], axis=1)

    value = statistic(np.ones(len(label)))
    resampled = bootstrap(statistic, label, n_resamples, generator)
    uncertainty, ratio, ratio_uncertainty = (
        _spread(resampled),
        np.full_like(value, np.nan),
        np.full_like(value, np.nan),
    )
    if llr is not None:
        ratio, ratio_uncertainty = (
            _relative(value, value[:1]),
            _spread(_relative(resampled, resampled[:, :1])),
        )

    rows = []
    for t, name in enumerate(logits):
        for m, metric in enumerate([*names, *means]):
            if name == LIMIT and metric.startswith("excess"):
                continue
            counts = {key: s[m] if m < len(names) else len(label) for key, s in survivors.items()}
            quoted = counts[name] >= MINIMAL_SURVIVORS
            limited = llr is not None and counts[LIMIT] >= MINIMAL_SURVIVORS
            compared = quoted and limited and not metric.startswith("excess")
            row = {"tagger": name, "sample": sample, "metric": metric}
            row["value"], row["uncertainty"] = (
                (value[t, m], uncertainty[t, m]) if quoted else (np.nan, np.nan)
            )
            row["limit"] = value[0, m] if limited else np.nan
            row["ratio"] = ratio[t, m] if compared else np.nan
            row["ratio_uncertainty"] = ratio_uncertainty[t, m] if compared else np.nan
            row["survivors"] = counts[name]
            rows.append(row)
    return pd.DataFrame(rows)


def _floor(efficiency: np.ndarray) -> np.ndarray:
    """Keep a resample without survivors finite: such working points are not quoted anyway."""
    return np.maximum(efficiency, 1e-12)


def roc_table(
    scores: Mapping[str, ArrayLike],
    label: ArrayLike,
    generator: np.random.Generator,
    llr: ArrayLike | None = None,
    n_resamples: int = 200,
    efficiencies: ArrayLike = GRID,
) -> pd.DataFrame:
    """The ROC of each score (n,) and, where `llr` is given, of the limit, with 68 % bootstrap bands.

    Columns: tagger, estimate (counted; with `llr` also posterior-weighted), eps_s, rejection,
    rejection_low, rejection_high, ratio, ratio_low, ratio_high (to the limit, paired; NaN without one),
    survivors. Points with fewer than 30 survivors are NaN.
    """
    if LIMIT in scores:
        raise ValueError(f"no tagger may be called {LIMIT!r}: pass the LLR as llr")
    efficiencies = np.asarray(efficiencies, dtype=np.float64)
    everyone = dict(scores) if llr is None else {LIMIT: llr, **scores}
    curves = {name: Curve(score, label, llr) for name, score in everyone.items()}
    estimates = [COUNTED] if llr is None else [COUNTED, POSTERIOR_WEIGHTED]

    def statistic(weights: np.ndarray | None = None) -> list:
        return [
            [1 / _floor(curve.background_efficiency(efficiencies, weights, e)) for e in estimates]
            for curve in curves.values()
        ]

    value = np.array(statistic())  # (tagger, estimate, efficiency)
    resampled = bootstrap(statistic, label, n_resamples, generator)
    low, high = np.quantile(resampled, [0.16, 0.84], axis=0)
    ratio = ratio_low = ratio_high = np.full_like(value, np.nan)
    if llr is not None:
        ratio = value / value[:1]
        ratio_low, ratio_high = np.quantile(resampled / resampled[:, :1], [0.16, 0.84], axis=0)

    tables = []
    for e, estimate in enumerate(estimates):
        survivors = {name: curve.survivors(efficiencies, estimate) for name, curve in curves.items()}
        for t, name in enumerate(everyone):
            quoted = survivors[name] >= MINIMAL_SURVIVORS
            compared = quoted & (survivors[LIMIT] >= MINIMAL_SURVIVORS) if llr is not None else quoted
            columns = {"tagger": name, "estimate": estimate, "eps_s": efficiencies}
            for key, curve in {"rejection": value, "rejection_low": low, "rejection_high": high}.items():
                columns[key] = np.where(quoted, curve[t, e], np.nan)
            for key, curve in {"ratio": ratio, "ratio_low": ratio_low, "ratio_high": ratio_high}.items():
                columns[key] = np.where(compared, curve[t, e], np.nan)
            tables.append(pd.DataFrame({**columns, "survivors": survivors[name]}))
    return pd.concat(tables, ignore_index=True)


def likelihood_ratio_trick(
    logit: ArrayLike, llr: ArrayLike, tagger: str = "tagger", n_bins: int = 25
) -> pd.DataFrame:
    """A tagger's logit beside the exact LLR (both (n,)), in `n_bins` bins of LLR with equal numbers of jets.

    A tagger that has learned the posterior has sigma(logit) = r/(1 + r), the likelihood-ratio trick
    (Cranmer, Pavez, Louppe, arXiv:1506.02169): logit = LLR. Columns: tagger, low, high (edges), llr (median
    in the bin), q16, median, q84 (of the logit), q025, q975, jets, and, the same in each row, slope and
    correlation of logit on LLR over the jets between the first and the last percentile of LLR.
    """
    llr, logit = np.asarray(llr, dtype=np.float64), np.asarray(logit, dtype=np.float64)
    if llr.shape != logit.shape or llr.ndim != 1:
        raise ValueError(f"logit has shape {logit.shape}, llr {llr.shape}: both must be (n,)")
    if len(llr) < 10 * n_bins:
        raise ValueError(f"{len(llr)} jets are too few for {n_bins} bins of at least 10")
    parts = np.array_split(np.argsort(llr, kind="stable"), n_bins)
    quantiles = {"q025": 0.025, "q16": 0.16, "median": 0.5, "q84": 0.84, "q975": 0.975}
    first, last = np.quantile(llr, [0.01, 0.99])
    x, y = (v[(llr >= first) & (llr <= last)] for v in (llr, logit))
    covariance = np.cov(x, y)
    rows = [
        {"tagger": tagger, "low": llr[jets].min(), "high": llr[jets].max(), "llr": np.median(llr[jets])}
        | {name: np.quantile(logit[jets], q) for name, q in quantiles.items()}
        | {"jets": len(jets)}
        for jets in parts
    ]
    variance = np.diag(covariance)
    slope = covariance[0, 1] / variance[0] if variance[0] > 0 else np.nan
    correlation = covariance[0, 1] / np.sqrt(variance.prod()) if variance.min() > 0 else np.nan
    return pd.DataFrame(rows).assign(slope=slope, correlation=correlation)
