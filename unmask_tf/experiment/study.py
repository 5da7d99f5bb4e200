"""Where the paper's numbers come from: M without a defence, attacked under the four presets."""

from __future__ import annotations

from unmask_tf.attacks.threat_models import PRESETS
from unmask_tf.experiment.grid import BENIGN, Grid
from unmask_tf.experiment.setup import Run
from unmask_tf.experiment.step import Step


def study(run: Run) -> list[Step]:
    """M's answers, M by M: benign, then every attack under every preset."""
    grid = Grid(run)
    return [
        grid.answer(class_set, architecture, "none", name, epsilon, preset=preset)
        for class_set, architecture in grid.setups
        for name, epsilon, preset in (
            (*BENIGN, None),
            *((name, epsilon, preset) for preset in PRESETS for name, epsilon in grid.cells),
        )
    ]
