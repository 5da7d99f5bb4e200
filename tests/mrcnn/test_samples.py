"""Images for training: loaded on demand, cropped and augmented by seed, from both kinds of dataset."""

import numpy as np
import pytest
from shapes_dataset import SIDE, Shapes

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.ground_truth import load_ground_truth, mirror
from unmask_tf.mrcnn.samples import Loaded, Stream

KEYS = ("input_image", "input_gt_class_ids", "input_gt_boxes", "input_gt_masks", "input_rpn_match", "input_rpn_bbox")


@pytest.fixture
def config(tiny_config):
    return tiny_config()


def rng(seed=0):
    return np.random.RandomState(seed)


def assert_same(first, second):
    for name in KEYS:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_part_dataset_gives_what_the_profile_training_gives(parts, config):
    samples = Loaded(parts, config)
    for i in range(len(parts)):
        ours, expected = samples.load(i, rng()), load_ground_truth(parts, i, config)
        for name in ("image", "class_ids", "boxes", "masks", "has_mask"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
        assert ours.active is None


def test_a_dataset_s_masks_become_boxes_class_ids_and_the_source_s_classes(config):
    truth = Loaded(Shapes(), config).load(0, rng())
    assert truth.class_ids.tolist() == [1, 2] and truth.class_ids.dtype == np.int32
    assert truth.boxes.tolist() == [[8, 6, 40, 50], [34, 10, 50, 26]]
    assert truth.masks.shape == (14, 14, 2) and truth.has_mask.all()
    assert truth.active.tolist() == [1, 1, 1, 0]
    assert Loaded(Shapes(), config).load(1, rng()).active.tolist() == [1, 0, 0, 1]


def test_nothing_is_loaded_before_it_is_asked_for(config):
    data = Shapes()
    samples = Loaded(data, config)
    assert data.loaded == []
    samples.load(3, rng())
    assert data.loaded == [3]


def test_an_image_without_instances_is_replaced_by_another(config):
    data = Shapes()
    samples = Loaded(data, config)
    assert len(samples.load(2, rng()).class_ids) == 0
    for seed in range(5):
        assert len(samples.load_object(2, rng(seed)).class_ids) > 0
    assert data.loaded.count(2) == 2, "an empty image is remembered"


def test_images_without_any_instance_are_refused(config):
    data = Shapes()
    for info in data.image_info:
        info["content"] = ()
    with pytest.raises(InputError, match="no image .* instance"):
        Loaded(data, config).load_object(0, rng())


def test_no_augmentation_leaves_every_image_upright(config):
    samples = Loaded(Shapes(), config)
    assert all(samples.load(0, rng(seed)).boxes[0].tolist() == [8, 6, 40, 50] for seed in range(10))


def test_fliplr_mirrors_about_half_of_the_images_and_swaps_sided_classes(config):
    upright = Loaded(Shapes(), config).load(0, rng())
    flipped = 0
    for seed in range(40):
        truth = Loaded(Shapes(), config, "fliplr").load(0, rng(seed))
        is_flipped = truth.boxes[0].tolist() == [8, SIDE - 50, 40, SIDE - 6]
        expected = mirror(upright, config) if is_flipped else upright
        np.testing.assert_array_equal(truth.image, expected.image)
        np.testing.assert_array_equal(truth.boxes, expected.boxes)
        np.testing.assert_array_equal(truth.masks, expected.masks)
        assert truth.class_ids.tolist() == ([2, 1] if is_flipped else [1, 2])
        assert truth.active.tolist() == [1, 1, 1, 0]
        flipped += is_flipped
    assert 10 <= flipped <= 30


def test_a_function_augments_image_and_masks_alike(config):
    def upside_down(image, masks, generator):
        assert image.dtype == np.uint8 and masks.dtype == bool and isinstance(generator, np.random.RandomState)
        return image[::-1], masks[::-1]

    truth = Loaded(Shapes(), config, upside_down).load(0, rng())
    assert truth.boxes[0].tolist() == [SIDE - 40, 6, SIDE - 8, 50]
    np.testing.assert_array_equal(truth.image, Shapes().load_image(0)[::-1])


def test_instances_that_an_augmentation_moves_out_are_dropped(config):
    def keep_the_top(image, masks, generator):
        return image, masks & (np.arange(SIDE) < 32)[:, None, None]

    truth = Loaded(Shapes(), config, keep_the_top).load(0, rng())
    assert truth.class_ids.tolist() == [1] and truth.boxes.tolist() == [[8, 6, 32, 50]]


def test_a_box_without_a_mask_is_augmented_as_a_filled_box(parts, config):
    truth = Loaded(parts, config, lambda image, masks, _: (image[:, ::-1], masks[:, ::-1])).load(2, rng())
    assert truth.boxes[1].tolist() == [24, SIDE - 18, 38, SIDE - 4]
    assert truth.has_mask.tolist() == [True, False]
    assert not truth.masks[..., 1].any() and truth.masks[..., 0].any()


class Fliplr:
    """Stands in for imgaug's augmenter of that name: the same methods, and hooks asked as imgaug asks them."""

    def __init__(self, fixed=None):
        self.fixed, self.draws = fixed, 0

    def to_deterministic(self):
        self.draws += 1
        return type(self)(self.draws % 2 == 1)

    def augment_image(self, image, hooks=None):
        assert self.fixed is not None, "image and masks must share one draw"
        if hooks is not None and not hooks.is_activated([image], self, [], True):
            return image
        return image[:, ::-1] if self.fixed else image


class Add(Fliplr):
    """Stands in for an augmenter of colours."""

    def augment_image(self, image, hooks=None):
        if hooks is not None and not hooks.is_activated([image], self, [], True):
            return image
        return image + np.uint8(1)


def test_an_imgaug_augmenter_draws_once_for_image_and_masks(config):
    samples = Loaded(Shapes(), config, Fliplr())
    first, second = samples.load(0, rng()), samples.load(0, rng())
    assert first.boxes[0].tolist() == [8, SIDE - 50, 40, SIDE - 6]
    np.testing.assert_array_equal(first.image, Shapes().load_image(0)[:, ::-1])
    assert second.boxes[0].tolist() == [8, 6, 40, 50]
    np.testing.assert_array_equal(second.image, Shapes().load_image(0))


def test_an_imgaug_augmenter_of_colours_leaves_masks_alone(config):
    truth = Loaded(Shapes(), config, Add()).load(0, rng())
    assert truth.boxes.tolist() == [[8, 6, 40, 50], [34, 10, 50, 26]]
    np.testing.assert_array_equal(truth.image, Shapes().load_image(0) + 1)


def test_sources_may_be_left_out_of_the_augmentation(config):
    samples = Loaded(Shapes(), config, lambda image, masks, _: (image[::-1], masks[::-1]), ["two"])
    assert samples.load(1, rng()).boxes[0].tolist() == [10, 20, 44, 62]
    assert samples.load(3, rng()).boxes[0].tolist() == [SIDE - 30, 2, SIDE - 2, 40]


def test_batches_are_a_function_of_epoch_and_number(config):
    def stream(steps, **options):
        return Stream(Loaded(Shapes(), config, "fliplr"), config, steps, **options)

    whole = list(stream(6).batches(0))
    assert len(whole) == 6
    later = list(stream(3, workers=1).batches(1))
    for first, second in zip(whole[3:], later, strict=True):
        assert_same(first, second)
    assert any((a["input_image"] != b["input_image"]).any() for a, b in zip(whole[:3], whole[3:], strict=True))
    other = next(stream(1, stream=1).batches(0))
    assert any((other[name] != whole[0][name]).any() for name in KEYS)


def test_every_image_comes_once_in_a_pass(config):
    data = Shapes()
    data.image_info[2]["content"] = ((1, (1, 1, 9, 9)),)
    for _ in Stream(Loaded(data, config), config, 5, workers=1).batches(0):  # 5 batches of 2 over 5 images: two passes
        pass
    assert sorted(data.loaded[:5]) == sorted(data.loaded[5:]) == [0, 1, 2, 3, 4]
    assert data.loaded[:5] != data.loaded[5:]


def test_the_classes_of_an_image_s_source_are_in_its_batch(config):
    batch = next(Stream(Loaded(Shapes(2), config), config, 1).batches(0))
    rows = {tuple(row) for row in batch["input_active_class_ids"].tolist()}
    assert rows == {(1, 1, 1, 0), (1, 0, 0, 1)}


def spoiled(**methods):
    data = Shapes()
    for name, function in methods.items():
        setattr(data, name, function)
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            spoiled(load_image=lambda i: np.zeros((SIDE, SIDE), np.uint8)),
            r"image 0 .*load_image returned uint8.*\(64, 64\)",
        ),
        (spoiled(load_image=lambda i: np.zeros((SIDE, SIDE, 3))), "load_image returned float64"),
        (spoiled(load_image=lambda i: np.full((SIDE, SIDE, 3), 300)), "pixels from 300 to 300"),
        (spoiled(load_mask=lambda i: (np.ones((9, SIDE, 1)), np.array([1]))), r"masks \(9, 64, 1\) and 1 class ids"),
        (spoiled(load_mask=lambda i: (np.ones((SIDE, SIDE, 1)), np.array([4]))), "class id 4, but there are only 4"),
    ],
    ids=["grey", "float", "range", "mask size", "class id"],
)
def test_what_a_dataset_returns_wrongly_is_named(config, data, words):
    with pytest.raises(ValueError, match=words):
        Loaded(data, config).load(0, rng())


def test_an_unfit_dataset_or_augmentation_is_refused(config, tiny_config):
    with pytest.raises(ValueError, match=r"4 classes with the background, but NUM_CLASSES is 5"):
        Loaded(Shapes(), tiny_config(NUM_CLASSES=5))
    unprepared = Shapes()
    unprepared._image_ids = np.array([], int)
    with pytest.raises(ValueError, match=r"prepare\(\)"):
        Loaded(unprepared, config)
    with pytest.raises(ValueError, match="no images"):
        Loaded(Shapes(0), config)
    with pytest.raises(TypeError, match="list is not a dataset"):
        Loaded([], config)
    with pytest.raises(TypeError, match="augmentation is 'flip'"):
        Loaded(Shapes(), config, "flip")
    with pytest.raises(ValueError, match=r"image of image 0 .* from shape \(64, 64, 3\) to \(32, 64, 3\)"):
        Loaded(Shapes(), config, lambda image, masks, _: (image[::2], masks)).load(0, rng())
