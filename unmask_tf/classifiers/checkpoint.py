"""The state of a training between two epochs, in one file that is replaced atomically."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmask_tf.files import atomic_path

_FILE = "checkpoint.npz"


@dataclass(frozen=True)
class TrainingState:
    """Everything that training needs to go on as if it had not stopped.

    Attributes:
        history: one record per finished epoch.
        model: values of the model's variables after the last finished epoch, in the model's own order.
        optimizer: values of the optimizer's variables.
        best: values of the model's variables after the best epoch.
        best_score: that epoch's validation score.
    """

    history: list[dict[str, Any]]
    model: list[np.ndarray]
    optimizer: list[np.ndarray]
    best: list[np.ndarray]
    best_score: float


def fingerprint(*parts: Any) -> str:
    """Hex SHA-256 over JSON values and arrays, by which a checkpoint knows the training it belongs to."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


def write_checkpoint(workdir: Path, state: TrainingState, training: str) -> None:
    """Writes the state atomically; the best weights are left out where they are the present ones.

    Args:
        workdir: folder of the checkpoint.
        training: fingerprint of the training.

    Raises:
        InputError: the file cannot be written.
    """
    best_is_present = state.best is state.model
    head = {
        "training": training,
        "history": state.history,
        "best_score": state.best_score,
        "counts": [len(state.model), len(state.optimizer), 0 if best_is_present else len(state.best)],
    }
    values = [*state.model, *state.optimizer, *([] if best_is_present else state.best)]
    with atomic_path(workdir / _FILE) as temporary:
        np.savez(temporary, json.dumps(head), *values)


def read_checkpoint(workdir: Path, training: str) -> TrainingState | None:
    """The state to go on from; None where there is none of this training.

    A file that is damaged, or that belongs to another training (other data, settings or initial weights), is discarded
    with a warning: training then starts over.
    """
    path = workdir / _FILE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            head = json.loads(str(archive["arr_0"]))
            # Reading checks each array against its CRC-32, so a flipped bit is found here.
            values = [archive[f"arr_{index + 1}"] for index in range(sum(head["counts"]))]
        models, optimizers, bests = head["counts"]
        found, history, best_score = head["training"], head["history"], head["best_score"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        return _discard(path, f"is damaged ({error})")
    if found != training:
        return _discard(path, "belongs to another training (other images, settings or initial weights)")
    model, optimizer, best = values[:models], values[models : models + optimizers], values[models + optimizers :]
    return TrainingState(history, model, optimizer, best if bests else model, best_score)


def _discard(path: Path, reason: str) -> None:
    warnings.warn(f"the checkpoint {path} {reason}; it is discarded and training starts over.", stacklevel=4)
    path.unlink()


def assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Sets Keras variables to the values, bit for bit."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
