"""Jets in memory and on disk.

A jet is an unordered set of particles (etarel, phirel, ptrel), each relative to the jet's axis and transverse
momentum; arrays are padded to n_max particles with a mask, leading ptrel first. On disk it is HDF5 in
JetNet's layout (Kansal et al., 2106.11535): `particle_features` (n, N, 4) = etarel, phirel, ptrel, mask and
`jet_features` (n, 4) = pt, eta, mass, num_particles.

Which jets have a density. A jet whose constituents are all kept obeys Σ ptrel exp(i phirel) = 1 exactly, so
it lies on a surface and has no density over its 3N numbers. The leading n_max particles of a jet with more
than n_max have one (`with_density`), and so have smeared ones (`smear`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import ArrayLike

from jetstudy import kinematics
from jetstudy.files import opened, replacing

PARTICLE_FEATURES = ("etarel", "phirel", "ptrel")

# Stored index modulo ten: the same whichever classes are loaded together, and stable when a sample grows.
SPLITS = {"train": (0, 1, 2, 3, 4, 5, 6), "validation": (7,), "test": (8, 9)}

# Float32 leaves a complete jet's momentum sum within about 1e-6 of 1.
CLOSURE = 1e-4


@dataclass(frozen=True, eq=False)
class Jets:
    """n jets of up to N particles, leading ptrel first.

    particles: (n, N, 3) float32, etarel, phirel, ptrel; 0 where masked
    mask: (n, N) bool, true for real particles
    features: (n, 4) float32, the whole jet's pt (GeV), eta, mass (GeV) and number of constituents
    """

    particles: np.ndarray
    mask: np.ndarray
    features: np.ndarray

    def __post_init__(self):
        n, n_max = self.mask.shape
        for name, shape in (("particles", (n, n_max, 3)), ("features", (n, 4))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"Jets: {name} has shape {getattr(self, name).shape}, mask asks for {shape}")

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, index: np.ndarray | slice) -> "Jets":
        """The jets that an integer array, a slice or a boolean array picks."""
        return Jets(self.particles[index], self.mask[index], self.features[index])

    @property
    def n_max(self) -> int:
        return self.mask.shape[1]

    @property
    def count(self) -> np.ndarray:
        """(n,) number of particles kept."""
        return self.mask.sum(axis=1)

    @property
    def mass(self) -> np.ndarray:
        """(n,) mass of the particles kept, in units of the jet's pT."""
        return kinematics.jet_mass(self.particles, self.mask)

    @property
    def ptrel_sum(self) -> np.ndarray:
        """(n,) sum of ptrel of the particles kept."""
        return kinematics.ptrel_sum(self.particles, self.mask)

    def leading(self, n_max: int) -> "Jets":
        """The same jets with their leading n_max particles, padded further if they have fewer slots."""
        room = max(0, n_max - self.n_max)
        return Jets(
            np.pad(self.particles[:, :n_max], ((0, 0), (0, room), (0, 0))),
            np.pad(self.mask[:, :n_max], ((0, 0), (0, room))),
            self.features,
        )


def arrange(particles: ArrayLike, mask: ArrayLike, features: ArrayLike) -> Jets:
    """Jets from arrays with particles in any order: sorted by falling ptrel, padding last and zeroed."""
    particles, mask = np.asarray(particles, np.float32), np.asarray(mask, bool)
    order = np.argsort(np.where(mask, -particles[..., 2], np.inf), axis=1, kind="stable")
    mask = np.take_along_axis(mask, order, axis=1)
    particles = np.take_along_axis(particles, order[..., None], axis=1)
    return Jets(np.where(mask[..., None], particles, np.float32(0)), mask, np.asarray(features, np.float32))


def concatenate(samples: Sequence[Jets]) -> Jets:
    """One Jets of all samples, in order, padded to the largest n_max."""
    n_max = max(jets.n_max for jets in samples)
    samples = [jets.leading(n_max) for jets in samples]
    return Jets(*(np.concatenate([getattr(s, field.name) for s in samples]) for field in fields(Jets)))


def split(n: int, name: str) -> np.ndarray:
    """Indices below n of the split `name`: "train", "validation" or "test"; KeyError for another name.

    >>> split(20, "test").tolist()
    [8, 9, 18, 19]
    """
    if name not in SPLITS:
        raise KeyError(f"split {name!r} is unknown; there are {', '.join(SPLITS)}")
    return np.flatnonzero(np.isin(np.arange(n) % 10, SPLITS[name]))


def incomplete(jets: Jets, n_max: int) -> np.ndarray:
    """(n,) bool: which jets have more than n_max particles, so that their leading n_max have a density.

    The number of constituents in `features` decides. Where no jet has more than n_max particles stored, counting may
    have stopped there too: a jet that has n_max and whose momentum does not close has more.
    """
    more = (np.maximum(jets.features[:, 3], jets.count) > n_max) & (jets.count >= n_max)
    if not jets.mask[:, n_max:].any():
        more |= (jets.count == n_max) & (kinematics.momentum_closure(jets.particles, jets.mask) > CLOSURE)
    return more


def with_density(jets: Jets, n_max: int) -> tuple[Jets, float]:
    """(jets, fraction dropped): the leading n_max particles of the jets that have more than n_max (`incomplete`).

    ValueError if no jet is left.
    """
    more = incomplete(jets, n_max)
    if not more.any():
        constituents = np.maximum(jets.features[:, 3], jets.count)
        raise ValueError(
            f"none of {len(jets)} jets has more than n_max={n_max} particles, {n_max} of them stored (largest number "
            f"of constituents {constituents.max(initial=0):.0f}, of stored particles {jets.count.max(initial=0)})"
        )
    return jets[more].leading(n_max), 1.0 - more.mean()


def smear(jets: Jets, width: float, generator: np.random.Generator) -> Jets:
    """Jets with log ptrel shifted by width × normal, as by a detector; `features` stay the true jet's."""
    shift = np.exp(width * generator.standard_normal(jets.mask.shape))
    particles = jets.particles.copy()
    particles[..., 2] *= shift
    return arrange(particles, jets.mask, jets.features)


def select(jets: Jets, n_max: int, keep: str, smearing: float, generator: np.random.Generator) -> tuple[Jets, float]:
    """(jets that have a density, fraction dropped): with their leading n_max particles.

    keep: "leading", the jets that have more than n_max (`with_density`); "all", all of them
    smearing: width of a shift of log ptrel (`smear`), drawn from the numpy `generator`; 0 for none

    ValueError if jets that keep all their constituents, and so have no density, would be kept.
    """
    if keep not in ("leading", "all"):
        raise ValueError(f"jets_kept is {keep!r}, not 'leading' or 'all'")
    dropped = 0.0
    if keep == "leading":
        jets, dropped = with_density(jets, n_max)
    if smearing > 0:
        jets = smear(jets, smearing, generator)
    elif keep == "all":
        constituents = np.maximum(jets.features[:, 3], jets.count)
        whole = (constituents <= n_max) & (kinematics.momentum_closure(jets.particles, jets.mask) < CLOSURE)
        if whole.mean() > 1e-3:  # the momenta of incomplete jets add up by chance now and then
            raise ValueError(
                f"{whole.sum()} of {len(jets)} jets keep all their constituents, whose momenta add up exactly: they "
                "have no density. Use jets_kept='leading' with fewer particles, or smearing"
            )
    return jets.leading(n_max), dropped


def labelled(samples: Sequence[Jets], name: str) -> tuple[Jets, np.ndarray]:
    """(jets, label (n,) int) of the split `name` of each sample (a list of Jets, one a class, background first)."""
    parts = [jets[split(len(jets), name)] for jets in samples]
    return concatenate(parts), np.repeat(np.arange(len(parts)), [len(jets) for jets in parts])


def write_jets(path: str | Path, jets: Jets, **attributes) -> None:
    """Write jets to HDF5 in JetNet's layout, with attributes; the file appears whole or not at all."""
    with replacing(path) as unfinished, h5py.File(unfinished, "w") as file:
        file["particle_features"] = np.append(jets.particles, jets.mask[..., None], axis=-1)
        file["jet_features"] = jets.features
        file.attrs.update(attributes)


def read_jets(path: str | Path, n: int | None = None, label: int | None = None) -> Jets:
    """Read jets from an HDF5 file in JetNet's layout.

    particle_features: (n, N, 3 or 4) etarel, phirel, ptrel and a mask of 0 and 1; without one, particles of
        ptrel = 0 are padding. Particles may stand in any order.
    jet_features: (n, 4 or more); the first four are pt, eta, mass, num_particles, the pt positive and the number whole
    n: the first n jets; None for all
    label: only jets whose entry in the data set `label` (n,) equals it; None for all

    Raises FileNotFoundError, OSError (not HDF5, truncated), KeyError (missing data set) and ValueError
    (shape, NaN or infinity, pt ≤ 0, ptrel ≤ 0 under the mask, mask not 0 or 1, jet without particles, fewer jets
    than n), each with the file, the data set, the value and where it stands.
    """
    path = _existing(path)
    if n is not None and n < 1:
        raise ValueError(f"{path}: asked for n={n} jets")
    with opened(path) as file:
        particles, features, rows = _read(path, file, n, label)

    def refuse(bad, data_set, array, complaint):
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            place = [int(rows[index[0]]), *index[1:]]
            raise ValueError(f"{path}: {data_set}{place} = {array[index]}: {complaint}")

    refuse(~np.isfinite(particles), "particle_features", particles, "not a finite number")
    refuse(~np.isfinite(features), "jet_features", features, "not a finite number")
    for k, (name, bad, what) in {
        0: ("pt", features[:, 0] <= 0, "positive"),
        3: ("number of particles", features[:, 3] % 1 != 0, "a whole number"),
    }.items():
        complaint = f"expected {what}; the columns begin with pt, eta, mass, number of particles"
        refuse(bad, f"jet_features ({name})", features[:, k], complaint)
    ptrel = particles[..., 2]
    if particles.shape[2] == 4:
        column = particles[..., 3]
        refuse((column != 0) & (column != 1), "particle_features (mask)", column, "a mask is 0 or 1")
        mask = column == 1
        refuse(mask & (ptrel <= 0), "particle_features (ptrel)", ptrel, "not positive under the mask")
    else:
        refuse(ptrel < 0, "particle_features (ptrel)", ptrel, "negative")
        mask = ptrel > 0
    refuse(~mask.any(axis=1), "particle_features (particles kept)", mask.sum(1), "a jet without particles")
    return arrange(particles[..., :3], mask, features)


def label_names(path: str | Path) -> list[str]:
    """What the numbers of the data set `label` mean, as far as the file says (attribute `label_names`).

    Raises FileNotFoundError and OSError as `read_jets` does.
    """
    with opened(_existing(path)) as file:
        names = np.atleast_1d(file.attrs.get("label_names", []))
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _existing(path: str | Path) -> Path:
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    return Path(path)


def _read(path, file, n, label):
    """Particle features (n, N, 3 or 4) and jet features (n, 4), both float32, and the stored indices."""

    def data_set(name, accept, shape):
        if name not in list(file):  # `in file` follows links
            raise KeyError(f"{path}: data set {name} is missing; the file has {', '.join(map(str, file)) or 'none'}")
        found = file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise KeyError(f"{path}: {name} is no data set, or a link to nowhere")
        if found.shape is None or not accept(found.shape):
            raise ValueError(f"{path}: {name} has shape {found.shape}, not {shape}")
        if found.dtype.kind not in "biuf":
            raise ValueError(f"{path}: {name} has type {found.dtype}, not numbers")
        return found

    particles = data_set("particle_features", lambda s: len(s) == 3 and s[1] > 0 and s[2] in (3, 4), "(n, N, 3 or 4)")
    total = len(particles)
    features = data_set("jet_features", lambda s: len(s) == 2 and s[0] == total and s[1] >= 4, f"({total}, 4 or more)")
    rows, of_label = np.arange(total), ""
    if label is not None:
        rows = np.flatnonzero(data_set("label", lambda s: s == (total,), f"({total},)")[:] == label)
        of_label = f" of label {label}"
    wanted = 1 if n is None else n
    if len(rows) < wanted:
        raise ValueError(f"{path}: particle_features holds {len(rows)} jets{of_label}, fewer than {wanted}")
    rows = rows[:n]
    block = slice(rows[0], rows[-1] + 1)
    with np.errstate(over="ignore"):  # a float64 too large becomes inf here and is refused as such
        particles = particles[block][rows - rows[0]].astype(np.float32)
        features = features[block, :4][rows - rows[0]].astype(np.float32)
    return particles, features, rows
