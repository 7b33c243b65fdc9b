"""Taggers beside the limit: ROC, significance, learned logits, where the loss sits, the landscape."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from jetstudy.figures.style import COLOURS, GREY, LIGHT, LINES, MARKERS, OBSERVABLES, STYLE, percent, plain_log
from jetstudy.limit import (
    COUNTED,
    KL,
    LIMIT,
    MINIMAL_SURVIVORS,
    POSTERIOR_WEIGHTED,
    SIGNAL_EFFICIENCIES,
    UNCERTAINTIES,
    rejection_at,
)

QUANTITIES = {
    "mass": OBSERVABLES["mass"],
    "N": "particles",
    "LLR": "exact log-likelihood ratio  [nats]",
}
DEPTH = {
    KL: ("value", "mean KL(true ‖ learned)  [nats a jet]"),
    rejection_at(0.5, POSTERIOR_WEIGHTED): ("ratio", r"$1/\epsilon_B$ at $\epsilon_S = 0.5$, tagger / limit"),
}
DODGE = 0.008  # signal efficiency between the counted points of two taggers, so that both can be seen


def _looks(names: list[str]) -> dict[str, dict]:
    """Colour and line of each curve: the limit, if it is among the `names`, black and wide, else black is for all."""
    limited = LIMIT in names
    looks = {LIMIT: {"color": "black", "linestyle": "-", "linewidth": 2.0}} if limited else {}
    colours = COLOURS if limited else (*COLOURS, "black")
    for i, name in enumerate(name for name in names if name != LIMIT):
        looks[name] = {"color": colours[i % len(colours)], "linestyle": LINES[i % len(LINES)]}
    return looks


def _uncounted(panels: Iterable[Axes], table: pd.DataFrame, column: str) -> tuple[float, dict[str, Patch]]:
    """Shade where the limit is weighted by its own posterior and too few jets are behind it to be counted; the signal
    efficiency where that ends (0 without a limit), and a handle for the legend.
    """
    known = table[table["tagger"] == LIMIT].pivot(index="eps_s", columns="estimate", values=column)
    if known.shape[1] < 2:
        return 0.0, {}
    end = known.index[known[COUNTED].notna()].min()
    end = 1.0 if np.isnan(end) else float(end)
    for axes in panels:
        axes.axvspan(0, end, color=LIGHT, alpha=0.4, linewidth=0, zorder=-1)
    return end, {"too few to count": Patch(color=LIGHT, alpha=0.4)}


@rc_context(STYLE)
def roc(table: pd.DataFrame, jets: str) -> tuple[Figure, str]:
    """Background rejection against signal efficiency (`limit.roc_table`), with 68 % bands.

    `jets` names the sample, for the title: "synthetic jets". Where the limit is in the table, a second panel
    shows the taggers' ratio to it. Curves are posterior-weighted where the table has that estimate; counted
    labels then stand beside them as points, at the field's two working points, and it is shaded where they are too few
    to test the limit.
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
    _, shade = _uncounted(panels, table, "rejection")
    panels[0].set_title(f"{jets}, {POSTERIOR_WEIGHTED if weighted else COUNTED}", loc="left")
    panels[0].set_title("bands and bars: 68 %", loc="right")
    handles = {name: Line2D([], [], **style) for name, style in styles.items()}
    if weighted:
        where = ", ".join(f"{efficiency:g}" for efficiency in sorted(SIGNAL_EFFICIENCIES))
        mark = Line2D([], [], color=GREY, marker="o", markersize=5, linestyle="")
        handles[f"counted, at $\\epsilon_S$ = {where}"] = mark
        if compared:
            panels[1].set_title("counted points moved apart", loc="right")
    handles |= shade
    handles["random guess"] = Line2D([], [], color=GREY, linewidth=0.7)
    # The long entry has room in the last column, with all behind it: in another one it would widen the legend too much.
    last = 2 + len(shade) if weighted else 1
    columns = 4 if len(handles) > 6 and len(handles) // 4 >= last else 3
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)

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


def nothing_survives(axes: Axes) -> None:
    text = f"nowhere do {MINIMAL_SURVIVORS} background jets survive"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center")


def _finish_roc(panels: np.ndarray, drawn: pd.DataFrame, compared: bool) -> None:
    """The random guess, axes and labels of a ROC."""
    guess = np.linspace(0.005, 1, 200)
    panels[0].plot(guess, 1 / guess, color=GREY, linewidth=0.7)
    if drawn["rejection"].isna().all():
        nothing_survives(panels[0])
    top = max(10.0, 1.5 * drawn["rejection"].fillna(1).max())
    panels[0].set(yscale="log", ylim=(1, top), xlim=(0, 1), ylabel=r"background rejection $1/\epsilon_B$")
    panels[-1].set_xlabel(r"signal efficiency $\epsilon_S$")
    if compared:
        ratio = drawn["ratio"].fillna(1)
        margin = max(0.02, 0.15 * (ratio.max() - ratio.min()))
        panels[1].set(ylabel="tagger / limit", ylim=(max(0, ratio.min() - margin), ratio.max() + margin))


@rc_context(STYLE)
def significance(table: pd.DataFrame, jets: str) -> tuple[Figure, str]:
    """The significance improvement against signal efficiency (`limit.significance`), with 68 % bands.

    `jets` names the sample, for the title. Posterior-weighted where the table has that estimate, and then shaded where
    labels are too few to test the limit: of that part no largest value is told.
    """
    estimate = POSTERIOR_WEIGHTED if POSTERIOR_WEIGHTED in set(table["estimate"]) else COUNTED
    curves = dict(iter(table[table["estimate"] == estimate].groupby("tagger", sort=False)))
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    end, shade = _uncounted([axes], table, "significance")
    words = []
    for name, look in _looks(list(curves)).items():
        curve = curves[name]
        axes.plot(curve["eps_s"], curve["significance"], label=name, **look)
        low, high = curve["significance_low"], curve["significance_high"]
        axes.fill_between(curve["eps_s"], low, high, color=look["color"], alpha=0.2, linewidth=0)
        curve = curve[curve["eps_s"] >= end]
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
    axes.set_ylim(0.5, 1.2 * top)
    plain_log(axes.yaxis)
    axes.set_title(f"{jets}, {estimate}", loc="left")
    axes.set_title("bands: 68 %", loc="right")
    handles, names = axes.get_legend_handles_labels()
    figure.legend([*handles, *shade.values()], [*names, *shade], loc="outside upper center", ncols=4)
    counted = f" where the limit can be counted, from {end:g} on," if end else ""
    return figure, (
        f"Significance improvement against signal efficiency on {jets}. Its largest value{counted} and at which: "
        f"{', '.join(words)}."
    )


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
            share = f"{percent(worst['share'], 0)} of the loss of {name}"
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
    panels = figure.subplots(1, 1 + len(SIGNAL_EFFICIENCIES), sharey=True)
    words = []
    for axes, efficiency in zip(panels, (None, *SIGNAL_EFFICIENCIES), strict=True):
        for (sample, look), aside in zip(looks.items(), (0.13, -0.13), strict=True):
            estimate = POSTERIOR_WEIGHTED if sample == "synthetic" else COUNTED
            wanted = rejection_at(efficiency, estimate) if efficiency else "AUC"
            rows = table[(table["sample"] == sample) & (table["metric"] == wanted) & table["value"].notna()]
            error = in_quadrature(rows)
            y = [names.index(name) + aside for name in rows["tagger"]]
            axes.errorbar(rows["value"], y, xerr=error, linestyle="", linewidth=1, markersize=4.5, **look)
            if not efficiency:
                words += [f"{row['tagger']} {row['value']:.4f} on {sample} jets" for _, row in rows.iterrows()]
        axes.set_xlabel(f"$1/\\epsilon_B$ at $\\epsilon_S = {efficiency}$" if efficiency else "AUC")
        if efficiency:
            axes.set_xscale("log")
            plain_log(axes.xaxis)
        axes.grid(axis="y", which="major", color=LIGHT, linewidth=0.6)
        axes.tick_params(axis="y", which="both", left=False, right=False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(-0.6, len(names) - 0.4)
    handles = {f"{name} jets": Line2D([], [], linestyle="", **look) for name, look in looks.items()}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure, f"AUC and background rejections of taggers on either kind of jets. AUC: {', '.join(words)}."


def in_quadrature(rows: pd.DataFrame, what: str = "value") -> pd.Series:
    """All uncertainties of the value (or ratio) in rows of `comparison.together`; an unknown one counts nothing."""
    prefix = "ratio_" if what == "ratio" else ""
    return np.sqrt(rows[[f"{prefix}{name}" for name in UNCERTAINTIES]].pow(2).sum(axis=1))


@rc_context(STYLE)
def depth(table: pd.DataFrame) -> tuple[Figure, str]:
    """What more blocks of one network bring (`comparison.depths`): excess KL and share of the limit's rejection."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    words = []
    for axes, (metric, (column, label)) in zip(figure.subplots(1, len(DEPTH)), DEPTH.items(), strict=True):
        rows = table[(table["metric"] == metric) & table[column].notna()]
        error = in_quadrature(rows, column)
        axes.errorbar(rows["blocks"], rows[column], error, color=COLOURS[0], marker="o", capsize=2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(set(table["blocks"])), minor=False)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="blocks of attention", ylabel=label)
        axes.margins(x=0.1)
        if rows.empty:
            nothing_survives(axes)
        found = ", ".join(f"{row[column]:.3g} with {row['blocks']}" for _, row in rows.iterrows()) or "not quoted"
        words.append(f"{metric}{' over the limit' if column == 'ratio' else ''}: {found}")
    return figure, f"What more blocks of attention bring. {'; '.join(words)}."
