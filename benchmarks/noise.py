"""What noise in the divergence does to the limit: Hutchinson's estimator beside the exact one, on toy jets.

    python benchmarks/noise.py

The velocity is the closed-form one, so with an exact divergence the LLR is the true one up to the solver's error, and
what is lost with probes is lost to their noise alone. Writes noise.csv beside this file and docs/noise.png.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from exact import draw, surrogates, true_log_prob
from matplotlib import rc_context
from matplotlib.figure import Figure

from jetstudy import certificate
from jetstudy.features import Features
from jetstudy.figures import COLOURS, GREY, MARKERS, STYLE
from jetstudy.limit import POSTERIOR_WEIGHTED, Curve, bootstrap, log_ratio
from jetstudy.probability_flow import Solver
from jetstudy.surrogate import score

HERE = Path(__file__).parent
JETS = 8000  # a class
SOLVER = Solver("midpoint", 8, 2.0)
PROBES = (1, 2, 4, 8)


def measure(rng: np.random.Generator) -> pd.DataFrame:
    """One line an estimator: noise of the LLR (nats, rms), and AUC and rejection minus the exact ones', paired.

    `rejection` is counted at a signal efficiency of 0.5, `weighted` the posterior-weighted one that trusts the noisy
    LLR, both relative to counting with the exact LLR; `fails` names the rows that see the noise.
    """
    jets, label = draw(JETS, rng)
    features = Features.fit([jets[:JETS], jets[JETS:]])
    inputs = np.column_stack([log_ratio(true_log_prob(jets)), jets.count, jets.mass, jets.ptrel_sum])
    llrs = {}
    for name in ("own_path", *(f"hutchinson-{k}" for k in PROBES)):
        log_prob = score(surrogates(features, SOLVER, name), jets, torch.Generator().manual_seed(4))
        llrs[name] = log_ratio(log_prob)
        print(name, flush=True)
    exact = Curve(llrs["own_path"], label)
    lines = []
    for name, llr in llrs.items():
        curve = Curve(llr, label, llr)

        def change(weights=None, curve=curve):
            counted = exact.background_efficiency([0.5], weights)[0]
            weighted = curve.background_efficiency([0.5], weights, POSTERIOR_WEIGHTED)[0]
            own = curve.background_efficiency([0.5], weights)[0]
            return np.array([curve.auc(weights) - exact.auc(weights), counted / own - 1, counted / weighted - 1])

        error = bootstrap(change, label, 200, rng).std(axis=0, ddof=1)
        slope = certificate.calibration(llr, label)
        rows = [*slope, certificate.residual(llr, label, inputs, rng)]
        rows.append(certificate.dominance("", inputs[:, 0], llr, label, rng))
        rows.append(certificate.excess_cross_entropy("", inputs[:, 0], llr, label))
        figures = ("auc", "rejection", "weighted")
        lines.append(
            {"estimator": name, "noise": np.std(llr - llrs["own_path"])}
            | dict(zip(figures, change(), strict=True))
            | dict(zip((f"{figure}_error" for figure in figures), error, strict=True))
            | {"slope": slope[0].value + 1, "slope_error": slope[0].uncertainty}
            | {"fails": ", ".join(row.row.strip() for row in rows if row.verdict == "fail")}
        )
    return pd.DataFrame(lines)


@rc_context(STYLE)
def draw_table(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    exact, noisy = table.iloc[0], table.iloc[1:]
    panels = figure.subplots(1, 3)
    for axes, column, label in zip(
        panels,
        ("auc", "rejection", "slope"),
        ("AUC minus that of the exact LLR", "rejection at $\\varepsilon_S$ = 0.5, relative change", "slope, row 4"),
        strict=True,
    ):
        axes.axhline(exact[column], color=GREY, linewidth=0.8)
        style = {"linestyle": "", "marker": MARKERS[0], "color": COLOURS[0], "label": "counted"}
        axes.errorbar(PROBES, noisy[column], noisy[f"{column}_error"], **style)
        axes.set(xscale="log", xlabel="probes (noise of the LLR, nats)", ylabel=label)
        axes.set_xticks(PROBES, [f"{k}\n({noise:.2f})" for k, noise in zip(PROBES, noisy["noise"], strict=True)])
        axes.minorticks_off()
        axes.set_xlim(0.7, 11)
    style = {"linestyle": "", "marker": MARKERS[1], "color": COLOURS[1], "label": "posterior-weighted"}
    panels[1].errorbar(1.12 * np.array(PROBES), noisy["weighted"], noisy["weighted_error"], **style)
    panels[1].legend()
    figure.suptitle("Noise of Hutchinson's probes in the LLR of toy jets (grey: the exact divergence)", fontsize=10)
    return figure


if __name__ == "__main__":
    table = measure(np.random.default_rng(5))
    table.round(6).to_csv(HERE / "noise.csv", index=False)
    draw_table(table).savefig(HERE.parent / "docs" / "noise.png", dpi=150)
    print(table.round(4).to_string(index=False))
