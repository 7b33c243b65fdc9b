import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jetstudy import fidelity
from jetstudy.jets import arrange
from jetstudy.sources import draw

CLASSES = ("quark", "w")


def toy_jets(n_jets, seed, label="gluon", n_max=8):
    return draw("toy", label, n_jets, n_max, seed, ("gluon", "top"))


def jets_of(particles, mask=None):
    """Jets from (n, N, 3) particles."""
    particles = np.asarray(particles, dtype=np.float64)
    mask = np.ones(particles.shape[:2], bool) if mask is None else mask
    return arrange(particles, mask, np.ones((len(particles), 4)))


# Observables and bins


def test_observables_of_particles_leave_out_the_padding_and_know_their_jet():
    mask = np.array([[True, False], [True, True]])
    jets = jets_of([[[0.1, 0.2, 0.5], [9, 9, 9]], [[0.3, -0.2, 0.25], [-0.5, 0.4, 0.125]]], mask)
    values, jet = fidelity.observable(jets, "etarel")
    np.testing.assert_allclose(values, [0.1, 0.3, -0.5], rtol=1e-6)
    assert jet.tolist() == [0, 1, 1]
    np.testing.assert_allclose(fidelity.observable(jets, "phirel")[0], [0.2, -0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(fidelity.observable(jets, "ptrel")[0], [0.5, 0.25, 0.125])
    np.testing.assert_allclose(fidelity.observable(jets, "ptrel_sum")[0], [0.5, 0.375])
    assert fidelity.observable(jets, "multiplicity")[0].tolist() == [1, 2]
    assert fidelity.observable(jets, "mass")[0][0] == pytest.approx(0, abs=1e-9)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=50), st.integers(1, 40))
def test_bins_of_multiplicity_hold_equally_many_whole_numbers_and_leave_no_bin_without_reach(counts, n_bins):
    counts = np.array(counts, dtype=float)
    bins = fidelity.edges(counts, "multiplicity", n_bins)
    low, high = np.floor(np.quantile(counts, 0.001)), np.ceil(np.quantile(counts, 0.999))
    steps = np.diff(bins)
    assert np.all(bins % 1 == 0.5) and np.all(steps == steps[0])
    assert bins[0] < low and bins[-1] > high and bins[-2] < high
    assert len(steps) <= n_bins


def test_a_constant_multiplicity_has_one_bin_of_width_one():
    assert fidelity.edges(np.full(100, 30.0), "multiplicity").tolist() == [29.5, 30.5]


@pytest.mark.parametrize("name", ["etarel", "ptrel", "mass"])
@pytest.mark.parametrize("constant", [0.25, 1.0])
def test_bins_of_a_constant_have_a_width_and_hold_it(name, constant):
    bins = fidelity.edges(np.full(10, constant), name, 7)
    assert len(bins) == 8 and np.all(np.diff(bins) > 0)
    assert bins[0] < constant < bins[-1]


def test_bins_of_angles_are_symmetric_and_those_of_ptrel_logarithmic():
    values = np.random.default_rng(0).lognormal(size=1000)
    angles = fidelity.edges(values, "phirel", 10)
    np.testing.assert_allclose(angles, -angles[::-1], atol=1e-12)
    np.testing.assert_allclose(np.diff(np.log(fidelity.edges(values, "ptrel", 10)), 2), 0, atol=1e-12)


# Densities and their errors


@settings(max_examples=50, deadline=None)
@given(arrays(float, st.integers(2, 60), elements=st.floats(-1, 1)), st.integers(1, 12))
@example(np.array([1.0, -1.0, 0.5]), 4)
def test_densities_agree_with_numpy_where_all_values_are_inside(values, n_bins):
    bins = np.linspace(-1, 1, n_bins + 1)
    height, error = fidelity.density(values, np.arange(len(values)), len(values), bins)
    np.testing.assert_allclose(height, np.histogram(values, bins, density=True)[0], atol=1e-12)
    p = height * np.diff(bins)
    np.testing.assert_allclose(error * np.diff(bins), np.sqrt(p * (1 - p) / len(values)), atol=1e-12)


def test_values_beyond_the_bins_count_in_the_normalisation():
    values = np.array([-5.0, 0.25, 0.75, 5.0])
    height, _ = fidelity.density(values, np.arange(4), 4, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(height, [0.5, 0.5])


def test_errors_allow_for_particles_of_one_jet_being_correlated():
    """Jets of one to five identical particles: errors of independent particles would be too small by about two."""
    rng = np.random.default_rng(1)
    bins = np.linspace(0, 1, 6)
    pulls = []
    for _ in range(300):
        count = rng.integers(1, 6, size=200)
        jet = np.repeat(np.arange(200), count)
        height, error = fidelity.density(rng.random(200)[jet], jet, 200, bins)
        pulls.append((height - 1) / error)
    pulls = np.array(pulls)
    assert np.abs(pulls.mean(axis=0)).max() < 4 / np.sqrt(300) + 0.1
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.15)


# Tables of observables


def test_histograms_have_the_columns_and_cover_the_central_998_per_mille():
    source = {"gluon": toy_jets(2000, 1), "top": toy_jets(2000, 1, "top")}
    table = fidelity.observables(source, source)
    columns = ["class", "observable", "low", "high", "source", "source_error", "synthetic", "synthetic_error"]
    assert list(table.columns) == columns
    assert list(dict.fromkeys(table["observable"])) == list(fidelity.OBSERVABLES)
    np.testing.assert_array_equal(table["source"], table["synthetic"])
    share = (table["source"] * (table["high"] - table["low"])).groupby([table["class"], table["observable"]]).sum()
    assert len(share) == 12 and share.between(0.997, 1 + 1e-9).all()


def test_spectra_of_classes_share_their_bins():
    jets = {"gluon": toy_jets(2000, 1), "top": toy_jets(900, 2, "top"), "again": toy_jets(2000, 1)}
    table = fidelity.spectra(jets)
    assert list(table.columns) == ["observable", "class", "low", "high", "density", "error"]
    share = (table["density"] * (table["high"] - table["low"])).groupby([table["class"], table["observable"]]).sum()
    assert len(share) == 18 and share.between(0.99, 1 + 1e-9).all()
    gluon, top, again = (table[table["class"] == name].drop(columns="class").reset_index(drop=True) for name in jets)
    pd.testing.assert_frame_equal(gluon, again)
    pd.testing.assert_frame_equal(gluon[["low", "high"]], top[["low", "high"]])
    assert not np.allclose(gluon["density"], top["density"])


def test_pairs_are_means_of_a_jet_with_their_errors():
    """One pair of mass 2e-4 in three of four source jets, none in the synthetic ones."""
    particles = np.zeros((4, 2, 3))
    particles[..., 2], particles[:3, 1, 0] = 0.04, 0.005
    particles[3, 1, 0] = 0.5
    table = fidelity.pairs(jets_of(particles), jets_of(particles[[3, 3]]))
    where = (table["low"] < 2e-4) & (2e-4 < table["high"])
    assert where.sum() == 1 and len(table) == 30
    assert table.loc[where, ["source", "synthetic", "synthetic_error"]].to_numpy().tolist() == [[0.75, 0, 0]]
    assert table.loc[where, "source_error"].item() == pytest.approx(np.sqrt(0.75 * 0.25 / 3))
    assert (table.loc[~where, ["source", "synthetic"]] == 0).all(axis=None)


def test_few_jets_get_few_bins():
    few, many = ({"gluon": toy_jets(n, 1)} for n in (49, 2000))
    bins = [fidelity.observables(jets, jets).query("observable == 'mass'") for jets in (few, many)]
    assert [len(b) for b in bins] == [7, 40]


def test_one_multiplicity_gives_one_bin_of_density_one():
    particles = np.random.default_rng(0).uniform(0.1, 0.2, size=(50, 30, 3))
    jets = {"gluon": jets_of(particles)}
    table = fidelity.observables(jets, jets).query("observable == 'multiplicity'")
    assert table[["low", "high", "source", "source_error"]].to_numpy().tolist() == [[29.5, 30.5, 1.0, 0.0]]


def test_a_class_without_synthetic_jets_is_a_key_error():
    source = {"gluon": toy_jets(20, 1)}
    with pytest.raises(KeyError, match="gluon"):
        fidelity.observables(source, {})
    with pytest.raises(KeyError, match="gluon"):
        fidelity.distances(source, {}, np.random.default_rng(0))


# Distances between samples


def gaussian(n, mean, std, seed, correlated=False):
    """(n, k) draws whose sample mean and covariance are exactly those asked for."""
    x = np.random.default_rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T * std
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(len(mean), len(mean))))[0]
    return mean + (x @ turn if correlated else x)


@pytest.mark.parametrize("correlated", [False, True])
def test_the_frechet_distance_of_gaussians_has_a_closed_form(correlated):
    """Covariances with the same axes: sum of (mean difference)² + (difference of standard deviations)²."""
    first = gaussian(300, [0, 1, 2], np.array([1.0, 2.0, 0.5]), 1, correlated)
    second = gaussian(400, [0.5, 1, 1], np.array([1.5, 1.0, 0.5]), 2, correlated)
    assert fidelity.frechet_distance(first, second) == pytest.approx(0.5**2 + 1 + 0.5**2 + 1, rel=1e-9)
    assert fidelity.frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_copes_with_features_that_are_constant_or_equal():
    x = np.random.default_rng(0).normal(size=(100, 1))
    features = np.column_stack([x, x, np.ones(100)])
    assert fidelity.frechet_distance(features, features + np.array([1, 1, 0])) == pytest.approx(2)


def test_the_frechet_physics_distance_takes_the_bias_of_finite_samples_away():
    rng = np.random.default_rng(0)
    raw, extrapolated, shifted = [], [], []
    for _ in range(10):
        first, second = rng.normal(size=(2, 300, 10))
        raw.append(fidelity.frechet_distance(first, second))
        extrapolated.append(fidelity.frechet_physics_distance(first, second, rng))
        shifted.append(fidelity.frechet_physics_distance(first, second + 0.5, rng))
    assert np.mean(extrapolated) < 0.3 * np.mean(raw)
    assert abs(np.mean(shifted) - 10 * 0.5**2) < 4 * np.std(shifted, ddof=1) / np.sqrt(10)


def one_particle(eta, ptrel):
    return jets_of([[[e, 0.0, pt], [9.0, 9.0, 9.0]] for e, pt in zip(eta, ptrel, strict=True)], [[True, False]] * 2)


def test_the_energy_movers_distance_by_hand():
    first, second = one_particle([0.0, 0.3], [0.5, 0.5]), one_particle([0.2, 0.3], [0.5, 0.25])
    expected = [[0.5 * 0.2, 0.25 * 0.3 + 0.25], [0.5 * 0.1, 0.25]]
    np.testing.assert_allclose(fidelity.energy_movers_distance(first, second), expected, rtol=1e-6)
    np.testing.assert_allclose(fidelity.energy_movers_distance(second, first), np.transpose(expected), rtol=1e-6)


def test_splitting_a_particle_is_no_work_for_the_energy_mover():
    whole, split = jets_of([[[0.1, 0.2, 0.5]]]), jets_of([[[0.1, 0.2, 0.25], [0.1, 0.2, 0.25]]])
    assert fidelity.energy_movers_distance(whole, split) == pytest.approx(0, abs=1e-9)


def test_jets_cover_themselves_and_copies_of_one_jet_cover_that_jet_alone():
    jets = toy_jets(20, 1)
    assert fidelity.coverage_and_mmd(jets, jets) == pytest.approx((1, 0), abs=1e-9)
    copies = jets[np.zeros(20, int)]
    coverage, mmd = fidelity.coverage_and_mmd(jets, copies)
    assert coverage == 1 / 20 and mmd > 0
    assert fidelity.coverage_and_mmd(copies, jets)[1] == pytest.approx(
        fidelity.energy_movers_distance(jets, copies).min()
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: fidelity.coverage_and_mmd(toy_jets(3, 1), toy_jets(2, 1)), "3 source and 2 synthetic"),
        (lambda: fidelity.frechet_physics_distance(np.ones((5, 2)), np.ones((4, 2)), None), r"\(5, 2\) and \(4, 2\)"),
    ],
)
def test_metrics_that_depend_on_the_number_of_jets_want_equal_numbers(function, message):
    with pytest.raises(ValueError, match=message):
        function()


# The table of distances


def table_of(source, synthetic, generator, **settings):
    """Distances of gluon jets by metric, with few matched jets, which take most of the time."""
    settings = {"n_splits": 2, "n_matched": 10} | settings
    table = fidelity.distances({"gluon": source}, {"gluon": synthetic}, np.random.default_rng(generator), **settings)
    return table.set_index("metric")


def test_the_table_has_a_row_for_each_class_and_metric():
    jets = {name: toy_jets(250, 1, name) for name in ("gluon", "top")}
    table = fidelity.distances(jets, jets, np.random.default_rng(0), "mine", n_splits=2, n_matched=5)
    columns = ["surrogate", "class", "metric", "value", "uncertainty", "floor", "floor_uncertainty", "jets"]
    assert list(table.columns) == columns
    metrics = [*(f"w1_{kind}" for kind in fidelity.OBSERVABLES), "w1_efp", "fpd", "coverage", "mmd"]
    assert table["metric"].tolist() == 2 * metrics
    assert set(table["surrogate"]) == {"mine"} and np.isfinite(table[columns[3:]]).all(axis=None)
    assert table["jets"].tolist() == 2 * (8 * [125] + 2 * [5])


def test_w1_of_shifted_jets_is_the_shift_and_the_floor_of_equal_jets_is_zero():
    same = np.full((20, 2, 3), 0.25)
    table = table_of(jets_of(same), jets_of(same + np.array([0.125, -0.5, 0.25])), 0)
    expected = {"etarel": 0.125, "phirel": 0.5, "ptrel": 0.25, "ptrel_sum": 0.5, "multiplicity": 0, "efp": 0}
    for name, shift in expected.items():
        assert table.loc[f"w1_{name}", "value"] == pytest.approx(shift, rel=1e-6, abs=1e-12)
    rows = table.loc[[f"w1_{name}" for name in expected]]
    np.testing.assert_allclose(rows[["floor", "uncertainty", "floor_uncertainty"]], 0, atol=1e-12)


def test_w1_of_a_shift_wider_than_the_spread_is_the_shift_within_its_uncertainty():
    rng = np.random.default_rng(0)
    source, model = (np.abs(rng.normal(0.5, 0.05, size=(400, 3, 3))) for _ in range(2))
    table = table_of(jets_of(source), jets_of(model + np.array([2, 0, 0])), 0)
    assert abs(table.loc["w1_etarel", "value"] - 2) < 5 * 0.05 * np.sqrt(2 / 600)
    assert table.loc["w1_etarel", "floor"] < 0.01


def test_jets_of_the_same_distribution_lie_at_the_floor_and_others_above():
    source = toy_jets(3000, 1)
    at_floor = table_of(source, toy_jets(3000, 2), 0, n_splits=5)
    above = table_of(source, toy_jets(3000, 3, "top"), 0, n_splits=5)
    distances = at_floor.drop(index=["coverage", "fpd"])
    assert (distances["value"] < 2.5 * distances["floor"]).all()
    assert (distances["jets"].drop("mmd") == 1500).all()
    excess = at_floor["value"] - at_floor["floor"]
    error = np.hypot(at_floor["uncertainty"], at_floor["floor_uncertainty"])
    assert abs(excess["coverage"]) < 4 * error["coverage"] and excess["fpd"] < 4 * error["fpd"]
    assert above.loc["w1_multiplicity", "value"] > 4 * above.loc["w1_multiplicity", "floor"]


def test_the_frechet_physics_distance_of_the_table_does_not_depend_on_the_units():
    source, other = toy_jets(400, 1), toy_jets(200, 2)
    scaled = [jets_of(jets.particles * [0.1, 0.1, 3], jets.mask) for jets in (source, other)]
    found = [table_of(*jets, 0).loc["fpd", ["value", "floor"]].astype(float) for jets in ((source, other), scaled)]
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_distances_grow_with_a_distortion():
    source, other = toy_jets(1000, 1), toy_jets(500, 2)
    found = []
    for scale in (1.0, 1.3, 1.8):
        wide = jets_of(other.particles * [scale, scale, 1], other.mask)
        found.append(table_of(source, wide, 0).loc[["w1_etarel", "w1_mass", "w1_efp", "fpd"], "value"])
    assert (found[0] < found[1]).all() and (found[1] < found[2]).all()


def test_coverage_falls_where_kinds_of_jets_are_missing_or_copied():
    source, other = toy_jets(400, 1), toy_jets(200, 2)
    few = other[np.arange(200) % 4]  # four jets, fifty times each
    full, copied = (table_of(source, jets, 0, n_matched=30).loc["coverage"] for jets in (other, few))
    assert copied["value"] <= 4 / 30 + 1e-9 < 0.3 < full["value"]
    assert copied["floor"] > 0.3
    narrow = other[np.argsort(other.count, kind="stable")[:50]]
    narrow = narrow[np.arange(200) % 50]
    assert table_of(source, narrow, 0, n_matched=30).loc["coverage", "value"] < full["value"] - 2 * full["uncertainty"]


def test_too_few_jets_for_a_covariance_have_no_frechet_physics_distance():
    table = table_of(toy_jets(120, 1), toy_jets(100, 2), 0)
    assert table.loc["fpd", ["value", "floor"]].isna().all() and table.drop(index="fpd")["value"].notna().all()


def test_as_many_jets_are_compared_as_the_smaller_sample_has():
    table = table_of(toy_jets(100, 1), toy_jets(30, 2), 0).drop(index=["coverage", "mmd"])
    assert (table["jets"] == 30).all() and (table["floor"] > 0).any()


def test_distances_depend_on_the_generator_alone():
    first, again, other = (table_of(toy_jets(60, 1), toy_jets(60, 2), seed) for seed in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)


@pytest.mark.parametrize(
    ("n_source", "n_synthetic", "n_splits", "message"),
    [(3, 9, 5, "3 source and 9"), (9, 1, 5, "9 source and 1"), (9, 9, 1, "n_splits=1")],
)
def test_too_few_jets_or_splits_are_refused(n_source, n_synthetic, n_splits, message):
    with pytest.raises(ValueError, match=message):
        table_of(toy_jets(n_source, 1), toy_jets(n_synthetic, 2), 0, n_splits=n_splits)


def test_held_out_log_prob_is_quoted_for_the_sequence_and_for_the_set():
    table = fidelity.held_out_log_prob({"w": [3.0, 5.0]}, {"w": [2, 3]}, "mine").set_index("metric")
    assert table.loc["log_prob_sequence", ["value", "uncertainty", "jets"]].tolist() == [4, 1, 2]
    assert table.loc["log_prob_set", "value"] == pytest.approx(4 + np.log(2 * 6) / 2)
    assert table["floor"].isna().all() and set(table["class"]) == {"w"} and set(table["surrogate"]) == {"mine"}


@pytest.mark.parametrize(("log_prob", "count"), [([1.0, np.inf], [3, 3]), ([1.0, 2.0], [3])])
def test_bad_held_out_likelihoods_are_refused(log_prob, count):
    with pytest.raises(ValueError, match="top: log_prob"):
        fidelity.held_out_log_prob({"top": log_prob}, {"top": count})


def test_floors_are_of_jets_that_are_not_among_those_they_are_compared_with(monkeypatch):
    compared = []

    def metrics(first, second, *rest):
        compared.append([set(jets[0].features[:, 0]) for jets in (first, second)])
        return dict.fromkeys(("w1_mass", "coverage"), float(len(compared)) ** 2)

    monkeypatch.setattr(fidelity, "_metrics", metrics)
    jets, other = (draw("toy", "top", n, 6, seed, ("gluon", "top")) for n, seed in ((60, 1), (25, 2)))
    jets.features[:, 0], other.features[:, 0] = np.arange(60), 1000 + np.arange(25)
    numbers = np.random.default_rng(0)
    table = fidelity.distances({"top": jets}, {"top": other}, numbers, n_splits=4).set_index("metric")
    for (half, synthetic), (again, rest) in zip(compared[::2], compared[1::2], strict=True):
        assert half == again and not half & rest and synthetic == set(other.features[:, 0])
    values = np.arange(1, 8, 2.0) ** 2
    assert table.loc["w1_mass", "uncertainty"] == pytest.approx(values.std(ddof=1))
    assert table.loc["coverage", "uncertainty"] == pytest.approx(values.std(ddof=1) / 2)


# Partial diffusion


def test_jets_that_did_not_change_have_correlation_one_and_new_ones_none():
    jets, others = (toy_jets(400, seed) for seed in (1, 2))
    table = fidelity.resampled(jets, {0.1: jets, 1.0: others}).set_index(["t", "observable"])
    assert list(table.loc[0.1].index) == list(fidelity.MOVED)
    np.testing.assert_allclose(table.loc[0.1, "correlation"], 1)
    np.testing.assert_allclose(table.loc[0.1, ["shift", "shift_error"]], 0, atol=1e-12)
    assert (table.loc[1.0, "correlation"].abs() < 5 * table.loc[1.0, "correlation_error"]).all()
    assert (table.loc[1.0, "shift"].abs() < 5 * table.loc[1.0, "shift_error"]).all()


def test_a_wider_jet_shows_as_a_shift_in_standard_deviations():
    jets = toy_jets(400, 3)
    wider = arrange(jets.particles * np.float32([1.1, 1.1, 1]), jets.mask, jets.features)
    row = fidelity.resampled(jets, {0.5: wider}).set_index("observable").loc["mass"]
    assert row["correlation"] > 0.999
    assert row["shift"] == pytest.approx(0.1 * jets.mass.mean() / jets.mass.std(ddof=1), rel=0.02)


def test_jets_that_got_lost_are_noticed():
    jets = toy_jets(10, 3)
    with pytest.raises(ValueError, match=r"t = 0\.5: 9 jets came back of 10"):
        fidelity.resampled(jets, {0.5: jets[:9]})
