"""A part detector that is linear in the image, by which attacks on K can be followed without a network."""

from __future__ import annotations

import numpy as np


class LinearParts:
    """K whose part p is seen where w_p . x > c_p; two classes or more, each with some parts (`TargetParts`).

    Args:
        weights: float (P, H, W, 3), by which images in [0, 1] are multiplied.
        offsets: float (P,).
        expected: bool (C, P).
    """

    def __init__(self, weights, offsets, expected) -> None:
        self.weights = np.asarray(weights, np.float32).reshape(len(weights), -1)
        self.offsets, self.expected = np.asarray(offsets, np.float32), np.asarray(expected, bool)
        self.asked = 0

    def margins(self, images):
        return images.reshape(len(images), -1).astype(np.float32) @ self.weights.T - self.offsets

    def gradients(self, images, loss, *arguments):
        import tensorflow as tf

        margins = self.margins(images)
        values = tf.constant(margins[:, None])
        with tf.GradientTape() as tape:
            tape.watch(values)
            losses = loss(values, *(tf.constant(a) for a in arguments))
        by_margin = tape.gradient(losses, values).numpy()[:, 0]
        return losses.numpy(), (by_margin @ self.weights).reshape(images.shape).astype(np.float32), margins

    def seen(self, images):
        assert images.dtype == np.uint8
        self.asked += len(images)
        return self.margins(images.astype(np.float32) / np.float32(255)) > 0

    def distances(self, seen):
        both = (seen[:, None] & self.expected[None]).sum(axis=2)
        return 1.0 - both / np.maximum((seen[:, None] | self.expected[None]).sum(axis=2), 1)

    def best_fit(self, seen):
        return self.distances(seen).argmin(axis=1)
