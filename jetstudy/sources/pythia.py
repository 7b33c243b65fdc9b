"""Jets of about 1 TeV as JetNet has them (Kansal et al., 2106.11535), from first principles.

Pythia 8 (Monash tune) generates pp collisions at 13 TeV with a hard scattering of p̂T between 990 and 1010
GeV; FastJet clusters all stable particles but neutrinos with anti-kT, R = 0.4. Jets with pT > 800 GeV and
|η| < 2.5 are kept, both of an event if both pass. W bosons from top quarks decay to quarks.

A jet's axis and pT are those of the sum of its constituents' four-vectors, η being the pseudorapidity:
etarel = η − η_jet, phirel = φ − φ_jet in [−π, π), ptrel = pT / pT_jet.

Jets are made in chunks of a fixed number of jets, each by a fresh Pythia with its own seed. So the same seed
gives the same jets whatever the number of workers, and a larger sample starts with the smaller one.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process

import awkward as ak
import fastjet
import numpy as np
import pythia8mc
from fastjet._swig import ClusterSequence as _ClusterSequence

from jetstudy.jets import Jets, arrange, concatenate
from jetstudy.sources import kind, seed_sequence

SETTINGS = (
    "Print:quiet = on",
    "Beams:eCM = 13000.",
    "PhaseSpace:pTHatMin = 990.",
    "PhaseSpace:pTHatMax = 1010.",
    "24:onMode = off",
    "24:onIfAny = 1 2 3 4 5",
)
PROCESSES = {
    "gluon": ("HardQCD:gg2gg = on",),
    "quark": ("HardQCD:gg2qqbar = on", "HardQCD:qq2qq = on", "HardQCD:qqbar2qqbarNew = on"),
    "top": ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on"),
}
RADIUS, MIN_PT, MAX_ETA = 0.4, 800.0, 2.5

CHUNK = 2_000  # jets; starting Pythia (0.6 s) is then some 5 % of a chunk
EVENTS = 50  # a batch
PATIENCE = 20.0  # seconds between lines of progress
PYTHIA_SEEDS = 900_000_000

# Jets of the true JetNet files, as `moments` computes them.
PUBLISHED = {
    "gluon": {
        "mass mean [GeV]": 95.85,
        "mass std [GeV]": 47.76,
        "n mean": 66.57,
        "n std": 22.03,
        "n of leading 30 mean": 29.89,
        "n of leading 30 std": 0.97,
        "sigma etarel": 0.0776,
        "mean log(1-ptrel)": -0.0320,
    },
    "top": {
        "mass mean [GeV]": 145.39,
        "mass std [GeV]": 36.84,
        "n mean": 62.98,
        "n std": 17.50,
        "n of leading 30 mean": 29.94,
        "n of leading 30 std": 0.60,
        "sigma etarel": 0.1161,
        "mean log(1-ptrel)": -0.0319,
    },
}


def moments(jets: Jets) -> dict[str, float]:
    """The quantities of `PUBLISHED` as a dict of floats: those of the whole jet (at most 150 constituents, as
    in JetNet), then those of its leading 30 particles."""
    _, _, mass, n = jets.features.astype(np.float64).T
    n = np.minimum(n, 150)
    leading = jets.leading(30)
    etarel, _, ptrel = leading.particles[leading.mask].astype(np.float64).T
    values = (
        *(mass.mean(), mass.std(), n.mean(), n.std(), leading.count.mean(), leading.count.std()),
        *(etarel.std(), np.log1p(-ptrel[ptrel < 1]).mean()),
    )
    return dict(zip(PUBLISHED["gluon"], map(float, values), strict=True))


def generate(
    label: str,
    n_jets: int,
    n_max: int,
    seed: int,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> Jets:
    """n_jets jets of class `label` ("gluon", "quark" or "top"): their leading n_max particles, while
    `features` hold pt, eta, mass and number of constituents of the whole jet.

    workers: processes; with 1 the jets are made in this one
    progress: called with a line of text when it starts and ends and every 20 s

    Raises ValueError for an unknown class, RuntimeError if a worker fails or dies, if Pythia does not take a
    setting or does not start, and if a batch of events has no jet.
    """
    if kind(label) not in PROCESSES:
        raise ValueError(f"class {label!r} is unknown to pythia; it has {', '.join(PROCESSES)}")
    if workers < 1:
        raise ValueError(f"pythia: workers={workers}")
    state = int(seed_sequence(seed, label).generate_state(1, np.uint64)[0])
    tasks = [
        (label, min(CHUNK, n_jets - first), n_max, 1 + (state + chunk) % PYTHIA_SEEDS)
        for chunk, first in enumerate(range(0, n_jets, CHUNK))
    ]
    workers = min(workers, len(tasks))
    progress(f"pythia {label}: {n_jets} jets in {len(tasks)} chunks, workers: {workers}")
    start = last = time.monotonic()

    def report(done):
        nonlocal last
        if done == n_jets or time.monotonic() - last >= PATIENCE:
            last = time.monotonic()
            progress(f"pythia {label}: {done} of {n_jets} jets, {last - start:.0f} s")

    if workers == 1:
        chunks = []
        for task in tasks:
            before = sum(map(len, chunks))
            chunks.append(_generate_chunk(*task, report=lambda made, before=before: report(before + made)))
    else:
        chunks = _in_parallel(tasks, workers, report)
    return concatenate(chunks)


def _in_parallel(tasks: list[tuple], workers: int, report: Callable[[int], None]) -> list[Jets]:
    """The chunks of `tasks`, in their order, made by spawned processes."""
    label = tasks[0][0]
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        futures = [pool.submit(_generate_chunk, *task) for task in tasks]
        pending = set(futures)
        while pending:
            finished, pending = wait(pending, timeout=1.0, return_when="FIRST_COMPLETED")
            for future in finished:
                future.result()
            report(sum(len(future.result()) for future in futures if future.done()))
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"pythia {label}: a worker process died before its jets were made (killed, or out of memory)"
        ) from error
    except Exception as error:
        raise RuntimeError(f"pythia {label}: a worker failed: {error}") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Without this a worker would wait for ever for the next chunk of a parent that was killed."""

    def watch():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _generate_chunk(
    label: str, n_jets: int, n_max: int, seed: int, report: Callable[[int], None] = lambda made: None
) -> Jets:
    """n_jets jets from a fresh Pythia with Random:seed = `seed`."""
    _ClusterSequence.set_fastjet_banner_stream(None)
    pythia = pythia8mc.Pythia("", False)
    for setting in (*SETTINGS, *PROCESSES[kind(label)], "Random:setSeed = on", f"Random:seed = {seed}"):
        if not pythia.readString(setting):
            raise RuntimeError(f"Pythia does not take the setting {setting!r}")
    if not pythia.init():
        raise RuntimeError(f"Pythia does not start for class {label!r} with Random:seed = {seed}")
    batches, made = [], 0
    while made < n_jets:
        batches.append(_cluster(pythia.nextBatch(EVENTS).prt).leading(n_max))
        if not len(batches[-1]):  # else this loop might never end
            raise RuntimeError(f"Pythia: {EVENTS} events of class {label!r} without a jet above {MIN_PT} GeV")
        made += len(batches[-1])
        report(min(made, n_jets))
    return concatenate(batches)[:n_jets]


def _cluster(particles: ak.Array) -> Jets:
    """Jets, with all constituents, of a batch of events: an awkward array (event × Pythia particle)."""
    species = abs(particles.id)
    neutrino = (species == 12) | (species == 14) | (species == 16)
    visible = particles.p[(particles.status > 0) & ~neutrino]
    momenta = ak.zip({"px": visible.px, "py": visible.py, "pz": visible.pz, "E": visible.e}, with_name="Momentum4D")
    sequence = fastjet.ClusterSequence(momenta, fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS))
    constituents = ak.flatten(sequence.constituents(min_pt=MIN_PT), axis=1)

    count = ak.num(constituents).to_numpy()
    mask = np.arange(count.max(initial=1)) < count[:, None]
    momentum = np.zeros((4, *mask.shape))
    for component, name in zip(momentum, ("px", "py", "pz", "E"), strict=True):
        component[mask] = ak.flatten(constituents[name]).to_numpy()

    pt, eta, phi = _pt_eta_phi(*momentum[:3])
    px, py, pz, energy = momentum.sum(axis=-1)
    jet_pt, jet_eta, jet_phi = _pt_eta_phi(px, py, pz)
    mass = np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0))
    phirel = (phi - jet_phi[:, None] + np.pi) % (2 * np.pi) - np.pi
    relative = np.stack([eta - jet_eta[:, None], phirel, pt / jet_pt[:, None]], axis=-1)
    jets = arrange(relative, mask, np.stack([jet_pt, jet_eta, mass, count], axis=-1))
    return jets[np.abs(jet_eta) < MAX_ETA]


def _pt_eta_phi(px: np.ndarray, py: np.ndarray, pz: np.ndarray) -> tuple[np.ndarray, ...]:
    """Transverse momentum, pseudorapidity and azimuth; η = 0 for padding."""
    pt = np.hypot(px, py)
    return pt, np.arcsinh(np.divide(pz, pt, out=np.zeros_like(pt), where=pt > 0)), np.arctan2(py, px)
