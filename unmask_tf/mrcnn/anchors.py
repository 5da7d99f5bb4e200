"""Anchors of the feature pyramid (Matterport's order: level, row, column, ratio)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unmask_tf.mrcnn import boxes
from unmask_tf.mrcnn.config import Config


def backbone_shapes(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """Heights and widths of the pyramid levels P2..P6: int (levels, 2)."""
    if callable(config.BACKBONE) and config.COMPUTE_BACKBONE_SHAPE is not None:
        return np.asarray(config.COMPUTE_BACKBONE_SHAPE(image_shape))
    return np.array([[math.ceil(image_shape[0] / s), math.ceil(image_shape[1] / s)] for s in config.BACKBONE_STRIDES])


def level_anchors(
    scale: float, ratios: Sequence[float], shape: Sequence[int], feature_stride: int, anchor_stride: int
) -> np.ndarray:
    """Pixel anchors of one level: float (rows * columns * ratios, 4).

    Args:
        scale: square root of an anchor's area, pixels.
        ratios: width over height.
        shape: (rows, columns) of the level.
        feature_stride: pixels from one cell to the next.
        anchor_stride: cells from one anchor to the next.
    """
    ratios = np.asarray(ratios, float)
    heights, widths = scale / np.sqrt(ratios), scale * np.sqrt(ratios)
    y = np.arange(0, shape[0], anchor_stride) * feature_stride
    x = np.arange(0, shape[1], anchor_stride) * feature_stride
    center_y, center_x = (grid[..., None] for grid in np.meshgrid(y, x, indexing="ij"))
    anchors = np.stack(
        np.broadcast_arrays(
            center_y - 0.5 * heights, center_x - 0.5 * widths, center_y + 0.5 * heights, center_x + 0.5 * widths
        ),
        axis=-1,
    )
    return anchors.reshape(-1, 4)


def pyramid_anchors(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """Pixel anchors of all levels: float64 (anchors, 4)."""
    shapes = backbone_shapes(config, image_shape)
    return np.concatenate(
        [
            level_anchors(scale, config.RPN_ANCHOR_RATIOS, shape, stride, config.RPN_ANCHOR_STRIDE)
            for scale, shape, stride in zip(config.RPN_ANCHOR_SCALES, shapes, config.BACKBONE_STRIDES, strict=True)
        ]
    )


def normalized_anchors(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """Normalised anchors of all levels: float32 (anchors, 4)."""
    return boxes.normalize(pyramid_anchors(config, image_shape), (image_shape[0], image_shape[1]))
