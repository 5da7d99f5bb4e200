"""Anchors of the feature pyramid (Matterport's order: level, row, column, ratio)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

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
    return _all_levels(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, shapes, config.BACKBONE_STRIDES, config.RPN_ANCHOR_STRIDE
    )


def _all_levels(
    scales: Sequence[float], ratios: Sequence[float], shapes: Any, strides: Sequence[int], anchor_stride: int
) -> np.ndarray:
    levels = zip(scales, shapes, strides, strict=True)
    return np.concatenate(
        [level_anchors(scale, ratios, shape, stride, anchor_stride) for scale, shape, stride in levels]
    )


def normalized_anchors(config: Config, image_shape: Sequence[int]) -> np.ndarray:
    """Normalised anchors of all levels: float32 (anchors, 4)."""
    return boxes.normalize(pyramid_anchors(config, image_shape), (image_shape[0], image_shape[1]))


@keras.saving.register_keras_serializable(package="unmask_tf")
class AnchorLayer(layers.Layer):
    """The normalised anchors of a canvas of fixed size, for every image of a batch.

    Call with any tensor (B, ...); gives (B, anchors, 4).

    Args:
        scales: square root of an anchor's area at each level, pixels.
        ratios: width over height.
        shapes: (rows, columns) of each level.
        strides: pixels from one cell to the next at each level.
        anchor_stride: cells from one anchor to the next.
        canvas: (height, width), pixels.
    """

    def __init__(
        self,
        scales: Sequence[float],
        ratios: Sequence[float],
        shapes: Sequence[Sequence[int]],
        strides: Sequence[int],
        anchor_stride: int,
        canvas: Sequence[int],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.settings = {
            "scales": list(scales),
            "ratios": list(ratios),
            "shapes": [[int(side) for side in shape] for shape in shapes],
            "strides": list(strides),
            "anchor_stride": anchor_stride,
            "canvas": [int(side) for side in canvas],
        }
        pixels = _all_levels(scales, ratios, shapes, strides, anchor_stride)
        self.anchors = boxes.normalize(pixels, (int(canvas[0]), int(canvas[1])))

    def call(self, inputs: Any) -> Any:
        return ops.broadcast_to(ops.convert_to_tensor(self.anchors)[None], (ops.shape(inputs)[0], *self.anchors.shape))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int, int]:
        return (input_shape[0], *self.anchors.shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.settings}


def anchor_layer(config: Config, canvas: Sequence[int]) -> AnchorLayer:
    """The `AnchorLayer` of a configuration and a canvas (height, width, ...)."""
    return AnchorLayer(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        backbone_shapes(config, canvas),
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
        canvas[:2],
        name="anchors",
    )
