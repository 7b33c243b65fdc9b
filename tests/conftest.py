"""All tests write below temporary folders, never into the checkout."""

import pytest

from jetstudy import study


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """The folder of results for one test; what the test left unfinished is let go."""
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path / "outputs"))
    yield tmp_path / "outputs"
    for folder in list(study._LOCKS):
        study._unlock(folder)
