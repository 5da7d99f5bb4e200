"""Order and labels of models, class sets, attacks and defences; names the paper does not know come after its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from unmask_tf.experiment.rows import RowSet

# Name -> label, in the paper's order. A name that is not here is shown as it is.
MODELS = {
    "resnet50": "ResNet50",
    "densenet121": "DenseNet121",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet_lite0": "EfficientNet-Lite0",
}
CLASS_SETS = {"cs3a": "CS3a", "cs3b": "CS3b", "cs5a": "CS5a", "cs5b": "CS5b"}
ATTACKS = {"none": "No attack", "pgd_linf": "PGD-L∞", "pgd_l2": "PGD-L2", "mia_linf": "MIA-L∞", "mia_l2": "MIA-L2"}
DEFENCES = {"none": "None", "at": "AT", "at_madry": "AT-Madry", "um": "UM", "algorithm1": "Alg. 1"}
OWN_M = ("at", "at_madry")
"""Defences whose own M was attacked; all others stand behind the attack on the benign M."""

CELL = ("model", "class_set", "attack", "epsilon_255")
BENIGN = ("none", 0)


def rank(name: str, known: Iterable[str]) -> tuple[int, str]:
    """Sort key: the position among `known`, the others after them by name."""
    known = tuple(known)
    return (known.index(name), "") if name in known else (len(known), name)


def ranked(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Different names in the order of the known ones, the others after them."""
    known = tuple(known)
    return sorted(set(names), key=lambda name: rank(name, known))


def cell_rank(key: tuple) -> tuple:
    """Sort key of a cell, or of a cell and a defence: the paper's order."""
    model, class_set, attack, epsilon, *defence = key
    by_name = rank(model, MODELS), rank(class_set, CLASS_SETS), rank(attack, ATTACKS)
    return *by_name, epsilon, *(rank(name, DEFENCES) for name in defence)


def in_order(row_sets: Iterable[RowSet]) -> list[RowSet]:
    """Row sets in the order of the tables."""
    return sorted(row_sets, key=lambda r: cell_rank((*r.header.cell, r.header.defence)))


def grouped(row_sets: Iterable[RowSet], by: Callable[[RowSet], Hashable]) -> dict[Any, list[RowSet]]:
    """The row sets by what a function says of each, in the order in which they come."""
    found: dict[Any, list[RowSet]] = {}
    for r in row_sets:
        found.setdefault(by(r), []).append(r)
    return found


def label(name: str, known: Mapping[str, str]) -> str:
    """The name as tables and figures show it."""
    return known.get(name, name)


def attack_label(attack: str, epsilon_255: float) -> str:
    """An attack and its budget (in 1/255): `PGD-L∞ ε=8`."""
    name = label(attack, ATTACKS)
    return name if attack == "none" else f"{name} ε={epsilon_255:g}"


def setup_labels(model: str, class_set: str) -> list[str]:
    """The first two columns of every table."""
    return [label(model, MODELS), label(class_set, CLASS_SETS)]


def cell_labels(cell: Sequence) -> list[str]:
    """The first three columns of most tables: M, class set, and the attack with its budget."""
    return [*setup_labels(*cell[:2]), attack_label(*cell[2:4])]


def attacks_in_order(attacks: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Different (attack, epsilon_255) pairs in the paper's order."""
    return sorted(set(attacks), key=lambda pair: cell_rank(("", "", *pair)))


def axes(cells: Iterable[tuple]) -> tuple[list[tuple[str, str]], list[tuple[str, float]]]:
    """The (model, class_set) pairs and the (attack, epsilon_255) pairs of some cells, in the paper's order."""
    ordered = sorted({key[:4] for key in cells}, key=cell_rank)
    return list(dict.fromkeys(cell[:2] for cell in ordered)), attacks_in_order(cell[2:] for cell in ordered)


def defences_of(names: Iterable[str]) -> list[str]:
    """Different defences in the paper's order."""
    return ranked(names, DEFENCES)


def target(defence: str) -> str:
    """Whose M was attacked: the defence's own, or the benign M (`none`)."""
    return defence if defence in OWN_M else "none"
