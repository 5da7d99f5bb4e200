"""What UnMask's success goes with: the overlap of the classes' parts, or their number (Sections IV-C and IV-D).

A point is a (model, class_set). Intervals are 95 % percentile intervals of the bootstrap over a class set's images,
which all its models, attacks and defences share. They do not cover the choice of the class sets, which are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
import pandas as pd

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import in_order, setup_labels
from unmask_tf.report.published import read_published
from unmask_tf.report.statistics import Detection, attacked, detections, taxonomy_of
from unmask_tf.report.text import markdown, number

REPEATS, SEED = 1000, 2020
ENOUGH = 4
"""Class sets that a correlation is worth a verdict with."""
MEASURES = {"auc": "AUC of the detection", "um": "UM's accuracy under attack"}
FACTORS = {"overlap": "part overlap", "classes": "number of classes"}
_ENDS = ("", "_low", "_high")
_COEFFICIENTS = ("spearman", "pearson")


@dataclass(frozen=True, eq=False)
class Points:
    """What is known of each (model, class_set).

    Attributes:
        facts: by (model, class_set), in the paper's order: `overlap` (percent) and `classes` (their number).
        values: measure of `MEASURES` -> float (1 + repeats, points), means over the attacks: the first row of all
            images, each further one of a resample; NaN where no attack succeeded.
    """

    facts: pd.DataFrame
    values: Mapping[str, np.ndarray]

    @property
    def class_sets(self) -> int:
        return self.facts.index.get_level_values("class_set").nunique()


def _area(d: Detection, weights: np.ndarray) -> np.ndarray:
    """AUC (rows,) where each successfully attacked image and its twin count `weights` (rows, images) times."""
    levels, codes = np.unique(d.scores, return_inverse=True)
    chosen = np.eye(len(levels))[codes]
    adversarial, benign = (weights @ half for half in np.split(chosen, 2))
    pairs = adversarial.sum(axis=1) * benign.sum(axis=1)
    right = (adversarial * (benign.cumsum(axis=1) - benign / 2)).sum(axis=1)
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def points(row_sets: Sequence[RowSet], repeats: int = REPEATS) -> Points | None:
    """The points of UM's attacked row sets; None where they are of fewer than two class sets."""
    found = [r for r in in_order(row_sets) if r.header.defence == "um" and r.header.attack != "none"]
    sets = {r.header.class_set: taxonomy_of(r.header) for r in found}
    if len(sets) < 2:
        return None
    areas = {d.header.key: d for d in detections(row_sets) if len(d.labels)}
    rng, values = np.random.default_rng(SEED), {name: {} for name in MEASURES}
    for class_set in sets:
        of_set = [r for r in found if r.header.class_set == class_set]
        images = pd.Index(pd.concat([r.rows["image"] for r in of_set]).unique())
        drawn = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), repeats)
        times = np.vstack([np.ones(len(images)), drawn])
        for r in of_set:
            weights = times[:, images.get_indexer(r.rows["image"])]
            cells = [values[name].setdefault(r.header.cell[:2], []) for name in MEASURES]
            known = areas.get(r.header.key)
            cells[0].append(_area(known, weights[:, r.fooled]) if known else np.full(len(times), np.nan))
            cells[1].append(weights @ r.right / weights.sum(axis=1))
    setups = list(dict.fromkeys(r.header.cell[:2] for r in found))
    facts = pd.DataFrame(
        [(sets[name].overlap("all"), len(sets[name].classes)) for _, name in setups],
        index=pd.MultiIndex.from_tuples(setups, names=["model", "class_set"]),
        columns=list(FACTORS),
    )
    # A frame's mean leaves out NaN, without a warning where there is nothing else.
    means = {n: np.column_stack([pd.DataFrame(v[s]).mean() for s in setups]) for n, v in values.items()}
    return Points(facts, means)


def published_points() -> Points:
    """The paper's points, from its Tables II and IV; its AUCs are of one class set alone."""
    paper = read_published()
    accuracy = attacked(paper.accuracy).xs("um", level="defence").groupby(level=["model", "class_set"]).mean()
    facts = [[paper.table2[name][key] for key in ("overlap_percent", "classes")] for _, name in accuracy.index]
    return Points(pd.DataFrame(facts, accuracy.index, list(FACTORS)), {"um": accuracy.to_numpy()[None]})


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate (first row), and the 2.5 and 97.5 percentiles of the other rows, of each column of (rows, columns)."""
    return values[0], *pd.DataFrame(values[1:], dtype=float).quantile([0.025, 0.975]).to_numpy()


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of x (points,) with each row of y (rows, points): (rows,); NaN where one of the two is constant."""
    x, y = x - x.mean(), y - y.mean(axis=1, keepdims=True)
    size = np.sqrt((x**2).sum() * (y**2).sum(axis=1))
    return np.divide(y @ x, size, out=np.full(len(y), np.nan), where=size > 1e-12)


def correlations(found: Points) -> pd.DataFrame:
    """A row per measure and coefficient: of each factor, and of |overlap's| - |number of classes'| (`difference`), the
    estimate, `_low` and `_high`."""
    rows = []
    for measure, values in found.values.items():
        for coefficient in _COEFFICIENTS:
            x, y = found.facts.astype(float), pd.DataFrame(values)
            if coefficient == "spearman":
                # Equal values must stay ties, whatever their last bits.
                x, y = x.rank(), y.round(12).rank(axis=1)
            by = {factor: pearson(x[factor].to_numpy(), y.to_numpy()) for factor in FACTORS}
            by["difference"] = abs(by["overlap"]) - abs(by["classes"])
            ends = {name: interval(c[:, None]) for name, c in by.items()}
            numbers = {f"{name}{end}": v[0] for name, e in ends.items() for end, v in zip(_ENDS, e, strict=True)}
            rows.append({"measure": measure, "coefficient": coefficient, **numbers})
    return pd.DataFrame(rows)


def shown(row: Mapping[str, float], name: str, digits: int = 2, sign: bool = True) -> str:
    """`-0.85 [-0.95, -0.70]`; without resamples the estimate alone."""
    value, low, high = (number(row[f"{name}{end}"], digits, sign) for end in _ENDS)
    return value if np.isnan(row[f"{name}_low"]) else f"{value} [{low}, {high}]"


def stronger(row: Mapping[str, float]) -> str:
    """Which factor correlates more strongly; `neither for certain` where the difference's interval includes 0."""
    if row["difference_low"] > 0:
        return FACTORS["overlap"]
    return FACTORS["classes"] if row["difference_high"] < 0 else "neither for certain"


def rank_correlations(found: Points) -> dict[str, dict[str, float]]:
    """Measure -> its row of `correlations` by Spearman's coefficient; those that are not defined are left out."""
    table = correlations(found).dropna(subset=["overlap", "classes"])
    return {row["measure"]: row for row in table.to_dict("records") if row["coefficient"] == "spearman"}


def points_table(found: Points) -> pd.DataFrame:
    """The points with their measures and intervals, for overlap.csv and the figure."""
    table = found.facts.copy()
    for measure, values in found.values.items():
        for end, column in zip(_ENDS, interval(values), strict=True):
            table[measure + end] = column
    return table.reset_index()


def caution(found: Points) -> str:
    """What so few class sets can show at most."""
    k = found.class_sets
    few = " Too few for a verdict." if k < ENOUGH else ""
    return (
        f"{k} class sets: the intervals cover the choice of images, not of class sets. Even a perfect rank correlation "
        f"over {k} class sets has a two-sided p of {min(1, 2 / factorial(k)):.2g}.{few}\n"
    )


def overlap_markdown(found: Points) -> str:
    """The points, and the correlations of ours and of the paper."""
    rows = [
        [
            *setup_labels(p["model"], p["class_set"]),
            str(p["classes"]),
            number(p["overlap"]),
            *(shown(p, name, 3, sign=False) for name in MEASURES),
        ]
        for p in points_table(found).to_dict("records")
    ]
    told = [
        [
            f"{MEASURES[c['measure']]}{whose}",
            c["coefficient"].title(),
            *(shown(c, name) for name in (*FACTORS, "difference")),
            "" if whose else stronger(c),
        ]
        for whose, of in (("", found), (" (the paper's)", published_points()))
        for c in correlations(of).to_dict("records")
    ]
    parts = [
        markdown(["M", "CS", "Classes", "Overlap %", *MEASURES.values()], rows, 2),
        "Means over the attacks, with 95 % bootstrap intervals over the class set's images.\n",
        markdown(["Correlation of", "Coefficient", *FACTORS.values(), "abs. difference", "Stronger"], told, 2),
        caution(found),
    ]
    return "\n".join(parts)


def overlap_files(row_sets: Sequence[RowSet]) -> dict[str, str | pd.DataFrame]:
    """overlap.md, overlap.csv (the points) and overlap_correlations.csv; none where there is one class set."""
    if (found := points(row_sets)) is None:
        return {}
    return {
        "overlap.md": overlap_markdown(found),
        "overlap.csv": points_table(found),
        "overlap_correlations.csv": correlations(found),
    }


def overlap_lines(row_sets: Sequence[RowSet]) -> str:
    """A line per measure: its rank correlation with each factor, and which of the two is stronger; or nothing."""
    found = points(row_sets)
    few = f" ({found.class_sets} class sets are too few)" if found and found.class_sets < ENOUGH else ""
    return "".join(
        f"{name.upper()}: rank correlation with {FACTORS['overlap']} {shown(row, 'overlap')}, {FACTORS['classes']} "
        f"{shown(row, 'classes')}: {stronger(row)}{few}.\n"
        for name, row in (rank_correlations(found) if found else {}).items()
    )
