from io import StringIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstudy import figures, learning, report
from jetstudy.limit import KL, PAIRED, gap

JETS = np.array([1e3, 3e3, 1e4, 3e4, 1e5])


def exact(a, b, c=0.0, n=JETS):
    return n, c + a * n**-b, 0.01 * a * n**-b


@settings(deadline=None, max_examples=25)
@given(st.floats(0.1, 100), st.floats(0.1, 2.0))
def test_an_exact_power_law_comes_back(a, b):
    fit = learning.power_law(*exact(a, b))
    assert (fit.a, fit.b, fit.c, fit.dof) == (pytest.approx(a, rel=1e-8), pytest.approx(b, rel=1e-8), 0, 3)
    assert fit.chi2 < 1e-10
    np.testing.assert_allclose(fit(JETS), exact(a, b)[1], rtol=1e-8)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.1, 100), st.floats(0.1, 2.0), st.floats(-1, 1))
def test_an_exact_power_law_with_a_floor_comes_back(a, b, c):
    fit = learning.with_floor(*exact(a, b, c))
    scale = a * 1e3**-b
    assert abs(fit.c - c) < 1e-4 * scale and fit.b == pytest.approx(b, rel=1e-3) and fit.a == pytest.approx(a, rel=1e-2)


def test_two_points_determine_a_power_law_and_their_errors_its_exponent():
    fit = learning.power_law([100, 10000], [1.0, 0.1], [0.02, 0.001])
    assert fit.b == pytest.approx(0.5) and fit.a == pytest.approx(10) and fit.dof == 0
    assert fit.b_uncertainty == pytest.approx(np.hypot(0.02, 0.01) / np.log(100))


def test_points_that_scatter_more_than_their_errors_enlarge_those_of_the_fit():
    n, value, error = exact(3.0, 0.5)
    off = value * np.array([1.1, 0.9, 1.1, 0.9, 1.1])
    narrow, wide = (learning.power_law(n, off, scale * error) for scale in (1, 0.1))
    assert wide.chi2 == pytest.approx(100 * narrow.chi2) and narrow.chi2 > narrow.dof
    assert wide.b_uncertainty == pytest.approx(narrow.b_uncertainty)


@pytest.mark.parametrize("fit, c", [(learning.power_law, 0.0), (learning.with_floor, 0.3)])
def test_errors_cover_the_truth(fit, c):
    """Pulls of 400 noisy curves; errors are only ever enlarged, so 73 and 96.6 % are expected within one and two."""
    generator = np.random.default_rng(1)
    n, truth, error = exact(3.0, 0.5, c)
    pulls = []
    for _ in range(400):
        found = fit(n, truth + error * generator.standard_normal(len(n)), error)
        pulls.append([(found.b - 0.5) / found.b_uncertainty, (found.c - c) / max(found.c_uncertainty, 1e-300)])
    pulls = np.array(pulls)
    assert (np.abs(pulls) < 2).mean(0) == pytest.approx([0.966, 0.966 if c else 1.0], abs=0.03)
    assert (np.abs(pulls[:, 0]) < 1).mean() == pytest.approx(0.73, abs=0.06)


def test_points_on_a_level_do_not_determine_an_exponent():
    fit = learning.with_floor(JETS, np.full(5, 0.3), np.full(5, 0.01))
    assert fit.c == pytest.approx(0.3) or np.isinf(fit.c_uncertainty)
    assert np.isinf(fit.b_uncertainty)


@pytest.mark.parametrize(
    "points, complaint",
    [
        (([10], [1.0], [0.1]), "this fit needs 2"),
        (([10, 100], [1.0, -0.1], [0.1, 0.1]), "value -0.1"),
        (([10, 100], [1.0, np.nan], [0.1, 0.1]), "finite"),
        (([10, 100], [1.0, 0.1], [0.1, 0.0]), "expected positive"),
        (([10, 100], [1.0, 0.1, 0.2], [0.1, 0.1]), "equal vectors"),
        (([0, 100], [1.0, 0.1], [0.1, 0.1]), "positive n"),
    ],
)
def test_bad_points_are_refused(points, complaint):
    with pytest.raises(ValueError, match=complaint):
        learning.power_law(*points)


def test_a_floor_needs_four_sizes():
    with pytest.raises(ValueError, match="3 different n: this fit needs 4"):
        learning.with_floor(JETS[:3], [3.0, 2.0, 1.0], [0.1] * 3)


# training jets


def test_smaller_samples_lie_in_larger_ones_and_classes_are_equal():
    label = np.repeat([0, 1], [50, 70])
    small, large = learning.nested(label, 20), learning.nested(label, 100)
    assert set(small) < set(large) and label[small].mean() == label[large].mean() == 0.5
    assert list(small[:3]) == [0, 1, 2] and list(small[10:13]) == [50, 51, 52]


@pytest.mark.parametrize("n", [0, 7, 102])
def test_sizes_that_are_odd_or_not_there_are_refused(n):
    with pytest.raises(ValueError, match=f"{n} training jets: expected an even number from 2 to 100"):
        learning.nested(np.repeat([0, 1], [50, 70]), n)


def test_trainings_are_on_nested_labels_then_posterior_then_fresh_jets_beside_a_short_one_then_larger():
    label = np.repeat([0.0, 1.0], [6, 8])
    training = np.arange(14), -np.arange(14), label
    posterior, fresh = np.array([0.2, 0.4, 0.6, 0.8]), ("x", "mask", np.zeros(640))
    found = learning.targets(training, [8, 2], posterior, fresh, larger=True)
    on_labels, others = [("labels", n) for n in (2, 4, 8)], [("posterior", 4), ("labels, short", 8), ("fresh", 640)]
    assert list(found) == [*on_labels, *others, ("labels, larger", 8)]
    for n in (2, 4, 8):
        index = np.r_[0 : n // 2, 6 : 6 + n // 2]
        for values, expected in zip(found["labels", n], training, strict=True):
            np.testing.assert_array_equal(values, expected[index])
    np.testing.assert_array_equal(found["posterior", 4][0], found["labels", 4][0])
    assert found["posterior", 4][2] is posterior and found["fresh", 640] is fresh
    assert found["labels, larger", 8] is found["labels, short", 8] is found["labels", 8]
    assert list(learning.targets(training, [8, 2])) == [("labels", 2), ("labels", 8)]


def test_trainings_are_measured_sample_by_sample_with_one_generator():
    rng, label = np.random.default_rng(0), np.repeat([0, 1], 40)
    llr = rng.normal(2 * label - 1, 1.4)
    logits = {name: llr + rng.normal(size=80) for name in ("labels 40", "posterior 40")}
    about = {name: {"learner": "pfn", "target": name.split()[0], "jets": 40} for name in logits}
    few = {"labels 40": logits["labels 40"]}
    samples = {"test": (logits, label, llr), "training": (few, label, 2 * llr)}
    table, again = learning.measured(samples, about, np.random.default_rng(1), 20), np.random.default_rng(1)
    merit = [gap(*samples[name][:2], again, samples[name][2], name, 20) for name in samples]
    pd.testing.assert_frame_equal(table, learning.named(pd.concat(merit, ignore_index=True), about))
    assert table.groupby("sample")["target"].nunique().to_dict() == {"test": 2, "training": 1}


# tables


def study_table(excess=lambda n: 3 * n**-0.5, floor=0.2, target="labels", learner="pfn", jets=JETS):
    """Rows as notebook 07 writes them, with a rejection of limit / (1 + 10 excess)."""
    rows = []
    for n in jets:
        e = excess(n)
        common = {"learner": learner, "target": target, "jets": int(n), "sample": "test", "survivors": 1000}
        common |= {"steps": 100, "kept": 80}
        figures = {
            KL: (e, 0.02 * e, 0.0),
            PAIRED: (e, 0.05 * e, 0.0),
            "cross-entropy": (floor + e, 0.01, floor),
        }
        figures |= {metric: (100 / (1 + 10 * e), 5.0, 100.0) for metric in learning.REJECTIONS.values()}
        for metric, (value, uncertainty, limit) in figures.items():
            ratio = value / limit if limit else np.nan
            known = {"value": value, "uncertainty": uncertainty, "limit": limit}
            rows.append(common | {"metric": metric} | known | {"ratio": ratio, "ratio_uncertainty": 0.03 * ratio})
    return pd.DataFrame(rows)


def test_fits_find_the_floor_that_they_are_not_told():
    found = learning.fits(pd.concat([study_table(), study_table(learner="lorentznet", excess=lambda n: n**-0.3)]))
    assert list(dict.fromkeys(found["learner"])) == ["pfn", "lorentznet"]
    rows = found.set_index(["learner", "quantity"])
    assert rows.loc[("pfn", "excess"), ["a", "b", "floor"]].tolist() == pytest.approx([3, 0.5, 0])
    assert rows.loc[("lorentznet", "excess"), "b"] == pytest.approx(0.3)
    blind = rows.loc[("pfn", "cross-entropy")]
    assert blind["floor"] == pytest.approx(0.2, abs=1e-5) and blind["true_floor"] == 0.2
    assert 1e-4 < blind["floor_uncertainty"] < 0.01  # that of the paired difference, not of the cross-entropy
    assert rows.loc[("pfn", "limit's rejection / own, at 0.3"), "floor"] == pytest.approx(1, abs=1e-3)


def test_the_error_of_one_over_a_ratio_is_relative():
    table = study_table(lambda n: 3 * n**-0.5 + 0.01 * np.sin(n))
    metric = learning.REJECTIONS[0.5]
    rows = table[table["metric"] == metric]
    known = learning.with_floor(rows["jets"], 1 / rows["ratio"], 0.03 / rows["ratio"])  # 3 % of either
    row = learning.fits(table).set_index("quantity").loc["limit's rejection / own, at 0.5"]
    assert (row["floor"], row["floor_uncertainty"]) == pytest.approx((known.c, known.c_uncertainty))


def test_fits_without_points_enough_are_left_out():
    found = learning.fits(study_table(jets=JETS[:2]))
    assert found["quantity"].tolist() == ["excess"]
    assert learning.fits(study_table(jets=JETS[:1])).empty
    assert learning.fits(study_table(target="posterior")).empty


def seeded(*tables):
    return pd.concat([table.assign(seed=seed) for seed, table in enumerate(tables)], ignore_index=True)


def test_laws_are_fitted_seed_by_seed_so_that_what_a_seed_shifts_as_a_whole_is_no_scatter():
    laws = learning.fits(seeded(study_table(), study_table(lambda n: 6 * n**-0.5)))
    assert laws["seed"].nunique() == 2 and (laws["chi2"] < 1e-6).all()
    both = learning.combined(laws).set_index("quantity")
    assert both.loc["excess", ["a", "b"]].tolist() == pytest.approx([4.5, 0.5])
    assert both["points"].dtype.kind == "i" and both.loc["excess", "points"] == 5
    assert both.loc["excess", "a_uncertainty"] == pytest.approx(1.5)  # of the mean of 3 and 6
    single = laws[laws["quantity"] == "excess"]["b_uncertainty"].iloc[0]
    assert both.loc["excess", "b_uncertainty"] == pytest.approx(single / np.sqrt(2))
    assert both.loc["cross-entropy", "floor"] == pytest.approx(0.2, abs=1e-4) and both.loc["excess", "dof"] == 6
    alone = learning.combined(learning.fits(study_table()))
    pd.testing.assert_frame_equal(alone, learning.fits(study_table()))


def test_what_one_seed_does_not_determine_is_not_determined_and_what_it_lacks_left_out():
    level = study_table()
    level.loc[level["metric"] == "cross-entropy", "value"] = 0.3
    both = learning.combined(learning.fits(seeded(study_table(), level))).set_index("quantity")
    assert np.isinf(both.loc["cross-entropy", "b_uncertainty"])
    fewer = learning.combined(learning.fits(seeded(study_table(), study_table(jets=JETS[:3]))))
    assert fewer["quantity"].tolist() == ["excess"]


def test_the_mean_over_seeds_has_the_larger_of_two_uncertainties():
    one = study_table(jets=JETS[:1])
    assert learning.over_seeds(one)["value"].tolist() == one["value"].tolist()
    assert learning.over_seeds(seeded(one))["value"].tolist() == one["value"].tolist()
    same = learning.over_seeds(seeded(one, one)).set_index("metric")["uncertainty"]
    np.testing.assert_allclose(same, one["uncertainty"] / np.sqrt(2))
    apart = learning.over_seeds(seeded(one, one.assign(value=one["value"] + 2.0)))
    np.testing.assert_allclose(apart["value"], one["value"] + 1)
    assert apart.set_index("metric").loc[KL, "uncertainty"] == pytest.approx(1.0)


def scattered(generator, relative=0.1, **options):
    """A study's table with one more scatter, that of a training, on excess and ratio."""
    table = study_table(**options)
    n = table["jets"].rank(method="dense").astype(int).to_numpy() - 1
    of_loss, of_ratio = 1 + relative * generator.standard_normal((2, len(JETS)))
    excess = table["value"] - table["limit"].where(table["ratio"].isna() | (table["metric"] == "cross-entropy"), 0.0)
    loss = table["metric"].isin([KL, PAIRED, "cross-entropy"])
    table["value"] += np.where(loss, excess * (of_loss[n] - 1), 0.0)
    return table.assign(ratio=table["ratio"] * of_ratio[n])


def test_trainings_of_one_kind_are_one_point_whose_error_holds_their_scatter():
    generator = np.random.default_rng(3)
    parts = [scattered(generator, learner=name).assign(seed=s) for s in range(20) for name in ("pfn", "pfn.2", "pfn.3")]
    every = pd.concat(parts, ignore_index=True)
    found = learning.over_trainings(every)
    assert set(found["learner"]) == {"pfn"} and len(found) == len(every) / 3
    rows = found[found["metric"] == KL]
    alike = every[every["metric"] == KL].groupby(["seed", "jets"], sort=False)["value"].mean()
    np.testing.assert_allclose(rows["value"], alike)
    expected = np.hypot(0.02, 0.1 / np.sqrt(3))  # test jets, and trainings of which each lies 10 % off
    np.testing.assert_allclose(rows["uncertainty"] / rows["value"], expected, rtol=0.15)
    of_ratio = found[found["metric"] == learning.REJECTIONS[0.5]]
    np.testing.assert_allclose(
        of_ratio["ratio_uncertainty"] / of_ratio["ratio"], np.hypot(0.03, 0.1 / 3**0.5), rtol=0.15
    )
    loss, paired = (found[found["metric"] == name] for name in ("cross-entropy", PAIRED))
    known = [np.hypot(0.01, 0.0577 * rows["value"]), np.hypot(0.05, 0.0577) * rows["value"]]
    np.testing.assert_allclose(loss["uncertainty"], known[0], rtol=0.15)  # of the distance from the limit
    np.testing.assert_allclose(paired["uncertainty"], known[1], rtol=0.15)
    laws = learning.fits(every)
    of_excess = laws[laws["quantity"] == "excess"]
    assert 0.5 < of_excess["chi2"].mean() / of_excess["dof"].mean() < 1.5


def test_a_single_training_beside_several_scatters_as_each_of_these_does():
    generator = np.random.default_rng(4)
    several = [scattered(generator, learner=f"pfn.{k}").assign(seed=s) for s in range(40) for k in (1, 2)]
    every = pd.concat([*several, scattered(generator).assign(seed=40)], ignore_index=True)
    every.loc[every.index[0], "value"] = np.nan  # of one of two trainings: the other stands alone
    found = learning.over_trainings(every)
    rows = found[found["metric"] == KL]
    relative = rows["uncertainty"] / rows["value"]
    np.testing.assert_allclose(relative[rows["seed"] == 40], np.hypot(0.02, 0.1), rtol=0.15)
    assert relative.iloc[0] == pytest.approx(np.hypot(0.02, 0.1), rel=0.15)
    np.testing.assert_allclose(relative[rows["seed"].between(1, 39)], np.hypot(0.02, 0.1 / 2**0.5), rtol=0.15)


def test_single_trainings_are_left_as_they_are():
    table = pd.concat([study_table(), study_table(learner="lorentznet.2", excess=lambda n: n**-0.3)])
    found = learning.over_trainings(table)
    assert list(dict.fromkeys(found["learner"])) == ["pfn", "lorentznet"]
    for name in ("value", "uncertainty", "ratio", "ratio_uncertainty"):
        np.testing.assert_array_equal(found[name], table[name])
    pd.testing.assert_frame_equal(learning.over_trainings(found), found)


def test_a_figure_that_one_seed_cannot_quote_is_the_others():
    one, other = study_table(jets=JETS[:1]), study_table(jets=JETS[:1])
    other.loc[:, ["value", "uncertainty"]] = np.nan
    both = learning.over_seeds(seeded(one, other))
    np.testing.assert_allclose(both["value"], one["value"])
    np.testing.assert_allclose(both["uncertainty"], one["uncertainty"])
    apart = one.assign(value=one["value"] + 2.0)
    three = learning.over_seeds(seeded(one, other, apart))
    pd.testing.assert_series_equal(three["uncertainty"], learning.over_seeds(seeded(one, apart))["uncertainty"])


# figures


def drawn_from(table):
    """Each training on labels also on its own jets, the posterior and fresh jets beside them."""
    n = [10_000]
    others = [
        study_table(jets=n).assign(sample="training"),
        study_table(lambda n: n**-0.5, target="posterior", jets=n),
        study_table(lambda n: 4 * n**-0.5, target="labels, short", jets=JETS[-1:]),
        study_table(lambda n: n**-0.5, target="fresh", jets=[200_000]),
        study_table(lambda n: 2 * n**-0.5, target="labels, larger", jets=JETS[-1:]),
    ]
    return pd.concat([table, *others], ignore_index=True)


@pytest.mark.parametrize("draw", [figures.learning_curves, figures.extrapolation, figures.targets])
def test_a_table_and_its_csv_give_the_same_figure(draw):
    table = drawn_from(study_table())
    _, alt = draw(table)
    _, again = draw(pd.read_csv(StringIO(table.to_csv(index=False))))
    assert alt == again and 60 < len(alt) < 1000 and "nan" not in alt


def test_a_learning_curve_has_its_points_on_its_power_law():
    figure, alt = figures.learning_curves(drawn_from(study_table()))
    points, line = (figure.axes[0].get_lines()[k] for k in (0, -1))
    assert points.get_xdata().tolist() == JETS.tolist()
    np.testing.assert_allclose(line.get_ydata(), 3 * line.get_xdata() ** -0.5, rtol=1e-6)
    assert "b = 0.500" in alt


def test_the_line_of_several_seeds_is_the_mean_of_their_laws():
    figure, _ = figures.learning_curves(seeded(study_table(), study_table(lambda n: 6 * n**-0.5)))
    line = figure.axes[0].get_lines()[-1]
    np.testing.assert_allclose(line.get_ydata(), 4.5 * line.get_xdata() ** -0.5, rtol=1e-6)


def test_one_size_makes_a_point_and_no_line():
    figure, alt = figures.learning_curves(study_table(jets=JETS[:1]))
    assert "b =" not in alt and len(figure.axes[0].get_lines()[0].get_xdata()) == 1


def test_targets_are_ordered_by_jets_and_labels_of_other_sizes_left_out():
    figure, _ = figures.targets(drawn_from(study_table()))
    words = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    few, most = ["labels, 10,000 jets", "posterior, 10,000 jets"], "100,000 jets"
    on_most = [f"{target}, {most}" for target in ("labels", "labels, short", "labels, larger")]
    assert words == [*few, *on_most, "fresh, 200,000 jets"]


def test_the_blind_floor_stands_beside_the_true_one():
    figure, alt = figures.extrapolation(study_table())
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_label().startswith("true floor")]
    assert set(line.get_ydata()) == {0.2}
    assert "pfn c = 0.200" in alt and "is 0.2000" in alt
    with pytest.raises(ValueError, match="no network"):
        figures.extrapolation(study_table(jets=JETS[:3]))


# tables of the report


def test_the_report_says_what_a_fit_did_not_determine():
    level = study_table()
    level.loc[level["metric"] == "cross-entropy", "value"] = 0.3
    for table, word in ((study_table(), "0.2000"), (level, "not determined")):
        page = report.fits(learning.fits(table)).data
        assert word in page and "inf" not in page and "nan" not in page


def test_the_report_has_a_line_for_each_training():
    page = report.learning(drawn_from(study_table())).data
    assert page.count("<tr>") == 1 + 5 + 4
    assert page.count("0.03000 ± 0.00060") == 2 and "200000" in page  # on test and on training jets
