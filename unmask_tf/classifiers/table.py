"""The table of architectures of M (no Keras in here): one entry adds another, from outside the package too.

def plain(classes, *, input_size, weights, batch_norm_momentum, seed):
    ...
    return keras.Model(pixels, logits)

CLASSIFIERS["plain"] = plain
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import keras


class Builder(Protocol):
    """Builds M: a functional or sequential Keras model of layers that `torch_port` knows."""

    def __call__(
        self, classes: int, *, input_size: int, weights: str, batch_norm_momentum: float, seed: int
    ) -> keras.Model:
        """A model from float32 (N, S, S, 3) pixels in [0, 1] to float32 logits (N, classes).

        Args:
            classes: number of outputs, at least 2.
            input_size: side S of the square input, pixels.
            weights: to start from: `random`, `imagenet`, or the path of a weights file. A saved M is built with
                `random` before its weights are loaded.
            batch_norm_momentum: of every batch normalisation, Keras convention.
            seed: of the random weights.
        """


def _application(architecture: str, classes: int, **arguments) -> keras.Model:
    from unmask_tf.classifiers.applications import application

    return application(architecture, classes, **arguments)


def _efficientnet_lite0(classes: int, **arguments) -> keras.Model:
    from unmask_tf.classifiers.efficientnet import efficientnet_lite0_classifier

    return efficientnet_lite0_classifier(classes, **arguments)


_APPLICATIONS = ("resnet50", "resnet101", "densenet121", "vgg16", "mobilenet_v2", "efficientnet_b0")

CLASSIFIERS: dict[str, Builder] = {
    **{name: functools.partial(_application, name) for name in _APPLICATIONS},
    "efficientnet_lite0": _efficientnet_lite0,
}
"""Architecture -> its builder. The paper's are `resnet50` and `densenet121`."""
