"""From class scores and deltas to detections, on the canvas and back in the image's own pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.image import resize_bilinear
from unmask_tf.mrcnn.nms import non_max_suppression


class DetectionLayer(layers.Layer):
    """Keeps the best detections: each ROI's best class, its box refined and clipped to the image's window, suppressed
    within each class.

    Call with ROIs (B, N, 4), probabilities (B, N, classes), deltas (B, N, classes, 4) and normalised windows (B, 4).
    Gives (B, DETECTION_MAX_INSTANCES, 6): y1, x1, y2, x2 (normalised), class index, score; zero where there are fewer.
    With DROP_EMPTY_ROIS boxes without area never count, so that padded ROIs cannot crowd out real ones.
    """

    def __init__(self, config: Config, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config

    def call(self, inputs: tuple[Any, Any, Any, Any]) -> Any:
        rois, probabilities, deltas, window = (ops.stop_gradient(x) for x in inputs)
        classes = ops.cast(ops.argmax(probabilities, axis=-1), "int32")
        scores = ops.max(probabilities, axis=-1)
        deltas = ops.take_along_axis(deltas, classes[..., None, None], axis=2)[:, :, 0]
        refined = box_math.decode_deltas(rois, deltas * np.asarray(self.config.BBOX_STD_DEV, "float32"), ops)
        refined = box_math.clip(refined, window, ops)

        valid = classes > 0
        if self.config.DROP_EMPTY_ROIS:
            valid = ops.logical_and(valid, box_math.area(refined) > 0)
        if self.config.DETECTION_MIN_CONFIDENCE:
            valid = ops.logical_and(valid, scores >= self.config.DETECTION_MIN_CONFIDENCE)
        indices, kept = non_max_suppression(
            refined,
            scores,
            valid,
            max_output=self.config.DETECTION_MAX_INSTANCES,
            iou_threshold=self.config.DETECTION_NMS_THRESHOLD,
            classes=classes,
        )
        detections = ops.concatenate([refined, ops.cast(classes, "float32")[..., None], scores[..., None]], axis=-1)
        detections = ops.take_along_axis(detections, indices[..., None], axis=1)
        return ops.where(kept[..., None], detections, 0.0)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int, int]:
        return (input_shape[0][0], self.config.DETECTION_MAX_INSTANCES, 6)


def normalized_windows(metas: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Windows of the images on their canvas, from metas (B, IMAGE_META_SIZE): normalised float32 (B, 4)."""
    return box_math.normalize(metas[:, 7:11], canvas)


def unmold_boxes(
    detections: np.ndarray, original: tuple[int, int], canvas: tuple[int, int], window: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Moves one image's detections (K, 6) from the canvas to the image's pixels.

    Returns:
        pixel boxes int32 (D, 4), and the detections' row numbers (D,); rows without class or area are left out.
    """
    count = np.flatnonzero(detections[:, 4] == 0)
    rows = np.arange(count[0] if count.size else detections.shape[0])
    y1, x1, y2, x2 = box_math.normalize(np.asarray(window), canvas)
    shift, scale = np.array([y1, x1, y1, x1]), np.array([y2 - y1, x2 - x1, y2 - y1, x2 - x1])
    boxes = box_math.denormalize((detections[rows, :4] - shift) / scale, original)
    keep = box_math.area(boxes) > 0
    return boxes[keep], rows[keep]


def paste_mask(mask: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pastes a small mask of probabilities (h, w) into its pixel box: bool (H, W), true from 0.5."""
    y1, x1, y2, x2 = (int(v) for v in box)
    resized = resize_bilinear(mask[..., None], y2 - y1, x2 - x1)[..., 0]
    full = np.zeros(shape, bool)
    full[y1:y2, x1:x2] = resized >= 0.5
    return full
