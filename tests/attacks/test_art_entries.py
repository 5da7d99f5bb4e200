"""Auto-PGD of the Adversarial Robustness Toolbox as entries in the table; they need that optional package."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_modules import Linear2, grey_level_images, target_of

from unmask_tf.attacks import ATTACKS, threat_model
from unmask_tf.attacks.pixels import lengths
from unmask_tf.attacks.runs import run_attack
from unmask_tf.data.pixels import to_8bit
from unmask_tf.errors import InputError

ENTRIES = [name for name in ATTACKS if name.startswith("apgd_")]
there = importlib.util.find_spec("art") is not None
needs_art = pytest.mark.skipif(not there, reason="ART is not installed (requirements-attacks.txt)")
IDS = list("abcd")


class Three(Linear2):
    """A third class, which is never answered: the difference of logits ratio needs one."""

    def forward(self, x):
        return torch.nn.functional.pad(super().forward(x), (0, 1), value=-9.0)


def problem():
    """Images near the boundary between labels 0 and 1."""
    images = grey_level_images(4, 10, seed=3)
    weight = np.random.default_rng(0).standard_normal((10, 10, 3))
    weight -= ((images[0] * weight).sum() - 1) / images[0].sum()
    return target_of(Three(weight)), images


def run(target, images, name, ids=IDS):
    threat = threat_model(name, 8 if name.endswith("linf") else 100, preset="strong", iterations=12)
    labels = target.logits(images).argmax(axis=1)
    return run_attack(target, images, labels, threat, seed=1, ids=ids), labels


@needs_art
@pytest.mark.parametrize("name", ENTRIES)
def test_it_fools_within_the_budget_and_leaves_numpy_s_generator_alone(name):
    target, images = problem()
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    found, labels = run(target, images, name)
    assert np.random.random() == expected
    np.testing.assert_array_equal(found, to_8bit(found).astype(np.float32) / np.float32(255))
    assert (
        lengths(found.astype(np.float64) - images, ATTACKS[name].norm).max() * 255
        <= (8 if name.endswith("linf") else 100) + 1e-3
    )
    assert (target.logits(found).argmax(axis=1) != labels).any()
    alone, _ = run(target, images[2:3], name, IDS[2:3])
    np.testing.assert_array_equal(alone[0], found[2])


@pytest.mark.skipif(there, reason="ART is installed")
def test_without_art_the_message_says_how_to_install_it():
    target, images = problem()
    with pytest.raises(InputError, match=r"requirements-attacks\.txt"):
        run(target, images, ENTRIES[0])
    assert (Path(__file__).resolve().parents[2] / "requirements-attacks.txt").is_file()


def test_they_know_m_alone():
    assert len(ENTRIES) == 4 and all(ATTACKS[name].knows == {"M"} for name in ENTRIES)
