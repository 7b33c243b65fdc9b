"""Jets by class, and synthetic ones beside the source's: observables, distances over their floor, partial diffusion."""

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jetstudy.figures.style import (
    COLOURS,
    GREY,
    LIGHT,
    LINES,
    LOGARITHMIC,
    MARKERS,
    OBSERVABLES,
    STYLE,
    centres,
    edges_of,
    percent,
    plain_log,
    positive,
    signed,
    with_error,
)
from jetstudy.names import called

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
UNCONVINCING = "has not learned"  # the verdict of a judge that sees no distortion
RATIO_RANGES = (0.1, 0.2, 0.5, 1.0)  # half the height of a ratio's axis


@rc_context(STYLE)
def spectra(table: pd.DataFrame) -> tuple[Figure, str]:
    """The observables of several classes of jets, a panel each (`fidelity.spectra`)."""
    figure = Figure(figsize=(7.8, 4.6), layout="constrained")
    looks = {name: (COLOURS[i], LINES[i]) for i, name in enumerate(dict.fromkeys(table["class"]))}
    words = []
    for axes, (name, rows) in zip(figure.subplots(2, 3).flat, table.groupby("observable", sort=False), strict=True):
        common = rows.groupby(["low", "high"])["density"].min().reset_index().eval("density * (high - low)").sum()
        words.append(f"{name} {percent(common)}")
        axes.set_xlabel(OBSERVABLES[name])
        if rows["low"].nunique() == 1:
            where = f"{(rows['low'].iloc[0] + rows['high'].iloc[0]) / 2:g}"
            _in_words(axes, f"{'all' if common > 1 - 1e-9 else f'at least {percent(common, 2)} of'} jets have {where}")
            continue
        for label, bins in rows.groupby("class", sort=False):
            colour, line = looks[label]
            height = positive(bins["density"]) if name == "ptrel" else bins["density"]
            axes.stairs(height, edges_of(bins), baseline=None, color=colour, linestyle=line, linewidth=1.4)
            axes.errorbar(centres(bins, name), height, bins["error"], color=colour, linestyle="", linewidth=0.8)
        axes.set(xlim=edges_of(bins)[[0, -1]], ylabel=f"normalised {'particles' if name in OF_PARTICLES else 'jets'}")
        if name == "ptrel":
            axes.set(xscale="log", yscale="log")
            plain_log(axes.xaxis, (1, 3))
        else:
            axes.set_ylim(0, 1.05 * (rows["density"] + rows["error"]).max())
        if name == "multiplicity":
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.xaxis.minorticks_off()
    handles = [Line2D([], [], color=colour, linestyle=line) for colour, line in looks.values()]
    figure.legend(handles, looks, loc="outside upper center", ncols=len(looks))
    return figure, (
        f"Histograms of {len(words)} observables of {' and '.join(looks)} jets. "
        f"Area that all classes have in common: {', '.join(words)}."
    )


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
    _legend(figure, label)
    shares = ", ".join(f"{name} {percent(share)}" for name, share in common.items())
    return figure, (
        f"Histograms of {len(common)} observables of {label} jets, the source filled and the synthetic jets as a "
        f"line, each above the ratio of synthetic to source. Area that both histograms have in common: {shares}."
    )


@rc_context(STYLE)
def pairs(table: pd.DataFrame, label: str) -> tuple[Figure, str]:
    """Pairs of particles by their mass in jets of class `label` (`fidelity.pairs`), above the ratio to the source."""
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    figure.get_layout_engine().set(hspace=0, h_pad=0.03)
    above, below = figure.subplots(2, 1, height_ratios=[3, 1.3])
    _histograms(above, table, "pair_mass")
    _ratio(below, table, "pair_mass", inside=1)
    above.set(xscale="log", ylabel="pairs a jet, in each bin")
    _legend(figure, label)
    ratio = (table["synthetic"] / positive(table["source"])).dropna()
    ends = (("fewest", ratio.idxmin()), ("most", ratio.idxmax())) if len(ratio) else ()
    words = [f"{which} {percent(ratio[k], 0)} at {table['low'][k]:.2g} to {table['high'][k]:.2g}" for which, k in ends]
    return figure, (
        f"Numbers of pairs of particles in {label} jets by the pair's mass, the source filled and the synthetic jets "
        f"as a line, above the ratio of synthetic to source{''.join(f', {word}' for word in words)}."
    )


def _legend(figure: Figure, label: str) -> None:
    handles = {
        "source, with its uncertainty": Patch(facecolor=LIGHT, edgecolor=GREY),
        "synthetic": Line2D([], [], color=COLOURS[1]),
        "synthetic / source": Line2D([], [], color=COLOURS[1], linestyle="", marker="o", markersize=2.5),
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, title=f"{label} jets")


def _histograms(axes: Axes, bins: pd.DataFrame, name: str) -> None:
    edges, source, synthetic = edges_of(bins), bins["source"], bins["synthetic"]
    highest = max((source + bins["source_error"]).max(), synthetic.max())
    axes.set(xlim=edges[[0, -1]], ylim=(0, 1.05 * highest))
    if name == "ptrel":
        source, synthetic = positive(source), positive(synthetic)
        axes.set(xscale="log", yscale="log", ylim=(min(source.min(), synthetic.min()) / 2, 2 * highest))
        axes.xaxis.set_minor_formatter("")
    axes.stairs(source, edges, baseline=axes.get_ylim()[0], fill=True, color=LIGHT)
    axes.stairs(source, edges, baseline=None, color=GREY, linewidth=0.8)
    axes.errorbar(centres(bins, name), source, bins["source_error"], color=GREY, linestyle="", linewidth=0.8)
    axes.stairs(synthetic, edges, baseline=None, color=COLOURS[1], linewidth=1.2)
    axes.set_ylabel(f"normalised {'particles' if name in OF_PARTICLES else 'jets'}")
    axes.tick_params(labelbottom=False)


def _ratio(axes: Axes, bins: pd.DataFrame, name: str, inside: float = 0.9) -> None:
    """Synthetic/source with the source's uncertainty as a band; triangles at the edge for what lies beyond, at most
    the share 1 - ``inside`` of what is well known."""
    edges = edges_of(bins)
    source = positive(bins["source"])
    ratio, error, band = ((bins[name] / source).to_numpy() for name in ("synthetic", "synthetic_error", "source_error"))
    deviation, uncertainty = np.abs(ratio - 1), np.hypot(error, band)
    reach = max(np.quantile(np.append(deviation[uncertainty < 0.3], 0), inside), 2 * pd.Series(uncertainty).median())
    half = next((half for half in RATIO_RANGES if half > reach), RATIO_RANGES[-1])
    axes.set(ylim=(1 - half, 1 + half), xlim=edges[[0, -1]], xlabel=OBSERVABLES[name], ylabel="syn. / source")
    axes.stairs(1 + band, edges, baseline=1 - band, fill=True, color=LIGHT)
    axes.axhline(1, color=GREY, linewidth=0.8)
    x, shown = centres(bins, name), deviation <= half
    style = {"color": COLOURS[1], "linestyle": "", "markersize": 2.5}
    axes.errorbar(x[shown], ratio[shown], error[shown], marker="o", linewidth=0.8, **style)
    for beyond, marker, edge in ((ratio > 1 + half, "^", 0.95), (ratio < 1 - half, "v", 0.05)):
        height = np.full(np.sum(beyond), edge)
        axes.plot(x[beyond], height, marker=marker, transform=axes.get_xaxis_transform(), **style)
    if name in LOGARITHMIC:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")  # of less than a power of ten all ticks would be labelled, one upon another
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
        text = f"{percent(source, 2)} of source and\n{percent(synthetic, 2)} of synthetic\njets have {where}"
    above.set_xlabel(OBSERVABLES[name])
    _in_words(above, text)
    below.set_axis_off()


def _in_words(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")
    axes.set(xticks=[], yticks=[])
    axes.minorticks_off()


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
    named = {name: f"synthetic, {name}" if name.startswith("seed ") else name for name in looks}
    handles = {named[name]: Line2D([], [], color=c, marker=m, **style) for name, (c, m) in looks.items()}
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
        margin = 0.06 * max(high - min(low, 0.5), 0.05)  # a judge may find exactly one half
        panels[0].set_xlim(min(low, 0.5) - margin, high + margin)
        names = [metric.removeprefix("auc_") for metric in metrics]
        names = [f"{name} judge" if name == "best" else f"judge: {called(name)}" for name in names]
    else:
        panels[0].set(xscale="log", xlim=(max(0.3, 0.8 * min(low, 1)), 1.3 * max(high, 2)))
        plain_log(panels[0].xaxis, (1, 2, 5) if high < 100 else (1,))
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
    words, distances = [], rows[~rows["judged"] & np.isfinite(rows["x"])]  # a floor of exactly zero measures nothing
    if len(distances):
        worst = distances.loc[distances["x"].idxmax()]
        words.append(f"at most {worst['x']:.3g} ({worst['metric']})")
    for _, row in rows[rows["metric"] == "auc_best"].iterrows():
        words.append(f"best judge's AUC {with_error(row['value'], row['uncertainty'])} ({row['verdict']})")
    return f"{name[0]}, {name[1]} jets: {', '.join(words)}"


@rc_context(STYLE)
def resampled(table: pd.DataFrame) -> tuple[Figure, str]:
    """What partial diffusion leaves of a jet, against the time it was noised to (`fidelity.resampled`)."""
    figure = Figure(figsize=(7.8, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    words = []
    for i, (name, line) in enumerate(table.groupby("observable", sort=False)):
        style = {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i], "label": RESAMPLED.get(name, name)}
        if line["correlation"].isna().all():
            words.append(f"{name} is the same in all jets")
            continue
        left.errorbar(line["t"], line["correlation"], line["correlation_error"], **style)
        right.errorbar(line["t"], line["shift"], line["shift_error"], **style)
        half = line["t"][line["correlation"] < 0.5].min()
        fate = "stays above 0.5" if np.isnan(half) else f"below 0.5 from t = {half:g} on"
        words.append(f"{name} {fate}, shift at the last t {signed(line['shift'].iloc[-1])}")
    for axes in (left, right):
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=0)
        axes.set(xlim=(0, 1.02), xlabel="time t that jets are noised to")
    left.set(ylabel="correlation of a jet before and after", ylim=(-0.15, 1.05))
    right.set(ylabel="shift of the mean  [standard deviations]")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(RESAMPLED))
    return figure, f"Correlation of jets before and after partial diffusion against its time: {'; '.join(words)}."
