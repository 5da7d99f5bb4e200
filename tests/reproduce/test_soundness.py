"""Which numbers are unsound: checks in records, checks between records, and what the report says of them."""

import subprocess
import sys
from dataclasses import replace

import pytest

from unmask_tf.attacks.checks import CHECKS
from unmask_tf.reproduce.records import CellKey, Record
from unmask_tf.reproduce.soundness import (
    BETWEEN_CELLS,
    checks_markdown,
    failed_checks,
    longer_attacks,
    meaning,
    unsound_notes,
    warned_checks,
)

SOUND = {"finite": True, "step_shorter_than_budget": True}


def record(correct, attack="pgd_linf", epsilon=8, defence="none", n=72, checks=SOUND, profile="mini", model="resnet50"):
    key = CellKey(profile, "cs3a", model, defence, attack, epsilon)
    checks = {} if attack == "none" else checks
    return Record(key=key, config_hash="x", n=n, correct=correct, checks=checks)


def failures(*records):
    """(defence, attack, epsilon) -> failed checks."""
    return {(d, *cell[2:]): names for (cell, d), names in failed_checks(records).items()}


# --- Between cells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "weaker", "stronger", "unsound"),
    [
        # Two points of 72 images are 1.44, so two images are too many and one is not; of 1,000 they are 20.
        *[(72, 1, 0, False), (72, 2, 0, True), (1000, 119, 100, False), (1000, 120, 100, True)],
        *[(3, 1, 0, False), (3, 2, 0, True)],
    ],
)
def test_the_weaker_of_pgd_and_mi_is_unsound_where_they_differ_by_two_points(n, weaker, stronger, unsound):
    for weak, strong in (("pgd_linf", "mia_linf"), ("mia_linf", "pgd_linf")):
        found = failures(record(weaker, weak, n=n), record(stronger, strong, n=n))
        assert found == ({("none", weak, 8): ("pgd_and_mi_agree",)} if unsound else {})


def test_pgd_and_mi_are_compared_in_one_norm_at_one_strength_on_one_model():
    assert not failures(record(9, "pgd_l2", 300), record(0, "mia_linf"))
    assert not failures(record(0, "pgd_linf", 16), record(9, "mia_linf", 8))
    assert not failures(record(9, "pgd_linf"), record(0, "mia_linf", defence="at"))
    assert not failures(record(9, "pgd_linf"), record(0, "mia_linf", model="densenet121"))
    assert not failures(record(9, "l1_pgd"), record(0, "mia_linf"))


@pytest.mark.parametrize(
    ("n", "smaller", "larger", "unsound"),
    [(72, 10, 11, False), (72, 10, 12, True), (72, 10, 0, False), (1000, 100, 104, False), (1000, 100, 105, True)],
)
def test_a_larger_epsilon_must_not_leave_more_images_right(n, smaller, larger, unsound):
    found = failures(record(smaller, epsilon=8, n=n), record(larger, epsilon=16, n=n))
    assert found == ({("none", "pgd_linf", 16): ("monotone_in_epsilon",)} if unsound else {})


def test_an_attack_must_not_leave_more_images_right_than_no_attack():
    assert failures(record(60, "none", 0), record(62)) == {("none", "pgd_linf", 8): ("monotone_in_epsilon",)}
    assert not failures(record(60, "none", 0, defence="at"), record(62))


def test_what_an_attack_on_m_failed_marks_unmask_which_saw_the_same_images():
    found = failures(record(9), record(0, "mia_linf"), record(50, defence="um"), record(3, defence="at"))
    assert found == {(d, "pgd_linf", 8): ("pgd_and_mi_agree",) for d in ("none", "um")}


def test_unmask_s_own_accuracy_is_no_attack_s():
    assert not failures(record(9, defence="um"), record(0, "mia_linf", defence="um"), record(60, "none", 0, "um"))


# --- In records ------------------------------------------------------------------------------------------------------


def test_a_failed_check_makes_a_cell_unsound_and_a_warning_does_not():
    failing = record(5, checks={"finite": True, "loss_rises": False, "step_shorter_than_budget": False})
    warning = record(5, "mia_linf", checks={"finite": True, "step_shorter_than_budget": False})
    assert failures(failing, warning) == {("none", "pgd_linf", 8): ("loss_rises",)}
    assert [(c[2], names) for (c, _), names in warned_checks([failing, warning]).items()] == [
        ("pgd_linf", ("step_shorter_than_budget",)),
        ("mia_linf", ("step_shorter_than_budget",)),
    ]
    assert (failing.sound, warning.sound) == (False, True)


def test_an_unchecked_attack_is_not_sound():
    assert failures(record(5, checks={})) == {("none", "pgd_linf", 8): ()}
    assert unsound_notes([record(5, checks={})])[0] == (
        "unsound, so it says little of robustness: the attack was not checked: PGD-L∞ ε=8."
    )


# --- Text ------------------------------------------------------------------------------------------------------------


def test_a_note_names_the_check_its_meaning_and_the_attacks_and_the_models_where_not_all_are_concerned():
    records = [record(5, attack, 8, model=m) for attack in ("pgd_linf", "mia_linf") for m in ("resnet50", "vgg16")]
    bad = {"finite": False}
    records[0], records[2], records[3] = (replace(records[i], checks=bad) for i in (0, 2, 3))
    assert unsound_notes(records) == [
        "unsound, so it says little of robustness: the attack failed finite (attacked images hold NaN or infinity): "
        "PGD-L∞ ε=8 (ResNet50 CS3a None), MIA-L∞ ε=8."
    ]


def finding(notes):
    return [note for note in notes if note.startswith("As released: a finding")]


def test_what_the_released_step_explains_is_called_a_finding_and_nothing_else_is():
    restless = [record(20), record(0, "mia_linf")]
    assert len(finding(unsound_notes(restless))) == 1
    assert "As released: a finding" in checks_markdown(restless)
    # Another fault of the same cell is not explained by the step, nor is anything in a profile of other settings.
    assert not finding(unsound_notes([replace(restless[0], checks={"budget_kept": False}), restless[1]]))
    assert not finding(unsound_notes([record(20, profile="own"), record(0, "mia_linf", profile="own")]))
    assert not finding(unsound_notes([record(0), record(0, "mia_linf")]))


def test_the_section_on_checks_lists_failures_and_warnings_with_their_meaning():
    warned = {"finite": True, "step_shorter_than_budget": False}
    attacks = [record(20, checks=warned), record(0, "mia_linf", checks=warned)]
    text = checks_markdown([*attacks, record(60, "none", 0), record(9, defence="um")])
    assert text.startswith("2 attacks were run, 1 of them unsound.")
    assert f"| pgd_and_mi_agree | failed | {BETWEEN_CELLS['pgd_and_mi_agree']} | PGD-L∞ ε=8 |" in text
    assert (
        f"| step_shorter_than_budget | warning | {CHECKS['step_shorter_than_budget'].failure} | "
        "PGD-L∞ ε=8, MIA-L∞ ε=8 |" in text
    )
    assert checks_markdown([record(0), record(0, "mia_linf")]) == "2 attacks were run; each passed every check.\n"


def test_attacks_that_were_lengthened_are_counted():
    steps = {"pgd_linf": 20, "pgd_l2": 80, "mia_linf": 40}
    attacks = [replace(record(3, attack=name), iterations=count) for name, count in steps.items()]
    attacks.append(replace(attacks[1], key=replace(attacks[1].key, defence="um")))  # the same attacked images
    one_step = replace(record(3, attack="GradientSign"), iterations=1)
    assert longer_attacks([record(70, attack="none", epsilon=0), one_step, *attacks]) == (
        "2 of 4 attacks had not converged after 20 gradient steps and were given up to 80"
    )
    assert longer_attacks([record(3), record(3, attack="pgd_l2")]) == ""
    assert longer_attacks([attacks[0], one_step]) == ""
    assert longer_attacks([attacks[1]]).startswith("1 of 1 attacks had not converged after 20 ")
    assert longer_attacks([record(3, profile="own")]) == longer_attacks([]) == ""


def test_every_check_has_a_meaning():
    assert all(meaning(name) for name in (*CHECKS, *BETWEEN_CELLS))
    assert not set(CHECKS) & set(BETWEEN_CELLS)
    assert meaning("of_an_older_version") == ""


def test_soundness_needs_neither_tensorflow_nor_torch():
    code = "import sys, unmask_tf.reproduce.soundness; print({'tensorflow', 'keras', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
