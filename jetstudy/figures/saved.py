"""A figure in a folder, with how it was drawn, so that it can be drawn again.

Apart from `report`, so that processes that only draw need not import all that it does.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from jetstudy import figures
from jetstudy.files import write_json


def make(folder: Path, name: str, draw: Callable, table: pd.DataFrame, caption: str, **options) -> None:
    """Draw ``table`` with a function of ``figures``, save both, and how it was done, as ``name`` in ``folder``."""
    drawn, alt = draw(table, **options)
    figures.save(folder, name, drawn, table, alt, caption)
    about = {"alt": alt, "caption": caption, "draw": draw.__name__, "options": options}
    write_json(Path(folder) / f"{name}.json", about)


def redraw(folder: Path, name: str) -> None:
    """Draw a saved figure again, in place, from its table alone."""
    about = json.loads((Path(folder) / f"{name}.json").read_text())
    draw, content = getattr(figures, about["draw"]), pd.read_csv(Path(folder) / f"{name}.csv")
    make(folder, name, draw, content, about["caption"], **about["options"])
