"""Each of thirteen planted faults is caught, and a sound attack raises no alarm."""

import functools
import itertools

import numpy as np
import planted_faults
import pytest
from attack_modules import target_of
from known_attacks import ON_M
from planted_faults import DOCUMENT, FAULTS, SOUND, Fault, caught, network, waves

from unmask_tf.attacks import advertorch_bridge as bridge
from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.checks import BY_CONSTRUCTION, CHECKS, WARNINGS
from unmask_tf.attacks.evidence import check_attack
from unmask_tf.attacks.module import logits_of
from unmask_tf.attacks.threat_models import threat_model
from unmask_tf.report.soundness import BETWEEN_CELLS

# By whom each fault must be caught, whatever else fails with it.
CAUGHT_BY = {
    "unscaled step": {"step_shorter_than_budget", "pgd_and_mi_agree"},
    "short travel": {"steps_reach_budget", "as_strong_as_one_step"},
    "softmax": {"outputs_are_logits"},
    "flipped sign": {"as_strong_as_one_step"},
    "zeroed gradient": {"gradients_nonzero"},
    "train-mode BN": {"outputs_independent_of_batch"},
    "last iterate": {"best_iterate_returned"},
    "unit of epsilon": {"as_strong_as_one_step", "pgd_and_mi_agree"},
    "no clipping": {"box_kept"},
    "wrong labels": {"labels_match_model"},
    "frozen input": {"loss_rises", "as_strong_as_one_step"},
    "NaN": {"finite"},
    "other copy": {"outputs_reproduced"},
}

found = functools.cache(lambda name: caught(FAULTS[name]))


def test_the_network_knows_the_classes():
    images, labels = waves(36, seed=2)
    assert (logits_of(network(), images).argmax(1) == labels).all()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_caught(name):
    assert found(name) >= CAUGHT_BY[name]
    assert found(name) - WARNINGS, "a warning alone marks no cell"


def test_a_sound_attack_raises_no_alarm_between_attacks_either():
    assert caught(Fault(title="none")) == set()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", ON_M)
def test_strong_attacks_raise_no_alarm_targeted_or_not(name, targeted):
    images, labels = waves(24, seed=3)
    targets = (labels + 1) % 3 if targeted else None
    threat = threat_model(name, 40 if name.endswith("linf") else 600, preset="strong")
    wanted = labels if targets is None else targets
    result = attack(network(), images, wanted, threat, seed=0, targeted=targeted)
    checks = check_attack(target_of(network()), images, labels, result, threat, targets=targets)
    assert [check for check, holds in checks.items() if not holds] == []
    assert (result.predictions == wanted).mean() == (1.0 if targeted else 0.0)


def test_epsilon_taken_255_times_too_large_is_caught():
    images, labels = waves(12, seed=2)
    result = attack(network(), images, labels, threat_model("pgd_linf", 40 * 255, preset="strong"), seed=0)
    checks = check_attack(target_of(network()), images, labels, result, SOUND)
    assert not checks["budget_kept"] and not checks["budget_kept_in_8bit"]


def test_labels_that_only_the_attack_was_given_wrong_are_caught():
    images, labels = waves(36, seed=2)
    result = attack(network(), images, (labels + 1) % 3, SOUND, seed=0)
    assert not check_attack(target_of(network()), images, labels, result, SOUND)["as_strong_as_one_step"]


def test_an_unseeded_start_is_caught(monkeypatch):
    images, labels = waves(12, seed=2)
    result = attack(network(), images, labels, SOUND, seed=0)
    drawn = itertools.count()
    monkeypatch.setattr(bridge, "random_seed", lambda *_: next(drawn))
    checks = check_attack(target_of(network()), images, labels, result, SOUND)
    assert [check for check, holds in checks.items() if not holds] == ["deterministic"]


def test_the_table_in_the_documentation_is_the_one_found():
    text = DOCUMENT.read_text(encoding="utf-8")
    assert planted_faults.rewrite(text, found) == text, "rewrite it: tests/attacks/planted_faults.py"


def test_the_documentation_explains_every_check_and_no_other():
    rows = DOCUMENT.read_text(encoding="utf-8").partition("| --- | --- |\n")[2].partition("\n\n")[0].splitlines()
    notes = {name: note for name, note in (_named(row) for row in rows)}
    assert list(notes) == [*CHECKS, *BETWEEN_CELLS]
    assert {name for name, note in notes.items() if note == "warns"} == WARNINGS
    assert {name for name, note in notes.items() if note == "by construction"} == BY_CONSTRUCTION


def _named(row):
    """A row's check, and what stands in brackets behind it."""
    name, _, note = row.split("|")[1].strip().partition(" (")
    return name, note.rstrip(")")


def test_the_waves_are_grey_levels():
    images, labels = waves(9, seed=0)
    assert np.array_equal(np.round(images * 255) / np.float32(255), images)
    assert labels.tolist() == [0, 1, 2] * 3
