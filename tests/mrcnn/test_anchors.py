"""Anchors: one set worked out by hand, their order, and the pyramid's sizes."""

import numpy as np
import pytest

from unmask_tf.mrcnn.anchors import anchor_layer, backbone_shapes, level_anchors, normalized_anchors, pyramid_anchors
from unmask_tf.mrcnn.config import Config


def test_one_anchor_a_cell_is_centred_on_the_cells_top_left_pixel():
    anchors = level_anchors(8, [1], shape=(2, 2), feature_stride=16, anchor_stride=1)
    assert anchors.tolist() == [[-4, -4, 4, 4], [-4, 12, 4, 20], [12, -4, 20, 4], [12, 12, 20, 20]]


def test_the_ratio_is_width_over_height_at_the_same_area():
    anchors = level_anchors(8, [0.25, 1, 4], shape=(1, 1), feature_stride=16, anchor_stride=1)
    assert anchors.tolist() == [[-8, -2, 8, 2], [-4, -4, 4, 4], [-2, -8, 2, 8]]


def test_the_order_is_row_then_column_then_ratio():
    anchors = level_anchors(8, [1, 4], shape=(2, 3), feature_stride=10, anchor_stride=1)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centers.tolist() == [[y, x] for y in (0, 10) for x in (0, 10, 20) for _ in range(2)]
    assert (anchors[:, 2] - anchors[:, 0]).tolist() == [8, 4] * 6


def test_an_anchor_stride_of_two_skips_every_other_cell():
    anchors = level_anchors(8, [1], shape=(3, 3), feature_stride=10, anchor_stride=2)
    assert (anchors[:, :2] + 4).tolist() == [[0, 0], [0, 20], [20, 0], [20, 20]]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((64, 64), [[16, 16], [8, 8], [4, 4], [2, 2], [1, 1]]),
        ((128, 192), [[32, 48], [16, 24], [8, 12], [4, 6], [2, 3]]),
        ((65, 70), [[17, 18], [9, 9], [5, 5], [3, 3], [2, 2]]),
    ],
)
def test_levels_have_the_images_size_over_their_stride_rounded_up(image, expected):
    assert backbone_shapes(Config(), image).tolist() == expected


def test_a_callable_backbone_may_bring_its_own_shapes():
    config = Config(BACKBONE=lambda *_: None, COMPUTE_BACKBONE_SHAPE=lambda shape: [[shape[0], 7]])
    assert backbone_shapes(config, (5, 6, 3)).tolist() == [[5, 7]]


def test_the_pyramid_lists_its_finest_level_first_and_every_level_at_its_own_scale():
    config = Config(RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128))
    anchors = pyramid_anchors(config, (64, 64, 3))
    counts = [3 * side * side for side in (16, 8, 4, 2, 1)]
    assert anchors.shape == (sum(counts), 4)
    heights, widths = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    np.testing.assert_allclose(np.sqrt(heights * widths), np.repeat(config.RPN_ANCHOR_SCALES, counts))
    np.testing.assert_allclose(widths / heights, np.tile([0.5, 1, 2], sum(counts) // 3))


def test_normalized_anchors_are_float32_over_the_side_minus_one():
    config = Config(RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128), RPN_ANCHOR_RATIOS=(1,))
    anchors = normalized_anchors(config, (64, 127, 3))
    assert anchors.dtype == np.float32
    np.testing.assert_allclose(anchors[0], [-4 / 63, -4 / 126, 3 / 63, 3 / 126], rtol=1e-6)


def test_the_paper_setting_has_matterports_261888_anchors():
    assert pyramid_anchors(Config(), (1024, 1024, 3)).shape == (261888, 4)


def test_the_layer_gives_every_image_the_anchors_of_its_canvas():
    config = Config(RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128), IMAGE_MAX_DIM=64, IMAGE_MIN_DIM=64, RPN_ANCHOR_STRIDE=2)
    layer = anchor_layer(config, (64, 128, 3))
    found = np.asarray(layer(np.zeros((3, 64, 128, 3), np.float32)))
    for anchors in found:
        np.testing.assert_array_equal(anchors, normalized_anchors(config, (64, 128, 3)))
