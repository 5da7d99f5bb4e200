"""Model M (Section III-A): a Keras Applications backbone, its own preprocessing inside, and a new head of logits.

The released code fine-tunes torchvision's ResNet-50 and DenseNet-121 after replacing the last layer. Here the
preprocessing each backbone was trained with is part of the graph, so that every attack lives in [0, 1] pixel space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import keras
import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.files import atomic_path

_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_IMAGENET_CLASSES = 1000
_SMALLEST_INPUT = 32
_METADATA = "unmask_tf"


@dataclass(frozen=True)
class _Backbone:
    """A Keras Applications model and the name of its preprocessing, in Keras' own words."""

    application: str
    preprocessing: str


_BACKBONES = {
    "resnet50": _Backbone("ResNet50", "caffe"),
    "resnet101": _Backbone("ResNet101", "caffe"),
    "densenet121": _Backbone("DenseNet121", "torch"),
    "vgg16": _Backbone("VGG16", "caffe"),
    "mobilenet_v2": _Backbone("MobileNetV2", "tf"),
    "efficientnet_b0": _Backbone("EfficientNetB0", "none"),
}
ARCHITECTURES: tuple[str, ...] = tuple(_BACKBONES)


@keras.saving.register_keras_serializable(package="unmask_tf")
class ReverseChannels(keras.layers.Layer):
    """RGB to BGR (or back): reverses the last axis of (N, H, W, 3)."""

    def call(self, inputs):
        return keras.ops.flip(inputs, axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape


def preprocessing_layers(architecture: str) -> list[keras.layers.Layer]:
    """Layers that turn float32 RGB pixels in [0, 1] into what the backbone was trained on.

    They equal `keras.applications.<module>.preprocess_input(255 * x)`.
    """
    kind = _backbone(architecture).preprocessing
    if kind == "caffe":  # BGR in 0..255, mean subtracted
        scale, offset = 255.0, [-value for value in _CAFFE_MEAN_BGR]
    elif kind == "torch":  # mean and standard deviation per channel
        scale = [1.0 / std for std in _IMAGENET_STD]
        offset = [-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)]
    elif kind == "tf":  # [-1, 1]
        scale, offset = 2.0, -1.0
    else:  # the backbone normalises 0..255 itself
        scale, offset = 255.0, 0.0
    rescaling = keras.layers.Rescaling(scale, offset=offset, name="to_backbone_range")
    return [ReverseChannels(name="rgb_to_bgr"), rescaling] if kind == "caffe" else [rescaling]


def build_classifier(
    architecture: str,
    classes: int,
    *,
    input_size: int,
    weights: str = "imagenet",
    batch_norm_momentum: float = 0.9,
    seed: int = 0,
) -> keras.Model:
    """Builds M as one flat functional model.

    Args:
        architecture: one of `ARCHITECTURES`.
        classes: number of classes of the new head.
        input_size: side S of the square input, pixels; at least 32.
        weights: of the backbone. `imagenet` (Keras fetches and caches them), `random`, or the path of a Keras
            weights file of this architecture, either a full ImageNet file (1000 classes; its head is dropped) or a
            `notop` file; both the `.weights.h5` and the older `.h5` layout are read.
        batch_norm_momentum: of every batch normalisation, Keras convention (PyTorch's 0.1 is 0.9 here).
        seed: of every randomly initialised weight; sets Keras' global seeds.

    Returns:
        A model from float32 (N, S, S, 3) pixels in [0, 1] to float32 logits (N, classes).

    Raises:
        InputError: an argument is out of range, or the weights cannot be fetched, read or matched.
    """
    if classes < 2:
        raise InputError(f"a classifier needs at least 2 classes, received {classes}.")
    if input_size < _SMALLEST_INPUT:
        raise InputError(f"input_size {input_size} is too small for {architecture}; use at least {_SMALLEST_INPUT}.")
    source = _pretrained(architecture, weights)

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((input_size, input_size, 3), dtype="float32", name="pixels")
    x = inputs
    for layer in preprocessing_layers(architecture):
        x = layer(x)
    backbone = _application(architecture, include_top=False, input_tensor=x, pooling="avg")
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(backbone.output)
    model = keras.Model(inputs, logits, name=architecture)
    if source is not None:
        _transfer(source, backbone)
    else:
        _silence_residual_branches(model)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = batch_norm_momentum
    return model


def _silence_residual_branches(model: keras.Model) -> None:
    """Starts each residual branch of a random ResNet at zero: its last normalisation's scale is 0 (Goyal et al. 2017).

    A deep ResNet that starts from random weights learns within few epochs only so.
    """
    for layer in model.layers:
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(np.zeros(layer.gamma.shape))


def save_classifier(model: keras.Model, path: str | Path, metadata: Mapping[str, Any]) -> None:
    """Writes M's weights and what is needed to rebuild it into one file, atomically.

    Args:
        model: made by `build_classifier`.
        path: ends with `.weights.h5` (Keras' own layout, so `model.load_weights` reads it too).
        metadata: JSON values; `architecture`, `classes` (names in label order) and `input_size` are required.

    Raises:
        InputError: the name or the metadata do not fit, or the file cannot be written.
    """
    metadata = {**metadata, "classes": list(metadata.get("classes", ()))}
    _check_metadata(metadata, str(path))
    if not str(path).endswith(".weights.h5"):
        raise InputError(f"{path}: the name of a weights file must end with '.weights.h5'.")
    if model.output_shape[-1] != len(metadata["classes"]):
        raise InputError(
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
    with _open_weights(path) as file:
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
    _load(model, path, f"{metadata['architecture']} with {len(metadata['classes'])} classes")
    return model, metadata


def _check_metadata(metadata: Mapping[str, Any], where: str) -> None:
    for key, kind in (("architecture", str), ("classes", list), ("input_size", int)):
        if not isinstance(metadata.get(key), kind):
            raise InputError(f"{where}: the classifier's metadata needs '{key}', received {metadata.get(key)!r}.")
    _backbone(metadata["architecture"])


def _backbone(architecture: str) -> _Backbone:
    if architecture not in _BACKBONES:
        raise InputError(f"unknown architecture '{architecture}'. Choose one of: {', '.join(ARCHITECTURES)}.")
    return _BACKBONES[architecture]


def _application(architecture: str, **arguments: Any) -> keras.Model:
    arguments.setdefault("weights", None)
    return getattr(keras.applications, _backbone(architecture).application)(**arguments)


def _pretrained(architecture: str, weights: str) -> keras.Model | None:
    """The backbone with its pretrained weights as Keras builds it, or None for random ones."""
    _backbone(architecture)
    if weights == "random":
        return None
    if weights == "imagenet":
        try:
            return _application(architecture, include_top=False, weights="imagenet")
        except Exception as error:
            raise InputError(
                f"the ImageNet weights of {architecture} could not be fetched ({error}). Connect to the internet, or "
                "give `weights` the path of a Keras weights file of this architecture, or 'random'."
            ) from error
    path = Path(weights)
    with _open_weights(path) as file:
        head = _head_classes(file)
    if head is not None and head != _IMAGENET_CLASSES:
        raise InputError(
            f"{path} has a head for {head} classes. Expected ImageNet weights of {architecture}, either with their "
            f"head of {_IMAGENET_CLASSES} classes or without a head; a classifier saved here is read by "
            "load_classifier."
        )
    source = _application(architecture, include_top=head is not None)
    _load(source, path, f"{architecture} {'without a head' if head is None else f'with {head} classes'}")
    return source


def _open_weights(path: Path) -> h5py.File:
    if not path.is_file():
        raise InputError(f"the weights file {path} does not exist. Check the path.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 weights file ({error}). Fetch or make it again.") from error


def _head_classes(file: h5py.File) -> int | None:
    """Outputs of the last Dense layer in a weights file; None where it has none. The backbones hold no Dense layer."""
    outputs: list[int] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 2:
            outputs.append(item.shape[1])

    file.visititems(visit)  # in alphabetical order: dense, dense_1, dense_2 or fc1, fc2, predictions
    return outputs[-1] if outputs else None


def _load(model: keras.Model, path: Path, expected: str) -> None:
    """`model.load_weights` with the layout told by the content, since Keras goes by the name alone."""
    with _open_weights(path) as file:
        legacy = "layer_names" in file.attrs or "model_weights" in file
    try:
        with TemporaryDirectory() as folder:
            alias = Path(folder) / ("alias.h5" if legacy else "alias.weights.h5")
            alias.symlink_to(path.resolve())
            model.load_weights(alias)
    except Exception as error:
        detail = " ".join(str(error).split("List of objects")[0].split())
        raise InputError(f"{path} does not hold the weights of {expected}: {detail}") from error


def _transfer(source: keras.Model, backbone: keras.Model) -> None:
    """Copies the backbone's weights, layer by layer in graph order, from Keras' own model to ours."""
    targets = [layer for layer in backbone.layers if layer.weights]
    # A head in `source` comes last, so that zip leaves it out.
    sources = [layer for layer in source.layers if layer.weights][: len(targets)]
    for ours, theirs in zip(targets, sources, strict=True):
        values = theirs.get_weights()
        if isinstance(ours, keras.layers.Normalization) and np.allclose(values[1], _IMAGENET_STD, atol=1e-3):
            # EfficientNet's ImageNet file holds the standard deviation where the variance belongs; Keras mends it by a
            # second Rescaling that exists only with weights="imagenet". Squaring gives the same function everywhere.
            values[1] = np.square(values[1])
        ours.set_weights(values)
        if isinstance(ours, keras.layers.Normalization):
            ours.finalize_state()
