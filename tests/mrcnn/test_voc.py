"""VOC-style average precision: worked by hand, and against Matterport's `utils.compute_ap`."""

import golden_files as golden
import numpy as np
import pytest
from pycocotools import mask as rle

from unmask_tf.mrcnn.voc import (
    average_precision,
    coco_overlaps,
    correct_detections,
    voc_average_precision,
    voc_scores,
)

CASES = golden.facts()["average_precision"]["cases"]
SIDE = golden.facts()["average_precision"]["side"]


def mask_of(box):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[box[0] : box[2], box[1] : box[3]] = 1
    return rle.encode(np.asfortranarray(mask))


def entry(box, category, image=0, **more):
    y1, x1, y2, x2 = (int(v) for v in box)
    coco = {"image_id": image, "category_id": int(category), "bbox": [x1, y1, x2 - x1, y2 - y1]}
    return {**coco, "segmentation": mask_of(box), **more}


def golden_case(case):
    stored, seed = golden.arrays("average_precision"), case["seed"]
    return tuple(stored[f"{key}_{seed}"] for key in ("true", "ids", "found", "found_ids", "scores", "overlaps"))


@pytest.mark.parametrize(
    ("correct", "true_count", "expected"),
    [
        ([True, True], 2, 1.0),
        ([True], 2, 0.5),
        ([False, True], 1, 0.5),
        ([True, False, True], 2, 0.5 * 1 + 0.5 * 2 / 3),
        # Precision 1/2 at the first step of recall is raised to the later 2/3.
        ([False, True, True], 2, 2 / 3),
        ([False, False], 3, 0.0),
        ([], 3, 0.0),
    ],
)
def test_average_precision_is_the_area_under_the_monotone_curve(correct, true_count, expected):
    assert average_precision(correct, true_count) == pytest.approx(expected, abs=1e-12)


def test_a_detection_takes_the_free_instance_of_its_class_that_it_overlaps_most():
    overlaps = np.array([[0.9, 0.6, 0.95], [0.8, 0.7, 0.0], [0.7, 0.6, 0.0]])
    order, correct = correct_detections(overlaps, np.array([1, 1, 1]), np.array([0.3, 0.9, 0.5]), np.array([1, 1, 2]))
    # By score 1, 2, 0: detection 1 takes instance 0, so that 2 falls back on 1; for 0 its class has no instance left.
    assert order.tolist() == [1, 2, 0]
    assert correct.tolist() == [True, True, False]


def test_a_match_needs_the_threshold_and_the_class():
    one = np.array([1])
    assert correct_detections(np.array([[0.5]]), one, one, one)[1].tolist() == [True]
    assert correct_detections(np.array([[0.49]]), one, one, one)[1].tolist() == [False]
    assert correct_detections(np.array([[0.9]]), np.array([2]), one, one)[1].tolist() == [False]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['seed']}{'-rematched' if case['rematched'] else ''}")
def test_one_images_average_precision_is_matterports(case):
    _, ids, _, found_ids, scores, overlaps = golden_case(case)
    ours = voc_average_precision(overlaps, found_ids, scores, ids, case["threshold"])
    if case["rematched"]:
        # The package counts a second detection of the best detection's instance: its value may even exceed 1.
        assert 0 < ours < case["average_precision"] and ours <= 1
    else:
        assert ours == pytest.approx(case["average_precision"], abs=1e-6)


def test_the_golden_cases_hold_both_kinds_and_the_packages_flaw_shows():
    values = {case["seed"]: case["average_precision"] for case in CASES}
    assert max(values.values()) > 1
    assert 0 < sum(case["rematched"] for case in CASES) < len(CASES) / 2
    assert len({round(value, 3) for value in values.values()}) > 10


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_overlaps_of_coco_rows_are_matterports_overlaps_of_masks(kind):
    """The golden masks fill their boxes, so that both kinds give the same."""
    for case in CASES:
        true, ids, found, found_ids, _, overlaps = golden_case(case)
        rows = [entry(box, i) for box, i in zip(found, found_ids, strict=True)]
        annotations = [entry(box, i) for box, i in zip(true, ids, strict=True)]
        np.testing.assert_allclose(coco_overlaps(rows, annotations, kind), overlaps, atol=1e-6)
    assert coco_overlaps([], [entry((0, 0, 2, 2), 1)], kind).shape == (0, 1)


A, B, C = (0, 0, 8, 8), (0, 12, 8, 20), (12, 0, 20, 8)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_a_part_is_ranked_over_all_images_and_matterports_mean_over_each(kind):
    annotations = [entry(A, 1), entry(B, 2), entry(A, 1, image=1)]
    rows = [
        entry(A, 1, score=0.9),
        entry(C, 1, image=1, score=0.8),
        entry(A, 1, image=1, score=0.7),
        entry(C, 2, image=2, score=1.0),  # on an image without parts
    ]
    scores = voc_scores(annotations, rows, {1: "wheel", 2: "door", 3: "tail"}, kind)
    # wheel: right, wrong, right of two; door: one wrong, none of one found.
    assert scores["voc_per_part"] == {"wheel": pytest.approx(0.5 + 0.5 * 2 / 3), "door": 0.0}
    assert scores["voc_map50"] == pytest.approx((0.5 + 0.5 * 2 / 3) / 2)
    # Image 0: one of two found. Image 1: wrong, right. Image 2 has no part and does not count.
    assert scores["image_map50"] == pytest.approx((0.5 + 0.5) / 2)


def test_boxes_and_masks_are_scored_apart():
    annotations, row = [entry(A, 1)], entry(A, 1, score=0.9)
    row["segmentation"] = mask_of((0, 0, 8, 3))
    names = {1: "wheel"}
    assert voc_scores(annotations, [row], names, "bbox")["voc_map50"] == 1
    assert voc_scores(annotations, [row], names, "segm")["voc_map50"] == 0


def test_the_least_overlap_can_be_raised():
    annotations, rows = [entry((0, 0, 10, 10), 1)], [entry((0, 0, 10, 6), 1, score=0.9)]
    assert voc_scores(annotations, rows, {1: "wheel"}, "bbox")["image_map50"] == 1
    assert voc_scores(annotations, rows, {1: "wheel"}, "bbox", iou_threshold=0.75)["image_map50"] == 0
