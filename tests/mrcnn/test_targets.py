"""Training targets: the RPN's match and the heads' ROIs, worked out by hand and against a slow reference."""

import numpy as np
import pytest

from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.targets import build_rpn_targets, detection_target_layer, expand_masks, minimize_masks

# --- RPN ---------------------------------------------------------------------------------------------------------


def match_anchors(anchors, class_ids, gt_boxes, limit=8, seed=0):
    config = Config(RPN_TRAIN_ANCHORS_PER_IMAGE=limit)
    boxes = np.array(gt_boxes, int).reshape(-1, 4)
    return build_rpn_targets(np.array(anchors, float), np.array(class_ids), boxes, config, np.random.RandomState(seed))


def test_rpn_match_by_hand_and_the_deltas_of_the_positives():
    anchors = [(0, 0, 10, 10), (0, 0, 10, 8), (0, 0, 10, 5), (0, 0, 10, 2), (20, 20, 30, 30)]  # IoU 1, .8, .5, .2, 0
    match, deltas = match_anchors(anchors, [1], [(0, 0, 10, 10)])
    assert match.tolist() == [1, 1, 0, -1, -1]
    assert match.dtype == np.int32
    # The second anchor's centre moves by 1 of its 8 pixels, and it grows from 8 to 10; the units are .1 and .2.
    expected = np.zeros((8, 4))
    expected[1] = 0, 0.125 / 0.1, 0, np.log(1.25) / 0.2
    np.testing.assert_allclose(deltas, expected)


def test_an_iou_of_exactly_7_tenths_is_positive_and_of_exactly_3_tenths_neutral():
    anchors = [(0, 0, 10, 10), (0, 0, 10, 7), (0, 0, 10, 3), (0, 0, 10, 2)]
    assert match_anchors(anchors, [1], [(0, 0, 10, 10)])[0].tolist() == [1, 1, 0, -1]


def test_the_best_anchor_of_a_box_is_positive_however_small_the_overlap():
    anchors = [(0, 0, 10, 10), (20, 20, 30, 30), (40, 40, 50, 50)]
    match, deltas = match_anchors(anchors, [1, 2], [(0, 0, 10, 10), (25, 25, 30, 30)])
    assert match.tolist() == [1, 1, -1]
    np.testing.assert_allclose(deltas[1], [2.5, 2.5, np.log(0.5) / 0.2, np.log(0.5) / 0.2])


def test_of_anchors_that_share_the_best_overlap_the_first_is_positive():
    anchors = [(0, 0, 4, 4), (0, 6, 4, 10), (20, 20, 30, 30)]
    assert match_anchors(anchors, [1], [(0, 0, 4, 10)])[0].tolist() == [1, 0, -1]


def test_an_anchor_is_regressed_onto_the_box_it_overlaps_most():
    match, deltas = match_anchors([(0, 0, 10, 10)], [1, 2], [(0, 0, 10, 5), (0, 0, 10, 9)])
    assert match.tolist() == [1]
    np.testing.assert_allclose(deltas[0], [0, -0.5, 0, np.log(0.9) / 0.2])


def test_an_anchor_on_a_crowd_is_neither_positive_nor_negative():
    anchors = [(0, 0, 10, 10), (20, 20, 30, 30), (40, 40, 50, 50)]
    boxes = [(0, 0, 10, 10), (20, 20, 30, 30)]
    assert match_anchors(anchors, [1, -2], boxes)[0].tolist() == [1, 0, -1]
    assert match_anchors(anchors, [-1, -2], boxes)[0].tolist() == [0, 0, -1]


def test_an_image_without_parts_gives_negatives_only_up_to_the_limit():
    match, deltas = match_anchors([(i, 0, i + 5, 5) for i in range(20)], [], [])
    assert np.count_nonzero(match == -1) == 8 and not match[match != -1].any()
    assert not deltas.any()


def test_at_most_half_of_the_chosen_anchors_are_positive():
    anchors = [(0, 0, 10, 10)] * 10 + [(50, 50, 60, 60)] * 20
    match, deltas = match_anchors(anchors, [1], [(0, 0, 10, 12)])
    assert np.count_nonzero(match == 1) == 4 and np.count_nonzero(match == -1) == 4
    assert not match[:10].min() < 0 and not match[10:].max() > 0
    assert np.count_nonzero(deltas.any(axis=1)) == 4


def test_negatives_fill_up_what_positives_leave():
    match, _ = match_anchors([(0, 0, 10, 10)] + [(50, 50, 60, 60)] * 20, [1], [(0, 0, 10, 10)])
    assert np.count_nonzero(match == 1) == 1 and np.count_nonzero(match == -1) == 7


def test_the_surplus_is_dropped_by_the_given_generator_alone():
    anchors = [(0, 0, 10, 10)] * 10 + [(50, 50, 60, 60)] * 20
    first, again, other = (match_anchors(anchors, [1], [(0, 0, 10, 20)], seed=seed)[0] for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


# --- small masks ---------------------------------------------------------------------------------------------------


def test_a_small_mask_is_the_mask_inside_its_box():
    masks = np.zeros((20, 20, 2), bool)
    masks[4:12, 6:10, 0] = True  # the left half of its box
    masks[0:8, 0:8, 1] = True  # its whole box
    small = minimize_masks(np.array([[4, 6, 12, 14], [0, 0, 8, 8]]), masks, (4, 4))
    assert small.dtype == bool
    assert small[..., 0].tolist() == [[True, True, False, False]] * 4
    assert small[..., 1].all()


def test_expanding_puts_a_small_mask_back_into_its_box():
    masks = np.zeros((20, 20, 1), bool)
    masks[4:12, 6:10] = True
    box = np.array([[4, 6, 12, 14]])
    assert (expand_masks(box, minimize_masks(box, masks, (4, 4)), (20, 20)) == masks).all()


def test_a_box_only_instance_has_an_empty_small_mask():
    assert not minimize_masks(np.array([[4, 6, 12, 14]]), np.zeros((20, 20, 1), bool), (4, 4)).any()


def test_an_empty_box_is_an_error():
    with pytest.raises(ValueError, match="mask 0 is empty"):
        minimize_masks(np.array([[4, 6, 4, 14]]), np.zeros((20, 20, 1), bool), (4, 4))


# --- ROIs ------------------------------------------------------------------------------------------------------------

HALF = np.array([[1, 1, 0, 0]] * 4, bool)  # the left half of a 4x4 mini mask


def target_config(**overrides):
    settings = dict(TRAIN_ROIS_PER_IMAGE=6, ROI_POSITIVE_RATIO=0.5, MASK_SHAPE=(4, 4), MINI_MASK_SHAPE=(4, 4))
    return Config(**{**settings, **overrides})


# A car's wheel (class 2) in the top left quarter, a crowd in the bottom right corner, and one row of padding.
TRUTH = dict(
    class_ids=np.array([[2, -1, 0]], np.int32),
    boxes=np.array([[[0, 0, 0.5, 0.5], [0.75, 0.75, 1, 1], [0] * 4]], np.float32),
    masks=np.stack([HALF, HALF, 0 * HALF], axis=-1)[None].astype(bool),
    has_mask=np.array([[True, True, False]]),
)
SAME, LEFT, APART, SMALL, PADDING, CROWDED, NEAR = (
    (0, 0, 0.5, 0.5),  # IoU 1
    (0, 0, 0.5, 0.25),  # IoU 1/2: positive
    (0.5, 0.5, 0.75, 0.75),  # IoU 0: negative
    (0, 0, 0.25, 0.25),  # IoU 1/4: negative
    (0, 0, 0, 0),
    (0.75, 0.75, 1, 1),  # on the crowd: neither
    (0, 0, 0.5, 0.2421875),  # IoU just below 1/2: negative
)


def sample(*proposals, layer=None, config=None, **truth):
    layer = layer or detection_target_layer(config or target_config())
    proposals = np.array([[*proposals, *[PADDING] * (8 - len(proposals))]], np.float32)
    truth = {**TRUTH, **truth}
    outputs = layer((proposals, truth["class_ids"], truth["boxes"], truth["masks"], truth["has_mask"]))
    return [np.asarray(x)[0] for x in outputs]


def rows_of(rois, *boxes):
    """The row where each box stands among the ROIs."""
    return [int(np.flatnonzero((rois == np.array(box, np.float32)).all(axis=1))[0]) for box in boxes]


def test_which_proposals_become_positive_negative_or_neither():
    rois, ids, *_ = sample(SAME, LEFT, APART, SMALL, CROWDED)
    assert {tuple(roi) for roi in rois[:3]} == {SAME, LEFT, PADDING}
    assert {tuple(roi) for roi in rois[3:]} == {APART, SMALL, PADDING}
    assert ids.tolist() == [2, 2, 0, 0, 0, 0]
    assert ids.dtype == np.int32


def test_a_proposal_on_a_crowd_is_never_drawn():
    rois, ids, *_ = sample(SAME, LEFT, CROWDED)
    assert ids.tolist() == [2, 2, 0, 0, 0, 0]
    assert not rois[3:].any()


def test_an_overlap_just_below_a_half_is_negative():
    rois, ids, *_ = sample(SAME, NEAR)
    assert ids.tolist() == [2, 0, 0, 0, 0, 0]
    assert rows_of(rois, SAME, NEAR) == [0, 3]


def test_deltas_move_a_positive_onto_its_box_in_units_of_the_standard_deviation():
    rois, _, deltas, *_ = sample(SAME, LEFT, APART, SMALL)
    same, left = rows_of(rois[:3], SAME, LEFT)
    # Half of its own width to the right, and twice as wide; the units are .1 and .2.
    np.testing.assert_allclose(deltas[same], [0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(deltas[left], [0, 5, 0, np.log(2) / 0.2], rtol=1e-5)
    assert not deltas[[i for i in range(6) if i not in (same, left)]].any()


def test_the_mask_target_is_what_the_roi_sees_of_the_mask():
    rois, _, _, masks, has_mask = sample(SAME, LEFT, APART, SMALL)
    same, left = rows_of(rois[:3], SAME, LEFT)
    assert masks.shape == (3, 4, 4) and masks.dtype == np.float32
    assert (masks[same] == HALF).all()
    # The ROI's four columns lie at 0, .5, 1 and 1.5 of the mask's: 1, 1, 1 and a half, which rounds to 0.
    assert masks[left].tolist() == [[1, 1, 1, 0]] * 4
    assert not masks[({0, 1, 2} - {same, left}).pop()].any()
    assert sorted(has_mask[[same, left]].tolist()) == [True, True] and has_mask.sum() == 2


def test_without_mini_masks_the_roi_is_cut_from_the_whole_images_mask():
    masks = np.zeros((1, 9, 9, 3), bool)
    masks[0, :5, :3, 0] = True
    rois, _, _, targets, _ = sample(SAME, LEFT, config=target_config(USE_MINI_MASK=False), masks=masks)
    same, left = rows_of(rois[:3], SAME, LEFT)
    # A normalised half is row or column 4 of 0..8: samples at columns 0, 4/3, 8/3, 4 and at 0, 2/3, 4/3, 2.
    assert targets[same].tolist() == [[1, 1, 0, 0]] * 4
    assert targets[left].tolist() == [[1, 1, 1, 1]] * 4


def test_a_box_only_instance_is_a_positive_without_a_mask():
    _, ids, deltas, _, has_mask = sample(SAME, LEFT, APART, has_mask=np.array([[False, True, False]]))
    assert ids[:2].tolist() == [2, 2] and deltas[:2].any()
    assert not has_mask.any()


def test_without_positives_every_roi_is_padding():
    rois, ids, deltas, masks, has_mask = sample(APART, SMALL)
    for output in (rois, ids, deltas, masks, has_mask):
        assert not output.any()


def test_an_image_without_parts_gives_only_padding():
    rois, ids, *_ = sample(SAME, LEFT, class_ids=np.zeros((1, 3), np.int32), boxes=np.zeros((1, 3, 4), np.float32))
    assert not rois.any() and not ids.any()


def test_positives_and_negatives_keep_to_their_share():
    many = [SAME] * 4 + [APART] * 4
    rois, ids, *_ = sample(*many)
    assert ids.tolist() == [2, 2, 2, 0, 0, 0]
    assert (rois[:3] == SAME).all() and (rois[3:] == APART).all()
    # One positive at a ratio of a third leaves room for two negatives.
    rois, ids, *_ = sample(SAME, *[APART] * 6, config=target_config(ROI_POSITIVE_RATIO=1 / 3))
    assert ids.tolist() == [2, 0, 0, 0, 0, 0]
    assert rois.any(axis=1).tolist() == [True, False, True, True, False, False]


def test_the_released_ratio_keeps_two_negatives_for_every_positive():
    config = target_config(TRAIN_ROIS_PER_IMAGE=200, ROI_POSITIVE_RATIO=0.33)
    layer = detection_target_layer(config)
    assert layer.positives == 66
    for positives in (1, 2, 10, 33, 65, 66):
        proposals = np.array([[SAME] * positives + [APART] * (400 - positives)], np.float32)
        rois = np.asarray(layer((proposals, *TRUTH.values()))[0])[0]
        assert np.count_nonzero(rois[:66].any(axis=1)) == positives
        # Matterport: int(positives / .33) - positives.
        assert np.count_nonzero(rois[66:].any(axis=1)) == int(positives / 0.33) - positives


def test_the_sample_is_drawn_by_the_seed_and_changes_from_call_to_call():
    proposals = [(0, 0, 0.5, 0.5 + i / 100) for i in range(8)]

    def draws(seed):
        layer = detection_target_layer(target_config(SEED=seed))
        return [sample(*proposals, layer=layer)[0].tolist() for _ in range(3)]

    first = draws(1)
    assert first == draws(1)
    assert first != draws(2)
    assert first[0] != first[1] or first[1] != first[2]


def test_restoring_the_generators_state_repeats_the_sample():
    proposals = [(0, 0, 0.5, 0.5 + i / 100) for i in range(8)]
    layer = detection_target_layer(target_config())
    sample(*proposals, layer=layer)
    state = np.asarray(layer.seed_generator.state)
    following = [sample(*proposals, layer=layer)[0].tolist() for _ in range(2)]
    other = detection_target_layer(target_config())
    other.seed_generator.state.assign(state)
    assert [sample(*proposals, layer=other)[0].tolist() for _ in range(2)] == following


def test_a_sample_is_known_by_its_number():
    proposals = [(0, 0, 0.5, 0.5 + i / 100) for i in range(8)]
    layer = detection_target_layer(target_config())
    draws = [sample(*proposals, layer=layer)[0].tolist() for _ in range(4)]
    for number in (2, 0, 3):
        layer.sample_from(number)
        assert sample(*proposals, layer=layer)[0].tolist() == draws[number]


def test_all_targets_equal_a_slow_reference_on_random_images():
    rng = np.random.RandomState(0)
    batch, count, parts, config = 3, 60, 5, target_config(TRAIN_ROIS_PER_IMAGE=20, ROI_POSITIVE_RATIO=0.4)
    corner = rng.uniform(0, 0.7, (batch, parts, 2))
    gt_boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.3, (batch, parts, 2))], axis=-1).astype(np.float32)
    gt_boxes[:, -1] = 0
    class_ids = rng.randint(1, 9, (batch, parts)).astype(np.int32)
    class_ids[:, -1] = 0
    class_ids[1, 0] = -3
    masks = rng.uniform(size=(batch, 4, 4, parts)) < 0.5
    has_mask = np.array([[True, False, True, True, False]] * batch)
    proposals = gt_boxes[:, rng.randint(0, parts, count)] + rng.normal(0, 0.04, (batch, count, 4)).astype(np.float32)
    proposals = np.clip(proposals, 0, 1)
    proposals[..., 2:] = np.maximum(proposals[..., 2:], proposals[..., :2] + 0.01)
    proposals[:, -5:] = 0
    outputs = detection_target_layer(config)((proposals, class_ids, gt_boxes, masks, has_mask))
    for image, (rois, ids, deltas, targets, flags) in enumerate(zip(*map(np.asarray, outputs), strict=True)):
        kind, matched = [], []
        for proposal in proposals[image]:
            ious = [slow_iou(proposal, box) for box in gt_boxes[image]]
            objects = [iou if class_ids[image, i] > 0 else 0 for i, iou in enumerate(ious)]
            crowd = max((iou for i, iou in enumerate(ious) if class_ids[image, i] < 0), default=0)
            matched.append(int(np.argmax(objects)))
            if not proposal.any():
                kind.append("padding")
            elif max(objects) >= 0.5:
                kind.append("positive")
            else:
                kind.append("negative" if crowd < 0.001 else "neither")
        used = min(kind.count("positive"), 8)
        assert used > 1 and kind.count("negative") > 4
        negatives = min(kind.count("negative"), int(used / 0.4) - used, 12)
        assert rois[:8].any(axis=1).tolist() == [True] * used + [False] * (8 - used)
        assert rois[8:].any(axis=1).tolist() == [True] * negatives + [False] * (12 - negatives)
        seen = []
        for slot, roi in enumerate(rois):
            if not roi.any():
                assert ids[slot] == 0 and not deltas[slot].any()
                continue
            number = int(np.flatnonzero((proposals[image] == roi).all(axis=1))[0])
            seen.append(number)
            assert kind[number] == ("positive" if slot < 8 else "negative")
            if slot >= 8:
                assert ids[slot] == 0 and not deltas[slot].any()
                continue
            part = matched[number]
            box, mask = gt_boxes[image, part], masks[image, :, :, part]
            assert ids[slot] == class_ids[image, part] and flags[slot] == has_mask[image, part]
            np.testing.assert_allclose(deltas[slot], slow_deltas(roi, box), rtol=1e-3, atol=1e-4)
            difference = targets[slot] != np.round(slow_mask(roi, box, mask))
            undecided = np.abs(slow_mask(roi, box, mask) - 0.5) < 1e-4
            assert not (difference & ~undecided).any()
        assert len(set(seen)) == len(seen), "no proposal is drawn twice"


def slow_iou(a, b):
    a, b = a.astype(float), b.astype(float)
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = height * width if height > 0 and width > 0 else 0.0
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def slow_deltas(roi, box):
    height, width = roi[2] - roi[0], roi[3] - roi[1]
    dy = ((box[0] + box[2]) / 2 - (roi[0] + roi[2]) / 2) / height / 0.1
    dx = ((box[1] + box[3]) / 2 - (roi[1] + roi[3]) / 2) / width / 0.1
    return dy, dx, np.log((box[2] - box[0]) / height) / 0.2, np.log((box[3] - box[1]) / width) / 0.2


def slow_mask(roi, box, mask):
    """4x4 bilinear samples of a mini mask at the ROI's place inside its box; 0 outside the box."""
    result = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            y = (roi[0] + (roi[2] - roi[0]) * i / 3 - box[0]) / (box[2] - box[0]) * 3
            x = (roi[1] + (roi[3] - roi[1]) * j / 3 - box[1]) / (box[3] - box[1]) * 3
            if not (0 <= y <= 3 and 0 <= x <= 3):
                continue
            top, left = min(int(y), 2), min(int(x), 2)
            v, u = y - top, x - left
            upper = mask[top, left] * (1 - u) + mask[top, left + 1] * u
            lower = mask[top + 1, left] * (1 - u) + mask[top + 1, left + 1] * u
            result[i, j] = upper * (1 - v) + lower * v
    return result


def test_a_box_that_no_anchor_touches_makes_at_most_one_anchor_positive():
    match, _ = match_anchors([(0, 0, 10, 10), (50, 50, 60, 60), (70, 70, 80, 80)], [1], [(30, 30, 31, 31)])
    assert match.tolist() == [1, -1, -1]
