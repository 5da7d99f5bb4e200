"""Results class by class: accuracies, what UM takes attacked images for, and the parts that K misses or invents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import DEFENCES, in_order, label, setup_labels
from unmask_tf.report.statistics import wilson
from unmask_tf.report.text import ENDS, markdown, number, with_interval

NO_ANSWER = "no answer"
_SHOWN = 3
"""Parts named per class in the text; part_errors.csv has all."""


def _by(row_sets: Sequence[RowSet], names: Sequence[str], depth: int) -> dict[tuple, list[RowSet]]:
    """The row sets of some defences by the first `depth` of (model, class_set, defence), in the paper's order."""
    found: dict[tuple, list[RowSet]] = {}
    for r in (r for r in in_order(row_sets) if r.header.defence in names):
        found.setdefault((r.header.model, r.header.class_set, r.header.defence)[:depth], []).append(r)
    return found


def class_accuracies(row_sets: Sequence[RowSet]) -> pd.DataFrame:
    """A row per model, class set, defence (UM, Algorithm 1) and true class: n images; accuracy without attack
    (`benign`) and its mean over the attacks (`attacked`), each with `_low` and `_high`.

    The interval of the mean takes it for a share of n images, not of n x attacks answers, which are not independent.
    """
    rows = []
    for key, group in _by(row_sets, ("um", "algorithm1"), 3).items():
        for name in group[0].header.classes:
            right = {True: [], False: []}
            for r in group:
                right[r.header.attack == "none"].append(r.right[(r.rows["true"] == name).to_numpy()])
            n = max((len(answers) for of in right.values() for answers in of), default=0)
            if n:
                numbers = [np.mean([a.mean() for a in of]) if of else np.nan for of in right.values()]
                rows.append((*key, name, n, *(v for share in numbers for v in (share, *wilson(share, n)))))
    ends = [name + end for name in ("benign", "attacked") for end in ENDS]
    return pd.DataFrame(rows, columns=["model", "class_set", "defence", "class", "n", *ends])


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


def part_errors(row_sets: Sequence[RowSet]) -> pd.DataFrame:
    """A row per class set, class and part: n benign images of the class, whether the class expects the part, and the
    `rate` of images in which K missed it (expected) or saw it (not expected); by class and falling rate.

    K sees each benign image once, whatever M is: an image that the rows of several M repeat counts once. Expected parts
    are of the class, not of the image: one that a photograph hides counts as missed.
    """
    seen: dict[str, list[RowSet]] = {}
    for r in in_order(row_sets):
        if (r.header.defence, r.header.attack) == ("um", "none") and r.rows["parts"].notna().all():
            seen.setdefault(r.header.class_set, []).append(r)
    rows = []
    for class_set, group in seen.items():
        images = pd.concat([r.rows for r in group]).drop_duplicates(["image", "parts"])
        for name, expected in group[0].header.classes.items():
            found = [set(text.split()) for text in images.loc[images["true"] == name, "parts"]]
            rates = {part: np.mean([part not in parts for parts in found]) for part in expected if found}
            for part in set().union(*found) - set(expected):
                rates[part] = np.mean([part in parts for parts in found])
            for part in sorted(rates, key=lambda part: (part not in expected, -rates[part], part)):
                rows.append((class_set, name, len(found), part, int(part in expected), rates[part]))
    return pd.DataFrame(rows, columns=["class_set", "class", "n", "part", "expected", "rate"])


def per_class_markdown(row_sets: Sequence[RowSet]) -> str:
    """Accuracies with intervals, confusions and part errors as Markdown."""
    table, errors = class_accuracies(row_sets), part_errors(row_sets)
    rows = []
    for r in table.to_dict("records"):
        where = [*setup_labels(r["model"], r["class_set"]), label(r["defence"], DEFENCES), r["class"]]
        rows.append([*where, str(r["n"]), *(with_interval(r, name) for name in ("benign", "attacked"))])
    parts = [
        "## Accuracy\n",
        markdown(["M", "CS", "By", "Class", "n", "No attack", "Mean over attacks"], rows, 4),
        "Wilson's 95 % intervals for n images: one image under several attacks counts once.\n",
    ]
    for setup, counts in confusions(row_sets).items():
        parts += [
            f"## {' '.join(setup_labels(*setup))}: UM's answers under attack\n",
            markdown(["True class", *counts], [[name, *map(str, row)] for name, *row in counts.itertuples()], 1),
        ]
    if len(errors):
        rows = []
        for (class_set, name, n), group in errors.groupby(["class_set", "class", "n"], sort=False):
            kinds = [group[group["expected"] == expected] for expected in (1, 0)]
            told = [
                ", ".join(f"{p} {100 * v:.0f} %" for p, v in k[["part", "rate"]].to_numpy()[:_SHOWN]) for k in kinds
            ]
            sums = [number(k["rate"].sum()) for k in kinds]
            rows.append([setup_labels("", class_set)[1], name, *told, str(n), *sums])
        header = ["CS", "Class", "Most often missed", "Most often invented", "n", "Missed", "Invented"]
        parts += [
            "## The parts that K misses and invents, without attack\n",
            markdown(header, rows, 4),
            "Missed: expected of the class and not seen, hidden or not; invented: seen and not expected. In % of the "
            "images, and parts per image. part_errors.csv names every part.\n",
        ]
    return "\n".join(parts)


def per_class_files(row_sets: Sequence[RowSet]) -> dict[str, str | pd.DataFrame]:
    """per_class.md and .csv, confusion.csv and part_errors.csv; without those that would hold nothing."""
    counted = [
        (*setup, true, answer, count)
        for setup, counts in confusions(row_sets).items()
        for (true, answer), count in counts.stack().items()
    ]
    frames = {
        "per_class.csv": class_accuracies(row_sets),
        "confusion.csv": pd.DataFrame(counted, columns=["model", "class_set", "true", "answer", "count"]),
        "part_errors.csv": part_errors(row_sets),
    }
    found = {name: frame for name, frame in frames.items() if len(frame)}
    return {"per_class.md": per_class_markdown(row_sets), **found} if found else {}
