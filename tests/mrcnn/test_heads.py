"""The heads: shapes, the order of ROIs and classes, and batch normalisation's mode."""

import keras
import numpy as np
import pytest

from unmask_tf.mrcnn.heads import class_and_box_head, mask_head

BATCH, ROIS, CLASSES = 2, 3, 4
BOXES = np.array([[[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]] * BATCH, np.float32)
IMAGE = np.zeros((BATCH, 64, 64, 3), np.float32)


def build(config):
    """Both heads on one pyramid, with random weights."""
    rois, image = keras.Input((ROIS, 4)), keras.Input((64, 64, 3))
    pyramid = [keras.Input((64 // s, 64 // s, 8)) for s in (4, 8, 16, 32)]
    logits, probabilities, deltas = class_and_box_head(rois, image, pyramid, config)
    masks = mask_head(rois, image, pyramid, config)
    outputs = {"logits": logits, "probabilities": probabilities, "deltas": deltas, "masks": masks}
    return keras.Model([rois, image, *pyramid], outputs)


def pyramid(*values):
    """A pyramid that is constant for each image."""
    return [np.stack([np.full((64 // s, 64 // s, 8), v, np.float32) for v in values]) for s in (4, 8, 16, 32)]


def run(model, features, training=False):
    outputs = model([BOXES, IMAGE, *features], training=training)
    return {name: np.asarray(value) for name, value in outputs.items()}


@pytest.fixture(scope="module")
def heads(tiny_config, randomize):
    model = build(tiny_config(TRAIN_BN=False))
    randomize(model, 0)
    return model


def test_shapes_are_per_image_and_roi(heads):
    assert {name: tensor.shape for name, tensor in heads.output.items()} == {
        "logits": (None, ROIS, CLASSES),
        "probabilities": (None, ROIS, CLASSES),
        "deltas": (None, ROIS, CLASSES, 4),
        "masks": (None, ROIS, 28, 28, CLASSES),
    }


def test_layers_bear_matterports_names(heads):
    names = {layer.name for layer in heads.layers if layer.weights}
    assert names == {
        *("mrcnn_class_conv1", "mrcnn_class_bn1", "mrcnn_class_conv2", "mrcnn_class_bn2"),
        *("mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_mask_deconv", "mrcnn_mask"),
        *(f"mrcnn_mask_{kind}{i}" for kind in ("conv", "bn") for i in range(1, 5)),
    }


def test_probabilities_are_the_softmax_of_the_logits_over_classes(heads):
    outputs = run(heads, pyramid(1, 2))
    exponential = np.exp(outputs["logits"])
    np.testing.assert_allclose(outputs["probabilities"], exponential / exponential.sum(-1, keepdims=True), rtol=1e-4)


def test_masks_are_probabilities_at_twice_the_pool_size(heads):
    masks = run(heads, pyramid(1, 2))["masks"]
    assert 0 < masks.min() < masks.max() < 1


def test_rois_of_one_image_stay_with_that_image(heads):
    one, other, both = (run(heads, pyramid(*values)) for values in ((1, 1), (2, 2), (1, 2)))
    for name in both:
        np.testing.assert_allclose(both[name][0], one[name][0], atol=1e-5, err_msg=name)
        np.testing.assert_allclose(both[name][1], other[name][1], atol=1e-5, err_msg=name)
    assert np.abs(both["logits"][0] - both["logits"][1]).max() > 0.01


def test_the_deltas_of_class_c_are_outputs_4c_to_4c_plus_3(tiny_config):
    model = build(tiny_config())
    dense = model.get_layer("mrcnn_bbox_fc")
    dense.kernel.assign(np.zeros(dense.kernel.shape))
    dense.bias.assign(np.arange(4.0 * CLASSES))
    deltas = run(model, pyramid(1, 2))["deltas"]
    assert deltas[1, 2].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_batch_normalization_stays_frozen_in_training_when_train_bn_is_false(heads):
    norm = heads.get_layer("mrcnn_class_bn1")
    before = [np.asarray(w) for w in norm.weights]
    training, inference = run(heads, pyramid(1, 5), training=True), run(heads, pyramid(1, 5))
    np.testing.assert_array_equal(training["logits"], inference["logits"])
    for old, new in zip(before, norm.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_batch_normalization_follows_the_mode_when_train_bn_is_none(tiny_config):
    model = build(tiny_config(TRAIN_BN=None))
    norm = model.get_layer("mrcnn_class_bn1")
    before = np.asarray(norm.moving_mean)
    run(model, pyramid(1, 5))
    np.testing.assert_array_equal(before, norm.moving_mean)
    run(model, pyramid(1, 5), training=True)
    assert (before != np.asarray(norm.moving_mean)).any()
