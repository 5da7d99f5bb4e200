"""A run's results on one screen, beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import DEFENCES, OWN_M, attack_label, axes, defences_of, label
from unmask_tf.report.overlap import our_overlap, overlap_lines
from unmask_tf.report.published import read_published
from unmask_tf.report.results import find_model_k, need
from unmask_tf.report.soundness import mark, unsound, verdict_line
from unmask_tf.report.statistics import accuracies, aucs, detections, means, wide
from unmask_tf.report.text import Table, aligned, beside, number, span


def means_table(row_sets: Sequence[RowSet], table: Table = aligned) -> str:
    """The means of every defence and the paper's two headlines, ours and the paper's."""
    paper, rows = means(read_published().accuracy), []
    for name, value in means(accuracies(row_sets)).items():
        text = " - ".join(label(part, DEFENCES) for part in name.split(" - "))
        difference = name.startswith("um - ")
        numbers = [number(side, sign=difference) for side in (value, paper.get(name))]
        rows.append([f"{text} ({'points' if difference else '%'})", *numbers])
    return table(["Mean over attacked cells", "Ours", "Paper's Table IV"], rows, 1)


def training_notes(row_sets: Sequence[RowSet]) -> str:
    """A line per defence whose adversarial training ended at its limit of epochs: its numbers say little."""
    lines = ""
    for defence in OWN_M:
        training = [r.header.training for r in row_sets if r.header.defence == defence]
        if cut := [t["epochs"] for t in training if t.get("stopped") == "epochs"]:
            name, epochs = label(defence, DEFENCES), span(cut) + (" epoch" if max(cut) == 1 else " epochs")
            lines += f"{name} not trained to convergence: {epochs}, so UM - {name} says little.\n"
    return lines


def summary(folder: Path) -> str:
    """The results of `<results>/<profile>` for the console: means per attack, ours with the paper's in parentheses.

    Raises:
        InputError: there is no grid, or a file is damaged.
    """
    row_sets, model_k, published = need(folder, "grid"), find_model_k(folder), read_published()
    accuracy, verdicts, area = accuracies(row_sets), unsound(row_sets), aucs(detections(row_sets))
    setups, attacks = axes(accuracy.index)
    ours = wide(accuracy)
    paper = published.accuracy[published.accuracy.index.isin(accuracy.index)]
    by_attack, paper_by_attack = (
        n.groupby(level=["attack", "epsilon_255", "defence"]).mean() for n in (accuracy, paper)
    )
    detector = next(iter(defences_of(area.index.get_level_values("defence"))), "")
    rows = []
    for attack in attacks:
        row = [attack_label(*attack)]
        for defence in ours:
            unsafe = any(mark(verdicts, (*setup, *attack, defence)) for setup in setups)
            key = (*attack, defence)
            row.append(beside(by_attack.get(key), paper_by_attack.get(key), mark="†" * unsafe))
        cells = [(*setup, *attack) for setup in setups]
        if "um" in ours:
            row.append(number(ours["um"].reindex(cells).min()))
        rows.append([*row, span((value for key, value in area.dropna().items() if key[2:] == (*attack, detector)), 3)])
    header = ["Attack", *(label(name, DEFENCES) for name in ours), *["UM, worst cell"] * ("um" in ours), "AUC"]
    parts = [
        f"Profile {folder.name}, data {row_sets[0].header.data}: accuracy, mean over M and class sets ({len(setups)} "
        "pairs); the paper's in parentheses\n",
        aligned(header, rows, left=1),
        means_table(row_sets),
        training_notes(row_sets) + overlap_lines(our_overlap(row_sets)) + verdict_line(row_sets),
    ]
    if model_k is not None:
        parts[-1] += f"\nK: mAP at IoU 0.5 {beside(model_k['map50'], published.map)}"
    return "\n".join(parts) + "\n"
