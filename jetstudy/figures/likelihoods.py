"""The likelihoods: maps, differences, distributions of the LLR, what an acceptance keeps, and the error of a trained
velocity.
"""

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from jetstudy.figures.style import (
    COLOURS,
    GREY,
    LINES,
    MARKERS,
    OBSERVABLES,
    STYLE,
    centres,
    edges_of,
    percent,
    positive,
    signed,
    with_error,
)


@rc_context(STYLE)
def likelihood_maps(table: pd.DataFrame) -> tuple[Figure, str]:
    """Log-likelihood against mass for jets of each class (rows) under the model of each class (columns).

    From `likelihoods.maps`: all maps have the same axes and the same colours.
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
        means.append(f"{signed(mean)} for {jets} jets under the {model} model")
        off = "" if y[0] <= mean <= y[-1] else " (off the axis)"
        title = f"mean {signed(mean)} nats{off}, {percent(outside)} beyond the axes"
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


def _step_pair(axes: Axes, tables: list[pd.DataFrame], column: str) -> None:
    """Histograms of two samples: the first filled and solid, the second a dashed line."""
    for i, bins in enumerate(tables):
        if i == 0:
            axes.stairs(bins[column], edges_of(bins), fill=True, color=COLOURS[0], alpha=0.2)
        axes.stairs(bins[column], edges_of(bins), baseline=None, color=COLOURS[i], linestyle=LINES[i], linewidth=1.4)


@rc_context(STYLE)
def likelihood_differences(table: pd.DataFrame) -> tuple[Figure, str]:
    """Same-jet differences log p_own - log p_other of both classes (`likelihoods.differences`)."""
    groups = dict(iter(table.groupby("jets", sort=False)))
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    _step_pair(axes, list(groups.values()), "density")
    labels, words = [], []
    for i, (name, bins) in enumerate(groups.items()):
        (other,) = set(groups) - {name}
        first = bins.iloc[0]
        mean = with_error(first["mean"], first["mean_error"]) + " nats"
        labels.append(f"{name} jets: mean = KL({name} ‖ {other}) = {mean}; {percent(first['below'])} below 0")
        words.append(f"{name} jets have mean {mean}, with {percent(first['below'])} below zero")
        axes.axvline(first["mean"], color=COLOURS[i], linestyle=LINES[i], linewidth=0.8)
    axes.axvline(0, color=GREY, linewidth=0.8)
    edges = edges_of(next(iter(groups.values())))
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
    """LLR by class (`likelihoods.llr_distributions`): the first sample as histograms, any other as points."""
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
            axes.errorbar(centres(bins), positive(bins["density"]), bins["error"], **style)
            handles[f"{name}, {sample}"] = Line2D([], [], **style)
        means = (f"{signed(bins['mean'].iloc[0])} ({sample})" for sample in samples for bins in [groups[sample, name]])
        words.append(f"{name} jets have mean LLR {', '.join(means)}")
    outside = max(1 - (bins["density"] * (bins["high"] - bins["low"])).sum() for bins in groups.values())
    if outside > 5e-4:
        axes.set_title(f"up to {percent(outside)} of the jets of a class beyond the axes", loc="right")
    axes.set_xlim(table["low"].min(), table["high"].max())
    axes.set_ylim(0, 1.05 * (table["density"] + table["error"]).max())
    axes.set_ylabel("normalised jets  [1/nat]")
    axes.set_xlabel(f"log-likelihood ratio  log p(x | {classes[1]}) − log p(x | {classes[0]})  [nats]")
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2 * len(samples))
    return figure, f"Distributions of the log-likelihood ratio by class, in nats: {'; '.join(words)}."


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
        axes.plot(line["t"], line["exact"], linewidth=0.6, **style)
        largest = line.loc[line["error"].idxmax()]
        words.append(f"{name} at most {largest['error']:.2g} at t = {largest['t']:.2f}")
    axes.plot([], [], color=GREY, linewidth=0.6, label=r"thin: $E|v^*|^2$, for scale")
    axes.set(
        xlabel="time t  (0: data, 1: noise)", ylabel=r"$E|v_\theta - v^*|^2$ per coordinate", yscale="log", xlim=(0, 1)
    )
    figure.legend(loc="outside upper center", ncols=3)
    return figure, f"Mean squared error of the trained velocity against time: {'; '.join(words)}."


@rc_context(STYLE)
def log_odds(table: pd.DataFrame) -> tuple[Figure, str]:
    """An acceptance's log(w / cap) on the source's jets and on a flow's, a panel a class (`likelihoods.log_odds`)."""
    classes = list(dict.fromkeys(table["class"]))
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    words, names = [], {"source": "the source's jets", "flow": "the flow's jets"}
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(classes))), classes, strict=True):
        groups = dict(iter(table[table["class"] == name].groupby("sample", sort=False)))
        _step_pair(axes, [groups[sample] for sample in names], "density")
        first = groups["flow"].iloc[0]
        axes.axvline(0, color=GREY, linewidth=0.9)
        gain = with_error(first["gain"], first["gain_error"]) + " nats"
        axes.set_title(f"{name}: {percent(first['kept'])} kept,\nlog p gains {gain}")
        axes.set_xlim(edges_of(groups["flow"])[[0, -1]])
        axes.set_ylim(0, None)
        axes.set(xlabel=r"$\log(w / \mathrm{cap})$  [nats]", ylabel="normalised jets  [1/nat]")
        words.append(
            f"{name}: {percent(first['kept'])} of the flow's jets are kept and "
            f"{percent(groups['source']['kept'].iloc[0])} of the source's would be; their mean log p grows by {gain}"
        )
    handles = [Line2D([], [], color=COLOURS[i], linestyle=LINES[i]) for i in range(2)]
    handles.append(Line2D([], [], color=GREY, linewidth=0.9))
    figure.legend(handles, [*names.values(), "right of it all are kept"], loc="outside upper center", ncols=3)
    what = "Log of the classifier's odds over the jet's cap, which decides which jets are kept"
    return figure, f"{what}. {'; '.join(words)}."
