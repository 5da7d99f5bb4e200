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
from toy_training import CONFIG, assert_same_bits, toy_images, toy_model

from unmask_tf.classifiers import train as train_module
from unmask_tf.classifiers.train import accuracy, predict_logits, train_classifier
from unmask_tf.data.class_images import ImageSet
from unmask_tf.errors import InputError


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
