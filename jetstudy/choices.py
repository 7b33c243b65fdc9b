"""What the parameters of a study may be: names, ranges, and what has to fit together.

A slip in a parameter set is named before anything runs, not by the notebook that stumbles over it hours later. Names of
networks, solvers and taggers stand here once more, because reading a parameter set shall not load PyTorch; a test holds
them to the modules that they are of.
"""

import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from jetstudy.jets import split
from jetstudy.sources import CLASSES, SOURCES, kind

TAGGER_NETWORKS = (
    *("transformer", "pfn", "efn", "particlenet", "part", "lorentznet", "pelican", "lgatr", "cnn", "gru", "image"),
    *(f"transformer-{blocks}" for blocks in (1, 2, 4, 8, 16)),
)
TREES = ("boosting", "forest")
NAMES = {
    "source": SOURCES,
    "jets_kept": ("leading", "all"),
    "network": ("one_hop", "transformer", "epic", "cross_attention"),
    "schedule": ("cosine", "linear"),
    "times": ("uniform", "noise", "log_normal"),
    "pairing": ("independent", "assigned"),
    "optimiser": ("muon", "adamw"),
    "solver": ("euler", "midpoint", "heun", "rk3", "rk4"),
    "device": ("auto", "cpu", "cuda"),
    "samples": ("synthetic", "source", "null"),
}
# Names, and package.module:Class of one's own.
TAGGERS = {
    "taggers": (*TAGGER_NETWORKS, *TREES),
    "judges": ("boosting", "pairs", *TAGGER_NETWORKS),
    "learners": TAGGER_NETWORKS,
    "searched": TAGGER_NETWORKS,
}
SIZES = ("small", "paper")  # of the package's own taggers
NO_NAMES = ("na", "nan", "null", "none", "true", "false", "inf", "infinity")
TRIAL = """
import sys
from jetstudy import search, taggers
from jetstudy.features import Features
name, size = sys.argv[1:]
features = Features((0.0, 0.0, -4.0), (0.1, 0.1, 1.0))
taggers.build(name, features, size)
taggers.recipe(name, steps=1, batch=2, every=1).learning_rate(0)
taggers.build(name, features, size, **search.example(taggers.find(name)))
"""

LEAST = dict.fromkeys(("threads", "width", "heads", "reads", "solver_steps", "training_steps"), 1)
LEAST |= dict.fromkeys(("training_batch", "validate_every", "judge_steps", "n_matched"), 1)
LEAST |= dict.fromkeys(("tagger_steps", "tagger_validate_every", "learning_steps", "learning_passes"), 1)
LEAST |= dict.fromkeys(("search_trials", "search_steps"), 1)
LEAST |= dict.fromkeys(("jets_seed", "seeds", "layers", "posterior_jets", "fresh_jets", "residual_steps"), 0)
LEAST |= dict.fromkeys(("smearing", "stretch", "edge", "tagger_rate", "tagger_patience"), 0)
LEAST |= {"n_max": 2}  # whether a tagger sees N is tried on jets of half as many
LEAST |= {"n_jets": 200}  # a tenth of them on either side of a judge's contest, which takes 20
LEAST |= {"n_synthetic": 80}  # a fifth of them, of both classes: figures of merit take 30 jets
LEAST |= {"acceptance_jets": 100}  # three in ten of them set the caps
LEAST |= {"tagger_batch": 4}  # half of it is one of a search's choices, and of one jet there is no spread
LEAST |= {"checked": 2, "n_scored": 2, "bootstrap": 20}  # of one alone there is no spread, of few resamples a rough one
POSITIVE = ("solver_power", "training_rate", "accepted")


def check(values: Mapping[str, object]) -> None:
    """Raise ValueError, naming key and value, for the first of the parameters' ``values`` that cannot be."""
    # One after another: what has to fit together may take for granted that names and ranges are right.
    rules = (_names, _ranges, _classes, _surrogates, _learning)
    if complaint := next(chain.from_iterable(rule(values) for rule in rules), None):
        raise ValueError(complaint)


def check_machine(values: Mapping[str, object]) -> None:
    """Raise ValueError, naming key and value, for a file or a GPU that is not here and a tagger of one's own that is
    not to be found or does not work.
    """
    if values["device"] == "cuda" and not _has_gpu():
        raise ValueError("device is 'cuda': PyTorch finds no GPU here; auto takes one where there is one")
    for file in [] if values["source"] in CLASSES else values["files"]:
        if not Path(file).exists():
            raise ValueError(f"files has {file!r}: no such file")
    sizes = {"taggers": values["tagger_size"], "searched": values["tagger_size"]}
    sizes |= {"learners": values["learning_size"], "learning_larger": "paper", "judges": "small"}
    for key, size in sizes.items():
        for name in values[key]:
            if ":" in name and (complaint := _of_trial(name, size)):
                raise ValueError(f"{key} has {name!r}: {complaint}")


def _items(value: object) -> list:
    return value if isinstance(value, list) else [value]


def _names(values: Mapping[str, object]) -> Iterator[str]:
    for key, known in NAMES.items():
        for name in _items(values[key]):
            if name not in known:
                yield f"{key} is {name!r}: expected one of {', '.join(known)}"
    for key, known in TAGGERS.items():
        for name in values[key]:
            if ":" not in name and kind(name) not in known:
                what = "trees, which take no steps" if kind(name) in TREES and key != "judges" else "unknown"
                yield f"{key} has {name!r}: {what}; expected package.module:Class or one of {', '.join(known)}"
    for key, of in (("tagger_size", ("taggers", "searched")), ("learning_size", ("learners",))):
        own = [":" in name for names in of for name in values[names]]  # a class of one's own has sizes of its own
        if values[key] not in SIZES and not (own and all(own)):
            yield f"{key} is {values[key]!r}: expected one of {', '.join(SIZES)}"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _of_trial(name: str, size: str) -> str:
    """What is wrong with a tagger of one's own; nothing if it can be built as a notebook will, from another folder, and
    if its recipe and what is searched of its settings can be read."""
    with tempfile.TemporaryDirectory() as elsewhere:
        command = [sys.executable, "-c", TRIAL, name, size]
        tried = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    if tried.returncode == 0:
        return ""
    lines = tried.stderr.strip().splitlines() or [f"its process ended with {tried.returncode}"]
    last, where = lines[-1], [line.strip() for line in lines if line.lstrip().startswith('File "')]
    if last.startswith(("SyntaxError", "IndentationError")):
        return f"{last} in {where[-1].removeprefix('File ')}"
    return last.partition(": ")[2].removeprefix(f"tagger {name!r}: ") or last


def _ranges(values: Mapping[str, object]) -> Iterator[str]:
    for key, value in values.items():
        for number in _items(value):
            if isinstance(number, float) and not math.isfinite(number):
                yield f"{key} is {number}: expected a finite number"
    for key, least in LEAST.items():
        for value in _items(values[key]):
            if value < least:
                yield f"{key} is {value}: expected {least} or more"
    for key in POSITIVE:
        if values[key] <= 0:
            yield f"{key} is {values[key]}: expected more than 0"
    if values["accepted"] > 1:
        yield f"accepted is {values['accepted']}: expected a share, 1 at most"
    for key in ("judges", "resample_times"):
        if not values[key]:
            yield f"{key} is empty: expected one or more"
    for time in values["resample_times"]:
        if not 0 < time <= 1:
            yield f"resample_times has {time}: expected times in (0, 1]"


def _classes(values: Mapping[str, object]) -> Iterator[str]:
    """Classes are folders, files and arguments of commands; the last two of four are the null, and a null."""
    classes, samples, files = values["classes"], values["samples"], values["files"]
    for name in classes:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.+-]*", name):
            yield f"classes has {name!r}: expected a letter first, then letters, digits and _ . + -"
        if name.lower() in NO_NAMES:
            yield f"classes has {name!r}: tables would be read with a missing value or a number in its place"
    if len(classes) not in (2, 4):
        yield (
            f"classes is {classes!r}: two classes are needed, background and signal, and for the null (row 7 "
            "of the certificate) two samples of one kind behind them, such as 'top.1' and 'top.2'"
        )
    elif len(classes) == 4 and kind(classes[2]) != kind(classes[3]):
        yield (
            f"classes is {classes!r}: the last two are the null, samples of one kind such as 'top.1' and "
            f"'top.2', not {classes[2]!r} and {classes[3]!r}"
        )
    if "null" in samples and len(classes) == 2:
        yield (
            f"samples is {samples!r}: 'null' needs two samples of one kind behind {classes!r} in classes, "
            f"such as '{classes[1]}.1' and '{classes[1]}.2'"
        )
    kinds = list(dict.fromkeys(map(kind, classes)))
    known = CLASSES.get(values["source"], kinds)
    for name in kinds:
        if name not in known:
            yield f"classes has {name!r}, of which {values['source']} knows nothing: expected {', '.join(known)}"
    if values["source"] == "file" and len(files) not in (1, len(kinds)):
        yield f"files is {files!r}: expected one path for each of {', '.join(kinds)}, or one with a data set `label`"


def _surrogates(values: Mapping[str, object]) -> Iterator[str]:
    network, divergence = values["network"], values["divergence"]
    if not re.fullmatch(r"own_path|jacobian|hutchinson-[1-9]\d*", divergence):
        yield f"divergence is {divergence!r}: expected own_path, jacobian or hutchinson-K with K probes"
    if divergence == "own_path" and network != "one_hop":
        yield f"divergence is own_path, which network = {network} does not have: take jacobian, or network = one_hop"
    if values["width"] % values["heads"]:
        yield f"width is {values['width']}: expected a multiple of heads, {values['heads']}"
    for key in ("stretch", "edge", "smearing") if values["source"] == "toy" else ():
        if values[key]:
            yield f"{key} is {values[key]}: expected 0 for the toy, whose density is known as it is, in plain features"
    if values["source"] == "toy" and values["pairing"] != "independent":
        yield f"pairing is {values['pairing']}: expected independent for the toy, whose velocity is known for it alone"
    if values["source"] == "toy" and values["jets_kept"] != "all":
        yield f"jets_kept is {values['jets_kept']}: expected all for the toy, whose density is that of all its jets"


def _learning(values: Mapping[str, object]) -> Iterator[str]:
    """Whether the synthetic jets suffice for the trainings of notebook 07, and these are of networks that are there."""
    most = 2 * len(split(values["n_synthetic"], "train"))
    asked = [("learning_jets", n) for n in values["learning_jets"]] if values["learners"] else []
    asked += [("posterior_jets", values["posterior_jets"])] if values["posterior_jets"] else []
    for key, n in asked:
        least = 30 if key == "posterior_jets" else 2  # their own figures of merit are taken
        if n < least or n % 2 or n > most:
            yield (
                f"{key} has {n}: expected an even number from {least} to {most}, the training jets of both classes "
                f"among n_synthetic = {values['n_synthetic']} a class"
            )
    if values["learners"] and not values["learning_jets"]:
        yield f"learning_jets is empty, but there are learners: {values['learners']!r}"
    if values["fresh_jets"] % 2 or 0 < values["fresh_jets"] < values["tagger_batch"]:
        yield (
            f"fresh_jets is {values['fresh_jets']}: expected 0, or an even number of at least tagger_batch, "
            f"{values['tagger_batch']}"
        )
    larger = values["learning_larger"] if values["learners"] else []
    for name in larger:
        if name not in (kinds := sorted(set(map(kind, values["learners"])))):
            yield f"learning_larger has {name!r}: expected some of the learners' kinds, {', '.join(kinds)}"
    if larger and values["learning_size"] == "paper":
        yield f"learning_larger is {larger!r}: expected [], since learning_size is 'paper' already"
    short = values["fresh_jets"] // values["tagger_batch"] if values["learners"] else 0
    if short >= values["learning_steps"]:
        steps = values["learning_steps"]
        yield f"learning_steps is {steps}: expected more than the {short} that fresh_jets suffice for"
