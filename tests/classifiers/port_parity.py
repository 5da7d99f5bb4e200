"""Networks on which the torch copies of all architectures are compared with Keras, and how.

    python tests/classifiers/port_parity.py --size 64 --images 16     # prints the errors of all

The reference is Keras in double precision. In single precision rounding pushes an activation over a rectifier's kink
here and there, or lets the runner-up win a maximum, on either side, and that image's gradient jumps by a ten-thousandth
to a fiftieth; with smooth activations and averages in their place (--smooth) the same graphs agree on every image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import torch

from unmask_tf.classifiers import CLASSIFIERS
from unmask_tf.classifiers.build import build_classifier, load_classifier
from unmask_tf.classifiers.torch_port import load_from_keras, to_torch

CLASSES = 3
CALIBRATION = 32
"""Images whose statistics a network takes over. With few, some channels hardly vary at its end, and rounding is scaled
up by what they vary."""


def patches(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """float32 (N, S, S, 3): coloured patches under some noise; noise alone looks alike to a network."""
    rng = np.random.default_rng(seed)
    side = -(-size // 4)
    blocks = rng.random((count, 4, 4, 3)).repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]
    return (0.8 * blocks + 0.2 * rng.random((count, size, size, 3))).astype(np.float32)


def network(
    architecture: str, images: np.ndarray, *, seed: int = 3, centred: bool = False, smooth: bool = False
) -> keras.Model:
    """M with random weights, normalised as training leaves it.

    The moving statistics are those of `images` (untrained ones would let all images end in the same features). Scales
    and offsets are random; those at the end of a residual branch are smaller, as in trained networks: with branches as
    loud as the shortcuts, fifty layers amplify rounding a thousandfold.

    Args:
        centred: the logits have mean 0 and standard deviation 2 over the images, so that each class wins on some;
            otherwise they are at most 1.
        smooth: ELU stands for every rectifier, an average for every maximum.
    """
    model = build_classifier(architecture, CLASSES, input_size=images.shape[1], weights="random", seed=seed)
    if smooth:
        twin = keras.models.clone_model(model, clone_function=without_kink)
        twin.set_weights(model.get_weights())
        model = twin
    rng = np.random.default_rng(seed)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        loudest = 0.3 if layer.name.endswith(("_3_bn", "_project_BN", "project_bn")) else 1.5
        layer.gamma.assign(rng.uniform(loudest / 3, loudest, layer.gamma.shape))
        layer.beta.assign(rng.normal(0.0, 0.2, layer.beta.shape))
        layer.momentum = 0.0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    model(images, training=True)
    for layer in norms:
        layer.momentum = 0.9
    head, logits = model.layers[-1], model(images, training=False).numpy()
    scale = 2.0 / logits.std(axis=0) if centred else 1.0 / np.abs(logits).max()
    head.kernel.assign(head.kernel.numpy() * scale)
    if centred:
        head.bias.assign(-(logits * scale).mean(axis=0))
    return model


def without_kink(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer with ELU instead of ReLU or ReLU6, and average instead of maximum pooling."""
    if isinstance(layer, keras.layers.ReLU):
        return keras.layers.Activation("elu", name=layer.name)
    if isinstance(layer, keras.layers.MaxPooling2D):
        return keras.layers.AveragePooling2D.from_config(layer.get_config())
    config = layer.get_config()
    if config.get("activation") in ("relu", "relu6"):
        config["activation"] = "elu"
    return layer.__class__.from_config(config)


def in_double_precision(model: keras.Model) -> keras.Model:
    """The same network, nested ones included, in float64."""

    def double(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float64"})

    twin = keras.models.clone_model(model, clone_function=double, recursive=True)
    twin.set_weights(model.get_weights())
    return twin


def keras_result(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and the gradient of the summed cross-entropy by the images, in inference mode."""
    x = tf.constant(images, dtype=model.compute_dtype if model.compute_dtype == "float64" else "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = model(x, training=False)
        loss = tf.reduce_sum(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    return logits.numpy(), tape.gradient(loss, x).numpy()


def torch_result(module: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of a torch copy, images and gradient in Keras' layout; in the precision of `images`."""
    x = nchw(images).requires_grad_(True)
    logits = module(x)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return logits.detach().numpy(), gradient.permute(0, 2, 3, 1).numpy()


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def relative_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Per image, in the Euclidean norm."""
    axes = tuple(range(1, found.ndim))
    return np.sqrt(((found - expected) ** 2).sum(axes) / (expected**2).sum(axes))


def errors(
    model: keras.Model, images: np.ndarray, fault: Callable[[torch.nn.Module], None] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Relative errors from the reference of `logits` and `gradient` per image, by whose they are.

    Keys of the inner dictionaries: `keras` (float32 Keras), `copy` and `folded` (float32 torch), `double` and
    `folded_double` (float64 torch).

    Args:
        fault: done to every torch copy before it is compared.
    """
    labels = np.arange(len(images)) % model.output_shape[-1]
    double = in_double_precision(model)
    reference = keras_result(double, images, labels)
    results = {"keras": keras_result(model, images, labels)}
    for name, fold in (("copy", False), ("folded", True)):
        single = to_torch(model, fold_batch_norm=fold)
        twin = to_torch(model, fold_batch_norm=fold).double()
        load_from_keras(twin, double)  # folds in double precision, too
        for module in (single, twin) if fault else ():
            fault(module)
        results[name] = torch_result(single, images, labels)
        results["double" if name == "copy" else "folded_double"] = torch_result(twin, images.astype(np.float64), labels)
    return {
        kind: {name: relative_errors(found[part], reference[part]) for name, found in results.items()}
        for part, kind in enumerate(("logits", "gradient"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--architectures", nargs="*", default=list(CLASSIFIERS), choices=list(CLASSIFIERS))
    parser.add_argument("--weights", nargs="*", default=[], help="files of save_classifier instead")
    parser.add_argument("--smooth", action="store_true", help="no rectifier, no maximum: see network()")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("relative error per image: median (maximum)")
    for name in arguments.weights or arguments.architectures:
        if arguments.weights:
            model = load_classifier(name)[0]
            images = patches(arguments.images, model.input_shape[1])
        else:
            images = patches(max(CALIBRATION, arguments.images), arguments.size)
            model = network(name, images, smooth=arguments.smooth)
        for kind, found in errors(model, images[: arguments.images]).items():
            row = "  ".join(f"{who} {np.median(e):.0e} ({e.max():.0e})" for who, e in found.items())
            print(f"{Path(name).name:16} {kind:8} {row}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
