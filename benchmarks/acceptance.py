"""What a surrogate gains by leaving out some of its flow's jets, and what it costs: judges, distances, limit, taggers.

    make redo PARAMS=reference STEP=jets                 # SET is then outputs/reference
    python benchmarks/acceptance.py SET build/acceptance

DRAWN jets of each class are drawn from the flows of a set's first surrogates, before any is left out. At each of RATES
the surrogates' own classifier says which are kept, with caps that the first CAPPED of these jets set, at the rate LESS
also with caps that depend on less, and one for all. Equally many kept jets of each rate are judged, and as many of the
source's for the floor; the likelihood ratio of SCORED of each class is set beside gradient boosting that was trained on
others. Writes acceptance.csv beside this file and the tables of docs/surrogates.md.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from densities import filled, markdown, note
from pairs import ratios

from jetstudy import acceptance, fidelity, judges, likelihoods, limit, report, study
from jetstudy.files import in_chunks
from jetstudy.jets import Jets, concatenate, read_jets, split
from jetstudy.judges import delong
from jetstudy.surrogate import Surrogate, sample_in_chunks
from jetstudy.surrogate import score as log_prob

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
CLASSES = ("gluon", "top")
FLOOR = "source against source"
RATES = (1.0, 0.35, 0.2, 0.1)
LESS = 0.2
CAPPED_BY = {"": acceptance.SPECTRA, ", by mass": ("mass",), ", one cap": ()}  # what the caps depend on
DRAWN, CAPPED, SCORED = 50_000, 10_000, 6_400  # a class; those scored come after those that set the caps
JUDGES, JUDGE_STEPS, MATCHED = ("boosting", "pairs", "lorentznet"), 600, 50
SEED = 7
FEWEST = "fewest pairs, of the source's"
SHOWN = {
    **{"auc_boosting": "boosting's AUC", "auc_pairs": "of `pairs`", "auc_lorentznet": "LorentzNet's"},
    **{"w1_mass": "W1 mass, 1e-3", "w1_ptrel_sum": "W1 sum of ptrel, 1e-3", "w1_efp": "W1 EFP, 1e-6"},
    **{"fpd": "FPD, 1e-3", FEWEST: FEWEST, "gain": "log p gained, nats"},
}
UNITS = {"w1_mass": 1e-3, "w1_ptrel_sum": 1e-3, "w1_efp": 1e-6, "fpd": 1e-3}


def drawn(models: Mapping[str, Surrogate], out: Path) -> tuple[dict[str, Jets], dict[str, np.ndarray]]:
    """The flows' jets by class, all of them, and the LLR of those that are scored (SCORED,)."""
    flows = [replace(models[name], acceptance=None) for name in CLASSES]
    jets, llr = {}, {}
    for name, flow in zip(CLASSES, flows, strict=True):
        done = study.progress(f"{name} jets", DRAWN)
        jets[name] = sample_in_chunks(flow, DRAWN, f"acceptance/{name}", out / name, done)
        done = study.progress(f"{name} jets' log p", SCORED)

        def chunk(start: int, stop: int, own: Jets = jets[name][CAPPED:], done=done) -> dict[str, np.ndarray]:
            done(start)
            return {"log_prob": log_prob(flows, own[start:stop])}

        llr[name] = limit.log_ratio(in_chunks(out / f"{name}.scores", SCORED, 1000, chunk)["log_prob"])
    return jets, llr


def judged(source: Jets, drawn: Jets, name: str, folder: Path) -> dict[str, tuple[float, float]]:
    """{metric: (value, uncertainty)} of equally many jets of the source and of a surrogate."""
    bench = {judge: judges.named(judge, JUDGE_STEPS, progress=lambda line: None) for judge in JUDGES}
    found = judges.contest(source, drawn, bench, np.random.default_rng(SEED), folder)
    distances = fidelity.distances(
        {name: source}, {name: drawn}, np.random.default_rng(SEED), "kept", n_matched=MATCHED
    )
    rows = pd.concat([found, distances]).set_index("metric")
    values = {metric: tuple(rows.loc[metric, ["value", "uncertainty"]]) for metric in SHOWN if metric in rows.index}
    return values | {FEWEST: ratios(source, drawn)[FEWEST]}


def caps(log_w: np.ndarray, few: Jets, source: Jets, drawn: Jets, rate: float, by: tuple[str, ...]) -> acceptance.Caps:
    """Caps ``by`` these features that keep ``rate`` of the ``few`` jets, whose log odds are log_w (n,)."""
    if not by:
        return {"mass": np.array([[0.0], [acceptance.log_cap_at(log_w, rate)]])}
    values = ({name: getattr(jets, name) for name in by} for jets in (few, source, drawn))
    return acceptance.caps_by(log_w, *values, rate)


def gap(jets: dict[str, Jets], llr: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """AUCs of the LLR and of gradient boosting, on the first jets, which have one, by a training on the others."""
    test, training = (
        (
            concatenate([jets[c][part] for c, part in parts.items()]),
            np.repeat([0, 1], [len(jets[c][part]) for c, part in parts.items()]),
        )
        for parts in ({c: slice(None, len(llr[c])) for c in CLASSES}, {c: slice(len(llr[c]), None) for c in CLASSES})
    )
    order = np.random.default_rng(SEED).permutation(len(training[1]))
    training = training[0][order], training[1][order]
    score = judges.boosting(training, training, np.random.default_rng(SEED), Path())
    return {
        "limit": delong(np.concatenate([llr[c] for c in CLASSES]), test[1]),
        "boosting": delong(score(test[0]), test[1]),
    }


def run(
    source: dict[str, Jets],
    jets: dict[str, Jets],
    llr: dict[str, np.ndarray],
    keeps: acceptance.Acceptance,
    out: Path,
) -> pd.DataFrame:
    """Columns: kept ("all", a share, or FLOOR), class ("" of both together), metric, value, uncertainty.

    ``jets`` are all that the flows draw, ``llr`` the LLR of the first ones after CAPPED.
    """
    learned, test = ({name: own[split(len(own), part)] for name, own in source.items()} for part in ("train", "test"))
    few, rest = ({name: own[part] for name, own in jets.items()} for part in (slice(CAPPED), slice(CAPPED, None)))
    # The classifier is the same at all rates: what it says of the jets, as of either class (n, 2), and of the source's.
    log_w = {
        name: np.stack([keeps.of_class(c).log_odds(own) for c in range(len(CLASSES))], 1) for name, own in jets.items()
    }
    log_w_source = {name: keeps.of_class(k).log_odds(test[name]) for k, name in enumerate(CLASSES)}
    rows = []
    same = {name: round(0.95 * RATES[-1] * len(own)) for name, own in rest.items()}  # as many of every rate
    for name in CLASSES:
        n = min(same[name], len(learned[name]), len(test[name]))
        for metric, values in judged(test[name][:n], learned[name][:n], name, out / "judges").items():
            rows.append((FLOOR, name, metric, *values))
    for rate, how in [*((rate, "") for rate in RATES), *((LESS, how) for how in CAPPED_BY if how)]:
        share = "all" if rate == 1 else f"{rate:.0%}{how}"
        chosen, ratio = dict(rest), dict(llr)
        if rate < 1:
            cap = [
                caps(log_w[name][:CAPPED, k], few[name], learned[name], jets[name], rate, CAPPED_BY[how])
                for k, name in enumerate(CLASSES)
            ]
            for k, name in enumerate(CLASSES):
                values = acceptance.spectra(jets[name])
                excess = log_w[name] - np.stack([acceptance.log_cap(own, values) for own in cap], axis=1)
                log_share = np.minimum(0.0, excess[CAPPED:])
                kept = np.random.default_rng([SEED, k]).random(len(log_share)) < np.exp(log_share[:, k])
                chosen[name] = rest[name][kept]
                n = len(llr[name])
                ratio[name] = (llr[name] + log_share[:n, 1] - log_share[:n, 0])[kept[:n]]
                of_source = log_w_source[name] - acceptance.log_cap(cap[k], acceptance.spectra(test[name]))
                found = likelihoods.log_odds({name: of_source}, {name: excess[:CAPPED, k]}).iloc[0]
                rows.append((share, name, "gain", found["gain"], found["gain_error"]))
        for name in CLASSES:
            n = min(same[name], len(chosen[name]), len(test[name]))
            print(f"{share} of {name} jets: {n} of {len(chosen[name])} kept jets are judged", flush=True)
            for metric, values in judged(test[name][:n], chosen[name][:n], name, out / "judges").items():
                rows.append((share, name, metric, *values))
        for metric, values in gap(chosen, ratio).items():
            rows.append((share, "", metric, *values))
    return pd.DataFrame(rows, columns=["kept", "class", "metric", "value", "uncertainty"])


def tables(table: pd.DataFrame) -> dict[str, str]:
    """What docs/surrogates.md shows, by the name of its place there."""

    def cell(kept: str, label: str, metric: str) -> str:
        row = table[(table["kept"] == kept) & (table["class"] == label) & (table["metric"] == metric)]
        unit = UNITS.get(metric, 1)
        return report.measured(*(row.iloc[0][["value", "uncertainty"]] / unit)) if len(row) else ""

    shares = [share for share in table["kept"].unique() if share != FLOOR]
    likeness = [
        [name, share, *(cell(share, name, metric) for metric in SHOWN)]
        for name in CLASSES
        for share in [*shares, FLOOR]
    ]
    both = [[share, cell(share, "", "limit"), cell(share, "", "boosting")] for share in shares]
    return {
        "acceptance": markdown(["jets", "kept", *SHOWN.values()], likeness),
        "acceptance gap": markdown(["kept", "AUC of the LLR", "AUC of boosting"], both),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("set", type=Path, help="folder of a set that has been run, with its jets")
    parser.add_argument("out", type=Path, help="folder for what is drawn and for checkpoints")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: Surrogate.load(chosen.set / "surrogates" / name / "1") for name in CLASSES}
    note(chosen.out, chosen.set / "surrogates", "*/1/weights.safetensors")
    source = {name: read_jets(chosen.set / "jets" / f"{name}.h5") for name in CLASSES}
    table = run(source, *drawn(models, chosen.out), models[CLASSES[0]].acceptance, chosen.out)
    table.to_csv(HERE / "acceptance.csv", index=False)
    page = DOCS / "surrogates.md"
    page.write_text(filled(page.read_text(), tables(table)))


if __name__ == "__main__":
    main()
