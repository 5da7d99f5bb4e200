"""A run's results against the paper's: the paper's claims, and a listing number by number with tolerances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unmask_tf.errors import InputError
from unmask_tf.files import write_text
from unmask_tf.reproduce.cells import DEFENCE_LABELS, DEFENCES, attack_label, by_cell, class_set_label, model_label
from unmask_tf.reproduce.claims import Claim, evaluate_claims
from unmask_tf.reproduce.published import Published
from unmask_tf.reproduce.records import Record, read_all
from unmask_tf.reproduce.soundness import failed_checks
from unmask_tf.reproduce.tables import MISSING, aligned, auc_table, markdown, number, read_model_k, table4

# A difference of exactly the tolerance is within it, whatever its last bit.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of ours beside the paper's.

    Attributes:
        kind: `accuracy`, `auc` or `map50`.
        model, class_set, attack, epsilon_255, defence: the cell (empty and 0 where the kind has none).
        ours, paper: fractions.
        tolerance: largest difference that counts as agreement.
        unsound: our attack failed a check.
    """

    kind: str
    model: str = ""
    class_set: str = ""
    attack: str = ""
    epsilon_255: float = 0
    defence: str = ""
    ours: float
    paper: float
    tolerance: float
    unsound: bool = False

    @property
    def difference(self) -> float:
        """ours - paper."""
        return self.ours - self.paper

    @property
    def within(self) -> bool:
        """|ours - paper| <= tolerance."""
        return abs(self.difference) <= self.tolerance + _ROUNDING


@dataclass(frozen=True)
class Comparison:
    """Everything a comparison found.

    Attributes:
        profile: the run's profile.
        numbers: numbers that both we and the paper have.
        claims: the paper's claims.
        ours_only, paper_only: numbers without a counterpart.
    """

    profile: str
    numbers: tuple[Number, ...]
    claims: tuple[Claim, ...]
    ours_only: int
    paper_only: int

    @property
    def counts(self) -> dict[str, int]:
        """compared, within, outside, ours_only, paper_only, claims_held, claims_failed, claims_untested."""
        holds = [claim.holds for claim in self.claims]
        within = sum(number.within for number in self.numbers)
        return {
            "compared": len(self.numbers),
            "within": within,
            "outside": len(self.numbers) - within,
            "ours_only": self.ours_only,
            "paper_only": self.paper_only,
            "claims_held": holds.count(True),
            "claims_failed": holds.count(False),
            "claims_untested": holds.count(None),
        }


def compare(
    records: Sequence[Record],
    published: Published,
    model_k: Mapping[str, Any] | None = None,
    *,
    tolerance: float = 0.10,
    auc_tolerance: float = 0.03,
    map_tolerance: float = 0.10,
) -> Comparison:
    """Sets a run against the paper.

    Args:
        records: the run's records, of one profile.
        published: the paper's numbers.
        model_k: K's evaluation (`read_model_k`), or None.
        tolerance, auc_tolerance, map_tolerance: largest differences, as fractions, that count as agreement.

    Returns:
        Claims and the numbers that the paper has for the same model and class set.

    Raises:
        InputError: no records, or a tolerance is not a number of at least 0.
    """
    if not records:
        raise InputError("there are no records to compare. Run the experiment first.")
    for name, value in (("tolerance", tolerance), ("auc_tolerance", auc_tolerance), ("map_tolerance", map_tolerance)):
        if not (np.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}. Give a fraction of at least 0, such as 0.10.")
    failed = failed_checks(records)
    ours = _values(table4(records), DEFENCES) | _values(auc_table(records), ("auc",))
    paper = _values(published.table4, DEFENCES) | _values(published.auc, ("auc",))
    numbers = [
        Number(
            kind="auc" if column == "auc" else "accuracy",
            model=cell[0],
            class_set=cell[1],
            attack=cell[2],
            epsilon_255=cell[3],
            defence="um" if column == "auc" else column,
            ours=value,
            paper=paper[cell, column],
            tolerance=auc_tolerance if column == "auc" else tolerance,
            unsound=(cell, "um" if column == "auc" else column) in failed,
        )
        for (cell, column), value in ours.items()
        if (cell, column) in paper
    ]
    if model_k is not None:
        # The paper names no IoU threshold; Matterport's mAP, which it used, is taken at 0.5.
        numbers.append(Number(kind="map50", ours=model_k["map50"], paper=published.map, tolerance=map_tolerance))
    return Comparison(
        profile=records[0].key.profile,
        numbers=tuple(numbers),
        claims=tuple(evaluate_claims(records, published)),
        ours_only=len(set(ours) - set(paper)),
        paper_only=len(set(paper) - set(ours)) + (model_k is None),
    )


def _values(table: pd.DataFrame, columns: Sequence[str]) -> dict[tuple, float]:
    return {
        (cell, column): row[column]
        for cell, row in by_cell(table).items()
        for column in columns
        if not np.isnan(row[column])
    }


def header(profile: str) -> str:
    """What may be expected of this profile's numbers."""
    if profile == "paper":
        return (
            "Profile `paper` has the paper's data and settings: the listing may be read number by number. "
            "M's backbones are Keras', so the last points may differ."
        )
    return (
        f"Profile `{profile}` runs on other data than the paper's. Its numbers are NOT expected to match the paper's "
        "one by one; what it can meet are the paper's claims. The listing only shows how far the two lie apart."
    )


_LISTING = ("M", "CS", "Attack", "Number", "Ours", "Paper", "Difference", "Within")


def _listing(comparison: Comparison) -> list[list[str]]:
    rows = []
    for n in comparison.numbers:
        digits = 3 if n.kind == "auc" else 2
        name = {"auc": "AUC", "map50": "K's mAP at IoU 0.5"}.get(n.kind) or DEFENCE_LABELS[n.defence]
        rows.append(
            [
                model_label(n.model) or "K",
                class_set_label(n.class_set) or MISSING,
                attack_label(n.attack, n.epsilon_255) if n.attack else MISSING,
                name,
                number(n.ours, digits) + ("†" if n.unsound else ""),
                number(n.paper, digits),
                number(n.difference, digits, sign=True),
                ("yes" if n.within else "no") + f" ({n.tolerance:g})",
            ]
        )
    return rows


def _render(comparison: Comparison, table: Callable[..., str], heading: Callable[[str], str]) -> str:
    counts = comparison.counts
    verdict = {True: "yes", False: "NO", None: "not tested"}
    parts = [
        header(comparison.profile) + "\n",
        heading("Claims of the paper"),
        table(
            ("Claim", "Ours", "Paper", "Holds"),
            [(c.statement, c.ours, c.paper, verdict[c.holds]) for c in comparison.claims],
            left=1,
        ),
        f"{counts['claims_held']} hold, {counts['claims_failed']} do not, {counts['claims_untested']} could not be "
        "tested with this grid.\n",
        heading("Number by number"),
    ]
    if comparison.numbers:
        parts.append(table(_LISTING, _listing(comparison), left=4))
    parts.append(
        f"{counts['compared']} numbers compared: {counts['within']} within the tolerance, {counts['outside']} outside. "
        f"{counts['ours_only']} of ours have no counterpart in the paper, {counts['paper_only']} of the paper's none "
        "here.\n"
    )
    if any(n.unsound for n in comparison.numbers):
        parts.append("† unsound: our attack failed a check; report.md names it.\n")
    return "\n".join(parts)


def to_text(comparison: Comparison) -> str:
    """The comparison for the console."""
    return _render(comparison, aligned, lambda title: f"{title}\n{'=' * len(title)}\n")


def to_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown."""
    title = f"# Comparison with the paper: profile `{comparison.profile}`\n\n"
    return title + _render(comparison, markdown, lambda name: f"## {name}\n")


def to_csv(comparison: Comparison) -> str:
    """The numbers as CSV: kind, cell, ours, paper, difference, tolerance, within."""
    columns = ("kind", "model", "class_set", "attack", "epsilon_255", "defence")
    lines = [",".join((*columns, "ours", "paper", "difference", "tolerance", "within"))]
    for n in comparison.numbers:
        fields = [str(getattr(n, name)) for name in columns]
        fields += [f"{value:.4f}" for value in (n.ours, n.paper, n.difference, n.tolerance)]
        lines.append(",".join((*fields, "yes" if n.within else "no")))
    return "\n".join(lines) + "\n"


def compare_run(results: str | Path, published: Published, **tolerances: float) -> Comparison:
    """Compares the run in a results folder: prints the comparison and writes compare.md and compare.csv there.

    Args:
        results: results/<profile>, with records/ and perhaps model_k.json.
        published: the paper's numbers.
        tolerances: as in `compare`.

    Raises:
        InputError: no or broken records, a bad tolerance, or the folder cannot be written.
    """
    results = Path(results)
    comparison = compare(read_all(results / "records"), published, read_model_k(results), **tolerances)
    write_text(results / "compare.md", to_markdown(comparison))
    write_text(results / "compare.csv", to_csv(comparison))
    print(to_text(comparison), end="")
    return comparison
