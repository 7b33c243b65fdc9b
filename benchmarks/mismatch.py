"""What a mismatch does: jets sampled by the reverse SDE, scored by the probability flow.

    python benchmarks/mismatch.py

On toy jets, with the closed-form velocity, a trained network and a deliberately poor one. Each pair of surrogates
draws jets by its own flow and by the reverse SDE, and the certificate is asked about the flow's LLR on either. The
tagger of rows 5 and 6 is the toy's true LLR: a function of the jet as good as any. Writes mismatch.csv and
velocity_error.csv beside this file and docs/mismatch.png.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from exact import N_MAX, draw, surrogates, true_log_prob
from matplotlib import rc_context
from matplotlib.figure import Figure

from jetstudy import certificate
from jetstudy.diffusion import Design, velocity_error
from jetstudy.features import Features
from jetstudy.figures import COLOURS, GREY, LINES, MARKERS, STYLE
from jetstudy.jets import Jets, arrange, concatenate
from jetstudy.limit import auc, log_ratio
from jetstudy.probability_flow import Solver, reverse_sde
from jetstudy.schedules import SCHEDULES
from jetstudy.surrogate import Surrogate, build_network, fit, score
from jetstudy.training import Recipe, seeded

HERE = Path(__file__).parent
JETS = 6000  # a class, drawn by each sampler
TRAINING_JETS = 20_000  # a class
TRAININGS = {"trained": 4000, "poor": 100}  # steps
SOLVER = Solver("midpoint", 10, 2.0)
SDE_TIMES = Solver("euler", 100, 1.5).times()[::-1]
CHURN = 2.0
CHECKED = 250
TIMES = np.round(np.linspace(0.02, 0.98, 17), 2)


def trained(steps: int, jets: list[Jets], exact: list[Surrogate]) -> list[Surrogate]:
    """Both classes' surrogates after so many steps of training."""
    models = []
    for seed, (own, model) in enumerate(zip(jets, exact, strict=True)):
        generator = torch.Generator().manual_seed(seed)
        with seeded(generator):
            network = build_network("one_hop", width=64, heads=4, layers=2, reads=2, n_max=N_MAX)
        recipe = Recipe(steps, batch=128, rate=2e-3, every=max(50, steps // 5), ema=0.99)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / "checkpoint"
            fit(network, [own], model.features, Design(), recipe, generator, checkpoint)
        models.append(replace(model, velocity=network))
    return models


@torch.no_grad()
def sde_jets(model: Surrogate, n: int, generator: torch.Generator) -> Jets:
    """n jets drawn by the reverse SDE of a surrogate's velocity."""
    count = torch.multinomial(torch.from_numpy(model.p_count), n, replacement=True, generator=generator)
    mask = torch.arange(N_MAX) < count[:, None]
    z = torch.randn(n, N_MAX, 3, generator=generator, dtype=torch.float64) * mask[..., None]
    parts = zip(z.split(1024), mask.split(1024), strict=True)
    drawn = [reverse_sde(model.velocity, *p, SDE_TIMES, Design(), CHURN, generator) for p in parts]
    particles = model.features.inverse(torch.cat(drawn).numpy(), mask.numpy()).astype(np.float32)
    return arrange(particles, mask.numpy(), np.zeros((n, 4)))


def rows(models: list[Surrogate], jets: Jets, rng: np.random.Generator) -> list[certificate.Row]:
    """Rows 1 to 6 of jets (background first, as many of either class) under the flows of `models`."""
    n = len(jets) // 2
    few, few_label = jets[np.arange(2 * n) % n < CHECKED], np.repeat([0, 1], CHECKED)
    there, back = models[0].round_trip(few)
    doubled = score([replace(model, solver=model.solver.refined(2)) for model in models], few)
    traces = models[1].divergences(few[:64], torch.Generator().manual_seed(1))
    label, llr = np.repeat([0, 1], n), log_ratio(score(models, jets))
    truth = log_ratio(true_log_prob(jets))
    inputs = np.column_stack([truth, jets.count, jets.mass, jets.ptrel_sum])
    print(f"AUC of the LLR {auc(llr, label):.4f}, of the toy's true LLR {auc(truth, label):.4f}", flush=True)
    return [
        *certificate.round_trip(there, back, few.mask),
        *certificate.steps(score(models, few), doubled, few_label, rng),
        certificate.own_path(traces["jacobian"], traces["own_path"]),
        *certificate.calibration(llr, label),
        certificate.residual(llr, label, inputs, rng),
        certificate.dominance("", truth, llr, label, rng),
        certificate.excess_cross_entropy("", truth, llr, label),
    ]


def measure() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The certificate by network and sampler, and the error of each network's velocity against t."""
    rng = np.random.default_rng(6)
    jets, _ = draw(TRAINING_JETS, rng)
    jets = [jets[:TRAINING_JETS], jets[TRAINING_JETS:]]
    features = Features.fit(jets)
    exact = surrogates(features, SOLVER)
    networks = {"closed form": exact} | {name: trained(steps, jets, exact) for name, steps in TRAININGS.items()}
    certificates, errors = [], []
    for name, models in networks.items():
        generator = torch.Generator().manual_seed(7)
        samplers = {"flow": lambda model, g: model.sample(JETS, g), "SDE": lambda model, g: sde_jets(model, JETS, g)}
        for sampler, sample in samplers.items():
            drawn = concatenate([sample(model, generator) for model in models])
            found = certificate.table(rows(models, drawn, rng))
            certificates.append(found.assign(network=name, sampler=sampler))
            print(f"{name}, {sampler}: {', '.join(found['row'][found['verdict'] == 'fail'])}", flush=True)
        for model, closed, own in zip(models, exact, jets, strict=True) if name != "closed form" else ():
            x, mask = torch.from_numpy(features.forward(own[:2000])).float(), torch.from_numpy(own[:2000].mask)
            arguments = model.velocity, closed.velocity, x, mask, SCHEDULES["cosine"], TIMES.tolist(), generator
            errors.append(velocity_error(*arguments).assign(network=name, label=model.label))
    return pd.concat(certificates, ignore_index=True), pd.concat(errors, ignore_index=True)


@rc_context(STYLE)
def draw_tables(rows: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, ((network, label), lines) in enumerate(errors.groupby(["network", "label"], sort=False)):
        style = {"color": COLOURS[i // 2], "linestyle": LINES[i % 2]}
        left.plot(lines["t"], lines["error"], label=f"{network}, {label}", **style)
    for i, (label, lines) in enumerate(errors.drop_duplicates(["label", "t"]).groupby("label", sort=False)):
        style = {"color": GREY, "linestyle": LINES[i], "linewidth": 0.8}
        left.plot(lines["t"], lines["exact"], label=rf"$E|v^*|^2$, {label}", **style)
    left.set(yscale="log", xlabel="t (0: data, 1: noise)", ylabel=r"$E|v_\theta - v^*|^2$ a coordinate")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    slopes = rows[rows["row"] == "4 slope"].reset_index()
    for i, (sampler, lines) in enumerate(slopes.groupby("sampler", sort=False)):
        x = np.arange(len(lines)) + 0.16 * (i - 0.5)
        style = {"linestyle": "", "marker": MARKERS[i], "color": COLOURS[i], "label": f"sampled by the {sampler}"}
        right.errorbar(x, lines["value"] + 1, lines["uncertainty"], **style)
    names = list(dict.fromkeys(slopes["network"]))
    right.axhspan(1 - certificate.SLOPE, 1 + certificate.SLOPE, color="#eeeeee", zorder=0)
    right.axhline(1, color=GREY, linewidth=0.8)
    right.set_xticks(range(len(names)), names)
    right.minorticks_off()
    right.set(ylabel="slope on the flow's LLR (row 4)", xlim=(-0.5, len(names) - 0.5))
    right.legend()
    return figure


if __name__ == "__main__":
    found, errors = measure()
    found.drop(columns="property").round(6).to_csv(HERE / "mismatch.csv", index=False)
    errors.round(6).to_csv(HERE / "velocity_error.csv", index=False)
    draw_tables(found, errors).savefig(HERE.parent / "docs" / "mismatch.png", dpi=150)
    print(found.pivot_table("verdict", "row", ["network", "sampler"], "first", sort=False).to_string())
