import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from jetstudy import fidelity
from jetstudy.jets import arrange
from jetstudy.sources import draw, toy

CLASSES = ("quark", "w")
GAUSSIAN_GAP = 2.0


def toy_jets(n_jets, seed, label="gluon", n_max=8):
    return draw("toy", label, n_jets, n_max, seed, ("gluon", "top"))


def jets_of(particles, mask=None):
    """Jets from (n, N, 3) particles."""
    particles = np.asarray(particles, dtype=np.float64)
    mask = np.ones(particles.shape[:2], bool) if mask is None else mask
    return arrange(particles, mask, np.ones((len(particles), 4)))


def gaussian_classes(n_jets, seed=0):
    """log p (2 n, 2) of draws from N(0, 1) and N(GAUSSIAN_GAP, 1) under both, and labels: everything is known."""
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], n_jets)
    x = rng.normal(size=2 * n_jets) + GAUSSIAN_GAP * label
    return np.stack([norm.logpdf(x), norm.logpdf(x, GAUSSIAN_GAP)], axis=1), label


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


# Distances


def test_w1_of_shifted_jets_is_the_shift_and_the_floor_of_equal_jets_is_zero():
    same = np.full((20, 2, 3), 0.25)
    table = fidelity.distances(
        {"gluon": jets_of(same)}, {"gluon": jets_of(same + np.array([0.125, -0.5, 0.25]))}, np.random.default_rng(0)
    ).set_index("observable")
    expected = {"etarel": 0.125, "phirel": 0.5, "ptrel": 0.25, "ptrel_sum": 0.5, "multiplicity": 0}
    for name, shift in expected.items():
        assert table.loc[name, "w1"] == pytest.approx(shift, rel=1e-6)
    np.testing.assert_allclose(table[["floor", "w1_uncertainty", "floor_uncertainty"]], 0, atol=1e-12)


def test_w1_of_a_shift_wider_than_the_spread_is_the_shift_within_its_uncertainty():
    rng = np.random.default_rng(0)
    source, model = (np.abs(rng.normal(0.5, 0.05, size=(400, 3, 3))) for _ in range(2))
    table = fidelity.distances({"w": jets_of(source)}, {"w": jets_of(model + np.array([2, 0, 0]))}, rng).set_index(
        "observable"
    )
    assert abs(table.loc["etarel", "w1"] - 2) < 5 * 0.05 * np.sqrt(2 / 600)
    assert table.loc["etarel", "floor"] < 0.01


def test_jets_of_the_same_distribution_lie_at_the_floor_and_others_above():
    source, same = {"gluon": toy_jets(3000, 1)}, {"gluon": toy_jets(3000, 2)}
    other = {"gluon": toy_jets(3000, 3, "top")}
    rng = np.random.default_rng(0)
    at_floor = fidelity.distances(source, same, rng, n_splits=5)
    above = fidelity.distances(source, other, rng, n_splits=5).set_index("observable")
    assert (at_floor["w1"] < 2.5 * at_floor["floor"]).all()
    assert above.loc["multiplicity", "w1"] > 4 * above.loc["multiplicity", "floor"]
    assert (at_floor["jets"] == 1500).all()


def test_as_many_jets_are_compared_as_the_smaller_sample_has():
    table = fidelity.distances({"gluon": toy_jets(100, 1)}, {"gluon": toy_jets(30, 2)}, np.random.default_rng(0))
    assert (table["jets"] == 30).all() and (table["floor"] > 0).any()


def test_distances_depend_on_the_generator_alone():
    source, synthetic = {"gluon": toy_jets(60, 1)}, {"gluon": toy_jets(60, 2)}
    first, again, other = (
        fidelity.distances(source, synthetic, np.random.default_rng(seed), n_splits=2) for seed in (1, 1, 2)
    )
    assert first.equals(again) and not first.equals(other)


@pytest.mark.parametrize(
    ("n_source", "n_synthetic", "n_splits", "message"),
    [(3, 9, 5, "3 source and 9"), (9, 1, 5, "9 source and 1"), (9, 9, 1, "n_splits=1")],
)
def test_too_few_jets_or_splits_are_refused(n_source, n_synthetic, n_splits, message):
    source, synthetic = {"gluon": toy_jets(n_source, 1)}, {"gluon": toy_jets(n_synthetic, 2)}
    with pytest.raises(ValueError, match=message):
        fidelity.distances(source, synthetic, np.random.default_rng(0), n_splits)


# Likelihoods


def test_maps_share_their_bins_and_account_for_every_jet():
    log_prob, label = gaussian_classes(3000)
    mass = np.random.default_rng(1).gamma(5, size=6000)
    table = fidelity.likelihood_maps(log_prob, mass, label, CLASSES)
    assert len(table) == 4 * 27**2
    maps = dict(iter(table.groupby(["jets", "model"], sort=False)))
    assert list(maps) == [("quark", "quark"), ("quark", "w"), ("w", "quark"), ("w", "w")]
    axes = ["mass_low", "mass_high", "log_prob_low", "log_prob_high"]
    for values in maps.values():
        np.testing.assert_array_equal(values[axes], maps["quark", "quark"][axes])
        assert values["share"].sum() + values["outside"].iloc[0] == pytest.approx(1)
        assert values["outside"].iloc[0] < 0.1


def test_maps_are_centred_on_the_models_own_jets():
    log_prob, label = gaussian_classes(20_000)
    table = fidelity.likelihood_maps(log_prob, np.linspace(0, 1, 40_000), label, CLASSES)
    means = table.groupby(["jets", "model"])["mean"].first()
    assert means["quark", "quark"] == pytest.approx(0, abs=1e-9) and means["w", "w"] == pytest.approx(0, abs=1e-9)
    expected = -(GAUSSIAN_GAP**2) / 2
    assert means["quark", "w"] == pytest.approx(expected, abs=0.07)
    assert means["w", "quark"] == pytest.approx(expected, abs=0.07)


def test_a_map_puts_a_jet_into_the_bin_of_its_mass_and_likelihood():
    log_prob, label = gaussian_classes(500)
    mass = np.where(label == 1, 3.0, 1.0) + np.linspace(0, 0.5, 1000)
    table = fidelity.likelihood_maps(log_prob, mass, label, CLASSES)
    table["x"], table["y"] = ((table[f"{a}_low"] + table[f"{a}_high"]) / 2 for a in ("mass", "log_prob"))
    for (jets, model), bins in table.groupby(["jets", "model"]):
        c, m = CLASSES.index(jets), CLASSES.index(model)
        y = log_prob[label == c, m] - log_prob[label == m, m].mean()
        x = mass[label == c]
        x_range, y_range = ((bins[f"{a}_low"].min(), bins[f"{a}_high"].max()) for a in ("mass", "log_prob"))
        inside = (x >= x_range[0]) & (x <= x_range[1]) & (y >= y_range[0]) & (y <= y_range[1])
        assert bins["share"].sum() == pytest.approx(inside.mean())
        for centre, values in (("x", x), ("y", y)):  # to the middle of a bin each jet moves half a width at most
            half = bins[centre].drop_duplicates().sort_values().diff().mean() / 2
            mean = (bins["share"] * bins[centre]).sum() / bins["share"].sum()
            assert mean == pytest.approx(values[inside].mean(), abs=half / 2)


def test_mean_differences_of_gaussians_are_their_kl_divergence():
    log_prob, label = gaussian_classes(20_000)
    table = fidelity.likelihood_differences(log_prob, label, CLASSES)
    rows = table.groupby("jets").first()
    for name in CLASSES:
        expected = GAUSSIAN_GAP**2 / 2
        assert abs(rows.loc[name, "mean"] - expected) < 4 * rows.loc[name, "mean_error"]
        assert rows.loc[name, "mean_error"] == pytest.approx(GAUSSIAN_GAP / np.sqrt(20_000), rel=0.05)
        assert rows.loc[name, "below"] == pytest.approx(norm.cdf(-GAUSSIAN_GAP / 2), abs=0.01)
    for _, bins in table.groupby("jets"):
        middle = (bins["low"] + bins["high"]) / 2
        pull = (bins["density"] - norm.pdf(middle, GAUSSIAN_GAP**2 / 2, GAUSSIAN_GAP)) / bins["error"]
        assert np.abs(pull).max() < 4.5


def test_kl_divergences_of_the_toy_classes_are_positive():
    label = np.repeat([0, 1], 400)
    jets = [toy_jets(400, 5, name) for name in ("gluon", "top")]
    log_prob = np.stack([np.concatenate([toy.log_prob(j, m) for j in jets]) for m in ("gluon", "top")], axis=1)
    rows = fidelity.likelihood_differences(log_prob, label, ("gluon", "top")).groupby("jets").first()
    assert (rows["mean"] > 5 * rows["mean_error"]).all()
    means = fidelity.likelihood_maps(log_prob, np.concatenate([j.mass for j in jets]), label, ("gluon", "top"))
    assert set(means["jets"]) == {"gluon", "top"}


def test_densities_of_the_exact_llr_have_the_llr_as_their_ratio():
    log_prob, label = gaussian_classes(20_000)
    table = fidelity.llr_distributions({"synthetic": (log_prob[:, 1] - log_prob[:, 0], label)}, CLASSES, n_bins=30)
    background, signal = (table[table["class"] == name].reset_index() for name in CLASSES)
    llr = (signal["low"] + signal["high"]) / 2
    error = np.hypot(signal["error"] / signal["density"], background["error"] / background["density"])
    pull = (np.log(signal["density"] / background["density"]) - llr) / error
    assert np.abs(pull[np.abs(llr) < 2]).max() < 4


def test_a_second_llr_sample_is_drawn_in_the_bins_of_the_first():
    samples = {}
    for seed, name in enumerate(("synthetic", "source")):
        log_prob, label = gaussian_classes(1000 * (seed + 1), seed)
        samples[name] = log_prob[:, 1] - log_prob[:, 0] + 5.0 * seed, label.astype(bool)
    table = fidelity.llr_distributions(samples, CLASSES)
    first, second = (table[table["sample"] == name].reset_index() for name in samples)
    assert first[["class", "low", "high"]].equals(second[["class", "low", "high"]])
    assert set(first["jets"]) == {1000} and set(second["jets"]) == {2000}
    means = second.groupby("class")["mean"].first() - first.groupby("class")["mean"].first()
    np.testing.assert_allclose(means, 5, atol=0.4)
    inside = (second["density"] * (second["high"] - second["low"])).groupby(second["class"]).sum()
    assert inside["w"] < 0.6


@pytest.mark.parametrize("function", [fidelity.likelihood_differences, fidelity.likelihood_maps])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda log_prob, label: (log_prob[:, :1], label), r"shape \(8, 1\)"),
        (lambda log_prob, label: (log_prob, label[:-1]), r"ask for \(7, 2\)"),
        (lambda log_prob, label: (np.where(log_prob == log_prob[3, 1], np.nan, log_prob), label), r"log_prob\[3, 1\]"),
        (lambda log_prob, label: (np.where(log_prob == log_prob[2, 0], -np.inf, log_prob), label), "is -inf"),
        (lambda log_prob, label: (log_prob, label * 0), "both classes"),
        (lambda log_prob, label: (log_prob, label * 2), "0 and 1"),
    ],
)
def test_bad_likelihoods_and_labels_are_refused(function, spoil, message):
    log_prob, label = spoil(*gaussian_classes(4))
    mass = [np.ones(len(label))] if function is fidelity.likelihood_maps else []
    with pytest.raises(ValueError, match=message):
        function(log_prob, *mass, label, CLASSES)


def test_bad_masses_and_llrs_are_refused():
    log_prob, label = gaussian_classes(4)
    with pytest.raises(ValueError, match="mass has shape"):
        fidelity.likelihood_maps(log_prob, np.ones(7), label, CLASSES)
    with pytest.raises(ValueError, match=r"llr\[0\] is nan"):
        fidelity.llr_distributions({"synthetic": (np.full(8, np.nan), label)}, CLASSES)
