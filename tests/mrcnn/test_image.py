"""From a photograph to the canvas: sizes, windows and padding worked out by hand."""

import numpy as np
import pytest

from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.detections import normalized_windows
from unmask_tf.mrcnn.image import (
    compose_meta,
    mold_image,
    mold_inputs,
    resize_bilinear,
    resize_image,
    resize_masks,
    unmold_image,
)


def config(mode="square", low=64, high=128, **overrides):
    return Config(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=low, IMAGE_MAX_DIM=high, **overrides)


def image(height, width, seed=0):
    return np.random.RandomState(seed).randint(1, 256, (height, width, 3)).astype(np.uint8)


def row(*values):
    return np.array(values, float)[None, :, None]


def test_growing_samples_between_pixel_centres_and_fades_at_the_edge_within_the_range():
    # Positions -1/4, 1/4, 3/4, 5/4. The first would be 7.5, below the image's smallest value; the last fades to 15.
    assert resize_bilinear(row(10, 20), 1, 4)[0, :, 0].tolist() == [10, 12.5, 17.5, 15]


def test_shrinking_by_two_averages_pairs_without_antialiasing():
    assert resize_bilinear(row(0, 10, 20, 30), 1, 2)[0, :, 0].tolist() == [5, 25]
    # Shrinking by four samples the middle pair only.
    assert resize_bilinear(row(100, 10, 20, 100), 1, 1)[0, :, 0].tolist() == [15]


def test_a_constant_image_stays_constant_and_an_equal_size_changes_nothing():
    assert (resize_bilinear(np.full((3, 5, 2), 7.0), 9, 11) == 7).all()
    pixels = image(5, 6)
    np.testing.assert_allclose(resize_bilinear(pixels, 5, 6), pixels)


def test_an_image_of_150_becomes_800_in_the_middle_of_1024_as_released():
    canvas, placement = resize_image(image(150, 150), config(low=800, high=1024))
    assert canvas.shape == (1024, 1024, 3) and canvas.dtype == np.uint8
    assert placement.window == (112, 112, 912, 912)
    assert placement.scale == 800 / 150
    assert placement.padding == ((112, 112), (112, 112), (0, 0))
    inside = canvas[112:912, 112:912]
    assert inside.min() > 0
    assert canvas.sum() == inside.sum()


@pytest.mark.parametrize(
    ("size", "scale", "window"),
    [
        ((64, 64), 1, (32, 32, 96, 96)),
        ((32, 64), 2, (32, 0, 96, 128)),
        ((100, 400), 0.32, (48, 0, 80, 128)),
        ((101, 90), 1, (13, 19, 114, 109)),
    ],
    ids=["large enough", "grown to the least side", "shrunk to the longest side", "odd padding"],
)
def test_square_mode_places_the_image_in_the_middle(size, scale, window):
    canvas, placement = resize_image(image(*size), config())
    assert canvas.shape == (128, 128, 3)
    assert placement.scale == pytest.approx(scale)
    assert placement.window == window
    (top, bottom), (left, right), _ = placement.padding
    assert (top, left, 128 - bottom, 128 - right) == window


def test_odd_padding_puts_the_extra_row_at_the_bottom():
    _, placement = resize_image(image(101, 128), config())
    assert placement.padding[0] == (13, 14)


def test_the_least_scale_enlarges_images_that_are_large_enough():
    _, placement = resize_image(image(80, 80), config(IMAGE_MIN_SCALE=1.5))
    assert placement.window == (4, 4, 124, 124)


def test_an_unscaled_image_is_copied_exactly():
    pixels = image(70, 90)
    canvas, placement = resize_image(pixels, config())
    y1, x1, y2, x2 = placement.window
    assert (canvas[y1:y2, x1:x2] == pixels).all()


def test_mode_none_changes_nothing():
    pixels = image(70, 90)
    canvas, placement = resize_image(pixels, config("none"))
    assert canvas is pixels
    assert placement.window == (0, 0, 70, 90) and placement.scale == 1


def test_mode_pad64_pads_to_multiples_of_64():
    canvas, placement = resize_image(image(70, 128), config("pad64", low=0))
    assert canvas.shape == (128, 128, 3)
    assert placement.window == (29, 0, 99, 128)


def test_mode_crop_cuts_the_same_random_square_from_image_and_masks():
    pixels = image(70, 100)
    masks = np.stack([pixels[..., 0] > 100, pixels[..., 1] > 100], axis=-1)
    canvas, placement = resize_image(pixels, config("crop"), np.random.RandomState(5))
    y, x, height, width = placement.crop
    assert (height, width) == (64, 64) and 0 <= y <= 6 and 0 <= x <= 36
    assert (canvas == pixels[y : y + 64, x : x + 64]).all()
    assert (resize_masks(masks, placement) == masks[y : y + 64, x : x + 64]).all()
    assert resize_image(pixels, config("crop"), np.random.RandomState(5))[1] == placement
    others = {resize_image(pixels, config("crop"), np.random.RandomState(seed))[1].crop for seed in range(5)}
    assert len(others) > 1


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"'stretch'.*none, square, pad64 or crop"):
        resize_image(image(64, 64), config("stretch"))


def test_a_canvas_that_the_pyramid_cannot_halve_six_times_is_refused():
    with pytest.raises(ValueError, match=r"IMAGE_MAX_DIM is 100.*multiple of 64"):
        config(high=100)


def test_masks_are_scaled_by_the_nearest_pixel_and_padded_like_their_image():
    masks = np.array([[[1, 0], [0, 0]], [[0, 1], [0, 0]]], bool)
    _, placement = resize_image(image(2, 2), config(low=4, high=64))
    result = resize_masks(masks, placement)
    expected = np.zeros((64, 64, 2), bool)
    expected[30:32, 30:32, 0] = True
    expected[32:34, 30:32, 1] = True
    assert result.dtype == bool
    assert (result == expected).all()


def test_a_scaled_mask_lies_on_the_scaled_image_to_a_pixel():
    pixels = np.zeros((50, 60, 3), np.uint8)
    pixels[11:31, 20:47] = 200
    canvas, placement = resize_image(pixels, config(low=100, high=128))
    mask = resize_masks(pixels[..., :1] > 0, placement)[..., 0]
    assert np.count_nonzero(mask != (canvas[..., 0] >= 100)) <= 2 * (20 + 27) * placement.scale
    assert np.count_nonzero(mask) == pytest.approx(20 * 27 * placement.scale**2, rel=0.08)


def test_molding_subtracts_the_mean_pixel():
    molded = mold_image(np.array([[[124, 117, 104]]], np.uint8), Config())
    assert molded.dtype == np.float32
    np.testing.assert_allclose(molded, [[[0.3, 0.2, 0.1]]], atol=1e-5)


def test_unmolding_undoes_molding_for_every_pixel_value():
    pixels = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    assert (unmold_image(mold_image(pixels, Config()), Config()) == pixels).all()


def test_the_meta_vector_lists_id_shapes_window_scale_and_active_classes():
    meta = compose_meta(9, (70, 90, 3), (128, 128, 3), (29, 19, 99, 109), 1.5, np.array([1, 0, 1]))
    assert meta.tolist() == [9, 70, 90, 3, 128, 128, 3, 29, 19, 99, 109, 1.5, 1, 0, 1]
    assert len(meta) == Config(NUM_CLASSES=3).IMAGE_META_SIZE


def test_windows_are_normalized_on_the_canvas():
    _, metas, placements = mold_inputs([image(32, 64)], config())
    assert placements[0].window == (32, 0, 96, 128)
    np.testing.assert_allclose(normalized_windows(metas, (128, 128)), [[32 / 127, 0, 95 / 127, 1]], rtol=1e-6)


def test_images_of_several_sizes_share_one_square_canvas():
    pixels = [image(32, 64), image(64, 64), image(100, 40)]
    molded, metas, placements = mold_inputs(pixels, config())
    assert molded.shape == (3, 128, 128, 3) and molded.dtype == np.float32
    assert metas[:, 1:3].tolist() == [[32, 64], [64, 64], [100, 40]]
    y1, x1, y2, x2 = placements[1].window
    np.testing.assert_allclose(molded[1, y1:y2, x1:x2] + config().MEAN_PIXEL, pixels[1], atol=1e-4)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), r"uint8 \(0, 8, 3\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"uint8 \(1, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)"),
        ([[[0, 0, 0]]], "list"),
    ],
    ids=["grey", "alpha", "empty", "a batch", "pixels in 0..1", "no array"],
)
def test_anything_but_an_8_bit_rgb_image_is_refused(bad, named):
    with pytest.raises(ValueError, match=named):
        mold_inputs([image(64, 64), bad], config())


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="no images"):
        mold_inputs([], config())


def test_images_of_different_canvas_sizes_are_refused_in_mode_none():
    with pytest.raises(ValueError, match=r"\(64, 64, 3\), \(64, 128, 3\).*square"):
        mold_inputs([image(64, 128), image(64, 64)], config("none"))
