"""The certificate: measured checks that the limit is what it says it is, each able to fail.

On synthetic jets, but for closure (row 8); arrays in, rows out. A row has a value with its uncertainty, a
criterion, and a *resolution*: the size from which a value is no chance with these jets. With v the value,

- fail if |v| > max(criterion, resolution), or v < -max(...) where only one side is forbidden;
- pass otherwise, if resolution <= criterion;
- undecided otherwise: too few jets to tell.

Rows that are no test of the limit, but say what it is worth, are reported: neither criterion nor resolution.

Unless its function says otherwise a resolution is z times the uncertainty, z from the normal distribution
such that `family` statistical rows together raise a false alarm with a probability of at most 1e-3
(Bonferroni).

A log-likelihood that is NaN or infinite makes the row that needs it fail; it doesn't raise.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize, root
from scipy.special import expit
from scipy.stats import norm
from scipy.stats import t as student

from jetstudy.files import write_json
from jetstudy.limit import (
    MINIMAL_SURVIVORS,
    POSTERIOR_WEIGHTED,
    Curve,
    bootstrap,
    check_equal_classes,
    checked,
    cross_entropy,
    log_ratio,
)

ONE_SIDED = "; fails below zero only"  # rows 5 and 6: a large positive value is as it should be
FALSE_ALARM_RATE = 1e-3  # of the whole certificate: chance alone shall not stop a study
# Rows that share it: Hutchinson's mean, slope, intercept, identity, two residuals, closure, and two for each of 9
# taggers and ensembles (the first training of each kind). The same for all sets with fewer, so that they compare.
# Row 2's AUC and rejection compare two scores of the same jets: without an error of the solver these are equal, and
# chance cannot make them differ.
OTHERS = 7
FAMILY = OTHERS + 2 * 9

# Row 1, in standard deviations of a feature. Sampling and scoring use one solver on one grid, so a round
# trip is off by the solver's error alone. It is a weak test (a solver good to 0.01 in x can be off by a nat
# in log p: row 2).
ROUND_TRIP_MEDIAN = 0.02  # well below the detail of any distribution of particles
ROUND_TRIP_ELSEWHERE = 1.0  # a particle that ends elsewhere, in another prong: the map is not inverted there
ROUND_TRIP_SHARE = 0.01  # of jets with such a particle: LLRs off by a nat in as many move the AUC less than row 2's
# Row 1, in nats: the same integral at points that differ by the round trip's error. More means another
# density.
SAMPLER_LOG_PROB = 0.1
# Row 2, on twice the steps.
STEPS_LOG_PROB = 0.1  # nats; most of it is common to both classes and leaves the ratio
STEPS_LLR = 0.05  # nats: moves a jet by a twentieth of a factor e in the ratio, far less than taggers scatter
STEPS_AUC = 5e-4  # a tenth of the gaps between good taggers
STEPS_REJECTION = 0.02  # relative, posterior-weighted: below the error of any rejection quoted from 1e5 jets
STEPS_EFFICIENCY = 0.3  # the tighter of the field's two working points
# Row 3, relative to 1 + |divergence|.
DIVERGENCE_OWN_PATH = 1e-3  # exact up to float32: a wrong path is off by far more, rounding by far less
DIVERGENCE_HUTCHINSON = 0.02  # of the mean: unbiased but noisy, so the bias is judged and the noise reported
# Row 4.
SLOPE = 0.05  # an LLR stretched or noisy; flows asked about the jets of an SDE have 0.92 ± 0.02: docs/certificate.md
INTERCEPT = 0.2  # nats: a wrong normalisation or p(N), common to all jets
IDENTITY = 0.02  # of a probability, the overlap of the two classes
# Row 5.
RESIDUAL = 0.005  # nats a jet: half the excess of a good tagger
RESIDUAL_FOLDS = 8
RESIDUAL_REACH = 4.0  # standard deviations beyond which an input says nothing new: bounds f where jets are rare
# Row 6.
DOMINANCE = 0.1  # of the limit's background efficiency; gaps of published taggers are at least of this size
CROSS_ENTROPY = 0.01  # nats a jet: the excess of a good tagger
DOMINANCE_EFFICIENCIES = np.round(np.linspace(0.1, 0.9, 17), 2)


@dataclass(frozen=True)
class Row:
    """One line of the certificate; the numbers share the unit of `property`."""

    row: str
    property: str
    value: float
    uncertainty: float
    criterion: float
    resolution: float
    verdict: str
    note: str = ""


def z_value(family: int = FAMILY, sides: int = 2, looks: int = 1) -> float:
    """Standard deviations of a row's resolution, for `family` rows that each look at `looks` numbers."""
    return float(norm.isf(FALSE_ALARM_RATE / (family * sides * looks)))


def student_value(z: float, n: int) -> float:
    """As improbable as z standard deviations, where the error is that of n values, jets or resamples."""
    return float(student.isf(norm.sf(z), n - 1))


def family_size(taggers: int) -> int:
    """Rows that share the rate of false alarms where there are so many taggers and ensembles: `FAMILY`, or more."""
    return max(FAMILY, OTHERS + 2 * taggers)


def verdict(value: float, criterion: float, resolution: float, sides: int = 2) -> str:
    """The rule of this module; with `sides` 1 only values below zero are forbidden.

    A resolution of NaN sees nothing: it is as good as infinite.
    """
    resolution = np.inf if np.isnan(resolution) else resolution
    deviation = abs(value) if sides == 2 else -value
    if deviation > max(criterion, resolution):
        return "fail"
    return "pass" if resolution <= criterion and not np.isnan(value) else "undecided"


def judged(
    row: str,
    what: str,
    criterion: float,
    value: float,
    uncertainty: float,
    resolution: float,
    note: str = "",
    sides: int = 2,
) -> Row:
    """A Row with its verdict."""
    value, uncertainty, resolution = float(value), float(uncertainty), float(resolution)
    return Row(row, what, value, uncertainty, criterion, resolution, verdict(value, criterion, resolution, sides), note)


def not_run(row: str, what: str, why: str) -> Row:
    """A row that this parameter set cannot afford, or that does not apply to it."""
    return Row(row, what, np.nan, np.nan, np.nan, np.nan, "not run", why)


def reported(row: str, what: str, value: float, uncertainty: float, note: str) -> Row:
    """A row that is measured and not judged."""
    return Row(row, what, float(value), float(uncertainty), np.nan, np.nan, "reported", note)


def _broken(row: str, what: str, criterion: float, why: str) -> Row:
    return Row(row, what, np.nan, np.nan, criterion, np.nan, "fail", why)


def _too_few(row: str, what: str, criterion: float, why: str) -> Row:
    return judged(row, what, criterion, np.nan, np.nan, np.nan, why)


def _not_finite(*arrays: ArrayLike) -> str:
    """What to say of NaN and infinity in `arrays`, nothing if there are none."""
    bad = sum(int(np.sum(~np.isfinite(a))) for a in arrays)
    return f"{bad} of {sum(np.size(a) for a in arrays)} numbers are NaN or infinite" if bad else ""


def _paired(*arrays: ArrayLike) -> list[np.ndarray]:
    """The arrays as float64; ValueError unless they have one shape, so that none is broadcast unseen."""
    arrays = [np.asarray(a, dtype=np.float64) for a in arrays]
    if len({a.shape for a in arrays}) > 1:
        raise ValueError("the same jets are needed, got shapes " + " and ".join(str(a.shape) for a in arrays))
    return arrays


def _half_width(error: np.ndarray, k: float) -> float:
    """k standard deviations of the median of `error` (n,): n/2 ± k sqrt(n)/2 in rank, whatever the distribution.

    NaN where they would leave the sample (for z fewer than some 18 jets).
    """
    share = 0.5 + np.array([-0.5, 0.5]) * k / np.sqrt(len(error))
    return np.diff(np.quantile(error, share))[0] / 2 if share[0] >= 0 else np.nan


def _spread(error: np.ndarray) -> str:
    return f"{len(error)} jets: 90 % within {np.quantile(error, 0.9):.2g}, largest {error.max():.2g}"


def _median(row: str, what: str, criterion: float, error: np.ndarray, family: int) -> Row:
    """A row on the median of |error| (n,), a jet each."""
    error = np.abs(error)
    resolution = _half_width(error, z_value(family))
    return judged(row, what, criterion, np.median(error), _half_width(error, 1), resolution, _spread(error))


def round_trip(x: ArrayLike, back: ArrayLike, mask: ArrayLike, family: int = FAMILY) -> list[Row]:
    """Row 1: standardised features x (n, N, 3) and what comes back from x -> z -> x, mask (n, N).

    A jet's error is the root mean square over the features of its particles; a jet is elsewhere if a single feature is
    off by more than ROUND_TRIP_ELSEWHERE. The resolution is the smallest share of such jets that would have shown one
    at least. (A largest error would grow with the number of jets.)
    """
    typical = "1 round trip", "median over jets of rms |Δx|, standard deviations", ROUND_TRIP_MEDIAN
    share = "1 round trip: elsewhere", "share of jets with a particle that ends elsewhere", ROUND_TRIP_SHARE
    mask = np.asarray(mask, dtype=bool)
    x, back = (np.where(mask[..., None], a, 0) for a in _paired(x, back))
    if note := _not_finite(x, back):
        return [_broken(*typical, note), _broken(*share, note)]
    error = back - x
    rms = np.sqrt((error**2).sum((1, 2)) / (3 * mask.sum(1)))
    elsewhere = np.abs(error).max((1, 2)) > ROUND_TRIP_ELSEWHERE
    n, found = len(elsewhere), int(elsewhere.sum())
    resolution = min(1.0, -norm.logsf(z_value(family, 1)) / n)
    note = f"{found} of {n} jets; largest |Δx| {np.abs(error).max():.2g} standard deviations"
    return [
        _median(*typical, rms, family),
        judged(*share, found / n, np.sqrt(max(1, found) * max(1, n - found) / n**3), resolution, note),
    ]


def sampler_log_prob(sampled: ArrayLike, scored: ArrayLike, family: int = FAMILY) -> Row:
    """Row 1: the sampler's own log p (n,) against `log_prob` of the jets as stored, nats a jet."""
    name = "1 sampler's log p", "median over jets of |Δ log p|, nats", SAMPLER_LOG_PROB
    sampled, scored = _paired(sampled, scored)
    if note := _not_finite(sampled, scored):
        return _broken(*name, note)
    return _median(*name, sampled - scored, family)


def steps(
    log_prob: ArrayLike,
    doubled: ArrayLike,
    label: ArrayLike,
    generator: np.random.Generator,
    n_resamples: int = 200,
    family: int = FAMILY,
) -> list[Row]:
    """Row 2: log p (n, 2) under the models of [background, signal] with the default and with `doubled` steps.

    The same jets throughout, equal numbers a class: changes of log p (own model), LLR, AUC and rejection
    are paired.
    """
    names = [
        ("2 steps: log p", "median over jets of |Δ log p|, nats", STEPS_LOG_PROB),
        ("2 steps: LLR", "median over jets of |Δ LLR|, nats", STEPS_LLR),
        ("2 steps: AUC", "change of the limit's AUC", STEPS_AUC),
        (
            "2 steps: rejection",
            f"relative change of the limit's rejection at ε_S = {STEPS_EFFICIENCY}, posterior-weighted",
            STEPS_REJECTION,
        ),
    ]
    log_prob, doubled = _paired(log_prob, doubled)
    if note := _not_finite(log_prob, doubled):
        return [_broken(*name, note) for name in names]
    (label,) = checked(label)
    own = (doubled - log_prob)[np.arange(len(label)), label.astype(int)]
    llr, finer = map(log_ratio, (log_prob, doubled))
    curves = [Curve(a, label, a) for a in (llr, finer)]

    def change(weights: np.ndarray | None = None) -> np.ndarray:
        auc = [curve.auc(weights) for curve in curves]
        rejection = [curve.rejection([STEPS_EFFICIENCY], weights)[-1, 0] for curve in curves]
        return np.array([auc[1] - auc[0], rejection[1] / rejection[0] - 1])

    value = change()
    error = bootstrap(change, label, n_resamples, generator).std(axis=0, ddof=1)
    resolution = student_value(z_value(family), n_resamples) * error
    rows = [
        _median(*names[0], own, family),
        _median(*names[1], finer - llr, family),
        judged(*names[2], value[0], error[0], resolution[0], f"{len(label)} jets"),
    ]
    survivors = min(curve.survivors([STEPS_EFFICIENCY], POSTERIOR_WEIGHTED)[0] for curve in curves)
    note = f"{survivors} effective background jets survive"
    if survivors < MINIMAL_SURVIVORS:
        return [*rows, _too_few(*names[3], f"{note}, {MINIMAL_SURVIVORS} are needed")]
    return [*rows, judged(*names[3], value[1], error[1], resolution[1], note)]


OWN_PATH = "3 divergence: own_path", "largest |difference to jacobian|, relative to 1 + |div|", DIVERGENCE_OWN_PATH
HELD_OUT = f"held-out cross-entropy of LLR + f minus the LLR's, nats a jet{ONE_SIDED}"
NETWORK = "5 residual: network", HELD_OUT
NULL = "7 null", "AUC between two surrogates of one kind"
CLOSURE = "8 closure", "log p against the truth"


def own_path(exact: ArrayLike, estimate: ArrayLike) -> Row:
    """Row 3: div v (n,) by `own_path` beside `jacobian`'s, the same jets, times and network.

    Exact by construction: the worst evaluation is judged.
    """
    exact, estimate = _paired(exact, estimate)
    if note := _not_finite(exact, estimate):
        return _broken(*OWN_PATH, note)
    size = np.abs(exact)
    relative = np.abs(estimate - exact) / (1 + size)
    note = f"{len(exact)} evaluations, median {np.median(relative):.2g}; mean |div| {size.mean():.3g}"
    return judged(*OWN_PATH, relative.max(), 0, 0, note)


def hutchinson(exact: ArrayLike, estimate: ArrayLike, family: int = FAMILY) -> Row:
    """Row 3: div v (n,) by `hutchinson` beside `jacobian`'s, the same jets, times and network.

    Unbiased and noisy: its mean is judged, its noise reported; the resolution is Student's, for the noise is measured
    on the same, perhaps few, evaluations.
    """
    name = (
        "3 divergence: hutchinson",
        "mean difference to jacobian, relative to 1 + mean |div|",
        DIVERGENCE_HUTCHINSON,
    )
    exact, estimate = _paired(exact, estimate)
    if note := _not_finite(exact, estimate):
        return _broken(*name, note)
    error, scale, n = estimate - exact, 1 + np.abs(exact).mean(), len(exact)
    noise = error.std(ddof=1) / scale
    uncertainty = noise / np.sqrt(n)
    note = f"{n} evaluations; noise of one: rms {noise:.2g} of 1 + mean |div| = {scale:.3g}"
    return judged(*name, error.mean() / scale, uncertainty, student_value(z_value(family), n) * uncertainty, note)


def scoring(
    checks: Mapping[str, np.ndarray], generator: np.random.Generator, n_resamples: int = 200, family: int = FAMILY
) -> list[Row]:
    """Rows 1 to 3, of equal numbers of jets per class, background first.

    checks: arguments of the rows by name. x, back and mask (`there`, `back`, `mask`), `sampled` and `scored`, log p
        with the `default` number of steps and with the `doubled` one, divergences by `jacobian`, by `hutchinson` and,
        of a one-hop network, by `own_path`
    """
    rows = [
        *round_trip(checks["there"], checks["back"], checks["mask"], family),
        sampler_log_prob(checks["sampled"], checks["scored"], family),
        *steps(
            checks["default"],
            checks["doubled"],
            np.repeat([0, 1], len(checks["default"]) // 2),
            generator,
            n_resamples,
            family,
        ),
    ]
    if "own_path" in checks:
        rows.append(own_path(checks["jacobian"], checks["own_path"]))
    else:
        rows.append(not_run(*OWN_PATH[:2], "not a one-hop network: jacobian scores"))
    return [*rows, hutchinson(checks["jacobian"], checks["hutchinson"], family)]


def _distance(llr: np.ndarray, label: np.ndarray) -> float:
    """How far apart in LLR the classes lie, in either order; negative where they overlap."""
    background, signal = llr[~label], llr[label]
    return max(signal.min() - background.max(), background.min() - signal.max())


def logistic_fit(llr: ArrayLike, label: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Maximum-likelihood (intercept, slope) of P(signal) = sigma(intercept + slope * LLR), and their errors.

    Errors from the Fisher information. Numbers of jets per class are fixed, not drawn:
    log(n_signal/n_background) is taken off the intercept, and 1/n_signal + 1/n_background off its variance
    (Prentice & Pyke, Biometrika 66, 403). NaN where the LLR separates the classes or is constant, so that
    no fit exists.
    """
    label, llr = checked(label, llr=llr)
    nothing = np.full(2, np.nan)
    if _distance(llr, label) >= 0:
        return nothing, nothing
    centre, width = llr.mean(), llr.std()  # standardised, so that an LLR far off the mark converges too
    x = np.stack([np.ones(len(llr)), (llr - centre) / width], axis=1)
    prior, prior_variance = np.log(label.sum() / (~label).sum()), 1 / label.sum() + 1 / (~label).sum()

    def gradient(beta: np.ndarray) -> np.ndarray:
        return x.T @ (expit(x @ beta) - label)

    def information(beta: np.ndarray) -> np.ndarray:
        return (x.T * (expit(x @ beta) * expit(-x @ beta))) @ x

    fit = root(gradient, [prior, 0.0], jac=information)
    if not fit.success:
        return nothing, nothing
    back = np.array([[1, -centre / width], [0, 1 / width]])
    variance = np.diag(back @ np.linalg.inv(information(fit.x)) @ back.T)
    return back @ fit.x - [prior, 0], np.sqrt(np.maximum(variance - [prior_variance, 0], 0))


def calibration(llr: ArrayLike, label: ArrayLike, family: int = FAMILY) -> list[Row]:
    """Row 4: the label's logistic fit on the LLR (n,) has slope 1 and intercept 0, and
    E_background[min(1, r)] = E_signal[min(1, 1/r)], both the overlap of the classes.

    Necessary, not sufficient: the exact LLR of only a part of the jet passes.

    Where few jets lie between the classes a slope is not normally distributed, so to fail it must be z
    standard deviations off by the likelihood ratio, too. Where the LLR separates the classes, the slope is
    infinite: it fails if the LLR held so perfect an order to be too unlikely, -log P(labels) >
    log(2n family/1e-3) (Markov's inequality for the 2n orders that a threshold can make).
    """
    slope_row = "4 slope", "slope of the label on the LLR, minus 1", SLOPE
    intercept_row = "4 intercept", "intercept of the label on the LLR, nats", INTERCEPT
    identity_row = "4 identity", "E_background[min(1, r)] - E_signal[min(1, 1/r)]", IDENTITY
    if note := _not_finite(llr):
        return [_broken(*name, note) for name in (slope_row, intercept_row, identity_row)]
    label, llr = checked(label, llr=llr)
    z, n, prior = z_value(family), len(llr), np.log(label.sum() / (~label).sum())

    (intercept, slope), (intercept_error, slope_error) = logistic_fit(llr, label)
    surprise = cross_entropy(prior + llr, label).sum()
    if np.isfinite(slope):
        note, resolution = f"{n} jets", z * slope_error
        surprise -= cross_entropy(prior + intercept + slope * llr, label).sum()
        if 2 * surprise < z**2:
            resolution = max(resolution, abs(slope - 1))
        fitted = judged(*slope_row, slope - 1, slope_error, resolution, note)
    else:
        note = f"{n} jets: no fit, the LLR separates the classes or is constant"
        impossible = _distance(llr, label) > 0 and surprise > np.log(2 * n * family / FALSE_ALARM_RATE)
        fitted = (_broken if impossible else _too_few)(*slope_row, note)

    overlaps = [np.exp(np.minimum(side, 0)) for side in (llr[~label], -llr[label])]
    background, signal = (overlap.mean() for overlap in overlaps)
    # One pseudo-jet a class at the far end: a handful of jets that happen not to overlap prove nothing.
    error = np.sqrt(sum(overlap.var(ddof=1) / len(overlap) + 1 / len(overlap) ** 2 for overlap in overlaps))
    overlap_note = f"{n} jets; overlap {background:.4f} and {signal:.4f}"
    return [
        fitted,
        judged(*intercept_row, intercept, intercept_error, z * intercept_error, note),
        judged(*identity_row, background - signal, error, z * error, overlap_note),
    ]


Correction = Callable[[np.ndarray, np.ndarray], np.ndarray]  # f of inputs (n, ...) and LLR (n,): nats (n,)


def _features(inputs: np.ndarray, centre: np.ndarray, width: np.ndarray) -> np.ndarray:
    """1, the standardised inputs (n, k), their squares and products."""
    z = np.clip((inputs - centre) / width, -RESIDUAL_REACH, RESIDUAL_REACH)
    i, j = np.triu_indices(z.shape[1])
    return np.hstack([np.ones((len(z), 1)), z, z[:, i] * z[:, j]])


def quadratic(inputs: np.ndarray, llr: np.ndarray, label: np.ndarray) -> Correction:
    """f, quadratic in the inputs (n, k) and the LLR (n,): the logistic fit of the label (n,) on LLR + f, with a unit
    Gaussian prior.
    """
    inputs = np.column_stack([llr, inputs])
    centre, width = inputs.mean(axis=0), inputs.std(axis=0)
    width[width == 0] = 1
    x = _features(inputs, centre, width)

    def loss(beta: np.ndarray) -> float:
        return cross_entropy(llr + x @ beta, label).sum() + beta @ beta / 2

    def gradient(beta: np.ndarray) -> np.ndarray:
        return x.T @ (expit(llr + x @ beta) - label) + beta

    def curvature(beta: np.ndarray) -> np.ndarray:
        logit = llr + x @ beta
        return (x.T * (expit(logit) * expit(-logit))) @ x + np.eye(len(beta))

    start = np.zeros(x.shape[1])
    beta = minimize(loss, start, jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-2}).x
    return lambda inputs, llr: _features(np.column_stack([llr, inputs]), centre, width) @ beta


def residual(
    llr: ArrayLike,
    label: ArrayLike,
    inputs: ArrayLike,
    generator: np.random.Generator,
    row: str = "5 residual",
    fit: Callable[[np.ndarray, np.ndarray, np.ndarray], Correction] = quadratic,
    family: int = FAMILY,
) -> Row:
    """Row 5: no f of `inputs` (n, ...) makes LLR + f predict the labels better than the LLR (n,) on held-out jets.

    f starts at 0 and is fitted by `fit` fold by fold: on the folds before the one where it is held to account, so
    that the first is never tested. `quadratic` takes inputs (n, k): a tagger's logit, N, mass, sum of ptrel, ...;
    the network of `jetstudy.residual` takes the particles. Each held-out fold has as many jets of either class,
    and what was fitted before is fixed for it: the product of q/p over its jets (`excess_cross_entropy`) has an
    expectation of at most 1 given the earlier folds, hence so has the product over all folds, and the resolution
    is log(family/1e-3) over the held-out jets, at any n and for any `fit`. (Where every fold is fitted on all
    others, folds depend on each other both ways and only the K-th root of that product is bounded, by Hoelder's
    inequality: K times the resolution.)
    """
    name = row, HELD_OUT, RESIDUAL
    if note := _not_finite(llr, inputs):
        return _broken(*name, note)
    label, llr = checked(label, llr=llr)
    check_equal_classes(label)
    inputs = np.asarray(inputs)
    if len(llr) < 2 * RESIDUAL_FOLDS:
        return _too_few(*name, f"{len(llr)} jets are too few for {RESIDUAL_FOLDS} folds")
    classes = [generator.permutation(np.flatnonzero(label == c)) for c in (False, True)]
    folds = [np.concatenate(f) for f in zip(*(np.array_split(c, RESIDUAL_FOLDS) for c in classes), strict=True)]

    logit = llr.copy()
    for k, held_out in enumerate(folds[1:], start=1):
        seen = np.concatenate(folds[:k])
        logit[held_out] += fit(inputs[seen], llr[seen], label[seen])(inputs[held_out], llr[held_out])
    tested = np.concatenate(folds[1:])
    excess = cross_entropy(logit, label) - cross_entropy(llr, label)
    note = f"{len(tested)} held-out jets; resolution from Markov's inequality"
    return _by_markov(name, excess[tested], label[tested], family, note)


def _by_markov(name: tuple[str, str, float], excess: np.ndarray, label: np.ndarray, family: int, note: str) -> Row:
    """A row on the mean `excess` (n,) of a cross-entropy over the limit's (`excess_cross_entropy`)."""
    n = len(excess)
    uncertainty = np.sqrt((excess[label].var(ddof=1) + excess[~label].var(ddof=1)) / (2 * n))
    return judged(*name, excess.mean(), uncertainty, np.log(family / FALSE_ALARM_RATE) / n, note, sides=1)


def dominance(
    tagger: str,
    score: ArrayLike,
    llr: ArrayLike,
    label: ArrayLike,
    generator: np.random.Generator,
    n_resamples: int = 200,
    family: int = FAMILY,
) -> Row:
    """Row 6: by counted labels, the tagger's eps_B is nowhere below the limit's.

    Their difference is relative to the larger of the two, so that a wide gap, known ever so well, isn't taken for
    ignorance. Looks at each signal efficiency of `DOMINANCE_EFFICIENCIES` where 30 background jets survive the
    limit (of the tagger's survivors nothing is asked: one that beats the limit has few). The error is a paired
    bootstrap's, the resolution z times it with z corrected for all looks (Bonferroni: they are correlated, so the
    false-alarm rate is lower still) and for few resamples. The row shows the most significant of the working points
    where the tagger is better by more than the criterion, which fail or, beyond these jets' resolution, leave it
    undecided; without one, the working point with the best resolution, and names in its note where the tagger came
    closest to a violation.

    Where the best resolution is worse than the criterion the row passes still if value ± resolution excludes, at
    every working point, that the tagger is better by the criterion: too few jets to have seen so small a violation
    may be enough to know that a tagger far behind the limit has none.
    """
    name = (
        f"6 dominance {tagger}",
        f"eps_B of the tagger minus the limit's, relative to the larger{ONE_SIDED}",
        DOMINANCE,
    )
    if note := _not_finite(score, llr):
        return _broken(*name, note)
    tagged, best = (Curve(a, label) for a in (score, llr))
    survivors = best.survivors(DOMINANCE_EFFICIENCIES)
    enough = survivors >= MINIMAL_SURVIVORS
    if not enough.any():
        return _too_few(*name, f"fewer than {MINIMAL_SURVIVORS} background jets survive at every working point")
    at, survivors = DOMINANCE_EFFICIENCIES[enough], survivors[enough]

    def eps_b(weights: np.ndarray | None = None) -> np.ndarray:
        return np.array([curve.background_efficiency(at, weights) for curve in (tagged, best)])

    larger = eps_b().max(axis=0)
    value = np.subtract(*eps_b()) / larger
    resampled = bootstrap(lambda weights: np.subtract(*eps_b(weights)), label, n_resamples, generator)
    error = resampled.std(axis=0, ddof=1) / larger
    z = z_value(family, sides=1, looks=len(DOMINANCE_EFFICIENCIES))
    resolution = student_value(z, n_resamples) * error
    significance = np.divide(value, error, out=np.zeros_like(value), where=error > 0)  # a copy of the LLR: 0 ± 0
    better = value < -DOMINANCE
    shown = np.argmin(np.where(better, significance, 0)) if better.any() else np.argmin(resolution)
    closest = np.argmin(significance)
    note = (
        f"at ε_S = {at[shown]:g} with {survivors[shown]} survivors of the limit; {len(at)} working points, "
        f"closest to a violation at {at[closest]:g}: {value[closest]:+.3f} ± {error[closest]:.3f}"
    )
    row = judged(*name, value[shown], error[shown], resolution[shown], note, sides=1)
    if row.verdict == "undecided" and np.all(value - resolution >= -DOMINANCE):
        return replace(row, verdict="pass", note=f"{note}; better by the criterion: excluded at all working points")
    return row


def excess_cross_entropy(tagger: str, logit: ArrayLike, llr: ArrayLike, label: ArrayLike, family: int = FAMILY) -> Row:
    """Row 6: by labels, the tagger's cross-entropy minus the limit's, paired, is not below zero.

    With q and p the probabilities that tagger and LLR give to a jet's true label, the product of q/p over
    jets has an expectation of at most 1 if p is the true posterior and the classes are equal in number,
    whatever the tails of either (an e-value; Markov's inequality). So the mean difference falls below
    -log(family/1e-3)/n with a probability of at most 1e-3/family: that is this row's resolution, and holds
    at any n.
    """
    name = (
        f"6 cross-entropy {tagger}",
        f"cross-entropy of the tagger minus the limit's, nats a jet{ONE_SIDED}",
        CROSS_ENTROPY,
    )
    if note := _not_finite(logit, llr):
        return _broken(*name, note)
    (label,) = checked(label)
    check_equal_classes(label)
    note = f"{len(label)} jets; resolution from Markov's inequality, not from the uncertainty"
    return _by_markov(name, cross_entropy(logit, label) - cross_entropy(llr, label), label, family, note)


def of_taggers(
    logits: Mapping[str, ArrayLike],
    llr: ArrayLike,
    label: ArrayLike,
    generator: np.random.Generator,
    n_resamples: int = 200,
    family: int = FAMILY,
) -> list[Row]:
    """Row 6, both of its kinds, of each tagger by its `logits` (n,)."""
    rows = []
    for tagger, logit in logits.items():
        rows.append(dominance(tagger, logit, llr, label, generator, n_resamples, family))
        rows.append(excess_cross_entropy(tagger, logit, llr, label, family))
    return rows


def null(
    scores: Mapping[str, ArrayLike], label: ArrayLike, generator: np.random.Generator, n_resamples: int = 200
) -> list[Row]:
    """Row 7: what tells the jets of two surrogates of one kind apart, by the AUC of each of `scores` (n,).

    The surrogates were trained on independent samples of one size, with different seeds: their LLR, one of the
    scores, finds what trainings differ by, and a tagger what of it can be learnt. The floor of spurious separation,
    0.5 if there is none. The note has it in nats a jet, too: the cross-entropy of the score, a logit, below log 2, that
    of a tagger which knows nothing.
    """
    row, what = NULL
    if bad := [_broken(f"{row}: {name}", what, np.nan, n) for name, s in scores.items() if (n := _not_finite(s))]:
        return bad
    curves = [Curve(score, label) for score in scores.values()]
    resampled = bootstrap(lambda weights: [c.auc(weights) for c in curves], label, n_resamples, generator)
    errors, rows = resampled.std(axis=0, ddof=1), []
    for (name, score), curve, error in zip(scores.items(), curves, errors, strict=True):
        gain = np.log(2) - cross_entropy(score, label)
        nats = f"{gain.mean():z.4f} ± {gain.std(ddof=1) / np.sqrt(len(gain)):.4f} nats a jet below log 2"
        note = f"{len(label)} jets; without a difference it is 0.5; cross-entropy {nats}"
        rows.append(reported(f"{row}: {name}", what, curve.auc(), error, note))
    return rows


def trained_closure(
    exact: ArrayLike,
    found: ArrayLike,
    label: ArrayLike,
    velocity: pd.DataFrame,
    generator: np.random.Generator,
    n_resamples: int = 200,
) -> list[Row]:
    """Row 8 (b): log p (n, 2) as `found` by trained surrogates beside the `exact` one, on the toy's true jets.

    velocity: `diffusion.velocity_error` of the surrogates. Reported: it says how good models of the toy they are,
    and nothing on the limit of their own jets.
    """
    exact, found = _paired(exact, found)
    (label,) = checked(label)
    best, own = (Curve(log_ratio(log_prob), label) for log_prob in (exact, found))

    def change(weights: np.ndarray | None = None) -> float:
        return own.auc(weights) - best.auc(weights)

    error = bootstrap(change, label, n_resamples, generator).std(ddof=1)
    off = np.abs(found - exact)[np.arange(len(label)), label.astype(int)]
    # As if the errors at all times were one: they are of the same jets.
    average = velocity["error"].mean(), velocity["uncertainty"].mean()
    return [
        reported(
            "8 closure: trained AUC",
            "AUC of the surrogates' LLR minus the true LLR's, on the toy's jets",
            change(),
            error,
            f"{len(label)} jets; the true LLR has {best.auc():.4f}",
        ),
        reported(
            "8 closure: trained log p",
            "median over the toy's jets of |Δ log p| under the own model, nats",
            np.median(off),
            _half_width(off, 1),
            _spread(off),
        ),
        reported(
            "8 closure: trained velocity",
            "E|v - v*|² a coordinate, average over t",
            *average,
            f"E|v*|² is {velocity['exact'].mean():.3g}; at worst {velocity['error'].max():.2g}",
        ),
    ]


def closure(exact: ArrayLike, computed: ArrayLike, family: int = FAMILY) -> list[Row]:
    """Row 8 (a): log p (n, 2) under both models as `computed` by the study's solver from the closed-form
    velocity, jet by jet beside the `exact` one. No training enters.
    """
    log_prob = "8 closure: log p", "median over jets of |Δ log p|, the worse of both models, nats", STEPS_LOG_PROB
    llr = "8 closure: LLR", "median over jets of |Δ LLR|, nats", STEPS_LLR
    exact, computed = _paired(exact, computed)
    if note := _not_finite(exact, computed):
        return [_broken(*log_prob, note), _broken(*llr, note)]
    off = computed - exact
    return [_median(*log_prob, np.abs(off).max(axis=1), family), _median(*llr, log_ratio(off), family)]


def table(rows: Iterable[Row]) -> pd.DataFrame:
    """One line a row, the columns of Row."""
    return pd.DataFrame([astuple(row) for row in rows], columns=[field.name for field in fields(Row)])


def write(path: str | Path, rows: Iterable[Row]) -> None:
    """`certificate.json`: a list of objects with the fields of Row, null where a number is NaN or infinite.

    Ten digits are kept: how sums are rounded depends on where arrays lie in memory, and the same jets shall give the
    same file.
    """

    def clean(value: float | str) -> float | str | None:
        if isinstance(value, float):
            return float(f"{value:.10g}") if np.isfinite(value) else None
        return value

    write_json(path, [{key: clean(value) for key, value in asdict(row).items()} for row in rows])
