"""What a surrogate gains by leaving out some of its flow's jets, and what it costs: judges, distances, limit, taggers.

    make dataset PARAMS=reference N=24000 OUT=build/dataset
    make redo PARAMS=reference STEP=jets                 # JETS is then outputs/reference/jets
    python benchmarks/acceptance.py JETS build/dataset build/acceptance

Of the dataset's jets of each class, 9,600 teach an acceptance what is not like the source's, at each of RATES; the
others are kept or not, at the rate ONE_CAP also with one cap for all masses. Equally many kept jets of each rate are
judged, and as many of the source's for the floor; the likelihood ratio of those with a known one is set beside gradient
boosting that was trained on others. Writes acceptance.csv beside this file and the tables of docs/surrogates.md. The
dataset has to come from surrogates without an acceptance.
"""

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from densities import filled, markdown

from jetstudy import acceptance, fidelity, judges, report
from jetstudy.files import read_arrays
from jetstudy.jets import Jets, concatenate, read_jets, split
from jetstudy.judges import delong

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
CLASSES = ("gluon", "top")
FLOOR = "source against source"
RATES = (1.0, 0.7, 0.5, 0.35)
ONE_CAP = 0.5
LEARNED = 0.4  # share of the dataset's jets that the acceptance learns from
JUDGES, JUDGE_STEPS, MATCHED = ("boosting", "lorentznet"), 600, 50
SEED = 7
SHOWN = {
    **{"auc_boosting": "boosting's AUC", "auc_lorentznet": "LorentzNet's AUC", "w1_mass": "W1 mass, 1e-3"},
    **{"w1_ptrel_sum": "W1 sum of ptrel, 1e-3", "w1_efp": "W1 EFP, 1e-6", "fpd": "FPD, 1e-3"},
    **{"gain": "log p gained, nats"},
}
UNITS = {"w1_mass": 1e-3, "w1_ptrel_sum": 1e-3, "w1_efp": 1e-6, "fpd": 1e-3}


def dataset(folder: Path) -> tuple[dict[str, Jets], dict[str, np.ndarray]]:
    """Jets by class, and their LLR (n,), NaN where it is not known."""
    jets, known = read_jets(folder / "jets.h5"), read_arrays(folder / "jets.h5")
    label, llr = known["label"], known["llr"]
    return (
        {name: jets[label == k] for k, name in enumerate(CLASSES)},
        {name: llr[label == k] for k, name in enumerate(CLASSES)},
    )


def judged(source: Jets, drawn: Jets, name: str, folder: Path) -> dict[str, tuple[float, float]]:
    """{metric: (value, uncertainty)} of equally many jets of the source and of a surrogate."""
    bench = {judge: judges.named(judge, JUDGE_STEPS, progress=lambda line: None) for judge in JUDGES}
    found = judges.contest(source, drawn, bench, np.random.default_rng(SEED), folder)
    distances = fidelity.distances(
        {name: source}, {name: drawn}, np.random.default_rng(SEED), "kept", n_matched=MATCHED
    )
    rows = pd.concat([found, distances]).set_index("metric")
    return {metric: tuple(rows.loc[metric, ["value", "uncertainty"]]) for metric in SHOWN if metric in rows.index}


def one_cap(keeps: acceptance.Acceptance, drawn: Jets) -> np.ndarray:
    """Caps (2, 1) that keep the same share of jets of all masses together, with one cap for all."""
    return np.array([[0.0], [acceptance._log_cap(keeps.log_odds(acceptance.set_aside(drawn)), keeps.rate)]])


def gap(jets: dict[str, Jets], llr: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> dict:
    """AUCs of the LLR and of gradient boosting, on the ``known`` jets, by a training on the others."""
    training, test = (
        (concatenate([jets[c][mask[c]] for c in CLASSES]), np.repeat([0, 1], [mask[c].sum() for c in CLASSES]))
        for mask in ({c: ~known[c] for c in CLASSES}, known)
    )
    order = np.random.default_rng(SEED).permutation(len(training[1]))
    training = training[0][order], training[1][order]
    score = judges.boosting(training, training, np.random.default_rng(SEED), Path())
    ratio = np.concatenate([llr[c][known[c]] for c in CLASSES])
    return {"limit": delong(ratio, test[1]), "boosting": delong(score(test[0]), test[1])}


def run(folder: Path, data: Path, out: Path) -> pd.DataFrame:
    """Columns: kept ("all", a share, or FLOOR), class ("" of both together), metric, value, uncertainty."""
    source = {name: read_jets(folder / f"{name}.h5") for name in CLASSES}
    test = {name: jets[split(len(jets), "test")] for name, jets in source.items()}
    jets, llr = dataset(data)
    learned = {name: slice(0, round(LEARNED * len(own))) for name, own in jets.items()}
    others = {name: slice(round(LEARNED * len(own)), None) for name, own in jets.items()}
    known = {name: np.isfinite(llr[name][others[name]]) for name in CLASSES}
    rows = []
    same = {name: round(0.95 * RATES[-1] * len(mask)) for name, mask in known.items()}  # as many of every rate
    for name in CLASSES:
        more = source[name][split(len(source[name]), "train")]
        n = min(same[name], len(more), len(test[name]))
        for metric, values in judged(test[name][:n], more[:n], name, out / "judges").items():
            rows.append((FLOOR, name, metric, *values))
    for rate, by_mass in [*((rate, True) for rate in RATES), (ONE_CAP, False)]:
        share = "all" if rate == 1 else f"{rate:.0%}" if by_mass else f"{rate:.0%}, one cap"
        kept = {name: np.full(len(known[name]), True) for name in CLASSES}
        log_share = {name: np.zeros((len(known[name]), 2)) for name in CLASSES}
        if rate < 1:
            own = [source[name] for name in CLASSES]
            few = [jets[name][learned[name]] for name in CLASSES]
            generator = torch.Generator().manual_seed(SEED)
            out.mkdir(parents=True, exist_ok=True)
            content = hashlib.sha256(b"".join(jets.particles.tobytes() for jets in few)).hexdigest()[:8]
            checkpoint = out / f"acceptance-{content}.safetensors"  # one training; the rates have caps of their own
            keeps = acceptance.fit(own, few, rate, generator, checkpoint, lambda line: None)
            if not by_mass:
                keeps = replace(keeps, caps=tuple(one_cap(keeps.of_class(k), drawn) for k, drawn in enumerate(few)))
            for k, name in enumerate(CLASSES):
                rest = jets[name][others[name]]
                log_share[name] = np.stack([keeps.of_class(c).log_share(rest) for c in (0, 1)], axis=1)
                chance = np.random.default_rng([SEED, k]).random(len(rest))
                kept[name] = chance < np.exp(log_share[name][:, k])
                unseen = test[name], acceptance.set_aside(few[k])
                found = fidelity.log_odds(*({name: keeps.of_class(k).log_excess(j)} for j in unseen)).iloc[0]
                rows.append((share, name, "gain", found["gain"], found["gain_error"]))
        chosen = {name: jets[name][others[name]][kept[name]] for name in CLASSES}
        ratio = {
            name: (llr[name][others[name]] + log_share[name][:, 1] - log_share[name][:, 0])[kept[name]]
            for name in CLASSES
        }
        for name in CLASSES:
            n = min(same[name], len(chosen[name]), len(test[name]))
            print(f"{share} of {name} jets: {n} of {len(chosen[name])} kept jets are judged", flush=True)
            for metric, values in judged(test[name][:n], chosen[name][:n], name, out / "judges").items():
                rows.append((share, name, metric, *values))
        for metric, values in gap(chosen, ratio, {name: known[name][kept[name]] for name in CLASSES}).items():
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
    parser.add_argument("jets", type=Path, help="folder with gluon.h5 and top.h5")
    parser.add_argument("dataset", type=Path, help="folder that make dataset wrote")
    parser.add_argument("out", type=Path, help="folder for checkpoints")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    table = run(chosen.jets, chosen.dataset, chosen.out)
    table.to_csv(HERE / "acceptance.csv", index=False)
    page = DOCS / "surrogates.md"
    page.write_text(filled(page.read_text(), tables(table)))


if __name__ == "__main__":
    main()
