"""How fast the taggers are, and how large.

    python benchmarks/taggers.py

On one core, jets of 30 particles: jets a second of a training step and of scoring, the best of a few batches, by the
processor's own time, which other work on the machine disturbs least. What the particles are does not matter to a
speed, so they are random. Writes taggers.csv beside this file, and the table in docs/taggers.md.
"""

import time
from pathlib import Path

import pandas as pd
import torch

from jetstudy import taggers
from jetstudy.features import Features

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "taggers.md"
N, REPEATS, SECONDS = 30, 5, 4.0
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


def write(table: pd.DataFrame) -> None:
    """The table between its marks in the document, jets a second with three digits."""
    lines = ["| tagger | size | parameters | training, jets/s | scoring, jets/s |", "| --- | --- | --- | --- | --- |"]
    for row in table.itertuples():
        rates = [f"{float(f'{rate:.3g}'):,.0f}" for rate in (row.training, row.scoring)]
        lines.append(f"| {row.tagger} | {row.size} | {row.parameters:,} | {rates[0]} | {rates[1]} |")
    text = DOCUMENT.read_text()
    before, after = text.split("<!-- speed -->\n")[0], text.split("<!-- end -->\n")[1]
    DOCUMENT.write_text(before + "<!-- speed -->\n" + "\n".join(lines) + "\n<!-- end -->\n" + after)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for size in ("small", "paper"):
        for name in taggers.TAGGERS:
            rows.append(measure(name, size))
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "taggers.csv", index=False, float_format="%.4g")
    write(table)


if __name__ == "__main__":
    main()
