"""One entry in the table of attacks is all that another attack of Advertorch needs."""

import numpy as np
import pytest
from attack_modules import Linear2, target_of
from planted_faults import network, waves

from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.advertorch_entries import advertorch_attack
from unmask_tf.attacks.checks import sound
from unmask_tf.attacks.evidence import check_attack
from unmask_tf.attacks.pixels import lengths, project
from unmask_tf.attacks.protocol import ATTACKS, Norm
from unmask_tf.attacks.threat_models import ThreatModel, threat_model

# One line each; epsilon is chosen to fool the small network.
ENTRIES = {
    "bim_linf": (advertorch_attack("LinfBasicIterativeAttack", Norm.LINF), 40),
    "pgd_l1": (advertorch_attack("L1PGDAttack", Norm.L1, random_start=True), 6000),
    "sparse_l1": (advertorch_attack("SparseL1DescentAttack", Norm.L1), 6000),
    "fgsm": (advertorch_attack("GradientSignAttack", Norm.LINF, iterative=False), 40),
    "fgm_l2": (advertorch_attack("GradientAttack", Norm.L2, iterative=False), 600),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_another_attack_of_advertorch_takes_one_entry(name, monkeypatch):
    spec, epsilon = ENTRIES[name]
    monkeypatch.setitem(ATTACKS, name, spec)
    images, labels = waves(12, seed=2)
    result = attack(network(), images, labels, threat_model(name, epsilon, preset="strong"), seed=0)
    delta = lengths(result.images.astype(np.float64) - images, spec.norm)
    assert delta.max() <= epsilon / 255 + 1e-4
    assert delta.min() > 0
    # L1PGDAttack changes one value a step, and all its steps together fool none of these images.
    assert (result.predictions != labels).mean() >= (0.0 if name == "pgd_l1" else 0.5)


@pytest.mark.parametrize(
    ("name", "expected"), [("bim_linf", []), ("sparse_l1", []), ("pgd_l1", ["as_strong_as_one_step"])]
)
def test_its_run_is_checked_as_any_other(name, expected, monkeypatch):
    spec, epsilon = ENTRIES[name]
    monkeypatch.setitem(ATTACKS, name, spec)
    images, labels = waves(12, seed=2)
    threat = threat_model(name, epsilon, preset="strong")
    result = attack(network(), images, labels, threat, seed=0)
    checks = check_attack(target_of(network()), images, labels, result, threat)
    assert [check for check, holds in checks.items() if not holds] == expected
    assert sound(checks) == (not expected)


def test_an_attack_of_a_single_step_has_one_iteration_of_epsilon_in_every_preset(monkeypatch):
    monkeypatch.setitem(ATTACKS, "fgsm", ENTRIES["fgsm"][0])
    for preset in ("released", "written", "eq1", "strong"):
        threat = threat_model("fgsm", 25.5, preset=preset)
        assert (threat.iterations, threat.step, threat.restarts) == (1, pytest.approx(0.1), 1)
    weight = np.array([[[1.0, -2.0, 3.0]]])
    image = np.full((1, 1, 1, 3), 0.5, np.float32)
    result = attack(Linear2(weight), image, np.array([1]), threat_model("fgsm", 25.5), seed=0)
    np.testing.assert_allclose(result.images[0, 0, 0], [0.6, 0.4, 0.6], atol=1e-6)
    assert result.iterations.tolist() == [1]


def test_lengths_by_hand():
    delta = np.array([3.0, -4.0, 0.0, 12.0]).reshape(1, 1, 1, 4)
    assert [lengths(delta, norm)[0] for norm in (Norm.LINF, Norm.L2, Norm.L1)] == [12.0, 13.0, 19.0]


def test_an_l1_budget_is_kept_by_projection(monkeypatch):
    monkeypatch.setitem(ATTACKS, "pgd_l1", ENTRIES["pgd_l1"][0])
    threat = ThreatModel(attack="pgd_l1", epsilon_255=51, step=0.1)
    clean = np.full((1, 1, 1, 3), 0.5, np.float32)
    # 0.1 + 0.1 + 0 is the whole budget of 0.2; a rounding error more is taken out, more than that is refused.
    inside = project(clean, clean + np.array([0.1, -0.1, 1e-7], np.float32), threat)
    assert lengths(inside.astype(float) - clean, Norm.L1)[0] <= 0.2 + 1e-7
    with pytest.raises(RuntimeError, match="left its budget"):
        project(clean, clean + np.array([0.1, -0.1, 0.01], np.float32), threat)
