"""Adversarial training of K: part of each batch is attacked through K's own loss before K learns from it.

The attack is signed gradient steps from a random start, with a budget drawn for each image: one step (Wong, Rice &
Kolter, *Fast is better than free*, ICLR 2020) or several (Madry et al., ICLR 2018). What it raises is the whole
training loss, or some of its terms (Zhang & Wang, *Towards adversarially robust object detection*, ICCV 2019): those of
the classes alone take parts away sooner, and need no mask.

K's canvas is an enlarged image, and an attacker changes the small one. So the change is made small and enlarged as the
images are: changes that no attacker can make, such as single pixels of the canvas, are easily told from an image, and a
K that was trained on them withstands nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.image import along, resizing
from unmask_tf.mrcnn.losses import LOSSES
from unmask_tf.mrcnn.samples import Batch, Source

_ONE_STEP = 1.25  # in units of the budget: from a random start, a step that reaches most of the box's corners
_ALL_STEPS = 2.0  # likewise, of several steps together: from one side of the box to the other


class AttackedSource:
    """The batches of another source, of which the first images are attacked as K's weights are at that moment.

    Args:
        source: the batches; their images are in no particular order.
        graph: K's training graph.
        config: the settings ADVERSARIAL_*, MEAN_PIXEL and SEED.

    Raises:
        ValueError: Keras' backend is not TensorFlow.
    """

    def __init__(self, source: Source, graph: keras.Model, config: Config) -> None:
        if keras.backend.backend() != "tensorflow":
            raise ValueError("adversarial training of K needs Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow.")
        self.source, self.config, self.steps = source, config, source.steps
        self._gradient = image_gradient(graph, config.ADVERSARIAL_LOSSES)

    def batches(self, epoch: int) -> Iterator[Batch]:
        if epoch < self.config.ADVERSARIAL_AFTER:
            yield from self.source.batches(epoch)
            return
        for number, batch in enumerate(self.source.batches(epoch)):
            rng = np.random.RandomState([self.config.SEED, 2, epoch, number])
            count = round(self.config.ADVERSARIAL_SHARE * len(batch["input_image"]))
            if count:
                some = {name: values[:count] for name, values in batch.items()}
                attacked = self.attack(some, rng)
                batch = {**batch, "input_image": np.concatenate([attacked, batch["input_image"][count:]])}
            yield batch

    def attack(self, batch: Batch, rng: np.random.RandomState) -> np.ndarray:
        """The molded images (B, H, W, 3) of a batch, each changed by up to a budget drawn from [0, ADVERSARIAL_EPSILON]
        levels and in 8-bit form; padding stays as it is."""
        images, mean, config = batch["input_image"], np.asarray(self.config.MEAN_PIXEL, np.float32), self.config
        pixels, scale = images + mean, config.ADVERSARIAL_BLOCK
        budgets = rng.uniform(0, config.ADVERSARIAL_EPSILON, (len(images), 1, 1, 1)).astype(np.float32)
        shown = (np.round(pixels) > 0).any(axis=-1, keepdims=True)
        height, width = images.shape[1] // scale, images.shape[2] // scale
        rows, columns = (resizing(n, n * scale).astype(np.float32) for n in (height, width))
        change = budgets * rng.uniform(-1, 1, (len(images), height, width, 3)).astype(np.float32)

        def applied(change: np.ndarray) -> np.ndarray:
            return np.clip(pixels + along(change, rows, columns) * shown, 0, 255) - mean

        step = min(_ONE_STEP, _ALL_STEPS / config.ADVERSARIAL_STEPS)
        for _ in range(config.ADVERSARIAL_STEPS):
            gradient = self._gradient({**batch, "input_image": applied(change)})
            change = change + step * budgets * np.sign(along(gradient * shown, rows.T, columns.T))
            change = np.clip(change, -budgets, budgets)
        return (np.round(applied(change) + mean) - mean).astype(np.float32)


def image_gradient(graph: keras.Model, names: Sequence[str] = LOSSES) -> Any:
    """A function from a training batch to the gradient of K's weighted losses, those named, by the images, float32
    (B, H, W, 3)."""
    import tensorflow as tf

    weights = graph.config.LOSS_WEIGHTS

    @tf.function(reduce_retracing=True, jit_compile=False)
    def gradient(batch: dict[str, Any]) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch["input_image"])
            losses = graph(batch, training=False)
            total = tf.add_n([weights[name] * losses[name] for name in names])
        return tape.gradient(total, batch["input_image"])

    return lambda batch: gradient({name: tf.convert_to_tensor(values) for name, values in batch.items()}).numpy()
