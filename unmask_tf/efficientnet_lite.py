"""EfficientNet-Lite0 (Liu, 2020), a backbone for K and M: MBConv blocks without squeeze-and-excitation, with ReLU6.

It is made of Keras layers under this project's names; ImageNet's weights come from a file with the tensors of its
PyTorch release.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from unmask_tf.errors import InputError

# Of each stage: kernel, stride of its first block, expansion, channels, blocks.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
EPSILON = 1e-3
MEAN, SCALE = 127.0, 128.0
"""Its input is (x - MEAN) / SCALE of pixels x in 0..255."""
PYRAMID = ("block3_expand_relu", "block5_expand_relu", "block11_expand_relu", "head_relu")
"""Layers with the last features at strides 4, 8, 16 and 32."""
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}

Norm = Callable[..., layers.Layer]
"""Makes a batch normalisation of keywords `epsilon` and `name`."""


def efficientnet_lite0(image: Any, norm: Norm = layers.BatchNormalization) -> Any:
    """The convolutional part: images (B, H, W, 3), as `MEAN` says, to features (B, H/32, W/32, 1280).

    Convolutions pad as TensorFlow's "same" does.
    """

    def conv_norm(x: Any, name: str, convolution: type, relu: bool = True, **shape: Any) -> Any:
        x = convolution(padding="same", use_bias=False, name=f"{name}_conv", **shape)(x)
        x = norm(epsilon=EPSILON, name=f"{name}_bn")(x)
        return layers.ReLU(6.0, name=f"{name}_relu")(x) if relu else x

    x = conv_norm(image, "stem", layers.Conv2D, filters=32, kernel_size=3, strides=2)
    channels, block = 32, 0
    for kernel, first_stride, expansion, width, count in _STAGES:
        for position in range(count):
            before, name = x, f"block{block}"
            stride = first_stride if position == 0 else 1
            if expansion > 1:
                x = conv_norm(x, f"{name}_expand", layers.Conv2D, filters=expansion * channels, kernel_size=1)
            x = conv_norm(x, f"{name}_depthwise", layers.DepthwiseConv2D, kernel_size=kernel, strides=stride)
            x = conv_norm(x, f"{name}_project", layers.Conv2D, relu=False, filters=width, kernel_size=1)
            if stride == 1 and channels == width:
                x = layers.Add(name=f"{name}_add")([before, x])
            channels, block = width, block + 1
    return conv_norm(x, "head", layers.Conv2D, filters=1280, kernel_size=1)


def _released_names() -> Iterator[tuple[str, str, str]]:
    """(our convolution or normalisation without suffix, released convolution, released normalisation)."""
    yield "stem", "_conv_stem", "_bn0"
    for block in range(sum(stage[-1] for stage in _STAGES)):
        names = (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2"))
        for part, norm in names[1:] if block == 0 else names:
            yield f"block{block}_{part}", f"_blocks.{block}._{part}_conv", f"_blocks.{block}.{norm}"
    yield "head", "_conv_head", "_bn1"


def imagenet_weights(path: str | Path) -> dict[str, np.ndarray]:
    """ImageNet's weights by `layer/weight` of `efficientnet_lite0`.

    Args:
        path: an `.npz` with the names and axis order of the PyTorch release (`_blocks.0._depthwise_conv.weight`).

    Raises:
        InputError: the file is missing, damaged, or lacks a tensor.
    """
    wanted = {}
    for ours, convolution, norm in _released_names():
        wanted[f"{ours}_conv/kernel"] = f"{convolution}.weight"
        wanted.update({f"{ours}_bn/{name}": f"{norm}.{released}" for released, name in _NORM.items()})
    try:
        with np.load(path) as file:
            missing = sorted(set(wanted.values()) - set(file.files))
            if missing:
                raise InputError(
                    f"{path} lacks {len(missing)} of EfficientNet-Lite0's tensors, such as {missing[0]}. Give the "
                    "weights of its PyTorch release as .npz."
                )
            return {name: _to_keras(name, file[released]) for name, released in wanted.items()}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"EfficientNet-Lite0's weights cannot be read from {path}: {error}. Give its ImageNet weights as .npz "
            "(efficientnet_lite0_imagenet.npz)."
        ) from error


def _to_keras(name: str, value: np.ndarray) -> np.ndarray:
    """PyTorch's OIHW to Keras' HWIO, for depthwise kernels HWI1."""
    if not name.endswith("kernel"):
        return value
    return value.transpose(2, 3, 0, 1) if "depthwise" in name else value.transpose(2, 3, 1, 0)


def load_imagenet(network: keras.Model, path: str | Path) -> None:
    """Gives the layers of `efficientnet_lite0` in a network, by their names, ImageNet's weights.

    Raises:
        InputError: as `imagenet_weights`, or a shape differs.
    """
    for name, value in imagenet_weights(path).items():
        layer, weight = name.split("/")
        variable = next(v for v in network.get_layer(layer).weights if v.name == weight)
        if tuple(variable.shape) != value.shape:
            raise InputError(f"{path}: {name} has the shape {value.shape}; {tuple(variable.shape)} was expected.")
        variable.assign(value)
