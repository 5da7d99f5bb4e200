"""All box arithmetic of model K.

Every box is (y1, x1, y2, x2). *Pixel* boxes are half-open: (y2, x2) lies outside the box. *Normalised* boxes divide by
the image's side minus one and are closed, so that a box over the whole image is (0, 0, 1, 1).

Functions take `xp`, an array namespace: `numpy` or `keras.ops`. The formula is written once for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def normalize(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixel boxes (..., 4) on an image of `shape` (height, width) to normalised float32 boxes."""
    height, width = shape
    scale = np.array([height - 1, width - 1, height - 1, width - 1])
    shift = np.array([0, 0, 1, 1])
    return np.divide(boxes - shift, scale).astype(np.float32)


def denormalize(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Normalised boxes (..., 4) to pixel boxes, rounded to int32."""
    height, width = shape
    scale = np.array([height - 1, width - 1, height - 1, width - 1])
    shift = np.array([0, 0, 1, 1])
    return np.around(np.multiply(boxes, scale) + shift).astype(np.int32)


def area(boxes: Array) -> Array:
    """Areas (...) of boxes (..., 4), in squared units of the boxes."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou_matrix(boxes: Array, others: Array, xp: Any = np) -> Array:
    """Intersection over union of every pair: boxes (..., N, 4) and others (..., M, 4) to (..., N, M).

    Pairs whose union is empty have IoU 0.
    """
    first, second = boxes[..., :, None, :], others[..., None, :, :]
    height = xp.minimum(first[..., 2], second[..., 2]) - xp.maximum(first[..., 0], second[..., 0])
    width = xp.minimum(first[..., 3], second[..., 3]) - xp.maximum(first[..., 1], second[..., 1])
    intersection = xp.maximum(height, 0) * xp.maximum(width, 0)
    union = area(first) + area(second) - intersection
    return xp.where(union > 0, intersection / xp.where(union > 0, union, 1), 0.0)


def encode_deltas(boxes: Array, targets: Array, xp: Any = np) -> Array:
    """Regression targets (dy, dx, log dh, log dw) that move `boxes` (..., 4) onto `targets` (..., 4).

    Boxes and targets must have positive height and width.
    """
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    target_height, target_width = targets[..., 2] - targets[..., 0], targets[..., 3] - targets[..., 1]
    center_y, center_x = boxes[..., 0] + 0.5 * height, boxes[..., 1] + 0.5 * width
    target_y, target_x = targets[..., 0] + 0.5 * target_height, targets[..., 1] + 0.5 * target_width
    return xp.stack(
        [
            (target_y - center_y) / height,
            (target_x - center_x) / width,
            xp.log(target_height / height),
            xp.log(target_width / width),
        ],
        axis=-1,
    )


def decode_deltas(boxes: Array, deltas: Array, xp: Any = np) -> Array:
    """Moves `boxes` (..., 4) by `deltas` (dy, dx, log dh, log dw) of the same shape."""
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    center_y = boxes[..., 0] + 0.5 * height + deltas[..., 0] * height
    center_x = boxes[..., 1] + 0.5 * width + deltas[..., 1] * width
    height, width = height * xp.exp(deltas[..., 2]), width * xp.exp(deltas[..., 3])
    y1, x1 = center_y - 0.5 * height, center_x - 0.5 * width
    return xp.stack([y1, x1, y1 + height, x1 + width], axis=-1)


def clip(boxes: Array, window: Array, xp: Any = np) -> Array:
    """Clips boxes (..., N, 4) to `window` (..., 4), broadcast over N."""
    y1, x1, y2, x2 = (window[..., None, i] for i in range(4))
    return xp.stack(
        [
            xp.maximum(xp.minimum(boxes[..., 0], y2), y1),
            xp.maximum(xp.minimum(boxes[..., 1], x2), x1),
            xp.maximum(xp.minimum(boxes[..., 2], y2), y1),
            xp.maximum(xp.minimum(boxes[..., 3], x2), x1),
        ],
        axis=-1,
    )


def from_masks(masks: np.ndarray) -> np.ndarray:
    """Tight pixel boxes int32 (N, 4) of masks (H, W, N); an empty mask gives (0, 0, 0, 0)."""
    boxes = np.zeros((masks.shape[-1], 4), np.int32)
    for index in range(masks.shape[-1]):
        rows, columns = np.any(masks[:, :, index], axis=1), np.any(masks[:, :, index], axis=0)
        if rows.any():
            y, x = np.flatnonzero(rows), np.flatnonzero(columns)
            boxes[index] = y[0], x[0], y[-1] + 1, x[-1] + 1
    return boxes


def mirror(boxes: np.ndarray, width: int) -> np.ndarray:
    """Pixel boxes (..., 4) in the left-right mirrored image of the given width."""
    mirrored = boxes.copy()
    mirrored[..., 1], mirrored[..., 3] = width - boxes[..., 3], width - boxes[..., 1]
    return mirrored
