import math

import numpy as np
import pandas as pd
import pytest

from jetstudy import comparison, limit, report, study
from jetstudy import learning as of_learning
from jetstudy.sources import kind
from jetstudy.taggers import ensemble

# value, uncertainty and ratio by (seed, tagger): two trainings of a, one of b, two surrogates
VALUES = {
    (1, "a"): (1.0, 0.3, 0.5), (1, "a.2"): (3.0, 0.4, 0.7), (1, "b"): (5.0, 0.1, 0.9),
    (2, "a"): (2.0, 0.3, 0.5), (2, "a.2"): (6.0, 0.4, 0.9), (2, "b"): (7.0, 0.1, 0.9),
}  # fmt: skip


def gaps(sample="synthetic", metric="AUC"):
    """Tables of limit.gap by seed."""
    columns = {"sample": sample, "metric": metric, "limit": 8.0, "ratio_uncertainty": 0.05, "survivors": 100}
    rows = [
        {"seed": s, "tagger": t, "value": v, "uncertainty": u, "ratio": r} | columns
        for (s, t), (v, u, r) in VALUES.items()
    ]
    return {s: rows.drop(columns="seed") for s, rows in pd.DataFrame(rows).groupby("seed")}


def about():
    rows = [{"tagger": t, "sample": "synthetic", "seed": s, "seconds": 10.0 * s, "sees_n": t == "b"} for s, t in VALUES]
    return pd.DataFrame(rows)


def test_uncertainties_over_jets_trainings_and_surrogates_are_kept_apart():
    table = comparison.together(gaps(), about()).set_index("tagger")
    assert list(table.index) == ["a", "b"]
    a, b = table.loc["a"], table.loc["b"]
    assert (a["value"], a["limit"], a["ratio"]) == pytest.approx((3, 8, 0.65))
    assert (a["n_trainings"], a["n_surrogates"], b["n_trainings"]) == (2, 2, 1)
    assert a["jets"] == pytest.approx(math.sqrt((0.09 + 0.16) / 2)) and a["ratio_jets"] == pytest.approx(0.05)
    assert a["trainings"] == pytest.approx(math.sqrt((2 + 8) / 2))  # variances of (1, 3) and of (2, 6)
    assert a["surrogates"] == pytest.approx(math.sqrt(2))  # means 2 and 4
    assert a["ratio_surrogates"] == pytest.approx(np.std([0.6, 0.7], ddof=1))
    assert a["ratio_trainings"] == pytest.approx(math.sqrt((0.02 + 0.08) / 2))
    assert np.isnan(b["trainings"]) and b["surrogates"] == pytest.approx(math.sqrt(2))


def test_on_the_sources_jets_another_seed_is_one_more_training():
    tables = {
        s: pd.concat([t, t.query("tagger == 'b'").assign(tagger=limit.SURROGATES)]) for s, t in gaps("source").items()
    }
    table = comparison.together(tables, about().assign(sample="source")).set_index("tagger")
    a, b, llr = table.loc["a"], table.loc["b"], table.loc[limit.SURROGATES]
    assert (a["value"], a["n_trainings"], a["n_surrogates"], b["n_trainings"]) == (3, 4, 1, 2)
    assert a["trainings"] == pytest.approx(np.std([1, 3, 2, 6], ddof=1)) and b["trainings"] == pytest.approx(
        math.sqrt(2)
    )
    assert np.isnan([a["surrogates"], b["surrogates"], llr["trainings"]]).all()
    assert llr["surrogates"] == pytest.approx(math.sqrt(2)) and llr["n_surrogates"] == 2


def test_an_ensemble_has_one_training_of_each_network_whatever_its_depth():
    assert comparison.members(["a", "a.2", "b", "b.2"]) == ["a", "b"]
    assert comparison.members(["a", "transformer", "transformer-8", "transformer.2"]) == ["a", "transformer"]
    assert comparison.members(["transformer-1", "a", "transformer-8"]) == ["transformer-1", "a"]
    only = ["transformer", "transformer.2", "transformer-8"]
    assert comparison.members(only) == ["transformer", "transformer-8"]
    assert comparison.members(["a", "a.2"]) == ["a", "a.2"]  # all there is
    assert comparison.members(["a"]) == ["a"]


def test_ensembles_of_the_members_stand_behind_the_taggers_on_the_jets_that_are_taken():
    rng, label = np.random.default_rng(0), np.arange(60) % 2
    stored = {
        name: {"synthetic": rng.normal(label, 1), "validation": rng.normal(label, 1), "validation_label": label}
        for name in ("a", "a.2", "b")
    }
    taken = np.array([3, 1, 7])
    found = comparison.with_ensembles(stored, "synthetic", taken, ["a", "b"])
    logits = {name: own["synthetic"][taken] for name, own in stored.items()}
    members = {name: logits[name] for name in ("a", "b")}
    expected = logits | ensemble.both({name: stored[name]["validation"] for name in members}, label, members)
    assert list(found) == ["a", "a.2", "b", *ensemble.NAMES]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert list(comparison.with_ensembles({"a": stored["a"]}, "synthetic", taken, ["a"])) == ["a"]


def test_depths_are_in_order_and_of_synthetic_jets():
    blocks = {"b": 1, "a": 8}
    rows = [comparison.together(gaps(sample), about()) for sample in ("source", "synthetic")]
    table = comparison.depths(pd.concat(rows), blocks)
    assert list(table["tagger"]) == ["b", "a"] and list(table["blocks"]) == [1, 8]
    assert set(table["sample"]) == {"synthetic"}
    assert comparison.depths(pd.concat(rows), {"b": 1})["tagger"].to_list() == ["b"]


def test_a_single_training_and_surrogate_has_the_uncertainty_of_its_jets_alone():
    table = comparison.together({1: gaps()[1].query("tagger == 'b'")}, about())
    (row,) = table.to_dict("records")
    assert row["value"] == 5 and row["jets"] == pytest.approx(0.1)
    assert all(np.isnan(row[f"{prefix}{name}"]) for prefix in ("", "ratio_") for name in ("trainings", "surrogates"))


def test_what_one_training_does_not_quote_the_mean_does_not_quote():
    tables = gaps()
    row, missing = tables[2]["tagger"] == "a.2", ["value", "uncertainty", "ratio"]
    tables[2].loc[row, [*missing, "survivors"]] = *[np.nan] * 3, 7
    a = comparison.together(tables, about()).set_index("tagger").loc["a"]
    assert a[["value", "ratio", "jets", "trainings", "surrogates"]].isna().all() and a["survivors"] == 7


def test_trainings_are_described_and_the_limit_is_not():
    tables = {s: pd.concat([t, t.query("tagger == 'b'").assign(tagger=limit.LIMIT)]) for s, t in gaps().items()}
    table = comparison.together(tables, about()).set_index("tagger")
    assert table.loc["a", "seconds"] == 15 and not table.loc["a", "sees_n"]
    assert bool(table.loc["b", "sees_n"]) and bool(table.loc[limit.LIMIT, "sees_n"])
    assert np.isnan(table.loc[limit.LIMIT, "seconds"])


@pytest.mark.parametrize("sees", [True, False])
def test_an_ensemble_sees_what_one_of_its_members_sees(sees):
    tables = {s: pd.concat([t, t.query("tagger == 'b'").assign(tagger="stacked")]) for s, t in gaps().items()}
    table = comparison.together(tables, about().assign(sees_n=lambda rows: sees & (rows["tagger"] == "b")))
    assert bool(table.set_index("tagger").loc["stacked", "sees_n"]) == sees


def test_what_no_training_knows_is_empty():
    table = comparison.together(gaps(), about().assign(parameters=None)).set_index("tagger")
    assert table["parameters"].isna().all()


def test_figures_show_the_first_training_of_each_kind():
    assert comparison.first_trainings(["a.3", "mine:Class", "a", "mine:Class.2", "b-2"]) == ["a.3", "mine:Class", "b-2"]
    assert [kind(name) for name in ("pfn.2", "package.module:Class.12", "package.module:Class")] == [
        *("pfn", "package.module:Class", "package.module:Class"),
    ]


def test_the_page_has_a_line_a_tagger_with_uncertainties_behind_each_other():
    unknown = {"training_jets": 1400, "parameters": np.nan}
    table = comparison.together(gaps(), about().assign(**unknown))
    page = report.taggers(table).data
    assert page.count("<tr>") == 3
    assert (
        "3.00 ± 0.35 ± 2.24 ± 1.41 (65.0 %)" in page
        and '<td class="word">yes</td>' in page
        and '"number several"' in page
    )
    assert "± – ± 1.41" in page  # of a single training nobody knows how another would differ
    better = report.taggers(table.assign(ratio=1.02)).data
    assert "3.00 ± 0.35 ± 2.24 ± 1.41 (102.0 %)" in better
    alone = report.taggers(comparison.together({1: gaps()[1].query("tagger == 'b'")}, about().assign(**unknown))).data
    assert "5.00 ± 0.10" in alone and "0.10 ±" not in alone
    assert report.several(1.0, np.nan, np.nan) == "1.000" and report.several(np.nan, 0.1) == "–"


def test_the_page_has_what_a_tagger_costs():
    known = {"training_jets": 1400, "parameters": 31, "training_seconds": 12.0}
    speeds = {"train_jets_per_second": 1234.0, "jets_per_second": 5678.0}
    page = report.costs(comparison.together(gaps(), about().assign(**known, **speeds))).data
    assert page.count("<tr>") == 3 and "1230" in page and "5680" in page and "12.0" in page


def test_the_answer_names_the_best_tagger_first_and_adds_all_uncertainties():
    names = [
        "AUC",
        "rejection at 0.5, posterior-weighted",
        "rejection at 0.3, posterior-weighted",
        "excess cross-entropy, KL",
    ]
    several = {}
    for s in gaps():
        own = [gaps(metric=name)[s] for name in names]
        table = pd.concat([t.assign(value=t["value"] + 10 * i, ratio=t["ratio"] - 0.1 * i) for i, t in enumerate(own)])
        best = table[table["tagger"] == "b"]
        several[s] = pd.concat([table, best.assign(tagger=limit.LIMIT, value=best["value"] + 40)])
    headlines = comparison.together(several, about().assign(training_jets=42000))
    rows = [
        {"row": "7 null: LLR", "verdict": "reported", "value": 0.52, "uncertainty": 0.005},
        {"row": "7 null: a", "verdict": "reported", "value": 0.501, "uncertainty": 0.005},
        {"row": "4 slope", "verdict": "pass", "value": 0.0, "uncertainty": 0.1},
    ]
    page = report.answer(headlines, rows).data
    assert "Trained on 42,000 of them, the best of 2 (<b>b</b>) reaches an AUC of <b>6.0 ± 1.4</b>" in page
    assert "<b>80.0 ± 5.0 %</b> of the optimal tagger's (16.0 ± 1.4 against 56.0 ± 1.4)" in page
    assert (
        page.index('<td class="word">b</td>') < page.index('<td class="word">a</td>')
        and "no failing row (1 pass, 2 reported)" in page
    )
    assert "0.5200 ± 0.0050</b> by their likelihood ratio, and of 0.501 to 0.501 by trained taggers" in page
    failed = report.answer(headlines, [*rows, {"row": "1 round trip", "verdict": "fail", "value": 2.0}]).data
    assert "1 round trip FAILED" in failed and "Quote nothing" in failed


def test_what_the_certificate_measures_of_many_taggers_stands_below_what_they_have_in_common():
    def row(name, what, value, note, verdict="pass", **held):
        found = {"row": name, "property": what, "value": value, "uncertainty": 0.01, "note": note, "verdict": verdict}
        return {"criterion": None, "resolution": None} | found | held

    rows = [
        row("4 slope", "slope minus 1", 0.02, "9600 jets", criterion=0.05, resolution=0.04),
        *(
            row(f"6 dominance {name}", "eps_B", value, f"{note}; 11 points", criterion=0.1, resolution=resolution)
            for name, value, note, resolution in (
                ("a", 0.3, "at 0.4", 0.09),
                ("b", 0.2, "at 0.5", 0.08),
                ("c c", 0.1, "at 0.6", 0.07),
            )
        ),
        *(
            row(f"7 null: {name}", "AUC", value, "no difference: 0.5", "reported")
            for name, value in (("LLR", 0.52), ("a", 0.5), ("b", 0.51))
        ),
    ]
    page = report.certificate(rows).data
    first, dominance, null = page.split("<table>")[1:]
    assert (
        "<th>what is measured</th>" in first and "9600 jets" in first and "dominance" not in first.split("</table>")[0]
    )
    assert "<b>6 dominance</b>: eps_B; criterion 0.100; 11 points.</p>" in first
    assert [f">{word}</td>" in dominance for word in ("a", "b", "c c", "0.0900", "at 0.6")] == [True] * 5
    assert "11 points" not in dominance and "0.100</td>" not in dominance
    assert "<b>7 null</b>: AUC; no difference: 0.5.</p>" in dominance and ">LLR</td>" in null and "note" not in null
    assert page.count('class="verdict good"') == 4 and page.count('class="verdict told"') == 3


CURVES = [("pfn", 100, 0.9), ("pfn", 1000, 0.5), ("efn", 1000, 0.4)]


def test_the_scope_says_what_was_learned_what_was_trained_and_what_the_limit_is_not():
    values = study.load("reference")
    own, of_source = gaps(), gaps(sample="source")
    both = {
        s: pd.concat([own[s], of_source[s].replace({"tagger": {"b": limit.SURROGATES}})], ignore_index=True)
        for s in own
    }
    every = pd.concat([about(), about().assign(sample="source")]).assign(parameters=4083.0, training_jets=1.0)
    headlines = comparison.together(both, every)
    page = report.scope(values, headlines).data
    assert "gluon and top jets: jets of about 1 TeV of the generator Pythia 8" in page
    assert "relative η, φ and pT of its 30 leading particles" in page and "Of these 10 % are kept" in page
    assert "A network of 4,083 parameters" in page
    several = headlines.assign(parameters=np.linspace(4083, 31201, len(headlines)))
    assert "Networks of 4,083 to" in report.scope(values, several).data
    assert f"trained for {values['tagger_steps']:,} batches of 128 jets" in page
    assert "no bound there: it has an AUC of" in page
    assert "are kept" not in report.scope(values | {"accepted": 1.0}, headlines).data
    assert "below, under Closure" in report.scope(values | {"source": "toy"}, headlines).data
    shared = {"target": "labels", "sample": "test", "metric": of_learning.REJECTIONS[0.5], "limit": 80.0, "seed": 1}
    shared |= {"uncertainty": 1.0, "ratio_uncertainty": 0.01, "survivors": 100, "steps": 6400, "kept": 6400}
    curves = pd.DataFrame([{"learner": k, "jets": n, "value": 80 * r, "ratio": r} | shared for k, n, r in CURVES])
    page = report.scope(values, headlines, curves).data
    assert "for 6,400 batches, PFN comes closest: to 50.0 ± 1.0 % of the optimal" in page
    assert "Trained longer" not in report.scope(values, headlines, curves.assign(ratio=np.nan)).data
    page = report.scope(values, headlines.assign(parameters=np.nan), curves).data
    assert "The taggers" not in page and "PFN comes closest" in page
