"""Model K: Matterport's Mask R-CNN, assembled. Only wiring lives here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.mrcnn import losses
from unmask_tf.mrcnn.anchors import normalized_anchors
from unmask_tf.mrcnn.backbone import build_backbone, feature_pyramid
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.detections import DetectionLayer, normalized_windows, paste_mask, unmold_boxes
from unmask_tf.mrcnn.heads import class_and_box_head, mask_head
from unmask_tf.mrcnn.image import mold_inputs
from unmask_tf.mrcnn.rpn import ProposalLayer, build_rpn
from unmask_tf.mrcnn.targets import DetectionTargetLayer

LOSSES = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")


def _features_and_rpn(image: Any, config: Config) -> tuple[list[Any], Any, Any, Any]:
    """P2..P5, and the RPN's logits, probabilities and deltas over all levels."""
    pyramid = feature_pyramid(build_backbone(image, config), config.TOP_DOWN_PYRAMID_SIZE)
    rpn = build_rpn(config)
    levels = [rpn(level) for level in pyramid]
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    logits, probabilities, deltas = (
        keras.layers.Concatenate(axis=1, name=name)(list(parts))
        for name, parts in zip(names, zip(*levels, strict=True), strict=True)
    )
    return pyramid[:4], logits, probabilities, deltas


def build_inference_model(config: Config) -> keras.Model:
    """Image (B, H, W, 3), anchors (B, A, 4) and windows (B, 4) to detections, masks and inner outputs, by name."""
    shape = tuple(config.IMAGE_SHAPE) if config.IMAGE_RESIZE_MODE in ("square", "crop") else (None, None, 3)
    image = keras.Input(shape, name="input_image")
    anchors = keras.Input((None, 4), name="input_anchors")
    window = keras.Input((4,), name="input_window")
    pyramid, _, probabilities, deltas = _features_and_rpn(image, config)
    rois = ProposalLayer(config, config.POST_NMS_ROIS_INFERENCE, name="ROI")([probabilities, deltas, anchors])
    _, classes, boxes = class_and_box_head(rois, image, pyramid, config)
    detections = DetectionLayer(config, name="mrcnn_detection")([rois, classes, boxes, window])
    masks = mask_head(detections[..., :4], image, pyramid, config)
    outputs = {
        "detections": detections,
        "mrcnn_mask": masks,
        "rois": rois,
        "mrcnn_class": classes,
        "mrcnn_bbox": boxes,
        "rpn_class": probabilities,
        "rpn_bbox": deltas,
    }
    return keras.Model([image, anchors, window], outputs, name="mask_rcnn")


class TrainingModel(keras.Model):
    """The training graph: its output is the dictionary of the five losses; the fit minimises their weighted sum."""

    config: Config

    def prepare(self, config: Config) -> TrainingModel:
        """Sets the loss weights and the trackers that report each loss."""
        self.config = config
        self.trackers = {name: keras.metrics.Mean(name=name) for name in LOSSES}
        return self

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        total = losses.weight_decay(self.trainable_variables, self.config.WEIGHT_DECAY)
        for name in LOSSES:
            self.trackers[name].update_state(y_pred[name])
            total = total + self.config.LOSS_WEIGHTS[name] * y_pred[name]
        return total


def build_training_model(config: Config) -> TrainingModel:
    """Batches of `train.training_batch` to the five losses."""
    image = keras.Input(tuple(config.IMAGE_SHAPE), name="input_image")
    active = keras.Input((config.NUM_CLASSES,), name="input_active_class_ids")
    count = config.MAX_GT_INSTANCES
    mask_shape = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else tuple(config.IMAGE_SHAPE[:2])
    anchors = normalized_anchors(config, config.IMAGE_SHAPE)
    match = keras.Input((len(anchors),), dtype="int32", name="input_rpn_match")
    rpn_target = keras.Input((config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), name="input_rpn_bbox")
    gt_ids = keras.Input((count,), dtype="int32", name="input_gt_class_ids")
    gt_boxes = keras.Input((count, 4), name="input_gt_boxes")
    gt_masks = keras.Input((*mask_shape, count), dtype="bool", name="input_gt_masks")
    has_mask = keras.Input((count,), dtype="bool", name="input_gt_has_mask")

    pyramid, logits, probabilities, deltas = _features_and_rpn(image, config)
    proposal_layer = ProposalLayer(config, config.POST_NMS_ROIS_TRAINING, anchors, name="ROI")
    proposals = proposal_layer([probabilities, deltas])
    targets = DetectionTargetLayer(config, name="proposal_targets")
    rois, ids, target_deltas, target_masks, target_has_mask = targets([proposals, gt_ids, gt_boxes, gt_masks, has_mask])
    class_logits, _, boxes = class_and_box_head(rois, image, pyramid, config)
    # Only positives have a mask loss, and they come first: the mask head needs no other ROI.
    masks = mask_head(rois[:, : targets.positives], image, pyramid, config)
    outputs = {
        "rpn_class_loss": losses.rpn_class_loss(match, logits),
        "rpn_bbox_loss": losses.rpn_bbox_loss(rpn_target, match, deltas),
        "mrcnn_class_loss": losses.mrcnn_class_loss(ids, class_logits, active[0]),
        "mrcnn_bbox_loss": losses.mrcnn_bbox_loss(target_deltas, ids, boxes),
        "mrcnn_mask_loss": losses.mrcnn_mask_loss(target_masks, ids[:, : targets.positives], target_has_mask, masks),
    }
    inputs = {
        tensor.name: tensor for tensor in (image, active, match, rpn_target, gt_ids, gt_boxes, gt_masks, has_mask)
    }
    return TrainingModel(inputs, outputs, name="mask_rcnn").prepare(config)


class MaskRCNN:
    """Mask R-CNN with Matterport's interface.

    Args:
        mode: `training` or `inference`.
        config: the network's settings.
        model_dir: where training writes logs and checkpoints.
    """

    def __init__(self, mode: str, config: Config, model_dir: str | Path) -> None:
        if mode not in ("training", "inference"):
            raise InputError(f"mode is '{mode}'. Choose 'training' or 'inference'.")
        self.mode, self.config, self.model_dir = mode, config, Path(model_dir)
        self.keras_model = build_training_model(config) if mode == "training" else build_inference_model(config)
        self._anchors: dict[tuple[int, ...], np.ndarray] = {}
        self._detector: keras.Model | None = None

    def load_weights(self, path: str | Path, by_name: bool = True, exclude: Sequence[str] = ()) -> dict[str, list[str]]:
        """Loads weights; see `weights.load_weights`."""
        from unmask_tf.mrcnn.weights import load_weights

        return load_weights(self.keras_model, path, exclude=exclude)

    def anchors(self, shape: Sequence[int]) -> np.ndarray:
        """Normalised anchors float32 (A, 4) of a canvas (height, width, ...), computed once per size."""
        key = tuple(int(v) for v in shape[:2])
        if key not in self._anchors:
            self._anchors[key] = normalized_anchors(self.config, key)
        return self._anchors[key]

    def _inputs(self, images: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[tuple[int, int, int, int]]]:
        if self.mode != "inference":
            raise InputError("detection needs a model built with mode='inference'.")
        molded, metas, placements = mold_inputs(images, self.config)
        anchors = np.broadcast_to(self.anchors(molded.shape[1:]), (len(images), *self.anchors(molded.shape[1:]).shape))
        windows = normalized_windows(metas, molded.shape[1:3])
        return [molded, np.ascontiguousarray(anchors), windows], [p.window for p in placements]

    def detect(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Detects objects in RGB uint8 images, each (H, W, 3); any batch size.

        Returns:
            Per image: `rois` int32 (D, 4) pixel boxes, `class_ids` int32 (D,), `scores` float32 (D,), `masks` bool
            (H, W, D).
        """
        inputs, windows = self._inputs(images)
        out = self.keras_model.predict_on_batch(inputs)
        detections, masks = np.asarray(out["detections"]), np.asarray(out["mrcnn_mask"])
        results = []
        for index, image in enumerate(images):
            boxes, rows = unmold_boxes(detections[index], image.shape[:2], inputs[0].shape[1:3], windows[index])
            ids = detections[index, rows, 4].astype(np.int32)
            pasted = [
                paste_mask(masks[index, row, :, :, class_id], box, image.shape[:2])
                for row, class_id, box in zip(rows, ids, boxes, strict=True)
            ]
            results.append(
                {
                    "rois": boxes,
                    "class_ids": ids,
                    "scores": detections[index, rows, 5],
                    "masks": np.stack(pasted, axis=-1) if pasted else np.zeros((*image.shape[:2], 0), bool),
                }
            )
        return results

    def detect_boxes(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """As `detect`, without masks: the mask head and the pasting are never run."""
        if self._detector is None:
            self._detector = keras.Model(self.keras_model.inputs, self.keras_model.output["detections"])
        inputs, windows = self._inputs(images)
        detections = np.asarray(self._detector.predict_on_batch(inputs))
        results = []
        for index, image in enumerate(images):
            boxes, rows = unmold_boxes(detections[index], image.shape[:2], inputs[0].shape[1:3], windows[index])
            results.append(
                {
                    "rois": boxes,
                    "class_ids": detections[index, rows, 4].astype(np.int32),
                    "scores": detections[index, rows, 5],
                }
            )
        return results
