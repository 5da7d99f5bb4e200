"""The Keras Applications as M (Section III-A): a backbone, its own preprocessing inside, and a new head of logits.

The released code fine-tunes torchvision's ResNet-50 and DenseNet-121 after replacing the last layer. Here the
preprocessing each backbone was trained with is part of the graph, so that every attack lives in [0, 1] pixel space.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from unmask_tf.classifiers.weights import load_weights, open_weights
from unmask_tf.errors import InputError

_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_IMAGENET_CLASSES = 1000
_SMALLEST_INPUT = 32


@dataclass(frozen=True)
class _Backbone:
    """A Keras Applications model and the name of its preprocessing, in Keras' own words."""

    application: str
    preprocessing: str


BACKBONES = {
    "resnet50": _Backbone("ResNet50", "caffe"),
    "resnet101": _Backbone("ResNet101", "caffe"),
    "densenet121": _Backbone("DenseNet121", "torch"),
    "vgg16": _Backbone("VGG16", "caffe"),
    "mobilenet_v2": _Backbone("MobileNetV2", "tf"),
    "efficientnet_b0": _Backbone("EfficientNetB0", "none"),
}


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
    kind = BACKBONES[architecture].preprocessing
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


def application(
    architecture: str, classes: int, *, input_size: int, weights: str, batch_norm_momentum: float, seed: int
) -> keras.Model:
    """Builds M on a Keras Applications backbone, as one flat functional model (`CLASSIFIERS` says what it takes).

    Args:
        architecture: one of `BACKBONES`.
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
        InputError: the input is too small, or the weights cannot be fetched, read or matched.
    """
    if input_size < _SMALLEST_INPUT:
        raise InputError(f"input_size {input_size} is too small for {architecture}; use at least {_SMALLEST_INPUT}.")
    source = _pretrained(architecture, weights)

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((input_size, input_size, 3), dtype="float32", name="pixels")
    x = inputs
    for layer in preprocessing_layers(architecture):
        x = layer(x)
    backbone = _keras_application(architecture, include_top=False, input_tensor=x, pooling="avg")
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


def _keras_application(architecture: str, **arguments: Any) -> keras.Model:
    arguments.setdefault("weights", None)
    return getattr(keras.applications, BACKBONES[architecture].application)(**arguments)


def _pretrained(architecture: str, weights: str) -> keras.Model | None:
    """The backbone with its pretrained weights as Keras builds it, or None for random ones."""
    if weights == "random":
        return None
    if weights == "imagenet":
        try:
            return _keras_application(architecture, include_top=False, weights="imagenet")
        except Exception as error:
            raise InputError(
                f"the ImageNet weights of {architecture} could not be fetched ({error}). Connect to the internet, or "
                "give `weights` the path of a Keras weights file of this architecture, or 'random'."
            ) from error
    path = Path(weights)
    with open_weights(path) as file:
        head = _head_classes(file)
    if head is not None and head != _IMAGENET_CLASSES:
        raise InputError(
            f"{path} has a head for {head} classes. Expected ImageNet weights of {architecture}, either with their "
            f"head of {_IMAGENET_CLASSES} classes or without a head; a classifier saved here is read by "
            "load_classifier."
        )
    source = _keras_application(architecture, include_top=head is not None)
    load_weights(source, path, f"{architecture} {'without a head' if head is None else f'with {head} classes'}")
    return source


def _head_classes(file: h5py.File) -> int | None:
    """Outputs of the last Dense layer in a weights file; None where it has none. The backbones hold no Dense layer."""
    outputs: list[int] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 2:
            outputs.append(item.shape[1])

    file.visititems(visit)  # in alphabetical order: dense, dense_1, dense_2 or fc1, fc2, predictions
    return outputs[-1] if outputs else None


def _transfer(source: keras.Model, backbone: keras.Model) -> None:
    """Copies the backbone's weights, layer by layer in graph order, from Keras' own model to ours."""
    targets = [layer for layer in backbone.layers if layer.weights]
    # A head in `source` comes last, so that zip leaves it out.
    sources = [layer for layer in source.layers if layer.weights][: len(targets)]
    for ours, theirs in zip(targets, sources, strict=True):
        values = theirs.get_weights()
        if isinstance(ours, keras.layers.Normalization) and np.allclose(values[1], _IMAGENET_STD, atol=1e-3):
            # EfficientNet's ImageNet file holds the standard deviation where the variance belongs; Keras corrects it
            # by a second Rescaling, which exists only with weights="imagenet". Squaring gives the same function always.
            values[1] = np.square(values[1])
        ours.set_weights(values)
        if isinstance(ours, keras.layers.Normalization):
            ours.finalize_state()
