"""EfficientNet-Lite0 as M: its preprocessing inside, its pooled features, and a new head of logits."""

from __future__ import annotations

import functools

import keras

from unmask_tf.efficientnet_lite import MEAN, SCALE, efficientnet_lite0, load_imagenet
from unmask_tf.errors import InputError

_SMALLEST_INPUT = 32


def efficientnet_lite0_classifier(
    classes: int, *, input_size: int, weights: str, batch_norm_momentum: float, seed: int
) -> keras.Model:
    """Builds M on EfficientNet-Lite0, as one flat functional model (`CLASSIFIERS` says what it takes and returns).

    Args:
        classes, batch_norm_momentum, seed: as `CLASSIFIERS` says.
        input_size: side of the square input, pixels; at least 32.
        weights: of the backbone: `random`, or the path of its ImageNet weights (`.npz` of its PyTorch release).
            `imagenet` is refused: nobody publishes them for Keras to fetch.

    Raises:
        InputError: the input is too small, or the weights are missing or do not fit.
    """
    if input_size < _SMALLEST_INPUT:
        raise InputError(
            f"input_size {input_size} is too small for efficientnet_lite0; use at least {_SMALLEST_INPUT}."
        )
    if weights == "imagenet":
        raise InputError(
            "the ImageNet weights of efficientnet_lite0 cannot be fetched. Put efficientnet_lite0_imagenet.npz (its "
            "PyTorch release's tensors) into the data's weights/ or into mask_rcnn_weights/, or choose mobilenet_v2."
        )
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((input_size, input_size, 3), dtype="float32", name="pixels")
    image = keras.layers.Rescaling(255.0 / SCALE, offset=-MEAN / SCALE, name="to_backbone_range")(pixels)
    norm = functools.partial(keras.layers.BatchNormalization, momentum=batch_norm_momentum)
    features = keras.layers.GlobalAveragePooling2D(name="features")(efficientnet_lite0(image, norm))
    logits = keras.layers.Dense(classes, dtype="float32", name="logits")(features)
    model = keras.Model(pixels, logits, name="efficientnet_lite0")
    if weights != "random":
        load_imagenet(model, weights)
    return model
