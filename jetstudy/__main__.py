"""The study from the command line: `python -m jetstudy run quick --cores 2`, and what the Makefile calls besides.

run      check the parameter set and what stands of it, make what is missing, print where the report is
plan     say what is finished, missing and stale
redo     make stale parts again, or those of --step and, where these come out differently, what depends on them
report   write the report again from the tables and figures that are there
figures  draw all saved figures again, from their tables, and write the report
score    log p of a file's jets under the set's surrogates
dataset  synthetic jets with a known best tagger, for people who build taggers elsewhere
clean    remove a parameter set's outputs, except files under version control and notebooks of `lab`
lab      copies of the notebooks with the set's parameters, opened in JupyterLab
step     one notebook, for the given parts: what the Snakefile calls
"""

import argparse
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from jetstudy import choices, study
from jetstudy.files import read_json
from jetstudy.sources import kind
from jetstudy.study import ROOT, StudyError

REPORT = next(notebook for notebook in study.FAN_OUT if study.folder(notebook) == "report")
FAILED = 1  # a step failed
INTERRUPT = signal.default_int_handler  # raises KeyboardInterrupt
HAND = "hand"  # the folder of a set's notebooks that somebody steps through
STARTS = 3  # of a notebook's kernel at the most
FALSIFIED = 3  # the study ran to its end and its certificate has a row that fails
# Read by libraries when a process starts, this one's or a notebook's kernel: docs/decisions.md.
ENVIRONMENT = {
    "GOMP_SPINCOUNT": "1000",  # that a thread of PyTorch's waits busily for the others
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # bytes at a time up to which memory that was freed is used again
    "MALLOC_TRIM_THRESHOLD_": str(2**30),  # bytes in all
}
STALE_SHOWN = 8  # parts at the most that a refusal names: the steps' order puts the cause before what rests on it


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 if all is well, 1 to 3 if not, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="python -m jetstudy", formatter_class=argparse.RawTextHelpFormatter)
    parser.description = __doc__
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "plan", "redo", "report", "figures", "score", "dataset", "clean", "lab", "step"):
        command = commands.add_parser(name)
        command.add_argument("params", help="name of a set in params/, or the path of a YAML file")
        if name in ("run", "redo", "figures"):
            command.add_argument("--cores", type=_positive, default=os.cpu_count())
        if name == "redo":
            command.add_argument("--step", help="for example likelihoods")
        if name == "score":
            command.add_argument("file", help="jets, HDF5 in JetNet's layout")
            command.add_argument("--out", help="where to write the scores, HDF5")
        if name == "dataset":
            command.add_argument("n", type=int, help="jets per class, a multiple of ten")
            command.add_argument("--out", help="the folder to write to")
        if name in ("score", "dataset"):
            command.add_argument("--seed", type=int, help="of the surrogates")
        if name == "step":
            command.add_argument("notebook", choices=list(study.FAN_OUT))
            command.add_argument("--threads", type=_positive)
            for axis in study.ONE_OF:
                command.add_argument(f"--{axis}")
    chosen = vars(parser.parse_args(arguments))
    # Absolute: steps and kernels run in folders of their own.
    os.environ["JETSTUDY_OUTPUTS"] = str(study.outputs())
    # This repository first: an environment that several of them share has another one's code.
    own = [str(Path(place).absolute()) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT), *own]))
    # A shell does not expand what the Makefile quotes.
    chosen |= {key: os.path.expanduser(chosen[key]) for key in ("params", "file", "out") if chosen.get(key)}
    command, params = chosen.pop("command"), chosen.pop("params")
    os.environ["JETSTUDY_PARAMS"] = str(Path(params).absolute()) if params.endswith((".yaml", ".yml")) else params
    try:
        code = globals()[command](params, **chosen)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # of `plan | head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if command == "plan" else 2  # of a run it would hide the verdict
    except (StudyError, OSError) as error:  # an OSError names its file
        print(f"jetstudy: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        again = f"; to go on: make study PARAMS={shlex.quote(params)}" if command in ("run", "redo", "step") else ""
        again = "; the same command goes on from there" if command in ("score", "dataset") else again
        print(f"\njetstudy: {command} was interrupted{again}", file=sys.stderr, flush=True)
        return 130


def _positive(text: str) -> int:
    """A number of cores; Snakemake would wait for ever for none."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 1 or more")
    return int(text)


def run(params: str, cores: int) -> int:
    parameters = study.load(params)
    _refuse_stale(params, parameters)
    started = time.time()
    if code := _make(params, parameters, cores):
        return code
    _refuse_stale(params, parameters)
    page = study.outputs() / parameters["parameter_set"] / "report" / "report.html"
    if not page.exists():  # the notebooks were gone through by hand
        return report(params)
    print(f"\n{parameters['parameter_set']}: everything is there ({time.time() - started:.0f} s)", flush=True)
    return _verdict(parameters)


def _make(params: str, parameters: dict, cores: int) -> int:
    """Run all parts that have no record, also those that later parts with a record rest on."""
    missing = [part for part in study.parts(parameters) if study.read_record(part.folder) is None]
    if not missing:
        return 0
    _check_machine(params, parameters, missing)
    folder = study.outputs() / parameters["parameter_set"]
    snakemake = [sys.executable, "-m", "snakemake", *(f"{part}/{study.RECORD}" for part in missing)]
    files = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    # Records decide what is finished, not file times: a fresh clone's say nothing. Each part locks its own folder.
    options = ["--cores", str(cores), "--rerun-triggers", "mtime", "--nolock", "--keep-going", "--quiet", "all"]
    options += ["--ignore-incomplete"]  # a record is whole, whatever became of the run that waited for it
    with study.locked(folder) as lock:  # a second run would meet the first one part by part, also if this one is killed
        code = _ended([*snakemake, *files, *options], lock)
    if code != 0:
        # With --quiet, Snakemake does not even say why it could not plan the run; a dry run does.
        dry = [*snakemake, *files, "--dry-run"]
        planned = subprocess.run(dry, capture_output=True, text=True)
        if planned.returncode != 0:
            print(planned.stdout, planned.stderr, sep="", file=sys.stderr)
        again = f"make study PARAMS={shlex.quote(params)}"
        print(f"jetstudy: stopped; finished parts are kept. To go on: {again}", file=sys.stderr)
        return FAILED
    return 0


def _ended(command: list[str], lock: int) -> int:
    """The exit code of a command that starts others and holds a lock with them. Interrupting this process interrupts
    them all, and it goes on when they have ended.
    """
    interrupted, asked = False, []

    def listen():  # shells make what runs in the background ignore an interruption
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    # An interruption while the command is being started would leave it running: it waits until then.
    heard = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is INTERRUPT]
    handlers = {n: signal.signal(n, lambda number, frame: asked.append(number)) for n in heard}
    with subprocess.Popen(command, pass_fds=[lock], process_group=0, preexec_fn=listen) as running:
        while running.returncode is None:
            try:
                while handlers:
                    signal.signal(*handlers.popitem())
                if asked:
                    asked.clear()
                    raise KeyboardInterrupt
                running.wait()
            except KeyboardInterrupt:
                interrupted = True
                with suppress(ProcessLookupError):  # it has just ended
                    os.killpg(running.pid, signal.SIGINT)
    if interrupted:
        raise KeyboardInterrupt
    return running.returncode


def report(params: str) -> int:
    parameters = study.load(params)
    _refuse_stale(params, parameters, "report")
    study.redo(parameters, "report")
    code = step(params, REPORT)
    return code or _verdict(parameters)


def figures(params: str, cores: int) -> int:
    from jetstudy.report import redraw_all

    parameters = study.load(params)
    _refuse_stale(params, parameters, "report")
    folder = study.outputs() / parameters["parameter_set"]
    with study.locked(folder):
        redraw_all(folder, cores)
        return report(params)


def score(params: str, file: str, seed: int | None = None, out: str | None = None) -> int:
    from jetstudy.score import file as score_file

    name = _trained(params)
    try:
        score_file(file, out or study.outputs() / name / "scores" / f"{Path(file).stem}.h5", name, seed)
    except (OSError, KeyError, ValueError) as error:  # what is wrong with the file, in words
        raise StudyError(error.args[0] if isinstance(error, KeyError) else str(error)) from error
    return 0


def dataset(params: str, n: int, seed: int | None = None, out: str | None = None) -> int:
    from jetstudy.dataset import write

    name = _trained(params)
    write(Path(out) if out else study.outputs() / name / "dataset", name, n, seed)
    return 0


def _trained(params: str) -> str:
    """The name of a set whose surrogates are used, with a word on those that its file does not describe any more."""
    parameters = study.load(params)
    used = ("jets", *(f"surrogates/{label}/" for label in parameters["classes"][:2]))
    with suppress(StudyError):  # of a record that is damaged: those that are used say so themselves
        for part, (word, reasons) in study.state(parameters).items():
            if word == "stale" and part.startswith(used):
                said = f"{part} was made with other parameters than {params} has now: {'; '.join(reasons)}"
                print(f"jetstudy: {said}", file=sys.stderr, flush=True)
    return parameters["parameter_set"]


def redo(params: str, cores: int, step: str | None = None) -> int:
    parameters = study.load(params)
    # Before anything is taken away.
    if step is not None:
        study.check_step(step)
        _refuse_stale(params, parameters, step)
    standing = study.state(parameters)
    again = [
        part
        for part in study.parts(parameters)
        if standing[part.name][0] != "finished" or study.folder(part.notebook) == step
    ]
    _check_machine(params, parameters, again)
    with study.locked(study.outputs() / parameters["parameter_set"]):  # before a run that is going on loses its records
        concerned = study.redo(parameters, step)
        print("redo: " + (", ".join(concerned) or "nothing is stale"), flush=True)
        if step is not None:
            if code := _make(params, parameters, cores):
                return code
            concerned = study.redo(parameters)
            words = "came out differently: " + ", ".join(concerned) if concerned else "all as before"
            print(f"redo: {words}", flush=True)
        return run(params, cores)


def plan(params: str) -> int:
    parameters = study.load(params)
    print(f"parameter set {parameters['parameter_set']} in {study.outputs() / parameters['parameter_set']}")
    for part, (word, reasons) in study.state(parameters).items():
        print(f"  {word:10} {part}" + "".join(f"\n{'':13}{reason}" for reason in reasons))
    return 0


def clean(params: str) -> int:
    folder = (study.outputs() / study.load(params)["parameter_set"]).resolve()
    removed, by_hand = 0, folder / HAND
    with ExitStack() as nobody_writes:
        nobody_writes.enter_context(study.locked(folder))
        for lock in sorted(folder.rglob(".lock")):  # parts that are jobs of their own lock their folders alone
            nobody_writes.enter_context(study.locked(lock.parent))
        keep = _under_version_control(folder)
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_relative_to(by_hand):
                continue
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in keep:
                path.unlink()
                removed += path.name != study.LOCK  # it may have been made right now
    print(f"{folder}: {removed} files removed, {len(keep)} under version control kept")
    if by_hand.exists():
        print(f"{by_hand}: your notebooks are kept; remove them yourself")
    return 0


def _under_version_control(folder: Path) -> set[Path]:
    """The files that git tracks in a folder; StudyError if it is in a repository and git does not say, or if published
    results lie in a copy of this repository without git, where nothing is tracked.
    """
    if not folder.is_relative_to(ROOT) and not any((place / ".git").exists() for place in folder.parents):
        return set()
    tracked = subprocess.run(["git", "-C", str(folder), "ls-files", "-z"], capture_output=True, text=True)
    found = {folder / name for name in tracked.stdout.split("\0") if name}
    ours, ignore = folder.is_relative_to(ROOT), ROOT / ".gitignore"
    published = ours and (not ignore.exists() or f"!outputs/{folder.name}/" in ignore.read_text())
    if (tracked.returncode != 0 and not ours) or (published and not found):
        why = tracked.stderr.strip() or "it tracks no file of these published results"
        raise StudyError(f"{folder}: nothing removed: git does not say what it tracks there: {why}")
    return found


def lab(params: str) -> int:
    from papermill import execute_notebook

    parameters = study.load(params)
    folder = study.outputs() / parameters["parameter_set"] / HAND
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in study.FAN_OUT:
        copy = folder / f"{notebook}.ipynb"
        if not copy.exists():  # what the user wrote into it stays
            own = {key: parameters[key] for key in study.declared(notebook)}
            execute_notebook(_source(notebook), str(copy), own, prepare_only=True, progress_bar=False)
    return subprocess.run([sys.executable, "-m", "jupyter", "lab", str(folder)]).returncode


def step(params: str, notebook: str, threads: int | None = None, **chosen: str | None) -> int:
    """Execute a notebook for some of its parts; its output goes to the terminal and to each part's log."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    parameters = study.load(params)
    own, part = _chosen(params, parameters, notebook, chosen)
    if threads is not None and "threads" in own:
        own["threads"] = threads
    part.folder.mkdir(parents=True, exist_ok=True)
    started = time.time()
    _log_to(part)
    try:
        _execute(notebook, own, part.folder)
    except (PapermillExecutionError, DeadKernelError) as error:
        if isinstance(error, DeadKernelError):
            _log.error("FAILED: the notebook's kernel died; was there too little memory?")
        else:
            _log.error(f"FAILED in cell {error.exec_count}: {error.ename}: {error.evalue}")
        _log.error(f"the notebook as far as it came: {part.folder / study.NOTEBOOK}")
        _log.error(f"to go on from there: make study PARAMS={shlex.quote(params)}")
        return FAILED
    if study.read_record(part.folder) is None:
        _log.error("FAILED: the notebook ended without a record")
        return FAILED
    _render(part)
    _log.info(f"notebook done after {time.time() - started:.0f} s")
    return 0


def _chosen(params: str, parameters: dict, notebook: str, chosen: dict[str, str | None]) -> tuple[dict, study.Part]:
    """The notebook's parameters, its lists cut down to what is `chosen`, and the first of the parts that these are of.

    StudyError for what the set does not have.
    """
    own = {key: parameters[key] for key in study.declared(notebook)}
    for axis, name in chosen.items():
        if name is not None:
            own[axis] = [_of_the_set(parameters, notebook, axis, name)]
    parts = study.Step(notebook, own).all
    if not parts:
        empty = next(axis for axis in study.FAN_OUT[notebook] if not own[axis])
        raise StudyError(f"{notebook} has nothing to do: {empty} is an empty list in {params}")
    names = {part.name for part in study.parts(parameters)}  # a null has the first seed only
    if unknown := [part.name for part in parts if part.name not in names]:
        raise StudyError(f"{', '.join(unknown)}: no part of {params}")
    return own, parts[0]


def _render(part: study.Part) -> None:
    """A page from the part's executed notebook; with the report's, the index of all sets."""
    from jetstudy.pages import render

    title = f"jetstudy {part.parameter_set}: {part}"
    if part.notebook == REPORT:
        from jetstudy.report import overview

        hidden = ("parameters", "injected-parameters", "setup")  # the answer comes first
        render(part.folder / study.NOTEBOOK, part.folder / "report.html", title, hidden)
        overview(study.outputs())
        return
    try:
        render(part.folder / study.NOTEBOOK, part.folder / "notebook.html", title)
    except Exception as error:  # whatever it is: Snakemake would take the record away, and the results are whole
        _log.warning(f"no page of the notebook: {error}")


def _of_the_set(parameters: dict, notebook: str, axis: str, name: str) -> object:
    """The value of that name in one of the set's lists; StudyError if there is none, or for a list of other steps'."""
    if axis not in study.FAN_OUT[notebook]:
        raise StudyError(f"--{axis}: {notebook} is not done in parts of these")
    known = {str(value): value for value in parameters[axis]}
    if name not in known:
        raise StudyError(f"--{axis} {name}: the set has {', '.join(known) or 'none'}")
    return known[name]


def _execute(notebook: str, parameters: dict, folder: Path) -> None:
    """Run a notebook in a folder. Kernels choose their ports by themselves, so of two that start at the same moment
    one may find its port taken and never answer: it has done nothing yet, and another one is started."""
    from papermill import execute_notebook

    for start in range(1, STARTS + 1):
        try:
            execute_notebook(
                _source(notebook),
                str(folder / study.NOTEBOOK),
                parameters,
                cwd=str(folder),
                log_output=True,
                progress_bar=False,
                kernel_name="python3",
                extra_arguments=["--log-level=CRITICAL"],
            )
            return
        except RuntimeError as error:
            if start == STARTS or "Kernel didn't respond" not in str(error):
                raise
            _log.info(f"{error}; starting another one")


_log = logging.getLogger("papermill")  # what papermill passes the notebooks' output to
_NOISE = re.compile(r"\s*$|(Executing|Ending) [Cn]|Working directory|(Input|Output) Notebook|<IPython\.core")


class _Lines(logging.Formatter):
    """Time and part before every line of a message."""

    def __init__(self, part: str):
        super().__init__()
        self.part = part

    def format(self, record: logging.LogRecord) -> str:
        start = f"{time.strftime('%H:%M:%S')} {self.part}: "
        lines = record.getMessage().strip("\n").split("\n")
        return "\n".join(start + line.removeprefix(f"{self.part}: ").removeprefix(f"{self.part}, ") for line in lines)


def _log_to(part: study.Part) -> None:
    """Papermill's lines, each with the part's name, to the terminal and to the part's log file."""
    _log.setLevel(logging.INFO)
    _log.propagate = False
    for handler in (logging.StreamHandler(sys.stdout), logging.FileHandler(part.folder / study.LOG)):
        handler.setFormatter(_Lines(str(part)))
        handler.addFilter(lambda record: not _NOISE.match(record.getMessage()))
        _log.addHandler(handler)


def _source(notebook: str) -> str:
    return str(ROOT / "notebooks" / f"{notebook}.ipynb")


def _refuse_stale(params: str, parameters: dict, without: str | None = None) -> None:
    stale = {part: reasons for part, (word, reasons) in study.state(parameters, without).items() if word == "stale"}
    if stale:
        lines = "".join(f"\n  {part}: {'; '.join(reasons)}" for part, reasons in list(stale.items())[:STALE_SHOWN])
        if len(stale) > STALE_SHOWN:
            lines += f"\n  and {len(stale) - STALE_SHOWN} more: make plan PARAMS={shlex.quote(params)}"
        raise StudyError(
            f"{study.outputs() / parameters['parameter_set']} no longer matches its parameters:{lines}\n"
            f"To make these parts again: make redo PARAMS={shlex.quote(params)}\n"
            "To keep them: put the new parameters into a file of another name"
        )


def _check_machine(params: str, parameters: dict, parts: list[study.Part]) -> None:
    """StudyError if something is not here that these parts need."""
    values, steps = dict(parameters), {part.notebook for part in parts}
    for key, step in {"fresh_jets": "03_synthetic_jets", "posterior_jets": "04_likelihoods"}.items():
        if step in steps and values[key] and not values["learners"]:
            unread = f"{key} is {values[key]}: expected 0, since learners, the only ones to see them, is an empty list"
            raise StudyError(f"{params}: {unread}")
    for key, step in {"files": "01_jets", "judges": "03_synthetic_jets"}.items():
        values[key] = values[key] if step in steps else []
    for key, step in {"taggers": "05_taggers", "learners": "07_learning", "searched": "08_search"}.items():
        names = {getattr(part, study.ONE_OF[key]) for part in parts if part.notebook == step}
        values[key] = [name for name in values[key] if name in names]
    values["learning_larger"] = [name for name in values["learning_larger"] if name in map(kind, values["learners"])]
    if not any("device" in part.operational for part in parts):
        values["device"] = "auto"
    try:
        choices.check_machine(values)
    except ValueError as error:
        raise StudyError(f"{params}: {error}") from error


def _verdict(parameters: dict) -> int:
    """Print where the report is; an exit code that says whether a certificate of the set's seeds has a failing row."""
    folder = study.outputs() / parameters["parameter_set"]
    paths = [folder / "limit" / str(seed) / "certificate.json" for seed in parameters["seeds"]]
    rows = [row for path in paths for row in read_json(path)]
    failed = [row for row in rows if row["verdict"] == "fail"]
    words = [row["verdict"] for row in rows]
    print("certificate: " + ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)))
    for row in failed:
        print(f"  FAIL {row['row']}: {row['property']} = {row['value']} (criterion {row['criterion']})")
    print(f"report: {folder / 'report' / 'report.html'}", flush=True)
    index = folder.parent / "index.html"
    if not index.exists():  # the report was published, not written here
        from jetstudy.report import overview

        with suppress(OSError):  # nor can anything be, maybe
            overview(folder.parent)
    if index.exists():
        print(f"all parameter sets: {index}", flush=True)
    return FALSIFIED if failed else 0


if __name__ == "__main__":
    if not os.environ.keys() >= ENVIRONMENT.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], ENVIRONMENT | os.environ)
    # `kill` and a terminal that is closed are interruptions as Ctrl-C is, the latter if nobody said otherwise (nohup).
    signal.signal(signal.SIGTERM, INTERRUPT)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, INTERRUPT)
    sys.exit(main())
