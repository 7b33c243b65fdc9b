"""The field's designs of a surrogate beside ours, trained for equal times on the same jets, and judged alike.

    python benchmarks/surrogates.py train outputs/reference/jets build/surrogates --label top --seconds 240
    python benchmarks/surrogates.py compare outputs/reference/jets build/surrogates

The first trains each entry of DESIGNS and of STEPS (or those named by --only) on one thread for so many seconds of
processor time and draws jets from it; a folder that is finished is left alone. The second compares what is there
with the source's test jets, has JUDGES tell them apart, and writes designs.csv, ablation.csv, one_changed.csv,
sizes.csv and long.csv beside this file, the figure docs/designs.png, and the tables of docs/surrogates.md.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from densities import filled, markdown
from torch import Tensor

from jetstudy import fidelity, figures, judges, report
from jetstudy.diffusion import Design, loss
from jetstudy.features import Edge, Features, Stretch
from jetstudy.files import write_json
from jetstudy.jets import Jets, read_jets, split, write_jets
from jetstudy.probability_flow import Solver
from jetstudy.surrogate import Surrogate, build_network, count_probabilities, fit, of_class
from jetstudy.training import OPTIMISERS, Recipe, seeded

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
CLASSES = ("gluon", "top")
SOLVER = Solver("rk4", 9, 2.0)
SAMPLED, SCORED, SCORED_SLOWLY, SOLVED, MATCHED = 5000, 400, 24, 30, 50
JUDGES, JUDGE_STEPS = ("boosting", "transformer", "lorentznet"), 600
SEED = 7
RADIUS = 0.4  # of the jets
CHOICES = ("schedule", "times", "pairing")

PLAIN = {
    **{"network": "one_hop", "width": 64, "heads": 4, "layers": 2, "reads": 2, "stretch": 0.0},
    **{"schedule": "cosine", "times": "uniform", "pairing": "independent"},
    **{"optimiser": "adamw", "batch": 128, "rate": 2e-3, "course": "cosine", "ema": 0.999},
    **{"edge": None, "normal_ptrel": False, "compiled": False},
}
STRETCHED = PLAIN | {"stretch": 0.6}
MUON = STRETCHED | {"optimiser": "muon"}
OURS = MUON | {"batch": 64, "rate": 3e-3}
# Of the field, each as far as it is a choice of this design; their sizes are larger, and were trained for days.
DESIGNS = {
    "PC-JeDi": PLAIN | {"network": "transformer", "reads": 4, "times": "noise"},
    "FPCD": PLAIN | {"network": "transformer", "reads": 4},
    "EPiC-JeDi": PLAIN | {"network": "epic", "reads": 6, "times": "noise"},
    "EPiC-FM": PLAIN | {"network": "epic", "reads": 6, "schedule": "linear"},
    "PC-Droid": PLAIN | {"network": "cross_attention", "reads": 3, "times": "log_normal"},
    "one_hop": OURS,
}
# W1 of mass that papers quote for JetNet30, 1e-3: PC-JeDi with 200 Euler-Maruyama steps, and its own floor of two
# samples of the source (arXiv:2303.05376); FPCD with 512 evaluations (arXiv:2304.01266).
PUBLISHED = {
    "gluon": {"PC-JeDi": "0.57", "FPCD": "0.36", "source against source": "0.44"},
    "top": {"PC-JeDi": "1.36", "FPCD": "0.51", "source against source": "0.32"},
}
# From the simplest to ours, and what was tried on the way.
STEPS = {
    "plain": PLAIN,
    "log-normal times": PLAIN | {"times": "log_normal"},
    "stretched to 0.3": PLAIN | {"stretch": 0.3},
    "stretched to 0.6": STRETCHED,
    "stretched, log-normal times": STRETCHED | {"times": "log_normal"},
    "Muon": PLAIN | {"optimiser": "muon"},
    "Muon, stretched to 1": MUON | {"stretch": 1.0},
    "Muon, stretched to 1, width 96": MUON | {"stretch": 1.0, "width": 96, "heads": 6},
    "Muon, stretched, 4 reads": MUON | {"reads": 4},
    "Muon, stretched, batch 64": OURS,
    "as before, assigned noise": OURS | {"pairing": "assigned"},
}
# Ours with one thing changed that is not the design's: how its weights are averaged, how the learning rate goes, what
# it runs on, and the end of a jet at R made wider.
DEFAULT = "our default"
ONE_CHANGED = {
    DEFAULT: OURS,
    "weights not averaged": OURS | {"ema": 0.0},
    "constant rate": OURS | {"course": "constant"},
    "compiled": OURS | {"compiled": True},
    "edge four times as wide": OURS | {"edge": Edge(RADIUS, width=0.02, gap=0.06)},
    "edge eight times as wide": OURS | {"edge": Edge.at(RADIUS)},
}
# Ours, trained again on another machine, with another map of ptrel, and with one thing about its size changed.
AGAIN = "our default, again"
SIZES = {
    AGAIN: OURS,
    "log ptrel made normal": OURS | {"normal_ptrel": True},
    "no block before the first read": OURS | {"layers": 0},
    "four blocks": OURS | {"layers": 4},
    "four reads": OURS | {"reads": 4},
    "width 96": OURS | {"width": 96, "heads": 6},
}
# As good as two cores make it in less than an hour a class; trained by name: --only long --seconds 2400.
LONG = {"long": OURS | {"stretch": 0.8, "width": 96, "heads": 6, "reads": 4, "rate": 2.5e-3}}
TABLES = {
    **{"designs": list(DESIGNS), "ablation": list(STEPS), "one_changed": list(ONE_CHANGED)},
    **{"sizes": list(SIZES), "long": list(LONG)},
}


def entries() -> dict[str, dict]:
    return DESIGNS | STEPS | ONE_CHANGED | SIZES | LONG


def default_of(name: str) -> str | None:
    """What an entry differs from in one thing, if there is such a one."""
    groups = {DEFAULT: ONE_CHANGED, AGAIN: SIZES}
    return next((default for default, group in groups.items() if name in group and name != default), None)


@dataclass(frozen=True)
class NormalPtrel(Features):
    """Features whose last one, log ptrel, goes through a monotone map that makes it normal for each particle."""

    normal: Stretch | None = None

    @classmethod
    def of(cls, features: Features, classes: Sequence[Jets]) -> "NormalPtrel":
        """The map that is most likely for the particles of some jets of all classes, each with the same weight."""
        values = [features.forward(jets[:5000])[jets.mask[:5000]][:, 2] for jets in classes]
        weight = np.concatenate([np.full(len(own), 1 / len(own)) for own in values])
        normal = Stretch.fit(np.concatenate(values), weight, 1.0)
        return cls(features.mean, features.std, features.stretches, features.edge, normal)

    def forward(self, jets: Jets) -> np.ndarray:
        u = super().forward(jets)
        u[..., 2] = np.where(jets.mask, self.normal(u[..., 2]) - self.normal.centre, 0.0)
        return u

    def inverse(self, u: np.ndarray, mask: np.ndarray) -> np.ndarray:
        ptrel = self.normal.inverse(u[..., 2] + self.normal.centre)
        return super().inverse(np.stack([u[..., 0], u[..., 1], ptrel], axis=-1), mask)

    def log_jacobian(self, jets: Jets) -> np.ndarray:
        slope = self.normal.slope(super().forward(jets)[..., 2])
        return super().log_jacobian(jets) + np.where(jets.mask, np.log(slope), 0.0).sum(1)


def features_of(entry: dict, training: Sequence[Jets]) -> Features:
    features = Features.fit(training, entry["stretch"], entry["edge"])
    return NormalPtrel.of(features, training) if entry["normal_ptrel"] else features


def tensors(features: Features, jets: Jets) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(features.forward(jets)).float(), torch.from_numpy(jets.mask)


def compiled(network: torch.nn.Module, entry: dict, design: Design, data: tuple[Tensor, Tensor]) -> float:
    """Have the network's forward pass compiled if the entry asks for it; the processor seconds of that."""
    if not entry["compiled"]:
        return 0.0
    begun = sum(os.times()[:4])  # the compiler is a process of its own
    torch._inductor.config.compile_threads = 1
    network.forward = torch.compile(network.forward)
    step_time(network, entry, design, data)
    with torch.no_grad():  # as validations do
        loss(network.eval(), data, torch.Generator().manual_seed(0), design)
    network.train()
    return sum(os.times()[:4]) - begun


def step_time(network: torch.nn.Module, entry: dict, design: Design, data: tuple[Tensor, Tensor]) -> float:
    """Processor seconds of one training step, the median of a few."""
    optimiser = OPTIMISERS[entry["optimiser"]](network.parameters(), lr=0.0, weight_decay=0.0)
    generator, took = torch.Generator().manual_seed(0), []
    for _ in range(25):
        begun = time.process_time()
        loss(network, tuple(part[: entry["batch"]] for part in data), generator, design).backward()
        optimiser.step()
        optimiser.zero_grad()
        took.append(time.process_time() - begun)
    return float(np.median(took[5:]))


def untrained(entry: dict, features: Features, n_max: int, **label: int) -> torch.nn.Module:
    sizes = {key: entry[key] for key in ("width", "heads", "layers", "reads")}
    return build_network(entry["network"], **sizes, n_max=n_max, momentum_scale=features.std[2], **label)


def training_splits(jets: dict[str, Jets]) -> dict[str, Jets]:
    return {label: sample[split(len(sample), "train")] for label, sample in jets.items()}


def affordable(entry: dict, features: Features, jets: Jets, seconds: float) -> int:
    """Steps of training on such jets that take so many processor seconds."""
    network, design = untrained(entry, features, jets.n_max), Design(*(entry[key] for key in CHOICES))
    data = tensors(features, jets[:1024])
    seconds -= compiled(network, entry, design, data)
    return max(8, int(seconds / step_time(network, entry, design, data)))


def trained(
    entry: dict,
    labels: Sequence[str],
    jets: dict[str, Jets],
    features: Features,
    steps: int,
    folder: Path,
    generator: torch.Generator,
) -> tuple[list[Surrogate], dict]:
    """The surrogates of ``labels``, one or two classes, by one network, and what its training was."""
    design, n_max, training = Design(*(entry[key] for key in CHOICES)), jets[labels[0]].n_max, training_splits(jets)
    with seeded(generator):
        network = untrained(entry, features, n_max, **({"label": 0} if len(labels) == 2 else {}))
    choices = {"optimiser": entry["optimiser"], "schedule": entry["course"], "ema": entry["ema"]}
    recipe = Recipe(steps, entry["batch"], entry["rate"], max(1, steps // 8), **choices)
    begun = time.process_time()
    compiled(network, entry, design, tensors(features, training[labels[0]][:1024]))
    own = [jets[label] for label in labels]
    losses = fit(network, own, features, design, recipe, generator, folder / "checkpoint.safetensors")
    vars(network).pop("forward", None)  # samples and scores by the code that every surrogate does
    about = {
        "steps": steps,
        "seconds": time.process_time() - begun,
        "parameters": sum(p.numel() for p in network.parameters()),
        "loss": float(losses["validation"].min()),
    }
    exact = "own_path" if hasattr(network, "own_path") else "jacobian"
    counts = {name: dict(zip(*np.unique(t.count, return_counts=True), strict=True)) for name, t in training.items()}
    models = [
        Surrogate(label, velocity, features, count_probabilities(counts, label, n_max), SOLVER, exact, design)
        for label, velocity in zip(labels, [network.eval(), *(of_class(network, 1) for _ in labels[1:])], strict=True)
    ]
    return models, about


def train_one(entry: dict, label: str, jets: dict[str, Jets], seconds: float, folder: Path) -> None:
    """Train a surrogate for so many processor seconds, draw jets from it, and say in ``about.json`` what it was."""
    folder.mkdir(parents=True, exist_ok=True)
    training, generator = training_splits(jets), torch.Generator().manual_seed(SEED)
    features = features_of(entry, list(training.values()))
    if not (planned := folder / "steps.json").exists():  # measured once, so that an interrupted training goes on
        write_json(planned, affordable(entry, features, training[label], seconds))
    steps = json.loads(planned.read_text())
    (model,), about = trained(entry, [label], jets, features, steps, folder, generator)
    begun = time.process_time()
    write_jets(folder / "jets.h5", model.sample(SAMPLED, generator))
    about |= {
        "seconds per 1,000 jets": (time.process_time() - begun) / SAMPLED * 1000,
        "evaluations": SOLVER.evaluations,
    }
    test, exact = jets[label][split(len(jets[label]), "test")], model.divergence == "own_path"
    about["log_prob"] = model.log_prob(test[: SCORED if exact else SCORED_SLOWLY]).tolist()
    if exact:
        about |= solver_errors(model, test[:SOLVED])
    write_json(folder / "about.json", about)


def train(jets: dict[str, Jets], out: Path, label: str, seconds: float, only: list[str]) -> None:
    for name, entry in entries().items():
        folder = out / label / name
        if name in (only or DESIGNS | STEPS) and not (folder / "about.json").exists():
            print(f"{label} {name}: {seconds:.0f} s of training", flush=True)
            train_one(entry, label, jets, seconds, folder)


def solver_errors(model: Surrogate, jets: Jets) -> dict[str, float]:
    """Median error of log p (nats) at some numbers of evaluations, against a solution at 192."""
    at = {steps: replace(model, solver=replace(SOLVER, steps=steps)).log_prob(jets) for steps in (4, 8, 12, 48)}
    return {f"error at {4 * steps}": float(np.median(np.abs(at[steps] - at[48]))) for steps in (4, 8, 12)}


def beyond(drawn: Jets, source: Jets, name: str, label: str) -> pd.DataFrame:
    """A row as in ``fidelity.csv``: the share of jets with a particle farther than R from the axis, where jets end."""
    row = {"surrogate": name, "class": label, "metric": "beyond_r"}
    for sample, (value, error) in ((drawn, ("value", "uncertainty")), (source, ("floor", "floor_uncertainty"))):
        far = np.hypot(sample.particles[..., 0], sample.particles[..., 1]) > RADIUS
        share = (far & sample.mask).any(axis=1).mean()
        row |= {value: share, error: np.sqrt(share * (1 - share) / len(sample))}
    return pd.DataFrame([row])


def gained(log_p: list[float], default: list[float], name: str, label: str) -> pd.DataFrame:
    """A row as in ``fidelity.csv``: the mean by which log p of the same jets is above that of our default."""
    gain = np.subtract(log_p, default)
    row = {"surrogate": name, "class": label, "metric": "log_prob_gain"}
    return pd.DataFrame([row | {"value": gain.mean(), "uncertainty": gain.std(ddof=1) / np.sqrt(len(gain))}])


def compare(jets: dict[str, Jets], out: Path) -> pd.DataFrame:
    """All metrics of all that is finished: the columns of ``fidelity.csv``, and what the training cost as metrics."""
    tables = []
    for label, source in jets.items():
        test = source[split(len(source), "test")]
        names = [name for name in entries() if (out / label / name / "about.json").exists()]
        if not names:
            continue
        drawn = {name: {label: read_jets(out / label / name / "jets.h5")} for name in names}
        own = {label: test}
        for name in names:
            about = json.loads((out / label / name / "about.json").read_text())
            log_p = about.pop("log_prob")
            tables.append(fidelity.distances(own, drawn[name], np.random.default_rng(SEED), name, n_matched=MATCHED))
            tables.append(beyond(drawn[name][label], test, name, label))
            tables.append(fidelity.held_out_log_prob({label: log_p}, {label: test.count[: len(log_p)]}, name))
            if (default := default_of(name)) in names:
                before = json.loads((out / label / default / "about.json").read_text())["log_prob"]
                tables.append(gained(log_p, before, name, label))
            costs = {"surrogate": name, "class": label, "metric": list(about), "value": list(about.values())}
            tables.append(pd.DataFrame(costs))
        bench = {name: judges.named(name, JUDGE_STEPS, progress=lambda line: None) for name in JUDGES}
        tables.append(judges.verdicts(own, drawn, bench, np.random.default_rng(SEED), out / "judges"))
    return pd.concat(tables, ignore_index=True)


SHOWN = {
    "parameters": "parameters",
    "steps": "steps",
    "loss": "loss",
    "auc_best": "best judge's AUC",
    "w1_mass": "W1 mass, 1e-3",
    "w1_ptrel_sum": "W1 sum of ptrel, 1e-3",
    "w1_efp": "W1 EFP, 1e-6",
    "fpd": "FPD, 1e-3",
    "beyond_r": "jets beyond R, 1e-2",
    "coverage": "coverage",
    "mmd": "MMD, 1e-3",
    "log_prob_sequence": "log p (sequence)",
    "log_prob_gain": "log p over our default",
    "evaluations": "evaluations",
    "seconds per 1,000 jets": "s per 1,000 jets",
    "error at 16": "error of log p at 16 evaluations",
    "error at 32": "at 32",
}
UNITS = {"w1_mass": 1e-3, "w1_ptrel_sum": 1e-3, "w1_efp": 1e-6, "fpd": 1e-3, "mmd": 1e-3, "beyond_r": 1e-2}


def number(value: float, uncertainty: float) -> str:
    """As in the report, counts in full."""
    count = pd.isna(uncertainty) and float(value).is_integer()
    return f"{value:,.0f}" if count else report.measured(value, uncertainty)


def judged(table: pd.DataFrame, label: str, names: list[str]) -> pd.DataFrame:
    """AUCs on jets of one class: a line a surrogate, a known distortion or the floor, a column a judge."""
    own = table[(table["class"] == label) & table["metric"].isin([f"auc_{name}" for name in JUDGES])]
    own = own[own["surrogate"].isin(names) | own["surrogate"].str.startswith("source, ")]
    cells = [
        number(value, error) + ("" if verdict == "separates" else f" ({verdict})")
        for value, error, verdict in own[["value", "uncertainty", "verdict"]].itertuples(index=False)
    ]
    shown = own.assign(cell=cells).pivot(index="surrogate", columns="metric", values="cell")
    floor = own.drop_duplicates("metric").set_index("metric")[["floor", "floor_uncertainty"]]
    shown.loc["source against source"] = {metric: number(*pair) for metric, pair in floor.iterrows()}
    order = [*own["surrogate"].unique(), "source against source"]
    return shown.loc[order, [f"auc_{name}" for name in JUDGES]].rename(columns=lambda name: name.removeprefix("auc_"))


def wide(table: pd.DataFrame, label: str, names: list[str]) -> pd.DataFrame:
    """A line a surrogate of one class, a column a metric; the last line is the floor."""
    rows, own = {}, table[(table["class"] == label) & table["surrogate"].isin(names)]
    for name, lines in own.groupby("surrogate", sort=False):
        found = lines.set_index("metric")
        rows[name] = {
            title: number(*(found.loc[m, ["value", "uncertainty"]] / UNITS.get(m, 1)))
            for m, title in SHOWN.items()
            if m in found.index
        }
    floor = own[own["floor"].notna()].drop_duplicates("metric").set_index("metric")
    rows["source against source"] = {
        title: number(*(floor.loc[m, ["floor", "floor_uncertainty"]] / UNITS.get(m, 1)))
        for m, title in SHOWN.items()
        if m in floor.index
    }
    shown = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(SHOWN.values())).astype(object)
    published = pd.Series(PUBLISHED[label]).reindex(shown.index)
    if published.drop("source against source").notna().any():
        shown.insert(list(shown).index("W1 mass, 1e-3") + 1, "published", published)
    return shown.dropna(axis=1, how="all").fillna("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("train", "compare"))
    parser.add_argument("jets", type=Path, help="folder with <class>.h5")
    parser.add_argument("out", type=Path)
    parser.add_argument("--label", choices=CLASSES, default="top")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--only", nargs="*", default=[])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    jets = {label: read_jets(chosen.jets / f"{label}.h5") for label in CLASSES}
    if chosen.command == "train":
        return train(jets, chosen.out, chosen.label, chosen.seconds, chosen.only)
    table = compare(jets, chosen.out)
    tables = {}
    for kind, names in TABLES.items():
        if not table["surrogate"].isin(names).any():  # what was measured before stays
            continue
        own = table[table["surrogate"].isin(names) | table["surrogate"].str.startswith("source, ")]
        own.to_csv(HERE / f"{kind}.csv", index=False)
        for label in own.loc[own["surrogate"].isin(names), "class"].unique():
            written = {kind: wide} | ({"judges": judged} if kind == "designs" else {})
            for place, layout in written.items():
                shown = layout(own, label, names)
                tables[f"{place} {label}"] = markdown(
                    ["", *shown.columns], ([name, *row] for name, *row in shown.itertuples())
                )
    page = DOCS / "surrogates.md"
    page.write_text(filled(page.read_text(), tables))
    drawn = table[table["surrogate"].isin(list(DESIGNS)) & table["floor"].notna() & (table["metric"] != "beyond_r")]
    if not drawn.empty:
        figures.fidelity(drawn)[0].savefig(DOCS / "designs.png", dpi=150)


if __name__ == "__main__":
    main()
