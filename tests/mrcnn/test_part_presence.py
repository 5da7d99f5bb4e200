"""K as a differentiable function: its parts are the detector's, and its gradient is that of finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from unmask_tf.defense.extract import PartExtractor
from unmask_tf.mrcnn.anchors import normalized_anchors
from unmask_tf.mrcnn.image import Placement, resize_bilinear, resize_image
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.part_presence import PartPresence, pulled_back
from unmask_tf.mrcnn.weights import save_weights

MODES = {
    "a ROI's best class": {"DETECTION_MIN_CONFIDENCE": 0.27, "DROP_EMPTY_ROIS": True},
    "every class of a ROI": {"DETECTION_MIN_CONFIDENCE": 0.26, "PER_CLASS_DETECTIONS": True},
    "any score": {},
}


def total(margins, weights):
    return tf.reduce_sum(tf.tanh(margins) * weights[:, None], axis=(1, 2))


@pytest.fixture(scope="module", params=MODES.values(), ids=MODES)
def k(request, tiny_config, randomize, tmp_path_factory):
    """(config, weights file) of a tiny K that sees 48x48 images on a 96x96 part of its canvas."""
    settings = {"DETECTION_MAX_INSTANCES": 36, "IMAGE_MIN_DIM": 96, "IMAGE_MAX_DIM": 128} | request.param
    config = tiny_config(**settings)
    model = MaskRCNN("inference", config, tmp_path_factory.mktemp("presence"))
    randomize(model.keras_model, 1)
    save_weights(model.keras_model, model.model_dir / "k.h5")
    return config, model.model_dir / "k.h5"


@pytest.fixture(scope="module")
def presence(k):
    """That K as a differentiable function; tests must leave it as it is."""
    return PartPresence(*k, batch_size=4)


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(3).randint(0, 256, (7, 12, 12, 3)).astype(np.uint8).repeat(4, 1).repeat(4, 2)


@pytest.mark.parametrize("needed", [None, (0.3, 0.27, 0.28)])
def test_a_part_has_a_positive_margin_exactly_where_the_detector_sees_it(k, presence, images, taxonomy, needed):
    config, weights = k
    extractor = PartExtractor(config, weights, taxonomy, batch_size=7)
    if needed is not None:
        extractor._needed = np.array([0.0, *needed])
    found = np.array([[part in seen for part in taxonomy.parts] for seen in extractor.extract(images)])
    presence = presence if needed is None else PartPresence(config, weights, needed, batch_size=7)
    np.testing.assert_array_equal(presence.strongest(images) > 0, found)
    if config.DETECTION_MIN_CONFIDENCE:
        assert 0 < found.mean() < 1


def test_the_eight_bit_form_is_what_counts(presence, images):
    pixels = images[:2].astype(np.float32) / np.float32(255)
    between = np.minimum(pixels + np.float32(0.9 / 255), 1.0)
    np.testing.assert_array_equal(presence.margins(between), presence.margins(images[:2]))
    assert np.abs(presence.margins(np.minimum(pixels + 0.02, 1.0)) - presence.margins(pixels)).max() > 0


def with_fixed_proposals(presence, molded, anchors):
    """The network behind the proposals, which are those of an image, as a function of the image alone."""
    network = presence.network
    rois = network([molded, anchors], training=False)[0]
    head = keras.Model([network.inputs[0], network.output[0]], network.output[1:])
    presence.network = lambda inputs, training: [rois, *head([inputs[0], rois], training=False)]


def test_the_gradient_is_that_of_finite_differences(k):
    config, weights = k
    presence = PartPresence(config, weights, batch_size=1)
    molded = np.random.RandomState(0).normal(0, 40, (1, 128, 128, 3)).astype(np.float32)
    anchors = normalized_anchors(config, (128, 128))[None]
    with_fixed_proposals(presence, molded, anchors)
    where = (anchors, np.array([0, 0, 1, 1], np.float32), np.array([128, 128], np.float32))
    weight, rng = np.ones((1, 3), np.float32), np.random.RandomState(1)

    def loss(canvas):
        return float(presence._function(total)(canvas, *where, weight)[0][0])

    gradient = np.asarray(presence._function(total)(molded, *where, weight)[2])
    assert np.abs(gradient).max() > 0
    direction = gradient / np.sqrt((gradient**2).sum()) + rng.normal(0, 0.002, molded.shape).astype(np.float32)
    measured = (loss(molded + 0.05 * direction) - loss(molded - 0.05 * direction)) / 0.1
    assert measured == pytest.approx(float((gradient * direction).sum()), rel=0.03)


def test_proposals_are_chosen_anew_for_every_image(presence, images):
    both = presence.margins(images[:2])
    np.testing.assert_allclose(presence.margins(images[1:2])[0], both[1], atol=1e-4)
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_gradients_come_with_the_losses_and_the_highest_margins(presence, images):
    pixels, weights = images.astype(np.float32) / np.float32(255), np.ones((7, 3), np.float32)
    losses, gradients, strongest = presence.gradients(pixels, total, weights)
    assert losses.shape == (7,) and gradients.shape == pixels.shape and strongest.shape == (7, 3)
    np.testing.assert_allclose(losses, np.tanh(presence.margins(pixels)).sum(axis=(1, 2)), atol=1e-3)
    alone = presence.gradients(pixels[2:3], total, weights[2:3])[1][0]
    np.testing.assert_allclose(gradients[2], alone, atol=1e-3 * np.abs(alone).max())


@pytest.mark.parametrize("side", [48, 50])
def test_the_gradient_by_the_image_is_the_resizing_s_transpose(tiny_config, side):
    config = tiny_config(IMAGE_MIN_DIM=96, IMAGE_MAX_DIM=128)
    rng = np.random.RandomState(0)
    _, placement = resize_image(np.zeros((side, side, 3)), config)
    pixels, cotangent = rng.uniform(1, 2, (side, side, 3)), np.zeros((1, 128, 128, 3))
    top, left, bottom, right = placement.window
    # Not at the border, where the resizing clips to the image's range.
    cotangent[0, top + 2 : bottom - 2, left + 2 : right - 2] = rng.normal(size=(bottom - top - 4, right - left - 4, 3))
    resized = resize_bilinear(pixels, bottom - top, right - left)
    forward = (resized * cotangent[0, top:bottom, left:right]).sum()
    back = (pulled_back(cotangent, placement, (side, side))[0] * pixels).sum() / 255
    assert back == pytest.approx(forward, rel=1e-4)


def test_without_resizing_the_gradient_is_cut_out():
    placement = Placement((1, 2, 3, 4), 1.0, ((1, 0), (2, 0), (0, 0)))
    gradient = np.arange(4 * 5 * 3, dtype=np.float32).reshape(1, 4, 5, 3)
    np.testing.assert_array_equal(pulled_back(gradient, placement, (2, 2)), 255 * gradient[:, 1:3, 2:4])


def test_scores_of_another_number_of_parts_are_refused(k):
    with pytest.raises(ValueError, match="3 parts"):
        PartPresence(*k, needed=(0.5, 0.5))
