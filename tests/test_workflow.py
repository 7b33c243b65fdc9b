"""The study from the command line: a small toy study as users run it, and what happens when something is wrong."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from cli import TOY, jetstudy, toy_set
from nbclient.exceptions import DeadKernelError

from jetstudy import study
from jetstudy.__main__ import _ended, main
from jetstudy.files import write_json
from jetstudy.jets import read_jets


@pytest.mark.timeout(1500)
def test_the_toys_llr_comes_out_near_the_known_truth(toy):
    closure = pd.read_csv(toy / "limit" / "1" / "closure.csv").set_index("quantity")["value"]
    assert closure["median |LLR - true LLR|, nats"] < 0.45
    assert closure["correlation of LLR and true LLR"] > 0.9
    assert -0.035 < closure["AUC of the surrogates' LLR"] - closure["AUC of the true LLR"] < 0.005


def test_no_row_of_the_toys_certificate_fails(toy):
    rows = json.loads((toy / "limit" / "1" / "certificate.json").read_text())
    assert {row["row"].split()[0].rstrip(":") for row in rows} == {"1", "2", "3", "4", "5", "6", "7", "8"}
    assert not {"fail", "not run"} & {row["verdict"] for row in rows}
    assert "5 residual: network" in [row["row"] for row in rows]
    assert [row["verdict"] for row in rows].count("pass") >= 6
    measured = [row for row in rows if row["row"][0] in "123" and row["row"] != "1 round trip: elsewhere"]
    assert all(row["value"] for row in measured)  # 0: something compared with itself


def test_no_two_chunks_of_jets_are_drawn_from_the_same_random_numbers(toy):
    paths = [*toy.glob("synthetic_jets/*/1/jets.h5"), *toy.glob("synthetic_jets/*/1/fresh.h5")]
    leading = np.concatenate([read_jets(path).particles[:, 0] for path in paths])
    assert len(paths) == 6 and len(np.unique(leading, axis=0)) == len(leading)


def test_the_null_and_the_closure_of_trained_surrogates_are_reported(toy):
    rows = json.loads((toy / "limit" / "1" / "certificate.json").read_text())
    told = {row["row"]: row for row in rows if row["verdict"] == "reported"}
    assert list(told) == [
        *("7 null: LLR", "7 null: transformer", "7 null: transformer.2"),
        *("8 closure: trained AUC", "8 closure: trained log p", "8 closure: trained velocity"),
    ]
    assert 0.5 < told["7 null: LLR"]["value"] < 0.65
    assert abs(told["7 null: transformer"]["value"] - 0.5) < 0.1
    assert told["7 null: LLR"]["criterion"] is None
    page = (toy / "report" / "report.html").read_text()
    assert "Surrogates of two samples of one kind" in page and 'class="verdict told">reported' in page
    jets = [(toy / "jets" / f"top.{k}.h5").read_bytes() for k in (1, 2)]
    assert jets[0] != jets[1]


def test_closure_is_one_figure_of_both_kinds_of_jets(toy):
    curves = pd.read_csv(toy / "limit" / "1" / "roc_closure.csv")
    assert list(dict.fromkeys(curves["tagger"])) == [
        *("limit", "LLR of the surrogates on source jets"),
        *(f"{tagger} on source jets" for tagger in ("transformer", "average", "stacked")),
        "LLR of the surrogates on synthetic jets",
        *(f"{tagger} on synthetic jets" for tagger in ("transformer", "average", "stacked")),
    ]
    assert curves.groupby("tagger")["ratio"].median().between(0.1, 1.5).all()
    caption = json.loads((toy / "limit" / "1" / "roc_closure.json").read_text())["caption"]
    assert "AUC minus that" in caption and "Median error of log p" in caption


def test_the_tagger_learns_and_stays_below_the_limit(toy):
    gap = pd.read_csv(toy / "limit" / "1" / "gap.csv")
    auc = gap[(gap["metric"] == "AUC") & (gap["tagger"] == "transformer") & (gap["sample"] == "synthetic")].iloc[0]
    assert 0.7 < auc["value"] < auc["limit"] + 3 * auc["uncertainty"]


def test_learning_tells_what_each_training_reached(toy):
    table = pd.read_csv(toy / "learning" / "pfn" / "1" / "learning.csv")
    trainings = [("labels", 400), ("labels", 4000), ("posterior", 400), ("labels, short", 4000), ("fresh", 3200)]
    trainings += [("labels, larger", 4000)]
    assert list(dict.fromkeys(zip(table["target"], table["jets"], strict=True))) == trainings
    steps = table.groupby(["target", "jets"], sort=False)["steps"].first().tolist()
    assert steps == [50, 50, 50, 25, 25, 50]  # 20 passes over 400 jets in batches of 128 would be 60
    excess = table[table["metric"] == "excess cross-entropy, KL"].set_index(["sample", "target", "jets"])["value"]
    assert excess["test", "labels, short", 4000] != excess["test", "labels", 4000]
    sizes = [path.stat().st_size for path in (toy / "learning" / "pfn" / "1").rglob("checkpoint-labels-*.safetensors")]
    assert max(sizes) > 5 * sorted(sizes)[-2]  # of the larger network
    assert len(excess) == 8 and excess.between(0, 1).all()
    assert {("training", "labels", 400), ("training", "posterior", 400)} < set(excess.index)
    assert not list((toy / "synthetic_jets" / "gluon" / "1").glob("checkpoint*fresh"))
    assert not (toy / "synthetic_jets" / "top.1" / "1" / "fresh.h5").exists()
    page = (toy / "report" / "report.html").read_text()
    assert "Where does the gap come from?" in page and "Settings that were searched for" in page


def test_a_search_looks_at_the_test_split_with_two_taggers_only(toy):
    folder = toy / "search" / "pfn" / "1"
    trials, best = pd.read_csv(folder / "search.csv"), json.loads((folder / "best.json").read_text())
    assert trials["trial"].tolist() == [0, 1, 2] and best["loss"] == trials["loss"][1:].min()
    assert best["trial"] == trials["loss"][1:].idxmin()
    assert pd.read_csv(folder / "gap.csv")["tagger"].unique().tolist() == ["limit", "default", "searched"]
    assert "likelihoods/top/1/likelihoods.h5" in study.read_record(folder)["inputs"]


def test_two_trainings_of_a_tagger_are_one_line_of_the_headline_table_and_an_ensemble(toy):
    gap = pd.read_csv(toy / "limit" / "1" / "gap.csv")
    table = pd.read_csv(toy / "report" / "taggers.csv")
    rows = table[(table["metric"] == "AUC") & (table["sample"] == "synthetic")].set_index("tagger")
    assert list(rows.index) == ["limit", "transformer", "average", "stacked"]
    each = gap[(gap["metric"] == "AUC") & (gap["sample"] == "synthetic")].set_index("tagger")["value"]
    two = each[["transformer", "transformer.2"]]
    assert two.nunique() == 2  # other random numbers
    transformer = rows.loc["transformer"]
    assert transformer["value"] == pytest.approx(two.mean()) and transformer["trainings"] == pytest.approx(two.std())
    assert transformer["n_trainings"] == 2 and np.isnan(transformer["surrogates"])
    assert str(transformer["sees_n"]) == "False" and transformer["training_jets"] == 5600
    assert (transformer[["parameters", "training_seconds", "train_jets_per_second", "jets_per_second"]] > 0).all()
    assert rows.loc["average", "value"] > two.min() - 0.005 and rows["n_surrogates"].eq(1).all()
    drawn = pd.read_csv(toy / "limit" / "1" / "roc_synthetic.csv")["tagger"]
    assert list(dict.fromkeys(drawn)) == ["limit", "transformer", "average", "stacked"]


def test_every_figure_has_its_table_and_its_alternative_text(toy):
    pictures = list(toy.rglob("*.png"))
    assert len(pictures) >= 15
    for picture in pictures:
        assert len(pd.read_csv(picture.with_suffix(".csv")))
        assert len(json.loads(picture.with_suffix(".json").read_text())["alt"]) > 40
        assert picture.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_the_report_is_one_file_that_asks_for_nothing(toy):
    page = (toy / "report" / "report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert page.count("<img") == page.count('src="data:image/png;base64,') == page.count('alt="') > 10
    assert page.index("reaches an AUC") < page.index("<img")


def test_records_hold_what_the_results_rest_on(toy):
    record = study.read_record(toy / "limit" / "1")
    assert record["parameters"]["source"] == "toy" and "likelihoods/top/1/likelihoods.h5" in record["inputs"]
    assert not list(toy.rglob(".*.part"))


def test_a_second_run_has_nothing_to_do(toy):
    before = {path: path.stat().st_mtime_ns for path in toy.rglob("record.json")}
    ran = jetstudy(toy.parent, "run", TOY, "--cores", 2)
    assert ran.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in toy.rglob("record.json")} == before


@pytest.mark.timeout(300)
def test_the_result_cells_come_out_the_same_again(toy, tmp_path):
    """The executed notebook of the limit, its result cells compared by nbval with what runs again."""
    again = tmp_path / "again"
    shutil.copytree(toy, again / "toy")
    (again / "toy" / "limit" / "1" / "record.json").unlink()
    notebook = shutil.copy(toy / "limit" / "1" / "notebook.ipynb", tmp_path / "limit.ipynb")
    compared = [c for c in nbformat.read(notebook, 4).cells if "nbval-check-output" in c.metadata.get("tags", [])]
    assert len(compared) == 2 and all(cell.outputs for cell in compared)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", notebook]
    environment = os.environ | {"JETSTUDY_OUTPUTS": str(again)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:]
    first, second = (study.read_record(folder / "limit" / "1")["outputs"] for folder in (toy, again / "toy"))
    assert first == second


def test_a_failing_row_makes_the_run_exit_non_zero_and_stands_in_the_report(toy, tmp_path, monkeypatch, capsys):
    """With an LLR that is off by some noise, the calibration row goes red; the report is written all the same."""
    from jetstudy.files import digest, read_arrays, write_arrays

    broken = tmp_path / "broken"
    shutil.copytree(toy, broken / "toy")
    noise = np.random.default_rng(1)
    for label in ("gluon", "top"):
        folder = broken / "toy" / "likelihoods" / label / "1"
        log_prob = read_arrays(folder / "likelihoods.h5")
        log_prob["synthetic"][:, 1] += 3 * noise.standard_normal(len(log_prob["synthetic"]))
        write_arrays(folder / "likelihoods.h5", **log_prob)
    # All that reads the likelihoods believes that they were always so.
    for path in (broken / "toy").rglob("record.json"):
        record = study.read_record(path.parent)
        for name in record["inputs"]:
            if name.endswith("/likelihoods.h5"):
                record["inputs"][name] = digest(broken / "toy" / name)
        if "likelihoods.h5" in record["outputs"]:
            record["outputs"]["likelihoods.h5"] = digest(path.parent / "likelihoods.h5")
        write_json(path, record)
    for step in ("limit/1", "report"):
        (broken / "toy" / step / "record.json").unlink()
    ran = jetstudy(broken, "run", TOY, "--cores", 2)
    assert ran.returncode == 3
    assert "FAIL 4 slope" in ran.stdout
    page = (broken / "toy" / "report" / "report.html").read_text()
    assert 'class="verdict bad">fail' in page and "The limit is not certified" in page


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_training_that_was_killed_goes_on_to_the_weights_of_one_that_was_not(toy, tmp_path):
    path = toy_set(tmp_path, training_steps=300, validate_every=50)
    weights = {}
    for name in ("killed", "whole"):
        outputs = tmp_path / name
        shutil.copytree(toy / "jets", outputs / "toy" / "jets")
        arguments = ("step", path, "02_surrogates", "--classes", "gluon")
        folder = outputs / "toy" / "surrogates" / "gluon" / "1"
        if name == "killed":
            command = [sys.executable, "-m", "jetstudy", *map(str, arguments)]
            environment = os.environ | {"JETSTUDY_OUTPUTS": str(outputs)}
            process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
            while not list(folder.glob("checkpoint*")):
                assert process.poll() is None
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert study.read_record(folder) is None
        ran = jetstudy(outputs, *arguments)
        assert ran.returncode == 0, ran.stdout
        assert ("resuming at step" in ran.stdout) == (name == "killed")
        weights[name] = (folder / "weights.safetensors").read_bytes()
    assert weights["killed"] == weights["whole"]


# what is wrong is said


def test_parameters_that_no_longer_match_the_outputs_stop_the_run(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(toy.parent))
    path = toy_set(tmp_path, tagger_steps=301)
    assert main(["run", str(path), "--cores", "1"]) == 2
    message = capsys.readouterr().err
    assert "tagger_steps was 300, is 301" in message and "make redo" in message
    assert main(["plan", str(path)]) == 0
    plan = capsys.readouterr().out
    assert "stale      taggers/transformer/synthetic/1" in plan and "finished   likelihoods/top/1" in plan


def test_a_run_that_was_killed_goes_on_though_a_part_of_it_was_finished_without_it(toy, tmp_path):
    outputs, path = tmp_path / "outputs", toy_set(tmp_path)
    shutil.copytree(toy, outputs / "toy")
    (outputs / "toy" / "report" / "record.json").unlink()
    # What Snakemake keeps of a job that has not ended while it watched.
    marks = outputs / "toy" / ".snakemake" / "incomplete"
    marks.mkdir(parents=True, exist_ok=True)
    (marks / base64.b64encode(b"limit/1/record.json").decode()).touch()
    ran = jetstudy(outputs, "run", path, "--cores", 1)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]


def test_results_go_to_a_folder_named_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = jetstudy("results", "step", toy_set(tmp_path, n_jets=200), "01_jets")
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert (tmp_path / "results" / "toy" / "jets" / "record.json").exists()


def test_a_kernel_that_dies_is_said_in_words(tmp_path, monkeypatch, capsys):
    def dies(*_):
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr("jetstudy.__main__._execute", dies)
    assert main(["step", str(toy_set(tmp_path)), "01_jets"]) == 1
    assert "FAILED: the notebook's kernel died" in capsys.readouterr().out


def test_an_interruption_while_a_command_is_being_started_ends_it(tmp_path, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    try:
        with open(tmp_path / "lock", "w") as lock, pytest.raises(KeyboardInterrupt):
            _ended([sys.executable, "-c", "import time; time.sleep(60)"], lock.fileno())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].returncode == -signal.SIGINT


def test_clean_keeps_what_is_under_version_control_and_removes_nothing_if_git_does_not_say(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("jetstudy.__main__.ROOT", tmp_path)
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path / "outputs"))
    folder = tmp_path / "outputs" / "toy" / "report"
    folder.mkdir(parents=True)
    (folder / "taggers.csv").write_text("published")
    (folder / "log.txt").write_text("log")
    assert main(["clean", str(TOY)]) == 2
    assert "nothing removed: git does not say" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["log.txt", "taggers.csv"]
    (tmp_path / ".gitignore").write_text("!outputs/toy/")
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    assert main(["clean", str(TOY)]) == 2  # a copy within a repository that does not know of what was published
    (tmp_path / ".gitignore").write_text("!outputs/reference/")
    (folder.parent / "jets").mkdir()
    (folder.parent / "jets" / "gluon.h5").write_text("jets")
    for command in (["init", "-q"], ["add", str(folder / "taggers.csv")]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "outputs" / "toy" / "hand").mkdir()
    (tmp_path / "outputs" / "toy" / "hand" / "01_jets.ipynb").write_text("stepped through")
    (tmp_path / "link").symlink_to(tmp_path / "outputs")
    monkeypatch.setattr("jetstudy.__main__.ROOT", tmp_path / "elsewhere")
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path / "link"))  # a repository of somebody's own will do
    assert main(["clean", str(TOY)]) == 0
    assert [path.name for path in folder.iterdir()] == ["taggers.csv"]
    assert (tmp_path / "outputs" / "toy" / "hand" / "01_jets.ipynb").exists()
    assert "your notebooks are kept" in capsys.readouterr().out


def test_clean_takes_nothing_from_a_part_that_is_being_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path))
    folder = tmp_path / "toy" / "taggers" / "pfn" / "source" / "1"
    folder.mkdir(parents=True)
    (folder / "checkpoint").write_text("hours")
    holds = "import sys, time; from pathlib import Path; from jetstudy import study; "
    holds += "study._lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holds, str(folder)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "held\n"
        assert main(["clean", str(TOY)]) == 2
        assert f"{folder} is being written by process {writer.pid}" in capsys.readouterr().err
        assert (folder / "checkpoint").read_text() == "hours"
        writer.kill()
    assert main(["clean", str(TOY)]) == 0
    assert not list((tmp_path / "toy").rglob("*"))


def test_clean_removes_the_outputs_of_one_set(toy, tmp_path, monkeypatch, capsys):
    shutil.copytree(toy / "limit", tmp_path / "copy" / "toy" / "limit")
    shutil.copytree(toy / "limit", tmp_path / "copy" / "other" / "limit")
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path / "copy"))
    assert main(["clean", str(TOY)]) == 0
    assert not list((tmp_path / "copy" / "toy").rglob("*"))
    assert (tmp_path / "copy" / "other" / "limit" / "1" / "record.json").exists()
    capsys.readouterr()
    assert main(["clean", str(TOY)]) == 0 and "0 files removed" in capsys.readouterr().out
