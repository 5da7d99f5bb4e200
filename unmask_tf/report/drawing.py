"""How every figure is drawn and saved: one style, no pyplot, and the same bytes for the same figure."""

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
# The default metadata name matplotlib's version, and a PDF's the time.
_METADATA = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}


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
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes `<name>.png` and `<name>.pdf`, the same bytes for the same figure; returns their paths.

    Raises:
        InputError: a file cannot be written.
    """
    paths = [folder / f"{name}.{suffix}" for suffix in _METADATA]
    for path, (suffix, metadata) in zip(paths, _METADATA.items(), strict=True):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata)
    return paths
