"""All tests write below temporary folders, never into the checkout."""

import shutil

import numpy as np
import pytest
import torch
from cli import TOY, jetstudy

from jetstudy import fidelity, figures, report, study
from jetstudy.features import Features
from jetstudy.files import write_json
from jetstudy.jets import Jets, write_jets
from jetstudy.probability_flow import Solver
from jetstudy.sources import toy as toy_jets
from jetstudy.surrogate import Surrogate, build_network, count_probabilities


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Where several processes share the tests, file by file, the longest files begin: one has the toy study."""
    first = ("test_workflow", "test_notebooks", "test_steps", "test_benchmarks", "test_taggers", "test_surrogate")
    items.sort(key=lambda item: first.index(item.path.stem) if item.path.stem in first else len(first))


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """The folder of results for one test; what the test left unfinished is let go."""
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("JETSTUDY_PARAMS", "")  # commands set it for their messages
    yield tmp_path / "outputs"
    for folder in list(study._LOCKS):
        study._unlock(folder)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The folder of the toy study: begun by hand, since a notebook does all its parts at one start of a kernel, and
    finished through Snakemake."""
    outputs = tmp_path_factory.mktemp("outputs")
    for notebook in list(study.FAN_OUT)[:5]:
        ran = jetstudy(outputs, "step", TOY, notebook)
        assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    ran = jetstudy(outputs, "run", TOY, "--cores", 2)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert f"report: {outputs / 'toy' / 'report' / 'report.html'}" in ran.stdout
    return outputs / "toy"


@pytest.fixture
def tiny(outputs, tiny_made) -> dict[str, Jets]:
    """The set `smoke` as far as its synthetic jets, of toy jets and networks that were never trained; its jets."""
    made, jets = tiny_made
    shutil.copytree(made, outputs)
    return jets


@pytest.fixture(scope="session")
def tiny_made(tmp_path_factory):
    """The outputs that `tiny` copies, and the jets in them."""
    made = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JETSTUDY_OUTPUTS", str(made))
        return made, _make_tiny()


def _make_tiny() -> dict[str, Jets]:
    values = study.load("smoke") | {"source": "toy", "jets_kept": "all", "n_max": 6}

    def part(notebook, **axes):
        return study.Part(notebook, axes, {key: values[key] for key in study.declared(notebook)})

    jets = {c: toy_jets.generate(c, 300, 6, np.random.default_rng(k)) for k, c in enumerate(values["classes"])}
    first = part("01_jets")
    assert first.begin()
    features = Features.fit(list(jets.values()))
    counts = {c: {int(n): int((sample.count == n).sum()) for n in set(sample.count)} for c, sample in jets.items()}
    about = {"classes": values["classes"], "n_max": 6, "counts": counts}
    write_json(first.folder / "features.json", features.to_dict() | about)
    for label, sample in jets.items():
        write_jets(first.folder / f"{label}.h5", sample)
    first.done()
    for k, label in enumerate(values["classes"]):
        torch.manual_seed(k)
        network = build_network("one_hop", width=8, heads=2, layers=1, reads=1, n_max=6, momentum_scale=features.std[2])
        second = part("02_surrogates", classes=label, seeds=1)
        assert second.begin()
        second.read("jets", f"{label}.h5")
        p_count = count_probabilities(counts, label, 6)
        Surrogate(label, network.eval(), features, p_count, Solver("rk4", 4, 2.0), "own_path").save(second.folder)
        second.done()
        third = part("03_synthetic_jets", classes=label, seeds=1)
        assert third.begin()
        third.read("surrogates", label, 1, "weights.safetensors")
        seen = fidelity.observables({label: jets[label]}, {label: jets[label]})
        report.figure(third.folder, "observables", figures.observables, seen, "Observables.", label=label)
        third.done()
    return jets
