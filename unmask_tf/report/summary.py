"""A run's results on one screen, beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import CELL, DEFENCES, OWN_M, attack_label, axes, label
from unmask_tf.report.published import read_published
from unmask_tf.report.results import find_model_k, need
from unmask_tf.report.soundness import unsound, verdict_line
from unmask_tf.report.statistics import accuracies, aucs, detections, means, same_cells, wide
from unmask_tf.report.text import aligned, beside, number, span

MEANS_HEADER = ("Mean over attacked cells", "Ours", "Paper's Table IV")


def means_rows(row_sets: Sequence[RowSet]) -> list[list[str]]:
    """The means of every defence and the paper's two headlines, ours and the paper's."""
    ours, paper = means(accuracies(row_sets)), means(read_published().numbers)
    rows = []
    for name, value in ours.items():
        difference = " - " in name
        text = " - ".join(label(part, DEFENCES) for part in name.split(" - "))
        both = [number(side, sign=difference) for side in (value, paper.get(name))]
        rows.append([f"{text} ({'points' if difference else '%'})", *both])
    return rows


def training_notes(row_sets: Sequence[RowSet]) -> list[str]:
    """A sentence per defence whose adversarial training ended at its limit of epochs: what it is compared with."""
    notes = []
    for defence in OWN_M:
        training = [r.header.training for r in row_sets if r.header.defence == defence]
        cut = [t["epochs"] for t in training if t.get("stopped") == "epochs"]
        if cut:
            name, epochs = label(defence, DEFENCES), span(cut)
            notes.append(
                f"{name} not trained to convergence: {epochs} epoch{'' if epochs == '1' else 's'}, so UM - {name} says "
                "little."
            )
    return notes


def summary(folder: Path) -> str:
    """The results of `<results>/<profile>` for the console: means per attack, ours with the paper's in parentheses.

    Raises:
        InputError: there is no grid, or a file is damaged.
    """
    row_sets, model_k, paper = need(folder, "grid"), find_model_k(folder), read_published()
    numbers = accuracies(row_sets)
    ours, theirs = wide(numbers), wide(same_cells(paper.numbers, numbers))
    areas = aucs(detections(row_sets))
    failed = {cell[2:] + (whose,) for cell, whose in unsound(row_sets)}
    defences = list(ours.columns[len(CELL) + 1 :])
    rows = []
    for attack in axes(cell for cell, _ in ((r.header.cell, 0) for r in row_sets))[1]:
        mine, other, area = (
            f[(f["attack"] == attack[0]) & (f["epsilon_255"] == attack[1])] for f in (ours, theirs, areas)
        )
        row = [attack_label(*attack)]
        for defence in defences:
            mark = "†" if (*attack, defence if defence in OWN_M else "none") in failed else ""
            row.append(beside(mine[defence].mean(), other[defence].mean() if defence in other else None, mark=mark))
        worst = [number(mine["um"].min())] if "um" in defences else []
        rows.append([*row, *worst, span(area["value"].dropna(), 3)])
    header = [
        "Attack",
        *(label(name, DEFENCES) for name in defences),
        *(["UM, worst cell"] if "um" in defences else []),
    ]
    setups = axes(r.header.cell for r in row_sets)[0]
    parts = [
        f"Profile {folder.name}, data {row_sets[0].header.data}: accuracy, mean of {len(setups)} M and class sets (paper's "
        "in parentheses)\n",
        aligned([*header, "AUC"], rows, left=1),
        aligned(MEANS_HEADER, means_rows(row_sets), left=1),
        "".join(f"{line}\n" for line in training_notes(row_sets)) + verdict_line(row_sets),
    ]
    if model_k is not None:
        parts[-1] += f"\nK: mAP at IoU 0.5 {beside(model_k['map50'], paper.map)}"
    return "\n".join(parts) + f"\nEvery cell, every check and the figures: {folder / 'report.md'}\n"
