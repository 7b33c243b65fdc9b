from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from jetstudy import judges, limit, taggers
from jetstudy.jets import Jets, concatenate
from jetstudy.sources import draw
from jetstudy.training import Recipe


def toy_jets(n_jets, seed, label="gluon", n_max=6):
    return draw("toy", label, n_jets, n_max, seed, ("gluon", "top"))


def with_pairs(jets, mass):
    """In half of the jets of more than one particle the two softest lie side by side, with this mass."""
    particles, chosen = jets.particles.copy(), np.random.default_rng(0).random(len(jets)) < 0.5
    for i in np.flatnonzero(chosen & (jets.count > 1)):
        first, second = particles[i, jets.count[i] - 2 : jets.count[i]]
        second[:2] = first[0], first[1] + mass / np.sqrt(first[2] * second[2])
    return Jets(particles, jets.mask, jets.features)


def mass_judge(training, validation, generator, checkpoint):
    """A judge of one number, quick and with nothing to chance: heavier or lighter, whichever the training jets say."""
    jets, label = training
    sign = np.sign(jets.mass[label == 1].mean() - jets.mass[label == 0].mean())
    return lambda jets: sign * jets.mass


def blind_judge(training, validation, generator, checkpoint):
    """A judge that has learned nothing."""
    return lambda jets: np.zeros(len(jets))


def quiet_tagger(steps, rate=1e-2):
    recipe = Recipe(steps=steps, batch=64, rate=rate, every=steps, ema=0.9)
    build = partial(taggers.build, "transformer", width=8, heads=2, blocks=1)
    return judges.tagger(lambda features: build(features=features), recipe, progress=lambda line: None)


# DeLong's error


def test_delong_counts_pairs_and_agrees_with_the_auc_of_the_limit():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 80)
    score = np.round(rng.normal(size=80) + label, 1)  # with ties
    value, _ = judges.delong(score, label)
    pairs = score[label == 1][:, None] - score[label == 0]
    assert value == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert value == pytest.approx(limit.auc(score, label))


def test_delongs_error_of_four_jets_by_hand():
    """Signal at 1 and 3, background at 0 and 2: the signal jets outrank 1/2 and 1, the background jets 0 and 1/2."""
    assert judges.delong([1, 3, 0, 2], [1, 1, 0, 0]) == pytest.approx((0.75, np.sqrt(0.125 / 2 + 0.125 / 2)))


def test_delongs_error_is_the_spread_of_the_auc():
    label = np.repeat([0, 1], [150, 100])
    found = np.array([judges.delong(np.random.default_rng(i).normal(label), label) for i in range(400)])
    assert found[:, 0].mean() == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=4 * found[0, 1] / 20)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=0.15)


def test_delong_wants_two_jets_of_each_class():
    with pytest.raises(ValueError, match="1 and 3 jets"):
        judges.delong([1, 2, 3, 4], [1, 0, 0, 0])


def test_delongs_error_by_hand_for_unequal_numbers():
    score, label = np.array([0.0, 2.0, 4.0, 1.0, 3.0]), np.array([0, 0, 0, 1, 1])
    signal, background = (
        np.array([1 / 3, 2 / 3]),
        np.array([1.0, 0.5, 0.0]),
    )  # of the other class each is above or below
    error = np.sqrt(signal.var(ddof=1) / 2 + background.var(ddof=1) / 3)
    assert judges.delong(score, label) == pytest.approx((0.5, error))


# Distortions


def test_wider_jets_have_larger_angles_and_the_same_momenta():
    jets = toy_jets(20, 1)
    wide = judges.wider(jets, 0.25)
    np.testing.assert_allclose(wide.particles, jets.particles * [1.25, 1.25, 1], rtol=1e-6)
    assert wide.particles.dtype == np.float32 and wide.mask is jets.mask


def test_steeper_jets_keep_their_sum_and_order_and_tilt_the_ratios():
    jets = toy_jets(20, 1)
    steep = judges.steeper(jets, 0.5)
    np.testing.assert_allclose(steep.ptrel_sum, jets.ptrel_sum, rtol=1e-5)
    np.testing.assert_array_equal(steep.mask, jets.mask)
    np.testing.assert_array_equal(steep.particles[..., :2], jets.particles[..., :2])
    two = jets.count > 1
    ratio, tilted = (j.particles[two, 1, 2] / j.particles[two, 0, 2] for j in (jets, steep))
    np.testing.assert_allclose(tilted, ratio**1.5, rtol=1e-4)


@pytest.mark.parametrize("distort", [judges.wider, judges.steeper])
def test_no_distortion_changes_nothing(distort):
    jets = toy_jets(20, 1)
    np.testing.assert_allclose(distort(jets, 0.0).particles, jets.particles, rtol=1e-6)


# Contests


def contest(source, other, chosen, tmp_path, seed=0):
    table = judges.contest(source, other, chosen, np.random.default_rng(seed), tmp_path)
    return table.set_index("metric")


def test_boosting_sees_more_the_more_the_jets_are_distorted(tmp_path):
    source, other = toy_jets(700, 1), toy_jets(700, 2)
    values = []
    for excess in (0.0, 0.3, 1.0):
        row = contest(source, judges.wider(other, excess), {"boosting": judges.boosting}, tmp_path).loc["auc_boosting"]
        values.append(row["value"])
    assert abs(values[0] - 0.5) < 4 * row["uncertainty"] + 0.05
    assert values[0] < values[1] < values[2] and values[2] > 0.5 + 3 * row["uncertainty"]


def test_pairs_of_one_mass_are_seen_by_who_counts_pairs(tmp_path):
    """In half of the jets the two softest particles come to lie side by side, with a mass of 2e-4."""
    source, other = toy_jets(900, 1), with_pairs(toy_jets(900, 2), 2e-4)
    bench = {name: judges.named(name, 1) for name in ("boosting", "pairs")}
    assert judges.named("pairs.2", 1) is judges.pairs and not judges.on_features("pfn.2")
    table = contest(source, other, bench, tmp_path)
    seen, error = table.loc["auc_pairs", "value"], table.loc["auc_pairs", "uncertainty"]
    assert seen > 0.5 + 5 * error and seen > table.loc["auc_boosting", "value"] + 2 * error
    assert table.loc["auc_best", "judge"] == "pairs"


def test_a_judge_of_jets_with_permuted_labels_finds_nothing(tmp_path):
    both = concatenate([toy_jets(400, 1), toy_jets(400, 2, "top")])
    both = both[np.random.default_rng(3).permutation(800)]
    row = contest(both[:400], both[400:], {"boosting": judges.boosting}, tmp_path).loc["auc_boosting"]
    assert abs(row["value"] - 0.5) < 3.5 * row["uncertainty"]


def test_a_tagger_can_judge_and_goes_on_from_its_checkpoint(tmp_path):
    source, other = toy_jets(300, 1), judges.wider(toy_jets(300, 2), 2.0)
    chosen = {"attention": quiet_tagger(60)}
    first = contest(source, other, chosen, tmp_path / "new")
    assert first.loc["auc_attention", "value"] > 0.5 + 3 * first.loc["auc_attention", "uncertainty"]
    assert len(list((tmp_path / "new").glob("attention-*.safetensors"))) == 1
    pd.testing.assert_frame_equal(contest(source, other, chosen, tmp_path / "new"), first)


def test_no_training_goes_on_with_other_jets(tmp_path):
    source, chosen = toy_jets(100, 1), {"attention": quiet_tagger(20)}
    contest(source, toy_jets(100, 2), chosen, tmp_path / "used")
    other = judges.wider(toy_jets(100, 2), 2.0)
    again = contest(source, other, chosen, tmp_path / "used")
    pd.testing.assert_frame_equal(again, contest(source, other, chosen, tmp_path / "fresh"))


def test_a_verdict_does_not_depend_on_who_else_is_judged(tmp_path):
    def noise_judge(training, validation, generator, checkpoint):
        return lambda jets: generator.standard_normal(len(jets))

    source = {"gluon": toy_jets(200, 1), "top": toy_jets(200, 2)}
    one, other = ({label: toy_jets(100, seed) for label in source} for seed in (3, 4))
    alone, both = (
        judges.verdicts(source, drawn, {"noise": noise_judge}, np.random.default_rng(7), tmp_path)
        for drawn in ({"one": one}, {"other": other, "one": one})
    )
    both = both[both["surrogate"] != "other"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, both)
    assert alone["value"].nunique() == len(alone) / 2  # `best` says what the only judge says


def test_a_tagger_is_built_from_the_features_of_its_training_jets(tmp_path):
    seen = []

    def build(features):
        seen.append(features)
        return taggers.build("transformer", features, width=8, heads=2, blocks=1)

    judge = judges.tagger(build, Recipe(steps=1, batch=8, rate=1e-3, every=1), progress=lambda line: None)
    contest(toy_jets(40, 1), judges.wider(toy_jets(40, 2), 4.0), {"mine": judge}, tmp_path)
    narrow = np.concatenate([jets.particles[jets.mask] for jets in (toy_jets(40, 1)[:24],)])[:, 0].std()
    assert seen[0].std[0] > 2 * narrow


def test_training_validation_and_test_share_no_jet(tmp_path):
    seen = {}

    def spy(training, validation, generator, checkpoint):
        seen["training"], seen["validation"] = training[0], validation[0]
        return lambda jets: seen.setdefault(len(jets), jets).mass

    source, other = toy_jets(50, 1), toy_jets(50, 2)
    contest(source, other, {"spy": spy}, tmp_path)
    samples = [seen["training"], seen["validation"], seen[30]]
    assert [len(jets) for jets in samples] == [60, 10, 30]
    masses = np.concatenate([jets.mass for jets in samples])
    assert sorted(masses) == sorted(np.concatenate([source.mass, other.mass]))


def test_the_best_judge_is_chosen_on_the_validation_part(tmp_path):
    """One is right on validation and wrong in the test, one the other way round: what was chosen is what is quoted."""

    def two_faced(right_in_validation):
        def judge(training, validation, generator, checkpoint):
            sign = 1 if right_in_validation else -1
            return lambda jets: jets.mass * (sign if len(jets) == len(validation[0]) else -sign)

        return judge

    chosen = {"early": two_faced(True), "late": two_faced(False), "blind": blind_judge}
    table = contest(toy_jets(100, 1), judges.wider(toy_jets(100, 2), 3.0), chosen, tmp_path)
    assert table.index.tolist() == ["auc_early", "auc_late", "auc_blind", "auc_best"]
    assert table.loc["auc_best", "judge"] == "early"
    assert table.loc["auc_best", "value"] == table.loc["auc_early", "value"] < 0.5 < table.loc["auc_late", "value"]


def test_contests_need_equal_numbers_of_jets_and_enough(tmp_path):
    with pytest.raises(ValueError, match="30 and 29 jets"):
        contest(toy_jets(30, 1), toy_jets(29, 2), {}, tmp_path)
    with pytest.raises(ValueError, match="19 and 19 jets"):
        contest(toy_jets(19, 1), toy_jets(19, 2), {}, tmp_path)
    with pytest.raises(ValueError, match="'best'"):
        contest(toy_jets(30, 1), toy_jets(30, 2), {"best": blind_judge}, tmp_path)


def test_the_floors_and_the_powers_jets_are_others_than_the_judged_are_compared_with(tmp_path):
    seen = {}

    def spy(training, validation, generator, checkpoint):
        sides = seen.setdefault(checkpoint.parent.name, [set(), set()])
        for jets, label in (training, validation):
            for c in (0, 1):
                sides[c] |= set(jets.features[label == c, 0])

        def score(jets):
            for c, half in enumerate(np.array_split(np.arange(len(jets)), 2)):
                sides[c] |= set(jets.features[half, 0])
            return np.zeros(len(jets))

        return score

    jets, other = (draw("toy", "top", n, 6, seed, ("gluon", "top")) for n, seed in ((80, 1), (60, 2)))
    jets.features[:, 0], other.features[:, 0] = np.arange(80), 1000 + np.arange(60)
    numbers, as_they_are = np.random.default_rng(0), {"none": lambda jets: jets}
    judges.verdicts({"top": jets}, {"mine": {"top": other}}, {"spy": spy}, numbers, tmp_path, as_they_are)
    (a, b), (first, synthetic), (again, distorted) = (seen[name] for name in ("source", "mine", "source, none"))
    assert a == first == again and len(a) == 40 and not a & b and distorted == b and not a & synthetic


# Verdicts


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    source = {name: toy_jets(1600, 1, name) for name in ("gluon", "top")}
    same = {name: toy_jets(900, 2, name) for name in ("gluon", "top")}
    synthetic = {"good": same, "bad": {name: judges.wider(jets, 3.0) for name, jets in same.items()}}
    chosen = {"mass": mass_judge, "blind": blind_judge}
    distortions = {"wide": partial(judges.wider, excess=3.0), "none": partial(judges.wider, excess=0.0)}
    folder = tmp_path_factory.mktemp("judges")
    return judges.verdicts(source, synthetic, chosen, np.random.default_rng(0), folder, distortions)


def test_the_table_has_a_row_for_each_contest_and_judge(table):
    columns = ["surrogate", "class", "metric", "value", "uncertainty", "floor", "floor_uncertainty", "jets"]
    assert list(table.columns) == [*columns, "judge", "verdict"]
    assert len(table) == 2 * 4 * 3 and set(table["jets"]) == {800}
    assert set(table["surrogate"]) == {"good", "bad", "source, wide", "source, none"}
    assert (abs(table["floor"] - 0.5) <= 4 * table["floor_uncertainty"]).all()
    assert (table.groupby(["class", "judge"])["floor"].nunique() == 1).all()  # the best's is the chosen judge's
    assert table["floor"].nunique() > 2


@pytest.mark.parametrize(
    ("surrogate", "metric", "verdict"),
    [
        ("bad", "auc_mass", "separates"),
        ("good", "auc_mass", "finds nothing"),
        ("source, wide", "auc_mass", "separates"),
        ("source, none", "auc_mass", "finds nothing"),
        ("bad", "auc_blind", "has not learned"),
        ("good", "auc_blind", "has not learned"),
        ("bad", "auc_best", "separates"),
    ],
)
def test_a_verdict_is_worth_what_the_judge_has_shown(table, surrogate, metric, verdict):
    rows = table[(table["surrogate"] == surrogate) & (table["metric"] == metric)]
    assert len(rows) == 2 and set(rows["verdict"]) == {verdict}
    expected = {"auc_best": "mass"}.get(metric, metric.removeprefix("auc_"))
    assert expected in set(rows["judge"])


def test_a_judge_that_never_saw_a_distortion_has_not_learned_whatever_it_says(tmp_path):
    """And without distortions no judge has."""
    jets = {"gluon": toy_jets(80, 1)}
    table = judges.verdicts(
        jets, {"same": {"gluon": toy_jets(40, 2)}}, {"blind": blind_judge}, np.random.default_rng(0), tmp_path, {}
    )
    assert set(table["surrogate"]) == {"same"} and set(table["verdict"]) == {"has not learned"}


def test_a_class_without_synthetic_jets_is_a_key_error(tmp_path):
    with pytest.raises(KeyError, match="gluon"):
        judges.verdicts({"gluon": toy_jets(80, 1)}, {"mine": {}}, {}, np.random.default_rng(0), tmp_path)


def test_the_distortions_that_come_with_it_are_small():
    jets = toy_jets(50, 1)
    for distort in judges.DISTORTIONS.values():
        changed = distort(jets)
        assert not np.array_equal(changed.particles, jets.particles)
        np.testing.assert_allclose(changed.particles, jets.particles, rtol=0.4)


def test_judging_leaves_torchs_global_stream_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    contest(toy_jets(40, 1), toy_jets(40, 2), {"attention": quiet_tagger(2)}, tmp_path)
    assert torch.equal(torch.rand(3), expected)
