"""An architecture from outside the package is one entry in the table: it trains, saves, loads and is ported."""

import keras
import numpy as np
import pytest
import torch

from unmask_tf.classifiers import CLASSIFIERS
from unmask_tf.classifiers.build import build_classifier, load_classifier, save_classifier
from unmask_tf.classifiers.classifier import Classifier
from unmask_tf.classifiers.settings import ClassifierConfig
from unmask_tf.classifiers.train import train_classifier
from unmask_tf.data.class_images import ImageSet
from unmask_tf.errors import InputError


def plain(classes, *, input_size, weights, batch_norm_momentum, seed):
    """Two convolutions."""
    assert weights == "random"
    keras.utils.set_random_seed(seed)
    pixels = x = keras.Input((input_size, input_size, 3))
    for filters in (4, 6):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same")(x)
        x = keras.layers.BatchNormalization(momentum=batch_norm_momentum)(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(pixels, keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(x)), name="plain")


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setitem(CLASSIFIERS, "plain", plain)
    return CLASSIFIERS


def dark_and_bright(count, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 8, 8, 3)) + 150 * labels[:, None, None, None]
    files = tuple(f"{i}.png" for i in range(count))
    return ImageSet(images.astype(np.uint8), labels.astype(np.int64), files, ("dark", "bright"))


def test_it_trains_saves_loads_and_is_ported(tmp_path):
    config = ClassifierConfig(input_size=8, weights="random", epochs=6, batch_size=8, learning_rate=0.1)
    model = build_classifier("plain", 2, input_size=8, weights="random", seed=1)
    history = train_classifier(model, dark_and_bright(32, 0), dark_and_bright(16, 1), config, tmp_path / "work")
    assert history[-1]["score"] >= 0.9
    path = tmp_path / "plain.weights.h5"
    save_classifier(model, path, {"architecture": "plain", "classes": ["dark", "bright"], "input_size": 8})
    loaded = Classifier.load(path, classes=["dark", "bright"])
    images = dark_and_bright(5, 2).images
    np.testing.assert_array_equal(loaded.logits(images), Classifier(model).logits(images))
    pixels = torch.from_numpy(images / np.float32(255)).permute(0, 3, 1, 2)
    ported = loaded.torch_module()(pixels).detach().numpy()
    np.testing.assert_allclose(ported, loaded.logits(images), rtol=1e-4, atol=1e-5)
    assert loaded.torch_module() is loaded.torch_module()


def test_an_images_logits_do_not_depend_on_how_many_there_are():
    classifier = Classifier(build_classifier("plain", 2, input_size=8, weights="random"), batch_size=4)
    images = dark_and_bright(10, 0).images
    whole = classifier.logits(images)
    assert whole.dtype == np.float32
    for count in (1, 4, 7):
        np.testing.assert_array_equal(classifier.logits(images[:count]), whole[:count])
    np.testing.assert_array_equal(classifier.logits(images / np.float32(255)), whole)


def test_a_saved_model_of_an_entry_that_is_gone_is_refused(tmp_path, table):
    model = build_classifier("plain", 2, input_size=8, weights="random")
    save_classifier(model, tmp_path / "m.weights.h5", {"architecture": "plain", "classes": ["a", "b"], "input_size": 8})
    del table["plain"]
    with pytest.raises(InputError, match="unknown architecture 'plain'"):
        load_classifier(tmp_path / "m.weights.h5")


def test_a_builder_that_makes_another_model_is_refused(table):
    table["plain"] = lambda classes, **arguments: plain(classes + 1, **arguments)
    with pytest.raises(ValueError, match=r"to \(None, 3\); expected \(None, 8, 8, 3\) to \(None, 2\)"):
        build_classifier("plain", 2, input_size=8, weights="random")
