"""What a weights file of K says of its parts: names, and scores; needs neither TensorFlow nor Keras."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import h5py
import numpy as np

from unmask_tf.files import atomic_path

STATE, PARTS, SCORES, HELD_OUT = "training_state", "parts", "part_scores", "part_scores_held_out"
"""Where `save_weights` keeps what is not a weight: the parts, the score from which K is believed of each, and the
scores chosen without each fold of the images."""
FOLDS = 10
"""Of the images that scores are chosen on."""


def fold(name: str) -> int:
    """The fold of an image, by the name of its class's folder and its own: in [0, `FOLDS`)."""
    return zlib.crc32("/".join(PurePosixPath(name).parts[-2:]).encode()) % FOLDS


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


def held_out_scores(path: str | Path) -> np.ndarray:
    """The scores chosen without each fold of the images (`fold`): float64 (folds, parts), in the
    order of `part_names`; no row where the file does not say.

    Raises:
        OSError: the file is missing or not an HDF5 file.
    """
    with h5py.File(path, "r") as file:
        return np.array(file.get(f"{STATE}/{HELD_OUT}", np.zeros((0, 0))), np.float64)


def write_part_scores(
    source: str | Path, target: str | Path, scores: Mapping[str, float], held_out: Sequence[Mapping[str, float]] = ()
) -> None:
    """Copies a weights file, with its parts and their scores (in the order of K's classes) in it; `target` may be
    `source`. `held_out`: fold by fold, the scores chosen without it.

    Raises:
        OSError: the file is missing or not an HDF5 file, or the copy cannot be written.
    """
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            state = file.require_group(STATE)
            for name, values in (
                (PARTS, [part.encode() for part in scores]),
                (SCORES, list(scores.values())),
                (HELD_OUT, [[fold[part] for part in scores] for fold in held_out]),
            ):
                state.pop(name, None)
                if values:
                    state.create_dataset(name, data=np.array(values))
