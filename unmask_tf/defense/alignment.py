"""Robust feature alignment (Section III-B, Algorithm 1): Jaccard similarity, detection, defence and ROC. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from unmask_tf.taxonomy import Taxonomy

# Distances are ratios of small counts: 1 - 4/5 must count as reaching t = 0.2, though its float lies one ulp below.
_ROUNDING = 1e-12


def jaccard(a: AbstractSet[str], b: AbstractSet[str]) -> float:
    """JS(a, b) = |a & b| / |a | b|, in [0, 1]; two empty sets share nothing and give 0.0."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def similarities(extracted: Sequence[AbstractSet[str]], taxonomy: Taxonomy, class_names: Sequence[str]) -> np.ndarray:
    """Jaccard similarity of every extracted part set with every class's expected parts V[c].

    Args:
        extracted: N sets of part names, f_r = K(X).
        taxonomy: holds V.
        class_names: C class names; they fix the order of the columns.

    Returns:
        float64 (N, C) in [0, 1], equal to `jaccard` cell by cell.

    Raises:
        ValueError: a part is unknown, or no class is named.
        TypeError: parts are given as one text.
        InputError: the taxonomy does not have a class.
    """
    if not class_names:
        raise ValueError("no classes to compare the extracted parts with. Name at least one class.")
    expected = taxonomy.matrix(tuple(class_names)).astype(np.int64)
    seen = _indicator(extracted, taxonomy)
    intersection = seen @ expected.T
    union = seen.sum(axis=1)[:, None] + expected.sum(axis=1)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros(union.shape), where=union > 0)


def _indicator(extracted: Sequence[AbstractSet[str]], taxonomy: Taxonomy) -> np.ndarray:
    """int64 (N, parts): 1 where the part was extracted."""
    column = {part: position for position, part in enumerate(taxonomy.parts)}
    seen = np.zeros((len(extracted), len(column)), np.int64)
    for row, parts in enumerate(extracted):
        if isinstance(parts, str):
            raise TypeError(f"extracted parts of image {row} are the text '{parts}'. Give a set of part names.")
        for part in parts:
            if part not in column:
                raise ValueError(f"extracted parts of image {row} name '{part}', which the taxonomy does not know.")
            seen[row, column[part]] = 1
    return seen


def predicted_similarity(similarity: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """JS(V[M(x)], f_r): picks each image's column.

    Args:
        similarity: float (N, C) of `similarities`.
        predictions: int (N,), M's class as a column index.

    Returns:
        float64 (N,).

    Raises:
        ValueError: the lengths differ, or an index is outside 0..C-1.
    """
    similarity, predictions = np.asarray(similarity, np.float64), np.asarray(predictions)
    if similarity.ndim != 2 or predictions.shape != similarity.shape[:1] or predictions.dtype.kind not in "iu":
        raise ValueError(
            f"similarities of shape {similarity.shape} do not fit predictions of shape {predictions.shape} "
            f"({predictions.dtype}). Give (N, C) floats and N class indices."
        )
    if predictions.size and not 0 <= predictions.min() <= predictions.max() < similarity.shape[1]:
        raise ValueError(f"a predicted class index lies outside 0..{similarity.shape[1] - 1}.")
    return similarity[np.arange(len(predictions)), predictions]


def detection_scores(similarity: np.ndarray) -> np.ndarray:
    """Distance d = 1 - s (Algorithm 1), the detector's score: float64 in the shape of `similarity`; high is suspicious.

    Args:
        similarity: s = JS(V[M(x)], f_r) in [0, 1], any shape.

    Raises:
        ValueError: a value is not a number in [0, 1].
    """
    similarity = np.asarray(similarity, np.float64)
    if not ((similarity >= 0) & (similarity <= 1)).all():
        raise ValueError("a similarity is not a number in [0, 1]. Give the values of `predicted_similarity`.")
    return 1.0 - similarity


def margin_scores(similarity: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """How much better another class fits than M's: max_{c != M(x)} JS(V[c], f_r) - JS(V[M(x)], f_r).

    Another score for the detector than d, not the paper's: high is suspicious, and above 0 K's answer is not M's. To
    pass, an attacker has to take the true class's parts away, where d asks for some parts of the wrong class alone.

    Args:
        similarity: float (N, C) of `similarities`, at least two classes.
        predictions: int (N,), M's class as a column index.

    Returns:
        float64 (N,) in [-1, 1].

    Raises:
        ValueError: as in `predicted_similarity`, or there is one class alone.
    """
    own = predicted_similarity(similarity, predictions)
    others = np.array(similarity, np.float64)
    if others.shape[1] < 2:
        raise ValueError("a margin is that to another class, and there is only one. Name at least two classes.")
    others[np.arange(len(own)), predictions] = -np.inf
    return others.max(axis=1) - own


def detect(scores: np.ndarray, threshold: float) -> np.ndarray:
    """True where the image is judged adversarial: d >= t (Algorithm 1; step 3 of the text prints the reverse).

    Args:
        scores: distances d, or margins, float, any shape.
        threshold: t.

    Returns:
        bool, the shape of `scores`.

    Raises:
        ValueError: a score or the threshold is NaN.
    """
    scores = np.asarray(scores, np.float64)
    if np.isnan(scores).any() or np.isnan(threshold):
        raise ValueError(f"cannot compare NaN with a threshold (threshold {threshold}). Look where the NaN arises.")
    return scores >= threshold - _ROUNDING


def defend(extracted: Sequence[AbstractSet[str]], taxonomy: Taxonomy, class_set: str) -> list[str | None]:
    """The class whose expected parts fit best, argmax_c JS(f_r, V[c]) (Algorithm 1, which prints argmin and f_e).

    Ties go to the class that comes first in the class set's own order. Where no class shares a part with the
    image, the answer is None, which counts as wrong.

    Args:
        extracted: N sets of part names.
        class_set: name of a class set of `taxonomy`.

    Returns:
        N class names or None.

    Raises:
        ValueError, TypeError: as in `similarities`.
        InputError: unknown class set.
    """
    members = taxonomy.members(class_set)
    return best_fit(similarities(extracted, taxonomy, members), members)


def best_fit(similarity: np.ndarray, class_names: Sequence[str]) -> list[str | None]:
    """Per row of `similarity` (N, C) the first class of the highest value, or None where every value is 0."""
    best = similarity.argmax(axis=1)
    return [class_names[c] if row[c] > 0 else None for row, c in zip(similarity, best, strict=True)]


def detection_pairs(
    attacked_scores: np.ndarray, benign_scores: np.ndarray, attacked_predictions: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The released detection protocol (Table III, contamination 0.5).

    Counted are the images whose attack succeeded, i.e. M is wrong on the attacked image, and their benign twins,
    even where M is wrong on the twin.

    Args:
        attacked_scores, benign_scores: float (N,), d of the attacked images and of their twins, in the same order.
        attacked_predictions: int (N,), M's class of the attacked images.
        labels: int (N,), true classes.

    Returns:
        scores float64 (2P,), attacked images first and their twins after them in the same order, and labels
        int8 (2P,), 1 adversarial and 0 benign, for the P successful attacks. P may be 0.

    Raises:
        ValueError: the four lengths differ.
    """
    arrays = [np.asarray(a) for a in (attacked_scores, benign_scores, attacked_predictions, labels)]
    shapes = [a.shape for a in arrays]
    if len(set(shapes)) > 1 or arrays[0].ndim != 1:
        raise ValueError(
            f"attacked scores, benign scores, predictions and labels have shapes {shapes}. Give one value per image."
        )
    fooled = arrays[2] != arrays[3]
    scores = np.concatenate([arrays[0][fooled], arrays[1][fooled]]).astype(np.float64)
    return scores, np.repeat(np.array([1, 0], np.int8), int(fooled.sum()))


def _checked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(labels)
    try:
        scores = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"detection scores are not numbers: {error}.") from error
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"{scores.shape} scores do not fit {labels.shape} labels. Give one label per score.")
    if not scores.size:
        raise ValueError("there are no detection scores: no attack succeeded, or no image was given.")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} detection scores are NaN or infinite.")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("detection labels must be 1 (adversarial) or 0 (benign).")
    labels = labels.astype(np.int64)
    if labels.min() == labels.max():
        raise ValueError(
            f"all {len(labels)} detection labels are {labels[0]}. A ROC needs adversarial (1) and benign (0) images."
        )
    return scores, labels


def benign_threshold(scores: np.ndarray, max_fpr: float) -> tuple[float, float]:
    """The lowest threshold t at which `detect` flags at most a share `max_fpr` of benign images.

    Args:
        scores: distances d (in [0, 1]) or margins (in [-1, 1]) of benign images, float (N,), N >= 1.
        max_fpr: in [0, 1].

    Returns:
        t, halfway between the highest score that passes and the lowest that is flagged (where none passes: half the
        lowest score, or a negative one itself), and the share of `scores` that it flags. Where none may be flagged, t
        lies above every score and above 1.

    Raises:
        ValueError: no scores, one that is not a number, or a rate outside [0, 1].
    """
    scores = np.asarray(scores, np.float64)
    if not scores.size or not np.isfinite(scores).all():
        raise ValueError("a threshold needs the scores of at least one benign image, all of them numbers.")
    if not 0 <= max_fpr <= 1:
        raise ValueError(f"max_fpr is {max_fpr}. Give a rate in [0, 1].")
    levels = np.unique(scores)
    rates = np.array([(scores >= level).mean() for level in levels])
    allowed = np.flatnonzero(rates <= max_fpr + _ROUNDING)
    if not len(allowed):
        return float(max(levels[-1], 1.0) + 1e-6), 0.0
    first = int(allowed[0])
    below = levels[first - 1] if first else min(0.0, levels[0])
    return float((levels[first] + below) / 2), float(rates[first])


def _counts(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, descending from infinity, and the false and true positives of `score >= threshold` (int64)."""
    scores, labels = _checked(scores, labels)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    true_positives = np.cumsum(labels[order])[last_of_tie]
    false_positives = last_of_tie + 1 - true_positives
    return (
        np.append(np.inf, ranked[last_of_tie]),
        np.append(0, false_positives),
        np.append(0, true_positives),
    )


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ROC of the detector `score >= threshold`, one point per distinct score (tied images enter together).

    Args:
        scores: float (N,), high is suspicious.
        labels: int or bool (N,), 1 adversarial (positive), 0 benign.

    Returns:
        fpr, tpr, thresholds: float64 (K,), from (0, 0) at an infinite threshold to (1, 1).

    Raises:
        ValueError: empty, non-finite, of one class only, or labels other than 0 and 1.
    """
    thresholds, false_positives, true_positives = _counts(scores, labels)
    return false_positives / false_positives[-1], true_positives / true_positives[-1], thresholds


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC by trapezoids: the share of (adversarial, benign) pairs ranked right, ties counting half.

    Counted in integers and divided once, so it equals the Mann-Whitney statistic exactly. Arguments and errors as
    in `roc_curve`.
    """
    _, fp, tp = _counts(scores, labels)
    twice_area = int(((fp[1:] - fp[:-1]) * (tp[1:] + tp[:-1])).sum())
    return twice_area / (2 * int(fp[-1]) * int(tp[-1]))


def operating_point(
    scores: np.ndarray, labels: np.ndarray, *, max_fpr: float | None = None, threshold: float | None = None
) -> tuple[float, float, float]:
    """One point of the ROC, by the largest allowed false positive rate or by a threshold.

    Args:
        scores, labels: as in `roc_curve`.
        max_fpr: take the highest true positive rate among the points with fpr <= max_fpr.
        threshold: take the rates of d >= threshold.

    Returns:
        (threshold, fpr, tpr); the threshold is infinite where no image may be flagged.

    Raises:
        ValueError: as in `roc_curve`, or not exactly one of `max_fpr` in [0, 1] and `threshold` is given.
    """
    if (max_fpr is None) == (threshold is None):
        raise ValueError(f"give either max_fpr or threshold (received {max_fpr} and {threshold}).")
    if max_fpr is not None:
        if not 0 <= max_fpr <= 1:
            raise ValueError(f"max_fpr is {max_fpr}. Give a rate in [0, 1].")
        fpr, tpr, thresholds = roc_curve(scores, labels)
        allowed = np.flatnonzero(fpr <= max_fpr)
        # Among points of equal tpr the first has the lowest fpr.
        best = int(allowed[np.argmax(tpr[allowed])])
        return float(thresholds[best]), float(fpr[best]), float(tpr[best])
    scores, labels = _checked(scores, labels)
    flagged = detect(scores, threshold)
    return float(threshold), float(flagged[labels == 0].mean()), float(flagged[labels == 1].mean())
