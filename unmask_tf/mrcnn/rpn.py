"""Region proposal network (RPN): its heads, shared over the pyramid levels, and the proposals made from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.nms import non_max_suppression


def build_rpn(config: Config) -> keras.Model:
    """The RPN of one pyramid level.

    Feature map (B, H, W, TOP_DOWN_PYRAMID_SIZE) to class logits (B, H*W*ratios, 2) (background, object), their softmax,
    and box deltas (B, H*W*ratios, 4) in units of RPN_BBOX_STD_DEV.
    """
    per_cell = len(config.RPN_ANCHOR_RATIOS)
    features = keras.Input((None, None, config.TOP_DOWN_PYRAMID_SIZE), name="input_rpn_feature_map")
    shared = layers.Conv2D(
        config.RPN_FEATURES,
        3,
        strides=config.RPN_ANCHOR_STRIDE,
        padding="same",
        activation="relu",
        name="rpn_conv_shared",
    )(features)
    logits = layers.Conv2D(2 * per_cell, 1, name="rpn_class_raw")(shared)
    logits = layers.Reshape((-1, 2))(logits)
    deltas = layers.Conv2D(4 * per_cell, 1, name="rpn_bbox_pred")(shared)
    deltas = layers.Reshape((-1, 4))(deltas)
    return keras.Model(features, [logits, layers.Activation("softmax")(logits), deltas], name="rpn_model")


@keras.saving.register_keras_serializable(package="unmask_tf")
class ProposalLayer(layers.Layer):
    """Turns RPN outputs into proposals: best scores, deltas applied, clipped, suppressed.

    Call with probabilities (B, A, 2), deltas (B, A, 4) and normalised anchors (B, A, 4); gives normalised proposals
    (B, count, 4), by falling score, zero where fewer.

    Args:
        count: proposals an image (POST_NMS_ROIS_TRAINING or _INFERENCE).
        limit: anchors an image that are looked at, the best (PRE_NMS_LIMIT).
        nms_threshold: IoU above which the lower score falls (RPN_NMS_THRESHOLD).
        box_std_dev: units of the deltas dy, dx, log dh, log dw (RPN_BBOX_STD_DEV).
    """

    def __init__(
        self, count: int, limit: int, nms_threshold: float, box_std_dev: Sequence[float], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.count, self.limit, self.nms_threshold = count, limit, nms_threshold
        self.box_std_dev = tuple(float(unit) for unit in box_std_dev)

    def call(self, inputs: list[Any]) -> Any:
        probabilities, deltas, anchors = (ops.stop_gradient(x) for x in inputs)
        scores, limit = probabilities[..., 1], self.limit
        if scores.shape[1] is not None:
            limit = min(limit, scores.shape[1])
        scores, best = ops.top_k(scores, limit)
        deltas = ops.take_along_axis(deltas, best[..., None], axis=1) * np.asarray(self.box_std_dev, "float32")
        anchors = ops.take_along_axis(anchors, best[..., None], axis=1)
        proposals = box_math.decode_deltas(anchors, deltas, ops)
        proposals = box_math.clip(proposals, ops.convert_to_tensor([[0.0, 0.0, 1.0, 1.0]]), ops)
        indices, kept = non_max_suppression(
            proposals,
            scores,
            ops.ones_like(scores, dtype="bool"),
            max_output=self.count,
            iou_threshold=self.nms_threshold,
        )
        proposals = ops.take_along_axis(proposals, indices[..., None], axis=1)
        return ops.where(kept[..., None], proposals, 0.0)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int, int]:
        return (input_shape[0][0], self.count, 4)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "count": self.count,
            "limit": self.limit,
            "nms_threshold": self.nms_threshold,
            "box_std_dev": list(self.box_std_dev),
        }


def proposal_layer(config: Config, count: int) -> ProposalLayer:
    """The `ProposalLayer` of a configuration, Matterport's `ROI`."""
    return ProposalLayer(count, config.PRE_NMS_LIMIT, config.RPN_NMS_THRESHOLD, config.RPN_BBOX_STD_DEV, name="ROI")
