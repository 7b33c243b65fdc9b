"""Which row of the certificate sees which break, from what size on, with how many jets.

    python benchmarks/power.py

Toy jets, whose log p is known, are drawn exactly and given to the certificate with one thing broken at a time, in
growing sizes. A row sees a break of some size if it fails in most repetitions at that size and at all larger ones. The
tagger of rows 5 and 6 is the study's transformer, trained on other toy jets. Writes power.csv beside this file and
docs/power.png, and prints the table of docs/certificate.md.
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import torch
from exact import CLASSES, N_MAX, draw, surrogates, true_log_prob
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy.special import logit
from sklearn.ensemble import ExtraTreesClassifier

from jetstudy import certificate, taggers
from jetstudy.divergence import jacobian
from jetstudy.features import Features
from jetstudy.figures import GREY, STYLE
from jetstudy.jets import Jets
from jetstudy.limit import auc, excess_kl, log_ratio
from jetstudy.probability_flow import Solver, integrate
from jetstudy.schedules import SCHEDULES
from jetstudy.sources import toy
from jetstudy.surrogate import score
from jetstudy.training import Recipe, seeded, train

HERE = Path(__file__).parent
REPETITIONS = {1_000: 4, 5_000: 3, 30_000: 1}  # by jets per class
CHECKED = 500  # jets per class for rows 1 to 3 and 8, as in the parameter set `closure`
SOLVER = Solver("midpoint", 10, 2.0)
RESAMPLES = 100
TAGGER = Recipe(steps=3000, batch=256, rate=2e-3, every=500, ema=0.99)
TAGGER_JETS = 30_000  # a class


@dataclass(frozen=True)
class Sample:
    """Jets and what a study knows of them; `log_prob` (n, 2) is right until something breaks it."""

    jets: Jets
    label: np.ndarray
    log_prob: np.ndarray
    tagger: np.ndarray  # the tagger's logit
    features: Features
    refined: int = 1  # log_prob takes so many times the solver's steps

    def __getitem__(self, index: np.ndarray) -> "Sample":
        arrays = ("jets", "label", "log_prob", "tagger")
        return replace(self, **{name: getattr(self, name)[index] for name in arrays})

    @property
    def llr(self) -> np.ndarray:
        return log_ratio(self.log_prob)

    @cached_property
    def wrong_trace(self) -> np.ndarray:
        return wrong_traces(self.features, self.jets)

    def off(self, by: np.ndarray) -> "Sample":
        """The same with log p off `by` (n, 2)."""
        return replace(self, log_prob=self.log_prob + by)


def log_density(sample: Sample, weight: np.ndarray, widths: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """log p(u | N) (n, 2) in features, each slot's particle counted with its `weight` (n, N): 1 is a real one.

    `widths` scales the prongs of either class.
    """
    x, weight = torch.from_numpy(sample.features.forward(sample.jets)), torch.from_numpy(weight)
    columns = []
    for c, width in zip(CLASSES, widths, strict=True):
        model = toy.ToyVelocity(c, sample.features)
        model.std *= width
        _, _, log_p = model._components(x, x.new_ones(1), x.new_zeros(1))
        columns.append((log_p.logsumexp(-1) * weight[..., None]).sum(1).logsumexp(-1) - math.log(toy.ORIENTATIONS))
    return torch.stack(columns, dim=1).numpy()


# The breaks: a sample and a size in, a sample that a broken study takes for the truth out.


def other_steps(sample: Sample, size: int, rng: np.random.Generator) -> Sample:
    models = surrogates(sample.features, replace(SOLVER, steps=sample.refined * size))
    return replace(sample, log_prob=score(models, sample.jets))


def noisy(sample: Sample, size: float, rng: np.random.Generator) -> Sample:
    return sample.off(size / math.sqrt(2) * rng.standard_normal(sample.log_prob.shape))


def part_of_the_jet(sample: Sample, size: int, rng: np.random.Generator) -> Sample:
    mask = sample.jets.mask
    hidden = np.random.default_rng(len(mask)).random(mask.shape)  # the same particles whenever the same jets are scored
    rank = np.where(mask, hidden, -1).argsort(axis=1).argsort(axis=1)
    seen = mask & (rank < N_MAX - size)
    return sample.off(log_density(sample, seen.astype(float)) - log_density(sample, mask.astype(float)))


def shortcut(sample: Sample, size: float, rng: np.random.Generator) -> Sample:
    return sample.off(size / 2 * (2 * np.eye(2)[sample.label] - 1))  # the LLR moves by `size` towards the label


def normalisation(sample: Sample, size: float, rng: np.random.Generator) -> Sample:
    return sample.off(np.array([0.0, size]))


def width(sample: Sample, size: float, rng: np.random.Generator) -> Sample:
    mask = sample.jets.mask.astype(float)
    return sample.off(log_density(sample, mask, (1.0, 1.0 + size)) - log_density(sample, mask))


def leaking_mask(sample: Sample, size: float, rng: np.random.Generator) -> Sample:
    mask = sample.jets.mask.astype(float)
    return sample.off(log_density(sample, mask + size * (1 - mask)) - log_density(sample, mask))


def wrong_trace(sample: Sample, size: float, rng: np.random.Generator) -> Sample:
    return sample.off(size * sample.wrong_trace)


def training_jets(sample: Sample, size: float, rng: np.random.Generator) -> Sample:
    known = rng.random(len(sample.label)) < size
    x = sample.features.forward(sample.jets).reshape(len(sample.label), -1)
    forest = ExtraTreesClassifier(25, random_state=int(rng.integers(2**31))).fit(x[known], sample.label[known])
    votes = 25 * forest.predict_proba(x)[:, 1]
    return replace(sample, tagger=logit((votes + 0.5) / 26))


@dataclass(frozen=True)
class Break:
    """`what` it breaks: log_prob itself, or only the ratio made of it, or only a tagger."""

    apply: Callable[[Sample, float, np.random.Generator], Sample]
    what: str
    sizes: tuple
    unit: str


BREAKS = {
    "scorer's steps": Break(other_steps, "log_prob", (5, 3, 2, 1), "midpoint steps"),
    "noisy LLR": Break(noisy, "log_prob", (0.1, 0.2, 0.5, 1.0, 2.0), "nats, rms"),
    "part of the jet": Break(part_of_the_jet, "log_prob", (1, 2, 3, 4), "of 8 particles unseen"),
    "label shortcut": Break(shortcut, "ratio", (0.02, 0.05, 0.1, 0.2, 0.5), "nats towards the label"),
    "normalisation": Break(normalisation, "log_prob", (0.02, 0.05, 0.1, 0.2, 0.5), "nats in the ratio"),
    "density": Break(width, "log_prob", (0.02, 0.05, 0.1, 0.2, 0.4), "widths of one class, relative"),
    "leaking mask": Break(leaking_mask, "log_prob", (0.02, 0.05, 0.1, 0.3, 1.0), "weight of a padded entry"),
    "wrong trace": Break(wrong_trace, "log_prob", (0.01, 0.03, 0.1, 0.3, 1.0), "weight of cross terms"),
    "training jets": Break(training_jets, "tagger", (0.05, 0.1, 0.2, 0.5, 1.0), "share of test jets trained on"),
}


def rows(
    sample: Sample,
    few: Sample,
    finer: Sample,
    truth: np.ndarray,
    sampled: np.ndarray,
    trace: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> list[certificate.Row]:
    """The certificate of a sample.

    `few` jets and their true log p `truth` (m, 2) are for rows 1, 2 and 8, `finer` the same jets on twice the steps,
    `sampled` (m, 2) has what the sampler says; `trace` is div v, exact and as found.
    """
    own = np.arange(len(few.label)), few.label
    inputs = np.column_stack([sample.tagger, sample.jets.count, sample.jets.mass, sample.jets.ptrel_sum])
    return [
        certificate.sampler_log_prob(sampled[own], few.log_prob[own]),
        *certificate.steps(few.log_prob, finer.log_prob, few.label, rng, RESAMPLES),
        certificate.own_path(*trace),
        *certificate.calibration(sample.llr, sample.label),
        certificate.residual(sample.llr, sample.label, inputs, rng),
        certificate.dominance("", sample.tagger, sample.llr, sample.label, rng, RESAMPLES),
        certificate.excess_cross_entropy("", sample.tagger, sample.llr, sample.label),
        certificate.closure(truth, few.log_prob)[1],
    ]


def trained_tagger(features: Features, rng: np.random.Generator) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with seeded(generator):
        tagger = taggers.build("transformer", features, width=32, heads=4, blocks=2)
    data, validation = (taggers.tensors(features, *draw(n, rng)) for n in (TAGGER_JETS, 1000))
    with tempfile.TemporaryDirectory() as folder:
        train(tagger, taggers.loss, data, validation, TAGGER, generator, Path(folder) / "checkpoint")
    return tagger


def as_if_alone(velocity, x, t, mask, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocity, and by how much a trace is off that sums a derivative over particles as if they did not interact.

    All particles are moved together along each coordinate, so that what one does to another is counted, too.
    """
    v, exact = velocity.own_path(x, t, mask)

    def along(direction):
        moved = direction.expand_as(x) * mask[..., None]
        return torch.func.jvp(lambda y: velocity(y, t, mask), (x,), (moved,))[1]

    derivatives = torch.vmap(along)(torch.eye(3, dtype=x.dtype))
    return v, derivatives.diagonal(dim1=0, dim2=3).sum((1, 2)) - exact


@torch.no_grad()
def wrong_traces(features: Features, jets: Jets) -> np.ndarray:
    """What `as_if_alone` adds to log p (n, 2), on a coarse grid: the size of a break needs no more."""
    x, mask = torch.from_numpy(features.forward(jets)), torch.from_numpy(jets.mask)
    times = Solver("midpoint", 3, 2.0).times()
    columns = []
    for model in surrogates(features, SOLVER):
        parts = zip(x.split(1024), mask.split(1024), strict=True)
        added = [integrate(model.velocity, *part, times, "midpoint", as_if_alone)[1] for part in parts]
        columns.append(torch.cat(added).numpy())
    return np.stack(columns, axis=1)


@torch.no_grad()
def traces(features: Features, jets: Jets) -> tuple[np.ndarray, np.ndarray]:
    """Exact div v (n,) at t = 1/2 and the error of `as_if_alone` there."""
    x, mask = torch.from_numpy(features.forward(jets)), torch.from_numpy(jets.mask)
    t = torch.tensor(0.5, dtype=torch.float64)
    velocity = toy.ToyVelocity("top", features, SCHEDULES["cosine"])
    return jacobian(velocity, x, t, mask)[1].numpy(), as_if_alone(velocity, x, t, mask, None)[1].numpy()


def measure() -> pd.DataFrame:
    """One line a break, size, number of jets and row: the share of repetitions in which the row fails.

    `auc` and `kl` are by how much the limit's AUC is off and the mean KL of its posterior from the true one, nats.
    """
    rng, began = np.random.default_rng(1), time.monotonic()
    n = max(size * repetitions for size, repetitions in REPETITIONS.items())
    jets, _ = draw(n, rng)
    features = Features.fit([jets[:n], jets[n:]])
    tagger = trained_tagger(features, rng)

    def sample(jets: Jets, label: np.ndarray, log_prob: np.ndarray, refined: int = 1) -> Sample:
        logits = taggers.logits(tagger, *taggers.tensors(features, jets, label)[:2]).numpy()
        return Sample(jets, label, log_prob, logits, features, refined)

    jets, label = draw(n, rng)
    everyone = sample(jets, label, true_log_prob(jets))
    jets, label = draw(CHECKED, rng)
    truth, (trace, alone) = true_log_prob(jets), traces(features, jets)
    few, finer = (sample(jets, label, score(surrogates(features, SOLVER.refined(k)), jets), refined=k) for k in (1, 2))
    best, own = auc(everyone.llr, everyone.label), auc(everyone.tagger, everyone.label)
    excess = excess_kl(everyone.llr, everyone.tagger).mean()
    print(f"AUC of the LLR {best:.4f}, of the tagger {own:.4f} with an excess of {excess:.4f} nats a jet")

    lines = []
    cases = [("none", 0, Break(lambda sample, size, rng: sample, "nothing", (), ""))]
    cases += [(name, size, broken) for name, broken in BREAKS.items() for size in broken.sizes]
    for name, size, broken in cases:
        whole = everyone if broken.what == "tagger" else broken.apply(everyone, size, rng)
        checked = [broken.apply(s, size, rng) if broken.what == "log_prob" else s for s in (few, finer)]
        found = trace + (size * alone if broken.apply is wrong_trace else 0)
        sampled = checked[0].log_prob if broken.apply is wrong_trace else truth  # both passes share the trace
        shift, kl = auc(whole.llr, whole.label) - best, excess_kl(everyone.llr, whole.llr).mean()
        for jets_a_class, repetitions in REPETITIONS.items():
            for r in range(repetitions):
                part = whole[np.arange(2 * n) % n // jets_a_class == r]
                if broken.what == "tagger":  # it is trained on the very jets of each repetition
                    part = broken.apply(part, size, rng)
                lines += [
                    (name, size, jets_a_class, row.row.strip(), row.verdict == "fail", shift, kl)
                    for row in rows(part, *checked, truth, sampled, (trace, found), rng)
                ]
        print(f"{name} {size}: AUC {shift:+.4f}, KL {kl:.4f} nats; {time.monotonic() - began:.0f} s", flush=True)
    table = pd.DataFrame(lines, columns=["break", "size", "jets", "row", "fails", "auc", "kl"])
    return table.groupby(["break", "size", "jets", "row", "auc", "kl"], sort=False)["fails"].mean().reset_index()


def smallest(table: pd.DataFrame) -> pd.DataFrame:
    """The smallest size seen, by row, break and number of jets; NaN where no size is."""
    lines = []
    for (name, jets, row), cell in table[table["break"] != "none"].groupby(["break", "jets", "row"], sort=False):
        seen = (cell["fails"] > 0.5).to_numpy()[::-1].cumprod()[::-1].astype(bool)  # at all larger sizes, too
        lines.append((name, jets, row, cell["size"].to_numpy()[seen][0] if seen.any() else np.nan, seen.mean()))
    return pd.DataFrame(lines, columns=["break", "jets", "row", "size", "share"])


@rc_context(STYLE | {"xtick.minor.visible": False, "ytick.minor.visible": False, "xtick.top": False})
def draw_table(table: pd.DataFrame) -> Figure:
    """Heat maps of rows and breaks, one for each number of jets."""
    sizes = smallest(table)
    names, samples = list(BREAKS), list(REPETITIONS)
    labels = list(dict.fromkeys(sizes["row"]))
    figure = Figure(figsize=(8.4, 7.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for axes, jets in zip(panels, (samples[0], samples[-1]), strict=True):
        cells = sizes[sizes["jets"] == jets].pivot(index="row", columns="break").loc[labels]
        axes.imshow(cells["share"][names], cmap="Oranges", vmin=0, vmax=1.4, aspect="auto")
        for (y, x), size in np.ndenumerate(cells["size"][names].to_numpy()):
            axes.text(x, y, "–" if np.isnan(size) else f"{size:g}", ha="center", va="center")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_title(f"{jets:,} jets per class (rows 1 to 3 and 8: {CHECKED})", loc="left")
        axes.tick_params(length=0)
        axes.spines[:].set_color(GREY)
    ticks = [f"{fill(name, 14)}\n\n{fill(broken.unit, 14)}" for name, broken in BREAKS.items()]
    panels[-1].set_xticks(range(len(names)), ticks, fontsize=7)
    figure.suptitle("The mildest size of each break (columns) that a row of the certificate sees", fontsize=10)
    return figure


def markdown(table: pd.DataFrame) -> str:
    """Rows against breaks, the smallest size seen at each number of jets."""
    sizes = smallest(table)
    cells = sizes.assign(size=[f"{s:g}" if np.isfinite(s) else "–" for s in sizes["size"]])
    joined = cells.groupby(["row", "break"], sort=False)["size"].agg(
        lambda s: s.iloc[0] if s.nunique() == 1 else " / ".join(s)
    )
    grid = joined.unstack()[list(BREAKS)]
    lines = ["| row | " + " | ".join(grid.columns) + " |", "|" + " --- |" * (1 + len(grid.columns))]
    return "\n".join(
        lines + ["| " + " | ".join([row, *values]) + " |" for row, values in zip(grid.index, grid.values, strict=True)]
    )


if __name__ == "__main__":
    table = measure()
    table.round(6).to_csv(HERE / "power.csv", index=False)
    draw_table(table).savefig(HERE.parent / "docs" / "power.png", dpi=150)
    alarms = table[(table["break"] == "none") & (table["fails"] > 0)]
    print(f"\nfalse alarms without a break: {len(alarms)}\n\n{markdown(table)}")
