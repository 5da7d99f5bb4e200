"""Every check holds for a sound attack and is seen to fail for a planted fault."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from attack_modules import Linear2, OfMean, conv_net, grey_level_images, target_of
from torch import nn

from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.checks import CHECKS, WARNINGS, few, sound
from unmask_tf.attacks.evidence import check_attack, gather
from unmask_tf.attacks.module import logits_of
from unmask_tf.attacks.threat_models import ThreatModel, threat_model
from unmask_tf.errors import InputError

WEIGHT = np.random.default_rng(0).normal(size=(4, 4, 3))
MODULE = Linear2(WEIGHT)
IMAGES = grey_level_images(6, 4)
LABELS = logits_of(MODULE, IMAGES).argmax(1)


def failing(checks):
    return {name for name, holds in checks.items() if not holds}


def good_evidence(attack_name="pgd_linf", epsilon_255=8):
    threat = threat_model(attack_name, epsilon_255, preset="strong")
    return gather(target_of(MODULE), IMAGES, LABELS, attack(MODULE, IMAGES, LABELS, threat, seed=0), threat)


def _with(array, index, value):
    array = np.array(array, copy=True)
    array[index] = value
    return array


def _right(labels):
    """Logits of two classes that are right by a wide margin."""
    return np.where(np.arange(2) == labels[:, None], 5.0, -5.0).astype(np.float32)


def _softmax(logits):
    return torch.softmax(torch.from_numpy(logits), 1).numpy()


FAULTS = {
    "finite": lambda e: {"attacked": _with(e.attacked, (0, 0, 0, 0), np.nan)},
    "box_kept": lambda e: {"attacked": _with(e.attacked, (1, 0, 0, 0), np.float32(1.0000001))},
    "budget_kept": lambda e: {"attacked": _with(e.attacked, 2, np.clip(e.images[2] + e.threat.epsilon * 1.001, 0, 1))},
    "budget_kept_in_8bit": lambda e: {"attacked": _with(e.attacked, 2, 1.0 - e.images[2])},
    "outputs_are_logits": lambda e: {"module_logits": _softmax(e.module_logits)},
    "outputs_independent_of_batch": lambda e: {
        "alone_logits": _with(e.alone_logits, (5, 0), e.module_logits[5, 0] + 0.1)
    },
    "outputs_reproduced": lambda e: {"reported_logits": _with(e.reported_logits, 4, e.reported_logits[4] + 0.1)},
    "gradients_nonzero": lambda e: {"gradients": _with(e.gradients, 3, 0.0)},
    "step_shorter_than_budget": lambda e: {"threat": dataclasses.replace(e.threat, step=2.0 * e.threat.epsilon)},
    "steps_reach_budget": lambda e: {"threat": dataclasses.replace(e.threat, step=0.0624 * e.threat.epsilon)},
    "all_iterations_run": lambda e: {"iterations": np.full(6, e.threat.iterations - 1)},
    "labels_match_model": lambda e: {"labels": 1 - e.labels},
    "loss_rises": lambda e: {"attacked_logits": e.logits},
    # Two of six images: a single one is never held against an attack.
    "as_strong_as_one_step": lambda e: {
        "attacked_logits": _with(e.attacked_logits, slice(2), _right(LABELS[:2])),
        "one_step_logits": _with(e.one_step_logits, slice(2), -_right(LABELS[:2])),
    },
    "doubling_gains_little": lambda e: {
        "attacked_logits": _with(e.attacked_logits, slice(2), _right(LABELS[:2])),
        "doubled": _with(e.doubled, slice(2), True),
    },
    "best_iterate_returned": lambda e: {"peak_loss": _with(e.peak_loss, 3, e.peak_loss[3] + 0.1)},
    "deterministic": lambda e: {"repeated": (e.repeated[0], _with(e.repeated[1], (0, 0, 0, 0), 0.123))},
}


@pytest.mark.parametrize(("attack_name", "epsilon_255"), [("pgd_linf", 8), ("pgd_l2", 100), ("mia_l2", 100)])
def test_a_sound_attack_passes_every_check(attack_name, epsilon_255):
    evidence = good_evidence(attack_name, epsilon_255)
    assert failing({name: check.holds(evidence) for name, check in CHECKS.items()}) == set()


def test_a_fault_is_planted_for_every_check():
    assert set(FAULTS) == set(CHECKS)


@pytest.mark.parametrize(("attack_name", "epsilon_255"), [("pgd_linf", 8), ("pgd_l2", 100)])
@pytest.mark.parametrize("name", FAULTS)
def test_each_check_fails_for_its_planted_fault(name, attack_name, epsilon_255):
    evidence = good_evidence(attack_name, epsilon_255)
    faulty = dataclasses.replace(evidence, **FAULTS[name](evidence))
    assert CHECKS[name].holds(faulty) is False


def test_a_fault_in_the_gradients_may_be_a_nan():
    evidence = good_evidence()
    faulty = dataclasses.replace(evidence, gradients=_with(evidence.gradients, (0, 0, 0, 0), np.nan))
    assert CHECKS["gradients_nonzero"].holds(faulty) is False


@pytest.mark.parametrize(("attack_name", "epsilon_255", "excess"), [("pgd_linf", 8, 1.0), ("pgd_l2", 100, np.sqrt(48))])
def test_8bit_budget_allows_exactly_one_grey_level_more(attack_name, epsilon_255, excess):
    # Per value: 8 + 1 levels in LINF. In L2, moving all 48 values by v levels costs v * sqrt(48) <= 100 + sqrt(48).
    evidence = good_evidence(attack_name, epsilon_255)
    evidence = dataclasses.replace(evidence, images=np.zeros_like(IMAGES))
    most = epsilon_255 + 1 if attack_name == "pgd_linf" else np.floor((epsilon_255 + excess) / excess)
    for levels, holds in ((most, True), (most + 1, False)):
        attacked = np.full_like(IMAGES, levels / 255)
        assert CHECKS["budget_kept_in_8bit"].holds(dataclasses.replace(evidence, attacked=attacked)) is holds


@pytest.mark.parametrize(
    ("attack_name", "epsilon_255", "preset", "expected"),
    [
        # The released step of 2.0 jumps between the corners of an LINF budget; in L2 it is 1.7 and 0.85 budgets.
        ("pgd_linf", 8, "released", {"step_shorter_than_budget"}),
        ("mia_linf", 16, "released", {"step_shorter_than_budget"}),
        ("pgd_l2", 300, "released", set()),
        ("mia_l2", 600, "released", set()),
        ("pgd_linf", 8, "written", set()),
        # 20 steps of 2/255 travel 40/255 of a budget of 300/255.
        ("pgd_l2", 300, "written", {"steps_reach_budget"}),
        ("mia_l2", 600, "written", {"steps_reach_budget"}),
        ("pgd_linf", 8, "eq1", set()),
        ("pgd_l2", 300, "eq1", set()),
        ("mia_linf", 8, "strong", set()),
        ("pgd_l2", 300, "strong", set()),
    ],
)
def test_presets_trip_exactly_the_step_checks_that_they_should(attack_name, epsilon_255, preset, expected):
    threat = threat_model(attack_name, epsilon_255, preset=preset)
    result = attack(MODULE, IMAGES, LABELS, threat, seed=0)
    checks = check_attack(target_of(MODULE), IMAGES, LABELS, result, threat)
    assert list(checks) == [n for n in CHECKS if n != "best_iterate_returned" or threat.keep_best]
    assert failing(checks) & WARNINGS == expected
    # A long step finds on a linear model what there is, so it is only warned of; a short travel does not.
    assert sound(checks) == ("steps_reach_budget" not in expected)
    assert failing(checks) - WARNINGS <= {"loss_rises", "as_strong_as_one_step", "doubling_gains_little"}


def test_checks_are_plain_booleans_that_json_can_hold():
    threat = threat_model("pgd_linf", 8)
    result = attack(MODULE, IMAGES, LABELS, threat, seed=0)
    checks = check_attack(target_of(MODULE), IMAGES, LABELS, result, threat, batch_size=4)
    assert json.loads(json.dumps(checks)) == checks


def _run(module, labels=LABELS, images=IMAGES, change=None):
    threat = threat_model("pgd_linf", 8, preset="strong", iterations=3)
    result = attack(module, images, labels, threat, seed=0)
    if change:
        result = dataclasses.replace(result, **change(result))
    return failing(check_attack(target_of(module), images, labels, result, threat))


def test_a_model_that_ends_in_softmax_is_found():
    assert _run(nn.Sequential(MODULE, nn.Softmax(dim=1))) == {"outputs_are_logits"}


def test_a_model_with_saturated_gradients_is_found():
    class Saturated(nn.Module):
        def forward(self, x):
            return 1e4 * MODULE(x)

    assert _run(Saturated()) == {"gradients_nonzero"}


def test_a_model_that_is_only_as_good_as_chance_is_found():
    half = np.concatenate([LABELS[:3], 1 - LABELS[3:]])
    assert _run(MODULE, labels=half) == {"labels_match_model"}


def test_labels_in_another_order_are_found():
    assert _run(MODULE, labels=1 - LABELS) == {"labels_match_model"}


def test_images_that_were_exchanged_after_the_attack_are_found():
    found = _run(MODULE, change=lambda result: {"images": 1.0 - result.images})
    assert {"budget_kept", "budget_kept_in_8bit", "outputs_reproduced"} <= found


def test_nan_images_are_found_without_evaluating_them():
    found = _run(MODULE, change=lambda result: {"images": _with(result.images, 0, np.nan)})
    legal = {"finite", "box_kept", "budget_kept", "budget_kept_in_8bit"}
    assert found == legal | {"outputs_reproduced", "loss_rises"}


def test_an_attack_that_stops_early_is_found():
    assert _run(MODULE, change=lambda result: {"iterations": np.ones(6, int)}) == {"all_iterations_run"}


def test_a_result_of_other_images_is_refused():
    threat = ThreatModel(attack="pgd_linf", epsilon_255=8, step=0.01)
    result = attack(MODULE, IMAGES, LABELS, threat, seed=0)
    with pytest.raises(ValueError, match=r"\(6, 4, 4, 3\)"):
        check_attack(target_of(MODULE), IMAGES[:4], LABELS[:4], result, threat)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": IMAGES + 1.0}, r"expected \[0, 1\]"),
        ({"images": (IMAGES * 255).astype(np.uint8)}, "uint8"),
        ({"labels": LABELS + 2}, "is out of range: the attacked module has 2 classes"),
        ({"labels": LABELS[:3]}, r"labels have shape \(3,\)"),
        ({"targets": LABELS[:3]}, r"targets have shape \(3,\)"),
        ({"targets": LABELS - 3}, "is out of range"),
        ({"module": OfMean(lambda mean: torch.stack([mean * torch.nan, mean], dim=1))}, "NaN or infinity"),
    ],
)
def test_bad_input_is_refused_with_the_value_received(change, words):
    threat = ThreatModel(attack="pgd_linf", epsilon_255=8, step=0.01, iterations=1)
    result = attack(MODULE, IMAGES, LABELS, threat, seed=0)
    target = target_of(change.pop("module", MODULE))
    arguments = {"target": target, "images": IMAGES, "labels": LABELS, "found": result, "threat": threat, **change}
    with pytest.raises((InputError, ValueError), match=words):
        check_attack(**arguments)


def test_nothing_to_check_is_refused():
    threat = ThreatModel(attack="pgd_linf", epsilon_255=8, step=0.01, iterations=1)
    result = attack(MODULE, IMAGES, LABELS, threat, seed=0)
    none = dataclasses.replace(result, images=result.images[:0])
    with pytest.raises(ValueError, match="at least one image"):
        check_attack(target_of(MODULE), IMAGES[:0], LABELS[:0], none, threat)


def test_a_targeted_attack_is_checked_against_its_targets():
    threat = threat_model("pgd_linf", 64, preset="strong")
    result = attack(MODULE, IMAGES, 1 - LABELS, threat, seed=0, targeted=True)
    checks = check_attack(target_of(MODULE), IMAGES, LABELS, result, threat, targets=1 - LABELS)
    assert failing(checks) == set()
    # Held against the classes that it left, it has missed its aim.
    aimless = check_attack(target_of(MODULE), IMAGES, LABELS, result, threat, targets=LABELS)
    assert {"loss_rises", "best_iterate_returned"} <= failing(aimless)


def test_checks_leave_the_module_as_it_was():
    module = conv_net(classes=2).train()
    threat = threat_model("mia_linf", 8, iterations=1)
    result = attack(module, IMAGES, LABELS, threat, seed=0)
    check_attack(target_of(module), IMAGES, LABELS, result, threat)
    assert all(child.training for child in module.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(("largest", "off", "holds"), [(0.5, 9e-5, True), (0.5, 1.1e-4, False), (20.0, 0.0019, True)])
def test_keras_and_the_torch_copy_may_differ_by_a_ten_thousandth_of_the_largest_logit(largest, off, holds):
    evidence = good_evidence()
    keras = np.tile(np.array([largest, -0.1]), (6, 1))
    evidence = dataclasses.replace(evidence, attacked_logits=keras, reported_logits=_with(keras, (2, 1), off - 0.1))
    assert CHECKS["outputs_reproduced"].holds(evidence) is holds


def test_an_attack_on_a_stale_copy_is_found():
    stale = Linear2(1.02 * WEIGHT)
    threat = threat_model("pgd_linf", 8, preset="strong", iterations=3)
    result = attack(stale, IMAGES, LABELS, threat, seed=0)
    assert failing(check_attack(target_of(MODULE, stale), IMAGES, LABELS, result, threat)) == {"outputs_reproduced"}


def test_no_checks_at_all_are_not_sound_and_a_warning_is_no_failure():
    assert not sound({})
    assert {"step_shorter_than_budget", "steps_reach_budget"} == WARNINGS
    assert sound({"finite": True, "steps_reach_budget": False})
    assert not sound({"finite": False, "steps_reach_budget": True})
    assert sound({"a": True})
    assert not sound({"a": True, "b": False})


@pytest.mark.parametrize(
    ("images", "total", "points", "expected"),
    [
        # One image is few, however many points it is; half a point of 400 images is two, of 399 less.
        *[(1, 3, 0.5, True), (2, 72, 0.5, False), (2, 400, 0.5, False), (2, 401, 0.5, True)],
        *[(2, 100, 2.0, False), (2, 101, 2.0, True), (0, 5, 0.5, True), (-3, 5, 0.5, True)],
    ],
)
def test_few_images(images, total, points, expected):
    assert few(images, total, points) is expected


@pytest.mark.parametrize(
    ("right", "total", "classes", "holds"),
    [
        # P(X >= 31 | 72, 1/3) = 0.056 and P(X >= 32) = 0.034 (scipy.stats.binom.sf).
        *[(31, 72, 3, False), (32, 72, 3, True), (24, 72, 3, False)],
        # Three images cannot tell much, but all of them right is all there can be.
        *[(3, 3, 3, True), (2, 3, 3, False), (1, 1, 2, True), (0, 1, 2, False)],
        (9000, 10000, 5, True),
    ],
)
def test_a_model_must_be_better_than_guessing(right, total, classes, holds):
    evidence = good_evidence()
    logits = np.zeros((total, classes))
    logits[:, 0] = np.where(np.arange(total) < right, 1.0, -1.0)
    faulty = dataclasses.replace(evidence, logits=logits, labels=np.zeros(total, int))
    assert CHECKS["labels_match_model"].holds(faulty) is holds
