"""Training targets: anchors for the RPN (numpy, in the data loader) and ROIs for the heads (in the graph)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.image import resize_bilinear
from unmask_tf.mrcnn.roi_align import crop_and_resize


def build_rpn_targets(
    anchors: np.ndarray, class_ids: np.ndarray, gt_boxes: np.ndarray, config: Config, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Matches anchors to ground truth.

    An anchor is positive at IoU >= 0.7 with some box, or if it is the (first) best one of a box; negative below 0.3.
    At most half of RPN_TRAIN_ANCHORS_PER_IMAGE are positive; the surplus is dropped at random.

    Args:
        anchors: pixel anchors (A, 4).
        class_ids: (G,); negative ones mark crowds, which no anchor may be trained against.
        gt_boxes: pixel boxes (G, 4).
        rng: decides which surplus anchors are dropped.

    Returns:
        match int32 (A,): 1 positive, -1 negative, 0 neutral; and the deltas float64 (RPN_TRAIN_ANCHORS_PER_IMAGE, 4) of
        the positive anchors in order, in units of RPN_BBOX_STD_DEV, zero-padded.
    """
    limit = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    match = np.zeros(len(anchors), np.int32)
    deltas = np.zeros((limit, 4))
    crowd = class_ids < 0
    no_crowd = np.ones(len(anchors), bool)
    if crowd.any():
        no_crowd = box_math.iou_matrix(anchors, gt_boxes[crowd]).max(axis=1) < 0.001
        gt_boxes = gt_boxes[~crowd]

    if len(gt_boxes):
        overlaps = box_math.iou_matrix(anchors, gt_boxes)
        best_box, best_iou = overlaps.argmax(axis=1), overlaps.max(axis=1)
        match[(best_iou < 0.3) & no_crowd] = -1
        match[overlaps.argmax(axis=0)] = 1
        match[best_iou >= 0.7] = 1
    else:
        match[no_crowd] = -1

    for value, allowed in ((1, limit // 2), (-1, None)):
        chosen = np.flatnonzero(match == value)
        surplus = len(chosen) - (limit - np.sum(match == 1) if allowed is None else allowed)
        if surplus > 0:
            match[rng.choice(chosen, surplus, replace=False)] = 0

    positive = np.flatnonzero(match == 1)
    if len(positive):
        encoded = box_math.encode_deltas(anchors[positive], gt_boxes[best_box[positive]].astype(float))
        deltas[: len(positive)] = encoded / np.asarray(config.RPN_BBOX_STD_DEV)
    return match, deltas


def minimize_masks(gt_boxes: np.ndarray, masks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cuts each mask (H, W, G) to its pixel box (G, 4) and scales it to `shape`: bool (*shape, G).

    Raises:
        ValueError: a box is empty.
    """
    small = np.zeros((*shape, masks.shape[-1]), bool)
    for index, (y1, x1, y2, x2) in enumerate(gt_boxes[:, :4]):
        cut = masks[y1:y2, x1:x2, index].astype(float)
        if cut.size == 0:
            raise ValueError(f"the box {(y1, x1, y2, x2)} of mask {index} is empty")
        if cut.any():
            small[:, :, index] = np.around(resize_bilinear(cut[..., None], *shape)[..., 0])
    return small


def expand_masks(gt_boxes: np.ndarray, small: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of `minimize_masks`, up to resampling: bool (H, W, G)."""
    masks = np.zeros((*shape, small.shape[-1]), bool)
    for index, (y1, x1, y2, x2) in enumerate(gt_boxes[:, :4]):
        resized = resize_bilinear(small[:, :, index].astype(float)[..., None], y2 - y1, x2 - x1)[..., 0]
        masks[y1:y2, x1:x2, index] = np.around(resized)
    return masks


@keras.saving.register_keras_serializable(package="unmask_tf")
class DetectionTargetLayer(layers.Layer):
    """Samples ROIs for the heads and builds their targets.

    Call with proposals (B, N, 4), gt class ids (B, G), normalised gt boxes (B, G, 4), gt masks (B, h, w, G; cut to the
    boxes with `mini_masks`) and has-mask flags (B, G). Zero rows are padding; negative class ids are crowds.

    Gives, with T = `count` and P = int(T * `positive_ratio`):
        rois (B, T, 4) normalised, the P slots for positives first;
        class ids int32 (B, T), 0 for negatives and padding;
        deltas (B, T, 4) in units of `box_std_dev`;
        masks (B, P, *mask_shape) of 0 and 1; and has-mask (B, P).

    Args:
        count: ROIs an image (TRAIN_ROIS_PER_IMAGE).
        positive_ratio: share of them that are positive (ROI_POSITIVE_RATIO).
        box_std_dev: units of the deltas (BBOX_STD_DEV).
        mask_shape: (height, width) of a mask target (MASK_SHAPE).
        mini_masks: the gt masks are cut to their boxes (USE_MINI_MASK).
        seed: of the sampling (SEED).
    """

    def __init__(
        self,
        count: int,
        positive_ratio: float,
        box_std_dev: Sequence[float],
        mask_shape: Sequence[int],
        mini_masks: bool,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.count, self.positive_ratio, self.mini_masks, self.seed = count, positive_ratio, mini_masks, seed
        self.box_std_dev = tuple(float(unit) for unit in box_std_dev)
        self.mask_shape = (int(mask_shape[0]), int(mask_shape[1]))
        self.positives = int(count * positive_ratio)
        self.seed_generator = keras.random.SeedGenerator(seed)

    def sample_from(self, draw: int) -> None:
        """Lets the next call sample as the call number `draw` (0 is the first) of a new layer would."""
        state = self.seed_generator.state
        state.assign(np.array([self.seed, draw], state.dtype))

    def call(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        proposals, class_ids, gt_boxes, gt_masks, has_mask = (ops.stop_gradient(x) for x in inputs)
        total, positives = self.count, self.positives
        class_ids = ops.cast(class_ids, "int32")

        iou = box_math.iou_matrix(proposals, gt_boxes, ops)
        object_iou = ops.where((class_ids > 0)[:, None], iou, 0.0)
        crowd_iou = ops.max(ops.where((class_ids < 0)[:, None], iou, 0.0), axis=2)
        best_iou = ops.max(object_iou, axis=2)
        real = ops.any(proposals != 0, axis=2)
        positive = ops.logical_and(best_iou >= 0.5, real)
        negative = ops.logical_and(ops.logical_and(best_iou < 0.5, crowd_iou < 0.001), real)

        priority = keras.random.uniform(ops.shape(best_iou), minval=0.01, maxval=1.0, seed=self.seed_generator)
        positive_rank, positive_index = ops.top_k(ops.where(positive, priority, 0.0), positives)
        negative_rank, negative_index = ops.top_k(ops.where(negative, priority, 0.0), total - positives)
        positive_valid = positive_rank > 0
        count = ops.sum(ops.cast(positive_valid, "float32"), axis=1, keepdims=True)
        # Multiplied by the reciprocal, as Matterport does: in float32, 66 / 0.33 falls below 200.
        negative_count = ops.floor(count * (1.0 / self.positive_ratio)) - count
        slots = ops.arange(total - positives, dtype="float32")[None]
        negative_valid = ops.logical_and(negative_rank > 0, slots < negative_count)

        def select(values: Any, index: Any) -> Any:
            return ops.take_along_axis(values, index[..., None], axis=1)

        positive_rois = select(proposals, positive_index)
        best = ops.cast(ops.argmax(select(object_iou, positive_index), axis=2), "int32")
        matched_boxes = select(gt_boxes, best)
        matched_ids = ops.where(positive_valid, ops.take_along_axis(class_ids, best, axis=1), 0)

        unit = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])
        some = positive_valid[..., None]
        safe_rois, safe_boxes = ops.where(some, positive_rois, unit), ops.where(some, matched_boxes, unit)
        deltas = box_math.encode_deltas(safe_rois, safe_boxes, ops) / np.asarray(self.box_std_dev, "float32")

        masks = self._mask_targets(gt_masks, best, safe_rois, safe_boxes)
        masks = ops.where(some[..., None], masks, 0.0)
        has_mask = ops.logical_and(ops.take_along_axis(ops.cast(has_mask, "bool"), best, axis=1), positive_valid)

        negative_rois = ops.where(negative_valid[..., None], select(proposals, negative_index), 0.0)
        rois = ops.concatenate([ops.where(some, positive_rois, 0.0), negative_rois], axis=1)
        padding = ((0, 0), (0, total - positives))
        return rois, ops.pad(matched_ids, padding), ops.pad(deltas, (*padding, (0, 0))), masks, has_mask

    def _mask_targets(self, gt_masks: Any, best: Any, rois: Any, matched_boxes: Any) -> Any:
        """The part of each matched mask that the ROI sees: (B, P, *mask_shape) of 0 and 1."""
        masks = ops.transpose(ops.cast(gt_masks, "float32"), (0, 3, 1, 2))
        masks = ops.take_along_axis(masks, best[..., None, None], axis=1)
        height, width = masks.shape[2], masks.shape[3]
        windows = rois
        if self.mini_masks:
            origin, span = matched_boxes[..., :2], matched_boxes[..., 2:] - matched_boxes[..., :2]
            windows = ops.concatenate([(rois[..., :2] - origin) / span, (rois[..., 2:] - origin) / span], axis=-1)
        crops = crop_and_resize(
            ops.reshape(masks, (-1, height, width, 1)), ops.reshape(windows, (-1, 4)), self.mask_shape
        )
        return ops.round(ops.reshape(crops, (-1, self.positives, *self.mask_shape)))

    def compute_output_shape(self, input_shape: Any) -> list[tuple[int | None, ...]]:
        batch, total = input_shape[0][0], self.count
        return [
            (batch, total, 4),
            (batch, total),
            (batch, total, 4),
            (batch, self.positives, *self.mask_shape),
            (batch, self.positives),
        ]

    def compute_output_spec(self, inputs: Any) -> tuple[Any, ...]:
        shapes = self.compute_output_shape([x.shape for x in inputs])
        types = ("float32", "int32", "float32", "float32", "bool")
        return tuple(keras.KerasTensor(shape, dtype) for shape, dtype in zip(shapes, types, strict=True))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "count": self.count,
            "positive_ratio": self.positive_ratio,
            "box_std_dev": list(self.box_std_dev),
            "mask_shape": list(self.mask_shape),
            "mini_masks": self.mini_masks,
            "seed": self.seed,
        }


def detection_target_layer(config: Config) -> DetectionTargetLayer:
    """The `DetectionTargetLayer` of a configuration."""
    return DetectionTargetLayer(
        config.TRAIN_ROIS_PER_IMAGE,
        config.ROI_POSITIVE_RATIO,
        config.BBOX_STD_DEV,
        config.MASK_SHAPE,
        config.USE_MINI_MASK,
        config.SEED,
        name="proposal_targets",
    )
