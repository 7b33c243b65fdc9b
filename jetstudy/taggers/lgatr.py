"""L-GATr (2405.14806, 2411.00446): a transformer on multivectors of space-time, equivariant under the Lorentz group.

The network is its authors' package `lgatr`. Its tokens are a global one, whose scalar output is the logit, the two
references that tell it where the detector is (the plane across the beam and the direction of time), and the
particles' four-vectors in units of 20 GeV, as if of a 1 TeV jet.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from lgatr import LGATr as Network
from lgatr import embed_vector, get_spurions
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.taggers.pairs import LOG_GEV
from jetstudy.taggers.particles import Physical

UNIT = LOG_GEV - math.log(20.0)


class LGATr(nn.Module):
    """``width`` multivectors and ``scalars`` a token, ``heads`` of attention, ``blocks``.

    The paper's has 1.1M parameters.
    """

    sizes: ClassVar = {
        "paper": {"width": 16, "scalars": 32, "heads": 8, "blocks": 12},
        "small": {"width": 4, "scalars": 8, "heads": 2, "blocks": 2},
    }
    recipe: ClassVar = {"optimiser": "adamw", "schedule": "cosine", "rate": 1e-3, "weight_decay": 1e-2}

    def __init__(self, features: Features, width: int = 16, scalars: int = 32, heads: int = 8, blocks: int = 12):
        super().__init__()
        self.physical = Physical(features)
        self.register_buffer("references", get_spurions())
        self.network = Network(
            num_blocks=blocks,
            in_mv_channels=1,
            out_mv_channels=1,
            hidden_mv_channels=width,
            in_s_channels=1,
            out_s_channels=1,
            hidden_s_channels=scalars,
            attention={"num_heads": heads, "attn_ratio": 2},
            mlp={"mlp_ratio": 2},
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        eta, phi, log_ptrel = self.physical(x, mask).unbind(-1)
        pt = (log_ptrel + UNIT).exp()
        vectors = pt[..., None] * torch.stack([eta.cosh(), phi.cos(), phi.sin(), eta.sinh()], dim=-1)
        particles = embed_vector(vectors.masked_fill(~mask[..., None], 0))
        first = F.pad(self.references, (0, 0, 1, 0)).expand(len(x), -1, -1)
        tokens = torch.cat([first, particles], dim=1)
        is_global = torch.arange(tokens.shape[1], device=x.device)[:, None] == 0
        seen = F.pad(mask, (first.shape[1], 0), value=True)[:, None, None, :]
        _, scalars = self.network(tokens[:, :, None], is_global.to(x.dtype).expand(len(x), -1, -1), attn_mask=seen)
        return scalars[:, 0, 0]
