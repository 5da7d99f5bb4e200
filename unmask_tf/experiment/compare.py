"""Two K's on the same test images, such as the released one and ours: their parts, and UnMask by each alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import BENIGN, Grid
from unmask_tf.experiment.setup import Run
from unmask_tf.experiment.step import Step


def k_settings(run: Run, weights: Path, canvas: int | None) -> Mapping[str, Any]:
    """Settings of a K as its weights file has it; those of the profile where the architecture is the profile's."""
    from unmask_tf.mrcnn.architecture import config_of_weights

    found, own = config_of_weights(weights, run.taxonomy, canvas).to_dict(), Grid(run).k_config()
    return own if canvas is None and own["BACKBONE"] == found["BACKBONE"] else found


def compare_k(run: Run, given: Path, ours: Path | None, canvas: int | None) -> tuple[list[Step], list[Step]]:
    """Both K's answers (`um`) to benign and attacked images; the M's that are missing are trained.

    Args:
        run: data, taxonomy, profile and limit.
        given, ours: weights of the two; `ours` None: the profile's.
        canvas: side of the given K's canvas; None: as its architecture has it.

    Returns:
        Steps of the answers, our K's first, and of the K's evaluations (none without part annotations).

    Raises:
        InputError: a file is missing or does not fit the taxonomy, or both are the same file.
    """
    mine = ours if ours is not None else run.k_weights
    for path in (given, ours):
        if path is not None and not path.is_file():
            raise InputError(f"K's weights {path} do not exist. Check the path.")
    if mine is None or not mine.is_file() or mine.samefile(given):
        raise InputError(f"there is no K of ours to compare {given} with. Name one: EXTRA='--ours file'.")
    grids = [Grid(run, (mine, k_settings(run, mine, None))), Grid(run, (given, k_settings(run, given, canvas)))]
    answers = [
        grid.answer(class_set, architecture, "um", name, epsilon)
        for grid in grids
        for class_set, architecture in grid.setups
        for name, epsilon in (BENIGN, *grid.cells)
    ]
    return answers, [step for grid in grids if (step := grid.evaluate_k()) is not None]
