import json
import subprocess
import sys
from functools import cache
from io import BytesIO, StringIO

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from jetstudy import comparison, fidelity, figures, likelihoods, limit, report
from jetstudy.figures import saved
from jetstudy.names import called
from jetstudy.sources import draw, toy

CLASSES = ("gluon", "top")
NAMES = ("quark", "w_boson")  # not those that the toy knows: figures take names from the table
TABLES = (
    *("spectra", "observables", "pairs", "fidelity", "likelihood_maps", "likelihood_differences", "llr_distributions"),
    *("roc", "roc of the source", "likelihood_ratio_trick", "losses"),
    *("significance", "logit_maps", "where", "landscape", "depth", "log_odds"),
)
BINS = np.array([0.0, 1.0, 2.0, 3.0])


def drawn(n_jets, seed):
    return [draw("toy", name, n_jets, 8, seed, CLASSES) for name in CLASSES]


def log_prob(jets):
    return np.stack([np.concatenate([toy.log_prob(j, model) for j in jets]) for model in CLASSES], axis=1)


def loss_table(n, model="gluon", level=1.0):
    step = 100 * np.arange(1, n + 1)
    decay = np.exp(-step / 500)
    columns = {"model": model, "step": step, "train": level + decay, "validation": level + 0.1 + decay, "rate": 1e-3}
    return pd.DataFrame(columns)


def verdict_table(values, verdict="separates", surrogate="mine"):
    """Rows of judges.verdicts: AUC by judge, the first of them the best."""
    values = {**values, "best": next(iter(values.values()))}
    columns = {"surrogate": surrogate, "class": NAMES[0], "metric": [f"auc_{name}" for name in values]}
    columns |= {"value": list(values.values()), "uncertainty": 0.01, "floor": 0.495, "floor_uncertainty": 0.02}
    return pd.DataFrame(columns | {"jets": 500, "judge": list(values), "verdict": verdict})


def distance_table(values, surrogate="mine", floor=1.0):
    """Rows of fidelity.distances with one floor for all metrics."""
    columns = {"surrogate": surrogate, "class": NAMES[0], "metric": list(values), "value": list(values.values())}
    return pd.DataFrame(columns | {"uncertainty": 0.1, "floor": floor, "floor_uncertainty": 0.2, "jets": 500})


def distances_and_verdicts(source, synthetic, rng):
    tables = [
        fidelity.distances(source, jets, rng, name, n_splits=2, n_matched=5)
        for name, jets in {"mine": synthetic, "theirs": source}.items()
    ]
    log_prob = fidelity.held_out_log_prob({NAMES[0]: [1.0, 2.0]}, {NAMES[0]: [3, 3]}, "mine")
    verdicts = [verdict_table({"trees": 0.7}), verdict_table({"trees": 0.6}, "has not learned", "source, wider")]
    return pd.concat([*tables, log_prob, *verdicts], ignore_index=True)


@cache
def tables(n_jets):
    """Tables of a study with n_jets jets per class: toy jets, the exact LLR and two taggers, LLRs with noise."""
    rng = np.random.default_rng(n_jets)
    source, synthetic = drawn(n_jets, 1), drawn(n_jets, 2)
    label = np.repeat([0, 1], n_jets)
    p = log_prob(synthetic)
    llr = p[:, 1] - p[:, 0]
    scores = {name: llr + rng.normal(0, s, 2 * n_jets) for name, s in {"pfn": 1.5, "a_transformer": 0.5}.items()}
    q = log_prob(source)
    tricks = [limit.likelihood_ratio_trick(logit, llr, name, n_bins=5) for name, logit in scores.items()]
    roc = limit.roc_table(scores, label, rng, llr, n_resamples=10)
    quantities = {"mass": np.concatenate([j.mass for j in synthetic]), "N": np.full(len(llr), 30), "LLR": llr}
    gaps = [limit.gap(scores, label, rng, llr, n_resamples=5), limit.gap(scores, label, rng, None, "source", 5)]
    about = pd.DataFrame([{"tagger": name, "sample": "synthetic", "seed": 1} for name in scores])
    headlines = comparison.together({1: pd.concat(gaps)}, about)
    return {
        "significance": limit.significance(roc),
        "logit_maps": pd.concat([limit.logit_map(logit, llr, name, 10) for name, logit in scores.items()]),
        "where": limit.where(scores, llr, label, quantities, rng, 4, 10),
        "landscape": headlines,
        "depth": comparison.depths(headlines, {"pfn": 8, "a_transformer": 1}),
        "spectra": fidelity.spectra(dict(zip(NAMES, source, strict=True))),
        "observables": fidelity.observables(
            dict(zip(NAMES, source, strict=True)), dict(zip(NAMES, synthetic, strict=True))
        ),
        "pairs": fidelity.pairs(source[1], synthetic[1]),
        "fidelity": distances_and_verdicts(
            dict(zip(NAMES, source, strict=True)), dict(zip(NAMES, synthetic, strict=True)), rng
        ),
        "likelihood_maps": likelihoods.maps(p, np.concatenate([j.mass for j in synthetic]), label, NAMES),
        "likelihood_differences": likelihoods.differences(p, label, NAMES),
        "llr_distributions": likelihoods.llr_distributions(
            {"synthetic": (llr, label), "source": (q[:, 1] - q[:, 0], label)}, NAMES
        ),
        "log_odds": likelihoods.log_odds(
            {name: p[label == k, 1] - p[label == k, 0] for k, name in enumerate(NAMES)},
            {name: q[label == k, 1] - q[label == k, 0] - 0.5 for k, name in enumerate(NAMES)},
        ),
        "roc": roc,
        "roc of the source": limit.roc_table(scores, label, rng, n_resamples=10),
        "likelihood_ratio_trick": pd.concat(tricks, ignore_index=True),
        "losses": loss_table(n_jets // 20),
    }


def make(name, table):
    if name in ("observables", "pairs"):
        return getattr(figures, name)(table, NAMES[1])
    if name.startswith("roc"):
        return figures.roc(table, "toy jets")
    if name == "significance":
        return figures.significance(table, "toy jets")
    return getattr(figures, name)(table)


def pixels(figure):
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    return np.asarray(Image.open(buffer).convert("L"))


def texts(figure):
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_few_jets_and_its_csv_give_the_same_figure(name):
    table = tables(25)[name]
    figure, alt = make(name, table)
    figure_again, alt_again = make(name, pd.read_csv(StringIO(table.to_csv(index=False))))
    assert alt == alt_again
    for either in (figure, figure_again):
        either.set_layout_engine("none")  # the layout takes most of the time and follows from the rest
    np.testing.assert_array_equal(pixels(figure), pixels(figure_again))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_many_jets_gives_a_figure_and_an_alt_text(name):
    figure, alt = make(name, tables(600)[name])
    assert 0.01 < np.mean(pixels(figure) < 250) < 0.9
    assert 7 <= figure.get_figwidth() <= 8
    assert 60 < len(alt) < 1000 and alt.endswith(".") and "nan" not in alt
    box = figure.get_tightbbox()  # in inches
    assert min(box.x0, box.y0) > -0.01, "something is cut off at the left or below"
    assert box.x1 < figure.get_figwidth() + 0.01 and box.y1 < figure.get_figheight() + 0.01, "cut off right or above"


@pytest.mark.parametrize("n", range(1, comparison.SHOWN + 3))
def test_the_legend_of_a_roc_has_room_whatever_the_number_of_taggers(n):
    table = tables(600)["roc"]
    named = ("transformer", "pfn", "particlenet", "part", "lorentznet", "boosting", "average", "stacked")[:n]
    names = list(map(called, named))
    own = [table[table["tagger"] == "pfn"].assign(tagger=name) for name in names]
    figure, _ = figures.roc(pd.concat([table[table["tagger"] == limit.LIMIT], *own]), "synthetic jets")
    figure.draw_without_rendering()
    shown = figure.legends[0]
    assert "too few to count" in [text.get_text() for text in shown.get_texts()]
    box = shown.get_window_extent()
    assert 0 < box.x0 and box.x1 < figure.bbox.width


@pytest.mark.parametrize("name", ["fidelity", "likelihood_maps", "likelihood_differences", "llr_distributions"])
def test_classes_are_called_as_in_the_table(name):
    figure, alt = make(name, tables(25)[name])
    for words in (alt, texts(figure)):
        assert all(label in words for label in NAMES) and not any(label in words for label in CLASSES)


def test_figures_need_neither_torch_nor_pyplot():
    code = "import sys, jetstudy.figures; print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_style_is_that_of_the_figure_alone():
    with matplotlib.rc_context({"font.size": 20.0, "xtick.direction": "out"}):
        figure, _ = make("losses", tables(25)["losses"])
        assert matplotlib.rcParams["font.size"] == 20.0 and matplotlib.rcParams["xtick.direction"] == "out"
    assert figure.axes[0].xaxis.label.get_size() == figures.STYLE["axes.labelsize"]


def curves_of(figure):
    """The lines of a ROC that are one tagger's each."""
    return [line for line in figure.axes[0].get_lines() if len(line.get_ydata()) == len(limit.GRID)]


# Observables


def histogram(source, synthetic, name="mass", error=0.01, low=BINS[:-1], high=BINS[1:]):
    columns = {"class": "w", "observable": name, "low": low, "high": high}
    columns |= {"source": source, "source_error": error, "synthetic": synthetic, "synthetic_error": error}
    return pd.DataFrame(columns)


def marked(axes, marker):
    """Points (x, y) with `marker` in the axes."""
    lines = [line for line in axes.get_lines() if line.get_marker() == marker]
    return [point for line in lines for point in line.get_xydata().tolist()]


def test_ratios_lie_on_their_axis_or_are_triangles_at_its_edge():
    figure, _ = figures.observables(histogram([0.2, 0.4, 0.4], [0.5, 0.1, 0.4]), "w")
    ratio = figure.axes[3]
    assert ratio.get_ylim() == (0, 2)
    np.testing.assert_allclose(marked(ratio, "o"), [[1.5, 0.25], [2.5, 1]])
    assert [x for x, _ in marked(ratio, "^")] == [0.5]
    assert marked(ratio, "v") == []


def test_the_axis_of_ratios_fits_what_is_measured_well():
    for factor, half in ((1.02, 0.1), (1.15, 0.2), (1.4, 0.5), (1.7, 1.0)):
        source = np.array([0.2, 0.4, 0.4])
        figure, _ = figures.observables(histogram(source, factor * source, error=1e-4), "w")
        np.testing.assert_allclose(figure.axes[3].get_ylim(), (1 - half, 1 + half))


def test_bins_without_source_jets_have_no_ratio():
    figure, _ = figures.observables(histogram([0.0, 0.5, 0.5], [0.2, 0.4, 0.4]), "w")
    assert len(marked(figure.axes[3], "o")) == 2 and marked(figure.axes[3], "^") == []


def test_the_alt_text_quotes_the_area_that_histograms_share():
    _, alt = figures.observables(histogram([0.2, 0.4, 0.4], [0.5, 0.1, 0.4]), "w")
    assert "w jets" in alt and "mass 70.0 %" in alt


def test_a_constant_multiplicity_is_said_in_words():
    one = {"name": "multiplicity", "error": 0.0, "low": [29.5], "high": [30.5]}
    figure, alt = figures.observables(histogram([1.0], [1.0], **one), "w")
    assert "all jets have 30" in texts(figure) and "multiplicity 100.0 %" in alt
    figure, _ = figures.observables(histogram([1.0], [0.9812], **one), "w")
    assert "98.12 % of synthetic\njets have 30" in texts(figure)


def test_spectra_have_a_panel_an_observable_and_words_where_there_is_one_number_of_particles():
    jets = [draw("toy", name, 200, 8, 1, CLASSES) for name in CLASSES]
    alike = {name: own[own.count == own.count.max()] for name, own in zip(NAMES, jets, strict=True)}
    number = jets[0].count.max()
    figure, alt = figures.spectra(fidelity.spectra(alike))
    assert f"all jets have {number}" in texts(figure) and "multiplicity 100.0 %" in alt
    assert alt.startswith("Histograms of 6 observables of quark and w_boson jets.") and len(figure.axes) == 6
    figure, alt = figures.spectra(fidelity.spectra(dict(zip(NAMES, jets, strict=True))))
    assert not any("jets have" in text for text in texts(figure)) and "multiplicity 100.0 %" not in alt


def test_pairs_name_the_masses_that_are_drawn_least_and_most():
    columns = {"low": [1e-4, 2e-4, 3e-4], "high": [2e-4, 3e-4, 4e-4], "source": [2.0, 4.0, 0.0], "source_error": 0.1}
    table = pd.DataFrame(columns | {"synthetic": [1.0, 5.0, 1.0], "synthetic_error": 0.1})
    figure, alt = figures.pairs(table, "w")
    assert "fewest 50 % at 0.0001 to 0.0002, most 125 % at 0.0002 to 0.0003." in alt
    assert len(figure.axes) == 2 and "w jets" in texts(figure)
    _, alt = figures.pairs(table.assign(source=0.0), "w")
    assert alt.endswith("synthetic to source.")


def test_a_class_that_the_table_lacks_is_refused():
    with pytest.raises(ValueError, match="no class 'top'"):
        figures.observables(histogram([1, 1, 1], [1, 1, 1]), "top")


# Fidelity


def test_distances_are_drawn_over_their_floor_and_coverage_upside_down():
    values = {"w1_mass": 3.0, "coverage": 0.25, "mmd": 1.0}
    figure, alt = figures.fidelity(distance_table(values, floor=0.5))
    (axes,) = figure.axes
    assert marked(axes, "o") == [[6, 0], [2, 1], [2, 2]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["$W_1$, mass", "1 / coverage", "MMD"]
    assert axes.get_xscale() == "log" and "mine, quark jets: at most 6 (w1_mass)" in alt


def test_several_surrogates_have_markers_of_their_own_that_do_not_lie_on_each_other():
    rows = [distance_table({"w1_mass": 2.0}, name) for name in ("one", "two", "three")]
    figure, _ = figures.fidelity(pd.concat(rows))
    y = [marked(figure.axes[0], marker)[0][1] for marker in ("o", "s", "^")]
    assert y[0] < y[1] < y[2] and abs(y[1]) < 1e-9
    assert all(name in texts(figure) for name in ("one", "two", "three"))


def test_distances_without_a_floor_are_triangles_at_the_edge_and_equal_constants_are_left_out():
    table = distance_table({"w1_mass": 2.0, "w1_efp": 3.0, "fpd": 0.0, "w1_multiplicity": 0.0})
    table.loc[table["metric"].isin(["w1_efp", "w1_multiplicity"]), "floor"] = 0.0
    figure, alt = figures.fidelity(table)
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    assert marked(axes, ">") == [[high, 1]] and marked(axes, "<") == [[low, 2]]
    assert len(axes.get_yticklabels()) == 3 and "at most 2 (w1_mass)" in alt
    pixels(figure)


def test_aucs_are_drawn_as_they_are_and_hollow_where_the_judge_has_not_learned():
    figure, alt = figures.fidelity(verdict_table({"trees": 0.7, "attention": 0.6}))
    (axes,) = figure.axes
    assert marked(axes, "o") == [[0.7, 0], [0.6, 1], [0.7, 2]] and axes.get_xscale() == "linear"
    assert "best judge's AUC 0.70 ± 0.01 (separates)" in alt and "hollow" not in texts(figure)
    figure, alt = figures.fidelity(verdict_table({"trees": 0.51}, "has not learned"))
    faces = {line.get_markerfacecolor() for line in figure.axes[0].get_lines() if line.get_marker() == "o"}
    assert faces == {"white"} and "hollow" in texts(figure) and "(has not learned)" in alt


def test_distances_and_verdicts_are_a_line_of_panels_each_and_classes_a_column():
    table = tables(25)["fidelity"]
    figure, _ = figures.fidelity(table)
    assert len(figure.axes) == 4 and "log_prob" not in texts(figure)
    assert [axes.get_xlabel()[:3] for axes in figure.axes] == ["val", "val", "AUC", "AUC"]
    with pytest.raises(ValueError, match="no row with a floor"):
        figures.fidelity(table[table["floor"].isna()])


# Likelihoods


def test_maps_share_axes_and_colours_and_draw_the_mean():
    table = tables(600)["likelihood_maps"]
    figure, alt = figures.likelihood_maps(table)
    maps, means = figure.axes[:4], table.groupby(["jets", "model"], sort=False)["mean"].first()
    assert [axes.get_title().split("\n")[0] for axes in maps] == [f"{j} jets, {m} model" for j in NAMES for m in NAMES]
    for axes, mean in zip(maps, means, strict=True):
        (mesh,) = axes.collections
        assert mesh.norm is maps[0].collections[0].norm
        assert axes.get_xlim() == maps[0].get_xlim() and axes.get_ylim() == maps[0].get_ylim()
        assert axes.get_lines()[0].get_ydata() == pytest.approx([mean, mean])
    assert f"{means.iloc[2]:.3g}".replace("-", "−") in alt


def test_a_map_shows_the_share_of_each_bin_where_it_lies():
    table = tables(600)["likelihood_maps"]
    figure, _ = figures.likelihood_maps(table)
    bins = table[(table["jets"] == NAMES[0]) & (table["model"] == NAMES[1])]
    fullest = bins.loc[bins["share"].idxmax()]
    mesh = figure.axes[1].collections[0]
    row, column = np.unravel_index(np.argmax(mesh.get_array().filled(0)), mesh.get_array().shape)
    np.testing.assert_allclose(mesh.get_coordinates()[row, column], fullest[["mass_low", "log_prob_low"]].tolist())


def test_a_mean_beyond_the_axis_is_said_in_the_title():
    table = tables(25)["likelihood_maps"].copy()
    table.loc[table["jets"] != table["model"], "mean"] = -1e4
    figure, _ = figures.likelihood_maps(table)
    off = [axes for axes in figure.axes[:4] if "(off the axis)" in axes.get_title()]
    assert len(off) == 2 and not any(axes.get_lines() for axes in off)


def test_odds_are_told_with_what_is_kept_and_gained():
    excess = np.array([-2.0, -1.0, 0.0, 1.0] * 5)
    table = likelihoods.log_odds({"top": excess}, {"top": excess - 1})
    kept = np.mean([np.exp(-3), np.exp(-2), np.exp(-1), 1])
    gain = np.mean([-2, -1, 0, 0]) - np.log(kept)
    np.testing.assert_allclose(table["gain"], gain)
    np.testing.assert_allclose(table.groupby("sample")["kept"].first()["flow"], kept)
    figure, alt = figures.log_odds(table)
    assert f"{100 * kept:.1f} % of the flow's jets are kept" in alt
    assert f"top: {100 * kept:.1f} % kept" in texts(figure)


def test_differences_are_told_as_kl_divergences_with_their_errors():
    table = tables(600)["likelihood_differences"].copy()
    table.loc[table["jets"] == NAMES[0], ["mean", "mean_error", "below"]] = 12.3456, 0.021, 0.0415
    figure, alt = figures.likelihood_differences(table)
    assert "KL(quark ‖ w_boson) = 12.35 ± 0.02 nats; 4.2 % below 0" in texts(figure)
    assert "quark jets have mean 12.35 ± 0.02 nats, with 4.2 % below zero" in alt


def test_llrs_of_the_source_are_points_beside_the_synthetic_histograms():
    table = tables(600)["llr_distributions"]
    alone, _ = figures.llr_distributions(table[table["sample"] == "synthetic"])
    both, alt = figures.llr_distributions(table)
    assert marked(alone.axes[0], "o") == []
    source = table[(table["sample"] == "source") & (table["class"] == NAMES[0]) & (table["density"] > 0)]
    np.testing.assert_allclose([y for _, y in marked(both.axes[0], "o") if y > 0], source["density"])
    mean = f"{source['mean'].iloc[0]:+.3g} (source)".replace("-", "−")
    assert mean in alt


# ROC


def test_a_roc_with_a_limit_has_the_ratio_to_it_and_one_without_has_none():
    with_limit, without = (make(name, tables(600)[name])[0] for name in ("roc", "roc of the source"))
    assert [axes.get_ylabel() for axes in with_limit.axes][1] == "tagger / limit"
    assert len(without.axes) == 1
    assert "counted" in without.axes[0].get_title(loc="left")
    assert "posterior-weighted" in with_limit.axes[0].get_title(loc="left")


def test_curves_are_the_tables_and_counted_points_stand_at_the_working_points():
    table = tables(600)["roc"]
    upper, lower = make("roc", table)[0].axes
    weighted, counted = (table[table["estimate"] == e] for e in (limit.POSTERIOR_WEIGHTED, limit.COUNTED))
    curves = dict(iter(weighted.groupby("tagger", sort=False)))
    for line, name in zip(curves_of(upper.figure), (limit.LIMIT, "pfn", "a_transformer"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), curves[name]["rejection"])
    points = counted[counted["eps_s"].isin((0.3, 0.5))].dropna(subset="rejection")
    shown = [point for marker in figures.MARKERS for point in marked(upper, marker)]
    np.testing.assert_allclose(sorted(shown), sorted(points[["eps_s", "rejection"]].to_numpy().tolist()))
    ratios = [y for marker in figures.MARKERS for _, y in marked(lower, marker)]
    np.testing.assert_allclose(sorted(ratios), sorted(points[points["tagger"] != limit.LIMIT]["ratio"].dropna()))


def test_the_alt_text_of_a_roc_quotes_rejections_and_what_is_not_quoted():
    table = tables(600)["roc"].copy()
    weighted, at = table["estimate"] == limit.POSTERIOR_WEIGHTED, table["eps_s"] == 0.5
    table.loc[weighted & at & (table["tagger"] == "pfn"), ["rejection", "ratio"]] = 12.34, 0.678
    table.loc[weighted & at & (table["tagger"] == limit.LIMIT), "rejection"] = 1234.4
    table.loc[weighted & at & (table["tagger"] == "a_transformer"), "rejection"] = np.nan
    _, alt = make("roc", table)
    assert "At a signal efficiency of 0.5 the rejection is: limit 1234, pfn 12.3 (0.68 of the limit), " in alt
    assert "a_transformer not quoted" in alt and "on toy jets" in alt


def test_a_roc_without_a_quotable_point_says_so():
    table = tables(25)["roc"].copy()
    table[[c for c in table if c.startswith("r")]] = np.nan
    figure, _ = make("roc", table)
    assert "nowhere do 30 background jets survive" in texts(figure)
    pixels(figure)


def test_more_taggers_than_colours_still_look_different():
    one = tables(25)["roc of the source"].query("tagger == 'pfn'")
    figure, _ = make("roc", pd.concat([one.assign(tagger=f"tagger {i}") for i in range(13)]))
    looks = {(line.get_color(), line._dash_pattern[1] and tuple(line._dash_pattern[1])) for line in curves_of(figure)}
    assert len(looks) == 13


def test_a_limit_without_taggers_is_drawn():
    table = tables(25)["roc"].query("tagger == 'limit'")
    figure, alt = make("roc", table)
    assert len(curves_of(figure)) == 1 and ": limit." in alt


# Trick and losses


@pytest.mark.parametrize("n_taggers", [1, 3, 4, 5])
def test_each_tagger_has_a_panel_with_labels_below_each_column(n_taggers):
    one = tables(600)["likelihood_ratio_trick"].query("tagger == 'pfn'")
    table = pd.concat([one.assign(tagger=f"tagger {i}", slope=0.5 + i, correlation=0.25) for i in range(n_taggers)])
    figure, alt = figures.likelihood_ratio_trick(table)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == [f"tagger {i}" for i in range(n_taggers)]
    assert "slope 0.50\ncorrelation 0.25" in texts(figure) and "tagger 0 has slope 0.50 and correlation 0.25" in alt
    columns = min(n_taggers, 2 if n_taggers == 4 else 3)
    for axes in shown[-columns:]:
        assert axes.xaxis.get_tick_params()["labelbottom"]


def test_a_map_of_logits_shows_the_share_of_each_bin_where_it_lies():
    table = tables(600)["logit_maps"]
    figure, alt = figures.logit_maps(table)
    for axes, (name, bins) in zip(figure.axes, table.groupby("tagger", sort=False), strict=False):
        (mesh,) = (m for m in axes.collections if isinstance(m, matplotlib.collections.QuadMesh))
        edges, share = mesh.get_coordinates()[0, :, 0], mesh.get_array().filled(0)
        assert axes.get_title() == name and name in alt and share.sum() == pytest.approx(1)
        row = bins.iloc[bins["share"].argmax()]
        y, x = np.unravel_index(share.argmax(), share.shape)
        assert (edges[x], edges[y]) == (row["llr_low"], row["logit_low"])


def test_the_loss_is_drawn_in_bins_and_a_constant_is_said_in_words():
    table = tables(600)["where"]
    figure, alt = figures.where(table)
    mass, count, _ = figure.axes
    assert "all jets\nhave 30" in texts(figure) and not count.lines
    own = table[(table["tagger"] == "pfn") & (table["quantity"] == "mass")]
    lines = [line.get_ydata() for line in mass.lines if len(line.get_ydata()) == len(own)]
    assert any(np.allclose(line, own["excess"]) for line in lines)
    assert f"of the loss of pfn at mass {own.loc[own['share'].idxmax(), 'low']:.3g}" in alt


def test_the_landscape_has_both_kinds_of_jets_on_one_line_a_tagger():
    table = tables(600)["landscape"]
    figure, alt = figures.landscape(table)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a_transformer", "pfn", "limit"]
    areas = table[table["metric"] == "AUC"].set_index(["sample", "tagger"])["value"]
    synthetic, source = (axes.containers[i].lines[0] for i in (0, 1))
    assert list(synthetic.get_xdata()) == list(areas["synthetic"]) and list(source.get_xdata()) == list(areas["source"])
    assert np.allclose(np.round(synthetic.get_ydata().astype(float)), [2, 1, 0])
    assert f"pfn {areas['source', 'pfn']:.4f} on source jets" in alt


def test_depth_is_drawn_as_excess_and_as_share_of_the_limit():
    table = tables(600)["depth"]
    figure, alt = figures.depth(table)
    excess = table[table["metric"] == "excess cross-entropy, KL"]
    assert (
        list(excess["blocks"]) == [1, 8]
        and marked(figure.axes[0], "o") == excess[["blocks", "value"]].to_numpy().tolist()
    )
    (ratios,) = (axes for axes in figure.axes if "limit" in axes.get_ylabel())
    shares = table[table["metric"] == f"rejection at 0.5, {limit.POSTERIOR_WEIGHTED}"]["ratio"]
    assert [y for _, y in marked(ratios, "o")] == list(shares.dropna())
    assert f"{excess['value'].iloc[0]:.3g} with 1" in alt


def test_the_weights_kept_are_marked_and_late_steps_fill_the_axis():
    table = loss_table(40)
    table.loc[25, "validation"] = 1.05
    figure, alt = figures.losses(pd.concat([table, loss_table(40, "top", level=1.02)]))
    axes = figure.axes[0]
    assert marked(axes, "o") == [[2600.0, 1.05]]
    assert "gluon from 1.919 to 1.1, best 1.05 at step 2600; top" in alt
    low, high = axes.get_ylim()
    assert low < 1.0 and 1.2 < high < 1.8


def test_the_axis_of_losses_holds_the_last_steps_of_every_model():
    levels = (1.0, 5.0, 2.0)
    table = pd.concat([loss_table(40, f"model {level}", level) for level in levels])
    low, high = figures.losses(table)[0].axes[0].get_ylim()
    assert low < min(levels) and high > max(levels) + 0.1


def test_one_validation_is_enough_for_a_figure_of_losses():
    figure, _ = figures.losses(loss_table(1))
    assert len(marked(figure.axes[0], "o")) == 1
    pixels(figure)


# Files


def test_saving_writes_four_files_and_the_same_bytes_each_time(tmp_path):
    table = tables(25)["likelihood_differences"]
    for folder in ("first", "second"):
        saved.make(tmp_path / folder, "kl", figures.likelihood_differences, table, "Same-jet differences.")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["kl.csv", "kl.json", "kl.pdf", "kl.png"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    figure, alt = figures.likelihood_differences(table)
    about = {"alt": alt, "caption": "Same-jet differences.", "draw": "likelihood_differences", "options": {}}
    assert json.loads((tmp_path / "first/kl.json").read_text()) == about
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "first/kl.csv"), table, rtol=1e-15)
    with Image.open(tmp_path / "first/kl.png") as image:
        assert image.width == round(150 * figure.get_figwidth())
    assert b"CreationDate" not in (tmp_path / "first/kl.pdf").read_bytes()


def test_saved_figures_call_taggers_as_the_field_does_and_their_tables_as_the_set_does(tmp_path):
    table = tables(25)["likelihood_ratio_trick"]
    saved.make(tmp_path, "trick", figures.likelihood_ratio_trick, table, "")
    assert {"pfn", "a_transformer"} <= set(pd.read_csv(tmp_path / "trick.csv")["tagger"])
    drawn = (tmp_path / "trick.png").read_bytes()
    alt = json.loads((tmp_path / "trick.json").read_text())["alt"]
    assert "PFN has slope" in alt and "a_transformer has slope" in alt and "pfn" not in alt
    saved.redraw(tmp_path, "trick")
    assert (tmp_path / "trick.png").read_bytes() == drawn


def test_what_partial_diffusion_leaves_is_told_in_numbers():
    times = np.array([0.1, 0.5, 1.0])
    lines = [
        pd.DataFrame({"t": times, "observable": name, "correlation": 1 - times**power, "correlation_error": 0.01})
        for name, power in (("mass", 1), ("tau21", 0.5))
    ]
    table = pd.concat(lines).assign(shift=0.25, shift_error=0.02)
    figure, alt = figures.resampled(table)
    assert "mass below 0.5 from t = 1 on, shift at the last t +0.25; tau21 below 0.5 from t = 0.5 on" in alt
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mass", r"$\tau_{21}$"]
    pixels(figure)
    table.loc[table["observable"] == "tau21", ["correlation", "shift"]] = np.nan  # of jets of two particles
    assert "t +0.25; tau21 is the same in all jets." in figures.resampled(table)[1]


def test_all_figures_of_a_folder_are_shown_in_the_order_of_their_names(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(report, "show", lambda folder, name: shown.append((folder, name)))
    for file in ("roc.png", "losses.png", "losses.csv", "gap.csv"):
        (tmp_path / file).touch()
    report.show_all(tmp_path)
    assert shown == [(tmp_path, "losses"), (tmp_path, "roc")]
    shown.clear()
    report.show_all(tmp_path, "roc", "not there")
    assert shown == [(tmp_path, "roc"), (tmp_path, "losses")]


def test_the_table_of_fidelity_names_the_best_judge():
    line = {"surrogate": "seed 1", "class": "top", "value": 0.6, "uncertainty": 0.01, "floor": 0.5}
    line |= {"floor_uncertainty": 0.01, "jets": 100, "judge": "lorentznet", "verdict": "separates"}
    words = report.fidelity(pd.DataFrame([line | {"metric": f"auc_{name}"} for name in ("lorentznet", "best")])).data
    assert "AUC of the judge LorentzNet" in words and "AUC of the best judge, LorentzNet" in words
