"""Adversarial training on a model of a few hundred weights."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from unmask_tf.attacks import adversarial_training
from unmask_tf.attacks.adversarial_training import adversarial_train, make_perturb, training_threat
from unmask_tf.classifiers.settings import RECIPES, AdversarialTrainingConfig, ClassifierConfig, with_recipe
from unmask_tf.classifiers.train import train_classifier
from unmask_tf.data.class_images import ImageSet
from unmask_tf.errors import InputError

SIZE = 8
CLASSIFIER = ClassifierConfig(input_size=SIZE, weights="random", batch_size=8, learning_rate=0.5, seed=3)
GENTLE = AdversarialTrainingConfig(step=1 / 255, iterations=3, epochs=3, learning_rate=0.1)


def small_model(seed=0):
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(pixels)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, keras.layers.Dense(2)(x), name="small")


def bright_and_dark(count, seed):
    """Class 0 is dark, class 1 bright, by 20 levels: far more than the budget of 4."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = generator.integers(100, 130, (count, SIZE, SIZE, 3)) + 20 * labels[:, None, None, None]
    names = tuple(f"{index}.png" for index in range(count))
    return ImageSet(images=images.astype(np.uint8), labels=labels.astype(np.int64), files=names, classes=("d", "b"))


def pixels(image_set):
    return image_set.images.astype(np.float32) / np.float32(255.0)


def test_the_released_settings_are_four_levels_seven_iterations_and_the_unscaled_step():
    threat = training_threat(AdversarialTrainingConfig())
    assert (threat.attack, threat.epsilon_255, threat.iterations, threat.step) == ("pgd_linf", 4.0, 7, 2.0)
    assert threat.random_start
    assert not threat.keep_best


def test_the_recipes_differ_in_their_step_alone():
    assert RECIPES["released"].step == 2.0
    assert RECIPES["madry"].step == pytest.approx(2 / 255)
    assert dataclasses.replace(RECIPES["madry"], step=2.0) == RECIPES["released"]


def test_a_recipe_changes_the_attack_and_leaves_the_profiles_length_start_and_rate():
    mine = AdversarialTrainingConfig(epsilon_255=9, step=1.0, iterations=2, epochs=4, from_benign=True, learning_rate=7)
    expected = dataclasses.replace(mine, epsilon_255=16.0, step=2 / 255, iterations=7)
    assert with_recipe(mine, "madry", 16) == expected
    assert with_recipe(mine, "madry").epsilon_255 == 4.0
    with pytest.raises(InputError, match="'free'.*released, madry"):
        with_recipe(mine, "free")


@pytest.mark.parametrize(
    ("change", "error"),
    [({"epsilon_255": -4.0}, InputError), ({"iterations": 0}, ValueError), ({"step": float("nan")}, ValueError)],
)
def test_bad_settings_are_refused_before_any_training(change, error):
    with pytest.raises(error):
        make_perturb(dataclasses.replace(AdversarialTrainingConfig(), **change))


def test_the_released_step_puts_every_value_on_the_edge_of_the_budget():
    data = bright_and_dark(4, 0)
    attacked = make_perturb(AdversarialTrainingConfig())(small_model())(pixels(data), data.labels)
    assert attacked.dtype == np.float32
    moved = np.abs(attacked.astype(float) - pixels(data))
    # Not where the gradient is exactly zero: there the random start remains.
    assert np.mean(np.isclose(moved, 4 / 255, atol=1e-6)) > 0.9
    assert moved.max() <= 4 / 255 + 3e-8


def test_the_attack_raises_the_models_loss():
    data, model = bright_and_dark(16, 0), small_model()
    attacked = make_perturb(GENTLE)(model)(pixels(data), data.labels)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(loss(data.labels, model(attacked))) > float(loss(data.labels, model(pixels(data)))) + 1e-4


def test_the_attack_follows_the_weights_of_the_model_in_training():
    data, model = bright_and_dark(8, 0), small_model()
    perturb = make_perturb(AdversarialTrainingConfig())(model)
    before = perturb(pixels(data), data.labels)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([-kernel, bias])
    after = perturb(pixels(data), data.labels)
    fresh = make_perturb(AdversarialTrainingConfig())(model)(pixels(data), data.labels)
    assert np.array_equal(after, fresh)
    # The classes have changed places, so each value is now pushed the other way (but for a few at a ReLU's kink).
    on_edge = np.isclose(np.abs(before - pixels(data)), 4 / 255, atol=1e-6)
    turned = np.isclose(after - pixels(data), pixels(data) - before, atol=1e-6)[on_edge]
    assert turned.mean() > 0.98


def test_the_random_start_depends_on_seed_batch_and_weights_alone():
    data, model = bright_and_dark(8, 0), small_model()
    no_step = AdversarialTrainingConfig(step=0.0, iterations=1)

    def start(seed=1, part=slice(0, 4)):
        return make_perturb(no_step, seed=seed)(model)(pixels(data)[part], data.labels[part]) - pixels(data)[part]

    first = start()
    assert np.array_equal(first, start())
    assert not np.array_equal(first, start(seed=2))
    assert not np.allclose(first, start(part=slice(4, 8)), atol=1e-4)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel, bias + 0.1])
    assert not np.array_equal(first, start())


@pytest.mark.parametrize("trainer", ["keras", "torch"])
def test_training_runs_the_configured_attack_and_learns(tmp_path, monkeypatch, trainer):
    threats = []
    original = adversarial_training.attack

    def watched(module, images, labels, threat, **arguments):
        threats.append(threat)
        return original(module, images, labels, threat, **arguments)

    monkeypatch.setattr(adversarial_training, "attack", watched)
    config = dataclasses.replace(GENTLE, epochs=6)
    history = adversarial_train(
        small_model(),
        bright_and_dark(32, 0),
        bright_and_dark(16, 1),
        dataclasses.replace(CLASSIFIER, trainer=trainer),
        config,
        tmp_path,
    )
    assert len(history) == 6
    assert history[-1]["loss"] < history[0]["loss"]
    assert all("val_attacked_accuracy" in record for record in history)
    assert set(threats) == {training_threat(config)}
    assert len(threats) == 6 * (4 + 2)  # per epoch 4 training and 2 validation batches


def test_an_interrupted_training_resumes_to_bit_equal_weights(tmp_path, monkeypatch):
    train, val = bright_and_dark(16, 0), bright_and_dark(8, 1)

    def run(workdir):
        model = small_model()
        history = adversarial_train(model, train, val, CLASSIFIER, GENTLE, tmp_path / workdir)
        return history, model.get_weights()

    history, weights = run("whole")
    calls = []
    original = adversarial_training.attack

    def failing(*arguments, **keywords):
        calls.append(None)
        if len(calls) == 5:  # 2 training batches and 1 validation batch per epoch: in the second epoch
            raise KeyboardInterrupt
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(adversarial_training, "attack", failing)
        with pytest.raises(KeyboardInterrupt):
            run("interrupted")
    resumed_history, resumed_weights = run("interrupted")
    assert resumed_history == history
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(resumed_weights, weights, strict=True))


def test_the_attacks_settings_reach_the_training_and_tell_checkpoints_apart(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(adversarial_training, "train_classifier", lambda *_, **keywords: calls.append(keywords))
    configs = [GENTLE, dataclasses.replace(GENTLE, epsilon_255=8.0), dataclasses.replace(GENTLE, step=2.0)]
    for config in configs:
        adversarial_train(None, None, None, CLASSIFIER, config, tmp_path)
    assert [(call["epochs"], call["learning_rate"]) for call in calls] == [(3, 0.1)] * 3
    assert len({call["describe"] for call in calls}) == 3


def test_the_epoch_kept_has_the_best_mean_of_benign_and_attacked_accuracy(tmp_path, monkeypatch):
    """By hand: the benign accuracy is highest in the first epoch, the attacked one in the third, their mean in
    the second."""
    accuracies, weights = iter([1.0, 0.0, 0.9, 0.8, 0.5, 1.0]), []  # benign, attacked; epoch by epoch

    def fake(model, *_):
        weights.append(model.get_weights())
        return next(accuracies)

    monkeypatch.setattr("unmask_tf.classifiers.train.accuracy", fake)
    model, data = small_model(), (bright_and_dark(16, 0), bright_and_dark(4, 1))
    unchanged = lambda model: lambda images, labels: images  # noqa: E731
    history = train_classifier(model, *data, CLASSIFIER, tmp_path, perturb=unchanged, epochs=3)
    assert [row["score"] for row in history] == pytest.approx([0.5, 0.85, 0.75])
    assert [row["val_attacked_accuracy"] for row in history] == [0.0, 0.8, 1.0]
    first, second, third = weights[::2]
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), second, strict=True))
    assert not any(np.array_equal(second[0], other[0]) for other in (first, third))


def fake_accuracies(monkeypatch, values):
    """Validation accuracies: benign, attacked; epoch by epoch."""
    given = iter(values)
    monkeypatch.setattr("unmask_tf.classifiers.train.accuracy", lambda *_: next(given))


PATIENT = dataclasses.replace(GENTLE, epochs=8, patience=2)
DATA = bright_and_dark(16, 0), bright_and_dark(4, 1)
# The score (their mean) rises in epochs 1 and 2, the attacked accuracy also in epoch 3; epochs 4 and 5 bring no gain.
CONVERGING = [0.9, 0.2, 0.9, 0.3, 0.7, 0.4, 0.7, 0.4, 0.8, 0.3]


def test_training_ends_when_neither_the_score_nor_the_attacked_accuracy_rises(tmp_path, monkeypatch):
    fake_accuracies(monkeypatch, CONVERGING)
    shares = []
    history = adversarial_train(small_model(), *DATA, CLASSIFIER, PATIENT, tmp_path, progress=shares.append)
    assert [row["score"] for row in history] == pytest.approx([0.55, 0.6, 0.55, 0.55, 0.55])
    assert [row.get("stopped") for row in history] == [None] * 4 + ["converged"]
    assert shares[-2:] == pytest.approx([5 / 8, 1.0])


def test_without_patience_and_while_it_gains_all_epochs_are_run(tmp_path, monkeypatch):
    fake_accuracies(monkeypatch, [*CONVERGING, *[0.1] * 6])
    unlimited = dataclasses.replace(PATIENT, patience=None)
    history = adversarial_train(small_model(), *DATA, CLASSIFIER, unlimited, tmp_path / "a")
    assert [row.get("stopped") for row in history] == [None] * 7 + ["epochs"]
    fake_accuracies(monkeypatch, [0.1 * step for step in range(1, 7)])
    gaining = dataclasses.replace(PATIENT, epochs=3, patience=1)
    history = adversarial_train(small_model(), *DATA, CLASSIFIER, gaining, tmp_path / "b")
    assert [row.get("stopped") for row in history] == [None, None, "epochs"]


def test_a_training_that_has_converged_is_not_taken_up_again(tmp_path, monkeypatch):
    fake_accuracies(monkeypatch, CONVERGING)
    history = adversarial_train(small_model(), *DATA, CLASSIFIER, PATIENT, tmp_path)
    model = small_model()
    monkeypatch.setattr(adversarial_training, "attack", None)  # any attack would fail
    assert adversarial_train(model, *DATA, CLASSIFIER, PATIENT, tmp_path) == history


def test_each_epoch_and_each_batch_are_reported(tmp_path):
    rows, shares = [], []
    history = adversarial_train(
        small_model(),
        *(bright_and_dark(16, 0), bright_and_dark(8, 1), CLASSIFIER, GENTLE, tmp_path),
        on_epoch=rows.append,
        progress=shares.append,
    )
    assert rows == [history[:1], history[:2], history[:3]]
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])


def start(workdir, file, moment, trainer):
    """Starts killed_training.py, in a process of its own as every user's training is."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1])}
    command = [sys.executable, here / "killed_training.py", workdir, file, moment, trainer]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when_paused(workdir, moment, trainer):
    """Runs killed_training.py until it pauses, and kills it with SIGKILL."""
    paused = workdir.parent / f"paused-{moment}"
    process = start(workdir, paused, moment, trainer)
    patience = time.monotonic() + 600
    try:
        while not paused.exists():
            assert process.poll() is None, "the training ended before it was to be killed"
            assert time.monotonic() < patience, "the training did not reach the moment"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def outcome(workdir, trainer):
    """What killed_training.py leaves when it is not killed."""
    file = workdir.parent / f"{workdir.name}.npz"
    assert start(workdir, file, "never", trainer).wait() == 0
    with np.load(file) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("trainer", ["keras", "torch"])
def test_a_training_killed_between_epochs_and_within_one_resumes_to_bit_equal_weights(tmp_path, trainer):
    whole = outcome(tmp_path / "whole", trainer)
    kill_when_paused(tmp_path / "killed", "between", trainer)
    kill_when_paused(tmp_path / "killed", "batch", trainer)
    resumed = outcome(tmp_path / "killed", trainer)
    assert (whole.pop("attacks"), resumed.pop("attacks")) == (3 * 3, 2 * 3), "the first epoch was trained again"
    assert set(resumed) == set(whole) and len(whole) > 2
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)
