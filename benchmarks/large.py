"""How close large taggers come that see many jets: networks of their papers' sizes, on a GPU, beside the limit.

    python benchmarks/large.py reference build/large

Draws the jets of JETS from a set's first surrogates, a process a core sharing the GPU, scores the test jets exactly,
trains each of TRAININGS with its paper's recipe in a process of its own, and sets the kept weights beside
the exact ratio. What is finished is left alone, what was interrupted goes on. Writes large.csv and
large_calibration.csv, row 4 of the certificate on the test jets, beside this file, and the tables in docs/learning.md.

Drawing and scoring compute in full float32, as a study does, drawing by a compiled network on a GPU; the trainings'
matrix products in TF32.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from densities import filled, markdown, note
from steps import SHOWN, beside_limit, shown, trained

from jetstudy import certificate, learning, limit, report, score, study, taggers
from jetstudy.files import random_seed, read_arrays, write_arrays
from jetstudy.jets import Jets, concatenate
from jetstudy.surrogate import score as log_prob
from jetstudy.training import on_device

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "learning.md"
JETS = {"train": 141_200, "validation": 10_000, "test": 14_400}  # a class
SHARE = 2300  # jets of a class that are drawn at a time
FEW = 25_200  # a class, for small networks on what two cores can draw, and a large one beside them
SEED = 1
AT_ONCE = 8  # trainings: what starts the computations of one takes longer than they do
VALIDATIONS = 20
ABOUT = ("parameters", "kept", "seconds", "training", "validation")


@dataclass(frozen=True)
class Training:
    """A tagger of a size, trained on so many jets per class for so many batches; with a rate of 0 its paper's."""

    tagger: str
    size: str
    jets: int
    steps: int
    batch: int = 1024
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.tagger}-{self.size}-{self.jets}-{self.steps}"


TRAININGS = (  # the longest first
    Training("lorentznet", "paper", JETS["train"], 1800),
    Training("part", "paper", JETS["train"], 3200),
    Training("transformer", "paper", JETS["train"], 6000),
    Training("lorentznet", "small", FEW, 3200, 128, 2e-3),
    Training("pfn", "paper", JETS["train"], 8000),
    Training("transformer", "small", JETS["train"], 5000),
    Training("part", "paper", FEW, 800),
    Training("transformer", "small", FEW, 3200, 128, 2e-3),
)


def draw(parameter_set: str, k: int, shares: Sequence[int], out: Path) -> None:
    """Write these shares, each SHARE jets of the k-th class, the test jets first, with log p (n, 2) of those."""
    models = score.surrogates(score.reader(parameter_set, SEED), on_device("auto"))
    drawing = models[k]
    if drawing.device == "cuda":
        drawing = replace(drawing, velocity=torch.compile(drawing.velocity, dynamic=True))
    test = SHARE * JETS["test"] // sum(JETS.values())
    for share in shares:
        path = out / f"{k}-{share}.h5"
        if path.exists():
            continue
        seed = random_seed(f"large/{models[k].label}/{share}")  # other jets than the study's own
        jets = drawing.sample(SHARE, torch.Generator().manual_seed(seed))
        write_arrays(path, **vars(jets), log_prob=log_prob(models, jets[:test]))
        print(f"{path.stem}: {SHARE} jets, {test} scored", flush=True)


def read(out: Path) -> tuple[dict[str, tuple[Jets, np.ndarray]], np.ndarray]:
    """Jets and labels of each split, background first, and the exact LLR of the test jets."""
    splits, llr = {name: [] for name in JETS}, []
    for k in range(2):
        parts = [read_arrays(path) for path in sorted(out.glob(f"{k}-*.h5"))]
        scores = [part.pop("log_prob") for part in parts]
        jets = [Jets(**part) for part in parts]
        own = concatenate([sample[: len(scored)] for sample, scored in zip(jets, scores, strict=True)])
        rest = concatenate([sample[len(scored) :] for sample, scored in zip(jets, scores, strict=True)])
        splits["test"].append(own)
        splits["validation"].append(rest[: JETS["validation"]])
        splits["train"].append(rest[JETS["validation"] :])
        llr.append(limit.log_ratio(np.concatenate(scores)))
    both = {name: (concatenate(pair), np.repeat([0, 1], [len(own) for own in pair])) for name, pair in splits.items()}
    return both, np.concatenate(llr)


def train(training: Training, out: Path) -> None:
    """Train, and write the logits of the test jets and what `steps.trained` says of the training."""
    path = out / str(training) / "logits.h5"
    if path.exists():
        return
    splits, _ = read(out)
    jets, label = splits["train"]
    few = learning.nested(label, 2 * training.jets)
    splits["train"] = jets[few], label[few]
    lengths = {name: getattr(training, name) for name in ("steps", "batch", "rate")}
    recipe = taggers.recipe(training.tagger, every=training.steps // VALIDATIONS, **lengths)
    write_arrays(path, **trained(training.tagger, training.size, recipe, splits, path.parent, "auto"))


def measure(trainings: Sequence[Training], out: Path) -> pd.DataFrame:
    """The rows of `steps.beside_limit`."""
    splits, llr = read(out)
    logits, about = {}, {}
    for training in trainings:
        found = read_arrays(out / str(training) / "logits.h5")
        logits[str(training)] = found["logits"]
        measured = {key: found[key].item() for key in ABOUT}
        own = {"size": training.size, "jets": 2 * training.jets, "steps": training.steps, "batch": training.batch}
        about[str(training)] = {"learner": training.tagger, **own, **measured}
    return beside_limit(logits, about, splits["test"][1], llr, 200)


def rows(table: pd.DataFrame) -> list[list[str]]:
    """A line a training, and the limit's."""
    lines, columns = [], ["parameters", "jets", "steps", "batch", "kept", "seconds"]
    for (tagger, size, *_), group in table.groupby(["learner", "size", "jets", "steps"], sort=False, dropna=False):
        found, is_limit = group.set_index("metric"), tagger == limit.LIMIT
        own = [*(f"{found.iloc[0][name]:,.0f}" for name in columns), f"{found.iloc[0]['validation']:.4f}"]
        about = [""] * 8 if is_limit else [size, *own]
        lines.append([tagger, *about, *shown(found, is_limit)])
    return lines


def calibration(out: Path) -> pd.DataFrame:
    """Row 4 of the certificate on the test jets."""
    splits, llr = read(out)
    return pd.DataFrame(map(asdict, certificate.calibration(llr, splits["test"][1])))


def at_once(n: int, work: Callable, jobs: Iterable[tuple], threads: int, precision: str) -> None:
    """Do ``work`` with the arguments of each job, n of them at once, in processes with so many CPU threads and a
    precision of float32's matrix products.
    """
    with ProcessPoolExecutor(n, get_context("spawn"), _set, (threads, precision)) as pool:
        for job in [pool.submit(work, *arguments) for arguments in jobs]:
            job.result()


def run(parameter_set: str, out: Path) -> None:
    """Draw, score and train all that is not there yet."""
    note(out, study.outputs() / parameter_set / "surrogates", f"*/{SEED}/weights.safetensors")
    workers = max(1, os.cpu_count() // 2)  # of a class, since to compile a network takes half a minute
    n = sum(JETS.values()) // SHARE
    shares = [(parameter_set, k, range(worker, n, workers), out) for k in range(2) for worker in range(workers)]
    at_once(2 * workers, draw, shares, 1, "highest")
    at_once(AT_ONCE, train, [(training, out) for training in TRAININGS], max(1, workers // AT_ONCE), "high")


def _set(threads: int, precision: str) -> None:
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parameter_set", help="a set with surrogates, published ones will do")
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    run(chosen.parameter_set, chosen.out)
    table = measure(TRAININGS, chosen.out)
    table.to_csv(HERE / "large.csv", index=False, float_format="%.6g")
    heads = ["tagger", "size", "parameters", "jets", "steps", "batch", "kept at", "seconds", "validation loss"]
    heads += [*SHOWN.values(), "over the limit's"]
    checked = calibration(chosen.out)
    checked.to_csv(HERE / "large_calibration.csv", index=False, float_format="%.6g")
    verdicts = [
        [
            row.property,
            report.measured(row.value, row.uncertainty),
            f"{row.criterion:g}",
            f"{row.resolution:.3f}",
            row.verdict,
        ]
        for row in checked.itertuples()
    ]
    tables = {
        "large": markdown(heads, rows(table)),
        "large calibration": markdown(["row 4", "value", "criterion", "resolution", "verdict"], verdicts),
    }
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), tables))


if __name__ == "__main__":
    main()
