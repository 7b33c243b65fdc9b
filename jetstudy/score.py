"""Anyone's jets under a study's surrogates: log p of each class, and the log-likelihood ratio.

    from jetstudy import score
    result = score.jets("jets.h5", "quick")
    result.llr

Scores are worth something for jets of the kind that the surrogates have learned, so the jets are compared with those:
each observable's cumulative distribution with the best-matching mixture of both classes'. Conventions are those of
``surrogate``: log p is the density of a jet's particles as a sequence, over (etarel, phirel, ptrel) of each; the ratio
does not depend on it.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

import numpy as np
import pandas as pd

from jetstudy import inputs, study
from jetstudy.fidelity import OBSERVABLES, observable
from jetstudy.files import digest, named_after, replacing, write_arrays, write_json
from jetstudy.jets import Jets, incomplete, read_jets
from jetstudy.limit import log_ratio
from jetstudy.study import Reader, StudyError
from jetstudy.surrogate import Surrogate, score_in_chunks
from jetstudy.training import on_device

FAR = 0.1  # a distance of cumulative distributions that is said in words
OUTSIDE = 0.01  # a share of values outside the learned range that is said in words; by construction it is 0.002


@dataclass(frozen=True, eq=False)
class Scores:
    """log p (n, 2) under the two classes' surrogates, NaN for jets that have none; what is to be said of the jets."""

    classes: tuple[str, str]
    log_prob: np.ndarray
    comparison: pd.DataFrame
    remarks: tuple[str, ...]

    @property
    def llr(self) -> np.ndarray:
        """(n,) log p of the signal minus log p of the background."""
        return log_ratio(self.log_prob)


def jets(
    sample: Jets | str | Path,
    parameter_set: str,
    seed: int | None = None,
    device: str = "auto",
    progress=print,
    place: Path | None = None,
) -> Scores:
    """Score jets, or those of a file in JetNet's layout, with the surrogates of a parameter set.

    seed: which of the set's surrogates; None for the first
    progress: called with lines of text
    place: a folder, named after jets and surrogates, in which an interrupted scoring goes on; None: nothing is kept

    Raises StudyError if the surrogates are not there or not those of their records, and what ``read_jets`` raises.
    """
    sample = sample if isinstance(sample, Jets) else read_jets(sample)
    of = reader(parameter_set, seed)
    models = surrogates(of, on_device(device))
    how = study.read_record(_base(parameter_set) / "jets")["parameters"]
    names = tuple(model.label for model in models)
    known = learned(of, names)
    n_max, kept = how["n_max"], np.ones(len(sample), bool)
    if how["jets_kept"] == "leading":
        kept = incomplete(sample, n_max)
    leading = sample.leading(n_max)
    result = np.full((len(sample), 2), np.nan)
    report = study.progress("score", 2 * kept.sum())
    if kept.any():
        with TemporaryDirectory() as nowhere:
            # Fixed, so that the probes of a stochastic divergence come out the same again.
            result[kept] = score_in_chunks(models, leading[kept], str(of.seed), place or Path(nowhere), report)
    result[~np.isfinite(result).all(axis=1)] = np.nan
    comparison = compare(leading[kept], known)
    remarks = []
    if left_out := int((~kept).sum()):
        remarks.append(
            f"of {left_out} of {len(sample)} jets {n_max} particles or fewer are given: all of a jet's particles "
            "together have no density, and the surrogates have learned no such jets; their scores are NaN"
        )
    never = kept & ~np.all([model.covers(leading) for model in models], axis=0)
    if n_never := int(never.sum()):
        remarks.append(f"{n_never} of {len(sample)} jets have a number of particles never seen: their scores are NaN")
    if n_lost := int((kept & ~never & np.isnan(result[:, 0])).sum()):
        remarks.append(f"{n_lost} of {len(sample)} jets are so far from the learned ones that log p is not finite: NaN")
    if how["smearing"] > 0:
        width = how["smearing"]
        remarks.append(
            f"the surrogates have learned jets whose log ptrel is smeared by {width}; these are taken as such"
        )
    remarks += in_words(comparison, names)
    for remark in remarks:
        progress(f"score: {remark}")
    return Scores(names, result, comparison, tuple(remarks))


def file(path: str | Path, out: str | Path, parameter_set: str, seed: int | None = None, progress=print) -> Scores:
    """Score the jets of a file and write ``out`` (HDF5: log_prob_<class> and llr, (n,) each), its record beside it.
    What was scored before an interruption is gone on from.

    Raises StudyError if ``out`` is the file of the jets itself, or would be overwritten by its record, or holds
    anything but scores of these jets by these surrogates.
    """
    out, reads = Path(out), reader(parameter_set, seed)
    if out.suffix == ".json" or out.resolve() == Path(path).resolve():
        raise StudyError(f"{out}: scores need a file of their own; their record, called .json, stands beside it")
    if out.is_dir():
        raise StudyError(f"{out} is a folder: scores are one file, such as {out / 'scores.h5'}")
    sample = read_jets(path)
    surrogates(reads)
    of = {
        "jets": {"file": Path(path).name, "digest": digest(Path(path)), "number": len(sample)},
        "parameter_set": parameter_set,
        "seed": reads.seed,
        "inputs": reads.inputs,
    }
    try:  # before all is computed
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise StudyError(f"{out}: cannot be written there: {error.strerror}") from error
    place = out.with_name(f"{out.stem}-chunks")
    own = place / named_after([of["jets"]["digest"], of["inputs"], reads.seed])
    with study.locked(place):
        try:
            _refuse_others(out, of)
            scores = jets(sample, parameter_set, reads.seed, progress=progress, place=own)
            _write(out, scores, of)
            shutil.rmtree(own, ignore_errors=True)  # none if no jet has a density
        finally:  # what others have in there stays
            if [path.name for path in place.iterdir()] == [study.LOCK]:
                shutil.rmtree(place)
    scored = int(np.isfinite(scores.llr).sum())
    progress(f"score: {scored} of {len(scores.llr)} jets scored: {out}, {out.with_suffix('.json').name}")
    return scores


def _refuse_others(out: Path, of: dict) -> None:
    """StudyError if what is there already is not scores ``of`` the same jets by the same surrogates."""
    before = study.read_record(out.parent, out.with_suffix(".json").name)
    if before is not None and not isinstance(before.get("jets"), dict):
        raise StudyError(f"{out.with_suffix('.json')} is no record of scores: choose another file")
    found = before or {"jets": {}}
    same = found["jets"].get("digest") == of["jets"]["digest"]
    if before is not None and not (same and all(found.get(key) == of[key] for key in of if key != "jets")):
        raise StudyError(
            f"{out.with_suffix('.json')} is of other jets, other surrogates or another version: choose another file"
        )
    if out.exists() and found.get("digest") != digest(out):
        raise StudyError(f"{out} is there, and no record says that it holds scores: choose another file")


def _write(out: Path, scores: Scores, of: dict) -> None:
    """Scores, and their record beside them, which is there first: no scores are without one."""
    columns = {f"log_prob_{name}": scores.log_prob[:, k] for k, name in enumerate(scores.classes)}
    record = of | {
        "scored": int(np.isfinite(scores.llr).sum()),
        "convention": "log p of a sequence of particles over etarel, phirel, ptrel; as a set it is larger by log N!",
        "remarks": list(scores.remarks),
        "comparison": scores.comparison.to_dict("records"),
        **study.made_with(),
    }
    with replacing(out) as unfinished:
        write_arrays(unfinished, **columns, llr=scores.llr)
        out.unlink(missing_ok=True)
        write_json(out.with_suffix(".json"), record | {"digest": digest(unfinished)})


def reader(parameter_set: str, seed: int | None = None, name: str = "score") -> Reader:
    """What reads a set's surrogates, those of the first seed unless told, for what is called so in errors; StudyError
    if it has none of them.
    """
    known, again = _seeds(parameter_set), f"make study PARAMS={study.called(parameter_set)}"
    if not known:
        there = sorted({path.parents[3].name for path in study.outputs().glob(f"*/surrogates/*/*/{study.RECORD}")})
        others = f"{study.outputs()} has those of {', '.join(there)}" if there else "there are none beside it"
        raise StudyError(f"{_base(parameter_set)} has no surrogates ({others}): {again}")
    if seed is not None and seed not in known:
        there = ", ".join(map(str, known))
        raise StudyError(f"{_base(parameter_set)} has no surrogates of seed {seed} (seeds there: {there}): {again}")
    return Reader(parameter_set, name, known[0] if seed is None else seed)


def _seeds(parameter_set: str) -> list[int]:
    """The seeds of which a set has surrogates, in the set's own order once it has come to its report."""
    places = (path.parent.name for path in _base(parameter_set).glob(f"surrogates/*/*/{study.RECORD}"))
    known = sorted({int(name) for name in places if name.isdecimal()})
    report = study.read_record(_base(parameter_set) / "report")
    return [seed for seed in report["parameters"]["seeds"] if seed in known] or known if report else known


def surrogates(of: Reader, device: str = "cpu") -> list[Surrogate]:
    """The surrogates of background and signal; StudyError if they are not there, not those recorded, or not to be read
    by this version.
    """
    try:
        return [inputs.surrogate(of, label, device) for label in inputs.classes(of)[:2]]
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise StudyError(f"{_base(of.parameter_set)} has surrogates of another version of jetstudy: {what}") from error


def learned(of: Reader, classes: Sequence[str]) -> pd.DataFrame:
    """Histograms of the source's jets of both classes (``fidelity.observables``)."""
    paths = [of.read("synthetic_jets", name, of.seed, "observables.csv") for name in classes]
    return pd.concat(map(pd.read_csv, paths), ignore_index=True)


def compare(sample: Jets, known: pd.DataFrame) -> pd.DataFrame:
    """Observables of ``sample`` beside those of the classes whose histograms are ``known``, a row each.

    mean, and mean_<class>: of the absolute values; outside: share of values outside the histograms of all classes;
    distance: largest difference of the cumulative distribution from that of the best-matching mixture of the classes (a
    Kolmogorov distance); unlike: if either is larger than FAR, OUTSIDE and chance explain.
    """
    chance, rows, classes = 1 / np.sqrt(max(len(sample), 1)), [], list(dict.fromkeys(known["class"]))
    for name in OBSERVABLES if len(sample) else ():
        values = np.sort(observable(sample, name)[0])
        tables = [t for _, t in known[known["observable"] == name].groupby("class", sort=False)]
        low, high = min(t["low"].min() for t in tables), max(t["high"].max() for t in tables)
        points = np.unique(np.concatenate([np.append(t["low"], t["high"]) for t in tables]))
        here = np.searchsorted(values, points, side="right") / len(values)
        first, second = (_cumulative(t, points) for t in tables)
        shares = np.linspace(0, 1, 101)[:, None]
        distance = np.abs(here - shares * first - (1 - shares) * second).max(axis=1).min()
        outside = np.mean((values < low) | (values > high))
        rows.append(
            {
                "observable": name,
                "mean": float(np.abs(values).mean()),
                **{f"mean_{c}": _mean(t) for c, t in zip(classes, tables, strict=True)},
                "low": float(low),
                "high": float(high),
                "outside": float(outside),
                "distance": float(distance),
                "unlike": bool(distance > FAR + 1.4 * chance or outside > OUTSIDE + 3 * chance * np.sqrt(OUTSIDE)),
            }
        )
    return pd.DataFrame(rows)


def _cumulative(table: pd.DataFrame, points: np.ndarray) -> np.ndarray:
    """Share of values up to each point; what lies outside the histogram is taken half below, half above."""
    shares = (table["source"] * (table["high"] - table["low"])).to_numpy()
    tail = max(0.0, 1 - shares.sum()) / 2
    edges, total = np.append(table["low"], table["high"].iloc[-1]), tail + np.append(0, np.cumsum(shares))
    return np.interp(points, edges, total, left=0.0, right=1.0)


def _mean(table: pd.DataFrame) -> float:
    weights = table["source"] * (table["high"] - table["low"])
    return float(np.average((table["low"] + table["high"]).abs() / 2, weights=weights))


def in_words(comparison: pd.DataFrame, classes: Sequence[str]) -> list[str]:
    """What a comparison says, a sentence for each observable that is unlike; empty if none is."""
    if comparison.empty or not comparison["unlike"].any():
        return []
    lines = [
        "these jets are not of the kind that the surrogates have learned; log p and its ratio mean little for them"
    ]
    for row in comparison[comparison["unlike"]].to_dict("records"):
        means = ", ".join(f"{row[f'mean_{name}']:.3g} of {name} jets" for name in classes)
        lines.append(
            f"{row['observable']}: mean absolute value {row['mean']:.3g} here, learned {means}; "
            f"{100 * row['outside']:.1f} % lie outside {row['low']:.3g} to {row['high']:.3g}, as 0.2 % of those "
            f"learned do; distance from the best-matching mixture of the classes {row['distance']:.2f}"
        )
    return lines


def _base(parameter_set: str) -> Path:
    return study.outputs() / parameter_set
