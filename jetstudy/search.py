"""Search for a tagger's settings with Optuna: the tree-structured Parzen estimator (Bergstra et al. 2011), resumable.

Trials are kept in a journal, a text file of one JSON object a line. A trial that was interrupted counts for nothing
and is run again: its sampler is seeded by how many trials were finished before, so it gets the same settings.
"""

import inspect
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from jetstudy.files import replacing

with warnings.catch_warnings():  # in a notebook, its progress bars miss a package that nobody needs
    warnings.filterwarnings("ignore", "IProgress not found")
    import optuna

Space = Mapping[str, tuple[float, float] | Sequence]

RECIPE = ("rate", "weight_decay", "batch")  # searched for every tagger; all else is a setting of its class
FINISHED = {optuna.trial.TrialState.COMPLETE: "complete", optuna.trial.TrialState.PRUNED: "diverged"}


def space(tagger_class: type, batch: int) -> Space:
    """What is searched: {name: (low, high) on a log scale, or a list of choices}.

    Learning rate, weight decay and batch (around ``batch``) for every tagger, and what its class names as ``space``.
    """
    own = getattr(tagger_class, "space", {})
    return {"rate": (2e-4, 2e-2), "weight_decay": (1e-5, 1e-1), "batch": [batch // 2, batch, 2 * batch]} | own


def example(tagger_class: type) -> dict[str, object]:
    """Settings that a search may try: of what the class names as ``space``, the middle of each range and each first
    choice. ValueError, naming the setting, for what is no space.
    """
    own = {name: domain for name, domain in space(tagger_class, 2).items() if name not in RECIPE}
    for name, domain in own.items():
        _distribution(name, domain)
    return {
        name: math.sqrt(math.prod(domain)) if isinstance(domain, tuple) else domain[0] for name, domain in own.items()
    }


def search(
    objective: Callable[[dict[str, object], int], float],
    space: Space,
    n_trials: int,
    seed: int,
    journal: Path,
    progress: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Minimise ``objective(settings, trial)`` in ``n_trials``, numbered from 1, those in the ``journal`` included.

    Returns a row a trial: trial, state (complete or diverged), loss, and a column for each of the settings. A trial
    that raises FloatingPointError, or has a loss that is not finite, has diverged: its loss is NaN, and the search
    goes on. Raises ValueError for a space that is no space.
    """
    domains = {name: _distribution(name, domain) for name, domain in space.items()}
    _without_half_a_line(journal)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name="search", load_if_exists=True)
    for interrupted in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(interrupted.number, state=optuna.trial.TrialState.FAIL)
    while (done := len(_finished(study))) < n_trials:
        study.sampler = optuna.samplers.TPESampler(seed=(seed + done) % 2**32)
        trial = study.ask(domains)
        settings = _settings(trial.params, space)
        try:
            loss = objective(settings, done + 1)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss}")
        except FloatingPointError as error:
            progress(f"trial {done + 1} of {n_trials}: {_text(settings)}: {error}")
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            progress(f"trial {done + 1} of {n_trials}: {_text(settings)}: {loss:.5f}")
            study.tell(trial, loss)
    rows = [
        {"trial": k, "state": FINISHED[trial.state], "loss": trial.value} | _settings(trial.params, space)
        for k, trial in enumerate(_finished(study)[:n_trials], start=1)
    ]
    if rows and all(row["loss"] is None for row in rows):
        raise FloatingPointError(f"all {n_trials} trials diverged: narrow the ranges of the search")
    return pd.DataFrame(rows).astype({"loss": float})


def ranges(space: Space) -> list[str]:
    """Names of what is searched in a range; all else are choices."""
    return [name for name, domain in space.items() if isinstance(domain, tuple)]


def defaults(tagger_class: type) -> dict[str, object]:
    """Settings of a class that its ``__init__`` has a default of, for one that names no ``sizes``."""
    known = inspect.signature(tagger_class).parameters.items()
    return {name: setting.default for name, setting in known if setting.default is not setting.empty}


def parted(settings: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Settings of the training (`RECIPE`), as far as they are given, and those of the tagger's class."""
    own = {name: value for name, value in settings.items() if name not in RECIPE}
    return {name: settings[name] for name in RECIPE if name in settings}, own


def best(trials: pd.DataFrame) -> dict[str, object]:
    """The trial of the smallest loss: its number, state, loss and settings."""
    return trials.loc[trials["loss"].idxmin()].to_dict()


def with_default(trials: pd.DataFrame, loss: float, settings: Mapping[str, object], space: Space) -> pd.DataFrame:
    """The ``trials`` behind a row of the default ``settings``: trial 0, which is no part of the search. What the space
    has and they do not know is empty."""
    first = {"trial": 0, "state": "default", "loss": loss} | {name: settings.get(name) for name in space}
    return pd.concat([pd.DataFrame([first]), trials], ignore_index=True)


def _without_half_a_line(journal: Path) -> None:
    """Take off what a full disk has left of a line, which Optuna cannot read."""
    if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        with replacing(journal) as unfinished:
            unfinished.write_bytes(content[: content.rfind(b"\n") + 1])


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=tuple(FINISHED))


def _distribution(name: str, domain) -> optuna.distributions.BaseDistribution:
    """Optuna's word for a domain; choices go in as JSON text, for it takes no lists."""
    if isinstance(domain, tuple):
        low, high = domain
        if not 0 < low < high:
            raise ValueError(f"{name}: {domain} is no range of positive numbers")
        return optuna.distributions.FloatDistribution(low, high, log=True)
    if not domain:
        raise ValueError(f"{name}: no choices")
    return optuna.distributions.CategoricalDistribution([json.dumps(choice) for choice in domain])


def _settings(params: Mapping[str, object], space: Space) -> dict[str, object]:
    return {name: params[name] if isinstance(space[name], tuple) else json.loads(params[name]) for name in space}


def _text(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {v:.2g}" if isinstance(v, float) else f"{name} {v}" for name, v in settings.items())
