"""Photographs inside the packages that `make setup` installs: a demonstration needs neither data nor a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from unmask_tf.errors import InputError
from unmask_tf.files import atomic_path


def bundled_photographs(folder: Path) -> list[Path]:
    """Grace Hopper, in colour, from matplotlib, and a photographer, in grey, from PyWavelets (which ImageHash needs).

    PyWavelets keeps its image as an array, which is saved as a PNG.

    Args:
        folder: for that PNG.

    Raises:
        InputError: neither is there, or the PNG cannot be written.
    """
    hopper = _package("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    camera = _package("pywt") / "data" / "camera.npz"
    found = [hopper] if hopper.is_file() else []
    if camera.is_file():
        path = folder / "camera.png"
        with np.load(camera) as arrays, atomic_path(path) as temporary:
            Image.fromarray(arrays["data"].astype(np.uint8)).save(temporary, "PNG")
        found.append(path)
    if not found:
        raise InputError(
            f"neither {hopper} nor {camera} is there. Install the packages anew (make setup), or inspect your own "
            "photographs (make inspect IMAGE=...)."
        )
    return found


def _package(name: str) -> Path:
    """A package's folder; one that does not exist where it is not installed. Nothing is imported."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else Path(f"no {name}")
