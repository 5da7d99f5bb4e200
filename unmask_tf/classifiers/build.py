"""Model M (Section III-A) by the name of its architecture: building, saving, loading."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras

from unmask_tf.classifiers.table import CLASSIFIERS
from unmask_tf.classifiers.weights import load_weights, open_weights
from unmask_tf.errors import InputError
from unmask_tf.files import atomic_path

_METADATA = "unmask_tf"


def build_classifier(
    architecture: str,
    classes: int,
    *,
    input_size: int,
    weights: str = "imagenet",
    batch_norm_momentum: float = 0.9,
    seed: int = 0,
) -> keras.Model:
    """Builds M by its entry in `CLASSIFIERS`, which says what the arguments mean.

    Returns:
        A model from float32 (N, S, S, 3) pixels in [0, 1] to float32 logits (N, classes).

    Raises:
        InputError: there is no such architecture, or as its builder.
        ValueError: there are fewer than two classes, or the builder's model has another input or output.
    """
    _known(architecture)
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, received {classes}.")
    model = CLASSIFIERS[architecture](
        classes, input_size=input_size, weights=weights, batch_norm_momentum=batch_norm_momentum, seed=seed
    )
    expected = (None, input_size, input_size, 3), (None, classes)
    if (tuple(model.input_shape), tuple(model.output_shape)) != expected:
        raise ValueError(
            f"the builder of '{architecture}' made a model from {model.input_shape} to {model.output_shape}; expected "
            f"{expected[0]} to {expected[1]}."
        )
    return model


def save_classifier(model: keras.Model, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Writes M's weights and what is needed to rebuild it into one file, atomically.

    Args:
        model: made by `build_classifier`.
        path: ends with `.weights.h5` (Keras' own layout, so `model.load_weights` reads it too).
        metadata: JSON values; `architecture`, `classes` (names in label order) and `input_size` are required.

    Raises:
        ValueError: the name of the file or the classes do not fit.
        InputError: the metadata lack something, or the file cannot be written.
    """
    metadata = {**metadata, "classes": list(metadata.get("classes", ()))}
    _check_metadata(metadata, str(path))
    if not str(path).endswith(".weights.h5"):
        raise ValueError(f"{path}: the name of a weights file must end with '.weights.h5'.")
    if model.output_shape[-1] != len(metadata["classes"]):
        raise ValueError(
            f"{path}: the model has {model.output_shape[-1]} outputs but the metadata names "
            f"{len(metadata['classes'])} classes."
        )
    with atomic_path(path) as temporary:
        model.save_weights(temporary)
        with h5py.File(temporary, "r+") as file:
            file.attrs[_METADATA] = json.dumps(metadata, sort_keys=True)


def load_classifier(path: str | Path, *, classes: Sequence[str] | None = None) -> tuple[keras.Model, dict[str, Any]]:
    """Rebuilds a saved M.

    Args:
        path: written by `save_classifier`.
        classes: class names in label order that the caller works with; a file made for others is refused.

    Returns:
        The model and the metadata it was saved with.

    Raises:
        InputError: the file is missing, truncated, not a saved classifier, or of other classes.
    """
    path = Path(path)
    with open_weights(path) as file:
        text = file.attrs.get(_METADATA)
    if text is None:
        raise InputError(f"{path} holds weights but was not written by save_classifier: its metadata is missing.")
    metadata = json.loads(text)
    _check_metadata(metadata, str(path))
    if classes is not None and list(classes) != metadata["classes"]:
        raise InputError(
            f"{path} was trained for {len(metadata['classes'])} classes ({', '.join(metadata['classes'])}), "
            f"but {len(classes)} are asked for ({', '.join(classes)}). Train a model for them, or choose its file."
        )
    model = build_classifier(
        metadata["architecture"], len(metadata["classes"]), input_size=metadata["input_size"], weights="random"
    )
    load_weights(model, path, f"{metadata['architecture']} with {len(metadata['classes'])} classes")
    return model, metadata


def _check_metadata(metadata: Mapping[str, Any], where: str) -> None:
    for key, kind in (("architecture", str), ("classes", list), ("input_size", int)):
        if not isinstance(metadata.get(key), kind):
            raise InputError(f"{where}: the classifier's metadata needs '{key}', received {metadata.get(key)!r}.")
    _known(metadata["architecture"])


def _known(architecture: str) -> None:
    if architecture not in CLASSIFIERS:
        raise InputError(f"unknown architecture '{architecture}'. Choose one of: {', '.join(CLASSIFIERS)}.")
