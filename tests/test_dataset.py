import json

import h5py
import numpy as np
import pytest

from jetstudy import dataset, study
from jetstudy.__main__ import main
from jetstudy.files import digest, read_arrays
from jetstudy.jets import labelled, read_jets
from jetstudy.surrogate import Surrogate


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK", 20)


def test_a_dataset_is_what_its_readme_says(tiny, outputs, tmp_path):
    assert main(["dataset", "smoke", "50", "--out", str(tmp_path / "d")]) == 0
    path = tmp_path / "d" / "jets.h5"
    content = read_arrays(path)
    assert content["particle_features"].shape == (100, 6, 4) and content["label"].sum() == 50
    assert len(np.unique(content["particle_features"][:, 0, 0])) == 100  # no two chunks have the same random numbers
    jets = [read_jets(path, label=label) for label in (0, 1)]
    test, label = labelled(jets, "test")
    chosen = content["split"] == 2
    assert np.array_equal(content["label"][chosen], label) and len(label) == 20
    assert np.array_equal(content["particle_features"][chosen][..., :3], test.particles)
    for column, name in enumerate(("gluon", "top")):
        model = Surrogate.load(outputs / "smoke" / "surrogates" / name / "1")
        known = content[f"log_prob_{name}"]
        assert np.allclose(known[chosen], model.log_prob(test), atol=1e-3)
        assert np.isnan(known[~chosen]).all()
        assert content["llr"][chosen][column] == pytest.approx(
            content["log_prob_top"][chosen][column] - content["log_prob_gluon"][chosen][column]
        )
    with h5py.File(path) as file:
        assert list(file.attrs["label_names"]) == ["gluon", "top"]
    record = json.loads((tmp_path / "d" / "record.json").read_text())
    assert record["digest"] == digest(path) and record["jets_a_class"] == 50
    text = (tmp_path / "d" / "README.md").read_text()
    assert "0 training (70 jets), 1 validation (10), 2 test (20)" in text and "{" not in text
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [".lock", "README.md", "jets.h5", "record.json"]


def test_an_interrupted_dataset_goes_on_to_the_same_bytes(tiny, tmp_path, monkeypatch):
    whole = dataset.write(tmp_path / "whole", "smoke", 50)
    lines = []

    def stop(line):
        lines.append(line)
        if "top jets to 40" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.write(tmp_path / "stopped", "smoke", 50, progress=stop)
    assert not (tmp_path / "stopped" / "jets.h5").exists()
    lines.clear()
    stopped = dataset.write(tmp_path / "stopped", "smoke", 50, progress=lines.append)
    assert lines[:2] == ["dataset: top jets to 40 of 50", "dataset: top jets to 50 of 50"]
    assert stopped.read_bytes() == whole.read_bytes()


def test_a_smaller_dataset_leaves_alone_what_an_interrupted_larger_one_has_drawn(tiny, tmp_path):
    def stop(line):
        if "gluon jets to 60" in line:  # before these are written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dataset.write(tmp_path, "smoke", 60, progress=stop)
    drawn = sorted(tmp_path.glob("chunks-*/*/*.h5"))
    with pytest.raises(study.StudyError, match="has 40 jets of a larger dataset that was interrupted"):
        dataset.write(tmp_path, "smoke", 30)
    assert len(drawn) == 2 and sorted(tmp_path.glob("chunks-*/*/*.h5")) == drawn


@pytest.mark.parametrize("n", ["55", "10"])
def test_a_number_that_the_splits_do_not_divide_is_refused_and_one_too_small(tiny, tmp_path, capsys, n):
    assert main(["dataset", "smoke", n, "--out", str(tmp_path)]) == 2
    assert f"n is {n}" in capsys.readouterr().err


def test_files_of_something_else_are_not_written_over(tiny, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("my notes")
    assert main(["dataset", "smoke", "20", "--out", str(folder)]) == 2
    assert f"{folder} has README.md of something else" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["README.md"]
    (folder / "README.md").unlink()
    assert main(["dataset", "smoke", "20", "--out", str(folder)]) == 0
    record = json.loads((folder / "record.json").read_text())
    for n in ("40", "30"):
        assert main(["dataset", "smoke", n, "--out", str(folder)]) == 2
        assert f"{folder} has a dataset of 20 jets per class: choose another folder" in capsys.readouterr().err
    assert digest(folder / "jets.h5") == record["digest"]
    assert main(["dataset", "smoke", "20", "--out", str(folder)]) == 0
    assert f"{folder / 'jets.h5'} is there already" in capsys.readouterr().out
    (folder / "record.json").write_text(json.dumps(record | {"seed": 2}))
    assert main(["dataset", "smoke", "20", "--out", str(folder)]) == 2
    assert f"{folder} has a dataset of surrogates of seed 2: choose another folder" in capsys.readouterr().err
    del record["inputs"]  # of another version
    (folder / "record.json").write_text(json.dumps(record))
    assert main(["dataset", "smoke", "20", "--out", str(folder)]) == 2
    assert f"{folder} has a dataset of surrogates of other weights" in capsys.readouterr().err


def test_another_process_that_writes_is_named(tiny, tmp_path):
    with study.locked(tmp_path):
        study._LOCKS[tmp_path.parent] = study._LOCKS.pop(tmp_path)  # as if another process held it
        with pytest.raises(study.StudyError, match="is being written by process"):
            dataset.write(tmp_path, "smoke", 20)
        study._LOCKS[tmp_path] = study._LOCKS.pop(tmp_path.parent)
