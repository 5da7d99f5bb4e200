"""What UnMask's success goes with: the overlap of the classes' parts, or their number (Section IV).

Intervals come from a bootstrap over the images of each class set, which its models and attacks share. They do not cover
the choice of the class sets, which are few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
import pandas as pd
from scipy import stats

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import in_order, setup_labels
from unmask_tf.report.published import read_published
from unmask_tf.report.statistics import attacked, detections, over_images, taxonomy_of, weighted_accuracy
from unmask_tf.report.table import Number, Table

ENOUGH = 4
"""Class sets without which a claim on correlations is not tested."""
MEASURES = {"auc": "AUC of the detection", "um": "UM's accuracy under attack"}
FACTORS = {"overlap": "part overlap", "classes": "number of classes"}


@dataclass(frozen=True, eq=False)
class Overlap:
    """Numbers are float (1 + resamples,): of all images, then of each resample.

    Attributes:
        points: a row per model and class set: `model`, `class_set`, `overlap` (percent) and `classes` (how many).
        values: measure -> its mean over the attacks, float (1 + resamples, points); NaN where no attack succeeded.
    """

    points: pd.DataFrame
    values: Mapping[str, np.ndarray]

    @property
    def class_sets(self) -> int:
        return self.points["class_set"].nunique()

    def correlations(self, measure: str, coefficient: str = "Spearman") -> dict[str, np.ndarray] | None:
        """Of a measure with each factor, and the `difference` of their sizes, |overlap's| - |classes'|; None where one
        of the three does not vary."""
        # Equal values must stay ties, whatever their last bits.
        y = self.values[measure].round(12)
        x = {name: self.points[name].to_numpy(float) for name in FACTORS}
        if np.isnan(y[0]).any() or any(len(set(v)) < 2 for v in (y[0], *x.values())):
            return None
        if coefficient == "Spearman":
            x, y = {name: stats.rankdata(v) for name, v in x.items()}, stats.rankdata(y, axis=1)
        with np.errstate(all="ignore"):
            found = {name: _pearson(v, y) for name, v in x.items()}
        return found | {"difference": abs(found["overlap"]) - abs(found["classes"])}


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation of x (points,) with each row of y (rows, points); NaN for a row that does not vary."""
    varies = y.std(axis=1) > 1e-12
    found = np.full(len(y), np.nan)
    found[varies] = stats.pearsonr(np.broadcast_to(x, y[varies].shape), y[varies], axis=1).statistic
    return found


def interval_of(values: np.ndarray) -> tuple[float, float] | None:
    """The percentiles of the resamples, which follow the estimate; None without any."""
    if len(values) < 2 or np.isnan(values).all():
        return None
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return float(low), float(high)


def resampled_number(values: np.ndarray, digits: int = 2, sign: bool = True, paper: np.ndarray | None = None) -> Number:
    """The estimate, with the interval of its resamples, and the paper's estimate."""
    return Number(float(values[0]), None if paper is None else float(paper[0]), interval_of(values), digits, sign)


def our_overlap(row_sets: Sequence[RowSet]) -> Overlap | None:
    """Of UM's attacked row sets; None where they are of fewer than two class sets."""
    found = [r for r in in_order(row_sets) if r.header.defence == "um" and r.header.attack != "none"]
    sets = {r.header.class_set: taxonomy_of(r.header) for r in found}
    if len(sets) < 2:
        return None
    known = {d.header.key: d for d in detections(row_sets) if len(d.labels)}
    setups = list(dict.fromkeys(r.header.cell[:2] for name in sets for r in found if r.header.class_set == name))

    def measures(times: Callable[[RowSet], np.ndarray]) -> np.ndarray:
        """(measures, points, rows), where each image counts `times` (rows, images)."""
        cells: dict[tuple, list[np.ndarray]] = {}
        for r in found:
            weights, d = times(r), known.get(r.header.key)
            area = d.weighted_auc(weights[:, r.fooled]) if d else np.full(len(weights), np.nan)
            cells.setdefault(("auc", *r.header.cell[:2]), []).append(area)
            cells.setdefault(("um", *r.header.cell[:2]), []).append(weighted_accuracy(r, weights))
        # A frame's mean leaves out NaN, without a warning where there is nothing else.
        return np.array([[pd.DataFrame(cells[(name, *s)]).mean().to_numpy() for s in setups] for name in MEASURES])

    both = np.concatenate(over_images(found, measures), axis=2)
    values = dict(zip(MEASURES, both.transpose(0, 2, 1), strict=True))
    facts = [(*setup, sets[setup[1]].overlap("all"), len(sets[setup[1]].classes)) for setup in setups]
    return Overlap(pd.DataFrame(facts, columns=["model", "class_set", *FACTORS]), values)


def paper_overlap() -> Overlap:
    """Of the paper's Tables II and IV, without intervals; its AUCs are of one class set alone."""
    paper = read_published()
    accuracy = attacked(paper.accuracy).xs("um", level="defence").groupby(level=["model", "class_set"]).mean()
    facts = accuracy.index.to_frame(index=False)
    for factor, key in (("overlap", "overlap_percent"), ("classes", "classes")):
        facts[factor] = [paper.table2[name][key] for name in facts["class_set"]]
    return Overlap(facts, {"um": accuracy.to_numpy()[None]})


def stronger(correlations: Mapping[str, np.ndarray]) -> str:
    """The factor that correlates more strongly, unless the interval of the difference includes 0."""
    low, high = interval_of(correlations["difference"]) or (0, 0)
    if low > 0:
        return FACTORS["overlap"]
    return FACTORS["classes"] if high < 0 else "not decided"


def overlap_tables(found: Overlap | None) -> list[Table]:
    """The points, and the correlations of ours beside the paper's; none without points."""
    if found is None:
        return []
    points = [
        [
            *setup_labels(p["model"], p["class_set"]),
            Number(p["classes"], digits=0),
            Number(p["overlap"]),
            *(resampled_number(found.values[name][:, i], 3, False) for name in MEASURES),
        ]
        for i, p in enumerate(found.points.to_dict("records"))
    ]
    paper, told = paper_overlap(), []
    for measure, what in MEASURES.items():
        for coefficient in ("Spearman", "Pearson"):
            if ours := found.correlations(measure, coefficient):
                theirs = paper.correlations(measure, coefficient) or {} if measure in paper.values else {}
                cells = [resampled_number(v, paper=theirs.get(name)) for name, v in ours.items()]
                told.append([what, coefficient, *cells, stronger(ours)])
    k = found.class_sets
    notes = (
        f"{k} class sets: the intervals cover the choice of images, not of class sets. Even a perfect rank correlation "
        f"over {k} class sets has a two-sided p of {min(1, 2 / factorial(k)):.2g}.",
    )
    head = ["Correlation of", "Coefficient", *FACTORS.values(), "difference of sizes", "stronger"]
    title = "What UnMask's success goes with: overlap of parts or number of classes"
    return [
        Table(
            "overlap",
            "Detection and defence over the overlap of parts, means over the attacks",
            ["M", "CS", "Classes", "Overlap %", *MEASURES.values()],
            points,
        ),
        *[Table("overlap_correlations", title, head, told, notes)] * bool(told),
    ]
