"""What a weights file of K says of its parts: names, and scores; needs neither TensorFlow nor Keras."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from unmask_tf.files import atomic_path

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


def write_part_scores(source: str | Path, target: str | Path, scores: Mapping[str, float]) -> None:
    """Copies a weights file, with its parts and their scores (in the order of K's classes) in it; `target` may be
    `source`.

    Raises:
        OSError: the file is missing or not an HDF5 file, or the copy cannot be written.
    """
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            state = file.require_group(STATE)
            for name, values in ((PARTS, [part.encode() for part in scores]), (SCORES, list(scores.values()))):
                state.pop(name, None)
                state.create_dataset(name, data=np.array(values))
