"""The torch copies of all architectures compute what Keras computes, in inference and in training, both ways."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from PIL import Image

from unmask_tf.classifiers import CLASSIFIERS
from unmask_tf.classifiers.torch_layers import ZeroPadding
from unmask_tf.classifiers.torch_layers_weighted import BatchNormalization, Convolution
from unmask_tf.classifiers.torch_port import load_from_torch, to_torch
from unmask_tf.data.class_images import resize_and_crop

if keras.backend.backend() != "tensorflow":
    pytest.skip("the reference gradients are taken with TensorFlow", allow_module_level=True)
from port_parity import CALIBRATION, CLASSES, errors, in_double_precision, nchw, network, patches

from unmask_tf.config import PROFILES
from unmask_tf.data.synthetic import class_scene

PHOTOS = os.environ.get("UNMASK_PHOTOS")
SLOW = ("resnet101", "vgg16")
ALL = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CLASSIFIERS]
DISTINCT = 0.02
"""Smallest share of the images that each class must get, or else equal classes would say little."""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order, whatever else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("architecture", ALL)
def test_logits_and_input_gradients_equal_keras(architecture):
    """In double precision on every image; in single precision but where rounding crossed a kink."""
    images = patches(CALIBRATION, 64)
    found = errors(network(architecture, images), images[:4])
    assert_equal_in_double_precision(found)
    assert_as_exact_as_keras(found["logits"])
    for name in ("copy", "folded"):
        assert found["gradient"][name].max() < max(0.1, 2 * found["gradient"]["keras"].max())


@pytest.mark.parametrize("architecture", ALL)
def test_without_kinks_input_gradients_equal_keras_in_single_precision(architecture):
    """The same graphs and weights with smooth activations and averages."""
    images = patches(CALIBRATION, 64)
    found = errors(network(architecture, images, smooth=True), images[:4])
    for kind in ("logits", "gradient"):
        assert found[kind]["keras"].max() < 1e-4
        assert_as_exact_as_keras(found[kind])


def assert_equal_in_double_precision(found):
    for name in ("double", "folded_double"):
        assert found["logits"][name].max() < 1e-9
        assert found["gradient"][name].max() < 1e-6  # Keras' inputs, and so their gradients, are float32


def assert_as_exact_as_keras(found):
    for name in ("copy", "folded"):
        assert found[name].max() < rounding(found), name


def rounding(found):
    """Keras' own error is the scale: each processor sums the same products in another order.

    Of a dozen logits it may be small by chance, but 50 layers seldom leave less than 16 units in the last place.
    """
    return 8 * max(found["keras"].max(), 2e-6)


def other_epsilon(module):
    for part in module.modules():
        if isinstance(part, BatchNormalization):
            assert part.epsilon == 1e-3
            part.epsilon = 1.001e-5


def other_padding(module):
    for part in module.modules():
        if isinstance(part, ZeroPadding):
            assert part.padding == ((0, 1), (0, 1))
            part.padding = ((1, 0), (1, 0))


def other_channels(module):
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0].flip(1),))


def one_weight_off_by_a_hundredth(module):
    convolution = next(part for part in module.modules() if isinstance(part, Convolution))
    with torch.no_grad():
        convolution.weight[0, 0, 0, 0] *= 1.01


def rounded_to_bfloat16(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.bfloat16())


@pytest.fixture(scope="module")
def smooth_network():
    images = patches(CALIBRATION, 64)
    return network("mobilenet_v2", images, smooth=True), images[:4]


@pytest.mark.parametrize(
    "fault", [other_epsilon, other_padding, other_channels, one_weight_off_by_a_hundredth, rounded_to_bfloat16]
)
def test_a_planted_fault_exceeds_the_bounds(smooth_network, fault):
    found = errors(*smooth_network, fault)
    for kind, bound in (("logits", 1e-9), ("gradient", 1e-6)):
        assert found[kind]["double"].max() > 10 * bound
        if fault is not one_weight_off_by_a_hundredth:  # which changes no more than rounding does
            assert found[kind]["copy"].max() > rounding(found[kind])


def drawn_images(count, size):
    """Images of the embedded dataset's classes, float32 in [0, 1]."""
    config = PROFILES["mini"].synthetic
    names = ("car", "person", "train", "dog", "bird", "bottle")
    scenes = [class_scene(config, "test", names[i % len(names)], i // len(names)).image for i in range(count)]
    return np.stack([resize_and_crop(scene, size) for scene in scenes]).astype(np.float32) / 255


def real_images(count, size):
    """Photographs where their folder is known, drawn images otherwise."""
    files = sorted(Path(PHOTOS, "classes", "test").glob("*/*.jpg")) if PHOTOS else []
    if not files:
        return drawn_images(count, size)
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, count).astype(int)]
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in chosen]
    return np.stack([resize_and_crop(image, size) for image in pixels]).astype(np.float32) / 255


def assert_equal_classes(architecture, count, size):
    images = np.concatenate([patches(count - count // 2, size), real_images(count // 2, size)])
    model = network(architecture, images[:: max(1, count // 64)], centred=True)
    logits = np.concatenate([model(part, training=False).numpy() for part in np.array_split(images, count // 50 + 1)])
    assert np.bincount(logits.argmax(1), minlength=CLASSES).min() >= DISTINCT * count
    tolerance = 1e-4 * np.abs(logits).max()
    highest = np.sort(logits, axis=1)
    decided = highest[:, -1] - highest[:, -2] > 2 * tolerance  # the others' class is one of rounding
    assert decided.mean() > 0.98
    for fold in (False, True):
        module = to_torch(model, fold_batch_norm=fold)
        with torch.no_grad():
            found = np.concatenate([module(nchw(part)).numpy() for part in np.array_split(images, count // 50 + 1)])
        np.testing.assert_array_equal(found.argmax(1)[decided], logits.argmax(1)[decided])
        np.testing.assert_allclose(found, logits, rtol=0, atol=tolerance)


@pytest.mark.parametrize("architecture", ("resnet50", "densenet121"))
def test_sixty_images_get_keras_classes(architecture):
    assert_equal_classes(architecture, 60, 48)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_a_thousand_images_get_keras_classes(architecture):
    """500 random images and 500 photographs, or drawn images where there are none."""
    assert_equal_classes(architecture, 1000, 64)


@pytest.mark.parametrize("architecture", ALL)
def test_training_mode_and_updated_statistics_equal_keras_both_ways(architecture):
    """In double precision, since few values are normalised at the end of a network and small differences grow there."""
    images = patches(6, 48)
    model = in_double_precision(network(architecture, images))
    module = to_torch(model).double().train()
    seen = model.get_weights()
    for _ in range(2):
        expected = model(images.astype(np.float64), training=True).numpy()
        found = module(nchw(images.astype(np.float64))).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())
    updated = model.get_weights()
    load_from_torch(model, module)
    for variable, old, theirs, ours in zip(model.weights, seen, updated, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-10, err_msg=variable.path)
        if "moving" in variable.path:
            assert not np.array_equal(theirs, old), variable.path
    # The way back carries every parameter: scaled in torch, they give the same logits in Keras.
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.01)
    load_from_torch(model, module)
    expected = module.eval()(nchw(images.astype(np.float64))).detach().numpy()
    np.testing.assert_allclose(model(images.astype(np.float64), training=False).numpy(), expected, rtol=1e-8, atol=1e-9)
