"""What the field calls taggers that parameter sets and tables have short names for."""

import re

TAGGERS = {
    "pfn": "PFN",
    "efn": "EFN",
    "particlenet": "ParticleNet",
    "part": "ParT",
    "lorentznet": "LorentzNet",
    "pelican": "PELICAN",
    "lgatr": "L-GATr",
    "cnn": "CNN",
    "gru": "GRU",
    "image": "jet-image CNN",
    "boosting": "gradient boosting",
    "forest": "random forest",
    "average": "mean of all",
    "stacked": "stack of all",
}


def called(tagger: str) -> str:
    """What the field calls a tagger of this name in a parameter set, more words behind it or not. What is not in
    ``TAGGERS`` stays as it is, names of this function's included.

    >>> [called(name) for name in ("lorentznet", "pfn.2 on synthetic jets", "mytaggers:DeepSet")]
    ['LorentzNet', 'PFN.2 on synthetic jets', 'mytaggers:DeepSet']
    >>> [called(name) for name in TAGGERS.values()] == list(TAGGERS.values())
    True
    """
    return re.sub(r"^[a-z]+(?=(\.\d+)?( |$))", lambda found: TAGGERS.get(found[0], found[0]), tagger)
