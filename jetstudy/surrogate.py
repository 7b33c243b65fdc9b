"""A surrogate: a model of one jet class that can draw jets and score them.

    p(jet) = p(N) p(u_1 ... u_N | N)

N is the number of particles, p(N) a table of probabilities, p(u | N) the probability flow of a
permutation-equivariant velocity. One contract: ``sample`` and ``log_prob`` solve the same ODE on the same grid.
With an ``acceptance``, a share a(jet) of these jets is kept, and p(jet) is times a(jet) / rate (``acceptance.py``).

Convention: ``log_prob`` is the density of the jet's particles as a *sequence* in random order, over
(etarel, phirel, ptrel) of each; as a set it is larger by log N!, which cancels in every ratio.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from jetstudy.acceptance import Acceptance
from jetstudy.diffusion import Design, diffuse, loss
from jetstudy.divergence import estimator
from jetstudy.features import Features
from jetstudy.files import (
    in_chunks,
    prefixed,
    random_seed,
    read_json,
    read_tensors,
    replacing,
    write_json,
)
from jetstudy.jets import Jets, arrange, concatenate, labelled
from jetstudy.kinematics import jet_mass
from jetstudy.networks import NETWORKS, load_weights
from jetstudy.probability_flow import Solver, integrate, log_normal
from jetstudy.schedules import SCHEDULES
from jetstudy.training import Recipe, train

PLAIN = Design()
ACCEPTANCE = "acceptance."  # begins the names of its arrays in a file of weights

# Particles handled at once, so that memory does not grow with the sample: a batch's activations fit the cache of a
# core, or fill a GPU.
BATCH = {"cpu": 1920, "cuda": 122_880}
DIVERGENCES = 64  # jets at the most whose divergence is taken by every estimator


def count_probabilities(counts: Mapping[str, Mapping[int, int]], label: str, n_max: int) -> np.ndarray:
    """p(N) of class ``label`` for N = 0 ... n_max, from the training counts {class: {N: jets}} of all classes.

    p_c(N) is proportional to n_c(N) + n_pool(N) / n_pool: the class's own counts plus one pseudo-jet shared out
    as the pooled classes are. So all classes, also those of a null, have the same support, and no N is drawn that was
    never seen. Raises KeyError for a class without counts.
    """
    own, pool = np.zeros(n_max + 1), np.zeros(n_max + 1)
    for n, jets in counts[label].items():
        own[int(n)] += jets
    for table in counts.values():
        for n, jets in table.items():
            pool[int(n)] += jets
    weight = own + pool / pool.sum()
    return weight / weight.sum()


@dataclass(frozen=True)
class Surrogate:
    """One class's p(N) x probability flow.

    ``velocity(x, t, mask)`` is the network in the standardised coordinates of ``features``; ``p_count`` (n_max + 1,)
    the probabilities of N; ``solver`` serves both directions; ``divergence`` names the estimator used in scoring;
    ``design`` says what the velocity was trained on. A network of two classes is one class's velocity by its own label
    (``of_class``): all that is said here holds for it as for any other. ``acceptance`` says which of the flow's jets
    are kept; without one all are.
    """

    label: str
    velocity: nn.Module
    features: Features
    p_count: np.ndarray
    solver: Solver
    divergence: str
    design: Design = PLAIN
    acceptance: Acceptance | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator, report: Callable[[int], None] = lambda done: None) -> Jets:
        """Draw n jets, kept ones if there is an acceptance; ``report`` is called with the number done after each batch.

        Raises FloatingPointError if a jet comes out that float32 cannot hold (a value that is not finite, a ptrel of
        zero), or whose odds are not finite: leaving that jet out would change the density. ValueError for an n below 1.
        """
        return self._draw(n, generator, None, report)[0]

    @torch.no_grad()
    def sample_with_log_prob(self, n: int, generator: torch.Generator) -> tuple[Jets, np.ndarray]:
        """Draw n jets together with the log p (n,) that the sampling pass itself accumulates.

        It is there to be compared with ``log_prob``; a likelihood ratio never uses it.
        """
        return self._draw(n, generator, estimator(self.divergence), lambda done: None)

    def _draw(self, n, generator, divergence, report) -> tuple[Jets, np.ndarray]:
        if n < 1:
            raise ValueError(f"surrogate {self.label}: {n} jets asked for, not one or more")
        p_count = torch.from_numpy(self.p_count)
        drawn, log_probs, done = [], [], 0
        batch = self._batch(len(p_count) - 1)
        rate = self.acceptance.rate if self.acceptance else 1.0
        while done < n:
            size = min(batch, math.ceil((n - done) / rate))
            count = torch.multinomial(p_count, size, replacement=True, generator=generator)
            mask = torch.arange(len(p_count) - 1) < count[:, None]
            z = torch.randn(*mask.shape, 3, generator=generator, dtype=torch.float64) * mask[..., None]
            x, integral = self._integrate(z, mask, self.solver.times()[::-1], divergence, generator)
            jets = _synthetic(self._particles(x, mask), mask.numpy())
            log_p = (log_normal(z, mask) - integral).numpy() + np.log(self.p_count[count.numpy()])
            if self.acceptance:
                log_share = self.acceptance.log_share(jets)
                if not np.isfinite(log_share).all():
                    raise FloatingPointError(f"surrogate {self.label}: a sampled jet has no odds of being kept")
                chance = torch.rand(size, generator=generator, dtype=torch.float64).numpy()
                kept = np.flatnonzero(chance < np.exp(log_share))[: n - done]
                jets, log_p = jets[kept], (log_p + log_share)[kept]
            if not len(jets):
                continue
            drawn.append(jets)
            log_probs.append(log_p)
            done += len(jets)
            report(done)
        jets = concatenate(drawn)
        return jets, np.concatenate(log_probs) + self.features.log_jacobian(jets) - math.log(rate)

    def covers(self, jets: Jets) -> np.ndarray:
        """Whether p(N) gives each jet's number of particles a probability, (n,) bool: of no other is there a log p."""
        return np.append(self.p_count, np.zeros(jets.n_max))[jets.count] > 0

    @torch.no_grad()
    def log_prob(
        self, jets: Jets, generator: torch.Generator | None = None, report: Callable[[int], None] = lambda done: None
    ) -> np.ndarray:
        """log p (n,) float64 of each jet, a function of the stored jet alone.

        ``generator`` feeds the probes of the ``hutchinson`` estimator. Raises ValueError if a jet has a number of
        particles that the surrogate never draws.
        """
        count = jets.count
        outside = np.flatnonzero(~self.covers(jets))
        if len(outside):
            where = f"surrogate {self.label}: jet {outside[0]} has {count[outside[0]]} particles"
            raise ValueError(f"{where}, a number that p(N) gives no probability")
        result = np.empty(len(jets))
        if not len(jets):
            return result
        divergence = estimator(self.divergence)
        done = 0
        # Jets of like N share a batch, whose padding is cut to its longest.
        size = self._batch(jets.n_max)
        for index in np.array_split(np.argsort(count, kind="stable"), range(size, len(jets), size)):
            batch = jets[index].leading(int(count[index].max()))
            u, mask = torch.from_numpy(self.features.forward(batch)), torch.from_numpy(batch.mask)
            z, integral = self._integrate(u, mask, self.solver.times(), divergence, generator)
            result[index] = (log_normal(z, mask) + integral).numpy()
            done += len(index)
            report(done)
        result += np.log(self.p_count[count]) + self.features.log_jacobian(jets)
        if self.acceptance:
            result += self.acceptance.log_share(jets) - math.log(self.acceptance.rate)
        return result

    @torch.no_grad()
    def round_trip(self, jets: Jets) -> tuple[np.ndarray, np.ndarray]:
        """Standardised features (n, N, 3) of the jets, and what comes back when they go to noise and return."""
        there, back, size = [], [], self._batch(jets.n_max)
        for start in range(0, len(jets), size):
            batch = jets[start : start + size]
            u, mask = torch.from_numpy(self.features.forward(batch)), torch.from_numpy(batch.mask)
            z, _ = self._integrate(u, mask, self.solver.times(), None, None)
            there.append(u.numpy())
            back.append(self._integrate(z, mask, self.solver.times()[::-1], None, None)[0].numpy())
        return np.concatenate(there), np.concatenate(back)

    @torch.no_grad()
    def resample(self, jets: Jets, t: float, generator: torch.Generator) -> Jets:
        """The jets noised to time ``t`` in (0, 1] and brought back: partial diffusion (Drapes, arXiv:2312.10130).

        At small t they hardly change, at t = 1 they are new jets with the old numbers of particles. The flow alone
        does this: no jet is left out by an acceptance. Raises ValueError for a time outside and for a surrogate
        whose noise was assigned to the data, since then noised jets are not on its flow; FloatingPointError as
        ``sample`` does.
        """
        if not 0 < t <= 1:
            raise ValueError(f"surrogate {self.label}: time {t} is not in (0, 1]")
        self.design.needs_independent_noise("noised jets on the flow")
        drawn, size, times = [], self._batch(jets.n_max), [t * s for s in self.solver.times()]
        for start in range(0, len(jets), size):
            batch = jets[start : start + size]
            u, mask = torch.from_numpy(self.features.forward(batch)), torch.from_numpy(batch.mask)
            eps = torch.randn(u.shape, generator=generator, dtype=u.dtype) * mask[..., None]
            noised, _ = diffuse(u, eps, u.new_full((len(u),), t), SCHEDULES[self.design.schedule])
            back, _ = self._integrate(noised, mask, times[::-1], None, None)
            drawn.append(self._particles(back, mask))
        return _synthetic(np.concatenate(drawn), jets.mask)

    @torch.no_grad()
    def divergences(self, jets: Jets, generator: torch.Generator) -> dict[str, np.ndarray]:
        """div v (n,) by each estimator that the network allows, at one random point between each jet and noise."""
        u, mask = torch.from_numpy(self.features.forward(jets)), torch.from_numpy(jets.mask)
        t = torch.rand(len(u), generator=generator, dtype=u.dtype)
        x = (1 - t)[:, None, None] * u + t[:, None, None] * torch.randn(u.shape, generator=generator, dtype=u.dtype)
        x, t, mask = x.to(self.device, self.dtype), t.to(self.device, self.dtype), mask.to(self.device)
        own_path = {"own_path": "own_path"} if hasattr(self.velocity, "own_path") else {}
        names = {"jacobian": "jacobian", **own_path, "hutchinson": "hutchinson-16"}
        return {
            key: estimator(name)(self.velocity, x, t, mask, generator)[1].double().cpu().numpy()
            for key, name in names.items()
        }

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``surrogate.json``, from which ``load`` makes an equal surrogate."""
        weights = dict(self.velocity.state_dict())
        if self.acceptance:
            weights |= {f"{ACCEPTANCE}{name}": value for name, value in self.acceptance.tensors().items()}
        with replacing(Path(folder) / "weights.safetensors") as unfinished:
            save_file(weights, unfinished)
        write_json(
            Path(folder) / "surrogate.json",
            {
                "label": self.label,
                "network": self.velocity.settings,
                "features": self.features.to_dict(),
                "p_count": self.p_count.tolist(),
                "solver": asdict(self.solver),
                "divergence": self.divergence,
                "design": asdict(self.design),
                "acceptance": self.acceptance.settings() if self.acceptance else None,
            },
        )

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Surrogate":
        """The surrogate that ``save`` wrote into ``folder``."""
        content = read_json(Path(folder) / "surrogate.json")
        path = Path(folder) / "weights.safetensors"
        tensors = read_tensors(path)
        added = prefixed(ACCEPTANCE, tensors)
        network = build_network(**content["network"])
        load_weights(network, {k: v for k, v in tensors.items() if not k.startswith(ACCEPTANCE)}, path)
        settings = content["acceptance"]
        if added and not settings:
            raise ValueError(f"{folder}: surrogate.json knows of no acceptance, and the weights hold one")
        return cls(
            label=content["label"],
            velocity=network.to(device).eval(),
            features=Features.from_dict(content["features"]),
            p_count=np.array(content["p_count"]),
            solver=Solver(**content["solver"]),
            divergence=content["divergence"],
            design=Design(**content["design"]),
            acceptance=Acceptance.restored(added, **settings, path=path) if settings else None,
            device=device,
        )

    def _particles(self, x: Tensor, mask: Tensor) -> np.ndarray:
        """The particles of standardised features x; FloatingPointError where float32 cannot hold them."""
        with np.errstate(over="ignore"):  # what overflows is refused in the next lines
            drawn = self.features.inverse(x.numpy(), mask.numpy()).astype(np.float32)
        real = drawn[mask.numpy()]
        if not (np.isfinite(real).all() and (real[:, 2] > 0).all()):
            raise FloatingPointError(f"surrogate {self.label}: a sampled jet is not finite, or has a ptrel of zero")
        return drawn

    def _batch(self, n_max: int) -> int:
        """Jets of n_max particles handled at once."""
        return max(1, BATCH[self.device] // n_max)

    def _integrate(self, x: Tensor, mask: Tensor, times, divergence, generator) -> tuple[Tensor, Tensor]:
        x, mask = x.to(self.device), mask.to(self.device)
        end, integral = integrate(self.velocity, x, mask, times, self.solver.method, divergence, generator, self.dtype)
        return end.cpu(), integral.cpu()


def fit(
    velocity: nn.Module,
    classes: Sequence[Jets],
    features: Features,
    design: Design,
    recipe: Recipe,
    generator: torch.Generator,
    checkpoint: Path,
    progress: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Train ``velocity`` in place on the training split of each of ``classes``, one or two; the table of losses (see
    ``training.train``).

    Of two classes, each jet comes with its label, 0 or 1, which a network of one class refuses.
    """

    def tensors(name: str) -> tuple[Tensor, ...]:
        jets, label = labelled(classes, name)
        known = [torch.from_numpy(label).float()] if len(classes) == 2 else []
        return torch.from_numpy(features.forward(jets)).float(), torch.from_numpy(jets.mask), *known

    objective = partial(loss, design=design)
    return train(velocity, objective, tensors("train"), tensors("validation"), recipe, generator, checkpoint, progress)


def sample_in_chunks(
    model: Surrogate,
    n: int,
    name: str,
    place: Path,
    report: Callable[[int], None] = lambda done: None,
    size: int = 5000,
) -> Jets:
    """Draw n jets in chunks of ``size``, each with random numbers by ``name`` and its first jet's place, and kept in
    the folder ``place`` (see ``files.in_chunks``): an interrupted drawing goes on where it stopped.
    """

    def chunk(start: int, stop: int) -> dict[str, np.ndarray]:
        generator = torch.Generator().manual_seed(random_seed(f"{name}/{start}"))
        return vars(model.sample(stop - start, generator, lambda done: report(start + done)))

    return Jets(**in_chunks(place, n, size, chunk))


def score(
    models: Sequence[Surrogate],
    jets: Jets,
    generator: torch.Generator | None = None,
    report: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """log p (n, models) of each jet under each model; NaN for a jet with a number of particles a model never draws."""
    inside = np.all([model.covers(jets) for model in models], axis=0)
    result = np.full((len(jets), len(models)), np.nan)
    for column, model in enumerate(models):
        before = column * len(jets)
        result[inside, column] = model.log_prob(
            jets[inside], generator, lambda done, before=before: report(before + done)
        )
    return result


def score_in_chunks(
    models: Sequence[Surrogate],
    jets: Jets,
    name: str,
    place: Path,
    report: Callable[[int], None] = lambda done: None,
    size: int = 500,
) -> np.ndarray:
    """``score`` in chunks of ``size`` jets, each with random numbers by ``name`` and its first jet's place, and kept in
    the folder ``place`` (see ``files.in_chunks``): an interrupted scoring goes on where it stopped.
    """

    def chunk(start: int, stop: int) -> dict[str, np.ndarray]:
        generator = torch.Generator().manual_seed(random_seed(f"{name}/{start}"))
        done = len(models) * start
        return {"log_prob": score(models, jets[start:stop], generator, lambda n: report(done + n))}

    return in_chunks(place, len(jets), size, chunk)["log_prob"]


def checks(
    models: Sequence[Surrogate], own: int, jets: Jets, travelling: Jets, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """What ``certificate.scoring`` asks of the density of ``models[own]``, but for log p of ``jets`` itself.

    ``jets`` and ``travelling``, which go to noise and back, are jets of its class, (n, ...) and (m, ...). Returns
    ``sampled`` and ``scored`` (n,) of n fresh jets; ``there``, ``back`` (m, N, 3) and ``mask`` (m, N); ``doubled``
    (n, models), log p of ``jets`` with twice the steps; divergences of the first jets (``Surrogate.divergences``).
    """
    model = models[own]
    fresh, sampled = model.sample_with_log_prob(len(jets), generator)
    there, back = model.round_trip(travelling)
    return {
        "sampled": sampled,
        "scored": model.log_prob(fresh, generator),
        "there": there,
        "back": back,
        "mask": travelling.mask,
        "doubled": score([replace(m, solver=m.solver.refined(2)) for m in models], jets, generator),
        **model.divergences(jets[:DIVERGENCES], generator),
    }


def build_network(name: str, **settings) -> nn.Module:
    """The velocity network called ``name``; ValueError for an unknown one."""
    if name not in NETWORKS:
        raise ValueError(f"network {name!r}: expected one of {', '.join(NETWORKS)}")
    network = NETWORKS[name](**settings)
    network.settings = {"name": name, **settings}
    return network


def of_class(network: nn.Module, label: int) -> nn.Module:
    """A network of two classes, once more, as the velocity of the class ``label``; ValueError for one of one class."""
    if network.label is None:
        raise ValueError(f"the network was made for one class: there is no label {label} in it")
    other = deepcopy(network)
    other.label, other.settings = label, network.settings | {"label": label}
    return other


def _synthetic(particles: np.ndarray, mask: np.ndarray) -> Jets:
    """Jets whose jet features are those of the particles themselves, in units of a jet pT of 1."""
    mass, zero, one = jet_mass(particles, mask), np.zeros(len(mask)), np.ones(len(mask))
    return arrange(particles, mask, np.stack([one, zero, mass, mask.sum(1)], axis=1))
