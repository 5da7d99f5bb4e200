"""What several kinds of steps need: costs, plain JSON values, trained models and images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask_tf.errors import InputError
from unmask_tf.experiment.step import Files, Output, Resources

if TYPE_CHECKING:
    import numpy as np


def forward_cost(architecture: str, size: int) -> float:
    """One forward pass of M, relative to ResNet-50's at 64x64; measured on two cores."""
    small = {"mobilenet_v2": 0.5, "efficientnet_lite0": 0.6}
    relative = {**small, "densenet121": 1.3, "resnet101": 2.0, "vgg16": 4.0}.get(architecture, 1.0)
    return relative * (size / 64) ** 2


def without_nan(value: Any) -> Any:
    """The value as JSON has it: an undefined number becomes null, a numpy number a plain one."""
    if isinstance(value, Mapping):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_m(model: Output, classes: Sequence[str], resources: Resources, key: str) -> Any:
    """The `Classifier` of a training's output, kept in the worker's memory by the training's key."""
    from unmask_tf.classifiers.classifier import Classifier

    return resources.memory.get("m", key, lambda: Classifier.load(model.path, classes=classes))


def read_attacked(path: Path, rows: slice = slice(None)) -> np.ndarray:
    """Attacked images float32 (N, S, S, 3) in [0, 1], or some rows of them.

    Raises:
        InputError: the file is missing or damaged.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return file["images"][rows]
    except (OSError, KeyError) as error:
        raise InputError(f"{path} does not hold attacked images ({error}). Delete it, then run again.") from error


def pixels(source: Output | Files, classes: Sequence[str], size: int, rows: slice = slice(None)) -> np.ndarray:
    """Images as M sees them: float32 (N, S, S, 3) in [0, 1], of an attack's output or of the user's files."""
    import numpy as np

    from unmask_tf.data.class_images import read_class_images

    if isinstance(source, Output):
        return read_attacked(source.path, rows)
    images = read_class_images(source.root, source.names[rows], classes, size).images
    return images.astype(np.float32) / np.float32(255)
