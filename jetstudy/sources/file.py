"""Jets from a file in JetNet's layout: the true JetNet files (Zenodo 6975118), or one's own."""

from pathlib import Path

from jetstudy.jets import Jets, read_jets


def load(path: str | Path, n_jets: int, n_max: int, label_index: int | None = None) -> Jets:
    """The leading n_max particles of the first n_jets jets in `path`.

    label_index: take only jets whose data set `label` holds this number; None for a file of one class.
    Raises what `read_jets` raises.
    """
    return read_jets(path, n_jets, label_index).leading(n_max)
