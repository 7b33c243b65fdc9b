"""What the density of a jet costs, beside public codes, a bare forward pass and this machine's matrix multiplication.

    python benchmarks/densities.py [--surrogate outputs/quick/surrogates/top/1]

times one evaluation (velocity and divergence) and a whole log p by each way to the divergence, training and sampling,
all on the network of the parameter set `quick`: a stored surrogate's, or else one that is trained here for half a
minute on the set's top jets. Prints what it measures; writes results.json beside this file, docs/speed.png and the
tables of docs/speed.md.
"""

import argparse
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from jetstudy import study
from jetstudy.diffusion import Design, loss
from jetstudy.divergence import estimator
from jetstudy.features import Edge, Features
from jetstudy.figures import COLOURS, GREY, LINES, STYLE
from jetstudy.files import digest, write_json
from jetstudy.jets import Jets
from jetstudy.probability_flow import Solver, log_normal
from jetstudy.sources import draw
from jetstudy.surrogate import BATCH, Surrogate, build_network, fit
from jetstudy.training import Recipe, seeded

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PARTICLES = (10, 30, 60, 150)
ESTIMATORS = ("own_path", "jacobian", "hutchinson-1", "hutchinson-4")
LABELS = {name: name for name in ("forward", *ESTIMATORS)} | {
    "forward": "bare forward pass",
    "zuko": "zuko, exact trace",
    "torchdiffeq": "torchdiffeq, one probe",
}
SLOW = ("jacobian", "zuko")  # by the whole Jacobian: on few jets at once
FEW = 120  # particles
LOOSE = 1.0  # a tolerance that a few steps meet; with a looser one a step may go so far that ptrel overflows
TOLERANCES = tuple(10 ** (-k / 2) for k in range(2, 11))
FINEST = 1e-6
SEED = 1

RATIOS = ("forward_passes", "times_jacobian", "of_peak")
ACCURACY = ("evaluations", "error", "error_of_solver", "tolerance")
COLUMNS = ("part", "method", "particles", "value", "unit", "gigaflop", *RATIOS, *ACCURACY)

Result = TypeVar("Result")


class Flat:
    """A velocity as f(t, x) of jets x (B, 3N) without padding; ``calls`` counts its evaluations."""

    def __init__(self, velocity: nn.Module):
        self.velocity, self.calls = velocity, 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        x = x.unflatten(1, (-1, 3))
        return self.velocity(x, t, torch.ones(x.shape[:2], dtype=torch.bool)).flatten(1)


# --- measuring ----------------------------------------------------------------------------------------------------


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What the call returns, and its seconds."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def seconds(call: Callable[[], object], least: float) -> float:
    """Median time of a call, of three or more that last ``least`` seconds or more together, after one to warm up."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < least:
        times.append(timed(call)[1])
    return float(np.median(times))


def gigaflop(call: Callable[[], object]) -> float:
    """Floating-point operations of a call's matrix products, in 10^9."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def seeded_generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def at_once(method: str, n: int) -> int:
    """Jets of n particles that go together."""
    return max(1, (FEW if method in SLOW else BATCH["cpu"]) // n)


def row(part: str, method: str, particles: int, value: float, unit: str = "jets/s", **more: float) -> dict:
    line = {"part": part, "method": method, "particles": particles, "value": value, "unit": unit, **more}
    print(*(f"{entry:.4g}" if isinstance(entry, float) else entry for entry in line.values()), sep="  ", flush=True)
    return line


def peak(least: float, size: int = 2048) -> dict:
    """The speed of a large float32 matrix product."""
    a, b = torch.rand(2, size, size)
    return row("machine", "matrix multiplication", 0, 2e-9 * size**3 / seconds(lambda: a @ b, least), "GFLOP/s")


def trained(params: Mapping, steps: int, n_jets: int) -> tuple[Surrogate, dict]:
    """A surrogate of top jets without padding: network, recipe and solver of ``params``, but for the ``steps``."""
    n_max, generator = params["n_max"], seeded_generator()
    design = Design(params["schedule"], params["times"], params["pairing"])
    jets = draw(params["source"], "top", n_jets, n_max, SEED, params["classes"], params["files"], params["threads"])
    jets = jets[jets.count == n_max]
    features = Features.fit([jets], params["stretch"], Edge.at(params["edge"]))
    with seeded(generator):
        sizes = {name: params[name] for name in ("width", "heads", "layers", "reads")}
        velocity = build_network(params["network"], **sizes, n_max=n_max, momentum_scale=features.std[2])
    recipe = Recipe(steps, params["training_batch"], params["training_rate"], every=steps)
    some = jets[: recipe.batch]
    batch = torch.from_numpy(features.forward(some)).float(), torch.from_numpy(some.mask)
    work = gigaflop(lambda: loss(velocity, batch, generator, design).backward()) / len(some)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        _, took = timed(partial(fit, velocity, [jets], features, design, recipe, generator, checkpoint))
    solver = Solver(params["solver"], params["solver_steps"], params["solver_power"])
    model = Surrogate("top", velocity.eval(), features, np.eye(n_max + 1)[n_max], solver, params["divergence"])
    return model, row("training", "step", n_max, steps * recipe.batch / took, gigaflop=work)


def sampled(model: Surrogate, n: int) -> tuple[Jets, dict]:
    """n jets drawn from the model."""
    jets, took = timed(lambda: model.sample(n, seeded_generator()))
    return jets, row("sampling", "forward", jets.n_max, n / took, evaluations=model.solver.evaluations)


@torch.no_grad()
def evaluations(
    network: nn.Module, particles: Iterable[int], rivals: Mapping[str, Callable], least: float
) -> list[dict]:
    """One evaluation of velocity and divergence by each way, and of the velocity alone ("forward")."""
    rows, t = [], torch.tensor(0.5)
    for n in particles:
        velocity = build_network(**network.settings | {"n_max": n}).requires_grad_(False)
        velocity.load_state_dict(network.state_dict())
        for method in ("forward", *ESTIMATORS, *rivals):
            jets, f = at_once(method, n), Flat(velocity)
            x, mask = torch.randn(jets, n, 3, generator=seeded_generator()), torch.ones(jets, n, dtype=torch.bool)
            if method == "forward":
                call = partial(velocity, x, t, mask)
            elif method in rivals:
                call = partial(rivals[method], f, x.flatten(1), LOOSE)
            else:
                call = partial(estimator(method), velocity, x, t, mask, seeded_generator())
            # Forward passes alone: the counter does not see through functorch's backward ones.
            more = {"gigaflop": gigaflop(call) / jets} if method in ("forward", "own_path") else {}
            call()  # counts a rival's evaluations
            each = jets * max(1, f.calls)  # a rival's few loose steps have several evaluations
            rows.append(row("evaluation", method, n, each / seconds(call, least), **more))
    return rows


@torch.no_grad()
def by_rival(method: str, solve: Callable, model: Surrogate, jets: Jets, tolerance: float) -> tuple[np.ndarray, float]:
    """log p (n,) of jets without padding, and the evaluations that a batch took."""
    n, f = jets.n_max, Flat(model.velocity)
    batches = torch.from_numpy(model.features.forward(jets)).float().flatten(1).split(at_once(method, n))
    z, integral = map(torch.cat, zip(*(solve(f, batch, tolerance) for batch in batches), strict=True))
    inner = log_normal(z.unflatten(1, (n, 3)), torch.ones(len(z), n)) + integral
    return inner.numpy() + np.log(model.p_count[n]) + model.features.log_jacobian(jets), f.calls / len(batches)


def log_probs(model: Surrogate, jets: Jets, few: int, rivals: Mapping[str, Callable]) -> list[dict]:
    """A whole log p by each way, with its error: the median distance to a solution with eight times the steps.

    A rival's tolerance is the loosest of TOLERANCES whose solver errs no more than the default. Where one probe is kept
    along the path, no tolerance takes its noise away: the solver's error is then the distance to the finest tolerance
    with the same probe, and the error has the noise as well.
    """
    rows, model = [], replace(model, velocity=model.velocity.requires_grad_(False))
    refined = replace(model, solver=model.solver.refined(8)).log_prob(jets)
    default = np.abs(replace(model, divergence="own_path").log_prob(jets) - refined)

    def add(method: str, log_p: np.ndarray, took: float, **more: float) -> None:
        n, error = len(log_p), np.abs(log_p - refined[: len(log_p)])
        rows.append(row("log p", method, jets.n_max, n / took, error=float(np.median(error)), **more))

    for method in ESTIMATORS:
        part, estimated = jets[:few] if method in SLOW else jets, replace(model, divergence=method)
        found = timed(partial(estimated.log_prob, part, seeded_generator()))
        add(method, *found, evaluations=model.solver.evaluations)
    for method, solve in rivals.items():
        part = jets[:few] if method in SLOW else jets
        run = partial(by_rival, method, solve, model, part)
        converged = refined[: len(part)] if method in SLOW else run(FINEST)[0]
        for tolerance in TOLERANCES:
            (log_p, calls), took = timed(partial(run, tolerance))
            of_solver = float(np.median(np.abs(log_p - converged)))
            if of_solver <= np.median(default[: len(part)]):
                break
        add(method, log_p, took, evaluations=calls, error_of_solver=of_solver, tolerance=tolerance)
    return rows


def with_ratios(rows: list[dict]) -> pd.DataFrame:
    """The rows with their cost in bare forward passes, their speed over the jacobian's and their share of the peak."""
    found = {(line["part"], line["method"], line["particles"]): line for line in rows}
    best = found["machine", "matrix multiplication", 0]["value"]
    for (part, method, n), line in found.items():
        if part == "machine":
            line |= {"gigaflop": 1.0, "of_peak": 1.0}
            continue
        line["forward_passes"] = found["evaluation", "forward", n]["value"] / line["value"]
        if (part, "jacobian", n) in found:
            line["times_jacobian"] = line["value"] / found[part, "jacobian", n]["value"]
        if "evaluations" in line and "gigaflop" in found["evaluation", method, n]:
            line["gigaflop"] = line["evaluations"] * found["evaluation", method, n]["gigaflop"]
        if "gigaflop" in line:
            line["of_peak"] = line["value"] * line["gigaflop"] / best
    return pd.DataFrame(rows, columns=COLUMNS)


def setting(model: Surrogate, weights: str) -> dict[str, object]:
    """What was measured on what."""
    cpu = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpu.read_text() if cpu.exists() else "")
    return {
        "network": dict(model.velocity.settings),
        "parameters": sum(p.numel() for p in model.velocity.parameters()),
        "trained": weights,
        "solver": asdict(model.solver),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": (names or [platform.processor() or platform.machine()])[0],
    }


def figures(table: pd.DataFrame) -> list[dict]:
    """Each figure with a name and a unit, its ratios beside it."""
    result = []
    for line in table.to_dict("records"):
        part, method, n = (line.pop(key) for key in ("part", "method", "particles"))
        known = {key: value for key, value in line.items() if not pd.isna(value)}
        result.append({"name": ", ".join([part, method, *([f"N = {n}"] if n else [])]), **known})
    return result


# --- showing ------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Three digits; nothing for NaN."""
    return "" if pd.isna(value) else f"{float(f'{value:.3g}'):,.15g}"


def note(out: Path, folder: Path, pattern: str) -> None:
    """Note in ``out`` that it is made from these files of ``folder``; ValueError if it was made from others."""
    noted = out / "made_from.json"
    found = {str(path.relative_to(folder)): digest(path) for path in sorted(folder.glob(pattern))}
    if not noted.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(noted, found)
    if (before := json.loads(noted.read_text())) != found:
        others = sorted({*before.items()} ^ {*found.items()})
        raise ValueError(f"{out} was made from another {others[0][0]}: take another folder")


def markdown(header: list[str], lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))


def tables(table: pd.DataFrame, about: Mapping) -> dict[str, str]:
    """What docs/speed.md shows, by the name of its place there."""
    evaluation, log_p = (table[table["part"] == part] for part in ("evaluation", "log p"))
    network = ", ".join(f"{key} {value}" for key, value in about["network"].items() if key != "n_max")
    speeds = [
        [LABELS[method], *(f"{number(line.value)} ({number(line.forward_passes)})" for line in lines.itertuples())]
        for method, lines in evaluation.groupby("method", sort=False)
    ]
    own = evaluation[evaluation["method"] == "own_path"]
    speeds.append(["own_path over jacobian", *map(number, own["times_jacobian"])])
    columns = ["value", "evaluations", "forward_passes", "times_jacobian", "tolerance", "error_of_solver", "error"]
    header = ["jets/s", "evaluations", "forward passes", "over jacobian", "tolerance", "error of the solver", "error"]
    whole = zip(map(LABELS.get, log_p["method"]), *(map(number, log_p[name]) for name in columns), strict=True)
    machine = [
        [
            f"{line.part}, {LABELS.get(line.method, line.method)}"
            + (f", N = {line.particles}" if line.particles else ""),
            number(line.value) if line.unit == "jets/s" else "",
            number(line.value * line.gigaflop),
            f"{line.of_peak:.0%}",
        ]
        for line in table[table["of_peak"].notna()].itertuples()
    ]
    return {
        "setting": f"{about['threads']} threads of {about['processor']}, PyTorch {about['torch']}. Network: {network}; "
        f"{about['parameters']:,} parameters, trained for {about['trained']}.",
        "evaluation": markdown(["", *(f"N = {n}" for n in evaluation["particles"].unique())], speeds),
        "log p": markdown(["", *header], whole),
        "machine": markdown(["", "jets/s", "GFLOP/s", "of the peak"], machine),
    }


def filled(page: str, texts: Mapping[str, str]) -> str:
    """The page with each text in its place, between <!-- name --> and <!-- end -->; ValueError if it has none."""
    for name, text in texts.items():
        page, places = re.subn(
            f"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda found, text=text: f"{found[1]}{text}\n{found[2]}",
            page,
            flags=re.S,
        )
        if not places:
            raise ValueError(f"no place for {name!r}")
    return page


@rc_context(STYLE)
def figure_of(table: pd.DataFrame) -> Figure:
    """Left: jets/s of one evaluation against N. Right: jets/s of a log p against its error."""
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    style = dict(zip(LABELS, zip((GREY, *COLOURS[:6]), LINES, "Pos^DvX", strict=True), strict=True))
    evaluation, log_p = (table[table["part"] == part] for part in ("evaluation", "log p"))
    for method, lines in evaluation.groupby("method", sort=False):
        colour, line, marker = style[method]
        left.plot(lines["particles"], lines["value"], color=colour, linestyle=line, marker=marker, label=LABELS[method])
    left.set(xscale="log", yscale="log", xlabel="particles a jet", ylabel="jets/s, one evaluation")
    ticks = sorted(evaluation["particles"].unique())
    left.set_xticks(ticks, map(str, ticks))
    left.xaxis.minorticks_off()
    for line in log_p.itertuples():
        colour, _, marker = style[line.method]
        right.plot(line.error, line.value, color=colour, marker=marker, linestyle="", markersize=7)
    right.set(xscale="log", yscale="log", xlabel="median error of log p  [nats]", ylabel="jets/s, a whole log p")
    right.margins(0.15)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def main() -> None:
    from rivals import RIVALS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--surrogate", type=Path, help="folder of a stored surrogate of jets without padding")
    folder, params = parser.parse_args().surrogate, study.load("quick")
    torch.set_num_threads(params["threads"])
    rows, steps = [peak(least=2)], 600
    model, line = trained(params, steps, n_jets=5000)
    rows.append(line)
    if folder:
        model = replace(Surrogate.load(folder), acceptance=None)  # the flow's density is what others solve for
    jets, line = sampled(model, 512)
    rows += [line, *evaluations(model.velocity, PARTICLES, RIVALS, least=1), *log_probs(model, jets, 16, RIVALS)]
    table, weights = with_ratios(rows), str(folder) if folder else f"{steps} steps on {params['source']} jets"
    about = setting(model, weights)
    write_json(HERE / "results.json", {"setting": about, "figures": figures(table)})
    page = DOCS / "speed.md"
    page.write_text(filled(page.read_text(), tables(table, about)))
    figure_of(table).savefig(DOCS / "speed.png", dpi=150)


if __name__ == "__main__":
    main()
