"""Row 5's network: a correction of the LLR that looks at the particles themselves.

`certificate.residual` holds it to account on jets that it was not trained on; what it finds there the LLR has left
over. What it misses proves nothing: it is as good as its training.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from jetstudy.certificate import Correction
from jetstudy.features import Features
from jetstudy.jets import Jets
from jetstudy.taggers import logits
from jetstudy.taggers.transformer import Transformer
from jetstudy.training import Recipe, seeded, train

UNIT = Features((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the inputs are standardised already
VALIDATED = 5  # every fifth of the jets seen says which weights to keep


def observables(jets: Jets, logits: Iterable[np.ndarray]) -> np.ndarray:
    """What the quadratic f sees (n, 3 + logits): N, mass and summed ptrel of the jets, and taggers' logits (n,)."""
    return np.column_stack([jets.count, jets.mass, jets.ptrel_sum, *logits])


def particles(features: Features, jets: Jets) -> np.ndarray:
    """What the network sees (n, N, 4): the standardised features, and the mask as the last one."""
    return np.append(features.forward(jets), jets.mask[..., None], axis=-1)


def loss(network: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Mean cross-entropy of LLR + f on a batch (x, mask, LLR, label)."""
    x, mask, llr, label = batch
    return bce(llr + network(x, mask), label)


def network(
    steps: int, generator: torch.Generator, progress: Callable[[str], None] = print
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], Correction]:
    """A `fit` for `certificate.residual` of `particles`: a small transformer, 0 before its ``steps`` of training.

    It stays 0 unless the jets that choose its weights are better with it by more than a standard error: a few thousand
    jets are soon learned by heart, and what that costs on others would hide what is found.
    """
    recipe = Recipe(steps, batch=128, rate=2e-3, every=max(1, steps // 5), ema=0.99)

    def fit(inputs: np.ndarray, llr: np.ndarray, label: np.ndarray) -> Correction:
        with seeded(generator):
            f = Transformer(UNIT, width=32, heads=4, blocks=2)
        nn.init.zeros_(f.head[-1].weight)
        nn.init.zeros_(f.head[-1].bias)
        data = (*_tensors(inputs), torch.from_numpy(llr).float(), torch.from_numpy(label).float())
        kept = torch.arange(len(llr)) % VALIDATED == 0
        parts = [tuple(tensor[chosen] for tensor in data) for chosen in (~kept, kept)]
        with tempfile.TemporaryDirectory() as folder:
            train(f, loss, *parts, recipe, generator, Path(folder) / "checkpoint", progress)
        x, mask, own, truth = parts[1]
        corrected = own + logits(f, x, mask)
        gain = bce(own, truth, reduction="none") - bce(corrected, truth, reduction="none")
        if not gain.mean() > gain.std() / len(gain) ** 0.5:
            return lambda inputs, llr: np.zeros(len(llr))
        return lambda inputs, llr: logits(f, *_tensors(inputs)).numpy()

    return fit


def _tensors(inputs: np.ndarray) -> tuple[Tensor, Tensor]:
    """x (n, N, 3) float32 and mask (n, N) of `particles`."""
    return torch.from_numpy(inputs[..., :3]).float(), torch.from_numpy(inputs[..., 3] > 0)
