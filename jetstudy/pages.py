"""Executed notebooks as HTML pages.

A page is one file that needs nothing else: pictures are embedded with their alternative texts, code is folded
away, there is no script and no request to anywhere.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from jetstudy.files import replacing

TEMPLATES = Path(__file__).parent


def render(notebook: Path, page: Path, title: str, hidden: Sequence[str] = ()) -> None:
    """Write an executed notebook as one self-contained HTML file, without the cells that have a tag in ``hidden``."""
    exporter = HTMLExporter(
        extra_template_basedirs=[str(TEMPLATES)],
        template_name="page",
        anchor_link_text="",
        embed_images=True,
        preprocessors=["nbconvert.preprocessors.CoalesceStreamsPreprocessor"],  # lines of progress are one text
    )
    content = nbformat.read(notebook, as_version=4)
    content.metadata["title"] = title
    content.cells = [cell for cell in content.cells if not {*hidden} & {*cell.metadata.get("tags", [])}]
    body, _ = exporter.from_notebook_node(content, resources={"contents": _contents(content)})
    with replacing(page) as unfinished:
        unfinished.write_text(body)


def _contents(notebook) -> list[tuple[str, str]]:
    """(anchor, heading) of the second-level headings: of the text, as nbconvert names their anchors, and of outputs."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = [line[3:].strip() for line in cell.source.splitlines() if line.startswith("## ")]
            found += [(heading.replace(" ", "-"), heading) for heading in headings]
        for output in cell.get("outputs", []):
            shown = output.get("data", {}).get("text/html", "")
            found += re.findall(r"""<h2 id=["']([^"']+)["']>([^<]+)</h2>""", shown)
    return found
