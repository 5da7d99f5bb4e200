"""From class scores and deltas to detections, on the canvas and back in the image's own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.image import resize_bilinear
from unmask_tf.mrcnn.nms import non_max_suppression


@keras.saving.register_keras_serializable(package="unmask_tf")
class DetectionLayer(layers.Layer):
    """Keeps the best detections: an ROI's best class, its box refined and clipped to the image's window, suppressed
    within each class. Matterport detects so; with `per_class` every class of an ROI is a detection of its own, with
    its own box, as in Fast R-CNN (Girshick, 2015), where the background has the highest score too.

    Call with ROIs (B, N, 4), probabilities (B, N, classes), deltas (B, N, classes, 4) and normalised windows (B, 4).
    Gives (B, count, 6): y1, x1, y2, x2 (normalised), class index, score; zero where there are fewer.

    Args:
        count: detections an image (DETECTION_MAX_INSTANCES).
        min_confidence: least score of a detection; 0: any (DETECTION_MIN_CONFIDENCE).
        nms_threshold: IoU above which the lower score of one class falls (DETECTION_NMS_THRESHOLD).
        box_std_dev: units of the deltas (BBOX_STD_DEV).
        drop_empty: boxes without area never count, so that padded ROIs cannot crowd out real ones (DROP_EMPTY_ROIS).
        per_class: see above (PER_CLASS_DETECTIONS). The image's `6 * count` highest scores enter the suppression.
    """

    def __init__(
        self,
        count: int,
        min_confidence: float,
        nms_threshold: float,
        box_std_dev: Sequence[float],
        drop_empty: bool = False,
        per_class: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.count, self.min_confidence, self.nms_threshold = count, min_confidence, nms_threshold
        self.box_std_dev, self.drop_empty = tuple(float(unit) for unit in box_std_dev), drop_empty
        self.per_class = per_class

    def call(self, inputs: tuple[Any, Any, Any, Any]) -> Any:
        rois, probabilities, deltas, window = (ops.stop_gradient(x) for x in inputs)
        candidates = self._every_class if self.per_class else self._best_class
        rois, classes, scores, deltas = candidates(rois, probabilities, deltas)
        refined = box_math.decode_deltas(rois, deltas * np.asarray(self.box_std_dev, "float32"), ops)
        refined = box_math.clip(refined, window, ops)

        valid = classes > 0
        if self.drop_empty:
            valid = ops.logical_and(valid, box_math.area(refined) > 0)
        if self.min_confidence:
            valid = ops.logical_and(valid, scores >= self.min_confidence)
        indices, kept = non_max_suppression(
            refined,
            scores,
            valid,
            max_output=self.count,
            iou_threshold=self.nms_threshold,
            classes=classes,
        )
        detections = ops.concatenate([refined, ops.cast(classes, "float32")[..., None], scores[..., None]], axis=-1)
        detections = ops.take_along_axis(detections, indices[..., None], axis=1)
        return ops.where(kept[..., None], detections, 0.0)

    def _best_class(self, rois: Any, probabilities: Any, deltas: Any) -> tuple[Any, Any, Any, Any]:
        """ROIs (B, N, 4), their classes and scores (B, N), and the deltas of the classes (B, N, 4)."""
        classes = ops.cast(ops.argmax(probabilities, axis=-1), "int32")
        deltas = ops.take_along_axis(deltas, classes[..., None, None], axis=2)[:, :, 0]
        return rois, classes, ops.max(probabilities, axis=-1), deltas

    def _every_class(self, rois: Any, probabilities: Any, deltas: Any) -> tuple[Any, Any, Any, Any]:
        """The same of the (ROI, class) pairs with the highest scores, background left out."""
        count, classes = probabilities.shape[1:]
        scores = ops.reshape(probabilities[..., 1:], (-1, count * (classes - 1)))
        scores, pairs = ops.top_k(scores, min(scores.shape[1], 6 * self.count))
        pairs = ops.cast(pairs, "int32")
        which, class_ids = pairs // (classes - 1), pairs % (classes - 1) + 1
        deltas = ops.reshape(deltas, (-1, count * classes, 4))
        deltas = ops.take_along_axis(deltas, (which * classes + class_ids)[..., None], axis=1)
        return ops.take_along_axis(rois, which[..., None], axis=1), class_ids, scores, deltas

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int, int]:
        return (input_shape[0][0], self.count, 6)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "count": self.count,
            "min_confidence": self.min_confidence,
            "nms_threshold": self.nms_threshold,
            "box_std_dev": list(self.box_std_dev),
            "drop_empty": self.drop_empty,
            "per_class": self.per_class,
        }


def detection_layer(config: Config) -> DetectionLayer:
    """The `DetectionLayer` of a configuration."""
    return DetectionLayer(
        config.DETECTION_MAX_INSTANCES,
        config.DETECTION_MIN_CONFIDENCE,
        config.DETECTION_NMS_THRESHOLD,
        config.BBOX_STD_DEV,
        config.DROP_EMPTY_ROIS,
        config.PER_CLASS_DETECTIONS,
        name="mrcnn_detection",
    )


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


def box_results(
    detections: np.ndarray,
    shapes: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    windows: Sequence[tuple[int, int, int, int]],
) -> list[dict[str, np.ndarray]]:
    """Detections (B, K, 6) on the canvas, in each image's own pixels.

    Args:
        shapes: (height, width) of each image.
        windows: its place on the canvas, pixels.

    Returns:
        Per image: `rois` int32 (D, 4) pixel boxes, `class_ids` int32 (D,), `scores` float32 (D,).
    """
    results = []
    for found, shape, window in zip(detections, shapes, windows, strict=True):
        boxes, rows = unmold_boxes(found, shape, canvas, window)
        results.append({"rois": boxes, "class_ids": found[rows, 4].astype(np.int32), "scores": found[rows, 5]})
    return results


def paste_mask(mask: np.ndarray, box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pastes a small mask of probabilities (h, w) into its pixel box: bool (H, W), true from 0.5."""
    y1, x1, y2, x2 = (int(v) for v in box)
    resized = resize_bilinear(mask[..., None], y2 - y1, x2 - x1)[..., 0]
    full = np.zeros(shape, bool)
    full[y1:y2, x1:x2] = resized >= 0.5
    return full
