"""ROI align over the feature pyramid: TensorFlow's kernel, and a portable twin made of gathers.

Bilinear sampling follows TensorFlow's `crop_and_resize`: a crop's corner samples lie on the box's corners, and
normalised coordinate 1 is the last row or column.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops


def _axis_samples(low: Any, high: Any, size: int, crop: int) -> tuple[Any, Any, Any, Any]:
    """Sampling positions along one axis.

    Args:
        low, high: normalised box edges (..., 1).
        size: rows or columns of the feature map, an int or a float tensor (..., 1).
        crop: samples per box.

    Returns:
        lower index, upper index, weight of the upper one, and "inside the map", each (..., crop).
    """
    steps = ops.arange(crop, dtype="float32")
    last = ops.cast(size, "float32") - 1.0
    if crop > 1:
        position = low * last + steps * ((high - low) * last / (crop - 1))
    else:
        position = 0.5 * (low + high) * last + steps
    inside = ops.logical_and(position >= 0, position <= last)
    position = ops.clip(position, 0.0, last)
    lower = ops.floor(position)
    return ops.cast(lower, "int32"), ops.cast(ops.ceil(position), "int32"), position - lower, inside


def _bilinear(flat: Any, base: Any, columns: Any, y: tuple[Any, ...], x: tuple[Any, ...]) -> Any:
    """Samples rows of `flat` (cells, C) on the grid y (..., h) by x (..., w): (..., h, w, C).

    `base` (..., 1, 1) is the cell of a map's first element, `columns` its width, broadcastable to (..., 1, 1).
    """
    y_low, y_high, y_weight, y_inside = (a[..., :, None] for a in y)
    x_low, x_high, x_weight, x_inside = (a[..., None, :] for a in x)

    def corner(row: Any, column: Any) -> Any:
        return ops.take(flat, base + row * columns + column, axis=0)

    x_weight, y_weight = x_weight[..., None], y_weight[..., None]
    top = corner(y_low, x_low)
    top = top + (corner(y_low, x_high) - top) * x_weight
    bottom = corner(y_high, x_low)
    bottom = bottom + (corner(y_high, x_high) - bottom) * x_weight
    inside = ops.cast(ops.logical_and(y_inside, x_inside), flat.dtype)[..., None]
    return (top + (bottom - top) * y_weight) * inside


def crop_and_resize(images: Any, boxes: Any, size: tuple[int, int]) -> Any:
    """Bilinear crops, one per image: images (N, H, W, C), normalised boxes (N, 4) to (N, *size, C).

    Samples outside the image are 0.
    """
    count, height, width, channels = ops.shape(images)
    flat = ops.reshape(images, (-1, channels))
    base = ops.arange(count, dtype="int32")[:, None, None] * (height * width)
    y = _axis_samples(boxes[:, 0:1], boxes[:, 2:3], height, size[0])
    x = _axis_samples(boxes[:, 1:2], boxes[:, 3:4], width, size[1])
    return _bilinear(flat, base, width, y, x)


def pyramid_level(boxes: Any, image_area: Any) -> Any:
    """Equation 1 of the FPN paper, on normalised boxes (..., 4): level 2..5, int32 (...)."""
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    relative = ops.sqrt(ops.maximum(area, 1e-20)) / (224.0 / ops.sqrt(ops.cast(image_area, "float32")))
    level = 4 + ops.cast(ops.round(ops.log(relative) / math.log(2.0)), "int32")
    return ops.clip(level, 2, 5)


@keras.saving.register_keras_serializable(package="unmask_tf")
class PyramidROIAlign(layers.Layer):
    """Crops each box from the pyramid level that suits its size.

    Call with normalised boxes (B, N, 4), image (B, H, W, 3) (for its size only) and P2..P5; gives
    (B * N, pool, pool, C): boxes of all images in one batch axis, ready for the heads.
    """

    def __init__(self, pool: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool = pool

    def call(self, inputs: list[Any]) -> Any:
        boxes, image, *pyramid = inputs
        boxes = ops.stop_gradient(boxes)
        level = pyramid_level(boxes, ops.shape(image)[1] * ops.shape(image)[2]) - 2
        align = _align_tensorflow if keras.backend.backend() == "tensorflow" else align_portable
        return align(boxes, level, pyramid, self.pool)

    def compute_output_shape(self, input_shape: Any) -> tuple[None, int, int, int]:
        return (None, self.pool, self.pool, input_shape[2][-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pool": self.pool}


def _align_tensorflow(boxes: Any, level: Any, pyramid: list[Any], pool: int) -> Any:
    import tensorflow as tf

    count = tf.shape(boxes)[1]
    boxes, level = tf.reshape(boxes, (-1, 4)), tf.reshape(level, (-1,))
    rows = tf.dynamic_partition(tf.range(tf.shape(level)[0]), level, len(pyramid))
    crops = [
        tf.image.crop_and_resize(features, tf.gather(boxes, chosen), chosen // count, (pool, pool))
        for features, chosen in zip(pyramid, rows, strict=True)
    ]
    return tf.ensure_shape(tf.dynamic_stitch(rows, crops), (None, pool, pool, pyramid[0].shape[-1]))


def align_portable(boxes: Any, level: Any, pyramid: list[Any], pool: int) -> Any:
    """`PyramidROIAlign` in keras.ops: boxes (B, N, 4), level 0..3 (B, N), P2..P5 to (B * N, pool, pool, C)."""
    batch, _, _, channels = ops.shape(pyramid[0])
    heights = [ops.shape(features)[1] for features in pyramid]
    widths = [ops.shape(features)[2] for features in pyramid]
    flat = ops.concatenate([ops.reshape(features, (-1, channels)) for features in pyramid], axis=0)
    starts = [0]
    for height, width in zip(heights[:-1], widths[:-1], strict=True):
        starts.append(starts[-1] + batch * height * width)

    def per_box(values: list[Any]) -> Any:
        return ops.take(ops.stack([ops.cast(value, "int32") for value in values]), level, axis=0)

    height, width = per_box(heights), per_box(widths)
    base = per_box(starts) + ops.arange(batch, dtype="int32")[:, None] * height * width
    y = _axis_samples(boxes[..., 0:1], boxes[..., 2:3], height[..., None], pool)
    x = _axis_samples(boxes[..., 1:2], boxes[..., 3:4], width[..., None], pool)
    crops = _bilinear(flat, base[..., None, None], width[..., None, None], y, x)
    return ops.reshape(crops, (-1, pool, pool, channels))
