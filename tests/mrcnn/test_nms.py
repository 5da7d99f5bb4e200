"""Non-maximum suppression: worked by hand, against a slow reference, and both kernels against each other."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from unmask_tf.mrcnn import nms

KERNELS = {"tensorflow": nms._suppress_tensorflow, "portable": nms.suppress_portable}

# B overlaps A with IoU 90/110, D overlaps A with 50/150 and B with 60/140, C overlaps nothing.
A, B, C, D = (0, 0, 10, 10), (0, 1, 10, 11), (0, 20, 10, 30), (0, 5, 10, 15)


@pytest.fixture(params=KERNELS)
def suppress(request, monkeypatch):
    """`non_max_suppression` on one image, by either kernel; gives the kept indices, best first."""
    monkeypatch.setattr(nms, "_suppress_tensorflow", KERNELS[request.param])

    def run(boxes, scores, k=4, threshold=0.5, classes=None, valid=None):
        indices, kept = nms.non_max_suppression(
            ops.convert_to_tensor([boxes], "float32"),
            ops.convert_to_tensor([scores], "float32"),
            ops.convert_to_tensor([[True] * len(boxes) if valid is None else valid]),
            max_output=k,
            iou_threshold=threshold,
            classes=None if classes is None else ops.convert_to_tensor([classes], "int32"),
        )
        indices, kept = ops.convert_to_numpy(indices)[0], ops.convert_to_numpy(kept)[0]
        assert indices.shape == kept.shape == (k,) and indices.dtype == np.int32
        count = kept.sum()
        assert kept[:count].all() and (indices[count:] == 0).all(), "kept boxes come first, the rest is zero"
        return indices[:count].tolist()

    return run


def slow_reference(boxes, scores, valid, k, threshold, classes):
    """Greedy suppression as in a textbook."""
    left, kept = [i for i in range(len(boxes)) if valid[i]], []
    while left and len(kept) < k:
        best = max(left, key=lambda i: (scores[i], -i))
        kept.append(best)
        left.remove(best)
        left = [
            i
            for i in left
            if slow_iou(boxes[best], boxes[i]) <= threshold or (classes is not None and classes[i] != classes[best])
        ]
    return kept


def slow_iou(a, b):
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = height * width if height > 0 and width > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def test_the_best_box_suppresses_its_close_neighbour(suppress):
    assert suppress([A, B, C, D], [0.9, 0.8, 0.7, 0.6]) == [0, 2, 3]


def test_a_lower_threshold_suppresses_the_farther_neighbour_too(suppress):
    assert suppress([A, B, C, D], [0.9, 0.8, 0.7, 0.6], threshold=0.3) == [0, 2]


def test_the_order_is_by_score_not_by_position(suppress):
    assert suppress([A, C, B], [0.7, 0.8, 0.9]) == [2, 1]


def test_an_overlap_exactly_at_the_threshold_survives(suppress):
    assert suppress([(0, 0, 10, 10), (0, 0, 10, 5)], [0.9, 0.8], threshold=0.5) == [0, 1]


def test_a_suppressed_box_suppresses_nothing(suppress):
    # B falls to A; E overlaps B with IoU 70/130 but A with 60/140 only.
    assert suppress([A, B, (0, 4, 10, 14)], [0.9, 0.8, 0.7], threshold=0.5) == [0, 2]


def test_boxes_of_another_class_do_not_suppress(suppress):
    assert suppress([A, B, B, C], [0.9, 0.8, 0.7, 0.6], classes=[1, 2, 1, 2]) == [0, 1, 3]


def test_a_box_that_fell_to_its_own_class_does_not_protect_another_class(suppress):
    assert suppress([A, B, A, B], [0.9, 0.8, 0.7, 0.6], classes=[1, 1, 2, 2]) == [0, 2]


def test_invalid_boxes_are_neither_kept_nor_suppress(suppress):
    assert suppress([A, B, C], [0.9, 0.8, 0.7], valid=[False, True, True]) == [1, 2]
    assert suppress([A, B, C], [0.9, 0.8, 0.7], valid=[False] * 3) == []
    assert suppress([A, B, C], [0.9, 0.8, 0.7], valid=[False, True, True], classes=[1, 1, 1]) == [1, 2]


def test_a_valid_box_of_score_zero_is_kept(suppress):
    assert suppress([A, C], [0.0, 0.0]) == [0, 1]


def test_at_most_k_boxes_are_kept(suppress):
    assert suppress([A, B, C, (50, 50, 60, 60)], [0.6, 0.7, 0.8, 0.9], k=2) == [3, 2]


def test_among_equal_scores_the_first_wins(suppress):
    assert suppress([B, A, C], [0.5, 0.5, 0.5]) == [0, 2]
    assert suppress([B, A, C], [0.5, 0.5, 0.5], classes=[1, 1, 1]) == [0, 2]


def test_boxes_without_area_overlap_nothing(suppress):
    assert suppress([(5, 5, 5, 5), A, (5, 5, 5, 5)], [0.9, 0.8, 0.7]) == [0, 1, 2]


@pytest.mark.parametrize("classes", [False, True], ids=["across classes", "within classes"])
def test_both_kernels_equal_the_slow_reference(classes):
    rng = np.random.RandomState(0)
    batch, count, k = 3, 40, 15
    for threshold in (0.0, 0.3, 0.7):
        corner, size = rng.uniform(0, 1, (batch, count, 2)), rng.uniform(0, 0.6, (batch, count, 2))
        boxes = np.concatenate([corner, corner + size], axis=-1).astype(np.float32)
        scores = rng.choice(np.linspace(0, 1, 25), (batch, count)).astype(np.float32)
        valid = rng.uniform(size=(batch, count)) < 0.8
        ids = rng.randint(1, 4, (batch, count)).astype(np.int32) if classes else None
        expected = [
            slow_reference(boxes[i], scores[i], valid[i], k, threshold, ids[i] if classes else None)
            for i in range(batch)
        ]
        masked = np.where(valid, scores, -1).astype(np.float32)
        for name, kernel in KERNELS.items():
            indices, kept = (np.asarray(x) for x in kernel(boxes, masked, k, threshold, ids))
            assert [list(i[o]) for i, o in zip(indices, kept, strict=True)] == expected, (name, threshold)


def test_shapes_stay_static_inside_a_graph():
    for kernel in KERNELS.values():

        @tf.function(input_signature=[tf.TensorSpec((None, 5, 4)), tf.TensorSpec((None, 5))])
        def traced(boxes, scores, kernel=kernel):
            indices, kept = kernel(boxes, scores, 3, 0.5, None)
            assert indices.shape[1] == kept.shape[1] == 3
            return indices, kept

        boxes = np.array([[A, B, C, D, A]] * 2, np.float32)
        indices, kept = traced(boxes, np.array([[0.9, 0.8, 0.7, 0.6, 0.5]] * 2, np.float32))
        assert indices.numpy().tolist() == [[0, 2, 3]] * 2 and kept.numpy().all()
