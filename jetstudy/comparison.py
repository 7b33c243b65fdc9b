"""Taggers compared over several trainings and several surrogates: tables of `limit.gap` in, one table out.

A figure of merit has uncertainties of three kinds, which are kept apart. With v(s, t) the value of the training t of a
tagger (`pfn`, `pfn.2`) on the jets of the surrogates with seed s:

- jets: the paired bootstrap of one v(s, t); the root mean square over s and t.
- trainings: the standard deviation of v(s, t) over t at the same s, pooled over s.
- surrogates: the standard deviation over s of the mean of v(s, t) over t. New surrogates come with other jets and other
  trainings, and what these add is not taken out. The source's own jets are the same for all s: there another s is
  one more training, for all but the surrogates' own LLR.

Each says by how much one more of its kind would differ; none is divided by the root of how many there are.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from jetstudy.limit import SURROGATES
from jetstudy.sources import kind
from jetstudy.taggers import DEPTHS, ensemble

# Taggers in a figure with a curve each, beside the limit and two ensembles: more cannot be told apart.
SHOWN = 6


def first_trainings(taggers: list[str]) -> list[str]:
    """The first training of each kind of tagger, in order: those that figures show."""
    return _first_of_each(kind, taggers)


def members(taggers: list[str]) -> list[str]:
    """Those that make an ensemble: one training of each network, of several depths the first; if there is a single
    network, one of each depth, and if there is a single depth, all trainings.
    """
    choices = (_first_of_each(network, taggers), first_trainings(taggers), taggers)
    return next((names for names in choices if len(names) > 1), taggers)


def network(tagger: str) -> str:
    """What kind of network a tagger is, whatever its depth."""
    return "transformer" if kind(tagger) in DEPTHS else kind(tagger)


def _first_of_each(what: Callable[[str], str], names: list[str]) -> list[str]:
    first = {}
    for name in names:
        first.setdefault(what(name), name)
    return list(first.values())


def with_ensembles(
    stored: Mapping[str, Mapping[str, np.ndarray]], sample: str, taken: np.ndarray, members: list[str]
) -> dict[str, np.ndarray]:
    """Logits (n,) by tagger on the jets ``taken`` of a ``sample`` (indices), and of both ensembles of ``members``, if
    these are several.

    stored: by tagger, what notebook 05 writes: logits of each sample, and of its "validation" jets, with their labels
    """
    logits = {tagger: own[sample][taken] for tagger, own in stored.items()}
    if len(members) < 2:
        return logits
    validation, label = {t: stored[t]["validation"] for t in members}, stored[members[0]]["validation_label"]
    return logits | ensemble.both(validation, label, {t: logits[t] for t in members})


def together(gaps: Mapping[int, pd.DataFrame], about: pd.DataFrame) -> pd.DataFrame:
    """The headline table (`taggers.csv`): a row for each tagger, sample and figure of merit.

    gaps: tables of `limit.gap` by the seed of the surrogates
    about: a row for each tagger, sample and seed, with these columns and any that describe a training (its jets, its
        seconds): numbers or None, of which the mean is taken, and booleans, true if any is

    Columns: tagger, sample, metric; value, limit and ratio, means over all trainings and surrogates, NaN where one of
    them is not quoted; jets, trainings and surrogates, the uncertainties of value, and the same of ratio as ratio_jets,
    ratio_trainings, ratio_surrogates (NaN of a single training or surrogate); n_trainings, n_surrogates; survivors, the
    fewest; then what `about` says, empty for what was not trained (the limit, ensembles), but for sees_n: likelihoods
    see the number of particles, an ensemble does if one of the taggers does.
    """
    rows = pd.concat([gap.assign(seed=seed) for seed, gap in gaps.items()], ignore_index=True)
    on_source = (rows["sample"] == "source") & (rows["tagger"] != SURROGATES)
    rows["training"] = rows["tagger"] + np.where(on_source, " of seed " + rows["seed"].astype(str), "")
    rows["seed"], rows["tagger"] = rows["seed"].where(~on_source, next(iter(gaps))), rows["tagger"].map(kind)
    keys = ["tagger", "sample", "metric"]
    found = [dict(zip(keys, key, strict=True)) | _one(group) for key, group in rows.groupby(keys, sort=False)]
    described = about.assign(tagger=about["tagger"].map(kind)).drop(columns="seed").groupby(["tagger", "sample"])
    means = described.agg(lambda values: values.any() if values.dtype == bool else pd.to_numeric(values).mean())
    table = pd.DataFrame(found).join(means, on=["tagger", "sample"])
    if "sees_n" in about:
        untold = np.where(table["tagger"].isin(ensemble.NAMES), about["sees_n"].any(), True)
        table["sees_n"] = table["sees_n"].where(table["sees_n"].notna(), untold).astype(bool)
    return table


def _one(group: pd.DataFrame) -> dict[str, float]:
    """Means, uncertainties and numbers of one figure of merit of one tagger."""
    values = {name: group.pivot(index="seed", columns="training", values=name) for name in ("value", "limit", "ratio")}
    row = {name: table.to_numpy().mean() for name, table in values.items()}
    for prefix, name, bootstrap in (("", "value", "uncertainty"), ("ratio_", "ratio", "ratio_uncertainty")):
        table = values[name]
        row[f"{prefix}jets"] = np.sqrt(np.mean(np.square(group[bootstrap].to_numpy())))
        row[f"{prefix}trainings"] = np.sqrt(table.var(axis=1, skipna=False).mean(skipna=False))
        row[f"{prefix}surrogates"] = table.mean(axis=1, skipna=False).std(skipna=False)
    n_surrogates, n_trainings = values["value"].shape
    return row | {"n_trainings": n_trainings, "n_surrogates": n_surrogates, "survivors": group["survivors"].min()}


def depths(headlines: pd.DataFrame, blocks: Mapping[str, int]) -> pd.DataFrame:
    """The rows on synthetic jets of networks that differ in their number of ``blocks`` only, with a column of these, in
    their order. `headlines` is what `together` returns.
    """
    rows = headlines[(headlines["sample"] == "synthetic") & headlines["tagger"].isin(list(blocks))]
    return rows.assign(blocks=rows["tagger"].map(blocks)).sort_values("blocks", kind="stable", ignore_index=True)
