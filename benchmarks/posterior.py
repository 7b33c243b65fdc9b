"""What weighting background by its posterior gains over counting: bias and variance, on toy jets of known LLR.

    python benchmarks/posterior.py

Estimates the background efficiency of the true LLR on many samples by both methods of `limit.Curve` and compares them
with one large sample. Writes posterior.csv beside this file and docs/posterior.png.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from exact import draw, true_log_prob
from matplotlib import rc_context
from matplotlib.figure import Figure

from jetstudy.figures import COLOURS, LINES, MARKERS, STYLE
from jetstudy.limit import COUNTED, POSTERIOR_WEIGHTED, Curve

HERE = Path(__file__).parent
JETS, SAMPLES = 2000, 200  # jets a class in a sample, samples
EFFICIENCIES = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])


def llr_of(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    jets, label = draw(n, rng)
    return np.diff(true_log_prob(jets)).squeeze(1), label


def measure(rng: np.random.Generator) -> pd.DataFrame:
    """One line an estimate and signal efficiency.

    `truth` is eps_B counted on a sample as large as all others together, `bias` the mean over samples relative to it
    and `bias_error` its error (both samples'), `rms` the spread of one sample, relative, `equivalent` how many times
    the jets counting would need for the same variance.
    """
    n = JETS * SAMPLES
    llr, label = llr_of(n, rng)
    large = Curve(llr, label)
    truth = large.background_efficiency(EFFICIENCIES)
    truth_error = np.sqrt(truth * (1 - truth) / n) / truth
    llr, label = llr_of(n, rng)
    found = {COUNTED: [], POSTERIOR_WEIGHTED: []}
    for s in range(SAMPLES):
        index = np.arange(2 * n) % n // JETS == s
        curve = Curve(llr[index], label[index], llr[index])
        for estimate, values in found.items():
            values.append(curve.background_efficiency(EFFICIENCIES, estimate=estimate))
    variance = {estimate: np.var(values, axis=0, ddof=1) for estimate, values in found.items()}
    tables = [
        pd.DataFrame(
            {
                "estimate": estimate,
                "eps_s": EFFICIENCIES,
                "truth": truth,
                "bias": np.mean(values, axis=0) / truth - 1,
                "bias_error": np.hypot(np.sqrt(variance[estimate] / SAMPLES) / truth, truth_error),
                "rms": np.sqrt(variance[estimate]) / truth,
                "equivalent": variance[COUNTED] / variance[estimate],
            }
        )
        for estimate, values in found.items()
    ]
    return pd.concat(tables, ignore_index=True)


@rc_context(STYLE)
def draw_table(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (estimate, lines) in enumerate(table.groupby("estimate", sort=False)):
        style = {"color": COLOURS[i], "marker": MARKERS[i], "label": estimate}
        shifted = lines["eps_s"] + 0.012 * (i - 0.5)
        left.errorbar(shifted, 100 * lines["bias"], 100 * lines["bias_error"], linestyle="", **style)
        right.plot(lines["eps_s"], 100 * lines["rms"], linestyle=LINES[i], **style)
    left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel=r"signal efficiency $\varepsilon_S$", ylabel=r"bias of $\varepsilon_B$ [%]")
    left.set_title(f"mean of {SAMPLES} samples of {JETS:,} jets a class", loc="left")
    right.set(xlabel=r"signal efficiency $\varepsilon_S$", ylabel=r"spread of $\varepsilon_B$ in one sample [%]")
    right.set(yscale="log")
    for eps_s, rms, equivalent in table[table["estimate"] == POSTERIOR_WEIGHTED][["eps_s", "rms", "equivalent"]].values:
        right.annotate(f"{equivalent:.1f}", (eps_s, 100 * rms), (0, -11), textcoords="offset points", ha="center")
    right.set_title("numbers: times the jets that counting needs", loc="left")
    left.legend()
    return figure


if __name__ == "__main__":
    table = measure(np.random.default_rng(3))
    table.round(6).to_csv(HERE / "posterior.csv", index=False)
    draw_table(table).savefig(HERE.parent / "docs" / "posterior.png", dpi=150)
    print(table.round(4).to_string(index=False))
