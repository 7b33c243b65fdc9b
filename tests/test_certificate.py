import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from jetstudy import certificate, limit
from jetstudy.certificate import Row, verdict
from jetstudy.jets import concatenate
from jetstudy.sources import toy

NAN = float("nan")


def gaussian_jets(n, rng, separation=2.0):
    """(LLR, label) of n jets per class from two unit Gaussians: the LLR is exact."""
    label = np.repeat([0, 1], n)
    return separation * (rng.standard_normal(2 * n) + separation * label) - separation**2 / 2, label


def verdicts(rows):
    return {row.row: row.verdict for row in rows}


@pytest.fixture
def rng():
    return np.random.default_rng(20)


# The rule


numbers = st.floats(-10, 10) | st.sampled_from([NAN, math.inf, -math.inf])
positive = st.floats(0, 10) | st.sampled_from([NAN, math.inf])


@given(numbers, st.floats(0.01, 10), positive, st.sampled_from([1, 2]))
def test_a_verdict_is_pass_or_fail_only_where_the_numbers_allow_it(value, criterion, resolution, sides):
    word = verdict(value, criterion, resolution, sides)
    off = abs(value) if sides == 2 else -value
    assert word in ("pass", "fail", "undecided")
    assert (word == "fail") == (off > criterion and off > resolution)
    if word == "pass":
        assert off <= criterion and resolution <= criterion
    if word == "undecided":
        assert math.isnan(value) or not resolution <= criterion


@given(st.floats(-10, 10), st.floats(0.01, 10), positive)
def test_two_sides_treat_signs_alike_and_one_side_forgives_what_is_positive(value, criterion, resolution):
    assert verdict(value, criterion, resolution) == verdict(-value, criterion, resolution)
    assert verdict(-abs(value), criterion, resolution, sides=1) == verdict(value, criterion, resolution)
    assert verdict(abs(value), criterion, resolution, sides=1) != "fail"


def test_more_taggers_than_usual_share_the_rate_of_false_alarms():
    assert certificate.family_size(2) == certificate.family_size(9) == certificate.FAMILY
    assert certificate.family_size(17) == 41


def test_all_looks_of_all_rows_together_raise_a_false_alarm_once_in_a_thousand():
    for family, sides, looks in ((1, 1, 1), (16, 2, 1), (16, 1, 17)):
        z = certificate.z_value(family, sides, looks)
        assert family * sides * looks * norm.sf(z) == pytest.approx(1e-3)


# Row 1


def particles(rng, n=200):
    mask = np.arange(5) < rng.integers(1, 6, size=n)[:, None]
    return rng.standard_normal((n, 5, 3)), mask


def test_round_trip_passes_a_small_solver_error(rng):
    x, mask = particles(rng, 2000)
    rows = certificate.round_trip(x, x + 0.003 * rng.standard_normal(x.shape), mask)
    assert verdicts(rows) == {"1 round trip": "pass", "1 round trip: elsewhere": "pass"}
    assert rows[0].value == pytest.approx(0.003, rel=0.2)


def test_round_trip_measures_a_known_shift_exactly(rng):
    x, mask = particles(rng)
    typical, elsewhere = certificate.round_trip(x, x + 0.01, mask)
    assert (typical.value, elsewhere.value) == (pytest.approx(0.01), 0)
    assert typical.uncertainty == pytest.approx(0, abs=1e-12)
    assert elsewhere.note == "0 of 200 jets; largest |Δx| 0.01 standard deviations"


def test_round_trip_counts_jets_whose_particles_end_elsewhere(rng):
    """Not particles, and not those that nearly return; the more jets, the same share."""
    x, mask = particles(rng, 3000)
    coarse = certificate.round_trip(x, x + 0.1 * rng.standard_normal(x.shape), mask)
    assert coarse[0].verdict == "fail"
    mask[:100, :2] = True
    lost = x.copy()
    lost[:20, 0, 1] += 3
    lost[:20, 1] -= 3
    lost[20:100, 0, 0] += 0.9
    typical, few = certificate.round_trip(x, lost, mask)
    assert (typical.verdict, few.verdict) == ("pass", "pass")
    assert few.value == pytest.approx(20 / 3000)
    assert few.uncertainty == pytest.approx(np.std(np.arange(3000) < 20) / np.sqrt(3000))
    lost[20:40, 0, 0] += 0.2
    many = certificate.round_trip(x, lost, mask)[1]
    assert many.value == pytest.approx(40 / 3000) and many.verdict == "fail"


def test_a_round_trip_resolves_the_share_that_would_have_shown_a_jet(rng):
    x, mask = particles(rng, 1500)
    row = certificate.round_trip(x, x, mask, family=30)[1]
    none = (1 - row.resolution) ** 1500  # the chance to have seen none of so many
    assert none == pytest.approx(1e-3 / 30, rel=0.1) and row.verdict == "pass"
    assert certificate.round_trip(x[:700], x[:700], mask[:700])[1].verdict == "undecided"


def test_round_trip_ignores_padding_and_fails_on_nan_elsewhere(rng):
    x, mask = particles(rng, 2000)
    padded = np.where(mask[..., None], x, np.nan)
    assert set(verdicts(certificate.round_trip(x, padded, mask)).values()) == {"pass"}
    padded[3, 0, 0] = np.inf
    rows = certificate.round_trip(x, padded, mask)
    assert [row.verdict for row in rows] == ["fail", "fail"] and "1 of" in rows[0].note


def test_round_trip_of_few_jets_is_undecided(rng):
    x, mask = particles(rng, n=12)
    assert certificate.round_trip(x, x, mask)[0].verdict == "undecided"


def test_sampler_log_prob_passes_solver_noise_and_fails_another_density(rng):
    log_p = 50 * rng.standard_normal(300)
    passed = certificate.sampler_log_prob(log_p + 0.02 * rng.standard_normal(300), log_p)
    assert passed.verdict == "pass" and passed.value == pytest.approx(0.02 * norm.ppf(0.75), rel=0.3)
    assert certificate.sampler_log_prob(log_p + 0.5, log_p).verdict == "fail"
    assert certificate.sampler_log_prob(log_p + 0.02, np.where(log_p > 0, log_p, np.nan)).verdict == "fail"
    assert certificate.sampler_log_prob(log_p[:10], log_p[:10]).verdict == "undecided"


def test_the_error_of_a_median_is_its_spread_over_repeated_samples(rng):
    rows = [certificate.sampler_log_prob(rng.standard_normal(200), np.zeros(200)) for _ in range(200)]
    spread = np.std([row.value for row in rows])
    assert np.mean([row.uncertainty for row in rows]) == pytest.approx(spread, rel=0.2)
    assert np.mean([row.resolution for row in rows]) == pytest.approx(certificate.z_value() * spread, rel=0.25)


# Row 2


def log_probs(llr, rng):
    """log p (n, 2) with this LLR."""
    other = 10 * rng.standard_normal(len(llr))
    return np.stack([other, other + llr], axis=1)


def test_steps_pass_a_small_change(rng):
    llr, label = gaussian_jets(2000, rng)
    log_p = log_probs(llr, rng)
    rows = certificate.steps(log_p, log_p + 0.003 * rng.standard_normal(log_p.shape), label, rng)
    assert [row.row for row in rows] == ["2 steps: log p", "2 steps: LLR", "2 steps: AUC", "2 steps: rejection"]
    assert set(verdicts(rows).values()) == {"pass"}
    assert rows[1].value == pytest.approx(0.003 * math.sqrt(2) * norm.ppf(0.75), rel=0.1)


def test_steps_that_change_nothing_have_no_error(rng):
    llr, label = gaussian_jets(500, rng)
    log_p = log_probs(llr, rng)
    assert all(row.value == row.uncertainty == 0 for row in certificate.steps(log_p, log_p, label, rng, 20))


def test_steps_judge_the_own_model_and_the_ratio_apart(rng):
    llr, label = gaussian_jets(2000, rng)
    log_p = log_probs(llr, rng)
    both = certificate.steps(log_p, log_p + 0.5, label, rng, 50)  # cancels in the ratio
    assert list(verdicts(both).values()) == ["fail", "pass", "pass", "pass"]
    other = log_p.copy()
    other[np.arange(len(label)), 1 - label] += 0.3
    assert list(verdicts(certificate.steps(log_p, other, label, rng, 50)).values())[:2] == ["pass", "fail"]


def test_steps_fail_a_coarse_solver_in_every_row(rng):
    llr, label = gaussian_jets(6000, rng)
    log_p = log_probs(llr, rng)
    coarse = log_p + 0.7 * rng.standard_normal(log_p.shape)
    rows = certificate.steps(coarse, log_p, label, rng)
    assert set(verdicts(rows).values()) == {"fail"}
    assert rows[2].value > 0  # more steps, a better limit


def test_steps_fail_on_nan_and_leave_a_rejection_of_few_jets_undecided(rng):
    llr, label = gaussian_jets(10, rng, separation=6)
    log_p = log_probs(llr, rng)
    few = certificate.steps(log_p, log_p, label, rng, 20)[3]
    assert few.verdict == "undecided" and "30 are needed" in few.note
    log_p[4, 1] = -np.inf
    broken = certificate.steps(log_p, log_p, label, rng, 20)
    assert [row.verdict for row in broken] == ["fail"] * 4 and "2 of 80" in broken[0].note


def test_steps_quote_the_change_from_the_default_to_twice_the_steps(rng):
    llr, label = gaussian_jets(2000, rng)
    log_p = log_probs(llr, rng)
    finer = log_p + 0.7 * rng.standard_normal(log_p.shape)
    *_, area, rejection = certificate.steps(log_p, finer, label, rng, 5)
    before, after = (limit.log_ratio(values) for values in (log_p, finer))
    assert area.value == pytest.approx(limit.auc(after, label) - limit.auc(before, label))
    first, second = (limit.Curve(score, label, score).rejection([0.3])[-1, 0] for score in (before, after))
    assert rejection.value == pytest.approx(second / first - 1)


# Row 3


def test_an_exact_divergence_passes_rounding_and_fails_a_wrong_trace(rng):
    exact = 90 * rng.standard_normal(100)
    rounded = certificate.own_path(exact, exact * (1 + 1e-6 * rng.standard_normal(100)))
    assert rounded.verdict == "pass" and rounded.value < 1e-5
    one_wrong = exact.copy()
    one_wrong[17] += 0.01 * (1 + abs(exact[17]))
    wrong = certificate.own_path(exact, one_wrong)
    assert wrong.verdict == "fail" and wrong.value == pytest.approx(0.01)


def test_hutchinson_passes_noise_fails_bias_and_needs_evaluations(rng):
    exact = 60 + 20 * rng.standard_normal(4000)
    noisy = exact + 9 * rng.standard_normal(4000)
    row = certificate.hutchinson(exact, noisy)
    assert row.verdict == "pass" and row.uncertainty == pytest.approx(9 / 61 / math.sqrt(4000), rel=0.1)
    assert certificate.hutchinson(exact, 1.05 * noisy).verdict == "fail"
    assert certificate.hutchinson(exact[:20], noisy[:20]).verdict == "undecided"


def test_a_handful_of_evaluations_raises_no_alarm(rng):
    noise = rng.standard_normal((500, 4))
    rows = [certificate.hutchinson(np.ones(4), 1 + four) for four in noise]
    assert {row.verdict for row in rows} == {"undecided"}


@pytest.mark.parametrize("row", [certificate.own_path, certificate.hutchinson])
def test_a_divergence_of_nan_fails(row):
    assert row(np.ones(3), [1, np.nan, 1]).verdict == "fail"
    assert row([1, np.inf, 1], [1, np.inf, 1]).verdict == "fail"


# Row 4


def test_the_logistic_fit_agrees_with_scikit_learn(rng):
    llr, label = gaussian_jets(500, rng)
    llr, label = 2 * llr[:800] - 1, label[:800]  # 500 and 300 jets
    (intercept, slope), _ = certificate.logistic_fit(llr, label)
    reference = LogisticRegression(C=1e10, tol=1e-10).fit(llr[:, None], label)
    assert slope == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert intercept == pytest.approx(reference.intercept_[0] - math.log(300 / 500), abs=1e-4)


@pytest.mark.parametrize(("shift", "stretch"), [(1000, 1), (0, 100), (-3, 1e-4), (0, -1)])
def test_the_logistic_fit_follows_an_llr_that_is_far_off(rng, shift, stretch):
    llr, label = gaussian_jets(300, rng)
    (intercept, slope), (_, error) = certificate.logistic_fit(llr, label)
    (far_intercept, far_slope), (_, far_error) = certificate.logistic_fit(shift + stretch * llr, label)
    assert far_slope == pytest.approx(slope / stretch, rel=1e-4)
    assert far_intercept == pytest.approx(intercept - shift * slope / stretch, rel=1e-4, abs=1e-4)
    assert far_error == pytest.approx(error / abs(stretch), rel=1e-4)


def test_errors_of_the_calibration_hold_for_fixed_numbers_of_jets(rng):
    pulls = []
    for _ in range(300):
        llr, label = gaussian_jets(400, rng)
        (intercept, slope), error = certificate.logistic_fit(llr[:600], label[:600])  # 400 and 200 jets
        pulls.append([intercept / error[0], (slope - 1) / error[1]])
        identity = certificate.calibration(llr, label)[2]
        pulls[-1].append(identity.value / identity.uncertainty)
    assert np.std(pulls, axis=0) == pytest.approx(1, abs=4 / math.sqrt(600))
    assert np.abs(np.mean(pulls, axis=0)).max() < 4 / math.sqrt(300)


def test_calibration_passes_the_exact_llr(rng):
    rows = certificate.calibration(*gaussian_jets(30_000, rng))
    assert verdicts(rows) == {"4 slope": "pass", "4 intercept": "pass", "4 identity": "pass"}
    overlaps = [float(word) for word in rows[2].note.split() if word.startswith("0.")]
    assert overlaps == pytest.approx([2 * norm.cdf(-1)] * 2, abs=0.01)  # both tails of Gaussians at distance 2


@pytest.mark.parametrize(
    ("broken", "fail"),
    [
        (lambda llr, label, rng: llr + 1.5 * rng.standard_normal(len(llr)), {"4 slope"}),
        (lambda llr, label, rng: 1.5 * llr, {"4 slope"}),
        (lambda llr, label, rng: 0.7 * llr, {"4 slope"}),
        (lambda llr, label, rng: 30 * llr, {"4 slope"}),
        (lambda llr, label, rng: -llr, {"4 slope"}),
        (lambda llr, label, rng: llr + 0.5, {"4 intercept", "4 identity"}),
        (lambda llr, label, rng: llr - 300, {"4 intercept", "4 identity"}),
        (lambda llr, label, rng: llr + 0.3 * (2 * label - 1), {"4 slope"}),  # a shortcut that sees the label
        (lambda llr, label, rng: llr + 0.6 * label, {"4 slope", "4 intercept", "4 identity"}),
    ],
    ids=["noisy", "stretched", "shrunk", "very stretched", "sign", "shifted", "far off", "shortcut", "bonus"],
)
def test_calibration_fails_a_wrong_llr(rng, broken, fail):
    llr, label = gaussian_jets(30_000, rng)
    rows = certificate.calibration(broken(llr, label, rng), label)
    assert {row.row for row in rows if row.verdict == "fail"} == fail


def test_calibration_of_few_jets_is_undecided(rng):
    for n in (5, 50):
        assert set(verdicts(certificate.calibration(*gaussian_jets(n, rng))).values()) == {"undecided"}


def test_one_outlier_among_few_jets_is_no_alarm():
    llr = [-7, -14, -8, -2, -3, -3, 8, -10, 9, 7, 11, 10]  # a signal jet at -10: rare, not hopelessly so
    label = np.repeat([0, 1], 6)
    (_, slope), (_, error) = certificate.logistic_fit(llr, label)
    assert abs(slope - 1) > 5 * error  # as a normal distribution sees it
    assert certificate.calibration(llr, label)[0].verdict == "undecided"


def test_calibration_fails_on_nan(rng):
    llr, label = gaussian_jets(100, rng)
    llr[3] = np.nan
    rows = certificate.calibration(llr, label)
    assert len(rows) == 3 and all(row.verdict == "fail" and "1 of 200" in row.note for row in rows)


def test_classes_that_the_llr_separates_fail_only_if_it_held_that_to_be_unlikely(rng):
    llr, label = gaussian_jets(200, rng, separation=12)
    for right in (llr, 5 * llr):
        rows = certificate.calibration(right, label)
        assert rows[0].verdict == rows[1].verdict == "undecided" and "no fit" in rows[0].note
    for wrong in (llr / 1000, -llr):
        assert certificate.calibration(wrong, label)[0].verdict == "fail"
    constant = certificate.calibration(np.zeros(400), label)  # claims that nothing tells the classes apart
    assert set(verdicts(constant).values()) == {"undecided"}


def test_row_4_quotes_what_was_done_to_the_llr(rng):
    llr, label = gaussian_jets(30_000, rng)
    wrong = 0.8 * llr + 0.3
    slope, intercept, identity = certificate.calibration(wrong, label)
    assert slope.value == pytest.approx(1 / 0.8 - 1, abs=4 * slope.uncertainty)
    assert intercept.value == pytest.approx(-0.3 / 0.8, abs=4 * intercept.uncertainty)
    background, signal = np.minimum(1, np.exp(wrong))[label == 0], np.minimum(1, np.exp(-wrong))[label == 1]
    assert identity.value == pytest.approx(background.mean() - signal.mean())


# Row 5


def test_the_residuals_uncertainty_is_that_of_a_paired_difference(rng):
    llr, label = gaussian_jets(4000, rng)
    row = certificate.residual(llr, label, llr, rng, fit=lambda *seen: lambda inputs, llr: -0.5 * llr)
    whole = certificate.excess_cross_entropy("half", 0.5 * llr, llr, label)  # of eight folds, of which seven are tested
    assert row.uncertainty == pytest.approx(whole.uncertainty * math.sqrt(8 / 7), rel=0.1)


# Row 6


def test_dominance_is_relative_to_the_larger_of_both(rng):
    llr, label = gaussian_jets(4000, rng)
    assert 0 < certificate.dominance("blind", rng.standard_normal(8000), llr, label, rng, 20).value < 1


def test_dominance_passes_the_exact_llr_and_shows_the_gap(rng):
    llr, label = gaussian_jets(30_000, rng)
    tagger = llr + 2 * rng.standard_normal(len(llr))
    row = certificate.dominance("PFN", tagger, llr, label, rng, 50)
    assert row.row == "6 dominance PFN" and row.verdict == "pass" and row.value > 5 * row.uncertainty > 0
    z = certificate.student_value(certificate.z_value(sides=1, looks=17), 50)
    assert row.resolution == pytest.approx(z * row.uncertainty) and z > 5


def test_the_rows_of_all_taggers_are_those_of_each_in_turn(rng):
    llr, label = gaussian_jets(500, rng)
    logits = {name: llr + rng.standard_normal(len(llr)) for name in ("pfn", "gru")}
    rows, again = certificate.of_taggers(logits, llr, label, np.random.default_rng(1), 20, 30), np.random.default_rng(1)
    for k, (name, logit) in enumerate(logits.items()):
        assert rows[2 * k] == certificate.dominance(name, logit, llr, label, again, 20, 30)
        assert rows[2 * k + 1] == certificate.excess_cross_entropy(name, logit, llr, label, 30)
    assert len(rows) == 4 and certificate.of_taggers({}, llr, label, rng) == []


def test_a_copy_of_the_llr_dominates_nothing(rng):
    llr, label = gaussian_jets(2000, rng)
    row = certificate.dominance("copy", 3 * llr, llr, label, rng, 20)
    assert (row.verdict, row.value, row.uncertainty) == ("pass", 0, 0)
    row = certificate.excess_cross_entropy("copy", llr, llr, label)
    assert (row.verdict, row.value, row.uncertainty) == ("pass", 0, 0)


def test_a_tagger_beats_a_limit_that_is_noisy(rng):
    llr, label = gaussian_jets(5000, rng)
    claimed = llr + 1.5 * rng.standard_normal(len(llr))
    row = certificate.dominance("tagger", llr, claimed, label, rng, 100)
    assert row.verdict == "fail" and row.value < -row.resolution < -row.uncertainty
    assert certificate.excess_cross_entropy("tagger", llr, claimed, label).verdict == "fail"


def test_a_tagger_that_knows_the_label_beats_any_limit(rng):
    llr, label = gaussian_jets(2000, rng)
    row = certificate.dominance("cheat", 2 * label - 1 + 0.1 * rng.standard_normal(len(label)), llr, label, rng, 50)
    assert row.verdict == "fail" and row.value == -1
    assert certificate.excess_cross_entropy("cheat", llr + 0.6 * label - 0.3, llr, label).verdict == "fail"


def test_a_tagger_that_wins_at_a_single_working_point_is_found(rng):
    llr, label = gaussian_jets(20_000, rng)
    tight, loose = np.quantile(llr[label == 1], [0.27, 0.33])
    between = (llr > tight) & (llr < loose)  # around ε_S = 0.7; among these jets it knows the label
    score = np.where(between, np.where(label == 1, loose, tight), llr)
    row = certificate.dominance("one point", score, llr, label, rng, 50)
    assert row.verdict == "fail" and "at ε_S = 0.7 " in row.note


def test_dominance_does_not_see_a_stretched_limit_but_cross_entropy_does(rng):
    llr, label = gaussian_jets(5000, rng)
    assert certificate.dominance("tagger", llr, 2 * llr, label, rng, 20).verdict == "pass"
    assert certificate.excess_cross_entropy("tagger", llr, 2 * llr, label).verdict == "fail"


def test_the_llr_of_a_part_of_the_jet_is_calibrated_and_yet_beaten(rng):
    label = np.repeat([0, 1], 30_000)
    parts = [gaussian_jets(30_000, rng, separation=1.5)[0] for _ in range(2)]
    assert set(verdicts(certificate.calibration(parts[0], label)).values()) == {"pass"}
    assert certificate.dominance("whole jet", sum(parts), parts[0], label, rng, 20).verdict == "fail"
    assert certificate.excess_cross_entropy("whole jet", sum(parts), parts[0], label).verdict == "fail"


def test_row_6_is_undecided_with_few_jets(rng):
    llr, label = gaussian_jets(100, rng)
    noisy = llr + rng.standard_normal(len(llr))
    assert certificate.dominance("tagger", noisy, llr, label, rng, 30).verdict == "undecided"
    assert certificate.excess_cross_entropy("tagger", noisy, llr, label).verdict == "undecided"
    row = certificate.dominance("tagger", noisy[80:120], llr[80:120], label[80:120], rng, 30)
    assert row.verdict == "undecided" and "fewer than 30" in row.note


def test_a_tagger_known_to_be_behind_passes_where_jets_are_too_few_to_see_the_criterion(rng):
    llr, label = gaussian_jets(2000, rng)
    far, near = (llr + width * rng.standard_normal(len(llr)) for width in (3, 0.3))
    row = certificate.dominance("far", far, llr, label, rng, 100)
    assert row.resolution > row.criterion and row.value > row.resolution
    assert row.verdict == "pass" and "excluded at all working points" in row.note
    row = certificate.dominance("near", near, llr, label, rng, 100)
    assert row.resolution > row.criterion and row.verdict == "undecided"


def test_a_tagger_that_may_be_better_somewhere_leaves_it_undecided(rng):
    """The claimed LLR is blind for the best quarter of the signal, where few jets survive; it is right elsewhere."""
    llr, label = gaussian_jets(15_000, rng)
    best = llr > np.quantile(llr[label == 1], 0.75)
    claimed = np.where(best, llr[best].min() + rng.permutation(np.arange(len(llr))) / len(llr), llr)
    row = certificate.dominance("better at the top", llr, claimed, label, rng, 50)
    assert row.verdict == "undecided" and -row.resolution < row.value < -row.criterion


def test_a_tagger_that_is_better_never_passes(rng):
    for n in (200, 500, 2000):
        llr, label = gaussian_jets(n, rng)
        claimed = llr + rng.standard_normal(len(llr))
        assert certificate.dominance("better", llr, claimed, label, rng, 50).verdict != "pass"


def test_row_6_fails_on_nan(rng):
    llr, label = gaussian_jets(100, rng)
    broken = np.where(np.arange(200) == 5, np.nan, llr)
    for score, claimed in ((broken, llr), (llr, broken)):
        assert certificate.dominance("tagger", score, claimed, label, rng, 10).verdict == "fail"
        assert certificate.excess_cross_entropy("tagger", score, claimed, label).verdict == "fail"


def test_the_resolution_of_the_cross_entropy_is_markovs(rng):
    llr, label = gaussian_jets(500, rng)
    row = certificate.excess_cross_entropy("tagger", 0.5 * llr, llr, label)
    assert row.resolution == pytest.approx(math.log(certificate.FAMILY / 1e-3) / 1000)
    spread = np.std(
        [
            certificate.excess_cross_entropy("tagger", 0.5 * llr, llr, label).value
            for llr, label in (gaussian_jets(500, rng) for _ in range(200))
        ]
    )
    assert row.uncertainty == pytest.approx(spread, rel=0.25)


# Row 7


def test_the_null_reports_how_far_its_jets_are_told_apart(rng):
    llr, label = gaussian_jets(2000, rng, separation=0.5)
    rows = certificate.null({"LLR": llr, "blind": rng.standard_normal(4000)}, label, rng, 100)
    assert verdicts(rows) == {"7 null: LLR": "reported", "7 null: blind": "reported"}
    assert rows[0].value == pytest.approx(norm.cdf(0.5 / math.sqrt(2)), abs=4 * rows[0].uncertainty)
    assert rows[1].value == pytest.approx(0.5, abs=4 * rows[1].uncertainty)
    assert rows[1].uncertainty == pytest.approx(math.sqrt(1 / 12 / 1000), rel=0.3)  # of the mean rank, n jets per class
    assert math.isnan(rows[0].criterion) and math.isnan(rows[0].resolution)
    nats = float(rows[0].note.partition("cross-entropy ")[2].partition(" ")[0])  # that of the jets' posteriors
    assert nats == pytest.approx(limit.excess_kl(llr, np.zeros(4000)).mean(), abs=0.02)


def test_a_null_of_nan_fails(rng):
    llr, label = gaussian_jets(100, rng)
    (row,) = certificate.null({"LLR": np.where(label == 0, np.nan, llr), "tagger": llr}, label, rng, 10)
    assert (row.row, row.verdict) == ("7 null: LLR", "fail") and "100 of 200" in row.note


# The certificate as a whole


@pytest.mark.parametrize(
    "row",
    [
        lambda size, rng: certificate.sampler_log_prob(np.zeros(1000) + size * 0.1, np.zeros(1000)),
        lambda size, rng: certificate.round_trip(
            np.zeros((1000, 2, 3)), np.full((1000, 2, 3), size * 0.02), np.ones((1000, 2), bool)
        )[0],
        lambda size, rng: certificate.own_path(np.zeros(10), np.full(10, size * 1e-3)),
        lambda size, rng: certificate.hutchinson(np.ones(1000), 1 + size * 0.04 + 1e-3 * rng.standard_normal(1000)),
        lambda size, rng: certificate.closure(np.zeros((1000, 2)), np.full((1000, 2), size * 0.1))[0],
        lambda size, rng: stretched(size * 0.05, rng),
    ],
    ids=["sampler", "round trip", "own_path", "hutchinson", "closure", "slope"],
)
def test_criteria_are_the_published_ones(row, rng):
    """An effect somewhat smaller passes and one somewhat larger fails, where there are jets enough."""
    assert [row(size, rng).verdict for size in (0.7, 1.4)] == ["pass", "fail"]


def stretched(slope, rng):
    """The slope's row of an LLR that is so much too flat."""
    llr, label = gaussian_jets(400_000, rng)
    return certificate.calibration(llr / (1 + slope), label)[0]


def test_chance_raises_no_false_alarm(rng):
    """300 true experiments of all statistical rows, with taggers worse than, close to and equal to the limit."""
    alarms = []
    for _ in range(300):
        llr, label = gaussian_jets(300, rng, separation=rng.uniform(0.5, 3))
        scores = {"close": llr + 0.1 * rng.standard_normal(600), "poor": 0.5 * llr + rng.standard_normal(600)}
        rows = certificate.calibration(llr, label)
        rows += [certificate.dominance(name, score, llr, label, rng, 25) for name, score in scores.items()]
        rows += [certificate.excess_cross_entropy(name, score, llr, label) for name, score in scores.items()]
        rows.append(certificate.hutchinson(np.ones(20), 1 + rng.standard_normal(20)))
        alarms += [row for row in rows if row.verdict == "fail"]
    assert alarms == []


def test_toy_jets_pass_with_their_true_llr_and_fail_with_half_a_llr(rng):
    jets = concatenate([toy.generate(label, 4000, 12, rng) for label in ("gluon", "top")])
    llr, label = toy.log_prob(jets, "top") - toy.log_prob(jets, "gluon"), np.repeat([0, 1], 4000)

    def rows(tagger, claimed):
        return [
            *certificate.calibration(claimed, label),
            certificate.dominance("tagger", tagger, claimed, label, rng, 50),
            certificate.excess_cross_entropy("tagger", tagger, claimed, label),
        ]

    true = rows(0.9 * llr + 0.5 * rng.standard_normal(len(llr)), llr)
    assert "fail" not in verdicts(true).values() and "pass" in verdicts(true).values()
    counts = np.log(toy.p_count("top", 12)[jets.count]) - np.log(toy.p_count("gluon", 12)[jets.count])
    without_n = llr - counts  # p(N) forgotten
    assert "fail" in verdicts(rows(llr, without_n)).values()
    assert "fail" in verdicts(rows(llr, llr / 2)).values()


def test_shapes_that_differ_are_refused_not_broadcast(rng):
    with pytest.raises(ValueError, match=r"the same jets are needed, got shapes \(3,\) and \(3, 1\)"):
        certificate.sampler_log_prob(np.ones(3), np.ones((3, 1)))
    with pytest.raises(ValueError, match="the same jets are needed"):
        certificate.own_path(np.ones(3), np.ones(1))
    with pytest.raises(ValueError, match="the same jets are needed"):
        certificate.steps(np.ones((4, 2)), np.ones((4, 1)), [0, 0, 1, 1], rng)
    with pytest.raises(ValueError, match="as many signal as background jets"):
        certificate.excess_cross_entropy("t", np.ones(3), np.ones(3), [0, 1, 1])


def test_a_certificate_is_written_as_json_without_nan(tmp_path, rng):
    llr, label = gaussian_jets(100, rng)
    rows = [
        *certificate.calibration(llr, label),
        *certificate.calibration(np.full(200, np.nan), label),
        certificate.judged("inf", "what", 0.1, -np.inf, np.float64(1), np.float32(2), "note"),
        certificate.not_run("5 residual", "nothing lowers the loss", "too dear"),
    ]
    certificate.write(tmp_path / "certificate.json", rows)

    def refuse(constant):
        raise AssertionError(constant)

    written = json.loads((tmp_path / "certificate.json").read_text(), parse_constant=refuse)
    keys = "row property value uncertainty criterion resolution verdict note".split()
    assert all(list(row) == keys for row in written)
    assert written[0]["row"] == "4 slope" and written[0]["value"] == pytest.approx(rows[0].value, rel=1e-9)
    assert written[3]["value"] is None and written[3]["verdict"] == "fail"
    assert written[6]["value"] is None and written[6]["resolution"] == 2
    assert written[7]["verdict"] == "not run" and written[7]["note"] == "too dear"
    table = certificate.table(rows)
    assert list(table) == keys and list(table["verdict"]) == [row["verdict"] for row in written]


def test_a_row_cannot_be_changed_afterwards():
    row = Row("r", "p", 0.0, 0.0, 0.1, 0.0, "pass")
    with pytest.raises(AttributeError):
        row.verdict = "fail"
