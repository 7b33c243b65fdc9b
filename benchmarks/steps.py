"""How far more steps of training take a tagger towards a limit that is known.

    make dataset PARAMS=reference N=24000 OUT=build/dataset
    python benchmarks/steps.py build/dataset build/steps

Trains each of TRAININGS on the dataset's training jets with the recipe of `reference`, each length a training of its
own whose rate falls to zero at its end, and sets the kept weights beside the exact ratio on the test jets. What is
finished is left alone, what was interrupted goes on. Writes steps.csv beside this file, and the table in
docs/learning.md.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from densities import filled, markdown, note

from jetstudy import learning, limit, report, taggers
from jetstudy.features import Features
from jetstudy.files import read_arrays, write_arrays
from jetstudy.jets import SPLITS, Jets, read_jets
from jetstudy.training import Recipe

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "learning.md"
TRAININGS = {
    "pfn": (1600, 6400, 25_600),
    "transformer": (1600, 6400, 25_600),
    "lorentznet": (1600, 6400),
    "pelican": (1600,),
}
BATCH, RATE, EVERY = 128, 2e-3, 400  # as in params/reference.yaml
SEED = 1
RATIO = limit.rejection_at(0.5, limit.POSTERIOR_WEIGHTED)
SHOWN = {limit.KL: "excess cross-entropy, nats", "AUC": "AUC", RATIO: "rejection at 0.5"}


def read(dataset: Path) -> tuple[dict[str, tuple[Jets, np.ndarray]], np.ndarray]:
    """Jets and labels of each split, and the exact LLR of the test jets."""
    jets, known = read_jets(dataset / "jets.h5"), read_arrays(dataset / "jets.h5")
    own = {name: known["split"] == code for code, name in enumerate(SPLITS)}
    return {name: (jets[chosen], known["label"][chosen]) for name, chosen in own.items()}, known["llr"][own["test"]]


def trained(
    name: str, size: str, recipe: Recipe, splits: dict[str, tuple[Jets, np.ndarray]], folder: Path, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Logits of the test jets after the training, the step whose weights were kept, its validation loss, the seconds
    it took, the loss on the training jets since the last validation but one, and the number of parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jets, label = splits["train"]
    features = Features.fit([jets[label == c] for c in (0, 1)])
    data = (taggers.tensors(features, *splits[part]) for part in ("train", "validation"))
    generator = torch.Generator().manual_seed(SEED)

    def say(line: str) -> None:
        print(f"{folder.name}: {line}", flush=True)

    new, checkpoint = partial(taggers.build, name, features, size), folder / "checkpoint.safetensors"
    tagger, losses = taggers.fitted(new, *data, recipe, generator, checkpoint, device, say)
    best = losses.loc[losses["validation"].idxmin()]
    about = {"kept": int(best["step"]), "validation": best["validation"], "seconds": losses.attrs["seconds"]}
    about |= {"training": losses["train"].iloc[-1], "parameters": sum(p.numel() for p in tagger.parameters())}
    return {name: np.array(value) for name, value in about.items()} | {
        "logits": taggers.on_jets(tagger, features)(splits["test"][0])
    }


def run(dataset: Path, out: Path) -> pd.DataFrame:
    """The limit's rows of `limit.gap`, and those of all trainings (`learning.named`) with learner, steps and what
    `trained` says of it.
    """
    splits, llr = read(dataset)
    logits, about = {}, {}
    for name, lengths in TRAININGS.items():
        for steps in lengths:
            path = out / f"{name}-{steps}" / "logits.h5"
            if not path.exists():
                recipe = taggers.recipe(name, steps=steps, batch=BATCH, rate=RATE, every=EVERY)
                write_arrays(path, **trained(name, "small", recipe, splits, path.parent))
            found, called = read_arrays(path), f"{name}, {steps}"
            logits[called] = found["logits"]
            measured = {key: found[key].item() for key in ("kept", "seconds", "training")}
            about[called] = {"learner": name, "steps": steps, **measured}
    return beside_limit(logits, about, splits["test"][1], llr, 500)


def beside_limit(
    logits: dict[str, np.ndarray], about: dict[str, dict], label: np.ndarray, llr: np.ndarray, n_resamples: int
) -> pd.DataFrame:
    """The limit's rows of `limit.gap`, and those of all trainings (`learning.named`)."""
    merit = limit.gap(logits, label, np.random.default_rng(SEED), llr, n_resamples=n_resamples)
    best = merit[merit["tagger"] == limit.LIMIT].rename(columns={"tagger": "learner"})
    return pd.concat([best, learning.named(merit, about)], ignore_index=True)


def rows(table: pd.DataFrame) -> list[list[str]]:
    """A line a training, and the limit's."""
    lines = []
    for (name, _), group in table.groupby(["learner", "steps"], sort=False, dropna=False):
        found, is_limit = group.set_index("metric"), name == limit.LIMIT
        about = [""] * 3 if is_limit else [f"{number:,.0f}" for number in found.iloc[0][["steps", "kept", "seconds"]]]
        lines.append([name, *about, *shown(found, is_limit)])
    return lines


def shown(found: pd.DataFrame, is_limit: bool) -> list[str]:
    """The cells of SHOWN, and the rejection over the limit's, of one training's rows by metric."""
    cells = [
        report.measured(*found.loc[metric, ["value", "uncertainty"]]) if metric in found.index else ""
        for metric in SHOWN
    ]
    return [*cells, "" if is_limit else report.measured(*found.loc[RATIO, ["ratio", "ratio_uncertainty"]])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder that make dataset wrote")
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    note(chosen.out, chosen.dataset, "jets.h5")
    table = run(chosen.dataset, chosen.out)
    table.to_csv(HERE / "steps.csv", index=False, float_format="%.6g")
    heads = ["tagger", "steps", "kept at", "seconds", *SHOWN.values(), "over the limit's"]
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), {"steps": markdown(heads, rows(table))}))


if __name__ == "__main__":
    main()
