"""An attack from outside the package is one entry in the table, run and checked as far as the checks apply."""

import subprocess
import sys

import numpy as np
import pytest
from attack_modules import target_of
from planted_faults import network, waves

from unmask_tf.attacks import ATTACKS, Attack, Norm, threat_model
from unmask_tf.attacks.checks import CHECKS, evidence_count
from unmask_tf.attacks.evidence import checked_attack
from unmask_tf.attacks.protocol import random_seed
from unmask_tf.attacks.threat_models import PRESETS


def noise(target, images, labels, budget, seed, ids):
    """A random corner of the budget."""
    signs = [np.random.default_rng(random_seed(seed, name)).choice([-1.0, 1.0], images.shape[1:]) for name in ids]
    return np.clip(images + budget.epsilon * np.stack(signs), 0.0, 1.0).astype(np.float32)


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setitem(ATTACKS, "noise", Attack(norm=Norm.LINF, knows=frozenset(), run=noise))
    return ATTACKS


@pytest.fixture(scope="module")
def clean():
    return waves(24, seed=2)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_attack_without_gradients_has_its_budget_and_no_step_in_every_preset(table, preset):
    threat = threat_model("noise", 8, preset=preset)
    assert (threat.epsilon_255, threat.norm, threat.step, threat.restarts, threat.keep_best) == (
        *(8.0, Norm.LINF, 0.0, 1),
        False,
    )


def test_it_is_run_and_judged_by_the_checks_that_apply(table, clean):
    found = checked_attack(target_of(network()), *clean, threat_model("noise", 8, preset="strong"), seed=1)
    moved = np.abs(found.images.astype(np.float64) - clean[0])
    assert moved.max() == pytest.approx(8 / 255, abs=1e-6)
    assert found.checks == {"labels_match_model": True, "deterministic": True}
    assert list(found.by_construction) == ["finite", "box_kept", "budget_kept", "budget_kept_in_8bit"]
    assert found.sound and found.nan_images == 0
    assert found.logits.shape == (24, 3)


def test_its_faults_are_found(table, clean):
    def careless(target, images, labels, budget, seed, ids):
        return images + np.random.default_rng().uniform(0.0, 0.1, images.shape).astype(np.float32)

    table["noise"] = Attack(norm=Norm.LINF, knows=frozenset(), run=careless)
    found = checked_attack(target_of(network()), clean[0] + 0.05, clean[1], threat_model("noise", 8), seed=1)
    assert not found.checks["deterministic"] and not found.by_construction["budget_kept"]
    assert not found.sound


def test_an_attack_that_knows_m_must_raise_its_loss_but_need_no_gradient(monkeypatch, clean):
    monkeypatch.setitem(
        ATTACKS, "still", Attack(norm=Norm.LINF, knows=frozenset({"M"}), run=lambda t, images, *_: images)
    )
    found = checked_attack(target_of(network()), *clean, threat_model("still", 8), seed=1)
    assert found.checks == {"labels_match_model": True, "loss_rises": False, "deterministic": True}


def test_images_of_another_shape_are_refused(monkeypatch, clean):
    entry = Attack(norm=Norm.LINF, knows=frozenset(), run=lambda target, images, *_: images[:, 1:])
    monkeypatch.setitem(ATTACKS, "cut", entry)
    with pytest.raises(ValueError, match=r"cut returned images of shape \(24, 11, 12, 3\)"):
        checked_attack(target_of(network()), *clean, threat_model("cut", 8), seed=1)


def test_what_an_attack_may_know_is_m_and_k():
    with pytest.raises(ValueError, match="'labels'"):
        Attack(norm=Norm.L2, knows=frozenset({"M", "labels"}), run=noise)


def test_the_papers_attacks_know_m_and_follow_its_gradient():
    for name in ("pgd_linf", "pgd_l2", "mia_linf", "mia_l2"):
        assert ATTACKS[name].knows == {"M"} and ATTACKS[name].gradient


def test_checks_that_hold_by_construction_are_not_counted_as_evidence():
    assert evidence_count(CHECKS) == len(CHECKS) - 4
    assert evidence_count({"finite": True, "loss_rises": False, "deterministic": True}) == 2


def test_the_tables_need_neither_keras_nor_torch():
    code = (
        "import sys, unmask_tf.attacks, unmask_tf.classifiers, unmask_tf.attacks.checks\n"
        "assert len(unmask_tf.attacks.ATTACKS) >= 4 and 'resnet50' in unmask_tf.classifiers.CLASSIFIERS\n"
        "assert not {'keras', 'tensorflow', 'torch', 'advertorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
