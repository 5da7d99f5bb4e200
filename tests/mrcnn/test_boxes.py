"""Box arithmetic: literals worked out by hand, and properties."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from unmask_tf.mrcnn import boxes

steady = settings(deadline=None, derandomize=True)


@st.composite
def pixel_boxes(draw, count=None, side=40):
    """Integer boxes (N, 4) of positive size inside a square of `side` pixels."""
    result = []
    for _ in range(count or draw(st.integers(1, 4))):
        y1, x1 = draw(st.integers(0, side - 1)), draw(st.integers(0, side - 1))
        result.append((y1, x1, draw(st.integers(y1 + 1, side)), draw(st.integers(x1 + 1, side))))
    return np.array(result)


def pixels(box):
    return {(y, x) for y in range(box[0], box[2]) for x in range(box[1], box[3])}


def test_the_box_over_the_whole_image_is_normalized_to_0_0_1_1():
    assert boxes.normalize(np.array([0, 0, 64, 128]), (64, 128)).tolist() == [0, 0, 1, 1]


def test_normalized_boxes_divide_by_the_side_minus_one_and_are_closed():
    result = boxes.normalize(np.array([[10, 20, 30, 40]]), (51, 101))
    np.testing.assert_allclose(result, [[10 / 50, 20 / 100, 29 / 50, 39 / 100]], rtol=1e-6)
    assert result.dtype == np.float32


def test_denormalizing_rounds_to_whole_pixels():
    result = boxes.denormalize(np.array([0.204, 0.2, 0.58, 0.396]), (51, 101))
    assert result.tolist() == [10, 20, 30, 41]
    assert result.dtype == np.int32


@steady
@given(pixel_boxes(side=2000), st.integers(2, 2000), st.integers(2, 2000))
def test_denormalizing_undoes_normalizing(pixel, height, width):
    assert boxes.denormalize(boxes.normalize(pixel, (height, width)), (height, width)).tolist() == pixel.tolist()


def test_area_is_height_times_width():
    assert boxes.area(np.array([[1, 2, 4, 10], [5, 5, 5, 9]])).tolist() == [24, 0]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((0, 0, 2, 2), 1.0),
        ((1, 1, 3, 3), 1 / 7),
        ((0, 0, 1, 2), 0.5),
        ((0, 2, 2, 4), 0.0),
        ((5, 5, 6, 6), 0.0),
        ((0, 0, 0, 0), 0.0),
    ],
    ids=["itself", "a quarter", "half", "touching", "apart", "empty"],
)
def test_iou_of_a_two_by_two_box_by_hand(other, expected):
    iou = boxes.iou_matrix(np.array([[0.0, 0, 2, 2]]), np.array([other], float))
    np.testing.assert_allclose(iou, [[expected]])


def test_iou_of_two_empty_boxes_is_zero_not_nan():
    assert boxes.iou_matrix(np.zeros((2, 4)), np.zeros((1, 4))).tolist() == [[0], [0]]


@steady
@given(pixel_boxes(), pixel_boxes())
def test_iou_counts_common_pixels_over_all_pixels(first, second):
    expected = [[len(pixels(a) & pixels(b)) / len(pixels(a) | pixels(b)) for b in second] for a in first]
    np.testing.assert_allclose(boxes.iou_matrix(first, second), expected)


@steady
@given(pixel_boxes(), pixel_boxes())
def test_iou_is_symmetric_within_0_and_1_and_1_for_the_box_itself(first, second):
    iou = boxes.iou_matrix(first, second)
    np.testing.assert_array_equal(iou, boxes.iou_matrix(second, first).T)
    assert (iou >= 0).all() and (iou <= 1).all()
    assert (np.diag(boxes.iou_matrix(first, first)) == 1).all()


def test_deltas_are_the_shift_over_the_size_and_the_log_of_the_growth():
    box = np.array([[0.0, 0, 10, 20], [0, 0, 10, 10]])
    target = np.array([[5.0, 10, 15, 30], [0, 0, 20, 40]])
    expected = [[0.5, 0.5, 0, 0], [0.5, 1.5, np.log(2), np.log(4)]]
    np.testing.assert_allclose(boxes.encode_deltas(box, target), expected)
    np.testing.assert_allclose(boxes.decode_deltas(box, np.array(expected)), target)


@steady
@given(pixel_boxes(count=3), pixel_boxes(count=3))
def test_decoding_undoes_encoding(box, target):
    decoded = boxes.decode_deltas(box.astype(float), boxes.encode_deltas(box.astype(float), target.astype(float)))
    np.testing.assert_allclose(decoded, target, atol=1e-9)


@steady
@given(
    pixel_boxes(count=3),
    st.lists(st.tuples(*[st.floats(-2, 2)] * 4), min_size=3, max_size=3).map(lambda deltas: np.array(deltas)),
)
def test_encoding_undoes_decoding(box, deltas):
    box = box.astype(float)
    np.testing.assert_allclose(boxes.encode_deltas(box, boxes.decode_deltas(box, deltas)), deltas, atol=1e-9)


def test_clipping_moves_edges_onto_the_window_of_their_own_image():
    box = np.array([[[-1.0, 2, 5, 20], [30, 30, 40, 40]], [[-1, 2, 5, 20], [3, 3, 4, 4]]])
    window = np.array([[0.0, 0, 10, 10], [1, 4, 3, 8]])
    expected = [[[0, 2, 5, 10], [10, 10, 10, 10]], [[1, 4, 3, 8], [3, 4, 3, 4]]]
    assert boxes.clip(box, window).tolist() == expected


@settings(parent=steady, max_examples=15)
@given(pixel_boxes(count=3), pixel_boxes(count=3))
def test_keras_ops_and_numpy_give_the_same_numbers(first, second):
    a, b = first.astype(np.float32), second.astype(np.float32)
    tensor_a, tensor_b = ops.convert_to_tensor(a), ops.convert_to_tensor(b)
    for function in (boxes.iou_matrix, boxes.encode_deltas):
        result = keras.ops.convert_to_numpy(function(tensor_a, tensor_b, ops))
        np.testing.assert_allclose(result, function(a, b), rtol=1e-5, atol=1e-6)
    deltas = boxes.encode_deltas(a, b)
    np.testing.assert_allclose(boxes.decode_deltas(tensor_a, deltas, ops), boxes.decode_deltas(a, deltas), atol=1e-4)
    np.testing.assert_array_equal(boxes.clip(tensor_a, tensor_b[0], ops), boxes.clip(a, b[0]))


def test_the_tight_box_of_a_mask_is_half_open_and_an_empty_mask_has_none():
    masks = np.zeros((6, 8, 2), bool)
    masks[2, 3, 0] = masks[4, 6, 0] = True
    result = boxes.from_masks(masks)
    assert result.tolist() == [[2, 3, 5, 7], [0, 0, 0, 0]]
    assert result.dtype == np.int32


def test_an_image_without_masks_has_no_boxes():
    assert boxes.from_masks(np.zeros((6, 8, 0), bool)).shape == (0, 4)


def test_mirroring_swaps_the_distances_to_the_left_and_right_edge():
    assert boxes.mirror(np.array([[1, 2, 3, 5]]), 10).tolist() == [[1, 5, 3, 8]]


@steady
@given(pixel_boxes())
def test_mirroring_twice_changes_nothing_and_leaves_its_argument_alone(box):
    before = box.copy()
    assert boxes.mirror(boxes.mirror(box, 40), 40).tolist() == before.tolist()
    assert box.tolist() == before.tolist()


@steady
@given(pixel_boxes(count=1))
def test_the_mirrored_box_is_the_box_of_the_mirrored_mask(box):
    mask = np.zeros((40, 40, 1), bool)
    mask[box[0, 0] : box[0, 2], box[0, 1] : box[0, 3]] = True
    assert boxes.from_masks(mask).tolist() == box.tolist()
    assert boxes.from_masks(mask[:, ::-1]).tolist() == boxes.mirror(box, 40).tolist()
