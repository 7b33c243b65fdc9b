"""Closure: on the toy, whose density is known, the surrogates' likelihood ratio beside the true one.

Two kinds of jets: those of the source (the toy's own), on which the true ratio is the limit, and synthetic ones, on
which the surrogates' is. `exact` is the true log p (n, 2) of the source's jets under [background, signal]; a tagger is
tested on jets like those that it was trained on.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from jetstudy import limit
from jetstudy.limit import LIMIT, SURROGATES, Scored, log_ratio

TRUTH = "the true LLR"
LOG_PROB = "median |log p - true log p|, nats"


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
        aucs[f"{tagger} on {name} jets"] = limit.auc(jets[name].logits[tagger, name], jets[name].label)
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
