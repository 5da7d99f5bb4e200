"""An attack that keeps its best iterate is lengthened until it has converged; any other stays as it was asked for."""

from dataclasses import replace

import numpy as np
import pytest
from attack_modules import target_of
from planted_faults import SOUND, network, waves

from unmask_tf.attacks import evidence
from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.evidence import check_attack, checked_attack
from unmask_tf.attacks.threat_models import threat_model

# 16 steps of epsilon / 24 fool a third of the waves, 32 fool them all.
SHORT = replace(SOUND, iterations=16, step=SOUND.epsilon / 24, restarts=1, random_start=False)


@pytest.fixture(scope="module")
def clean():
    return waves(24, seed=2)


def test_the_short_attack_has_not_converged(clean):
    result = attack(network(), *clean, SHORT, seed=0)
    assert not check_attack(target_of(network()), *clean, result, SHORT)["doubling_gains_little"]


def test_what_has_not_converged_is_attacked_longer(clean):
    found = checked_attack(target_of(network()), *clean, SHORT, seed=0)
    assert found.threat == replace(SHORT, iterations=32)
    assert found.checks["doubling_gains_little"]
    alone = attack(network(), *clean, found.threat, seed=0)
    np.testing.assert_array_equal(found.images, alone.images)
    short = attack(network(), *clean, SHORT, seed=0)
    assert (found.logits.argmax(axis=1) != clean[1]).sum() >= (short.predictions != clean[1]).sum() + 2


def test_what_has_converged_is_not_run_again(clean):
    found = checked_attack(target_of(network()), *clean, SOUND, seed=0)
    assert found.threat == SOUND
    assert all(found.checks.values())


def test_what_never_converges_ends_unsound(clean, monkeypatch):
    monkeypatch.setattr(evidence, "LONGEST", 1)
    found = checked_attack(target_of(network()), *clean, SHORT, seed=0)
    assert found.threat == SHORT
    assert not found.checks["doubling_gains_little"]


def test_presets_without_the_best_iterate_stay_as_they_are(clean):
    released = threat_model("pgd_linf", 2.0, preset="released", iterations=2)
    last = replace(SHORT, keep_best=False)
    for threat in (released, last):
        assert checked_attack(target_of(network()), *clean, threat, seed=0).threat == threat
    assert not checked_attack(target_of(network()), *clean, last, seed=0).checks["doubling_gains_little"]


def test_targets(clean):
    images, labels = clean
    found = checked_attack(target_of(network()), images, labels, SOUND, seed=0, targets=(labels + 1) % 3)
    assert (found.logits.argmax(axis=1) == (labels + 1) % 3).mean() > 0.5


def test_progress_never_falls_and_counts_the_longer_attacks(clean):
    seen = []
    checked_attack(target_of(network()), *clean, SHORT, seed=0, batch_size=12, progress=seen.append)
    # The attack takes half, those left right a half of the rest, the others' longer attack a half of what remains.
    assert seen == sorted(seen)
    assert (seen[:2], seen[-3:]) == ([0.25, 0.5], [0.75, 0.875, 1.0])
