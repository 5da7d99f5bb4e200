"""K's inner tensors agree with its outputs, and every figure shows what it names."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unmask_tf.mrcnn import MaskRCNN, inspect
from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.anchors import level_anchors
from unmask_tf.mrcnn.ground_truth import load_ground_truth
from unmask_tf.mrcnn.weights import named_weights

NAMES = ("background", "vehicle_left", "vehicle_right", "wheel")


@pytest.fixture(scope="module")
def found(detector, photographs):
    return inspect.intermediates(detector, photographs[0])


def rectangles(axis):
    return [patch for patch in axis.patches if isinstance(patch, Rectangle)]


def corners(patch):
    """(y1, x1, y2, x2) in pixels of a drawn box."""
    x, y = patch.get_xy()
    return np.array([y, x, y + patch.get_height(), x + patch.get_width()]) + 0.5


def test_the_inner_tensors_lead_to_the_detections(detector, photographs, found):
    result = detector.detect([photographs[0]])[0]
    # The image fills the canvas, so both have the same pixels.
    np.testing.assert_array_equal(np.around(found.detections).astype(int), result["rois"])
    np.testing.assert_array_equal(found.class_ids, result["class_ids"])
    np.testing.assert_allclose(found.scores, result["scores"], rtol=1e-6)  # two graphs, fused in two ways
    np.testing.assert_array_equal(found.canvas, photographs[0])
    assert found.window == (0, 0, 64, 64)
    assert found.masks.shape == (len(found.detections), 28, 28)
    assert len(found.proposals) <= 12 and (box_math.area(found.proposals) > 0).all()
    # Every detection is a proposal, refined for its best class.
    classes, scores, refined = found.refined_proposals()
    for box, class_id, score in zip(found.detections, found.class_ids, found.scores, strict=True):
        nearest = np.abs(refined - box).max(axis=1).argmin()
        np.testing.assert_allclose(refined[nearest], box, atol=1e-4)
        assert classes[nearest] == class_id and scores[nearest] == pytest.approx(score)


def test_the_best_anchors_become_the_best_proposals(found):
    best, refined = found.best_anchors(5)
    assert (np.diff(found.rpn_class[best, 1]) <= 0).all()
    assert found.rpn_class[best[0], 1] == found.rpn_class[:, 1].max()
    np.testing.assert_allclose(refined[0], found.proposals[0], atol=1e-4)


def test_levels_are_told_apart_under_any_anchor_stride(tiny_config, photographs, tmp_path):
    config = tiny_config(RPN_ANCHOR_STRIDE=2)
    found = inspect.intermediates(MaskRCNN("inference", config, tmp_path), photographs[0])
    assert len(found.levels) == len(found.anchors)
    for level, scale, side in zip((2, 3, 4, 5, 6), config.RPN_ANCHOR_SCALES, (16, 8, 4, 2, 1), strict=True):
        expected = level_anchors(scale, config.RPN_ANCHOR_RATIOS, (side, side), 64 // side, 2)
        np.testing.assert_array_equal(found.anchors[found.levels == level], expected)


def test_the_anchors_figure_has_three_shapes_of_each_level(found):
    figure = inspect.draw_anchors(found)
    (axis,) = figure.axes
    assert isinstance(figure, Figure) and len(rectangles(axis)) == 15
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["P2: 768", "P3: 192", "P4: 48", "P5: 12", "P6: 3"]


def test_the_proposals_figure_shows_anchors_before_and_after(found):
    anchors, refined, proposals = inspect.draw_proposals(found, 7).axes
    assert len(rectangles(anchors)) == 7 and len(rectangles(refined)) == 14
    assert len(rectangles(proposals)) == min(7, len(found.proposals))
    best, after = found.best_anchors(7)
    np.testing.assert_allclose(corners(rectangles(anchors)[0]), found.anchors[best[0]])
    drawn = rectangles(refined)[:2]
    np.testing.assert_allclose([corners(patch) for patch in drawn], [found.anchors[best[0]], after[0]])
    assert [patch.get_linestyle() for patch in drawn] == [":", "-"]


def test_the_rois_figure_names_every_detection(found):
    left, right = inspect.draw_rois(found, NAMES).axes
    assert len(rectangles(right)) == len(found.detections) > 0
    expected = [f"{NAMES[i]} {s:.2f}" for i, s in zip(found.class_ids, found.scores, strict=True)]
    assert [text.get_text() for text in right.texts] == expected
    assert len(rectangles(left)) == 2 * (found.class_probabilities.argmax(axis=1) > 0).sum()


def test_the_targets_figure_moves_positive_anchors_onto_instances(detector, parts):
    truth = load_ground_truth(parts, 0, detector.config)
    found = inspect.intermediates(detector, parts.load_image(0))
    instances, anchors, proposals = inspect.draw_targets(found, truth, NAMES).axes
    assert [text.get_text() for text in instances.texts] == ["vehicle_left", "wheel"]
    np.testing.assert_allclose([corners(p) for p in rectangles(instances)], truth.boxes)
    moved = [corners(patch) for patch in rectangles(anchors)[1::2]]
    assert moved
    for box in moved:
        assert np.abs(truth.boxes - box).max(axis=1).min() < 1e-6
    assert len(rectangles(proposals)) == len(found.proposals)


@pytest.mark.parametrize("mini", [True, False])
def test_ground_truth_is_drawn_with_its_masks(tiny_config, parts, mini):
    config = tiny_config(USE_MINI_MASK=mini)
    truth = load_ground_truth(parts, 3, config)
    (axis,) = inspect.draw_ground_truth(truth, config, NAMES).axes
    shown, colour = axis.images[0].get_array(), 255 * np.array(inspect.class_colour(2))
    inside = np.zeros((64, 64), bool)
    inside[24:56, 14:50] = True

    blended = (0.5 * truth.image[inside].astype(float) + 0.5 * colour).astype(np.uint8)
    np.testing.assert_array_equal(shown[inside], blended)
    np.testing.assert_array_equal(shown[:18], truth.image[:18])


def test_detections_are_drawn_with_names_and_scores_or_without(photographs):
    boxes = np.array([[4, 5, 20, 30], [30, 30, 60, 50]])
    result = {"rois": boxes, "class_ids": np.array([3, 1]), "scores": np.array([0.9, 0.25])}
    (axis,) = inspect.draw_detections(photographs[0], result, NAMES).axes
    assert [text.get_text() for text in axis.texts] == ["wheel 0.90", "vehicle_left 0.25"]
    np.testing.assert_allclose([corners(patch) for patch in rectangles(axis)], boxes)
    np.testing.assert_array_equal(axis.images[0].get_array(), photographs[0])
    del result["scores"]
    (axis,) = inspect.draw_detections(photographs[0], result, NAMES, "a title").axes
    assert [text.get_text() for text in axis.texts] == ["wheel", "vehicle_left"] and axis.get_title() == "a title"


def test_masks_are_shown_as_the_mask_head_gives_them(found):
    axes = inspect.draw_masks(found, NAMES, 2).axes
    assert len(axes) == 2
    np.testing.assert_array_equal(axes[1].images[0].get_array(), found.masks[1])
    assert axes[0].get_title() == f"{NAMES[found.class_ids[0]]} {found.scores[0]:.2f}"


def test_statistics_of_weights_point_at_dead_and_broken_tensors(tiny_config, randomize, tmp_path):
    model = MaskRCNN("inference", tiny_config(), tmp_path)
    randomize(model.keras_model, 1)
    weights = named_weights(model.keras_model)
    weights["fpn_p3/kernel"].assign(np.full(weights["fpn_p3/kernel"].shape, 0.5))
    weights["fpn_p4/bias"].assign(np.full(8, np.nan))
    table = inspect.weight_statistics(model).set_index(["layer", "weight"])
    assert len(table) == len(weights)
    assert table["note"][table["note"] != ""].to_dict() == {
        ("fpn_p3", "kernel"): "all equal",
        ("fpn_p4", "bias"): "not finite",
    }
    row = table.loc["fpn_p3", "kernel"]
    assert (row["shape"], row["parameters"]) == ((3, 3, 8, 8), 576)
    assert (row["min"], row["max"], row["mean"], row["std"]) == (0.5, 0.5, 0.5, 0)
    figure = inspect.draw_weights(model, ("fpn_p3", "bn_conv1"))
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == [
        *("fpn_p3/kernel", "fpn_p3/bias"),
        *("bn_conv1/gamma", "bn_conv1/beta", "bn_conv1/moving_mean", "bn_conv1/moving_variance"),
    ]
    with pytest.raises(ValueError, match="no layer 'fpn_p9'"):
        inspect.draw_weights(model, ("fpn_p9",))


def test_an_image_without_detections_can_be_looked_at(tiny_config, photographs, tmp_path):
    model = MaskRCNN("inference", tiny_config(), tmp_path)
    named_weights(model.keras_model)["mrcnn_class_logits/bias"].assign([1e6, 0, 0, 0])  # all is background
    found = inspect.intermediates(model, photographs[0])
    assert found.detections.shape == (0, 4) and found.masks.shape == (0, 28, 28)
    for figure in (inspect.draw_rois(found, NAMES), inspect.draw_masks(found, NAMES)):
        assert isinstance(figure, Figure)


def test_a_training_graph_has_no_inner_tensors_to_show(tiny_config, photographs, tmp_path):
    with pytest.raises(ValueError, match="mode='inference'"):
        inspect.intermediates(MaskRCNN("training", tiny_config(), tmp_path), photographs[0])
