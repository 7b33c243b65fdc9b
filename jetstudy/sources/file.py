"""Jets from a file in JetNet's layout: the true JetNet files (Zenodo 6975118), or one's own."""

from pathlib import Path

from jetstudy.jets import Jets, read_jets


def load(path: str | Path, n_jets: int, n_max: int, skipped: int = 0, label_index: int | None = None) -> Jets:
    """The leading n_max particles of the n_jets jets in `path` behind the first `skipped`.

    label_index: take only jets whose data set `label` holds this number; None for a file of one class.
    Raises what `read_jets` raises.
    """
    return read_jets(path, skipped + n_jets, label_index)[skipped:].leading(n_max)
