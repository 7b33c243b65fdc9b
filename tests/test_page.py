import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import numpy as np
import pandas as pd
import pytest
from cli import PUBLISHED

from jetstudy import pages, report
from jetstudy.files import write_json


def test_numbers_stand_right_and_words_left():
    content = pd.DataFrame({"tagger": ["pfn", "limit"], "AUC": ["0.91 ± 0.01", "–"], "jets": [4000, 10]})
    page = report.table(content).data
    assert re.findall(r"<th( class=number)?>(\w+)</th>", page) == [
        ("", "tagger"),
        (" class=number", "AUC"),
        (" class=number", "jets"),
    ]
    assert page.count('<td class="number">') == 4 and '<td class="word">PFN</td>' in page


def test_a_column_of_numbers_and_words_stands_left():
    page = report.table(pd.DataFrame({"value": ["2", '"toy"']})).data
    assert "number" not in page and "&quot;toy&quot;" in page


def test_a_verdict_is_a_word_and_a_colour():
    assert '<span class="verdict bad">fail</span>' in report.table(pd.DataFrame({"verdict": ["fail"]})).data


@pytest.mark.parametrize(
    "value, uncertainty, shown",
    [
        (0.9083, 0.0045, "0.9083 ± 0.0045"),
        (-1.26, 0.11, "−1.26 ± 0.11"),
        (0.0, 2.4e-4, "(0.0 ± 2.4)e−4"),
        (3.21e-6, 1e-7, "(3.21 ± 0.10)e−6"),
        (float("nan"), 1.0, "–"),
    ],
)
def test_a_value_has_two_digits_of_its_uncertainty(value, uncertainty, shown):
    assert report.measured(value, uncertainty) == shown


def notebook(tmp_path):
    cell = nbformat.v4
    shown = cell.new_output("display_data", {"text/html": "<p>the answer</p>"})
    cells = [
        cell.new_markdown_cell("# The question"),
        cell.new_code_cell("secret = 1", metadata={"tags": ["parameters"]}),
        cell.new_code_cell("answer()", outputs=[shown]),
        *(cell.new_markdown_cell(f"## {heading}") for heading in ("The gap", "Fidelity", "Provenance")),
    ]
    path = tmp_path / "report.ipynb"
    nbformat.write(cell.new_notebook(cells=cells), path)
    return path


def test_question_and_answer_come_before_the_contents_and_the_code(tmp_path):
    pages.render(notebook(tmp_path), tmp_path / "page.html", "T", hidden=("parameters",))
    page = (tmp_path / "page.html").read_text()
    order = [page.index(text) for text in ("The question<", "the answer", "answer()", "<nav", 'id="The-gap"')]
    assert order == sorted(order)
    assert "secret" not in page
    anchors = re.findall('<li><a href="#([^"]+)">', page)
    assert len(anchors) == 3 and all(f'id="{anchor}"' in page for anchor in anchors)


def test_lines_of_progress_are_one_text(tmp_path):
    lines = [nbformat.v4.new_output("stream", name="stdout", text=f"step {k} of 3\n") for k in (1, 2, 3)]
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("train()", outputs=lines)])
    nbformat.write(content, tmp_path / "log.ipynb")
    pages.render(tmp_path / "log.ipynb", tmp_path / "page.html", "T")
    assert "step 1 of 3\nstep 2 of 3\nstep 3 of 3" in (tmp_path / "page.html").read_text()


def finished(outputs, name, date, verdict="pass", auc=0.9):
    """The least of a parameter set that the overview reads, with a seed that the set no longer has."""
    about = outputs / name / "report"
    for seed, said in ((1, verdict), (2, "fail")):
        limit = outputs / name / "limit" / str(seed)
        limit.mkdir(parents=True)
        write_json(limit / "record.json", {"volatile": {"started": f"{date}T12:00:00Z"}})
        rows = [{"row": "4 slope", "verdict": said}, {"row": "7", "verdict": "not run"}]
        write_json(limit / "certificate.json", rows)
    about.mkdir()
    pd.DataFrame(
        {
            "sample": ["synthetic"] * 3 + ["source"],
            "tagger": ["limit", "pfn", "gru", "gru"],
            "metric": "AUC",
            "value": [0.95, auc, 0.8, 0.99],
            "jets": 0.006,
            "trainings": [np.nan, 0.008, 0.0, 0.0],
            "surrogates": np.nan,
        }
    ).to_csv(about / "taggers.csv", index=False)
    write_json(about / "record.json", {"parameters": {"seeds": [1]}})
    (about / "report.html").write_text("<!DOCTYPE html>")


def test_the_overview_has_a_line_for_each_set_with_a_report(outputs):
    finished(outputs, "quick", "2026-01-01")
    finished(outputs, "a & b", "2026-02-01", verdict="fail", auc=0.92)
    (outputs / "begun" / "report").mkdir(parents=True)
    page = report.overview(outputs).read_text()
    assert "PFN: AUC 0.900 ± 0.010 of 0.9500 ± 0.0060 possible" in page
    assert '<a href="quick/report/report.html">quick</a>' in page and "1 pass, 1 not run" in page
    assert '<a href="a%20%26%20b/report/report.html">a &amp; b</a>' in page and "4 slope" in page
    assert page.index("a &amp; b") < page.index("quick") and "begun" not in page


def test_a_set_that_cannot_be_read_is_left_out_of_the_overview_and_named(outputs, capsys):
    finished(outputs, "quick", "2026-01-01")
    finished(outputs, "old", "2026-02-01")
    table = outputs / "old" / "report" / "taggers.csv"
    table.write_text(table.read_text().replace("surrogates", "seeds"))  # of another version
    finished(outputs, "half", "2026-03-01")
    (outputs / "half" / "limit" / "1" / "certificate.json").unlink()
    page = report.overview(outputs).read_text()
    assert [name in page for name in ("quick/report", "old/report", "half/report")] == [True, False, False]
    said = capsys.readouterr().out
    assert "without old, which cannot be read" in said and "without half" in said


def test_links_go_into_cells_of_any_length(outputs):
    name = "a & " + 45 * "long"
    shown = report.linked(report.table(pd.DataFrame({"part": [name, "b"]})).data, name, f"../{name}/notebook.html")
    assert shown.count("<a ") == 1 and f'href="../a%20%26%20{45 * "long"}/notebook.html">a &amp; long' in shown


def test_no_set_is_an_empty_overview(outputs):
    outputs.mkdir()
    assert "<table" in report.overview(outputs).read_text()


# in a browser


@pytest.fixture(scope="module")
def tab():
    from browser import CHROMIUM, browser

    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with browser() as page:
        yield page


REPORT = str(PUBLISHED / "report" / "report.html")
STICKING_OUT = """[...document.querySelectorAll("body *")].filter(
    e => !e.closest(".table") && !e.closest("pre") && e.getBoundingClientRect().right > window.innerWidth + 1
).map(e => e.outerHTML.slice(0, 200))"""


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["toy/report/report.html", "toy/limit/1/notebook.html", "index.html", REPORT])
def test_a_page_is_whole_offline_and_fits(toy, tab, name, width, dark):
    tab.open(toy.parent / name, width, dark)
    assert tab.complaints() == []
    assert tab.requests() == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(STICKING_OUT) == []
    pictures = "[...document.images]"
    assert tab.evaluate(f"{pictures}.every(image => image.alt.length > 40 && image.naturalWidth > 500)")
    assert (tab.evaluate(f"{pictures}.length") > 5) == ("index" not in name)
    links = "[...document.querySelectorAll('a[href]')].map(a => a.href)"
    files = {unquote(link.partition("#")[0]) for link in tab.evaluate(links)}
    assert all(link.startswith("file://") and Path(link.removeprefix("file://")).exists() for link in files)


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", ["toy/report/report.html", REPORT])
def test_a_print_keeps_within_its_paper(toy, tab, name):
    """A4 without margins, in CSS pixels: a browser shrinks all that is printed until the widest table fits, and cuts
    the rest off."""
    tab.open(toy.parent / name, 703, media="print")
    wide = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 704)"
    assert tab.evaluate(f"{wide}.map(e => e.outerHTML.slice(0, 200))") == []


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_the_browser_would_tell_of_a_request_an_error_and_an_overflow(tab, tmp_path):
    (tmp_path / "bad.html").write_text(
        '<img src="http://127.0.0.1:9/x.png"><div style="width:2000px">wide</div><script>missing()</script>'
    )
    tab.open(tmp_path / "bad.html", 400)
    assert tab.requests() == ["http://127.0.0.1:9/x.png"]
    assert any(event["method"] == "Runtime.exceptionThrown" for event in tab.complaints())
    assert len(tab.evaluate(STICKING_OUT)) == 1


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_dark_and_light_are_different_and_both_readable(toy, tab):
    """The contrast of text to ground is at least 7 in both (WCAG AAA)."""

    def luminance(colour):
        channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    grounds = []
    for dark in (False, True):
        tab.open(toy / "report" / "report.html", 1280, dark)
        style = "getComputedStyle(document.body)"
        text, ground = (luminance(tab.evaluate(f"{style}.{name}")) for name in ("color", "backgroundColor"))
        high, low = max(text, ground), min(text, ground)
        assert (high + 0.05) / (low + 0.05) > 7
        grounds.append(ground)
    assert grounds[0] > 0.9 > 0.1 > grounds[1]
