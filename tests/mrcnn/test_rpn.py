"""The RPN's heads and its proposals, worked out by hand."""

import numpy as np
import pytest

from unmask_tf.mrcnn.anchors import level_anchors
from unmask_tf.mrcnn.rpn import build_rpn, proposal_layer

LEFT, RIGHT, BOTTOM = (0, 0, 0.5, 0.25), (0, 0.5, 0.5, 0.75), (0.5, 0, 1, 1)


def propose(rows, count=4, deltas=None, **settings):
    """Runs the layer on one image; a row is (anchor, probability of an object)."""
    config = settings.pop("make")(**settings)
    probabilities = np.array([[(1 - p, p) for _, p in rows]], np.float32)
    anchors = np.array([[anchor for anchor, _ in rows]], np.float32)
    deltas = np.zeros((1, len(rows), 4), np.float32) if deltas is None else np.array([deltas], np.float32)
    return np.asarray(proposal_layer(config, count)([probabilities, deltas, anchors]))[0]


def test_proposals_come_by_falling_score_and_the_rest_is_zero(tiny_config):
    rows = [(LEFT, 0.2), (RIGHT, 0.9), (BOTTOM, 0.5)]
    assert propose(rows, make=tiny_config).tolist() == [list(RIGHT), list(BOTTOM), list(LEFT), [0, 0, 0, 0]]


def test_deltas_are_applied_in_units_of_the_standard_deviation_and_the_result_is_clipped(tiny_config):
    # The centre moves by .1 * 2 of the height .5; the width .25 doubles about .125, and its left half falls off.
    rows, deltas = [(LEFT, 0.9)], [(2, 0, 0, np.log(2) / 0.2)]
    np.testing.assert_allclose(propose(rows, deltas=deltas, make=tiny_config)[0], [0.1, 0, 0.6, 0.375], rtol=1e-5)


def test_close_proposals_are_suppressed_at_the_rpns_threshold(tiny_config):
    half = (0, 0, 0.25, 0.25)  # IoU 1/2 with LEFT
    rows = [(LEFT, 0.9), (half, 0.8)]
    kept = {t: propose(rows, make=tiny_config, RPN_NMS_THRESHOLD=t).any(axis=1).sum() for t in (0.5, 0.49)}
    assert kept == {0.5: 2, 0.49: 1}


def test_only_the_best_anchors_before_suppression_count(tiny_config):
    rows = [(LEFT, 0.9), (LEFT, 0.8), (RIGHT, 0.7)]
    assert propose(rows, make=tiny_config, PRE_NMS_LIMIT=2).any(axis=1).sum() == 1
    assert propose(rows, make=tiny_config, PRE_NMS_LIMIT=3).any(axis=1).sum() == 2


def test_at_most_count_proposals_are_kept(tiny_config):
    assert propose([(LEFT, 0.2), (RIGHT, 0.9), (BOTTOM, 0.5)], 2, make=tiny_config).tolist() == [
        list(RIGHT),
        list(BOTTOM),
    ]


@pytest.fixture(scope="module")
def rpn(tiny_config):
    return build_rpn(tiny_config())


def test_rpn_outputs_three_anchors_a_cell_in_the_anchors_order(rpn):
    """Filters that answer with the cell's own value put each cell where its anchors stand."""
    for layer in rpn.layers:
        for weight in layer.weights:
            weight.assign(np.zeros(weight.shape))
    shared, deltas = rpn.get_layer("rpn_conv_shared"), rpn.get_layer("rpn_bbox_pred")
    kernel = np.zeros(shared.kernel.shape)
    kernel[1, 1, 0, 0] = 1
    shared.kernel.assign(kernel)
    kernel = np.zeros(deltas.kernel.shape)
    kernel[0, 0, 0] = 1
    deltas.kernel.assign(kernel)
    deltas.bias.assign(np.arange(12) / 100)
    rpn.get_layer("rpn_class_raw").bias.assign(np.arange(6.0))
    features = np.zeros((1, 2, 3, 8), np.float32)
    features[0, :, :, 0] = [[1, 2, 3], [4, 5, 6]]
    logits, probabilities, moves = (np.asarray(x) for x in rpn(features))
    anchors = level_anchors(8, (0.5, 1, 2), (2, 3), 10, 1)
    assert logits.shape == probabilities.shape == (1, len(anchors), 2) and moves.shape == (1, len(anchors), 4)
    cell = 1 + 3 * ((anchors[:, 0] + anchors[:, 2]) // 20) + (anchors[:, 1] + anchors[:, 3]) // 20
    ratio = np.tile([0, 1, 2], 6)
    np.testing.assert_allclose(moves[0], cell[:, None] + (4 * ratio[:, None] + np.arange(4)) / 100, rtol=1e-5)
    np.testing.assert_allclose(logits[0], 2 * ratio[:, None] + np.arange(2))
    np.testing.assert_allclose(probabilities[0, :, 1], 1 / (1 + np.exp(-1)), rtol=1e-5)
