"""The table of defences: each answers cases worked by hand, and asks for what it is given."""

import numpy as np
import pytest

from unmask_tf.classifiers.settings import RECIPES
from unmask_tf.defense.defences import DEFENCES, FALSE_POSITIVE_RATE, Case
from unmask_tf.defense.extract import PartSeen
from unmask_tf.taxonomy import Taxonomy

# The order of the set, zebra first, decides ties; labels are alphabetical.
TAXONOMY = Taxonomy(
    ("leg", "mane", "stripe", "trunk"),
    {"ass": ("leg", "mane"), "elephant": ("leg", "trunk"), "zebra": ("leg", "stripe")},
    {"set": ("zebra", "ass", "elephant")},
)


def seen(*parts):
    """What K says of an image that shows these parts."""
    return {part: PartSeen(0.9, ((0, 0, 4, 4),)) for part in parts}


def case(answers, parts=None, validation=None):
    """M's answers and the parts seen, one each per image."""
    return Case(
        images=np.zeros((len(answers), 4, 4, 3), np.float32),
        model_answers=answers,
        labels=TAXONOMY.labels("set"),
        taxonomy=TAXONOMY,
        class_set="set",
        parts=parts,
        validation=validation,
    )


def benign(distances):
    """Benign images that M calls zebras; their distances are 0 (both parts seen), 0.5 (one of them) or 1 (neither)."""
    parts = {0.0: seen("leg", "stripe"), 0.5: seen("stripe"), 1.0: seen("trunk")}
    return case(["zebra"] * len(distances), [parts[d] for d in distances])


# --- M's own answer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "at", "at_madry"])
def test_without_a_defence_and_after_adversarial_training_m_answers(name):
    answers = DEFENCES[name].answer(case(["ass", "zebra", "ass"]))
    assert list(answers.classes) == ["ass", "zebra", "ass"]
    assert answers.similarity is None and answers.score is None and answers.flagged is None
    assert not answers.threshold


# --- K alone -------------------------------------------------------------------------------------------------------


def test_alignment_answers_the_best_fitting_class_whatever_m_says():
    parts = [seen("leg", "mane"), seen("trunk"), seen("leg"), seen(), seen("leg", "stripe", "trunk")]
    answers = DEFENCES["um"].answer(case(["zebra", "zebra", "elephant", "ass", "zebra"], parts))
    # The third fits all three classes as well (1/2), the fifth zebra and elephant (2/3): the set's order decides.
    assert list(answers.classes) == ["ass", "elephant", "zebra", None, "zebra"]
    # With M's class: leg of leg, mane, stripe; nothing; leg of leg, trunk; nothing; leg and stripe of three.
    assert answers.similarity.tolist() == [1 / 3, 0, 1 / 2, 0, 2 / 3]
    assert answers.score.tolist() == [1 - 1 / 3, 1, 1 / 2, 1, 1 - 2 / 3]
    assert answers.flagged is None
    assert not answers.threshold


# --- Algorithm 1 ---------------------------------------------------------------------------------------------------


def test_algorithm_1_keeps_ms_answer_unless_the_parts_speak_against_it():
    # One of 20 benign images at distance 1 is the 5 % that may be flagged: t lies between it and the next, 0.5.
    validation = benign([0.0] * 18 + [0.5, 1.0])
    parts = [seen("leg"), seen("trunk"), seen("leg", "trunk"), seen(), seen("leg", "mane", "stripe", "trunk")]
    answers = DEFENCES["algorithm1"].answer(case(["ass", "zebra", "zebra", "ass", "elephant"], parts, validation))
    assert answers.threshold == {"value": 0.75, "fpr": 0.05, "fpr_measured": 0.05, "split": "val", "n": 20}
    assert answers.score.tolist() == [1 / 2, 1, 1 - 1 / 3, 1, 1 / 2]
    assert answers.flagged.tolist() == [False, True, False, True, False]
    # The first keeps ass, although the set's order would give zebra; the third keeps zebra, although the parts are the
    # elephant's; the fourth shows no part, so that no class is left to answer.
    assert list(answers.classes) == ["ass", "elephant", "zebra", None, "elephant"]
    assert answers.similarity.tolist() == [1 / 2, 0, 1 / 3, 0, 1 / 2]


@pytest.mark.parametrize(
    ("distances", "threshold", "rate"),
    [
        ([0.0] * 19 + [0.5], 0.25, 0.05),
        ([0.0] * 39 + [0.5], 0.25, 0.025),
        ([0.0] * 38 + [0.5, 1.0], 0.25, 0.05),
        ([0.0] * 17 + [0.5, 0.5, 1.0], 0.75, 0.05),  # three would be too many
        ([0.0] * 18 + [0.5, 0.5], 1.0 + 1e-6, 0.0),  # both or none: none
        ([0.0, 0.5, 1.0], 1.0 + 1e-6, 0.0),  # of so few images none is 5 %
    ],
)
def test_the_threshold_flags_at_most_5_percent_of_benign_validation_images(distances, threshold, rate):
    answers = DEFENCES["algorithm1"].answer(case(["ass"], [seen()], benign(distances)))
    assert (answers.threshold["value"], answers.threshold["fpr_measured"]) == (threshold, rate)
    assert answers.threshold["n"] == len(distances)
    assert answers.flagged.tolist() == [rate > 0]  # its distance is 1


def test_the_threshold_does_not_depend_on_the_images_to_answer():
    validation = benign([0.0] * 19 + [1.0])
    first, second = (
        DEFENCES["algorithm1"].answer(case(["zebra"] * 3, [parts] * 3, validation))
        for parts in (seen("leg", "stripe"), seen())
    )
    assert first.threshold == second.threshold


# --- the table -----------------------------------------------------------------------------------------------------


def test_the_columns_of_table_4_and_what_they_stand_on():
    assert set(DEFENCES) == {"none", "at", "at_madry", "um", "algorithm1"}
    assert {name: entry.recipe for name, entry in DEFENCES.items() if entry.recipe != "none"} == {
        "at": "released",
        "at_madry": "madry",
    }
    assert {entry.recipe for entry in DEFENCES.values()} <= {"none", *RECIPES}
    assert [name for name, entry in DEFENCES.items() if entry.parts] == ["um", "algorithm1"]
    assert [name for name, entry in DEFENCES.items() if entry.validation] == ["algorithm1"]
    assert not any(entry.classify for entry in DEFENCES.values())
    assert FALSE_POSITIVE_RATE == 0.05
