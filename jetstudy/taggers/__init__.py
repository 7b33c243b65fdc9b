"""Taggers: jets in, one logit a jet out.

A tagger is a module whose ``forward(x, mask)`` maps the standardised features x (B, N, 3) that the density is a
function of, and the mask (B, N), to logits (B,): large for signal (label 1). One file a tagger.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetstudy.taggers.transformer import Transformer

TAGGERS = {"transformer": Transformer}

BATCH = 1024


def build(name: str, **settings) -> nn.Module:
    """The tagger called ``name``; ValueError for an unknown one."""
    if name not in TAGGERS:
        raise ValueError(f"tagger {name!r}: expected one of {', '.join(TAGGERS)}")
    return TAGGERS[name](**settings)


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
