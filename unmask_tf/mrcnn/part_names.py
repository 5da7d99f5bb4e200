"""The parts that a weights file of K names; needs neither TensorFlow nor Keras."""

from __future__ import annotations

from pathlib import Path

import h5py

STATE, PARTS = "training_state", "parts"
"""Where `save_weights` keeps what is not a weight, and the parts in it."""


def part_names(path: str | Path) -> tuple[str, ...]:
    """K's classes without the background, in order; empty where the file does not say (Matterport's do not).

    Raises:
        OSError: the file is missing or not an HDF5 file.
    """
    with h5py.File(path, "r") as file:
        held = file.get(f"{STATE}/{PARTS}", ())
        return tuple(part.decode() if isinstance(part, bytes) else str(part) for part in held)
