"""What the documentation says is so."""

import ast
import doctest
import importlib
import inspect
import re
import sys

import pytest

from jetstudy.study import ROOT

PACKAGE = ROOT / "jetstudy"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def imported(path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jetstudy":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jetstudy."):
            of_package = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name.removeprefix("jetstudy.") for name in {node.module} | of_package}
    return found & set(MODULES)


def test_the_architecture_lists_every_module_and_imports_run_one_way():
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = [re.findall(r"`([\w.]+)`", line.split("|")[1]) for line in text.splitlines() if line.startswith("| `")]
    place = {name: row for row, names in enumerate(rows) for name in names}
    assert set(place) == set(MODULES)
    for name, path in MODULES.items():
        others = {other for other in imported(path) if not other.startswith(f"{name}.")}  # a package has its members
        assert [other for other in others if place[other] > place[name]] == [], name


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_come_out_as_they_say(name):
    if ">>>" not in MODULES[name].read_text():
        return
    result = doctest.testmod(importlib.import_module(f"jetstudy.{name}"))
    assert result.attempted > 0 and result.failed == 0


def test_the_examples_of_how_to_add_something_work(tmp_path, monkeypatch):
    from jetstudy import figures, networks, sources

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(networks.NETWORKS, "deep_sets", None)  # and taken out again in the end
    monkeypatch.setattr(figures, "counts", None, raising=False)
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "howto.md").read_text(), re.DOTALL)
    assert len(blocks) == 11
    for block in blocks:
        first = re.match(r"# (\w+)\.py\n", block)
        if first:
            (tmp_path / f"{first[1]}.py").write_text(block)
        elif block.startswith("    if source"):
            branch = block
        else:
            exec(compile(block, "howto.md", "exec"), names)

    place = "    from jetstudy.sources import file\n"
    text = inspect.getsource(sources.draw)
    assert text.count(place) == 1
    inside = vars(sources) | {"SOURCES": (*sources.SOURCES, "energyflow")}
    exec(compile(text.replace(place, branch + place), "sources.py", "exec"), inside)
    monkeypatch.setitem(sys.modules, "jetstudy.sources.energyflow_jets", sys.modules["energyflow_jets"])
    monkeypatch.setattr(sources, "energyflow_jets", sys.modules["energyflow_jets"], raising=False)
    jets = inside["draw"]("energyflow", "quark", 2, 4, 1, ["gluon", "quark"], ["jets.npz"])
    assert jets.mask.shape == (2, 4)

    for name in ("energyflow_jets", "nearest"):
        sys.modules.pop(name)


@pytest.mark.parametrize("page", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        target = page.parent / target if target else page
        assert target.exists(), target
        assert not anchor or anchor in headings(target), f"{target}#{anchor}"


def headings(page):
    """What a page's headings are called in links to them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found]
