"""A figure in a folder, with how it was drawn, so that it can be drawn again, or copied.

Apart from `report`, so that processes that only draw need not import all that it does.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from jetstudy import figures
from jetstudy.files import read_json, replacing, write_json
from jetstudy.names import called

DRAWN = ("png", "pdf", "json")  # the picture twice, and how it was drawn ...
KINDS = (*DRAWN, "csv")  # ... from a table
OF_TAGGERS = ("tagger", "learner", "model")  # columns of tables in which names of taggers may stand


def make(folder: Path, name: str, draw: Callable, table: pd.DataFrame, caption: str, **options) -> None:
    """Draw ``table`` with a function of ``figures``, save both, and how it was done, as ``name`` in ``folder``."""
    _draw(folder, name, draw, table, caption, options)
    with replacing(Path(folder) / f"{name}.csv") as unfinished:
        table.to_csv(unfinished, index=False)


def redraw(folder: Path, name: str) -> None:
    """Draw a saved figure again, in place, from its table, which stays as it is."""
    about = read_json(Path(folder) / f"{name}.json")
    table = pd.read_csv(Path(folder) / f"{name}.csv")
    _draw(folder, name, getattr(figures, about["draw"]), table, about["caption"], about["options"])


def _draw(folder: Path, name: str, draw: Callable, table: pd.DataFrame, caption: str, options: dict) -> None:
    own = table.columns.intersection(OF_TAGGERS)
    drawn, alt = draw(table.assign(**{name: table[name].map(called) for name in own}), **options)
    figures.save(folder, name, drawn)
    write_json(
        Path(folder) / f"{name}.json", {"alt": alt, "caption": caption, "draw": draw.__name__, "options": options}
    )


def copy(files: Mapping[str, Path], target: Path, name: str) -> None:
    """Copy a saved figure, its files by kind, as ``name`` into ``target``."""
    for kind, path in files.items():
        with replacing(Path(target) / f"{name}.{kind}") as unfinished:
            shutil.copyfile(path, unfinished)
