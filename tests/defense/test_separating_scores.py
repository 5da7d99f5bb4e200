"""Scores of parts chosen so that part sets tell classes apart."""

import zlib

import numpy as np
import pytest

from unmask_tf.defense.part_scores import CANDIDATES, held_out_scores, separating_scores
from unmask_tf.mrcnn.part_names import FOLDS, fold

PARTS = ("wheel", "beak", "fur")
EXPECTED = {"car": ("wheel",), "bird": ("beak",)}
SETS = {"two": ("car", "bird")}
START = dict.fromkeys(PARTS, 0.5)
# K sees wheels weakly (.3) in cars and, weaker (.1), in birds; beaks at .8; fur at .6 in all, though no class has it.
SCORES = np.array([[0.3, 0.0, 0.6], [0.35, 0.0, 0.6], [0.1, 0.8, 0.6], [0.1, 0.8, 0.6]])
LABELS = ("car", "car", "bird", "bird")


def distances(scores, chosen):
    """Images' distances to (car, bird)."""
    found = [{part for part, s in zip(PARTS, row, strict=True) if s >= chosen[part]} for row in scores]
    return [[1 - len(f & set(e)) / max(1, len(f | set(e))) for e in EXPECTED.values()] for f in found]


def test_a_part_that_is_seen_weakly_but_in_its_class_alone_gets_a_low_score():
    before = distances(SCORES, START)
    assert before[0][0] == before[0][1] == 1, "with the scores at the beginning no car is told from a bird"
    chosen = separating_scores(SCORES, LABELS, EXPECTED, SETS, PARTS, START)
    assert 0.1 < chosen["wheel"] <= 0.3
    for label, (car, bird) in zip(LABELS, distances(SCORES, chosen), strict=True):
        assert (car < bird) == (label == "car")


def test_scores_without_a_gain_stay_as_they_were():
    start = {"wheel": 0.2, "beak": 0.5, "fur": 0.9}
    assert separating_scores(SCORES, LABELS, EXPECTED, SETS, PARTS, start) == start


def test_the_objective_never_falls_and_no_single_score_could_raise_it_further():
    rng = np.random.default_rng(0)
    parts = tuple("abcdef")
    expected = {"x": ("a", "b", "c"), "y": ("c", "d"), "z": ("e", "f", "a")}
    labels = np.repeat(list(expected), 20)
    own = np.array([[part in expected[label] for part in parts] for label in labels])
    scores = np.clip(0.35 * own + rng.random(own.shape) * 0.6, 0, 1)
    sets = {"all": tuple(expected), "some": ("x", "y")}

    def separation(chosen):
        """The mean over class sets of the share of (own class, other class) pairs in order, counted one by one."""
        aucs = []
        for members in sets.values():
            same, other = [], []
            for row, label in zip(scores, labels, strict=True):
                if label not in members:
                    continue
                seen = {part for part, s in zip(parts, row, strict=True) if s >= chosen[part]}
                for name in members:
                    d = 1 - len(seen & set(expected[name])) / max(1, len(seen | set(expected[name])))
                    (same if name == label else other).append(d)
            aucs.append(np.mean([(o > s) + 0.5 * (o == s) for o in other for s in same]))
        return np.mean(aucs)

    start = dict.fromkeys(parts, 0.5)
    chosen = separating_scores(scores, labels, expected, sets, parts, start)
    best = separation(chosen)
    assert best > separation(start) + 0.01
    assert set(chosen.values()) <= {round(float(c), 4) for c in CANDIDATES}
    for part in parts:
        for candidate in CANDIDATES[::3]:
            assert separation({**chosen, part: candidate}) <= best + 1.1e-4


def many():
    """Forty images of two classes: their parts' scores are spread, so that which images are looked at matters."""
    rng = np.random.default_rng(1)
    labels = ["car", "bird"] * 20
    own = np.array([[part in EXPECTED[label] for part in PARTS] for label in labels])
    return (
        np.clip(0.3 * own + 0.7 * rng.random(own.shape), 0, 1),
        [f"{c}/{i}.jpg" for i, c in enumerate(labels)],
        labels,
    )


def test_an_image_has_no_hand_in_the_scores_of_its_own_fold():
    scores, names, labels = many()
    folds = np.array([fold(name) for name in names])
    before = held_out_scores(scores, names, labels, EXPECTED, SETS, PARTS)
    assert len(before) == FOLDS
    assert len({tuple(chosen.values()) for chosen in before}) > 1
    changed = []
    for number in set(folds):
        other = scores.copy()
        other[folds == number] = 1 - other[folds == number]
        after = held_out_scores(other, names, labels, EXPECTED, SETS, PARTS)
        assert after[number] == before[number]
        changed += [a != b for a, b in zip(after, before, strict=True)]
    assert any(changed), "and one in those of the other folds"
    others = [i for i, number in enumerate(folds) if number != 3]
    left = [scores[others], [labels[i] for i in others], EXPECTED, SETS, PARTS, START]
    assert before[3] == separating_scores(*left)


def test_a_fold_is_of_the_class_and_the_file_wherever_they_lie():
    assert fold("classes/val/bird/0007.jpg") == fold("bird/0007.jpg") == zlib.crc32(b"bird/0007.jpg") % FOLDS
    assert {fold(f"bird/{i}.jpg") for i in range(200)} == set(range(FOLDS))


def test_where_a_fold_holds_all_of_a_class_there_are_none():
    assert held_out_scores(SCORES, list("abcd"), ("car", "bird", "bird", "bird"), EXPECTED, SETS, PARTS) == []


def test_wrong_shapes_and_class_sets_without_images_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\) was expected"):
        separating_scores(SCORES, LABELS, EXPECTED, SETS, PARTS[:2], START)
    with pytest.raises(ValueError, match="two classes or more"):
        separating_scores(SCORES[:2], LABELS[:2], EXPECTED, SETS, PARTS, START)
