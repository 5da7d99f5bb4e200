"""A small M and its images, for the tests of training."""

import keras
import numpy as np

from unmask_tf.classifiers.settings import ClassifierConfig
from unmask_tf.data.class_images import ImageSet

CONFIG = ClassifierConfig(input_size=8, weights="random", epochs=3, batch_size=8, learning_rate=0.05, seed=11)


def toy_images(count=20, seed=0):
    """Class 0 is dark, class 1 bright; noise on both. 20 images make an incomplete last batch of 8."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 8, 8, 3)) + 150 * labels[:, None, None, None]
    files = tuple(f"{i}.png" for i in range(count))
    return ImageSet(images.astype(np.uint8), labels.astype(np.int64), files, ("dark", "light"))


def toy_model(seed=0):
    """Convolution, normalisation and dropout: weights, statistics and a random state to restore."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, strides=2),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3, seed=5),
            layers.Dense(2),
        ],
        name="toy",
    )


def assert_same_bits(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
