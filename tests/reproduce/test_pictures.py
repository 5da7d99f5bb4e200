"""Pictures: what is drawn lies where the boxes and masks say, in the colours and numbers that the titles tell."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from unmask_tf.data.synthetic import Scene, overlay
from unmask_tf.reproduce.pictures import (
    draw_anchors,
    draw_boxes,
    draw_masks,
    draw_matrix,
    grid,
    part_colour,
    perturbation_panel,
    show,
)
from unmask_tf.taxonomy import UNMASK

GREY = np.full((6, 8, 3), 100, np.uint8)
TALL = np.full((20, 8, 3), 100, np.uint8)


@pytest.fixture
def axis():
    return grid(1, 1)[1][0, 0]


def rectangles(axis):
    """Left, top, width and height of the boxes drawn."""
    return [(*p.get_xy(), p.get_width(), p.get_height()) for p in axis.patches if isinstance(p, Rectangle)]


def shown(axis):
    return np.asarray(axis.get_images()[0].get_array())


def test_a_grid_has_a_panel_per_row_and_column():
    figure, axes = grid(2, 3, side=2.0)
    assert axes.shape == (2, 3)
    assert figure.get_size_inches().tolist() == [6.0, 4.0]


def test_show_keeps_pixels_and_cuts_floats_to_the_range(axis):
    show(axis, GREY, "a title")
    assert np.array_equal(shown(axis), GREY)
    assert axis.get_title() == "a title"
    other = grid(1, 1)[1][0, 0]
    show(other, np.array([[[-0.5, 0.25, 1.5]]]))
    assert shown(other).tolist() == [[[0.0, 0.25, 1.0]]]


@pytest.mark.parametrize("part", ["plant", "torso", "foot"])
def test_a_part_has_the_colour_that_its_mask_is_painted_in(part):
    black = Scene(np.zeros((1, 1, 3), np.uint8), ((part, np.ones((1, 1), bool)),))
    painted = overlay(black)[0, 0] / 255
    assert np.allclose(painted, 0.55 * np.array(part_colour(part, UNMASK)), atol=1 / 255)


def test_all_parts_have_different_colours():
    assert len({part_colour(part, UNMASK) for part in UNMASK.parts}) == 44


def test_masks_are_painted_where_they_are_and_named_once(axis):
    masks = np.zeros((6, 8, 3), bool)
    masks[1:3, 2:5, 0] = masks[4, 6, 1] = masks[4, 7, 2] = True
    draw_masks(axis, GREY, masks, ["head", "wheel", "wheel"], UNMASK, "scene")
    picture = shown(axis)
    covered = masks.any(axis=-1)
    assert np.all(picture[~covered] == 45)  # 0.45 of 100
    expected = 45 + 0.55 * 255 * np.array(part_colour("head", UNMASK))
    assert np.allclose(picture[1, 2], expected, atol=1)
    assert np.all(np.abs(picture[covered].astype(int) - 45).max(axis=-1) > 20)
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["wheel", "head"]  # in the taxonomy's order


def test_an_image_without_masks_is_shown_as_it_is_without_a_legend(axis):
    draw_masks(axis, GREY, np.zeros((6, 8, 0), bool), [], UNMASK)
    assert np.array_equal(shown(axis), GREY)
    assert axis.get_legend() is None


def test_a_half_open_box_encloses_its_pixels(axis):
    show(axis, GREY)
    draw_boxes(axis, np.array([[1, 2, 4, 7]]), ["wheel"], UNMASK)
    # Rows 1..3 and columns 2..6: pixel centres are whole numbers, edges lie half a pixel outside.
    assert rectangles(axis) == [(1.5, 0.5, 5.0, 3.0)]
    assert to_rgb(axis.patches[0].get_edgecolor()[:3]) == pytest.approx(part_colour("wheel", UNMASK))


def test_boxes_carry_names_and_scores(axis):
    show(axis, TALL)
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 4]])
    draw_boxes(axis, boxes, ["wheel", "door"], UNMASK, [0.987, 0.5])
    assert [text.get_text() for text in axis.texts] == ["wheel 0.99", "door 0.50"]
    # The first box touches the upper edge, so its name stands inside it.
    assert [text.get_verticalalignment() for text in axis.texts] == ["top", "bottom"]
    with pytest.raises(ValueError):
        draw_boxes(axis, boxes, ["wheel"], UNMASK)


def test_anchors_beyond_the_image_stay_in_view_and_are_coloured_by_level(axis):
    show(axis, GREY)
    draw_anchors(axis, np.array([[-4.0, -6.0, 5.0, 12.0], [1.0, 1.0, 2.0, 2.0]]), levels=[6, 2])
    assert rectangles(axis) == [(-6.5, -4.5, 18.0, 9.0), (0.5, 0.5, 1.0, 1.0)]
    assert axis.get_xlim() == (-7.0, 12.0)
    assert axis.get_ylim() == (5.5, -5.0)  # downwards; the image's lower edge stays in view
    assert axis.patches[0].get_edgecolor() != axis.patches[1].get_edgecolor()
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["P2", "P6"]


def test_no_anchor_changes_nothing(axis):
    show(axis, GREY)
    before = axis.get_xlim(), axis.get_ylim()
    draw_anchors(axis, np.zeros((0, 4)))
    assert (axis.get_xlim(), axis.get_ylim()) == before
    assert not axis.patches


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_perturbation_is_stretched_to_the_full_range_and_its_norms_are_told(dtype):
    before = np.full((1, 2, 2, 3), 100, np.uint8)
    after = before.copy()
    after[0, 0, 0] = [104, 97, 100]  # +4, -3: Linf 4, L2 5
    if dtype == np.float32:
        before, after = before.astype(np.float32) / 255, after.astype(np.float32) / 255
    figure = perturbation_panel(before, after, ["car"], ["train"])
    left, middle, right = figure.axes
    assert np.array_equal(shown(left), before[0]) and np.array_equal(shown(right), after[0])
    assert np.allclose(shown(middle)[0, 0], [1.0, 0.125, 0.5], atol=1e-5)  # 0.5 + 0.5 * (4, -3, 0) / 4
    assert np.allclose(shown(middle)[1], 0.5)
    assert [axis.get_title() for axis in figure.axes] == ["car", "x31.9: L∞ 4.0, L2 5", "train"]  # 127.5 / 4


def test_equal_images_give_a_grey_difference():
    figure = perturbation_panel(GREY[None], GREY[None], ["a"], ["b"])
    assert np.all(shown(figure.axes[1]) == 0.5)
    assert figure.axes[1].get_title() == "x1.0: L∞ 0.0, L2 0"


def test_images_and_titles_must_match_in_number():
    with pytest.raises(ValueError):
        perturbation_panel(GREY[None], GREY[None], ["a", "b"], ["c"])


def test_the_matrix_has_a_filled_cell_for_every_expected_part(axis):
    draw_matrix(axis, UNMASK, ["car", "bird"], highlight=["bird"])
    cells = shown(axis)
    assert cells.shape == (44, 2)
    filled = {part for part, value in zip(UNMASK.parts, cells[:, 1], strict=True) if value}
    assert filled == UNMASK.expected("bird")
    assert cells[:, 1].max() > cells[:, 0].max() > 0
    assert [label.get_text() for label in axis.get_xticklabels()] == ["car", "bird"]
    assert [label.get_text() for label in axis.get_yticklabels()] == list(UNMASK.parts)


def test_pictures_need_neither_pyplot_nor_a_deep_learning_library():
    heavy = {"matplotlib.pyplot", "tensorflow", "keras", "torch"}
    code = f"import sys, unmask_tf.reproduce.pictures; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
