"""Batches by epoch: every image once, half of them mirrored, the same whenever they are asked for."""

from pathlib import Path

import numpy as np
import pytest
from shapes_dataset import Shapes

from unmask_tf.data.part_instances import PartDataset, PartImage, PartInstance
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.anchors import pyramid_anchors
from unmask_tf.mrcnn.ground_truth import GroundTruth, load_ground_truth, mirror, place_ground_truth, training_batch
from unmask_tf.mrcnn.image import mold_image
from unmask_tf.mrcnn.samples import Loaded, Passes, Ready, rare_repeats
from unmask_tf.taxonomy import Taxonomy

LEFT_SIDE, RIGHT_SIDE = 1, 2


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config()


@pytest.fixture(scope="module")
def truths(parts, config):
    return [load_ground_truth(parts, i, config) for i in range(len(parts))]


def same_batches(first, second):
    return all((a[name] == b[name]).all() for a, b in zip(first, second, strict=True) for name in a)


def passes(truths, config):
    return Passes(Ready(truths, config), config)


def test_an_epochs_batches_are_a_function_of_seed_and_epoch(truths, tiny_config):
    def batches(seed, epoch):
        return list(passes(truths, tiny_config(SEED=seed)).batches(epoch))

    np.random.seed(1)
    first = batches(100, 3)
    np.random.seed(2)
    np.random.uniform(size=7)
    assert same_batches(first, batches(100, 3))
    assert not same_batches(first, batches(100, 4))
    assert not same_batches(first, batches(101, 3))


def test_a_slow_consumer_gets_the_same_batches(truths, tiny_config):
    config, slow = tiny_config(IMAGES_PER_GPU=1), []
    for batch in passes(truths, config).batches(0):
        np.random.uniform(size=1000).sort()
        slow.append(batch)
    assert len(slow) == 4
    assert same_batches(slow, list(passes(truths, config).batches(0)))


def which(image, truths, config):
    """(number, mirrored) of a molded image."""
    for number, truth in enumerate(truths):
        for mirrored, pixels in enumerate((truth.image, truth.image[:, ::-1])):
            if (mold_image(pixels, config) == image).all():
                return number, bool(mirrored)
    raise AssertionError("the image is none of the data set's")


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(truths, config):
    orders = []
    for epoch in range(4):
        batches = passes(truths, config).batches(epoch)
        orders.append([which(image, truths, config)[0] for batch in batches for image in batch["input_image"]])
        assert sorted(orders[-1]) == [0, 1, 2, 3]
    assert len({tuple(order) for order in orders}) > 1


def test_an_incomplete_last_batch_is_left_out(truths, tiny_config):
    config = tiny_config(IMAGES_PER_GPU=3)
    assert [len(batch["input_image"]) for batch in passes(truths, config).batches(0)] == [3]


def test_mirrored_images_come_with_swapped_sides_and_about_half_are_mirrored(truths, config):
    counts = {True: 0, False: 0}
    for epoch in range(8):
        for batch in passes(truths, config).batches(epoch):
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
    class Broken(Ready):
        def load(self, position, rng):
            raise IndexError("no such image")

    with pytest.raises(IndexError, match="no such image"):
        list(Passes(Broken(truths, config), config).batches(0))


def test_fewer_images_than_a_batch_are_refused(truths, tiny_config):
    with pytest.raises(InputError, match=r"4 images.*a batch needs 5"):
        passes(truths, tiny_config(IMAGES_PER_GPU=5))


def darker(image, instances, rng):
    """A view: less light, by a random number."""
    return (image * rng.uniform(0.5, 0.9)).astype(np.uint8), instances


@pytest.mark.parametrize("view", [None, darker])
def test_images_loaded_each_time_give_the_batches_of_ready_ones(view, parts, truths, tiny_config):
    config = tiny_config()
    loaded = list(Passes(Loaded(parts, config, "fliplr", view=view), config).batches(1))
    assert same_batches(loaded, list(passes(truths, config).batches(1))) == (view is None)
    assert same_batches(loaded, list(Passes(Loaded(parts, config, "fliplr", view=view), config).batches(1)))


def test_an_image_without_parts_is_shown_as_a_negative(config):
    source = Passes(Loaded(Shapes(), config), config)  # image 2 of five is empty
    shown = [ids for epoch in range(6) for batch in source.batches(epoch) for ids in batch["input_gt_class_ids"]]
    assert len(shown) == 6 * 4
    assert 1 <= sum(not ids.any() for ids in shown) <= 6


@pytest.mark.parametrize("view", [None, darker])
def test_the_draws_are_those_that_trained_the_shipped_weights(view, parts, tiny_config):
    """In this order: the epoch's images; in a batch, per image its view and then its mirroring; at last the anchors."""
    config = tiny_config(RPN_TRAIN_ANCHORS_PER_IMAGE=4)  # so few that surplus ones are drawn
    anchors = pyramid_anchors(config, config.IMAGE_SHAPE)
    order = np.random.RandomState([100, 3]).permutation(4)
    expected = []
    for number in (0, 1):
        rng, truths = np.random.RandomState([100, 3, number]), []
        for i in order[2 * number : 2 * number + 2]:
            image, instances = parts.load_image(i), parts.load_instances(i)
            if view is not None:
                image, instances = view(image, instances, rng)
            truth = place_ground_truth(image, *instances, config)
            truths.append(mirror(truth, config) if rng.randint(2) else truth)
        expected.append(training_batch(truths, anchors, config, rng))
    assert same_batches(expected, list(Passes(Loaded(parts, config, "fliplr", view=view), config).batches(3)))


class Numbered:
    """Four images that are told apart by their one part's class: 1 to 4."""

    def __init__(self, config):
        self.side = int(config.IMAGE_SHAPE[0])

    def __len__(self):
        return 4

    def load(self, position, rng):
        box, mask = np.array([[4, 4, 20, 20]], np.int32), np.zeros((28, 28, 1), bool)
        image = np.zeros((self.side, self.side, 3), np.uint8)
        return GroundTruth(image, np.array([position + 1]), box, mask, np.array([False]))


def test_images_are_repeated_as_often_as_asked(tiny_config):
    config = tiny_config(NUM_CLASSES=5, MINI_MASK_SHAPE=(28, 28))
    source = Passes(Numbered(config), config, repeats=[1.0, 1.5, 2.5, 1.0])
    assert source.steps == 3  # batches of two of the six images an epoch
    shown = [[i[0] for b in source.batches(epoch) for i in b["input_gt_class_ids"]] for epoch in range(40)]
    counts = np.array([np.bincount(epoch, minlength=5)[1:] for epoch in shown])
    assert counts.sum(axis=1).tolist() == [6] * 40
    assert set(map(tuple, counts)) == {(1, 1, 3, 1), (1, 2, 2, 1)}
    assert shown[0] != shown[1]


def test_rare_parts_ask_for_more_repeats():
    # `common` is in all four images, `rare` in one: at a share of one half it asks for sqrt(.5 / .25).
    images = [["common"], ["common"], ["common", "common"], ["common", "rare"]]
    dataset = PartDataset(
        Taxonomy(("common", "rare"), {}, {}),
        tuple(
            PartImage(Path(str(i)), 9, 9, tuple(PartInstance(p, (0, 0, 1, 1)) for p in parts))
            for i, parts in enumerate(images)
        ),
    )
    assert rare_repeats(dataset, 0.5) == pytest.approx([1, 1, 1, 2**0.5])
    assert rare_repeats(dataset, 0.25) == pytest.approx([1, 1, 1, 1])
