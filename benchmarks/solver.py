"""Which solver, which grid: error of log p and LLR at equal numbers of network evaluations.

    python benchmarks/solver.py cosine=outputs/separate linear=outputs/linear --jets 60
    python benchmarks/solver.py cosine=outputs/separate --jets 1500 --default

The first scores a few synthetic jets of each class with every method and grid, and with an adaptive solver at several
tolerances, and compares with a solution refined until it no longer moves (RK4 on t = u^2 with 400 evaluations). Each
argument is a name for a finished study and its folder. Writes solver.csv beside this file, docs/solver.png and the
table of docs/solver.md. Needs `torchdiffeq` (`pip install -e .[benchmark]`). The second compares only the default and
its neighbours, on more jets and with uncertainties (row 2 of the certificate), and writes solver_default.csv and its
table.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from densities import filled, markdown
from matplotlib import rc_context
from matplotlib.figure import Figure

from jetstudy import certificate
from jetstudy.divergence import estimator
from jetstudy.figures import COLOURS, LINES, MARKERS, STYLE
from jetstudy.jets import concatenate, read_jets, split
from jetstudy.limit import POSTERIOR_WEIGHTED, Curve, log_ratio
from jetstudy.probability_flow import METHODS, Solver, log_normal
from jetstudy.report import measured
from jetstudy.surrogate import Surrogate, score

HERE = Path(__file__).parent
POWERS = (1.0, 2.0, 3.0)
EVALUATIONS = (24, 32, 48)
TOLERANCES = (1e-2, 1e-3, 1e-4)
REFINED = Solver("rk4", 100, 2.0)
SHOWN = {"median |Δ log p|, nats": 3, "median |Δ LLR|, nats": 3, "Δ AUC": 2, "Δ rejection at 0.3, relative": 2}


def adaptive(model, jets, tolerance):
    """log p (n,) of jets by Dormand and Prince's pair at a tolerance, and evaluations a jet.

    Jets go one batch at a time, whose step is that of its worst jet, as in a study.
    """
    from torchdiffeq import odeint

    divergence, size, calls, log_p = estimator(model.divergence), 64, 0, []
    for start in range(0, len(jets), size):
        batch = jets[start : start + size]
        u, mask = torch.from_numpy(model.features.forward(batch)), torch.from_numpy(batch.mask)

        def rate(t, state, mask=mask):
            nonlocal calls
            calls += len(mask)
            v, div = divergence(model.velocity, state[0].float(), t.float(), mask)
            return v.double(), div.double()

        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        with torch.no_grad():
            z, integral = odeint(rate, (u, u.new_zeros(len(u))), times, rtol=tolerance, atol=tolerance, method="dopri5")
        log_p.append((log_normal(z[-1], mask) + integral[-1]).numpy())
    constant = np.log(model.p_count[jets.count]) + model.features.log_jacobian(jets)
    return np.concatenate(log_p) + constant, calls / len(jets)


def errors(log_prob, label, reference):
    """Errors of log p (own model) and LLR, and shifts of AUC and rejection, paired on the same jets."""
    llr, truth = map(log_ratio, (log_prob, reference))
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
                log_prob = score([replace(model, solver=solver) for model in models], jets)
                lines.append(line | errors(log_prob, label, reference))
                print(*(f"{v:.3g}" if isinstance(v, float) else v for v in lines[-1].values()), flush=True)
    for tolerance in TOLERANCES:
        found = [adaptive(model, jets, tolerance) for model in models]
        line = {"method": f"adaptive, {tolerance:g}", "evaluations": np.mean([calls for _, calls in found])}
        lines.append(line | errors(np.stack([log_p for log_p, _ in found], axis=1), label, reference))
    return pd.DataFrame(lines)


NEIGHBOURS = [("rk3", 10, 1.5), ("rk3", 10, 2.0), ("rk3", 10, 2.5), ("rk3", 16, 2.0)]


def neighbourhood(models, jets, label, refined=REFINED, neighbours=NEIGHBOURS):
    """Row 2 of the certificate for the default solver and its neighbours, against the refined solution."""
    reference = score([replace(model, solver=refined) for model in models], jets)
    lines = []
    for method, steps, power in neighbours:
        solver = Solver(method, steps, power)
        log_prob = score([replace(model, solver=solver) for model in models], jets)
        rows = certificate.steps(log_prob, reference, label, np.random.default_rng(0))
        line = {"method": method, "power": power, "evaluations": solver.evaluations, "jets": len(label)}
        lines += [line | {"row": row.row, "value": row.value, "uncertainty": row.uncertainty} for row in rows]
        print(*(f"{row.row} {measured(row.value, row.uncertainty)}" for row in rows), sep="; ", flush=True)
    return pd.DataFrame(lines)


def lines_of_neighbours(table):
    for (method, power, evaluations), rows in table.groupby(["method", "power", "evaluations"], sort=False):
        yield [method, f"u^{power:g}", str(evaluations), *map(measured, rows["value"], rows["uncertainty"])]


@rc_context(STYLE)
def draw(table):
    """Median error of the LLR against evaluations: a line of panels a study, a panel a grid, a line a method."""
    studies, powers = list(dict.fromkeys(table["study"])), sorted(table["power"].dropna().unique())
    size = 9.5, 0.8 + 2.7 * len(studies)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(studies), len(powers), sharex=True, sharey=True, squeeze=False)
    column = "median |Δ LLR|, nats"
    for panels, study in zip(grid, studies, strict=True):
        own = table[table["study"] == study]
        for axes, power in zip(panels, powers, strict=True):
            for i, (method, line) in enumerate(own[own["power"] == power].groupby("method", sort=False)):
                style = {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i]}
                axes.plot(line["evaluations"], line[column], label=method, **style)
            loose = own[own["power"].isna() & (own["evaluations"] < 200)]
            axes.plot(loose["evaluations"], loose[column], "x", color="black", label="adaptive (Dormand-Prince)")
            axes.axhline(0.02, color="grey", linewidth=0.8)
            axes.set(xscale="log", yscale="log", title=f"{study}, t = u^{power:g}")
            axes.set_xticks([24, 32, 48, 100], ["24", "32", "48", "100"])
            axes.minorticks_off()
        panels[0].set_ylabel("median |Δ LLR|  [nats]")
    for axes in grid[-1]:
        axes.set_xlabel("evaluations")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6)
    return figure


def lines_of(table):
    """The table of docs/solver.md: the best fixed-step methods and the adaptive one."""
    shown = table[
        table["method"].isin(("rk4", "midpoint", "rk3")) & (table["evaluations"] < 50) | table["power"].isna()
    ]
    for row in shown.to_dict("records"):
        grid = "" if np.isnan(row["power"]) else f"u^{row['power']:g}"
        numbers = (f"{row[name]:.{digits}g}" for name, digits in SHOWN.items())
        yield [row["study"], row["method"], grid, f"{row['evaluations']:.0f}", *numbers]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("studies", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--jets", type=int, default=200, help="of each class")
    parser.add_argument("--default", action="store_true", help="the study's solver and its neighbours alone")
    chosen = parser.parse_args()
    tables, measure = [], neighbourhood if chosen.default else compare
    for name, folder in (study.split("=") for study in chosen.studies):
        classes = json.loads((Path(folder) / "jets" / "features.json").read_text())["classes"][:2]
        models = [Surrogate.load(Path(folder) / "surrogates" / label / chosen.seed) for label in classes]
        models = [replace(model, acceptance=None) for model in models]  # the same whatever solves for the flow
        samples = [read_jets(Path(folder) / "synthetic_jets" / label / chosen.seed / "jets.h5") for label in classes]
        samples = [jets[split(len(jets), "test")[: chosen.jets]] for jets in samples]
        label = np.repeat([0, 1], [len(jets) for jets in samples])
        tables.append(measure(models, concatenate(samples), label).assign(study=name))
    table, page = pd.concat(tables, ignore_index=True), HERE.parent / "docs" / "solver.md"
    if chosen.default:
        table.to_csv(HERE / "solver_default.csv", index=False)
        header = ["method", "grid", "evaluations", *(name.removeprefix("2 steps: ") for name in table["row"].unique())]
        page.write_text(filled(page.read_text(), {"default": markdown(header, lines_of_neighbours(table))}))
        return
    table.to_csv(HERE / "solver.csv", index=False)
    draw(table).savefig(HERE.parent / "docs" / "solver.png", dpi=150)
    header = ["study", "method", "grid", "evaluations", *(name.replace("|", r"\|") for name in SHOWN)]
    page.write_text(filled(page.read_text(), {"table": markdown(header, lines_of(table))}))


if __name__ == "__main__":
    main()
