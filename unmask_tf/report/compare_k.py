"""Two K's on the same images, such as the released one and ours: mAP, part sets, UnMask's accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from unmask_tf.defense.alignment import jaccard
from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import CELL, attack_label, in_order, setup_labels
from unmask_tf.report.results import find_model_k, how_to_make, need
from unmask_tf.report.text import markdown, number, write_files

_MAPS = {
    "map50": "mAP at IoU 0.5",
    "map": "mAP, IoU 0.50 to 0.95",
    "map50_bbox": "boxes: mAP at IoU 0.5",
    "map_bbox": "boxes: mAP, IoU 0.50 to 0.95",
}


def compare_table(ours: list[RowSet], given: list[RowSet]) -> pd.DataFrame:
    """One row per cell that both have: the cell, n, same (share of images in which both see the same parts), jaccard
    (mean similarity of the two sets, 1 for two empty ones), um_ours and um_given (UnMask's accuracy).

    Raises:
        InputError: the two were shown different images.
    """
    other, rows = {r.header.cell: r for r in given}, []
    for r in (r for r in in_order(ours) if r.header.cell in other):
        g = other[r.header.cell]
        if list(r.rows["image"]) != list(g.rows["image"]):
            raise InputError(f"the two K's saw different images ({attack_label(*r.header.cell[2:])}). Compare again.")
        pairs = list(zip(r.part_sets(), g.part_sets(), strict=True))
        overlap = np.mean([1.0 if a == b else jaccard(a, b) for a, b in pairs])
        same = np.mean([a == b for a, b in pairs])
        rows.append((*r.header.cell, r.n, same, overlap, r.accuracy, g.accuracy))
    return pd.DataFrame(rows, columns=[*CELL, "n", "same", "jaccard", "um_ours", "um_given"])


def compare_k(folder: Path) -> str:
    """Writes compare_k.md and compare_k.csv into `<results>/<profile>`; returns the Markdown.

    The bundle's first row set is of our K; the other K is the given one.

    Raises:
        InputError: there is no such comparison or it is not of two K's, a file is damaged or cannot be written.
    """
    row_sets = need(folder, "compare_k")
    names = list(dict.fromkeys(r.header.extractor for r in row_sets))
    if len(names) != 2:
        again = how_to_make(folder, "compare_k")
        raise InputError(f"{folder / 'rows'} compares {len(names)} K's, not two. Run: {again}")
    table = compare_table(*([r for r in row_sets if r.header.extractor == name] for name in names))
    both = [find_model_k(folder, name) for name in ("model_k_ours", "model_k_given")]
    maps = "The data has no part annotations of a test split, so there is no mAP.\n"
    if all(both):
        rows = [[text, *(number(k.get(name), 3) for k in both)] for name, text in _MAPS.items()]
        maps = markdown(["K on the test split", "Ours", "Given"], rows, left=1)
    rows = []
    for *cell, n, same, overlap, ours, given in table.itertuples(index=False):
        numbers = [str(n), f"{100 * same:.1f} %", number(overlap, 3), number(ours), number(given)]
        rows.append([*setup_labels(*cell[:2]), attack_label(*cell[2:]), *numbers])
    parts = [
        f"# Two K's on the same images: profile `{folder.name}`\n\n- ours: {names[0]}\n- given: {names[1]}\n",
        maps,
        markdown(["M", "CS", "Images", "n", "Same parts", "Jaccard", "UM ours", "UM given"], rows, left=3),
        "Same parts: images in which both K's saw the same set. Jaccard: mean similarity of the two sets. UM: accuracy "
        "of UnMask by that K alone, as in Table IV. For mAP every score counts.\n",
    ]
    write_files(folder, {"compare_k.md": "\n".join(parts), "compare_k.csv": table})
    return "\n".join(parts)
