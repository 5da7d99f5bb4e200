"""`MaskRCNN.train` in Matterport's conventions: cumulative epochs, checkpoints by name, resuming at the epoch."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from shapes_dataset import Shapes

from unmask_tf.errors import InputError
from unmask_tf.mrcnn import MaskRCNN
from unmask_tf.mrcnn.losses import LOSSES
from unmask_tf.mrcnn.weights import named_weights, read_weights

pytestmark = pytest.mark.usefixtures("eager")
FAST = {"STEPS_PER_EPOCH": 2, "VALIDATION_STEPS": 1, "OPTIMIZER": "sgd", "NAME": "Tiny"}


@pytest.fixture(scope="module")
def graph(tiny_config, randomize, tmp_path_factory):
    return MaskRCNN("training", tiny_config(**FAST), tmp_path_factory.mktemp("graph"))


@pytest.fixture
def model(graph, randomize, tmp_path):
    """A K as if it were newly built, below tmp_path."""
    randomize(graph.keras_model, 1)
    graph.model_dir = tmp_path
    graph.set_log_dir()
    return graph


def weights_of(model):
    return {name: np.array(variable.value) for name, variable in named_weights(model.keras_model).items()}


def test_epochs_are_cumulative_and_each_leaves_a_checkpoint(model, tmp_path):
    first = weights_of(model)
    history = model.train(Shapes(), Shapes(), 1e-3, epochs=1, layers="heads")
    assert re.fullmatch(rf"{tmp_path}/tiny\d{{8}}T\d{{4}}", model.log_dir)
    heads = weights_of(model)
    assert (heads["mrcnn_mask/kernel"] != first["mrcnn_mask/kernel"]).any()
    np.testing.assert_array_equal(heads["res2a_branch2a/kernel"], first["res2a_branch2a/kernel"])
    assert history.epoch == [0] and set(history.history) == {
        f"{prefix}{name}" for prefix in ("", "val_") for name in ("loss", *LOSSES)
    }

    history = model.train(Shapes(), Shapes(), 1e-4, epochs=2, layers="all", augmentation="fliplr")
    assert history.epoch == [1] and model.epoch == 2
    final = weights_of(model)
    assert (final["res2a_branch2a/kernel"] != heads["res2a_branch2a/kernel"]).any()
    names = sorted(path.name for path in Path(model.log_dir).iterdir())
    assert names == ["log.json", "mask_rcnn_tiny_0001.h5", "mask_rcnn_tiny_0002.h5"]
    for epoch, expected in ((1, heads), (2, final)):
        written = read_weights(model.checkpoint_path.format(epoch=epoch))
        assert written.keys() == expected.keys()
        for name, value in written.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    rows = json.loads((Path(model.log_dir) / "log.json").read_text())
    assert [(row["epoch"], row["layers"], row["learning_rate"]) for row in rows] == [
        (1, "heads", 1e-3),
        (2, "all", 1e-4),
    ]
    assert model.find_last() == model.checkpoint_path.format(epoch=2)


def test_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(model, randomize):
    model.train(Shapes(), Shapes(), 1e-3, epochs=1, layers="all")
    checkpoint = model.find_last()
    model.train(Shapes(), Shapes(), 1e-3, epochs=2, layers="all")
    expected, folder = weights_of(model), model.log_dir
    rows = (Path(folder) / "log.json").read_text()

    randomize(model.keras_model, 2)
    model.set_log_dir()
    assert model.epoch == 0
    report = model.load_weights(checkpoint, by_name=True)
    assert report.missing == [] and model.epoch == 1 and model.log_dir == folder
    model.train(Shapes(), Shapes(), 1e-3, epochs=2, layers="all")
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert (Path(folder) / "log.json").read_text() == rows
    assert model.train(Shapes(), None, 1e-3, epochs=2, layers="all").epoch == []


def test_an_epoch_has_steps_per_epoch_batches_and_loads_images_on_demand(model):
    train, validation = Shapes(), Shapes()
    model.train(train, validation, 1e-3, epochs=1, layers="heads")
    # Two steps and one of two images each; image 2 is empty and may be asked for besides.
    assert len([i for i in train.loaded if i != 2]) == 4 and len([i for i in validation.loaded if i != 2]) == 2


def test_the_log_holds_the_means_over_the_batches(model, monkeypatch):
    seen = {"train_on_batch": [], "test_on_batch": []}
    for call, losses in seen.items():
        original = getattr(model.keras_model, call)

        def spy(batch, *, original=original, losses=losses, **options):
            logs = original(batch, **options)
            losses.append(float(logs["rpn_bbox_loss"]))
            return logs

        monkeypatch.setattr(model.keras_model, call, spy)
    monkeypatch.setattr(model.config, "VALIDATION_STEPS", 2)
    history = model.train(Shapes(), Shapes(), 1e-3, epochs=1, layers="heads").history
    for prefix, losses in zip(("", "val_"), seen.values(), strict=True):
        assert len(losses) == 2 and losses[0] != losses[1]
        assert history[f"{prefix}rpn_bbox_loss"] == [pytest.approx(sum(losses) / 2)]


def test_a_part_dataset_and_a_regular_expression_do_as_well(model, parts):
    before = weights_of(model)
    model.train(parts, None, 1e-3, epochs=1, layers=r"mrcnn_mask.*|rpn_class_raw")
    changed = {name.split("/")[0] for name, value in weights_of(model).items() if (value != before[name]).any()}
    assert "rpn_class_raw" in changed and "mrcnn_mask" in changed
    assert all(re.fullmatch(r"mrcnn_mask.*|rpn_class_raw", layer) for layer in changed)


def test_callbacks_of_the_user_are_called_and_may_stop(model):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

        def on_epoch_end(self, epoch, logs=None):
            seen.append(sorted(logs))
            self.model.stop_training = True

    model.train(Shapes(), None, 1e-3, epochs=5, layers="heads", custom_callbacks=[Watch()])
    assert seen == [0, 1, sorted(("loss", *LOSSES))]
    assert model.epoch == 1


def test_a_loss_that_is_not_finite_stops_the_training(model):
    named_weights(model.keras_model)["mrcnn_class_logits/bias"].assign([0, np.inf, 0, 0])
    with pytest.raises(InputError, match="diverged in epoch 1"):
        model.train(Shapes(), None, 1e-3, epochs=1, layers="heads")
    assert not Path(model.log_dir).exists()


def test_what_cannot_train_is_refused(model, detector, tiny_config, tmp_path):
    with pytest.raises(ValueError, match="mode='training'"):
        detector.train(Shapes(), None, 1e-3, epochs=1, layers="heads")
    with pytest.raises(ValueError, match="no layer matches 'head'"):
        model.train(Shapes(), None, 1e-3, epochs=1, layers="head")
    model.config.STEPS_PER_EPOCH = 0
    try:
        with pytest.raises(ValueError, match="STEPS_PER_EPOCH is 0"):
            model.train(Shapes(), None, 1e-3, epochs=1, layers="heads")
    finally:
        model.config.STEPS_PER_EPOCH = FAST["STEPS_PER_EPOCH"]
    model.config.NAME = None
    try:
        for call in (lambda: model.train(Shapes(), None, 1e-3, epochs=1, layers="heads"), model.find_last):
            with pytest.raises(ValueError, match="NAME is missing"):
                call()
    finally:
        model.config.NAME = FAST["NAME"]
    with pytest.raises(ValueError, match="USE_RPN_ROIS"):
        MaskRCNN("training", tiny_config(USE_RPN_ROIS=False), tmp_path)


def test_a_killed_call_goes_on_with_its_optimizer(model, randomize, monkeypatch):
    """Within one call momentum gathers over the epochs; a kill must not lose it."""
    monkeypatch.setattr(model.config, "OPTIMIZER", "sgd")
    model.train(Shapes(), None, 1e-3, epochs=2, layers="all")
    expected, first = weights_of(model), model.checkpoint_path.format(epoch=1)

    randomize(model.keras_model, 2)
    model.load_weights(first)
    model.train(Shapes(), None, 1e-3, epochs=2, layers="all")
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)

    # Layers left out have other weights than the optimizer's, so it starts anew; the log goes on.
    model.load_weights(first, exclude="mrcnn_mask")
    assert model._loaded.stage is None and [row["epoch"] for row in model._loaded.log] == [1]


def test_an_interrupted_call_counts_its_finished_epochs(model):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.train(Shapes(), None, 1e-3, epochs=3, layers="heads", custom_callbacks=[Interrupt()])
    assert model.epoch == 1
    model.train(Shapes(), None, 1e-3, epochs=2, layers="heads")
    rows = json.loads((Path(model.log_dir) / "log.json").read_text())
    assert [row["epoch"] for row in rows] == [1, 2]


def test_a_renamed_checkpoint_starts_a_new_training(model, tmp_path):
    model.train(Shapes(), None, 1e-3, epochs=1, layers="heads")
    Path(model.checkpoint_path.format(epoch=1)).rename(tmp_path / "start.h5")
    model.load_weights(tmp_path / "start.h5")
    assert model.epoch == 0 and model._loaded.log == ()
