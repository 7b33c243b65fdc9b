"""Tables in, figures out: each function takes a table that another module makes (`limit`, `fidelity`, `learning`, ...).

It returns (figure, alt text); the alt text quotes the table's numbers. A table read back from its CSV gives
the same figure. Figures are matplotlib's `Figure` objects: no pyplot, no global state. They are drawn 7 to 8
inches wide, in colours of Okabe and Ito that the colour-blind can tell apart, and with line styles and markers
that can be told apart in grey.
"""

from jetstudy.figures.jets import fidelity, observables, pairs, resampled, spectra
from jetstudy.figures.likelihoods import (
    likelihood_differences,
    likelihood_maps,
    llr_distributions,
    log_odds,
    velocity_error,
)
from jetstudy.figures.style import COLOURS, GREY, LIGHT, LINES, MARKERS, STYLE, save
from jetstudy.figures.taggers import depth, landscape, likelihood_ratio_trick, logit_maps, roc, significance, where
from jetstudy.figures.trainings import extrapolation, learning_curves, losses, search, targets

__all__ = [
    "COLOURS",
    "GREY",
    "LIGHT",
    "LINES",
    "MARKERS",
    "STYLE",
    "depth",
    "extrapolation",
    "fidelity",
    "landscape",
    "learning_curves",
    "likelihood_differences",
    "likelihood_maps",
    "likelihood_ratio_trick",
    "llr_distributions",
    "log_odds",
    "logit_maps",
    "losses",
    "observables",
    "pairs",
    "resampled",
    "roc",
    "save",
    "search",
    "significance",
    "spectra",
    "targets",
    "velocity_error",
    "where",
]
