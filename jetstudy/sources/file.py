"""Jets from a file in JetNet's layout: the true JetNet files (Zenodo 6975118), or one's own."""

from jetstudy.jets import read_jets


def load(path, n_jets, n_max, label_index=None):
    """The leading n_max particles of the first n_jets jets in `path`.

    label_index: take only jets whose data set `label` holds this number; None for a file of one class.
    Raises what `read_jets` raises.
    """
    return read_jets(path, n_jets, label_index).leading(n_max)
