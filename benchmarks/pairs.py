"""What counting pairs of particles by their mass sees of a set's synthetic jets.

    python benchmarks/pairs.py outputs/reference

The folder is that of a set that has been run, jets included. Gradient boosting judges the synthetic jets of each class
and seed by JUDGES: with the counts of pairs, with all but those at the peak of neutral pions, and without. Writes
pairs.csv beside this file, with how many pairs of the source's the synthetic jets have at the peak and where there are
most beside it, and the table of docs/surrogates.md.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from densities import filled, markdown

from jetstudy import fidelity, judges, report
from jetstudy.jets import Jets, read_jets, split
from jetstudy.substructure import PAIR_COUNTS, PAIR_MASSES, high_level, pair_masses

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "surrogates.md"
CLASSES = ("gluon", "top")
SEED = 1
PEAK = (1.2e-4, 1.7e-4)  # around 0.135 GeV over the pT of these jets
AT_PEAK = [PAIR_COUNTS[k] for k in range(len(PAIR_COUNTS)) if PEAK[0] < PAIR_MASSES[k] < PAIR_MASSES[k + 1] < PEAK[1]]


def off_the_peak(training, validation, generator, checkpoint):
    """The judge `pairs` without the counts at the peak."""
    return judges.boosted(
        lambda jets: high_level(jets).join(pair_masses(jets).drop(columns=AT_PEAK)), training, generator
    )


JUDGES = {"boosting": judges.boosting, "pairs": judges.pairs, "pairs, but for those at the peak": off_the_peak}


def compared(source: Jets, synthetic: Jets) -> dict[str, tuple[float, float]]:
    """{quantity: (value, uncertainty)} of test jets of the source and a surrogate's."""
    found = judges.verdicts(
        {"": source},
        {"synthetic": {"": synthetic}},
        JUDGES,
        np.random.default_rng(SEED),
        Path(tempfile.gettempdir()),  # for checkpoints, of which boosting has none
        distortions={},
    ).set_index("metric")
    return {name: tuple(found.loc[f"auc_{name}", ["value", "uncertainty"]]) for name in JUDGES} | ratios(
        source, synthetic
    )


def ratios(source: Jets, synthetic: Jets) -> dict[str, tuple[float, float]]:
    """{quantity: (value, uncertainty)}: of the source's pairs of a mass, where there are fewest, and where most."""
    table = fidelity.pairs(source, synthetic)
    ratio = table["synthetic"] / table["source"]
    error = ratio * np.hypot(table["synthetic_error"] / table["synthetic"], table["source_error"] / table["source"])
    return {
        "fewest pairs, of the source's": (ratio.min(), error[ratio.idxmin()]),
        "most pairs, of the source's": (ratio.max(), error[ratio.idxmax()]),
    }


def run(folder: Path) -> pd.DataFrame:
    """Columns: class, seed, quantity, value, uncertainty."""
    rows = []
    for label in CLASSES:
        jets = read_jets(folder / "jets" / f"{label}.h5")
        source = jets[split(len(jets), "test")]
        for path in sorted(folder.glob(f"synthetic_jets/{label}/*/jets.h5")):
            print(f"{label}, seed {path.parent.name}", flush=True)
            found = compared(source, read_jets(path))
            rows += [(label, int(path.parent.name), name, *values) for name, values in found.items()]
    return pd.DataFrame(rows, columns=["class", "seed", "quantity", "value", "uncertainty"])


def tables(table: pd.DataFrame) -> dict[str, str]:
    """What docs/surrogates.md shows, by the name of its place there."""
    cells = table.set_index(["quantity", "class", "seed"]).sort_index()
    columns = list(dict.fromkeys(zip(table["class"], table["seed"], strict=True)))
    lines = [
        [name, *(report.measured(*cells.loc[(name, *column), ["value", "uncertainty"]]) for column in columns)]
        for name in table["quantity"].unique()
    ]
    return {"pairs": markdown(["", *(f"{label}, seed {seed}" for label, seed in columns)], lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="outputs/<set>, with its jets")
    table = run(parser.parse_args().folder)
    table.to_csv(HERE / "pairs.csv", index=False)
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), tables(table)))


if __name__ == "__main__":
    main()
