import copy
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import skew
from scripts import BENCHMARKS, script
from torch import nn

from jetstudy import acceptance, score
from jetstudy.jets import arrange, concatenate, read_jets, split, write_jets
from jetstudy.judges import DISTORTIONS, delong
from jetstudy.sources import toy
from jetstudy.surrogate import score as log_prob

densities = script("densities")

TINY = {
    **{"source": "toy", "classes": ["gluon", "top"], "files": [], "threads": 1, "n_max": 4},
    **{"network": "one_hop", "width": 8, "heads": 2, "layers": 1, "reads": 1, "schedule": "cosine"},
    **{"stretch": 0.0, "edge": 0.0, "times": "uniform", "pairing": "independent"},
    **{"training_batch": 16, "training_rate": 1e-2, "divergence": "own_path"},
    **{"solver": "rk4", "solver_steps": 4, "solver_power": 2.0},
}


@pytest.fixture(scope="module")
def rivals():
    pytest.importorskip("zuko")
    pytest.importorskip("torchdiffeq")
    return script("rivals").RIVALS


@pytest.fixture(scope="module")
def model():
    return densities.trained(TINY, steps=20, n_jets=400)[0]


class Growing(nn.Module):
    """v = x / 2, whose flow and divergence are known, and for which a probe is exact."""

    def forward(self, x, t, mask):
        return 0.5 * x


def test_rivals_integrate_the_flow_and_its_divergence(rivals):
    x, f = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), densities.Flat(Growing())
    for solve in rivals.values():
        f.calls = 0
        z, integral = solve(f, x, 1e-6)
        torch.testing.assert_close(z, math.exp(0.5) * x)
        torch.testing.assert_close(integral, torch.full((2,), 3.0))
        assert f.calls >= 7


def test_the_exact_rival_finds_the_same_log_p(rivals, model):
    jets, _ = densities.sampled(model, 5)
    expected = densities.replace(model, solver=model.solver.refined(8)).log_prob(jets)
    found, calls = densities.by_rival("zuko", rivals["zuko"], model, jets, 1e-5)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert calls > model.solver.evaluations


def measured(model, rivals):
    jets, line = densities.sampled(model, 6)
    peak = densities.peak(least=0.0)
    rows = [peak, line, *densities.evaluations(model.velocity, (3, 4), rivals, least=0.0)]
    return densities.with_ratios(rows + densities.log_probs(model, jets, 3, rivals))


@pytest.fixture(scope="module")
def table(model):
    return measured(model, {})


def test_every_figure_has_a_name_of_its_own_a_unit_and_its_ratios(table):
    figures = json.loads(json.dumps(densities.figures(table), allow_nan=False))
    assert len({figure["name"] for figure in figures}) == len(figures) == 2 + 2 * 5 + 4
    by_name = {figure["name"]: figure for figure in figures}
    own, forward = (by_name[f"evaluation, {method}, N = 4"] for method in ("own_path", "forward"))
    assert own["unit"] == "jets/s"
    assert own["forward_passes"] == pytest.approx(forward["value"] / own["value"])
    assert own["times_jacobian"] == pytest.approx(own["value"] / by_name["evaluation, jacobian, N = 4"]["value"])
    assert forward["forward_passes"] == 1


def test_both_exact_ways_err_alike_and_probes_more(table):
    error = table[table["part"] == "log p"].set_index("method")["error"]
    assert error["jacobian"] < 0.1
    assert error["own_path"] < min(0.1, error["hutchinson-1"])


def test_rivals_take_part_at_matched_accuracy(rivals, model):
    table = measured(model, rivals)
    assert (table["value"] > 0).all()
    for _, line in table[(table["part"] == "log p") & table["method"].isin(rivals)].iterrows():
        assert line["error_of_solver"] < 0.01
        assert line["tolerance"] in densities.TOLERANCES


def test_operations_are_those_of_matrix_products():
    a, b = torch.rand(4, 5), torch.rand(5, 6)
    assert densities.gigaflop(lambda: torch.exp(a @ b)) == pytest.approx(2 * 4 * 5 * 6 / 1e9)


def test_a_call_is_warmed_up_and_repeated():
    calls = []
    assert densities.seconds(lambda: calls.append(1), least=0.0) < 1
    assert len(calls) == 4


def test_the_page_gets_its_tables_and_keeps_its_text(table, model):
    page = (BENCHMARKS.parent / "docs" / "speed.md").read_text()
    texts = densities.tables(table, densities.setting(model, "20 steps"))
    found = densities.filled(page, texts)
    assert all(text in found for text in texts.values())
    assert "own_path | " in texts["evaluation"]
    assert densities.filled(found, texts) == found
    outside = densities.filled(found, dict.fromkeys(texts, ""))
    assert outside == densities.filled(page, dict.fromkeys(texts, ""))
    with pytest.raises(ValueError, match="no place for 'log p'"):
        densities.filled("<!-- a -->\n<!-- end -->", {"log p": ""})


def test_the_figure_shows_every_method(table):
    left, right = densities.figure_of(table).axes
    assert len(left.lines) == 5
    assert len(right.lines) == len(densities.ESTIMATORS)
    named = {line.get_color(): line.get_label() for line in left.lines}
    assert {named[line.get_color()] for line in right.lines} == set(densities.ESTIMATORS)


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,300"), (0.012345, "0.0123"), (3.14159, "3.14"), (math.nan, ""), (36.0, "36")]
)
def test_numbers_have_three_digits(value, text):
    assert densities.number(value) == text


def jets_beyond(jets, radius=0.4):
    return [
        any(np.hypot(*particle[:2]) > radius for particle in jet[mask])
        for jet, mask in zip(jets.particles, jets.mask, strict=True)
    ]


def test_the_comparison_of_designs_trains_them_and_tells_their_distances(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    surrogates = script("surrogates")
    small = {"width": 8, "heads": 2, "layers": 0, "reads": 1, "batch": 16}
    monkeypatch.setattr(surrogates, "DESIGNS", {"EPiC-FM": surrogates.DESIGNS["EPiC-FM"] | small})
    monkeypatch.setattr(surrogates, "STEPS", {"ours": surrogates.OURS | small})
    changed = {"edge": surrogates.Edge(0.4, 0.02, 0.06), "normal_ptrel": True, "course": "constant", "ema": 0.9}
    both = {surrogates.DEFAULT: surrogates.OURS | small, "changed": surrogates.OURS | small | changed}
    monkeypatch.setattr(surrogates, "ONE_CHANGED", both)
    for name, value in {
        "SAMPLED": 40,
        "JUDGES": ("boosting", "transformer"),
        "JUDGE_STEPS": 4,
        "SCORED": 6,
        "SCORED_SLOWLY": 3,
        "SOLVED": 2,
    }.items():
        monkeypatch.setattr(surrogates, name, value)
    jets = {c: toy.generate(c, 400, 5, np.random.default_rng(i)) for i, c in enumerate(surrogates.CLASSES)}
    surrogates.train(jets, tmp_path, "top", seconds=0.1, only=[])
    surrogates.train(jets, tmp_path, "top", seconds=0.1, only=list(both))
    table = surrogates.compare({"top": jets["top"]}, tmp_path)
    ours = table[table["surrogate"] == "ours"].set_index("metric")["value"]
    assert {"w1_mass", "auc_boosting", "log_prob_sequence", "parameters", "loss", "error at 16"} <= set(ours.index)
    assert ours["beyond_r"] == np.mean(jets_beyond(read_jets(tmp_path / "top" / "ours" / "jets.h5")))
    assert ours["error at 32"] < ours["error at 16"] and "log_prob_gain" not in ours.index
    log_p = table[table["metric"] == "log_prob_sequence"].set_index("surrogate")["value"]
    (gain,) = table[table["metric"] == "log_prob_gain"].itertuples()
    assert gain.surrogate == "changed" and gain.uncertainty > 0
    assert gain.value == pytest.approx(log_p["changed"] - log_p[surrogates.DEFAULT])
    shown = surrogates.wide(table, "top", ["EPiC-FM", "ours"])
    assert list(shown.index) == ["EPiC-FM", "ours", "source against source"]
    assert "±" in shown.loc["ours", "W1 mass, 1e-3"]
    assert {"auc_boosting", "auc_transformer", "auc_best"} <= set(ours.index)
    assert shown.loc["ours", ["steps", "evaluations"]].str.isdigit().all()
    bench = surrogates.judged(table, "top", ["ours"])  # with each judge's power
    distorted = [f"source, {name}" for name in DISTORTIONS]
    assert list(bench.index) == ["ours", *distorted, "source against source"]
    assert list(bench.columns) == ["boosting", "transformer"]
    verdicts = table[(table["surrogate"] == "ours") & table["metric"].str.startswith("auc_")].set_index("metric")
    for name, cell in bench.loc["ours"].items():
        verdict = verdicts.loc[f"auc_{name}", "verdict"]
        assert float(cell.split()[0]) == pytest.approx(verdicts.loc[f"auc_{name}", "value"], abs=0.006)
        assert cell.endswith(f"({verdict})") == (verdict != "separates")
    # What is finished is left alone.
    surrogates.train(jets, tmp_path, "top", seconds=0.1, only=[])
    assert capsys.readouterr().out.count("s of training") == 4


def test_a_map_that_makes_log_ptrel_normal_is_exact(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    surrogates = script("surrogates")
    sample = [toy.generate(c, 500, 4, np.random.default_rng(i)) for i, c in enumerate(surrogates.CLASSES)]
    entry = surrogates.OURS | {"edge": surrogates.Edge.at(0.4), "normal_ptrel": True}
    features = surrogates.features_of(entry, sample)
    assert features.edge == entry["edge"] and len(features.stretches) == 3
    last = [features.forward(jets)[jets.mask][:, 2] for jets in sample]
    assert np.mean([u.mean() for u in last]) == pytest.approx(0, abs=0.05)
    assert np.mean([np.square(u).mean() for u in last]) == pytest.approx(1, abs=0.05)
    assert skew(np.concatenate(last)) == pytest.approx(0, abs=0.1)
    jet = sample[1][:1].leading(2)
    np.testing.assert_allclose(features.inverse(features.forward(jet), jet.mask), jet.particles, rtol=1e-6)

    def flat(x):  # in float64, so that differences are those of the map
        return features.forward(SimpleNamespace(particles=x.reshape(1, 2, 3), mask=jet.mask)).ravel()

    x = jet.particles.astype(np.float64).ravel()
    steps = 1e-5 * np.abs(x) * np.eye(6)
    jacobian = np.stack([(flat(x + step) - flat(x - step)) / (2 * step.sum()) for step in steps])
    assert features.log_jacobian(jet) == pytest.approx(np.linalg.slogdet(jacobian)[1], rel=1e-6)


def test_more_steps_of_training_are_set_beside_the_limit(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    steps = script("steps")
    monkeypatch.setattr(steps, "TRAININGS", {"pfn": (2, 30), "transformer": (2,)})
    monkeypatch.setattr(steps, "EVERY", 2)
    jets = concatenate([toy.generate(c, 400, 5, np.random.default_rng(i)) for i, c in enumerate(("gluon", "top"))])
    write_jets(tmp_path / "jets.h5", jets)
    with h5py.File(tmp_path / "jets.h5", "a") as file:  # as `make dataset` does
        file["label"], file["split"] = np.repeat([0, 1], 400), np.zeros(800, np.uint8)
        for code, name in enumerate(("train", "validation", "test")):
            file["split"][split(800, name)] = code
        file["llr"] = toy.log_prob(jets, "top") - toy.log_prob(jets, "gluon")
    table = steps.run(tmp_path, tmp_path / "out")
    excess = table[table["metric"] == "excess cross-entropy, KL"].set_index(["learner", "steps"])
    assert list(excess.index) == [("pfn", 2), ("pfn", 30), ("transformer", 2)]
    assert excess.loc[("pfn", 30), "value"] < excess.loc[("pfn", 2), "value"] and (excess["seconds"] > 0).all()
    assert excess.loc[("pfn", 30), "kept"] in range(2, 31)
    assert excess["training"].between(0.2, 1.5).all()
    lines = steps.rows(table)
    assert [line[:2] for line in lines] == [["limit", ""], ["pfn", "2"], ["pfn", "30"], ["transformer", "2"]]
    assert lines[0][4] == lines[0][-1] == "" and all("±" in cell for line in lines[1:] for cell in line[4:])
    # What is finished is left alone.
    capsys.readouterr()
    assert steps.run(tmp_path, tmp_path / "out").equals(table) and not capsys.readouterr().out


def test_large_taggers_on_many_jets_are_set_beside_the_limit(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    large = script("large")
    monkeypatch.setattr(large, "JETS", {"train": 60, "validation": 20, "test": 40})
    monkeypatch.setattr(large, "SHARE", 30)
    for k in range(2):
        for worker in range(2):
            large.draw("smoke", k, range(worker, 4, 2), tmp_path)
    splits, llr = large.read(tmp_path)
    assert {name: np.bincount(label).tolist() for name, (_, label) in splits.items()} == {
        **{"train": [60, 60], "validation": [20, 20], "test": [40, 40]}
    }
    models = score.surrogates(score.reader("smoke"))
    background, signal = log_prob(models, splits["test"][0]).T
    np.testing.assert_allclose(llr, signal - background, atol=1e-4)
    everything = np.concatenate([jets.particles[:, 0, 0] for jets, _ in splits.values()])
    assert len(np.unique(everything)) == 240  # no jet is in two splits, no worker has another's random numbers
    trainings = [large.Training("pfn", "small", n, 20, batch=16) for n in (60, 20)]
    for training in trainings:
        large.train(training, tmp_path)
    table = large.measure(trainings, tmp_path)
    excess = table[table["metric"] == "excess cross-entropy, KL"]
    assert excess[["learner", "jets", "steps", "batch"]].to_numpy().tolist() == [
        *(["pfn", 120, 20, 16], ["pfn", 40, 20, 16])
    ]
    assert (excess["value"] > 0).all() and excess["value"].nunique() == 2
    assert excess["validation"].between(0.5, 1).all() and excess["kept"].between(1, 20).all()
    lines = large.rows(table)
    assert [line[:5] for line in lines] == [
        ["limit", *[""] * 4],
        *(["pfn", "small", "6,465", n, "20"] for n in ("120", "40")),
    ]
    checked = large.calibration(tmp_path)
    assert checked["row"].tolist() == ["4 slope", "4 intercept", "4 identity"]
    assert (checked["note"].str.startswith("80 jets")).all()
    # What is finished is left alone.
    capsys.readouterr()
    large.draw("smoke", 0, range(4), tmp_path)
    large.train(trainings[0], tmp_path)
    assert not capsys.readouterr().out


def test_one_network_for_both_classes_is_set_beside_one_each(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    conditional = script("conditional")
    small = {"width": 8, "heads": 2, "layers": 0, "reads": 1, "batch": 16}
    for name, value in {"ENTRY": conditional.ENTRY | small, "TAGGER_STEPS": 2, "HELD_OUT": 20, "MATCHED": 4}.items():
        monkeypatch.setattr(conditional, name, value)
    monkeypatch.setattr(conditional, "SOLVER", conditional.Solver("midpoint", 4, 2.0))
    for k, label in enumerate(("gluon", "top")):
        write_jets(tmp_path / f"{label}.h5", toy.generate(label, 600, 5, np.random.default_rng(k)))
    table = conditional.run(tmp_path, tmp_path / "out", 0.05, 40)
    assert list(table.columns) == ["design", "pair", "quantity", "value", "uncertainty"]
    assert not table.duplicated(["design", "pair", "quantity"]).any()
    aucs = table[table["quantity"] == "AUC of the LLR"]
    assert list(zip(aucs["design"], aucs["pair"], strict=True)) == [
        (design, pair) for pair in ("classes", "null") for design in ("separate", "joint")
    ]
    shared = json.loads((tmp_path / "out" / "null" / "joint" / "top.1-top.2" / "about.json").read_text())
    alone = json.loads((tmp_path / "out" / "null" / "separate" / "top.1" / "about.json").read_text())
    assert shared["steps"] == 2 * alone["steps"]
    # What is finished is left alone, and nothing is mixed.
    capsys.readouterr()
    again = conditional.run(tmp_path, tmp_path / "out", 0.05, 40)
    assert again.equals(table) and not capsys.readouterr().out
    with pytest.raises(ValueError, match="take another folder"):
        conditional.run(tmp_path, tmp_path / "out", 0.1, 40)


def test_what_other_surrogates_drew_is_not_taken_for_these_ones(tmp_path):
    weights = tmp_path / "set" / "top" / "1" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"first")
    for _ in range(2):
        densities.note(tmp_path / "out", tmp_path / "set", "*/1/weights.safetensors")
    weights.write_bytes(b"second")
    with pytest.raises(ValueError, match=r"another top/1/weights\.safetensors: take another"):
        densities.note(tmp_path / "out", tmp_path / "set", "*/1/weights.safetensors")


def test_the_null_is_two_samples_that_share_no_jet(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    jets = toy.generate("top", 50, 5, np.random.default_rng(0))
    write_jets(tmp_path / "top.h5", jets)
    first, second = script("conditional").samples(tmp_path, "null").values()
    assert len(first) == len(second) == 20
    np.testing.assert_array_equal(np.concatenate([first.features, second.features]), jets.features[:40])


def test_jets_that_are_kept_at_several_rates_are_judged_in_equal_numbers(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module, n, n_scored = script("acceptance"), 700, 200
    values = {"JUDGES": ("boosting",), "RATES": (1.0, 0.5), "LESS": 0.5, "MATCHED": 4, "CAPPED": 300}
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)
    source, jets, llr = {}, {}, {}
    for k, label in enumerate(module.CLASSES):
        source[label] = toy.generate(label, 500, 5, np.random.default_rng(k))
        wide = toy.generate(label, n, 5, np.random.default_rng(10 + k))
        jets[label] = DISTORTIONS["angles + 5 %"](wide)
        scored = jets[label][300 : 300 + n_scored]
        llr[label] = toy.log_prob(scored, "top") - toy.log_prob(scored, "gluon")
    taught = [toy.generate(label, 500, 5, np.random.default_rng(20 + k)) for k, label in enumerate(module.CLASSES)]
    keeps = acceptance.fit(
        list(source.values()), taught, 0.3, torch.Generator().manual_seed(1), tmp_path / "odds.safetensors", str
    )
    table = module.run(source, jets, llr, keeps, tmp_path / "out")
    assert not table.duplicated(["kept", "class", "metric"]).any()
    assert np.isfinite(table.loc[table["metric"] != "fpd", "value"]).all()  # for which these are too few
    rows = table.set_index(["kept", "class", "metric"])["value"]
    both = np.concatenate([llr[label] for label in module.CLASSES])
    assert rows["all", "", "limit"] == pytest.approx(delong(both, np.repeat([0, 1], n_scored))[0])
    assert ("all", "top", "gain") not in rows and ("50%", "top", "gain") in rows  # all are kept: nothing to gain
    ways = ("50%", "50%, by mass", "50%, one cap")
    assert len({rows[how, "", "limit"] for how in ways}) == 3
    shown = module.tables(table)
    places = [f"| {label} | {kept}" for label in module.CLASSES for kept in ("all", *ways, "source against source")]
    assert [" | ".join(line.split(" | ")[:2]) for line in shown["acceptance"].splitlines()[2:]] == places
    assert shown["acceptance gap"].count("±") == 8


def test_what_flows_draw_has_the_ratio_of_their_densities_and_comes_again(monkeypatch, tmp_path, model):
    """Before any is left out: LLRs are of the flows alone, and of the jets behind those that set the caps."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = script("acceptance")
    for name, value in {"DRAWN": 12, "CAPPED": 5, "SCORED": 6}.items():
        monkeypatch.setattr(module, name, value)
    other = copy.deepcopy(model.velocity)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    flows = [model, replace(model, velocity=other)]
    # Acceptances that cannot be asked
    models = {name: replace(own, acceptance=object()) for name, own in zip(module.CLASSES, flows, strict=True)}
    jets, llr = module.drawn(models, tmp_path)
    for label in module.CLASSES:
        assert len(jets[label]) == 12
        each = log_prob(flows, jets[label][5:11])
        np.testing.assert_allclose(llr[label], each[:, 1] - each[:, 0])
        assert llr[label].any()
    again, _ = module.drawn(models, tmp_path)
    np.testing.assert_array_equal(again["top"].particles, jets["top"].particles)


def test_pairs_of_a_set_are_judged_class_by_class_and_seed_by_seed(monkeypatch, tmp_path):
    """Jets of three particles, two of them with a mass of 2e-4 (0.6 of the source's, 0.3 of the others) or 3e-4."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = script("pairs")
    assert len(module.AT_PEAK) == 3
    rng = np.random.default_rng(0)
    for label in module.CLASSES:
        samples = {"jets": 6000, f"synthetic_jets/{label}/1": 600, f"synthetic_jets/{label}/2": 600}
        for folder, n in samples.items():
            particles = np.concatenate([rng.normal(0, 0.1, (n, 3, 2)), rng.uniform(0.02, 0.04, (n, 3, 1))], axis=2)
            mass = np.where(rng.random(n) < (0.6 if folder == "jets" else 0.3), 2e-4, 3e-4)
            near = mass / np.sqrt(particles[:, 0, 2] * particles[:, 1, 2])
            particles[:, 1, :2] = particles[:, 0, :2] + np.stack([near, 0 * near], axis=1)
            particles[:, 2, 0] += 1  # away from both
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            name = f"{label}.h5" if folder == "jets" else "jets.h5"
            write_jets(tmp_path / folder / name, arrange(particles, np.ones((n, 3), bool), np.ones((n, 4))))
    table = module.run(tmp_path)
    value = table.set_index(["class", "seed", "quantity"])["value"]
    for label, seed in ((label, seed) for label in module.CLASSES for seed in (1, 2)):
        assert value[label, seed, "pairs"] > 0.57
        assert value[label, seed, "fewest pairs, of the source's"] == pytest.approx(0.5, abs=0.15)
        assert value[label, seed, "most pairs, of the source's"] == pytest.approx(1.75, abs=0.4)
    shown = module.tables(table)["pairs"].splitlines()
    assert shown[0] == "|  | gluon, seed 1 | gluon, seed 2 | top, seed 1 | top, seed 2 |"
    assert len(shown) == 2 + 5 and all(line.count("±") == 4 for line in shown[2:])
