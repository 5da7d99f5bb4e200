"""The Advertorch bridge against results worked out by hand."""

import numpy as np
import pytest
import torch
from attack_modules import Gated, Linear2, OfMean, conv_net, grey_level_images
from hypothesis import given, settings
from hypothesis import strategies as st
from known_attacks import ON_M

from unmask_tf.attacks import advertorch_bridge as bridge
from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.advertorch_entries import advertorch_attack
from unmask_tf.attacks.module import logits_and_gradients, logits_of
from unmask_tf.attacks.protocol import ATTACKS, Norm
from unmask_tf.attacks.threat_models import PRESETS, ThreatModel, threat_model
from unmask_tf.attacks.watched import Watched

WEIGHT = np.array([[[1.0, -2.0, 3.0], [4.0, -5.0, 0.5]]])  # (1, 2, 3)
IMAGE = np.array([[[[0.5, 0.5, 0.5], [0.99, 0.01, 0.5]]]], np.float32)  # (1, 1, 2, 3)


def hand(attack_name, epsilon_255, step, iterations, **more):
    return ThreatModel(attack=attack_name, epsilon_255=epsilon_255, step=step, iterations=iterations, **more)


# Results by hand


@pytest.mark.parametrize("attack_name", ["pgd_linf", "mia_linf"])
@pytest.mark.parametrize("preset", PRESETS)
def test_linf_on_a_linear_model_reaches_the_corner_of_budget_and_box(attack_name, preset):
    threat = threat_model(attack_name, 12.75, preset=preset)  # epsilon 0.05
    raised = attack(Linear2(WEIGHT), IMAGE, np.array([1]), threat, seed=0)
    np.testing.assert_allclose(raised.images[0, 0], [[0.55, 0.45, 0.55], [1.0, 0.0, 0.55]], atol=1e-6)
    lowered = attack(Linear2(WEIGHT), IMAGE, np.array([0]), threat, seed=0)
    np.testing.assert_allclose(lowered.images[0, 0], [[0.45, 0.55, 0.45], [0.94, 0.06, 0.45]], atol=1e-6)
    assert raised.images.dtype == np.float32
    assert raised.predictions.dtype == np.int64


def test_targeted_attacks_descend_where_untargeted_ones_ascend():
    for preset in ("released", "strong"):
        threat = threat_model("pgd_linf", 25.5, preset=preset)
        result = attack(Linear2(WEIGHT), IMAGE, np.array([0]), threat, seed=0, targeted=True)
        np.testing.assert_allclose(result.images[0, 0], [[0.6, 0.4, 0.6], [1.0, 0.0, 0.6]], atol=1e-6)


@pytest.mark.parametrize("attack_name", ["pgd_l2", "mia_l2"])
def test_l2_step_is_the_unit_gradient_times_the_step(attack_name):
    module = Linear2([[[3.0, 4.0, 0.0]]])
    image = np.full((1, 1, 1, 3), 0.5, np.float32)
    one_step = attack(module, image, np.array([1]), hand(attack_name, 255.0, 0.05, 1), seed=0)
    np.testing.assert_allclose(one_step.images[0, 0, 0] - 0.5, [0.03, 0.04, 0.0], atol=1e-6)
    three_steps = attack(module, image, np.array([1]), hand(attack_name, 255.0, 0.05, 3), seed=0)
    np.testing.assert_allclose(three_steps.images[0, 0, 0] - 0.5, [0.09, 0.12, 0.0], atol=1e-6)
    projected = attack(module, image, np.array([1]), hand(attack_name, 25.5, 0.4, 3), seed=0)
    np.testing.assert_allclose(projected.images[0, 0, 0] - 0.5, [0.06, 0.08, 0.0], atol=1e-6)


def test_l2_pgd_shortens_its_step_where_the_gradient_is_below_a_millionth():
    # Advertorch divides by max(|gradient|, 1e-6). Here the gradient is half of (3, 4, 0) * 1e-7, so 0.25 of a step.
    # Losses are summed: two images in a batch change nothing.
    image = np.full((2, 1, 1, 3), 0.5, np.float32)
    small = Linear2([[[3e-7, 4e-7, 0.0]]])
    result = attack(small, image, np.array([1, 1]), hand("pgd_l2", 255.0, 0.4, 1), seed=0)
    np.testing.assert_allclose(result.images[:, 0, 0] - 0.5, [[0.06, 0.08, 0.0]] * 2, atol=1e-6)


def test_l2_pgd_clips_a_long_step_to_the_box_before_it_projects():
    # 2.0 * (0.6, 0.8) leaves the box and is cut to (0.5, 0.5), then shortened to 0.1. Momentum projects first.
    module, image = Linear2([[[3.0, 4.0, 0.0]]]), np.full((1, 1, 1, 3), 0.5, np.float32)
    for name, delta in (("pgd_l2", [np.sqrt(0.005), np.sqrt(0.005), 0.0]), ("mia_l2", [0.06, 0.08, 0.0])):
        result = attack(module, image, np.array([1]), hand(name, 25.5, 2.0, 1), seed=0)
        np.testing.assert_allclose(result.images[0, 0, 0] - 0.5, delta, atol=1e-6)


def test_momentum_uses_the_decay_of_the_threat_model():
    # The gradient's sign flips once the mean passes 0.55. With decay 1 the two unit gradients cancel (0.5 -> 0.6 and
    # stay), with decay 0 the second step goes back.
    peak = OfMean(lambda mean: torch.stack([torch.zeros_like(mean), (mean - 0.55).abs()], dim=1))
    image = np.full((1, 1, 1, 3), 0.5, np.float32)
    for decay, value in ((1.0, 0.6), (0.0, 0.5)):
        threat = hand("mia_linf", 51.0, 0.1, 2, decay=decay)
        result = attack(peak, image, np.array([1]), threat, seed=0)
        np.testing.assert_allclose(result.images, value, atol=1e-6)


def test_channels_reach_the_module_in_nchw_order():
    red_only = np.zeros((2, 2, 3))
    red_only[..., 0] = 1.0
    image = np.full((1, 2, 2, 3), 0.5, np.float32)
    result = attack(Linear2(red_only), image, np.array([1]), threat_model("mia_linf", 51), seed=0)
    np.testing.assert_allclose(result.images[..., 0], 0.7, atol=1e-6)
    np.testing.assert_array_equal(result.images[..., 1:], 0.5)


def test_predictions_are_those_of_the_returned_images():
    images, labels = grey_level_images(5), np.array([0, 1, 2, 0, 1])
    module = conv_net()
    for name in ON_M:
        result = attack(module, images, labels, threat_model(name, 64, iterations=3), seed=0)
        assert np.array_equal(result.predictions, logits_of(module, result.images).argmax(1))


def test_a_budget_of_zero_returns_the_images_unchanged():
    images, labels = grey_level_images(3), np.array([0, 1, 2])
    for name in ON_M:
        result = attack(conv_net(), images, labels, threat_model(name, 0), seed=0)
        assert np.array_equal(result.images, images)
        assert (result.nan.sum(), result.iterations.max()) == (0, 0)


def test_one_entry_in_the_table_is_enough_to_run_another_advertorch_attack(monkeypatch):
    monkeypatch.setitem(ATTACKS, "bim_linf", advertorch_attack("LinfBasicIterativeAttack", Norm.LINF))
    result = attack(Linear2(WEIGHT), IMAGE, np.array([1]), threat_model("bim_linf", 25.5, preset="strong"), seed=0)
    np.testing.assert_allclose(result.images[0, 0], [[0.6, 0.4, 0.6], [1.0, 0.0, 0.6]], atol=1e-6)


# Best iterate and restarts


def test_keep_best_returns_the_highest_loss_and_not_the_last_iterate():
    # Label 0's loss is highest at 0.55. From 0.5 the steps of 0.04 visit 0.54 (off by 0.01), then 0.58 (off by 0.03).
    peak = OfMean(lambda mean: torch.stack([(mean - 0.55).abs(), torch.zeros_like(mean)], dim=1))
    image = np.full((1, 1, 1, 3), 0.5, np.float32)
    for keep_best, value in ((False, 0.58), (True, 0.54)):
        threat = hand("pgd_linf", 51.0, 0.04, 2, keep_best=keep_best)
        np.testing.assert_allclose(attack(peak, image, np.array([0]), threat, seed=0).images, value, atol=1e-6)


def test_keep_best_prefers_a_fooled_iterate_to_a_higher_loss():
    # Logits of the classes 1 and 2 beside class 0's zero, at means 0.5, 0.6, 0.7: (-2, -9), (0.1, -2), (-0.02, -0.03).
    # Only 0.6 is fooled; its loss is log(1 + 1.105 + 0.135) = 0.81, that of 0.7 log(1 + 0.980 + 0.970) = 1.08.
    def logits(mean):
        first = -2.0 + 21.0 * (mean - 0.5) - 22.2 * torch.relu(mean - 0.6)
        second = -9.0 + 70.0 * (mean - 0.5) - 50.3 * torch.relu(mean - 0.6)
        return torch.stack([torch.zeros_like(mean), first, second], dim=1)

    image = np.full((1, 1, 1, 3), 0.5, np.float32)
    for keep_best, value, prediction in ((False, 0.7, 0), (True, 0.6, 1)):
        threat = hand("pgd_linf", 76.5, 0.1, 2, keep_best=keep_best)
        result = attack(OfMean(logits), image, np.array([0]), threat, seed=0)
        np.testing.assert_allclose(result.images, value, atol=1e-6)
        assert result.predictions.tolist() == [prediction]


def test_keep_best_is_never_worse_than_the_clean_image():
    valley = OfMean(lambda mean: torch.stack([-10 * (mean - 0.5).abs(), torch.zeros_like(mean)], dim=1))
    image = np.full((1, 1, 1, 3), 0.5, np.float32)
    for random_start in (False, True):
        threat = hand("pgd_linf", 51, 0.1, 3, keep_best=True, random_start=random_start)
        np.testing.assert_array_equal(attack(valley, image, np.array([1]), threat, seed=0).images, image)


def test_keep_best_also_considers_the_last_iterate():
    threat = hand("pgd_linf", 25.5, 0.05, 1, keep_best=True)
    result = attack(Linear2(WEIGHT), IMAGE, np.array([1]), threat, seed=0)
    np.testing.assert_allclose(result.images[0, 0, 0], [0.55, 0.45, 0.55], atol=1e-6)


def test_restarts_begin_elsewhere_and_the_best_of_them_is_kept():
    # Without steps an attack is its random start alone.
    images, labels = grey_level_images(4), np.array([0, 1, 2, 0])
    module = conv_net()

    def loss(restarts):
        threat = hand("pgd_linf", 64, 0.0, 1, random_start=True, restarts=restarts, keep_best=True)
        result = attack(module, images, labels, threat, seed=3)
        logits = torch.from_numpy(logits_of(module, result.images))
        expected = np.where(result.fooled, result.iterations, restarts)
        assert result.iterations.tolist() == expected.tolist()
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none").numpy()

    assert (loss(6) >= loss(1)).all()
    assert (loss(6) > loss(1)).any()


def test_a_restart_attacks_only_what_is_not_fooled_yet():
    # Label 1 is right below a mean of 0.5: the first image can cross it, the others cannot.
    module = OfMean(lambda mean: torch.stack([10 * (mean - 0.5), torch.zeros_like(mean)], dim=1))
    images = np.array([0.45, 0.2, 0.1], np.float32)[:, None, None, None] * np.ones((1, 1, 1, 3), np.float32)
    threat = hand("pgd_linf", 25.5, 0.05, 3, random_start=True, restarts=4, keep_best=True)
    result = attack(module, images, np.ones(3, int), threat, seed=0)
    assert result.fooled.tolist() == [True, False, False]
    assert result.iterations.tolist() == [3, 12, 12]
    assert result.predictions.tolist() == [0, 1, 1]
    assert result.images[0].mean() > 0.5


def test_the_peak_loss_is_that_of_the_best_iterate_whichever_is_returned():
    # As above: the iterates 0.5, 0.6 and 0.7 have losses 0.13, 0.81 and 1.08 and only 0.6 is fooled.
    def logits(mean):
        first = -2.0 + 21.0 * (mean - 0.5) - 22.2 * torch.relu(mean - 0.6)
        second = -9.0 + 70.0 * (mean - 0.5) - 50.3 * torch.relu(mean - 0.6)
        return torch.stack([torch.zeros_like(mean), first, second], dim=1)

    image = np.full((1, 1, 1, 3), 0.5, np.float32)
    for keep_best in (False, True):
        threat = hand("pgd_linf", 76.5, 0.1, 2, keep_best=keep_best)
        result = attack(OfMean(logits), image, np.array([0]), threat, seed=0)
        assert result.fooled.tolist() == [True]
        np.testing.assert_allclose(result.peak_loss, np.log(1 + np.exp(0.1) + np.exp(-2.0)), atol=1e-4)
    towards = attack(OfMean(logits), image, np.array([1]), hand("pgd_linf", 76.5, 0.1, 2), seed=0, targeted=True)
    assert towards.fooled.tolist() == [True]
    np.testing.assert_allclose(towards.peak_loss, -(np.log(1 + np.exp(0.1) + np.exp(-2.0)) - 0.1), atol=1e-4)


# Seeds and isolation


@pytest.mark.parametrize("preset", ["released", "strong"])
def test_the_seed_alone_decides_and_the_global_random_state_is_left_alone(preset):
    images, labels = grey_level_images(5), np.array([0, 1, 2, 0, 1])
    threat = threat_model("pgd_l2", 300, preset=preset, iterations=2)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = attack(conv_net(), images, labels, threat, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = attack(conv_net(), images, labels, threat, seed=7)
    other = attack(conv_net(), images, labels, threat, seed=8)
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


@pytest.mark.parametrize("fails", [False, True])
def test_training_flags_gradients_and_statistics_are_restored(fails):
    module = conv_net()
    module.train()
    module[1].eval()
    module[0].bias.requires_grad_(False)
    module[0].weight.grad = torch.ones_like(module[0].weight)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    labels = np.array([0, 5 if fails else 1])
    threat = threat_model("mia_l2", 300, iterations=2)
    if fails:
        with pytest.raises(ValueError):
            attack(module, grey_level_images(2), labels, threat, seed=0)
    else:
        attack(module, grey_level_images(2), labels, threat, seed=0)
    assert [child.training for child in module] == [True, False] + [True] * 7
    assert module.training
    assert {name for name, p in module.named_parameters() if not p.requires_grad} == {"0.bias"}
    assert torch.equal(module[0].weight.grad, torch.ones_like(module[0].weight))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_dropout_and_batch_statistics_play_no_part():
    images, labels = grey_level_images(4), np.array([0, 1, 2, 0])
    results = []
    for training in (True, False):
        module = conv_net()
        module.train(training)
        results.append(attack(module, images, labels, threat_model("mia_linf", 8, iterations=2), seed=0).images)
    assert np.array_equal(*results)


# NaN in Advertorch's L2 momentum attack

GATED = Gated(WEIGHT)
CLOSED = np.array([[[0.5, 0.1, 0.5], [0.6, 0.7, 0.5]]], np.float32)  # one value behind the gate: gradient exactly zero
OPEN = np.array([[[0.5, 0.4, 0.5], [0.6, 0.7, 0.5]]], np.float32)


def _advertorch_l2_momentum(module, images, labels, epsilon, step, iterations):
    adversary = bridge.advertorch_attacks().L2MomentumIterativeAttack(
        module, eps=epsilon, eps_iter=step, nb_iter=iterations, decay_factor=1.0
    )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return adversary.perturb(pixels, torch.from_numpy(labels)).permute(0, 2, 3, 1).numpy()


def test_an_image_that_advertorch_turns_into_nan_is_attacked_again_and_the_others_keep_its_result():
    images, labels = np.stack([CLOSED, OPEN]), np.array([1, 1])
    theirs = _advertorch_l2_momentum(GATED, images, labels, 0.1, 2.0, 3)
    assert np.isnan(theirs[0]).all()
    assert np.isfinite(theirs[1]).all()
    result = attack(GATED, images, labels, hand("mia_l2", 25.5, 2.0, 3), seed=0)
    assert result.nan.sum() == 1
    assert np.array_equal(result.images[1], theirs[1])
    # By hand: along the weights without the closed gate, (1, 0, 3, 4, -5, 0.5) / |.| = sqrt(51.25), times 0.1.
    expected = np.array([[[1.0, 0.0, 3.0], [4.0, -5.0, 0.5]]]) * 0.1 / np.sqrt(51.25)
    np.testing.assert_allclose(result.images[0] - CLOSED, expected, atol=1e-6)
    # The image that was attacked again had its first steps in vain.
    assert result.iterations.tolist() == [6, 3]
    downwards = attack(GATED, images, labels, hand("mia_l2", 25.5, 2.0, 3), seed=0, targeted=True)
    np.testing.assert_allclose(downwards.images[0] - CLOSED, -expected, atol=1e-6)


def test_the_repair_is_advertorchs_own_update_wherever_that_is_finite():
    images, labels = grey_level_images(4, seed=3), np.array([0, 1, 2, 0])
    module = conv_net().eval()
    theirs = _advertorch_l2_momentum(module, images, labels, 0.5, 0.2, 6)
    assert np.isfinite(theirs).all()
    watched = Watched(module, torch.from_numpy(labels), False, False)
    watched.rows = torch.arange(4)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    nothing, threat = torch.zeros_like(pixels), hand("mia_l2", 127.5, 0.2, 6)
    ours = bridge._momentum_run(watched, pixels, threat, nothing, nothing)[0].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert np.abs(ours - images).max() > 0.01


@pytest.mark.parametrize("keep_best", [False, True])
def test_an_image_without_any_gradient_stays_as_it_is(keep_best):
    images, labels = np.stack([np.full_like(OPEN, 0.1), OPEN]), np.array([1, 1])
    assert np.isnan(_advertorch_l2_momentum(GATED, images, labels, 0.1, 2.0, 2)[0]).all()
    result = attack(GATED, images, labels, hand("mia_l2", 25.5, 2.0, 2, keep_best=keep_best), seed=0)
    np.testing.assert_array_equal(result.images[0], images[0])
    assert np.abs(result.images[1] - images[1]).max() > 0.05
    assert result.nan.sum() == 1


def test_a_repaired_image_also_keeps_its_best_iterate():
    images, labels = np.stack([OPEN, CLOSED]), np.array([1, 1])
    last = attack(GATED, images, labels, hand("mia_l2", 25.5, 2.0, 3), seed=0)
    best = attack(GATED, images, labels, hand("mia_l2", 25.5, 2.0, 3, keep_best=True), seed=0)
    np.testing.assert_allclose(best.images, last.images, atol=1e-6)
    assert best.nan.sum() == 1


def test_a_nan_iterate_is_never_taken_for_the_best():
    # Class 1 is right by a wide margin, before and after the attack; the NaN iterate's argmax would be class 0.
    module = Gated(-10 * WEIGHT)
    assert logits_of(module, CLOSED[None]).argmax() == 1
    result = attack(module, CLOSED[None], np.array([1]), hand("mia_l2", 2.55, 2.0, 3, keep_best=True), seed=0)
    assert result.nan.sum() == 1
    assert result.predictions.tolist() == [1]
    expected = np.array([[[-1.0, 0.0, -3.0], [-4.0, 5.0, -0.5]]]) * 0.01 / np.sqrt(51.25)
    np.testing.assert_allclose(result.images[0] - CLOSED, expected, atol=1e-6)


# Gradients


def test_logits_and_gradients_are_the_analytic_ones():
    # p1 = 1 / (1 + e^s); the gradient of label 1's loss by the image is (1 - p1) w, that of label 0's -p1 w.
    image = np.full((2, 1, 2, 3), 0.5, np.float32)
    logits, gradients = logits_and_gradients(Linear2(WEIGHT), image, np.array([1, 0]), batch_size=1)
    score = 0.75  # half of 1 - 2 + 3 + 4 - 5 + 0.5
    other = 1.0 / (1.0 + np.exp(score))
    np.testing.assert_allclose(logits, [[score, 0.0]] * 2, atol=1e-6)
    np.testing.assert_allclose(gradients, np.stack([(1 - other) * WEIGHT, -other * WEIGHT]), atol=1e-6)


# Property


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    attack_name=st.sampled_from(sorted(ON_M)),
    preset=st.sampled_from(sorted(PRESETS)),
    epsilon_255=st.one_of(st.sampled_from([0, 1, 4, 8, 16, 300, 600]), st.floats(0, 700)),
    seed=st.integers(0, 2**32),
    style=st.sampled_from(["grey levels", "any floats", "black and white"]),
)
def test_results_are_finite_within_budget_and_box(attack_name, preset, epsilon_255, seed, style):
    generator = np.random.default_rng(seed)
    images = {
        "grey levels": grey_level_images(3, 4, seed),
        "any floats": generator.random((3, 4, 4, 3), np.float32),
        "black and white": generator.integers(0, 2, (3, 4, 4, 3)).astype(np.float32),
    }[style]
    threat = threat_model(attack_name, epsilon_255, preset=preset, iterations=3)
    result = attack(conv_net(seed=seed % 5), images, np.array([0, 1, 2]), threat, seed=seed)
    assert np.isfinite(result.images).all()
    assert result.images.min() >= 0.0
    assert result.images.max() <= 1.0
    delta = result.images.astype(float) - images
    if threat.norm is Norm.LINF:
        assert np.abs(delta).max() <= threat.epsilon + 3e-8
    else:
        assert np.sqrt((delta**2).sum(axis=(1, 2, 3))).max() <= threat.epsilon + 2e-7
