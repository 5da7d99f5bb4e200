"""K's detector rewritten for speed computes what the graph it came from computes."""

import keras
import numpy as np
import pytest
from keras import layers

from unmask_tf.mrcnn.fast import FastDetector, FixedConvolution, rewrite, rewritten_detector
from unmask_tf.mrcnn.image import canvas_size, resize_image
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import save_weights


def values(network, x):
    return np.asarray(network(x, training=False))


def test_folding_multiplies_the_statistics_into_kernel_and_bias():
    x = keras.Input((1, 1, 1))
    convolution, norm = layers.Conv2D(1, 1, name="c"), layers.BatchNormalization(epsilon=0.001, name="n")
    network = keras.Model(x, norm(convolution(x)))
    convolution.set_weights([np.full((1, 1, 1, 1), 2.0), np.array([1.0])])
    # gamma 3, beta 5, mean 4, variance 0.999: with epsilon, a deviation of 1
    norm.set_weights([np.array([v]) for v in (3.0, 5.0, 4.0, 0.999)])
    folded = rewrite(network).get_layer("c")
    assert np.asarray(folded.kernel).item() == pytest.approx(6.0), "2 * 3"
    assert np.asarray(folded.bias).item() == pytest.approx(-4.0), "(1 - 4) * 3 + 5"
    assert values(rewrite(network), np.full((1, 1, 1, 1), 10.0, np.float32)).item() == pytest.approx(56.0)


def _random_weights(network, seed=0):
    rng = np.random.RandomState(seed)
    for variable in network.weights:
        noise = rng.normal(0, 0.5, variable.shape)
        variable.assign(np.exp(noise) if "variance" in variable.path else noise)


@pytest.mark.parametrize("kind", ["convolution", "strided", "depthwise", "no bias", "no scale"])
def test_a_folded_network_equals_the_unfolded_one(kind):
    x = keras.Input((7, 6, 3))
    y = {
        "convolution": layers.Conv2D(4, 3, padding="same"),
        "strided": layers.Conv2D(4, 3, strides=2),
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2),
        "no bias": layers.Conv2D(4, 1, use_bias=False),
        "no scale": layers.Conv2D(4, 3),
    }[kind](x)
    y = layers.BatchNormalization(scale=kind != "no scale", center=kind != "no scale")(y)
    network = keras.Model(x, layers.ReLU()(y))
    _random_weights(network)
    pixels = np.random.RandomState(1).normal(0, 1, (2, 7, 6, 3)).astype(np.float32)
    rewritten = rewrite(network)
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in rewritten.layers)
    np.testing.assert_allclose(values(rewritten, pixels), values(network, pixels), atol=1e-5)


def test_a_normalisation_is_kept_where_something_else_reads_the_convolution_too():
    x = keras.Input((4, 4, 2))
    y = layers.Conv2D(3, 1)(x)
    network = keras.Model(x, layers.Add()([y, layers.BatchNormalization()(y)]))
    _random_weights(network)
    pixels = np.random.RandomState(1).normal(0, 1, (1, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(values(rewrite(network), pixels), values(network, pixels), atol=1e-5)


def test_a_normalisation_after_an_activation_is_kept():
    x = keras.Input((4, 4, 2))
    network = keras.Model(x, layers.BatchNormalization()(layers.Conv2D(3, 1, activation="relu")(x)))
    _random_weights(network)
    pixels = np.random.RandomState(1).normal(0, 1, (1, 4, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(values(rewrite(network), pixels), values(network, pixels), atol=1e-5)


def test_a_kernel_over_the_whole_map_is_one_matrix_product_with_the_convolution_s_result():
    rng = np.random.RandomState(0)
    kernel, bias = rng.normal(0, 1, (3, 2, 4, 5)).astype(np.float32), rng.normal(0, 1, 5).astype(np.float32)
    pixels = rng.normal(0, 1, (6, 3, 2, 4)).astype(np.float32)
    found = np.asarray(FixedConvolution(kernel, bias)(pixels))
    assert found.shape == (6, 1, 1, 5)
    expected = np.einsum("nhwc,hwco->no", pixels.astype(float), kernel.astype(float)) + bias
    np.testing.assert_allclose(found[:, 0, 0], expected, atol=1e-5)


def test_a_consumed_networks_kernels_become_the_rewritten_ones():
    x = keras.Input((2, 2, 1))
    network = keras.Model(x, layers.BatchNormalization(epsilon=0.0)(layers.Conv2D(1, 1, name="c")(x)))
    network.set_weights([np.full((1, 1, 1, 1), 2.0), np.zeros(1), *(np.array([v]) for v in (3.0, 1.0, 0.0, 1.0))])
    kernel = network.get_layer("c").kernel
    rewritten = rewrite(network, consume=True)
    assert rewritten.get_layer("c").kernel is kernel
    assert np.asarray(kernel).item() == pytest.approx(6.0), "2 * 3"
    assert values(rewritten, np.ones((1, 2, 2, 1), np.float32)).ravel().tolist() == pytest.approx([7.0] * 4), "6 + 1"


def test_weights_that_change_later_do_not_reach_the_rewritten_network():
    x = keras.Input((2, 2, 1))
    network = keras.Model(x, layers.Conv2D(1, 1, name="c")(x))
    network.get_layer("c").set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    rewritten = rewrite(network)
    network.get_layer("c").set_weights([np.zeros((1, 1, 1, 1)), np.zeros(1)])
    assert values(rewritten, np.full((1, 2, 2, 1), 3.0, np.float32)).ravel().tolist() == [3.0] * 4


@pytest.fixture(scope="module")
def k(tiny_config, randomize, tmp_path_factory):
    """(config, weights file, K)."""
    config = tiny_config(IMAGE_MIN_DIM=80, IMAGE_MAX_DIM=192)
    model = MaskRCNN("inference", config, tmp_path_factory.mktemp("fast"))
    randomize(model.keras_model, 1)
    save_weights(model.keras_model, model.model_dir / "k.h5")
    return config, model.model_dir / "k.h5", model


def same_boxes(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a["class_ids"].tolist() == b["class_ids"].tolist()
        np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-4)
        np.testing.assert_allclose(a["rois"], b["rois"], atol=1)


def test_the_folded_detector_finds_what_k_finds(k, photographs):
    config, weights, model = k
    expected = model.detect_boxes(photographs)
    assert sum(len(found["class_ids"]) for found in expected) > 8
    same_boxes(FastDetector(config, weights).detect_boxes(photographs), expected)


def test_the_folded_network_has_no_normalisation_left(k):
    network = rewritten_detector(k[0], k[1])
    assert not [layer.name for layer in network.layers if isinstance(layer, layers.BatchNormalization)]
    assert not [v.path for v in network.weights if "moving" in v.path]


SHAPES = [(150, 150), (300, 400), (400, 300), (64, 64), (70, 333), (1100, 500), (1024, 1024)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["square", "pad64", "none"])
def test_the_canvas_is_known_without_resizing(tiny_config, mode, shape):
    config = tiny_config(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=256)
    canvas, _ = resize_image(np.zeros((*shape, 3), np.uint8), config)
    assert canvas_size(*shape, config) == canvas.shape[:2]
