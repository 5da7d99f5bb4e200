"""The paper's claims as tests of Table IV and the AUCs, ours or the paper's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unmask_tf.defense.alignment import operating_point
from unmask_tf.reproduce.cells import attack_label, class_set_label
from unmask_tf.reproduce.published import Published
from unmask_tf.reproduce.records import Record
from unmask_tf.reproduce.tables import MISSING, auc_table, means, table4

# A value that equals a bound meets it, whatever its last bit.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, tested on our numbers.

    Attributes:
        statement: the claim, with the bound that is tested.
        ours, paper: the quantity's value in our tables and in the paper's, as text.
        holds: whether ours meet it; None where our grid lacks the cells.
    """

    statement: str
    ours: str
    paper: str
    holds: bool | None


# A claim's test: (Table IV, AUCs) -> the quantity as text and whether the claim holds, or None without the cells.
_Outcome = tuple[str, bool] | None
_Test = Callable[[pd.DataFrame, pd.DataFrame], _Outcome]


def _mean(table: pd.DataFrame, column: str, **where: Any) -> float:
    """Mean of a column over the rows with the given values (`attacked=True`: but the benign ones); NaN if none."""
    if where.pop("attacked", False):
        table = table[table["attack"] != "none"]
    for name, value in where.items():
        table = table[table[name] == value]
    values = table[column].dropna()
    return float(np.mean(values)) if len(values) else float("nan")


def _outcome(values: Sequence[float], text: str, holds: bool) -> _Outcome:
    return None if np.isnan(values).any() else (text, bool(holds))


def _points(name: str) -> _Test:
    def test(table: pd.DataFrame, _: pd.DataFrame) -> _Outcome:
        value = getattr(means(table), name)
        return None if value is None else (f"{value:+.2f} points", value > 0)

    return test


def _every_cell(table: pd.DataFrame, _: pd.DataFrame) -> _Outcome:
    both = table[table["attack"] != "none"].dropna(subset=["at", "um"])
    better = int((both["um"] > both["at"]).sum())
    return (f"{better} of {len(both)} cells", better == len(both)) if len(both) else None


def _left_at_most(attack: str, bound: float) -> _Test:
    def test(table: pd.DataFrame, _: pd.DataFrame) -> _Outcome:
        left = _mean(table, "none", attack=attack)
        return _outcome([left], f"{left:.3f}", left <= bound + _ROUNDING)

    return test


def _more(column: str, higher: Mapping[str, Any], lower: Mapping[str, Any]) -> _Test:
    """The mean of `column` over the rows `higher` is above that over the rows `lower`."""

    def test(table: pd.DataFrame, aucs: pd.DataFrame) -> _Outcome:
        frame = aucs if column == "auc" else table
        a, b = (_mean(frame, column, attacked=True, **where) for where in (higher, lower))
        return _outcome([a, b], f"{a:.3f} and {b:.3f}", a > b)

    return test


def _hurts_most(attack: str) -> _Test:
    def test(table: pd.DataFrame, _: pd.DataFrame) -> _Outcome:
        attacks = [name for name in table["attack"].unique() if name != "none"]
        left = {name: _mean(table, "um", attack=name) for name in attacks}
        if attack not in left or len(left) < 2 or np.isnan(list(left.values())).any():
            return None
        others = min(value for name, value in left.items() if name != attack)
        return f"{left[attack]:.3f}; others from {others:.3f}", left[attack] < others

    return test


def _benign_cost(table: pd.DataFrame, _: pd.DataFrame) -> _Outcome:
    benign = table[table["attack"] == "none"]
    cost = float((benign["none"] - benign["um"]).mean())
    return _outcome([cost], f"{cost:+.3f}", cost <= 0.10 + _ROUNDING)


def _same_for_every_model(table: pd.DataFrame, _: pd.DataFrame) -> _Outcome:
    models = table["model"].unique()
    left = [_mean(table, "um", attacked=True, model=name) for name in models]
    if len(left) < 2 or np.isnan(left).any():
        return None
    return f"{max(left) - min(left):.3f} apart", max(left) - min(left) <= 0.03 + _ROUNDING


def _least_auc(table: pd.DataFrame, aucs: pd.DataFrame) -> _Outcome:
    values = aucs[aucs["class_set"] == "cs3a"]["auc"].dropna()
    return (f"from {values.min():.3f}", bool(values.min() >= 0.90 - _ROUNDING)) if len(values) else None


_CLAIMS: tuple[tuple[str, _Test], ...] = (
    ("UM is more accurate under attack than AT, on average", _points("um_minus_at")),
    ("UM is more accurate under attack than None, on average", _points("um_minus_none")),
    ("UM is more accurate than AT in every attacked cell", _every_cell),
    ("MIA-L∞ leaves None at most 0.05, on average", _left_at_most("mia_linf", 0.05)),
    ("PGD-L2 leaves None at most 0.05, on average", _left_at_most("pgd_l2", 0.05)),
    ("MIA-L2 leaves None at most 0.05, on average", _left_at_most("mia_l2", 0.05)),
    (
        "PGD-L∞ leaves None more than MIA-L∞ does",
        _more("none", {"attack": "pgd_linf"}, {"attack": "mia_linf"}),
    ),
    ("PGD-L∞ ε=16 hurts UM more than ε=8", _more("um", *({"attack": "pgd_linf", "epsilon_255": e} for e in (8, 16)))),
    ("MIA-L∞ ε=16 hurts UM more than ε=8", _more("um", *({"attack": "mia_linf", "epsilon_255": e} for e in (8, 16)))),
    ("MIA-L∞ is the attack that hurts UM most", _hurts_most("mia_linf")),
    ("Without attack UM costs at most 0.10 of None's accuracy", _benign_cost),
    ("UM's means for the different M lie within 0.03", _same_for_every_model),
    ("Less overlap, better defence: CS3a above CS3b", _more("um", {"class_set": "cs3a"}, {"class_set": "cs3b"})),
    ("Less overlap, better defence: CS5a above CS5b", _more("um", {"class_set": "cs5a"}, {"class_set": "cs5b"})),
    (
        "Less overlap, better detection: AUC of CS3a above CS3b",
        _more("auc", {"class_set": "cs3a"}, {"class_set": "cs3b"}),
    ),
    (
        "Less overlap, better detection: AUC of CS5a above CS3b",
        _more("auc", {"class_set": "cs5a"}, {"class_set": "cs3b"}),
    ),
    ("AUC of CS3a is at least 0.90 in every cell", _least_auc),
)


def evaluate_claims(records: Sequence[Record], published: Published) -> list[Claim]:
    """Tests every claim on the records' tables, with the paper's own value beside ours."""
    ours, aucs = table4(records), auc_table(records)
    claims = []
    for statement, test in _CLAIMS:
        mine, theirs = test(ours, aucs), test(published.table4, published.auc)
        claims.append(
            Claim(
                statement,
                ours=mine[0] if mine else MISSING,
                # Of the detection the paper prints CS3a's AUCs only; the rest it states in words and curves.
                paper=theirs[0] if theirs else "stated",
                holds=mine[1] if mine else None,
            )
        )
    return [*claims, _operating_claim(records, published)]


def _operating_claim(records: Sequence[Record], published: Published) -> Claim:
    point = published.operating_point
    rates = [
        operating_point(r.detection_scores, r.detection_labels, max_fpr=point["fpr"])[2]
        for r in records
        if r.pairs and all(getattr(r.key, name) == point[name] for name in ("class_set", "attack", "epsilon_255"))
    ]
    where = f"{class_set_label(point['class_set'])}, {attack_label(point['attack'], point['epsilon_255'])}"
    return Claim(
        f"At {100 * point['fpr']:.2f} % false positives at least 90 % of attacks are detected ({where}, mean over M)",
        ours=f"{100 * np.mean(rates):.2f} %" if rates else MISSING,
        paper=f"{100 * point['tpr']:.2f} %",
        holds=bool(np.mean(rates) >= 0.90 - _ROUNDING) if rates else None,
    )
