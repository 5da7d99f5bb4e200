"""Cells of the experiment's grid: their order, their names in tables and figures, and frames of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

# Rows and columns follow the paper; names it does not know come after, alphabetically.
MODEL_ORDER = ("resnet50", "densenet121")
CLASS_SET_ORDER = ("cs3a", "cs3b", "cs5a", "cs5b")
ATTACK_ORDER = ("none", "pgd_linf", "pgd_l2", "mia_linf", "mia_l2")
DEFENCES = ("none", "at", "um")

CELL_COLUMNS = ("model", "class_set", "attack", "epsilon_255")
TABLE4_COLUMNS = (*CELL_COLUMNS, "n", *DEFENCES)
AUC_COLUMNS = (*CELL_COLUMNS, "n", "auc")

_MODEL_LABELS = {"resnet50": "ResNet50", "densenet121": "DenseNet121", "mobilenet_v2": "MobileNetV2"}
_ATTACK_LABELS = {
    "none": "No attack",
    "pgd_linf": "PGD-L∞",
    "pgd_l2": "PGD-L2",
    "mia_linf": "MIA-L∞",
    "mia_l2": "MIA-L2",
}
DEFENCE_LABELS = {"none": "None", "at": "AT", "um": "UM"}

# (model, class_set, attack, epsilon_255)
Cell = tuple[str, str, str, float]


def order_of(name: str, known: Sequence[str]) -> tuple[int, str]:
    """Sort key: the position among `known`, the others after them by name."""
    return (known.index(name), "") if name in known else (len(known), name)


def model_label(model: str) -> str:
    """A model's name as tables and figures show it."""
    return _MODEL_LABELS.get(model, model)


def class_set_label(class_set: str) -> str:
    """A class set's name as tables and figures show it: `cs3a` -> `CS3a`."""
    return f"CS{class_set[2:]}" if class_set in CLASS_SET_ORDER else class_set


def attack_label(attack: str, epsilon_255: float) -> str:
    """An attack and its budget (in 1/255) as tables and figures show them: `PGD-L∞ ε=8`."""
    name = _ATTACK_LABELS.get(attack, attack)
    return name if attack == "none" else f"{name} ε={epsilon_255:g}"


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The (model, class_set, attack, epsilon_255) of a row of either table."""
    return row["model"], row["class_set"], row["attack"], row["epsilon_255"]


def cell_order(cell: Cell) -> tuple:
    """Sort key of a cell: the paper's order."""
    model, class_set, attack, epsilon = cell
    return (
        order_of(model, MODEL_ORDER),
        order_of(class_set, CLASS_SET_ORDER),
        order_of(attack, ATTACK_ORDER),
        epsilon,
    )


def by_cell(frame: pd.DataFrame) -> dict[Cell, dict[str, Any]]:
    """Rows of a table by their cell, in the table's order."""
    return {cell_of(row): row for row in frame.to_dict("records")}


def axes(table: Iterable[Cell]) -> tuple[list[tuple[str, str]], list[tuple[str, float]]]:
    """The (model, class_set) pairs and the (attack, epsilon_255) pairs of some cells, in the paper's order."""
    ordered = sorted(table, key=cell_order)
    attacks = sorted({cell[2:] for cell in ordered}, key=lambda pair: cell_order(("", "", *pair)))
    return list(dict.fromkeys(cell[:2] for cell in ordered)), attacks


def frame_of(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows in the paper's order; a missing number is NaN."""
    frame = pd.DataFrame(sorted(rows, key=lambda row: cell_order(cell_of(row))), columns=list(columns))
    return frame.astype({name: float for name in (*DEFENCES, "auc") if name in columns})
