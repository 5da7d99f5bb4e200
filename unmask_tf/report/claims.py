"""The paper's claims as tests of Table IV and the AUCs, ours or the paper's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unmask_tf.report.cells import CLASS_SETS, attack_label, label
from unmask_tf.report.overlap import ENOUGH, FACTORS, MEASURES, Overlap, interval_of, paper_overlap, resampled_number
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import attacked, benign, means, wide
from unmask_tf.report.table import MISSING

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


# (Accuracies, AUCs) -> the values a claim is about, NaN where cells are lacking; as text; whether the claim holds.
_Test = Callable[[pd.Series, pd.Series], tuple[Sequence[float], str, bool]]


def _mean(numbers: pd.Series, defence: str = "um", **where: Any) -> float:
    """Mean over the attacked cells of a defence with the given values; NaN if there are none."""
    numbers = attacked(numbers)
    for name, value in {"defence": defence, **where}.items():
        numbers = numbers[numbers.index.get_level_values(name) == value]
    return float(numbers.mean())


def _names(numbers: pd.Series, level: str) -> list[str]:
    return list(dict.fromkeys(attacked(numbers).index.get_level_values(level)))


def _shared(numbers: pd.Series, level: str, other: str) -> pd.Series:
    """The cells whose value of `level` occurs with every value of `other`: what may be compared over `other`."""
    wanted, against = (numbers.index.get_level_values(name) for name in (level, other))
    there = pd.crosstab(wanted, against).all(axis=1)
    return numbers[wanted.isin(there.index[there])]


def _points(name: str) -> _Test:
    def test(accuracy: pd.Series, _: pd.Series) -> tuple:
        value = means(accuracy)[name]
        return [value], f"{value:+.2f} points", value > 0

    return test


def _every_cell(accuracy: pd.Series, _: pd.Series) -> tuple:
    table = wide(attacked(accuracy)).reindex(columns=["at", "um"]).dropna()
    better = int((table["um"] > table["at"]).sum())
    return [better if len(table) else np.nan], f"{better} of {len(table)} cells", better == len(table)


def _leaves_little(attack: str) -> _Test:
    def test(accuracy: pd.Series, _: pd.Series) -> tuple:
        left = _mean(accuracy, "none", attack=attack)
        return [left], f"{left:.3f}", left <= 0.05 + _ROUNDING

    return test


def _more(higher: dict[str, Any], lower: dict[str, Any], of: str = "accuracy") -> _Test:
    """The mean over the cells `higher` is above that over the cells `lower`; of class sets, for M's that have both."""

    def test(accuracy: pd.Series, auc: pd.Series) -> tuple:
        numbers = auc if of == "auc" else accuracy
        if sets := {where["class_set"] for where in (higher, lower) if "class_set" in where}:
            numbers = _shared(numbers[numbers.index.get_level_values("class_set").isin(sets)], "model", "class_set")
        a, b = (_mean(numbers, **where) for where in (higher, lower))
        return [a, b], f"{a:.3f} and {b:.3f}", a > b

    return test


def _hurts_most(accuracy: pd.Series, _: pd.Series) -> tuple:
    others = [_mean(accuracy, attack=name) for name in _names(accuracy, "attack") if name != "mia_linf"] or [np.nan]
    left = _mean(accuracy, attack="mia_linf")
    return [left, *others], f"{left:.3f}; others from {min(others):.3f}", left < min(others)


def _benign_cost(accuracy: pd.Series, _: pd.Series) -> tuple:
    table = wide(benign(accuracy)).reindex(columns=["none", "um"])
    cost = float((table["none"] - table["um"]).mean())
    return [cost], f"{cost:+.3f}", cost <= 0.10 + _ROUNDING


def _same_for_every_model(accuracy: pd.Series, _: pd.Series) -> tuple:
    shared = _shared(accuracy, "class_set", "model")
    left = [_mean(shared, model=name) for name in _names(shared, "model")]
    apart = max(left) - min(left) if len(left) > 1 else np.nan
    return [apart, *left], f"{apart:.3f} apart", apart <= 0.03 + _ROUNDING


def _least_auc(_: pd.Series, auc: pd.Series) -> tuple:
    least = auc[
        (auc.index.get_level_values("class_set") == "cs3a") & (auc.index.get_level_values("defence") == "um")
    ].min()
    return [least], f"from {least:.3f}", least >= 0.90 - _ROUNDING


_PGD, _MIA = {"attack": "pgd_linf"}, {"attack": "mia_linf"}
_CS3A, _CS3B, _CS5A, _CS5B = ({"class_set": name} for name in CLASS_SETS)
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
    ("Less overlap, better defence: CS3a above CS3b", _more(_CS3A, _CS3B)),
    ("Less overlap, better defence: CS5a above CS5b", _more(_CS5A, _CS5B)),
    ("Less overlap, better detection: AUC of CS3a above CS3b", _more(_CS3A, _CS3B, "auc")),
    ("Less overlap, better detection: AUC of CS5a above CS3b", _more(_CS5A, _CS3B, "auc")),
    ("AUC of CS3a is at least 0.90 in every cell", _least_auc),
)


def outcome(test: _Test, accuracy: pd.Series, auc: pd.Series) -> tuple[str | None, bool | None]:
    """A claim's value as text and whether it holds; None where the numbers lack its cells."""
    values, text, holds = test(accuracy, auc)
    return (None, None) if np.isnan(values).any() else (text, bool(holds))


def _overlap_claims(ours: Overlap | None) -> list[Claim]:
    """Per measure: more overlap goes with less of it, and more closely than the number of classes does."""
    paper, claims = paper_overlap(), []
    for name, what in MEASURES.items():
        rows = [of.correlations(name) if of and name in of.values else None for of in (ours, paper)]
        texts = [row and " and ".join(str(resampled_number(row[f])) for f in FACTORS) for row in rows]
        ends = [interval_of(rows[0][factor]) for factor in ("overlap", "difference")] if rows[0] else [None]
        tested = all(ends) and ours.class_sets >= ENOUGH
        holds = bool(ends[0][1] < 0 < ends[1][0]) if tested else None
        statement = f"{what} falls with overlap, more than with the number of classes (rank correlations, 95 %)"
        claims.append(Claim(statement, texts[0] or MISSING, texts[1] or "stated", holds))
    return claims


def evaluate_claims(results: Results) -> list[Claim]:
    """Tests every claim on our numbers, with the paper's own value beside ours."""
    published, claims = read_published(), []
    ours = results.accuracy, results.auc
    for statement, test in CLAIMS:
        text, holds = outcome(test, *ours)
        # Of the detection the paper prints CS3a's AUCs only; the rest it states in words and curves.
        paper = outcome(test, published.accuracy, published.auc)[0] or "stated"
        claims.append(Claim(statement, text or MISSING, paper, holds))
    point = published.operating_point
    where = (point["class_set"], point["attack"], point["epsilon_255"], "um")
    at = [d for d in results.detections if len(d.labels) and (*d.header.cell[1:], d.header.defence) == where]
    rate = np.mean([d.tpr(point["fpr"]) for d in at]) if at else None
    name = f"{label(point['class_set'], CLASS_SETS)}, {attack_label(point['attack'], point['epsilon_255'])}"
    return [
        *claims,
        *_overlap_claims(results.overlap),
        Claim(
            f"At {100 * point['fpr']:.2f} % false positives at least 90 % of attacks are found ({name}, mean over M)",
            ours=MISSING if rate is None else f"{100 * rate:.2f} %",
            paper=f"{100 * point['tpr']:.2f} %",
            holds=None if rate is None else bool(rate >= 0.90 - _ROUNDING),
        ),
    ]
