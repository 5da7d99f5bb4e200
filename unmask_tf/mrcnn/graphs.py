"""K's two graphs, assembled: inference and training. Only wiring lives here."""

from __future__ import annotations

from typing import Any

import keras

from unmask_tf.mrcnn import losses
from unmask_tf.mrcnn.anchors import anchor_layer
from unmask_tf.mrcnn.backbone import build_backbone, feature_pyramid
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.detections import detection_layer
from unmask_tf.mrcnn.heads import class_and_box_head, mask_head
from unmask_tf.mrcnn.losses import LOSSES
from unmask_tf.mrcnn.rpn import build_rpn, proposal_layer
from unmask_tf.mrcnn.targets import detection_target_layer


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
    rois = proposal_layer(config, config.POST_NMS_ROIS_INFERENCE)([probabilities, deltas, anchors])
    class_logits, classes, boxes = class_and_box_head(rois, image, pyramid, config)
    detections = detection_layer(config)([rois, classes, boxes, window])
    masks = mask_head(detections[..., :4], image, pyramid, config)
    outputs = {
        "detections": detections,
        "mrcnn_mask": masks,
        "rois": rois,
        "mrcnn_class_logits": class_logits,
        "mrcnn_class": classes,
        "mrcnn_bbox": boxes,
        "rpn_class": probabilities,
        "rpn_bbox": deltas,
    }
    return without_xla(keras.Model([image, anchors, window], outputs, name="mask_rcnn"))


def without_xla(model: keras.Model) -> keras.Model:
    """TensorFlow's own kernels are faster on the CPU, and the results do not depend on the number of images as much."""
    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False
    return model


@keras.saving.register_keras_serializable(package="unmask_tf")
class TrainingModel(keras.Model):
    """The training graph: its output is the dictionary of the five losses; the fit minimises their weighted sum."""

    config: Config

    def prepare(self, config: Config) -> TrainingModel:
        """Sets the loss weights and the trackers that report each loss; a clone needs it anew."""
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
    """Batches of `ground_truth.training_batch` to the five losses."""
    image = keras.Input(tuple(config.IMAGE_SHAPE), name="input_image")
    active = keras.Input((config.NUM_CLASSES,), name="input_active_class_ids")
    count = config.MAX_GT_INSTANCES
    mask_shape = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else tuple(config.IMAGE_SHAPE[:2])
    anchors = anchor_layer(config, config.IMAGE_SHAPE)
    match = keras.Input((len(anchors.anchors),), dtype="int32", name="input_rpn_match")
    rpn_target = keras.Input((config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), name="input_rpn_bbox")
    gt_ids = keras.Input((count,), dtype="int32", name="input_gt_class_ids")
    gt_boxes = keras.Input((count, 4), name="input_gt_boxes")
    gt_masks = keras.Input((*mask_shape, count), dtype="bool", name="input_gt_masks")
    has_mask = keras.Input((count,), dtype="bool", name="input_gt_has_mask")

    pyramid, logits, probabilities, deltas = _features_and_rpn(image, config)
    proposals = proposal_layer(config, config.POST_NMS_ROIS_TRAINING)([probabilities, deltas, anchors(image)])
    targets = detection_target_layer(config)
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
