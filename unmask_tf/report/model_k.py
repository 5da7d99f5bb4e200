"""Model K's evaluation: every average precision, part by part and class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.table import MISSING, Number, Table, number

# Column title, key of the mean and key of the per-part values in model_k.json.
_COLUMNS = (
    ("COCO .5", "map50", "per_part"),
    ("VOC .5", "voc_map50", "voc_per_part"),
    ("box COCO .5", "map50_bbox", "per_part_bbox"),
    ("box VOC .5", "voc_map50_bbox", "voc_per_part_bbox"),
)
_LINES = {
    "map": "mAP over IoU 0.5 to 0.95",
    "image_map50": "Mean over images at IoU 0.5 (Matterport's compute_ap)",
}
LEAST_SHARE = 0.5
"""Of the mean AP, that the mean over each class's parts should reach."""


def part_table(model_k: Mapping[str, Any]) -> Table:
    """The content of model_k.json.

    One row a part with its instances in the images (n, where the file counts them) and its AP at IoU 0.5 (COCO's 101
    points, VOC's area), of masks (where K was scored by them) and of boxes; last the means. Columns that the file
    lacks, and the boxes' columns where K was scored by boxes alone, are left out.
    """
    masks = model_k.get("iou_type") == "segm"
    columns = [c for c in _COLUMNS if c[2] in model_k and (masks or not c[0].startswith("box"))]
    counts, paper = model_k.get("instances"), {"map50": read_published().map}
    parts = sorted({part for _, _, key in columns for part in model_k[key]})
    rows: list[list[str | Number]] = []
    for part in parts:
        rows.append([part, *(Number(model_k[key].get(part), digits=3) for _, _, key in columns)])
    rows.append(["mean", *(Number(model_k.get(mean), paper.get(mean), digits=3) for _, mean, _ in columns)])
    head = ["Part", *(title for title, _, _ in columns)]
    if counts:
        head.insert(1, "n")
        for name, row in zip((*parts, None), rows, strict=True):
            row.insert(1, Number(counts.get(name, 0) if name else sum(counts.values()), digits=0))
    notes = []
    for name, title in _LINES.items():
        boxes = f" (boxes {number(model_k[f'{name}_bbox'], 3)})" if masks and f"{name}_bbox" in model_k else ""
        if name in model_k:
            notes.append(f"{title}: {number(model_k[name], 3)}{boxes}.")
    return Table("model_k", "Model K: average precision by part", head, rows, notes)


def class_table(model_k: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> Table:
    """Each class's mean AP at IoU 0.5 (COCO's) over its expected parts, and whether it is half of the mean over all.

    Parts without an instance in the evaluated images have no AP and are left out; the table says how many remain.
    """
    rows, least = [], LEAST_SHARE * model_k["map50"]
    for name, expected in sorted(classes.items()):
        scored = [model_k["per_part"][part] for part in expected if part in model_k["per_part"]]
        mean = sum(scored) / len(scored) if scored else None
        verdict = MISSING if mean is None else "yes" if mean >= least else "NO"
        rows.append([name, f"{len(scored)} of {len(expected)}", Number(mean, digits=3), verdict])
    head = ["Class", "Parts scored", "Mean COCO .5", f"At least {number(least, 3)}"]
    return Table("model_k_classes", "Model K: average precision by class", head, rows)


def model_k_tables(results: Results) -> list[Table]:
    """Both tables; none where K has not been evaluated."""
    model_k = results.model_k()
    if model_k is None:
        return []
    classes = {name: parts for r in results.grid for name, parts in r.header.classes.items()}
    return [part_table(model_k), *([class_table(model_k, classes)] if "per_part" in model_k else [])]
