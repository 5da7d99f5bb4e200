"""Ours against Matterport's own package, stage by stage: images, anchors, boxes, ROI align, masks, targets, losses."""

from __future__ import annotations

import golden_files as golden
import numpy as np
import pytest
from keras import ops

from unmask_tf.mrcnn import boxes, losses
from unmask_tf.mrcnn.anchors import backbone_shapes, normalized_anchors, pyramid_anchors
from unmask_tf.mrcnn.detections import detection_layer, normalized_windows, paste_mask
from unmask_tf.mrcnn.fit import make_optimizer
from unmask_tf.mrcnn.ground_truth import load_ground_truth
from unmask_tf.mrcnn.image import Placement, mold_inputs, resize_image, resize_masks
from unmask_tf.mrcnn.roi_align import PyramidROIAlign
from unmask_tf.mrcnn.rpn import proposal_layer
from unmask_tf.mrcnn.targets import build_rpn_targets, detection_target_layer, expand_masks, minimize_masks


@pytest.fixture
def facts() -> dict:
    return golden.facts()


IMAGE_CASES = [pytest.param(i, id=f"{c['mode']}-{c['height']}x{c['width']}-{c['min_dim']}-{c['max_dim']}-low{c['low']}")
               for i, c in enumerate(golden.facts()["images"])]  # fmt: skip


def _image_case(number: int):
    case = golden.facts()["images"][number]
    image = golden.weights.picture(case["seed"], case["height"], case["width"], case["low"], case["high"])
    config = golden.config(
        IMAGE_RESIZE_MODE=case["mode"],
        IMAGE_MIN_DIM=case["min_dim"],
        IMAGE_MAX_DIM=case["max_dim"],
        IMAGE_MIN_SCALE=case["min_scale"],
    )
    return case, image, config, golden.arrays("images")


@pytest.mark.parametrize("number", IMAGE_CASES)
def test_resized_image_and_placement_are_matterports(number: int) -> None:
    case, image, config, stored = _image_case(number)
    canvas, placement = resize_image(image, config)
    assert list(canvas.shape) == case["shape"]
    assert list(placement.window) == case["window"]
    assert placement.scale == case["scale"]
    assert [list(pair) for pair in placement.padding] == case["padding"]
    rows = canvas[case["first_row"] :: case["row_step"]]
    np.testing.assert_array_equal(rows, stored[f"resized_{number}"])


@pytest.mark.parametrize("number", IMAGE_CASES)
def test_molded_image_and_meta_are_matterports(number: int) -> None:
    _, image, config, stored = _image_case(number)
    molded, metas, _ = mold_inputs([image], config)
    np.testing.assert_array_equal(metas[0], stored[f"meta_{number}"])
    np.testing.assert_array_equal(molded[0, 60:70:3], stored[f"molded_{number}"])


def test_resizing_to_twice_the_size_is_exact() -> None:
    # At scale 2 every weight is a multiple of 1/16, so that float64 interpolates without rounding.
    _, image, config, _ = _image_case(0)
    canvas, _ = resize_image(image, config)
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    position = np.arange(128) / 2 + 0.75  # (i + 0.5) / 2 - 0.5, and 1 for the padding
    low, part = np.floor(position).astype(int), position % 1
    rows = padded[low] * (1 - part)[:, None, None] + padded[low + 1] * part[:, None, None]
    exact = rows[:, low] * (1 - part)[:, None] + rows[:, low + 1] * part[:, None]
    np.testing.assert_array_equal(canvas, np.maximum(exact, image.min()).astype(np.uint8))


def test_mean_pixel_is_matterports(facts: dict) -> None:
    assert list(golden.config().MEAN_PIXEL) == facts["mean_pixel"]


@pytest.mark.parametrize("number", range(len(golden.facts()["anchors"])))
def test_anchors_and_pyramid_shapes_are_matterports(number: int) -> None:
    case, stored = golden.facts()["anchors"][number], golden.arrays("anchors")
    config = golden.config(RPN_ANCHOR_SCALES=tuple(case["scales"]), RPN_ANCHOR_STRIDE=case["anchor_stride"])
    assert backbone_shapes(config, case["shape"]).tolist() == case["backbone_shapes"]
    raw = pyramid_anchors(config, case["shape"])
    assert len(raw) == case["count"]
    np.testing.assert_allclose(raw[:: case["step"]], stored[f"raw_{number}"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(raw.sum(axis=0), case["sum"])
    normalised = normalized_anchors(config, case["shape"])
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised[:: case["step"]], stored[f"normalised_{number}"], rtol=0, atol=1e-7)


def test_box_arithmetic_is_matterports() -> None:
    stored = golden.arrays("anchors")
    given, others = stored["boxes"], stored["others"]
    np.testing.assert_allclose(boxes.iou_matrix(given, others), stored["iou"], atol=1e-6)
    np.testing.assert_allclose(boxes.decode_deltas(given, stored["deltas"]), stored["applied"], rtol=1e-6, atol=1e-4)
    paired = others[np.arange(len(given)) % len(others)]
    np.testing.assert_allclose(boxes.encode_deltas(given, paired), stored["refinement"], rtol=1e-5, atol=1e-6)
    normalised = boxes.normalize(given, (100, 150))
    np.testing.assert_array_equal(normalised, stored["normalised"])
    np.testing.assert_array_equal(boxes.denormalize(normalised * np.float32(0.9), (100, 150)), stored["denormalised"])


@pytest.mark.parametrize(("pool", "step"), [(7, 1), (14, 4)])
def test_roi_align_is_matterports_on_all_levels(pool: int, step: int) -> None:
    stored = golden.arrays("roi_align")
    pyramid = [stored[f"map_{level}"] for level in (2, 3, 4, 5)]
    canvas = np.zeros((1, 1024, 1024, 3), np.float32)  # only its size is read
    pooled = np.asarray(PyramidROIAlign(pool)([stored["boxes"], canvas, *pyramid]))
    expected = stored[f"pooled_{pool}"]
    np.testing.assert_allclose(pooled.reshape(1, -1, *pooled.shape[1:])[:, ::step], expected, atol=1e-4)


def test_boxes_and_mini_masks_are_matterports(facts: dict) -> None:
    case, stored = facts["masks"], golden.arrays("masks")
    shape, count = tuple(case["shape"]), case["count"]
    masks = golden.masks_of(case["seed"], *shape, count, case["single_pixel"])
    tight = boxes.from_masks(masks)
    np.testing.assert_array_equal(tight, stored["boxes"])
    np.testing.assert_array_equal(boxes.from_masks(np.zeros((*shape, 1), bool)), stored["empty_box"])
    mini = minimize_masks(tight, masks, (56, 56))
    np.testing.assert_array_equal(mini, golden.bits(stored["mini"], (56, 56, count)))
    np.testing.assert_array_equal(minimize_masks(tight, masks, (14, 14)), golden.bits(stored["small"], (14, 14, count)))
    np.testing.assert_array_equal(expand_masks(tight, mini, shape), golden.bits(stored["expanded"], (*shape, count)))


def test_pasted_masks_are_matterports(facts: dict) -> None:
    stored, shape = golden.arrays("masks"), tuple(facts["masks"]["shape"])
    expected = golden.bits(stored["unmolded"], (*shape, len(stored["soft"])))
    for index, (soft, box) in enumerate(zip(stored["soft"], stored["unmold_boxes"], strict=True)):
        np.testing.assert_array_equal(paste_mask(soft, box, shape), expected[..., index], err_msg=f"mask {index}")


@pytest.mark.parametrize("scale", [1.28, 0.64, 2])
def test_resized_masks_are_matterports(facts: dict, scale: float) -> None:
    case, stored = facts["masks"], golden.arrays("masks")
    masks = golden.masks_of(case["seed"], *case["shape"], case["count"], case["single_pixel"])
    padding = tuple(tuple(pair) for pair in case["padding"])
    resized = resize_masks(masks, Placement((0, 0, 0, 0), scale, padding))
    expected = golden.bits(stored[f"resized_{scale}"], tuple(case["resized_shapes"][str(scale)]))
    np.testing.assert_array_equal(resized, expected)


class _OnePicture:
    """A data set of one seeded picture, as `load_ground_truth` reads it."""

    def __init__(self, case: dict) -> None:
        self.image = golden.weights.picture(case["picture_seed"], case["height"], case["width"])
        self.ids = np.array(case["class_ids"], np.int32)
        self.masks = golden.masks_of(case["mask_seed"], *self.image.shape[:2], len(self.ids), case["single_pixel"])

    def load_image(self, index: int) -> np.ndarray:
        return self.image

    def load_instances(self, index: int) -> tuple[np.ndarray, ...]:
        return self.ids, boxes.from_masks(self.masks), self.masks, np.ones(len(self.ids), bool)


@pytest.mark.parametrize("number", [0, 1], ids=["enlarged", "shrunk-so-that-a-part-vanishes"])
def test_ground_truth_on_the_canvas_is_matterports(facts: dict, number: int) -> None:
    case, stored = facts["ground_truth"][number], golden.arrays("ground_truth")
    picture, config = _OnePicture(case), golden.config()
    truth = load_ground_truth(picture, 0, config)
    expected = stored[f"class_ids_{number}"]
    assert len(expected) == len(case["class_ids"]) - number
    np.testing.assert_array_equal(truth.class_ids, expected)
    np.testing.assert_array_equal(truth.boxes, stored[f"boxes_{number}"])
    np.testing.assert_array_equal(truth.masks, golden.bits(stored[f"mini_{number}"], (56, 56, len(expected))))
    np.testing.assert_array_equal(truth.image[:: case["row_step"]], stored[f"image_{number}"])


@pytest.mark.parametrize("number", range(len(golden.facts()["rpn_targets"])),
                         ids=[c["name"] for c in golden.facts()["rpn_targets"]])  # fmt: skip
def test_rpn_targets_are_matterports_draw_by_draw(number: int) -> None:
    case, stored = golden.facts()["rpn_targets"][number], golden.arrays("rpn_targets")
    name = case["name"]
    config = golden.config(RPN_TRAIN_ANCHORS_PER_IMAGE=case["budget"], RPN_ANCHOR_SCALES=tuple(case["anchor_scales"]))
    anchors = pyramid_anchors(config, (*case["shape"], 3))
    match, deltas = build_rpn_targets(
        anchors, stored[name + "_ids"], stored[name + "_boxes"], config, np.random.RandomState(case["seed"])
    )
    expected = stored[name + "_match"]
    different = np.flatnonzero(match != expected)
    assert different.size == 0, f"anchors {different[:10]}: ours {match[different][:10]}, {expected[different][:10]}"
    np.testing.assert_allclose(deltas[: case["positive"]], stored[name + "_deltas"], atol=1e-9)
    assert not deltas[case["positive"] :].any()


def _sorted_rows(rois: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    return np.lexsort(np.concatenate([rois.T, (class_ids == 0)[None]]))


@pytest.mark.parametrize("case", golden.facts()["detection_targets"]["cases"], ids=lambda case: case["name"])
def test_detection_targets_are_matterports(case: dict) -> None:
    stored, name = golden.arrays("detection_targets"), case["name"]
    config = golden.config(USE_MINI_MASK=case["use_mini"], TRAIN_ROIS_PER_IMAGE=case["budget"])
    full = golden.masks_of(case["mask_seed"], 128, 128, 4)
    source = minimize_masks(stored["boxes"], full, (56, 56)) if case["use_mini"] else full
    gt_boxes, gt_masks = np.zeros((6, 4), np.float32), np.zeros((*source.shape[:2], 6), bool)
    gt_boxes[:4], gt_masks[..., :4] = boxes.normalize(stored["boxes"], (128, 128)), source
    # The layer draws as many negatives as fit from the proposals: give it enough padding to draw from.
    proposals = np.zeros((200, 4), np.float32)
    proposals[:40] = stored[name + "_proposals"]
    rois, ids, deltas, masks, has_mask = (
        np.asarray(x)[0]
        for x in detection_target_layer(config)(
            (proposals[None], stored[name + "_ids"][None], gt_boxes[None], gt_masks[None], np.ones((1, 6), bool))
        )
    )
    rows = np.flatnonzero((rois != 0).any(axis=1))
    assert len(rows) == case["filled"]
    order = rows[_sorted_rows(rois[rows], ids[rows])]
    np.testing.assert_allclose(rois[order], stored[name + "_rois"], atol=1e-7)
    np.testing.assert_array_equal(ids[order], stored[name + "_class_ids"])
    positive = order[: case["positive"]]
    assert has_mask[positive].all()
    np.testing.assert_allclose(deltas[positive], stored[name + "_deltas"], atol=2e-4)
    np.testing.assert_array_equal(masks[positive], golden.bits(stored[name + "_masks"], (len(positive), 28, 28)))


@pytest.mark.parametrize(("positives", "filled"), [(int(n), count) for n, count in
                         golden.facts()["detection_targets"]["filled_by_positives"].items()])  # fmt: skip
def test_number_of_sampled_negatives_is_matterports(positives: int, filled: int) -> None:
    config = golden.config(USE_MINI_MASK=False, IMAGE_MAX_DIM=64)
    far = np.tile(np.array([0.6, 0.6, 0.9, 0.9], np.float32), (300, 1))
    near = np.tile(np.array([0.1, 0.1, 0.4, 0.4], np.float32), (positives, 1))
    rois = detection_target_layer(config)(
        (
            np.concatenate([near, far])[None],
            np.ones((1, 1), np.int32),
            np.array([[[0.1, 0.1, 0.4, 0.4]]], np.float32),
            np.ones((1, 8, 8, 1), bool),
            np.ones((1, 1), bool),
        )
    )[0]
    assert int((np.asarray(rois)[0] != 0).any(axis=1).sum()) == filled


@pytest.mark.parametrize("name", ["usual", "no_positive"])
def test_losses_are_matterports(facts: dict, name: str) -> None:
    given, expected = dict(golden.arrays("losses")), facts["losses"][name]
    if name == "no_positive":
        given["match"], given["ids"] = np.where(given["match"] > 0, 0, given["match"]), np.zeros_like(given["ids"])
    t = {key: ops.convert_to_tensor(value) for key, value in given.items()}
    match, ids = t["match"][..., 0], t["ids"]
    has_mask = ops.ones_like(ids, dtype="bool")
    ours = {
        "rpn_class_loss": losses.rpn_class_loss(match, t["logits"]),
        "rpn_bbox_loss": losses.rpn_bbox_loss(t["rpn_target"], match, t["rpn_bbox"]),
        "mrcnn_class_loss": losses.mrcnn_class_loss(ids, t["class_logits"], t["active"][0]),
        "mrcnn_bbox_loss": losses.mrcnn_bbox_loss(t["bbox_target"], ids, t["bbox"]),
        "mrcnn_mask_loss": losses.mrcnn_mask_loss(t["mask_target"], ids, has_mask, t["mask"]),
    }
    assert {key: float(value) for key, value in ours.items()} == pytest.approx(expected, abs=1e-5)


def test_optimizer_clips_by_the_norm_over_all_gradients_as_keras_2_does(facts: dict) -> None:
    import keras
    import tensorflow as tf

    case = facts["optimiser"]
    config = golden.config(GRADIENT_CLIP_NORM=case["clipnorm"], LEARNING_MOMENTUM=case["momentum"])
    optimizer = make_optimizer(config, case["lr"])
    first, second = (keras.Variable(np.array(value, np.float32)) for value in case["start"])
    for expected in case["path"]:
        with tf.GradientTape() as tape:
            loss = ops.sum(ops.square(first)) + 3 * ops.sum(ops.square(second))
        optimizer.apply(tape.gradient(loss, [first.value, second.value]), [first, second])
        np.testing.assert_allclose(np.asarray(first.value), expected[0], rtol=1e-5)
        np.testing.assert_allclose(np.asarray(second.value), expected[1], rtol=1e-5)


def test_proposals_of_given_scores_and_deltas_are_matterports() -> None:
    stored, config = golden.arrays("network_square"), golden.config()
    anchors = normalized_anchors(config, (128, 128))
    inputs = [stored["rpn_class"][None], stored["rpn_bbox"][None], anchors[None]]
    proposals = np.asarray(proposal_layer(config, config.POST_NMS_ROIS_INFERENCE)(inputs))[0]
    np.testing.assert_allclose(proposals, stored["proposals"], atol=2e-6)


def test_detections_of_given_scores_and_deltas_are_matterports() -> None:
    stored = golden.arrays("network_square")
    windows = normalized_windows(stored["meta"], (128, 128))
    inputs = (stored["proposals"][None], stored["mrcnn_class"][None], stored["mrcnn_bbox"][None], windows)
    detections = np.asarray(detection_layer(golden.config())(inputs))[0]
    np.testing.assert_array_equal(detections[:, 4], stored["detections"][:, 4])
    np.testing.assert_allclose(detections, stored["detections"], atol=2e-6)
