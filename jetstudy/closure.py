"""Closure: on the toy, whose density is known, the surrogates' likelihood ratio beside the true one.

Two kinds of jets: those of the source (the toy's own), on which the true ratio is the limit, and synthetic ones, on
which the surrogates' is. `exact` is the true log p (n, 2) of the source's jets under [background, signal] (`truth`); a
tagger is tested on jets like those that it was trained on.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import torch

from jetstudy import diffusion, limit
from jetstudy.jets import Jets
from jetstudy.limit import LIMIT, SURROGATES, Scored, log_ratio
from jetstudy.names import called
from jetstudy.schedules import SCHEDULES
from jetstudy.sources import toy
from jetstudy.surrogate import Surrogate, score

TRUTH = "the true LLR"
LOG_PROB = "median |log p - true log p|, nats"
TIMES = np.linspace(0.02, 0.98, 13)  # at which velocities are compared


def truth(jets: Jets, labels: Sequence[str]) -> np.ndarray:
    """The toy's true log p (n, classes) of jets under each of its classes."""
    return np.stack([toy.log_prob(jets, label) for label in labels], axis=1)


def closed_form(models: Sequence[Surrogate], jets: Jets, schedule: str) -> np.ndarray:
    """log p (n, models) of jets by the surrogates' solver with the toy's own p(N) and velocity in place of theirs.

    Of the flow alone: what an acceptance leaves out of its jets is no part of the truth.
    """
    exact = [
        replace(
            model,
            velocity=toy.ToyVelocity(model.label, model.features, SCHEDULES[schedule]),
            p_count=toy.p_count(model.label, jets.n_max),
            divergence="own_path",
            acceptance=None,
            dtype=torch.float64,
            device="cpu",
        )
        for model in models
    ]
    return score(exact, jets)


def velocity_error(model: Surrogate, jets: Jets, schedule: str, generator: torch.Generator) -> pd.DataFrame:
    """The trained velocity of a surrogate beside the toy's own, at `TIMES` (`diffusion.velocity_error`)."""
    exact = toy.ToyVelocity(model.label, model.features, SCHEDULES[schedule])
    x, mask = torch.from_numpy(model.features.forward(jets)), torch.from_numpy(jets.mask)
    trained = deepcopy(model.velocity).cpu().double()
    return diffusion.velocity_error(trained, exact, x, mask, SCHEDULES[schedule], TIMES, generator)


def table(
    exact: np.ndarray, jets: Mapping[str, Scored], taggers: Sequence[str], trained_on: Sequence[str]
) -> pd.DataFrame:
    """How far the surrogates are from the truth, and the AUC of each ratio and tagger; columns: quantity, value.

    jets: "source" and "synthetic"
    trained_on: those of the two that the ``taggers`` were trained on
    """
    source, synthetic = jets["source"], jets["synthetic"]
    true_llr, own = log_ratio(exact), (np.arange(len(exact)), source.label)
    aucs = {TRUTH: limit.auc(true_llr, source.label)}
    aucs["the surrogates' LLR"] = limit.auc(source.llr, source.label)
    aucs["the surrogates' LLR on synthetic jets"] = limit.auc(synthetic.llr, synthetic.label)
    for tagger, name in product(taggers, trained_on):
        aucs[f"{called(tagger)} on {name} jets"] = limit.auc(jets[name].logits[tagger, name], jets[name].label)
    error = np.abs(source.llr - true_llr)
    values = {
        LOG_PROB: np.median(np.abs(source.log_prob - exact)[own]),
        "median |LLR - true LLR|, nats": np.median(error),
        "90 % quantile of |LLR - true LLR|, nats": np.quantile(error, 0.9),
        "correlation of LLR and true LLR": np.corrcoef(source.llr, true_llr)[0, 1],
        **{f"AUC of {name}": value for name, value in aucs.items()},
    }
    return pd.DataFrame(values.items(), columns=["quantity", "value"])


def curves(
    exact: np.ndarray,
    jets: Mapping[str, Scored],
    taggers: Sequence[str],
    trained_on: Sequence[str],
    generator: np.random.Generator,
    n_resamples: int = 200,
) -> pd.DataFrame:
    """ROCs on the source's jets beside the true ratio, and on synthetic ones (`limit.beside`); arguments of `table`."""
    source, synthetic = jets["source"], jets["synthetic"]
    found = {
        name: {f"{t} on {name} jets": sample.logits[t, name] for t in taggers if name in trained_on}
        for name, sample in jets.items()
    }
    found["source"] = {f"{SURROGATES} on source jets": source.llr} | found["source"]
    on_true = limit.roc_table(found["source"], source.label, generator, log_ratio(exact), n_resamples)
    on_synthetic = limit.roc_table(found["synthetic"], synthetic.label, generator, synthetic.llr, n_resamples)
    return limit.beside(on_true, on_synthetic.replace({"tagger": {LIMIT: f"{SURROGATES} on synthetic jets"}}))


def caption(table: pd.DataFrame) -> str:
    """What stands below the figure of `curves`, from what `table` returned."""
    value = dict(zip(table["quantity"], table["value"], strict=True))
    best = value.pop(f"AUC of {TRUTH}")
    gaps = (f"{name.removeprefix('AUC of ')} {v - best:+.4f}" for name, v in value.items() if name.startswith("AUC"))
    return (
        f"Closure. The limit is the true LLR of the toy's own (source) jets, with an AUC of {best:.4f}; "
        f"AUC minus that: {', '.join(gaps)}. Median error of log p on the toy's jets: {value[LOG_PROB]:.2g} nats. "
        "Each tagger is tested on jets like those that it was trained on. "
        "Ratios of synthetic jets are to the same limit, on other jets; their bands are the curve's alone."
    )
