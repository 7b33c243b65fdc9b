"""From tables and records to something to read: pieces of HTML for the notebooks, and the index of all sets."""

import base64
import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
from IPython.display import HTML, display
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from jetstudy import figures, limit, study
from jetstudy import learning as of_learning
from jetstudy.figures import saved
from jetstudy.figures.taggers import in_quadrature
from jetstudy.files import read_json, replacing
from jetstudy.names import called
from jetstudy.sources import ABOUT
from jetstudy.study import ONE_OF, Part, StudyError, read_record

TEMPLATES = Path(__file__).parent / "page"

# Colour and word: a verdict reads in grey too.
VERDICTS = {"pass": "good", "fail": "bad", "undecided": "open", "reported": "told", "not run": "off"}
METRICS = {  # of `fidelity.csv`, in words; W1 of one observable calls it by its own name
    "w1_ptrel_sum": "W1 of the summed ptrel",
    "w1_efp": "W1 of EFPs",
    "fpd": "FPD",
    "mmd": "MMD",
    "log_prob_sequence": "log p, as a sequence",
    "log_prob_set": "log p, as a set",
}
REPEATED = 2  # rows of a certificate at the most that measure the same and still stand among the others
figure = saved.make
_MINUS = re.compile(r"(?<!\w)-(?=[\d.])")
_NUMBER = re.compile(r"\(?[−+]?[\d.]+(e[−+]?\d+)?( ±.*)?|–")


def redraw_all(folder: Path, cores: int, progress: Callable[[str], None] = print) -> None:
    """Draw all figures below ``folder`` again, in place, from their tables alone; the report's own are left to it."""
    tables = []
    for place in sorted(path.parent for path in folder.rglob(study.RECORD)):
        names = (read_record(place) or {}).get("outputs", {})  # what lies beside them is somebody's own
        tables += [place / name for name in names if name.endswith(".csv") and f"{Path(name).stem}.json" in names]
    tables = [path for path in tables if path.relative_to(folder).parts[0] != "report"]
    failed = {}
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        drawn = [pool.submit(saved.redraw, path.parent, path.stem) for path in tables]
        for path, done in zip(tables, drawn, strict=True):
            if error := done.exception():  # the others are drawn, and their records have to say so
                failed[path] = error
                continue
            study.note_again(path.parent, [f"{path.stem}.{kind}" for kind in saved.DRAWN])
            progress(f"figures: {path.relative_to(folder).with_suffix('')}")
    if failed:
        path, error = next(iter(failed.items()))
        raise StudyError(f"{path}: not drawn, as {len(failed)} of {len(tables)} figures: {error}") from error


def show(folder: Path, name: str) -> None:
    """Display the figure ``name`` of ``folder``: picture, alternative text, caption."""
    about = read_json(Path(folder) / f"{name}.json")
    picture = base64.b64encode((Path(folder) / f"{name}.png").read_bytes()).decode()
    display(
        HTML(
            f'<figure><img src="data:image/png;base64,{picture}" alt="{html.escape(about["alt"])}">'
            f"<figcaption>{html.escape(about['caption'])}</figcaption></figure>"
        )
    )


def show_all(folder: Path, *first: str) -> None:
    """Display all figures of ``folder``: those called ``first``, as far as they are there, then by name."""
    found = sorted(path.stem for path in Path(folder).glob("*.png"))
    for name in [*(name for name in first if name in found), *(name for name in found if name not in first)]:
        show(folder, name)


def number(value, digits: int = 3) -> str:
    """A number with so many significant digits; a dash for NaN and None."""
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return "–"
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (float, np.floating)):
        return _in_digits(float(value), digits)
    return str(value)


def _in_digits(value: float, digits: int) -> str:
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = digits - 1 - int(np.floor(np.log10(abs(value)))) if value else 0
    return f"{value:.{max(decimals, 0)}f}".replace("-", "−")


def measured(value: float, uncertainty: float) -> str:
    """``value ± uncertainty`` to two digits of the uncertainty; a dash for NaN.

    >>> measured(0.90834, 0.00451)
    '0.9083 ± 0.0045'
    """
    if np.isnan(value):
        return "–"
    if np.isnan(uncertainty) or uncertainty <= 0:
        return number(float(value), 4)
    if max(abs(value), uncertainty) < 1e-3:
        power = int(np.floor(np.log10(max(abs(value), uncertainty))))
        return f"({measured(value / 10.0**power, uncertainty / 10.0**power)})e{power}".replace("-", "−")
    return several(value, uncertainty)


def table(content: pd.DataFrame) -> HTML:
    """A table in HTML, numbers aligned right; it scrolls by itself where the page is narrow.

    Columns `tagger` and `network` have taggers under the names that the field calls them by.
    """
    named = content.columns.intersection(["tagger", "network"])
    content = content.assign(**{column: content[column].map(called) for column in named})

    def is_number(value) -> bool:
        return isinstance(value, (int, float, np.number)) or bool(_NUMBER.fullmatch(str(value)))

    numeric = [len(content) > 0 and all(map(is_number, content[name])) for name in content.columns]

    def cell(value, numeric: bool) -> str:
        if isinstance(value, str) and value in VERDICTS:
            return f'<td><span class="verdict {VERDICTS[value]}">{value}</span></td>'
        shown = number(value)
        numbers = "number several" if shown.count("±") > 1 else "number"
        kind = numbers if numeric else "long" if len(shown) > 40 else "" if " " in shown else "word"
        of_kind = f' class="{kind}"' if kind else ""
        return f"<td{of_kind}>{html.escape(shown)}</td>"

    def row(values) -> str:
        return "<tr>" + "".join(map(cell, values, numeric)) + "</tr>"

    head = "".join(
        f"<th{' class=number' if right else ''}>{html.escape(str(name))}</th>"
        for name, right in zip(content.columns, numeric, strict=True)
    )
    rows = "".join(map(row, content.itertuples(index=False, name=None)))
    return HTML(f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>')


def linked(content: str, text: str, target: str) -> str:
    """A table's HTML in which the cells of this text are links to a file."""
    cell, link = html.escape(text), f'<a href="{quote(target)}">{html.escape(text)}</a>'
    return re.sub(f"(<td[^>]*>){re.escape(cell)}</td>", lambda found: f"{found[1]}{link}</td>", content)


def certificate(rows: Sequence[Mapping]) -> HTML:
    """The certificate's rows (as in ``certificate.json``) as tables, verdicts in colour and words.

    What is measured of each of many taggers has a table of its own behind the others, below a line with what all of
    them have in common.
    """
    measuring: dict[str, list[Mapping]] = {}
    for row in rows:
        measuring.setdefault(row["property"], []).append(row)
    single = [row for row in rows if len(measuring[row["property"]]) <= REPEATED]
    lines = [{"row": row["row"], "verdict": row["verdict"], "what is measured": row["property"]} for row in single]
    content = pd.DataFrame([line | _judged(row) for line, row in zip(lines, single, strict=True)])
    repeated = [found for found in measuring.values() if len(found) > REPEATED]
    return HTML(table(content).data + "".join(map(_of_each_tagger, repeated)))


def _judged(row: Mapping) -> dict:
    """What a row of the certificate found, and what it is held to."""
    value = measured(*(np.nan if row[key] is None else row[key] for key in ("value", "uncertainty")))
    judged = {"value": value} | {key: number(row[key]) for key in ("criterion", "resolution")}
    return judged | {"note": _MINUS.sub("−", row["note"])}


def _of_each_tagger(rows: Sequence[Mapping]) -> str:
    """Rows `6 dominance transformer`, `6 dominance pfn`, ...: a line that is true of all, and what is of each."""
    kind = " ".join(rows[0]["row"].split(" ")[:2])
    notes = [_MINUS.sub("−", row["note"]).split("; ") for row in rows]
    common = [words for words in notes[0] if all(words in note for note in notes)]
    names = [{"tagger": row["row"].removeprefix(kind).strip(), "verdict": row["verdict"]} for row in rows]
    judged = pd.DataFrame([name | _judged(row) for name, row in zip(names, rows, strict=True)])
    judged["note"] = ["; ".join(words for words in note if words not in common) for note in notes]
    for key in ("resolution", "criterion"):
        if judged[key].nunique() == 1:
            held = judged.pop(key)[0]
            common[:0] = [] if rows[0][key] is None else [f"{key} {held}"]
    if not judged["note"].any():
        del judged["note"]
    heading = html.escape("; ".join([rows[0]["property"], *common]))
    return f"<p><b>{html.escape(kind.strip(':'))}</b>: {heading}.</p>{table(judged).data}"


def taggers(content: pd.DataFrame) -> HTML:
    """A line a tagger from the rows of one sample of the headline table (``comparison.together``).

    Uncertainties follow each other as in ``limit.UNCERTAINTIES``, without those that no tagger has.
    """

    kinds = [kind for kind in limit.UNCERTAINTIES if content[kind].notna().any()]

    def cell(name: str, rows: pd.DataFrame, metric: str) -> str:
        if metric not in rows.index:
            return "–"
        row, beside = rows.loc[metric], name != limit.LIMIT and metric.startswith(("AUC", "rej"))
        share = f" ({100 * row['ratio']:.1f} %)" if beside and pd.notna(row["ratio"]) else ""
        return several(row["value"], *row[kinds]) + share

    estimate = limit.POSTERIOR_WEIGHTED if content["limit"].notna().any() else limit.COUNTED
    columns = {"AUC": "AUC"}
    columns |= {f"rejection at {e}": limit.rejection_at(e, estimate) for e in limit.SIGNAL_EFFICIENCIES}
    if estimate == limit.POSTERIOR_WEIGHTED:
        columns |= {"excess KL, nats": limit.KL, "calibration": limit.CALIBRATION}
    lines = []
    for name, rows in content.groupby("tagger", sort=False):
        first, rows = rows.iloc[0], rows.set_index("metric")
        sees_n = "–" if pd.isna(first["sees_n"]) else "yes" if first["sees_n"] else "no"
        merit = {head: cell(name, rows, metric) for head, metric in columns.items()}
        lines.append({"tagger": name} | merit | {"sees N": sees_n})
    return table(pd.DataFrame(lines))


def costs(content: pd.DataFrame) -> HTML:
    """What each tagger costs, and what it reaches: a line a tagger of one sample of the headline table."""
    rows = content[(content["metric"] == "AUC") & content["training_seconds"].notna()]
    speeds = {name: rows[name].round(-1).astype("Int64") for name in ("train_jets_per_second", "jets_per_second")}
    rows = rows.assign(**speeds, AUC=rows["value"].map("{:.4f}".format))
    names = {"tagger": "tagger", "parameters": "parameters", "training_jets": "training jets"}
    names |= {"training_seconds": "training, s", "train_jets_per_second": "jets/s, training"}
    names |= {"jets_per_second": "jets/s", "AUC": "AUC"}
    return table(rows[list(names)].rename(columns=names))


def gap(content: pd.DataFrame) -> HTML:
    """The table of figures of merit (``limit.gap``), values with their uncertainties."""
    lines = [
        {
            "tested on": row.sample,
            "tagger": row.tagger,
            "figure of merit": row.metric,
            "value": measured(row.value, row.uncertainty),
            "limit": number(row.limit, 4),
            "value / limit": measured(row.ratio, row.ratio_uncertainty),
            "survivors": row.survivors,
        }
        for row in content.itertuples()
        if "residual" not in row.metric  # ten lines a tagger
    ]
    return table(pd.DataFrame(lines))


def learning_figures(content: pd.DataFrame, of: str) -> Iterator[tuple[str, Callable, str]]:
    """Name, function and caption of each figure that the table of notebook 07 is enough for; ``of`` what, in words."""
    yield "learning_curves", figures.learning_curves, f"How the gap closes with training jets, {of}."
    if "cross-entropy" in set(of_learning.combined(of_learning.fits(content))["quantity"]):
        yield "extrapolation", figures.extrapolation, f"Would an extrapolation find the true floor? ({of})"
    if content["target"].nunique() > 1:
        yield "targets", figures.targets, f"One kind of network trained in several ways, {of}."


def learning(content: pd.DataFrame) -> HTML:
    """The table of notebook 07: what was reached on the test split and on own jets; means over trainings and seeds."""
    lines, content = [], of_learning.over_seeds(content)
    for (learner, target, jets), rows in content.groupby(["learner", "target", "jets"], sort=False):
        found = {(row.sample, row.metric): row for row in rows.itertuples()}
        excess, paired = found[of_learning.TEST, limit.KL], found[of_learning.TEST, limit.PAIRED]
        own = found.get((of_learning.TRAINING, limit.KL))
        line = {"network": learner, "trained on": target, "training jets": int(jets)}
        line["excess, KL"] = measured(excess.value, excess.uncertainty)
        line["excess, labels"] = measured(paired.value, paired.uncertainty)
        line["excess on own training jets, KL"] = measured(own.value, own.uncertainty) if own else "–"
        for efficiency, metric in of_learning.REJECTIONS.items():
            ratio = found[of_learning.TEST, metric]
            line[f"rejection / limit at {efficiency}"] = measured(ratio.ratio, ratio.ratio_uncertainty)
        lines.append(line | {"steps": int(excess.steps), "kept": int(excess.kept)})
    return table(pd.DataFrame(lines))


def fits(content: pd.DataFrame) -> HTML:
    """The table of ``learning.combined``: the exponents, and whether a blind fit finds the true floor."""

    def with_error(value, uncertainty):
        return "not determined" if np.isinf(uncertainty) else measured(value, uncertainty)

    lines = []
    for row in content.itertuples():
        line = {"network": row.learner, "quantity": row.quantity, "training sizes": row.points}
        line |= {
            "b": with_error(row.b, row.b_uncertainty),
            "fitted floor": "–",
            "true floor": number(row.true_floor, 4),
        }
        line["fitted − true, in σ"] = "–"
        if row.floor_uncertainty > 0:
            line["fitted floor"] = with_error(row.floor, row.floor_uncertainty)
        if 0 < row.floor_uncertainty < np.inf:
            line["fitted − true, in σ"] = number((row.floor - row.true_floor) / row.floor_uncertainty, 2)
        lines.append(line | {"χ² / degrees of freedom": f"{row.chi2:.1f} / {row.dof}"})
    return table(pd.DataFrame(lines))


def several(value: float, *uncertainties: float) -> str:
    """``value ± a ± b`` to two digits of the first uncertainty; a dash for one that is NaN, and for a NaN value."""
    if np.isnan(value) or not uncertainties or not uncertainties[0] > 0:
        return measured(value, np.nan)
    decimals = max(0, 1 - int(np.floor(np.log10(uncertainties[0]))))
    words = ["–" if np.isnan(each) else f"{each:.{decimals}f}".replace("-", "−") for each in (value, *uncertainties)]
    return " ± ".join(words)


def fidelity(content: pd.DataFrame) -> HTML:
    """The table of ``fidelity.csv``, values and floors with their uncertainties."""
    lines = [
        {
            "class": row["class"],
            "jets": row.surrogate,
            "metric": _metric(row),
            "value": measured(row.value, row.uncertainty),
            "floor": measured(row.floor, row.floor_uncertainty),
            "jets per side": row.jets,
            "verdict of the judge": "" if pd.isna(row.verdict) else row.verdict,
        }
        for _, row in content.iterrows()
    ]
    return table(pd.DataFrame(lines))


def _metric(row: pd.Series) -> str:
    """What a line of ``fidelity.csv`` is about, in words."""
    if row.metric.startswith("auc_"):
        best = row.metric == "auc_best"
        return f"AUC of the best judge, {called(row.judge)}" if best else f"AUC of the judge {called(row.judge)}"
    return METRICS.get(row.metric, re.sub("^w1_", "W1 of ", row.metric))


def acceptance(surrogate: Mapping) -> HTML:
    """Of a surrogate's flow which jets are kept, in words, from the content of its ``surrogate.json``."""
    return HTML(
        f"<p>Of the flow's jets {100 * surrogate['acceptance']['rate']:.0f} % are kept. A classifier leaves out those "
        "that are not like the source's; the others' density is known as before. It uses the same features as the "
        "judges <i>gradient boosting</i> and <i>pairs</i>, so their AUC is not an independent test; judges that look "
        "at the particles are.</p>"
    )


def known(part: Part) -> dict[str, object]:
    """The parameters of ``part`` and of all steps that it rests on."""
    found: dict[str, object] = {}
    for record in part.upstream().values():
        found |= {key: value for key, value in record["parameters"].items() if key not in ONE_OF.values()}
    return found | {key: value for key, value in part.parameters.items() if key not in found}


def parameters(part: Part) -> HTML:
    """The parameters of ``part`` and of all steps that it rests on, one line each."""
    found = known(part)
    return table(pd.DataFrame({"parameter": list(found), "value": [json.dumps(value) for value in found.values()]}))


def provenance(part: Part) -> HTML:
    """What each part that ``part`` rests on cost and where it ran, with links to executed notebooks that are there."""
    records = part.upstream()
    lines = [
        {
            "part": name,
            "started, UTC": _minute(record),
            "seconds": record["volatile"]["seconds"],
            "training, in all its runs": record["volatile"].get("training_seconds"),
            "peak memory, GiB": record["volatile"]["peak_memory_gib"],
            "device": record.get("device", "cpu"),
            "threads": record.get("threads", 1),
            "revision": record["git"][:7] + record["git"][40:] if record["git"] else "–",  # its + is kept
        }
        for name, record in records.items()
    ]
    costs = table(pd.DataFrame(lines)).data
    for name in records:  # a notebook that did several parts at once lies with the first of them
        if (part.folder.parent / name / "notebook.html").exists():
            costs = linked(costs, name, f"../{name}/notebook.html")
    made_with = Counter(map(_made_with, records.values()))
    lines = [f"<p>{count} of {len(records)} parts: {text}</p>" for text, count in made_with.items()]
    return HTML("".join([costs, *lines]))


def _made_with(record: Mapping) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    return f"{versions}. {record['volatile']['machine']}."


def _minute(record: Mapping) -> str:
    """When a part started: of `2026-01-31T12:34:56Z` what a reader wants to know."""
    return record["volatile"]["started"].replace("T", "\N{NO-BREAK SPACE}")[:16]


def answer(headlines: pd.DataFrame, rows: Sequence[Mapping]) -> HTML:
    """The answer in words and a short table, for the head of the report: how close taggers come, if the limit holds.

    headlines: ``comparison.together``; rows: the certificates of all seeds.
    """
    own = headlines[headlines["sample"] == "synthetic"]
    names = [name for name in own["tagger"].unique() if name != limit.LIMIT]
    sentences = [_closest(own, names)] if names else ["<p>No tagger was trained on synthetic jets.</p>"]
    null = [row for row in rows if row["row"].startswith("7 null") and row["verdict"] == "reported"]
    if null:
        areas = {row["row"].partition(": ")[2]: row for row in null}
        by_llr = areas.pop("LLR")
        found = [row["value"] for row in areas.values()]
        others = f", and of {min(found):.3f} to {max(found):.3f} by trained taggers" if found else ""
        sentences.append(
            "<p>How much of a separation is spurious? Surrogates of two samples of one kind, which ought to agree, are "
            f"told apart with an AUC of <b>{measured(by_llr['value'], by_llr['uncertainty'])}</b> by their likelihood "
            f"ratio{others} (0.5: not told apart). It bounds the spurious part from below.</p>"
        )
    counts = verdicts(rows)
    failing = html.escape(", ".join(dict.fromkeys(row["row"] for row in rows if row["verdict"] == "fail")))
    if failing:
        state = f'<p class="banner bad">The limit is not certified: {failing} FAILED ({counts}). Quote nothing.</p>'
    else:
        state = f'<p class="banner good">The certificate of the limit has no failing row ({counts}).</p>'
    return HTML("".join(sentences) + state)


def scope(values: Mapping, headlines: pd.DataFrame, curves: pd.DataFrame | None = None) -> HTML:
    """What the answer is about, and what it is not about, in words.

    values: the parameters of all steps (``known``); headlines: ``comparison.together``; curves: tables of notebook 07,
    with a column ``seed``
    """
    background, signal = map(html.escape, values["classes"][:2])
    of_each = "leading particles" if values["jets_kept"] == "leading" else "particles at the most"
    lines = [
        f"<b>The jets.</b> Models have learned {background} and {signal} jets: {ABOUT[values['source']]}. What is "
        f"known of a jet is relative η, φ and pT of its {values['n_max']} {of_each}. The limit is that of jets that "
        "the models draw."
    ]
    if values["accepted"] < 1:
        lines[0] += (
            f" Of these {100 * values['accepted']:g} % are kept, those most like the ones learned; their density is "
            "known, too."
        )
    own, source = (headlines[headlines["sample"] == sample] for sample in ("synthetic", "source"))
    sizes = own["parameters"].dropna() if "parameters" in own else []
    if len(sizes):
        low, high = (f"{size:,.0f}" for size in (sizes.min(), sizes.max()))
        one_or_several = f"A network of {low}" if low == high else f"Networks of {low} to {high}"
        lines.append(
            f"<b>The taggers.</b> {one_or_several} parameters, trained for "
            f"{'at most ' if values['tagger_patience'] else ''}{values['tagger_steps']:,} batches of "
            f"{values['tagger_batch']:,} jets. How much closer larger ones come, trained on more jets, is not in it."
        )
    if curves is not None:
        means, metric = of_learning.over_seeds(curves), of_learning.REJECTIONS[0.5]
        ends = [of_learning.curve(means, name, metric).tail(1) for name in means["learner"].unique()]
        ends = pd.concat(ends).dropna(subset="ratio")
        for row in ends[ends["steps"] > values["tagger_steps"]].nlargest(1, "ratio").itertuples():
            lines.append(
                f"<b>Trained longer</b> (<a href='#where'>below</a>), for {row.steps:,.0f} batches, "
                f"{html.escape(called(row.learner))} comes closest: to "
                f"{measured(100 * row.ratio, 100 * row.ratio_uncertainty)} % of the optimal rejection at a signal "
                "efficiency of 0.5 (uncertainty of the mean)."
            )
    areas = source[source["metric"] == "AUC"].set_index("tagger")
    others = areas["value"].drop(limit.SURROGATES, errors="ignore").dropna()
    if len(others) and limit.SURROGATES in areas.index:
        lines.append(
            "<b>Not the jets that were learned.</b> Their limit is "
            f"{'below, under Closure' if values['source'] == 'toy' else 'not known'}, and the models' likelihood ratio "
            f"is no bound there: it has an AUC of {quoted(areas.loc[[limit.SURROGATES]])}, and "
            f"{html.escape(called(others.idxmax()))}, trained on such jets, {quoted(areas.loc[[others.idxmax()]])}."
        )
    return HTML("<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>")


def quoted(rows: pd.DataFrame, what: str = "value", scale: float = 1.0) -> str:
    """The value (or ratio) of the one row of ``comparison.together`` with all its uncertainties in quadrature."""
    return measured(scale * rows[what].item(), scale * in_quadrature(rows, what).item())


def _closest(own: pd.DataFrame, names: Sequence[str]) -> str:
    """The best tagger on synthetic jets in a sentence, and all of them in a table."""
    found = own.set_index(["tagger", "metric"])
    rejections = [limit.rejection_at(efficiency, limit.POSTERIOR_WEIGHTED) for efficiency in limit.SIGNAL_EFFICIENCIES]

    def pick(tagger: str, metric: str, what: str = "value", scale: float = 1.0) -> str:
        return quoted(found.loc[[(tagger, metric)]], what, scale)

    best = max(names, key=lambda name: found.loc[(name, "AUC"), "value"])
    jets = own["training_jets"].max()
    who = f"<b>{html.escape(called(best))}</b>"
    who = who if len(names) == 1 else f"the best of {len(names)} ({who})"
    text = (
        f"No tagger of synthetic jets can have an AUC above <b>{pick(limit.LIMIT, 'AUC')}</b>. Trained on {jets:,.0f} "
        f"of them, {who} reaches an AUC of <b>{pick(best, 'AUC')}</b>. "
    )
    if not np.isnan(found.loc[(best, rejections[0]), "ratio"]):
        text += (
            "At a signal efficiency of 0.5 its background rejection is "
            f"<b>{pick(best, rejections[0], 'ratio', 100)} %</b> of the optimal tagger's "
            f"({pick(best, rejections[0])} against {pick(limit.LIMIT, rejections[0])}). "
        )
    text += f"Its posterior is off by {pick(best, limit.KL)} nats a jet (mean KL divergence)."
    lines = [
        {
            "tagger": name,
            "AUC": pick(name, "AUC"),
            **{
                f"rejection / limit at ε_S = {efficiency}, %": pick(name, metric, "ratio", 100)
                for efficiency, metric in zip(limit.SIGNAL_EFFICIENCIES, rejections, strict=True)
            },
            "mean KL, nats": pick(name, limit.KL),
        }
        for name in sorted(names, key=lambda name: -found.loc[(name, "AUC"), "value"])
    ]
    kinds = (
        "jets, trainings and surrogates"
        if own["n_surrogates"].max() > 1
        else "jets, and of trainings if there are several"
    )
    note = f"Uncertainties: of {kinds}, added in quadrature; the headline table has them apart."
    return f"<p>{text}</p>{table(pd.DataFrame(lines)).data}<p>{note}</p>"


def verdicts(rows: Sequence[Mapping]) -> str:
    """How many rows of a certificate have each verdict, in words."""
    words = [row["verdict"] for row in rows]
    return ", ".join(f"{words.count(word)} {word}" for word in VERDICTS if word in words)


def in_short(headlines: pd.DataFrame) -> str:
    """The answer in a line: the best tagger on synthetic jets (``comparison.together``) and what is possible there."""
    areas = headlines[(headlines["sample"] == "synthetic") & (headlines["metric"] == "AUC")].set_index("tagger")
    values = areas["value"].drop(limit.LIMIT, errors="ignore")
    if values.empty:
        return "no tagger was trained on synthetic jets"
    best = values.idxmax()
    return f"{called(best)}: AUC {quoted(areas.loc[[best]])} of {quoted(areas.loc[[limit.LIMIT]])} possible"


def _in_a_line(folder: Path) -> dict[str, str] | None:
    """The line of the index for the set in ``folder``; none while one of its limits is made again."""
    report = read_record(folder / "report")
    limits = [folder / "limit" / str(seed) for seed in report["parameters"]["seeds"]] if report else []
    records = list(map(read_record, limits))
    if not records or not all(records):
        return None
    rows = [row for place in limits for row in read_json(place / "certificate.json")]
    return {
        "parameter set": folder.name,
        "answer": in_short(pd.read_csv(folder / "report" / "taggers.csv")),
        "rows of the certificate": verdicts(rows),
        "failing rows": ", ".join(row["row"] for row in rows if row["verdict"] == "fail") or "none",
        "limit measured, UTC": max(map(_minute, records)),
    }


def overview(outputs: Path) -> Path:
    """Write ``index.html`` into ``outputs``: a line for each parameter set that has a report, the latest first."""
    lines = {}
    for page in outputs.glob("*/report/report.html"):
        folder = page.parents[1]
        try:
            line = _in_a_line(folder)
        except (StudyError, OSError, KeyError, ValueError) as error:  # of another version, or copied in part
            print(f"{outputs / 'index.html'}: without {folder.name}, which cannot be read: {error}", flush=True)
            continue
        if line:
            lines[line["limit measured, UTC"], folder.name] = line
    content = table(pd.DataFrame([lines[key] for key in sorted(lines, reverse=True)])).data
    for _, name in lines:
        content = linked(content, name, f"{name}/report/report.html")
    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    with replacing(outputs / "index.html") as unfinished:
        unfinished.write_text(pages.get_template("overview.html.j2").render(table=Markup(content)))
    return outputs / "index.html"
