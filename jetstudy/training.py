"""The one training loop, by steps and never by minutes: EMA, validation, checkpoint, exact resume, progress.

A checkpoint holds everything the next step depends on (weights, averages, optimiser, random state, order of the
data), so a training that was interrupted goes on to the same weights as one that was not.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jetstudy.files import prefixed, replacing

Data = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Data, torch.Generator], Tensor]

# Seconds between two lines of progress, at most, and before one that only says that an epoch has ended, at least.
PROGRESS, PAUSE = 20.0, 1.0


def _cosine(done: float, steps: int) -> float:
    """Up in a line over the first 5 % of the steps, down to zero along a cosine."""
    warm_up = max(1, steps // 20)
    return min(1.0, (done * steps + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * done))


def _flat_exponential(done: float, steps: int) -> float:
    """Flat for 70 % of the steps, then exponentially down to a hundredth (2202.03772, section 5)."""
    return 0.01 ** max(0.0, (done - 0.7) / 0.3)


def _warm_restarts(done: float, steps: int) -> float:
    """35 epochs: five of linear warm-up, then cosines of four, eight and sixteen, each from the top again. The last is
    cut off at epoch 31; in each of the four epochs left the rate halves (2201.08187, section 4.1, in the numbers of its
    authors' code).
    """
    epoch = 35 * done
    if epoch < 5:
        return min(1.0, (epoch + 35 / steps) / 5)
    begin, length = next((b, n) for b, n in ((5, 4), (9, 8), (17, 16)) if epoch < b + n or n == 16)
    falling = min(epoch, 31)
    return 0.5 * (1 + math.cos(math.pi * (falling - begin) / length)) * 0.5 ** (epoch - falling)


def _constant(done: float, steps: int) -> float:
    return 1.0


class Ranger(torch.optim.RAdam):
    """RAdam (1908.03265) with Lookahead (1907.08610), as of 2202.03772: every six steps the weights go halfway back to
    slow ones, which then are where the weights are.
    """

    def __init__(self, parameters, lr: float, weight_decay: float):
        super().__init__(parameters, lr, (0.95, 0.999), 1e-5, weight_decay, decoupled_weight_decay=True)

    @torch.no_grad()
    def step(self) -> None:
        used = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        slow = [self.state[p]["slow"] if self.state[p] else p.clone() for p in used]
        super().step()
        for p, s in zip(used, slow, strict=True):
            # Among the optimiser's own state, where checkpoints find it.
            self.state[p]["slow"] = s
            if self.state[p]["step"] % 6 == 0:
                p.copy_(s.lerp_(p, 0.5))


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024; Liu et al., 2502.16982, for the scale of its steps) on matrices, AdamW on all else.

    Muon makes the singular values of a matrix's momentum equal, so that its small directions learn as fast as its
    large ones. Matrices that reduce to or start from a handful of features are left to AdamW.
    """

    SMALL = 8  # rows or columns
    MOMENTUM = 0.95

    def __init__(self, parameters, lr: float, weight_decay: float):
        parameters = list(parameters)
        matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) > self.SMALL]
        rest = [p for p in parameters if p.ndim != 2 or min(p.shape) <= self.SMALL]
        super().__init__([{"params": matrices}, {"params": rest}], {"lr": lr, "weight_decay": weight_decay})
        self.adamw = torch.optim.AdamW([{"params": rest}], lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        matrices, rest = self.param_groups
        shapes: dict[torch.Size, list[Tensor]] = {}
        for p in matrices["params"]:
            if p.grad is not None:
                shapes.setdefault(p.shape, []).append(p)
        for (rows, columns), alike in shapes.items():
            ahead = []
            for p in alike:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - self.MOMENTUM)
                ahead.append(p.grad.lerp(momentum, self.MOMENTUM))
            size = 0.2 * math.sqrt(max(rows, columns))  # that of AdamW's steps
            for p, direction in zip(alike, orthogonalised(torch.stack(ahead)), strict=True):
                p.mul_(1 - matrices["lr"] * matrices["weight_decay"]).sub_(direction, alpha=matrices["lr"] * size)
        self.adamw.state, self.adamw.param_groups[0]["lr"] = self.state, rest["lr"]
        self.adamw.step()


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices ``(K, m, n)`` with their singular vectors and with singular values near 1: Muon's five Newton-Schulz
    iterations, whose polynomial triples small values and keeps large ones between about 0.7 and 1.2.

    In the precision of the matrices, all of one shape at once: PyTorch's Muon goes through them one by one and in
    bfloat16, which processors without instructions for it only imitate (docs/decisions.md).
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = matrices @ matrices.mT
        matrices = torch.baddbmm(
            matrices, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), matrices, beta=3.4445
        )
    return matrices


OPTIMISERS = {"adamw": torch.optim.AdamW, "ranger": Ranger, "muon": Muon}
SCHEDULES = {
    "cosine": _cosine,
    "flat_exponential": _flat_exponential,
    "warm_restarts": _warm_restarts,
    "constant": _constant,
}


@dataclass(frozen=True)
class Recipe:
    """Lengths and rates of a training: ``steps`` batches of ``batch`` jets, validation and checkpoint ``every`` steps.

    ``rate`` is the largest learning rate, ``schedule`` its course. ``ema`` is the decay a step of the averaged
    weights, the ones that are validated and kept. With ``patience`` P above 0, the training stops early after P
    validations without a better one.
    """

    steps: int
    batch: int
    rate: float
    every: int
    ema: float = 0.999
    optimiser: str = "adamw"
    schedule: str = "cosine"
    weight_decay: float = 1e-4
    patience: int = 0

    def __post_init__(self):
        for name, known in (("optimiser", OPTIMISERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(known)}")
        for name in ("batch", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected 1 or more")

    def learning_rate(self, step: int) -> float:
        return self.rate * SCHEDULES[self.schedule](step / self.steps, self.steps)


def on_device(name: str) -> str:
    """'cuda' or 'cpu' as asked for; 'auto' is CUDA where there is one. ValueError for anything else."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r}: expected auto, cpu or cuda")
    return name


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Layers that draw from torch's global stream (initial weights, dropout) draw from ``generator`` in here."""
    seed = int(torch.randint(2**62, (), generator=generator))
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def train(
    model: nn.Module,
    loss: Loss,
    data: Data,
    validation: Data,
    recipe: Recipe,
    generator: torch.Generator,
    checkpoint: Path,
    progress: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Train ``model`` in place and leave in it the averaged weights of the best validation loss.

    A gradient whose norm is above 1 is scaled down to 1, in every recipe. ``data`` and ``validation`` are tensors of
    equal first dimension, ``loss(model, batch, generator)`` a scalar. The validation loss is taken on the same noise
    every time. A ``checkpoint`` of the same training is resumed: of the same recipe, seed, and numbers of parameters
    and of jets; whoever trains on other jets names another file. Returns the table of losses: step, train, validation,
    rate; its ``attrs["seconds"]`` are those of the training with its validations, of all its runs up to their last
    checkpoints. Raises ValueError for a checkpoint that cannot be read or is of another training, FloatingPointError if
    the loss stops being finite.
    """
    device = next(model.parameters()).device
    optimiser = OPTIMISERS[recipe.optimiser](model.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    state = _State(model, optimiser, generator, len(data[0]))
    noise_seed = int(torch.randint(2**62, (), generator=generator))
    parameters = sum(p.numel() for p in model.parameters())
    fingerprint = {
        "recipe": repr(recipe),
        "parameters": parameters,
        "jets": len(data[0]),
        "noise_seed": noise_seed,
    }
    if Path(checkpoint).exists():
        state.load(checkpoint, fingerprint)
        progress(f"resuming at step {state.step} of {recipe.steps}")

    def validate() -> float:
        noise, total = torch.Generator().manual_seed(noise_seed), 0.0
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(state.average)
        model.eval()
        with torch.no_grad():
            for batch in zip(*(tensor.split(1024) for tensor in validation), strict=True):
                total += float(loss(model, tuple(t.to(device) for t in batch), noise)) * len(batch[0])
        model.load_state_dict(weights)
        if not math.isfinite(total):
            raise FloatingPointError(f"validation loss is {total} at step {state.step}")
        return total / len(validation[0])

    batch = min(recipe.batch, len(data[0]))
    started = last = time.monotonic()
    begun, before = state.step, state.seconds
    while state.step < recipe.steps and not 0 < recipe.patience <= state.waited:
        model.train()
        index = state.next_batch(batch)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate(state.step)
        optimiser.zero_grad(set_to_none=True)
        with seeded(generator):
            value = loss(model, tuple(tensor[index].to(device) for tensor in data), generator)
        if not torch.isfinite(value):
            raise FloatingPointError(f"training loss is {value.item()} at step {state.step}")
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        state.after_step(model, float(value.detach()), recipe.ema)
        validated = state.step % recipe.every == 0 or state.step == recipe.steps
        if validated:
            state.record(validate(), recipe.learning_rate(state.step))
            state.seconds = before + time.monotonic() - started
            state.save(checkpoint, fingerprint)
        silent, epoch_ended = time.monotonic() - last, state.step % (len(data[0]) // batch) == 0
        if validated or silent > PROGRESS or (epoch_ended and silent > PAUSE):
            last = time.monotonic()
            left = (last - started) / (state.step - begun) * (recipe.steps - state.step)
            epoch = state.step * batch / len(data[0])
            progress(
                f"step {state.step} of {recipe.steps}, {state.summary()}, epoch {epoch:.1f}, about {left:.0f} s left"
            )
    model.load_state_dict(state.best)
    model.eval()
    early = "" if state.step == recipe.steps else f" of {recipe.steps}, no better for {state.waited} validations"
    progress(f"{state.step} steps done{early}, {state.summary()}")
    losses = pd.DataFrame(state.history, columns=["step", "train", "validation", "rate"])
    losses.attrs["seconds"] = state.seconds
    return losses


class _State:
    """What the next step depends on, as tensors that a safetensors file holds."""

    def __init__(self, model: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator, n: int):
        self.model, self.optimiser, self.generator, self.n = model, optimiser, generator, n
        self.step, self.loss_sum, self.loss_steps, self.history, self.waited = 0, 0.0, 0, [], 0
        self.seconds = 0.0
        # Buffers too: the statistics of a batch normalisation are learned as weights are.
        self.average = {name: value.clone() for name, value in model.state_dict().items()}
        self.best, self.best_loss = {name: value.clone() for name, value in self.average.items()}, math.inf
        self.order, self.position = torch.empty(0, dtype=torch.long), 0

    def next_batch(self, size: int) -> Tensor:
        """Indices of the next batch; a new order when the old one has no whole batch left."""
        if self.position + size > len(self.order):
            self.order, self.position = torch.randperm(self.n, generator=self.generator), 0
        self.position += size
        return self.order[self.position - size : self.position]

    def after_step(self, model: nn.Module, loss: float, decay: float) -> None:
        self.step += 1
        self.loss_sum, self.loss_steps = self.loss_sum + loss, self.loss_steps + 1
        # Early averages forget the initial weights fast.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def record(self, validation: float, rate: float) -> None:
        self.history.append([self.step, self.loss_sum / self.loss_steps, validation, rate])
        self.loss_sum, self.loss_steps, self.waited = 0.0, 0, self.waited + 1
        if validation < self.best_loss:
            self.best_loss, self.waited = validation, 0
            self.best = {name: value.clone() for name, value in self.average.items()}

    def summary(self) -> str:
        if not self.history:
            return "not validated yet"
        return f"loss {self.history[-1][1]:.4f}, validation {self.history[-1][2]:.4f} (best {self.best_loss:.4f})"

    def save(self, path: Path, fingerprint: dict) -> None:
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for key, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{key}/{name}": torch.as_tensor(value) for name, value in values.items()}
        tensors |= {"generator": self.generator.get_state(), "order": self.order}
        names = ("step", "position", "history", "best_loss", "waited", "seconds")
        numbers = {name: getattr(self, name) for name in names}
        metadata = {"fingerprint": json.dumps(fingerprint), "numbers": json.dumps(numbers)}
        with replacing(path) as unfinished:
            save_file({name: value.contiguous() for name, value in tensors.items()}, unfinished, metadata)

    def load(self, path: Path, fingerprint: dict) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            found, numbers = (json.loads(metadata[name]) for name in ("fingerprint", "numbers"))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not a complete checkpoint ({error}); delete it to start afresh") from error
        for key, value in fingerprint.items():
            if found.get(key) != value:
                raise ValueError(f"{path}: checkpoint of another training: {key} is {found.get(key)!r}, not {value!r}")

        self.model.load_state_dict(prefixed("model/", tensors))
        for name, value in prefixed("average/", tensors).items():
            self.average[name].copy_(value)
        self.best = {name: value.to(self.average[name].device) for name, value in prefixed("best/", tensors).items()}
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in prefixed("optimiser/", tensors).items():
            key, _, entry = name.partition("/")
            states.setdefault(int(key), {})[entry] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": states})
        self.generator.set_state(tensors["generator"])
        self.order = tensors["order"]
        for name, value in numbers.items():
            setattr(self, name, value)
