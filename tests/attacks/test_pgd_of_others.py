"""Our PGD (Advertorch through the bridge, no random start) equals ART's and Foolbox's, pixel by pixel."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.threat_models import ThreatModel, threat_model

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NEAR, SHARE = 1e-5, 0.999  # the rest: signs of vanishing gradients
PRESETS = ("released", "written", "eq1", "strong")


def load(name):
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = load("generate_pgd")


def installed(library):
    return pytest.mark.skipif(
        importlib.util.find_spec(library) is None, reason=f"{library} is not installed (make bench-attacks does that)"
    )


def ours(norm, step, iterations=golden.ITERATIONS):
    threat = ThreatModel(attack=f"pgd_{norm}", epsilon_255=golden.EPSILON_255[norm], step=step, iterations=iterations)
    return attack(golden.network(), golden.images(), golden.labels(), threat, seed=0).images


def share_equal(found, expected):
    return np.mean(np.abs(found - expected) <= NEAR)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("preset", PRESETS)
def test_pgd_equals_the_stored_images_of_art(norm, preset):
    with np.load(GOLDEN / "pgd_of_others.npz") as stored:
        expected = stored[f"art_{norm}_{preset}"]
    found = ours(norm, golden.steps(norm)[preset])
    assert expected.shape == found.shape == (32, 10, 10, 3)
    assert share_equal(found, expected) >= SHARE
    # The attack has moved the images, and not merely to where one step takes them, unless the preset says so.
    assert share_equal(found, golden.images()) < 0.5
    if preset in ("written", "strong"):
        assert share_equal(ours(norm, golden.steps(norm)[preset], iterations=1), expected) < 0.9


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_stored_steps_are_the_presets(norm, preset):
    assert golden.steps(norm)[preset] == pytest.approx(
        threat_model(f"pgd_{norm}", golden.EPSILON_255[norm], preset=preset, iterations=golden.ITERATIONS).step
    )


@installed("art")
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("preset", PRESETS)
def test_pgd_equals_art_as_installed(norm, preset):
    step = golden.steps(norm)[preset]
    assert share_equal(ours(norm, step), golden.attacked("art", norm, step)) >= SHARE


@installed("foolbox")
@pytest.mark.parametrize("preset", PRESETS)
def test_linf_pgd_equals_foolbox_as_installed(preset):
    """In L2 Foolbox clips to the box after projecting to the ball, Advertorch and ART before it."""
    step = golden.steps("linf")[preset]
    assert share_equal(ours("linf", step), golden.attacked("foolbox", "linf", step)) >= SHARE
