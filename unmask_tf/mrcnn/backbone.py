"""Backbones and the feature pyramid (FPN), with Matterport's layer names.

Stages C2..C5 have strides 4, 8, 16, 32. `resnet_slim` is this project's narrow ResNet for the embedded data;
`mobilenet_v2` puts Keras Applications' ImageNet network in the same place, `efficientnet_lite0` EfficientNet-Lite0.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras import layers, ops

from unmask_tf import efficientnet_lite
from unmask_tf.mrcnn.config import Config

# blocks of stages 2..5, and the bottleneck width of stage 2 (it doubles from stage to stage)
RESNETS = {
    "resnet50": ((3, 4, 6, 3), 64),
    "resnet101": ((3, 4, 23, 3), 64),
    "resnet_slim": ((2, 2, 2, 2), 16),
}
_MOBILENET_STAGES = ("block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu")


@keras.saving.register_keras_serializable(package="unmask_tf")
class BatchNorm(layers.BatchNormalization):
    """Matterport's batch normalisation: `train_bn` None follows the mode, False uses the moving statistics always.

    The mode is fixed here, for Keras 3 drops a `training=False` given while a graph is built: `model(x, training=True)`
    overrides it. Scales and shifts stay trainable either way.
    """

    def __init__(self, train_bn: bool | None, **kwargs: Any) -> None:
        super().__init__(**{"epsilon": 1e-3, **kwargs})
        self.train_bn = train_bn

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=training if self.train_bn is None else self.train_bn, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "train_bn": self.train_bn}


@keras.saving.register_keras_serializable(package="unmask_tf")
class InferenceModel(keras.Model):
    """A functional model that always runs in inference mode."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=False, mask=mask)


def _conv_bn(
    x: Any, filters: int, kernel: int, suffix: str, stage_prefix: str, train_bn: bool | None, **kwargs: Any
) -> Any:
    x = layers.Conv2D(filters, kernel, name=f"res{stage_prefix}_branch{suffix}", **kwargs)(x)
    return BatchNorm(train_bn, name=f"bn{stage_prefix}_branch{suffix}")(x)


def _bottleneck(x: Any, width: int, stage: int, block: int, train_bn: bool | None) -> Any:
    """1x1, 3x3, 1x1 convolutions and a shortcut; the first block of stages 3..5 halves the size in its first 1x1."""
    prefix = f"{stage}{chr(ord('a') + block)}"
    strides = 2 if block == 0 and stage > 2 else 1
    out = layers.Activation("relu")(_conv_bn(x, width, 1, "2a", prefix, train_bn, strides=strides))
    out = layers.Activation("relu")(_conv_bn(out, width, 3, "2b", prefix, train_bn, padding="same"))
    out = _conv_bn(out, 4 * width, 1, "2c", prefix, train_bn)
    shortcut = _conv_bn(x, 4 * width, 1, "1", prefix, train_bn, strides=strides) if block == 0 else x
    return layers.Activation("relu", name=f"res{prefix}_out")(layers.Add()([out, shortcut]))


def resnet(image: Any, architecture: str, train_bn: bool | None) -> list[Any]:
    """ResNet stages [C2, C3, C4, C5] of molded images (B, H, W, 3)."""
    blocks, width = RESNETS[architecture]
    x = layers.ZeroPadding2D(3)(image)
    x = layers.Conv2D(width, 7, strides=2, name="conv1")(x)
    x = BatchNorm(train_bn, name="bn_conv1")(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(layers.Activation("relu")(x))
    stages = []
    for stage, count in enumerate(blocks, start=2):
        for block in range(count):
            x = _bottleneck(x, width << (stage - 2), stage, block, train_bn)
        stages.append(x)
    return stages


def mobilenet_v2(image: Any, config: Config) -> list[Any]:
    """MobileNetV2 stages [C2, C3, C4, C5]; its batch normalisation stays in inference mode."""
    pixels = (image + ops.convert_to_tensor(config.MEAN_PIXEL, "float32")) / 127.5 - 1.0
    base = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=tuple(image.shape[1:]))
    outputs = [base.get_layer(name).output for name in _MOBILENET_STAGES]
    return list(InferenceModel(base.input, outputs, name="mobilenet_v2")(pixels))


def efficientnet_lite0(image: Any, config: Config) -> list[Any]:
    """EfficientNet-Lite0 stages [C2, C3, C4, C5]: the last features at each stride."""
    mean = ops.convert_to_tensor(config.MEAN_PIXEL, "float32")
    pixels = (image + (mean - efficientnet_lite.MEAN)) / efficientnet_lite.SCALE
    features = efficientnet_lite.efficientnet_lite0(pixels, partial(BatchNorm, config.TRAIN_BN))
    network = keras.Model(image, features)
    return [network.get_layer(name).output for name in efficientnet_lite.PYRAMID]


def build_backbone(image: Any, config: Config) -> list[Any]:
    """[C2, C3, C4, C5] of molded images, by `config.BACKBONE` (a name, or a callable returning C1..C5 or C2..C5)."""
    if callable(config.BACKBONE):
        return list(config.BACKBONE(image, "resnet101", stage5=True, train_bn=config.TRAIN_BN))[-4:]
    if config.BACKBONE in RESNETS:
        return resnet(image, config.BACKBONE, config.TRAIN_BN)
    if config.BACKBONE == "mobilenet_v2":
        return mobilenet_v2(image, config)
    if config.BACKBONE == "efficientnet_lite0":
        return efficientnet_lite0(image, config)
    known = ", ".join([*RESNETS, "mobilenet_v2", "efficientnet_lite0"])
    raise ValueError(f"unknown BACKBONE '{config.BACKBONE}'. Choose one of: {known}.")


def feature_pyramid(stages: list[Any], channels: int) -> list[Any]:
    """Feature pyramid [P2, P3, P4, P5, P6] with `channels` channels; P6 serves the RPN only."""
    c2, c3, c4, c5 = stages
    merged = [layers.Conv2D(channels, 1, name="fpn_c5p5")(c5)]
    for level, stage in ((4, c4), (3, c3), (2, c2)):
        lateral = layers.Conv2D(channels, 1, name=f"fpn_c{level}p{level}")(stage)
        up = layers.UpSampling2D(2, name=f"fpn_p{level + 1}upsampled")(merged[-1])
        merged.append(layers.Add(name=f"fpn_p{level}add")([up, lateral]))
    pyramid = [
        layers.Conv2D(channels, 3, padding="same", name=f"fpn_p{level}")(x)
        for level, x in zip((2, 3, 4, 5), reversed(merged), strict=True)
    ]
    return [*pyramid, layers.MaxPooling2D(1, strides=2, name="fpn_p6")(pyramid[-1])]
