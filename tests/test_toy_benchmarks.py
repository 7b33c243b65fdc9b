"""The measurements behind docs/certificate.md, docs/solver.md and docs/taggers.md, on a few toy jets each."""

import numpy as np
import pytest
from scripts import BENCHMARKS, script

from jetstudy import surrogate
from jetstudy.probability_flow import Solver


@pytest.fixture
def benchmark(monkeypatch):
    """A script of benchmarks/ with other constants."""

    def load(name, **constants):
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.setitem(surrogate.BATCH, "cpu", surrogate.BATCH["cpu"])  # which benchmarks/exact.py enlarges
        module = script(name)
        for constant, value in constants.items():
            assert hasattr(module, constant)
            monkeypatch.setattr(module, constant, value)
        return module

    return load


def test_weighting_by_the_posterior_is_unbiased_and_worth_many_jets(benchmark):
    posterior = benchmark("posterior", JETS=200, SAMPLES=40, LARGE=160_000)
    table = posterior.measure(np.random.default_rng(0))
    assert (table["bias"].abs() < 5 * table["bias_error"]).all()
    weighted = table[table["estimate"] == posterior.POSTERIOR_WEIGHTED].set_index("eps_s")["equivalent"]
    assert weighted[0.1] > weighted[0.9] and weighted[0.1] > 2
    assert len(posterior.draw_table(table).axes) == 2


def test_few_probes_put_more_noise_into_the_llr_than_many(benchmark):
    noise = benchmark("noise", JETS=150, SOLVER=Solver("midpoint", 3, 2.0), PROBES=(1, 16))
    table = noise.measure(np.random.default_rng(0)).set_index("estimator")
    assert table.loc["own_path", ["noise", "auc", "rejection"]].tolist() == [0, 0, 0]
    assert table.loc["hutchinson-1", "noise"] > 2 * table.loc["hutchinson-16", "noise"] > 0
    assert (table["slope_error"] > 0).all()
    assert len(noise.draw_table(table.reset_index()).axes) == 3


def test_the_flow_and_the_sde_of_the_exact_velocity_draw_one_density(benchmark):
    mismatch = benchmark(
        "mismatch",
        **{"JETS": 150, "TRAINING_JETS": 300, "TRAININGS": {"poor": 4}, "CHECKED": 20, "TIMES": np.array([0.2, 0.8])},
        **{"SOLVER": Solver("midpoint", 5, 2.0), "SDE_TIMES": Solver("euler", 30, 1.5).times()[::-1]},
    )
    rows, errors = mismatch.measure()
    assert not rows.duplicated(["network", "sampler", "row"]).any()
    closed = rows[rows["network"] == "closed form"]
    assert set(closed["sampler"]) == {"flow", "SDE"} and "fail" not in set(closed["verdict"])
    slopes = rows[rows["row"] == "4 slope"].set_index(["network", "sampler"])
    off = (slopes["value"].abs() / slopes["uncertainty"]).unstack()
    assert (off.loc["closed form"] < 4).all()
    assert len(errors) == 2 * 2 and (errors["error"] > 0).all()  # of an untrained network, by class and time
    assert len(mismatch.draw_tables(rows, errors).axes) == 2


def test_a_break_is_seen_by_the_row_that_is_for_it(benchmark):
    power = benchmark("power", REPETITIONS={1000: 1}, CHECKED=30, RESAMPLES=20, TAGGER_JETS=300)
    power.TAGGER = power.replace(power.TAGGER, steps=20, every=10)
    breaks = {"label shortcut": (0.5,), "normalisation": (0.1, 0.5), "wrong trace": (0.01, 1.0)}
    power.BREAKS = {name: power.replace(power.BREAKS[name], sizes=sizes) for name, sizes in breaks.items()}
    table = power.measure()
    assert not table.loc[table["break"] == "none", "fails"].any()
    seen = power.smallest(table).set_index(["break", "row"])["size"]
    assert seen["normalisation", "4 intercept"] == 0.5 and np.isnan(seen["normalisation", "4 slope"])
    assert seen["wrong trace", "3 divergence: own_path"] == 0.01
    assert seen["label shortcut", "4 slope"] == 0.5
    head, *lines = power.markdown(table).splitlines()
    assert head.count("|") == 5 and any("4 intercept | – | 0.5 | –" in line for line in lines)
    assert len(power.draw_table(table).axes) == 2


def test_more_steps_bring_log_p_nearer_to_the_refined_one(benchmark):
    exact, solver = benchmark("exact"), benchmark("solver", TOLERANCES=())
    jets, label = exact.draw(40, np.random.default_rng(0))
    models = exact.surrogates(exact.Features.fit([jets[:40], jets[40:]]), Solver("rk3", 4, 2.0))
    chosen = {"refined": Solver("rk4", 16, 2.0), "evaluations": (12, 24), "powers": (2.0,)}
    table = solver.compare(models, jets, label, **chosen).assign(study="toy")
    error = table.set_index(["method", "evaluations"])["median |Δ log p|, nats"].unstack()
    assert (error[24] < error[12]).all() and error.loc["rk3", 24] < error.loc["euler", 24]
    assert len(solver.draw(table).axes) == 1
    near = solver.neighbourhood(models, jets, label, chosen["refined"], [("rk3", 4, 2.0), ("rk3", 8, 2.0)])
    values = near[near["row"] == "2 steps: log p"].set_index("evaluations")["value"]
    assert values[24] < values[12]
    assert [line[:3] for line in solver.lines_of_neighbours(near)] == [["rk3", "u^2", "12"], ["rk3", "u^2", "24"]]


def test_speeds_stand_beside_what_was_reached(benchmark, tmp_path):
    speeds = benchmark("taggers", REPEATS=2, SECONDS=0.0, TREE_JETS=60, HERE=tmp_path)
    page = tmp_path / "page.md"
    page.write_text(speeds.DOCUMENT.read_text())
    speeds.DOCUMENT = page
    rows = [speeds.measure("pfn", "small"), speeds.measure_trees("boosting", "small"), speeds.measure("pfn", "paper")]
    table = speeds.beside_reached(rows)
    assert (table[["training", "scoring"]] > 0).all(axis=None)
    assert table["auc"].notna().tolist() == [True, True, False]  # the study's are small
    speeds.write(table)
    lines = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| pfn | ")]
    assert [line[1:3] for line in lines] == [[row["size"], f"{row['parameters']:,}"] for row in rows[::2]]
    assert float(lines[0][5]) == pytest.approx(table["auc"][0], abs=1e-4)
