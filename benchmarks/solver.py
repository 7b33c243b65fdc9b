"""Which solver, which grid: error of log p and LLR at equal numbers of network evaluations.

    python benchmarks/solver.py outputs/quick/surrogates outputs/quick/synthetic_jets --jets 200

scores a few synthetic jets of each class with every method and grid and compares with a solution refined until it no
longer moves (RK4 on t = u^2 with 400 evaluations). Writes solver.csv beside
this file and docs/solver.png.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from jetstudy.figures import COLOURS, LINES, MARKERS, STYLE
from jetstudy.jets import concatenate, read_jets, split
from jetstudy.limit import POSTERIOR_WEIGHTED, Curve
from jetstudy.probability_flow import METHODS, Solver
from jetstudy.surrogate import Surrogate, score

HERE = Path(__file__).parent
POWERS = (1.0, 1.5, 2.0, 3.0)
EVALUATIONS = (24, 32, 48)
REFINED = Solver("rk4", 100, 2.0)


def errors(models, jets, label, reference, solver):
    """Errors of log p (own model) and LLR, and shifts of AUC and rejection, paired on the same jets."""
    log_prob = score([replace(model, solver=solver) for model in models], jets)
    llr, truth = (np.diff(values).squeeze(1) for values in (log_prob, reference))
    own = np.abs(log_prob - reference)[np.arange(len(label)), label]
    found, exact = Curve(llr, label, llr), Curve(truth, label, truth)
    rejection = [1 / c.background_efficiency([0.3], estimate=POSTERIOR_WEIGHTED)[0] for c in (found, exact)]
    return {
        "median |Δ log p|, nats": np.median(own),
        "median |Δ LLR|, nats": np.median(np.abs(llr - truth)),
        "90 % |Δ LLR|, nats": np.quantile(np.abs(llr - truth), 0.9),
        "Δ AUC": found.auc() - exact.auc(),
        "Δ rejection at 0.3, relative": rejection[0] / rejection[1] - 1,
    }


def compare(models, jets, label, refined=REFINED, evaluations=EVALUATIONS, powers=POWERS):
    """A table of `errors`, one line a method, grid and number of evaluations."""
    reference = score([replace(model, solver=refined) for model in models], jets)
    lines = []
    for method, (nodes, _, _) in reversed(METHODS.items()):
        for power in powers:
            for total in evaluations:
                solver = Solver(method, total // len(nodes), power)
                line = {"method": method, "power": power, "evaluations": solver.evaluations}
                lines.append(line | errors(models, jets, label, reference, solver))
                print(*(f"{v:.3g}" if isinstance(v, float) else v for v in lines[-1].values()), flush=True)
    return pd.DataFrame(lines)


@rc_context(STYLE)
def draw(table):
    """Median error of the LLR against evaluations, a panel a grid, a line a method."""
    powers = sorted(table["power"].unique())
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(powers), sharey=True))
    for axes, power in zip(panels, powers, strict=True):
        for i, (method, line) in enumerate(table[table["power"] == power].groupby("method", sort=False)):
            style = {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i]}
            axes.plot(line["evaluations"], line["median |Δ LLR|, nats"], label=method, **style)
        axes.axhline(0.02, color="grey", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="network evaluations", title=f"grid t = u^{power:g}")
        ticks = sorted(table["evaluations"].unique())
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
    panels[0].set_ylabel("median |Δ LLR|  [nats]")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("surrogates", type=Path)
    parser.add_argument("synthetic_jets", type=Path)
    parser.add_argument("--classes", nargs=2, default=["gluon", "top"])
    parser.add_argument("--seed", default="1")
    parser.add_argument("--jets", type=int, default=200, help="of each class")
    chosen = parser.parse_args()
    models = [Surrogate.load(chosen.surrogates / label / chosen.seed) for label in chosen.classes]
    samples = [read_jets(chosen.synthetic_jets / label / chosen.seed / "jets.h5") for label in chosen.classes]
    samples = [jets[split(len(jets), "test")[: chosen.jets]] for jets in samples]
    label = np.repeat([0, 1], [len(jets) for jets in samples])
    table = compare(models, concatenate(samples), label)
    table.to_csv(HERE / "solver.csv", index=False)
    draw(table).savefig(HERE.parent / "docs" / "solver.png", dpi=150)


if __name__ == "__main__":
    main()
