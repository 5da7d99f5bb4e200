"""Training's random views: a window of the image with the parts that lie in it, its resolution and its light."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask_tf.mrcnn.samples import Loaded, Passes
from unmask_tf.mrcnn.views import cut_out, degraded, random_view, random_window

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


def random_parts(rng, count):
    corners = np.sort(rng.randint(0, [HEIGHT, WIDTH], (count, 2, 2)), axis=1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1] + 1], axis=1).astype(np.int32).reshape(-1, 4)
    has_mask = rng.rand(count) < 0.5
    return np.arange(count), boxes, filled(boxes) & has_mask, has_mask


def windows(boxes, most=4.0, class_ids=None):
    ids = np.arange(len(boxes)) if class_ids is None else class_ids
    rng = np.random.RandomState(0)
    return [random_window((HEIGHT, WIDTH), ids, np.asarray(boxes), most, rng) for _ in range(300)]


def test_a_window_by_hand():
    # Twice as near is a window of 60 / 2 = 30 pixels; the part's middle is (3.5, 5), so it lies in the corner.
    rng = SimpleNamespace(
        randint=lambda count: 1,
        choice=lambda values: values[0],
        uniform=lambda *limits, size=None: 2.0 if size is None else np.array([0.0, 0.999]),
    )
    boxes = np.array([[1, 2, 6, 8]], np.int32)
    window = random_window((HEIGHT, WIDTH), np.array([7]), boxes, 4.0, rng)
    assert window == (0, 5, 30, 35)
    image, (class_ids, cut, masks, has_mask) = cut_out(
        coordinates(), (np.array([7]), boxes, filled(boxes), np.array([True])), window
    )
    assert image[0, 0].tolist() == [0, 5, 0] and image.shape == (30, 30, 3)
    assert class_ids.tolist() == [7]
    assert cut.tolist() == [[1, 0, 6, 3]]  # half of the part is left, which is just enough
    assert np.argwhere(masks[..., 0]).tolist() == [[y, x] for y in range(1, 6) for x in range(3)]
    assert has_mask.tolist() == [True]


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), most=st.floats(1.0, 6.0), count=st.integers(0, 5))
def test_parts_keep_their_pixels(seed, most, count):
    rng = np.random.RandomState(seed)
    ids, boxes, masks, has_mask = random_parts(rng, count)
    window = random_window((HEIGHT, WIDTH), ids, boxes, most, rng)
    image, (kept, cut, seen, still) = cut_out(coordinates(), (ids, boxes, masks, has_mask), window)

    top, left, bottom, right = window
    assert 0 <= top < bottom <= HEIGHT and 0 <= left < right <= WIDTH
    np.testing.assert_array_equal(image, coordinates()[top:bottom, left:right])
    inside = np.clip(boxes, [top, left, top, left], [bottom, right, bottom, right])
    share = np.prod(inside[:, 2:] - inside[:, :2], axis=1) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    assert kept.tolist() == np.flatnonzero(share >= 0.5).tolist()
    np.testing.assert_array_equal(cut, inside[kept] - np.array([top, left, top, left]))
    np.testing.assert_array_equal(seen, masks[top:bottom, left:right, kept])
    assert still.tolist() == has_mask[kept].tolist()


def test_windows_show_the_whole_image_or_the_middle_of_a_part_or_all_parts():
    parts = [[2, 3, 12, 20], [20, 30, 30, 40]]  # all of them: 28 rows and 37 columns
    kinds = {"whole": 0, "all": 0, "part": 0}
    for top, left, bottom, right in windows(parts):
        if (top, left, bottom, right) == (0, 0, HEIGHT, WIDTH):
            kinds["whole"] += 1
        elif top <= 2 and left <= 3 and bottom >= 30 and right >= 40:
            kinds["all"] += 1
        else:
            assert (top <= 7 <= bottom and left <= 11 <= right) or (top <= 25 <= bottom and left <= 35 <= right)
            assert bottom - top == min(HEIGHT, right - left) >= 24, "square, where the image allows it"
            kinds["part"] += 1
    assert min(kinds.values()) > 60


def test_each_class_is_looked_at_as_often_as_the_others():
    boxes = [[0, 0, 4, 4]] * 9 + [[36, 56, 40, 60]]
    near = [
        top > 5 for top, left, bottom, right in windows(boxes, class_ids=np.array([1] * 9 + [2])) if bottom - top < 30
    ]
    assert 0.35 < np.mean(near) < 0.65


def test_an_image_without_parts_is_shown_whole():
    assert set(windows(np.zeros((0, 4), int))) == {(0, 0, HEIGHT, WIDTH)}


def test_degrading_shrinks_one_of_two_images_and_keeps_their_size():
    # Stripes of one pixel vanish in an image of 10 of its 60 columns, and stay in a sharp one.
    stripes = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stripes[:, ::2] = 200
    rng = np.random.RandomState(0)
    contrast = []
    for _ in range(100):
        image = degraded(stripes, (10, 10), 0.0, rng)
        assert image.dtype == np.uint8 and image.shape == stripes.shape
        contrast.append(int(np.ptp(image.astype(int))))
    sharp = sum(c > 100 for c in contrast)
    assert 30 < sharp < 70 and sum(c < 10 for c in contrast) == 100 - sharp


def test_degrading_adds_noise_of_at_most_the_given_strength():
    grey = np.full((100, 100, 3), 128, np.uint8)
    rng = np.random.RandomState(0)
    deviations = [degraded(grey, (200, 200), 8.0, rng).astype(float).std() for _ in range(200)]
    assert 7 < max(deviations) < 8.5
    assert np.mean(np.array(deviations) == 0) > 0.3, "sharp images have none"


def test_of_two_noises_one_is_constant_on_squares_of_two_pixels():
    grey = np.full((100, 100, 3), 128, np.uint8)
    rng = np.random.RandomState(0)
    images = [degraded(grey, (200, 200), 8.0, rng) for _ in range(200)]
    noisy = [image.astype(int) for image in images if image.std() > 1]
    constant = [(image[::2, ::2] == image[1::2, 1::2]).all() for image in noisy]
    assert 0.35 < np.mean(constant) < 0.65


def test_light_changes_by_up_to_a_quarter():
    grey = np.full((8, 8, 3), 100, np.uint8)
    levels = [degraded(grey, (200, 200), 0.0, np.random.RandomState(seed)).mean() for seed in range(200)]
    assert 75 <= min(levels) < 80 and 120 < max(levels) <= 125


def test_an_epoch_draws_other_views_than_the_one_before_and_the_same_when_repeated(parts, tiny_config):
    config = tiny_config()

    view = partial(random_view, zoom=2.0, sides=(16, 24), noise=4.0)
    source = Passes(Loaded(parts, config, "fliplr", view=view), config)

    def images(epoch):
        return np.concatenate([batch["input_image"] for batch in source.batches(epoch)])

    first = images(0)
    np.testing.assert_array_equal(first, images(0))
    assert first.shape == images(1).shape
    assert not np.array_equal(np.sort(first, axis=0), np.sort(images(1), axis=0))


def test_without_zoom_and_sides_a_view_is_the_image():
    ids, boxes, masks, has_mask = random_parts(np.random.RandomState(1), 3)
    image, seen = random_view(
        coordinates(), (ids, boxes, masks, has_mask), np.random.RandomState(0), zoom=None, sides=None, noise=8.0
    )
    np.testing.assert_array_equal(image, coordinates())
    assert seen[1] is boxes


@pytest.mark.parametrize("zoom", [0.5, float("nan"), -1])
def test_a_zoom_below_one_is_refused(zoom, tiny_config):
    with pytest.raises(ValueError, match="RANDOM_ZOOM"):
        tiny_config(RANDOM_ZOOM=zoom)


@pytest.mark.parametrize("side", [(0, 100), (50, 40), (3,)])
def test_sides_that_are_no_range_are_refused(side, tiny_config):
    with pytest.raises(ValueError, match="RANDOM_SIDE"):
        tiny_config(RANDOM_SIDE=side)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_outside_0_to_1_is_refused(share, tiny_config):
    with pytest.raises(ValueError, match="RARE_SHARE"):
        tiny_config(RARE_SHARE=share)
