"""Table II from what is on disk: images for K, M and D, beside the paper's counts, and why they differ."""

from __future__ import annotations

from collections.abc import Mapping

from unmask_tf.files import read_json
from unmask_tf.places import PUBLISHED
from unmask_tf.report.cells import CLASS_SETS, label, ranked
from unmask_tf.report.table import MISSING, Table, beside
from unmask_tf.taxonomy import Taxonomy

_COLUMNS = {"train": "voc_imagenet_train", "val": "voc_imagenet_val", "test": "flickr_test"}


def table2_on_disk(
    parts: Mapping[str, tuple[int, int]],
    classes: Mapping[str, Mapping[str, int]],
    taxonomy: Taxonomy,
) -> Table:
    """Table II with the paper's counts in parentheses; its notes explain each kind of difference.

    Args:
        parts: split -> (images, annotated parts) of K.
        classes: class set -> split -> images of M (train, val) and D (test).
        taxonomy: the data's.
    """
    paper = read_json(PUBLISHED)
    k, m, dataset = paper["table2"]["k"], paper["table2"]["m"], paper["dataset"]
    rows = []
    if parts:
        counts = [beside(parts.get(split, (0, 0))[0], k["pascal_part"][split], 0) for split in _COLUMNS]
        rows.append(["K", MISSING, beside(len(taxonomy.parts), dataset["features"], 0), MISSING, *counts])
    for name in ranked(classes, CLASS_SETS):
        theirs = m.get(name, {})
        rows.append(
            [
                label(name, CLASS_SETS),
                beside(len(taxonomy.members(name)), theirs.get("classes"), 0),
                beside(len(taxonomy.unique_parts(name)), theirs.get("parts"), 0),
                beside(taxonomy.overlap(name), theirs.get("overlap_percent")),
                *(beside(classes[name].get(split), theirs.get(column), 0) for split, column in _COLUMNS.items()),
            ]
        )
    head = ["", "Classes", "Parts", "Overlap %", "Train", "Validation", "Test"]
    notes = tuple(_differences(parts, classes, taxonomy, k, m, dataset))
    return Table("table2", "Table II: images on disk", head, rows, notes)


def _differences(
    parts: Mapping[str, tuple[int, int]],
    classes: Mapping[str, Mapping[str, int]],
    taxonomy: Taxonomy,
    k: Mapping,
    m: Mapping,
    dataset: Mapping,
) -> list[str]:
    """What differs from the paper's counts, and why."""
    lines = []
    images, masks = (sum(counts[i] for counts in parts.values()) for i in (0, 1))
    same_parts = len(taxonomy.parts) == dataset["features"]
    if parts and (images, masks) == (dataset["pascal_part_images"], dataset["pascal_part_masks"]):
        if any(parts[split][0] != count for split, count in k["pascal_part"].items()):
            lines.append("K: all of the paper's images and masks, in another split: it shuffled an unsorted list.")
    elif parts:
        why = "" if same_parts else " These data have other parts than the paper's."
        lines.append(
            f"K: {images:,} images with {masks:,} parts; the paper has {dataset['pascal_part_images']:,} with "
            f"{dataset['pascal_part_masks']:,}.{why}"
        )
    known = {name: m[name] for name in classes if name in m}
    other = {
        name
        for name, theirs in known.items()
        if abs(taxonomy.overlap(name) - theirs["overlap_percent"]) > 0.02
        or len(taxonomy.unique_parts(name)) != theirs["parts"]
    }
    if other:
        shown = ", ".join(label(name, CLASS_SETS) for name in sorted(other))
        lines.append(f"{shown}: the data's taxonomy has other parts than the paper's.")
    for name in sorted(known.keys() - other):
        overlap, theirs = taxonomy.overlap(name), known[name]["overlap_percent"]
        if round(overlap, 2) != theirs:
            shared, unique = len(taxonomy.shared_parts(name)), len(taxonomy.unique_parts(name))
            lines.append(
                f"{label(name, CLASS_SETS)}: {shared} of {unique} parts are {overlap:.3f} %; the paper prints {theirs}."
            )
    if any(classes[name].get(split) != theirs[c] for name, theirs in known.items() for split, c in _COLUMNS.items()):
        lines.append(
            "M and D: the paper's images of ImageNet and Flickr were chosen by hand, and only the released archive has "
            "them; data from other sources have other counts."
        )
    return lines
