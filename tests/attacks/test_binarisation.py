"""The binarisation test: a fair attack solves its problems, a faulty one does not, and chance does not either."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_modules import OfModule, grey_level_images
from linear_parts import LinearParts

from unmask_tf.attacks import Target, ThreatModel
from unmask_tf.attacks.binarisation import CANDIDATES, binarisation_trial
from unmask_tf.errors import InputError

SIDE, PARTS = 12, 6
BUDGET = ThreatModel(
    attack="joint_linf", epsilon_255=4, step=1 / 255, iterations=15, random_start=True, restarts=2, keep_best=True
)


class Wide(torch.nn.Module):
    """M: 300 rectified random features and a linear layer."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(3 * SIDE**2, 300), torch.nn.ReLU(), torch.nn.Linear(300, 3)
            )

    def forward(self, pixels):
        return self.layers(pixels)


@pytest.fixture(scope="module")
def images():
    return grey_level_images(4, SIDE, seed=4)


@pytest.fixture
def target(images):
    """K's parts lie near their thresholds in the mean image, so that noise turns some."""
    weights = np.random.default_rng(1).standard_normal((PARTS, SIDE, SIDE, 3))
    seen = np.random.default_rng(2).uniform(-0.1, 0.1, PARTS)
    images[:] = np.rint(255 * images.mean(axis=0)) / np.float32(255)
    offsets = np.einsum("phwc,hwc->p", weights, images[0]) + seen
    return Target(OfModule(Wide()), LinearParts(weights, offsets, np.eye(3, PARTS, dtype=bool)))


def trials(target, images, inverted, budget=BUDGET):
    return [
        binarisation_trial(target, image, budget, inverted=inverted, seed=0, name=str(n))
        for n, image in enumerate(images)
    ]


@pytest.mark.parametrize("inverted", [False, True])
def test_a_fair_attack_solves_every_problem_and_chance_few(target, images, inverted):
    found = trials(target, images, inverted)
    assert [t.solved for t in found] == [True] * len(images)
    assert sum(t.by_chance for t in found) <= 1
    assert all(t.distance > 0 for t in found), f"of {CANDIDATES} points K sees one otherwise than the image"
    assert all(0 < t.iterations <= 32 for t in found)


def test_an_attack_without_k_s_gradient_is_found_out(target, images, monkeypatch):
    plain = LinearParts.gradients
    monkeypatch.setattr(LinearParts, "gradients", lambda *a: (lambda v, g, m: (v, 0 * g, m))(*plain(*a)))
    assert sum(t.solved for t in trials(target, images, False)) < len(images) - 1


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("fault", ["without steps", "without M's gradient", "along the gradient turned round"])
def test_another_faulty_attack_is_found_out(target, images, fault, inverted, monkeypatch):
    from unmask_tf.attacks import adaptive

    budget, plain = BUDGET, adaptive._m_gradients
    if fault == "without steps":
        budget = replace(BUDGET, step=1e-9, restarts=1)
    elif fault == "without M's gradient":
        monkeypatch.setattr(adaptive, "_m_gradients", lambda *a: (lambda z, d, g: (z, d, 0 * g))(*plain(*a)))
    else:
        monkeypatch.setattr(adaptive, "_m_gradients", lambda *a: (lambda z, d, g: (z, d, -g))(*plain(*a)))
    assert sum(t.solved for t in trials(target, images, inverted, budget)) < len(images) - 1


def test_only_images_of_8_bits_and_systems_with_k_are_tried(target, images):
    with pytest.raises(InputError, match="8 bits"):
        binarisation_trial(target, images[0] * np.float32(0.999), BUDGET, inverted=False, seed=0, name="a")
    with pytest.raises(ValueError, match="M and K"):
        binarisation_trial(Target(target.classifier), images[0], BUDGET, inverted=False, seed=0, name="a")
