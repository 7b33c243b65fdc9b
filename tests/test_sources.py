import fcntl
import os
import signal
import subprocess
import sys
import time
import zlib

import awkward as ak
import h5py
import numpy as np
import pytest

from jetstudy.jets import concatenate, with_density, write_jets
from jetstudy.kinematics import momentum_closure
from jetstudy.sources import draw, pair, pythia, seed_sequence, toy

CLASSES = ("gluon", "top")


def silent(line):
    pass


def assert_equal(one, other):
    for name in ("particles", "mask", "features"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def of_pythia(label, n_jets, n_max=30, seed=1, **options):
    return pythia.generate(label, n_jets, n_max, seed, **{"progress": silent, **options})


@pytest.fixture(scope="module")
def sample():
    """200 jets of each class with up to 150 particles."""
    return {label: of_pythia(label, 200, n_max=150) for label in CLASSES}


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 20 jets, made in batches of 12 events; spawned workers keep batches of 50."""
    monkeypatch.setattr(pythia, "CHUNK", 20)
    monkeypatch.setattr(pythia, "EVENTS", 12)


# Any source


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="source 'herwig' is unknown; there are pythia, file, toy"):
        draw("herwig", "top", 1, 1, 0, CLASSES)


@pytest.mark.parametrize("source", ["pythia", "file", "toy"])
def test_a_class_that_the_study_does_not_have_is_refused(source):
    with pytest.raises(ValueError, match="class 'quark' is unknown; the study's classes are gluon, top"):
        draw(source, "quark", 1, 1, 0, CLASSES)


@pytest.mark.parametrize(
    ("source", "message"), [("pythia", "unknown to pythia; it has gluon"), ("toy", "unknown to the toy; it has gluon")]
)
def test_a_class_that_the_source_does_not_have_is_refused(source, message):
    with pytest.raises(ValueError, match=f"class 'higgs' is {message}"):
        draw(source, "higgs", 1, 1, 0, ("higgs", "top"))


@pytest.mark.parametrize(("n_jets", "n_max"), [(0, 5), (-1, 5), (5, 0)])
def test_no_jets_and_no_particles_are_refused(n_jets, n_max):
    with pytest.raises(ValueError, match=f"cannot draw n_jets={n_jets} of up to n_max={n_max}"):
        draw("toy", "top", n_jets, n_max, 0, CLASSES)


def test_classes_and_seeds_have_random_numbers_of_their_own():
    states = {(s, c): tuple(seed_sequence(s, c).generate_state(4)) for s in (0, 1) for c in CLASSES}
    assert len(set(states.values())) == 4
    again = np.random.SeedSequence([1, zlib.crc32(b"top")]).generate_state(4)
    assert states[1, "top"] == tuple(again)


# Toy


def test_toy_jets_of_a_class_depend_on_the_seed_and_not_on_the_other_classes():
    jets = draw("toy", "top", 50, 6, 3, CLASSES)
    assert len(jets) == 50 and jets.n_max == 6
    assert_equal(draw("toy", "top", 50, 6, 3, ("top",)), jets)
    assert (draw("toy", "top", 50, 6, 4, CLASSES).particles != jets.particles).any()


# File


@pytest.fixture
def files(tmp_path):
    """A file for each class, and one with both and labels."""
    jets = {label: draw("toy", label, 30, 6, 1, CLASSES) for label in CLASSES}
    paths = [tmp_path / f"{label}.h5" for label in CLASSES]
    for path, label in zip(paths, CLASSES, strict=True):
        write_jets(path, jets[label])
    mixed, order = concatenate(list(jets.values())), np.random.default_rng(0).permutation(60)
    write_jets(tmp_path / "both.h5", mixed[order])
    with h5py.File(tmp_path / "both.h5", "a") as file:
        file["label"] = (order >= 30).astype(int)
    shuffled = {label: mixed[order[(order >= 30) == k]] for k, label in enumerate(CLASSES)}
    return paths, tmp_path / "both.h5", jets, shuffled


@pytest.mark.parametrize("label", CLASSES)
def test_a_file_for_each_class_gives_its_first_jets(files, label):
    paths, _, jets, _ = files
    assert_equal(draw("file", label, 10, 6, 0, CLASSES, files=paths), jets[label][:10])


@pytest.mark.parametrize("label", CLASSES)
def test_one_file_with_labels_gives_the_jets_of_a_class(files, label):
    _, path, _, shuffled = files
    assert_equal(draw("file", label, 30, 6, 0, CLASSES, files=[str(path)]), shuffled[label])


@pytest.mark.parametrize(
    ("column", "factor", "complaint"),
    [
        (2, 500.0, r"gluon\.h5: ptrel adds up to .* in the median jet: expected shares of the jet's pT"),
        (1, 57.3, r"gluon\.h5: a phirel of ±.*: expected radians from the jet's axis, π at most"),
    ],
)
def test_particles_in_other_units_are_refused(files, column, factor, complaint):
    paths, _, _, _ = files
    with h5py.File(paths[0], "a") as file:
        stored = file["particle_features"][:]
        stored[..., column] *= factor
        file["particle_features"][:] = stored
    with pytest.raises(ValueError, match=complaint):
        draw("file", "gluon", 30, 6, 0, CLASSES, files=paths)


@pytest.mark.parametrize("names", [["top", "gluon"], np.array([b"top", b"gluon"])])
def test_the_names_that_a_file_gives_its_labels_come_before_the_order_of_the_classes(files, names):
    _, path, _, shuffled = files
    with h5py.File(path, "a") as file:
        file.attrs["label_names"] = names
    assert_equal(draw("file", "gluon", 30, 6, 0, CLASSES, files=[path]), shuffled["top"])


def test_names_of_labels_decide_for_all_classes_or_for_none(files):
    _, path, _, shuffled = files
    with h5py.File(path, "a") as file:
        file.attrs["label_names"] = ["QCD", "top"]
    with pytest.raises(ValueError, match=r"both\.h5: its label_names are QCD, top, without the study's 'gluon'"):
        draw("file", "gluon", 30, 6, 0, CLASSES, files=[path])
    assert_equal(draw("file", "signal", 30, 6, 0, ("background", "signal"), files=[path]), shuffled["top"])


def test_one_file_of_a_study_with_one_class_needs_no_labels(files):
    paths, _, jets, _ = files
    assert_equal(draw("file", "top", 30, 6, 0, ("top",), files=paths[1:]), jets["top"])


def test_two_samples_of_one_kind_come_from_a_file_of_several_by_its_labels(files):
    _, path, _, shuffled = files
    with h5py.File(path, "a") as file:
        file.attrs["label_names"] = list(CLASSES)
    for k, label in enumerate(("top.1", "top.2")):
        own = draw("file", label, 10, 6, 0, ("top.1", "top.2"), files=[path])
        assert_equal(own, shuffled["top"][10 * k : 10 * (k + 1)])


@pytest.mark.parametrize("n_max", [3, 9])
def test_jets_of_a_file_have_n_max_slots_for_their_leading_particles(files, n_max):
    paths, _, jets, _ = files
    assert_equal(draw("file", "top", 30, n_max, 0, CLASSES, files=paths), jets["top"].leading(n_max))


@pytest.mark.parametrize("count", [0, 3])
def test_a_number_of_files_that_fits_no_reading_is_refused(files, count):
    message = r"source 'file' takes one path, or one for each of gluon, top; got files=\["
    with pytest.raises(ValueError, match=message):
        draw("file", "top", 1, 6, 0, CLASSES, files=["x.h5"] * count)


@pytest.mark.parametrize("labelled", [False, True])
def test_the_samples_of_a_null_are_jets_of_one_file_that_do_not_overlap(files, labelled):
    paths, path, jets, shuffled = files
    classes, whole = (*CLASSES, "top.1", "top.2"), (shuffled if labelled else jets)["top"]
    first, second = (
        draw("file", label, 15, 6, 0, classes, files=[path] if labelled else paths) for label in classes[2:]
    )
    assert_equal(first, whole[:15])
    assert_equal(second, whole[15:])
    with pytest.raises(ValueError, match=r"holds 30 jets.*, fewer than 32"):
        draw("file", "top.2", 16, 6, 0, classes, files=[path] if labelled else paths)


def test_a_class_is_told_from_the_other_one_of_its_pair():
    classes = ["gluon", "top", "top.1", "top.2"]
    assert [pair(classes, label) for label in classes] == [classes[:2]] * 2 + [classes[2:]] * 2


def test_what_is_wrong_with_a_file_is_told(files):
    paths, path, _, _ = files
    with pytest.raises(ValueError, match="holds 30 jets of label 1, fewer than 31"):
        draw("file", "top", 31, 6, 0, CLASSES, files=[path])
    with pytest.raises(KeyError, match="data set label is missing"):
        draw("file", "top", 30, 6, 0, CLASSES, files=paths[:1])
    with pytest.raises(FileNotFoundError, match=r"none\.h5: no such file"):
        draw("file", "top", 30, 6, 0, CLASSES, files=[paths[0], "none.h5"])


# Pythia: its jets


@pytest.mark.parametrize("label", CLASSES)
def test_jets_have_the_moments_of_the_published_ones_within_a_few_errors(sample, label):
    """Loose: Pythia's tune is not that of JetNet, and there are 200 jets. R = 0.8 would give 171 GeV and 98."""
    tolerance = {
        "mass mean [GeV]": 18,
        "mass std [GeV]": 15,
        "n mean": 8,
        "n std": 5,
        "n of leading 30 mean": 0.5,
        "n of leading 30 std": 2.0,
        "sigma etarel": 0.012,
        "mean log(1-ptrel)": 0.003,
    }
    moments = pythia.moments(sample[label])
    assert moments.keys() == tolerance.keys()
    for name, value in moments.items():
        assert value == pytest.approx(pythia.PUBLISHED[label][name], abs=tolerance[name]), name


@pytest.mark.parametrize("label", CLASSES)
def test_jets_pass_the_cuts_and_lie_around_their_axis(sample, label):
    jets = sample[label]
    pt, eta, mass, count = jets.features.T
    assert (pt > pythia.MIN_PT).all() and (pt < 2000).all() and (np.abs(eta) < pythia.MAX_ETA).all()
    assert 900 < np.median(pt) < 1000  # a little less than pTHat: R = 0.4 loses some
    assert (mass > 0).all() and (count >= jets.count).all()
    etarel, phirel, ptrel = np.moveaxis(jets.particles, -1, 0)
    assert np.abs(phirel).max() < 2 * pythia.RADIUS
    # FastJet clusters in rapidity, which a soft hadron's pseudorapidity can exceed by much.
    assert np.abs(etarel[ptrel > 2e-3]).max() < 2 * pythia.RADIUS
    assert abs(etarel[jets.mask].mean()) < 0.01 and abs(phirel[jets.mask].mean()) < 0.01
    assert (np.diff(ptrel, axis=1) <= 0).all() and (jets.particles[~jets.mask] == 0).all()


@pytest.mark.parametrize("label", CLASSES)
def test_the_momenta_of_complete_jets_close_and_those_of_their_leading_particles_do_not(sample, label):
    jets = sample[label]
    jets = jets[jets.features[:, 3] <= 150]
    assert len(jets) > 190
    np.testing.assert_array_equal(jets.count, jets.features[:, 3])
    assert momentum_closure(jets.particles, jets.mask).max() < 1e-5
    kept, dropped = with_density(sample[label], 30)
    assert dropped < 0.1 and kept.mask.all()
    assert np.median(momentum_closure(kept.particles, kept.mask)) > 1e-2


@pytest.mark.parametrize("label", CLASSES)
def test_massless_particles_make_a_little_less_than_the_mass_of_the_jet(sample, label):
    """The same momenta with less energy, so never more mass."""
    jets = sample[label][sample[label].features[:, 3] <= 150]
    ratio = jets.mass * jets.features[:, 0] / jets.features[:, 2]
    assert ratio.max() < 1 + 1e-5
    assert np.median(ratio) > 0.9


def test_a_top_jet_weighs_more_than_a_gluon_jet(sample):
    assert np.median(sample["top"].features[:, 2]) > np.median(sample["gluon"].features[:, 2]) + 20


def test_fewer_slots_keep_the_leading_particles_of_the_same_jets(sample, small_chunks):
    assert_equal(of_pythia("top", 20, n_max=8), sample["top"][:20].leading(8))


def event(*particles):
    """An event of Pythia, as nextBatch gives it, of particles (id, status, pT, eta, phi, mass)."""
    return [
        {
            "id": number,
            "status": status,
            "p": {
                "px": pt * np.cos(phi),
                "py": pt * np.sin(phi),
                "pz": pt * np.sinh(eta),
                "e": np.sqrt(mass**2 + (pt * np.cosh(eta)) ** 2),
            },
        }
        for number, status, pt, eta, phi, mass in particles
    ]


def test_a_jet_is_the_sum_of_its_visible_stable_particles_and_they_are_relative_to_it():
    """By hand: a jet across phi = pi, with a neutrino and a decayed particle inside that do not count."""
    kept = [(211, 83, 500.0, 1.0, 3.1, 0.14), (22, 91, 300.0, 1.1, -3.1, 0.0), (-13, 1, 200.0, 0.9, 3.0, 0.1)]
    lost = [(sign * flavour, 1, 400.0, 1.0, 3.1, 0.0) for sign in (1, -1) for flavour in (12, 14, 16)]
    decayed = (111, -91, 400.0, 1.0, 3.1, 0.13)
    jets = pythia._cluster(ak.Array([event(*lost, *kept, decayed)]))

    _, _, pt, eta, phi, mass = np.array(kept).T
    px, py, pz = (pt * f for f in (np.cos(phi), np.sin(phi), np.sinh(eta)))
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2).sum()
    jet_pt, jet_phi = np.hypot(px.sum(), py.sum()), np.arctan2(py.sum(), px.sum())
    jet_eta = np.arcsinh(pz.sum() / jet_pt)
    jet_mass = np.sqrt(energy**2 - jet_pt**2 - pz.sum() ** 2)
    turn = np.where(phi < 0, 2 * np.pi, 0)  # the jet's axis is at phi = 3.13
    np.testing.assert_allclose(jets.features, [[jet_pt, jet_eta, jet_mass, 3]], rtol=1e-6)
    expected = np.stack([eta - jet_eta, phi + turn - jet_phi, pt / jet_pt], axis=-1)
    np.testing.assert_allclose(jets.particles, [expected], rtol=1e-5, atol=1e-7)
    assert jets.mask.all()


def test_both_jets_of_an_event_are_kept_if_both_pass_the_cuts():
    """One particle a jet: 900 GeV passes, 700 GeV and |eta| = 2.6 do not; an event may have no jet at all."""
    hard, hard_too = (22, 1, 900.0, 0.5, 0.0, 0.0), (22, 1, 850.0, -2.4, 3.0, 0.0)
    soft, forward = (22, 1, 700.0, 0.5, 0.0, 0.0), (22, 1, 900.0, -2.6, 3.0, 0.0)
    batch = ak.Array(
        [event(hard, hard_too), event(soft, hard_too), event(soft, (*soft[:4], 3.0, 0.0)), event(hard, forward)]
    )
    jets = pythia._cluster(batch)
    assert sorted(jets.features[:, 0].round()) == [850, 850, 900, 900]
    assert (jets.count == 1).all() and jets.n_max == 1
    np.testing.assert_allclose(jets.particles[:, 0], np.tile([0, 0, 1], (4, 1)), atol=1e-7)
    assert len(pythia._cluster(batch[2:3])) == 0


# Pythia: the same jets, however they are made


def test_jets_depend_on_the_seed_and_not_on_the_number_of_workers(small_chunks):
    jets = of_pythia("top", 30, workers=1)
    assert len(jets) == 30 and jets.n_max == 30
    assert_equal(draw("pythia", "top", 30, 30, 1, CLASSES, workers=2, progress=silent), jets)
    assert len(np.unique(jets.features[:, 0])) == 30  # chunks do not repeat each other
    assert_equal(of_pythia("top", 25), jets[:25])  # a larger sample starts with the smaller one
    other_seed = of_pythia("top", 10, seed=2)
    assert not np.isin(other_seed.features[:, 0], jets.features[:, 0]).any()


def test_progress_tells_the_start_and_the_end_and_what_is_done_meanwhile(small_chunks, monkeypatch):
    lines = []
    of_pythia("top", 30, progress=lines.append)
    assert lines[0] == "pythia top: 30 jets in 2 chunks, workers: 1"
    assert len(lines) == 2 and lines[-1].startswith("pythia top: 30 of 30 jets, ")
    monkeypatch.setattr(pythia, "PATIENCE", 0.0)
    lines.clear()
    of_pythia("top", 30, progress=lines.append)
    done = [int(line.split()[2]) for line in lines[1:]]
    assert len(done) >= 2 and done == sorted(set(done)) and done[-1] == 30


# Pythia: what goes wrong


def test_a_number_of_workers_below_one_is_refused():
    with pytest.raises(ValueError, match="pythia: workers=0"):
        of_pythia("top", 10, workers=0)


def test_a_setting_that_pythia_does_not_know_is_named(monkeypatch, capfd):
    monkeypatch.setitem(pythia.PROCESSES, "top", ("Top:gg2ttbar = on", "Top:ggg2ttbar = on"))
    with pytest.raises(RuntimeError, match="Pythia does not take the setting 'Top:ggg2ttbar = on'"):
        of_pythia("top", 10)
    capfd.readouterr()  # what Pythia itself prints


def test_a_process_that_pythia_cannot_start_is_named_with_its_seed(monkeypatch, capfd):
    monkeypatch.setitem(pythia.PROCESSES, "top", ())
    with pytest.raises(RuntimeError, match="Pythia does not start for class 'top' with Random:seed = "):
        of_pythia("top", 10)
    capfd.readouterr()


def test_events_without_a_jet_are_an_error_and_not_an_endless_loop(monkeypatch, small_chunks):
    monkeypatch.setattr(pythia, "MIN_PT", 1e5)
    with pytest.raises(RuntimeError, match="12 events of class 'top' without a jet above"):
        of_pythia("top", 10)


def killed_worker(label, n_jets, n_max, seed):
    os.kill(os.getpid(), signal.SIGKILL)


def failing_worker(label, n_jets, n_max, seed):
    raise RuntimeError(f"no luck with {n_jets} jets")


def test_a_killed_worker_is_a_clear_error_and_no_hang(monkeypatch, small_chunks):
    monkeypatch.setattr(pythia, "_generate_chunk", killed_worker)
    with pytest.raises(RuntimeError, match="pythia top: a worker process died before its jets were made"):
        of_pythia("top", 60, workers=2)


def test_a_failing_worker_tells_what_failed(monkeypatch, small_chunks):
    monkeypatch.setattr(pythia, "_generate_chunk", failing_worker)
    with pytest.raises(RuntimeError, match="pythia top: a worker failed: no luck with 20 jets"):
        of_pythia("top", 60, workers=2)


PARENT = """
import fcntl, sys, time
from jetstudy.sources import pythia

def hold(label, n_jets, n_max, seed):
    with open(f"{sys.argv[1]}/{n_jets}", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("held")
        file.flush()
        time.sleep(600)

if __name__ == "__main__":
    pythia.CHUNK, pythia._generate_chunk = 20, hold
    pythia.generate("top", 30, 30, 1, workers=2)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script, held = tmp_path / "parent.py", [tmp_path / "20", tmp_path / "10"]
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: all(path.exists() and path.read_text() == "held" for path in held))
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: all(map(is_free, held)))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_free(path):
    """Whether no process holds the lock: it goes with its holder."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_two_samples_of_one_kind_are_disjoint_and_of_the_same_density():
    classes = ["top.1", "top.2"]
    first, second = (draw("toy", label, 400, 6, 1, classes) for label in classes)
    assert not np.isin(first.particles[first.mask][:, 0], second.particles[second.mask][:, 0]).any()
    mean = [np.mean(toy.log_prob(jets, "top")) for jets in (first, second)]
    spread = np.std(toy.log_prob(first, "top")) * np.sqrt(2 / 400)
    assert abs(mean[0] - mean[1]) < 5 * spread
