"""Training of K: ground truth on the canvas, batches by seed, stages, and resuming to the same bits."""

import keras
import numpy as np
import pytest

from unmask_tf.data.part_instances import (
    PartImage,
    PartInstance,
    encode_mask,
    read_part_instances,
    write_part_instances,
)
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.anchors import pyramid_anchors
from unmask_tf.mrcnn.image import mold_image
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.targets import build_rpn_targets
from unmask_tf.mrcnn.train import (
    SCHEDULES,
    GroundTruth,
    Stage,
    epoch_batches,
    load_ground_truth,
    make_optimizer,
    mirror,
    mirrored_class_ids,
    set_trainable,
    training_batch,
)
from unmask_tf.taxonomy import UNMASK

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


def test_the_unmask_taxonomy_mirrors_the_sides_of_vehicles_and_coaches():
    index = {part: i + 1 for i, part in enumerate(UNMASK.parts)}
    assert mirrored_class_ids(UNMASK) == {
        index["vehicle_left"]: index["vehicle_right"],
        index["vehicle_right"]: index["vehicle_left"],
        index["coach_left"]: index["coach_right"],
        index["coach_right"]: index["coach_left"],
    }


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


def same_batches(first, second):
    return all((a[name] == b[name]).all() for a, b in zip(first, second, strict=True) for name in a)


def test_an_epochs_batches_are_a_function_of_seed_and_epoch(truths, anchors, tiny_config):
    def batches(seed, epoch):
        return list(epoch_batches(truths, tiny_config(SEED=seed), epoch, anchors))

    np.random.seed(1)
    first = batches(100, 3)
    np.random.seed(2)
    np.random.uniform(size=7)
    assert same_batches(first, batches(100, 3))
    assert not same_batches(first, batches(100, 4))
    assert not same_batches(first, batches(101, 3))


def test_a_slow_consumer_gets_the_same_batches(truths, anchors, tiny_config):
    config, slow = tiny_config(IMAGES_PER_GPU=1), []
    for batch in epoch_batches(truths, config, 0, anchors):
        np.random.uniform(size=1000).sort()
        slow.append(batch)
    assert len(slow) == 4
    assert same_batches(slow, list(epoch_batches(truths, config, 0, anchors)))


def which(image, truths, config):
    """(number, mirrored) of a molded image."""
    for number, truth in enumerate(truths):
        for mirrored, pixels in enumerate((truth.image, truth.image[:, ::-1])):
            if (mold_image(pixels, config) == image).all():
                return number, bool(mirrored)
    raise AssertionError("the image is none of the data set's")


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(truths, anchors, config):
    orders = []
    for epoch in range(4):
        batches = epoch_batches(truths, config, epoch, anchors)
        orders.append([which(image, truths, config)[0] for batch in batches for image in batch["input_image"]])
        assert sorted(orders[-1]) == [0, 1, 2, 3]
    assert len({tuple(order) for order in orders}) > 1


def test_an_incomplete_last_batch_is_left_out(truths, anchors, tiny_config):
    config = tiny_config(IMAGES_PER_GPU=3)
    assert [len(batch["input_image"]) for batch in epoch_batches(truths, config, 0, anchors)] == [3]


def test_mirrored_images_come_with_swapped_sides_and_about_half_are_mirrored(truths, anchors, config):
    counts = {True: 0, False: 0}
    for epoch in range(8):
        for batch in epoch_batches(truths, config, epoch, anchors):
            for row, image in enumerate(batch["input_image"]):
                number, mirrored = which(image, truths, config)
                counts[mirrored] += 1
                expected = mirror(truths[number], config) if mirrored else truths[number]
                sides = (RIGHT_SIDE, LEFT_SIDE) if mirrored else (LEFT_SIDE, RIGHT_SIDE)
                assert expected.class_ids[0] == sides[number % 2]
                used = len(expected.class_ids)
                assert batch["input_gt_class_ids"][row, :used].tolist() == expected.class_ids.tolist()
                np.testing.assert_array_equal(batch["input_gt_masks"][row, ..., :used], expected.masks)
    assert counts[True] + counts[False] == 32
    assert 8 <= counts[True] <= 24


def test_an_error_while_preparing_a_batch_reaches_the_trainer(truths, config):
    with pytest.raises(IndexError):
        list(epoch_batches(truths, config, 0, np.zeros((3, 0))))


# --- stages ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(config, tmp_path_factory):
    return MaskRCNN("training", config, tmp_path_factory.mktemp("stages")).keras_model


def trainable(graph):
    set_of = set()
    for layer in graph.layers:
        for inner in layer.layers if isinstance(layer, keras.Model) else [layer]:
            if inner.trainable_variables:
                set_of.add(inner.name)
    return set_of


@pytest.mark.parametrize(
    ("layers", "frozen"),
    [
        ("heads", ("conv1", "bn_conv1", "res2", "bn2", "res3", "bn3", "res4", "bn4", "res5", "bn5")),
        ("5+", ("conv1", "bn_conv1", "res2", "bn2", "res3", "bn3", "res4", "bn4")),
        ("4+", ("conv1", "bn_conv1", "res2", "bn2", "res3", "bn3")),
        ("3+", ("conv1", "bn_conv1", "res2", "bn2")),
        ("all", ()),
    ],
)
def test_a_stage_trains_exactly_its_layers(graph, layers, frozen):
    set_trainable(graph, "all")
    every = trainable(graph)
    assert {
        "conv1",
        "bn_conv1",
        "res4b_branch2c",
        "fpn_p2",
        "rpn_conv_shared",
        "mrcnn_mask",
        "mrcnn_class_bn1",
    } <= every
    count = set_trainable(graph, layers)
    assert trainable(graph) == {name for name in every if not name.startswith(frozen or ("none",))}
    assert count == len(trainable(graph))
    set_trainable(graph, "all")
    assert trainable(graph) == every, "a stage can be undone"


def test_a_stage_may_be_a_regular_expression(graph):
    assert set_trainable(graph, r"rpn_.*|mrcnn_mask") == 4
    assert trainable(graph) == {"rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred", "mrcnn_mask"}


def test_a_stage_without_layers_is_refused_with_the_choices(graph):
    with pytest.raises(InputError, match=r"'haeds'.*heads, 3\+, 4\+, 5\+, all"):
        set_trainable(graph, "haeds")


def test_the_paper_trains_heads_then_stage_4_and_up_then_all_at_a_tenth():
    assert SCHEDULES["paper"] == (Stage("heads", 20, 1e-3), Stage("4+", 32, 1e-3), Stage("all", 40, 1e-4))


def test_gradients_are_clipped_by_their_global_norm_and_gather_momentum(tiny_config):
    optimizer = make_optimizer(tiny_config(OPTIMIZER="sgd"), 0.1)
    weights = [keras.Variable([0.0]), keras.Variable([0.0])]
    # The norm of (30, 40) is 50: both shrink to a tenth.
    for _ in range(2):
        optimizer.apply([np.array([30.0], np.float32), np.array([40.0], np.float32)], weights)
    # First step .1 * (3, 4), the second adds .9 of it.
    np.testing.assert_allclose([float(w.value[0]) for w in weights], [-0.3 * 2.9, -0.4 * 2.9], rtol=1e-5)


def test_the_optimizer_is_matterports_sgd_unless_adam_is_asked_for(tiny_config):
    sgd, adam = (make_optimizer(tiny_config(OPTIMIZER=name), 0.01) for name in ("sgd", "adam"))
    assert isinstance(sgd, keras.optimizers.SGD) and float(sgd.momentum) == 0.9
    assert isinstance(adam, keras.optimizers.Adam)
    assert float(sgd.learning_rate) == float(adam.learning_rate) == pytest.approx(0.01)
