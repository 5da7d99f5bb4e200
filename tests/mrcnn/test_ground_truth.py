"""An annotated image on the canvas, mirrored, and batches of them."""

import numpy as np
import pytest

from unmask_tf.data.part_instances import (
    PartImage,
    PartInstance,
    encode_mask,
    read_part_instances,
    write_part_instances,
)
from unmask_tf.mrcnn.anchors import pyramid_anchors
from unmask_tf.mrcnn.ground_truth import GroundTruth, load_ground_truth, mirror, training_batch
from unmask_tf.mrcnn.image import mold_image
from unmask_tf.mrcnn.targets import build_rpn_targets

LEFT_SIDE, RIGHT_SIDE, WHEEL = 1, 2, 3


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config()


@pytest.fixture(scope="module")
def truths(parts, config):
    return [load_ground_truth(parts, i, config) for i in range(len(parts))]


@pytest.fixture(scope="module")
def anchors(config):
    return pyramid_anchors(config, config.IMAGE_SHAPE)


# --- ground truth --------------------------------------------------------------------------------------------------


@pytest.fixture
def one_image(tmp_path, taxonomy):
    """Writes an image of one shade with the given instances: (part, box, has a mask)."""

    def make(height, width, *rows):
        from PIL import Image

        Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(tmp_path / "a.png")
        instances = []
        for part, (y1, x1, y2, x2), drawn in rows:
            mask = np.zeros((height, width), bool)
            mask[y1:y2, x1:x2] = True
            instances.append(PartInstance(part, (y1, x1, y2, x2), encode_mask(mask) if drawn else None))
        image = PartImage(tmp_path / "a.png", height, width, tuple(instances))
        write_part_instances(tmp_path / "parts.json", [image], taxonomy)
        return read_part_instances(tmp_path / "parts.json", tmp_path, taxonomy)

    return make


def test_parts_move_with_their_image_onto_the_canvas(one_image, tiny_config):
    # 32x64 pixels fill the canvas's width; 16 rows are padding above and below.
    data = one_image(32, 64, ("wheel", (4, 8, 20, 40), True), ("vehicle_left", (0, 0, 32, 64), False))
    truth = load_ground_truth(data, 0, tiny_config(IMAGE_MIN_DIM=0))
    assert truth.image.shape == (64, 64, 3) and truth.image.dtype == np.uint8
    assert not truth.image[:16].any() and (truth.image[16:48] == 90).all()
    assert truth.class_ids.tolist() == [WHEEL, LEFT_SIDE]
    assert truth.boxes.tolist() == [[20, 8, 36, 40], [16, 0, 48, 64]]
    assert truth.has_mask.tolist() == [True, False]
    assert truth.masks.shape == (14, 14, 2)
    assert truth.masks[..., 0].all() and not truth.masks[..., 1].any()


def test_boxes_scale_with_the_image_with_or_without_a_mask(one_image, tiny_config):
    data = one_image(32, 32, ("wheel", (8, 4, 16, 28), True), ("wheel", (8, 4, 16, 28), False))
    truth = load_ground_truth(data, 0, tiny_config(USE_MINI_MASK=False))
    masked, box_only = truth.boxes
    assert box_only.tolist() == [16, 8, 32, 56]
    # The nearest pixel of a scaled mask may lie one off; the box is tight around it.
    assert np.abs(masked - box_only).max() <= 1
    assert truth.masks.shape == (64, 64, 2)
    assert truth.masks[masked[0] : masked[2], masked[1] : masked[3], 0].all()
    assert truth.masks[..., 0].sum() == (masked[2] - masked[0]) * (masked[3] - masked[1])


def test_parts_that_vanish_in_the_scaling_are_dropped(one_image, tiny_config):
    data = one_image(640, 640, ("wheel", (105, 105, 106, 106), True), ("vehicle_right", (0, 0, 320, 640), True))
    truth = load_ground_truth(data, 0, tiny_config())
    assert truth.class_ids.tolist() == [RIGHT_SIDE]
    assert len(truth.boxes) == len(truth.has_mask) == truth.masks.shape[-1] == 1
    assert truth.boxes[0].tolist() == [0, 0, 32, 64]


def test_a_random_crop_moves_boxes_as_it_moves_masks(one_image, tiny_config):
    data = one_image(100, 120, ("wheel", (30, 40, 60, 80), True), ("wheel", (30, 40, 60, 80), False))
    truth = load_ground_truth(data, 0, tiny_config(IMAGE_RESIZE_MODE="crop"))
    assert truth.boxes[0].tolist() == truth.boxes[1].tolist()


# --- mirroring -----------------------------------------------------------------------------------------------------


def test_mirroring_flips_everything_and_swaps_the_vehicles_sides(truths, config):
    truth = truths[0]  # a vehicle's left side and a wheel
    flipped = mirror(truth, config)
    assert truth.class_ids.tolist() == [LEFT_SIDE, WHEEL] and flipped.class_ids.tolist() == [RIGHT_SIDE, WHEEL]
    assert truth.boxes.tolist() == [[8, 6, 40, 50], [34, 10, 50, 26]]
    assert flipped.boxes.tolist() == [[8, 14, 40, 58], [34, 38, 50, 54]]
    assert (flipped.image == truth.image[:, ::-1]).all()
    assert (flipped.masks == truth.masks[:, ::-1]).all()
    assert (flipped.has_mask == truth.has_mask).all()


def test_masks_are_mirrored_inside_their_boxes(truths, config):
    masks = np.zeros((14, 14, 1), bool)
    masks[:, :5] = True
    truth = GroundTruth(truths[0].image, truths[0].class_ids[:1], truths[0].boxes[:1], masks, np.array([True]))
    flipped = mirror(truth, config).masks
    assert flipped[:, 9:].all() and not flipped[:, :9].any()


def test_mirroring_twice_changes_nothing(truths, config):
    for truth in truths:
        again = mirror(mirror(truth, config), config)
        for name in vars(truth):
            np.testing.assert_array_equal(getattr(again, name), getattr(truth, name), err_msg=name)


def test_as_released_a_mirrored_side_keeps_its_name(truths, tiny_config):
    assert mirror(truths[0], tiny_config(MIRRORED_CLASS_IDS={})).class_ids.tolist() == [LEFT_SIDE, WHEEL]


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_holds_each_images_truth_and_zero_padding(truths, anchors, config):
    batch = training_batch(truths[:2], anchors, config, np.random.RandomState(0))
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "input_image": ((2, 64, 64, 3), "float32"),
        "input_active_class_ids": ((2, 4), "float32"),
        "input_rpn_match": ((2, 1023), "int32"),
        "input_rpn_bbox": ((2, 16, 4), "float32"),
        "input_gt_class_ids": ((2, 4), "int32"),
        "input_gt_boxes": ((2, 4, 4), "float32"),
        "input_gt_masks": ((2, 14, 14, 4), "bool"),
        "input_gt_has_mask": ((2, 4), "bool"),
    }
    assert batch["input_active_class_ids"].all()
    assert batch["input_gt_class_ids"].tolist() == [[LEFT_SIDE, WHEEL, 0, 0], [RIGHT_SIDE, WHEEL, 0, 0]]
    expected = np.array([8, 6, 39, 49]) / 63
    np.testing.assert_allclose(batch["input_gt_boxes"][0, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(batch["input_image"][1], mold_image(truths[1].image, config))
    np.testing.assert_array_equal(batch["input_gt_masks"][1, ..., :2], truths[1].masks)
    for name in ("input_gt_boxes", "input_gt_has_mask"):
        assert not batch[name][:, 2:].any()
    assert not batch["input_gt_masks"][..., 2:].any()
    match, deltas = build_rpn_targets(anchors, truths[0].class_ids, truths[0].boxes, config, np.random.RandomState(0))
    np.testing.assert_array_equal(batch["input_rpn_match"][0], match)
    np.testing.assert_allclose(batch["input_rpn_bbox"][0], deltas, rtol=1e-6)


def test_parts_beyond_the_maximum_are_dropped_at_random_with_all_their_arrays(truths, anchors, tiny_config):
    config = tiny_config(MAX_GT_INSTANCES=3)
    many = GroundTruth(
        truths[0].image,
        np.array([1, 2, 3, 1, 2], np.int32),
        np.array([[i, i, i + 20, i + 20] for i in range(5)]),
        np.stack([np.full((14, 14), i % 2 == 0) for i in range(5)], axis=-1),
        np.array([True, False, True, False, True]),
    )
    kept = set()
    for seed in range(5):
        batch = training_batch([many], anchors, config, np.random.RandomState(seed))
        rows = np.round(batch["input_gt_boxes"][0, :, 0] * 63).astype(int)
        assert len(set(rows)) == 3
        kept.add(tuple(rows))
        np.testing.assert_array_equal(batch["input_gt_class_ids"][0], many.class_ids[rows])
        np.testing.assert_array_equal(batch["input_gt_has_mask"][0], many.has_mask[rows])
        np.testing.assert_array_equal(batch["input_gt_masks"][0], many.masks[..., rows])
    assert len(kept) > 1
