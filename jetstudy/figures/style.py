"""What all figures share: the look, the names of observables, numbers in words, and how a figure is saved."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from jetstudy.files import replacing

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.minor.visible": True,
    "ytick.minor.visible": True,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
}
DPI = 150  # of a picture
GREY, LIGHT = "#767676", "#d9d9d9"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F4F24", "#5E3C99")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X")
LOGARITHMIC = ("ptrel", "pair_mass")  # of the observables
OBSERVABLES = {
    "etarel": r"relative pseudorapidity $\eta^{\mathrm{rel}}$",
    "phirel": r"relative azimuth $\phi^{\mathrm{rel}}$",
    "ptrel": r"relative momentum $p_T^{\mathrm{rel}}$",
    "mass": r"jet mass / jet $p_T$",
    "ptrel_sum": r"sum of $p_T^{\mathrm{rel}}$",
    "multiplicity": "particles in the jet",
    "pair_mass": r"mass of a pair of particles / jet $p_T$",
}


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def signed(value: float) -> str:
    """Three significant digits with a sign, "−1.23", and a plain 0."""
    return f"{value:+.3g}".replace("-", "−") if abs(value) > 1e-9 else "0"


def with_error(value: float, error: float) -> str:
    """ "1.23 ± 0.04": as many decimals as the error's first digit asks for."""
    decimals = max(0, -int(np.floor(np.log10(error)))) if error > 0 else 3
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def edges_of(bins: pd.DataFrame) -> np.ndarray:
    return np.append(bins["low"], bins["high"].iloc[-1])


def centres(bins: pd.DataFrame, name: str = "") -> np.ndarray:
    if name in LOGARITHMIC:
        return np.sqrt(bins["low"] * bins["high"]).to_numpy()
    return ((bins["low"] + bins["high"]) / 2).to_numpy()


def positive(height: pd.Series) -> pd.Series:
    """NaN, which is not drawn, where a bin is empty."""
    return height.where(height > 0)


def plain_log(axis: Axis, subs: tuple[float, ...] | None = None) -> None:
    """Ticks of a logarithmic axis at these multiples of the powers of ten, labelled as plain numbers.

    By default there are more of them where what is drawn so far spans less than a power of ten, and less than a
    factor of two they are as on a linear axis.
    """
    low, high = axis.get_view_interval()
    subs = subs or ((1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 6, 8))
    axis.set_major_locator(MaxNLocator(5) if high < 2 * low else LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


@rc_context(STYLE)
def save(folder: Path, name: str, figure: Figure) -> None:
    """Write name.png and name.pdf, each whole or not at all. The same figure gives the same bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(DPI)  # the layout depends on it
    if engine := figure.get_layout_engine():
        engine.execute(figure)  # takes a third of the time: once, and not before each drawing
        figure.set_layout_engine(None)
    for kind, metadata in {"png": {"Software": None}, "pdf": {"CreationDate": None}}.items():
        with replacing(folder / f"{name}.{kind}") as unfinished:
            figure.savefig(unfinished, format=kind, dpi=DPI, metadata=metadata)
