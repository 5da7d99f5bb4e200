"""Average precision as PASCAL VOC has it since 2010 and as Matterport's notebooks print it: the area under precision,
made monotone, over recall. (COCO samples the same curve at 101 points; see `evaluate`.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle


def average_precision(correct: Sequence[bool] | np.ndarray, true_count: int) -> float:
    """Area under the monotone precision-recall curve.

    Args:
        correct: bool (D,), the detections by falling score: is each one right?
        true_count: annotated instances, at least 1.
    """
    found = np.cumsum(np.asarray(correct, bool))
    if not found.size:
        return 0.0
    precision = found / (np.arange(found.size) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall grows by 1 / true_count at each correct detection and stays elsewhere.
    return float(best_from_here[np.asarray(correct, bool)].sum() / true_count)


def correct_detections(
    overlaps: np.ndarray,
    class_ids: np.ndarray,
    scores: np.ndarray,
    true_class_ids: np.ndarray,
    iou_threshold: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Matches one image's detections, best score first, each to the instance of its class that it overlaps most among
    those not matched yet.

    Args:
        overlaps: IoU (D, G) of detections and annotated instances, of boxes or of masks.
        class_ids, scores: (D,).
        true_class_ids: (G,).
        iou_threshold: least IoU of a match.

    Returns:
        order int (D,): detections by falling score, equal ones as they came; correct bool (D,), in that order.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    free = np.ones(len(true_class_ids), bool)
    correct = np.zeros(len(order), bool)
    for rank, row in enumerate(order):
        usable = free & (true_class_ids == class_ids[row]) & (overlaps[row] >= iou_threshold)
        if usable.any():
            free[np.where(usable, overlaps[row], -1.0).argmax()] = False
            correct[rank] = True
    return order, correct


def voc_average_precision(
    overlaps: np.ndarray,
    class_ids: np.ndarray,
    scores: np.ndarray,
    true_class_ids: np.ndarray,
    iou_threshold: float = 0.5,
) -> float:
    """One image's average precision over all classes together: Matterport's `utils.compute_ap`.

    Arguments as of `correct_detections`; at least one annotated instance. Where the package counts a second detection
    of the instance that its best detection found as right too (its test `gt_match[j] > 0` misses index 0), this does
    not.
    """
    _, correct = correct_detections(overlaps, class_ids, scores, true_class_ids, iou_threshold)
    return average_precision(correct, len(true_class_ids))


def coco_overlaps(rows: Sequence[dict[str, Any]], annotations: Sequence[dict[str, Any]], kind: str) -> np.ndarray:
    """IoU float64 (D, G) of COCO result rows and annotations of one image; `kind` is `bbox` or `segm`."""
    if not rows or not annotations:
        return np.zeros((len(rows), len(annotations)))
    field = "bbox" if kind == "bbox" else "segmentation"
    return rle.iou([row[field] for row in rows], [a[field] for a in annotations], [0] * len(annotations))


def voc_scores(
    annotations: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    names: dict[int, str],
    kind: str,
    iou_threshold: float = 0.5,
) -> dict[str, Any]:
    """VOC-style average precisions of a data set.

    Args:
        annotations: COCO annotations, at least one.
        rows: COCO result rows.
        names: category id -> part.
        kind: `bbox` or `segm`.

    Returns:
        `voc_per_part` {part: AP}, a part's detections ranked over all images, for annotated parts; `voc_map50`, their
        mean; `image_map50`, the mean over images with parts of `voc_average_precision` (Matterport's evaluation).
    """
    true_of, found_of = defaultdict(list), defaultdict(list)
    for annotation in annotations:
        true_of[annotation["image_id"]].append(annotation)
    for row in rows:
        found_of[row["image_id"]].append(row)
    ranked: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    by_image = []
    for image in sorted(true_of.keys() | found_of.keys()):
        true, found = true_of[image], found_of[image]
        ids = np.array([row["category_id"] for row in found], int)
        scores = np.array([row["score"] for row in found], float)
        true_ids = np.array([annotation["category_id"] for annotation in true], int)
        order, correct = correct_detections(coco_overlaps(found, true, kind), ids, scores, true_ids, iou_threshold)
        for row, right in zip(order, correct, strict=True):
            ranked[int(ids[row])].append((float(scores[row]), bool(right)))
        if true:
            by_image.append(average_precision(correct, len(true)))
    counts = defaultdict(int)
    for annotation in annotations:
        counts[annotation["category_id"]] += 1
    per_part = {}
    for part in sorted(counts):
        found = sorted(ranked[part], key=lambda pair: -pair[0])
        per_part[names[part]] = average_precision([right for _, right in found], counts[part])
    return {
        "voc_map50": float(np.mean(list(per_part.values()))),
        "voc_per_part": per_part,
        "image_map50": float(np.mean(by_image)),
    }
