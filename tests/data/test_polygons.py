"""Polygons of masks: exact without a tolerance, and within the promised overlap with one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unmask_tf.data.masks import check_segmentation, decode_mask
from unmask_tf.data.polygons import mask_polygons

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape)).filter(np.any)


def disc(size, radius, hole=0.0):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (np.hypot(y, x) <= radius) & (np.hypot(y, x) >= hole)


def iou(polygons, mask):
    decoded = decode_mask(polygons, *mask.shape)
    return (decoded & mask).sum() / (decoded | mask).sum()


def test_a_rectangle_has_its_four_corners():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    (polygon,) = mask_polygons(mask)
    assert sorted(zip(polygon[::2], polygon[1::2], strict=True)) == [(2, 1), (2, 4), (7, 1), (7, 4)]


@given(MASKS)
def test_without_a_tolerance_polygons_decode_to_the_mask(mask):
    polygons = mask_polygons(mask)
    check_segmentation(polygons, *mask.shape)
    assert np.array_equal(decode_mask(polygons, *mask.shape), mask)


@pytest.mark.parametrize(
    "rows",
    [
        ["##.", "##.", "..#"],  # pieces that touch at a corner
        [".##", "##.", "#.#"],
        ["#####", "#.#.#", "#####"],  # two holes
        ["#####", "#.#.#", "##.##", "#####"],  # holes that touch at corners
        ["#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"],  # a ring in a ring
    ],
)
def test_corners_and_holes_are_exact(rows):
    mask = np.array([[c == "#" for c in row] for row in rows])
    assert np.array_equal(decode_mask(mask_polygons(mask), *mask.shape), mask)


@given(MASKS, st.floats(0.25, 10))
def test_a_tolerance_keeps_the_promised_overlap(mask, tolerance):
    assert iou(mask_polygons(mask, tolerance), mask) > 0.99
    assert iou(mask_polygons(mask, tolerance, least_iou=0.7), mask) > 0.7


@pytest.mark.parametrize("mask", [disc(101, 45), disc(101, 45, hole=20)], ids=["disc", "ring"])
def test_a_tolerance_saves_corners_of_large_masks(mask):
    exact, fewer = mask_polygons(mask), mask_polygons(mask, 1.0)
    assert sum(map(len, fewer)) < 0.8 * sum(map(len, exact))
    assert 0.99 < iou(fewer, mask) <= 1
