"""Twice the iterations, got by going on from once, are what running anew with twice the iterations gives."""

from dataclasses import replace

import numpy as np
import pytest
from attack_modules import Gated, target_of
from known_attacks import ON_M
from planted_faults import network, waves

from unmask_tf.attacks.advertorch_bridge import attack, extend
from unmask_tf.attacks.evidence import checked_attack
from unmask_tf.attacks.protocol import AttackResult, Stop
from unmask_tf.attacks.results import continued, joined, taken
from unmask_tf.attacks.threat_models import threat_model
from unmask_tf.attacks.watched import Watched


@pytest.fixture(scope="module")
def clean():
    return waves(12, seed=2)


def threat_of(name, preset):
    return threat_model(name, 28 if name.endswith("linf") else 400, preset=preset, iterations=5)


@pytest.mark.parametrize("preset", ["released", "written", "eq1"])
@pytest.mark.parametrize("name", ON_M)
def test_the_last_iterate_after_going_on_is_that_of_twice_the_iterations(clean, name, preset):
    threat = threat_of(name, preset)
    once = attack(network(), *clean, threat, seed=1)
    ours = extend(network(), *clean, threat, once)
    anew = attack(network(), *clean, replace(threat, iterations=10), seed=1)
    assert ours.iterations.tolist() == anew.iterations.tolist() == [10] * 12
    assert np.mean(np.abs(ours.images - anew.images) <= 1e-5) >= 0.999
    assert (ours.fooled == anew.fooled).all()
    np.testing.assert_allclose(ours.peak_loss, anew.peak_loss, rtol=1e-3, atol=1e-4)
    assert np.abs(ours.images - once.images).max() > 1e-3


@pytest.mark.parametrize("name", ["pgd_linf", "pgd_l2"])
def test_pgd_goes_on_bit_by_bit(clean, name):
    threat = threat_of(name, "written")
    ours = extend(network(), *clean, threat, attack(network(), *clean, threat, seed=1))
    anew = attack(network(), *clean, replace(threat, iterations=10), seed=1)
    np.testing.assert_array_equal(ours.images, anew.images)


@pytest.mark.parametrize("name", ON_M)
def test_strong_attacks_go_on_in_every_restart_and_keep_the_better_iterate(clean, name):
    threat = threat_of(name, "strong")
    once = attack(network(), *clean, threat, seed=1)
    assert 0 < once.fooled.sum() < 12
    ours = extend(network(), *clean, threat, once)
    anew = attack(network(), *clean, replace(threat, iterations=10), seed=1)
    assert (ours.fooled >= anew.fooled).all() and (ours.fooled >= once.fooled).all()
    assert ((ours.predictions != clean[1]) == ours.fooled).all()
    left = ~ours.fooled
    assert left.any()
    assert ours.iterations[left].tolist() == anew.iterations[left].tolist() == [10 * threat.restarts] * left.sum()
    np.testing.assert_allclose(ours.peak_loss[left], anew.peak_loss[left], rtol=1e-3)
    # And once more.
    again = extend(network(), *clean, replace(threat, iterations=10), ours)
    assert (again.iterations[~again.fooled] == 20 * threat.restarts).all()


def test_an_image_that_came_back_as_nan_goes_on_too():
    weight = np.array([[[1.0, -2.0, 3.0], [4.0, -5.0, 0.5]]])
    closed = np.array([[[[0.5, 0.1, 0.5], [0.6, 0.7, 0.5]]]], np.float32)
    threat = threat_model("mia_l2", 25.5, preset="written", iterations=3)
    once = attack(Gated(weight), closed, np.array([1]), threat, seed=0)
    assert once.nan.all()
    ours = extend(Gated(weight), closed, np.array([1]), threat, once)
    anew = attack(Gated(weight), closed, np.array([1]), replace(threat, iterations=6), seed=0)
    np.testing.assert_allclose(ours.images, anew.images, atol=1e-6)
    assert ours.nan.all()


def test_a_result_that_does_not_say_where_it_stopped_cannot_go_on(clean):
    threat = threat_of("pgd_linf", "written")
    result = replace(attack(network(), *clean, threat, seed=0), stopped=())
    with pytest.raises(ValueError, match="cannot go on"):
        extend(network(), *clean, threat, result)


def steps_on_each(monkeypatch, clean, threat):
    """Gradient steps per image of the attack, and of the whole checked attack, counted by the images evaluated."""
    counted = []
    original = Watched.__call__

    def counting(self, images):
        counted.append(len(images) * images.requires_grad)
        return original(self, images)

    monkeypatch.setattr(Watched, "__call__", counting)
    attack(network(), *clean, threat, seed=0)
    alone = sum(counted)
    counted.clear()
    found = checked_attack(target_of(network()), *clean, threat, seed=0)
    assert found.threat == threat and not (found.logits.argmax(1) != clean[1]).any()
    return alone / len(clean[0]), sum(counted) / len(clean[0])


@pytest.mark.parametrize(("name", "restarts"), [("pgd_linf", 5), ("mia_linf", 1)])
def test_the_checks_of_a_robust_cell_cost_the_attack_once_more_and_not_twice(monkeypatch, name, restarts):
    clean = waves(24, seed=2)
    alone, whole = steps_on_each(monkeypatch, clean, threat_model(name, 0.5, preset="strong"))
    assert alone == 20 * restarts
    # The attack, the attack gone on with, a gradient of each image, and 2 x 2 steps on 8 of 24 images.
    assert whole == pytest.approx(2 * alone + 1 + 2 * 2 * 8 / 24)


# Arithmetic of results


def result(logits, **fields):
    logits = np.asarray(logits, np.float32)
    n = len(logits)
    default = {
        "images": np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1) * np.ones((1, 1, 1, 3), np.float32),
        "fooled": np.zeros(n, bool),
        "peak_loss": np.zeros(n, np.float32),
        "nan": np.zeros(n, bool),
        "iterations": np.full(n, 5),
    }
    return AttackResult(logits=logits, **{**default, **fields})


def test_of_a_run_and_its_continuation_the_better_form_of_each_image_is_kept():
    # Label 0: the first image is fooled later, the second earlier, the third's loss rises, the fourth's falls.
    first = result(
        [[1, 0], [0, 1], [3, 0], [2, 0]], peak_loss=np.array([1, 4, 1, 3]), fooled=np.array([0, 1, 0, 0]) > 0
    )
    then = result(
        [[0, 1], [9, 0], [2, 0], [3, 0]],
        images=first.images + 10,
        peak_loss=np.array([2, 6, 2, 1]),
        fooled=np.array([1, 0, 0, 0]) > 0,
    )
    labels = np.zeros(4, int)
    best = continued(first, then, labels, targeted=False, keep_best=True)
    assert best.images[:, 0, 0, 0].tolist() == [10, 1, 12, 3]
    assert best.fooled.tolist() == [True, True, False, False]
    assert best.peak_loss.tolist() == [2, 4, 2, 3]  # of the iterates that fooled it, where any did
    assert best.iterations.tolist() == [10] * 4
    last = continued(first, then, labels, targeted=False, keep_best=False)
    assert last.images[:, 0, 0, 0].tolist() == [10, 11, 12, 13]


def test_results_are_joined_and_taken_apart_with_where_they_stopped():
    delta = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    one = result(np.zeros((2, 2)), stopped=(Stop(np.array([0, 1]), delta[:2]), Stop(np.array([1]), delta[2:])))
    other = result(np.ones((1, 2)), stopped=(Stop(np.array([0]), delta[2:] + 5),))
    both = joined([one, other])
    assert [stop.rows.tolist() for stop in both.stopped] == [[0, 1, 2], [1]]
    assert both.stopped[0].delta.ravel().tolist() == [0, 1, 7]
    part = taken(both, np.array([2, 1]))
    assert part.logits[:, 0].tolist() == [1, 0]
    assert [stop.rows.tolist() for stop in part.stopped] == [[1, 0], [1]]
    assert [stop.delta.ravel().tolist() for stop in part.stopped] == [[1, 7], [2]]
