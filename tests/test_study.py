import json
import math
import multiprocessing
import os
import runpy
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
import yaml

from jetstudy import __main__ as main_module
from jetstudy import (
    choices,
    diffusion,
    figures,
    networks,
    pages,
    probability_flow,
    report,
    schedules,
    study,
    taggers,
    training,
)
from jetstudy.__main__ import ENVIRONMENT, _execute, main
from jetstudy.sources import pythia, toy
from jetstudy.study import Part, StudyError
from jetstudy.taggers import trees
from jetstudy.training import on_device

SETS = ("smoke", "quick", "closure", "reference", "paper")


def written(tmp_path, **changes):
    """The path of a parameter set like smoke, with changes; None takes a key out."""
    values = study.load("smoke") | {"parameter_set": "mine"} | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return str(path)


def jets_part(**changes):
    parameters = study.load("smoke")
    own = {key: parameters[key] for key in study.declared("01_jets")} | changes
    return Part("01_jets", {}, own)


def surrogate_part(label="top", seed=1, **changes):
    parameters = study.load("smoke")
    own = {key: parameters[key] for key in study.declared("02_surrogates")} | changes
    return Part("02_surrogates", {"classes": label, "seeds": seed}, own)


def finish(part, **files):
    assert part.begin()
    for name, text in files.items():
        (part.folder / name).write_text(text)
    part.done()


# parameter sets


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_complete_and_typed(name):
    assert set(study.load(name)) == set(study.all_declared())
    assert study.load(name)["parameter_set"] == name


def test_the_notebooks_defaults_are_the_smoke_set():
    assert study.load("smoke") == study.all_declared()


@pytest.mark.parametrize(("key", "value"), [("search_trials", 0), ("validate_every", 0), ("tagger_batch", 3)])
def test_a_number_too_small_to_work_is_refused_before_anything_starts(tmp_path, key, value):
    with pytest.raises(StudyError, match=rf"mine\.yaml: {key} is {value}: expected {value + 1} or more"):
        study.load(written(tmp_path, **{key: value}))


def test_every_parameter_has_a_line_of_help():
    for notebook in study.FAN_OUT:
        assert all(text for _, text in study.declared(notebook).values()), notebook


def test_an_unknown_key_is_named_with_a_suggestion(tmp_path):
    with pytest.raises(StudyError, match=r"mine\.yaml: unknown key 'n_jet' \(did you mean 'n_jets'\?\)"):
        study.load(written(tmp_path, n_jet=5))


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"mine\.yaml: key 'bootstrap' is missing"):
        study.load(written(tmp_path, bootstrap=None))


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("n_jets", "300", "n_jets is '300' (str), not int"),
        ("files", ["a.h5", "a.h5"], "an item is given twice; a file that holds both classes is given once"),
        ("n_jets", True, "n_jets is True (bool), not int"),
        ("n_jets", 3.5, "n_jets is 3.5 (float), not int"),
        ("training_rate", "1e-3", "write 1.0e-3"),
        ("classes", "top", "classes is 'top' (str), not list"),
        ("files", [date(2024, 1, 1)], "files[0] is datetime.date(2024, 1, 1) (date), not str"),
        ("seeds", [1, "2"], "seeds[1] is '2' (str), not int"),
        ("seeds", [], "seeds is an empty list"),
        ("seeds", [1, 1], "given twice"),
        ("parameter_set", "other", "the file's name says 'mine'"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(tmp_path, key, value, complaint):
    with pytest.raises(StudyError) as error:
        study.load(written(tmp_path, **{key: value}))
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"classes": ["gluon"]}, "classes is ['gluon']: two classes are needed"),
        ({"classes": ["gluon", "top", "top.1"]}, "two samples of one kind behind them, such as 'top.1' and 'top.2'"),
        (
            {"classes": ["gluon", "top", "top.1", "gluon.2"]},
            "samples of one kind such as 'top.1' and 'top.2', not 'top.1'",
        ),
        ({"samples": ["synthetic", "null"]}, "'null' needs two samples of one kind behind ['gluon', 'top'] in classes"),
    ],
)
def test_a_null_that_is_none_is_refused(tmp_path, changes, complaint):
    with pytest.raises(StudyError) as error:
        study.load(written(tmp_path, **changes))
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"source": "files"}, "source is 'files': expected one of pythia, file, toy"),
        ({"samples": ["syntetic"]}, "samples is 'syntetic': expected one of synthetic, source, null"),
        ({"solver": "rk5"}, "solver is 'rk5'"),
        ({"taggers": ["transformr"]}, "taggers has 'transformr': unknown; expected package.module:Class or one of"),
        ({"searched": ["boosting"]}, "searched has 'boosting': trees, which take no steps"),
        ({"judges": ["boosting", "forest"]}, "judges has 'forest': unknown; expected package.module:Class or"),
        ({"tagger_size": "medium"}, "tagger_size is 'medium': expected one of small, paper"),
        ({"n_jets": 3}, "n_jets is 3: expected 200 or more"),
        ({"classes": ["gluon", "higgs"]}, "classes has 'higgs', of which pythia knows nothing: expected gluon, quark"),
        ({"layers": -1}, "layers is -1: expected 0 or more"),
        ({"edge": -0.8}, "edge is -0.8: expected 0 or more"),
        ({"accepted": 0.0}, "accepted is 0.0: expected more than 0"),
        ({"accepted": 1.5}, "accepted is 1.5: expected a share, 1 at most"),
        ({"acceptance_jets": 50}, "acceptance_jets is 50: expected 100 or more"),
        ({"seeds": [1, -2]}, "seeds is -2: expected 0 or more"),
        ({"bootstrap": 0}, "bootstrap is 0: expected 20 or more"),
        ({"training_rate": -2e-3}, "training_rate is -0.002: expected more than 0"),
        ({"resample_times": [0.2, 1.8]}, "resample_times has 1.8: expected times in (0, 1]"),
        ({"classes": ["QCD jets", "top"]}, "classes has 'QCD jets': expected a letter first, then letters"),
        ({"classes": ["21", "top"]}, "classes has '21': expected a letter first"),
        ({"classes": ["gluon", "NaN"]}, "classes has 'NaN': tables would be read with a missing value"),
        ({"n_max": 1}, "n_max is 1: expected 2 or more"),
        ({"classes": ["QCD/uds", "top"]}, "classes has 'QCD/uds'"),
        ({"source": "file"}, "files is []: expected one path for each of gluon, top, or one with a data set `label`"),
        ({"divergence": "exact"}, "divergence is 'exact': expected own_path, jacobian or hutchinson-K"),
        ({"network": "epic"}, "divergence is own_path, which network = epic does not have"),
        ({"heads": 0}, "heads is 0: expected 1 or more"),
        ({"heads": 3}, "width is 16: expected a multiple of heads, 3"),
        ({"network": "epic", "divergence": "jacobian", "heads": 3}, "width is 16: expected a multiple of heads, 3"),
        ({"source": "toy", "edge": 0.0}, "stretch is 0.3: expected 0 for the toy"),
        ({"source": "toy", "edge": 0.0, "stretch": 0.0, "smearing": 0.3}, "smearing is 0.3: expected 0 for the toy"),
        ({"source": "toy", "edge": 0.0, "stretch": 0.0}, "jets_kept is leading: expected all for the toy"),
        (
            {"source": "toy", "edge": 0.0, "stretch": 0.0, "jets_kept": "all", "pairing": "assigned"},
            "pairing is assigned: expected independent for the toy",
        ),
        ({"n_scored": 1}, "n_scored is 1: expected 2 or more"),
        ({"n_synthetic": 79}, "n_synthetic is 79: expected 80 or more"),
        ({"judges": []}, "judges is empty: expected one or more"),
        ({"resample_times": []}, "resample_times is empty: expected one or more"),
        ({"accepted": math.nan}, "accepted is nan: expected a finite number"),
        ({"resample_times": [math.inf]}, "resample_times is inf: expected a finite number"),
        (
            {"taggers": ["pfn", "my_taggers:Mine"], "searched": ["my_taggers:Mine"], "tagger_size": "tiny"},
            "tagger_size is 'tiny': expected one of small, paper",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path, changes, complaint):
    with pytest.raises(StudyError) as error:
        study.load(written(tmp_path, **changes))
    assert complaint in str(error.value) and "mine.yaml" in str(error.value)


def test_the_names_that_parameters_may_be_are_those_that_there_are():
    assert set(choices.TAGGER_NETWORKS) == set(taggers.TAGGERS) and set(choices.TREES) == set(trees.SIZES)
    assert set(choices.NAMES["network"]) == set(networks.NETWORKS)
    assert set(choices.NAMES["schedule"]) == set(schedules.SCHEDULES)
    assert set(choices.NAMES["solver"]) == set(probability_flow.METHODS)
    assert set(choices.NAMES["times"]) == set(diffusion.TIMES)
    assert set(choices.NAMES["pairing"]) == set(diffusion.PAIRINGS)
    assert set(choices.NAMES["optimiser"]) < set(training.OPTIMISERS)
    assert choices.CLASSES == {"pythia": tuple(pythia.PROCESSES), "toy": tuple(toy.CLASSES)}
    assert set(choices.SIZES) == set(taggers.find("pfn").sizes)
    numbers = {key for key, value in study.all_declared().items() if type(value) in (int, float)}
    assert numbers == (set(choices.LEAST) | set(choices.POSITIVE)) - {"seeds"}


def test_a_file_or_module_that_is_not_here_stops_a_run_and_nothing_else(tmp_path, capsys):
    gone = {"source": "file", "files": ["gone.h5"], "classes": ["gluon", "top"]}
    path = written(tmp_path, **gone)
    assert main(["plan", path]) == 0
    assert main(["run", path]) == 2
    assert f"files has '{tmp_path / 'gone.h5'}': no such file" in capsys.readouterr().err
    assert main(["redo", written(tmp_path, taggers=["my_taggers:Mine"])]) == 2
    assert "taggers has 'my_taggers:Mine': no module 'my_taggers'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "smoke", "--cores", "0"])
    assert "--cores: '0': expected 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("found", [False, True])
def test_a_gpu_that_is_asked_for_has_to_be_there_before_anything_runs(tmp_path, monkeypatch, capsys, found):
    monkeypatch.setattr("torch.cuda.is_available", lambda: found)
    path = written(tmp_path, device="cuda")
    if found:
        choices.check_machine(study.load(path))
    else:
        assert main(["run", path]) == 2
        assert "device is 'cuda': PyTorch finds no GPU here" in capsys.readouterr().err


def test_a_tagger_of_ones_own_is_tried_where_notebooks_run_before_a_study_starts(tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.py").write_text(
        "from torch import nn\n\n\nclass Sum(nn.Linear):\n    def __init__(self, features):\n"
        "        super().__init__(3, 1)\n\n    def forward(self, x, mask):\n"
        "        return (super().forward(x)[..., 0] * mask).sum(1)\n"
    )
    monkeypatch.chdir(tmp_path / "here")  # where this process finds the module, and a notebook does not
    monkeypatch.delenv("PYTHONPATH", raising=False)
    values = study.load(written(tmp_path, taggers=["mine:Sum"]))
    with pytest.raises(ValueError, match=r"taggers has 'mine:Sum': no module 'mine'; install it or put its folder"):
        choices.check_machine(values)
    monkeypatch.setenv("PYTHONPATH", ".")
    assert main(["redo", written(tmp_path, judges=["mine:Summ"])]) == 2
    assert "judges has 'mine:Summ': module mine has no Summ" in capsys.readouterr().err
    assert os.environ["PYTHONPATH"] == os.pathsep.join([str(study.ROOT), str(tmp_path / "here")])
    choices.check_machine(values)


@pytest.mark.parametrize(
    ("inside", "complaint"),
    [
        ("def __init__(self, features):\n        assert False", "AssertionError"),
        ("def __init__(self, features):\n        raise ValueError('wrong:\\n  an even width')", "an even width"),
        ("def __init__(self, features):\n        import os; os._exit(9)", "its process ended with 9"),
        ("width = = 3", "invalid syntax in"),
        ("recipe = {'optimizer': 'adamw'}", "recipe has 'optimizer'; there are steps"),
        ("recipe = {'optimiser': 'adam'}", "optimiser 'adam': expected one of"),
        ("space = {'width': (8, 2)}", "width: (8, 2) is no range of positive numbers"),
        ("space = {'widht': [8, 16]}", "unexpected keyword argument 'widht'"),
        ("recipe = {'rate': 'fast'}", "can't multiply sequence"),
    ],
)
def test_whatever_is_wrong_with_a_tagger_of_ones_own_is_said_before_a_study_starts(
    tmp_path, monkeypatch, inside, complaint
):
    (tmp_path / "faulty.py").write_text(
        f"from torch import nn\n\n\nclass Sum(nn.Linear):\n    {inside}\n\n"
        "    def forward(self, x, mask):\n        return (super().forward(x)[..., 0] * mask).sum(1)\n"
        + ("" if "__init__" in inside else "\n    def __init__(self, features):\n        super().__init__(3, 1)\n")
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"taggers has 'faulty:Sum': ") as error:
        choices.check_machine(study.load(written(tmp_path, taggers=["faulty:Sum"])))
    assert complaint in str(error.value)


def test_only_what_is_to_be_made_has_to_be_here(chain, tmp_path, monkeypatch):
    """Taggers, judges, files and a GPU of parts that are finished are not asked for again."""
    values = study.load(
        written(tmp_path, source="file", files=["gone.h5"], taggers=["mine:Gone"], judges=["mine:Gone"])
    )
    parts = {part.notebook: part for part in study.parts(values)}
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    main_module._check_machine("mine", values | {"device": "cuda"}, [parts["06_limit"], parts["09_report"]])
    for notebook, complaint in {
        "01_jets": "files has",
        "03_synthetic_jets": "judges has",
        "05_taggers": "taggers has",
    }.items():
        with pytest.raises(StudyError, match=f"mine: {complaint}"):
            main_module._check_machine("mine", values, [parts[notebook]])
    with pytest.raises(StudyError, match="device is 'cuda'"):
        main_module._check_machine("mine", values | {"device": "cuda"}, [parts["04_likelihoods"]])
    alone = values | {"learners": []}
    main_module._check_machine("mine", alone, [parts["06_limit"]])
    with pytest.raises(StudyError, match="posterior_jets is 40: expected 0, since learners, the only ones to see them"):
        main_module._check_machine("mine", alone, [parts["04_likelihoods"]])


def test_a_file_that_has_moved_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path / "outputs"))
    (tmp_path / "jets.h5").write_bytes(b"jets")
    values = study.load(written(tmp_path, source="file", files=["jets.h5"]))
    part = study.parts(values)[0]
    assert part.begin()
    (part.folder / "features.json").write_text("{}")
    part.done()

    def standing(name):
        return study.state(values | {"files": [str(tmp_path / name)]})["jets"]

    (tmp_path / "moved.h5").write_bytes(b"jets")
    (tmp_path / "other.h5").write_bytes(b"others")
    assert standing("jets.h5")[0] == standing("moved.h5")[0] == "finished"
    gone = standing("gone.h5")  # results without their jets
    assert gone[0] == "finished" and "taken for what was read, and not here" in gone[1][0]
    assert standing("other.h5")[0] == "stale"


def test_a_child_that_is_given_the_lock_keeps_it(tmp_path):
    with study.locked(tmp_path / "set") as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    with pytest.raises(StudyError, match="is being written by process"), study.locked(tmp_path / "set"):
        pass
    child.kill()
    child.wait()
    with study.locked(tmp_path / "set"):
        pass


def test_make_takes_paths_with_spaces():
    variables = ["PARAMS=/my sets/mine.yaml", "FILE=/my jets.h5", "OUT=/my scores.h5"]
    command = ["make", "--no-print-directory", "-n", "score", *variables]
    plan = subprocess.run(command, cwd=study.ROOT, capture_output=True, text=True, check=True).stdout
    given = ["/my sets/mine.yaml", "/my jets.h5", "--out", "/my scores.h5"]
    assert shlex.split(plan.splitlines()[-1])[2:] == ["jetstudy", "score", *given]


def test_an_empty_outputs_variable_names_no_folder(monkeypatch):
    monkeypatch.setenv("JETSTUDY_OUTPUTS", "")
    assert study.outputs() == study.ROOT / "outputs"


def test_a_null_adds_two_surrogates_and_a_tagger(tmp_path):
    classes, samples = ["gluon", "top", "top.1", "top.2"], ["synthetic", "null"]
    names = [part.name for part in study.parts(study.load(written(tmp_path, classes=classes, samples=samples)))]
    assert {"surrogates/top.1/1", "likelihoods/top.2/1", "taggers/transformer/null/1"} < set(names)


def test_the_null_is_measured_with_the_first_seed_only(tmp_path):
    null = {"classes": ["gluon", "top", "top.1", "top.2"], "samples": ["synthetic", "null"]}
    names = [part.name for part in study.parts(study.load(written(tmp_path, seeds=[3, 4], **null)))]
    assert {"surrogates/top.1/3", "surrogates/top/4", "taggers/transformer/null/3", "limit/4"} < set(names)
    assert not {"surrogates/top.1/4", "likelihoods/top.2/4", "taggers/transformer/null/4"} & set(names)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"learning_jets": [40, 562]}, "learning_jets has 562: expected an even number from 2 to 560"),
        ({"learning_jets": [41]}, "learning_jets has 41"),
        ({"learning_jets": []}, "learning_jets is empty, but there are learners: ['pfn']"),
        ({"posterior_jets": 1000}, "posterior_jets has 1000: expected an even number from 30 to 560"),
        ({"posterior_jets": 20}, "posterior_jets has 20: expected an even number from 30 to 560"),
        ({"fresh_jets": 62}, "fresh_jets is 62: expected 0, or an even number of at least tagger_batch, 64"),
        ({"fresh_jets": 1281}, "fresh_jets is 1281"),
        ({"learning_larger": ["pfn.2"]}, "learning_larger has 'pfn.2': expected some of the learners' kinds, pfn"),
        ({"learning_steps": 20}, "learning_steps is 20: expected more than the 20 that fresh_jets suffice for"),
        ({"learning_size": "paper"}, "learning_larger is ['pfn']: expected [], since learning_size is 'paper' already"),
    ],
)
def test_trainings_without_jets_or_networks_are_refused_before_anything_starts(tmp_path, changes, complaint):
    with pytest.raises(StudyError) as error:
        study.load(written(tmp_path, **changes))
    assert complaint in str(error.value)


def test_steps_over_an_empty_list_have_no_parts(tmp_path, capsys):
    path = written(tmp_path, learners=[], searched=[], learning_jets=[], posterior_jets=0, fresh_jets=0)
    assert {part.notebook for part in study.parts(study.load(path))} == set(study.FAN_OUT) - {
        "07_learning",
        "08_search",
    }
    assert main(["step", path, "08_search"]) == 2
    assert "08_search has nothing to do: searched is an empty list" in capsys.readouterr().err


def test_a_whole_number_will_do_for_a_float(tmp_path):
    value = study.load(written(tmp_path, smearing=1))["smearing"]
    assert value == 1.0 and type(value) is float


def test_a_key_given_twice_is_refused(tmp_path):
    path = written(tmp_path)
    with open(path, "a") as file:
        file.write("n_jets: 7\n")
    with pytest.raises(StudyError, match="'n_jets' is given twice"):
        study.load(path)


def test_a_set_that_is_not_utf_8_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes("parameter_set: Jürgen".encode("latin-1"))
    with pytest.raises(StudyError, match=r"mine\.yaml.*utf-8"):
        study.load(str(path))


def test_a_set_that_does_not_exist_is_named_beside_those_that_do():
    with pytest.raises(StudyError, match=r"quikc.*there are closure, paper, quick"):
        study.load("quikc")


def test_a_notebook_checks_the_types_of_its_own_parameters():
    namespace = study.load("smoke") | {"n_jets": "many"}
    with pytest.raises(StudyError, match="01_jets: n_jets is 'many'"):
        study.begin("01_jets", namespace)


# parts and records


def test_parts_fan_out_over_their_lists_and_have_folders_of_their_own(outputs):
    names = [part.name for part in study.parts(study.load("smoke") | {"seeds": [1, 2]})]
    assert names[:5] == ["jets", "surrogates/gluon/1", "surrogates/gluon/2", "surrogates/top/1", "surrogates/top/2"]
    assert "taggers/transformer/source/2" in names and names[-1] == "report"
    assert surrogate_part().folder == outputs / "smoke" / "surrogates" / "top" / "1"


def test_random_seeds_differ_between_all_parts():
    seeds = [part.random_seed for part in study.parts(study.load("smoke") | {"seeds": [1, 2, 3]})]
    assert len(set(seeds)) == len(seeds)


def test_a_record_proves_that_a_part_finished_and_what_it_wrote():
    part = jets_part()
    finish(part, **{"gluon.h5": "gluons"})
    record = study.read_record(part.folder)
    assert record["parameters"]["n_jets"] == 300 and "threads" not in record["parameters"]
    assert record["threads"] == 2 and record["versions"]["torch"] and list(record["outputs"]) == ["gluon.h5"]
    assert record["volatile"]["seconds"] >= 0 and record["volatile"]["peak_memory_gib"] > 0
    assert not jets_part().begin()


def test_what_was_measured_stands_among_the_volatile_fields():
    part = jets_part()
    part.begin()
    part.done(jets_per_second=12.5)
    record = study.read_record(part.folder)
    assert record["volatile"]["jets_per_second"] == 12.5 and "jets_per_second" not in record


def test_a_part_that_raises_leaves_no_record():
    part = jets_part()
    assert part.begin()
    assert study.read_record(part.folder) is None
    assert study.state(study.load("smoke"))["jets"] == ("unfinished", [])


def test_what_a_part_reads_is_noted_with_its_digest():
    finish(jets_part(), **{"top.h5": "tops"})
    part = surrogate_part()
    path = part.read("jets", "top.h5")
    finish(part)
    assert path.read_text() == "tops"
    assert list(study.read_record(part.folder)["inputs"]) == ["jets/top.h5"]


def test_reading_what_is_not_there_says_what_to_run():
    with pytest.raises(StudyError, match=r"jets/top\.h5 is not there yet: run 01_jets.*make study PARAMS=smoke"):
        surrogate_part().read("jets", "top.h5")


def test_other_parameters_than_those_of_the_record_stop_the_part():
    finish(jets_part())
    with pytest.raises(StudyError, match=r"n_jets was 300, is 400.*make redo PARAMS=smoke"):
        jets_part(n_jets=400).begin()


def test_a_part_that_was_merely_begun_with_other_parameters_is_begun_anew(tmp_path):
    part = jets_part()
    part.begin()
    (part.folder / "gluon.h5").write_text("of 300")
    changed = study.load(written(tmp_path, n_jets=400)) | {"parameter_set": "smoke"}
    assert study.state(changed)["jets"] == ("unfinished", ["begins anew: n_jets was 300, is 400"])
    study._unlock(part.folder)
    again = jets_part(n_jets=400)
    assert again.begin()
    again.done()
    record = study.read_record(again.folder)
    assert record["parameters"]["n_jets"] == 400 and record["outputs"] == {}  # nothing of the other run is left
    assert study.state(changed)["jets"] == ("finished", [])


def test_where_a_part_runs_may_change():
    finish(jets_part())
    assert not jets_part(threads=16).begin()


def test_a_damaged_record_is_named():
    part = jets_part()
    finish(part)
    (part.folder / study.RECORD).write_text("{")
    with pytest.raises(StudyError, match=r"record\.json: not a record"):
        study.read_record(part.folder)
    (part.folder / study.RECORD).write_text("[1]")
    with pytest.raises(StudyError, match=r"record\.json is \[1\], not a record"):
        study.read_record(part.folder)


def _hold(folder, held, release):
    study._lock(folder)
    held.set()
    release.wait()


def test_a_second_writer_is_told_who_the_first_one_is():
    part = jets_part()
    part.folder.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(part.folder, held, release))
    process.start()
    try:
        assert held.wait(60)
        with pytest.raises(StudyError, match=f"is being written by process {process.pid}"):
            part.begin()
    finally:
        release.set()
        process.join()
    assert part.begin()


# where a run stands


@pytest.fixture
def chain():
    """Jets and, read from them, both surrogates."""
    finish(jets_part(), **{"gluon.h5": "gluons", "top.h5": "tops"})
    for label in ("gluon", "top"):
        part = surrogate_part(label)
        part.read("jets", f"{label}.h5")
        finish(part, **{"weights.safetensors": label})


def test_finished_parts_are_told_from_missing_ones(chain):
    state = study.state(study.load("smoke"))
    assert [state[name][0] for name in ("jets", "surrogates/top/1", "limit/1")] == ["finished", "finished", "missing"]


def test_results_published_without_their_jets_are_finished_and_the_plan_says_so(chain):
    (jets_part().folder / "top.h5").unlink()
    assert study.state(study.load("smoke"))["jets"] == ("finished", ["not stored here: top.h5"])
    assert not jets_part().begin()
    with pytest.raises(StudyError, match=r"top\.h5 is not stored here.*make redo PARAMS=smoke STEP=jets"):
        surrogate_part(seed=2).read("jets", "top.h5")


def test_a_file_that_differs_from_its_record_is_refused(chain):
    (jets_part().folder / "top.h5").write_text("tops!")
    with pytest.raises(StudyError, match=r"top\.h5 is damaged or was changed.*make redo PARAMS=smoke STEP=jets"):
        surrogate_part(seed=2).read("jets", "top.h5")


def test_a_part_reads_its_own_files_as_others_do(chain):
    assert jets_part().own("top.h5").read_text() == "tops"
    (jets_part().folder / "top.h5").unlink()
    with pytest.raises(StudyError, match=r"top\.h5 is not stored here.*make redo PARAMS=smoke STEP=jets"):
        jets_part().own("top.h5")
    assert surrogate_part().own("weights.safetensors").read_text() == "top"
    with pytest.raises(StudyError, match=r"surrogates/top/2/weights\.safetensors is not there yet: run 02_surrogates"):
        surrogate_part(seed=2).own("weights.safetensors")


def test_what_somebody_put_beside_results_stays_when_these_are_made_again(chain):
    folder = jets_part().folder
    (folder / "notes.txt").write_text("mine")
    study.redo(study.load("smoke"), "jets")
    finish(jets_part(), **{"gluon.h5": "other gluons", "counts.csv": "new"})  # no tops any more
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        *("counts.csv", "gluon.h5", "notes.txt", "record.json")
    ]
    assert set(study.read_record(folder)["outputs"]) == {"counts.csv", "gluon.h5"}
    assert not (folder / study.REPLACED).exists()


def test_what_somebody_put_beside_an_interrupted_part_stays(chain):
    part = jets_part()
    (part.folder / study.RECORD).unlink()
    assert part.begin()
    study._unlock(part.folder)  # as if it had been killed
    (part.folder / "notes.txt").write_text("mine")
    finish(jets_part(), **{"gluon.h5": "gluons", "top.h5": "tops"})
    assert (part.folder / "notes.txt").read_text() == "mine"
    assert set(study.read_record(part.folder)["outputs"]) == {"gluon.h5", "top.h5"}


@pytest.mark.parametrize("notebook", list(study.FAN_OUT))
def test_every_step_of_a_study_of_ones_own_files_can_be_finished(outputs, tmp_path, notebook):
    files = [str(tmp_path / f"{label}.h5") for label in ("gluon", "top")]
    for file in files:
        Path(file).write_text("jets")
    values = study.load("smoke") | {"source": "file", "files": files}
    part = study.Step(notebook, {key: values[key] for key in study.declared(notebook)}).all[0]
    assert part.begin()
    part.done()
    assert ("digests_of_files" in study.read_record(part.folder)) == (notebook == "01_jets")


def test_without_learners_nothing_is_asked_of_what_they_would_read(tmp_path):
    changes = {"learning_jets": [10**6], "posterior_jets": 0, "fresh_jets": 0}
    with pytest.raises(StudyError, match="learning_jets has 1000000"):
        study.load(written(tmp_path, **changes))
    assert study.load(written(tmp_path, **changes, learners=[]))["learners"] == []


def test_relative_files_lie_beside_the_parameter_set_and_a_tilde_is_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    path, text = tmp_path / "smoke.yaml", (study.ROOT / "params" / "smoke.yaml").read_text()
    path.write_text(text.replace("files: []", 'files: ["a.h5", "/b/c.h5", "~/d.h5"]'))
    assert study.load(str(path))["files"] == [str(tmp_path / "a.h5"), "/b/c.h5", "/home/me/d.h5"]


def test_a_study_that_was_gone_through_by_hand_gets_its_report(outputs, monkeypatch):
    asked = []
    monkeypatch.setattr("jetstudy.__main__._make", lambda *arguments: 0)
    monkeypatch.setattr("jetstudy.__main__.report", lambda params: asked.append(params) or 0)
    assert main(["run", "smoke"]) == 0 and asked == ["smoke"]
    (outputs / "smoke" / "report").mkdir(parents=True)
    (outputs / "smoke" / "report" / "report.html").write_text("there")
    # The exit code is that of the set's own seeds, whatever seeds it had before.
    for verdict, code in (("pass", 0), ("fail", 3)):
        for seed, said in ((1, verdict), (2, "fail")):
            place = outputs / "smoke" / "limit" / str(seed) / "certificate.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(
                json.dumps([dict.fromkeys(("row", "property", "value", "criterion"), 1) | {"verdict": said}])
            )
        assert main(["run", "smoke"]) == code and asked == ["smoke"]


@pytest.mark.skipif(not (study.ROOT / ".git").exists(), reason="not a git repository")
def test_of_the_reference_set_git_takes_results_and_nothing_large_or_volatile():
    def taken(names):
        command = ["git", "-C", str(study.ROOT), "check-ignore", "--no-index", "--stdin"]
        paths = {f"outputs/{name}": name for name in names}
        ran = subprocess.run(command, input="\n".join(paths), capture_output=True, text=True)
        return [name for path, name in paths.items() if path not in ran.stdout.splitlines()]

    results = ["jets/record.json", "jets/moments.csv", "surrogates/top/1/weights.safetensors", "report/report.html"]
    results += ["limit/1/roc_synthetic.pdf", "limit/1/roc_synthetic.png", "taggers/boosting/source/1/trees.safetensors"]
    rest = ["jets/top.h5", "likelihoods/top/1/likelihoods.h5", "taggers/pfn/source/1/logits.h5", "jets/log.txt"]
    rest += ["surrogates/top/1/checkpoint-12ab34cd.safetensors", "jets/notebook.ipynb", "jets/.lock", "hand/a.json"]
    rest += ["jets/unfinished.json", "scores/a.json", "dataset/record.json", ".snakemake/log/a.json"]
    assert taken([f"reference/{name}" for name in results + rest]) == [f"reference/{name}" for name in results]
    assert taken([f"quick/{name}" for name in results] + ["index.html"]) == []


def test_a_changed_parameter_makes_its_step_and_what_reads_it_stale(chain):
    state = study.state(study.load("smoke") | {"n_jets": 400})
    assert state["jets"] == ("stale", ["n_jets was 300, is 400"])
    assert state["surrogates/top/1"] == ("stale", ["reads what is stale: jets"])
    state = study.state(study.load("smoke") | {"width": 32})
    assert state["jets"][0] == "finished" and state["surrogates/gluon/1"][0] == "stale"


def test_a_run_of_a_changed_set_says_what_changed_and_stops(chain, tmp_path, capsys, monkeypatch):
    changed = tmp_path / "smoke.yaml"
    changed.write_text((study.ROOT / "params" / "smoke.yaml").read_text().replace("n_jets: ", "n_jets: 1"))
    monkeypatch.setattr("jetstudy.__main__.STALE_SHOWN", 2)
    assert main(["run", str(changed)]) == 2
    said = capsys.readouterr().err
    assert "  jets: n_jets was 300, is 1300\n  surrogates/gluon/1: reads what is stale: jets\n  and 1 more" in said
    assert f"make redo PARAMS={changed}" in said and (jets_part().folder / study.RECORD).exists()


def test_jets_made_again_and_come_out_differently_make_their_readers_stale(chain):
    (jets_part().folder / study.RECORD).unlink()
    finish(jets_part(), **{"gluon.h5": "gluons", "top.h5": "other tops"})
    state = study.state(study.load("smoke"))
    assert state["surrogates/gluon/1"][0] == "finished"
    assert state["surrogates/top/1"] == ("stale", ["jets/top.h5 has been made again since"])


def test_by_hand_too_nothing_goes_on_from_what_has_come_out_differently(chain, capsys):
    (jets_part().folder / study.RECORD).unlink()
    finish(jets_part(), **{"gluon.h5": "gluons", "top.h5": "other tops"})
    assert not surrogate_part("gluon").begin()  # finished before
    with pytest.raises(StudyError, match=r"jets/top\.h5 has been made again since.*make redo PARAMS=smoke"):
        surrogate_part("top").begin()
    for command in ("report", "figures"):
        assert main([command, "smoke"]) == 2
        assert "surrogates/top/1: jets/top.h5 has been made again since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("01_jets", "--classes", "top"), "--classes: 01_jets is not done in parts of these"),
        (("02_surrogates", "--seeds", "a"), "--seeds a: the set has 1, 2"),
        (("02_surrogates", "--classes", "higgs"), "--classes higgs: the set has gluon, top, top.1, top.2"),
        (("02_surrogates", "--classes", "top.1", "--seeds", "2"), "surrogates/top.1/2: no part of reference"),
    ],
)
def test_a_step_has_no_parts_but_the_sets(arguments, complaint, capsys):
    assert main(["step", "reference", *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_a_page_that_fails_costs_no_result(monkeypatch, capsys):
    def fails(*arguments):
        raise ValueError("a template that is broken")

    monkeypatch.setattr(pages, "render", fails)
    monkeypatch.setattr("jetstudy.__main__._execute", lambda *arguments: finish(jets_part(), **{"top.h5": "tops"}))
    assert main(["step", "smoke", "01_jets"]) == 0
    assert "no page of the notebook: a template that is broken" in capsys.readouterr().out
    assert study.read_record(jets_part().folder)


def test_redo_takes_away_records_of_stale_parts_and_keeps_their_data(chain):
    assert study.redo(study.load("smoke") | {"width": 32}) == ["surrogates/gluon/1", "surrogates/top/1"]
    part = surrogate_part()
    assert study.read_record(part.folder) is None
    assert (part.folder / "weights.safetensors").read_text() == "top"
    assert study.redo(study.load("smoke")) == []


def test_a_step_that_is_made_again_by_name_starts_afresh_and_a_stale_one_from_its_checkpoints(chain):
    part = surrogate_part()
    state, chunks = part.checkpoint(), part.checkpoint().with_suffix(".synthetic")
    for step, kept in ((None, True), ("jets", True), ("surrogates", False)):
        state.write_text("state")
        chunks.mkdir(exist_ok=True)
        (chunks / "0.h5").write_text("jets")
        assert study.redo(study.load("smoke") | ({"width": 32} if step is None else {}), step)
        assert [state.exists(), chunks.exists()] == [kept, kept]
        assert (part.folder / "weights.safetensors").read_text() == "top"


def test_what_only_an_earlier_run_wrote_is_no_result_of_the_next(chain):
    part = jets_part()
    study.redo(study.load("smoke"), "jets")
    finish(part, **{"top.h5": "tops", "old.csv": "of the first run"})
    study.redo(study.load("smoke"), "jets")
    (part.folder / "checkpoint-1.safetensors").write_text("state")
    again = jets_part()
    assert again.begin()
    (again.folder / "top.h5").write_text("as before")
    (again.folder / "new.csv").write_text("new")
    assert (again.folder / "old.csv").exists()  # until the part is finished nothing goes
    again.done()
    assert {"top.h5", "new.csv"} <= set(study.read_record(part.folder)["outputs"])
    assert "old.csv" not in study.read_record(part.folder)["outputs"] and not (part.folder / "old.csv").exists()
    assert (part.folder / "checkpoint-1.safetensors").exists()


def test_a_record_names_the_device_that_auto_came_to():
    part = surrogate_part(device="auto")
    finish(part)
    assert study.read_record(part.folder)["device"] == on_device("auto") != "auto"


def test_redo_of_a_step_leaves_what_depends_on_it_until_it_comes_out_differently(chain):
    smoke = study.load("smoke")
    assert study.redo(smoke, "jets") == ["jets"]
    finish(jets_part(), **{"gluon.h5": "gluons", "top.h5": "tops"})
    assert study.redo(smoke) == []
    assert study.redo(smoke, "jets") == ["jets"]
    finish(jets_part(), **{"gluon.h5": "other gluons", "top.h5": "tops"})
    assert study.redo(smoke) == ["surrogates/gluon/1"]
    with pytest.raises(StudyError, match="unknown step 'jet'"):
        study.redo(study.load("smoke"), "jet")


def test_a_redo_of_a_step_that_another_stale_part_forbids_takes_nothing_away(chain, tmp_path, capsys):
    changed = tmp_path / "smoke.yaml"
    changed.write_text((study.ROOT / "params" / "smoke.yaml").read_text().replace("n_jets: ", "n_jets: 1"))
    assert main(["redo", str(changed), "--step", "surrogates"]) == 2
    assert "jets: n_jets was 300, is 1300" in capsys.readouterr().err
    parts = [jets_part(), surrogate_part("gluon"), surrogate_part("top")]
    assert all(study.read_record(part.folder) for part in parts)
    # A step that is stale itself, with all that reads it, forbids nothing: it is what is made again.
    state = study.state(study.load(str(changed)), without="jets")
    assert state["jets"] == ("missing", []) and state["surrogates/top/1"][0] == "finished"


@pytest.mark.parametrize("command", [["redo", "smoke", "--step", "jets"], ["figures", "smoke"]])
def test_what_takes_records_away_or_writes_them_leaves_a_set_alone_that_is_being_made(chain, command, capsys):
    part = jets_part()
    (part.folder / "checkpoint-1.safetensors").write_text("state")
    before = {path: path.read_bytes() for path in part.folder.iterdir()}
    with study.locked(study.outputs() / "smoke") as lock:
        running = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    assert main(command) == 2
    running.kill()
    running.wait()
    assert "smoke is being written by process" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in part.folder.iterdir()} == before


def test_a_folder_that_this_process_holds_already_it_keeps(tmp_path):
    with study.locked(tmp_path / "set") as lock:
        with study.locked(tmp_path / "set") as again:
            assert again == lock
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    with pytest.raises(StudyError, match="is being written by process"), study.locked(tmp_path / "set"):
        pass
    child.kill()
    child.wait()


def test_a_set_that_is_not_among_the_packages_own_is_called_by_its_path(chain, tmp_path, monkeypatch):
    assert study.called("smoke") == "smoke"
    monkeypatch.setenv("JETSTUDY_PARAMS", "/my sets/smoke.yaml")
    assert study.called("smoke") == "'/my sets/smoke.yaml'" and study.called("other") == "other"
    (jets_part().folder / "top.h5").unlink()
    with pytest.raises(StudyError, match=r"make redo PARAMS='/my sets/smoke\.yaml' STEP=jets"):
        surrogate_part(seed=2).read("jets", "top.h5")


def test_a_step_that_there_is_not_is_told_to_whoever_reads_from_it(chain):
    with pytest.raises(StudyError, match="unknown step 'likelihood'; there are jets"):
        jets_part().read("likelihood", "top", 1, "likelihoods.h5")


def test_figures_that_are_drawn_again_stay_what_their_record_says(chain):
    part, losses = surrogate_part(seed=2), pd.DataFrame({"step": [1, 2], "train": [2.0, 1.0], "validation": [2.0, 1.0]})
    assert part.begin()
    report.figure(part.folder, "losses", figures.losses, losses.assign(rate=0.1, model="one"), "Losses.")
    part.done()
    about = part.folder / "losses.json"
    about.write_text(about.read_text().replace('"alt": "', '"alt": "As it was said before. '))
    for name in ("mine.csv", "mine.json"):  # of somebody's own, beside the results
        (part.folder / name).write_text("{}")
    report.redraw_all(study.outputs() / "smoke", 1, lambda text: None)
    assert "said before" not in about.read_text()
    reader = Part("09_report", {}, study.load("smoke"))
    assert reader.read("surrogates", "top", 2, "losses.json") == about
    (part.folder / "losses.csv").write_text(
        "step,train,validation,rate,model\n1,3.0,3.0,0.1,one\n"
    )  # no drawing of ours
    report.redraw_all(study.outputs() / "smoke", 1, lambda text: None)
    with pytest.raises(StudyError, match=r"losses\.csv is damaged or was changed"):
        reader.read("surrogates", "top", 2, "losses.csv")


def test_a_figure_that_cannot_be_drawn_leaves_the_records_of_the_others_right(chain):
    losses = pd.DataFrame({"step": [1, 2], "train": [2.0, 1.0], "validation": [2.0, 1.0], "rate": 0.1, "model": "one"})
    parts = [surrogate_part(seed=seed) for seed in (2, 3)]
    for part in parts:
        assert part.begin()
        report.figure(part.folder, "losses", figures.losses, losses, "Losses.")
        part.done()
        about = part.folder / "losses.json"
        about.write_text(about.read_text().replace('"alt": "', '"alt": "As it was said before. '))
    (parts[0].folder / "losses.csv").write_text("step\n1\n")
    with pytest.raises(StudyError, match=r"2/losses\.csv: not drawn, as 1 of 2 figures: 'model'"):
        report.redraw_all(study.outputs() / "smoke", 1, lambda text: None)
    assert "said before" not in about.read_text()
    assert Part("09_report", {}, study.load("smoke")).read("surrogates", "top", 3, "losses.json") == about


def test_a_checkpoint_belongs_to_what_it_was_trained_on_and_not_to_the_solver():
    def name(irrelevant=("solver_steps",), **changes):
        return surrogate_part(**changes).checkpoint(irrelevant).name

    assert name() == name(solver_steps=99)
    assert len({name(), name(width=8), name(seed=2), name(irrelevant=())}) == 4


def test_a_checkpoint_belongs_to_the_jets_it_was_trained_on():
    names = [surrogate_part().checkpoint()]
    for tops in ("tops", "other tops"):
        (jets_part().folder / study.RECORD).unlink(missing_ok=True)
        finish(jets_part(), **{"top.h5": tops})
        part = surrogate_part()
        part.read("jets", "top.h5")
        names.append(part.checkpoint())
    assert len(set(names)) == 3


def test_a_network_of_both_classes_made_again_makes_its_second_class_stale(chain):
    second = surrogate_part("top")
    (second.folder / study.RECORD).unlink()
    second.read("surrogates", "gluon", 1, "weights.safetensors")
    finish(second)
    assert study.state(study.load("smoke"))["surrogates/top/1"][0] == "finished"
    first = surrogate_part("gluon")
    (first.folder / study.RECORD).unlink()
    finish(first, **{"weights.safetensors": "other weights"})
    changed = "surrogates/gluon/1/weights.safetensors has been made again since"
    assert study.state(study.load("smoke"))["surrogates/top/1"] == ("stale", [changed])
    assert study.redo(study.load("smoke")) == ["surrogates/top/1"]


def test_upstream_lists_all_that_a_part_rests_on(chain):
    part = surrogate_part("top", 2)
    part.read("surrogates", "top", 1, "weights.safetensors")
    assert list(part.upstream()) == ["jets", "surrogates/top/1"]


def test_the_report_says_of_every_machine_what_was_made_there(chain):
    part = surrogate_part("top", 2)
    part.read("surrogates", "top", 1, "weights.safetensors")
    here = study.read_record(surrogate_part("top", 1).folder)["versions"]["python"]
    assert f"<p>2 of 2 parts: python {here}, " in report.provenance(part).data
    path = jets_part().folder / study.RECORD
    record = json.loads(path.read_text())
    record["versions"]["python"] = "3.99"
    path.write_text(json.dumps(record))
    text = report.provenance(part).data
    assert "<p>1 of 2 parts: python 3.99, " in text and f"<p>1 of 2 parts: python {here}, " in text


def test_progress_speaks_now_and_then(capsys, monkeypatch):
    clock = iter([5.0, 26.0, 30.0])  # of 10 jets nobody knows how long they took: they may have been there
    monkeypatch.setattr(study.time, "monotonic", lambda: next(clock))
    report = study.progress("jets", 100)
    for done in (10, 50, 60):
        report(done)
    assert capsys.readouterr().out == "jets: 50 of 100, about 26 s left\n"


def test_records_are_json_that_anyone_can_read():
    part = jets_part()
    finish(part)
    assert json.loads((part.folder / study.RECORD).read_text())["step"] == "01_jets"


def test_a_kernel_that_never_answers_is_started_again_and_any_other_error_is_not(tmp_path, monkeypatch):
    started = []

    def execute(*arguments, **options):
        started.append(options["cwd"])
        if len(started) < 3:
            raise RuntimeError("Kernel didn't respond in 60 seconds")
        raise RuntimeError("Kernel died")

    monkeypatch.setattr("papermill.execute_notebook", execute)
    with pytest.raises(RuntimeError, match="died"):
        _execute("01_jets", {}, tmp_path)
    assert started == [str(tmp_path)] * 3
    started.clear()
    monkeypatch.setattr("jetstudy.__main__.STARTS", 2)
    with pytest.raises(RuntimeError, match="respond"):
        _execute("01_jets", {}, tmp_path)
    assert len(started) == 2


def test_a_process_begins_with_what_its_libraries_read_unless_told_otherwise(monkeypatch, tmp_path):
    begun = []

    def execve(*arguments):
        begun.append(arguments)
        raise SystemExit

    monkeypatch.setattr(os, "execve", execve)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    with pytest.raises(SystemExit):
        runpy.run_path(study.ROOT / "jetstudy" / "__main__.py", run_name="__main__")
    [(path, arguments, environment)] = begun
    assert arguments == [path, *sys.orig_argv[1:]] and path == sys.executable
    assert environment["GOMP_SPINCOUNT"] == "5" and environment["MALLOC_TRIM_THRESHOLD_"] == "1073741824"
    tested = (study.ROOT / "Makefile").read_text()
    assert all(f"test test-long: export {name} = {value}\n" in tested for name, value in ENVIRONMENT.items())
    told = subprocess.run([path, "-m", "jetstudy", "plan", "smoke"], capture_output=True, text=True)
    assert told.returncode == 0 and "parameter set smoke" in told.stdout
