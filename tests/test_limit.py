import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import log_loss, roc_auc_score, roc_curve

from jetstudy import limit
from jetstudy.limit import COUNTED, LIMIT, MINIMAL_SURVIVORS, POSTERIOR_WEIGHTED, Curve
from jetstudy.sources import toy

SEPARATION = 2.0  # of the two unit Gaussians whose every figure of merit is known


def llr_of(x, separation=SEPARATION):
    return separation * x - separation**2 / 2


def quantile_jets(n):
    """(LLR, label) of n jets per class that lie on the quantiles of the two Gaussians: no statistical error."""
    quantiles = norm.ppf((np.arange(n) + 0.5) / n)
    return llr_of(np.concatenate([quantiles, quantiles + SEPARATION])), np.repeat([0, 1], n)


def random_jets(n, rng):
    """(LLR, label) of n random jets per class."""
    label = np.repeat([0, 1], n)
    return llr_of(rng.standard_normal(2 * n) + SEPARATION * label), label


def true_background_efficiency(efficiency):
    return norm.cdf(norm.ppf(efficiency) - SEPARATION)


def jets_with_survivors(k):
    """(score, label) of 200 jets per class: exactly k background jets lie above any threshold that keeps signal."""
    background = np.where(np.arange(200) < k, 5.0, -1.0)
    return np.concatenate([background, np.linspace(0, 1, 200)]), np.repeat([0, 1], 200)


def value(table, tagger, metric, column="value"):
    (found,) = table.loc[(table["tagger"] == tagger) & (table["metric"] == metric), column]
    return found


def quoted(score, label, efficiency):
    """(rejection, survivors) as the headline table has them of a tagger."""
    table = limit.gap({"tagger": score}, label, np.random.default_rng(0), n_resamples=2, efficiencies=[efficiency])
    metric = limit.rejection_at(efficiency, COUNTED)
    return value(table, "tagger", metric), value(table, "tagger", metric, "survivors")


tied_scores = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        arrays(np.int64, n, elements=st.integers(-3, 3)),
        arrays(np.int64, n, elements=st.integers(0, 1)).filter(lambda label: 0 < label.sum() < len(label)),
    )
)
logits = st.floats(-800, 800)


# ROC, area, efficiencies


def test_the_figures_of_two_gaussians_are_the_closed_form_ones():
    llr, label = quantile_jets(20_000)
    assert limit.auc(llr, label) == pytest.approx(norm.cdf(SEPARATION / math.sqrt(2)), abs=1e-5)
    efficiencies = np.array([0.1, 0.3, 0.5, 0.9])
    curve, truth = Curve(llr, label, llr), true_background_efficiency(efficiencies)
    assert curve.background_efficiency(efficiencies) == pytest.approx(truth, abs=1 / 20_000)  # to one jet
    assert curve.background_efficiency(efficiencies, estimate=POSTERIOR_WEIGHTED) == pytest.approx(truth, rel=2e-3)
    found, survivors = quoted(llr, label, 0.5)
    assert found == pytest.approx(1 / true_background_efficiency(0.5), rel=5e-3)
    assert survivors == pytest.approx(20_000 * true_background_efficiency(0.5), abs=1)


@given(tied_scores)
def test_roc_and_auc_agree_with_scikit_learn(jets):
    score, label = jets
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    eps_s, first = np.unique(tpr, return_index=True)  # of thresholds that no signal jet tells apart the tightest
    assert Curve(score, label).background_efficiency(eps_s[1:]) == pytest.approx(fpr[first[1:]])
    assert limit.auc(score, label) == pytest.approx(roc_auc_score(label, score))


@given(tied_scores)
def test_figures_depend_on_the_ranking_alone(jets):
    score, label = jets
    a, b = Curve(score, label), Curve(np.exp(score / 2) - 7, label)
    assert a.auc() == b.auc()
    assert np.array_equal(a.background_efficiency(limit.GRID), b.background_efficiency(limit.GRID))
    assert limit.auc(-score, label) == pytest.approx(1 - a.auc())


@given(tied_scores, st.randoms(use_true_random=False))
def test_a_weight_of_k_is_the_same_as_k_copies_of_the_jet(jets, random):
    score, label = jets
    weights = np.array([random.randint(0, 3) for _ in score])
    weights[[np.argmin(label), np.argmax(label)]] = 1
    weighted, copied = Curve(score, label), Curve(np.repeat(score, weights), np.repeat(label, weights))
    assert weighted.auc(weights) == pytest.approx(copied.auc())
    found = weighted.background_efficiency(limit.GRID, weights)
    assert found == pytest.approx(copied.background_efficiency(limit.GRID))


def test_a_working_point_among_tied_jets_takes_a_share_of_them():
    label = np.array([1, 0, 1, 1, 0, 0, 1, 0])
    score = np.array([3, 3, 2, 2, 2, 1, 1, 0])  # signal above: 1, 3, 4, 4; background above: 1, 2, 3, 4
    found = Curve(score, label).background_efficiency([0.125, 0.25, 0.5, 0.75, 1])
    assert found == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.75])


def test_a_constant_score_knows_nothing():
    label = np.repeat([0, 1], 100)
    assert limit.auc(np.zeros(200), label) == 0.5
    assert Curve(np.zeros(200), label).background_efficiency(limit.GRID) == pytest.approx(limit.GRID)
    assert quoted(np.zeros(200), label, 0.5) == (pytest.approx(2), 50)


# Few survivors


def test_a_rejection_needs_thirty_survivors_and_tells_their_number_anyway():
    found, survivors = quoted(*jets_with_survivors(MINIMAL_SURVIVORS), 0.5)
    assert (found, survivors) == (pytest.approx(200 / 30), 30)
    found, survivors = quoted(*jets_with_survivors(MINIMAL_SURVIVORS - 1), 0.5)
    assert math.isnan(found) and survivors == 29
    found, survivors = quoted(*jets_with_survivors(0), 0.5)
    assert math.isnan(found) and survivors == 0


def test_survivors_of_weighted_jets_are_their_effective_number():
    score, label = np.array([4.0, 3, 2, 1]), np.array([1, 0, 1, 0])
    llr = np.array([1.0, 0, -1, -3])
    weights = 2 / (1 + np.exp(llr))
    curve = Curve(score, label, llr)
    for eps_s, above in ((0.5, 1), (1, 3)):
        effective = weights[:above].sum() ** 2 / (weights[:above] ** 2).sum()
        assert curve.survivors([eps_s], POSTERIOR_WEIGHTED)[0] == math.floor(effective + 1e-9)
    alike = Curve(np.arange(20.0), np.arange(20) % 2, np.zeros(20))  # each jet weighs the same, so each counts
    assert alike.survivors([0.5], POSTERIOR_WEIGHTED)[0] == 9
    assert alike.survivors([0.5])[0] == 4


# Posterior weights


def test_posterior_weights_are_the_background_probabilities_of_all_jets():
    llr = np.array([2.0, 0.5, 1, -0.5])
    curve = Curve([4, 3, 2, 1], [1, 0, 1, 0], llr)
    probability = 1 / (1 + np.exp(llr))
    found = curve.background_efficiency([0.5, 1], estimate=POSTERIOR_WEIGHTED)
    assert found == pytest.approx([2 * probability[:1].sum() / 4, 2 * probability[:3].sum() / 4])
    weights = np.array([2.0, 1, 0, 1])
    found = curve.background_efficiency([1], weights, POSTERIOR_WEIGHTED)
    assert found == pytest.approx([2 * 2 * probability[0] / 4])


def test_posterior_weights_leave_the_mean_and_take_most_of_the_variance():
    rng = np.random.default_rng(1)
    curves = [Curve(llr, label, llr) for llr, label in (random_jets(1000, rng) for _ in range(300))]
    truth = true_background_efficiency(0.3)
    found = {e: np.array([c.background_efficiency([0.3], estimate=e)[0] for c in curves]) for e in curves[0].estimates}
    for eps_b in found.values():
        assert eps_b.mean() == pytest.approx(truth, abs=4 * eps_b.std() / math.sqrt(300))
    assert found[POSTERIOR_WEIGHTED].var() < found[COUNTED].var() / 3


def test_posterior_weights_know_the_truth_about_a_tagger_that_is_not_the_limit():
    rng = np.random.default_rng(2)
    llr, label = random_jets(100_000, rng)
    score = llr + SEPARATION * rng.standard_normal(len(llr))  # Gaussians √2 times as wide
    truth = norm.cdf(norm.ppf(0.5) - SEPARATION / math.sqrt(2))
    curve = Curve(score, label, llr)
    for estimate in curve.estimates:
        assert curve.background_efficiency([0.5], estimate=estimate)[0] == pytest.approx(truth, rel=0.05)


# Bootstrap


def test_the_bootstrap_keeps_the_number_of_jets_in_each_class():
    label = np.repeat([0, 1], [30, 50])
    weights = limit.bootstrap(lambda w: w, label, 40, np.random.default_rng(0))
    assert weights.shape == (40, 80)
    assert (weights[:, :30].sum(1) == 30).all() and (weights[:, 30:].sum(1) == 50).all()
    assert (weights == np.round(weights)).all() and weights.std() == pytest.approx(1, abs=0.1)  # Poisson, nearly


def test_the_bootstrap_repeats_itself_with_the_same_generator():
    llr, label = random_jets(100, np.random.default_rng(0))
    tables = [limit.gap({"t": llr}, label, np.random.default_rng(7), llr, n_resamples=5) for _ in range(2)]
    assert tables[0].equals(tables[1])


def test_uncertainties_are_the_spread_over_repeated_samples():
    rng = np.random.default_rng(3)

    def table(n_resamples):
        llr, label = random_jets(1000, rng)
        tagger = 0.8 * llr + rng.standard_normal(len(llr))
        return limit.gap({"tagger": tagger}, label, rng, llr, n_resamples=n_resamples, efficiencies=[0.8])

    repeated = [table(2) for _ in range(200)]
    bootstrapped = [table(60) for _ in range(25)]
    first = repeated[0]
    whole = ~first["metric"].str.startswith("residual")  # tenths are others in each sample
    for column, uncertainty, known in (
        ("value", "uncertainty", whole),
        ("ratio", "ratio_uncertainty", whole & (first["tagger"] != LIMIT) & first["ratio"].notna()),
    ):
        spread = np.std([t[column] for t in repeated], axis=0)
        estimated = np.mean([t[uncertainty] for t in bootstrapped], axis=0)
        assert known.sum() >= 6 and estimated[known] == pytest.approx(spread[known], rel=0.25, abs=1e-9)
        # (The spread itself is known to 5 %.)


def test_uncertainties_of_slope_and_residuals_are_those_of_a_line_and_of_means():
    rng = np.random.default_rng(20)
    llr, label = random_jets(2000, rng)
    table = limit.gap({"t": 0.8 * llr + rng.standard_normal(4000)}, label, rng, llr, n_resamples=100)
    central = llr[(llr >= np.quantile(llr, 0.01)) & (llr <= np.quantile(llr, 0.99))]
    known = 1 / (central.std() * math.sqrt(len(central)))
    assert value(table, "t", limit.SLOPE, "uncertainty") == pytest.approx(known, rel=0.3)
    fifth = "residual of the logit, tenth 5 of the LLR"
    assert value(table, "t", fifth, "uncertainty") == pytest.approx(1 / math.sqrt(400), rel=0.3)


def test_pairing_makes_the_ratio_better_known_than_either_figure():
    rng = np.random.default_rng(4)
    llr, label = random_jets(2000, rng)
    table = limit.gap({"tagger": llr + 0.3 * rng.standard_normal(len(llr))}, label, rng, llr, n_resamples=100)
    for metric in ("AUC", "rejection at 0.5, counted", "rejection at 0.5, posterior-weighted", "cross-entropy"):
        relative = value(table, LIMIT, metric, "uncertainty") / value(table, LIMIT, metric)
        assert value(table, "tagger", metric, "ratio_uncertainty") < 0.8 * relative


# Cross-entropy


def test_cross_entropy_of_known_logits():
    found = limit.cross_entropy([0, math.log(3), math.log(3), 800, -800], [1, 1, 0, 0, 1])
    assert found == pytest.approx([math.log(2), math.log(4 / 3), math.log(4), 800, 800])


@given(st.integers(2, 20).flatmap(lambda n: st.tuples(arrays(np.float64, n, elements=st.floats(-20, 20)), st.just(n))))
def test_cross_entropy_agrees_with_scikit_learn(jets):
    logit, n = jets
    label = np.arange(n) % 2
    expected = log_loss(label, 1 / (1 + np.exp(-logit)))
    assert limit.cross_entropy(logit, label).mean() == pytest.approx(expected, rel=1e-6)


def test_excess_kl_of_known_logits():
    p, q = 3 / 4, 1 / 3
    known = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert limit.excess_kl([math.log(3)], [math.log(1 / 2)]) == pytest.approx([known])


@given(arrays(np.float64, 5, elements=logits), arrays(np.float64, 5, elements=logits))
def test_excess_kl_is_the_expected_difference_of_cross_entropies_and_never_negative(llr, logit):
    kl = limit.excess_kl(llr, logit)
    assert (kl >= 0).all()
    assert (limit.excess_kl(llr, llr) == 0).all()
    p = 1 / (1 + np.exp(-np.clip(llr, -700, 700)))
    both = np.repeat([0, 1], 5)  # each jet once with each label
    difference = limit.cross_entropy(np.tile(logit, 2), both) - limit.cross_entropy(np.tile(llr, 2), both)
    assert kl == pytest.approx((1 - p) * difference[:5] + p * difference[5:], rel=1e-6, abs=1e-9)


def test_the_two_excesses_of_a_tagger_agree_on_the_optimum_of_the_loss():
    rng = np.random.default_rng(5)
    llr, label = random_jets(20_000, rng)
    table = limit.gap({"tagger": 0.5 * llr}, label, rng, llr, n_resamples=30)
    kl, labels = (value(table, "tagger", f"excess cross-entropy, {way}") for way in ("KL", "labels"))
    uncertainty = value(table, "tagger", "excess cross-entropy, labels", "uncertainty")
    assert abs(kl - labels) < 4 * uncertainty < kl
    assert value(table, "tagger", "excess cross-entropy, KL", "uncertainty") < uncertainty


# The headline table


def test_the_gap_holds_the_figures_of_each_tagger_beside_the_limit():
    rng = np.random.default_rng(6)
    llr, label = random_jets(1500, rng)
    scores = {"close": llr + 0.2 * rng.standard_normal(len(llr)), "far": llr + 3 * rng.standard_normal(len(llr))}
    table = limit.gap(scores, label, rng, llr, "toy", n_resamples=10)
    columns = "tagger sample metric value uncertainty limit ratio ratio_uncertainty survivors"
    assert list(table) == columns.split()
    assert set(table["sample"]) == {"toy"}
    metrics = ["AUC", *(f"rejection at {e}, {way}" for way in (COUNTED, POSTERIOR_WEIGHTED) for e in (0.5, 0.3))]
    metrics += ["accuracy", "cross-entropy"]
    excess = ["excess cross-entropy, KL", "excess cross-entropy, labels"]
    residuals = [f"residual of the logit, tenth {k} of the LLR" for k in range(1, 11)]
    errors = [f"residual of the probability, tenth {k} of the logit" for k in range(1, 11)]
    known = [*metrics, *excess, limit.SLOPE, *residuals, limit.CALIBRATION, *errors]
    assert table.groupby("tagger", sort=False)["metric"].agg(list).to_dict() == {
        LIMIT: [*metrics, limit.SLOPE, limit.CALIBRATION],
        "close": known,
        "far": known,
    }
    for name, score in {LIMIT: llr, **scores}.items():
        assert value(table, name, "AUC") == pytest.approx(limit.auc(score, label))
        assert value(table, name, "accuracy") == np.mean((score > 0) == label)
        assert value(table, name, "cross-entropy") == pytest.approx(limit.cross_entropy(score, label).mean())
        assert value(table, name, "AUC", "survivors") == len(label)
        for efficiency in (0.5, 0.3):
            curve = Curve(score, label, llr)
            for way, rejection in zip((COUNTED, POSTERIOR_WEIGHTED), curve.rejection([efficiency])[:, 0], strict=True):
                metric, survivors = limit.rejection_at(efficiency, way), curve.survivors([efficiency], way)[0]
                known = rejection if survivors >= MINIMAL_SURVIVORS else np.nan
                assert value(table, name, metric) == pytest.approx(known, nan_ok=True)
                assert value(table, name, metric, "survivors") == survivors
    assert value(table, "close", "excess cross-entropy, KL") == pytest.approx(
        limit.excess_kl(llr, scores["close"]).mean()
    )
    for metric in metrics:
        assert value(table, "far", metric, "limit") == pytest.approx(value(table, LIMIT, metric), nan_ok=True)
        ratio = value(table, "far", metric) / value(table, LIMIT, metric)
        assert value(table, "far", metric, "ratio") == pytest.approx(ratio, nan_ok=True)
    assert table.loc[table["metric"].isin([*excess, *residuals, *errors]), "ratio"].isna().all()
    for name, score in scores.items():
        tenths = np.array_split(np.sort(llr), 10)
        for metric, tenth in zip(residuals, tenths, strict=True):
            own = (llr >= tenth[0]) & (llr <= tenth[-1])
            assert value(table, name, metric) == pytest.approx((score - llr)[own].mean())
        for metric, tenth in zip(errors, np.array_split(np.argsort(score), 10), strict=True):
            assert value(table, name, metric) == pytest.approx((expit(score) - expit(llr))[tenth].mean())


def test_a_tagger_that_sees_a_part_of_the_jet_is_calibrated_and_one_that_is_too_sure_is_not():
    (seen, label), (unseen, same) = (random_jets(20_000, np.random.default_rng(seed)) for seed in (3, 4))
    assert (label == same).all()  # two independent parts of one jet
    scores = {"part": seen, "too sure": 2 * seen}
    table = limit.gap(scores, label, np.random.default_rng(0), seen + unseen, n_resamples=20)

    def off(tagger, metric, expected):
        return (value(table, tagger, metric) - expected) / value(table, tagger, metric, "uncertainty")

    assert abs(off("part", limit.CALIBRATION, 1)) < 4 and value(table, "part", limit.SLOPE) < 0.7
    assert off("too sure", limit.CALIBRATION, 1) < -20
    for k in range(1, 11):
        metric = f"residual of the probability, tenth {k} of the logit"
        assert abs(off("part", metric, 0)) < 4
    assert off("too sure", metric, 0) > 10  # the probability is too high where it is highest
    assert value(table, LIMIT, limit.CALIBRATION) == pytest.approx(1)


def test_a_stretched_and_shifted_llr_has_its_stretch_as_slope_and_known_residuals():
    llr, label = random_jets(500, np.random.default_rng(20))
    table = limit.gap({"tagger": 0.5 * llr + 0.3}, label, np.random.default_rng(0), llr, n_resamples=5)
    assert value(table, "tagger", limit.SLOPE) == pytest.approx(0.5)
    assert value(table, "tagger", limit.SLOPE, "ratio") == pytest.approx(0.5)
    assert value(table, "tagger", limit.SLOPE, "uncertainty") == pytest.approx(0, abs=1e-12)
    for k, tenth in enumerate(np.array_split(np.sort(llr), 10), start=1):
        metric = f"residual of the logit, tenth {k} of the LLR"
        assert value(table, "tagger", metric) == pytest.approx(0.3 - 0.5 * tenth.mean())


def test_the_gap_quotes_no_rejection_from_few_survivors_and_keeps_their_number():
    llr, _ = random_jets(200, np.random.default_rng(7))
    score, label = jets_with_survivors(60)
    table = limit.gap({"poor": score}, label, np.random.default_rng(0), llr, n_resamples=5)
    metric = "rejection at 0.3, counted"
    few = table[(table["tagger"] == LIMIT) & (table["metric"] == metric)].iloc[0]
    assert few[["value", "uncertainty", "limit", "ratio", "ratio_uncertainty"]].isna().all()
    assert few["survivors"] == Curve(llr, label).survivors([0.3])[0] < MINIMAL_SURVIVORS
    poor = table[(table["tagger"] == "poor") & (table["metric"] == metric)].iloc[0]
    assert poor["value"] == pytest.approx(200 / 60) and poor["uncertainty"] > 0 and poor["survivors"] == 60
    assert poor[["limit", "ratio", "ratio_uncertainty"]].isna().all()  # the limit's is not known


def test_jets_without_a_finite_ratio_go_and_as_many_of_the_other_class():
    log_prob = np.array([[1.0, 2.0], [0.0, -np.inf], [3.0, 5.0], [-1.0, 1.0], [np.nan, 0.0], [2.0, 1.0], [0.0, 4.0]])
    label, jets = np.array([0, 0, 0, 1, 1, 1, 1]), toy.generate("top", 7, 4, np.random.default_rng(0))
    sample = limit.Scored(jets, label, log_prob, {("pfn", "source"): np.arange(7.0)})
    np.testing.assert_array_equal(sample.llr, [1.0, -np.inf, 2.0, 2.0, np.nan, -1.0, 4.0])
    kept = sample.finite()
    np.testing.assert_array_equal(kept.llr, [1.0, 2.0, 2.0, -1.0])
    np.testing.assert_array_equal(kept.label, [0, 0, 1, 1])
    np.testing.assert_array_equal(kept.logits["pfn", "source"], [0, 2, 3, 5])
    np.testing.assert_array_equal(kept.jets.particles, jets.particles[[0, 2, 3, 5]])


def test_a_copy_of_the_llr_has_no_gap_and_no_error_on_it():
    llr, label = random_jets(2000, np.random.default_rng(8))
    table = limit.gap({"copy": llr}, label, np.random.default_rng(0), llr, n_resamples=20)
    copy = table[(table["tagger"] == "copy") & table["value"].notna()]
    zero = copy["metric"].str.startswith(("excess", "residual"))
    ranked, excess = copy[~zero], copy[zero]
    assert (ranked["ratio"] == 1).all() and (ranked["ratio_uncertainty"] == 0).all()
    assert (excess["value"] == 0).all() and (excess["uncertainty"] == 0).all()


def test_real_jets_have_no_limit_and_need_no_equal_classes():
    rng = np.random.default_rng(9)
    llr, label = random_jets(500, rng)
    table = limit.gap({"tagger": llr[:800]}, label[:800], rng, sample="source", n_resamples=5)
    assert list(table["metric"]) == [
        "AUC",
        "rejection at 0.5, counted",
        "rejection at 0.3, counted",
        "accuracy",
        "cross-entropy",
    ]
    assert table[["limit", "ratio", "ratio_uncertainty"]].isna().all(axis=None)
    assert table["value"].iloc[0] == pytest.approx(limit.auc(llr[:800], label[:800]))
    curve = limit.roc_table({"tagger": llr[:800]}, label[:800], rng, n_resamples=5)
    assert set(curve["estimate"]) == {COUNTED}
    assert curve[["ratio", "ratio_low", "ratio_high"]].isna().all(axis=None) and curve["rejection"].notna().any()


# The table of curves


def test_curves_of_other_jets_stand_beside_the_limit_of_the_first():
    rng = np.random.default_rng(5)
    llr, label = random_jets(2000, rng)
    reference = limit.roc_table({"worse": llr + rng.standard_normal(4000)}, label, rng, llr, 20)
    others = limit.roc_table({"tagger": llr[::2]}, label[::2], rng, None, 20)
    table = limit.beside(reference, others)
    assert list(dict.fromkeys(table["tagger"])) == [LIMIT, "worse", "tagger"]
    at = table[(table["estimate"] == COUNTED) & (table["eps_s"] == 0.7)].set_index("tagger")
    for end in ("", "_low", "_high"):
        expected = at.loc["tagger", f"rejection{end}"] / at.loc[LIMIT, "rejection"]
        assert at.loc["tagger", f"ratio{end}"] == pytest.approx(expected)


def test_the_roc_table_agrees_with_single_rejections_and_the_gap():
    rng = np.random.default_rng(10)
    llr, label = random_jets(1000, rng)
    scores = {"tagger": llr + rng.standard_normal(len(llr))}
    table = limit.roc_table(scores, label, np.random.default_rng(0), llr, n_resamples=40)
    columns = "tagger estimate eps_s rejection rejection_low rejection_high ratio ratio_low ratio_high survivors"
    assert list(table) == columns.split()
    assert len(table) == 2 * 2 * 100
    gap = limit.gap(scores, label, np.random.default_rng(0), llr, n_resamples=40)
    for (name, estimate), curve in table.groupby(["tagger", "estimate"]):
        curve = curve.set_index("eps_s")
        assert np.array_equal(curve.index, limit.GRID)
        for efficiency in (0.3, 0.5):
            metric = f"rejection at {efficiency}, {estimate}"
            point = curve.loc[efficiency]
            assert point["rejection"] == pytest.approx(value(gap, name, metric), nan_ok=True)
            assert point["ratio"] == pytest.approx(value(gap, name, metric, "ratio"), nan_ok=True)
            assert point["survivors"] == value(gap, name, metric, "survivors")
        assert (np.diff(curve["rejection"].dropna()) <= 1e-9).all()  # the looser, the more background
    below = table["survivors"] < MINIMAL_SURVIVORS
    assert (table["rejection"].isna() | ~below).all()
    assert table["rejection"].isna().any()
    own = table[(table["tagger"] == LIMIT) & table["rejection"].notna()]
    assert (own[["ratio", "ratio_low", "ratio_high"]] == 1).all(axis=None)


def test_a_curve_ends_where_too_few_jets_carry_it_and_does_not_begin_again():
    """Few, heavy background jets: farther left, where none of them is left, the effective number is larger again."""
    again = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        llr, label = random_jets(300, rng)
        score = llr + 2 * rng.standard_normal(len(llr))
        table = limit.roc_table({"t": score}, label, rng, llr, n_resamples=2).query("tagger == 't'")
        for _, curve in table.groupby("estimate"):
            enough = (curve["survivors"] >= MINIMAL_SURVIVORS).to_numpy()
            shown = curve["rejection"].notna().to_numpy()
            assert (shown == np.logical_and.accumulate(enough[::-1])[::-1]).all()
            again += (enough & ~shown).any()
    assert again  # else this says nothing


def test_bands_hold_about_68_percent():
    rng = np.random.default_rng(11)
    llr, label = random_jets(2000, rng)
    table = limit.roc_table({}, label, rng, llr, n_resamples=200, efficiencies=[0.5])
    gap = limit.gap({}, label, rng, llr, n_resamples=200)
    for _, point in table.iterrows():
        assert point["rejection_low"] < point["rejection"] < point["rejection_high"]
        half = (point["rejection_high"] - point["rejection_low"]) / 2
        uncertainty = value(gap, LIMIT, f"rejection at 0.5, {point['estimate']}", "uncertainty")
        assert half == pytest.approx(uncertainty, rel=0.3)


def test_the_bands_of_a_ratio_are_one_standard_deviation():
    rng = np.random.default_rng(20)
    llr, label = random_jets(2000, rng)
    scores = {"t": llr + rng.standard_normal(4000)}
    merit = limit.gap(scores, label, rng, llr, n_resamples=200)
    for point in limit.roc_table(scores, label, rng, llr, 200, [0.5]).query("tagger == 't'").itertuples():
        known = value(merit, "t", limit.rejection_at(0.5, point.estimate), "ratio_uncertainty")
        assert (point.ratio_high - point.ratio_low) / 2 == pytest.approx(known, rel=0.3)


# The likelihood-ratio trick


@pytest.mark.parametrize("stretch", [1, 2, -0.5])
def test_the_trick_has_the_slope_of_the_logit_on_the_llr(stretch):
    llr, _ = random_jets(1000, np.random.default_rng(12))
    table = limit.likelihood_ratio_trick(stretch * llr + 0.3, llr, "t", n_bins=20)
    assert list(table) == "tagger low high llr q025 q16 median q84 q975 jets slope correlation".split()
    assert table["slope"].to_numpy() == pytest.approx(stretch)
    assert table["correlation"].to_numpy() == pytest.approx(math.copysign(1, stretch))
    assert table["median"].to_numpy() == pytest.approx(stretch * table["llr"] + 0.3)
    assert (table["jets"] == 100).all() and (table["tagger"] == "t").all()
    assert table["low"].iloc[0] == llr.min() and table["high"].iloc[-1] == llr.max()
    assert (table["high"].to_numpy()[:-1] <= table["low"].to_numpy()[1:]).all()


def test_the_trick_shows_the_scatter_of_a_noisy_tagger():
    rng = np.random.default_rng(13)
    llr, _ = random_jets(20_000, rng)
    table = limit.likelihood_ratio_trick(llr + 0.5 * rng.standard_normal(len(llr)), llr, n_bins=400)
    assert table["slope"][0] == pytest.approx(1, abs=0.01)
    assert ((table["q84"] - table["q16"]) / 2)[50:-50].mean() == pytest.approx(0.5, abs=0.03)
    central = llr[(llr >= np.quantile(llr, 0.01)) & (llr <= np.quantile(llr, 0.99))]
    assert table["correlation"][0] == pytest.approx(1 / math.sqrt(1 + 0.25 / central.var()), abs=0.005)
    assert (table[["q025", "q16", "median", "q84", "q975"]].diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)


def test_the_trick_has_no_slope_on_a_constant():
    llr, _ = random_jets(200, np.random.default_rng(14))
    assert limit.likelihood_ratio_trick(llr, np.ones_like(llr))["slope"].isna().all()
    flat = limit.likelihood_ratio_trick(np.ones_like(llr), llr)
    assert (flat["slope"] == 0).all() and flat["correlation"].isna().all()


# Significance improvement, density of logits, where the loss sits


def test_the_significance_improvement_of_two_gaussians_is_the_closed_form_one():
    llr, label = quantile_jets(20_000)
    curves = limit.roc_table({}, label, np.random.default_rng(0), llr, n_resamples=3, efficiencies=[0.3, 0.5, 0.9])
    table = limit.significance(curves)
    for estimate, rows in table.groupby("estimate"):
        truth = rows["eps_s"] / np.sqrt(true_background_efficiency(rows["eps_s"]))
        few = 0.05 if estimate == COUNTED else 2e-3
        assert rows["significance"].to_numpy() == pytest.approx(truth.to_numpy(), rel=few)
        assert (rows["significance_low"] <= rows["significance_high"]).all()


def test_the_map_of_logits_holds_every_jet_and_the_slope():
    llr, _ = random_jets(2000, np.random.default_rng(21))
    table = limit.logit_map(2 * llr, llr, "t", n_bins=20)
    assert table["share"].sum() == pytest.approx(1) and (table["share"] > 0).all()
    assert table["slope"].to_numpy() == pytest.approx(2)
    centre = ((table[f"{axis}_low"] + table[f"{axis}_high"]) / 2 for axis in ("llr", "logit"))
    width = (table["llr_high"] - table["llr_low"]).to_numpy()
    x, y = (np.asarray(c) for c in centre)
    inside = (table["logit_high"] < table["llr_high"].max()) & (table["logit_low"] > table["llr_low"].min())
    assert inside.sum() > 10 and (np.abs(y - 2 * x)[inside] <= 1.5 * width[inside] + 1e-9).all()


def test_the_loss_sits_where_the_tagger_is_wrong_and_its_shares_add_up():
    rng = np.random.default_rng(22)
    llr, label = random_jets(2000, rng)
    mass, count = rng.uniform(0, 1, len(llr)), np.full(len(llr), 30)
    scores = {"blind": np.where(mass > 0.75, 0.0, llr), "poor": 0.5 * llr}
    table = limit.where(scores, llr, label, {"mass": mass, "N": count}, rng, n_bins=4, n_resamples=20)
    assert table.groupby(["tagger", "quantity"])["share"].sum().to_numpy() == pytest.approx(1)
    for name, score in scores.items():
        rows = table[table["tagger"] == name]
        for _, part in rows.groupby("quantity"):
            assert part["jets"].sum() == len(llr)
            total = (part["jets"] * part["excess"]).sum() / len(llr)
            assert total == pytest.approx(limit.excess_kl(llr, score).mean())
    blind = table[(table["tagger"] == "blind") & (table["quantity"] == "mass")]
    own = (mass >= blind["low"].iloc[-1]) & (mass <= blind["high"].iloc[-1])
    assert blind["excess"].iloc[-1] == pytest.approx(limit.excess_kl(llr, scores["blind"])[own].mean())
    assert (blind["share"].iloc[:2] == 0).all() and blind["share"].iloc[-1] > 0.95
    (constant,) = table[(table["tagger"] == "poor") & (table["quantity"] == "N")].itertuples()
    assert constant.low == constant.high == 30
    spread = (limit.excess_kl(llr, scores["poor"]) / np.sqrt(len(llr))).std()
    assert 0.5 * spread < constant.uncertainty < 2 * spread


# What is refused


TWO, FOUR = np.array([0, 1]), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: limit.auc([1, 2], [0, 2]), "labels must be a vector of 0 and 1, got shape"),
        (lambda: limit.auc([1, 2], [[0, 1]]), "labels must be a vector"),
        (lambda: limit.auc([1, 2], [1, 1]), "both classes are needed, got 2 signal jets among 2"),
        (lambda: limit.auc([1, 2], [0, 0]), "both classes are needed, got 0 signal jets among 2"),
        (lambda: limit.auc([1, 2, 3], TWO), r"score has shape \(3,\), expected \(2,\)"),
        (lambda: limit.Curve([1, np.nan], TWO), r"score\[1\] is nan: scores must be finite"),
        (lambda: limit.Curve([1, np.inf], TWO), r"score\[1\] is inf"),
        (lambda: limit.Curve([1, 2], TWO).rejection([0.0]), r"signal efficiencies must lie in \(0, 1\], got \[0"),
        (lambda: limit.Curve([1, 2], TWO).rejection([1.5]), r"signal efficiencies must lie in \(0, 1\]"),
        (lambda: limit.Curve([1, 2, 3], [0, 1, 1], [1, 2, 3]), "got 2 and 1"),
        (lambda: limit.check_equal_classes([0, 1, 1]), "as many signal as background jets, got 2 and 1"),
        (lambda: limit.cross_entropy([[1, 2]], TWO), r"logit has shape \(1, 2\)"),
        (lambda: limit.excess_kl([1, 2], [[1], [2]]), r"logit has shape \(2, 1\), expected \(2,\)"),
        (lambda: limit.excess_kl([1, -np.inf], [1, 2]), r"llr\[1\] is -inf"),
        (lambda: limit.gap({"limit": TWO}, TWO, None), "no tagger may be called 'limit'"),
        (lambda: limit.roc_table({"limit": TWO}, TWO, None), "no tagger may be called 'limit'"),
        (lambda: limit.gap({"ParT": [1, np.nan]}, TWO, None), r"ParT\[1\] is nan"),
        (lambda: limit.gap({}, [0, 1, 1], None, [1, 2, 3]), "the equal mixture needs as many"),
        (lambda: limit.likelihood_ratio_trick(FOUR, FOUR), "4 jets are too few for 25 bins of at least 10"),
        (lambda: limit.likelihood_ratio_trick(FOUR, TWO), r"logit has shape \(4,\), expected \(2,\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=25)
@given(st.floats(0.01, 1), st.integers(31, 60))
def test_working_points_stay_within_the_curve(efficiency, n):
    llr, label = random_jets(n, np.random.default_rng(n))
    eps_b, eps_s, _ = roc_curve(label, llr, drop_intermediate=False)
    found = Curve(llr, label).background_efficiency([efficiency])[0]
    reached = np.searchsorted(eps_s, efficiency * (1 - 1e-9))
    assert eps_b[reached - 1] - 1e-9 <= found <= eps_b[reached] + 1e-9
