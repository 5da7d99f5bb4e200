"""Which numbers are unsound: checks in headers, checks between cells, and what the report says of them."""

import subprocess
import sys

import pytest
from made_rows import SOUND, row_set

from unmask_tf.attacks.checks import CHECKS
from unmask_tf.report.soundness import (
    BETWEEN_CELLS,
    checks_table,
    evidence_checks,
    longer_attacks,
    meaning,
    sentences,
    threats_table,
    unsound,
    verdict_line,
    warned,
)
from unmask_tf.report.table import markdown


def rows(right, attack="pgd_linf", epsilon=8, defence="none", n=72, **more):
    return row_set(defence, attack, epsilon, right, n, **more)


def failures(*row_sets):
    """(whose M, attack, epsilon) -> failed checks."""
    return {(attack[4], *attack[2:4]): names for attack, names in unsound(row_sets).items()}


# --- Between cells ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "weaker", "stronger", "wrong"),
    [
        # Two points of 72 images are 1.44, so two images are too many and one is not; of 1,000 they are 20.
        *[(72, 1, 0, False), (72, 2, 0, True), (1000, 119, 100, False), (1000, 120, 100, True)],
        *[(3, 1, 0, False), (3, 2, 0, True)],
    ],
)
def test_the_weaker_of_pgd_and_mi_is_unsound_where_they_differ_by_two_points(n, weaker, stronger, wrong):
    for weak, strong in (("pgd_linf", "mia_linf"), ("mia_linf", "pgd_linf")):
        found = failures(rows(weaker, weak, n=n), rows(stronger, strong, n=n))
        assert found == ({("none", weak, 8): ["pgd_and_mi_agree"]} if wrong else {})


def test_pgd_and_mi_are_compared_in_one_norm_at_one_strength_on_one_model():
    assert not failures(rows(9, "pgd_l2", 300), rows(0, "mia_linf"))
    assert not failures(rows(0, "pgd_linf", 16), rows(9, "mia_linf", 8))
    assert not failures(rows(9, "pgd_linf"), rows(0, "mia_linf", defence="at"))
    assert not failures(rows(9, "pgd_linf"), rows(0, "mia_linf", model="densenet121"))
    assert not failures(rows(9, "l1_pgd"), rows(0, "mia_linf"))


@pytest.mark.parametrize(
    ("n", "smaller", "larger", "wrong"),
    [(72, 10, 11, False), (72, 10, 12, True), (72, 10, 0, False), (1000, 100, 104, False), (1000, 100, 105, True)],
)
def test_a_larger_epsilon_must_not_leave_more_images_right(n, smaller, larger, wrong):
    found = failures(rows(smaller, epsilon=8, n=n), rows(larger, epsilon=16, n=n))
    assert found == ({("none", "pgd_linf", 16): ["monotone_in_epsilon"]} if wrong else {})


def test_an_attack_must_not_leave_more_images_right_than_no_attack():
    assert failures(rows(60, "none", 0), rows(62)) == {("none", "pgd_linf", 8): ["monotone_in_epsilon"]}
    assert not failures(rows(60, "none", 0, defence="at"), rows(62))


def test_what_counts_is_m_s_own_answer_not_the_defence_s():
    um = [rows(9, defence="um", m_right=0), rows(0, "mia_linf", defence="um", m_right=0)]
    assert not failures(*um, rows(60, "none", 0, "um", m_right=70))
    assert failures(rows(0, defence="um", m_right=9), um[1]) == {("none", "pgd_linf", 8): ["pgd_and_mi_agree"]}


# --- In headers ------------------------------------------------------------------------------------------------------


def test_a_failed_check_makes_an_attack_unsound_and_a_warning_does_not():
    assert failures(rows(0, checks={**SOUND, "loss_rises": False})) == {("none", "pgd_linf", 8): ["loss_rises"]}
    warning = rows(0, checks={"deterministic": True, "step_shorter_than_budget": False})
    assert not failures(warning)
    assert list(warned([warning]).values()) == [["step_shorter_than_budget"]]


def test_an_attack_without_any_check_is_unsound():
    assert failures(rows(0, checks={})) == {("none", "pgd_linf", 8): ["not_checked"]}
    assert failures(rows(0, checks={"of_another_version": True})) == {("none", "pgd_linf", 8): ["not_checked"]}


def test_each_attack_counts_once_however_many_defences_stand_behind_it():
    behind = [rows(0, defence=name, m_right=0) for name in ("none", "um", "algorithm1", "jpeg")]
    own = [rows(0, defence=name) for name in ("at", "at_madry")]
    assert verdict_line([*behind, *own, rows(70, "none", 0)]) == (
        f"3 of 3 attacks passed {len(evidence_checks())} checks of their own and 2 between attacks."
    )


def test_what_the_released_step_explains_is_called_a_finding_and_nothing_else_is():
    restless = [rows(20), rows(0, "mia_linf")]
    assert "As released: a finding" in " ".join(sentences(restless))
    # Another fault of the same cell is not explained by the step, nor is anything under another preset.
    broken = rows(20, checks={**SOUND, "budget_kept": False})
    strong = [rows(r, a, threat={"preset": "strong"}) for r, a in ((20, "pgd_linf"), (0, "mia_linf"))]
    for others in ([broken, restless[1]], strong, restless[1:]):
        assert "As released" not in " ".join(sentences(others))


def test_the_section_on_checks_lists_failures_and_warnings_with_their_meaning():
    checks = {"deterministic": True, "step_shorter_than_budget": False}
    row_sets = [rows(20, checks=checks), rows(0, "mia_linf", checks=checks), rows(0, "mia_linf", model="densenet121")]
    row_sets += [rows(60, "none", 0), rows(9, defence="um", m_right=20)]
    text, told = markdown(checks_table(row_sets)), sentences(row_sets)
    assert told[0].startswith("2 of 3 attacks passed") and told[0].endswith("; the others did not (†).")
    assert f"| pgd_and_mi_agree | failed | {BETWEEN_CELLS['pgd_and_mi_agree']} | PGD-L∞ ε=8 |" in text
    where = "PGD-L∞ ε=8, MIA-L∞ ε=8 (ResNet50 CS3a None)"
    assert f"| step_shorter_than_budget | warning | {CHECKS['step_shorter_than_budget'].failure} | {where} |" in text


def test_attacks_that_were_lengthened_are_counted():
    def ran(attack, iterations, defence="none"):
        return rows(3, attack, defence=defence, threat={"iterations": iterations, "iterations_asked": 20})

    attacks = [ran("pgd_linf", 20), ran("pgd_l2", 80), ran("mia_linf", 40), ran("pgd_l2", 80, "um")]
    one_step = rows(3, "fgsm", threat={"iterations": 1})
    assert longer_attacks([rows(70, "none", 0), one_step, *attacks]) == (
        "2 of 4 attacks had not converged after 20 gradient steps and were given up to 80."
    )
    assert longer_attacks([attacks[0], one_step]) == longer_attacks([]) == ""


def test_how_an_attack_was_run_and_what_it_knew_is_read_from_the_headers():
    threat = {"preset": "strong", "step": 0.125, "iterations": 20, "restarts": 5, "knows": ["K", "M"]}
    longer = rows(1, model="densenet121", threat={**threat, "iterations": 40})
    row_sets = [rows(60, "none", 0), rows(1, threat=threat), longer, rows(1, "square", threat={})]
    assert markdown(threats_table(row_sets)).splitlines()[2:4] == [
        "| PGD-L∞ ε=8 | strong | K and M | 0.1250 | 20 to 40 | 5 |",
        "| square ε=8 |  |  | - | - | - |",
    ]


def test_every_check_has_a_meaning():
    assert all(meaning(name) for name in (*CHECKS, *BETWEEN_CELLS))
    assert not set(CHECKS) & set(BETWEEN_CELLS)
    assert meaning("of_another_version") == ""


def test_the_report_needs_no_deep_learning_library():
    modules = "page, summary, compare, compare_k, study, model_k, tables, figures"
    names = "{'tensorflow', 'keras', 'torch', 'jax', 'unmask_tf.config'}"
    code = f"import sys; from unmask_tf.report import {modules}; print(sorted({names} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
