"""Results class by class: accuracies, what UM takes attacked images for, and the parts that K misses or invents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import CLASS_SETS, DEFENCES, grouped, in_order, label, setup_labels
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import share
from unmask_tf.report.table import MISSING, Number, Table

NO_ANSWER = "no answer"


def _by(row_sets: Sequence[RowSet], names: Sequence[str], depth: int) -> dict[tuple, list[RowSet]]:
    """The row sets of some defences by the first `depth` of (model, class_set, defence), in the paper's order."""
    chosen = [r for r in in_order(row_sets) if r.header.defence in names]
    return grouped(chosen, lambda r: (r.header.model, r.header.class_set, r.header.defence)[:depth])


def _taken_for(group: Sequence[RowSet], name: str) -> str:
    """The wrong answers to a class's attacked images, most frequent first."""
    rows = [r.rows[(r.rows["true"] == name) & ~r.right] for r in group if r.header.attack != "none"]
    total = sum(int((r.rows["true"] == name).sum()) for r in group if r.header.attack != "none")
    answers = pd.concat(rows)["answer"].fillna(NO_ANSWER).value_counts() if rows else {}
    told = sorted(answers.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{answer} {100 * count / total:.0f} %" for answer, count in told) or MISSING


def class_table(results: Results) -> Table:
    """A row per M, class set, defence (UM, Algorithm 1) and true class."""
    rows = []
    for (model, class_set, defence), group in _by(results.grid, ("um", "algorithm1"), 3).items():
        for name in group[0].header.classes:
            right = {True: [], False: []}
            for r in group:
                right[r.header.attack == "none"].append(r.right[(r.rows["true"] == name).to_numpy()])
            n = max((len(answers) for of in right.values() for answers in of), default=0)
            if n:
                shares = [np.mean([a.mean() for a in of]) if of else np.nan for of in right.values()]
                where = [*setup_labels(model, class_set), label(defence, DEFENCES), name]
                numbers = [share(value, n) for value in shares]
                rows.append([*where, Number(n, digits=0), *numbers, _taken_for(group, name)])
    note = "Wilson's 95 % intervals of n images: one image under several attacks counts once."
    head = ["M", "CS", "By", "Class", "n", "No attack", "Mean over attacks", "Under attack taken for"]
    return Table("per_class", "Accuracy class by class", head, rows, (note,))


def confusions(row_sets: Sequence[RowSet]) -> dict[tuple[str, str], pd.DataFrame]:
    """(model, class_set) -> UM's answers under attack, counted over all attacks: true classes x answers; a last column
    `no answer` where there is such an image."""
    found = {}
    for setup, group in _by(row_sets, ("um",), 2).items():
        if rows := [r.rows for r in group if r.header.attack != "none"]:
            answers, classes = pd.concat(rows), list(group[0].header.classes)
            columns = classes + [NO_ANSWER] * int(answers["answer"].isna().any())
            counts = pd.crosstab(answers["true"], answers["answer"].fillna(NO_ANSWER))
            found[setup] = counts.reindex(index=classes, columns=columns, fill_value=0)
    return found


def part_errors_table(results: Results) -> Table:
    """A row per class set and class: in how many of the benign images K missed expected parts, or saw others.

    K sees each benign image once, whatever M is: an image that the rows of several M repeat counts once. Expected parts
    are of the class, not of the image: one that a photograph hides counts as missed.
    """
    benign = [r for r in in_order(results.grid) if (r.header.defence, r.header.attack) == ("um", "none")]
    seen = grouped((r for r in benign if r.rows["parts"].notna().all()), lambda r: r.header.class_set)
    rows = []
    for class_set, group in seen.items():
        images = pd.concat([r.rows for r in group]).drop_duplicates(["image", "parts"])
        for name, expected in group[0].header.classes.items():
            found = [set(text.split()) for text in images.loc[images["true"] == name, "parts"]]
            if not found:
                continue
            missed = {part: float(np.mean([part not in parts for parts in found])) for part in expected}
            others = sorted(set().union(*found) - set(expected))  # sums of floats depend on the order
            invented = {part: float(np.mean([part in parts for parts in found])) for part in others}
            sums = [Number(sum(rates.values())) for rates in (missed, invented)]
            told = [
                ", ".join(f"{p} {100 * v:.0f} %" for p, v in sorted(rates.items(), key=lambda x: (-x[1], x[0])) if v)
                for rates in (missed, invented)
            ]
            rows.append([label(class_set, CLASS_SETS), name, Number(len(found), digits=0), *sums, *told])
    note = (
        "Missed: expected of the class and not seen, hidden or not; invented: seen and not expected. Parts per image, "
        "and in % of the images."
    )
    head = ["CS", "Class", "n", "Missed", "Invented", "Missed parts", "Invented parts"]
    return Table("part_errors", "The parts that K misses and invents, without attack", head, rows, (note,))
