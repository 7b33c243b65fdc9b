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
from scipy.special import expit

from jetstudy.figures import COLOURS, LINES, MARKERS, STYLE
from jetstudy.limit import COUNTED, POSTERIOR_WEIGHTED, Curve, log_ratio

HERE = Path(__file__).parent
JETS, SAMPLES = 2000, 200  # jets per class in a sample, samples
LARGE = 4_000_000  # jets per class that stand for the truth
EFFICIENCIES = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])


def llr_of(n: int, rng: np.random.Generator) -> np.ndarray:
    """True LLR (2, n) of n background and n signal jets."""
    jets, _ = draw(n, rng)
    return log_ratio(true_log_prob(jets)).reshape(2, n)


def measure(rng: np.random.Generator) -> pd.DataFrame:
    """One line an estimate and signal efficiency.

    `truth` is eps_B counted on a large sample, at thresholds that are then fixed; `bias` the mean of the estimates at
    these thresholds relative to it and `bias_error` its error (of both samples). `rms` is the spread of one sample,
    relative and with its own threshold, as a rejection is quoted, and `equivalent` says how many times the jets
    counting would need for the same spread.
    """
    large = np.concatenate([llr_of(LARGE // 16, rng) for _ in range(16)], axis=1)
    thresholds = np.quantile(large[1], 1 - EFFICIENCIES)
    truth = (large[0] > thresholds[:, None]).mean(axis=1)
    truth_error = np.sqrt((1 - truth) / truth / LARGE)
    fixed, own = ({COUNTED: [], POSTERIOR_WEIGHTED: []} for _ in range(2))
    label = np.repeat([0, 1], JETS)
    for samples in np.split(llr_of(JETS * SAMPLES, rng), SAMPLES, axis=1):
        llr = samples.ravel()
        curve, above = Curve(llr, label, llr), llr > thresholds[:, None]
        fixed[COUNTED].append(above[:, :JETS].mean(axis=1))
        fixed[POSTERIOR_WEIGHTED].append((above * 2 * expit(-llr)).mean(axis=1))
        for estimate, values in own.items():
            values.append(curve.background_efficiency(EFFICIENCIES, estimate=estimate))
    tables = []
    for estimate, values in fixed.items():
        error = np.std(values, axis=0, ddof=1) / SAMPLES**0.5
        columns = {
            "bias": np.mean(values, axis=0) / truth - 1,
            "bias_error": np.hypot(error / truth, truth_error),
            "rms": np.std(own[estimate], axis=0, ddof=1) / truth,
            "equivalent": np.var(own[COUNTED], axis=0) / np.var(own[estimate], axis=0),
        }
        tables.append(pd.DataFrame({"estimate": estimate, "eps_s": EFFICIENCIES, "truth": truth} | columns))
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
    left.set_title(f"mean of {SAMPLES} samples of {JETS:,} jets per class", loc="left")
    right.set(xlabel=r"signal efficiency $\varepsilon_S$", ylabel=r"spread of $\varepsilon_B$ in one sample [%]")
    right.set(yscale="log", ylim=(2, None), xlim=(-0.06, 0.95))  # room for the numbers
    for eps_s, rms, equivalent in table[table["estimate"] == POSTERIOR_WEIGHTED][["eps_s", "rms", "equivalent"]].values:
        times = f"{equivalent:.2g}" if equivalent < 100 else f"{equivalent:.0f}"
        right.annotate(times, (eps_s, 100 * rms), (-9, -13), textcoords="offset points", ha="center")
    right.set_title("numbers: how many times the jets counting needs", loc="left")
    left.legend()
    return figure


if __name__ == "__main__":
    table = measure(np.random.default_rng(3))
    table.round(6).to_csv(HERE / "posterior.csv", index=False)
    draw_table(table).savefig(HERE.parent / "docs" / "posterior.png", dpi=150)
    print(table.round(4).to_string(index=False))
