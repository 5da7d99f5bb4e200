"""What UnMask's success goes with: the overlap of the classes' parts, or their number (Section IV).

Intervals are 95 % percentile intervals of a bootstrap over the images of each class set, which its models and attacks
share. They do not cover the choice of the class sets, which are few.
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
from unmask_tf.report.text import ENDS, markdown, number, with_interval

REPEATS, SEED = 1000, 2020
ENOUGH = 4
"""Class sets without which a claim on correlations is not tested."""
MEASURES = {"auc": "AUC of the detection", "um": "UM's accuracy under attack"}
FACTORS = {"overlap": "part overlap", "classes": "number of classes"}


@dataclass(frozen=True, eq=False)
class Overlap:
    """Numbers come as an estimate and, with `_low` and `_high` after their names, its interval.

    Attributes:
        points: a row per class set and model, `class_set` and `model`: `overlap` (percent), `classes` (how many),
            and the measures' means over the attacks; NaN where no attack succeeded.
        correlations: a row per `measure` and `coefficient`: of the measure with `overlap` and with `classes`, and the
            `difference` of their sizes, |overlap's| - |classes'|; NaN where one of the two does not vary.
    """

    points: pd.DataFrame
    correlations: pd.DataFrame

    @property
    def class_sets(self) -> int:
        return self.points["class_set"].nunique()

    def ranked(self, measure: str) -> dict[str, float] | None:
        """A measure's rank correlations; None where they are not defined."""
        c = self.correlations.query("measure == @measure and coefficient == 'Spearman'")
        return next(iter(c.dropna(subset=["overlap", "classes"]).to_dict("records")), None)


def _ends(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Estimate and interval of each column: `values` (1 + repeats, columns) has the estimates in its first row."""
    low, high = pd.DataFrame(values[1:], dtype=float).quantile([0.025, 0.975]).to_numpy()
    return dict(zip((name + end for end in ENDS), (values[0], low, high), strict=True))


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of x (points,) with each row of y (rows, points), as a column (rows, 1)."""
    x, y = x - x.mean(), y - y.mean(axis=1, keepdims=True)
    size = np.sqrt((x**2).sum() * (y**2).sum(axis=1))
    return np.divide(y @ x, size, out=np.full(len(y), np.nan), where=size > 1e-12)[:, None]


def overlap_of(facts: pd.DataFrame, values: Mapping[str, np.ndarray]) -> Overlap:
    """The correlations of some points.

    Args:
        facts: a row per point: `model`, `class_set`, `overlap`, `classes`.
        values: measure -> float (1 + repeats, points): from all images, then from each resample.
    """
    points, rows = facts, []
    for measure, of in values.items():
        points = points.assign(**_ends(measure, of))
        # Equal values must stay ties, whatever their last bits.
        numbers = {"Spearman": (facts.rank(numeric_only=True), pd.DataFrame(of).round(12).rank(axis=1).to_numpy())}
        for coefficient, (x, y) in (numbers | {"Pearson": (facts, of)}).items():
            by = {name: _pearson(x[name].to_numpy(float), y) for name in FACTORS}
            by["difference"] = abs(by["overlap"]) - abs(by["classes"])
            row = {name: end[0] for factor, c in by.items() for name, end in _ends(factor, c).items()}
            rows.append({"measure": measure, "coefficient": coefficient, **row})
    return Overlap(points, pd.DataFrame(rows))


def _auc(d: Detection, weights: np.ndarray) -> np.ndarray:
    """AUC (rows,) where each successfully attacked image and its twin count `weights` (rows, images) times."""
    levels, codes = np.unique(d.scores, return_inverse=True)
    adversarial, benign = (weights @ half for half in np.split(np.eye(len(levels))[codes], 2))
    pairs = adversarial.sum(axis=1) * benign.sum(axis=1)
    right = (adversarial * (benign.cumsum(axis=1) - benign / 2)).sum(axis=1)
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def our_overlap(row_sets: Sequence[RowSet]) -> Overlap | None:
    """Of UM's attacked row sets; None where they are of fewer than two class sets."""
    found = [r for r in in_order(row_sets) if r.header.defence == "um" and r.header.attack != "none"]
    sets = {r.header.class_set: taxonomy_of(r.header) for r in found}
    if len(sets) < 2:
        return None
    known = {d.header.key: d for d in detections(row_sets) if len(d.labels)}
    rng, values = np.random.default_rng(SEED), {name: {} for name in MEASURES}
    for class_set in sets:
        of_set = [r for r in found if r.header.class_set == class_set]
        images = pd.Index(pd.concat([r.rows["image"] for r in of_set]).unique())
        drawn = rng.multinomial(len(images), np.full(len(images), 1 / len(images)), REPEATS)
        times = np.vstack([np.ones(len(images)), drawn])
        for r in of_set:
            weights, d = times[:, images.get_indexer(r.rows["image"])], known.get(r.header.key)
            auc = _auc(d, weights[:, r.fooled]) if d else np.full(len(times), np.nan)
            for measure, value in (("auc", auc), ("um", weights @ r.right / weights.sum(axis=1))):
                values[measure].setdefault(r.header.cell[:2], []).append(value)
    facts = [(*setup, sets[setup[1]].overlap("all"), len(sets[setup[1]].classes)) for setup in values["um"]]
    facts = pd.DataFrame(facts, columns=["model", "class_set", *FACTORS])
    # A frame's mean leaves out NaN, without a warning where there is nothing else.
    means = {
        name: np.column_stack([pd.DataFrame(np.array(cells)).mean() for cells in by.values()])
        for name, by in values.items()
    }
    return overlap_of(facts, means)


def paper_overlap() -> Overlap:
    """Of the paper's Tables II and IV, without intervals; its AUCs are of one class set alone."""
    paper = read_published()
    accuracy = attacked(paper.accuracy).xs("um", level="defence").groupby(level=["model", "class_set"]).mean()
    facts = accuracy.index.to_frame(index=False)
    for factor, key in (("overlap", "overlap_percent"), ("classes", "classes")):
        facts[factor] = [paper.table2[name][key] for name in facts["class_set"]]
    return overlap_of(facts, {"um": accuracy.to_numpy()[None]})


def stronger(row: Mapping[str, float]) -> str:
    """The factor that correlates more strongly, unless the interval of the difference includes 0."""
    if row["difference_low"] > 0:
        return FACTORS["overlap"]
    return FACTORS["classes"] if row["difference_high"] < 0 else "not decided"


def overlap_lines(found: Overlap | None) -> str:
    """A line per measure: its rank correlations, and which is the stronger; nothing where they are not defined."""
    few = f" ({found.class_sets} class sets are too few)" if found and found.class_sets < ENOUGH else ""
    text = ""
    for name in MEASURES if found else ():
        if row := found.ranked(name):
            of = ", ".join(f"{what} {with_interval(row, factor, sign=True)}" for factor, what in FACTORS.items())
            text += f"{name.upper()}: rank correlation with {of}; stronger: {stronger(row)}{few}.\n"
    return text


def overlap_markdown(found: Overlap) -> str:
    """The points, and the correlations of ours and of the paper."""
    rows = [
        [*setup_labels(p["model"], p["class_set"]), str(p["classes"]), number(p["overlap"])]
        + [with_interval(p, name, 3) for name in MEASURES]
        for p in found.points.to_dict("records")
    ]
    told = [
        [
            MEASURES[c["measure"]] + whose,
            c["coefficient"],
            *(with_interval(c, name, sign=True) for name in (*FACTORS, "difference")),
        ]
        for whose, of in (("", found), (" (the paper's)", paper_overlap()))
        for c in of.correlations.to_dict("records")
    ]
    k = found.class_sets
    parts = [
        markdown(["M", "CS", "Classes", "Overlap %", *MEASURES.values()], rows),
        "Means over the attacks, with 95 % bootstrap intervals over the class set's images.\n",
        markdown(["Correlation of", "Coefficient", *FACTORS.values(), "difference of sizes"], told),
        overlap_lines(found),
        f"{k} class sets: the intervals cover the choice of images, not of class sets. Even a perfect rank correlation "
        f"over {k} class sets has a two-sided p of {min(1, 2 / factorial(k)):.2g}.\n",
    ]
    return "\n".join(parts)


def overlap_files(row_sets: Sequence[RowSet]) -> dict[str, str | pd.DataFrame]:
    """overlap.md, overlap.csv (the points) and overlap_correlations.csv; none where there is one class set."""
    if (found := our_overlap(row_sets)) is None:
        return {}
    names = "overlap.md", "overlap.csv", "overlap_correlations.csv"
    return dict(zip(names, (overlap_markdown(found), found.points, found.correlations), strict=True))
