"""Steps of M's training: the optimizers, Keras' and torch's alike, and the learning rate's schedule."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import torch
from toy_training import CONFIG, assert_same_bits, toy_images, toy_model

from unmask_tf.classifiers import train as train_module
from unmask_tf.classifiers.steps import CoupledSGD, KerasSteps
from unmask_tf.classifiers.torch_steps import TorchSteps
from unmask_tf.classifiers.train import train_classifier


def test_the_optimizer_takes_the_steps_of_pytorchs_sgd():
    start = np.array([1.0, -2.0, 3.0], np.float32)
    gradients = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    rates = [0.1, 0.1, 0.01, 0.05]  # the order of rate and velocity shows only when the rate changes
    weight = torch.tensor(start, requires_grad=True)
    reference = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.02)
    variable = keras.Variable(start)
    optimizer = CoupledSGD(0.1, 0.9, 0.02)
    optimizer.build([variable])
    for rate, gradient in zip(rates, gradients, strict=True):
        reference.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(gradient)
        reference.step()
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), weight.detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("frozen", [False, True])
def test_steps_in_torch_are_those_of_keras(optimizer, frozen):
    """Weights and batch statistics after steps of changing rates; a layer that is not trainable stays."""
    config = replace(CONFIG, optimizer=optimizer, weight_decay=0.02)
    data = toy_images(40)
    images, labels = data.images.astype(np.float32) / np.float32(255), data.labels
    found = []
    for kind in (KerasSteps, TorchSteps):
        model = toy_model(seed=2)
        model.layers[4].rate = 0.0  # the random numbers of dropout are each backend's own
        model.layers[1].trainable = not frozen
        start = model.get_weights()
        steps = kind(model, config, 0.01)
        losses = []
        for number, rate in enumerate((0.01, 0.01, 0.05, 0.02)):
            steps.learning_rate = rate
            part = slice(10 * number, 10 * number + 10)
            losses.append(steps.step(images[part], labels[part]))
        steps.update_model()
        found.append((losses, model.get_weights()))
    (keras_losses, by_keras), (torch_losses, by_torch) = found
    np.testing.assert_allclose(torch_losses, keras_losses, rtol=1e-5)
    for index, (ours, theirs) in enumerate(zip(by_torch, by_keras, strict=True)):
        if index in (1, 4) and optimizer == "adam" and not frozen:
            continue  # a bias before a normalisation, and the mean there: a gradient of rounding, which Adam blows up
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
    moved = [not np.array_equal(a, b) for a, b in zip(by_torch, start, strict=True)]
    # Kernel, bias; scale, offset, mean, variance of the normalisation; (dropout's seed;) kernel, bias.
    assert moved[:6] == [True, True, *[not frozen] * 4] and moved[-2:] == [True, True]


def test_training_in_torch_learns_and_its_dropout_is_seeded(tmp_path):
    config = replace(CONFIG, epochs=8, trainer="torch")
    weights = []
    for folder, seed in (("a", 11), ("b", 11), ("c", 12)):
        model = toy_model()
        torch.manual_seed(len(weights))  # must not matter
        history = train_classifier(
            model, toy_images(40), toy_images(seed=1), replace(config, seed=seed), tmp_path / folder
        )
        weights.append(model.get_weights())
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert_same_bits(weights[0], weights[1])
    assert not np.array_equal(weights[0][0], weights[2][0])
    assert not torch.are_deterministic_algorithms_enabled()


def test_one_decayed_step_without_momentum_worked_out_by_hand():
    variable = keras.Variable([2.0])
    optimizer = CoupledSGD(0.1, 0.0, 0.5)
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor([3.0])], [variable])
    assert float(keras.ops.convert_to_numpy(variable)[0]) == pytest.approx(2.0 - 0.1 * (3.0 + 0.5 * 2.0))


def test_the_cosine_schedule_rises_over_a_tenth_and_falls_to_near_zero_and_constant_stays(tmp_path, monkeypatch):
    rates = []
    original = train_module._step

    def step(steps, *arguments):
        rates.append(steps.learning_rate)
        return original(steps, *arguments)

    monkeypatch.setattr(train_module, "_step", step)
    call = (toy_images(16), toy_images(8, seed=1))
    cosine = replace(CONFIG, epochs=10, schedule="cosine", learning_rate=0.1)
    train_classifier(toy_model(), *call, cosine, tmp_path / "a")
    # 20 steps: the rise takes 2, so that the first has half the rate; step 10 is the middle of the cosine.
    expected = [0.05 * (1.0 + np.cos(np.pi * step / 20)) * (0.5 if step == 0 else 1.0) for step in range(20)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert rates[0] == pytest.approx(0.05) and rates[10] == pytest.approx(0.05) and rates[19] < 0.001
    rates.clear()
    train_classifier(toy_model(), *call, replace(cosine, epochs=2), tmp_path / "b", schedule="constant")
    np.testing.assert_allclose(rates, [0.1] * 4, rtol=1e-6)
