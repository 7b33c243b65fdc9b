"""All tests write below temporary folders, never into the checkout."""

import pytest


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    """The folder of results for one test."""
    monkeypatch.setenv("JETSTUDY_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"
