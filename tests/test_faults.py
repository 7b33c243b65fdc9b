"""What goes wrong on real machines: kills, full and read-only disks, damaged files, two runs at once.

Finished results stay as they are, the message says what is wrong, and the next run finishes.
"""

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from cli import TOY, jetstudy, toy_set
from safetensors.numpy import save_file

from jetstudy import study, taggers, training
from jetstudy.features import Features
from jetstudy.files import digest, read_arrays
from jetstudy.jets import Jets, read_jets, write_jets
from jetstudy.surrogate import Surrogate
from jetstudy.taggers.trees import Trees

# five times, at other times and places each time
TIMES = [pytest.mark.timeout(1500), pytest.mark.parametrize("time_of", range(5)), pytest.mark.long]
SMALLER = {
    **{"classes": ["gluon", "top"], "samples": ["synthetic", "source"]},
    **{"n_jets": 2000, "training_steps": 300, "training_batch": 128, "validate_every": 20},
}


def five_times(test):
    for mark in TIMES:
        test = mark(test)
    return test


@pytest.fixture(scope="session")
def params(tmp_path_factory) -> Path:
    """A toy set of seconds a step."""
    return toy_set(tmp_path_factory.mktemp("params"), **SMALLER)


@pytest.fixture(scope="session")
def whole(params, tmp_path_factory):
    """Outputs with jets and a gluon surrogate, and the seconds that the latter took."""
    outputs = tmp_path_factory.mktemp("whole")
    assert jetstudy(outputs, "step", params, "01_jets").returncode == 0
    started = time.monotonic()
    assert surrogate(outputs, params).returncode == 0
    return outputs, time.monotonic() - started


@pytest.fixture
def begun(whole, outputs):
    """Outputs in which only the jets are finished."""
    shutil.copytree(whole[0] / "toy" / "jets", outputs / "toy" / "jets")
    return outputs


def surrogate(outputs, params):
    return jetstudy(outputs, "step", params, "02_surrogates", "--classes", "gluon")


def start(outputs, params):
    command = [sys.executable, "-m", "jetstudy", "step", str(params), "02_surrogates", "--classes", "gluon"]
    environment = os.environ | {"JETSTUDY_OUTPUTS": str(outputs)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


def place(outputs) -> Path:
    return outputs / "toy" / "surrogates" / "gluon" / "1"


def kill(process, folder) -> None:
    """kill -9 of the step, and of its kernel if it has begun."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    if (folder / ".lock").exists() and (pid := (folder / ".lock").read_text()):
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.5)


def intact(folder) -> bool:
    """A finished part is as its record says."""
    record = study.read_record(folder)
    return all(digest(folder / name) == known for name, known in record["outputs"].items())


def same_as(whole, outputs) -> bool:
    """The jets are intact, and the surrogate is the one of a run in which nothing went wrong."""
    weights = [place(base) / "weights.safetensors" for base in (whole[0], outputs)]
    return intact(outputs / "toy" / "jets") and intact(place(outputs)) and len(set(map(digest, weights))) == 1


@five_times
def test_a_step_killed_at_any_time_goes_on_to_the_same_result(begun, whole, params, time_of):
    process = start(begun, params)
    time.sleep((time_of + random.Random(time_of).random()) / 5 * whole[1])  # in each fifth of it once
    kill(process, place(begun))
    assert intact(begun / "toy" / "jets")
    assert study.read_record(place(begun)) is None or intact(place(begun))
    again = surrogate(begun, params)
    assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-1000:]
    assert same_as(whole, begun)
    assert not list(place(begun).glob(".*.part"))


@contextmanager
def mounted(folder, options):
    """A file system of its own at `folder`; skips the test where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a file system")
    try:
        yield lambda new: subprocess.run(["mount", "-o", f"remount,{new}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@five_times
def test_a_full_disk_is_said_and_what_is_finished_survives(whole, outputs, params, time_of):
    size = sum(path.stat().st_size for path in (whole[0] / "toy" / "jets").iterdir())
    more = [8, 40, 120, 200, 300][time_of]  # KiB that are left for the surrogate
    with mounted(outputs, f"size={size // 1024 + 80 + more}k") as remount:
        shutil.copytree(whole[0] / "toy" / "jets", outputs / "toy" / "jets")
        failed = surrogate(outputs, params)
        assert failed.returncode in (1, 2), failed.stdout[-2000:]
        assert "No space left on device" in failed.stdout + failed.stderr or "os error 28" in failed.stdout
        assert intact(outputs / "toy" / "jets") and study.read_record(place(outputs)) is None
        remount("size=64m")
        again = surrogate(outputs, params)
        assert again.returncode == 0, again.stdout[-2000:] + again.stderr[-1000:]
        assert same_as(whole, outputs)


@five_times
def test_a_truncated_checkpoint_is_named_and_a_fresh_start_finishes(begun, whole, params, time_of):
    process = start(begun, params)
    until = time.monotonic() + 300
    while not (checkpoints := list(place(begun).glob("checkpoint*"))):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    kill(process, place(begun))
    (checkpoint,) = checkpoints
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: random.Random(time_of).randrange(len(content))])
    failed = surrogate(begun, params)
    assert failed.returncode == 1
    assert f"{checkpoint}: not a complete checkpoint" in failed.stdout and "delete it" in failed.stdout
    checkpoint.unlink()
    again = surrogate(begun, params)
    assert again.returncode == 0, again.stdout[-2000:]
    assert same_as(whole, begun)


@five_times
def test_a_damaged_hdf5_file_is_named_with_the_command_that_makes_it_again(begun, whole, params, time_of):
    path, numbers = begun / "toy" / "jets" / "gluon.h5", random.Random(time_of)
    content = bytearray(path.read_bytes())
    if time_of % 2:
        content = content[: numbers.randrange(len(content))]
    else:
        content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)  # a bit
    path.write_bytes(content)
    failed = surrogate(begun, params)
    assert failed.returncode == 1
    assert (
        f"{path} is damaged or was changed" in failed.stdout and f"make redo PARAMS={params} STEP=jets" in failed.stdout
    )
    study.redo(study.load(str(params)), "jets")
    assert jetstudy(begun, "step", params, "01_jets").returncode == 0
    assert intact(begun / "toy" / "jets") and digest(path) == digest(whole[0] / "toy" / "jets" / "gluon.h5")
    assert surrogate(begun, params).returncode == 0
    assert same_as(whole, begun)


@five_times
def test_a_read_only_folder_is_said(whole, outputs, params, time_of):
    with mounted(outputs, "size=64m") as remount:
        shutil.copytree(whole[0] / "toy" / "jets", outputs / "toy" / "jets")
        if time_of % 2:
            place(outputs).mkdir(parents=True)
        remount("ro")
        failed = surrogate(outputs, params)
        assert failed.returncode == 2 and "Traceback" not in failed.stderr
        assert "Read-only file system" in failed.stderr and str(outputs) in failed.stderr
        assert intact(outputs / "toy" / "jets")
        remount("rw")
        again = surrogate(outputs, params)
        assert again.returncode == 0, again.stdout[-2000:]
        assert same_as(whole, outputs)


@five_times
def test_of_two_runs_at_once_one_finishes_and_the_other_names_it(begun, whole, params, time_of):
    first = start(begun, params)
    time.sleep(0.2 * time_of)
    second = start(begun, params)
    said = [process.communicate()[0] for process in (first, second)]
    codes = [process.returncode for process in (first, second)]
    assert sorted(codes) == [0, 1], said
    assert "is being written by process" in said[codes.index(1)]
    assert same_as(whole, begun)
    assert "nothing to do" in surrogate(begun, params).stdout


@five_times
def test_a_run_that_is_told_to_stop_takes_with_it_what_it_has_started(begun, params, time_of):
    """`kill` of the process that a refusal names; in a shell's background, which is deaf to Ctrl-C."""
    command = [sys.executable, "-m", "jetstudy", "run", str(params), "--cores", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = subprocess.Popen(["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *command], **pipes)
    while not (begun / "toy" / ".lock").exists():
        assert running.poll() is None
        time.sleep(0.1)
    time.sleep(4 * time_of)
    locks = list((begun / "toy").rglob(".lock"))
    running.terminate()
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 130 and "jetstudy: run was interrupted; to go on: make study" in said, said
    for lock in [begun / "toy" / ".lock", *locks]:
        with study.locked(lock.parent):  # nobody holds it any more
            pass
    assert intact(begun / "toy" / "jets")
    assert surrogate(begun, params).returncode == 0 and intact(place(begun))


@five_times
def test_of_two_studies_at_once_one_is_refused_and_nothing_is_lost(toy, outputs, time_of):
    shutil.copytree(toy, outputs / "toy")
    undone = [outputs / "toy" / "limit" / "1", outputs / "toy" / "report"]
    for part in undone:
        (part / "record.json").unlink()
    # On as many cores as the toy was: with another number of threads, the network of row 5 ends a hair elsewhere.
    command = [sys.executable, "-m", "jetstudy", "run", str(TOY), "--cores", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first = subprocess.Popen(command, **pipes)
    time.sleep(time_of)
    second = subprocess.Popen(command, **pipes)
    said = [process.communicate()[0] for process in (first, second)]
    codes = [process.returncode for process in (first, second)]
    assert sorted(codes) == [0, 2], said
    assert f"{outputs / 'toy'} is being written by process" in said[codes.index(2)]
    again = jetstudy(outputs, "run", TOY, "--cores", 2)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-1000:]
    assert all(intact(part) for part in undone)
    for name in ("gap.csv", "certificate.json"):
        assert digest(undone[0] / name) == digest(toy / "limit" / "1" / name)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_fresh_clone_without_jets_has_nothing_to_do_and_can_make_them_again(toy, outputs):
    """The report works from what is there; jets that are made again, the same as before, make nothing stale."""
    shutil.copytree(toy, outputs / "toy", ignore=shutil.ignore_patterns("*.h5", "checkpoint*", ".lock", "log.txt"))
    records = {path: path.read_bytes() for path in outputs.rglob("record.json")}
    plan = jetstudy(outputs, "plan", TOY).stdout
    assert "finished   jets" in plan and "not stored here: gluon.h5" in plan
    assert not {"stale", "missing", "unfinished"} & set(plan.split())
    assert jetstudy(outputs, "run", TOY, "--cores", 2).returncode == 0
    assert {path: path.read_bytes() for path in outputs.rglob("record.json")} == records
    assert jetstudy(outputs, "figures", TOY).returncode == 0
    tables = [path for path in outputs.rglob("*.csv") if "report" not in path.parts]
    assert tables and all(digest(path) == digest(toy / path.relative_to(outputs / "toy")) for path in tables)
    ran = jetstudy(outputs, "redo", TOY, "--step", "jets", "--cores", 2)
    assert ran.returncode == 0 and "redo: all as before" in ran.stdout, ran.stdout[-3000:]
    assert intact(outputs / "toy" / "jets")
    changed = {str(path.parent.relative_to(outputs)) for path in records if path.read_bytes() != records[path]}
    assert changed == {"toy/jets", "toy/report"}
    needs = jetstudy(outputs, "redo", TOY, "--step", "likelihoods", "--cores", 2)
    assert needs.returncode == 1 and f"make redo PARAMS={TOY} STEP=synthetic_jets" in needs.stdout


# loading never executes


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def resumed(checkpoint):
    """A training that would go on from this file."""
    data, generator = (torch.ones(4, 1),), torch.Generator().manual_seed(1)
    training.train(
        torch.nn.Linear(1, 1),
        lambda model, batch, generator: model(*batch).square().mean(),
        data,
        data,
        training.Recipe(steps=1, batch=4, rate=1e-3, every=1),
        generator,
        checkpoint,
    )


LOADERS = {
    "weights.safetensors": lambda folder: Surrogate.load(folder),
    "surrogate.json": lambda folder: Surrogate.load(folder),
    "checkpoint.safetensors": lambda folder: resumed(folder / "checkpoint.safetensors"),
    "tagger.json": lambda folder: taggers.load(folder),
    "trees.safetensors": lambda folder: Trees.load(folder / "trees.safetensors"),
    "features.json": lambda folder: Features.load(folder / "features.json"),
    "jets.h5": lambda folder: read_jets(folder / "jets.h5"),
    "arrays.h5": lambda folder: read_arrays(folder / "arrays.h5"),
    "record.json": lambda folder: study.read_record(folder),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_pickle_is_refused_by_name_without_running_it(tiny, outputs, tmp_path, name):
    folder = outputs / "smoke" / "surrogates" / "top" / "1"
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises((ValueError, OSError, study.StudyError), match=name):
        LOADERS[name](folder)
    assert not (tmp_path / "sprung").exists()
    pickle.loads((folder / name).read_bytes())
    assert (tmp_path / "sprung").exists()  # it would have sprung


def test_weights_of_another_network_are_refused_by_name(tiny, outputs):
    folder = outputs / "smoke" / "surrogates" / "top" / "1"
    save_file({"other": np.zeros(3, np.float32)}, folder / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors: weights of another network"):
        Surrogate.load(folder)


def test_the_same_jets_are_the_same_bytes_at_another_time(tmp_path):
    jets = Jets(np.ones((5, 3, 3), np.float32), np.ones((5, 3), bool), np.ones((5, 4), np.float32))
    write_jets(tmp_path / "a.h5", jets)
    time.sleep(1.1)  # HDF5 could store seconds
    write_jets(tmp_path / "b.h5", jets)
    assert digest(tmp_path / "a.h5") == digest(tmp_path / "b.h5")
