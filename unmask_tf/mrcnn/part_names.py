"""What a weights file of K says of its parts: names, and scores; needs neither TensorFlow nor Keras."""

from __future__ import annotations

from pathlib import Path

import h5py

STATE, PARTS, SCORES = "training_state", "parts", "part_scores"
"""Where `save_weights` keeps what is not a weight; the parts in it, and the score from which K is believed of each."""


def part_names(path: str | Path) -> tuple[str, ...]:
    """K's classes without the background, in order; empty where the file does not say (Matterport's do not).

    Raises:
        OSError: the file is missing or not an HDF5 file.
    """
    with h5py.File(path, "r") as file:
        held = file.get(f"{STATE}/{PARTS}", ())
        return tuple(part.decode() if isinstance(part, bytes) else str(part) for part in held)


def part_scores(path: str | Path) -> dict[str, float]:
    """Part -> the score from which K is believed (see `choose_part_scores`); empty where the file does not say.

    Raises:
        OSError: the file is missing or not an HDF5 file.
    """
    with h5py.File(path, "r") as file:
        held = file.get(f"{STATE}/{SCORES}", ())
        return dict(zip(part_names(path), map(float, held), strict=True)) if len(held) else {}
