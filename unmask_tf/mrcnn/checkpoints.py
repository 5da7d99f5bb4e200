"""Checkpoints of training: the weights, and what is needed to go on as if the training had never stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from unmask_tf.mrcnn.schedules import Stage
from unmask_tf.mrcnn.weights import read_state, save_weights


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds besides the weights. (The sampler of ROIs follows from the seed and the epoch.)

    Attributes:
        epoch: epochs that are finished.
        log: their rows.
        stage: the stage of the last one; None: not known, or over.
        path: the file, which holds the optimizer of that stage.
    """

    epoch: int = 0
    log: tuple[dict[str, Any], ...] = ()
    stage: Stage | None = None
    path: Path | None = None

    def restore(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Gives a built optimizer the state it had."""
        state = read_state(self.path) if self.path is not None else {}
        for index, variable in enumerate(optimizer.variables):
            variable.assign(state[f"optimizer_{index}"])


NOTHING = Checkpoint()


def write_checkpoint(path: str | Path, graph: keras.Model, log: list[dict[str, Any]], stage: Stage) -> None:
    """Writes the weights of a compiled graph in Matterport's layout, and the rest beside them, atomically."""
    state = {"log": np.bytes_(json.dumps(log)), "stage": np.bytes_(json.dumps(asdict(stage)))}
    state.update(
        {f"optimizer_{i}": keras.ops.convert_to_numpy(v.value) for i, v in enumerate(graph.optimizer.variables)}
    )
    save_weights(graph, path, state)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """What `write_checkpoint` put beside the weights; `NOTHING` where a file holds only weights."""
    state = read_state(path, ("log", "stage"))
    if not state:
        return NOTHING
    log, stage = (json.loads(bytes(state[name].item())) for name in ("log", "stage"))
    return Checkpoint(log[-1]["epoch"], tuple(log), Stage(**stage), Path(path))
