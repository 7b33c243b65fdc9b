"""How fast the taggers are, how large, and what they reached at which cost.

    python benchmarks/taggers.py

On one core, jets of up to 30 particles: jets a second of a training step and of scoring, the best of a few batches, by
the processor's own time, which other work on the machine disturbs least. What the particles are does not matter to the
speed of a network, so they are random. Trees are fitted to toy jets; their speeds include the high-level
features. What a tagger reached, and after how long, is read from the published study. Writes taggers.csv beside this
file, and the table in docs/taggers.md.
"""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from densities import filled, markdown

from jetstudy import taggers
from jetstudy.features import Features
from jetstudy.jets import concatenate
from jetstudy.sources import toy
from jetstudy.substructure import high_level
from jetstudy.taggers.trees import SIZES, Trees

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "taggers.md"
PUBLISHED = HERE.parent / "outputs" / "reference" / "report" / "taggers.csv"  # at the size `small`
N, REPEATS, SECONDS = 30, 5, 4.0
TREE_JETS = 5000  # of either class
SAME = ["tagger", "parameters"]  # a network of the same name may have had another size when it was trained
BATCH = {"small": 128, "paper": 32}  # the pairs of large batches would fill the memory
FEATURES = Features(mean=(0.0, 0.0, -4.3), std=(0.1, 0.1, 1.2))


def speed(call, batch: int) -> float:
    """Jets a second of the best of a few calls, of fewer where they are slow."""
    times = []
    while len(times) < 2 or (len(times) < REPEATS and sum(times) < SECONDS):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return batch / min(times)


def measure(name: str, size: str) -> dict:
    tagger, batch = taggers.build(name, FEATURES, size), BATCH[size]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, N, 3, generator=generator)
    mask, label = torch.ones(batch, N, dtype=torch.bool), torch.arange(batch) % 2.0
    optimiser = torch.optim.AdamW(tagger.parameters())

    def step():
        optimiser.zero_grad()
        taggers.loss(tagger.train(), (x, mask, label), generator).backward()
        optimiser.step()

    parameters = sum(p.numel() for p in tagger.parameters())
    line = {"tagger": name, "size": size, "parameters": parameters, "training": speed(step, batch)}
    return line | {"scoring": speed(lambda: taggers.logits(tagger, x, mask), batch)}


def measure_trees(name: str, size: str) -> dict:
    jets = [toy.generate(label, TREE_JETS, N, np.random.default_rng(k)) for k, label in enumerate(("gluon", "top"))]
    jets, label = concatenate(jets), np.repeat([0, 1], TREE_JETS)
    fitted = []

    def fit():
        fitted.append(Trees.fit(name, high_level(jets).to_numpy(), label, 0, size))

    def score():
        fitted[0].logits(high_level(jets).to_numpy())

    rates = {"training": speed(fit, len(jets)), "scoring": speed(score, len(jets))}
    return {"tagger": name, "size": size, "parameters": None} | rates


def reached() -> pd.DataFrame:
    """AUC and seconds of training of each tagger of the published study, by its name and size, the mean over its
    trainings."""
    rows = pd.read_csv(PUBLISHED)
    rows = rows[(rows["metric"] == "AUC") & (rows["sample"] == "synthetic")]
    return rows[["tagger", "parameters", "value", "training_seconds"]].set_axis([*SAME, "auc", "seconds"], axis=1)


def write(table: pd.DataFrame) -> None:
    """The table between its marks in the document, jets a second with three digits."""
    heads = ["tagger", "size", "parameters", "training, jets/s", "scoring, jets/s", "AUC in `reference`", "after, s"]
    lines = []
    for row in table.itertuples():
        rates = [f"{float(f'{rate:.3g}'):,.0f}" for rate in (row.training, row.scoring)]
        parameters = "" if pd.isna(row.parameters) else f"{row.parameters:,.0f}"
        result = ["", ""] if pd.isna(row.auc) else [f"{row.auc:.4f}", f"{row.seconds:.0f}"]
        lines.append([row.tagger, row.size, parameters, *rates, *result])
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), {"speed": markdown(heads, lines)}))


def beside_reached(rows: list[dict]) -> pd.DataFrame:
    """Speeds beside what the small ones, which the published study has, reached there."""
    found = pd.DataFrame(rows).merge(reached(), "left", SAME)
    found.loc[found["size"] != "small", ["auc", "seconds"]] = np.nan
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for size in ("small", "paper"):
        for name in (*taggers.TAGGERS, *SIZES):
            rows.append(measure_trees(name, size) if name in SIZES else measure(name, size))
            print(rows[-1], flush=True)
    table = beside_reached(rows)
    table.to_csv(HERE / "taggers.csv", index=False, float_format="%.4g")
    write(table)


if __name__ == "__main__":
    main()
