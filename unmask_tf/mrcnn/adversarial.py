"""Adversarial training of K: part of each batch is attacked through K's own loss before K learns from it.

The attack is one signed gradient step from a random start (Wong, Rice & Kolter, *Fast is better than free*, ICLR 2020),
with a budget drawn for each image. What it raises is the training loss, so boxes, classes and region proposals are all
attacked (as the multi-task attack of Zhang & Wang, *Towards adversarially robust object detection*, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.samples import Batch, Source

_STEP = 1.25  # in units of the budget: from a random start, a step that reaches most of the box's corners


class AttackedSource:
    """The batches of another source, of which the first images are attacked as K's weights are at that moment.

    Args:
        source: the batches; their images are in no particular order.
        graph: K's training graph.
        config: ADVERSARIAL_SHARE, ADVERSARIAL_AFTER, ADVERSARIAL_EPSILON, ADVERSARIAL_BLOCK, MEAN_PIXEL, SEED.

    Raises:
        ValueError: Keras' backend is not TensorFlow.
    """

    def __init__(self, source: Source, graph: keras.Model, config: Config) -> None:
        if keras.backend.backend() != "tensorflow":
            raise ValueError("adversarial training of K needs Keras' TensorFlow backend: set KERAS_BACKEND=tensorflow.")
        self.source, self.config, self.steps = source, config, source.steps
        self._gradient = image_gradient(graph)

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
        images, mean, block = batch["input_image"], np.asarray(self.config.MEAN_PIXEL, np.float32), self.config
        pixels, size = images + mean, block.ADVERSARIAL_BLOCK
        budgets = rng.uniform(0, block.ADVERSARIAL_EPSILON, (len(images), 1, 1, 1)).astype(np.float32)
        shown = (np.round(pixels) > 0).any(axis=-1, keepdims=True)
        coarse = (len(images), images.shape[1] // size, images.shape[2] // size, 3)
        start = budgets * rng.uniform(-1, 1, coarse).astype(np.float32)

        def applied(change: np.ndarray) -> np.ndarray:
            fine = change.repeat(size, axis=1).repeat(size, axis=2)
            return np.clip(pixels + fine * shown, 0, 255) - mean

        gradient = self._gradient({**batch, "input_image": applied(start)})
        summed = gradient.reshape(*coarse[:2], size, coarse[2], size, 3).sum(axis=(2, 4))
        change = np.clip(start + _STEP * budgets * np.sign(summed), -budgets, budgets)
        return (np.round(applied(change) + mean) - mean).astype(np.float32)


def image_gradient(graph: keras.Model) -> Any:
    """A function from a training batch to the gradient of K's weighted loss by the images, float32 (B, H, W, 3)."""
    import tensorflow as tf

    weights = graph.config.LOSS_WEIGHTS

    @tf.function(reduce_retracing=True, jit_compile=False)
    def gradient(batch: dict[str, Any]) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(batch["input_image"])
            losses = graph(batch, training=False)
            total = tf.add_n([weights[name] * value for name, value in losses.items()])
        return tape.gradient(total, batch["input_image"])

    return lambda batch: gradient({name: tf.convert_to_tensor(values) for name, values in batch.items()}).numpy()
