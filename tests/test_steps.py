"""Single steps from the command line, and what is wrong; apart from the whole study, to share the time of the tests."""

import json
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch
from cli import TOY, jetstudy, toy_set

from jetstudy import study
from jetstudy.__main__ import main
from jetstudy.files import write_json
from jetstudy.jets import read_jets, write_jets
from jetstudy.sources import draw
from jetstudy.surrogate import Surrogate, score


@pytest.mark.timeout(300)
def test_jets_that_come_out_as_before_keep_the_features_that_surrogates_learned_in(tmp_path):
    labels = ["gluon", "top"]
    files = [str(tmp_path / f"{label}.h5") for label in labels]
    for file, label in zip(files, labels, strict=True):
        write_jets(file, draw("toy", label, 200, 6, 1, labels))
    own = {"source": "file", "files": files, "classes": labels, "samples": ["synthetic", "source"]}
    path, outputs = toy_set(tmp_path, **own, n_jets=200, stretch=0.5), tmp_path / "outputs"
    jets = outputs / "toy" / "jets"

    def made_again():
        (jets / study.RECORD).unlink(missing_ok=True)
        assert jetstudy(outputs, "step", path, "01_jets").returncode == 0
        return (jets / "density_features.json").read_bytes()

    fitted = made_again()
    nearly = json.loads(fitted)
    nearly["stretches"][0]["skew"] += 1e-4  # as by another machine's optimiser
    write_json(jets / "density_features.json", nearly)
    assert made_again() != fitted
    other = nearly | {"std": [1.1 * nearly["std"][0], *nearly["std"][1:]]}
    write_json(jets / "density_features.json", other)
    assert made_again() == fitted


@pytest.mark.timeout(600)
def test_a_study_of_ones_own_jets_goes_from_their_files_to_its_report(tmp_path):
    labels, files = ["QCD", "W"], []
    for label, kind in zip(labels, ("gluon", "top"), strict=True):
        files.append(f"{label}.hdf5")  # beside the parameter set
        write_jets(tmp_path / files[-1], draw("toy", kind, 400, 6, 1, ["gluon", "top"]))
    own = {"source": "file", "files": files, "classes": labels, "n_jets": 400, "samples": ["synthetic", "source"]}
    short = {"training_steps": 20, "acceptance_jets": 100, "n_synthetic": 200, "judges": ["boosting"], "checked": 10}
    short |= {"n_scored": 10, "n_matched": 10, "taggers": ["pfn"], "tagger_steps": 20, "tagger_validate_every": 10}
    none = {"learners": [], "searched": [], "fresh_jets": 0, "posterior_jets": 0, "residual_steps": 0}
    path, outputs = toy_set(tmp_path, **own, **short, **none), tmp_path / "outputs"
    ran = jetstudy(outputs, "run", path, "--cores", 2)
    assert ran.returncode in (0, 3), ran.stdout + ran.stderr  # so short a training may fail a row
    page = (outputs / "toy" / "report" / "report.html").read_text()
    assert "QCD" in page and "gluon" not in page
    again = jetstudy(outputs, "run", path, "--cores", 2)
    assert again.returncode == ran.returncode and "begins" not in again.stdout


@pytest.mark.timeout(300)
def test_one_network_for_both_classes_is_trained_by_the_first_ones_part(tmp_path):
    pair = {"conditional": True, "classes": ["gluon", "top"], "samples": ["synthetic", "source"]}
    path = toy_set(tmp_path, **pair, n_jets=200, training_steps=20, acceptance_jets=100)
    outputs = tmp_path / "outputs"
    assert jetstudy(outputs, "step", path, "01_jets").returncode == 0
    early = jetstudy(outputs, "step", path, "02_surrogates", "--classes", "top")
    assert early.returncode == 1
    assert (
        "surrogates/top/1: surrogates/gluon/1/weights.safetensors is not there yet: run 02_surrogates" in early.stdout
    )
    trained = jetstudy(outputs, "step", path, "02_surrogates")
    assert trained.returncode == 0, trained.stdout
    assert trained.stdout.count("40 steps done") == 1  # twice as many for both, once
    first, second = (outputs / "toy" / "surrogates" / label / "1" for label in ("gluon", "top"))
    assert (first / "weights.safetensors").read_bytes() == (second / "weights.safetensors").read_bytes()
    models, jets = (
        [Surrogate.load(folder) for folder in (first, second)],
        read_jets(outputs / "toy" / "jets" / "top.h5"),
    )
    assert [(model.label, model.velocity.label) for model in models] == [("gluon", 0), ("top", 1)]
    assert [model.acceptance.label for model in models] == [0, 1]
    for model in models:  # each keeps the share that it is asked to, which the other one's cap or odds would not
        share = np.exp(
            model.acceptance.log_share(replace(model, acceptance=None).sample(400, torch.Generator().manual_seed(0)))
        )
        assert abs(share.mean() - 0.7) < 4 * share.std() * np.sqrt(1 / 30 + 1 / 400)
    assert not np.array_equal(*(caps["mass"] for caps in models[0].acceptance.caps))
    assert (first / "log_odds.png").exists() and not (second / "log_odds.png").exists()
    log_p = score(models, jets[:20])
    assert np.isfinite(log_p).all() and (log_p[:, 0] != log_p[:, 1]).all()


# what is wrong is said


def test_a_wrong_parameter_set_stops_before_anything_starts(outputs, tmp_path, capsys):
    path = tmp_path / "toy.yaml"
    path.write_text(TOY.read_text().replace("n_jets:", "n_jet:"))
    assert main(["run", str(path), "--cores", "1"]) == 2
    assert "unknown key 'n_jet'" in capsys.readouterr().err
    assert not outputs.exists()


def test_a_step_that_fails_leaves_its_notebook_and_log_and_no_record(outputs, tmp_path):
    (tmp_path / "jets.h5").write_text("no HDF5")
    path = toy_set(tmp_path, source="file", files=["jets.h5"])
    ran = jetstudy(outputs, "run", path, "--cores", 1)
    assert ran.returncode == 1
    assert "FAILED in cell" in ran.stdout and "to go on from there: make study" in ran.stdout
    folder = outputs / "toy" / "jets"
    assert str(tmp_path / "jets.h5") in (folder / "log.txt").read_text()
    outputs_of = [cell.get("outputs", []) for cell in nbformat.read(folder / "notebook.ipynb", 4).cells]
    assert any(output.output_type == "error" for cell in outputs_of for output in cell)
    assert study.read_record(folder) is None
