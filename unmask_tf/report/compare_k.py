"""Two K's on the same images, such as the released one and ours: mAP, part sets, UnMask's accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unmask_tf.defense.alignment import jaccard
from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import attack_label, cell_labels, in_order
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import share
from unmask_tf.report.table import Number, Table, markdown

_MAPS = {
    "map50": "mAP at IoU 0.5",
    "map": "mAP, IoU 0.50 to 0.95",
    "map50_bbox": "boxes: mAP at IoU 0.5",
    "map_bbox": "boxes: mAP, IoU 0.50 to 0.95",
}


def compare_table(ours: list[RowSet], given: list[RowSet], notes: Sequence[str] = ()) -> Table:
    """One row per cell that both have; two empty sets of parts have a similarity of 1.

    Raises:
        InputError: the two were shown different images.
    """
    other, rows = {r.header.cell: r for r in given}, []
    for r in (r for r in in_order(ours) if r.header.cell in other):
        g = other[r.header.cell]
        if list(r.rows["image"]) != list(g.rows["image"]):
            raise InputError(f"the two K's saw different images ({attack_label(*r.header.cell[2:])}). Compare again.")
        pairs = list(zip(r.part_sets(), g.part_sets(), strict=True))
        overlap = float(np.mean([1.0 if a == b else jaccard(a, b) for a, b in pairs]))
        same = float(np.mean([a == b for a, b in pairs]))
        numbers = [Number(overlap, digits=3), *(share(k.accuracy, k.n) for k in (r, g))]
        rows.append([*cell_labels(r.header.cell), Number(r.n, digits=0), share(same, r.n), *numbers])
    head = ["M", "CS", "Images", "n", "Same parts", "Jaccard", "UM ours", "UM given"]
    return Table("compare_k", "Two K's on the same images", head, rows, notes, "compare_k")


def compare_k(folder: Path) -> str:
    """Writes the tables of the comparison into `<results>/<profile>`; returns them as Markdown.

    The bundle's first row set is of our K; the other K is the given one.

    Raises:
        InputError: there is no such comparison or it is not of two K's, a file is damaged or cannot be written.
    """
    results = Results(folder)
    row_sets = results.need("compare_k")
    names = list(dict.fromkeys(r.header.extractor for r in row_sets))
    if len(names) != 2:
        again = results.how_to_make("compare_k")
        raise InputError(f"{folder / 'rows'} compares {len(names)} K's, not two. Run: {again}")
    both = [results.model_k(name) for name in ("model_k_ours", "model_k_given")]
    notes = [
        f"Ours: {names[0]}; given: {names[1]}.",
        "Same parts: share of images in which both K's saw the same set. Jaccard: mean similarity of the two sets. UM: "
        "accuracy of UnMask by that K alone, as in Table IV.",
    ]
    if not all(both):
        notes.append("The data has no part annotations of a test split, so there is no mAP.")
    table = compare_table(*([r for r in row_sets if r.header.extractor == name] for name in names), notes)
    maps = [[text, *(Number(k.get(name), digits=3) for k in both)] for name, text in _MAPS.items()] if all(both) else []
    head = ["K on the test split", "Ours", "Given"]
    tables = [
        table,
        *[Table("compare_k_map", "Average precision of two K's", head, maps, (), "compare_k")] * bool(maps),
    ]
    results.write(tables)
    return "\n".join(f"**{made.title}**\n\n{markdown(made)}" for made in tables)
