"""Training of M: it learns, keeps its best epoch, and a killed run ends with the same bits."""

import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import torch

from unmask_tf.classifiers import train as train_module
from unmask_tf.classifiers.settings import ClassifierConfig
from unmask_tf.classifiers.steps import CoupledSGD, KerasSteps
from unmask_tf.classifiers.torch_steps import TorchSteps
from unmask_tf.classifiers.train import accuracy, predict_logits, train_classifier
from unmask_tf.data.class_images import ImageSet
from unmask_tf.errors import InputError

CONFIG = ClassifierConfig(input_size=8, weights="random", epochs=3, batch_size=8, learning_rate=0.05, seed=11)


def toy_images(count=20, seed=0):
    """Class 0 is dark, class 1 bright; noise on both. 20 images make an incomplete last batch of 8."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 8, 8, 3)) + 150 * labels[:, None, None, None]
    files = tuple(f"{i}.png" for i in range(count))
    return ImageSet(images.astype(np.uint8), labels.astype(np.int64), files, ("dark", "light"))


def toy_model(seed=0):
    """Convolution, normalisation and dropout: weights, statistics and a random state to restore."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, strides=2),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3, seed=5),
            layers.Dense(2),
        ],
        name="toy",
    )


def assert_same_bits(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


class Stop(Exception):
    """Stands for a kill where a real one is not needed."""


def stop_after(epochs, monkeypatch):
    """Makes the training stop right after that many epochs' checkpoints."""
    original, written = train_module.write_checkpoint, []

    def write(*arguments):
        original(*arguments)
        written.append(arguments)
        if len(written) == epochs:
            raise Stop

    monkeypatch.setattr(train_module, "write_checkpoint", write)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """History and weights of a training that nothing interrupts."""
    model = toy_model()
    history = train_classifier(model, toy_images(), toy_images(seed=1), CONFIG, tmp_path_factory.mktemp("whole"))
    return history, model.get_weights()


def test_it_learns_a_separable_set(tmp_path):
    model = toy_model()
    history = train_classifier(model, toy_images(40), toy_images(seed=1), replace(CONFIG, epochs=8), tmp_path)
    assert [record["epoch"] for record in history] == list(range(1, 9))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert accuracy(model, toy_images(seed=2).images, toy_images(seed=2).labels) >= 0.95


def test_the_same_call_gives_the_same_bits_and_another_seed_does_not(undisturbed, tmp_path):
    model = toy_model()
    history = train_classifier(model, toy_images(), toy_images(seed=1), CONFIG, tmp_path / "a")
    assert history == undisturbed[0]
    assert_same_bits(model.get_weights(), undisturbed[1])
    other = toy_model()
    train_classifier(other, toy_images(), toy_images(seed=1), replace(CONFIG, seed=12), tmp_path / "b")
    assert not np.array_equal(other.get_weights()[0], undisturbed[1][0])


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"optimizer": "adam", "trainer": "torch"},
        {"optimizer": "sgd", "trainer": "torch"},
        {"optimizer": "sgd", "momentum": 0.0, "trainer": "torch", "freeze_batch_norm": True},
    ],
)
def test_an_interrupted_training_with_a_cosine_ends_with_the_same_bits(tmp_path, monkeypatch, settings):
    call = (toy_images(), toy_images(seed=1), replace(CONFIG, schedule="cosine", **settings))
    expected = toy_model()
    train_classifier(expected, *call, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(1, patched)
        with pytest.raises(Stop):
            train_classifier(toy_model(), *call, tmp_path / "work")
    model = toy_model()
    train_classifier(model, *call, tmp_path / "work")
    assert_same_bits(model.get_weights(), expected.get_weights())


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_interrupted_training_ends_with_the_same_bits(undisturbed, tmp_path, monkeypatch, epochs):
    with monkeypatch.context() as patched:
        stop_after(epochs, patched)
        with pytest.raises(Stop):
            train_classifier(toy_model(), toy_images(), toy_images(seed=1), CONFIG, tmp_path)
    model = toy_model()
    steps = []
    original = model.train_on_batch
    model.train_on_batch = lambda *batch: steps.append(1) or original(*batch)
    history = train_classifier(model, toy_images(), toy_images(seed=1), CONFIG, tmp_path)
    assert len(steps) == (3 - epochs) * 3
    assert history == undisturbed[0]
    assert_same_bits(model.get_weights(), undisturbed[1])


def test_a_finished_training_is_not_repeated(undisturbed, tmp_path):
    train_classifier(toy_model(), toy_images(), toy_images(seed=1), CONFIG, tmp_path)
    model = toy_model()
    model.train_on_batch = None  # any step would fail
    assert train_classifier(model, toy_images(), toy_images(seed=1), CONFIG, tmp_path) == undisturbed[0]
    assert_same_bits(model.get_weights(), undisturbed[1])


_CHILD = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
import {module} as t
def kill_in_epoch_two(bar_update=t.train_module._step, calls=[]):
    def step(*arguments):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return bar_update(*arguments)
    return step
if sys.argv[1] == "kill":
    t.train_module._step = kill_in_epoch_two()
model = t.toy_model()
t.train_classifier(model, t.toy_images(), t.toy_images(seed=1), t.CONFIG, t.Path({workdir!r}))
t.np.savez({result!r}, *model.get_weights())
"""


def test_a_process_killed_by_sigkill_resumes_to_the_same_bits(tmp_path):
    here = Path(__file__).parent
    result, undisturbed = tmp_path / "weights.npz", tmp_path / "undisturbed.npz"
    folders = {"module": Path(__file__).stem, "tests": str(here), "root": str(here.parents[1])}

    def run(mode, workdir="work", result=result):
        code = _CHILD.format(workdir=str(tmp_path / workdir), result=str(result), **folders)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        return subprocess.run([sys.executable, "-c", code, mode], env=environment, capture_output=True, timeout=600)

    assert run("kill").returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["checkpoint.npz"]
    assert not result.exists()
    done = run("resume")
    assert done.returncode == 0, done.stderr.decode()
    # A process of its own as well: how many threads other tests gave this one decides the last bits.
    assert run("resume", "elsewhere", undisturbed).returncode == 0
    with np.load(result) as archive, np.load(undisturbed) as expected:
        assert_same_bits([archive[name] for name in archive.files], [expected[name] for name in expected.files])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_checkpoint_is_discarded_with_a_warning(undisturbed, tmp_path, monkeypatch, damage):
    with monkeypatch.context() as patched:
        stop_after(1, patched)
        with pytest.raises(Stop):
            train_classifier(toy_model(), toy_images(), toy_images(seed=1), CONFIG, tmp_path)
    path = tmp_path / "checkpoint.npz"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[content.index(toy_model_bytes(path))] ^= 1
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello"}.get(damage, content))
    model = toy_model()
    with pytest.warns(UserWarning, match=r"checkpoint\.npz is damaged .*starts over"):
        history = train_classifier(model, toy_images(), toy_images(seed=1), CONFIG, tmp_path)
    assert history == undisturbed[0]
    assert_same_bits(model.get_weights(), undisturbed[1])


def toy_model_bytes(path):
    """The raw bytes of the first kernel in a checkpoint."""
    with np.load(path) as archive:
        return archive["arr_1"].tobytes()


def test_a_checkpoint_of_another_training_is_discarded_with_a_warning(undisturbed, tmp_path):
    train_classifier(toy_model(), toy_images(seed=7), toy_images(seed=1), CONFIG, tmp_path)
    model = toy_model()
    with pytest.warns(UserWarning, match="belongs to another training"):
        train_classifier(model, toy_images(), toy_images(seed=1), CONFIG, tmp_path)
    assert_same_bits(model.get_weights(), undisturbed[1])


@pytest.mark.parametrize(
    "difference",
    [{"epochs": 4}, {"learning_rate": 0.06}, {"schedule": "cosine"}, {"describe": "other"}],
    ids=lambda value: next(iter(value)),
)
def test_every_setting_belongs_to_the_checkpoint(tmp_path, difference):
    call = (toy_images(8), toy_images(8, seed=1), replace(CONFIG, epochs=1), tmp_path)
    train_classifier(toy_model(), *call)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train_classifier(toy_model(), *call)
    with pytest.warns(UserWarning, match="another training"):
        train_classifier(toy_model(), *call, **difference)


def test_the_first_of_the_best_epochs_is_kept(tmp_path, monkeypatch):
    scores = iter([0.5, 0.75, 0.25, 0.75])
    seen = []

    def validate(model, *arguments):
        seen.append(model.get_weights())
        return {"val_accuracy": 0.0, "score": next(scores)}

    monkeypatch.setattr(train_module, "_validate", validate)
    model = toy_model()
    train_classifier(model, toy_images(), toy_images(seed=1), replace(CONFIG, epochs=4), tmp_path)
    assert_same_bits(model.get_weights(), seen[1])
    assert not np.array_equal(model.get_weights()[0], seen[3][0])


@pytest.mark.parametrize("mirror", [True, False])
def test_every_image_is_seen_each_epoch_and_mirrored_half_of_the_time_if_at_all(mirror):
    images, config = toy_images(20), replace(CONFIG, seed=3, mirror=mirror)
    seen, mirrored = [], 0
    for epoch in range(10):
        batches = list(train_module._batches(images, config, epoch))
        assert [len(labels) for _, labels in batches] == [8, 8, 8]
        chosen = []
        for batch, _ in batches:
            for image in batch:
                (match,) = [
                    (index, flip)
                    for index, original in enumerate(images.images)
                    for flip in (False, True)
                    if np.array_equal(image, (original[:, ::-1] if flip else original) / np.float32(255))
                ]
                chosen.append(match[0])
                mirrored += match[1]
        assert set(chosen) == set(range(20))
        assert chosen[20:] == chosen[:4]
        seen.append(tuple(chosen))
    assert len(set(seen)) == 10
    assert 90 < mirrored < 150 if mirror else mirrored == 0  # of 240


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_statistics_move_unless_frozen(tmp_path, frozen):
    model = toy_model()
    norm = model.layers[1]
    before = [np.array(value) for value in norm.get_weights()]
    config = replace(CONFIG, epochs=1, freeze_batch_norm=frozen)
    train_classifier(model, toy_images(), toy_images(seed=1), config, tmp_path)
    same = [np.array_equal(a, b) for a, b in zip(before, norm.get_weights(), strict=True)]
    assert same == [frozen] * 4


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


def test_adversarial_training_trains_on_attacked_batches_and_scores_the_mean(tmp_path, monkeypatch):
    attacked_batches = []

    def perturb(model):
        def attack(images, labels):
            assert images.dtype == np.float32 and images.min() >= 0.0 and images.max() <= 1.0
            attacked_batches.append(len(labels))
            return np.clip(images + 0.3 * (1 - 2 * labels[:, None, None, None]), 0.0, 1.0)

        return attack

    trained_on = []
    original = train_module._step

    def step(model, images, labels, where):
        trained_on.append((images, labels))
        return original(model, images, labels, where)

    monkeypatch.setattr(train_module, "_step", step)
    history = train_classifier(
        toy_model(), toy_images(16), toy_images(10, seed=1), replace(CONFIG, epochs=2), tmp_path, perturb=perturb
    )
    assert attacked_batches == [8, 8, 8, 2] * 2
    images, labels = trained_on[0]
    assert images[labels == 0].min() >= 0.3 - 1e-6 and images[labels == 1].max() <= 0.7 + 1e-6
    for record in history:
        mean = (record["val_accuracy"] + record["val_attacked_accuracy"]) / 2
        assert record["score"] == pytest.approx(mean)


def test_predictions_do_not_depend_on_the_batch_size_or_the_image_type():
    model, images = toy_model(), toy_images(11).images
    expected = keras.ops.convert_to_numpy(model(images / np.float32(255), training=False))
    for batch_size in (4, 11, 64):
        np.testing.assert_allclose(predict_logits(model, images, batch_size), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predict_logits(model, images / np.float32(255)), expected, rtol=1e-5, atol=1e-6)
    assert predict_logits(model, images[:0]).shape == (0, 2)


def test_a_loss_that_is_not_finite_stops_with_the_place(tmp_path):
    with pytest.raises(InputError, match=r"loss of toy is (nan|inf) at epoch \d, batch \d.*learning rate"):
        train_classifier(toy_model(), toy_images(), toy_images(seed=1), CONFIG, tmp_path, learning_rate=1e30)


def test_images_and_settings_that_do_not_fit_are_refused(tmp_path):
    good = toy_images()
    small = ImageSet(good.images[:, :4], good.labels, good.files, good.classes)
    three = ImageSet(good.images, good.labels, good.files, ("a", "b", "c"))
    empty = ImageSet(good.images[:0], good.labels[:0], (), good.classes)
    for train, val, arguments, message in (
        (small, good, {}, r"training images are \(4, 8, 3\), but toy expects \(8, 8, 3\)"),
        (good, three, {}, r"validation images have 3 classes \(a, b, c\), but toy has 2 outputs"),
        (empty, good, {}, "no training images"),
        (good, good, {"epochs": 0}, r"epochs \(0\)"),
        (good, good, {"patience": 0}, "patience must be at least 1 epoch"),
        (good, good, {"learning_rate": -1.0}, "positive number, received -1.0"),
        (good, good, {"schedule": "linear"}, "schedule 'linear'"),
        (good, good, {"config": replace(CONFIG, optimizer="lion")}, "optimizer 'lion'"),
        (good, good, {"config": replace(CONFIG, trainer="jax")}, "trainer 'jax'"),
    ):
        config = arguments.pop("config", CONFIG)
        with pytest.raises((InputError, ValueError), match=message):
            train_classifier(toy_model(), train, val, config, tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
