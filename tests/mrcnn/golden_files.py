"""Reads the golden files of tests/golden: what Matterport's own package answered (see tests/golden/generate.py)."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.weights import named_weights

FOLDER = Path(__file__).resolve().parent.parent / "golden"

_spec = importlib.util.spec_from_file_location("golden_weights", FOLDER / "weights.py")
assert _spec is not None
assert _spec.loader is not None
weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights)


@cache
def facts() -> dict[str, Any]:
    """golden.json: cases, scalars, versions."""
    return json.loads((FOLDER / "golden.json").read_text())


@cache
def layouts() -> dict[str, Any]:
    """weights_layout.json: names and shapes in Matterport's weights files, by backbone."""
    return json.loads((FOLDER / "weights_layout.json").read_text())


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """One npz file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def bits(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bool array of the given shape out of packed bits."""
    return np.unpackbits(packed, count=int(np.prod(shape))).astype(bool).reshape(shape)


def config(**overrides: Any) -> Config:
    """The settings under which the golden files were made."""
    settings: dict[str, Any] = {
        "BACKBONE": "resnet50",
        "NUM_CLASSES": 45,
        "IMAGES_PER_GPU": 1,
        "IMAGE_MIN_DIM": 128,
        "IMAGE_MAX_DIM": 128,
        "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128),
        "POST_NMS_ROIS_INFERENCE": 200,
        "DETECTION_MIN_CONFIDENCE": 0.0,
    }
    return Config(**{**settings, **overrides})


def seed_weights(model: keras.Model) -> None:
    """Gives every weight of a K graph the seeded value that the reference had."""
    for name, variable in named_weights(model).items():
        layer, kind = name.split("/")
        variable.assign(weights.weight(layer, kind, variable.shape))


def masks_of(seed: int, height: int, width: int, count: int, single_pixel: list[int] | None = None) -> np.ndarray:
    """Seeded instance masks; `single_pixel` (row, column, index) makes one instance a single pixel."""
    masks = weights.blobs(seed, height, width, count)
    if single_pixel is not None:
        row, column, index = single_pixel
        masks[:, :, index] = False
        masks[row, column, index] = True
    return masks
