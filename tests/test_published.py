"""The results that are published with the repository: whole, finished by their own parameter set, and certified."""

import json
import os
import resource
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cli import PUBLISHED, jetstudy

from jetstudy import report, study, taggers
from jetstudy.features import Features
from jetstudy.files import digest
from jetstudy.substructure import high_level
from jetstudy.surrogate import Surrogate
from jetstudy.taggers.trees import Trees

NOT_PUBLISHED = (".h5", ".ipynb")


@pytest.fixture
def published(monkeypatch):
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(PUBLISHED.parent))
    return PUBLISHED


def test_a_fresh_clone_has_nothing_to_do(published):
    state = study.state(study.load("reference"))
    assert {word for word, _ in state.values()} == {"finished"}
    assert state["jets"][1] == ["not stored here: gluon.h5, top.1.h5, top.2.h5, top.h5"] or not state["jets"][1]


def test_what_is_published_is_what_the_records_say(published):
    found = 0
    for path in published.rglob("record.json"):
        for name, known in json.loads(path.read_text()).get("outputs", {}).items():
            if (path.parent / name).exists():
                assert digest(path.parent / name) == known, path.parent / name
                found += 1
            else:
                large = name == "trees.safetensors" and path.match("taggers/forest*/*/*/record.json")
                assert large or Path(name).suffix in NOT_PUBLISHED, path.parent / name
    assert found > 300


def test_the_published_limit_is_certified(published):
    rows = [row for path in published.glob("limit/*/certificate.json") for row in json.loads(path.read_text())]
    assert [row for row in rows if row["verdict"] == "fail"] == []
    passed = {row["row"].split(" ")[0] for row in rows if row["verdict"] == "pass"}
    assert {"1", "2", "3", "4", "5", "6"} <= passed


def test_the_readme_opens_with_the_published_numbers(published):
    page = (study.ROOT / "README.md").read_text()
    answer = page.partition("<!-- answer -->")[2].partition("<!-- end -->")[0]
    table = pd.read_csv(published / "report" / "taggers.csv").query("sample == 'synthetic'")
    areas = table[table["metric"] == "AUC"].set_index("tagger")
    best = areas.drop("limit")["value"].idxmax()
    rejection = table[(table["tagger"] == best) & (table["metric"] == "rejection at 0.5, posterior-weighted")]
    assert f"trained on {areas['training_jets'].max():,.0f} of them" in answer
    assert f"reaches an AUC of {report.quoted(areas.loc[[best]])} where" in answer
    assert f"{report.quoted(areas.loc[['limit']])} is possible" in answer
    assert f"background rejection is {report.quoted(rejection, 'ratio', 100)} % of the optimal" in answer
    rows = [
        row["verdict"] for path in published.glob("limit/*/certificate.json") for row in json.loads(path.read_text())
    ]
    assert f"({rows.count('pass')} rows pass, none fails; {rows.count('undecided')} are undecided" in page


def test_published_weights_are_those_of_todays_classes(published):
    """What was trained is a function of jets in a fresh clone, too: each set of weights loads, and says something."""
    found, generator = Counter(), torch.Generator().manual_seed(1)
    for path in sorted(published.glob("surrogates/*/*/weights.safetensors")):
        model = Surrogate.load(path.parent)
        jets = model.sample(2, generator)
        assert model.acceptance is not None and np.isfinite(model.log_prob(jets)).all(), path
        found["surrogates"] += 1
    for path in sorted(published.glob("taggers/*/*/*/weights.safetensors")):
        tagger = taggers.load(path.parent)
        assert np.isfinite(taggers.on_jets(tagger, Features.from_dict(tagger.settings["features"]))(jets)).all(), path
        found["networks"] += 1
    for path in sorted(published.glob("taggers/boosting/*/*/trees.safetensors")):
        assert np.isfinite(Trees.load(path).logits(high_level(jets).to_numpy())).all(), path
        found["trees"] += 1
    assert found["surrogates"] == 6 and found["networks"] > 60 and found["trees"] == 5


def test_no_interruption_could_have_cost_half_an_hour(published):
    """A part lost as a whole; of drawn jets their comparison, which is longer than a chunk; of a surrogate's training
    one checkpoint to the next, and of the trainings of notebook 07, too."""
    values, spent = study.load("reference"), {}
    for path in published.rglob("record.json"):
        volatile = json.loads(path.read_text())["volatile"]
        spent[path] = volatile.get("comparing_seconds", volatile["seconds"])
        if path.match("surrogates/*/*/record.json") and volatile["training_seconds"]:
            spent[path] = max(0, spent[path] - volatile["training_seconds"])  # 0 if a training was resumed and over
            spent[path] += volatile["training_seconds"] * values["validate_every"] / values["training_steps"]
        if path.match("learning/*/*/record.json"):
            spent[path] /= 20  # what each training of a part is validated and kept after is less
    assert len(spent) > 100 and 0 < max(spent.values()) < 30 * 60


def test_two_cores_without_a_gpu_have_done_it_in_half_a_day(published):
    """Of a part that was interrupted the seconds are those of its last run, but for trainings."""
    records = [json.loads(path.read_text()) for path in published.rglob("record.json")]
    assert {record["device"] for record in records if "device" in record} == {"cpu"}
    spent = [record["volatile"] for record in records]
    assert max(each["peak_memory_gib"] for each in spent) < 12
    assert sum(max(each["seconds"], each.get("training_seconds") or 0) for each in spent) < 2 * 12 * 3600


@pytest.mark.long
@pytest.mark.timeout(600)
def test_figures_and_report_come_again_from_the_published_tables(tmp_path):
    outputs = tmp_path / "results"
    tracked = shutil.ignore_patterns("*.h5", "*.ipynb", "checkpoint*", ".*", "dataset", "hand", "scores")
    shutil.copytree(PUBLISHED, outputs / "reference", ignore=tracked)
    figures = sorted((outputs / "reference").rglob("*.png"))
    before = {path: digest(path) for path in figures}
    for path in figures:
        path.unlink()
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    ran = jetstudy(outputs, "figures", "reference")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    busy = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began
    assert busy / os.cpu_count() < 120  # of the processors' time: whatever runs beside, it draws and trains nothing
    assert {path: digest(path) for path in figures} == before
