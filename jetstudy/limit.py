"""Figures of merit of taggers beside those of the optimal tagger.

A score ranks jets; "signal-like" is high. At the threshold c that keeps a share eps_S of the signal jets,
the background efficiency eps_B is the share of background jets above it, and 1/eps_B is the rejection. On
synthetic jets the log-likelihood ratio LLR = log p_top(x) - log p_gluon(x) is exact, so by the
Neyman-Pearson lemma its ROC is the limit, and eps_B can be estimated in two ways:

- counted: the background jets above c, divided by all background jets. Uses labels alone, so it can prove.
- posterior-weighted: E_m[1(s > c) 2/(1 + r)] over the equal mixture m of both classes, r = exp(LLR). Its
  weights are at most 2, so it varies far less where few background jets survive. It assumes the LLR:
  precision, no proof.

Uncertainties are those of a bootstrap that is stratified (each class keeps its number of jets) and paired
(every score sees the same resampled jets), so that the ratio of a tagger to the limit is known better than
either.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit, log_expit

from jetstudy.jets import Jets

LIMIT = "limit"  # the name of the optimal tagger in every table
SURROGATES = "LLR of the surrogates"  # its name on jets that the surrogates have not drawn, where it is no limit
UNCERTAINTIES = ("jets", "trainings", "surrogates")  # kinds of them (`comparison`)
SIGNAL_EFFICIENCIES = (0.5, 0.3)  # where the field quotes rejections
GRID = np.round(np.linspace(0.01, 1, 100), 2)  # signal efficiencies of a drawn ROC
MINIMAL_SURVIVORS = 30  # a rejection from fewer background jets (an error above 18 %) is not quoted
COUNTED, POSTERIOR_WEIGHTED = "counted", "posterior-weighted"
SLOPE = "slope of the logit on the LLR"
CALIBRATION = "slope of the posterior on the probability"
KL, PAIRED = "excess cross-entropy, KL", "excess cross-entropy, labels"


def rejection_at(efficiency: float, estimate: str) -> str:
    """The name of a figure of merit: 1/eps_B at a signal efficiency, counted or posterior-weighted."""
    return f"rejection at {efficiency}, {estimate}"


def log_ratio(log_prob: ArrayLike) -> np.ndarray:
    """LLR (n,) of log p (n, 2) under the models of [background, signal]: signal's minus background's."""
    background, signal = np.asarray(log_prob).T
    return signal - background


@dataclass(frozen=True, eq=False)
class Scored:
    """Jets of both classes and what is known of each: all that a gap is made of.

    label: (n,) 0 for background, 1 for signal
    log_prob: (n, 2) nats, under the models of [background, signal]
    logits: (n,) by tagger and the sample that it was trained on
    """

    jets: Jets
    label: np.ndarray
    log_prob: np.ndarray
    logits: Mapping[tuple[str, str], np.ndarray]

    @property
    def llr(self) -> np.ndarray:
        return log_ratio(self.log_prob)

    def finite(self) -> "Scored":
        """The jets with a finite LLR, cut to the same number in each class (the first ones)."""
        inside = [np.flatnonzero(np.isfinite(self.llr) & (self.label == c)) for c in (0, 1)]
        keep = np.concatenate([jets[: min(map(len, inside))] for jets in inside])
        logits = {name: values[keep] for name, values in self.logits.items()}
        return Scored(self.jets[keep], self.label[keep], self.log_prob[keep], logits)


def checked(label: ArrayLike, /, **values: ArrayLike) -> list[np.ndarray]:
    """`label` (n,) as bool and each of `values` (n,) as float64.

    Raises
    ------
    ValueError
        If a shape differs from (n,), a label is neither 0 nor 1, a class is empty, or a value is NaN or
        infinite.
    """
    label = np.asarray(label)
    if label.ndim != 1 or not np.isin(label, (0, 1)).all():
        found = f"shape {label.shape}, values {np.unique(label)[:5]}"
        raise ValueError(f"labels must be a vector of 0 and 1, got {found}")
    if not 0 < label.sum() < len(label):
        raise ValueError(f"both classes are needed, got {int(label.sum())} signal jets among {len(label)}")
    return [label == 1, *_vectors(len(label), **values)]


def _vectors(n: int, **values: ArrayLike) -> list[np.ndarray]:
    """Each of `values` as float64; ValueError unless it has shape (n,) and is finite."""
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
    for name, array in arrays.items():
        if array.shape != (n,):
            raise ValueError(f"{name} has shape {array.shape}, expected ({n},)")
        if not np.isfinite(array).all():
            first = int(np.argmin(np.isfinite(array)))
            raise ValueError(f"{name}[{first}] is {array[first]}: scores must be finite")
    return list(arrays.values())


def check_equal_classes(label: ArrayLike) -> None:
    """Raise ValueError unless both classes have equal numbers of jets, as the equal mixture needs."""
    signal, background = np.sum(label), np.sum(np.logical_not(label))
    if signal != background:
        counts = f"{signal} and {background}"
        raise ValueError(f"the equal mixture needs as many signal as background jets, got {counts}")


class Curve:
    """The ROC of one score (n,) on fixed jets, for any weights of these jets: sorted once, resampled often.

    Jets of equal score are taken in together, and a working point that falls among them takes a share of
    them, so the figures depend on the ranking alone. With the exact `llr` (n,) there are two `estimates` of
    eps_B, else one.
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
            (llr,) = _vectors(len(label), llr=llr)
            self.background[POSTERIOR_WEIGHTED] = 2 * expit(-llr[self.order])

    @property
    def estimates(self) -> list[str]:
        return list(self.background)

    def _above(self, ranked: np.ndarray) -> np.ndarray:
        """Sums of `ranked` (n,) above each threshold, from none of the jets to all."""
        return np.concatenate([[0.0], np.cumsum(ranked)[self.ends]])

    def _ranked(self, weights: np.ndarray | None) -> np.ndarray:
        return np.ones(len(self.order)) if weights is None else weights[self.order]

    @staticmethod
    def _at(efficiencies: ArrayLike, signal: np.ndarray, background: np.ndarray) -> np.ndarray:
        """`background` where `signal`, both from `_above`, first reaches the `efficiencies`."""
        efficiencies = np.asarray(efficiencies, dtype=np.float64)
        if not np.all((efficiencies > 0) & (efficiencies <= 1)):
            raise ValueError(f"signal efficiencies must lie in (0, 1], got {efficiencies}")
        target = efficiencies * signal[-1] * (1 - 1e-12)  # rounding must not ask for one jet more
        k = np.searchsorted(signal, target)
        share = (target - signal[k - 1]) / (signal[k] - signal[k - 1])
        return background[k - 1] + share * (background[k] - background[k - 1])

    def auc(self, weights: np.ndarray | None = None) -> float:
        """Area under the ROC: the probability that a signal jet scores above a background jet, ties half."""
        w = self._ranked(weights)
        signal, background = self._above(w * self.signal), self._above(w * self.background[COUNTED])
        below = background[-1] - (background[1:] + background[:-1]) / 2
        return float(np.diff(signal) @ below / (signal[-1] * background[-1]))

    def background_efficiency(
        self, efficiencies: ArrayLike, weights: np.ndarray | None = None, estimate: str = COUNTED
    ) -> np.ndarray:
        """eps_B at the signal `efficiencies` in (0, 1], (k,)."""
        w = self._ranked(weights)
        background = self._above(w * self.background[estimate])
        everyone = background[-1] if estimate == COUNTED else w.sum()  # E_m[2/(1 + r)] = 1 needs no measuring
        return self._at(efficiencies, self._above(w * self.signal), background) / everyone

    def rejection(self, efficiencies: ArrayLike, weights: np.ndarray | None = None) -> np.ndarray:
        """1/eps_B at the signal `efficiencies`, (estimates, k); huge, not infinite, where no jet survives."""
        eps_b = [self.background_efficiency(efficiencies, weights, e) for e in self.estimates]
        return 1 / np.maximum(eps_b, 1e-12)

    def survivors(self, efficiencies: ArrayLike, estimate: str = COUNTED) -> np.ndarray:
        """Background jets above the threshold, (k,) int: of weighted jets the effective number (Σw)²/Σw²."""
        signal, w = self._above(self.signal), self.background[estimate]
        total, squares = (self._at(efficiencies, signal, self._above(power)) for power in (w, w**2))
        return np.floor(total**2 / np.maximum(squares, np.finfo(float).tiny) + 1e-9).astype(int)


def auc(score: ArrayLike, label: ArrayLike) -> float:
    """Area under the ROC: the probability that a signal jet scores above a background jet, ties half.

    >>> auc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])  # of four pairs three are in order, one is a tie
    0.875
    """
    return Curve(score, label).auc()


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
    values = []
    for _ in range(n_resamples):
        weights = np.empty(len(label))
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

    >>> excess_kl([0.0, 2.0], [0.0, 0.0]).round(4).tolist()  # a tagger that knows nothing is right where r = 1
    [0.0, 0.3278]
    """
    llr, logit = _vectors(np.size(llr), llr=llr, logit=logit)
    signal = expit(llr) * (log_expit(llr) - log_expit(logit))
    background = expit(-llr) * (log_expit(-llr) - log_expit(-logit))
    return np.maximum(signal + background, 0)  # rounding leaves -1e-17 where both agree


def _central(llr: np.ndarray) -> np.ndarray:
    """(n,) bool: the jets between the first and the last percentile of LLR."""
    first, last = np.quantile(llr, [0.01, 0.99])
    return (llr >= first) & (llr <= last)


def _slope(llr: np.ndarray, logit: np.ndarray, copies: np.ndarray | None = None) -> tuple[float, float]:
    """Slope and correlation of logit on LLR over jets of which there are so many `copies` (one, if None)."""
    covariance = np.cov(llr, logit, fweights=copies)
    with np.errstate(invalid="ignore"):  # NaN of a constant
        slope = covariance[0, 1] / covariance[0, 0]
        return slope, covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


def _tenths(values: np.ndarray) -> list[np.ndarray]:
    return np.array_split(np.argsort(values, kind="stable"), 10)


def _slope_and_errors(
    x: np.ndarray, y: np.ndarray, error: np.ndarray, tenths: list[np.ndarray], inside: np.ndarray
) -> Callable[[np.ndarray], list[float]]:
    """As a function of the jets' weights (n,): slope of y on x over the jets `inside`, and mean error in each tenth."""

    def weighted(weights: np.ndarray) -> list[float]:
        slope, _ = _slope(x[inside], y[inside], weights[inside].astype(int))
        return [slope, *(error[jets] @ weights[jets] / max(weights[jets].sum(), 1) for jets in tenths)]

    return weighted


def _regression(score: np.ndarray, llr: np.ndarray) -> Callable[[np.ndarray], list[float]]:
    """Slope of a logit on the LLR over the central jets, and mean of logit - LLR in each tenth of the jets by LLR."""
    return _slope_and_errors(llr, score, score - llr, _tenths(llr), _central(llr))


def _calibration(score: np.ndarray, llr: np.ndarray) -> Callable[[np.ndarray], list[float]]:
    """Slope of the posterior sigma(LLR) on the probability sigma(logit), and mean of the probability minus the
    posterior in each tenth of the jets by logit.
    """
    probability, posterior = expit(score), expit(llr)
    everyone = np.ones(len(llr), bool)
    return _slope_and_errors(probability, posterior, probability - posterior, _tenths(score), everyone)


def _with_limit(
    scores: Mapping[str, ArrayLike], label: ArrayLike, llr: ArrayLike | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The label and all scores, checked, with the limit as the first of them where there is one."""
    if LIMIT in scores:
        raise ValueError(f"no tagger may be called {LIMIT!r}: pass the LLR as llr")
    scores = dict(scores) if llr is None else {LIMIT: llr, **scores}
    label, *arrays = checked(label, **scores)
    return label, dict(zip(scores, arrays, strict=True))


def gap(
    scores: Mapping[str, ArrayLike],
    label: ArrayLike,
    generator: np.random.Generator,
    llr: ArrayLike | None = None,
    sample: str = "synthetic",
    n_resamples: int = 200,
    efficiencies: Sequence[float] = SIGNAL_EFFICIENCIES,
) -> pd.DataFrame:
    """The headline table: figures of merit of taggers (logits (n,) by name) and, given `llr`, of the limit.

    Columns: tagger, sample, metric, value, uncertainty, limit, ratio, ratio_uncertainty, survivors. `limit`
    is the limit's value of the same metric on the same jets, `ratio` is value/limit with its paired
    uncertainty. Rejections from fewer than 30 survivors are NaN, with the survivors kept; of other metrics
    all jets survive. Without `llr` (real jets) there is no limit, nothing posterior-weighted, no excess and no
    slope. The excess cross-entropy comes twice: "KL" assumes the LLR, "labels" does not.

    A logit that is the LLR has slope 1 on it (as in `likelihood_ratio_trick`) and no "residual", the mean of
    logit - LLR in each tenth of the jets by LLR; that of a tagger which sees a part of the jet has a smaller slope,
    however well calibrated it is. Whether it is, the converse says: among jets that a calibrated tagger gives a
    probability, the posterior has that mean, so that its slope on the probability is 1, and there is no residual of
    the probability in any tenth of the jets by logit. Then all that is lost is information about the jet.
    """
    label, scores = _with_limit(scores, label, llr)
    curves = [Curve(score, label, llr) for score in scores.values()]
    estimates = curves[0].estimates

    loss = np.array([cross_entropy(score, label) for score in scores.values()])
    per_jet = {"accuracy": [(score > 0) == label for score in scores.values()], "cross-entropy": loss}
    if llr is not None:
        per_jet[KL] = [excess_kl(llr, score) for score in scores.values()]
        per_jet[PAIRED] = loss - loss[0]
    jets = np.stack([np.asarray(a, dtype=np.float64) for a in per_jet.values()], axis=1)  # (tagger, metric, n)
    rejections = [rejection_at(e, estimate) for estimate in estimates for e in efficiencies]
    beside, names = [], []  # functions of the weights, by tagger, of what takes the LLR to know
    if llr is not None:
        beside = [(_regression(score, scores[LIMIT]), _calibration(score, scores[LIMIT])) for score in scores.values()]
        names += [SLOPE, *(f"residual of the logit, tenth {k} of the LLR" for k in range(1, 11))]
        names += [CALIBRATION, *(f"residual of the probability, tenth {k} of the logit" for k in range(1, 11))]
    metrics = np.array(["AUC", *rejections, *per_jet, *names])

    def statistic(weights: np.ndarray) -> np.ndarray:
        ranked = [[curve.auc(weights), *curve.rejection(efficiencies, weights).flat] for curve in curves]
        found = [ranked, jets @ weights / len(weights)]
        if beside:
            found.append([[number for of in own for number in of(weights)] for own in beside])
        return np.hstack(found)

    value = statistic(np.ones(len(label)))  # (tagger, metric)
    resampled = bootstrap(statistic, label, n_resamples, generator)
    survivors = np.full(value.shape, len(label))
    survivors[:, 1 : 1 + len(rejections)] = [
        np.concatenate([curve.survivors(efficiencies, e) for e in estimates]) for curve in curves
    ]
    value[survivors < MINIMAL_SURVIVORS] = np.nan

    zero = np.char.startswith(metrics, "excess") | np.char.startswith(metrics, "residual")  # the limit's are
    limit = ratio = ratio_uncertainty = np.full_like(value, np.nan)
    if llr is not None:
        limit = np.broadcast_to(value[0], value.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(zero, np.nan, value / limit)
            ratio_uncertainty = np.std(resampled / resampled[:, :1], axis=0, ddof=1)
    columns = {
        "tagger": np.repeat(list(scores), len(metrics)),
        "sample": sample,
        "metric": np.tile(metrics, len(scores)),
        "value": value.ravel(),
        "uncertainty": np.where(np.isnan(value), np.nan, resampled.std(axis=0, ddof=1)).ravel(),
        "limit": limit.ravel(),
        "ratio": ratio.ravel(),
        "ratio_uncertainty": np.where(np.isnan(ratio), np.nan, ratio_uncertainty).ravel(),
        "survivors": survivors.ravel(),
    }
    table = pd.DataFrame(columns)
    return table[(table["tagger"] != LIMIT) | ~np.tile(zero, len(scores))].reset_index(drop=True)


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
    survivors. Points with fewer than 30 survivors are NaN, and so are those of smaller efficiencies (which ascend):
    by weights a point farther left can have more again, but then it lacks the rare jets that weigh most.
    """
    label, scores = _with_limit(scores, label, llr)
    curves = [Curve(score, label, llr) for score in scores.values()]
    estimates = curves[0].estimates

    def statistic(weights: np.ndarray | None = None) -> np.ndarray:
        return np.array([curve.rejection(efficiencies, weights) for curve in curves])

    value = statistic()  # (tagger, estimate, efficiency)
    resampled = bootstrap(statistic, label, n_resamples, generator)
    survivors = np.array([[curve.survivors(efficiencies, e) for e in estimates] for curve in curves])
    few = survivors < MINIMAL_SURVIVORS
    value[np.logical_or.accumulate(few[..., ::-1], axis=-1)[..., ::-1]] = np.nan
    low, high = np.quantile(resampled, [0.16, 0.84], axis=0)
    ratio = ratio_low = ratio_high = np.full_like(value, np.nan)
    if llr is not None:
        ratio = value / value[0]
        ratio_low, ratio_high = np.quantile(resampled / resampled[:, :1], [0.16, 0.84], axis=0)

    index = pd.MultiIndex.from_product([scores, estimates, efficiencies], names=["tagger", "estimate", "eps_s"])
    columns = {
        "rejection": value,
        "rejection_low": np.where(np.isnan(value), np.nan, low),
        "rejection_high": np.where(np.isnan(value), np.nan, high),
        "ratio": ratio,
        "ratio_low": np.where(np.isnan(ratio), np.nan, ratio_low),
        "ratio_high": np.where(np.isnan(ratio), np.nan, ratio_high),
        "survivors": survivors,
    }
    return pd.DataFrame({name: array.ravel() for name, array in columns.items()}, index).reset_index()


def significance(curves: pd.DataFrame) -> pd.DataFrame:
    """The significance improvement eps_S/sqrt(eps_B) (SIC, 1010.3698) of each point of a `roc_table`.

    A cut multiplies signal / sqrt(background) by it. Columns: tagger, estimate, eps_s, significance, significance_low,
    significance_high, survivors.
    """
    ends = ("", "_low", "_high")
    columns = {f"significance{end}": curves["eps_s"] * np.sqrt(curves[f"rejection{end}"]) for end in ends}
    return curves[["tagger", "estimate", "eps_s"]].assign(**columns, survivors=curves["survivors"])


def beside(reference: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """A `roc_table` with a limit, and behind it the curves of other jets, with their ratios to that same limit.

    The jets are others, so nothing is paired: the bands of these ratios are those of the curves alone.
    """
    limit = reference[reference["tagger"] == LIMIT].set_index(["estimate", "eps_s"])["rejection"]
    at = limit.reindex(pd.MultiIndex.from_frame(others[["estimate", "eps_s"]])).to_numpy()
    ratios = {f"ratio{end}": others[f"rejection{end}"] / at for end in ("", "_low", "_high")}
    return pd.concat([reference, others.assign(**ratios)], ignore_index=True)


def likelihood_ratio_trick(logit: ArrayLike, llr: ArrayLike, tagger: str = "tagger", n_bins: int = 25) -> pd.DataFrame:
    """A tagger's logit beside the exact LLR (both (n,)), in `n_bins` bins of LLR with equal numbers of jets.

    A tagger that has learned the posterior has sigma(logit) = r/(1 + r), the likelihood-ratio trick
    (Cranmer, Pavez, Louppe, arXiv:1506.02169): logit = LLR. Columns: tagger, low, high (edges), llr (median
    in the bin), q025, q16, median, q84, q975 (of the logit), jets, and, the same in each row, slope and
    correlation of logit on LLR over the jets between the first and the last percentile of LLR; NaN where
    one of them is constant.
    """
    llr, logit = _vectors(np.size(llr), llr=llr, logit=logit)
    if len(llr) < 10 * n_bins:
        raise ValueError(f"{len(llr)} jets are too few for {n_bins} bins of at least 10")
    quantiles = {"q025": 0.025, "q16": 0.16, "median": 0.5, "q84": 0.84, "q975": 0.975}
    rows = [
        {"tagger": tagger, "low": llr[jets].min(), "high": llr[jets].max(), "llr": np.median(llr[jets])}
        | dict(zip(quantiles, np.quantile(logit[jets], list(quantiles.values())), strict=True))
        | {"jets": len(jets)}
        for jets in np.array_split(np.argsort(llr, kind="stable"), n_bins)
    ]
    central = _central(llr)
    slope, correlation = _slope(llr[central], logit[central])
    return pd.DataFrame(rows).assign(slope=slope, correlation=correlation)


def logit_map(logit: ArrayLike, llr: ArrayLike, tagger: str = "tagger", n_bins: int = 60) -> pd.DataFrame:
    """The density of jets in the plane of the exact LLR and a tagger's logit (both (n,)), in square bins.

    Both axes have the same `n_bins` bins, which hold the LLR from its 0.1 to its 99.9 percentile; what lies beyond is
    in the outermost ones. Columns: tagger, llr_low, llr_high, logit_low, logit_high, share (of all jets; bins without a
    jet are left out), and, the same in each row, slope and correlation as of `likelihood_ratio_trick`.
    """
    llr, logit = _vectors(np.size(llr), llr=llr, logit=logit)
    edges = np.linspace(*np.quantile(llr, [0.001, 0.999]), n_bins + 1)
    inside = [np.clip(values, edges[0], edges[-1]) for values in (llr, logit)]
    share = np.histogram2d(*inside, bins=[edges, edges])[0] / len(llr)
    x, y = np.nonzero(share)
    columns = {"tagger": tagger, "llr_low": edges[x], "llr_high": edges[x + 1]}
    columns |= {"logit_low": edges[y], "logit_high": edges[y + 1], "share": share[x, y]}
    central = _central(llr)
    slope, correlation = _slope(llr[central], logit[central])
    return pd.DataFrame(columns).assign(slope=slope, correlation=correlation)


def where(
    scores: Mapping[str, ArrayLike],
    llr: ArrayLike,
    label: ArrayLike,
    quantities: Mapping[str, ArrayLike],
    generator: np.random.Generator,
    n_bins: int = 8,
    n_resamples: int = 200,
) -> pd.DataFrame:
    """Where taggers lose: the mean excess KL (`excess_kl`) of jets in bins of each of the `quantities` (n,).

    Bins hold about equal numbers of jets, as far as equal values allow. Columns: tagger, quantity, low, high (the
    smallest and the largest value in the bin), centre (the median), jets, excess (nats a jet), uncertainty, share (of
    the tagger's total excess), share_uncertainty; uncertainties are those of the bootstrap.
    """
    label, llr, *logits = checked(label, llr=llr, **scores)
    excess = np.stack([excess_kl(llr, logit) for logit in logits])
    rows, members = [], []
    for quantity, values in quantities.items():
        (values,) = _vectors(len(label), **{quantity: values})
        inner = np.unique(np.quantile(values, np.arange(1, n_bins) / n_bins, method="lower"))
        bins = np.searchsorted(inner, values, side="right")
        for k in np.unique(bins):
            own = values[bins == k]
            extent = {"low": own.min(), "high": own.max(), "centre": np.median(own)}
            rows.append({"quantity": quantity} | extent | {"jets": len(own)})
            members.append(bins == k)
    members = np.array(members, np.float64).T  # (n, bins)

    def statistic(weights: np.ndarray) -> np.ndarray:
        sums = (excess * weights) @ members
        jets = np.maximum(weights @ members, 1)
        return np.stack([sums / jets, sums / (excess @ weights)[:, None]])

    mean, share = statistic(np.ones(len(label)))
    uncertainty, share_uncertainty = bootstrap(statistic, label, n_resamples, generator).std(axis=0, ddof=1)
    columns = {"excess": mean, "uncertainty": uncertainty, "share": share, "share_uncertainty": share_uncertainty}
    tables = [
        pd.DataFrame(rows).assign(tagger=name, **{key: values[i] for key, values in columns.items()})
        for i, name in enumerate(scores)
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[["tagger", *table.columns.drop("tagger")]]
