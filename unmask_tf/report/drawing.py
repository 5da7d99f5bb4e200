"""How every figure is drawn and saved: one style, no pyplot, and the same PNG bytes for the same figure."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unmask_tf.files import atomic_path

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.titlesize": 9.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "legend.fancybox": False,
}


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Draws in this module's style, whatever the user's own matplotlibrc says, and leaves that as it is."""

    @wraps(draw)
    def drawn(*arguments: Any) -> Any:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            return draw(*arguments)

    return drawn


def panels(rows: int, columns: int, width: float, height: float, share: bool = True) -> tuple[Figure, np.ndarray]:
    """A figure and its axes; not by pyplot, which would choose a backend and keep the figure alive."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)


@styled
def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG, the same bytes for the same figure.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        # The default metadata names matplotlib's version.
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
