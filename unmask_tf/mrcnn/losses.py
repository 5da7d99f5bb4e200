"""The five losses of Mask R-CNN (two of the RPN, three of the heads) and Matterport's weight decay. All are scalars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

LOSSES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
_SMALLEST = 1e-7


def _masked_mean(values: Any, mask: Any) -> Any:
    """Mean of `values` where `mask` (broadcastable) holds; 0 if it holds nowhere."""
    mask = ops.cast(mask, values.dtype) * ops.ones_like(values)
    return ops.sum(values * mask) / ops.maximum(ops.sum(mask), 1.0)


def smooth_l1(target: Any, prediction: Any) -> Any:
    """Elementwise smooth L1: half the square below 1, the distance less a half above."""
    distance = ops.abs(target - prediction)
    return ops.where(distance < 1.0, 0.5 * ops.square(distance), distance - 0.5)


def rpn_class_loss(match: Any, logits: Any) -> Any:
    """Cross-entropy of anchors: match (B, A) with 1, -1, 0 (ignored); logits (B, A, 2)."""
    labels = ops.cast(ops.equal(match, 1), "int32")
    loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return _masked_mean(loss, ops.not_equal(match, 0))


def rpn_bbox_loss(target: Any, match: Any, deltas: Any) -> Any:
    """Smooth L1 of positive anchors: packed targets (B, M, 4), match (B, A), deltas (B, A, 4)."""
    positive = ops.cast(ops.equal(match, 1), "int32")
    rank = ops.clip(ops.cumsum(positive, axis=1) - 1, 0, target.shape[1] - 1)
    target = ops.take_along_axis(target, rank[..., None], axis=1)
    loss = smooth_l1(ops.cast(target, deltas.dtype), deltas)
    return _masked_mean(loss, positive[..., None])


def mrcnn_class_loss(target_ids: Any, logits: Any, active_ids: Any) -> Any:
    """Cross-entropy of ROIs.

    Args:
        target_ids: int (B, T); padding counts as background.
        logits: (B, T, classes).
        active_ids: (classes,), 1 for classes of the image's data set; ROIs whose best class is not active are left out.
    """
    loss = keras.losses.sparse_categorical_crossentropy(target_ids, logits, from_logits=True)
    active = ops.take(ops.cast(active_ids, "float32"), ops.argmax(logits, axis=2), axis=0)
    return ops.sum(loss * active) / ops.maximum(ops.sum(active), 1.0)


def mrcnn_bbox_loss(target_deltas: Any, target_ids: Any, deltas: Any) -> Any:
    """Smooth L1 of positive ROIs, each on its own class's deltas: (B, T, 4), (B, T), (B, T, classes, 4)."""
    deltas = ops.take_along_axis(deltas, ops.cast(target_ids, "int32")[..., None, None], axis=2)[:, :, 0]
    loss = smooth_l1(target_deltas, deltas)
    return _masked_mean(loss, (target_ids > 0)[..., None])


def mrcnn_mask_loss(target_masks: Any, target_ids: Any, has_mask: Any, masks: Any) -> Any:
    """Binary cross-entropy of positive ROIs that have a mask, each on its own class's mask.

    Shapes: target masks (B, P, h, w), ids and has-mask (B, P), predicted probabilities (B, P, h, w, classes).
    """
    index = ops.cast(target_ids, "int32")[..., None, None, None]
    index = index + ops.zeros_like(masks[..., :1], dtype="int32")
    predicted = ops.clip(ops.take_along_axis(masks, index, axis=4)[..., 0], _SMALLEST, 1 - _SMALLEST)
    loss = -(target_masks * ops.log(predicted) + (1 - target_masks) * ops.log(1 - predicted))
    counted = ops.logical_and(target_ids > 0, has_mask)
    return _masked_mean(loss, counted[..., None, None])


def weight_decay(weights: Sequence[Any], rate: float) -> Any:
    """Matterport's regulariser: `rate` times the mean square, over all trainable tensors but BN scales and shifts."""
    decayed = [w for w in weights if w.name not in ("gamma", "beta")]
    return sum((rate * ops.mean(ops.square(w)) for w in decayed), ops.convert_to_tensor(0.0))
