"""All tests write below temporary folders, never into the checkout."""

import pytest
from cli import TOY, jetstudy

from jetstudy import study


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """The folder of results for one test; what the test left unfinished is let go."""
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path / "outputs"))
    yield tmp_path / "outputs"
    for folder in list(study._LOCKS):
        study._unlock(folder)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The folder of the toy study, run once through Snakemake."""
    outputs = tmp_path_factory.mktemp("outputs")
    ran = jetstudy(outputs, "run", TOY, "--cores", 2)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert f"report: {outputs / 'toy' / 'report' / 'report.html'}" in ran.stdout
    return outputs / "toy"
