"""Jets from a file in JetNet's layout: the true JetNet files (Zenodo 6975118), or one's own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jetstudy.jets import Jets, label_names, read_jets

MOST = 1.5  # times the jet's pT that its particles' may add up to, in the median jet


def load(path: str | Path, n_jets: int, n_max: int, skipped: int = 0, label_index: int | None = None) -> Jets:
    """The leading n_max particles of the n_jets jets in `path` behind the first `skipped`.

    label_index: take only jets whose data set `label` holds this number; None for a file of one class.
    Raises what `read_jets` raises, and ValueError for particles in other units: ptrel that add up to much more than
    the jet's pT, angles that are no radians around the jet's axis.
    """
    jets = read_jets(path, skipped + n_jets, label_index)[skipped:]
    total = np.median(jets.particles[..., 2].sum(1, where=jets.mask))
    if total > MOST:
        raise ValueError(f"{path}: ptrel adds up to {total:.3g} in the median jet: expected shares of the jet's pT")
    far = np.abs(jets.particles[..., 1]).max(where=jets.mask, initial=0.0)
    if far > np.pi:
        raise ValueError(f"{path}: a phirel of ±{far:.3g}: expected radians from the jet's axis, π at most")
    return jets.leading(n_max)


def number(path: str | Path, kinds: Sequence[str], kind: str) -> int:
    """What stands for `kind` in the data set `label` of `path`.

    Its place in the file's own `label_names` if these hold any of `kinds`, else its place in `kinds`. Raises
    ValueError if they hold another one and not this one, and what `label_names` raises.
    """
    names = label_names(path)
    if not set(kinds) & set(names):
        return list(kinds).index(kind)
    if kind not in names:
        raise ValueError(f"{path}: its label_names are {', '.join(names)}, without the study's {kind!r}")
    return names.index(kind)
