"""Which K a weights file belongs to, told from its layer names and shapes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.backbone import RESNETS
from unmask_tf.mrcnn.config import Config, preset
from unmask_tf.mrcnn.weights import read_shapes
from unmask_tf.taxonomy import Taxonomy

# The settings that no file tells (canvas, anchors, thresholds) come from the preset that uses the backbone.
_PRESETS = {"resnet50": "paper", "resnet101": "paper", "resnet_slim": "mini", "mobilenet_v2": "photos", "efficientnet_lite0": "photos"}
# Setting -> the tensor whose last axis has its size.
_WIDTHS = {
    "TOP_DOWN_PYRAMID_SIZE": "fpn_c5p5/kernel",
    "RPN_FEATURES": "rpn_conv_shared/kernel",
    "FPN_CLASSIF_FC_LAYERS_SIZE": "mrcnn_class_conv1/kernel",
    "MASK_FEATURES": "mrcnn_mask_conv1/kernel",
    "NUM_CLASSES": "mrcnn_class_logits/kernel",
}


def read_architecture(path: str | Path) -> dict[str, Any]:
    """Settings of K that its weights decide: BACKBONE, NUM_CLASSES, POOL_SIZE and the layers' widths.

    Args:
        path: a Matterport-layout `.h5`.

    Raises:
        InputError: the file cannot be read, is not a complete K, has an unknown backbone, or its heads do not agree
            on the number of classes.
    """
    shapes = read_shapes(path)
    needed = [*_WIDTHS.values(), "rpn_class_raw/kernel", "mrcnn_bbox_fc/kernel", "mrcnn_mask/kernel"]
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise InputError(
            f"{path} is not a complete Mask R-CNN: {', '.join(missing)} missing. Use weights of a trained K, such as "
            "mask_rcnn_parts_0040.h5."
        )
    settings = {name: int(shapes[tensor][-1]) for name, tensor in _WIDTHS.items()}
    classes = {
        "mrcnn_class_logits": float(settings["NUM_CLASSES"]),
        "mrcnn_bbox_fc": shapes["mrcnn_bbox_fc/kernel"][-1] / 4,
        "mrcnn_mask": float(shapes["mrcnn_mask/kernel"][-1]),
    }
    if len(set(classes.values())) > 1:
        told = ", ".join(f"{layer} {count:g}" for layer, count in classes.items())
        raise InputError(f"the heads of {path} do not agree on the number of classes: {told}. Restore the file.")
    ratios = len(Config.RPN_ANCHOR_RATIOS)
    if shapes["rpn_class_raw/kernel"][-1] != 2 * ratios:
        raise InputError(
            f"{path} has {shapes['rpn_class_raw/kernel'][-1] / 2:g} anchors a cell; {ratios} are supported "
            f"(RPN_ANCHOR_RATIOS {Config.RPN_ANCHOR_RATIOS})."
        )
    settings["POOL_SIZE"] = int(shapes["mrcnn_class_conv1/kernel"][0])
    return {"BACKBONE": _backbone(shapes, path), **settings}


def _backbone(shapes: dict[str, tuple[int, ...]], path: str | Path) -> str:
    if "block_1_expand/kernel" in shapes:
        return "mobilenet_v2"
    if "block1_expand_conv/kernel" in shapes:
        return "efficientnet_lite0"
    blocks = [0, 0, 0, 0]
    for name in shapes:
        if found := re.fullmatch(r"res([2-5])[a-z]_branch2a/kernel", name):
            blocks[int(found[1]) - 2] += 1
    width = shapes.get("conv1/kernel", (0,))[-1]
    for name, known in RESNETS.items():
        if known == (tuple(blocks), width):
            return name
    raise InputError(
        f"{path} has an unknown backbone: {blocks} blocks in stages 2 to 5, conv1 {width} wide. Known are "
        + ", ".join(f"{name} {list(counts)}, {channels} wide" for name, (counts, channels) in RESNETS.items())
        + ", MobileNetV2 and EfficientNet-Lite0."
    )


def config_of_weights(path: str | Path, taxonomy: Taxonomy, canvas: int | None = None, **overrides: Any) -> Config:
    """The configuration that a weights file needs.

    Args:
        path: a Matterport-layout `.h5`.
        taxonomy: names its classes.
        canvas: side of the square canvas in pixels, a multiple of 64; anchors and the image on it scale along. None:
            the backbone's own, 1024 for the full ResNets.
        overrides: further settings.

    Raises:
        InputError: see `read_architecture`; or the classes are not the taxonomy's parts and a background.
    """
    settings = read_architecture(path)
    if settings["NUM_CLASSES"] != len(taxonomy.parts) + 1:
        raise InputError(
            f"{path} has {settings['NUM_CLASSES']} classes with the background, but the taxonomy has "
            f"{len(taxonomy.parts)} parts ({', '.join(taxonomy.parts[:3])}, ...), so {len(taxonomy.parts) + 1} are "
            "needed. Use data and weights of the same parts."
        )
    base = preset(_PRESETS[settings["BACKBONE"]])
    if canvas is not None:
        if canvas < 64 or canvas % 64:
            raise InputError(f"the canvas is {canvas}. Give a multiple of 64, such as 512 or 1024.")
        scale = canvas / base.IMAGE_MAX_DIM
        overrides = {
            "IMAGE_MAX_DIM": canvas,
            "IMAGE_MIN_DIM": round(base.IMAGE_MIN_DIM * scale),
            "RPN_ANCHOR_SCALES": tuple(side * scale for side in base.RPN_ANCHOR_SCALES),
            **overrides,
        }
    return type(base)(**settings, **overrides)
