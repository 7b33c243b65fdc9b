"""Taggers: jets in, one logit a jet out.

A tagger is a module whose ``forward(x, mask)`` maps the standardised features x (B, N, 3) that the density is a
function of, and the mask (B, N), to logits (B,): large for signal (label 1). One file a tagger.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.files import replacing, write_json
from jetstudy.jets import Jets
from jetstudy.taggers.transformer import Transformer

TAGGERS = {"transformer": Transformer}

BATCH = 1024


def build(name: str, **settings) -> nn.Module:
    """The tagger called ``name``; ValueError for an unknown one."""
    if name not in TAGGERS:
        raise ValueError(f"tagger {name!r}: expected one of {', '.join(TAGGERS)}")
    tagger = TAGGERS[name](**settings)
    tagger.settings = {"name": name, **settings}
    return tagger


def save(tagger: nn.Module, folder: Path) -> None:
    """Write ``weights.safetensors`` and ``tagger.json``, from which ``load`` makes an equal tagger."""
    with replacing(Path(folder) / "weights.safetensors") as unfinished:
        save_file(tagger.state_dict(), unfinished)
    write_json(Path(folder) / "tagger.json", tagger.settings)


def load(folder: Path) -> nn.Module:
    """The tagger that ``save`` wrote into ``folder``."""
    tagger = build(**json.loads((Path(folder) / "tagger.json").read_text()))
    tagger.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
    return tagger.eval()


def tensors(features: Features, jets: Jets, label: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """What a tagger is trained on: standardised x (n, N, 3) float32, mask (n, N) and label (n,) float32."""
    x = torch.from_numpy(features.forward(jets)).float()
    return x, torch.from_numpy(jets.mask), torch.from_numpy(label).float()


def loss(tagger: nn.Module, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Mean cross-entropy of the logits of a batch (x, mask, label)."""
    x, mask, label = batch
    return F.binary_cross_entropy_with_logits(tagger(x, mask), label)


@torch.no_grad()
def logits(tagger: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Logits (n,) float64 of all jets, in batches, on the tagger's device."""
    device = next(tagger.parameters()).device
    tagger.eval()
    parts = zip(x.split(BATCH), mask.split(BATCH), strict=True)
    return torch.cat([tagger(a.to(device), b.to(device)).cpu() for a, b in parts]).double()
