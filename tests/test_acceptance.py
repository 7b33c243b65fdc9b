import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from test_judges import toy_jets, with_pairs
from test_surrogate import CLASSES, FEATURES, N_MAX, gaussian_jets, random_surrogate, seeded

from jetstudy import acceptance, likelihoods, report, training
from jetstudy.acceptance import Acceptance
from jetstudy.jets import Jets, concatenate, split
from jetstudy.sources import toy
from jetstudy.substructure import PAIR_COUNTS, pair_masses
from jetstudy.surrogate import Surrogate, sample_in_chunks

NARROW = replace(FEATURES, std=(0.004, 0.004, 0.9))


def random_acceptance(jets, rate, classes=1):
    """Odds of random weights, and caps at which some jets are kept for certain and most are not."""
    features = acceptance._features(jets)
    quantiles = np.quantile(features, np.linspace(0, 1, acceptance.QUANTILES), axis=0)
    with training.seeded(seeded(1)):
        network = acceptance._network(features.shape[1], classes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    log_caps = [
        np.quantile(acceptance._log_odds(network, quantiles, features, k, classes), 0.8) for k in range(classes)
    ]
    caps = tuple(
        {
            "mass": np.array([[0.0, 0.1, 0.2], [c, c - 0.2, c + 0.1]]),
            "ptrel_sum": np.array([[0.5, 1.5], [0.1, -0.1]]),
        }
        for c in log_caps
    )
    return Acceptance(network, quantiles, caps, rate)


@pytest.fixture(scope="module")
def one_particle():
    """A surrogate of jets of one particle, one that keeps a share of these, and jets drawn from the first."""
    flow = random_surrogate("one_hop", FEATURES, seed=3, n_max=1, p_count=np.array([0.0, 1.0]), scale=0.05)
    jets = flow.sample(4000, seeded(1))
    keeps = random_acceptance(jets, rate=1.0)
    share = np.exp(keeps.log_share(jets))
    return flow, replace(flow, acceptance=replace(keeps, rate=float(share.mean()))), jets


def test_kept_jets_have_the_density_that_is_scored(one_particle):
    """By quadrature over (etarel, phirel, log ptrel): the flow's rate, and the distribution of ptrel of kept jets."""
    flow, keeping, jets = one_particle
    axis = np.linspace(-5, 5, 21)
    u = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    grid = Jets(FEATURES.inverse(u, np.ones((len(u), 1), bool)), np.ones((len(u), 1), bool), np.zeros((len(u), 4)))
    log_p = np.stack([model.log_prob(grid) for model in (flow, keeping)]) - FEATURES.log_jacobian(grid)
    p = np.exp(log_p) * (axis[1] - axis[0]) ** 3
    share = np.exp(keeping.acceptance.log_share(jets))
    error = share.std(ddof=1) / np.sqrt(len(share)) / keeping.acceptance.rate
    assert 0.1 < share.std() and 0.1 < (share == 1).mean() < 0.3  # a cap that matters
    assert p[0].sum() == pytest.approx(1, abs=0.01)
    assert p[1].sum() == pytest.approx(1, abs=4 * error + 0.01)  # the rate was measured on 4,000 jets
    kept = keeping.sample(2000, seeded(2))
    steps = np.append(axis - 0.25, axis[-1] + 0.25)
    log_ptrel = (np.log(kept.particles[:, 0, 2]) - FEATURES.mean[2]) / FEATURES.std[2]
    found = np.histogram(log_ptrel, steps)[0]

    def distance(marginal):
        few = marginal * len(log_ptrel) < 5
        expected = np.append(marginal[~few], marginal[few].sum()) * len(log_ptrel) / marginal.sum()
        observed = np.append(found[~few], found[few].sum())
        return stats.chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1)

    drawn, scored = (values.reshape(21, 21, 21).sum((0, 1)) for values in p)
    assert distance(scored) > 1e-3
    assert distance(drawn) < 1e-6  # a test that could not tell the two apart would say nothing


def test_what_sampling_accumulates_is_what_scoring_finds():
    """In narrow jets, of whose pairs of particles many are counted."""
    model = random_surrogate("one_hop", NARROW, 1, N_MAX, toy.p_count("top", N_MAX), scale=0.1)
    keeps = random_acceptance(model.sample(200, seeded(0)), rate=0.4)
    jets, log_p = replace(model, acceptance=keeps).sample_with_log_prob(30, seeded(1))
    assert len(jets) == len(log_p) == 30
    assert pair_masses(jets).to_numpy().sum() > 60
    keeping = replace(model, acceptance=keeps).log_prob(jets)
    assert np.abs(keeping - log_p).max() < 0.05  # the solver's errors
    np.testing.assert_allclose(keeping - model.log_prob(jets), keeps.log_share(jets) - np.log(0.4), atol=1e-9)


def test_odds_are_the_known_ratio_of_two_gaussians(tmp_path):
    """One particle a jet, log ptrel normal about -2.9 for the source and -3 for the flow, both of width 0.1."""
    settings = zip((-2.9, -3.0), (8000, 4000), strict=True)  # of unequal numbers, which odds must not know
    source, drawn = (gaussian_jets(np.array([0.0, 0.0, c]), 0.1, n, k) for k, (c, n) in enumerate(settings))
    keeps = acceptance.fit([source], [drawn], 0.5, seeded(0), tmp_path / "c.safetensors", lambda line: None)
    fresh = gaussian_jets(np.array([0.0, 0.0, -3.0]), 0.1, 20000, 7)
    log_ptrel = np.log(fresh.particles[:, 0, 2].astype(np.float64))
    true = stats.norm.logpdf(log_ptrel, -2.9, 0.1) - stats.norm.logpdf(log_ptrel, -3.0, 0.1)
    found = keeps.log_odds(fresh)
    assert np.corrcoef(true, found)[0, 1] > 0.97
    assert np.abs(found - true).mean() < 0.2
    share = np.exp(keeps.log_share(fresh))
    unseen = 0.3 * len(drawn)  # which the cap was set on
    error = share.std() * np.sqrt(1 / unseen + 1 / len(fresh))
    assert share.mean() == pytest.approx(0.5, abs=4 * error)
    kept = np.random.default_rng(0).random(len(fresh)) < share
    before, after = (
        stats.wasserstein_distance(log_ptrel[k], np.log(source.particles[:, 0, 2])) for k in (slice(None), kept)
    )
    assert after < 0.5 * before


def test_an_acceptance_of_two_classes_learns_each_ones_odds(tmp_path):
    """What the source has more of in one class the flow has more of in the other, and numbers of jets say nothing."""
    centres = {"source": (-2.9, -3.0), "drawn": (-3.0, -2.9)}
    numbers = {"source": (4000, 6000), "drawn": (4000, 2500)}
    source, drawn = (
        [gaussian_jets(np.array([0.0, 0.0, centres[side][k]]), 0.1, numbers[side][k], seed + k) for k in (0, 1)]
        for seed, side in enumerate(("source", "drawn"))
    )
    keeps = acceptance.fit(source, drawn, 0.4, seeded(0), tmp_path / "c.safetensors", lambda line: None)
    for k in (0, 1):
        own = keeps.of_class(k)
        fresh = gaussian_jets(np.array([0.0, 0.0, centres["drawn"][k]]), 0.1, 4000, 20 + k)
        log_ptrel = np.log(fresh.particles[:, 0, 2].astype(np.float64))
        true = np.subtract(*(stats.norm.logpdf(log_ptrel, centres[side][k], 0.1) for side in ("source", "drawn")))
        assert np.abs(own.log_odds(fresh) - true).mean() < 0.25
        share = np.exp(own.log_share(fresh))
        error = share.std() * np.sqrt(1 / len(acceptance.set_aside(drawn[k])) + 1 / len(fresh))
        assert share.mean() == pytest.approx(0.4, abs=4 * error)
        swapped = np.exp(keeps.of_class(1 - k).log_share(fresh)).mean()
        assert abs(swapped - 0.4) > 8 * error  # a swapped label would not pass


def peaks(n, rng):
    """Masses of a source of two peaks (10 n,) and of a flow with one between (n,), and log w (n,) of the flow's jets,
    which know of something beside mass.
    """
    source = np.where(rng.random(10 * n) < 0.4, 0.09, 0.16) + 0.02 * rng.standard_normal(10 * n)
    mass, other = 0.13 + 0.04 * rng.standard_normal(n), rng.standard_normal(n)
    p_source = 0.4 * stats.norm.pdf(mass, 0.09, 0.02) + 0.6 * stats.norm.pdf(mass, 0.16, 0.02)
    return source, mass, np.log(p_source / stats.norm.pdf(mass, 0.13, 0.04)) + 0.7 * other - 0.7**2 / 2


def caps_by(log_w, mass, source, drawn, rate):
    return acceptance.caps_by(log_w, *({"mass": values} for values in (mass, source, drawn)), rate)


def share_of(caps, log_w, **values):
    return np.exp(np.minimum(0.0, log_w - acceptance.log_cap(caps, values)))


def distance(values, source, share):
    """Half the summed difference of two spectra, in bins that hold equally many of the values."""
    bins = np.quantile(values, np.linspace(0, 1, acceptance.BINS + 1))
    kept, wanted = np.histogram(values, bins, weights=share)[0], np.histogram(source, bins)[0]
    return np.abs(kept / kept.sum() - wanted / len(source)).sum() / 2


def test_bins_of_mass_hold_as_many_kept_jets_as_the_source():
    source, mass, log_w = peaks(20000, np.random.default_rng(0))
    caps = caps_by(log_w, mass, source, mass, 0.5)
    one_cap = {"mass": np.array([[0.0], [acceptance.log_cap_at(log_w, 0.5)]])}
    by_mass, alike = (share_of(each, log_w, mass=mass) for each in (caps, one_cap))
    assert by_mass.mean() == pytest.approx(0.5)
    assert distance(mass, source, by_mass) < 0.015 < 0.04 < distance(mass, source, alike)


def test_two_spectra_that_depend_on_each_other_are_both_the_sources():
    """Caps of either alone leave the other one behind."""
    rng = np.random.default_rng(0)
    source, mass, log_w = peaks(20000, rng)
    shift = 0.3 * (source - 0.13) / 0.04 + 0.1
    values = {"mass": mass, "ptrel_sum": 0.9 + 0.05 * (0.5 * (mass - 0.13) / 0.04 + rng.standard_normal(len(mass)))}
    known = {"mass": source, "ptrel_sum": 0.9 + 0.05 * (shift + rng.standard_normal(len(source)))}
    log_w = log_w - 4 * (values["ptrel_sum"] - 0.9)

    def left(*names):
        few = ({name: each[name] for name in names} for each in (values, known, values))
        caps = acceptance.caps_by(log_w, *few, 0.4)
        assert share_of(caps, log_w, **values).mean() == pytest.approx(0.4)
        return {name: distance(own, known[name], share_of(caps, log_w, **values)) for name, own in values.items()}

    both = left("ptrel_sum", "mass")
    assert max(both.values()) < 0.02
    assert left("mass")["ptrel_sum"] > 2.5 * both["ptrel_sum"] and left("ptrel_sum")["mass"] > 2.5 * both["mass"]


def test_spectra_that_cannot_be_had_together_do_not_make_caps_run_away(monkeypatch):
    """The flow's values are all but one, and the source's all but opposite: either spectrum can be had, both cannot."""
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 8000)), rng.standard_normal((2, 30000))
    values = {"ptrel_sum": one[0], "mass": one[0] + 0.1 * one[1]}
    source = {"ptrel_sum": other[0] + 1, "mass": -other[0] - 1 + 0.1 * other[1]}
    log_w = 0.5 * rng.standard_normal(8000)

    def smallest():
        share = share_of(acceptance.caps_by(log_w, values, source, values, 0.2), log_w, **values)
        assert share.mean() == pytest.approx(0.2)
        return share.min()

    assert smallest() > 1e-5
    monkeypatch.setattr(acceptance, "SETTLED", -np.inf)  # all rounds
    assert smallest() < 1e-8


def test_the_rate_is_as_well_known_as_is_said():
    """Caps of many bins, set on the jets that set the rate, too, leave no bias in it, and no more than its error."""
    fresh, known, said = peaks(50000, np.random.default_rng(0)), [], []
    for seed in range(40):
        source, mass, log_w = peaks(2000, np.random.default_rng(1 + seed))
        caps = caps_by(log_w, mass, source, mass, 0.5)
        known.append(share_of(caps, fresh[2], mass=fresh[1]).mean())
        said.append(share_of(caps, log_w, mass=mass).std() / np.sqrt(len(mass)))
    error = np.mean(said)
    assert np.mean(known) == pytest.approx(0.5, abs=4 * error / np.sqrt(len(known)) + 1e-3)
    assert 0.6 * error < np.std(known) < 1.3 * error


@pytest.mark.parametrize("tied", [0.0, 0.5, 0.95, 1.0])
def test_jets_of_one_mass_are_one_bin(tied):
    source, mass, log_w = peaks(2000, np.random.default_rng(0))
    mass, source = np.abs(mass), np.abs(source)
    mass[: round(tied * len(mass))] = source[: round(tied * len(source))] = 0
    caps = caps_by(log_w, mass, source, mass, 0.3)
    knots, log_caps = caps["mass"]
    assert np.isfinite(log_caps).all() and (np.diff(knots) > 0).all()
    assert (len(knots) == 1) == (tied == 1)
    assert share_of(caps, log_w, mass=mass).mean() == pytest.approx(0.3)


def test_a_mass_that_the_source_has_not_is_left_out_but_not_for_certain():
    _, mass, log_w = peaks(2000, np.random.default_rng(0))
    caps = caps_by(log_w, mass, 0.1 + 0.001 * np.random.default_rng(1).random(5000), mass, 0.05)
    share = share_of(caps, log_w, mass=mass)
    assert np.isfinite(caps["mass"]).all() and share.min() > 0
    assert share[mass > 0.2].mean() < 0.01 < share[np.abs(mass - 0.1) < 0.005].mean()


def test_few_jets_of_either_side_make_few_bins():
    source, mass, log_w = peaks(2000, np.random.default_rng(0))
    assert caps_by(log_w, mass, source, mass, 0.5)["mass"].shape == (2, 20)
    assert caps_by(log_w[:500], mass[:500], source, mass, 0.5)["mass"].shape == (2, 5)
    assert caps_by(log_w, mass, source[:200], mass, 0.5)["mass"].shape == (2, 2)
    assert caps_by(log_w[:9], mass[:9], source, mass[:30], 0.5)["mass"].shape == (2, 1)


def test_what_caps_depend_on_are_features():
    jets = toy.generate("top", 60, N_MAX, np.random.default_rng(0))
    features = acceptance._features(jets)
    for name, values in acceptance.spectra(jets).items():
        np.testing.assert_allclose(features[:, acceptance.FEATURE_NAMES.index(name)], values, rtol=1e-6)


def mixture(heavy, wider, n, seed):
    """Toy jets of which a share is four times as heavy as the others; of these, a share is wider and softer."""
    jets, rng = toy.generate("top", n, N_MAX, np.random.default_rng(seed)), np.random.default_rng(seed)
    scaled = rng.random(n) < heavy
    jets.particles[scaled, :, :2] *= 4
    jets.particles[scaled & (rng.random(n) < wider)] *= [1 / 0.6, 1 / 0.6, 0.6]  # and as heavy
    return jets


def test_kept_jets_have_the_sources_spectrum_of_mass(tmp_path):
    """Few of the flow's jets that are heavy enough are wide enough too: one cap for all then leaves out too many."""
    shares = (0.5, 0.5, 20000), (0.3, 0.05, 10000), (0.3, 0.05, 20000)
    source, drawn, fresh = (mixture(*each, seed) for seed, each in enumerate(shares))
    keeps = acceptance.fit([source], [drawn], 0.5, seeded(0), tmp_path / "c.safetensors", lambda line: None)

    def w1(model):
        return stats.wasserstein_distance(fresh.mass, source.mass, np.exp(model.log_share(fresh)))

    log_w = keeps.log_odds(acceptance.set_aside(drawn))
    one_cap = replace(keeps, caps=({"mass": np.array([[0.0], [acceptance.log_cap_at(log_w, 0.5)]])},))
    before = stats.wasserstein_distance(fresh.mass, source.mass)
    assert {term.shape for term in keeps.caps[0].values()} == {(2, acceptance.BINS)}
    assert w1(keeps) < 0.4 * w1(one_cap) < 0.2 * before
    assert np.exp(keeps.log_share(fresh)).mean() == pytest.approx(0.5, abs=0.03)


def test_where_too_few_are_drawn_all_are_kept(tmp_path):
    """Half of the source's jets are heavy and a twentieth of the flow's: at a rate of 0.5 each of these is needed."""
    source, drawn, fresh = (mixture(heavy, 0.5, 10000, k) for k, heavy in enumerate((0.5, 0.05, 0.05)))
    keeps = acceptance.fit([source], [drawn], 0.5, seeded(0), tmp_path / "c.safetensors", lambda line: None)
    share, heavy = np.exp(keeps.log_share(fresh)), fresh.mass > np.quantile(fresh.mass, 0.95)
    assert share[heavy].mean() > 0.97 and share.max() == 1 and 0 < share.min()
    assert share.mean() == pytest.approx(0.5, abs=0.03)


def test_jets_that_are_like_the_sources_are_kept_evenly(tmp_path):
    """Two samples of one kind: nothing to learn, so hardly any gain or loss of log p."""
    source, drawn = (toy.generate("top", 3000, N_MAX, np.random.default_rng(k)) for k in (0, 1))
    keeps = acceptance.fit([source], [drawn], 0.5, seeded(0), tmp_path / "c.safetensors", lambda line: None)
    unseen = source[split(3000, "test")], acceptance.set_aside(drawn)
    table = likelihoods.log_odds(*({"top": keeps.log_excess(jets)} for jets in unseen))
    pd.testing.assert_frame_equal(likelihoods.log_odds_of(keeps, {"top": source}, {"top": drawn}), table)
    row = table.iloc[0]
    assert abs(row["gain"]) < 0.03 + 4 * row["gain_error"]
    shares = table.groupby("sample")["kept"].first()
    assert shares["flow"] == pytest.approx(0.5, abs=1e-6)
    assert shares["source"] == pytest.approx(0.5, abs=0.05)
    assert np.exp(keeps.log_share(toy.generate("top", 1000, N_MAX, np.random.default_rng(2)))).std() < 0.15


def test_padding_does_not_matter():
    jets = toy.generate("top", 50, N_MAX, np.random.default_rng(0))
    keeps = random_acceptance(jets, rate=0.5)
    np.testing.assert_allclose(keeps.log_odds(jets.leading(N_MAX + 5)), keeps.log_odds(jets), rtol=1e-5, atol=1e-6)
    whole = keeps.log_odds(jets)
    parts = np.concatenate([keeps.log_odds(jets[:7]), keeps.log_odds(jets[7:])])
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


def test_an_acceptance_is_saved_with_its_surrogate(tmp_path):
    jets = concatenate([toy.generate(label, 60, N_MAX, np.random.default_rng(k)) for k, label in enumerate(CLASSES)])
    flow = random_surrogate("one_hop", FEATURES, 1, N_MAX, toy.p_count("top", N_MAX), scale=0.3)
    flow = replace(flow, velocity=flow.velocity.float(), dtype=torch.float32)
    keeps = random_acceptance(jets, rate=0.3, classes=2).of_class(1)
    replace(flow, acceptance=keeps).save(tmp_path)
    again = Surrogate.load(tmp_path)
    np.testing.assert_array_equal(again.log_prob(jets), replace(flow, acceptance=keeps).log_prob(jets))
    assert (again.acceptance.rate, again.acceptance.label) == (0.3, 1)
    for found, known in zip(again.acceptance.caps, keeps.caps, strict=True):
        assert found.keys() == known.keys() == {*acceptance.SPECTRA}
        assert all(np.array_equal(found[name], known[name]) for name in known)
    flow.save(tmp_path)
    assert Surrogate.load(tmp_path).acceptance is None


def test_the_page_says_what_an_acceptance_looks_at():
    jets = toy.generate("top", 60, N_MAX, np.random.default_rng(0))
    settings = random_acceptance(jets, rate=0.3).settings()
    told = report.acceptance({"acceptance": settings}).data
    assert "30 % are kept" in told and "judges <i>gradient boosting</i> and <i>pairs</i>" in told


def test_what_is_not_an_acceptances_own_is_refused(tmp_path):
    jets = toy.generate("top", 60, N_MAX, np.random.default_rng(0))
    keeps = random_acceptance(jets, rate=0.3)
    path, settings = tmp_path / "w.safetensors", keeps.settings()
    tensors = {name: values.numpy() for name, values in keeps.tensors().items()}
    assert Acceptance.restored(tensors, **settings, path=path).rate == 0.3
    with pytest.raises(ValueError, match=r"w\.safetensors: weights of another network"):
        Acceptance.restored(tensors | {"caps.1.mass": tensors["caps.0.mass"]}, **settings, path=path)
    features = settings["features"]
    for others, word in {
        ("tau5", *features): "tau5",
        (*features[1:],): features[0],
        (*features, "mass"): "in another order or twice",
        (*reversed(features),): "in another order or twice",
    }.items():
        with pytest.raises(ValueError, match=rf"w\.safetensors: an acceptance of other features .*{word}"):
            Acceptance.restored(tensors, **settings | {"features": others}, path=path)
    with pytest.raises(ValueError, match=r"w\.safetensors: caps of 'tau21': expected ptrel_sum and mass"):
        Acceptance.restored(tensors | {"caps.0.tau21": tensors["caps.0.mass"]}, **settings, path=path)
    with pytest.raises(ValueError, match=r"w\.safetensors: the arrays of the acceptance are not in it"):
        Acceptance.restored({}, **settings, path=path)
    with pytest.raises(ValueError, match="made for 1 classes: there is no label 1"):
        keeps.of_class(1)
    with pytest.raises(ValueError, match="made for 1 classes: there is no label 1"):
        Acceptance.restored(tensors, **settings | {"label": 1}, path=path)


def test_pairs_that_the_source_has_and_the_flow_has_not_are_learned(tmp_path):
    """Both have two particles side by side, of another mass. (In so small jets high-level features see that, too.)"""
    assert set(PAIR_COUNTS) < set(acceptance.FEATURE_NAMES)
    source, drawn = (with_pairs(toy_jets(3000, seed), mass) for seed, mass in ((1, 2e-4), (2, 2e-3)))
    keeps = acceptance.fit([source], [drawn], 0.4, seeded(0), tmp_path / "c.safetensors", lambda line: None)
    fresh = toy_jets(1000, 3)
    right, wrong = (keeps.log_odds(with_pairs(fresh, mass)) for mass in (2e-4, 2e-3))
    assert (right - wrong)[right != wrong].mean() > 1


def test_weights_that_hold_an_acceptance_are_not_taken_for_the_flow_alone(tmp_path):
    jets = toy.generate("top", 60, N_MAX, np.random.default_rng(0))
    flow = random_surrogate("one_hop", FEATURES, 1, N_MAX, toy.p_count("top", N_MAX), scale=0.3)
    replace(flow, acceptance=random_acceptance(jets, rate=0.3)).save(tmp_path)
    content = json.loads((tmp_path / "surrogate.json").read_text())
    (tmp_path / "surrogate.json").write_text(json.dumps(content | {"acceptance": None}))
    with pytest.raises(ValueError, match=r"surrogate\.json knows of no acceptance"):
        Surrogate.load(tmp_path)


def test_caps_are_set_on_jets_that_the_network_was_not_trained_on():
    jets = toy.generate("top", 60, N_MAX, np.random.default_rng(0))
    jets.features[:, 0] = np.arange(60)
    aside = set(acceptance.set_aside(jets).features[:, 0])
    assert len(aside) == 18 and not aside & set(jets[split(60, "train")].features[:, 0])


def test_a_jet_without_odds_is_not_left_out_silently():
    jets = toy.generate("top", 60, N_MAX, np.random.default_rng(0))
    keeps = random_acceptance(jets, rate=0.3)
    flow = random_surrogate("one_hop", FEATURES, 1, N_MAX, toy.p_count("top", N_MAX), scale=0.1)
    with torch.no_grad():
        keeps.network[-1].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="surrogate top: a sampled jet has no odds"):
        replace(flow, acceptance=keeps).sample(5, seeded(0))


@pytest.mark.parametrize("rate", [0.0, 1.0, 1.5])
def test_a_rate_is_a_share(rate, tmp_path):
    jets = toy.generate("top", 60, N_MAX, np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"rate {rate}"):
        acceptance.fit([jets], [jets], rate, seeded(0), tmp_path / "c.safetensors")


def test_an_acceptance_is_for_one_class_or_two(tmp_path):
    jets = toy.generate("top", 60, N_MAX, np.random.default_rng(0))
    with pytest.raises(ValueError, match="3 classes: an acceptance is for one or two"):
        acceptance.fit([jets] * 3, [jets] * 3, 0.5, seeded(0), tmp_path / "c.safetensors")


def test_odds_that_are_not_finite_set_no_cap(tmp_path, monkeypatch):
    jets = toy.generate("top", 400, N_MAX, np.random.default_rng(0))
    monkeypatch.setattr(acceptance, "_log_odds", lambda network, quantiles, some, *of: np.full(len(some), np.nan))
    with pytest.raises(FloatingPointError, match="class 0: a drawn jet has no odds"):
        acceptance.fit([jets], [jets], 0.5, seeded(0), tmp_path / "c.safetensors", lambda line: None)


def test_an_interrupted_drawing_goes_on_to_the_same_jets(tmp_path):
    flow = random_surrogate("one_hop", FEATURES, 1, N_MAX, toy.p_count("top", N_MAX), scale=0.3)
    model = replace(flow, acceptance=random_acceptance(flow.sample(40, seeded(0)), 0.4))
    whole = sample_in_chunks(model, 25, "drawn", tmp_path / "whole", size=10)
    assert len(whole) == 25 and not np.array_equal(whole.particles[:10], whole.particles[10:20])
    done = []
    for name in ("0-10.h5", "20-25.h5"):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    again = sample_in_chunks(model, 25, "drawn", tmp_path / "broken", done.append, size=10)
    np.testing.assert_array_equal(again.particles, whole.particles)
    assert min(done) > 10 and max(done) <= 20  # only the missing chunk was drawn
