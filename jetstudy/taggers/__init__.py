"""Taggers: jets in, one logit a jet out.

A tagger is a module made as ``Tagger(features, **settings)`` whose ``forward(x, mask)`` maps the standardised
features x (B, N, 3) that the density is a function of, and the mask (B, N), to logits (B,): large for signal
(label 1). ``features`` are the constants of the standardisation, for taggers that need momenta. Its class may name
``sizes`` ("paper" and "small": settings), the ``recipe`` of its paper (what it says of a ``training.Recipe``) and a
``space`` of settings to search: {setting: list of choices, or (low, high) on a log scale}.

One file a tagger; ``package.module:Class`` is one of the user's own. A number behind a name, as in ``pfn.2``, makes
another training of the same tagger: all functions here take such names.
"""

import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save as save_to_bytes
from safetensors.torch import save_file
from torch import Tensor, nn

from jetstudy.features import Features
from jetstudy.files import digest, read_json, read_tensors, replacing, write_json
from jetstudy.jets import Jets, arrange
from jetstudy.networks import load_weights
from jetstudy.sources import kind
from jetstudy.training import Recipe, on_device, seeded, train

TAGGERS = {
    "transformer": "jetstudy.taggers.transformer:Transformer",
    "pfn": "jetstudy.taggers.pfn:PFN",
    "efn": "jetstudy.taggers.efn:EFN",
    "particlenet": "jetstudy.taggers.particlenet:ParticleNet",
    "part": "jetstudy.taggers.part:ParT",
    "lorentznet": "jetstudy.taggers.lorentznet:LorentzNet",
    "pelican": "jetstudy.taggers.pelican:Pelican",
    "lgatr": "jetstudy.taggers.lgatr:LGATr",
    "cnn": "jetstudy.taggers.cnn:CNN",
    "gru": "jetstudy.taggers.gru:GRU",
    "image": "jetstudy.taggers.image:Image",
}

# A scan of the depth of the poster's transformer, by names of their own so that they can stand in one list.
DEPTHS = {f"transformer-{blocks}": blocks for blocks in (1, 2, 4, 8, 16)}
TAGGERS |= dict.fromkeys(DEPTHS, TAGGERS["transformer"])

BATCH = 1024


def find(name: str) -> type[nn.Module]:
    """The class of the tagger called ``name``, or written as ``package.module:Class``.

    ValueError for an unknown name, a module that cannot be found and a class that its module lacks, TypeError for a
    class that is no ``nn.Module``.
    """
    known = kind(name)
    module, colon, of_class = TAGGERS.get(known, known).partition(":")
    if not colon:
        raise ValueError(
            f"tagger {name!r}: expected package.module:Class or one of {', '.join(TAGGERS)} (trees are no networks)"
        )
    if module.endswith(".py"):
        raise ValueError(f"tagger {name!r}: a module is named without its .py")
    try:
        module = importlib.import_module(module)
    except ModuleNotFoundError as error:
        cure = "pip install -e '.[taggers]'" if known in TAGGERS else "install it or put its folder on PYTHONPATH"
        raise ValueError(f"tagger {name!r}: no module {error.name!r}; {cure}") from error
    found = getattr(module, of_class, None)
    if found is None:
        raise ValueError(f"tagger {name!r}: module {module.__name__} has no {of_class}")
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise TypeError(f"tagger {name!r}: {of_class} is not a class of torch.nn.Module")
    return found


def code(name: str) -> str:
    """The digest of the file that the class of the tagger called ``name`` stands in: it may be one of the user's that
    has been changed since.
    """
    return digest(Path(inspect.getfile(find(name))))


def build(name: str, features: Features, size: str | None = None, **settings) -> nn.Module:
    """The tagger called ``name``, at a ``size`` that its class names, with other ``settings`` where they are given.

    A class without ``sizes`` has one size only. ValueError for what ``find`` refuses, for a size that the class lacks,
    and, before it is trained, for a tagger that fails on two jets, whose output for them is not two numbers, that has
    no parameters, or that could not be saved.
    """
    tagger_class = find(name)
    if kind(name) in DEPTHS:
        settings = {"blocks": DEPTHS[kind(name)]} | settings
    sizes = getattr(tagger_class, "sizes", None)
    if sizes is not None and size is not None:
        if size not in sizes:
            raise ValueError(f"tagger {name!r}: size {size!r}, expected one of its sizes: {', '.join(sizes)}")
        settings = sizes[size] | settings
    tagger = tagger_class(features, **settings)
    tagger.settings = {"name": name, "features": features.to_dict(), **settings}
    _check(tagger, name)
    return tagger


def recipe(name: str, **lengths) -> Recipe:
    """The training that the paper of the tagger ``name`` recommends, over ``lengths`` (steps, batch, every, ...).

    A class without a ``recipe`` gets AdamW with a learning rate of 1e-3 along a cosine. What ``lengths`` say wins, but
    for a rate of 0, which stands for the paper's.
    """
    if lengths.get("rate") == 0:
        del lengths["rate"]
    own = getattr(find(name), "recipe", {})
    known = [field.name for field in fields(Recipe)]
    if unknown := [key for key in own if key not in known]:
        raise ValueError(f"tagger {name!r}: recipe has {unknown[0]!r}; there are {', '.join(known)}")
    return Recipe(**{"rate": 1e-3} | own | lengths)


def _check(tagger: nn.Module, name: str) -> None:
    if not any(True for _ in tagger.parameters()):
        raise ValueError(f"tagger {name!r}: it has no parameters to train")
    try:
        with torch.no_grad():
            found = tagger.eval()(torch.zeros(2, 4, 3), torch.tensor([[True] * 4, [True] * 3 + [False]]))
    except Exception as error:
        tried = "forward(x, mask) was tried on two jets of 4 and 3 particles, as it has to work for any number"
        raise ValueError(f"tagger {name!r}: {tried}: {type(error).__name__}: {error}") from error
    tagger.train()
    if getattr(found, "shape", None) != (2,):
        raise ValueError(f"tagger {name!r}: output of shape {getattr(found, 'shape', None)} for 2 jets, expected (2,)")
    try:
        json.dumps(tagger.settings)
        save_to_bytes(tagger.state_dict())
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"tagger {name!r}: its settings or weights cannot be saved: {error}") from error


def save(tagger: nn.Module, folder: Path) -> None:
    """Write ``weights.safetensors`` and ``tagger.json``, from which ``load`` makes an equal tagger."""
    with replacing(Path(folder) / "weights.safetensors") as unfinished:
        save_file(tagger.state_dict(), unfinished)
    write_json(Path(folder) / "tagger.json", tagger.settings)


def load(folder: Path, name: str | None = None) -> nn.Module:
    """The tagger that ``save`` wrote into ``folder``.

    No module is imported because a file says so: of a class of one's own the ``name``, package.module:Class, is asked
    for again. ValueError if it is missing or another one, and for the folder of trees.
    """
    path = Path(folder) / "tagger.json"
    if not path.exists() and (trees := Path(folder) / "trees.safetensors").exists():
        raise ValueError(f"{trees}: no network: jetstudy.taggers.trees.Trees.load reads it")
    settings = read_json(path)
    if kind(settings["name"]) not in TAGGERS and name != settings["name"]:
        raise ValueError(f"{path}: a tagger {settings['name']!r}; if it is yours, say so: load(folder, name)")
    tagger = build(**settings | {"features": Features.from_dict(settings["features"])})
    path = Path(folder) / "weights.safetensors"
    load_weights(tagger, read_tensors(path), path)
    return tagger.eval()


def tensors(features: Features, jets: Jets, label: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """What a tagger is trained on: standardised x (n, N, 3) float32, mask (n, N) and label (n,) float32."""
    x = torch.from_numpy(features.forward(jets)).float()
    return x, torch.from_numpy(jets.mask), torch.from_numpy(label).float()


def loss(tagger: nn.Module, batch: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Mean cross-entropy of the logits of a batch (x, mask, label)."""
    x, mask, label = batch
    return F.binary_cross_entropy_with_logits(tagger(x, mask), label)


def fitted(
    build: Callable[[], nn.Module],
    training: tuple[Tensor, Tensor, Tensor],
    validation: tuple[Tensor, Tensor, Tensor],
    recipe: Recipe,
    generator: torch.Generator,
    checkpoint: Path,
    device: str = "cpu",
    progress: Callable[[str], None] = print,
) -> tuple[nn.Module, pd.DataFrame]:
    """The tagger that ``build`` makes from ``generator``'s numbers after its training, and its losses (`train`).

    Samples are ``tensors``; an interrupted training goes on from its ``checkpoint``.
    """
    with seeded(generator):
        tagger = build()
    losses = train(tagger.to(on_device(device)), loss, training, validation, recipe, generator, checkpoint, progress)
    return tagger, losses


def on_jets(tagger: nn.Module, features: Features) -> Callable[[Jets], np.ndarray]:
    """The tagger as what it is to its users: a function from jets to logits (n,)."""

    def score(jets: Jets) -> np.ndarray:
        x, mask, _ = tensors(features, jets, np.zeros(len(jets)))
        return logits(tagger, x, mask).numpy()

    return score


@torch.no_grad()
def logits(tagger: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """Logits (n,) float64 of all jets, in batches, on the tagger's device."""
    device = next(tagger.parameters()).device
    tagger.eval()
    parts = zip(x.split(BATCH), mask.split(BATCH), strict=True)
    return torch.cat([tagger(a.to(device), b.to(device)).cpu() for a, b in parts]).double()


def sees_number(logits: Callable[[Jets], np.ndarray], jets: Jets) -> bool:
    """Whether a tagger, a function from jets to ``logits`` (n,), can see how many particles a jet has.

    It can't if its logits stay as they are where every particle is there twice, or where each is split into two halves
    of its ptrel: averages leave the first alone, sums of ptrel the second. Asked of the leading half of each jet, so
    that no jet gets larger than those that the tagger knows.
    """
    half = jets.leading(jets.n_max // 2)
    expected = logits(half.leading(jets.n_max))
    for share in (1.0, 0.5):
        particles = np.tile(half.particles, (1, 2, 1)) * np.float32([1, 1, share])
        twice = arrange(particles, np.tile(half.mask, 2), half.features).leading(jets.n_max)
        if np.abs(logits(twice) - expected).max() < 1e-3 * (1 + np.abs(expected).max()):
            return False
    return True
