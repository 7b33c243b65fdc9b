"""Tables in, figures out: each function takes a table of `fidelity`, `limit` or `training`.

It returns (figure, alt text); the alt text quotes the table's numbers. A table read back from its CSV gives
the same figure. Figures are matplotlib's `Figure` objects: no pyplot, no global state. They are drawn 7 to 8
inches wide, in colours of Okabe and Ito that the colour-blind can tell apart, and with line styles and markers
that can be told apart in grey.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator

from jetstudy import learning
from jetstudy.files import replacing, write_json
from jetstudy.limit import COUNTED, LIMIT, MINIMAL_SURVIVORS, POSTERIOR_WEIGHTED, SIGNAL_EFFICIENCIES

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
}
GREY, LIGHT = "#767676", "#d9d9d9"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v")
OBSERVABLES = {
    "etarel": r"relative pseudorapidity $\eta^{\mathrm{rel}}$",
    "phirel": r"relative azimuth $\phi^{\mathrm{rel}}$",
    "ptrel": r"relative momentum $p_T^{\mathrm{rel}}$",
    "mass": r"jet mass / jet $p_T$",
    "ptrel_sum": r"sum of $p_T^{\mathrm{rel}}$",
    "multiplicity": "particles in the jet",
}
RESAMPLED = {
    "mass": "mass",
    "ptrel_sum": r"sum of $p_T^{\mathrm{rel}}$",
    "tau21": r"$\tau_{21}$",
    "tau32": r"$\tau_{32}$",
    "c2": r"$C_2$",
}
OF_PARTICLES = ("etarel", "phirel", "ptrel")
METRICS = {
    "w1_etarel": r"$W_1$, $\eta^{\mathrm{rel}}$",
    "w1_phirel": r"$W_1$, $\phi^{\mathrm{rel}}$",
    "w1_ptrel": r"$W_1$, $p_T^{\mathrm{rel}}$",
    "w1_mass": r"$W_1$, mass",
    "w1_ptrel_sum": r"$W_1$, sum of $p_T^{\mathrm{rel}}$",
    "w1_multiplicity": r"$W_1$, multiplicity",
    "w1_efp": r"$W_1$, EFPs",
    "fpd": "FPD",
    "coverage": "1 / coverage",
    "mmd": "MMD",
}
QUANTITIES = {
    "mass": OBSERVABLES["mass"],
    "N": "particles",
    "LLR": "exact log-likelihood ratio  [nats]",
}
HEADLINES = {
    "AUC": "AUC",
    "rejection at 0.5": r"$1/\epsilon_B$ at $\epsilon_S = 0.5$",
    "rejection at 0.3": r"$1/\epsilon_B$ at $\epsilon_S = 0.3$",
}
UNCONVINCING = "has not learned"  # the verdict of a judge that sees no distortion
RATIO_RANGES = (0.1, 0.2, 0.5, 1.0)  # half the height of a ratio's axis
DODGE = 0.008  # signal efficiency between the counted points of two taggers, so that both can be seen


@rc_context(STYLE)
def observables(table: pd.DataFrame, label: str) -> tuple[Figure, str]:
    """The observables of the jets of class `label` (`fidelity.observables`), each above its ratio to the source.

    Raises ValueError for a class that is not in the table.
    """
    table = table[table["class"] == label]
    if table.empty:
        raise ValueError(f"the table has no class {label!r}")
    figure = Figure(figsize=(7.8, 6.8), layout="constrained")
    figure.get_layout_engine().set(hspace=0, h_pad=0.03)
    grid = figure.subplots(4, 3, height_ratios=[3, 1.3] * 2)
    common = {}
    for i, (name, bins) in enumerate(table.groupby("observable", sort=False)):
        row, column = divmod(i, 3)
        above, below = grid[2 * row : 2 * row + 2, column]
        common[name] = np.sum(np.minimum(bins["source"], bins["synthetic"]) * (bins["high"] - bins["low"]))
        if len(bins) == 1:
            _one_bin(above, below, bins.iloc[0], name)
        else:
            _histograms(above, bins, name)
            _ratio(below, bins, name)
    handles = {
        "source, with its uncertainty": Patch(facecolor=LIGHT, edgecolor=GREY),
        "synthetic": Line2D([], [], color=COLOURS[1]),
        "synthetic / source": Line2D([], [], color=COLOURS[1], linestyle="", marker="o", markersize=2.5),
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, title=f"{label} jets")
    shares = ", ".join(f"{name} {_percent(share)}" for name, share in common.items())
    return figure, (
        f"Histograms of {len(common)} observables of {label} jets, the source filled and the synthetic jets as a "
        f"line, each above the ratio of synthetic to source. Area that both histograms have in common: {shares}."
    )


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _edges(bins: pd.DataFrame) -> np.ndarray:
    return np.append(bins["low"], bins["high"].iloc[-1])


def _centres(bins: pd.DataFrame, name: str = "") -> np.ndarray:
    if name == "ptrel":
        return np.sqrt(bins["low"] * bins["high"]).to_numpy()
    return ((bins["low"] + bins["high"]) / 2).to_numpy()


def _histograms(axes: Axes, bins: pd.DataFrame, name: str) -> None:
    edges, source, synthetic = _edges(bins), bins["source"], bins["synthetic"]
    highest = max((source + bins["source_error"]).max(), synthetic.max())
    axes.set(xlim=edges[[0, -1]], ylim=(0, 1.05 * highest))
    if name == "ptrel":
        source, synthetic = _positive(source), _positive(synthetic)
        axes.set(xscale="log", yscale="log", ylim=(min(source.min(), synthetic.min()) / 2, 2 * highest))
    axes.stairs(source, edges, baseline=axes.get_ylim()[0], fill=True, color=LIGHT)
    axes.stairs(source, edges, baseline=None, color=GREY, linewidth=0.8)
    axes.errorbar(_centres(bins, name), source, bins["source_error"], color=GREY, linestyle="", linewidth=0.8)
    axes.stairs(synthetic, edges, baseline=None, color=COLOURS[1], linewidth=1.2)
    axes.set_ylabel(f"normalised {'particles' if name in OF_PARTICLES else 'jets'}")
    axes.tick_params(labelbottom=False)


def _positive(height: pd.Series) -> pd.Series:
    """NaN, which is not drawn, where a bin is empty."""
    return height.where(height > 0)


def _ratio(axes: Axes, bins: pd.DataFrame, name: str) -> None:
    """Synthetic/source with the source's uncertainty as a band; triangles at the edge for what lies beyond."""
    edges = _edges(bins)
    source = _positive(bins["source"])
    ratio, error, band = ((bins[name] / source).to_numpy() for name in ("synthetic", "synthetic_error", "source_error"))
    deviation, uncertainty = np.abs(ratio - 1), np.hypot(error, band)
    reach = max(np.quantile(np.append(deviation[uncertainty < 0.3], 0), 0.9), 2 * np.nanmedian(uncertainty))
    half = next((half for half in RATIO_RANGES if half > reach), RATIO_RANGES[-1])
    axes.set(ylim=(1 - half, 1 + half), xlim=edges[[0, -1]], xlabel=OBSERVABLES[name], ylabel="syn. / source")
    axes.stairs(1 + band, edges, baseline=1 - band, fill=True, color=LIGHT)
    axes.axhline(1, color=GREY, linewidth=0.8)
    x, shown = _centres(bins, name), deviation <= half
    style = {"color": COLOURS[1], "linestyle": "", "markersize": 2.5}
    axes.errorbar(x[shown], ratio[shown], error[shown], marker="o", linewidth=0.8, **style)
    for beyond, marker, edge in ((ratio > 1 + half, "^", 0.95), (ratio < 1 - half, "v", 0.05)):
        height = np.full(np.sum(beyond), edge)
        axes.plot(x[beyond], height, marker=marker, transform=axes.get_xaxis_transform(), **style)
    if name == "ptrel":
        axes.set_xscale("log")
    if name == "multiplicity":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.minorticks_off()


def _one_bin(above: Axes, below: Axes, single: pd.Series, name: str) -> None:
    """Say in words what a histogram of one bin does not show."""
    width, where = single["high"] - single["low"], f"{(single['low'] + single['high']) / 2:g}"
    source, synthetic = single["source"] * width, single["synthetic"] * width
    if min(source, synthetic) > 1 - 1e-9:
        text = f"all jets have {where}"
    else:
        text = f"{_percent(source, 2)} of source and\n{_percent(synthetic, 2)} of synthetic\njets have {where}"
    above.text(0.5, 0.5, text, transform=above.transAxes, ha="center", va="center")
    above.set(xticks=[], yticks=[], xlabel=OBSERVABLES[name])
    above.minorticks_off()
    below.set_axis_off()


@rc_context(STYLE)
def fidelity(table: pd.DataFrame) -> tuple[Figure, str]:
    """Distances of several surrogates to the source over their floor, and judges' AUCs: a column of panels a class.

    Rows of `fidelity.distances`, of `judges.verdicts`, or both. Distances are drawn as value / floor (coverage upside
    down: further right is always less like the source) beside the floor's own uncertainty, with a triangle at the
    edge for what lies beyond the axis. AUCs are hollow where the judge has not learned. Rows without a floor (log p)
    are left out, and metrics that cannot differ (the multiplicity where it is a constant).

    Raises ValueError if no row is left.
    """
    table = _over_floor(table)
    if table.empty:
        raise ValueError("the table has no row with a floor")
    classes, surrogates = (list(dict.fromkeys(table[column])) for column in ("class", "surrogate"))
    looks = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(surrogates)}
    kinds = [rows for _, rows in table.groupby("judged")]
    lines = [rows["metric"].nunique() + 0.6 for rows in kinds]
    height = 1.1 + 0.5 * len(kinds) + sum(lines) * max(0.3, 0.1 * len(surrogates))
    figure = Figure(figsize=(7.8, height), layout="constrained")
    grid = figure.subplots(len(kinds), len(classes), squeeze=False, sharex="row", sharey="row", height_ratios=lines)
    for panels, rows in zip(grid, kinds, strict=True):
        metrics = list(dict.fromkeys(rows["metric"]))
        _axis_of_metrics(panels, rows, metrics)
        for axes, label in zip(panels, classes, strict=True):
            _dots(axes, rows[rows["class"] == label], metrics, looks)
    for axes, label in zip(grid[0], classes, strict=True):
        axes.set_title(f"{label} jets")
    style = {"linestyle": "", "markersize": 5}
    handles = {name: Line2D([], [], color=c, marker=m, **style) for name, (c, m) in looks.items()}
    handles["floor: source against source"] = Patch(facecolor=LIGHT, edgecolor=GREY)
    if "verdict" in table and (table["verdict"] == UNCONVINCING).any():
        handles["hollow: judge has not learned"] = Line2D(
            [], [], color=GREY, marker="o", markerfacecolor="white", **style
        )
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    words = [_fidelity_in_words(*group) for group in table.groupby(["surrogate", "class"], sort=False)]
    return figure, f"Synthetic jets beside the source's, distances over their floor. {'; '.join(words)}."


def _over_floor(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with a floor, with columns judged (is it an AUC?), x and error as drawn, low and high of the floor."""
    judged, coverage = table["metric"].str.startswith("auc_"), table["metric"] == "coverage"
    value, floor = (table[column].mask(coverage, 1 / table[column].where(coverage)) for column in ("value", "floor"))
    error = value * table["uncertainty"] / table["value"].where(table["value"] > 0)
    band = (table["floor_uncertainty"] / table["floor"]).where(table["floor"] > 0)
    columns = {
        "judged": judged,
        "x": (value / floor).where(~judged, table["value"]),
        "error": (error / floor).where(~judged, table["uncertainty"]),
        "low": (1 - band).where(~judged, table["floor"] - table["floor_uncertainty"]),
        "high": (1 + band).where(~judged, table["floor"] + table["floor_uncertainty"]),
    }
    table = table.assign(**columns)
    return table[table["x"].notna()]


def _axis_of_metrics(panels: np.ndarray, rows: pd.DataFrame, metrics: list[str]) -> None:
    """Range and labels of a line of panels: AUCs on a linear axis, distances over their floor on a logarithmic one."""
    finite = rows[np.isfinite(rows["x"]) & (rows["x"] > 0)]
    low = np.nanmin([finite["x"] - finite["error"].fillna(0), finite["low"]], initial=np.inf)
    high = np.nanmax([finite["x"] + finite["error"].fillna(0), finite["high"]], initial=-np.inf)
    if rows["judged"].iloc[0]:
        margin = 0.06 * (high - min(low, 0.5))
        panels[0].set_xlim(min(low, 0.5) - margin, high + margin)
        names = [metric.removeprefix("auc_") for metric in metrics]
        names = [f"{name} judge" if name == "best" else f"judge: {name}" for name in names]
    else:
        panels[0].set(xscale="log", xlim=(max(0.3, 0.8 * min(low, 1)), 1.3 * max(high, 2)))
        panels[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 else (1,)))
        panels[0].xaxis.set_major_formatter("{x:g}")
        panels[0].xaxis.set_minor_formatter("")
        names = [METRICS.get(metric, metric) for metric in metrics]
    panels[0].set_yticks(range(len(metrics)), names)
    panels[0].set_ylim(len(metrics) - 0.4, -0.6)
    for axes in panels:
        axes.tick_params(axis="y", which="both", left=False, right=False)
        axes.set_xlabel("AUC, synthetic against source" if rows["judged"].iloc[0] else "value / floor")
        axes.axvline(0.5 if rows["judged"].iloc[0] else 1, color=GREY, linewidth=0.8, zorder=0)


def _dots(axes: Axes, rows: pd.DataFrame, metrics: list[str], looks: dict[str, tuple[str, str]]) -> None:
    """A band for each metric's floor, and a dot for each surrogate, one below the other."""
    left, right = axes.get_xlim()
    for _, row in rows.drop_duplicates("metric").iterrows():
        line, ends = metrics.index(row["metric"]), np.nan_to_num([row["low"], row["high"]], nan=1.0)
        axes.fill_betweenx([line - 0.42, line + 0.42], *np.clip(ends, left, right), color=LIGHT, linewidth=0, zorder=0)
    offsets = dict(zip(looks, 0.7 * (np.arange(len(looks)) - (len(looks) - 1) / 2) / max(3, len(looks)), strict=True))
    for _, row in rows.iterrows():
        colour, marker = looks[row["surrogate"]]
        y, hollow = metrics.index(row["metric"]) + offsets[row["surrogate"]], row.get("verdict") == UNCONVINCING
        style = {"color": colour, "linestyle": "", "markersize": 4.5, "clip_on": False}
        if left <= row["x"] <= right:
            face = "white" if hollow else colour
            error = np.minimum(np.nan_to_num(row["error"]), [[row["x"] - left], [right - row["x"]]])  # within the axes
            axes.errorbar(row["x"], y, xerr=error, marker=marker, markerfacecolor=face, linewidth=1, **style)
        else:
            edge, marker = (right, ">") if row["x"] > right else (left, "<")
            axes.plot(edge, y, marker=marker, **style)


def _fidelity_in_words(name: tuple[str, str], rows: pd.DataFrame) -> str:
    """ "muon, gluon jets: at most 5.2 (w1_mass), best judge's AUC 0.61 ± 0.01 (separates)"."""
    words, distances = [], rows[~rows["judged"]]
    if len(distances):
        worst = distances.loc[distances["x"].idxmax()]
        words.append(f"at most {worst['x']:.3g} ({worst['metric']})")
    for _, row in rows[rows["metric"] == "auc_best"].iterrows():
        words.append(f"best judge's AUC {_with_error(row['value'], row['uncertainty'])} ({row['verdict']})")
    return f"{name[0]}, {name[1]} jets: {', '.join(words)}"


@rc_context(STYLE)
def resampled(table: pd.DataFrame) -> tuple[Figure, str]:
    """What partial diffusion leaves of a jet, against the time it was noised to (`fidelity.resampled`)."""
    figure = Figure(figsize=(7.8, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    words = []
    for i, (name, line) in enumerate(table.groupby("observable", sort=False)):
        style = {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i], "label": RESAMPLED.get(name, name)}
        left.errorbar(line["t"], line["correlation"], line["correlation_error"], **style)
        right.errorbar(line["t"], line["shift"], line["shift_error"], **style)
        half = line["t"][line["correlation"] < 0.5].min()
        fate = "stays above 0.5" if np.isnan(half) else f"below 0.5 from t = {half:g} on"
        words.append(f"{name} {fate}, shift at the last t {_signed(line['shift'].iloc[-1])}")
    for axes, height in ((left, 0), (right, 0)):
        axes.axhline(height, color=GREY, linewidth=0.8, zorder=0)
        axes.set(xlim=(0, 1.02), xlabel="time t that jets are noised to")
    left.set(ylabel="correlation of a jet before and after", ylim=(-0.15, 1.05))
    right.set(ylabel="shift of the mean  [standard deviations]")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(RESAMPLED))
    return figure, f"Correlation of jets before and after partial diffusion against its time: {'; '.join(words)}."


@rc_context(STYLE)
def likelihood_maps(table: pd.DataFrame) -> tuple[Figure, str]:
    """Log-likelihood against mass for jets of each class (rows) under the model of each class (columns).

    From `fidelity.likelihood_maps`: all maps have the same axes and the same colours.
    """
    classes = list(dict.fromkeys(table["jets"]))
    x, y = (np.append(np.unique(table[f"{a}_low"]), table[f"{a}_high"].max()) for a in ("mass", "log_prob"))
    figure = Figure(figsize=(7.4, 6.6), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    share = table["share"][table["share"] > 0]
    norm = LogNorm(share.min() / 3, share.max())  # the palest bin that holds a jet still differs from white
    means = []
    for axes, ((jets, model), bins) in zip(grid.flat, table.groupby(["jets", "model"], sort=False), strict=True):
        shares = bins["share"].to_numpy().reshape(len(x) - 1, len(y) - 1)
        mesh = axes.pcolormesh(x, y, np.ma.masked_equal(shares.T, 0), norm=norm, cmap="Blues", rasterized=True)
        mean, outside = bins["mean"].iloc[0], bins["outside"].iloc[0]
        means.append(f"{_signed(mean)} for {jets} jets under the {model} model")
        off = "" if y[0] <= mean <= y[-1] else " (off the axis)"
        title = f"mean {_signed(mean)} nats{off}, {_percent(outside)} beyond the axes"
        axes.set_title(f"{jets} jets, {model} model\n{title}")
        if not off:
            line = axes.axhline(mean, color="black", linestyle="--", linewidth=1.2)
            line.set_path_effects([withStroke(linewidth=3, foreground="white")])
    grid[0, 0].set(xlim=x[[0, -1]], ylim=y[[0, -1]])
    figure.supxlabel(OBSERVABLES["mass"], fontsize=STYLE["axes.labelsize"])
    figure.supylabel(
        r"$\log p_{\mathrm{model}}(x)$ minus its mean over the model's own class  [nats]",
        fontsize=STYLE["axes.labelsize"],
    )
    figure.colorbar(mesh, ax=grid, label="share of the jets in a bin", aspect=40)
    return figure, (
        f"Four heat maps of log-likelihood against jet mass, jets of {' and '.join(classes)} under the models of both, "
        f"each log-likelihood minus the model's mean over its own class. Means in nats: {'; '.join(means)}."
    )


def _signed(value: float) -> str:
    """Three significant digits with a sign, "−1.23", and a plain 0."""
    return f"{value:+.3g}".replace("-", "−") if abs(value) > 1e-9 else "0"


def _with_error(value: float, error: float) -> str:
    """ "1.23 ± 0.04": as many decimals as the error's first digit asks for."""
    decimals = max(0, -int(np.floor(np.log10(error)))) if error > 0 else 3
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def _step_pair(axes: Axes, tables: list[pd.DataFrame], column: str) -> None:
    """Histograms of both classes: the first filled and solid, the second a dashed line."""
    for i, bins in enumerate(tables):
        if i == 0:
            axes.stairs(bins[column], _edges(bins), fill=True, color=COLOURS[0], alpha=0.2)
        axes.stairs(bins[column], _edges(bins), baseline=None, color=COLOURS[i], linestyle=LINES[i], linewidth=1.4)


@rc_context(STYLE)
def likelihood_differences(table: pd.DataFrame) -> tuple[Figure, str]:
    """Same-jet differences log p_own - log p_other of both classes (`fidelity.likelihood_differences`)."""
    groups = dict(iter(table.groupby("jets", sort=False)))
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    _step_pair(axes, list(groups.values()), "density")
    labels, words = [], []
    for i, (name, bins) in enumerate(groups.items()):
        (other,) = set(groups) - {name}
        first = bins.iloc[0]
        mean = _with_error(first["mean"], first["mean_error"]) + " nats"
        labels.append(f"{name} jets: mean = KL({name} ‖ {other}) = {mean}; {_percent(first['below'])} below 0")
        words.append(f"{name} jets have mean {mean}, with {_percent(first['below'])} below zero")
        axes.axvline(first["mean"], color=COLOURS[i], linestyle=LINES[i], linewidth=0.8)
    axes.axvline(0, color=GREY, linewidth=0.8)
    edges = _edges(next(iter(groups.values())))
    axes.set(xlim=edges[[0, -1]], ylabel="normalised jets  [1/nat]")
    axes.set_ylim(0, 1.05 * (table["density"] + table["error"]).max())
    axes.set_xlabel(r"$\log p_{\mathrm{own}}(x) - \log p_{\mathrm{other}}(x)$  [nats]")
    handles = [Line2D([], [], color=COLOURS[i], linestyle=LINES[i]) for i in range(len(labels))]
    figure.legend(handles, labels, loc="outside upper left")
    return figure, (
        "Distributions over jets of log-likelihood under the model of the own class minus that under the other's: "
        f"{'; '.join(words)}. The means estimate the Kullback-Leibler divergences."
    )


@rc_context(STYLE)
def llr_distributions(table: pd.DataFrame) -> tuple[Figure, str]:
    """LLR by class (`fidelity.llr_distributions`): the first sample as histograms, any other as points."""
    classes = list(dict.fromkeys(table["class"]))
    samples = list(dict.fromkeys(table["sample"]))
    groups = dict(iter(table.groupby(["sample", "class"], sort=False)))
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    _step_pair(axes, [groups[samples[0], name] for name in classes], "density")
    handles, words = {}, []
    for i, name in enumerate(classes):
        handles[f"{name}, {samples[0]}"] = Line2D([], [], color=COLOURS[i], linestyle=LINES[i])
        for sample in samples[1:]:
            bins = groups[sample, name]
            style = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": "", "linewidth": 0.9}
            style["markerfacecolor"] = COLOURS[i] if i == 0 else "white"
            axes.errorbar(_centres(bins), _positive(bins["density"]), bins["error"], **style)
            handles[f"{name}, {sample}"] = Line2D([], [], **style)
        means = (f"{_signed(bins['mean'].iloc[0])} ({sample})" for sample in samples for bins in [groups[sample, name]])
        words.append(f"{name} jets have mean LLR {', '.join(means)}")
    axes.set_xlim(table["low"].min(), table["high"].max())
    axes.set_ylim(0, 1.05 * (table["density"] + table["error"]).max())
    axes.set_ylabel("normalised jets  [1/nat]")
    axes.set_xlabel(f"log-likelihood ratio  log p(x | {classes[1]}) − log p(x | {classes[0]})  [nats]")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2 * len(samples))
    return figure, f"Distributions of the log-likelihood ratio by class, in nats: {'; '.join(words)}."


def _looks(names: list[str]) -> dict[str, dict]:
    """Colour and line of each curve: the limit, if it is among the `names`, black and wide."""
    looks = {LIMIT: {"color": "black", "linestyle": "-", "linewidth": 2.0}} if LIMIT in names else {}
    for i, name in enumerate(name for name in names if name != LIMIT):
        looks[name] = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
    return looks


@rc_context(STYLE)
def roc(table: pd.DataFrame, jets: str) -> tuple[Figure, str]:
    """Background rejection against signal efficiency (`limit.roc_table`), with 68 % bands.

    `jets` names the sample, for the title: "synthetic jets". Where the limit is in the table, a second panel
    shows the taggers' ratio to it. Curves are posterior-weighted where the table has that estimate; counted
    labels then stand beside them as points, at the field's two working points.
    """
    weighted = POSTERIOR_WEIGHTED in set(table["estimate"])
    drawn = table[table["estimate"] == (POSTERIOR_WEIGHTED if weighted else COUNTED)]
    counted = table[(table["estimate"] == COUNTED) & _is_working_point(table["eps_s"])]
    curves = dict(iter(drawn.groupby("tagger", sort=False)))
    compared = LIMIT in curves
    styles = _looks(list(curves))
    ratios = [3, 1.4] if compared else [1]
    figure = Figure(figsize=(7.2, 6.4 if compared else 4.6), layout="constrained")
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    for axes, column in zip(panels, ("rejection", "ratio"), strict=False):
        for i, (name, style) in enumerate(styles.items()):
            curve = curves[name]
            axes.plot(curve["eps_s"], curve[column], **style)
            low, high = curve[f"{column}_low"], curve[f"{column}_high"]
            axes.fill_between(curve["eps_s"], low, high, color=style["color"], alpha=0.2, linewidth=0)
            if weighted and (column == "rejection" or name != LIMIT):
                points = counted[counted["tagger"] == name].dropna(subset=column)
                aside = DODGE * (i - len(styles) / 2) if column == "ratio" else 0  # ratios are flat enough
                mark = {"marker": MARKERS[i % len(MARKERS)], "markeredgecolor": "white", "linestyle": ""}
                x, low, high = points["eps_s"] + aside, points[f"{column}_low"], points[f"{column}_high"]
                axes.vlines(x, low, high, color=style["color"])
                axes.plot(x, points[column], color=style["color"], markersize=5, markeredgewidth=0.6, **mark)
    _finish_roc(panels, drawn, compared)
    panels[0].set_title(f"{jets}, {POSTERIOR_WEIGHTED if weighted else COUNTED}", loc="left")
    panels[0].set_title("bands and bars: 68 %", loc="right")
    handles = {name: Line2D([], [], **style) for name, style in styles.items()}
    if weighted:
        where = " and ".join(f"{efficiency:g}" for efficiency in sorted(SIGNAL_EFFICIENCIES))
        mark = Line2D([], [], color=GREY, marker="o", markersize=5, linestyle="")
        handles[f"counted, $\\epsilon_S$ = {where}"] = mark
    handles["random guess"] = Line2D([], [], color=GREY, linewidth=0.7)
    panels[0].legend(handles.values(), handles.keys(), loc="upper right")

    sentences = [f"Background rejection against signal efficiency on {jets}: {', '.join(styles)}."]
    for efficiency, points in drawn[_is_working_point(drawn["eps_s"])].groupby("eps_s", sort=False):
        words = ", ".join(_rejection_in_words(point) for _, point in points.iterrows())
        sentences.append(f"At a signal efficiency of {efficiency:g} the rejection is: {words}.")
    return figure, " ".join(sentences)


def _is_working_point(efficiency: pd.Series) -> np.ndarray:
    return np.isclose(efficiency.to_numpy()[:, None], SIGNAL_EFFICIENCIES, rtol=0, atol=1e-9).any(1)


def _rejection_in_words(point: pd.Series) -> str:
    if np.isnan(point["rejection"]):
        return f"{point['tagger']} not quoted"
    rejection = f"{point['rejection']:.3g}" if point["rejection"] < 1000 else f"{point['rejection']:.0f}"
    ratio = "" if np.isnan(point["ratio"]) or point["tagger"] == LIMIT else f" ({point['ratio']:.2g} of the limit)"
    return f"{point['tagger']} {rejection}{ratio}"


def _nothing_survives(axes: Axes) -> None:
    text = f"nowhere do {MINIMAL_SURVIVORS} background jets survive"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center")


def _finish_roc(panels: np.ndarray, drawn: pd.DataFrame, compared: bool) -> None:
    """The random guess, axes and labels of a ROC."""
    guess = np.linspace(0.005, 1, 200)
    panels[0].plot(guess, 1 / guess, color=GREY, linewidth=0.7)
    if drawn["rejection"].isna().all():
        _nothing_survives(panels[0])
    top = max(10.0, 1.5 * drawn["rejection"].fillna(1).max())
    panels[0].set(yscale="log", ylim=(1, top), xlim=(0, 1), ylabel=r"background rejection $1/\epsilon_B$")
    panels[-1].set_xlabel(r"signal efficiency $\epsilon_S$")
    if compared:
        ratio = drawn["ratio"].fillna(1)
        margin = max(0.02, 0.15 * (ratio.max() - ratio.min()))
        panels[1].set(ylabel="tagger / limit", ylim=(max(0, ratio.min() - margin), ratio.max() + margin))


def _small_multiples(n: int) -> tuple[Figure, np.ndarray]:
    """A figure with n panels of a tagger's logit against the LLR, and their grid; panels left over are switched off."""
    columns = n if n < 4 else 2 if n == 4 else 3
    rows = -(-n // columns)
    figure = Figure(figsize=(5.2, 4.6) if n == 1 else (7.8, 0.8 + 7.0 * rows / columns), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i in range(n, rows * columns):
        grid.flat[i].set_axis_off()
        grid.flat[i - columns].tick_params(labelbottom=True)
    figure.supxlabel("exact log-likelihood ratio  [nats]", fontsize=STYLE["axes.labelsize"])
    figure.supylabel("tagger's logit", fontsize=STYLE["axes.labelsize"])
    return figure, grid


@rc_context(STYLE)
def likelihood_ratio_trick(table: pd.DataFrame) -> tuple[Figure, str]:
    """Taggers' logits against the exact LLR: a panel for each tagger in `limit.likelihood_ratio_trick`'s table(s)."""
    groups = dict(iter(table.groupby("tagger", sort=False)))
    figure, grid = _small_multiples(len(groups))
    low, high = table["llr"].min(), table["llr"].max()
    words = []
    for axes, (name, bins) in zip(grid.flat, groups.items(), strict=False):
        x = bins["llr"]
        axes.fill_between(x, bins["q025"], bins["q975"], color=COLOURS[0], alpha=0.18, linewidth=0)
        axes.fill_between(x, bins["q16"], bins["q84"], color=COLOURS[0], alpha=0.35, linewidth=0)
        axes.plot(x, bins["median"], color=COLOURS[0], marker="o", markersize=2.5)
        axes.plot([low, high], [low, high], color="black", linestyle="--", linewidth=1)
        slope, correlation = bins["slope"].iloc[0], bins["correlation"].iloc[0]
        axes.text(0.96, 0.04, f"slope {slope:.2f}\ncorrelation {correlation:.2f}", transform=axes.transAxes, ha="right")
        axes.set_title(name)
        words.append(f"{name} has slope {slope:.2f} and correlation {correlation:.2f}")
    handles = {
        "median": Line2D([], [], color=COLOURS[0], marker="o", markersize=2.5),
        "68 % of jets": Patch(color=COLOURS[0], alpha=0.5, linewidth=0),
        "95 % of jets": Patch(color=COLOURS[0], alpha=0.18, linewidth=0),
        "logit = LLR": Line2D([], [], color="black", linestyle="--", linewidth=1),
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    return figure, (
        "Quantiles of the tagger's logit in bins of the exact log-likelihood ratio, beside the diagonal of a tagger "
        f"that has learned it: {'; '.join(words)}."
    )


@rc_context(STYLE)
def learning_curves(table: pd.DataFrame) -> tuple[Figure, str]:
    """Excess cross-entropy of networks trained on labels, with their power laws, above the share of the limit's
    rejection, both against the number of training jets: notebook 07's table, or several.
    """
    table = table[(table["sample"] == learning.TEST) & (table["target"] == learning.LABELS)]
    laws = learning.fits(table)
    laws = laws[laws["quantity"] == "excess"].set_index("learner")
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.4, 1])
    handles, words = {}, []
    for i, name in enumerate(dict.fromkeys(table["learner"])):
        colour, marker, line = (choice[i % len(choice)] for choice in (COLOURS, MARKERS, LINES))
        style = {"color": colour, "marker": marker, "markersize": 5}
        excess = learning.curve(table, name, learning.KL)
        above.errorbar(excess["jets"], excess["value"], excess["uncertainty"], linestyle="", capsize=2, **style)
        label, n = name, np.geomspace(table["jets"].min(), table["jets"].max(), 50)
        if name in laws.index:
            law = laws.loc[name]
            above.plot(n, law["a"] * n ** -law["b"], color=colour, linestyle=line)
            label += f": b = {_with_error(law['b'], law['b_uncertainty'])}"
        for efficiency, metric in learning.REJECTIONS.items():
            ratio = learning.curve(table, name, metric).dropna(subset="ratio")
            face = colour if efficiency == max(learning.REJECTIONS) else "white"
            below.errorbar(
                ratio["jets"], ratio["ratio"], ratio["ratio_uncertainty"], linestyle=line, markerfacecolor=face, **style
            )
        handles[label] = Line2D([], [], linestyle=line, **style)
        ends = excess.iloc[[0, -1]]
        values = " to ".join(
            f"{value:.3g} at {jets:.0f}" for value, jets in zip(ends["value"], ends["jets"], strict=True)
        )
        words.append(f"{label}, excess {values} jets")
    above.set(xscale="log", yscale="log", ylabel="excess cross-entropy (mean KL)  [nats]")
    below.set(xlabel="training jets, both classes", ylabel="rejection / limit", ylim=(0, None))
    if table.loc[table["metric"].isin(learning.REJECTIONS.values()), "ratio"].isna().all():
        _nothing_survives(below)
    faces = dict(zip(learning.REJECTIONS, (GREY, "white"), strict=True))
    efficiencies = {
        f"$\\epsilon_S$ = {e:g}": Line2D([], [], color=GREY, marker="o", markerfacecolor=face, linestyle="")
        for e, face in faces.items()
    }
    below.legend(efficiencies.values(), efficiencies.keys(), loc="best")
    title = None if laws.empty else r"lines: excess $\propto n^{-b}$"
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(3, len(handles)), title=title)
    return figure, f"Excess cross-entropy against the number of training jets: {'; '.join(words)}."


@rc_context(STYLE)
def extrapolation(table: pd.DataFrame) -> tuple[Figure, str]:
    """Cross-entropy of networks trained on labels, with the fits that do not know the floor, beside the true floor.

    Fits run on to a hundred times as many jets as there are; their own floors, with errors, stand at the right. Raises
    ValueError if no network has points enough.
    """
    laws = learning.fits(table)
    laws = laws[laws["quantity"] == "cross-entropy"].set_index("learner")
    if laws.empty:
        raise ValueError("no network was trained on numbers of jets enough for a fit")
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    words = []
    for i, (name, law) in enumerate(laws.iterrows()):
        colour, marker, line = (choice[i % len(choice)] for choice in (COLOURS, MARKERS, LINES))
        loss, paired = learning.curve(table, name, "cross-entropy"), learning.curve(table, name, learning.PAIRED)
        style = {"color": colour, "marker": marker, "markersize": 5}
        axes.errorbar(loss["jets"], loss["value"], paired["uncertainty"].to_numpy(), linestyle="", capsize=2, **style)
        n = np.geomspace(loss["jets"].min(), 100 * loss["jets"].max(), 100)
        axes.plot(n, law["floor"] + law["a"] * n ** -law["b"], color=colour, linestyle=line)
        found = "c not determined"
        if np.isfinite(law["floor_uncertainty"]):
            found = f"c = {_with_error(law['floor'], law['floor_uncertainty'])}"
            place = n[-1] * 1.5 ** (i + 1)
            axes.errorbar(place, law["floor"], law["floor_uncertainty"], capsize=3, markerfacecolor="white", **style)
        axes.plot([], [], linestyle=line, label=f"{name}: {found}", **style)
        words.append(f"{name} {found}")
    floor = laws["true_floor"].mean()
    axes.axhline(floor, color="black", linewidth=1.6, label=f"true floor, {floor:.4f}")
    axes.set(xscale="log", xlabel="training jets, both classes", ylabel="cross-entropy  [nats]")
    figure.legend(loc="outside upper center", ncols=2, title=r"lines: $c + a\,n^{-b}$, blind to the floor")
    return figure, (
        f"Cross-entropy against the number of training jets with fits of c plus a power law: {'; '.join(words)}. "
        f"The true floor, the limit's cross-entropy on the same jets, is {floor:.4f}."
    )


@rc_context(STYLE)
def targets(table: pd.DataFrame) -> tuple[Figure, str]:
    """Excess cross-entropy of the same networks trained on labels, on the posterior and on fresh jets.

    Of trainings on labels those on as many jets as the posterior's and on most jets are shown. Open markers: on the
    network's own training jets.
    """
    table = table[table["metric"] == learning.KL]
    by_labels = table["target"] == learning.LABELS
    sizes = {table.loc[by_labels, "jets"].max(), *table.loc[table["target"] == learning.POSTERIOR, "jets"]}
    table = table[~by_labels | table["jets"].isin(sizes)].sort_values("jets", kind="stable")
    rows = list(dict.fromkeys(zip(table["target"], table["jets"], strict=True)))
    names = list(dict.fromkeys(table["learner"]))
    figure = Figure(figsize=(7.2, 1.6 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots()
    words = []
    for i, name in enumerate(names):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        for sample, face, aside in ((learning.TEST, colour, -0.03), (learning.TRAINING, "white", 0.03)):
            own = table[(table["learner"] == name) & (table["sample"] == sample)]
            places = [rows.index(row) for row in zip(own["target"], own["jets"], strict=True)]
            y = np.array(places) + 0.15 * (i - (len(names) - 1) / 2) + aside
            style = {"color": colour, "marker": marker, "markersize": 6, "markerfacecolor": face, "linestyle": ""}
            axes.errorbar(own["value"], y, xerr=own["uncertainty"], capsize=2, label=f"{name}, {sample} jets", **style)
            values = (f"{row.value:.2g} with {row.target} of {row.jets:.0f} jets" for row in own.itertuples())
            words.append(f"{name}, {sample} jets: {', '.join(values)}")
    axes.set_yticks(range(len(rows)), [f"{target}, {jets:,.0f} jets" for target, jets in rows])
    axes.tick_params(axis="y", which="minor", left=False, right=False)
    axes.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), xlabel="excess cross-entropy (mean KL)  [nats]")
    axes.grid(axis="y", color=LIGHT, linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=min(3, len(names)))
    return figure, f"Excess cross-entropy by what the same network was trained on: {'; '.join(words)}."


@rc_context(STYLE)
def search(table: pd.DataFrame) -> tuple[Figure, str]:
    """Loss of each trial, and the best so far, above the loss against each of the settings (notebook 08's table).

    Trial 0 has the default settings. Trials that diverged have no loss and are not drawn.
    """
    default, trials = table[table["trial"] == 0].iloc[0], table[table["trial"] > 0]
    settings = [name for name in table.columns if name not in ("trial", "state", "loss")]
    rows = -(-len(settings) // 3)
    figure = Figure(figsize=(7.2, 2.6 + 2.1 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, 3, height_ratios=[1.2] + [1] * rows)
    above = figure.add_subplot(grid[0, :])
    points = {"marker": "o", "color": COLOURS[0], "linestyle": "", "alpha": 0.8}
    above.plot(trials["trial"], trials["loss"], **points, label="trial")
    best = trials["loss"].cummin().ffill()
    above.step(trials["trial"], best, where="post", color=COLOURS[1], label="best so far")
    own = {"color": "black", "marker": "D", "markerfacecolor": "white"}
    above.axhline(default["loss"], color="black", linestyle="--", linewidth=1)
    above.plot([], [], linestyle="--", linewidth=1, label="default settings", **own)
    above.xaxis.set_major_locator(MaxNLocator(integer=True))
    above.set(xlabel="trial", ylabel="validation loss  [nats]")
    figure.legend(loc="outside upper center", ncols=3)
    for i, name in enumerate(settings):
        axes = figure.add_subplot(grid[1 + i // 3, i % 3], sharey=above)
        values = table[name]
        if name in ("rate", "weight_decay"):
            axes.set_xscale("log")
            x = values.where(values > 0)  # a default of no weight decay has no place on this axis
            decades = np.log10([x.min(), x.max()])
            axes.set_xlim(10 ** np.floor(decades[0]), 10 ** np.ceil(decades[1]))  # ends that have labels
        else:
            choices = sorted(set(values.map(str)), key=lambda text: (len(text), text))
            x = values.map(lambda value, choices=choices: choices.index(str(value)))
            axes.set_xticks(range(len(choices)), choices, rotation=20 if max(map(len, choices)) > 6 else 0)
            axes.set_xlim(-0.5, len(choices) - 0.5)
            axes.tick_params(axis="x", which="minor", bottom=False, top=False)
        axes.plot(x[trials.index], trials["loss"], **points)
        axes.plot(x[default.name], default["loss"], **own)
        axes.set_xlabel(name.replace("_", " "))
        axes.tick_params(labelleft=i % 3 == 0)
    left_out = int(trials["loss"].isna().sum())
    return figure, (
        f"Validation loss of {len(trials)} trials: best {trials['loss'].min():.4f}, default settings "
        f"{default['loss']:.4f}; {left_out} diverged. Below, the same losses against each of the settings."
    )


@rc_context(STYLE)
def logit_maps(table: pd.DataFrame) -> tuple[Figure, str]:
    """The density of jets in LLR and logit, a panel for each tagger in `limit.logit_map`'s table(s)."""
    groups = dict(iter(table.groupby("tagger", sort=False)))
    figure, grid = _small_multiples(len(groups))
    edges = np.unique(np.concatenate([table[f"{axis}_{end}"] for axis in ("llr", "logit") for end in ("low", "high")]))
    norm = LogNorm(table["share"].min() / 3, table["share"].max())  # the palest bin still differs from white
    words = []
    for axes, (name, bins) in zip(grid.flat, groups.items(), strict=False):
        x, y = (np.searchsorted(edges, bins[f"{axis}_low"]) for axis in ("llr", "logit"))
        share = np.ma.masked_all((len(edges) - 1,) * 2)
        share[y, x] = bins["share"]
        mesh = axes.pcolormesh(edges, edges, share, norm=norm, cmap="Blues", rasterized=True)
        axes.plot(edges[[0, -1]], edges[[0, -1]], color="black", linestyle="--", linewidth=1)
        slope, correlation = bins["slope"].iloc[0], bins["correlation"].iloc[0]
        axes.text(0.96, 0.04, f"slope {slope:.2f}\ncorrelation {correlation:.2f}", transform=axes.transAxes, ha="right")
        axes.set(title=name, xlim=edges[[0, -1]], ylim=edges[[0, -1]], aspect="equal")
        words.append(f"{name} has slope {slope:.2f} and correlation {correlation:.2f}")
    figure.colorbar(mesh, ax=grid, label="share of the jets in a bin", aspect=40)
    handles = {"logit = LLR": Line2D([], [], color="black", linestyle="--", linewidth=1)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center")
    return figure, (
        "Density of jets in the tagger's logit and the exact log-likelihood ratio, beside the diagonal of a tagger "
        f"that has learned it: {'; '.join(words)}."
    )


@rc_context(STYLE)
def losses(table: pd.DataFrame) -> tuple[Figure, str]:
    """Training and validation losses against step: tables of `training.train`, told apart by a column `model`."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    handles, words = {}, []
    for i, (name, history) in enumerate(table.groupby("model", sort=False)):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        style = {"color": colour, "linestyle": LINES[i % len(LINES)], "markersize": 6, "markeredgecolor": "white"}
        axes.plot(history["step"], history["train"], color=colour, linewidth=0.6)
        axes.plot(history["step"], history["validation"], **style)
        best = history.loc[history["validation"].idxmin()]
        axes.plot(best["step"], best["validation"], marker=marker, **style)
        handles[name] = Line2D([], [], marker=marker, **style)
        first, last = history["validation"].iloc[0], history["validation"].iloc[-1]
        words.append(f"{name} from {first:.4g} to {last:.4g}, best {best['validation']:.4g} at step {best['step']:.0f}")
    handles["validation (marker: kept)"] = Line2D([], [], color=GREY)
    handles["training"] = Line2D([], [], color=GREY, linewidth=0.6)
    axes.set(xlabel="step", ylabel="loss")
    late = table[table["step"] >= table["step"].max() / 2][["train", "validation"]].to_numpy()
    top = late.max() + 4 * np.ptp(late)  # the first steps run off the axis rather than flatten the last ones
    if late.max() < top < axes.get_ylim()[1]:
        axes.set_ylim(late.min() - 0.3 * np.ptp(late), top)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure, f"Training and validation loss against step. Validation: {'; '.join(words)}."


@rc_context(STYLE)
def significance(table: pd.DataFrame, jets: str) -> tuple[Figure, str]:
    """The significance improvement against signal efficiency (`limit.significance`), with 68 % bands.

    `jets` names the sample, for the title. Posterior-weighted where the table has that estimate.
    """
    estimate = POSTERIOR_WEIGHTED if POSTERIOR_WEIGHTED in set(table["estimate"]) else COUNTED
    curves = dict(iter(table[table["estimate"] == estimate].groupby("tagger", sort=False)))
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    words = []
    for name, look in _looks(list(curves)).items():
        curve = curves[name]
        axes.plot(curve["eps_s"], curve["significance"], label=name, **look)
        low, high = curve["significance_low"], curve["significance_high"]
        axes.fill_between(curve["eps_s"], low, high, color=look["color"], alpha=0.2, linewidth=0)
        if curve["significance"].isna().all():
            words.append(f"{name} not quoted")
            continue
        best = curve.loc[curve["significance"].idxmax()]
        words.append(f"{name} {best['significance']:.3g} at {best['eps_s']:g}")
    guess = np.linspace(0, 1, 200)
    axes.plot(guess, np.sqrt(guess), color=GREY, linewidth=0.7, label="random guess")
    axes.set(xlim=(0, 1), xlabel=r"signal efficiency $\epsilon_S$", yscale="log")
    axes.set(ylabel=r"significance improvement $\epsilon_S/\sqrt{\epsilon_B}$")
    top = np.nanmax(np.append(table["significance_high"], 2.0))
    axes.set_ylim(0.5, 1.5 * top)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_title(f"{jets}, {estimate}", loc="left")
    axes.set_title("bands: 68 %", loc="right")
    axes.legend(loc="upper right")
    return figure, (
        f"Significance improvement against signal efficiency on {jets}. Its largest quoted value and where: "
        f"{', '.join(words)}."
    )


@rc_context(STYLE)
def where(table: pd.DataFrame) -> tuple[Figure, str]:
    """Mean excess KL of taggers in bins of each quantity (`limit.where`): a panel a quantity, a line a tagger.

    A quantity that all jets share is said in words.
    """
    groups = dict(iter(table.groupby("quantity", sort=False)))
    looks = _looks(list(dict.fromkeys(table["tagger"])))
    constant = [bins["low"].min() == bins["high"].max() for bins in groups.values()]
    figure = Figure(figsize=(7.8, 3.6), layout="constrained")
    widths = [0.35 if same else 1 for same in constant]
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False, width_ratios=widths)[0]
    words = []
    for axes, same, (quantity, bins) in zip(panels, constant, groups.items(), strict=True):
        axes.set_xlabel(QUANTITIES.get(quantity, quantity))
        if same:
            text = f"all jets\nhave {bins['low'].iloc[0]:g}"
            axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")
            axes.set_xticks([])
            continue
        for i, (name, look) in enumerate(looks.items()):
            line = bins[bins["tagger"] == name]
            axes.errorbar(line["centre"], line["excess"], line["uncertainty"], marker=MARKERS[i % len(MARKERS)], **look)
            worst = line.loc[line["share"].idxmax()]
            share = f"{_percent(worst['share'], 0)} of the loss of {name}"
            words.append(f"{share} at {quantity} {worst['low']:.3g} to {worst['high']:.3g}")
    panels[0].set(ylabel="mean KL(true ‖ learned)  [nats a jet]", ylim=(0, None))
    handles = [Line2D([], [], marker=MARKERS[i % len(MARKERS)], **look) for i, look in enumerate(looks.values())]
    figure.legend(handles, looks, loc="outside upper center", ncols=5)
    return figure, f"Excess KL divergence of taggers in bins of {', '.join(groups)}. Largest bins: {'; '.join(words)}."


@rc_context(STYLE)
def landscape(table: pd.DataFrame) -> tuple[Figure, str]:
    """Taggers on synthetic jets beside the same on the source's own: dots of AUC and rejections.

    table: `comparison.together`. Bars are all its uncertainties in quadrature. Rejections of synthetic jets are
    posterior-weighted, those of the source counted; what is not quoted is not drawn.
    """
    on_synthetic = set(table.loc[table["sample"] == "synthetic", "tagger"])
    # The surrogates' LLR on the source's jets goes below the limit, which is the same on synthetic ones.
    names = sorted(dict.fromkeys(table["tagger"]), key=lambda name: (name != LIMIT, name in on_synthetic))[::-1]
    looks = {"synthetic": {"color": COLOURS[0], "marker": "o"}, "source": {"color": COLOURS[1], "marker": "s"}}
    figure = Figure(figsize=(7.8, 1.4 + 0.32 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(HEADLINES), sharey=True)
    words = []
    for axes, (metric, label) in zip(panels, HEADLINES.items(), strict=True):
        for (sample, look), aside in zip(looks.items(), (0.13, -0.13), strict=True):
            estimate = POSTERIOR_WEIGHTED if sample == "synthetic" else COUNTED
            wanted = metric if metric == "AUC" else f"{metric}, {estimate}"
            rows = table[(table["sample"] == sample) & (table["metric"] == wanted) & table["value"].notna()]
            error = np.sqrt(rows[["jets", "trainings", "surrogates"]].pow(2).sum(axis=1))
            y = [names.index(name) + aside for name in rows["tagger"]]
            axes.errorbar(rows["value"], y, xerr=error, linestyle="", linewidth=1, markersize=4.5, **look)
            if metric == "AUC":
                words += [f"{row['tagger']} {row['value']:.4f} on {sample} jets" for _, row in rows.iterrows()]
        axes.set_xlabel(label)
        if metric != "AUC":
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter("")
        axes.grid(axis="y", which="major", color=LIGHT, linewidth=0.6)
        axes.tick_params(axis="y", which="both", left=False, right=False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    handles = {f"{name} jets": Line2D([], [], linestyle="", **look) for name, look in looks.items()}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure, f"AUC and background rejections of taggers on either kind of jets. AUC: {', '.join(words)}."


@rc_context(STYLE)
def velocity_error(table: pd.DataFrame) -> tuple[Figure, str]:
    """E|v - v*|^2 a coordinate against t (`diffusion.velocity_error`), models told apart by a column `model`."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    words = []
    for i, (name, line) in enumerate(table.groupby("model", sort=False)):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        axes.errorbar(
            line["t"], line["error"], line["uncertainty"], marker=MARKERS[i % len(MARKERS)], label=name, **style
        )
        largest = line.loc[line["error"].idxmax()]
        words.append(f"{name} at most {largest['error']:.2g} at t = {largest['t']:.2f}")
    axes.plot(line["t"], line["exact"], color=GREY, linewidth=0.8, label=r"$E|v^*|^2$, for scale")
    axes.set(
        xlabel="time t  (0: data, 1: noise)", ylabel=r"$E|v_\theta - v^*|^2$ per coordinate", yscale="log", xlim=(0, 1)
    )
    figure.legend(loc="outside upper center", ncols=3)
    return figure, f"Mean squared error of the trained velocity against time: {'; '.join(words)}."


@rc_context(STYLE)
def save(folder: Path, name: str, figure: Figure, table: pd.DataFrame, alt: str, caption: str = "") -> Path:
    """Write name.png, name.pdf, name.csv (the table behind the figure) and name.json (alt, caption).

    Each file appears whole or not at all, and the same figure gives the same bytes. Returns the PNG's path.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for kind, metadata in {"png": {"Software": None}, "pdf": {"CreationDate": None}}.items():
        with replacing(folder / f"{name}.{kind}") as unfinished:
            figure.savefig(unfinished, format=kind, dpi=150, metadata=metadata)
    with replacing(folder / f"{name}.csv") as unfinished:
        table.to_csv(unfinished, index=False)
    write_json(folder / f"{name}.json", {"alt": alt, "caption": caption})
    return folder / f"{name}.png"
