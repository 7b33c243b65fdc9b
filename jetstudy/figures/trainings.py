"""Trainings: losses, learning curves and their extrapolation, what was trained on, a search for settings."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jetstudy import learning
from jetstudy.figures.style import COLOURS, GREY, LIGHT, LINES, MARKERS, STYLE, plain_log, with_error
from jetstudy.figures.taggers import nothing_survives
from jetstudy.limit import KL, PAIRED


@rc_context(STYLE)
def losses(table: pd.DataFrame, loss: str = "loss") -> tuple[Figure, str]:
    """Training and validation losses against step: tables of `training.train`, told apart by a column `model`.

    `loss` names what it is, with its unit.
    """
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
    axes.set(xlabel="step", ylabel=loss)
    late = table[table["step"] >= table["step"].max() / 2][["train", "validation"]].to_numpy()
    top = late.max() + 4 * np.ptp(late)  # the first steps run off the axis rather than flatten the last ones
    if late.max() < top < axes.get_ylim()[1]:
        axes.set_ylim(late.min() - 0.3 * np.ptp(late), top)
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2)
    return figure, f"Training and validation loss against step. Validation: {'; '.join(words)}."


@rc_context(STYLE)
def learning_curves(table: pd.DataFrame) -> tuple[Figure, str]:
    """Excess cross-entropy of networks trained on labels, with their power laws, above the share of the limit's
    rejection, both against the number of training jets: notebook 07's table, or several with a column `seed`.
    """
    table = table[(table["sample"] == learning.TEST) & (table["target"] == learning.LABELS)]
    singles, laws = _laws(table, "excess")
    table = learning.over_seeds(table)
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.4, 1])
    handles, words = {}, []
    for i, name in enumerate(dict.fromkeys(table["learner"])):
        colour, marker, line = (choice[i % len(choice)] for choice in (COLOURS, MARKERS, LINES))
        style = {"color": colour, "marker": marker, "markersize": 5}
        excess = learning.curve(table, name, KL)
        above.errorbar(excess["jets"], excess["value"], excess["uncertainty"], linestyle="", capsize=2, **style)
        label, n = name, np.geomspace(table["jets"].min(), table["jets"].max(), 50)
        if name in laws.index:
            law = laws.loc[name]
            above.plot(n, _mean_law(singles, name, n), color=colour, linestyle=line)
            label += f": b = {with_error(law['b'], law['b_uncertainty'])}"
            label += f", χ² = {law['chi2']:.0f} / {law['dof']:.0f}" if law["dof"] else ""
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
    plain_log(above.yaxis)
    below.set(xlabel="training jets, both classes", ylabel="rejection / limit", ylim=(0, None))
    if table.loc[table["metric"].isin(learning.REJECTIONS.values()), "ratio"].isna().all():
        nothing_survives(below)
    faces = dict(zip(learning.REJECTIONS, (GREY, "white"), strict=True))
    efficiencies = {
        f"$\\epsilon_S$ = {e:g}": Line2D([], [], color=GREY, marker="o", markerfacecolor=face, linestyle="")
        for e, face in faces.items()
    }
    below.legend(efficiencies.values(), efficiencies.keys(), loc="best")
    title = None if laws.empty else r"lines: excess $\propto n^{-b}$, with χ² / degrees of freedom"
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(2, len(handles)), title=title)
    return figure, f"Excess cross-entropy against the number of training jets: {'; '.join(words)}."


def _laws(table: pd.DataFrame, quantity: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The laws fitted to one quantity, of each seed and, by learner, their mean; without the last digits of a float,
    which differ between processors: the same table is then the same figure."""
    singles = learning.fits(table)
    singles = singles[singles["quantity"] == quantity]
    return singles, learning.combined(singles).set_index("learner").round(9)


def _mean_law(laws: pd.DataFrame, learner: str, n: np.ndarray) -> np.ndarray:
    """The mean over seeds of one learner's fitted laws at n jets, without the last digits as in `_laws`."""
    own = laws[laws["learner"] == learner]
    return np.mean([law.floor + law.a * n**-law.b for law in own.itertuples()], axis=0).round(9)


@rc_context(STYLE)
def extrapolation(table: pd.DataFrame) -> tuple[Figure, str]:
    """Cross-entropy of networks trained on labels, with the fits that do not know the floor, beside the true floor.

    Fits run on to a hundred times as many jets as there are; their own floors, with errors, stand at the right. Raises
    ValueError if no network has points enough.
    """
    singles, laws = _laws(table, "cross-entropy")
    table = learning.over_seeds(table)
    if laws.empty:
        raise ValueError("no network was trained on numbers of jets enough for a fit")
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    words = []
    for i, (name, law) in enumerate(laws.iterrows()):
        colour, marker, line = (choice[i % len(choice)] for choice in (COLOURS, MARKERS, LINES))
        loss, paired = learning.curve(table, name, "cross-entropy"), learning.curve(table, name, PAIRED)
        style = {"color": colour, "marker": marker, "markersize": 5}
        axes.errorbar(loss["jets"], loss["value"], paired["uncertainty"].to_numpy(), linestyle="", capsize=2, **style)
        n = np.geomspace(loss["jets"].min(), 100 * loss["jets"].max(), 100)
        axes.plot(n, _mean_law(singles, name, n), color=colour, linestyle=line)
        found = "c not determined"
        if np.isfinite(law["floor_uncertainty"]):
            found = f"c = {with_error(law['floor'], law['floor_uncertainty'])}"
            place = n[-1] * 1.5 ** (i + 1)
            axes.errorbar(place, law["floor"], law["floor_uncertainty"], capsize=3, markerfacecolor="white", **style)
        axes.plot([], [], linestyle=line, label=f"{name}: {found}", **style)
        words.append(f"{name} {found}")
    floor = laws["true_floor"].mean()
    axes.axhline(floor, color="black", linewidth=1.6, label=f"true floor, {floor:.4f}")
    axes.plot([], [], "o", color=GREY, markerfacecolor="white", label="right: c, where the fit ends")
    axes.set(xscale="log", xlabel="training jets, both classes", ylabel="cross-entropy  [nats]")
    figure.legend(loc="outside upper center", ncols=2, title=r"lines: $c + a\,n^{-b}$, blind to the floor")
    return figure, (
        f"Cross-entropy against the number of training jets with fits of c plus a power law: {'; '.join(words)}. "
        f"The true floor, the limit's cross-entropy on the same jets, is {floor:.4f}."
    )


@rc_context(STYLE)
def targets(table: pd.DataFrame) -> tuple[Figure, str]:
    """Excess cross-entropy of networks by what they were trained on (`learning.targets`).

    Of trainings on labels to the end those on as many jets as the posterior's and on most jets are shown. Open markers:
    on the network's own training jets.
    """
    table = learning.over_seeds(table[table["metric"] == KL])
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
    plain_log(axes.xaxis)
    axes.grid(axis="y", color=LIGHT, linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=min(3, len(names)))
    return figure, f"Excess cross-entropy by what a network was trained on: {'; '.join(words)}."


@rc_context(STYLE)
def search(table: pd.DataFrame, ranges: Sequence[str] = ("rate", "weight_decay")) -> tuple[Figure, str]:
    """Loss of each trial, and the best so far, above the loss against each of the settings (notebook 08's table), on a
    logarithmic axis for those that were searched in `ranges`.

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
        if name in ranges:
            axes.set_xscale("log")
            x = values.where(values > 0)  # a default of no weight decay has no place on this axis
            decades = np.log10([x.min(), x.max()])
            axes.set_xlim(10 ** np.floor(decades[0]), 10 ** np.ceil(decades[1]))  # ends that have labels
        else:
            choices = sorted(set(values.dropna().map(str)), key=lambda text: (len(text), text))
            x = values.map(lambda value, choices=choices: choices.index(str(value)), na_action="ignore")
            named = [text.strip("[]").replace(", ", "-") for text in choices]  # sizes of layers
            slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, named)) > 6 else {}
            axes.set_xticks(range(len(choices)), named, **slanted)
            axes.set_xlim(-0.5, len(choices) - 0.5)
            axes.tick_params(axis="x", which="minor", bottom=False, top=False)
        axes.plot(x[trials.index], trials["loss"], **points)
        axes.plot(x[default.name], default["loss"], **own)
        axes.set_xlabel(name.replace("_", " "))
        axes.tick_params(labelleft=i % 3 == 0)
        if i % 3 == 0:
            axes.set_ylabel("validation loss  [nats]")
    left_out = int(trials["loss"].isna().sum())
    return figure, (
        f"Validation loss of {len(trials)} trials: best {trials['loss'].min():.4f}, default settings "
        f"{default['loss']:.4f}; {left_out} diverged. Below, the same losses against each of the settings."
    )
