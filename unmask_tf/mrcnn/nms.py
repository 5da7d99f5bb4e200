"""Non-maximum suppression with static shapes: TensorFlow's kernel, and a portable twin for JAX and PyTorch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from unmask_tf.mrcnn import boxes as box_math


def non_max_suppression(
    boxes: Any, scores: Any, valid: Any, *, max_output: int, iou_threshold: float, classes: Any = None
) -> tuple[Any, Any]:
    """Greedy suppression, highest score first; a box falls if its IoU with a kept one exceeds the threshold.

    Args:
        boxes: (B, N, 4) y1, x1, y2, x2, any unit.
        scores: (B, N), at least 0 where valid.
        valid: bool (B, N).
        max_output: K, at most how many boxes are kept per image.
        classes: int (B, N); when given, boxes of different classes do not suppress one another.

    Returns:
        indices int32 (B, K) by falling score, and kept bool (B, K); indices are 0 where not kept.
    """
    scores = ops.where(valid, scores, -1.0)
    suppress = _suppress_tensorflow if keras.backend.backend() == "tensorflow" else suppress_portable
    return suppress(boxes, scores, max_output, iou_threshold, classes)


def _suppress_tensorflow(boxes: Any, scores: Any, k: int, threshold: float, classes: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    def one_image(arguments: Any) -> tuple[Any, Any]:
        if classes is None:
            image_boxes, image_scores = arguments
            indices = tf.image.non_max_suppression(image_boxes, image_scores, k, threshold, score_threshold=-0.5)
        else:
            image_boxes, image_scores, image_classes = arguments
            overlaps = box_math.iou_matrix(image_boxes, image_boxes, ops)
            overlaps = tf.where(image_classes[:, None] == image_classes[None, :], overlaps, 0.0)
            indices = tf.image.non_max_suppression_overlaps(overlaps, image_scores, k, threshold, score_threshold=-0.5)
        missing = k - tf.shape(indices)[0]
        kept = tf.concat([tf.ones_like(indices, tf.bool), tf.zeros([missing], tf.bool)], 0)
        return tf.ensure_shape(tf.pad(indices, [[0, missing]]), [k]), tf.ensure_shape(kept, [k])

    arguments = (boxes, scores) if classes is None else (boxes, scores, classes)
    return tf.map_fn(one_image, arguments, fn_output_signature=(tf.int32, tf.bool))


def suppress_portable(boxes: Any, scores: Any, k: int, threshold: float, classes: Any) -> tuple[Any, Any]:
    """The same in keras.ops: K rounds of "take the best, drop its overlaps". Invalid scores are negative."""
    count = ops.shape(boxes)[1]
    positions = ops.arange(count, dtype="int32")[None]
    slots = ops.arange(k, dtype="int32")[None]

    def take_best(round_index: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        remaining, indices, kept = state
        best = ops.cast(ops.argmax(remaining, axis=1), "int32")
        found = ops.max(remaining, axis=1) > -0.5
        best_box = ops.take_along_axis(boxes, best[:, None, None], axis=1)
        drop = box_math.iou_matrix(boxes, best_box, ops)[..., 0] > threshold
        if classes is not None:
            drop = ops.logical_and(drop, classes == ops.take_along_axis(classes, best[:, None], axis=1))
        drop = ops.logical_or(drop, positions == best[:, None])
        here = slots == round_index
        indices = ops.where(here, ops.where(found, best, 0)[:, None], indices)
        kept = ops.logical_or(kept, ops.logical_and(here, found[:, None]))
        return ops.where(drop, -1.0, remaining), indices, kept

    batch = ops.shape(boxes)[0]
    start = (scores, ops.zeros((batch, k), "int32"), ops.zeros((batch, k), "bool"))
    _, indices, kept = ops.fori_loop(0, k, take_best, start)
    return indices, kept
