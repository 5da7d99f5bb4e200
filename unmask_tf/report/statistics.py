"""From row sets to numbers: accuracies, the detection's AUCs, their means and intervals. Ours and the paper's alike.

Numbers are a float Series of fractions by (model, class_set, attack, epsilon_255, defence), in the paper's order.
Intervals are of 95 %: Wilson's of shares, and percentiles of a bootstrap over images of everything else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from unmask_tf.defense.alignment import auc, detection_pairs, operating_point
from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import Header, RowSet, describe
from unmask_tf.report.cells import CELL, CLASS_SETS, cell_rank, defences_of, grouped, in_order, ranked
from unmask_tf.report.table import Number
from unmask_tf.taxonomy import Taxonomy

REPEATS, SEED = 1000, 2020
Interval = tuple[float, float]


def series(numbers: Mapping[tuple, float]) -> pd.Series:
    """Numbers from a dict by (model, class_set, attack, epsilon_255, defence)."""
    keys = sorted(numbers, key=cell_rank)
    index = pd.MultiIndex.from_frame(pd.DataFrame(keys, columns=[*CELL, "defence"]))
    return pd.Series([numbers[key] for key in keys], index, dtype=float)


def key_of(header: Header) -> tuple:
    """(model, class_set, attack, epsilon_255, defence)."""
    return *header.cell, header.defence


def taxonomy_of(header: Header) -> Taxonomy:
    """The classes and parts of a row set, as the class set `all`."""
    # A taxonomy needs a part; classes without any have none to share.
    parts = dict.fromkeys(part for expected in header.classes.values() for part in expected) or ("none",)
    classes = {name: tuple(expected) for name, expected in header.classes.items()}
    return Taxonomy(tuple(parts), classes, {"all": tuple(classes)})


def share(value: float | None, n: int, paper: float | None = None, digits: int = 2, mark: str = "") -> Number:
    """A share of n images as a cell of a table, with Wilson's interval."""
    return Number(value, paper, None if value is None else wilson(value, n), digits, mark=mark)


def wilson(share: float, n: int) -> Interval | None:
    """Wilson's interval of a share of n images; a mean share is taken for the nearest whole number of images."""
    if not n or np.isnan(share):
        return None
    found = stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def resampled(statistic: Callable[..., np.ndarray], *sizes: int) -> np.ndarray:
    """The bootstrap distribution (..., REPEATS) of a statistic over independent sets of images.

    Args:
        statistic: of one array (rows, images) a set, how often each image counts; gives (..., rows).
        sizes: images of each set, at least two.
    """

    def of_drawn(*drawn: np.ndarray, axis: int) -> np.ndarray:
        times = []
        for images, size in zip(map(np.atleast_2d, drawn), sizes, strict=True):
            places = images.astype(int) + size * np.arange(len(images))[:, None]
            times.append(np.bincount(places.ravel(), minlength=images.size).reshape(images.shape))
        found = statistic(*times)
        return found if drawn[0].ndim > 1 else found[..., 0]

    sets = tuple(np.arange(size) for size in sizes)
    rng = np.random.default_rng(SEED)
    options = {"n_resamples": REPEATS, "vectorized": True, "method": "percentile", "rng": rng}
    with warnings.catch_warnings():
        # A statistic may be undefined for some images; its interval is then left out.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        return stats.bootstrap(sets, of_drawn, **options).bootstrap_distribution


def over_images(
    row_sets: Sequence[RowSet], measure: Callable[[Callable[[RowSet], np.ndarray]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """A statistic of row sets (..., 1), and its bootstrap distribution (..., REPEATS), empty for a single image.

    The images of each class set are drawn; a drawn one counts alike under every attack, with every M and defence.

    Args:
        measure: of a function that tells how often each image of a row set counts (rows, n); gives (..., rows).
    """
    of_set = grouped(row_sets, lambda r: r.header.class_set)
    images = {name: pd.Index(pd.concat([r.rows["image"] for r in of]).unique()) for name, of in of_set.items()}

    def measured(*times: np.ndarray) -> np.ndarray:
        drawn = dict(zip(images, times, strict=True))

        def of_row_set(r: RowSet) -> np.ndarray:
            name = r.header.class_set
            return drawn[name][:, images[name].get_indexer(r.rows["image"])]

        return measure(of_row_set)

    sizes = [len(of) for of in images.values()]
    found = measured(*(np.ones((1, size)) for size in sizes))
    # Images that are drawn at least twice need two to be drawn from.
    return found, resampled(measured, *sizes) if min(sizes, default=0) > 1 else found[..., :0]


def accuracies(row_sets: Iterable[RowSet]) -> pd.Series:
    """One accuracy per row set: Table IV.

    Raises:
        InputError: a cell occurs twice, or its defences answered on different numbers of images.
    """
    found: dict[tuple, float] = {}
    sizes: dict[tuple, int] = {}
    for r in in_order(row_sets):
        size = sizes.setdefault(r.header.cell, r.n)
        if key_of(r.header) in found or size != r.n:
            raise InputError(
                f"there are two row sets of {describe(r.header)}, or its {r.n} images are not the {size} of another "
                "defence. Run the experiment again."
            )
        found[key_of(r.header)] = r.accuracy
    return series(found)


@dataclass(frozen=True, eq=False)
class Detection:
    """The images of the released detection protocol in one cell (Table III, Figure 5).

    Attributes:
        header: of the attacked row set.
        scores, labels: as `defense.alignment.detection_pairs` gives them: the successfully attacked images, then their
            benign twins; 1 adversarial, 0 benign.
    """

    header: Header
    scores: np.ndarray
    labels: np.ndarray

    @property
    def auc(self) -> float:
        """Area under the ROC; NaN where no attack succeeded."""
        return auc(self.scores, self.labels) if len(self.labels) else float("nan")

    def weighted_auc(self, times: np.ndarray) -> np.ndarray:
        """AUC (rows,) where each attacked image, with its twin, counts `times` (rows, images)."""
        levels, codes = np.unique(self.scores, return_inverse=True)
        adversarial, benign = (times @ half for half in np.split(np.eye(len(levels))[codes], 2))
        pairs = adversarial.sum(axis=1) * benign.sum(axis=1)
        right = (adversarial * (benign.cumsum(axis=1) - benign / 2)).sum(axis=1)
        return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    @cached_property
    def interval(self) -> Interval | None:
        """Of the AUC; None for fewer than two pairs."""
        if len(self.labels) < 4:
            return None
        return _interval(resampled(self.weighted_auc, len(self.labels) // 2))

    def tpr(self, max_fpr: float) -> float:
        """Share of the attacked images found where at most that share of the benign ones is flagged; NaN as `auc`."""
        return operating_point(self.scores, self.labels, max_fpr=max_fpr)[2] if len(self.labels) else float("nan")


def detections(row_sets: Iterable[RowSet]) -> list[Detection]:
    """The detection of every attacked row set whose images all have a score, in the paper's order.

    A defence whose scores are another's (Algorithm 1 beside UM) is left out: it adds nothing.

    Raises:
        InputError: the benign twins of a row set are missing.
    """
    scored = [r for r in in_order(row_sets) if r.rows["score"].notna().all()]
    of_benign = {_setup(r.header): r.rows.set_index("image")["score"] for r in scored if r.header.attack == "none"}
    found: dict[str, list[Detection]] = {}
    for r in (r for r in scored if r.header.attack != "none"):
        twins = of_benign.get(_setup(r.header), pd.Series(dtype=float)).reindex(r.rows["image"])
        if twins.isna().any():
            raise InputError(f"{describe(r.header)}: not all images have a score without attack. Run `make reproduce`.")
        columns = r.rows["score"], twins, r.rows["model_answer"], r.rows["true"]
        pairs = detection_pairs(*(column.to_numpy() for column in columns))
        found.setdefault(r.header.defence, []).append(Detection(r.header, *pairs))
    different = {
        tuple((d.header.cell, d.scores.tobytes()) for d in found[name]): name for name in defences_of(found)[::-1]
    }
    return [d for name in defences_of(different.values()) for d in found[name]]


def _setup(header: Header) -> tuple[str, ...]:
    return header.data, header.split, header.class_set, header.model, header.defence


def aucs(found: Iterable[Detection]) -> pd.Series:
    """AUC by cell and detector."""
    return series({key_of(d.header): d.auc for d in found})


def wide(numbers: pd.Series) -> pd.DataFrame:
    """A row per cell, a column per defence; NaN where there is no number."""
    table = numbers.unstack("defence")
    return table.reindex(index=sorted(table.index, key=cell_rank), columns=defences_of(table.columns))


def attacked(numbers: pd.Series) -> pd.Series:
    """The numbers of attacked images."""
    return numbers[numbers.index.get_level_values("attack") != "none"]


def benign(numbers: pd.Series) -> pd.Series:
    """The numbers of images without an attack."""
    return numbers[numbers.index.get_level_values("attack") == "none"]


def means(accuracy: pd.Series) -> dict[str, float]:
    """Means over the attacked cells of Table IV in percent points, by defence; and the paper's two headlines.

    Returns:
        defence -> mean accuracy over the cells that have it; `um - at` and `um - none` -> mean difference over the
        cells that have both. NaN: no cell has.
    """
    table = wide(attacked(accuracy))
    all_three = table.reindex(columns=["um", "at", "none"])
    differences = {f"um - {other}": 100 * (all_three["um"] - all_three[other]).mean() for other in ("at", "none")}
    return (100 * table.mean()).to_dict() | differences


def _drawn_accuracies(row_sets: Iterable[RowSet]) -> pd.DataFrame:
    """Accuracies of the attacked row sets: a row each, indexed as in `series`, and a column a resample."""
    found = [r for r in in_order(row_sets) if r.header.attack != "none"]
    index = pd.MultiIndex.from_tuples([key_of(r.header) for r in found], names=[*CELL, "defence"])
    _, drawn = over_images(found, lambda times: np.array([weighted_accuracy(r, times(r)) for r in found]))
    return pd.DataFrame(drawn, index)


def weighted_accuracy(r: RowSet, times: np.ndarray) -> np.ndarray:
    """Accuracy (rows,) where each image counts `times` (rows, n)."""
    return times @ r.right / times.sum(axis=1)


def _interval(values: np.ndarray | pd.Series) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def class_set_intervals(row_sets: Iterable[RowSet]) -> dict[tuple[str, str], Interval]:
    """(class set, defence) -> interval of `class_set_means`, in percent; nothing where a class set has one image."""
    drawn = _drawn_accuracies(row_sets)
    groups = drawn.groupby(level=["class_set", "defence"]) if drawn.size else ()
    return {key: _interval(100 * of.mean()) for key, of in groups}


def mean_intervals(row_sets: Iterable[RowSet]) -> dict[str, Interval]:
    """Intervals of `means`, by the same names; nothing where a class set has one image."""
    drawn = _drawn_accuracies(row_sets)
    by = {name: 100 * of.droplevel("defence") for name, of in drawn.groupby(level="defence")} if drawn.size else {}
    both = {f"um - {other}": (by["um"] - by[other]).dropna() for other in ("at", "none") if {"um", other} <= set(by)}
    return {name: _interval(of.mean()) for name, of in {**by, **both}.items() if len(of)}


def class_set_means(accuracy: pd.Series) -> pd.DataFrame:
    """Figure 4: mean accuracy in percent over attacks, budgets and M; a row per class set, a column per defence."""
    found = 100 * wide(attacked(accuracy)).groupby(level="class_set").mean()
    return found.reindex(ranked(found.index, CLASS_SETS))
