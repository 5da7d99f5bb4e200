"""ROI align: bilinear crops worked by hand, level assignment, and both kernels against a slow reference."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from unmask_tf.mrcnn import roi_align
from unmask_tf.mrcnn.roi_align import PyramidROIAlign, align_portable, crop_and_resize, pyramid_level

SQUARE = np.array([[0.0, 1], [2, 3]], np.float32)[None, :, :, None]
KERNELS = {"tensorflow": roi_align._align_tensorflow, "portable": align_portable}


def crop(box, size, image=SQUARE):
    return np.asarray(crop_and_resize(image, np.array([box], np.float32), size))[0, :, :, 0].tolist()


def tensorflow_crop(box, size, image=SQUARE):
    return tf.image.crop_and_resize(image, [box], [0], size)[0, :, :, 0].numpy().tolist()


def slow_crop(image, box, size):
    """Bilinear samples one by one: the crop's corner samples lie on the box's corners; 0 outside the image."""
    height, width, channels = image.shape
    result = np.zeros((*size, channels))
    for i in range(size[0]):
        for j in range(size[1]):
            if size[0] > 1:
                y = (box[0] + (box[2] - box[0]) * i / (size[0] - 1)) * (height - 1)
            else:
                y = (box[0] + box[2]) / 2 * (height - 1)
            if size[1] > 1:
                x = (box[1] + (box[3] - box[1]) * j / (size[1] - 1)) * (width - 1)
            else:
                x = (box[1] + box[3]) / 2 * (width - 1)
            if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
                continue
            for row, y_weight in ((int(np.floor(y)), 1 - y % 1), (int(np.ceil(y)), y % 1)):
                for column, x_weight in ((int(np.floor(x)), 1 - x % 1), (int(np.ceil(x)), x % 1)):
                    result[i, j] += y_weight * x_weight * image[row, column]
    return result


# Every crop is of the map [[0, 1], [2, 3]].
@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ((0, 0, 1, 1), (2, 2), [[0, 1], [2, 3]]),
        ((0, 0, 1, 1), (3, 3), [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]),
        ((0, 0, 0.5, 0.5), (2, 2), [[0, 0.5], [1, 1.5]]),
        ((0.25, 0.5, 0.75, 1), (2, 3), [[1, 1.25, 1.5], [2, 2.25, 2.5]]),
        ((0, 0, 1, 1), (1, 1), [[1.5]]),
        ((0, 0.5, 1, 1), (1, 2), [[1.5, 2]]),
        ((0.5, 0.5, 0.5, 0.5), (2, 2), [[1.5, 1.5], [1.5, 1.5]]),
        ((-1, -1, 1, 1), (3, 3), [[0, 0, 0], [0, 0, 1], [0, 2, 3]]),
        ((0, 0, 2, 2), (3, 3), [[0, 1, 0], [2, 3, 0], [0, 0, 0]]),
        ((1, 1, 0, 0), (2, 2), [[3, 2], [1, 0]]),
    ],
    ids=["itself", "whole", "quarter", "off centre", "one", "one row", "point", "before", "beyond", "turned"],
)
def test_crops_of_a_two_by_two_map_by_hand(box, size, expected):
    assert crop(box, size) == expected
    assert tensorflow_crop(box, size) == expected


def test_every_image_is_cropped_by_its_own_box():
    images = np.concatenate([SQUARE, SQUARE + 10])
    crops = crop_and_resize(images, np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32), (2, 2))
    assert np.asarray(crops)[..., 0].tolist() == [[[0, 1], [2, 3]], [[10, 10.5], [11, 11.5]]]


def test_crops_equal_the_slow_reference_and_tensorflow():
    rng = np.random.RandomState(0)
    images = rng.normal(size=(12, 9, 7, 3)).astype(np.float32)
    boxes = rng.uniform(-0.3, 1.3, (12, 4)).astype(np.float32)
    for size in ((5, 4), (1, 3), (2, 2)):
        crops = np.asarray(crop_and_resize(images, boxes, size))
        slow = [slow_crop(image, box, size) for image, box in zip(images, boxes, strict=True)]
        np.testing.assert_allclose(crops, slow, atol=1e-5)
        np.testing.assert_allclose(crops, tf.image.crop_and_resize(images, boxes, range(12), size), atol=1e-5)


@pytest.mark.parametrize(
    ("pixels", "expected"), [(224, 4), (112, 3), (448, 5), (56, 2), (20, 2), (1000, 5), (150, 3), (170, 4), (0, 2)]
)
def test_a_box_of_224_pixels_lies_on_level_4_and_each_halving_goes_down_one(pixels, expected):
    side = pixels / 1024
    assert int(pyramid_level(np.array([0.1, 0, 0.1 + side, side], np.float32), 1024 * 1024)) == expected


def test_the_level_depends_on_the_area_not_on_the_shape():
    boxes = np.array([[0, 0, 0.25, 0.25], [0, 0, 0.0625, 1.0], [0, 0, 1.0, 0.0625]], np.float32)
    assert np.asarray(pyramid_level(boxes, 448 * 448)).tolist() == [3, 3, 3]


def pyramid_of(batch, value, side=64, channels=1):
    """P2..P5 whose value at image b, level l is value(b, l)."""
    return [
        np.stack([np.full((side // s, side // s, channels), value(b, level), np.float32) for b in range(batch)])
        for level, s in ((2, 4), (3, 8), (4, 16), (5, 32))
    ]


def test_the_layer_crops_each_box_of_each_image_from_its_own_level():
    # On a 512-pixel image: 448 pixels -> P5, 224 -> P4, 112 -> P3, 32 -> P2.
    sides = np.array([[448, 224, 112, 32], [32, 32, 448, 112]]) / 512
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=-1).astype(np.float32)
    image = np.zeros((2, 512, 512, 3), np.float32)
    crops = PyramidROIAlign(3)([boxes, image, *pyramid_of(2, lambda b, level: 10 * b + level, side=512)])
    expected = [5, 4, 3, 2, 12, 12, 15, 13]
    assert crops.shape == (8, 3, 3, 1)
    np.testing.assert_allclose(np.asarray(crops)[:, 1, 1, 0], expected)


def test_the_layers_symbolic_shape_is_its_real_shape():
    boxes, image = keras.Input((5, 4)), keras.Input((64, 64, 3))
    pyramid = [keras.Input((64 // s, 64 // s, 6)) for s in (4, 8, 16, 32)]
    assert PyramidROIAlign(7)([boxes, image, *pyramid]).shape == (None, 7, 7, 6)


def random_case(seed, batch=2, count=12):
    """Boxes on all four levels, some reaching beyond the image, and a random pyramid of a non-square image."""
    rng = np.random.RandomState(seed)
    corner = rng.uniform(-0.2, 0.8, (batch, count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 0.6, (batch, count, 2))], axis=-1).astype(np.float32)
    level = np.arange(batch * count).reshape(batch, count).astype(np.int32) * 7 % 4
    pyramid = [rng.normal(size=(batch, 24 // s, 32 // s, 3)).astype(np.float32) for s in (1, 2, 4, 8)]
    return boxes, level, pyramid


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pool", [1, 5])
def test_both_kernels_equal_the_slow_reference_on_all_levels(kernel, pool):
    boxes, level, pyramid = random_case(1)
    assert set(level.ravel()) == {0, 1, 2, 3}
    crops = KERNELS[kernel](tf.constant(boxes), tf.constant(level), [tf.constant(p) for p in pyramid], pool)
    moved = KERNELS[kernel](tf.constant(boxes + 1e-5), tf.constant(level), [tf.constant(p) for p in pyramid], pool)
    slow = [
        slow_crop(pyramid[level[b, n]][b], boxes[b, n], (pool, pool))
        for b in range(boxes.shape[0])
        for n in range(boxes.shape[1])
    ]
    # A position of up to 32 pixels is rounded to 2e-6 several times, and neighbouring values differ by up to 6.
    np.testing.assert_allclose(crops, slow, rtol=0, atol=3e-5)
    assert np.abs(moved - np.array(slow)).max() > 3e-4  # a hundred-thousandth of the image is seen


def test_the_kernels_gradients_are_equal_on_every_level():
    boxes, level, pyramid = random_case(2)
    weights = np.random.RandomState(3).normal(size=(24, 4, 4, 3)).astype(np.float32)
    gradients = {}
    for name, kernel in KERNELS.items():
        features = [tf.Variable(p) for p in pyramid]
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(kernel(tf.constant(boxes), tf.constant(level), features, 4) * weights)
        gradients[name] = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(total, features)]
    for ours, theirs in zip(gradients["portable"], gradients["tensorflow"], strict=True):
        assert np.abs(theirs).max() > 0.1
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_level_without_boxes_is_no_obstacle():
    boxes, _, pyramid = random_case(4)
    level = np.full((2, 12), 2, np.int32)
    both = [np.asarray(kernel(boxes, level, pyramid, 3)) for kernel in KERNELS.values()]
    np.testing.assert_allclose(*both, atol=1e-5)


def test_no_gradient_flows_into_the_boxes():
    boxes, _, pyramid = random_case(5)
    boxes = tf.Variable(boxes)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(PyramidROIAlign(3)([boxes, np.zeros((2, 96, 128, 3), np.float32), *pyramid]))
    assert tape.gradient(total, boxes) is None
