"""Where a gap comes from: how a tagger's excess falls with its training jets, and what an extrapolation makes of it.

The loss of a network trained on n jets is often described by a power law (Hestness et al., 1712.00409; for jets Batson
and Kahn, 2312.02264),

    L(n) = c + a n^-b,

and c, fitted, is read as the best loss there can be. Here the best is known. So the excess L(n) - c, the mean KL
divergence between the true posterior and the tagger's, is fitted with two parameters (`power_law`), and a fit of all
three to the loss itself (`with_floor`), blind to the floor, is put to the test.

Tables here have a row for each learner, target (what it was trained on, `targets`), number of training jets, sample
(jets that it is measured on: test or training) and metric of `limit.gap`; and for each seed, if there is a column
`seed`. Learners that differ by a number behind their name (`pfn`, `pfn.2`) are trainings of one kind.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from jetstudy.limit import KL, LIMIT, PAIRED, POSTERIOR_WEIGHTED, SIGNAL_EFFICIENCIES, gap, rejection_at
from jetstudy.sources import kind

LABELS, POSTERIOR, FRESH = "labels", "posterior", "fresh"
SHORT, LARGER = "labels, short", "labels, larger"
TEST, TRAINING = "test", "training"
REJECTIONS = {e: rejection_at(e, POSTERIOR_WEIGHTED) for e in SIGNAL_EFFICIENCIES}
Array = TypeVar("Array")  # of NumPy or of torch
OF_A_ROW = ["learner", "target", "jets", "sample", "metric"]
EXPONENTS = (0.02, 4.0)  # where `with_floor` looks for b


def nested(label: ArrayLike, n: int) -> np.ndarray:
    """Indices of the first n/2 jets of each class among `label` (0 or 1): a larger n holds all of a smaller one.

    ValueError for an n that is odd or not positive, or more than there are.
    """
    label = np.asarray(label)
    classes = [np.flatnonzero(label == c) for c in (0, 1)]
    most = 2 * min(map(len, classes))
    if n < 2 or n % 2 or n > most:
        raise ValueError(f"{n} training jets: expected an even number from 2 to {most}, half of each class")
    return np.sort(np.concatenate([jets[: n // 2] for jets in classes]))


def targets(
    training: tuple[Array, Array, Array],
    sizes: Iterable[int],
    posterior: Array | None = None,
    fresh: tuple[Array, Array, Array] | None = None,
    larger: bool = False,
) -> dict[tuple[str, int], tuple[Array, Array, Array]]:
    """What is trained on, by target and number of jets, in order: samples (x, mask, target) of jets that are `nested`.

    training: a sample whose target is the label, of which the first jets are taken
    sizes: numbers of jets, of both classes, to train on the labels of
    posterior: target (k,) of the first k training jets, which are trained on by their labels, too; None: not asked for
    fresh: a sample of which each jet is to be seen once; then the labels of most jets are trained on as briefly, too
        (SHORT); None: not asked for
    larger: whether the labels of most jets are trained on once more, by a larger network
    """

    def first(n: int) -> tuple[Array, ...]:
        index = nested(training[2], n)
        return tuple(array[index] for array in training)

    sizes = sorted({*sizes} if posterior is None else {*sizes, len(posterior)})
    found = {(LABELS, n): first(n) for n in sizes}
    if posterior is not None:
        x, mask, _ = found[LABELS, len(posterior)]
        found[POSTERIOR, len(posterior)] = x, mask, posterior
    most = found[LABELS, sizes[-1]]
    if fresh is not None:
        found |= {(SHORT, sizes[-1]): most, (FRESH, len(fresh[2])): fresh}
    if larger:
        found[LARGER, sizes[-1]] = most
    return found


def measured(
    samples: Mapping[str, tuple[Mapping[str, ArrayLike], ArrayLike, ArrayLike]],
    about: Mapping[str, Mapping[str, object]],
    generator: np.random.Generator,
    n_resamples: int = 200,
) -> pd.DataFrame:
    """The table of trainings: figures of merit (`limit.gap`) on each of the `samples`, in order, and what is known
    `about` each training (`named`).

    samples: by name, logits (n,) by training, label (n,) and LLR (n,); not every training needs to be in all
    """
    merit = [gap(logits, label, generator, llr, name, n_resamples) for name, (logits, label, llr) in samples.items()]
    return named(pd.concat(merit, ignore_index=True), about)


def named(merit: pd.DataFrame, about: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """The taggers' rows of `limit.gap` with what is known about each training: learner, target, jets, steps, kept."""
    rows = merit[merit["tagger"] != LIMIT].reset_index(drop=True)
    return pd.concat([pd.DataFrame([about[name] for name in rows["tagger"]]), rows.drop(columns="tagger")], axis=1)


def over_trainings(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over trainings of one kind on the same jets, with the kind as learner.

    To the uncertainties, which are of the test jets, the scatter of trainings is added in quadrature, if there are
    several of any number of jets and seed: their standard deviation, relative to the distance from the limit (of a
    ratio, to itself) and pooled over all of these, divided by the root of their number.
    """
    table = table.assign(learner=table["learner"].map(kind))
    seeds = [name for name in table if name == "seed"]
    groups = table.groupby([*seeds, *OF_A_ROW], sort=False)
    mean = groups[["value", "limit", "ratio", "uncertainty", "ratio_uncertainty", "survivors", "steps", "kept"]].mean()
    pools = [name for name in OF_A_ROW if name != "jets"]
    for value, error, limit in (("value", "uncertainty", mean["limit"].fillna(0)), ("ratio", "ratio_uncertainty", 0)):
        distance, spread, n = mean[value] - limit, groups[value].var(), groups[value].count()
        several = {"spread": spread, "distance": (distance**2).where(n > 1)}
        pooled = pd.DataFrame(several).groupby(pools).transform("mean")
        scatter = pooled["spread"] / pooled["distance"] * distance**2 / n
        mean[error] = np.sqrt(mean[error] ** 2 + scatter.fillna(0))
    return mean.reset_index()


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """The mean over trainings of one kind (`over_trainings`) and over seeds, if there are any.

    Its uncertainty is the larger of what the single uncertainties and what the spread between the seeds make of it: the
    first knows nothing of other surrogates, the second is itself uncertain for few seeds.
    """
    table = over_trainings(table)
    if "seed" not in table:
        return table
    groups = table.groupby(OF_A_ROW, sort=False)
    mean = groups[["value", "limit", "ratio", "survivors", "steps", "kept"]].mean()
    mean["uncertainty"] = _of_mean(groups, "value", "uncertainty")
    mean["ratio_uncertainty"] = _of_mean(groups, "ratio", "ratio_uncertainty")
    return mean.reset_index()


def _of_mean(groups, value: str, uncertainty: str) -> pd.Series:
    """The uncertainty of the means of ``value`` over the seeds that have one, a group each (`over_seeds`)."""
    single = groups[uncertainty].agg(lambda u: np.sqrt((u**2).sum(min_count=1)) / max(u.count(), 1))
    return np.fmax(single, groups[value].std(ddof=1) / np.sqrt(groups[value].count()))


@dataclass(frozen=True)
class PowerLaw:
    """c + a n^-b with standard errors.

    They are enlarged by √(χ²/dof) where the points scatter by more than their own uncertainties (as in the Review of
    Particle Physics), and infinite where the points do not determine the parameter.
    """

    a: float
    b: float
    c: float
    a_uncertainty: float
    b_uncertainty: float
    c_uncertainty: float
    chi2: float
    dof: int

    def __call__(self, n: ArrayLike) -> np.ndarray:
        return self.c + self.a * np.asarray(n, dtype=np.float64) ** -self.b


def power_law(n: ArrayLike, value: ArrayLike, uncertainty: ArrayLike) -> PowerLaw:
    """a n^-b through points (k,), by least squares of log value: what is known to fall to zero.

    ValueError for fewer than two different n, values or uncertainties that are not positive.
    """
    n, value, uncertainty = _points(n, value, uncertainty, 2)
    if (value <= 0).any():
        raise ValueError(f"value {value.min()}: a power law without a floor is positive")
    middle = np.log(n).mean()
    design = np.stack([np.ones_like(n), middle - np.log(n)], axis=1)
    (level, b), covariance, chi2 = _least_squares(design, np.log(value), uncertainty / value)
    a = float(np.exp(level + b * middle))
    error = a * np.sqrt(np.array([1, middle]) @ covariance @ np.array([1, middle]))
    return PowerLaw(a, float(b), 0.0, float(error), float(np.sqrt(covariance[1, 1])), 0.0, chi2, len(n) - 2)


def with_floor(n: ArrayLike, value: ArrayLike, uncertainty: ArrayLike) -> PowerLaw:
    """c + a n^-b through points (k,), by least squares: what is extrapolated by those who do not know the floor.

    For each b the best a and c follow in closed form, so only b, within `EXPONENTS`, is searched for. ValueError for
    fewer than four different n or uncertainties that are not positive.
    """
    n, value, uncertainty = _points(n, value, uncertainty, 4)
    middle = np.log(n).mean()

    def at(log_b: float):
        fall = np.exp(np.exp(log_b) * (middle - np.log(n)))
        return _least_squares(np.stack([fall, np.ones_like(n)], axis=1), value, uncertainty, scaled=False)

    grid = np.linspace(*np.log(EXPONENTS), 40)
    best = int(np.argmin([at(log_b)[2] for log_b in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(lambda log_b: at(log_b)[2], bounds=around, method="bounded", options={"xatol": 1e-10}).x
    log_b = round(found, 6)  # where a sum of squares is least is known to the root of a float's precision, no better
    (level, c), _, chi2 = at(log_b)
    b, dof = float(np.exp(log_b)), len(n) - 3
    a = float(level * np.exp(b * middle))
    fall = np.exp(b * (middle - np.log(n)))
    slopes = np.stack([fall, level * fall * (middle - np.log(n)), np.ones_like(n)], axis=1) / uncertainty[:, None]
    undetermined = best in (0, len(grid) - 1) or np.linalg.matrix_rank(slopes, rtol=1e-9) < 3
    errors = [np.inf] * 3
    if not undetermined:
        covariance = np.linalg.inv(slopes.T @ slopes) * max(1.0, chi2 / max(dof, 1))
        # a = level exp(b middle)
        of_a = np.exp(b * middle) * np.array([1, level * middle, 0])
        errors = [np.sqrt(of_a @ covariance @ of_a), *np.sqrt(covariance.diagonal()[1:])]
    return PowerLaw(a, b, float(c), *map(float, errors), chi2, dof)


def curve(table: pd.DataFrame, learner: str, metric: str) -> pd.DataFrame:
    """One learner's test figures, trained on labels, by number of training jets; without those not quoted."""
    chosen = (table["learner"] == learner) & (table["target"] == LABELS) & (table["metric"] == metric)
    return table[chosen & (table["sample"] == TEST)].dropna(subset="value").sort_values("jets")


def fits(table: pd.DataFrame) -> pd.DataFrame:
    """Both fits for each kind of learner trained on labels, as far as there are points enough, beside the true floors;
    for each seed by itself, since what differs between seeds is much the same for all numbers of jets. Points are means
    over trainings (`over_trainings`).

    Columns: seed, if the table has it; learner, quantity, points, a, b, floor, each of these three with its
    `_uncertainty`, true_floor, chi2, dof.
    The excess has a floor of zero that is not fitted. The cross-entropy's points are weighted with the uncertainty of
    their distance to the limit's, on the same jets: what these jets have in common moves c and the true floor
    together. 1/rejection is in units of the limit's, so its true floor is 1.
    """
    table = over_trainings(table)
    if "seed" not in table:
        return _fits(table)
    each = {seed: _fits(rows) for seed, rows in table.groupby("seed")}
    return pd.concat([rows.assign(seed=seed) for seed, rows in each.items()], ignore_index=True)


def _fits(table: pd.DataFrame) -> pd.DataFrame:
    """`fits` of one seed's points."""
    rows = []

    def add(learner, quantity, fit, points, true_floor):
        try:
            found = fit(*points)
        except ValueError:  # too few points, or of too few jets for an uncertainty
            return
        row = {"learner": learner, "quantity": quantity, "points": len(points[0]), "true_floor": true_floor}
        for name, letter in (("a", "a"), ("b", "b"), ("floor", "c")):
            row |= {name: getattr(found, letter), f"{name}_uncertainty": getattr(found, f"{letter}_uncertainty")}
        rows.append(row | {"chi2": found.chi2, "dof": found.dof})

    for learner in dict.fromkeys(table["learner"]):
        excess = curve(table, learner, KL)
        add(learner, "excess", power_law, (excess["jets"], excess["value"], excess["uncertainty"]), 0.0)
        loss, paired = curve(table, learner, "cross-entropy"), curve(table, learner, PAIRED)
        points = loss["jets"], loss["value"], paired["uncertainty"]
        add(learner, "cross-entropy", with_floor, points, loss["limit"].mean())
        for efficiency, metric in REJECTIONS.items():
            ratio = curve(table, learner, metric).dropna(subset="ratio")
            points = ratio["jets"], 1 / ratio["ratio"], ratio["ratio_uncertainty"] / ratio["ratio"] ** 2
            add(learner, f"limit's rejection / own, at {efficiency}", with_floor, points, 1.0)
    columns = ["learner", "quantity", "points", "true_floor", "a", "a_uncertainty", "b", "b_uncertainty"]
    return pd.DataFrame(rows, columns=[*columns, "floor", "floor_uncertainty", "chi2", "dof"])


def combined(laws: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds of `fits`, for what was fitted with all of them; χ² and degrees of freedom are summed.

    Uncertainties as in `over_seeds`; what one seed does not determine is not determined.
    """
    if "seed" not in laws:
        return laws
    groups = laws.groupby(["learner", "quantity"], sort=False)
    found = groups.agg({"points": "min", "true_floor": "mean", "chi2": "sum", "dof": "sum"})
    for name in ("a", "b", "floor"):
        found[name] = groups[name].mean()
        found[f"{name}_uncertainty"] = _of_mean(groups, name, f"{name}_uncertainty")
    return found[groups.size() == laws["seed"].nunique()].reset_index()[
        [name for name in laws.columns if name != "seed"]
    ]


def _points(n, value, uncertainty, fewest: int) -> list[np.ndarray]:
    n, value, uncertainty = (np.asarray(array, dtype=np.float64) for array in (n, value, uncertainty))
    if not n.shape == value.shape == uncertainty.shape or n.ndim != 1:
        raise ValueError(f"shapes {n.shape}, {value.shape}, {uncertainty.shape}: expected three equal vectors")
    if not (np.isfinite(value).all() and (n > 0).all()):
        raise ValueError(f"n {n}, values {value}: expected finite values at positive n")
    if not (np.isfinite(uncertainty) & (uncertainty > 0)).all():
        raise ValueError(f"uncertainties {uncertainty}: expected positive ones")
    if len(np.unique(n)) < fewest:
        raise ValueError(f"{len(np.unique(n))} different n: this fit needs {fewest}")
    return [n, value, uncertainty]


def _least_squares(design: np.ndarray, value: np.ndarray, uncertainty: np.ndarray, scaled: bool = True):
    """(parameters, covariance, χ²) of a linear fit."""
    design, value = design / uncertainty[:, None], value / uncertainty
    parameters = np.linalg.lstsq(design, value)[0]
    chi2 = float(np.sum((value - design @ parameters) ** 2))
    scale = max(1.0, chi2 / max(len(value) - len(parameters), 1)) if scaled else 1.0
    return parameters, np.linalg.inv(design.T @ design) * scale, chi2
