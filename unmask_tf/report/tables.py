"""Tables II, III, IV, the AUCs and the verdicts at a threshold: Markdown and CSV, beside the paper's numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from unmask_tf.experiment.rows import RowSet
from unmask_tf.files import write_text
from unmask_tf.report.cells import (
    BENIGN,
    CELL,
    CLASS_SETS,
    DEFENCES,
    Cell,
    attack_label,
    axes,
    defences_of,
    in_order,
    label,
    rank,
    setup_labels,
)
from unmask_tf.report.published import read_published
from unmask_tf.report.results import need
from unmask_tf.report.soundness import mark, unsound
from unmask_tf.report.statistics import accuracies, aucs, detections, lookup, wide
from unmask_tf.report.text import MISSING, beside, csv, markdown, number

_LEGEND = "\n† The attack failed a check, so the number says little of robustness; report.md names the checks.\n"


def with_legend(text: str) -> str:
    """The text, with what its daggers mean."""
    return text + (_LEGEND if "†" in text else "")


def table4_markdown(row_sets: Sequence[RowSet]) -> str:
    """Table IV in the paper's shape: a block of PGD, one of MIA, one of other attacks, each after the benign images."""
    ours, paper = lookup(accuracies(row_sets), "accuracy"), lookup(read_published().numbers, "accuracy")
    verdicts = unsound(row_sets)
    setups, attacks = axes(cell for cell, _ in ours)
    defences = defences_of(defence for _, defence in ours)
    families = [[a for a in attacks if a[0].startswith(family)] for family in ("pgd", "mia")]
    families.append([a for a in attacks if a != BENIGN and not a[0].startswith(("pgd", "mia"))])
    blocks = []
    for family in [f for f in families if f] or [[]]:
        columns = [(attack, defence) for attack in (BENIGN, *family) for defence in defences]
        header = [attack_label(*attack) if defence == defences[0] else "" for attack, defence in columns]
        rows = [["", "", *(f"**{label(defence, DEFENCES)}**" for _, defence in columns)]]
        for setup in setups:
            cells = [((*setup, *attack), defence) for attack, defence in columns]
            shown = [beside(ours.get(key), paper.get(key), mark=mark(verdicts, *key)) for key in cells]
            rows.append([*setup_labels(*setup), *shown])
        blocks.append(markdown(["M", "CS", *header], rows))
    text = "\n".join(blocks)
    text += "\nOurs, with the paper's number in parentheses where the paper has that model and class set.\n"
    return with_legend(text)


def _by_attack(cells: Sequence[tuple[Cell, str]], show: Callable[[Cell, str], str], attacks: Sequence = ()) -> str:
    """A table with a row per model, class set and (where there are several) detector, a column per attack."""
    setups, found = axes(cell for cell, _ in cells)
    names = defences_of(defence for _, defence in cells)
    attacks = list(attacks) or found
    several = len(names) > 1
    rows = [
        [*setup_labels(*setup), *([label(name, DEFENCES)] if several else [])]
        + [show((*setup, *attack), name) for attack in attacks]
        for setup in setups
        for name in names
    ]
    header = ["M", "CS", *(["By"] if several else []), *(attack_label(*attack) for attack in attacks)]
    return with_legend(markdown(header, rows, left=3 if several else 2))


def auc_markdown(row_sets: Sequence[RowSet]) -> str:
    """AUC of the detection per attacked cell, the paper's in parentheses."""
    ours, paper = lookup(aucs(detections(row_sets)), "auc"), lookup(read_published().numbers, "auc")
    verdicts = unsound(row_sets)
    return _by_attack(
        list(ours),
        lambda cell, name: beside(
            ours.get((cell, name)),
            paper.get((cell, name)),
            digits=3,
            mark=mark(verdicts, cell, name) if (cell, name) in ours else "",
        ),
    )


def table3_markdown(row_sets: Sequence[RowSet]) -> str:
    """Table III: images evaluated for detection, successful attacks and their benign twins.

    The paper gives one number per class set and attack, of epsilon 16 or 600, without naming the model.
    """
    ours, verdicts = lookup(aucs(detections(row_sets)), "auc", "n"), unsound(row_sets)

    def show(cell: Cell, name: str) -> str:
        count = ours.get((cell, name))
        paper = read_published().table3.get(cell[1], {}).get(cell[2]) if cell[3] in (16, 600) else None
        shown = MISSING if count is None else f"{count:g}" + mark(verdicts, cell, name)
        return shown + ("" if paper is None else f" ({paper})")

    return _by_attack(list(ours), show)


def verdicts_markdown(row_sets: Sequence[RowSet]) -> str:
    """Share of images judged adversarial at each defence's threshold, without an attack and under each; or nothing."""
    judged = {(r.header.cell, r.header.defence): r for r in in_order(row_sets) if r.header.threshold}
    if not judged:
        return ""
    attacks = axes(cell for cell, _ in judged)[1]
    shares = {key: 100 * float(r.rows["flagged"].mean()) for key, r in judged.items()}
    marks = unsound(row_sets)
    table = _by_attack(
        list(judged),
        lambda c, name: number(shares[c, name], 1) + mark(marks, c, name) if (c, name) in shares else MISSING,
        attacks,
    )
    lines = {}
    for r in judged.values():
        h, t = r.header, r.header.threshold
        where = " ".join([*setup_labels(h.model, h.class_set), label(h.defence, DEFENCES)])
        lines[where] = (
            f"- {where}: d ≥ {t['value']:.3g}, chosen on {t['n']} {t['split']} images for at most "
            f"{100 * t['fpr']:.3g} % false positives (measured there: {100 * t['fpr_measured']:.3g} %).\n"
        )
    return f"Images judged adversarial (%); without an attack these are false positives.\n\n{table}\n" + "".join(
        lines.values()
    )


def table2_markdown(row_sets: Sequence[RowSet]) -> str:
    """Table II for the class sets of the rows: classes, parts, overlap and test images, the paper's beside them."""
    found = {r.header.class_set: r for r in row_sets}
    rows = []
    for name in sorted(found, key=lambda name: rank(name, CLASS_SETS)):
        expected, paper = found[name].header.classes, read_published().table2.get(name, {})
        counts = Counter(part for parts in expected.values() for part in set(parts))
        shared = sum(count > 1 for count in counts.values())
        rows.append(
            [
                label(name, CLASS_SETS),
                beside(len(expected), paper.get("classes"), digits=0),
                beside(len(counts), paper.get("parts"), digits=0),
                str(shared),
                beside(100 * shared / len(counts) if counts else 0.0, paper.get("overlap_percent")),
                beside(found[name].n, paper.get("flickr_test"), digits=0),
            ]
        )
    return markdown(["CS", "Classes", "Parts", "Shared parts", "Overlap %", "Test images"], rows, left=1)


def write_tables(folder: Path) -> list[Path]:
    """Writes Tables II, III and IV, the AUCs and, where there is one, the line search's table into the run's folder.

    Args:
        folder: `<results>/<profile>`.

    Raises:
        InputError: there is no grid, a bundle is damaged, or the folder cannot be written.
    """
    row_sets = need(folder, "grid")
    texts = {
        "table2.md": table2_markdown(row_sets),
        "table3.md": table3_markdown(row_sets),
        "table4.csv": csv(wide(accuracies(row_sets))),
        "table4.md": table4_markdown(row_sets),
        "auc.csv": csv(aucs(detections(row_sets))[[*CELL, "defence", "n", "value"]].rename(columns={"value": "auc"})),
        "auc.md": auc_markdown(row_sets),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]
