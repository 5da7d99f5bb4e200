"""Model K's evaluation: every average precision, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unmask_tf.report.text import MISSING, Table, aligned, number

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


def part_table(model_k: Mapping[str, Any], table: Table = aligned) -> str:
    """The content of model_k.json as a table.

    One row a part with its instances in the images (n, where the file counts them) and its AP at IoU 0.5 (COCO's 101
    points, VOC's area), of masks (where K was scored by them) and of boxes; then the means, and a line with COCO's mAP
    over IoU 0.5 to 0.95 and Matterport's mean over images. Columns that the file lacks, and the boxes' columns where K
    was scored by boxes alone, are left out.
    """
    masks = model_k.get("iou_type") == "segm"
    columns = [c for c in _COLUMNS if c[2] in model_k and (masks or not c[0].startswith("box"))]
    parts = sorted({part for _, _, key in columns for part in model_k[key]})
    rows = [[part, *(number(model_k[key].get(part), 3) for _, _, key in columns)] for part in parts]
    rows.append(["mean", *(number(model_k.get(mean), 3) for _, mean, _ in columns)])
    header = ["part", *(title for title, _, _ in columns)]
    if counts := model_k.get("instances"):
        header.insert(1, "n")
        for row in rows:
            row.insert(1, str(counts.get(row[0], 0) if row[0] != "mean" else sum(counts.values())))
    text = table(header, rows, 1)
    for name, title in _LINES.items():
        boxes = f" (boxes {number(model_k[f'{name}_bbox'], 3)})" if masks and f"{name}_bbox" in model_k else ""
        text += f"\n{title}: {number(model_k[name], 3)}{boxes}.\n" if name in model_k else ""
    return text


def class_table(model_k: Mapping[str, Any], classes: Mapping[str, Sequence[str]], table: Table = aligned) -> str:
    """Each class's mean AP at IoU 0.5 (COCO's) over its expected parts, and whether it is half of the mean over all.

    Parts without an instance in the evaluated images have no AP and are left out; the table says how many remain.
    """
    rows, least = [], LEAST_SHARE * model_k["map50"]
    for name, expected in sorted(classes.items()):
        scored = [model_k["per_part"][part] for part in expected if part in model_k["per_part"]]
        mean = sum(scored) / len(scored) if scored else None
        verdict = MISSING if mean is None else "yes" if mean >= least else "NO"
        rows.append([name, f"{len(scored)} of {len(expected)}", number(mean, 3), verdict])
    return table(["class", "parts scored", "mean COCO .5", f"at least {number(least, 3)}"], rows, 1)
