"""Training's random zoom: a window of the image with the parts that lie in it."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask_tf.mrcnn.ground_truth import zoomed
from unmask_tf.mrcnn.samples import Loaded, Passes

HEIGHT, WIDTH = 40, 60


def coordinates():
    """An image each of whose pixels holds its own row and column."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([y, x, 0 * y], axis=-1).astype(np.uint8)


def filled(boxes):
    masks = np.zeros((HEIGHT, WIDTH, len(boxes)), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1:y2, x1:x2, i] = True
    return masks


def window_of(image):
    (top, left), (bottom, right) = image[0, 0, :2].astype(int), image[-1, -1, :2].astype(int) + 1
    return top, left, bottom, right


def test_by_hand():
    # Twice as near is a window of 20x30 pixels; the only part's middle is the pixel (3, 5), so it is cut at the corner.
    boxes = np.array([[1, 2, 6, 8]], np.int32)
    rng = SimpleNamespace(
        uniform=lambda *limits, size=None: 2.0 if size is None else np.array([0.0, 0.999]), randint=lambda count: 0
    )
    image, class_ids, boxes, masks, has_mask = zoomed(
        coordinates(), np.array([7]), boxes, filled(boxes), np.array([True]), 4.0, rng
    )
    assert window_of(image) == (0, 5, 20, 35)
    assert image.shape == (20, 30, 3)
    assert class_ids.tolist() == [7]
    assert boxes.tolist() == [[1, 0, 6, 3]]  # half of the part is left, which is just enough
    assert masks.shape == (20, 30, 1)
    assert np.argwhere(masks[..., 0]).tolist() == [[y, x] for y in range(1, 6) for x in range(3)]
    assert has_mask.tolist() == [True]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), most=st.floats(1.0, 6.0), count=st.integers(0, 5))
def test_parts_keep_their_pixels(seed, most, count):
    rng = np.random.RandomState(seed)
    corners = np.sort(rng.randint(0, [HEIGHT, WIDTH], (count, 2, 2)), axis=1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1] + 1], axis=1).astype(np.int32).reshape(-1, 4)
    has_mask = rng.rand(count) < 0.5
    masks = filled(boxes) & has_mask
    ids = np.arange(count)
    image, kept, cut, seen, still = zoomed(coordinates(), ids, boxes, masks, has_mask, most, rng)

    top, left, bottom, right = window_of(image)
    assert image.shape[0] >= np.floor(HEIGHT / most) and image.shape[1] >= np.floor(WIDTH / most)
    np.testing.assert_array_equal(image, coordinates()[top:bottom, left:right])
    inside = np.clip(boxes, [top, left, top, left], [bottom, right, bottom, right])
    share = np.prod(inside[:, 2:] - inside[:, :2], axis=1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert kept.tolist() == np.flatnonzero(share >= 0.5).tolist()
    np.testing.assert_array_equal(cut, inside[kept] - np.array([top, left, top, left]))
    np.testing.assert_array_equal(seen, masks[top:bottom, left:right, kept])
    assert still.tolist() == has_mask[kept].tolist()


def test_a_window_holds_the_middle_of_some_part():
    boxes = np.array([[30, 50, 34, 54]], np.int32)
    for seed in range(50):
        rng = np.random.RandomState(seed)
        image, *_ = zoomed(coordinates(), np.zeros(1), boxes, filled(boxes), np.array([True]), 5.0, rng)
        top, left, bottom, right = window_of(image)
        assert top <= 32 < bottom and left <= 52 < right


def test_an_epoch_draws_other_windows_than_the_one_before_and_the_same_when_repeated(parts, tiny_config):
    config = tiny_config()
    source = Passes(Loaded(parts, config, "fliplr", zoom=2.0), config)

    def images(epoch):
        return np.concatenate([batch["input_image"] for batch in source.batches(epoch)])

    first = images(0)
    np.testing.assert_array_equal(first, images(0))
    assert first.shape == images(1).shape
    assert not np.array_equal(np.sort(first, axis=0), np.sort(images(1), axis=0))


@pytest.mark.parametrize("zoom", [0.5, float("nan"), -1])
def test_a_factor_below_one_is_refused(zoom, tiny_config):
    with pytest.raises(ValueError, match="RANDOM_ZOOM"):
        tiny_config(RANDOM_ZOOM=zoom)
