"""The five losses and the weight decay, worked out by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from unmask_tf.mrcnn import losses

LOG2 = np.log(2)


def tensor(values, dtype=np.float32):
    return tf.constant(np.asarray(values, dtype))


def test_smooth_l1_is_half_the_square_below_1_and_the_distance_less_a_half_above():
    result = losses.smooth_l1(tensor([0, 0, 0, 0, 3]), tensor([0, 0.5, -1, 2, 0]))
    np.testing.assert_allclose(result, [0, 0.125, 0.5, 1.5, 2.5])


def test_rpn_class_loss_is_the_mean_over_positive_and_negative_anchors():
    match = tensor([[1, -1, 0]], np.int32)
    logits = tensor([[[0, 0], [2, 0], [9, -9]]])
    # log 2 for the undecided positive, log(1 + e^-2) for the good negative; the neutral one is left out.
    assert float(losses.rpn_class_loss(match, logits)) == pytest.approx((LOG2 + 0.126928) / 2, rel=1e-5)


def test_rpn_class_loss_pools_the_anchors_of_all_images():
    match = tensor([[1, 0, 0], [-1, -1, -1]], np.int32)
    logits = tensor([[[0, 0]] * 3, [[2, 0]] * 3])
    assert float(losses.rpn_class_loss(match, logits)) == pytest.approx((LOG2 + 3 * 0.126928) / 4, rel=1e-5)


def test_rpn_bbox_loss_pairs_the_nth_positive_anchor_of_an_image_with_its_nth_target():
    match = tensor([[-1, 1, 0, 1], [1, -1, -1, -1]], np.int32)
    targets = tensor([[[1, 1, 1, 1], [2, 2, 2, 2], [0, 0, 0, 0]], [[5, 5, 5, 5], [0] * 4, [0] * 4]])
    deltas = tensor([[[9] * 4, [1, 1, 1, 0], [9] * 4, [2, 2, 2, 4]], [[5, 5, 5, 6], [9] * 4, [9] * 4, [9] * 4]])
    # Distances 1, 2 and 1 cost .5, 1.5 and .5; three positives of four numbers each.
    assert float(losses.rpn_bbox_loss(targets, match, deltas)) == pytest.approx(2.5 / 12)


def test_mrcnn_class_loss_is_the_mean_over_all_rois_padding_included():
    ids = tensor([[1, 0]], np.int32)
    logits = tensor([[[0, 0, 0], [2, 0, -50]]])
    expected = (np.log(3) + 0.126928) / 2
    assert float(losses.mrcnn_class_loss(ids, logits, tensor([1, 1, 1]))) == pytest.approx(expected, rel=1e-5)


def test_mrcnn_class_loss_leaves_out_rois_whose_best_class_is_not_of_the_data_set():
    ids = tensor([[1, 0]], np.int32)
    logits = tensor([[[0, 0, 1], [2, 0, -50]]])
    assert float(losses.mrcnn_class_loss(ids, logits, tensor([1, 1, 0]))) == pytest.approx(0.126928, rel=1e-5)
    assert float(losses.mrcnn_class_loss(ids, logits, tensor([0, 1, 0]))) == 0


def test_mrcnn_bbox_loss_compares_the_deltas_of_the_rois_own_class_and_skips_background():
    ids = tensor([[2, 0]], np.int32)
    target = tensor([[[1, 0, 0, 0], [7, 7, 7, 7]]])
    deltas = tensor([[[[9] * 4, [9] * 4, [1, 2, 0, 0.5]], [[0] * 4] * 3]])
    # Distances 0, 2, 0, .5 cost 0, 1.5, 0, .125.
    assert float(losses.mrcnn_bbox_loss(target, ids, deltas)) == pytest.approx(1.625 / 4)


def mask_case(has_mask):
    """Two positives and a padded ROI; masks of 1x2 pixels for classes 0, 1, 2."""
    target = tensor([[[[1, 0]], [[1, 1]], [[1, 1]]]])
    ids = tensor([[2, 1, 0]], np.int32)
    masks = np.full((1, 3, 1, 2, 3), 0.123, np.float32)
    masks[0, 0, 0, :, 2] = 0.5, 0.2
    masks[0, 1, 0, :, 1] = 0.9, 0.9
    return target, ids, tensor([has_mask], bool), tensor(masks)


def test_mask_loss_is_binary_cross_entropy_of_the_rois_own_class():
    expected = (LOG2 - np.log(0.8) - 2 * np.log(0.9)) / 4
    assert float(losses.mrcnn_mask_loss(*mask_case([True, True, True]))) == pytest.approx(expected, rel=1e-5)


def test_an_instance_with_a_box_only_adds_nothing_to_the_mask_loss():
    expected = (LOG2 - np.log(0.8)) / 2
    target, ids, has_mask, masks = mask_case([True, False, False])
    with tf.GradientTape() as tape:
        tape.watch(masks)
        loss = losses.mrcnn_mask_loss(target, ids, has_mask, masks)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    gradient = tf.convert_to_tensor(tape.gradient(loss, masks)).numpy()
    assert gradient[0, 0].any() and not gradient[0, 1:].any()


def test_a_certain_wrong_mask_costs_a_finite_amount():
    masks = tensor(np.zeros((1, 1, 1, 2, 2)))
    loss = losses.mrcnn_mask_loss(tensor([[[[1, 1]]]]), tensor([[1]], np.int32), tensor([[True]], bool), masks)
    assert float(loss) == pytest.approx(-np.log(1e-7), rel=1e-3)


def test_every_loss_is_zero_where_nothing_counts():
    nothing = tensor([[0, 0]], np.int32)
    assert float(losses.rpn_class_loss(nothing, tensor([[[5, 1]] * 2]))) == 0
    assert float(losses.rpn_bbox_loss(tensor([[[1] * 4]]), nothing, tensor([[[5] * 4] * 2]))) == 0
    assert float(losses.mrcnn_bbox_loss(tensor([[[1] * 4] * 2]), nothing, tensor([[[[5] * 4] * 3] * 2]))) == 0
    masks = tensor(np.full((1, 2, 1, 1, 3), 0.5))
    assert float(losses.mrcnn_mask_loss(tensor(np.ones((1, 2, 1, 1))), nothing, nothing > 0, masks)) == 0


def test_weight_decay_is_the_rate_times_the_mean_square_of_kernels_and_biases():
    layer = keras.layers.Dense(1)
    layer.build((None, 2))
    layer.kernel.assign([[3], [4]])
    layer.bias.assign([2])
    # (9 + 16) / 2 + 4
    assert float(losses.weight_decay(layer.trainable_variables, 0.1)) == pytest.approx(1.65)


def test_weight_decay_spares_batch_normalization():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 2))
    assert [w.name for w in layer.trainable_variables] == ["gamma", "beta"]
    layer.gamma.assign([5, 5])
    layer.beta.assign([5, 5])
    assert float(losses.weight_decay(layer.trainable_variables, 0.1)) == 0


def test_weight_decay_of_no_weights_is_zero():
    assert float(losses.weight_decay([], 0.1)) == 0
