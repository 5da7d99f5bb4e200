"""What the Advertorch bridge refuses, and that it loads Advertorch 0.2.3 under a present torch."""

import sys

import numpy as np
import pytest
import torch
from attack_modules import Linear2, OfMean
from known_attacks import ON_M

from unmask_tf.attacks import advertorch_bridge as bridge
from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.protocol import ATTACKS
from unmask_tf.attacks.threat_models import threat_model
from unmask_tf.errors import InputError

GREY = np.full((2, 2, 2, 3), 0.5, np.float32)
GOOD = {"module": Linear2(np.ones((2, 2, 3))), "images": GREY, "labels": np.array([0, 1])}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.full((2, 2, 2, 3), 1.5, np.float32)}, "1.5"),
        ({"images": np.full((2, 2, 2, 3), -0.5, np.float32)}, "-0.5"),
        ({"images": np.full((2, 2, 2, 3), np.nan, np.float32)}, "nan"),
        ({"images": np.zeros((2, 2, 2, 3), np.uint8)}, "uint8"),
        ({"images": np.zeros((2, 2, 3), np.float32)}, r"\(2, 2, 3\)"),
        ({"images": np.zeros((2, 3, 2, 2), np.float32)}, r"channels last"),
        ({"images": np.zeros((0, 2, 2, 3), np.float32), "labels": np.zeros(0, int)}, "at least one image"),
        ({"labels": np.array([0, 2])}, "label 2 is out of range: the attacked module has 2 classes"),
        ({"labels": np.array([0, -1])}, "label -1 is out of range"),
        ({"labels": np.array([0, 1, 1])}, r"labels have shape \(3,\)"),
        ({"labels": np.array([0.0, 1.0])}, "float64"),
        ({"module": lambda x: x}, "expected a torch module"),
        ({"ids": ["a"]}, "1 ids for 2 images"),
        ({"module": OfMean(lambda mean: torch.stack([mean * torch.nan, mean], dim=1))}, "NaN or infinity"),
        ({"module": OfMean(lambda mean: torch.stack([mean / 0.0, mean], dim=1))}, "NaN or infinity"),
        ({"module": OfMean(lambda mean: mean)}, "expected logits of shape"),
        ({"module": OfMean(lambda mean: torch.stack([mean.detach(), mean.detach()], dim=1))}, "differentiable"),
    ],
)
@pytest.mark.parametrize("attack_name", ["pgd_linf", "mia_l2"])
def test_bad_input_is_refused_with_the_value_received(change, words, attack_name):
    arguments = {**GOOD, "threat": threat_model(attack_name, 8, iterations=2), "seed": 0, **change}
    with pytest.raises((InputError, ValueError, TypeError), match=words):
        attack(**arguments)


@pytest.mark.parametrize("attack_name", ON_M)
def test_a_gradient_that_is_nan_is_reported_and_not_repaired(attack_name):
    root = OfMean(lambda mean: torch.stack([torch.sqrt(0.0 * mean), mean], dim=1))
    with pytest.raises(ValueError, match="gradient that is NaN"):
        attack(root, GREY, GOOD["labels"], threat_model(attack_name, 8, iterations=2), seed=0)


# Compatibility with Advertorch 0.2.3


def test_advertorch_is_imported_without_leaving_a_stand_in_behind():
    attacks = bridge.advertorch_attacks()
    assert all(hasattr(attacks, spec.run.advertorch_class) for spec in map(ATTACKS.get, ON_M))
    defenses = sys.modules.get("advertorch.defenses")
    assert defenses is None or hasattr(defenses, "JPEGFilter")


def test_the_zero_gradients_stand_in_clears_a_gradient():
    tensor = torch.ones(3, requires_grad=True)
    tensor.sum().backward()
    bridge._zero_gradients(tensor)
    assert tensor.grad is None
