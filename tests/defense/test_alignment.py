"""Similarity, detection, defence and ROC, against numbers worked by hand and a slow, obvious reference."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask_tf.defense.alignment import (
    auc,
    benign_threshold,
    defend,
    detect,
    detection_pairs,
    detection_scores,
    jaccard,
    margin_scores,
    operating_point,
    predicted_similarity,
    roc_curve,
    similarities,
)
from unmask_tf.taxonomy import PARTS, UNMASK, Taxonomy

part_sets = st.frozensets(st.sampled_from(PARTS), max_size=12)
# Few distinct values, so that ties between and within the classes abound.
ranked = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


def pair_counting_auc(scores, labels) -> Fraction:
    """Share of (adversarial, benign) pairs in which the adversarial one scores higher; a tie counts half."""
    positive = [s for s, label in zip(scores, labels, strict=True) if label]
    negative = [s for s, label in zip(scores, labels, strict=True) if not label]
    points = sum(
        Fraction(1) if p > n else Fraction(1, 2) if p == n else Fraction(0) for p in positive for n in negative
    )
    return points / (len(positive) * len(negative))


def split(pairs):
    return np.array([s / 6 for s, _ in pairs]), np.array([label for _, label in pairs])


# --- Jaccard ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"head", "neck", "tail"}, {"neck", "tail", "wing"}, 0.5),  # 2 of 4
        ({"wheel"}, {"wheel"}, 1.0),
        ({"wheel"}, {"head"}, 0.0),
        ({"wheel"}, set(), 0.0),
        (set(), set(), 0.0),
        ({"body", "cap"}, {"cap", "screen", "plant", "pot"}, 0.2),  # 1 of 5
    ],
)
def test_jaccard_by_hand(a, b, expected):
    assert jaccard(frozenset(a), frozenset(b)) == expected


@given(part_sets, part_sets)
def test_jaccard_is_symmetric_and_bounded_and_one_only_for_equal_sets(a, b):
    s = jaccard(a, b)
    assert s == jaccard(b, a)
    assert 0 <= s <= 1
    assert (s == 1) == (a == b and bool(a))
    assert (s == 0) == (not a & b)


@given(part_sets, part_sets, st.sampled_from(PARTS))
def test_jaccard_grows_with_a_shared_part_and_shrinks_with_a_foreign_one(a, b, part):
    if part in a | b:
        return
    assert jaccard(a | {part}, b | {part}) >= jaccard(a, b)
    assert jaccard(a | {part}, b) <= jaccard(a, b)
    assert jaccard(a | {part}, b | {part}) > jaccard(a | {part}, b)


@given(st.lists(part_sets, max_size=6))
def test_similarities_equal_jaccard_cell_by_cell(extracted):
    names = UNMASK.members("cs5b")
    table = similarities(extracted, UNMASK, names)
    assert table.shape == (len(extracted), 5)
    for row, parts in zip(table, extracted, strict=True):
        assert row.tolist() == [jaccard(parts, UNMASK.expected(name)) for name in names]


def test_similarities_of_a_car_by_hand():
    # car expects 11 parts, person 13, train 7; wheel and door are the car's, head is the person's and the train's.
    row = similarities([frozenset({"wheel", "door", "head"})], UNMASK, ("car", "person", "train"))[0]
    assert row.tolist() == [2 / 12, 1 / 15, 1 / 9]


def test_a_class_without_parts_is_never_similar():
    assert similarities([frozenset(), frozenset({"wheel"})], UNMASK, ("boat", "sofa")).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("extracted", "error"), [([frozenset({"gearbox"})], ValueError), (["wheel"], TypeError)])
def test_unknown_parts_and_bare_text_are_refused(extracted, error):
    with pytest.raises(error, match="extracted parts of image 0"):
        similarities(extracted, UNMASK, ("car",))


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="no classes"):
        similarities([frozenset()], UNMASK, ())


# --- Detection -------------------------------------------------------------------------------------------------------


def test_score_is_one_minus_similarity_to_the_predicted_class():
    table = np.array([[0.5, 0.25], [0.0, 1.0]])
    assert detection_scores(predicted_similarity(table, np.array([1, 0]))).tolist() == [0.75, 1.0]


def test_a_distance_equal_to_the_threshold_is_adversarial():
    assert detect(np.array([0.25, 0.5, 0.75]), 0.5).tolist() == [False, True, True]


@pytest.mark.parametrize("total", range(1, 45))
def test_rounding_never_decides_at_the_threshold(total):
    # 1 - 4/5 is one ulp below 0.2 in floating point.
    for shared in range(total + 1):
        distance = detection_scores(np.array([shared / total]))
        assert detect(distance, (total - shared) / total).all()
        assert not detect(distance, (total - shared) / total + 1e-4).any()


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_similarities_outside_0_1_are_refused(bad):
    with pytest.raises(ValueError, match="similarity"):
        detection_scores(np.array([0.5, bad]))


def test_nan_is_not_detected_in_silence():
    with pytest.raises(ValueError, match="NaN"):
        detect(np.array([np.nan]), 0.5)
    with pytest.raises(ValueError, match="NaN"):
        detect(np.array([0.5]), math.nan)


@pytest.mark.parametrize("predictions", [np.array([0, 2]), np.array([-1, 0]), np.array([0.0, 1.0]), np.array([0])])
def test_predictions_that_are_no_column_are_refused(predictions):
    with pytest.raises(ValueError, match="predict"):
        predicted_similarity(np.zeros((2, 2)), predictions)


def test_pairs_are_the_successful_attacks_and_their_twins():
    scores, labels = detection_pairs(
        attacked_scores=np.array([0.9, 0.8, 0.7, 0.6]),
        benign_scores=np.array([0.1, 0.2, 0.3, 0.4]),
        attacked_predictions=np.array([1, 0, 2, 0]),
        labels=np.array([0, 0, 1, 2]),
    )
    # The attack on image 1 failed. The twins stay whatever M says of them: the protocol does not ask.
    assert scores.tolist() == [0.9, 0.7, 0.6, 0.1, 0.3, 0.4]
    assert labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_no_successful_attack_gives_no_pairs():
    scores, labels = detection_pairs(np.array([0.9]), np.array([0.1]), np.array([2]), np.array([2]))
    assert scores.shape == labels.shape == (0,)
    with pytest.raises(ValueError, match="no attack succeeded"):
        auc(scores, labels)


def test_pairs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one value per image"):
        detection_pairs(np.zeros(2), np.zeros(1), np.zeros(2, int), np.zeros(2, int))


# --- Defence ---------------------------------------------------------------------------------------------------------


def test_the_best_fitting_class_wins():
    # headlight alone: 1/11 of the car, 1/7 of the train, none of the person.
    assert defend([frozenset({"headlight"})], UNMASK, "cs3a") == ["train"]
    assert defend([frozenset({"headlight", "wheel"})], UNMASK, "cs3a") == ["car"]
    assert defend([frozenset({"hair", "hand", "head"})], UNMASK, "cs3-1") == ["person"]


def test_no_shared_part_gives_no_answer():
    assert defend([frozenset(), frozenset({"screen"}), frozenset({"cap"})], UNMASK, "cs3a") == [None, None, None]


@pytest.mark.parametrize("order", [("zebra", "ass"), ("ass", "zebra")])
def test_ties_go_to_the_class_set_order_not_to_the_alphabet(order):
    taxonomy = Taxonomy(("leg", "mane", "stripe"), {"ass": ("leg", "mane"), "zebra": ("leg", "stripe")}, {"set": order})
    assert defend([frozenset({"leg"})], taxonomy, "set") == [order[0]]


# --- ROC -------------------------------------------------------------------------------------------------------------


def test_roc_by_hand():
    fpr, tpr, thresholds = roc_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    assert thresholds.tolist() == [np.inf, 0.8, 0.4, 0.35, 0.1]
    assert fpr.tolist() == [0, 0, 0.5, 0.5, 1]
    assert tpr.tolist() == [0, 0.5, 0.5, 1, 1]


def test_tied_images_enter_the_roc_together():
    fpr, tpr, thresholds = roc_curve(np.array([1.0, 1.0, 1.0, 0.0]), np.array([1, 1, 0, 0]))
    assert thresholds.tolist() == [np.inf, 1.0, 0.0]
    assert fpr.tolist() == [0, 0.5, 1]
    assert tpr.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),  # 3 of 4 pairs
        ([0.5, 0.5], [0, 1], 0.5),
        ([1.0, 1.0, 1.0, 0.0], [1, 1, 0, 0], 0.75),  # 2 wins, 2 ties of 4 pairs
        ([0.9, 0.1], [1, 0], 1.0),
        ([0.1, 0.9], [1, 0], 0.0),
        ([0.2, 0.2, 0.6], [True, False, True], 0.75),
    ],
)
def test_auc_by_hand(scores, labels, expected):
    assert auc(np.array(scores), np.array(labels)) == expected


@given(ranked)
@settings(max_examples=200)
def test_auc_equals_pair_counting_exactly(pairs):
    scores, labels = split(pairs)
    assert auc(scores, labels) == float(pair_counting_auc(scores, labels))


@given(ranked)
def test_auc_is_the_trapezoid_area_under_the_roc(pairs):
    scores, labels = split(pairs)
    fpr, tpr, _ = roc_curve(scores, labels)
    assert auc(scores, labels) == pytest.approx(np.trapezoid(tpr, fpr), abs=1e-12)


@given(ranked, st.randoms(use_true_random=False))
def test_auc_knows_neither_order_nor_scale_and_mirrors_with_the_score(pairs, random):
    scores, labels = split(pairs)
    shuffled = random.sample(range(len(pairs)), len(pairs))
    assert auc(scores[shuffled], labels[shuffled]) == auc(scores, labels)
    assert auc(np.exp(3 * scores), labels) == auc(scores, labels)
    assert auc(-scores, labels) == pytest.approx(1 - auc(scores, labels), abs=1e-12)


@given(ranked)
def test_every_roc_point_is_the_detector_at_its_threshold(pairs):
    scores, labels = split(pairs)
    fpr, tpr, thresholds = roc_curve(scores, labels)
    assert (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all() and (np.diff(thresholds) < 0).all()
    for f, t, threshold in zip(fpr, tpr, thresholds, strict=True):
        assert f == (scores[~labels] >= threshold).mean()
        assert t == (scores[labels] >= threshold).mean()
        assert operating_point(scores, labels, threshold=threshold) == (threshold, f, t)


def test_operating_point_by_hand():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert operating_point(scores, labels, max_fpr=0.0) == (0.8, 0.0, 0.5)
    assert operating_point(scores, labels, max_fpr=0.49) == (0.8, 0.0, 0.5)
    assert operating_point(scores, labels, max_fpr=0.5) == (0.35, 0.5, 1.0)
    assert operating_point(scores, labels, max_fpr=1.0) == (0.35, 0.5, 1.0)
    assert operating_point(scores, labels, threshold=0.4) == (0.4, 0.5, 0.5)


def test_operating_point_may_be_to_flag_nothing():
    assert operating_point(np.array([1.0, 1.0]), np.array([1, 0]), max_fpr=0.5) == (np.inf, 0.0, 0.0)


@pytest.mark.parametrize("arguments", [{}, {"max_fpr": 0.1, "threshold": 0.5}, {"max_fpr": 1.5}, {"max_fpr": math.nan}])
def test_operating_point_wants_one_sensible_bound(arguments):
    with pytest.raises(ValueError, match="max_fpr"):
        operating_point(np.array([1.0, 0.0]), np.array([1, 0]), **arguments)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "no detection scores"),
        ([0.1, 0.2], [1, 1], "all 2 detection labels are 1"),
        ([0.1, 0.2], [0, 0], "all 2 detection labels are 0"),
        ([0.1, np.nan], [0, 1], "1 detection scores are NaN"),
        ([0.1, np.inf], [0, 1], "NaN or infinite"),
        ([0.1, 0.2], [-1, 1], "must be 1"),
        ([0.1], [0, 1], "one label per score"),
        ([[0.1, 0.2]], [[0, 1]], "one label per score"),
        (["a", "b"], [0, 1], "not numbers"),
    ],
)
@pytest.mark.parametrize("function", [auc, roc_curve, lambda s, y: operating_point(s, y, threshold=0.5)])
def test_scores_that_make_no_roc_are_refused(function, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        function(np.array(scores), np.array(labels))


# --- the threshold of benign images --------------------------------------------------------------------------------


def test_the_margin_by_hand():
    table = np.array([[0.5, 0.25, 0.0], [0.0, 0.0, 0.0], [0.2, 0.9, 0.9]])
    assert margin_scores(table, np.array([0, 1, 2])).tolist() == [-0.25, 0.0, 0.0]
    assert margin_scores(table, np.array([2, 0, 0])) == pytest.approx([0.5, 0.0, 0.7])
    with pytest.raises(ValueError, match="at least two"):
        margin_scores(table[:, :1], np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="outside"):
        margin_scores(table, np.array([0, 1, 3]))


@given(st.lists(part_sets, min_size=1, max_size=6), st.integers(0, 2))
def test_the_margin_is_above_0_where_k_answers_another_class(extracted, predicted):
    members = UNMASK.members("cs3a")
    similarity = similarities(extracted, UNMASK, members)
    scores = margin_scores(similarity, np.full(len(extracted), predicted))
    answers = defend(extracted, UNMASK, "cs3a")
    assert all(answer != members[predicted] for answer, score in zip(answers, scores, strict=True) if score > 0)
    assert all(answer in (members[predicted], None) for answer, score in zip(answers, scores, strict=True) if score < 0)


def test_a_threshold_of_margins_may_lie_below_0():
    margins = np.array([-0.75, -0.5, -0.25, -0.125])
    assert benign_threshold(margins, 0.25) == (-0.1875, 0.25)
    assert benign_threshold(margins, 1.0) == (-0.75, 1.0)
    assert benign_threshold(margins, 0.0) == (1.000001, 0.0)


@pytest.mark.parametrize(
    ("scores", "max_fpr", "threshold", "rate"),
    [
        ([0.5, 0.25, 0.0, 1.0], 0.25, 0.75, 0.25),  # one of four: between 0.5 and 1.0
        ([0.5, 0.25, 0.0, 1.0], 0.49, 0.75, 0.25),
        ([0.5, 0.25, 0.0, 1.0], 0.5, 0.375, 0.5),
        ([0.0, 0.5, 0.5, 0.5, 1.0], 0.6, 0.75, 0.2),  # three tied images enter together, and four are too many
        ([0.0, 0.5, 0.5, 0.5, 1.0], 0.8, 0.25, 0.8),
        ([0.25] * 19 + [0.75], 0.05, 0.5, 0.05),  # exactly the rate
    ],
)
def test_the_benign_threshold_by_hand(scores, max_fpr, threshold, rate):
    assert benign_threshold(np.array(scores), max_fpr) == (threshold, rate)
    assert detect(np.array(scores), threshold).mean() == rate


@pytest.mark.parametrize(("scores", "threshold"), [([0.0, 0.5, 1.0], 0.0), ([0.5, 0.5], 0.25), ([0.25], 0.125)])
def test_where_every_image_may_be_flagged_every_one_is(scores, threshold):
    assert benign_threshold(np.array(scores), 1.0) == (threshold, 1.0)
    assert detect(np.array(scores), threshold).all()


@pytest.mark.parametrize(
    ("scores", "max_fpr"),
    [
        ([0.0, 0.5, 1.0], 0.0),
        ([0.5, 1.0, 1.0], 0.5),  # the highest are tied, and both are too many
        ([0.25, 0.25], 0.05),
        ([1.0], 0.5),
    ],
)
def test_where_no_image_may_be_flagged_the_threshold_lies_above_every_distance(scores, max_fpr):
    threshold, rate = benign_threshold(np.array(scores), max_fpr)
    assert rate == 0.0
    assert threshold > 1.0
    assert not detect(np.array([*scores, 1.0]), threshold).any()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 20))
def test_the_benign_threshold_flags_as_many_as_it_may(levels, twentieths):
    scores, max_fpr = np.array(levels) / 6, twentieths / 20
    threshold, rate = benign_threshold(scores, max_fpr)
    counts = [levels.count(level) for level in sorted(set(levels), reverse=True)]
    allowed = [sum(counts[:i]) for i in range(len(counts) + 1) if 20 * sum(counts[:i]) <= twentieths * len(levels)]
    assert detect(scores, threshold).sum() == allowed[-1]
    assert rate == allowed[-1] / len(levels)


@pytest.mark.parametrize(
    ("scores", "max_fpr", "message"),
    [
        ([], 0.05, "at least one benign image"),
        ([0.5, np.nan], 0.05, "all of them numbers"),
        ([0.5, np.inf], 0.05, "all of them numbers"),
        ([0.5], -0.1, "max_fpr is -0.1"),
        ([0.5], 1.5, "max_fpr is 1.5"),
        ([0.5], math.nan, "max_fpr is nan"),
    ],
)
def test_a_benign_threshold_wants_numbers_and_a_rate(scores, max_fpr, message):
    with pytest.raises(ValueError, match=message):
        benign_threshold(np.array(scores), max_fpr)
