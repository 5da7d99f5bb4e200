"""From row sets to numbers: accuracies, the detection's AUCs, and their means. Ours and the paper's alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unmask_tf.defense.alignment import auc, detection_pairs
from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import Header, RowSet, describe
from unmask_tf.report.cells import CELL, CLASS_SETS, Cell, cell_rank, defences_of, in_order, rank

NUMBERS = ("kind", *CELL, "defence", "n", "value")
"""Columns of a frame of numbers: kind is `accuracy`, `auc` or `map50` (which has no cell); values are fractions."""


def number_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A frame of `NUMBERS` in the order of `rows`; what does not apply is empty, 0 or NaN."""
    empty = {"model": "", "class_set": "", "attack": "", "epsilon_255": 0, "defence": "", "n": np.nan}
    return pd.DataFrame([{**empty, **row} for row in rows], columns=list(NUMBERS)).astype({"value": float})


def accuracies(row_sets: Iterable[RowSet]) -> pd.DataFrame:
    """One accuracy per row set, in the paper's order.

    Raises:
        InputError: a cell occurs twice, or its defences answered on different numbers of images.
    """
    rows, sizes = {}, {}
    for r in in_order(row_sets):
        key = (r.header.cell, r.header.defence)
        if key in rows:
            raise InputError(f"there are two row sets of {describe(r.header)}. Run the experiment again.")
        if sizes.setdefault(r.header.cell, r.n) != r.n:
            raise InputError(
                f"the rows of {describe(r.header)} are {r.n} images, another defence's of that cell "
                f"{sizes[r.header.cell]}. Run the experiment again."
            )
        rows[key] = _number(r.header, "accuracy", r.n, r.accuracy)
    return number_frame(rows.values())


def _number(header: Header, kind: str, n: int, value: float) -> dict[str, Any]:
    cell = dict(zip(CELL, header.cell, strict=True))
    return {"kind": kind, **cell, "defence": header.defence, "n": n, "value": value}


@dataclass(frozen=True, eq=False)
class Detection:
    """The images of the released detection protocol in one cell (Table III, Figure 5).

    Attributes:
        header: of the attacked row set.
        scores, labels: as `defense.alignment.detection_pairs` gives them: the successfully attacked images, then their
            benign twins; 1 adversarial, 0 benign.
    """

    header: Header
    scores: np.ndarray
    labels: np.ndarray

    @property
    def auc(self) -> float:
        """Area under the ROC; NaN where no attack succeeded."""
        return auc(self.scores, self.labels) if len(self.labels) else float("nan")


def detections(row_sets: Iterable[RowSet]) -> list[Detection]:
    """The detection of every attacked row set whose images all have a score, in the paper's order.

    A defence whose scores are those of an earlier one in every cell (Algorithm 1 beside UM) adds nothing and is left
    out.

    Raises:
        InputError: the benign twins of a row set are missing.
    """
    scored = [r for r in in_order(row_sets) if r.rows["score"].notna().all()]
    benign = {_twin(r.header): r.rows.set_index("image")["score"] for r in scored if r.header.attack == "none"}
    found: dict[str, list[Detection]] = {}
    for r in scored:
        if r.header.attack == "none":
            continue
        twins = benign.get(_twin(r.header))
        if twins is None or not set(r.rows["image"]) <= set(twins.index):
            raise InputError(
                f"{describe(r.header)} has scores, but not all of its images have one without an attack. Run the "
                "experiment again."
            )
        columns = (r.rows["score"], twins.loc[r.rows["image"]], r.rows["model_answer"], r.rows["true"])
        pairs = detection_pairs(*(column.to_numpy() for column in columns))
        found.setdefault(r.header.defence, []).append(Detection(r.header, *pairs))
    kept: dict[str, list[Detection]] = {}
    for name in defences_of(found):
        if not any(_same(found[name], other) for other in kept.values()):
            kept[name] = found[name]
    return sorted((d for listed in kept.values() for d in listed), key=lambda d: cell_rank(d.header.cell))


def _twin(header: Header) -> tuple[str, ...]:
    return header.data, header.split, header.class_set, header.model, header.defence


def _same(a: list[Detection], b: list[Detection]) -> bool:
    same_cells = [d.header.cell for d in a] == [d.header.cell for d in b]
    return same_cells and all(np.array_equal(x.scores, y.scores) for x, y in zip(a, b, strict=True))


def aucs(found: Iterable[Detection]) -> pd.DataFrame:
    """One AUC per detection; n counts the images, attacked ones and their twins."""
    return number_frame(_number(d.header, "auc", len(d.labels), d.auc) for d in found)


def lookup(numbers: pd.DataFrame, kind: str, column: str = "value") -> dict[tuple[Cell, str], float]:
    """(cell, defence) -> value (or n) of the numbers of a kind, in the frame's order."""
    rows = numbers[numbers["kind"] == kind]
    keys = zip(zip(*(rows[name] for name in CELL), strict=True), rows["defence"], strict=True)
    return dict(zip(keys, rows[column], strict=True))


def wide(numbers: pd.DataFrame) -> pd.DataFrame:
    """Table IV: a row per cell with `CELL`, n and an accuracy per defence, in the paper's order; NaN: not computed."""
    sizes, rows = {}, {}
    for (key, value), n in zip(lookup(numbers, "accuracy").items(), lookup(numbers, "accuracy", "n").values()):
        sizes[key[0]] = n
        rows.setdefault(key[0], {})[key[1]] = value
    defences = defences_of(name for row in rows.values() for name in row)
    table = [{**dict(zip(CELL, c, strict=True)), "n": sizes[c], **rows[c]} for c in sorted(rows, key=cell_rank)]
    return pd.DataFrame(table, columns=[*CELL, "n", *defences])


def same_cells(numbers: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of `numbers` whose cell and defence `others` has too."""
    wanted = set(lookup(others, "accuracy"))
    return numbers[[key in wanted for key in zip(zip(*(numbers[c] for c in CELL)), numbers["defence"])]]


def means(numbers: pd.DataFrame) -> dict[str, float]:
    """Means over the attacked cells of Table IV in percent points, by defence; and the paper's two headlines.

    Returns:
        defence -> mean accuracy over the cells that have it; `um - at` and `um - none` -> mean difference over the
        cells that have both. NaN: no cell has.
    """
    table = wide(numbers)
    table = table[table["attack"] != "none"]
    found = {name: 100 * table[name].mean() for name in table.columns[len(CELL) + 1 :]}
    for other in ("at", "none"):
        both = {"um", other} <= set(table)
        found[f"um - {other}"] = 100 * (table["um"] - table[other]).mean() if both else float("nan")
    return found


def class_set_means(numbers: pd.DataFrame) -> pd.DataFrame:
    """Figure 4: mean accuracy in percent over attacks, budgets and models; a row per class set, a column a defence."""
    table = wide(numbers)
    found = 100 * table[table["attack"] != "none"].groupby("class_set")[list(table.columns[len(CELL) + 1 :])].mean()
    return found.loc[sorted(found.index, key=lambda name: rank(name, CLASS_SETS))]
