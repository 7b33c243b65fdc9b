import ast
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

from jetstudy import study

NOTEBOOKS = sorted((study.ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def test_there_is_a_notebook_for_each_step():
    assert [path.stem for path in NOTEBOOKS] == list(study.FAN_OUT)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebooks_carry_no_outputs(path):
    assert all(not cell.outputs and cell.execution_count is None for cell in cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_reads_back_every_parameter(path):
    (source,) = [cell.source for cell in cells(path) if "parameters" in cell.metadata.get("tags", [])]
    assigned = [node.targets[0].id for node in ast.parse(source).body]
    assert assigned == list(study.declared(path.stem))


def test_a_parameter_of_one_notebook_alone_is_explained_there_as_in_the_parameter_sets():
    explained = dict(
        re.findall(r"^(\w+): .*?# (.*)$", (study.ROOT / "params" / "quick.yaml").read_text(), re.MULTILINE)
    )
    helps = {}
    for notebook in study.FAN_OUT:
        for name, (_, text) in study.declared(notebook).items():
            helps.setdefault(name, set()).add(text)
    for name in set(helps) - {"classes", "seeds", "taggers", "samples", "threads"}:
        assert helps[name] == {explained[name]}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_declared_parameter_is_used(path):
    names = {
        node.id
        for cell in cells(path)
        if "parameters" not in cell.metadata.get("tags", [])
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name)
    }
    # A step's fan-out is read from the namespace by `study.begin`, like the name of the set.
    implicit = {"parameter_set", *study.FAN_OUT[path.stem]}
    assert set(study.declared(path.stem)) - names - implicit == set()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_assert_what_must_hold(path):
    assert any(isinstance(node, ast.Assert) for cell in cells(path) for node in ast.walk(ast.parse(cell.source)))


@pytest.mark.timeout(1500)
def test_notebooks_run_in_order_as_they_lie_there(outputs):
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:cacheprovider", "-q", *map(str, NOTEBOOKS)]
    environment = os.environ | {"JETSTUDY_OUTPUTS": str(outputs)}
    ran = subprocess.run(command, cwd=outputs.parent, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:]
    assert study.read_record(outputs / "smoke" / "report")
    rows = json.loads((outputs / "smoke" / "limit" / "1" / "certificate.json").read_text())
    missing = {row["row"]: row["note"] for row in rows if row["verdict"] == "not run"}
    assert list(missing) == ["5 residual: network", "7 null", "8 closure"]
    assert "'top.1' and 'top.2' behind these classes" in missing["7 null"]
