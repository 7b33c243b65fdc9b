"""How like the source's jets the synthetic ones are.

Fidelity is another question than exactness: the limit is exact for the synthetic jets however they look.
Observables are compared as histograms, samples by the field's distances (`distances`), each beside its floor: the
distance between halves of the source. All are between equal numbers of jets, since distances of finite samples are
biased upwards, the more the smaller they are.

Histograms have at most `n_bins` bins an axis, fewer where the jets are too few to fill them.
"""

import math
from collections.abc import Mapping

import numpy as np
import ot
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import nnls
from scipy.special import gammaln
from scipy.stats import wasserstein_distance

from jetstudy.jets import PARTICLE_FEATURES, Jets
from jetstudy.substructure import FOUR_OF_FOUR, PAIR_MASSES, efps, high_level, pair_masses

OBSERVABLES = ("etarel", "phirel", "ptrel", "mass", "ptrel_sum", "multiplicity")
MOVED = ("mass", "ptrel_sum", "tau21", "tau32", "c2")  # what partial diffusion is followed by
MINIMAL_JETS = 100  # for a covariance of 36 features
FPD_SIZES, FPD_DRAWS = 10, 5


def observable(jets: Jets, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(values, jet index) of an observable, (k,) each: one value a particle, or one a jet."""
    if name in PARTICLE_FEATURES:
        column = PARTICLE_FEATURES.index(name)
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


def affordable(n_bins: int, n_jets: int) -> int:
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
            bins = edges(values, kind, affordable(n_bins, len(jets)))
            truth = density(values, index, len(jets), bins)
            model = density(*observable(synthetic[name], kind), len(synthetic[name]), bins)
            columns = {"class": name, "observable": kind, "low": bins[:-1], "high": bins[1:]}
            columns |= {"source": truth[0], "source_error": truth[1]}
            columns |= {"synthetic": model[0], "synthetic_error": model[1]}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def spectra(samples: Mapping[str, Jets], n_bins: int = 40) -> pd.DataFrame:
    """Histograms of the observables of several classes of jets in common bins, normalised to one over all values.

    Columns: observable, class, low, high, density, error. The bins cover the central 99.8 % of all classes' values.
    """
    tables = []
    for kind in OBSERVABLES:
        found = {name: observable(jets, kind) for name, jets in samples.items()}
        together = np.concatenate([values for values, _ in found.values()])
        bins = edges(together, kind, affordable(n_bins, min(map(len, samples.values()))))
        for name, (values, index) in found.items():
            height, error = density(values, index, len(samples[name]), bins)
            columns = {"observable": kind, "class": name, "low": bins[:-1], "high": bins[1:]}
            tables.append(pd.DataFrame(columns | {"density": height, "error": error}))
    return pd.concat(tables, ignore_index=True)


def pairs(source: Jets, synthetic: Jets) -> pd.DataFrame:
    """How many pairs of particles with masses between `substructure.PAIR_MASSES` a jet has, on average.

    Columns: low, high (in units of the jet's pT), source, source_error, synthetic, synthetic_error.
    """
    columns = {"low": PAIR_MASSES[:-1], "high": PAIR_MASSES[1:]}
    for name, jets in {"source": source, "synthetic": synthetic}.items():
        counts = pair_masses(jets)
        columns |= {name: counts.mean().to_numpy(), f"{name}_error": counts.sem().to_numpy()}
    return pd.DataFrame(columns)


def energy_movers_distance(first: Jets, second: Jets) -> np.ndarray:
    """(n_first, n_second): the least work that turns one jet into another (Komiske, Metodiev, Thaler, 1902.02346).

    Moving ptrel costs ΔR/R with R = 1, making or losing it costs 1: a fictitious particle at ΔR = R of all others
    holds the difference of the jets' sums, eq. 1. In units of the jet's pT.
    """

    def with_fictitious(jets: Jets, largest: float) -> tuple[np.ndarray, np.ndarray]:
        pt = np.where(jets.mask, jets.particles[..., 2], 0).astype(np.float64)
        return jets.particles[..., :2].astype(np.float64), np.column_stack([pt, largest - pt.sum(1)])

    largest = max(first.ptrel_sum.max(), second.ptrel_sum.max())
    (places, weights), (other_places, other_weights) = (with_fictitious(jets, largest) for jets in (first, second))
    distance = np.empty((len(first), len(second)))
    cost = np.ones((len(second), weights.shape[1], other_weights.shape[1]))
    cost[:, -1, -1] = 0
    for i, place in enumerate(places):
        cost[:, :-1, :-1] = np.linalg.norm(place[None, :, None] - other_places[:, None, :], axis=-1)
        for k, other in enumerate(other_weights):  # checks and dual potentials would cost a third of the time
            distance[i, k] = ot.emd2(weights[i], other, cost[k], check_marginals=False, center_dual=False)
    return distance


def coverage_and_mmd(source: Jets, synthetic: Jets) -> tuple[float, float]:
    """(coverage, MMD) of equal numbers of jets, by the energy mover's distance (Kansal et al., 2106.11535).

    Coverage is the share of source jets that are the nearest one to some synthetic jet: it falls when kinds of jets
    are missing. MMD, the minimal matching distance, is the mean distance of a source jet to the nearest synthetic one.
    ValueError for unequal numbers, on which both depend.
    """
    if len(source) != len(synthetic):
        raise ValueError(f"{len(source)} source and {len(synthetic)} synthetic jets: equal numbers are needed")
    distance = energy_movers_distance(synthetic, source)
    return len(np.unique(distance.argmin(1))) / len(source), float(distance.min(0).mean())


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """|μ1 − μ2|² + Tr(Σ1 + Σ2 − 2 (Σ1 Σ2)^½): the Fréchet distance of Gaussians with the moments of samples (n, k)."""
    (mean, covariance), (other_mean, other_covariance) = (
        (x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (np.asarray(first), np.asarray(second))
    )
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    common = np.linalg.eigvalsh(root @ other_covariance @ root)  # of Σ1 Σ2, but symmetric
    overlap = np.sqrt(np.maximum(common, 0)).sum()
    distance = np.sum((mean - other_mean) ** 2) + np.trace(covariance) + np.trace(other_covariance) - 2 * overlap
    return max(0.0, float(distance))


def frechet_physics_distance(source: ArrayLike, synthetic: ArrayLike, generator: np.random.Generator) -> float:
    """FPD of two samples of features of the same scale, (n, k) each (Kansal et al., 2211.10295).

    The Fréchet distance is biased upwards by about 1/n. Hence it is taken for m jets, at FPD_SIZES m from 2 n/5 to n at
    equal distances in 1/m, FPD_DRAWS times without replacement at each, and the straight line through the means is
    extrapolated to 1/m = 0; neither slope nor intercept may be negative. ValueError for unequal numbers of jets.
    """
    source, synthetic = np.asarray(source), np.asarray(synthetic)
    n = len(source)
    if source.shape != synthetic.shape:
        raise ValueError(f"features of shapes {source.shape} and {synthetic.shape}: equal numbers are needed")
    sizes = np.unique((1 / np.linspace(2.5 / n, 1 / n, FPD_SIZES)).astype(int))
    found = [
        np.mean(
            [
                frechet_distance(source[generator.permutation(n)[:m]], synthetic[generator.permutation(n)[:m]])
                for _ in range(FPD_DRAWS)
            ]
        )
        for m in sizes
    ]
    (intercept, _), _ = nnls(np.stack([np.ones(len(sizes)), 1 / sizes], axis=1), found)
    return float(intercept)


def distances(
    source: Mapping[str, Jets],
    synthetic: Mapping[str, Jets],
    generator: np.random.Generator,
    surrogate: str = "surrogate",
    n_splits: int = 10,
    n_matched: int = 100,
) -> pd.DataFrame:
    """How far synthetic jets lie from the source's, beside the floor, source against source.

    In each of `n_splits` splits the source is halved at random into A and B, and as many synthetic jets S
    are drawn without replacement (all of them, and as many of A and B, if there are fewer): the value compares
    A with S, the floor A with B. Metrics, for each class:

    - w1_etarel, w1_phirel, w1_ptrel, w1_mass, w1_ptrel_sum, w1_multiplicity: W1, in units of the observable
    - w1_efp: mean W1 of the energy-flow polynomials of four vertices and four edges (Kansal et al., 2106.11535)
    - fpd: `frechet_physics_distance` of all polynomials, each divided by the source's largest; NaN below 100 jets
    - coverage, mmd: `coverage_and_mmd` of `n_matched` jets each (all, if there are fewer)

    Columns: surrogate (the name given), class, metric, value, uncertainty, floor, floor_uncertainty, jets (in each
    of A, B, S). Values are means over splits and uncertainties their standard deviations, which don't shrink with
    more splits: these share their jets. Coverage and MMD see other jets in each split; theirs are standard errors.

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
        polynomials, model = (efps(sample.particles, sample.mask) for sample in (jets, synthetic[name]))
        largest = polynomials.max().replace(0, 1)
        found = []
        for _ in range(n_splits):
            halves = generator.permutation(len(jets))
            a, b = ((jets[half], polynomials.iloc[half]) for half in (halves[:n], halves[n : 2 * n]))
            drawn = generator.permutation(len(synthetic[name]))[:n]
            others = (synthetic[name][drawn], model.iloc[drawn]), b
            found.append([_metrics(a, other, largest, generator, n_matched) for other in others])
        for metric in found[0][0]:
            pairs = np.array([[value[metric], floor[metric]] for value, floor in found])
            (value, floor), spread = pairs.mean(0), pairs.std(0, ddof=1)
            few = metric in ("coverage", "mmd")
            if few:
                spread = spread / np.sqrt(n_splits)
            row = {"surrogate": surrogate, "class": name, "metric": metric, "value": value, "uncertainty": spread[0]}
            row |= {"floor": floor, "floor_uncertainty": spread[1], "jets": min(n, n_matched) if few else n}
            rows.append(row)
    return pd.DataFrame(rows)


def _metrics(
    first: tuple[Jets, pd.DataFrame],
    second: tuple[Jets, pd.DataFrame],
    largest: pd.Series,
    generator: np.random.Generator,
    n_matched: int,
) -> dict[str, float]:
    """Each metric of two samples of equally many jets, each with its polynomials, whose scale is `largest`."""
    (jets, polynomials), (other_jets, other_polynomials) = first, second
    metrics = {
        f"w1_{kind}": wasserstein_distance(observable(jets, kind)[0], observable(other_jets, kind)[0])
        for kind in OBSERVABLES
    }
    metrics["w1_efp"] = np.mean([wasserstein_distance(polynomials[g], other_polynomials[g]) for g in FOUR_OF_FOUR])
    metrics["fpd"] = np.nan
    if len(jets) >= MINIMAL_JETS:
        metrics["fpd"] = frechet_physics_distance(polynomials / largest, other_polynomials / largest, generator)
    metrics["coverage"], metrics["mmd"] = coverage_and_mmd(jets[:n_matched], other_jets[:n_matched])
    return metrics


def held_out_log_prob(
    log_prob: Mapping[str, ArrayLike], count: Mapping[str, ArrayLike], surrogate: str = "surrogate"
) -> pd.DataFrame:
    """Mean log p of held-out source jets under the model of their own class, in nats, as rows for `distances`.

    log_prob (n,) and count (n,), the number of particles, of each class's jets. log_prob_sequence is as given, the
    density of the particles in their order; log_prob_set is that of the set, larger by log N!. There is no floor: the
    source's own mean log p is unknown. ValueError for unequal shapes or numbers that are not finite.
    """
    rows = []
    for name, values in log_prob.items():
        values, n = np.asarray(values, dtype=np.float64), np.asarray(count[name])
        if values.ndim != 1 or values.shape != n.shape or not np.isfinite(values).all():
            raise ValueError(f"{name}: log_prob of shape {values.shape} for count of shape {n.shape} must be finite")
        for metric, nats in (("log_prob_sequence", values), ("log_prob_set", values + gammaln(n + 1))):
            row = {"surrogate": surrogate, "class": name, "metric": metric, "value": nats.mean()}
            row |= {"uncertainty": standard_error(nats), "floor": np.nan, "floor_uncertainty": np.nan}
            rows.append(row | {"jets": len(nats)})
    return pd.DataFrame(rows)


def resampled(jets: Jets, brought_back: Mapping[float, Jets]) -> pd.DataFrame:
    """How far jets of the source have moved when they were noised to a time t and brought back (`brought_back` by t).

    For mass, summed ptrel and substructure, with a row for each t and observable: t, observable, correlation (of a jet
    before and after: 1 where it is unchanged, 0 where it is new) with its error (Fisher's z, a standard deviation),
    shift (of the mean) and its error, paired, both in standard deviations of the source. ValueError for another
    number of jets.
    """
    before = high_level(jets)[list(MOVED)]
    rows = []
    for t, back in brought_back.items():
        if len(back) != len(jets):
            raise ValueError(f"t = {t}: {len(back)} jets came back of {len(jets)}")
        after = high_level(back)[list(MOVED)]
        for name in MOVED:
            first, second = before[name].to_numpy(), after[name].to_numpy()
            correlation, spread, change = np.corrcoef(first, second)[0, 1], first.std(ddof=1), second - first
            row = {"t": float(t), "observable": name, "correlation": correlation}
            row["correlation_error"] = (1 - correlation**2) / np.sqrt(max(1, len(first) - 3))
            row |= {"shift": change.mean() / spread, "shift_error": standard_error(change) / spread}
            rows.append(row)
    return pd.DataFrame(rows)


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean."""
    return values.std(ddof=1) / np.sqrt(len(values))
