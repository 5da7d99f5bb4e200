"""The scores from which K is believed, chosen so that part sets tell the classes apart (Section III-B, step 3).

What UnMask needs of K is not that each "this part is in the image" is right as often as possible, which is the aim of
mrcnn/part_scores.py, but that an image's parts fit its own class better than any other. So the scores are chosen on
benign validation images of the classes: the distance d to an image's own class is what a benign image shows, and the
distance to another class of its class set what an attacked one would show, if its parts stayed what they are. No attack
is needed for it.

An image that the scores were chosen on shows smaller distances than a new one, so a threshold chosen on the same images
would flag more of new ones than it says. Therefore the images are divided into `FOLDS`, and for each fold scores are
chosen without it (cross-fitting): those say what each image would have looked like as a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from unmask_tf.defense.alignment import auc
from unmask_tf.mrcnn.part_names import FOLDS, fold

CANDIDATES = np.arange(1, 19) / 20
_ROUNDS = 5
_GAIN = 1e-4  # of the objective; less is no reason for another score


def separating_scores(
    scores: np.ndarray,
    labels: Sequence[str],
    expected: Mapping[str, Sequence[str]],
    class_sets: Mapping[str, Sequence[str]],
    parts: Sequence[str],
    start: Mapping[str, float],
) -> dict[str, float]:
    """Part -> the score from which it counts as seen.

    One part after another gets the best of `CANDIDATES`, in an order drawn anew in every round, until a round changes
    nothing. The objective is the mean over the class sets of the AUC of the detection: distances of images to their own
    class against those to the other classes.

    Args:
        scores: K's highest score of each part in each image, 0 where it sees none: (images, parts).
        labels: the images' classes.
        expected: class -> its parts.
        class_sets: name -> classes; sets with a class of which there is no image are passed over.
        parts: names of the columns.
        start: part -> the score to begin with.

    Raises:
        ValueError: shapes do not agree, or there is no class set of two classes with images.
    """
    scores, found = np.asarray(scores), np.asarray(labels)
    if scores.shape != (len(found), len(parts)):
        raise ValueError(f"scores have the shape {scores.shape}; ({len(found)}, {len(parts)}) was expected.")
    sets = [tuple(members) for members in class_sets.values() if len(members) > 1 and set(members) <= set(found)]
    if not sets:
        raise ValueError("scores that separate classes need a class set with images of two classes or more.")
    classes = sorted(set().union(*sets))
    fits = np.array([[part in expected[name] for part in parts] for name in classes])
    # For each class set: which (image, class) pairs are of an image's own class, and which of another one.
    own = found[:, None] == np.array(classes)
    inside = [np.isin(classes, members) & np.isin(found, members)[:, None] for members in sets]
    pairs = [(own & members, ~own & members) for members in inside]

    def separation(chosen: np.ndarray) -> float:
        seen = scores >= chosen
        both = seen.astype(np.float64) @ fits.T
        either = seen.sum(axis=1)[:, None] + fits.sum(axis=1) - both
        distance = 1.0 - both / np.maximum(either, 1)
        return float(np.mean([_auc(distance[other], distance[same]) for same, other in pairs]))

    chosen = np.array([start[part] for part in parts], np.float64)
    best = separation(chosen)
    for number in range(_ROUNDS):
        before = best
        for part in np.random.RandomState(number).permutation(len(parts)):
            for candidate in CANDIDATES:
                changed = chosen.copy()
                changed[part] = candidate
                if (value := separation(changed)) > best + _GAIN:
                    chosen, best = changed, value
        if best == before:
            break
    return {part: round(float(score), 4) for part, score in zip(parts, chosen, strict=True)}


def held_out_scores(
    scores: np.ndarray,
    names: Sequence[str],
    labels: Sequence[str],
    expected: Mapping[str, Sequence[str]],
    class_sets: Mapping[str, Sequence[str]],
    parts: Sequence[str],
) -> list[dict[str, float]]:
    """For each fold, part -> the score chosen on the images of the other folds; none where there are so few images that
    a fold holds all of a class.

    It begins with .5 for every part, and not with scores that the fold's own images had a hand in.

    Args:
        names: of the images, as `fold` takes them.
        scores, labels, expected, class_sets, parts: as of `separating_scores`.

    Raises:
        ValueError: as `separating_scores`.
    """
    held_by, found, start = np.array([fold(name) for name in names]), np.asarray(labels), dict.fromkeys(parts, 0.5)
    left = [held_by != number for number in range(FOLDS)]
    if any(set(found[others]) != set(found) for others in left):
        return []
    chosen = []
    for others in left:
        chosen.append(separating_scores(scores[others], found[others].tolist(), expected, class_sets, parts, start))
    return chosen


def _auc(attacked: np.ndarray, benign: np.ndarray) -> float:
    return auc(np.concatenate([attacked, benign]), np.repeat([True, False], [len(attacked), len(benign)]))
