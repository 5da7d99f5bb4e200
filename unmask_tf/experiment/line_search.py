"""Line search over adversarial training's epsilon on validation images (Section IV-A, Figures 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from unmask_tf.defense.defences import DEFENCES
from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import BENIGN, Grid
from unmask_tf.experiment.setup import Run
from unmask_tf.experiment.step import Step

_IMAGES = 60
"""Validation images attacked of the embedded data: eight attacks on each of twelve M would outlast their trainings."""


def line_search(run: Run, recipe: str, epsilons_255: Sequence[float], images: int | None) -> list[Step]:
    """M's answers to validation images after adversarial training with each budget. No test image is read.

    Args:
        run: the run.
        recipe: a name in `RECIPES`.
        epsilons_255: Linf budgets of the training attack, units of 1/255.
        images: at most this many validation images of a class set to attack; None: 60 of embedded data, else all. The
            epoch to keep is chosen on all of them.

    Raises:
        InputError: no epsilon, one that is not positive or given twice, or no image.
    """
    positive = all(math.isfinite(epsilon) and epsilon > 0 for epsilon in epsilons_255)
    if not epsilons_255 or not positive or len(set(epsilons_255)) < len(epsilons_255):
        shown = ", ".join(f"{e:g}" for e in epsilons_255)
        raise InputError(f"the epsilons to compare are '{shown}'. Give different positive numbers, such as 1,2,4.")
    if images is not None and images < 1:
        raise InputError(f"images is {images}. Attack at least one validation image of each class.")
    if images is None and run.profile.synthetic is not None:
        images = _IMAGES
    grid, defence = Grid(run), next(name for name, entry in DEFENCES.items() if entry.recipe == recipe)
    return [
        grid.answer(
            class_set, architecture, defence, name, budget, split="val", limit=images, at_epsilon_255=float(epsilon)
        )
        for class_set, architecture in grid.setups
        for epsilon in epsilons_255
        for name, budget in (BENIGN, *grid.cells)
    ]
