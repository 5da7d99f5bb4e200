"""A run's results against the paper's: the paper's claims, and a listing number by number with tolerances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import DEFENCES, attack_label, label, setup_labels
from unmask_tf.report.claims import Claim, evaluate_claims
from unmask_tf.report.published import read_published
from unmask_tf.report.results import find_model_k, need
from unmask_tf.report.soundness import mark, unsound
from unmask_tf.report.statistics import accuracies, aucs, detections, series
from unmask_tf.report.text import MISSING, Table, aligned, markdown, number, write_files

# A difference of exactly the tolerance is within it, whatever its last bit.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """Largest differences, as fractions, that count as agreement.

    Raises:
        InputError: one is not a number of at least 0.
    """

    accuracy: float = 0.10
    auc: float = 0.03
    map50: float = 0.10

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"the tolerance of {name} is {value}. Give a fraction of at least 0, such as 0.10.")


def expectation(data: str) -> str:
    """What may be expected of numbers from this data."""
    if data == "paper":
        return (
            "The paper's data: the numbers may be compared with the paper's one by one. M's backbones are Keras', so "
            "the last points may differ."
        )
    return (
        f"Data `{data}` is not the paper's, so the numbers are NOT expected to match the paper's one by one; what they "
        "can meet are the paper's claims."
    )


def listing(row_sets: Sequence[RowSet], map50: float | None, tolerances: Tolerances) -> tuple[pd.DataFrame, int, int]:
    """The numbers that both we and the paper have.

    Returns:
        Columns kind (accuracy, auc or map50, which has no cell), the cell, defence, ours, paper, difference, tolerance,
        within (yes or no) and mark (of an unsound attack), in the order of our tables; and how many numbers only we,
        and only the paper, have.
    """
    # The paper names no IoU threshold; Matterport's mAP, which it used, is taken at 0.5.
    k = [series({("", "", "", 0, ""): value} if value is not None else {}) for value in (map50, read_published().map)]
    kinds = {
        "accuracy": (accuracies(row_sets), read_published().accuracy),
        "auc": (aucs(detections(row_sets)), read_published().auc),
        "map50": (k[0], k[1]),
    }
    ours, paper = (pd.concat({kind: pair[i] for kind, pair in kinds.items()}, names=["kind"]).dropna() for i in (0, 1))
    both = ours.to_frame("ours").join(paper.rename("paper"), how="inner")
    both = both.loc[[key for key in ours.index if key in both.index]]
    both = both.assign(
        difference=both["ours"] - both["paper"], tolerance=[vars(tolerances)[key[0]] for key in both.index]
    )
    within = np.where(both["difference"].abs() <= both["tolerance"] + _ROUNDING, "yes", "no")
    verdicts = unsound(row_sets)
    frame = both.assign(within=within, mark=[mark(verdicts, key[1:]) for key in both.index]).reset_index()
    return frame, len(ours) - len(both), len(paper) - len(both)


def _render(
    data: str, claims: Sequence[Claim], found: tuple[pd.DataFrame, int, int], table: Table, title: Callable[[str], str]
) -> str:
    frame, ours_only, paper_only = found
    verdict = {True: "yes", False: "NO", None: "not tested"}
    holds, rows = [claim.holds for claim in claims], []
    for n in frame.to_dict("records"):
        digits = 3 if n["kind"] == "auc" else 2
        where = [*setup_labels(n["model"], n["class_set"]), attack_label(n["attack"], n["epsilon_255"])]
        name = label(n["defence"], DEFENCES) + " AUC" * (n["kind"] == "auc")
        values = [
            number(n["ours"], digits) + n["mark"],
            number(n["paper"], digits),
            number(n["difference"], digits, True),
        ]
        k = ["K", MISSING, MISSING, "mAP at IoU 0.5"]
        rows.append([*(k if n["kind"] == "map50" else [*where, name]), *values, f"{n['within']} ({n['tolerance']:g})"])
    within = int((frame["within"] == "yes").sum())
    told = [[c.statement, c.ours, c.paper, verdict[c.holds]] for c in claims]
    header = ["M", "CS", "Attack", "Number", "Ours", "Paper", "Difference", "Within"]
    parts = [
        expectation(data) + "\n",
        title("Claims of the paper"),
        table(["Claim", "Ours", "Paper", "Holds"], told, 1),
        f"{holds.count(True)} hold, {holds.count(False)} do not, {holds.count(None)} need cells that are not here.\n",
        title("Number by number"),
        *([table(header, rows, 4)] if rows else []),
        f"{len(frame)} numbers compared: {within} within the tolerance, {len(frame) - within} outside. {ours_only} of "
        f"ours have no counterpart in the paper, {paper_only} of the paper's none here.\n",
        *(["† unsound: our attack failed a check; report.md names it.\n"] if frame["mark"].any() else []),
    ]
    return "\n".join(parts)


def compare(folder: Path, tolerances: Tolerances | None = None) -> str:
    """Compares a run with the paper; writes compare.md and compare.csv into `<results>/<profile>`.

    Returns:
        The comparison for the console.

    Raises:
        InputError: no or damaged results, or the folder cannot be written.
    """
    row_sets, model_k = need(folder, "grid"), find_model_k(folder)
    found = listing(row_sets, model_k and model_k["map50"], tolerances or Tolerances())
    data, claims = row_sets[0].header.data, evaluate_claims(row_sets)
    title = f"# Comparison with the paper: profile `{folder.name}`\n\n"
    text = title + _render(data, claims, found, markdown, lambda name: f"## {name}\n")
    write_files(folder, {"compare.md": text, "compare.csv": found[0].drop(columns="mark")})
    return _render(data, claims, found, aligned, lambda name: f"{name}\n{'=' * len(name)}\n")
