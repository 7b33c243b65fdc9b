"""What a run is, where it stands, and what of it is finished: parameter sets, paths, records.

A *parameter set* is one flat YAML file, complete: its keys are exactly the parameters that the notebooks declare
in their parameters cells. A *step* is a notebook; it is done in *parts*, one for each combination of the lists
that it fans out over, and each part has a folder

    outputs/<parameter set>/<step>/<label>/<seed>/        (levels that the step does not fan out over are left out)

A part's `record.json`, written last, is the only proof that it finished. It holds the parameters, the digests of
what was read and written, and where and with what the part ran. The digests chain the records: a part is stale
if its parameters are no longer the set's, or if what it read has been made again and come out differently.
"""

import ast
import fcntl
import itertools
import json
import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml

from jetstudy import choices
from jetstudy.files import digest, named_after, random_seed, write_json

ROOT = Path(__file__).resolve().parents[1]

# The lists that each notebook fans out over, and so the levels of its folders.
FAN_OUT = {
    "01_jets": (),
    "02_surrogates": ("classes", "seeds"),
    "03_synthetic_jets": ("classes", "seeds"),
    "04_likelihoods": ("classes", "seeds"),
    "05_taggers": ("taggers", "samples", "seeds"),
    "06_limit": ("seeds",),
    "07_learning": ("learners", "seeds"),
    "08_search": ("searched", "seeds"),
    "09_report": (),
}
# What one item of such a list is called in a part: in its parameters, and as its attribute.
ONE_OF = {"classes": "label", "seeds": "seed", "taggers": "tagger", "samples": "sample"}
ONE_OF |= {"learners": "learner", "searched": "tagger"}
MAY_BE_EMPTY = ("learners", "searched")  # steps that a study can do without

# Where and how a part runs, not what comes out of it: recorded apart, and free to change.
OPERATIONAL = ("parameter_set", "device", "threads")

RECORD, UNFINISHED, NOTEBOOK, LOG = "record.json", "unfinished.json", "notebook.ipynb", "log.txt"
REPLACED = ".replaced.json"  # the record of what is made again, until it is
WRITTEN = (".h5", ".csv", ".json", ".png", ".pdf", ".safetensors")  # suffixes of results
PATIENCE = 20.0  # seconds between two lines of progress
PACKAGES = ("torch", "numpy", "h5py", "scikit-learn", "optuna", "pythia8mc", "fastjet", "papermill", "snakemake")


class StudyError(Exception):
    """Something that the user has to decide or repair; its message says what, and how to go on."""


def outputs() -> Path:
    """The folder of all results: `outputs` of the repository, or what JETSTUDY_OUTPUTS names."""
    return Path(os.environ.get("JETSTUDY_OUTPUTS") or ROOT / "outputs").absolute()


def called(parameter_set: str) -> str:
    """What a command in a message calls a set: its name, or the path of its file where that was given."""
    given = os.environ.get("JETSTUDY_PARAMS", "")
    return shlex.quote(given) if Path(given).stem == parameter_set else parameter_set


def folder(notebook: str) -> str:
    """The name of a step's folder: that of its notebook without the number."""
    return notebook.partition("_")[2]


# --- parameter sets ---------------------------------------------------------------------------------------------


@cache
def declared(notebook: str) -> dict[str, tuple[object, str]]:
    """{name: (default, help)} of the parameters that a notebook declares in its parameters cell.

    Raises StudyError for a default that is no literal.
    """
    from papermill import inspect_notebook

    found = {}
    for name, entry in inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb")).items():
        try:
            found[name] = ast.literal_eval(entry["default"]), entry["help"]
        except ValueError as error:
            raise StudyError(f"{notebook}: parameter {name} = {entry['default']} is not a literal") from error
    return found


def all_declared() -> dict[str, object]:
    """{name: default} of all notebooks; StudyError if two of them disagree on a default."""
    defaults: dict[str, object] = {}
    for notebook in FAN_OUT:
        for name, (default, _) in declared(notebook).items():
            if defaults.setdefault(name, default) != default:
                raise StudyError(f"{notebook}: {name} = {default!r}, but {defaults[name]!r} in an earlier notebook")
    return defaults


def load(params: str) -> dict[str, object]:
    """The parameter set `params`: the name of a file in `params/`, or the path of a YAML file.

    Raises StudyError, naming file and key, for a key that is unknown, missing, given twice or of the wrong type, and
    for a value that cannot be (`choices`).
    """
    path = Path(params) if params.endswith((".yaml", ".yml")) else ROOT / "params" / f"{params}.yaml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in (ROOT / "params").glob("*.yaml")))
        raise StudyError(f"{path}: no such parameter set (there are {known}; a path ends in .yaml)")
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: {error}") from error
    defaults = all_declared()
    if not isinstance(found, dict):
        raise StudyError(f"{path}: not a list of 'key: value'")
    for key in found:
        if key not in defaults:
            raise StudyError(f"{path}: unknown key {key!r}{_suggestion(str(key), defaults)}")
    for key in defaults:
        if key not in found:
            raise StudyError(f"{path}: key {key!r} is missing")
    values = {key: _typed(str(path), key, found[key], default) for key, default in defaults.items()}
    if values["parameter_set"] != path.stem:
        raise StudyError(f"{path}: parameter_set is {values['parameter_set']!r}, the file's name says {path.stem!r}")
    try:
        choices.check(values)
    except ValueError as error:
        raise StudyError(f"{path}: {error}") from error
    # Notebooks run in the folders of their parts: a relative path means the folder of the parameter set's file.
    values["files"] = [str((path.parent / os.path.expanduser(file)).absolute()) for file in values["files"]]
    return values


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of an override."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} is given twice")
        return super().construct_mapping(node, deep)


def _suggestion(key: str, known) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _typed(where: str, key: str, value, default):
    """`value` if it has the type of `default`; a whole number will do for a float."""
    kind = type(default)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        hint = ""
        if kind is float and isinstance(value, str) and re.fullmatch(r"[-+\d.]+[eE][-+]?\d+", value):
            hint = "; YAML reads 1e-3 as text, write 1.0e-3"
        raise StudyError(f"{where}: {key} is {value!r} ({type(value).__name__}), not {kind.__name__}{hint}")
    if kind is list:
        if key in ONE_OF and key not in MAY_BE_EMPTY and not value:
            raise StudyError(f"{where}: {key} is an empty list")
        item_default = default[0] if default else ""
        items = [_typed(where, f"{key}[{i}]", item, item_default) for i, item in enumerate(value)]
        if len(set(items)) < len(items):
            once = "; a file that holds both classes is given once" if key == "files" else ""
            raise StudyError(f"{where}: {key} is {value!r}: an item is given twice{once}")
        return items
    return value


# --- steps and their parts --------------------------------------------------------------------------------------


class Reader:
    """Reads what the steps of a parameter set have made. `inputs` is what it has read, by digest; `seed` is that of the
    surrogates, and of what comes of them, that it is asked for (`jetstudy.inputs`).
    """

    def __init__(self, parameter_set: str, name: str, seed: int | None = None):
        self.parameter_set, self.name, self.seed = parameter_set, name, seed
        self.inputs: dict[str, str] = {}

    def __str__(self) -> str:
        return self.name

    def read(self, *names: object) -> Path:
        """The path of another step's file, e.g. read("surrogates", "top", 1, "losses.csv"); noted in the record.

        Raises StudyError for an unknown step, if that step has no record, or none of this file, or if the file is not
        here (results can be published without their jets), or is not the one recorded.
        """
        *owner, file = map(str, names)
        check_step(owner[0])
        base = outputs() / self.parameter_set
        record = read_record(base.joinpath(*owner))
        if record is None or file not in record["outputs"]:
            needed = next(n for n in FAN_OUT if folder(n) == owner[0])
            raise StudyError(
                f"{self}: {'/'.join(map(str, names))} is not there yet: run {needed} for the parameter set "
                f"{self.parameter_set!r} first (make study PARAMS={called(self.parameter_set)} does all in order)"
            )
        path, known = base.joinpath(*owner, file), record["outputs"][file]
        if not path.exists() or digest(path) != known:
            word = "is damaged or was changed: it differs from its record" if path.exists() else "is not stored here"
            again = f"make redo PARAMS={called(self.parameter_set)} STEP={owner[0]}"
            raise StudyError(f"{self}: {path} {word}. To make it again: {again}")
        self.inputs["/".join([*owner, file])] = known
        return path

    def has(self, *names: object) -> bool:
        """Whether another part of this parameter set is finished, e.g. has("likelihoods", "top", 1)."""
        return read_record(outputs().joinpath(self.parameter_set, *map(str, names))) is not None


class Part(Reader):
    """One part of a step: its folder, its lock, what it reads, its record.

    Of `label`, `seed`, `tagger`, `sample` and `learner` it has those that its step fans out over (`ONE_OF`); `seed` is
    None if that is none of them.
    """

    def __init__(self, notebook: str, values: Mapping[str, object], parameters: Mapping[str, object]):
        """values: {axis: one value} of the step's fan-out; parameters: all that the notebook declares."""
        super().__init__(parameters["parameter_set"], "/".join([folder(notebook), *map(str, values.values())]))
        self.notebook = notebook
        for axis, value in values.items():
            setattr(self, ONE_OF[axis], value)
        self.folder = outputs() / self.parameter_set / self.name
        kept = {key: value for key, value in parameters.items() if key not in (*OPERATIONAL, *values)}
        self.parameters = kept | {ONE_OF[axis]: value for axis, value in values.items()}
        self.operational = {key: parameters[key] for key in OPERATIONAL[1:] if key in parameters}
        self.started, self.there, self.left_over = time.time(), {}, []

    @property
    def random_seed(self) -> int:
        """A seed for this part's random numbers: another for every step, class, sample, tagger and seed."""
        return random_seed(self.name)

    def upstream(self) -> dict[str, dict]:
        """{part: record} of all that this part rests on, as far as it has been read, in the steps' order."""
        base, found = outputs() / self.parameter_set, {}
        waiting = set(_owners(self.inputs))
        while waiting:
            owner = waiting.pop()
            if owner not in found and (record := read_record(base / owner)):
                found[owner] = record
                waiting |= set(_owners(record["inputs"]))
        return dict(sorted(found.items(), key=lambda item: (item[1]["step"], item[0])))

    def own(self, file: str) -> Path:
        """The path of a file of this part itself, once it is finished. Raises as `read` does."""
        return self.read(*self.name.split("/"), file)

    def checkpoint(self, irrelevant: Sequence[str] = (), code: str | None = None) -> Path:
        """Where a training of this part keeps its state: named after what it depends on, so that another
        training never resumes from it, and one that is made again for the sake of `irrelevant` parameters does.
        `code` is the digest of the source that is trained, where that may change."""
        relevant = {key: value for key, value in self.parameters.items() if key not in irrelevant} | self.inputs
        relevant |= {"code": code} if code else {}
        return self.folder / f"checkpoint-{named_after(relevant)}.safetensors"

    def begin(self) -> bool:
        """Take the folder and say whether there is something to do: False if the part is finished.

        Raises StudyError if another process is writing to the folder, or if what stands there was finished with other
        parameters, or from what has come out differently since. What was merely begun with others is begun anew:
        checkpoints are named after what they depend on.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        _lock(self.folder)
        self.started = time.time()
        record = read_record(self.folder)
        reasons = [] if record is None else _changes(record, self.parameters)
        reasons += _made_again(record or {}, lambda owner: read_record(outputs() / self.parameter_set / owner))
        if reasons:
            _unlock(self.folder)
            raise StudyError(
                f"{self.folder} was made from something else: {'; '.join(reasons)}. To make it again: "
                f"make redo PARAMS={called(self.parameter_set)}; to keep it, give the new parameter set another name"
            )
        if record is not None:
            print(f"{self}: finished before, nothing to do", flush=True)
            _unlock(self.folder)
            return False
        for unfinished in self.folder.rglob(".*.part"):  # of a process that was killed while it wrote
            unfinished.unlink()
        self.there = {path: _version(path) for path in self.folder.iterdir() if _is_output(path)}
        before = read_record(self.folder, REPLACED)
        ours = [path for path in self.there if not before or path.name in before["outputs"]]
        self.left_over = [path for path in ours if path.suffix in WRITTEN]
        write_json(self.folder / UNFINISHED, {"parameters": self.parameters})
        print(f"{self}: begins", flush=True)
        return True

    def done(self, **measured: float) -> None:
        """Write the record: from now on the part is finished. What was `measured` and differs the next time, such as
        speeds, stands among its volatile fields, where no digest chains it.

        Files that an earlier run of the part left here, and this one has not written again, are taken away: they are
        no results of these parameters. What somebody has put beside the results of a part that is made again stays;
        beside those of one that was interrupted, what has another suffix than results have.
        """
        for path in self.left_over:
            if path.exists() and not self._wrote(path):
                path.unlink()
        seconds = time.time() - self.started
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        record = {
            "step": self.notebook,
            "parameters": self.parameters,
            "inputs": dict(sorted(self.inputs.items())),
            "outputs": {path.name: digest(path) for path in sorted(self.folder.iterdir()) if self._wrote(path)},
            "random_seed": self.random_seed,
            **_ran_on(self.operational),
            **made_with(),
            "volatile": {
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
                "seconds": round(seconds, 1),
                "peak_memory_gib": round(max(own, workers) / (2**30 if sys.platform == "darwin" else 2**20), 3),
                "host": platform.node(),
                "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
                **measured,
            },
        }
        files = self.parameters.get("files", [])  # which steps after the first do not know
        if files and self.parameters["source"] not in choices.CLASSES:
            record["digests_of_files"] = [digest(Path(file)) for file in files]  # by which they are known if they move
        write_json(self.folder / RECORD, record)
        for name in (UNFINISHED, REPLACED):
            (self.folder / name).unlink(missing_ok=True)
        _unlock(self.folder)
        print(f"{self}: finished after {seconds:.0f} s", flush=True)

    def _wrote(self, path: Path) -> bool:
        return _is_output(path) and self.there.get(path) != _version(path)


class Step:
    """What a notebook does: parts to go through, and all of its parts, finished or not."""

    def __init__(self, notebook: str, parameters: Mapping[str, object]):
        axes = FAN_OUT[notebook]
        combinations = (
            dict(zip(axes, c, strict=True)) for c in itertools.product(*(parameters[axis] for axis in axes))
        )
        self.all = [Part(notebook, c, parameters) for c in combinations if not _null_again(c, parameters)]

    def parts(self) -> Iterator[Part]:
        """The parts that are still to be done, one at a time: the caller finishes each with `part.done()`."""
        for part in self.all:
            if part.begin():
                yield part


def _null_again(values: Mapping[str, object], parameters: Mapping[str, object]) -> bool:
    """Whether a part belongs to the null and to another seed than the first: one measurement of it will do."""
    null = values.get("classes") in parameters.get("classes", [])[2:] or values.get("samples") == "null"
    return null and values["seeds"] != parameters["seeds"][0]


def begin(notebook: str, namespace: Mapping[str, object]) -> Step:
    """The step of `notebook` with the parameters in `namespace` (the notebook's `globals()`).

    Raises StudyError for a parameter of the wrong type.
    """
    parameters = {
        key: _typed(notebook, key, namespace[key], default) for key, (default, _) in declared(notebook).items()
    }
    print(f"{notebook} of the parameter set {parameters['parameter_set']!r}", flush=True)
    return Step(notebook, parameters)


def line(part: Part):
    """A function that prints a line of text about `part`."""
    return lambda text: print(f"{part}: {text}", flush=True)


def progress(what: str, total: int):
    """A function to call with the number done so far: prints a line now and then, with the time that is left."""
    started = last = before = None

    def report(done: int) -> None:
        nonlocal started, last, before
        now = time.monotonic()
        if started is None:
            started, last, before = now, now, done  # some of it may have been there: it says nothing of the speed
        if now - last > PATIENCE and done > before:
            last = now
            left = (now - started) / (done - before) * (total - done)
            print(f"{what}: {done} of {total}, about {left:.0f} s left", flush=True)

    return report


def _ran_on(operational: Mapping[str, object]) -> dict[str, object]:
    """How a part was asked to run, with the device that `auto` has come to."""
    if "device" not in operational:
        return dict(operational)
    from jetstudy.training import on_device  # with torch, which parts with a device have imported

    return {**operational, "device": on_device(operational["device"])}


def _version(path: Path) -> tuple[int, int, int]:
    """Another one whenever the file has been written, in place or by renaming."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _is_output(path: Path) -> bool:
    about = path.name in (RECORD, UNFINISHED, NOTEBOOK, LOG) or path.suffix == ".html"
    return path.is_file() and not about and not path.name.startswith((".", "checkpoint"))


LOCK = ".lock"
_LOCKS: dict[Path, object] = {}  # held by this process


def _lock(part_folder: Path) -> None:
    if part_folder in _LOCKS:
        return
    file = open(part_folder / LOCK, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid = file.read().strip() or "unknown"
        file.close()
        raise StudyError(
            f"{part_folder} is being written by process {pid}, or one that it has started: wait until it ends, or stop "
            f"it (kill {pid})"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _LOCKS[part_folder] = file


def _unlock(part_folder: Path) -> None:
    if file := _LOCKS.pop(part_folder, None):
        file.close()


@contextmanager
def locked(writes_to: Path) -> Iterator[int]:
    """In here nobody else writes to a folder; StudyError, naming the process, if somebody does.

    Yields the lock's file descriptor: a child process that is given it holds the lock, too, until it ends. One that
    this process holds already it keeps.
    """
    writes_to.mkdir(parents=True, exist_ok=True)
    held = writes_to in _LOCKS
    _lock(writes_to)
    try:
        yield _LOCKS[writes_to].fileno()
    finally:
        if not held:
            _unlock(writes_to)


def made_with() -> dict[str, object]:
    """What a result was made with, for its record: versions, and the repository's revision."""
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}
    return {"versions": versions, "git": _git_revision()}


def _git_revision() -> str | None:
    """The revision of the repository, with a + if files have changed since; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


# --- where a run stands -----------------------------------------------------------------------------------------


def read_record(part_folder: Path, name: str = RECORD) -> dict | None:
    """The record of a part, None if there is none; StudyError if it cannot be read."""
    path = Path(part_folder) / name
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StudyError(f"{path}: not a record ({error})") from error
    if not isinstance(found, dict):
        raise StudyError(f"{path} is {found!r:.40}, not a record")
    return found


def note_again(part_folder: Path, names: Sequence[str]) -> None:
    """Write the digests of files that were drawn again into the record of the part that is finished in the folder."""
    record = read_record(part_folder)
    if record is None:
        return
    now = {name: digest(Path(part_folder) / name) for name in names}
    if record["outputs"] != record["outputs"] | now:
        write_json(Path(part_folder) / RECORD, record | {"outputs": dict(sorted((record["outputs"] | now).items()))})


def _changes(record: Mapping, parameters: Mapping[str, object]) -> list[str]:
    before = record["parameters"]
    if before.get("files") != parameters.get("files") and _only_moved(record, parameters.get("files", [])):
        before = before | {"files": parameters["files"]}
    keys = [*before, *(key for key in parameters if key not in before)]
    return [
        f"{key} was {before.get(key)!r}, is {parameters.get(key)!r}"
        for key in keys
        if before.get(key) != parameters.get(key)
    ]


def _only_moved(record: Mapping, files: Sequence[str]) -> bool:
    """Whether files under other names hold what was read; of those that are not here (results can be published without)
    nothing is known to the contrary."""
    known = record.get("digests_of_files", [])
    if len(known) != len(files):
        return False
    return all(not Path(file).exists() or digest(Path(file)) == was for file, was in zip(files, known, strict=True))


def _owners(files: Iterable[str]) -> list[str]:
    """The parts that files, as records name them, are of."""
    return list(dict.fromkeys(file.rpartition("/")[0] for file in files))


def _made_again(record: Mapping, recorded: Callable[[str], dict | None]) -> list[str]:
    """What a part has read and what has come out differently since, in words; `recorded` gives the record of a file's
    owner, None where there is none."""
    found = []
    for file, known in record.get("inputs", {}).items():
        owner, _, name = file.rpartition("/")
        if (recorded(owner) or {}).get("outputs", {}).get(name, known) != known:
            found.append(f"{file} has been made again since")
    return found


def parts(parameters: Mapping[str, object]) -> list[Part]:
    """All parts of all steps of a parameter set, in order."""
    own = {notebook: {key: parameters[key] for key in declared(notebook)} for notebook in FAN_OUT}
    return [part for notebook in FAN_OUT for part in Step(notebook, own[notebook]).all]


def state(parameters: Mapping[str, object], without: str | None = None) -> dict[str, tuple[str, list[str]]]:
    """{part: ("finished" | "missing" | "unfinished" | "stale", reasons)} of a parameter set, in order.

    A record is enough for "finished": which of its files are not stored here is then among the reasons. The step
    `without` counts as if it had no records, as `redo` would leave it.
    """

    def recorded(owner: str) -> dict | None:
        return None if owner.split("/")[0] == without else read_record(outputs() / parameters["parameter_set"] / owner)

    result: dict[str, tuple[str, list[str]]] = {}
    for part in parts(parameters):
        record = recorded(part.name)
        begun = read_record(part.folder, UNFINISHED) if folder(part.notebook) != without else None
        reasons = _changes(record, part.parameters) if record else []
        stale = [owner for owner in _owners((record or {}).get("inputs", {})) if result.get(owner, [""])[0] == "stale"]
        reasons += _made_again(record or {}, lambda owner, stale=stale: None if owner in stale else recorded(owner))
        if stale:
            more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
            reasons.append(f"reads what is stale: {stale[0]}{more}")
        word = "stale" if reasons else "finished" if record else "unfinished" if begun else "missing"
        if word == "unfinished" and (changes := _changes(begun, part.parameters)):
            reasons.append(f"begins anew: {'; '.join(changes)}")
        absent = [name for name in (record or {}).get("outputs", {}) if not (part.folder / name).exists()]
        if word == "finished" and absent:
            reasons.append(f"not stored here: {', '.join(absent)}")
        files = part.parameters.get("files", [])
        if word == "finished" and files != record["parameters"].get("files", []):
            if gone := [file for file in files if not Path(file).exists()]:
                reasons.append(f"taken for what was read, and not here: {', '.join(gone)}")
        result[part.name] = word, reasons
    return result


def check_step(step: str) -> None:
    """Raise StudyError for the name of a ``step`` that there is not."""
    if step not in map(folder, FAN_OUT):
        raise StudyError(f"unknown step {step!r}; there are {', '.join(map(folder, FAN_OUT))}")


def redo(parameters: Mapping[str, object], step: str | None = None) -> list[str]:
    """Take away the records of stale parts, or of all parts of `step`; return the parts concerned.

    What depends on a step stays finished, until the step has been made again and comes out differently. Data stay
    where they are until new ones replace them, and so do the checkpoints of stale parts: their names say what they
    depend on. Of a step that is asked for by name they are taken away: the code has changed, for all they know.
    """
    if step is not None:
        check_step(step)
    standing, concerned = state(parameters), []
    for part in parts(parameters):
        if standing[part.name][0] == "stale" if step is None else folder(part.notebook) == step:
            concerned.append(part.name)
            with locked(part.folder):
                if (part.folder / RECORD).exists():  # it tells results from what somebody has put beside them
                    (part.folder / RECORD).replace(part.folder / REPLACED)
                (part.folder / UNFINISHED).unlink(missing_ok=True)
                for path in part.folder.glob("checkpoint*") if step is not None else ():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return concerned
