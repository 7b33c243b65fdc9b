"""A figure in a folder, with how it was drawn, so that it can be drawn again, or copied.

Apart from `report`, so that processes that only draw need not import all that it does.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from jetstudy import figures
from jetstudy.files import replacing, write_json

DRAWN = ("png", "pdf", "json")  # the picture twice, and how it was drawn ...
KINDS = (*DRAWN, "csv")  # ... from a table


def make(folder: Path, name: str, draw: Callable, table: pd.DataFrame, caption: str, **options) -> None:
    """Draw ``table`` with a function of ``figures``, save both, and how it was done, as ``name`` in ``folder``."""
    drawn, alt = draw(table, **options)
    figures.save(folder, name, drawn, table)
    about = {"alt": alt, "caption": caption, "draw": draw.__name__, "options": options}
    write_json(Path(folder) / f"{name}.json", about)


def redraw(folder: Path, name: str) -> None:
    """Draw a saved figure again, in place, from its table alone."""
    about = json.loads((Path(folder) / f"{name}.json").read_text())
    draw, content = getattr(figures, about["draw"]), pd.read_csv(Path(folder) / f"{name}.csv")
    make(folder, name, draw, content, about["caption"], **about["options"])


def copy(files: Mapping[str, Path], target: Path, name: str) -> None:
    """Copy a saved figure, its files by kind, as ``name`` into ``target``."""
    for kind, path in files.items():
        with replacing(Path(target) / f"{name}.{kind}") as unfinished:
            shutil.copyfile(path, unfinished)
