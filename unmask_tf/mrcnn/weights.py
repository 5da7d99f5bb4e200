"""K's weight files, in Matterport's layout: Keras 2 legacy HDF5, one group per layer with a `weight_names` attribute.

Both directions: files of the original load here, and files written here load there. Nothing is skipped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.files import atomic_path
from unmask_tf.mrcnn.part_names import PARTS, SCORES, STATE, part_names


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

    def lines(self) -> list[str]:
        """One line per tensor: what became of it, and its name."""
        return [f"{kind:10} {name}" for kind, names in vars(self).items() for name in names]


def _layers(model: keras.Model) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """(group name, [(layer/weight, variable)]) of every layer with weights; nested models are one group."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            named = [pair for _, pairs in _layers(layer) for pair in pairs]
        else:
            # Random-number state is not a weight.
            named = [(f"{layer.name}/{w.name}", w) for w in layer.weights if "seed_generator" not in w.path]
        if named:
            yield layer.name, named


def named_weights(model: keras.Model) -> dict[str, Any]:
    """`layer/weight` -> Keras variable, for every weight of the model."""
    return {name: variable for _, pairs in _layers(model) for name, variable in pairs}


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


# Keras 1 wrote `<layer>_W`; its "running_std" is the variance.
_KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}


def _key(group: str, name: str) -> str:
    """`layer/weight` of a tensor that a group lists.

    A second model of one TensorFlow 1 session gets names such as `conv1_1/kernel:0` in the group conv1. Within a nested
    model's group the layer's own name counts.
    """
    *scopes, weight = name.split(":")[0].split("/")
    layer = scopes[-1] if scopes else group
    if re.fullmatch(re.escape(group) + r"(_\d+)?", layer):
        layer = group
    elif group == "rpn_model":
        layer = re.sub(r"_\d+$", "", layer)
    old = re.fullmatch(re.escape(group) + r"_(W|b|gamma|beta|running_mean|running_std)(_\d+)?", weight)
    if old and not scopes:
        weight = _KERAS_1.get(old[1], old[1])
    return f"{layer}/{weight}"


@contextmanager
def _opened(path: Path) -> Iterator[h5py.Group]:
    """The group that lists the layers.

    Raises:
        InputError: the file is missing, truncated, not an HDF5 file, or not in this layout.
    """
    if not path.is_file():
        raise InputError(
            f"the weights file {path} does not exist. Check the path, or download or train the weights first."
        )
    try:
        with h5py.File(path, "r") as file:
            root = file if "layer_names" in file.attrs else file.get("model_weights", file)
            if "layer_names" not in root.attrs:
                raise InputError(
                    f"{path} is an HDF5 file, but not in Matterport's layout: the attribute 'layer_names' is missing. "
                    "Use a file written by Matterport's Mask R-CNN or by this package."
                )
            yield root
    except (OSError, KeyError, RuntimeError) as error:
        head = path.read_bytes()[:512] if path.stat().st_size < 1 << 24 else b""
        looks = "It is a web page, not weights" if head.lstrip()[:1] == b"<" else "It is damaged or cut short"
        raise InputError(f"cannot read the weights file {path}: {error}. {looks}: fetch it again.") from error


def _datasets(root: h5py.Group, path: Path) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """(group, `layer/weight`, dataset) of every tensor that the file lists, in its order."""
    for group in map(_text, root.attrs["layer_names"]):
        if group not in root:
            raise InputError(f"{path} lists the layer '{group}', but does not hold it. Restore the file.")
        names = [_text(name) for name in root[group].attrs.get("weight_names", ())]
        for name in names:
            if not isinstance(root[group].get(name), h5py.Dataset):
                held: list[str] = []
                root[group].visititems(lambda n, x, held=held: held.append(n) if isinstance(x, h5py.Dataset) else None)
                others = ", ".join(sorted(set(held) - set(names))) or "nothing"
                raise InputError(
                    f"{path}: the layer '{group}' lists the tensor '{name}', but does not hold it (unlisted there: "
                    f"{others}). Restore the file, or rename the tensor back."
                )
            yield group, _key(group, name), root[group][name]


def _read(path: str | Path, take: Callable[[h5py.Dataset], Any]) -> dict[str, tuple[str, Any]]:
    """`layer/weight` -> (group, `take` of the dataset)."""
    path, found = Path(path), {}
    with _opened(path) as root:
        for group, name, dataset in _datasets(root, path):
            if name in found:
                raise InputError(f"{path} holds the tensor {name} twice. Restore the file.")
            found[name] = (group, take(dataset))
    return found


def _arrays(path: str | Path, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(`layer/weight`, array) of the named tensors, one after another."""
    wanted = set(names)
    with _opened(Path(path)) as root:
        for _, name, dataset in _datasets(root, Path(path)):
            if name in wanted:
                yield name, np.asarray(dataset)


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Reads every tensor of a Matterport `.h5`: `layer/weight` -> array.

    Raises:
        InputError: the file is missing, truncated, not an HDF5 file, or not in this layout.
    """
    return {name: value for name, (_, value) in _read(path, np.asarray).items()}


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """`layer/weight` -> shape of every tensor of a Matterport `.h5`; raises as `read_weights`."""
    return {name: value for name, (_, value) in _read(path, lambda dataset: tuple(dataset.shape)).items()}


def read_state(path: str | Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The training state that `save_weights` put beside the weights: what of `names` is there; None: all."""
    with h5py.File(path, "r") as file:
        held = file.get(STATE, {})
        return {key: np.asarray(held[key]) for key in (held if names is None else names) if key in held}


def parts_state(parts: Sequence[str], scores: Mapping[str, float] | None = None) -> dict[str, np.ndarray]:
    """State for `save_weights` that names K's classes without the background, in order, and perhaps their scores."""
    state = {PARTS: np.array([part.encode() for part in parts])}
    return state if scores is None else {**state, SCORES: np.array([scores[part] for part in parts])}


def check_parts(path: str | Path, parts: Sequence[str]) -> None:
    """Compares the parts that a weights file names, if it does (Matterport's do not), with those it is used for.

    Raises:
        InputError: they differ: K would give every part another one's name.
    """
    held = part_names(path)
    if held and held != tuple(parts):
        here = next((pair for pair in zip(held, parts, strict=False) if pair[0] != pair[1]), (len(held), len(parts)))
        raise InputError(
            f"{path} was trained on other parts: it has {here[0]!r} where the taxonomy has {here[1]!r}. Train K on "
            "this data into another file (make train-k K_WEIGHTS=file), or use the taxonomy it was trained with."
        )


_BACKBONE = re.compile(r"conv1|bn_conv1|(?:res|bn)([2-5])([a-z])_branch(?:1|2[abc])")


def _explained(missing: str, layers: set[str]) -> bool:
    """Whether a file with these layers may lack a tensor: it holds only a backbone, perhaps of a shallower ResNet.

    That is what Matterport's `get_imagenet_weights` fetches, for a ResNet-101 too.
    """
    if not layers or not all(_BACKBONE.fullmatch(layer) for layer in layers):
        return False
    found = _BACKBONE.fullmatch(missing.split("/")[0])
    if found is None:
        return True
    deepest = max((m[2] for m in map(_BACKBONE.fullmatch, layers) if m and m[1] == "4"), default="z")
    return found[1] == "4" and found[2] > deepest


def _excluder(exclude: Sequence[str]) -> Callable[[str, str], bool]:
    """Tells whether a layer, or the nested model it is part of, is named in `exclude`."""
    exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    try:
        patterns = [re.compile(pattern) for pattern in exclude]
    except re.error as error:
        raise ValueError(f"`exclude` holds '{error.pattern}', which is not a regular expression: {error}.") from error
    return lambda group, name: any(p.fullmatch(x) for p in patterns for x in (group, name.split("/")[0]))


def check_weights(model: keras.Model, path: str | Path, *, exclude: Sequence[str] = ()) -> WeightReport:
    """What `load_weights` would do with each tensor, without doing it; refuses only a file that cannot be read."""
    return _match(model, _read(path, lambda dataset: tuple(dataset.shape)), exclude)


def _match(model: keras.Model, tensors: dict[str, tuple[str, Any]], exclude: Sequence[str]) -> WeightReport:
    """Compares a file's tensors ((group, array or shape) by name) with the model's."""
    excluded, report = _excluder(exclude), WeightReport()
    variables = {name: (group, variable) for group, pairs in _layers(model) for name, variable in pairs}
    for name, (group, variable) in variables.items():
        held = tensors.get(name)
        if excluded(group, name):
            report.excluded.append(name)
        elif held is None or held[0] != group:
            report.missing.append(name)
        elif (shape := tuple(getattr(held[1], "shape", held[1]))) != tuple(variable.shape):
            report.mismatched.append(f"{name} (file {shape}, model {tuple(variable.shape)})")
        else:
            report.loaded.append(name)
    for name, (group, _) in tensors.items():
        if name not in variables or variables[name][0] != group:
            if excluded(group, name):
                report.excluded.append(name)
            else:
                report.unexpected.append(name if name.split("/")[0] == group else f"{group}/{name}")
    return report


def load_weights(model: keras.Model, path: str | Path, *, exclude: Sequence[str] = ()) -> WeightReport:
    """Loads a Matterport `.h5` by name; either every tensor fits, or nothing is changed.

    A file that holds only a ResNet's backbone (ImageNet's) may lack the rest, which then stays as it is; the report
    lists it as missing.

    Args:
        model: K's training or inference graph.
        path: the file.
        exclude: layers to leave as they are, such as the heads of another number of classes: names (of a layer, or
            `rpn_model` for all of the RPN) or regular expressions.

    Raises:
        InputError: the file cannot be read, or a tensor is missing, unexpected, of another shape or not finite; each is
            named.
    """
    tensors = _read(path, lambda dataset: dataset.shape)
    report = _match(model, tensors, exclude)
    layers = {name.split("/")[0] for name in tensors}
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in (
            ("of another shape", report.mismatched),
            ("missing from the file", [name for name in report.missing if not _explained(name, layers)]),
            ("unknown to this model", report.unexpected),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{path} does not fit this model. Tensors {'; '.join(problems)}. "
            "Use weights of the same backbone and number of classes, or name the layers to leave out in `exclude`."
        )
    # Twice through the file, one tensor at a time: all of them in memory would double what K takes.
    for name, value in _arrays(path, report.loaded):
        if value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise InputError(
                f"{path} holds NaN or infinity in {name}, or something other than numbers. Use an earlier checkpoint."
            )
    variables = named_weights(model)
    for name, value in _arrays(path, report.loaded):
        variables[name].assign(value)
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
            file.create_dataset(f"{STATE}/{key}", data=value)
        for group_name, named in groups.items():
            group = file.create_group(group_name)
            group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name, _ in named])
            for name, variable in named:
                group.create_dataset(f"{name}:0", data=keras.ops.convert_to_numpy(variable.value))
