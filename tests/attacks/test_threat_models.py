import dataclasses
import math

import pytest

from unmask_tf.attacks.advertorch_entries import advertorch_attack
from unmask_tf.attacks.protocol import ATTACKS, Norm
from unmask_tf.attacks.threat_models import PRESETS, ThreatModel, threat_model
from unmask_tf.config import PROFILES
from unmask_tf.errors import InputError


@pytest.mark.parametrize(
    ("attack", "epsilon_255", "preset", "step"),
    [
        ("pgd_linf", 8, "released", 2.0),
        ("mia_l2", 600, "released", 2.0),
        ("pgd_linf", 8, "written", 0.00784313725490196),
        ("pgd_l2", 300, "written", 0.00784313725490196),
        ("pgd_linf", 8, "eq1", 0.03137254901960784),
        ("pgd_l2", 300, "eq1", 1.1764705882352942),
        ("pgd_linf", 8, "strong", 0.00392156862745098),  # 2.5 * 8 / 20 = 1, of 255
        ("mia_l2", 600, "strong", 0.29411764705882354),  # 2.5 * 600 / 20 = 75, of 255
    ],
)
def test_presets_have_their_literal_steps(attack, epsilon_255, preset, step):
    threat = threat_model(attack, epsilon_255, preset=preset)
    assert threat.step == pytest.approx(step, rel=1e-12)
    assert threat.iterations == 20
    assert threat.decay == 1.0


def test_default_preset_is_the_released_one():
    assert threat_model("pgd_linf", 8) == threat_model("pgd_linf", 8, preset="released")


def test_epsilon_is_in_pixel_units_and_epsilon_255_is_kept():
    threat = threat_model("pgd_l2", 300)
    assert threat.epsilon_255 == 300
    assert threat.epsilon == pytest.approx(1.1764705882352942, rel=1e-12)


@pytest.mark.parametrize(
    ("attack", "norm", "random_start", "advertorch_class"),
    [
        ("pgd_linf", Norm.LINF, True, "LinfPGDAttack"),
        ("pgd_l2", Norm.L2, True, "L2PGDAttack"),
        ("mia_linf", Norm.LINF, False, "LinfMomentumIterativeAttack"),
        ("mia_l2", Norm.L2, False, "L2MomentumIterativeAttack"),
    ],
)
def test_the_four_attacks_are_the_released_ones(attack, norm, random_start, advertorch_class):
    threat = threat_model(attack, 8)
    assert threat.norm is norm
    assert threat.random_start is random_start
    assert threat.spec.run.advertorch_class == advertorch_class


def test_only_strong_keeps_the_best_iterate_and_restarts_what_starts_at_random():
    for preset in PRESETS:
        assert threat_model("pgd_l2", 300, preset=preset).keep_best == (preset == "strong")
        assert threat_model("pgd_l2", 300, preset=preset).restarts == (5 if preset == "strong" else 1)
        assert threat_model("mia_l2", 300, preset=preset).restarts == 1


def test_every_cell_of_every_profile_has_a_threat_model():
    for profile in PROFILES.values():
        settings = profile.attack
        for attack in settings.attacks:
            for epsilon in settings.epsilons_255[ATTACKS[attack].norm.value]:
                threat = threat_model(attack, epsilon, preset=settings.preset, iterations=settings.iterations)
                assert threat.epsilon_255 == epsilon
                assert (threat.norm is Norm.LINF) == (epsilon < 100)


def test_a_threat_model_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        threat_model("pgd_linf", 8).step = 1.0


def test_one_entry_adds_an_attack(monkeypatch):
    monkeypatch.setitem(ATTACKS, "bim_linf", advertorch_attack("LinfBasicIterativeAttack", Norm.LINF))
    assert threat_model("bim_linf", 8, preset="written").norm is Norm.LINF


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attack": "fgsm"}, ["unknown attack 'fgsm'", "pgd_linf", "mia_l2"]),
        ({"preset": "weak"}, ["unknown preset 'weak'", "released"]),
        ({"epsilon_255": -1}, ["epsilon_255", "-1"]),
        ({"epsilon_255": math.nan}, ["epsilon_255", "nan"]),
        ({"epsilon_255": math.inf}, ["epsilon_255", "inf"]),
        ({"epsilon_255": "8"}, ["epsilon_255", "'8'"]),
        ({"iterations": 0}, ["iterations", "0"]),
        ({"iterations": 2.5}, ["iterations", "2.5"]),
    ],
)
def test_bad_arguments_are_refused_with_the_value_received(arguments, words):
    arguments = {"attack": "pgd_linf", "epsilon_255": 8, **arguments}
    with pytest.raises(InputError) as error:
        threat_model(**arguments)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"step": -0.1},
        {"decay": -1.0},
        {"restarts": 0},
        {"restarts": 2},
        {"restarts": 2, "keep_best": True},
        {"restarts": 2, "random_start": True},
    ],
)
def test_a_hand_made_threat_model_is_validated_too(change):
    with pytest.raises(ValueError):
        ThreatModel(**{"attack": "pgd_linf", "epsilon_255": 8.0, "step": 0.1, **change})
