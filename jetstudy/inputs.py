"""What a part of a step reads of earlier ones: classes, surrogates, jets, log p.

All of it is noted (`Reader.read`, whose errors these functions raise): it stands in the part's record. `labels` are
names of classes, background first; surrogates, synthetic jets and log p are those of the part's seed.
"""

from collections.abc import Sequence

import numpy as np

from jetstudy.files import read_arrays, read_json
from jetstudy.jets import Jets, read_jets
from jetstudy.limit import log_ratio
from jetstudy.study import Reader
from jetstudy.surrogate import Surrogate


def classes(part: Reader) -> list[str]:
    """All classes of the study, those of a null included: a part's own list may be a shorter one."""
    return read_json(part.read("jets", "features.json"))["classes"]


def surrogate(part: Reader, label: str, device: str = "cpu") -> Surrogate:
    """The surrogate of one class."""
    part.read("surrogates", label, part.seed, "weights.safetensors")
    return Surrogate.load(part.read("surrogates", label, part.seed, "surrogate.json").parent, device)


def jets(part: Reader, sample: str, labels: Sequence[str]) -> list[Jets]:
    """Jets of each class, all splits: of the "source", or "synthetic" ones, or the "fresh" ones beside these."""
    if sample == "source":
        return [read_jets(part.read("jets", f"{label}.h5")) for label in labels]
    file = {"synthetic": "jets.h5", "fresh": "fresh.h5"}[sample]
    return [read_jets(part.read("synthetic_jets", label, part.seed, file)) for label in labels]


def log_prob(part: Reader, sample: str, labels: Sequence[str]) -> list[np.ndarray]:
    """log p (n, 2), under [background, signal], of each class's jets that were scored.

    sample: "synthetic" or "source", of the test split; "posterior", of the first synthetic training jets
    """
    file, name = ("posterior.h5", "log_prob") if sample == "posterior" else ("likelihoods.h5", sample)
    return [read_arrays(part.read("likelihoods", label, part.seed, file))[name] for label in labels]


def llr(part: Reader, sample: str, labels: Sequence[str]) -> np.ndarray:
    """LLR (n,) of the jets of `log_prob`, all classes in one."""
    return log_ratio(np.concatenate(log_prob(part, sample, labels)))


def checks(part: Reader, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """What was checked of a few jets (`surrogate.checks`), all classes in one."""
    few = [read_arrays(part.read("likelihoods", label, part.seed, "checks.h5")) for label in labels]
    return {name: np.concatenate([own[name] for own in few]) for name in few[0]}
