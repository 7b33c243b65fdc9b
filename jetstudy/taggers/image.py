"""A convolutional tagger on jet images (1511.05190; the network is that of 1803.00107, section 3).

The image is the sum of ptrel in ``pixels`` × ``pixels`` cells of (etarel, phirel), out to ``half_width`` on each
side of the jet's axis; particles beyond are lost. Two pairs of convolutions, 4 × 4, each pair followed by
max-pooling over 2 × 2, then dense layers, all with ReLU. Nothing is differentiated with respect to the
particles.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.particles import Physical, perceptron

KERNEL = 4


class Image(nn.Module):
    """``filters`` of the four convolutions, ``jet`` widths of the dense layers."""

    sizes: ClassVar = {
        "paper": {"filters": [128, 64, 64, 64], "jet": [64, 256, 256], "pixels": 37},
        "small": {"filters": [16, 16, 16, 16], "jet": [32, 32], "pixels": 24},
    }
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "cosine", "rate": 1e-3, "weight_decay": 1e-4}

    def __init__(
        self,
        features: Features,
        filters: Sequence[int] = (128, 64, 64, 64),
        jet: Sequence[int] = (64, 256, 256),
        pixels: int = 37,
        half_width: float = 0.4,
    ):
        super().__init__()
        self.pixels, self.half_width = pixels, half_width
        self.physical = Physical(features)
        layers, left = [], pixels
        for k, (a, b) in enumerate(zip([1, *filters[:-1]], filters, strict=True)):
            layers += [nn.Conv2d(a, b, KERNEL), nn.ReLU()]
            left -= KERNEL - 1
            if k % 2:
                layers.append(nn.MaxPool2d(2))
                left //= 2
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(perceptron(filters[-1] * left**2, *jet), nn.Linear(jet[-1], 1))

    def images(self, x: Tensor, mask: Tensor) -> Tensor:
        """Sums of ptrel (B, pixels, pixels): rows in etarel, columns in phirel."""
        u = self.physical(x, mask)
        cell = ((u[..., :2] / self.half_width + 1) * (self.pixels / 2)).floor()
        inside = mask & ((cell >= 0) & (cell < self.pixels)).all(-1)
        row, column = cell.masked_fill(~inside[..., None], 0).long().unbind(-1)
        image = x.new_zeros(len(x), self.pixels**2)
        image.scatter_add_(1, row * self.pixels + column, u[..., 2].exp().masked_fill(~inside, 0))
        return image.unflatten(1, (self.pixels, self.pixels))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            image = self.images(x, mask)
        return self.head(self.convolutions(image[:, None]).flatten(1)).squeeze(-1)
