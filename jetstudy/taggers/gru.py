"""A recurrent tagger: a gated recurrent unit (1406.1078) reads the particles by falling ptrel.

After 1711.09059, whose network is a long short-term memory of width 128, a dense layer of 64 and the output. Only
the state after the last real particle counts.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.particles import leading_first


class GRU(nn.Module):
    """``width`` of the state, ``layers`` of units on top of each other, a dense layer of width ``jet``."""

    sizes: ClassVar = {"paper": {"width": 128, "layers": 1, "jet": 64}, "small": {"width": 32, "layers": 1, "jet": 32}}
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "cosine", "rate": 1e-3, "weight_decay": 1e-4}

    def __init__(self, features: Features, width: int = 128, layers: int = 1, jet: int = 64):
        super().__init__()
        self.unit = nn.GRU(3, width, layers, batch_first=True)
        self.head = nn.Sequential(nn.Linear(width, jet), nn.ReLU(), nn.Linear(jet, 1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, mask = leading_first(x, mask)
        states, _ = self.unit(x)
        last = states[torch.arange(len(x), device=x.device), mask.sum(1) - 1]
        return self.head(last).squeeze(-1)
