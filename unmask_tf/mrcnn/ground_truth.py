"""One annotated image on the network's canvas, and batches of them as the training graph takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unmask_tf.data.part_instances import PartDataset
from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.image import mold_image, resize_image, resize_masks
from unmask_tf.mrcnn.targets import build_rpn_targets, minimize_masks

Augment = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Canvas uint8 (H, W, 3) and masks bool (H, W, N) to the same, changed alike."""


@dataclass(frozen=True)
class GroundTruth:
    """One image on the canvas: uint8 (H, W, 3), class ids (G,), pixel boxes (G, 4), masks (h, w, G), has-mask (G,).

    `active` (NUM_CLASSES,) marks with 1 the classes that the image's source knows; None: all.
    """

    image: np.ndarray
    class_ids: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    has_mask: np.ndarray
    active: np.ndarray | None = None


def load_ground_truth(dataset: PartDataset, index: int, config: Config) -> GroundTruth:
    """Loads an image and its parts onto the network's canvas; parts that vanish in the scaling are dropped."""
    return place_ground_truth(dataset.load_image(index), *dataset.load_instances(index), config)


def place_ground_truth(
    image: np.ndarray,
    class_ids: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray,
    has_mask: np.ndarray,
    config: Config,
    rng: np.random.RandomState | None = None,
    augment: Augment | None = None,
) -> GroundTruth:
    """Puts an image and its instances onto the network's canvas; instances that vanish there are dropped.

    An instance with a mask gets the box of its scaled mask, as Matterport's; a box without a mask is scaled.

    Args:
        image: uint8 (H, W, 3).
        class_ids: (N,).
        boxes: pixel boxes (N, 4); only those without a mask are used.
        masks: bool (H, W, N).
        has_mask: bool (N,).
        rng: places the crop in IMAGE_RESIZE_MODE `crop`.
        augment: changes canvas and masks; a box without a mask passes through it as a filled mask.
    """
    canvas, placement = resize_image(image, config, rng)
    drawn, scaled = resize_masks(masks[..., has_mask], placement), np.zeros((*canvas.shape[:2], len(boxes)), bool)
    scaled[..., has_mask], masks = drawn, scaled
    top, left = placement.window[:2] if placement.crop is None else (-placement.crop[0], -placement.crop[1])
    boxes = np.round(boxes * placement.scale).astype(np.int32) + np.array([top, left, top, left], np.int32)
    boxes[has_mask] = box_math.from_masks(drawn)
    boxes = np.clip(boxes, 0, [canvas.shape[0], canvas.shape[1]] * 2)
    if augment is not None:
        filled = masks.copy()
        for i in np.flatnonzero(~has_mask):
            y1, x1, y2, x2 = boxes[i]
            filled[y1:y2, x1:x2, i] = True
        canvas, filled = augment(canvas, filled)
        boxes, masks = box_math.from_masks(filled), filled & has_mask
    keep = np.flatnonzero(box_math.area(boxes) > 0)
    if config.USE_MINI_MASK:
        masks = minimize_masks(boxes[keep], masks[..., keep], config.MINI_MASK_SHAPE)
    else:
        masks = masks[..., keep]
    return GroundTruth(canvas, class_ids[keep], boxes[keep], masks, has_mask[keep])


def mirror(truth: GroundTruth, config: Config) -> GroundTruth:
    """The left-right mirrored image; sided parts change their class by MIRRORED_CLASS_IDS."""
    return replace(
        truth,
        image=truth.image[:, ::-1],
        class_ids=np.array([config.MIRRORED_CLASS_IDS.get(int(i), int(i)) for i in truth.class_ids], np.int32),
        boxes=box_math.mirror(truth.boxes, truth.image.shape[1]),
        masks=truth.masks[:, ::-1],
    )


def training_batch(
    truths: Sequence[GroundTruth], anchors: np.ndarray, config: Config, rng: np.random.RandomState
) -> dict[str, np.ndarray]:
    """Assembles the inputs of the training graph; parts beyond MAX_GT_INSTANCES are dropped at random."""
    count, most = len(truths), config.MAX_GT_INSTANCES
    canvas = truths[0].image.shape
    mask_shape = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else canvas[:2]
    batch = {
        "input_image": np.zeros((count, *canvas), np.float32),
        "input_active_class_ids": np.ones((count, config.NUM_CLASSES), np.float32),
        "input_rpn_match": np.zeros((count, len(anchors)), np.int32),
        "input_rpn_bbox": np.zeros((count, config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), np.float32),
        "input_gt_class_ids": np.zeros((count, most), np.int32),
        "input_gt_boxes": np.zeros((count, most, 4), np.float32),
        "input_gt_masks": np.zeros((count, *mask_shape, most), bool),
        "input_gt_has_mask": np.zeros((count, most), bool),
    }
    for row, truth in enumerate(truths):
        match, deltas = build_rpn_targets(anchors, truth.class_ids, truth.boxes, config, rng)
        chosen = np.arange(len(truth.class_ids))
        if len(chosen) > most:
            chosen = rng.choice(chosen, most, replace=False)
        used = len(chosen)
        batch["input_image"][row] = mold_image(truth.image, config)
        batch["input_rpn_match"][row], batch["input_rpn_bbox"][row] = match, deltas
        batch["input_gt_class_ids"][row, :used] = truth.class_ids[chosen]
        batch["input_gt_boxes"][row, :used] = box_math.normalize(truth.boxes[chosen], canvas[:2])
        batch["input_gt_masks"][row, ..., :used] = truth.masks[..., chosen]
        batch["input_gt_has_mask"][row, :used] = truth.has_mask[chosen]
        if truth.active is not None:
            batch["input_active_class_ids"][row] = truth.active
    return batch
