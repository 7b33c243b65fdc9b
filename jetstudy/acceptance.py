"""Which of the jets that a probability flow draws are kept, so that kept ones are more like the source's.

A network tells the source's jets from the flow's by their high-level features and by how many pairs of particles have
which mass; its odds w(jet) estimate the ratio of the two densities. A drawn jet is kept with the probability

    a(jet) = min(1, w(jet) / cap(mass, summed ptrel)),

so kept jets have the density p(jet) a(jet) / rate, rate = E[a] over drawn ones, whatever the network has learned: a is
a function of the stored jet, in drawing and in scoring. The rate is chosen, and each class's caps are those that have
it on drawn jets which the network was not trained on. They are finitely many, so the rate has an error, which shifts
every log p of a class by the same amount (``likelihoods.log_odds`` has it); no order of jets by their likelihood ratio
depends on it.

One cap for all would keep the peaks of a spectrum, where w exceeds it, from filling up. So log cap is a sum of one
function a spectrum, of the mass and of the summed ptrel, and these are set, bin by bin and in turn, for kept jets to
have about the source's spectra of both. Where the flow draws too few jets even if all were kept, nearly all are
(``FULLEST``).

Discriminator rejection sampling (Azadi et al., arXiv:1810.06758); for jets, classifiers' odds as weights are those of
Andreassen & Nachman (arXiv:1907.08209). If w is right, no other acceptance that keeps as many jets of each mass and
summed ptrel gives the source's jets a larger mean log p. Small caps are paid for in likeness, large ones in jets drawn
for nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from scipy.special import ndtri
from torch import Tensor, nn

from jetstudy.files import prefixed
from jetstudy.jets import Jets, concatenate, split
from jetstudy.networks import load_weights
from jetstudy.substructure import CONNECTED, FEATURES, PAIR_COUNTS, high_level, pair_masses
from jetstudy.training import Recipe, seeded, train

WIDTH = 64
BATCH, EPOCHS = 512, 12
QUANTILES = 200
# What the caps depend on, each one of the features; the spectrum of the last is brought about last.
SPECTRA = ("ptrel_sum", "mass")
BINS, JETS_A_BIN = 20, 100  # of a spectrum, at most; at least
ROUNDS, SETTLED = 20, 0.002  # over the spectra at most; what the last one has brought nearer, as a share of the jets
FULLEST = 0.98  # share of a bin's jets that may be kept: of all of them some are like nothing the source has
ZERO = 1e-12
CAPS = "caps."  # begins the names of the arrays of caps
Caps = dict[str, np.ndarray]  # the terms of log cap, by the feature that each depends on
FEATURE_NAMES = (*FEATURES, *(name for names in CONNECTED.values() for name in names), *PAIR_COUNTS)


@dataclass(frozen=True, eq=False)
class Acceptance:
    """log a of a jet: ``network`` maps its FEATURE_NAMES, made normal, to log w.

    ``quantiles`` (QUANTILES, features) are those of the jets it was trained on; ``caps`` holds for each class it was
    trained for, one or two, the terms of log cap by the feature that each depends on (see ``log_cap``); ``label``, 0 or
    1, says which class is meant; ``rate`` is the share of drawn jets kept.
    """

    network: nn.Module
    quantiles: np.ndarray
    caps: tuple[Caps, ...]
    rate: float
    label: int = 0

    def log_odds(self, jets: Jets) -> np.ndarray:
        """log w (n,) float64."""
        return self._log_odds(_features(jets))

    def log_excess(self, jets: Jets) -> np.ndarray:
        """log(w / cap) (n,) float64."""
        features, caps = _features(jets), self.caps[self.label]
        return self._log_odds(features) - log_cap(caps, {k: features[:, FEATURE_NAMES.index(k)] for k in caps})

    def log_share(self, jets: Jets) -> np.ndarray:
        """log a (n,) float64, at most 0."""
        return np.minimum(0.0, self.log_excess(jets))

    def of_class(self, label: int) -> "Acceptance":
        """The same for the class ``label``; ValueError if it was not trained for it."""
        if label not in range(len(self.caps)):
            raise ValueError(f"the acceptance was made for {len(self.caps)} classes: there is no label {label} in it")
        return replace(self, label=label)

    def tensors(self) -> dict[str, Tensor]:
        """All arrays, for a file of weights."""
        weights = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        terms = {f"{CAPS}{k}.{name}": term for k, own in enumerate(self.caps) for name, term in own.items()}
        arrays = terms | {"quantiles": self.quantiles}
        return weights | {name: torch.from_numpy(values) for name, values in arrays.items()}

    def settings(self) -> dict:
        """All else, for a file of settings."""
        return {"rate": self.rate, "label": self.label, "features": list(FEATURE_NAMES)}

    def _log_odds(self, features: np.ndarray) -> np.ndarray:
        return _log_odds(self.network, self.quantiles, features, self.label, len(self.caps))

    @classmethod
    def restored(
        cls, tensors: Mapping[str, np.ndarray], rate: float, label: int, features: Sequence[str], path: Path
    ) -> "Acceptance":
        """From what ``tensors`` gave, read from the file ``path``, and ``settings``. ValueError, naming the file, for
        arrays of another network, for other features than this version's, and for a label that is not there.
        """
        if tuple(features) != FEATURE_NAMES:
            odd = [name for name in (*features, *FEATURE_NAMES) if (name in features) != (name in FEATURE_NAMES)]
            what = f": {', '.join(odd)}" if odd else ", in another order or twice"
            raise ValueError(f"{path}: an acceptance of other features than this version's{what}")
        caps: dict[str, Caps] = {}
        for name, term in prefixed(CAPS, tensors).items():
            k, _, feature = name.partition(".")
            caps.setdefault(k, {})[feature] = term
        if "quantiles" not in tensors or not caps:
            raise ValueError(f"{path}: the arrays of the acceptance are not in it")
        if odd := {name for own in caps.values() for name in own} - set(SPECTRA):
            raise ValueError(f"{path}: caps of {', '.join(sorted(map(repr, odd)))}: expected {' and '.join(SPECTRA)}")
        network = _network(len(features), len(caps))
        load_weights(network, prefixed("network.", tensors), path)
        of_classes = tuple(caps[k] for k in sorted(caps))
        return cls(network.eval(), tensors["quantiles"], of_classes, rate).of_class(label)


def fit(
    source: Sequence[Jets],
    drawn: Sequence[Jets],
    rate: float,
    generator: torch.Generator,
    checkpoint: Path,
    progress: Callable[[str], None] = print,
) -> Acceptance:
    """An acceptance of ``rate`` for the classes of ``source`` and the jets ``drawn`` for each, one class or two.

    Every class counts alike, and of each class the source's jets as much as the drawn ones. The network learns from the
    training splits of all, and the caps follow from the drawn jets it was not trained on, and from the spectra of all
    drawn jets and of the source's training split. Raises ValueError for a rate that is not between 0 and 1, and for a
    number of classes other than one or two; FloatingPointError for jets whose odds are not finite.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate {rate}: expected a share between 0 and 1")
    if len(source) not in (1, 2):
        raise ValueError(f"{len(source)} classes: an acceptance is for one or two")
    parts = {name: _labelled(source, drawn, name) for name in ("train", "validation")}
    quantiles = np.quantile(parts["train"][0], np.linspace(0, 1, QUANTILES), axis=0)
    data, validation = (
        (_inputs(features, quantiles, signs), torch.from_numpy(label).float(), torch.from_numpy(weight).float())
        for features, signs, label, weight in parts.values()
    )
    with seeded(generator):
        network = _network(quantiles.shape[1], len(source))
    steps = max(1, EPOCHS * len(data[0]) // BATCH)
    recipe = Recipe(steps, BATCH, 4e-3, max(1, steps // EPOCHS), weight_decay=1e-2)
    train(network, _loss, data, validation, recipe, generator, checkpoint, progress)
    caps = []
    for k, (own, flow) in enumerate(zip(source, drawn, strict=True)):
        unseen, learned = set_aside(flow), own[split(len(own), "train")]
        log_w = _log_odds(network, quantiles, _features(unseen), k, len(source))
        if not np.isfinite(log_w).all():
            raise FloatingPointError(f"class {k}: a drawn jet has no odds of being kept")
        caps.append(caps_by(log_w, *map(spectra, (unseen, learned, flow)), rate))
    return Acceptance(network, quantiles, tuple(caps), rate)


def set_aside(drawn: Jets) -> Jets:
    """Of the jets drawn for a training those that its network was not trained on."""
    return concatenate([drawn[split(len(drawn), name)] for name in ("validation", "test")])


def spectra(jets: Jets) -> dict[str, np.ndarray]:
    """What the caps depend on, (n,) each."""
    return {name: getattr(jets, name) for name in SPECTRA}


def log_cap(caps: Caps, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """log cap (n,), the sum of its terms: arrays (2, knots) of a feature and of the term's values there, which is
    linear between the knots and constant beyond."""
    return np.sum([np.interp(values[name], *term) for name, term in caps.items()], axis=0)


def caps_by(
    log_w: np.ndarray,
    values: Mapping[str, np.ndarray],
    source: Mapping[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
    rate: float,
) -> Caps:
    """Caps at which the share ``rate`` of jets is kept that have log w (n,) and, by name, the ``values`` (n,).

    The bins of a value hold equally many of these jets; ``source`` and ``drawn`` are the values of larger samples, of
    which the kept jets' spectra follow. One spectrum after the other is brought about, each from where the one before
    has left it (iterative proportional fitting, Deming & Stephan 1940), for as long as that brings all of them nearer:
    where they cannot be had together, further rounds would make the caps ever wilder.
    """
    binned = {name: _binned(own, source[name], drawn[name], rate) for name, own in values.items()}
    caps = {name: np.stack([knots, np.zeros_like(knots)]) for name, (_, knots, _) in binned.items()}
    before = np.inf
    for _ in range(ROUNDS):
        for name, (bins, knots, kept) in binned.items():
            rest = log_w - log_cap({other: term for other, term in caps.items() if other != name}, values)
            caps[name] = np.stack([knots, [log_cap_at(rest[bins == k], share) for k, share in enumerate(kept)]])
        share = np.exp(np.minimum(0.0, log_w - log_cap(caps, values)))
        left = sum(_missed(share, bins, kept) for bins, _, kept in binned.values())
        if before - left < SETTLED:
            break
        before = left
    # Linear between the knots, so that log p has no steps in a value (as it has where counts of pairs change). This
    # moves the mean; one factor brings it back.
    *_, last = caps
    caps[last][1] += log_cap_at(log_w - log_cap(caps, values), rate)
    return caps


def _missed(share: np.ndarray, bins: np.ndarray, kept: np.ndarray) -> float:
    """The fraction of kept jets in the wrong bin: half the summed |kept − wanted| over all wanted jets."""
    wanted = np.bincount(bins) * kept
    return float(np.abs(np.bincount(bins, share) - wanted).sum() / wanted.sum() / 2)


def _binned(
    values: np.ndarray, source: np.ndarray, drawn: np.ndarray, rate: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bin of each of the values (n,), the mean value in each bin, and what share of a bin's jets is kept."""
    n_bins = np.clip(min(len(values), len(source)) // JETS_A_BIN, 1, BINS)
    edges = np.unique(np.quantile(values, np.arange(1, n_bins) / n_bins, method="higher"))
    edges = edges[edges > values.min()]  # so that no bin is empty
    bins = np.digitize(values, edges)

    def shares(of: np.ndarray) -> np.ndarray:
        """Of a sample's jets by bin, with one more in each: no share is zero."""
        counts = 1 + np.bincount(np.digitize(of, edges), minlength=len(edges) + 1)
        return counts / counts.sum()

    # What is kept of each bin: in proportion to source over flow, the mean being the rate; a cap on that ratio does it.
    log_ratio = np.log(shares(source) / shares(drawn))
    kept = np.minimum(FULLEST, np.exp(log_ratio - log_cap_at(log_ratio[bins], rate)))
    return bins, np.array([values[bins == k].mean() for k in range(len(kept))]), kept


def log_cap_at(log_w: np.ndarray, rate: float) -> float:
    """The log cap at which the mean of min(1, w / cap) is the rate."""

    def surplus(log_cap: float) -> float:
        return np.exp(np.minimum(0.0, log_w - log_cap)).mean() - rate

    return brentq(surplus, log_w.min(), log_w.max() - np.log(rate) + 1)  # 1 - rate, and less than 0


def _log_odds(network: nn.Module, quantiles: np.ndarray, features: np.ndarray, label: int, classes: int) -> np.ndarray:
    """log w (n,) float64 of jets of one of these classes, by their features (n, F)."""
    with torch.no_grad():
        inputs = _inputs(features, quantiles, _signs(len(features), label, classes))
        return network(inputs)[:, 0].double().numpy()


def _labelled(
    source: Sequence[Jets], drawn: Sequence[Jets], name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, F), signs of the classes (n, C - 1), label (n,), 1 for the source's, and weights (n,) of mean 1."""
    features, signs, labels, weights = [], [], [], []
    for k, pair in enumerate(zip(drawn, source, strict=True)):
        for label, jets in enumerate(pair):
            own = _features(jets[split(len(jets), name)])
            features.append(own)
            signs.append(_signs(len(own), k, len(source)))
            labels.append(np.full(len(own), float(label)))
            weights.append(np.full(len(own), 1 / len(own)))
    weight = np.concatenate(weights)
    return np.concatenate(features), np.concatenate(signs), np.concatenate(labels), weight / weight.mean()


def _features(jets: Jets) -> np.ndarray:
    """The features (n, F), without what rounding leaves of a zero: quantiles would make a feature of it."""
    features = high_level(jets).join(pair_masses(jets))[list(FEATURE_NAMES)].to_numpy()
    return np.where(np.abs(features) < ZERO, 0.0, features)


def _signs(n: int, label: int, classes: int) -> np.ndarray:
    """What tells n jets of ``label`` from those of the other one of two classes (n, 1); of one class (n, 0)."""
    return np.full((n, classes - 1), 2.0 * label - 1)


def _inputs(features: np.ndarray, quantiles: np.ndarray, signs: np.ndarray) -> Tensor:
    """Features (n, F) made normal by their quantiles, and the signs (n, S): (n, F + S) float32."""
    level = (np.arange(len(quantiles)) + 0.5) / len(quantiles)
    normal = [ndtri(np.interp(values, known, level)) for values, known in zip(features.T, quantiles.T, strict=True)]
    return torch.from_numpy(np.column_stack([*normal, signs])).float()


def _network(features: int, classes: int) -> nn.Module:
    """Features, and a sign if there are two classes, to log w."""
    return nn.Sequential(
        *(nn.Linear(features + classes - 1, WIDTH), nn.SiLU()),
        *(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1)),
    )


def _loss(network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    inputs, label, weight = batch
    return F.binary_cross_entropy_with_logits(network(inputs)[:, 0], label, weight=weight)
