"""K's weight files, in Matterport's layout: Keras 2 legacy HDF5, one group per layer with a `weight_names` attribute.

Both directions: files of the original load here, and files written here load there. Nothing is skipped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.files import atomic_path

_STATE = "training_state"


@dataclass(frozen=True)
class WeightReport:
    """What became of every tensor, as `layer/weight` names.

    Attributes:
        loaded: assigned to the model.
        excluded: in the file or the model, left out on request.
        missing: in the model, not in the file.
        unexpected: in the file, not in the model.
        mismatched: in both, with different shapes (the shapes follow the name).
    """

    loaded: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line of counts."""
        return ", ".join(f"{len(names)} {kind}" for kind, names in vars(self).items())


def _layers(model: keras.Model) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """(group name, [(layer/weight, variable)]) of every layer with weights; nested models are one group."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            named = [pair for _, pairs in _layers(layer) for pair in pairs]
        else:
            # Random-number state is no weight.
            named = [(f"{layer.name}/{w.name}", w) for w in layer.weights if "seed_generator" not in w.path]
        if named:
            yield layer.name, named


def named_weights(model: keras.Model) -> dict[str, Any]:
    """`layer/weight` -> Keras variable, for every weight of the model."""
    return {name: variable for _, pairs in _layers(model) for name, variable in pairs}


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a Matterport `.h5`: `layer/weight` -> array.

    Raises:
        InputError: the file is missing, truncated, no HDF5 file, or not in this layout.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"the weights file {path} does not exist. Check the path, or download or train the weights first."
        )
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" not in root.attrs:
                raise InputError(
                    f"{path} is an HDF5 file, but not in Matterport's layout: the attribute 'layer_names' is missing. "
                    "Use a file written by Matterport's Mask R-CNN or by this package."
                )
            tensors = {}
            for layer in map(_text, root.attrs["layer_names"]):
                for name in map(_text, root[layer].attrs["weight_names"]):
                    key = "/".join(name.split(":")[0].split("/")[-2:])
                    tensors[key] = np.asarray(root[layer][name])
            return tensors
    except (OSError, KeyError, RuntimeError) as error:
        with open(path, "rb") as file:
            head = file.read(8)
        looks = "It is a web page, not weights" if head.lstrip()[:1] == b"<" else "It is damaged or cut short"
        raise InputError(f"cannot read the weights file {path}: {error}. {looks}: fetch it again.") from error


def read_state(path: str | Path) -> dict[str, np.ndarray]:
    """The training state that `save_weights` put beside the weights; empty if there is none."""
    with h5py.File(path, "r") as file:
        return {key: np.asarray(value) for key, value in file.get(_STATE, {}).items()}


def load_weights(model: keras.Model, path: str | Path, *, exclude: Sequence[str] = ()) -> WeightReport:
    """Loads a Matterport `.h5` by name; either every tensor fits, or nothing is changed.

    Args:
        model: K's training or inference graph.
        path: the file.
        exclude: layer names to leave as they are, such as the heads of another number of classes.

    Raises:
        InputError: the file cannot be read, or a tensor is missing, unexpected or of another shape; each is named.
    """
    tensors, report, assignments = read_weights(path), WeightReport(), []
    variables = named_weights(model)
    for name, variable in variables.items():
        if name.split("/")[0] in exclude:
            report.excluded.append(name)
        elif name not in tensors:
            report.missing.append(name)
        elif tuple(tensors[name].shape) != tuple(variable.shape):
            report.mismatched.append(f"{name} (file {tuple(tensors[name].shape)}, model {tuple(variable.shape)})")
        else:
            assignments.append((variable, tensors[name]))
            report.loaded.append(name)
    for name in tensors:
        if name not in variables:
            (report.excluded if name.split("/")[0] in exclude else report.unexpected).append(name)

    problems = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in (
            ("of another shape", report.mismatched),
            ("missing from the file", report.missing),
            ("unknown to this model", report.unexpected),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{path} does not fit this model. Tensors {'; '.join(problems)}. "
            "Use weights of the same backbone and number of classes, or name the layers to leave out in `exclude`."
        )
    for name, value in ((n, tensors[n]) for n in report.loaded):
        if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise InputError(f"{path} holds NaN or infinity in {name}, or no numbers. Use an earlier checkpoint.")
    for variable, value in assignments:
        variable.assign(value)
    return report


def save_weights(model: keras.Model, path: str | Path, state: dict[str, np.ndarray] | None = None) -> None:
    """Writes every weight in Matterport's layout, atomically.

    `state` (training state, for checkpoints) goes into a group of its own, which readers of weights do not see.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        groups = dict(_layers(model))
        file.attrs["layer_names"] = np.array([name.encode() for name in groups])
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.2.5"
        for key, value in (state or {}).items():
            file.create_dataset(f"{_STATE}/{key}", data=value)
        for group_name, named in groups.items():
            group = file.create_group(group_name)
            group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name, _ in named])
            for name, variable in named:
                group.create_dataset(f"{name}:0", data=np.asarray(variable.value))
