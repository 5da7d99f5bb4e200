"""mAP of model K, by pycocotools: box and mask, COCO's and VOC's (IoU .5), per part (Section IV-A)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from unmask_tf.data.part_instances import PartDataset
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.voc import voc_scores
from unmask_tf.mrcnn.weights import check_parts, load_weights


def _encode(mask: np.ndarray) -> dict[str, Any]:
    return rle.encode(np.asfortranarray(mask.astype(np.uint8)))


def _coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def ground_truth(dataset: PartDataset, count: int) -> tuple[COCO, bool]:
    """The first `count` images' parts as a COCO index, and whether every part has a mask.

    Category ids are class indices (taxonomy position + 1).
    """
    images, annotations, all_masks = [], [], True
    for i in range(count):
        image = dataset.images[i]
        images.append({"id": i, "height": image.height, "width": image.width})
        class_ids, boxes, masks, has_mask = dataset.load_instances(i)
        all_masks = all_masks and bool(has_mask.all())
        for row, (class_id, (y1, x1, y2, x2)) in enumerate(zip(class_ids, boxes.tolist(), strict=True)):
            mask = masks[..., row]
            if not has_mask[row]:
                mask = np.zeros((image.height, image.width), bool)
                mask[y1:y2, x1:x2] = True
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(class_id),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": _encode(mask),
                }
            )
    categories = [{"id": i + 1, "name": part} for i, part in enumerate(dataset.taxonomy.parts)]
    return _coco({"images": images, "annotations": annotations, "categories": categories}), all_masks


def detections_as_coco(results: Sequence[dict[str, np.ndarray]], first_image: int) -> list[dict[str, Any]]:
    """Results of `MaskRCNN.detect` as COCO result rows."""
    rows = []
    for offset, result in enumerate(results):
        for index, (y1, x1, y2, x2) in enumerate(result["rois"].tolist()):
            row = {
                "image_id": first_image + offset,
                "category_id": int(result["class_ids"][index]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(result["scores"][index]),
            }
            if "masks" in result:
                row["segmentation"] = _encode(result["masks"][..., index])
            rows.append(row)
    return rows


def mean_average_precision(truth: COCO, rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """COCO's mAP of result rows.

    Args:
        kind: `bbox` or `segm`.

    Returns:
        `map50` (IoU .5), `map` (mean over IoU .50:.95), `per_part` {part: AP at .5}; parts without ground
        truth are left out.
    """
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    present = sorted({annotation["category_id"] for annotation in truth.dataset["annotations"]})
    if not present:
        raise InputError("no annotated part in the evaluated images. Evaluate more images or another split.")
    if not rows:
        return {"map50": 0.0, "map": 0.0, "per_part": {names[i]: 0.0 for i in present}}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes([dict(row) for row in rows]), kind)
        evaluation.params.catIds = present
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][
        :, :, :, 0, -1
    ]  # IoU, recall, category; all areas, the largest number of detections
    per_part = {names[i]: float(precision[0, :, k].mean()) for k, i in enumerate(present)}
    return {"map50": float(np.mean(list(per_part.values()))), "map": float(precision.mean()), "per_part": per_part}


def _scores(truth: COCO, rows: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    return {
        **mean_average_precision(truth, rows, kind),
        **voc_scores(truth.dataset["annotations"], rows, names, kind),
    }


class Detector(Protocol):
    """A K that detects, such as `MaskRCNN` in inference mode."""

    def detect(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]: ...

    def detect_boxes(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]: ...


def evaluate(
    model: Detector,
    dataset: PartDataset,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Evaluates K on annotated images.

    Args:
        model: K.
        dataset: annotated images.
        limit: at most this many images, evenly spaced in the dataset; None: all.
        batch_size: images at a time; the last batch is padded.
        progress: called after every batch with the share of the images that is done; None: a progress bar.

    Returns:
        `map50`, `map` and `per_part` (see `mean_average_precision`) and `voc_map50`, `voc_per_part` and `image_map50`
        (see `voc_scores`) of masks where every part has one, else of boxes; the same with suffix `_bbox` for boxes;
        `iou_type`; `n_images`.

    Raises:
        InputError: an image cannot be read, or the images have no annotated part.
    """
    dataset = dataset.spread(limit)
    count = len(dataset)
    truth, all_masks = ground_truth(dataset, count)
    detect = model.detect if all_masks else model.detect_boxes
    rows: list[dict[str, Any]] = []
    starts = range(0, count, batch_size)
    for start in tqdm(starts, desc="K mAP", unit="batch", leave=False, disable=progress is not None):
        images = [dataset.load_image(i) for i in range(start, min(start + batch_size, count))]
        padded = images + [images[-1]] * (batch_size - len(images))
        rows += detections_as_coco(detect(padded)[: len(images)], start)
        if progress is not None:
            progress((start + len(images)) / count)
    boxes = _scores(truth, rows, "bbox")
    best = _scores(truth, rows, "segm") if all_masks else boxes
    return {
        **best,
        **{f"{name}_bbox": value for name, value in boxes.items()},
        "iou_type": "segm" if all_masks else "bbox",
        "n_images": count,
    }


def evaluate_parts(
    config: Config,
    weights: str | Path,
    dataset: PartDataset,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """`evaluate` for a weights file. As Matterport evaluates, every detection counts, and the score ranks it.

    Args:
        config: K's settings; its DETECTION_MIN_CONFIDENCE plays no part.
        weights: a Matterport-layout `.h5`.
        dataset: annotated images; the weights must be of its taxonomy's parts.
        limit, batch_size, progress: see `evaluate`.

    Raises:
        InputError: as `evaluate`; or weights that do not fit the configuration or the parts.
    """
    model = MaskRCNN("inference", config.replace(DETECTION_MIN_CONFIDENCE=0.0), Path(weights).parent)
    load_weights(model.keras_model, weights)
    check_parts(weights, dataset.taxonomy.parts)
    return evaluate(model, dataset, limit=limit, batch_size=batch_size, progress=progress)
