"""Rows 5 and 8 of the certificate, and the closed-form velocity through the solver."""

import math
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch

from jetstudy import certificate, closure, limit
from jetstudy.diffusion import velocity_error
from jetstudy.features import Features
from jetstudy.jets import concatenate
from jetstudy.limit import POSTERIOR_WEIGHTED, Curve, auc, cross_entropy
from jetstudy.probability_flow import Solver
from jetstudy.schedules import SCHEDULES
from jetstudy.sources import toy
from jetstudy.surrogate import Surrogate, build_network, score

N_MAX, CLASSES = 6, ("gluon", "top")


@pytest.fixture
def rng():
    return np.random.default_rng(21)


def parts(n, rng, separations=(1.5, 1.0)):
    """The exact LLR of each independent part of n jets per class, (2n, parts), and the labels."""
    label, d = np.repeat([0, 1], n)[:, None], np.array(separations)
    return d * (rng.standard_normal((2 * n, len(d))) + d * label) - d**2 / 2, label[:, 0]


def toy_jets(n, rng):
    jets = concatenate([toy.generate(c, n, N_MAX, rng) for c in ("gluon", "top")])
    return jets, np.stack([toy.log_prob(jets, c) for c in ("gluon", "top")], axis=1), np.repeat([0, 1], n)


# Row 5


def test_nothing_is_left_over_beside_the_exact_llr(rng):
    x, label = parts(10_000, rng)
    row = certificate.residual(x.sum(1), label, np.column_stack([x, rng.standard_normal(20_000)]), rng)
    assert row.row == "5 residual" and row.verdict == "pass" and row.value > -row.resolution
    assert row.resolution == pytest.approx(math.log(certificate.FAMILY / 1e-3) / 17_500)


def test_the_llr_of_a_part_of_the_jet_leaves_the_rest_over(rng):
    x, label = parts(3000, rng)
    row = certificate.residual(x[:, 0], label, x[:, 1], rng)
    gain = (cross_entropy(x.sum(1), label) - cross_entropy(x[:, 0], label)).mean()
    assert row.verdict == "fail" and row.value == pytest.approx(gain, abs=4 * row.uncertainty)


@pytest.mark.parametrize(
    "broken",
    [
        lambda llr, label, rng: llr + rng.standard_normal(len(llr)),
        lambda llr, label, rng: 1.5 * llr,
        lambda llr, label, rng: llr + 0.5,
    ],
    ids=["noisy", "stretched", "shifted"],
)
def test_a_wrong_llr_is_improved_even_if_the_inputs_know_nothing(rng, broken):
    x, label = parts(5000, rng)
    row = certificate.residual(broken(x.sum(1), label, rng), label, rng.standard_normal(len(label)), rng)
    assert row.verdict == "fail"


def test_a_bend_that_only_a_product_of_inputs_sees_is_found(rng):
    x, label = parts(5000, rng)
    a, b = rng.choice([-1.0, 1.0], size=(2, len(label)))
    row = certificate.residual(x.sum(1) + 0.8 * a * b, label, np.column_stack([a, b]), rng)
    assert row.verdict == "fail"


def test_the_residual_looks_at_no_held_out_label(rng):
    """With inputs that single out each jet, a fit that saw the labels it is tested on would find a lot."""
    x, label = parts(300, rng)
    row = certificate.residual(x.sum(1), label, rng.standard_normal((600, 30)), rng)
    assert row.value > -row.resolution


def test_chance_leaves_a_residual_once_in_many_certificates(rng):
    """The product of q/p, an e-value, averages at most 1 over true experiments: that is what bounds false alarms."""
    rows = []
    for _ in range(100):
        x, label = parts(100, rng)
        rows.append(certificate.residual(x.sum(1), label, np.column_stack([x, x**2]), rng))
    n = 2 * (100 - 13)  # the first of eight folds of 13 and 12 jets per class is not tested
    e_values = np.exp([-n * row.value for row in rows])
    assert e_values.mean() < 1 + 4 * e_values.std() / math.sqrt(100)
    assert not any(row.verdict == "fail" for row in rows)


def test_a_residual_needs_jets_and_finite_numbers(rng):
    x, label = parts(100, rng)
    assert certificate.residual(x.sum(1), label, x, rng).verdict == "undecided"
    few = np.r_[0:3, 100:103]
    row = certificate.residual(x[few].sum(1), label[few], x[few], rng)
    assert row.verdict == "undecided" and "6 jets are too few" in row.note
    llr = np.where(np.arange(200) == 7, np.nan, x.sum(1))
    assert certificate.residual(llr, label, x, rng).verdict == "fail"
    with pytest.raises(ValueError, match="as many signal as background"):
        certificate.residual(x[1:].sum(1), label[1:], x[1:], rng)


def test_an_input_that_never_changes_does_no_harm(rng):
    x, label = parts(100, rng)
    constant = np.column_stack([x[:, 0], np.full(200, 30.0)])
    assert np.isfinite(certificate.residual(x.sum(1), label, constant, rng).value)


# Row 8


def test_closure_passes_a_small_error_and_fails_one_that_is_not_common_to_both_models(rng):
    exact = 20 * rng.standard_normal((500, 2))
    off = 0.02 * rng.standard_normal((500, 2))
    assert [row.verdict for row in certificate.closure(exact, exact + off)] == ["pass", "pass"]
    common = certificate.closure(exact, exact + off + 0.3)
    assert [row.row for row in common] == ["8 closure: log p", "8 closure: LLR"]
    assert [row.verdict for row in common] == ["fail", "pass"]
    assert [row.verdict for row in certificate.closure(exact, exact + np.array([0.0, 0.2]))] == ["fail", "fail"]
    assert common[0].value == pytest.approx(0.3, abs=0.05)


def test_closure_fails_on_nan_and_is_undecided_with_few_jets(rng):
    exact = rng.standard_normal((200, 2))
    broken = exact.copy()
    broken[3, 1] = -np.inf
    assert [row.verdict for row in certificate.closure(exact, broken)] == ["fail", "fail"]
    assert [row.verdict for row in certificate.closure(exact[:10], exact[:10])] == ["undecided"] * 2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_closed_form_velocity_through_the_solver_closes_and_a_coarse_one_does_not(rng, schedule):
    jets, exact, _ = toy_jets(20, rng)
    features = Features.fit([jets])

    def computed(solver):
        models = [
            Surrogate(
                label=label,
                velocity=toy.ToyVelocity(label, features, SCHEDULES[schedule]),
                features=features,
                p_count=toy.p_count(label, N_MAX),
                solver=solver,
                divergence="own_path",
                dtype=torch.float64,
            )
            for label in ("gluon", "top")
        ]
        return score(models, jets)

    fine = certificate.closure(exact, computed(Solver("midpoint", 16, 2.0)))
    assert [row.verdict for row in fine] == ["pass", "pass"] and fine[0].value < 0.03
    coarse = certificate.closure(exact, computed(Solver("euler", 3, 1.0)))
    assert [row.verdict for row in coarse] == ["fail", "fail"]


def test_closure_of_trained_surrogates_is_reported_and_not_judged(rng):
    _, exact, label = toy_jets(2000, rng)
    found = exact + 0.5 * rng.standard_normal(exact.shape)
    times = {"t": [0.2, 0.8], "error": [0.01, 0.03], "uncertainty": [0.001, 0.002], "exact": [1.0, 2.0]}
    rows = certificate.trained_closure(exact, found, label, pd.DataFrame(times), rng, 50)
    assert {row.verdict for row in rows} == {"reported"}
    area, log_p, velocity = rows
    assert area.row == "8 closure: trained AUC" and area.value < -3 * area.uncertainty
    assert area.value == pytest.approx(auc(np.diff(found)[:, 0], label) - auc(np.diff(exact)[:, 0], label))
    assert log_p.value == pytest.approx(0.5 * 0.674, abs=4 * log_p.uncertainty)
    assert (velocity.value, velocity.uncertainty) == (pytest.approx(0.02), pytest.approx(0.0015))
    (same, *_) = certificate.trained_closure(exact, exact, label, pd.DataFrame(times), rng, 10)
    assert (same.value, same.uncertainty) == (0, 0)


def scored(jets, label, log_prob, logits):
    return limit.Scored(jets, label, log_prob, {("pfn", "source"): logits, ("pfn", "synthetic"): logits})


def test_surrogates_that_are_the_truth_have_no_errors_in_the_table_of_closure(rng):
    jets, exact, label = toy_jets(300, rng)
    llr = np.diff(exact)[:, 0]
    sample = scored(jets, label, exact, llr + rng.standard_normal(600))
    table = closure.table(exact, {"source": sample, "synthetic": sample}, ["pfn"], ["source", "synthetic"])
    value = table.set_index("quantity")["value"]
    assert value["median |log p - true log p|, nats"] == value["median |LLR - true LLR|, nats"] == 0
    assert value["correlation of LLR and true LLR"] == pytest.approx(1)
    assert value["AUC of the surrogates' LLR"] == value["AUC of the true LLR"] == auc(llr, label)
    assert value["AUC of PFN on source jets"] == auc(sample.logits["pfn", "source"], label)
    caption = closure.caption(table)
    assert "the surrogates' LLR +0.0000" in caption and "the true LLR +0.0000" not in caption


def test_errors_of_surrogates_are_those_of_the_own_class_in_log_p_and_of_both_in_the_ratio(rng):
    jets, exact, label = toy_jets(100, rng)
    own = np.arange(200), label
    off = np.zeros_like(exact)
    off[own] = 0.25
    off[own[0], 1 - label] = 3.0
    sample = scored(jets, label, exact + off, np.diff(exact)[:, 0])
    synthetic = scored(jets, label, exact, np.diff(exact)[:, 0])
    samples = {"source": sample, "synthetic": synthetic}
    value = closure.table(exact, samples, ["pfn"], ["source"]).set_index("quantity")["value"]
    assert value["median |log p - true log p|, nats"] == pytest.approx(0.25)
    assert value["median |LLR - true LLR|, nats"] == pytest.approx(2.75)
    assert "AUC of PFN on synthetic jets" not in value
    curves = closure.curves(exact, samples, ["pfn"], ["source"], rng, 10)
    assert list(curves["tagger"].unique()) == [
        "limit",
        "LLR of the surrogates on source jets",
        "pfn on source jets",
        "LLR of the surrogates on synthetic jets",
    ]
    # As good as the truth itself where it is the truth.
    at = curves[curves["estimate"] == "counted"].pivot(index="eps_s", columns="tagger", values="rejection")
    pd.testing.assert_series_equal(at["LLR of the surrogates on synthetic jets"], at["limit"], check_names=False)


# Rows 1 to 3


def test_the_rows_on_scoring_are_those_of_their_own_functions(rng):
    x, log_prob = rng.standard_normal((40, N_MAX, 3)), 5 * rng.standard_normal((40, 2))
    label, mask, div = np.repeat([0, 1], 20), np.ones((40, N_MAX), bool), rng.standard_normal(40)
    checks = {
        **{"there": x, "back": x + 1e-3, "mask": mask, "sampled": log_prob[:, 0], "scored": log_prob[:, 0] + 0.01},
        **{"default": log_prob, "doubled": log_prob + 0.02, "jacobian": div, "hutchinson": div + 0.1},
    }
    rows = certificate.scoring(checks, np.random.default_rng(1), family=30)
    steps = certificate.steps(log_prob, log_prob + 0.02, label, np.random.default_rng(1), family=30)
    assert [row.row[0] for row in rows] == list("1112222" + "33")
    assert repr(rows[3:7]) == repr(steps)
    assert rows[:2] == certificate.round_trip(x, x + 1e-3, mask, 30)
    assert rows[2] == certificate.sampler_log_prob(log_prob[:, 0], log_prob[:, 0] + 0.01, 30)
    assert rows[-2].verdict == "not run" and rows[-1] == certificate.hutchinson(div, div + 0.1, 30)
    (*_, own, _) = certificate.scoring(checks | {"own_path": div + 0.2}, rng)
    assert own == certificate.own_path(div, div + 0.2)


# Surrogates beside the toy


def surrogates():
    """Untrained surrogates of both classes, with an acceptance that cannot be asked."""
    torch.manual_seed(0)
    features, grid = Features((0.0, 0.0, -3.3), (0.1, 0.1, 0.9)), Solver("rk4", 6, 2.0)
    network = build_network("one_hop", width=8, heads=2, layers=1, reads=1, n_max=N_MAX)
    p_count = toy.p_count("gluon", N_MAX)
    return [Surrogate(c, network, features, p_count, grid, "hutchinson-1", acceptance=object()) for c in CLASSES]


def test_in_closed_form_surrogates_are_the_toy_itself(rng):
    models, (jets, exact, _) = surrogates(), toy_jets(6, rng)
    np.testing.assert_array_equal(closure.truth(jets, CLASSES), exact)
    found = closure.closed_form(models, jets, "cosine")
    own = [
        Surrogate(
            *(m.label, toy.ToyVelocity(m.label, m.features, SCHEDULES["cosine"]), m.features),
            *(toy.p_count(m.label, N_MAX), m.solver, "own_path"),
            dtype=torch.float64,
        )
        for m in models
    ]
    np.testing.assert_array_equal(found, score(own, jets))


def test_the_velocity_of_a_surrogate_is_compared_with_that_of_its_own_class(rng):
    model, (jets, _, _) = surrogates()[1], toy_jets(5, rng)
    table = closure.velocity_error(model, jets, "linear", torch.Generator().manual_seed(1))
    exact, mask = toy.ToyVelocity("top", model.features, SCHEDULES["linear"]), torch.from_numpy(jets.mask)
    x, generator = torch.from_numpy(model.features.forward(jets)), torch.Generator().manual_seed(1)
    velocity = deepcopy(model.velocity).double()
    again = velocity_error(velocity, exact, x, mask, SCHEDULES["linear"], closure.TIMES, generator)
    pd.testing.assert_frame_equal(table, again)
    assert next(model.velocity.parameters()).dtype == torch.float32 and len(table) == 13


# Posterior-weighted background


def test_posterior_weights_are_unbiased_and_save_variance_where_few_background_jets_survive(rng):
    """At a threshold fixed beforehand, on 300 samples of toy jets with their true LLR."""
    _, exact, label = toy_jets(30_000, rng)
    llr = exact[:, 1] - exact[:, 0]
    threshold = np.quantile(llr[label == 1], 0.7)
    above, weight = llr > threshold, 2 / (1 + np.exp(llr))
    samples = [np.r_[i : i + 100, 30_000 + i : 30_000 + i + 100] for i in range(0, 30_000, 100)]
    counted = np.array([above[s][label[s] == 0].mean() for s in samples])
    weighted = np.array([(above * weight)[s].mean() for s in samples])
    difference = weighted - counted
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(samples))
    assert weighted.var() < 0.5 * counted.var()
    # `Curve` does the same at its own threshold.
    curve = Curve(llr, label, llr)
    assert curve.background_efficiency([0.3], estimate=POSTERIOR_WEIGHTED)[0] == pytest.approx(
        weighted.mean(), rel=0.02
    )
