"""From ROIs to detections: a case worked out by hand, a slow reference, and the way back to the image's pixels."""

import numpy as np
import pytest

from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.detections import detection_layer, paste_mask, unmold_boxes
from unmask_tf.mrcnn.image import mold_inputs

WHOLE = (0.0, 0.0, 1.0, 1.0)


def detect(rows, window=WHOLE, deltas=None, **settings):
    """Runs the layer on one image; a row is (box, class, score), of three classes and the background."""
    defaults = {"NUM_CLASSES": 4, "DETECTION_MAX_INSTANCES": 5, "DETECTION_MIN_CONFIDENCE": 0.0}
    config = Config(**{**defaults, "DROP_EMPTY_ROIS": True, **settings})
    rois = np.array([[box for box, _, _ in rows]], np.float32)
    probabilities = np.zeros((1, len(rows), 4), np.float32)
    for i, (_, class_id, score) in enumerate(rows):
        probabilities[0, i] = (1 - score) / 3
        probabilities[0, i, class_id] = score
    if deltas is None:
        deltas = np.zeros((1, len(rows), 4, 4), np.float32)
    return np.asarray(detection_layer(config)((rois, probabilities, deltas, np.array([window], np.float32))))[0]


LEFT, RIGHT = (0.0, 0.0, 0.5, 0.25), (0.0, 0.5, 0.5, 0.75)


def test_detections_come_by_falling_score_and_the_rest_is_zero():
    result = detect([(LEFT, 2, 0.6), (RIGHT, 3, 0.9)])
    assert result.shape == (5, 6)
    np.testing.assert_allclose(result[:2], [[*RIGHT, 3, 0.9], [*LEFT, 2, 0.6]], rtol=1e-6)
    assert not result[2:].any()


def test_background_is_no_detection():
    assert detect([(LEFT, 0, 0.9), (RIGHT, 1, 0.5)])[:, 4].tolist() == [1, 0, 0, 0, 0]


def test_scores_below_the_least_confidence_are_left_out():
    rows = [(LEFT, 1, 0.75), (RIGHT, 1, 0.5)]
    assert detect(rows, DETECTION_MIN_CONFIDENCE=0.75)[:, 4].tolist() == [1, 0, 0, 0, 0]
    assert detect(rows, DETECTION_MIN_CONFIDENCE=0.5)[:, 4].tolist() == [1, 1, 0, 0, 0]
    assert detect(rows, DETECTION_MIN_CONFIDENCE=0.76)[:, 4].tolist() == [0] * 5


def test_a_box_suppresses_its_like_within_a_class_only():
    rows = [(LEFT, 1, 0.9), (LEFT, 1, 0.8), (LEFT, 2, 0.7)]
    np.testing.assert_allclose(detect(rows)[:, 4:], [[1, 0.9], [2, 0.7], [0, 0], [0, 0], [0, 0]], rtol=1e-6)


def test_the_suppression_threshold_is_the_configured_one():
    half = (0.0, 0.0, 0.25, 0.25)  # IoU 1/2 with LEFT
    rows = [(LEFT, 1, 0.9), (half, 1, 0.8)]
    assert np.count_nonzero(detect(rows, DETECTION_NMS_THRESHOLD=0.5)[:, 4]) == 2
    assert np.count_nonzero(detect(rows, DETECTION_NMS_THRESHOLD=0.49)[:, 4]) == 1


def test_at_most_max_instances_are_kept_the_best_ones():
    rows = [((0, i / 10, 1, (i + 1) / 10), 1, 0.5 + i / 100) for i in range(10)]
    scores = detect(rows, DETECTION_MAX_INSTANCES=3)[:, 5]
    np.testing.assert_allclose(scores, [0.59, 0.58, 0.57], rtol=1e-6)


def test_a_roi_is_refined_by_the_deltas_of_its_own_class_in_units_of_the_standard_deviation():
    deltas = np.full((1, 1, 4, 4), 7, np.float32)
    deltas[0, 0, 2] = 1, 2, 0, np.log(2) / 0.2
    # The centre moves by .1 of the height .5 and .2 of the width .25; the width doubles to .5 about .375 + .05.
    result = detect([((0.25, 0.25, 0.75, 0.5), 2, 0.9)], deltas=deltas)
    np.testing.assert_allclose(result[0], [0.3, 0.175, 0.8, 0.675, 2, 0.9], rtol=1e-5)


def test_boxes_are_clipped_to_the_images_window():
    result = detect([((0, 0, 1, 1), 1, 0.9)], window=(0.25, 0, 0.75, 1))
    np.testing.assert_allclose(result[0, :4], [0.25, 0, 0.75, 1])


def test_boxes_without_area_are_never_detections():
    rows = [((0, 0, 0, 0), 1, 0.99), ((0, 0, 0.2, 1), 2, 0.9), (RIGHT, 3, 0.5)]
    result = detect(rows, window=(0.25, 0, 1, 1))  # the second lies outside the window
    assert result[:, 4].tolist() == [3, 0, 0, 0, 0]


def test_padded_rois_do_not_crowd_out_real_ones():
    rows = [((0, 0, 0, 0), 1, 0.99)] * 6 + [(RIGHT, 3, 0.5)]
    assert detect(rows, DETECTION_MAX_INSTANCES=2)[:, 4].tolist() == [3, 0]


def test_every_class_of_a_roi_is_a_detection_where_the_settings_say_so():
    probabilities = np.array([[[0.5, 0.3, 0.0625, 0.1375], [0.1, 0.2, 0.7, 0.0]]], np.float32)
    deltas = np.zeros((1, 2, 4, 4), np.float32)
    deltas[0, 0, 1] = 1, 0, 0, 0  # class 1 of the first ROI lies .1 of its height lower
    inputs = np.array([[LEFT, RIGHT]], np.float32), probabilities, deltas, np.array([WHOLE], np.float32)
    settings = {"NUM_CLASSES": 4, "DETECTION_MAX_INSTANCES": 5, "DETECTION_MIN_CONFIDENCE": 0.125}
    result = np.asarray(detection_layer(Config(**settings, PER_CLASS_DETECTIONS=True))(inputs))[0]
    rows = [(*RIGHT, 2, 0.7), (0.05, 0.0, 0.55, 0.25, 1, 0.3), (*RIGHT, 1, 0.2), (*LEFT, 3, 0.1375), [0] * 6]
    np.testing.assert_allclose(result, rows, rtol=1e-6)
    result = np.asarray(detection_layer(Config(**settings))(inputs))[0]
    np.testing.assert_allclose(result, [(*RIGHT, 2, 0.7), *[[0] * 6] * 4], rtol=1e-6)


def slow_reference(rois, probabilities, deltas, window, config):
    """Box by box, in plain Python."""
    found, best = [], not config.PER_CLASS_DETECTIONS
    pairs = [(i, c) for i in range(len(rois)) for c in range(probabilities.shape[1])]
    if best:
        pairs = [(i, max(range(len(row)), key=lambda c: (row[c], -c))) for i, row in enumerate(probabilities.tolist())]
    for i, class_id in pairs:
        roi, score, moves = rois[i].tolist(), float(probabilities[i, class_id]), deltas[i].tolist()
        if class_id == 0 or score < config.DETECTION_MIN_CONFIDENCE:
            continue
        dy, dx, dh, dw = (a * b for a, b in zip(moves[class_id], (0.1, 0.1, 0.2, 0.2), strict=True))
        height, width = roi[2] - roi[0], roi[3] - roi[1]
        y, x = (roi[0] + roi[2]) / 2 + dy * height, (roi[1] + roi[3]) / 2 + dx * width
        height, width = height * np.exp(dh), width * np.exp(dw)
        low, high = window[:2] * 2, window[2:] * 2
        box = (y - height / 2, x - width / 2, y + height / 2, x + width / 2)
        box = [min(max(v, a), b) for v, a, b in zip(box, low, high, strict=True)]
        if (box[2] - box[0]) * (box[3] - box[1]) > 0:
            found.append((*box, class_id, score))
    kept = []
    for row in sorted(found, key=lambda row: -row[5]):
        if all(row[4] != other[4] or iou(row, other) <= config.DETECTION_NMS_THRESHOLD for other in kept):
            kept.append(row)
    return kept[: config.DETECTION_MAX_INSTANCES]


def iou(a, b):
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(height, 0) * max(width, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("confidence", [0.0, 0.4])
def test_a_batch_equals_the_slow_reference_image_by_image(confidence, per_class):
    rng = np.random.RandomState(4)
    config = Config(
        NUM_CLASSES=5,
        DETECTION_MAX_INSTANCES=20,
        DETECTION_MIN_CONFIDENCE=confidence,
        DROP_EMPTY_ROIS=True,
        PER_CLASS_DETECTIONS=per_class,
    )
    batch, count = 3, 80
    corner = rng.uniform(0, 0.8, (batch, count, 2))
    rois = np.concatenate([corner, corner + rng.uniform(0.05, 0.4, (batch, count, 2))], -1).astype(np.float32)
    probabilities = rng.dirichlet(np.full(5, 0.5), (batch, count)).astype(np.float32)
    deltas = rng.normal(size=(batch, count, 5, 4)).astype(np.float32)
    windows = np.array([WHOLE, (0.1, 0.2, 0.7, 0.9), (0.25, 0, 0.75, 1)], np.float32)
    result = np.asarray(detection_layer(config)((rois, probabilities, deltas, windows)))
    for image in range(batch):
        window = tuple(windows[image].tolist())
        expected = slow_reference(rois[image], probabilities[image], deltas[image], window, config)
        assert len(expected) > 5
        np.testing.assert_allclose(result[image, : len(expected)], expected, rtol=1e-4, atol=1e-5)
        assert not result[image, len(expected) :].any()


def test_detections_move_from_the_canvas_to_the_images_pixels():
    # An image of 32x64 doubles to 64x128 and lies on rows 32..96 of the canvas.
    canvas, window = (128, 128), (32, 0, 96, 128)
    detections = np.array(
        [[32 / 127, 0, 95 / 127, 1, 3, 0.9], [32 / 127, 0, 63 / 127, 63 / 127, 1, 0.8], [0] * 6], np.float32
    )
    boxes, rows = unmold_boxes(detections, (32, 64), canvas, window)
    assert boxes.tolist() == [[0, 0, 32, 64], [0, 0, 16, 32]]
    assert boxes.dtype == np.int32
    assert rows.tolist() == [0, 1]


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (50, 37), (128, 128), (300, 200)])
def test_an_image_of_any_size_covers_itself(size):
    config = Config(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=128)
    _, _, (placement,) = mold_inputs([np.zeros((*size, 3), np.uint8)], config)
    window = np.array(placement.window)
    whole = (window - [0, 0, 1, 1]) / 127
    boxes, _ = unmold_boxes(np.array([[*whole, 1, 0.5]]), size, (128, 128), placement.window)
    assert boxes.tolist() == [[0, 0, *size]]


def test_boxes_that_vanish_in_the_images_pixels_are_left_out():
    detections = np.array([[0, 0, 0.5, 0.5, 1, 0.9], [0.5, 0.5, 0.5, 0.9, 1, 0.8], [0, 0, 1, 1, 2, 0.7]])
    # The second box spans rows 7.5 to 8.5, and both round to 8.
    boxes, rows = unmold_boxes(detections, (16, 16), (128, 128), (0, 0, 128, 128))
    assert rows.tolist() == [0, 2]
    assert boxes.tolist() == [[0, 0, 8, 8], [0, 0, 16, 16]]


def test_an_image_with_every_slot_used_keeps_them_all_and_one_without_any_gives_none():
    full = np.array([[0, 0, 1, 1, 1, 0.9]] * 5)
    assert len(unmold_boxes(full, (16, 16), (64, 64), (0, 0, 64, 64))[0]) == 5
    boxes, rows = unmold_boxes(np.zeros((5, 6)), (16, 16), (64, 64), (0, 0, 64, 64))
    assert boxes.shape == (0, 4) and rows.shape == (0,)


def test_a_mask_fills_its_box_from_probability_one_half():
    mask = np.array([[0.5, 0.49], [0.9, 0.1]])
    pasted = paste_mask(mask, np.array([1, 2, 3, 4]), (4, 5))
    expected = np.zeros((4, 5), bool)
    expected[1, 2] = expected[2, 2] = True
    assert pasted.dtype == bool
    assert (pasted == expected).all()


def test_a_full_mask_fills_a_box_of_any_size_to_its_edge():
    pasted = paste_mask(np.ones((28, 28), np.float32), np.array([3, 5, 40, 21]), (50, 60))
    expected = np.zeros((50, 60), bool)
    expected[3:40, 5:21] = True
    assert (pasted == expected).all()


def test_half_a_mask_fills_half_its_box():
    mask = np.zeros((28, 28), np.float32)
    mask[:, :14] = 1
    pasted = paste_mask(mask, np.array([0, 0, 10, 20]), (10, 20))
    assert pasted[:, :10].all() and not pasted[:, 10:].any()
