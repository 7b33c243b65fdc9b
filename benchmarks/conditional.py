"""One network for both classes of a pair (joint) beside one network each (separate), at equal times in all.

    python benchmarks/conditional.py outputs/reference/jets build/conditional --seconds 90

Two pairs: gluon and top jets, and the null, which is the two halves of the top jets. Of each pair, each design is
trained on one thread, a separate network for so many seconds of processor time and a joint one for twice the steps, and
draws jets, whose likelihood ratio is set beside taggers that are trained on other jets of the same surrogates. What is
finished is left alone when it is run again. Writes conditional.csv beside this file.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from surrogates import MATCHED, OURS, SEED, affordable, trained, training_splits

from jetstudy import fidelity, judges, taggers
from jetstudy.certificate import logistic_fit
from jetstudy.features import Features
from jetstudy.files import read_arrays, write_arrays, write_json
from jetstudy.jets import Jets, concatenate, read_jets, split, write_jets
from jetstudy.judges import delong
from jetstudy.limit import log_ratio
from jetstudy.probability_flow import Solver
from jetstudy.sources import kind, seed_sequence
from jetstudy.surrogate import Surrogate, score

HERE = Path(__file__).parent
PAIRS = {"classes": ("gluon", "top"), "null": ("top.1", "top.2")}
DESIGNS = ("separate", "joint")
ENTRY = OURS | {"stretch": 0.8}
SOLVER = Solver("rk3", 10, 2.0)
TAGGER, TAGGER_STEPS = "transformer", 400  # beside gradient boosting
TRAINING = 2  # jets that taggers are trained on, to each jet that is scored
HELD_OUT = 400  # the source's test jets per class whose log p is taken


def random_seed(*names: str) -> int:
    return int(seed_sequence(SEED, "/".join(names)).generate_state(1)[0])


def samples(folder: Path, pair: str) -> dict[str, Jets]:
    """The jets of a pair's classes; of two of one kind, each has a part of the file to itself."""
    labels = PAIRS[pair]
    files = {label: read_jets(folder / f"{kind(label)}.h5") for label in labels}
    if pair != "null":
        return files
    size = len(files[labels[0]]) // 20 * 10  # tens, so that the splits are the file's
    return {label: jets[k * size : (k + 1) * size] for k, (label, jets) in enumerate(files.items())}


def train(pair: str, design: str, jets: dict[str, Jets], steps: int, features: Features, folder: Path) -> None:
    """Train a pair's surrogates, each saved in a folder of its own."""
    for labels in [PAIRS[pair]] if design == "joint" else [[label] for label in PAIRS[pair]]:
        own = folder / "-".join(labels)
        if (own / "about.json").exists():
            continue
        print(f"{pair}, {design}: {' and '.join(labels)}", flush=True)
        own.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(random_seed(pair, design, *labels))
        models, about = trained(ENTRY, labels, jets, features, len(labels) * steps, own, generator)
        for model in models:
            (folder / model.label).mkdir(exist_ok=True)
            replace(model, solver=SOLVER).save(folder / model.label)
        write_json(own / "about.json", about)


def draw_and_score(pair: str, design: str, jets: dict[str, Jets], n_jets: int, folder: Path) -> None:
    """Jets of each class, and the log p (n, 2) under both models of n_jets of them and of the source's test jets."""
    models = [Surrogate.load(folder / label) for label in PAIRS[pair]]
    for model in models:
        own = folder / model.label
        if not (own / "jets.h5").exists():
            generator = torch.Generator().manual_seed(random_seed(pair, design, model.label, "jets"))
            write_jets(own / "jets.h5", model.sample((1 + TRAINING) * n_jets, generator))
        if not (own / "log_prob.h5").exists():
            test = jets[model.label][split(len(jets[model.label]), "test")][:HELD_OUT]
            drawn = {"synthetic": read_jets(own / "jets.h5")[:n_jets], "source": test}
            write_arrays(own / "log_prob.h5", **{name: score(models, sample) for name, sample in drawn.items()})
            print(f"{pair}, {design}: {model.label} jets drawn and scored", flush=True)


def tagger() -> judges.Judge:
    """The small TAGGER of the package: a judge is anything that is trained to tell two samples apart."""
    recipe = taggers.recipe(TAGGER, steps=TAGGER_STEPS, batch=128, every=max(1, TAGGER_STEPS // 4))
    return judges.tagger(lambda features: taggers.build(TAGGER, features, "small"), recipe)


def tag(pair: str, design: str, n_jets: int, folder: Path) -> None:
    """Logits (2 n_jets,) of each tagger on the jets that are scored, one class after the other."""
    if (folder / "logits.h5").exists():
        return
    drawn = [read_jets(folder / label / "jets.h5") for label in PAIRS[pair]]
    numbers = np.random.default_rng(random_seed(pair, design, "taggers"))

    def sample(first: int, last: int) -> judges.Sample:
        label = np.repeat([0, 1], last - first)
        order = numbers.permutation(len(label))
        return concatenate([jets[first:last] for jets in drawn])[order], label[order]

    most = len(drawn[0]) - n_jets // 5
    known, found = (sample(n_jets, most), sample(most, len(drawn[0]))), {}
    test = concatenate([jets[:n_jets] for jets in drawn])
    for name, judge in {"boosting": judges.boosting, TAGGER: tagger()}.items():
        found[name] = judge(*known, numbers, folder / f"checkpoint-{name}.safetensors")(test)
    write_arrays(folder / "logits.h5", **found)


def likelihoods(pair: str, folder: Path) -> dict[str, tuple[float, float]]:
    """{quantity: (value, uncertainty)} of a pair's likelihood ratio and of the taggers."""
    log_prob = [read_arrays(folder / label / "log_prob.h5") for label in PAIRS[pair]]
    llr, label = {}, {}
    for sample in ("synthetic", "source"):
        ratios = [log_ratio(each[sample]) for each in log_prob]
        llr[sample], label[sample] = np.concatenate(ratios), np.repeat([0, 1], [len(ratio) for ratio in ratios])
    own = np.where(label["synthetic"] == 1, llr["synthetic"], -llr["synthetic"])
    (_, slope), (_, error) = logistic_fit(llr["synthetic"], label["synthetic"])
    rows = {
        "AUC of the LLR": delong(llr["synthetic"], label["synthetic"]),
        "mean LLR for the own class, nats": (own.mean(), own.std() / np.sqrt(len(own))),
        "slope of the label on the LLR": (slope, error),
        "AUC of the LLR on the source's jets": delong(llr["source"], label["source"]),
    }
    for name, logit in read_arrays(folder / "logits.h5").items():
        rows[f"AUC of {name}"] = delong(logit, label["synthetic"])
    for k, each in enumerate(PAIRS[pair]):
        held_out = log_prob[k]["source"][:, k]
        rows[f"log p of held-out {each} jets"] = held_out.mean(), held_out.std() / np.sqrt(len(held_out))
    return rows


def likeness(jets: dict[str, Jets], out: Path) -> list[tuple]:
    """Rows of how like the source's both designs' jets are, and of the floor: gluon and top jets."""
    test = {label: sample[split(len(sample), "test")] for label, sample in jets.items()}
    drawn = {d: {label: read_jets(out / "classes" / d / label / "jets.h5") for label in test} for d in DESIGNS}
    numbers, boosting = np.random.default_rng(SEED), {"boosting": judges.boosting}
    table = pd.concat(
        [
            *(fidelity.distances(test, drawn[d], numbers, d, n_matched=MATCHED) for d in DESIGNS),
            judges.verdicts(test, drawn, boosting, numbers, out / "judges", distortions={}),
        ]
    )
    rows = []
    for line in table[table["metric"] != "auc_best"].rename(columns={"class": "label"}).itertuples():
        quantity = f"{line.metric} of {line.label} jets"
        rows.append((line.surrogate, "classes", quantity, line.value, line.uncertainty))
        if line.surrogate == DESIGNS[0]:
            rows.append(("source", "classes", quantity, line.floor, line.floor_uncertainty))
    return rows


def differences(pair: str, out: Path) -> list[tuple]:
    """Rows of the joint design's log p of held-out jets less the separate one's, on the same jets."""
    rows = []
    for k, label in enumerate(PAIRS[pair]):
        files = (read_arrays(out / pair / design / label / "log_prob.h5") for design in DESIGNS)
        separate, joint = (log_prob["source"][:, k] for log_prob in files)
        gain = joint - separate
        quantity = f"log p of held-out {label} jets"
        rows.append(("joint - separate", pair, quantity, gain.mean(), gain.std() / np.sqrt(len(gain))))
    return rows


def run(folder: Path, out: Path, seconds: float, n_jets: int) -> pd.DataFrame:
    """All of it, for the table: design, pair, quantity, value, uncertainty."""
    asked, about, rows = {"seconds": seconds, "jets": n_jets}, out / "about.json", []
    for pair in PAIRS:
        jets = samples(folder, pair)
        features = Features.fit(list(training_splits(jets).values()), ENTRY["stretch"])
        if not about.exists():  # one number of steps, so that a busy machine favours nobody
            out.mkdir(parents=True, exist_ok=True)
            write_json(about, asked | {"steps": affordable(ENTRY, features, jets[PAIRS[pair][0]], seconds)})
        if asked.items() - (found := json.loads(about.read_text())).items():
            raise ValueError(f"{about}: made with {found}, not with {asked}; take another folder")
        for design in DESIGNS:
            own = out / pair / design
            train(pair, design, jets, found["steps"], features, own)
            draw_and_score(pair, design, jets, n_jets, own)
            tag(pair, design, n_jets, own)
            rows += [(design, pair, quantity, *values) for quantity, values in likelihoods(pair, own).items()]
        rows += differences(pair, out)
        if pair == "classes":
            rows += likeness(jets, out)
    return pd.DataFrame(rows, columns=["design", "pair", "quantity", "value", "uncertainty"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("jets", type=Path, help="folder with gluon.h5 and top.h5")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=90, help="processor seconds of a separate network's training")
    parser.add_argument(
        "--scored", type=int, default=2000, help="jets per class that are scored; thrice as many are drawn"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    table = run(chosen.jets, chosen.out, chosen.seconds, chosen.scored)
    table.to_csv(HERE / "conditional.csv", index=False, float_format="%.5g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
