import numpy as np
import pytest
from scipy.stats import norm

from jetstudy import likelihoods
from jetstudy.sources import draw, toy

CLASSES = ("quark", "w")
GAUSSIAN_GAP = 2.0


def toy_jets(n_jets, seed, label="gluon", n_max=8):
    return draw("toy", label, n_jets, n_max, seed, ("gluon", "top"))


def gaussian_classes(n_jets, seed=0):
    """log p (2 n, 2) of draws from N(0, 1) and N(GAUSSIAN_GAP, 1) under both, and labels: everything is known."""
    rng = np.random.default_rng(seed)
    label = np.repeat([0, 1], n_jets)
    x = rng.normal(size=2 * n_jets) + GAUSSIAN_GAP * label
    return np.stack([norm.logpdf(x), norm.logpdf(x, GAUSSIAN_GAP)], axis=1), label


def test_maps_share_their_bins_and_account_for_every_jet():
    log_prob, label = gaussian_classes(3000)
    mass = np.random.default_rng(1).gamma(5, size=6000)
    table = likelihoods.maps(log_prob, mass, label, CLASSES)
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
    table = likelihoods.maps(log_prob, np.linspace(0, 1, 40_000), label, CLASSES)
    means = table.groupby(["jets", "model"])["mean"].first()
    assert means["quark", "quark"] == pytest.approx(0, abs=1e-9) and means["w", "w"] == pytest.approx(0, abs=1e-9)
    expected = -(GAUSSIAN_GAP**2) / 2
    assert means["quark", "w"] == pytest.approx(expected, abs=0.07)
    assert means["w", "quark"] == pytest.approx(expected, abs=0.07)


def test_a_map_puts_a_jet_into_the_bin_of_its_mass_and_likelihood():
    log_prob, label = gaussian_classes(500)
    mass = np.where(label == 1, 3.0, 1.0) + np.linspace(0, 0.5, 1000)
    table = likelihoods.maps(log_prob, mass, label, CLASSES)
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
    table = likelihoods.differences(log_prob, label, CLASSES)
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
    rows = likelihoods.differences(log_prob, label, ("gluon", "top")).groupby("jets").first()
    assert (rows["mean"] > 5 * rows["mean_error"]).all()
    means = likelihoods.maps(log_prob, np.concatenate([j.mass for j in jets]), label, ("gluon", "top"))
    assert set(means["jets"]) == {"gluon", "top"}


def test_densities_of_the_exact_llr_have_the_llr_as_their_ratio():
    log_prob, label = gaussian_classes(20_000)
    table = likelihoods.llr_distributions({"synthetic": (log_prob[:, 1] - log_prob[:, 0], label)}, CLASSES, n_bins=30)
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
    table = likelihoods.llr_distributions(samples, CLASSES)
    first, second = (table[table["sample"] == name].reset_index() for name in samples)
    assert first[["class", "low", "high"]].equals(second[["class", "low", "high"]])
    assert set(first["jets"]) == {1000} and set(second["jets"]) == {2000}
    means = second.groupby("class")["mean"].first() - first.groupby("class")["mean"].first()
    np.testing.assert_allclose(means, 5, atol=0.4)
    inside = (second["density"] * (second["high"] - second["low"])).groupby(second["class"]).sum()
    assert inside["w"] < 0.6


@pytest.mark.parametrize("function", [likelihoods.differences, likelihoods.maps])
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
    mass = [np.ones(len(label))] if function is likelihoods.maps else []
    with pytest.raises(ValueError, match=message):
        function(log_prob, *mass, label, CLASSES)


def test_bad_masses_and_llrs_are_refused():
    log_prob, label = gaussian_classes(4)
    with pytest.raises(ValueError, match="mass has shape"):
        likelihoods.maps(log_prob, np.ones(7), label, CLASSES)
    with pytest.raises(ValueError, match=r"llr\[0\] is nan"):
        likelihoods.llr_distributions({"synthetic": (np.full(8, np.nan), label)}, CLASSES)


def test_the_mean_difference_has_what_moves_all_log_p_alike_in_its_error():
    rng = np.random.default_rng(3)
    log_prob = np.column_stack([rng.normal(0.3, 2.0, 400), np.zeros(400)])
    log_prob[:3, 1] = np.nan
    mean, error, lost = likelihoods.mean_difference(log_prob, 0)
    assert lost == 3 and mean == pytest.approx(0.3, abs=4 * error) and error == pytest.approx(0.1, rel=0.15)
    assert likelihoods.mean_difference(log_prob, 1)[:2] == pytest.approx((-mean, error))
    table = likelihoods.log_odds(*({name: rng.normal(-1, 1, 500) for name in ("gluon", "top")} for _ in range(2)))
    kept = table[table["sample"] == "flow"].groupby("class")[["kept", "kept_error"]].first()
    alike = likelihoods.rates_error([table])
    assert alike == pytest.approx(np.hypot(*(kept["kept_error"] / kept["kept"]))) and likelihoods.rates_error([]) == 0
    assert likelihoods.mean_difference(log_prob, 0, alike)[1] == pytest.approx(np.hypot(error, alike))


def test_what_is_kept_and_gained_has_standard_errors():
    source, drawn = np.random.default_rng(0).normal(0, 1, (2, 400))
    row = likelihoods.log_odds({"top": source}, {"top": drawn - 1}).query("sample == 'flow'").iloc[0]
    kept, gained = np.exp(np.minimum(0, drawn - 1)), np.minimum(0, source)
    assert row["kept_error"] == pytest.approx(kept.std(ddof=1) / 20)
    assert row["gain_error"] == pytest.approx(np.hypot(gained.std(ddof=1) / 20, row["kept_error"] / kept.mean()))
