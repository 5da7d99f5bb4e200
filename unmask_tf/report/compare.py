"""A run's results against the paper's: the paper's claims, and a listing number by number with tolerances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from unmask_tf.report.cells import DEFENCES, attack_label, label, setup_labels
from unmask_tf.report.claims import evaluate_claims
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.soundness import mark
from unmask_tf.report.statistics import series
from unmask_tf.report.table import MISSING, Number, Table, plain

# A difference of exactly the tolerance is within it, whatever its last bit.
_ROUNDING = 1e-9


TOLERANCES = {"accuracy": 0.10, "auc": 0.03, "map50": 0.10}
"""Largest differences, as fractions, that count as agreement."""


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


def listing(results: Results, tolerances: Mapping[str, float] = TOLERANCES) -> tuple[Table, int, int]:
    """The numbers that both we and the paper have, and how many numbers only we, and only the paper, have."""
    published, model_k = read_published(), results.model_k()
    # The paper names no IoU threshold; Matterport's mAP, which it used, is taken at 0.5.
    k = [series({("K", "", "", 0, ""): value}) for value in (model_k["map50"] if model_k else np.nan, published.map)]
    kinds = {
        "accuracy": (results.accuracy, published.accuracy),
        "auc": (results.auc, published.auc),
        "map50": (k[0], k[1]),
    }
    rows, ours_only, paper_only = [], 0, 0
    for kind, (ours, paper) in kinds.items():
        ours, paper, tolerance = ours.dropna(), paper.dropna(), tolerances[kind]
        both = [key for key in ours.index if key in paper.index]
        ours_only, paper_only = ours_only + len(ours) - len(both), paper_only + len(paper) - len(both)
        for key in both:
            shown = Number(ours[key], paper[key], digits=3 if kind == "auc" else 2, mark=mark(results.unsound, key))
            within = "yes" if abs(shown.difference) <= tolerance + _ROUNDING else "no"
            name = "mAP at IoU 0.5" if kind == "map50" else label(key[4], DEFENCES) + " AUC" * (kind == "auc")
            where = [*setup_labels(*key[:2]), attack_label(*key[2:4]) if key[2] else MISSING]
            rows.append([*where, name, shown, f"{within} ({tolerance:g})"])
    within = sum(row[-1].startswith("yes") for row in rows)
    note = (
        f"{len(rows)} numbers compared: {within} within the tolerance, {len(rows) - within} outside. {ours_only} of "
        f"ours have no counterpart in the paper, {paper_only} of the paper's none here."
    )
    head = ["M", "CS", "Attack", "Number", "Ours", "Within"]
    return Table("compare", "Number by number", head, rows, (note,)), ours_only, paper_only


def claims_table(results: Results) -> Table:
    """The paper's claims, tested on ours."""
    claims = evaluate_claims(results)
    verdict, holds = {True: "yes", False: "NO", None: "not tested"}, [claim.holds for claim in claims]
    rows = [[c.statement, c.ours, c.paper, verdict[c.holds]] for c in claims]
    note = f"{holds.count(True)} hold, {holds.count(False)} do not, {holds.count(None)} need cells that are not here."
    return Table("claims", "Claims of the paper", ["Claim", "Ours", "Paper", "Holds"], rows, (note,))


def some_claim_fails(folder: Path) -> bool:
    """Whether a claim of the paper does not hold in a run's results; one that they cannot test does not fail."""
    return any(claim.holds is False for claim in evaluate_claims(Results(folder)))


def compare(folder: Path) -> str:
    """Compares a run with the paper; writes the claims and the listing into `<results>/<profile>`.

    Returns:
        The comparison for the console.

    Raises:
        InputError: no or damaged results, or the folder cannot be written.
    """
    results = Results(folder)
    data = results.grid[0].header.data
    text = expectation(data) + "\n"
    tables = claims_table(results), listing(results)[0]
    results.write(tables)
    for table in tables:
        shown = plain(table) if table.rows else ""
        text += f"\n{table.title}\n{'=' * len(table.title)}\n{shown}\n" + "".join(f"{note}\n" for note in table.notes)
    return text
