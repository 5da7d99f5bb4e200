"""The heads of K on ROI features: class and box head, mask head. ROIs of all images share one batch axis."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from unmask_tf.mrcnn.backbone import BatchNorm
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.roi_align import PyramidROIAlign


def _bn_relu(x: Any, name: str, train_bn: bool | None) -> Any:
    return layers.Activation("relu")(BatchNorm(train_bn, name=name)(x))


def class_and_box_head(rois: Any, image: Any, pyramid: list[Any], config: Config) -> tuple[Any, Any, Any]:
    """Classifies and refines ROIs.

    Args:
        rois: normalised boxes (B, N, 4).
        image: molded image, for its size.
        pyramid: P2..P5.

    Returns:
        class logits (B, N, classes), probabilities of the same shape, deltas (B, N, classes, 4) in units of
        BBOX_STD_DEV.
    """
    count, classes = rois.shape[1], config.NUM_CLASSES
    x = PyramidROIAlign(config.POOL_SIZE, name="roi_align_classifier")([rois, image, *pyramid])
    x = layers.Conv2D(config.FPN_CLASSIF_FC_LAYERS_SIZE, config.POOL_SIZE, name="mrcnn_class_conv1")(x)
    x = _bn_relu(x, "mrcnn_class_bn1", config.TRAIN_BN)
    x = layers.Conv2D(config.FPN_CLASSIF_FC_LAYERS_SIZE, 1, name="mrcnn_class_conv2")(x)
    x = _bn_relu(x, "mrcnn_class_bn2", config.TRAIN_BN)
    shared = layers.Flatten()(x)
    logits = layers.Dense(classes, name="mrcnn_class_logits")(shared)
    deltas = layers.Dense(4 * classes, name="mrcnn_bbox_fc")(shared)
    logits = ops.reshape(logits, (-1, count, classes))
    return logits, ops.softmax(logits), ops.reshape(deltas, (-1, count, classes, 4))


def mask_head(rois: Any, image: Any, pyramid: list[Any], config: Config) -> Any:
    """Masks of ROIs: normalised boxes (B, N, 4) to probabilities (B, N, *MASK_SHAPE, classes)."""
    count = rois.shape[1]
    x = PyramidROIAlign(config.MASK_POOL_SIZE, name="roi_align_mask")([rois, image, *pyramid])
    for index in range(1, 5):
        x = layers.Conv2D(config.MASK_FEATURES, 3, padding="same", name=f"mrcnn_mask_conv{index}")(x)
        x = _bn_relu(x, f"mrcnn_mask_bn{index}", config.TRAIN_BN)
    x = layers.Conv2DTranspose(config.MASK_FEATURES, 2, strides=2, activation="relu", name="mrcnn_mask_deconv")(x)
    x = layers.Conv2D(config.NUM_CLASSES, 1, activation="sigmoid", name="mrcnn_mask")(x)
    side = 2 * config.MASK_POOL_SIZE
    return ops.reshape(x, (-1, count, side, side, config.NUM_CLASSES))
