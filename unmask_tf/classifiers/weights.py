"""Keras weights files: opening and loading them with errors that say what does not fit."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import keras

from unmask_tf.errors import InputError


def open_weights(path: Path) -> h5py.File:
    if not path.is_file():
        raise InputError(f"the weights file {path} does not exist. Check the path.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 weights file ({error}). Fetch or make it again.") from error


def load_weights(model: keras.Model, path: Path, expected: str) -> None:
    """`model.load_weights` with the layout told by the content, since Keras goes by the name alone."""
    with open_weights(path) as file:
        legacy = "layer_names" in file.attrs or "model_weights" in file
    try:
        with TemporaryDirectory() as folder:
            alias = Path(folder) / ("alias.h5" if legacy else "alias.weights.h5")
            alias.symlink_to(path.resolve())
            model.load_weights(alias)
    except Exception as error:
        detail = " ".join(str(error).split("List of objects")[0].split())
        raise InputError(f"{path} does not hold the weights of {expected}: {detail}") from error
