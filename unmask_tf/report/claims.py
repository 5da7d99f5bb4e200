"""The paper's claims as tests of Table IV and the AUCs, ours or the paper's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unmask_tf.defense.alignment import operating_point
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import CLASS_SETS, attack_label, label
from unmask_tf.report.published import read_published
from unmask_tf.report.statistics import accuracies, aucs, detections, means, wide
from unmask_tf.report.text import MISSING

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


# Numbers (`statistics.NUMBERS`) -> the values a claim is about (NaN: the grid lacks them), as text, and whether it holds.
_Test = Callable[[pd.DataFrame], tuple[Sequence[float], str, bool]]


def _mean(numbers: pd.DataFrame, defence: str = "um", kind: str = "accuracy", **where: Any) -> float:
    """Mean over the attacked rows of a defence with the given values; NaN if there are none."""
    rows = numbers[(numbers["kind"] == kind) & (numbers["defence"] == defence) & (numbers["attack"] != "none")]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return float(rows["value"].mean())


def _points(name: str) -> _Test:
    def test(numbers: pd.DataFrame) -> tuple:
        value = means(numbers)[name]
        return [value], f"{value:+.2f} points", value > 0

    return test


def _every_cell(numbers: pd.DataFrame) -> tuple:
    table = wide(numbers).reindex(columns=["attack", "at", "um"]).dropna()
    table = table[table["attack"] != "none"]
    better = int((table["um"] > table["at"]).sum())
    return [better if len(table) else np.nan], f"{better} of {len(table)} cells", better == len(table)


def _leaves_little(attack: str) -> _Test:
    def test(numbers: pd.DataFrame) -> tuple:
        left = _mean(numbers, "none", attack=attack)
        return [left], f"{left:.3f}", left <= 0.05 + _ROUNDING

    return test


def _more(higher: dict[str, Any], lower: dict[str, Any]) -> _Test:
    """The mean over the rows `higher` is above that over the rows `lower`."""

    def test(numbers: pd.DataFrame) -> tuple:
        a, b = _mean(numbers, **higher), _mean(numbers, **lower)
        return [a, b], f"{a:.3f} and {b:.3f}", a > b

    return test


def _hurts_most(numbers: pd.DataFrame) -> tuple:
    attacks = set(numbers.loc[numbers["kind"] == "accuracy", "attack"]) - {"none", "mia_linf"}
    left, others = _mean(numbers, attack="mia_linf"), [_mean(numbers, attack=name) for name in attacks] or [np.nan]
    return [left, *others], f"{left:.3f}; others from {min(others):.3f}", left < min(others)


def _benign_cost(numbers: pd.DataFrame) -> tuple:
    table = wide(numbers).reindex(columns=["attack", "none", "um"])
    benign = table[table["attack"] == "none"]
    cost = float((benign["none"] - benign["um"]).mean())
    return [cost], f"{cost:+.3f}", cost <= 0.10 + _ROUNDING


def _same_for_every_model(numbers: pd.DataFrame) -> tuple:
    models = numbers.loc[numbers["kind"] == "accuracy", "model"].unique()
    left = [_mean(numbers, model=name) for name in models]
    apart = max(left) - min(left) if len(left) > 1 else np.nan
    return [apart, *left], f"{apart:.3f} apart", apart <= 0.03 + _ROUNDING


def _least_auc(numbers: pd.DataFrame) -> tuple:
    rows = numbers[(numbers["kind"] == "auc") & (numbers["class_set"] == "cs3a") & (numbers["defence"] == "um")]
    return [rows["value"].min()], f"from {rows['value'].min():.3f}", rows["value"].min() >= 0.90 - _ROUNDING


_PGD, _MIA, _AUC = {"attack": "pgd_linf"}, {"attack": "mia_linf"}, {"kind": "auc"}
CS3A, CS3B, CS5A, CS5B = ({"class_set": name} for name in CLASS_SETS)
CLAIMS: tuple[tuple[str, _Test], ...] = (
    ("UM is more accurate under attack than AT, on average", _points("um - at")),
    ("UM is more accurate under attack than None, on average", _points("um - none")),
    ("UM is more accurate than AT in every attacked cell", _every_cell),
    ("MIA-L∞ leaves None at most 0.05, on average", _leaves_little("mia_linf")),
    ("PGD-L2 leaves None at most 0.05, on average", _leaves_little("pgd_l2")),
    ("MIA-L2 leaves None at most 0.05, on average", _leaves_little("mia_l2")),
    ("PGD-L∞ leaves None more than MIA-L∞ does", _more({"defence": "none", **_PGD}, {"defence": "none", **_MIA})),
    ("PGD-L∞ ε=16 hurts UM more than ε=8", _more({**_PGD, "epsilon_255": 8}, {**_PGD, "epsilon_255": 16})),
    ("MIA-L∞ ε=16 hurts UM more than ε=8", _more({**_MIA, "epsilon_255": 8}, {**_MIA, "epsilon_255": 16})),
    ("MIA-L∞ is the attack that hurts UM most", _hurts_most),
    ("Without attack UM costs at most 0.10 of None's accuracy", _benign_cost),
    ("UM's means for the different M lie within 0.03", _same_for_every_model),
    ("Less overlap, better defence: CS3a above CS3b", _more(CS3A, CS3B)),
    ("Less overlap, better defence: CS5a above CS5b", _more(CS5A, CS5B)),
    ("Less overlap, better detection: AUC of CS3a above CS3b", _more({**_AUC, **CS3A}, {**_AUC, **CS3B})),
    ("Less overlap, better detection: AUC of CS5a above CS3b", _more({**_AUC, **CS5A}, {**_AUC, **CS3B})),
    ("AUC of CS3a is at least 0.90 in every cell", _least_auc),
)


def outcome(test: _Test, numbers: pd.DataFrame) -> tuple[str, bool] | None:
    """A claim's value as text and whether it holds; None where the numbers lack its cells."""
    values, text, holds = test(numbers)
    return None if np.isnan(values).any() else (text, bool(holds))


def evaluate_claims(row_sets: Sequence[RowSet]) -> list[Claim]:
    """Tests every claim on our numbers, with the paper's own value beside ours."""
    found = detections(row_sets)
    numbers, paper = pd.concat([accuracies(row_sets), aucs(found)]), read_published().numbers
    claims = []
    for statement, test in CLAIMS:
        ours, theirs = outcome(test, numbers), outcome(test, paper)
        # Of the detection the paper prints CS3a's AUCs only; the rest it states in words and curves.
        texts = (ours[0] if ours else MISSING), (theirs[0] if theirs else "stated")
        claims.append(Claim(statement, *texts, ours[1] if ours else None))
    point = read_published().operating_point
    rates = [
        operating_point(d.scores, d.labels, max_fpr=point["fpr"])[2]
        for d in found
        if len(d.labels)
        and d.header.defence == "um"
        and all(getattr(d.header, name) == point[name] for name in ("class_set", "attack", "epsilon_255"))
    ]
    where = f"{label(point['class_set'], CLASS_SETS)}, {attack_label(point['attack'], point['epsilon_255'])}"
    statement = (
        f"At {100 * point['fpr']:.2f} % false positives at least 90 % of attacks are detected ({where}, mean over M)"
    )
    ours = f"{100 * np.mean(rates):.2f} %" if rates else MISSING
    holds = bool(np.mean(rates) >= 0.90 - _ROUNDING) if rates else None
    return [*claims, Claim(statement, ours, f"{100 * point['tpr']:.2f} %", holds)]
