"""Numbers of the attacks that know K, from rows: how often one succeeds, and what the system is still worth.

An attack on an image succeeds where M is wrong and the image is not flagged. Thresholds come from benign validation
images of the same M and K, at 5 % and 50 % false positives: a false positive is an image that M answers rightly and
that is flagged all the same, for an M that was trained against attacks errs on many benign images too.

Beside the paper's detector, by the distance d to M's class, stands one by the margin to the class that fits best
(`alignment.margin_scores`): it needs the parts alone, which the rows hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from unmask_tf.defense.alignment import auc, benign_threshold, detect, detection_pairs, jaccard, margin_scores
from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet, describe
from unmask_tf.report.cells import BENIGN, cell_rank

RATES = (0.05, 0.5)
"""False positive rates."""
WORST = "any"
"""The worst case over all attacks of a norm, at a budget and below."""


def norm_of(attack: str) -> str:
    """`linf` of `joint_linf`."""
    return attack.rpartition("_")[2]


def family_of(attack: str) -> str:
    """`joint` of `joint_linf`."""
    return attack.rpartition("_")[0]


def distances(row_set: RowSet) -> np.ndarray:
    """The paper's scores d of the images, float (n,)."""
    return row_set.rows["score"].to_numpy()


def margins(row_set: RowSet) -> np.ndarray:
    """Margins of the images (`alignment.margin_scores`), float64 (n,), from their parts."""
    classes = list(row_set.header.classes)
    expected = [frozenset(row_set.header.classes[name]) for name in classes]
    seen = [frozenset(text.split()) if isinstance(text, str) else frozenset() for text in row_set.rows["parts"]]
    similarity = np.array([[jaccard(parts, of_class) for of_class in expected] for parts in seen])
    return margin_scores(similarity, np.array([classes.index(name) for name in row_set.rows["model_answer"]], np.int64))


Scores = Callable[[RowSet], np.ndarray]
"""What a detector goes by: `distances` or `margins`."""


def threshold_of(validation: RowSet, rate: float, scores_of: Scores = distances) -> float:
    """The lowest threshold that flags at most that share of the benign images that M answers rightly; above 1 where
    there is none.

    Raises:
        InputError: M answers no image rightly.
    """
    scores = scores_of(validation)[~validation.fooled]
    if not len(scores):
        raise InputError(f"M answers no image rightly in {describe(validation.header)}, so there is no threshold.")
    return benign_threshold(scores, rate)[0]


def adaptive_numbers(row_sets: Iterable[RowSet]) -> pd.DataFrame:
    """One row per M, class set, attack and budget.

    Columns: `n`; `success_5` and `success_50`: wrong and not flagged at that rate of false positives; `wrong`: M is;
    `um`, `algorithm1`: accuracies of K alone, and of the whole system at the threshold of 5 %; `reject_5`: right or
    flagged; `margin_5` and `margin_algorithm1`: success and whole system, by the margin instead of d; `auc` of the
    released protocol (NaN where M is never wrong); `median_iteration` of the attack's best
    iterate. Attack `any` is the worst case: an image counts where any attack of the norm succeeded on it, at that
    budget or a smaller one, for an image within a budget is within every larger one.

    Raises:
        InputError: benign images, or K's answers, are missing, or cells are of different images.
    """
    by_cell = {(r.header.split, *r.header.cell, r.header.defence): r for r in row_sets}
    found, outcomes = [], {}
    for key in sorted({key[1:5] for key in by_cell if key[0] == "test"}, key=cell_rank):
        model, class_set, attack, epsilon = key
        try:
            um = by_cell[("test", *key, "um")]
            validation, twins = (by_cell[(split, model, class_set, *BENIGN, "um")] for split in ("val", "test"))
        except KeyError as missing:
            raise InputError(f"the rows of {missing.args[0]} are missing. Run: make adaptive") from missing
        outcome = {
            "wrong": um.fooled,
            **{f"success_{100 * rate:g}": _success(um, validation, rate) for rate in RATES},
            "not_um": ~um.right,
            "not_algorithm1": np.where(_flagged(um, validation, RATES[0]), ~um.right, um.fooled),
            "margin_5": _success(um, validation, RATES[0], margins),
            "not_margin_algorithm1": np.where(_flagged(um, validation, RATES[0], margins), ~um.right, um.fooled),
        }
        if attack != "none":
            _same_images(um, twins)
            outcomes.setdefault((model, class_set, norm_of(attack)), []).append((epsilon, outcome))
        row = {"model": model, "class_set": class_set, "attack": attack, "epsilon_255": epsilon, "n": um.n}
        row |= _shares(outcome) | {"auc": _auc(um, twins)}
        row["median_iteration"] = um.header.threat.get("best_iteration_median", np.nan)
        found.append(row)
    return pd.DataFrame(found + _worst(outcomes))


def _success(um: RowSet, validation: RowSet, rate: float, scores_of: Scores = distances) -> np.ndarray:
    """bool (n,): M is wrong, and the image is not flagged."""
    return um.fooled & ~_flagged(um, validation, rate, scores_of)


def _flagged(um: RowSet, validation: RowSet, rate: float, scores_of: Scores = distances) -> np.ndarray:
    """bool (n,): the image is judged adversarial."""
    return np.asarray(detect(scores_of(um), threshold_of(validation, rate, scores_of)))


def _shares(outcome: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The columns of a row from what became of each image; `not_x` becomes `x`, the share of the others."""
    shares = {name: float(np.mean(values)) for name, values in outcome.items()}
    turned = {name.removeprefix("not_"): 1.0 - share for name, share in shares.items() if name.startswith("not_")}
    kept = {name: share for name, share in shares.items() if not name.startswith("not_")}
    return kept | turned | {"reject_5": 1.0 - shares[f"success_{100 * RATES[0]:g}"]}


def _same_images(one: RowSet, other: RowSet) -> None:
    if list(one.rows["image"]) != list(other.rows["image"]):
        raise InputError(
            f"the rows of {describe(one.header)} and {describe(other.header)} are of different images. Run: make "
            "adaptive, all attacks with the same LIMIT"
        )


def _worst(outcomes: Mapping[tuple, Sequence[tuple[float, Mapping[str, np.ndarray]]]]) -> list[dict]:
    rows = []
    for (model, class_set, norm), attacks in outcomes.items():
        for budget in sorted({epsilon for epsilon, _ in attacks}):
            within = [outcome for epsilon, outcome in attacks if epsilon <= budget]
            worst = {name: np.logical_or.reduce([outcome[name] for outcome in within]) for name in within[0]}
            cell = {"model": model, "class_set": class_set, "attack": f"{WORST}_{norm}", "epsilon_255": budget}
            rows.append(cell | {"n": len(worst["wrong"])} | _shares(worst))
    return rows


def _auc(attacked: RowSet, twins: RowSet) -> float:
    benign = twins.rows.set_index("image")["score"].reindex(attacked.rows["image"])
    columns = attacked.rows["score"], benign, attacked.rows["model_answer"], attacked.rows["true"]
    scores, labels = detection_pairs(*(column.to_numpy() for column in columns))
    return auc(scores, labels) if len(labels) and attacked.header.attack != "none" else float("nan")


def effort_numbers(row_sets: Iterable[RowSet]) -> pd.DataFrame:
    """One row per M, class set, budget and effort of the joint attack on validation images.

    Columns: `iterations` of a run, `restarts`, `n`, `success_5`, `success_50`, `wrong`, and `success_so_far`: success
    at 5 % by any run of that budget with at most as many steps and runs, for who has that many may also make fewer.

    Raises:
        InputError: the benign images are missing.
    """
    row_sets = list(row_sets)
    benign = {r.header.cell[:2]: r for r in row_sets if r.header.attack == "none"}
    found, successes = [], []
    for r in row_sets:
        if r.header.attack == "none":
            continue
        if r.header.cell[:2] not in benign:
            raise InputError(
                f"the benign images of {describe(r.header)} are missing. Run: make adaptive EXTRA=--effort"
            )
        success = {f"success_{100 * rate:g}": _success(r, benign[r.header.cell[:2]], rate) for rate in RATES}
        row = dict(zip(("model", "class_set", "attack", "epsilon_255"), r.header.cell, strict=True))
        row |= {"iterations": r.header.threat["iterations"], "restarts": r.header.threat["restarts"], "n": r.n}
        found.append(row | {name: float(np.mean(values)) for name, values in success.items()})
        found[-1]["wrong"] = float(np.mean(r.fooled))
        successes.append(success[f"success_{100 * RATES[0]:g}"])
    for row in found:
        within = [s for other, s in zip(found, successes, strict=True) if _within(other, row)]
        row["success_so_far"] = float(np.mean(np.logical_or.reduce(within)))
    return pd.DataFrame(found)


def _within(effort: Mapping, other: Mapping) -> bool:
    """Whether an effort is of the same cell and in no way more than another."""
    same = all(effort[name] == other[name] for name in ("model", "class_set", "attack", "epsilon_255", "n"))
    return same and effort["iterations"] <= other["iterations"] and effort["restarts"] <= other["restarts"]
