"""Reads the golden files of tests/golden: what Matterport's own package answered (see tests/golden/generate.py)."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from unmask_tf.mrcnn import boxes, graphs
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.image import mold_image
from unmask_tf.mrcnn.targets import minimize_masks
from unmask_tf.mrcnn.weights import named_weights

FOLDER = Path(__file__).resolve().parent.parent / "golden"

_spec = importlib.util.spec_from_file_location("golden_weights", FOLDER / "weights.py")
assert _spec is not None
assert _spec.loader is not None
weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights)


@cache
def facts() -> dict[str, Any]:
    """golden.json: cases, scalars, versions."""
    return json.loads((FOLDER / "golden.json").read_text())


@cache
def layouts() -> dict[str, Any]:
    """weights_layout.json: names and shapes in Matterport's weights files, by backbone."""
    return json.loads((FOLDER / "weights_layout.json").read_text())


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """One npz file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def bits(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bool array of the given shape out of packed bits."""
    return np.unpackbits(packed, count=int(np.prod(shape))).astype(bool).reshape(shape)


def config(**overrides: Any) -> Config:
    """The settings under which the golden files were made."""
    settings: dict[str, Any] = {
        "BACKBONE": "resnet50",
        "NUM_CLASSES": 45,
        "IMAGES_PER_GPU": 1,
        "IMAGE_MIN_DIM": 128,
        "IMAGE_MAX_DIM": 128,
        "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128),
        "POST_NMS_ROIS_INFERENCE": 200,
        "DETECTION_MIN_CONFIDENCE": 0.0,
    }
    return Config(**{**settings, **overrides})


def network_config(case: dict[str, Any]) -> Config:
    """The settings of a case of golden.json's `network`."""
    return config(
        BACKBONE=case["backbone"],
        NUM_CLASSES=case["classes"],
        IMAGE_RESIZE_MODE=case["mode"],
        IMAGE_MIN_DIM=case["min_dim"],
        IMAGE_MAX_DIM=case["max_dim"],
        RPN_ANCHOR_SCALES=tuple(case["anchor_scales"]),
        POST_NMS_ROIS_INFERENCE=case["proposals"],
        DETECTION_MIN_CONFIDENCE=case["min_confidence"],
    )


def picture(case: dict[str, Any]) -> np.ndarray:
    """The image of such a case."""
    return weights.picture(case["seed"], case["height"], case["width"])


class _GivenProposals(keras.layers.Layer):
    """Stands in for the RPN's proposals: fixed ROIs (N, 4), so that the losses depend on no tie and no shuffle."""

    def __init__(self, rois: np.ndarray) -> None:
        super().__init__(name="ROI")
        self.rois = rois

    def call(self, inputs: list[Any]) -> Any:
        return keras.ops.convert_to_tensor(self.rois[None])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (input_shape[0][0], *self.rois.shape)


def training_case(name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """The training graph with the reference's ROIs, without weights, and the batch that the reference was given.

    Args:
        name: `train_steps` or `train_steps_deep`.
    """
    case, stored = facts()[name], arrays(name)
    settings = config(
        BACKBONE=case["backbone"],
        NUM_CLASSES=case["classes"],
        TRAIN_ROIS_PER_IMAGE=32,
        POST_NMS_ROIS_TRAINING=200,
        MAX_GT_INSTANCES=3,
    )
    # The target layer draws from at least TRAIN_ROIS_PER_IMAGE proposals: the rest is padding.
    padded = np.zeros((200, 4), np.float32)
    padded[: len(stored["rois"])] = boxes.normalize(stored["rois"], (128, 128))
    original = graphs.proposal_layer
    graphs.proposal_layer = lambda settings, count: _GivenProposals(padded)
    try:
        graph = graphs.build_training_model(settings)
    finally:
        graphs.proposal_layer = original
    masks = masks_of(case["mask_seed"], 128, 128, 3)
    deltas = np.zeros((1, settings.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), np.float32)
    deltas[0, : len(stored["deltas"])] = stored["deltas"]
    batch = {
        "input_image": mold_image(weights.picture(case["picture_seed"], 128, 128), settings)[None],
        "input_active_class_ids": np.ones((1, case["classes"]), np.float32),
        "input_rpn_match": stored["match"][None].astype(np.int32),
        "input_rpn_bbox": deltas,
        "input_gt_class_ids": stored["ids"][None],
        "input_gt_boxes": boxes.normalize(stored["boxes"], (128, 128))[None],
        "input_gt_masks": minimize_masks(stored["boxes"], masks, settings.MINI_MASK_SHAPE)[None],
        "input_gt_has_mask": np.ones((1, 3), bool),
    }
    return graph, batch


def in_their_order(equal: np.ndarray) -> np.ndarray:
    """For each row of theirs the place of its twin among ours, where rows are ordered by a score.

    Rounding may exchange two neighbours whose scores nearly tie; another order is a fault.

    Args:
        equal: bool (theirs, ours): which rows agree within their bounds.
    """
    order = np.arange(len(equal))
    for place in np.flatnonzero(~equal.diagonal()):
        neighbours = [other for other in (place - 1, place + 1) if 0 <= other < len(equal) and equal[place, other]]
        assert neighbours, f"no row of ours near place {place} is row {place} of theirs"
        order[place] = neighbours[0]
    assert sorted(order) == list(range(len(equal)))
    assert (order != np.arange(len(order))).mean() < 0.1
    return order


def rows_equal(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Bool (theirs, ours): which rows agree to 1e-4."""
    return (np.abs(theirs[:, None] - ours[None]) < 1e-4).all(axis=2)


def assert_found(result: dict[str, np.ndarray], name: str) -> None:
    """A result of `detect` is the package's: the same order and classes, boxes within a pixel, masks alike."""
    case = next(case for case in facts()["network"] if case["name"] == name)
    stored = arrays(f"network_{name}")
    assert len(result["scores"]) == len(stored["scores"])
    assert (np.diff(result["scores"]) <= 0).all()
    equal = rows_equal(*(np.stack([rows["class_ids"], rows["scores"]], axis=1) for rows in (stored, result)))
    near = (np.abs(stored["rois"][:, None] - result["rois"][None]) <= 1).all(axis=2)
    order = in_their_order(equal & near)
    assert result["class_ids"][order].tolist() == stored["class_ids"].tolist()
    assert np.abs(result["rois"][order] - stored["rois"]).max() <= 1
    np.testing.assert_allclose(result["scores"][order], stored["scores"], rtol=0, atol=1e-4)
    same_box = (result["rois"][order] == stored["rois"]).all(axis=1)
    assert same_box.mean() > 0.95
    expected = bits(stored["masks"], tuple(case["mask_shape"]))
    assert_masks_alike(result["masks"][..., order][..., same_box], expected[..., same_box])


def assert_masks_alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    """IoU above 0.99 of corresponding masks (H, W, N); of fewer than 100 pixels, one may differ: its probability is
    one half but for rounding.
    """
    wrong, union = (ours ^ theirs).sum(axis=(0, 1)), (ours | theirs).sum(axis=(0, 1))
    assert (wrong < np.maximum(0.01 * union, 1.5)).all(), [(w, u) for w, u in zip(wrong, union, strict=True) if w]


def assert_moved_alike(name: str, stage: str, ours: dict[str, np.ndarray]) -> None:
    """Three training steps changed every weight as they did in the package, by digests of the changes.

    Each of the compared entries agrees to 1e-6, and the whole tensor's change to 5 % of its norm, beyond what rounding
    to float32 takes: of weights near 1, single steps are a few units in the last place.
    """
    expected = dict(zip(facts()[name]["weights"], arrays(name)[f"moved_{stage}"], strict=True))
    assert set(ours) == set(expected)
    for weight, theirs in expected.items():
        least = 5e-6 if weight.endswith(("gamma", "variance")) else 2e-7
        np.testing.assert_allclose(ours[weight][2:], theirs[2:], rtol=0, atol=1e-6, err_msg=weight)
        np.testing.assert_allclose(ours[weight][:2], theirs[:2], rtol=0, atol=0.05 * theirs[0] + least, err_msg=weight)


def seed_weights(model: keras.Model) -> None:
    """Gives every weight of a K graph the seeded value that the reference had."""
    for name, variable in named_weights(model).items():
        layer, kind = name.split("/")
        variable.assign(weights.weight(layer, kind, variable.shape))


def masks_of(seed: int, height: int, width: int, count: int, single_pixel: list[int] | None = None) -> np.ndarray:
    """Seeded instance masks; `single_pixel` (row, column, index) makes one instance a single pixel."""
    masks = weights.blobs(seed, height, width, count)
    if single_pixel is not None:
        row, column, index = single_pixel
        masks[:, :, index] = False
        masks[row, column, index] = True
    return masks
