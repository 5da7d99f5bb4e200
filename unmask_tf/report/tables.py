"""Tables II, III, IV, the AUCs and the verdicts at a threshold: Markdown and CSV, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import (
    BENIGN,
    CLASS_SETS,
    DEFENCES,
    attack_label,
    axes,
    defences_of,
    in_order,
    label,
    rank,
    setup_labels,
)
from unmask_tf.report.line_search import write_line_search
from unmask_tf.report.overlap import overlap_files
from unmask_tf.report.per_class import per_class_files
from unmask_tf.report.published import read_published
from unmask_tf.report.results import need
from unmask_tf.report.soundness import LEGEND, mark, unsound
from unmask_tf.report.statistics import accuracies, aucs, detections, key_of, taxonomy_of, wide
from unmask_tf.report.text import MISSING, beside, markdown, number, write_files


def table4_markdown(row_sets: Sequence[RowSet]) -> str:
    """Table IV in the paper's shape: a block of PGD, one of MIA, one of other attacks, each after the benign images."""
    ours, paper, verdicts = accuracies(row_sets), read_published().accuracy, unsound(row_sets)
    setups, attacks = axes(ours.index)
    defences = defences_of(ours.index.get_level_values("defence"))
    families = [[a for a in attacks if a[0].startswith(family)] for family in ("pgd", "mia")]
    families.append([a for a in attacks if a != BENIGN and not a[0].startswith(("pgd", "mia"))])
    blocks = []
    for family in [f for f in families if f] or [[]]:
        columns = [(*attack, defence) for attack in (BENIGN, *family) for defence in defences]
        header = [attack_label(*c[:2]) if c[2] == defences[0] else "" for c in columns]
        rows = [["", "", *(f"**{label(c[2], DEFENCES)}**" for c in columns)]]
        for setup in setups:
            keys = [(*setup, *c) for c in columns]
            shown = [beside(ours.get(key), paper.get(key), mark=mark(verdicts, key)) for key in keys]
            rows.append([*setup_labels(*setup), *shown])
        blocks.append(markdown(["M", "CS", *header], rows))
    text = "\n".join(blocks)
    text += "\nOurs, with the paper's number in parentheses where the paper has that model and class set.\n"
    return text + LEGEND * ("†" in text)


def _by_attack(shown: Mapping[tuple, str]) -> str:
    """A table of texts by cell and defence: a row per model, class set and (where there are several) defence."""
    setups, attacks = axes(shown)
    names = defences_of(key[4] for key in shown)
    left = ["M", "CS", "By"] if len(names) > 1 else ["M", "CS"]
    rows = [
        [*setup_labels(*setup), label(name, DEFENCES)][: len(left)]
        + [shown.get((*setup, *attack, name), MISSING) for attack in attacks]
        for setup in setups
        for name in names
    ]
    text = markdown([*left, *(attack_label(*attack) for attack in attacks)], rows, left=len(left))
    return text + LEGEND * ("†" in text)


def auc_markdown(row_sets: Sequence[RowSet]) -> str:
    """AUC of the detection per attacked cell, the paper's in parentheses."""
    paper, verdicts = read_published().auc, unsound(row_sets)
    ours = aucs(detections(row_sets)).items()
    return _by_attack({key: beside(value, paper.get(key), 3, mark(verdicts, key)) for key, value in ours})


def table3_markdown(row_sets: Sequence[RowSet]) -> str:
    """Table III: images evaluated for detection, successful attacks and their benign twins.

    The paper gives one number per class set and attack, of epsilon 16 or 600, without naming the model.
    """
    shown, verdicts = {}, unsound(row_sets)
    for d in detections(row_sets):
        h, key = d.header, key_of(d.header)
        paper = read_published().table3.get(h.class_set, {}).get(h.attack) if h.epsilon_255 in (16, 600) else None
        shown[key] = beside(len(d.labels), paper, 0, mark(verdicts, key))
    return _by_attack(shown)


def verdicts_markdown(row_sets: Sequence[RowSet]) -> str:
    """Share of images judged adversarial at each defence's threshold, without an attack and under each; or nothing."""
    judged, verdicts = [r for r in in_order(row_sets) if r.header.threshold], unsound(row_sets)
    if not judged:
        return ""
    keys = {key_of(r.header): r for r in judged}
    table = _by_attack({k: number(100 * r.rows["flagged"].mean(), 1) + mark(verdicts, k) for k, r in keys.items()})
    notes = {}
    for h in (r.header for r in judged):
        t, where = h.threshold, [*setup_labels(h.model, h.class_set), label(h.defence, DEFENCES)]
        above = f"d ≥ {t['value']:.3g}" if t["value"] <= 1 else "d > 1, which no image has"
        notes[" ".join(where)] = (
            f"{above}, chosen on {t['n']} {t['split']} images for at most {100 * t['fpr']:.3g} % false "
            f"positives (there {100 * t['fpr_measured']:.3g} %)"
        )
    lines = "".join(f"- {where}: {note}.\n" for where, note in notes.items())
    return f"Images judged adversarial (%); without an attack these are false positives.\n\n{table}\n{lines}"


def table2_markdown(row_sets: Sequence[RowSet]) -> str:
    """Table II for the class sets of the rows: classes, parts, overlap and test images, the paper's beside them."""
    rows = []
    for name, r in sorted(
        {r.header.class_set: r for r in row_sets}.items(), key=lambda item: rank(item[0], CLASS_SETS)
    ):
        paper = read_published().table2.get(name, {})
        classes = taxonomy_of(r.header)
        row = [
            beside(len(classes.classes), paper.get("classes"), 0),
            beside(len(classes.unique_parts("all")), paper.get("parts"), 0),
            str(len(classes.shared_parts("all"))),
            beside(classes.overlap("all"), paper.get("overlap_percent")),
            beside(r.n, paper.get("flickr_test"), 0),
        ]
        rows.append([label(name, CLASS_SETS), *row])
    return markdown(["CS", "Classes", "Parts", "Shared parts", "Overlap %", "Test images"], rows, left=1)


def write_tables(folder: Path) -> list[Path]:
    """Writes Tables II, III and IV, the AUCs, and what there is of the results by class, by overlap and of the line
    search into the folder.

    Args:
        folder: `<results>/<profile>`.

    Raises:
        InputError: there is no grid, a bundle is damaged, or the folder cannot be written.
    """
    row_sets = need(folder, "grid")
    table4, found = wide(accuracies(row_sets)), detections(row_sets)
    sizes = {r.header.cell: r.n for r in row_sets}
    table4.insert(0, "n", [sizes[cell] for cell in table4.index])
    counted = aucs(found).rename("auc").to_frame()
    images = {key_of(d.header): len(d.labels) for d in found}
    counted.insert(0, "n", [images[key] for key in counted.index])
    files = {
        "table2.md": table2_markdown(row_sets),
        "table3.md": table3_markdown(row_sets),
        "table4.csv": table4.reset_index(),
        "table4.md": table4_markdown(row_sets),
        "auc.csv": counted.reset_index(),
        "auc.md": auc_markdown(row_sets),
        **overlap_files(row_sets),
        **per_class_files(row_sets),
    }
    return [*write_files(folder, files), *write_line_search(folder)]
