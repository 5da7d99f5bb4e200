"""Runs of the trainer: its log, its stages, validation, and resuming after a kill to the same bits."""

import json

import numpy as np
import pytest

from unmask_tf.config import PartDetectorConfig, Profile
from unmask_tf.errors import InputError
from unmask_tf.mrcnn import train as module
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.train import SCHEDULES, Stage, Trainer, train_from_profile
from unmask_tf.mrcnn.weights import check_parts, load_weights, named_weights, read_state, read_weights

STAGES = (Stage("heads", 1, 1e-2), Stage("all", 3, 1e-3))


class Killed(BaseException):
    """The process dies here."""


def make_trainer(tiny_config, randomize, parts, folder, seed=1, validation=None, **overrides):
    """A trainer whose K starts from weights that are the same for the same seed."""
    model = MaskRCNN("training", tiny_config(**overrides), folder)
    randomize(model.keras_model, seed)
    return Trainer(model, parts, validation)


def weights_of(trainer):
    return {name: np.array(variable.value) for name, variable in named_weights(trainer.model.keras_model).items()}


@pytest.fixture(scope="module")
def whole(tiny_config, randomize, parts, tmp_path_factory):
    """A training that was never interrupted: (folder, first weights, weights after each epoch, log)."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        folder = tmp_path_factory.mktemp("whole")
        trainer = make_trainer(tiny_config, randomize, parts, folder)
        first, after, save = weights_of(trainer), [], trainer._save

        def save_and_note(log, stage):
            save(log, stage)
            after.append(read_weights(trainer.checkpoint))

        trainer._save = save_and_note
        log = trainer.fit(STAGES)
    finally:
        tf.config.run_functions_eagerly(False)
    return folder, first, after, log


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_every_epoch_is_logged_with_its_stage_and_finite_losses(whole):
    folder, _, _, log = whole
    assert [(row["epoch"], row["layers"]) for row in log] == [(1, "heads"), (2, "all"), (3, "all")]
    for row in log:
        losses = ("rpn_class_loss", "rpn_bbox_loss", "mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss")
        assert {"loss", *losses} <= row.keys()
        assert all(np.isfinite(row[name]) and row[name] > 0 for name in ("loss", *losses))
    assert json.loads((folder / "log.json").read_text()) == log


def test_the_heads_stage_leaves_the_backbone_as_it_was_statistics_included(whole):
    _, first, after, _ = whole
    for name, value in after[0].items():
        backbone = name.startswith(("conv1", "bn_conv1", "res", "bn"))
        if backbone:
            np.testing.assert_array_equal(value, first[name], err_msg=name)
    assert (after[0]["fpn_p2/kernel"] != first["fpn_p2/kernel"]).any()
    assert (after[0]["rpn_conv_shared/kernel"] != first["rpn_conv_shared/kernel"]).any()
    assert (after[0]["mrcnn_mask/kernel"] != first["mrcnn_mask/kernel"]).any()
    assert (after[0]["mrcnn_class_bn1/moving_mean"] != first["mrcnn_class_bn1/moving_mean"]).any()


def test_the_stage_of_all_layers_trains_the_backbone_too(whole):
    _, _, after, _ = whole
    for name in ("conv1/kernel", "res2a_branch2a/kernel", "bn5b_branch2c/gamma", "bn_conv1/moving_mean"):
        assert (after[1][name] != after[0][name]).any(), name


@pytest.mark.parametrize("finished", [1, 2], ids=["between stages", "within a stage"])
def test_a_killed_training_resumes_to_the_same_bits(
    whole, finished, tiny_config, randomize, parts, tmp_path, monkeypatch, eager
):
    _, _, after, log = whole
    trainer = make_trainer(tiny_config, randomize, parts, tmp_path)
    original = module.epoch_batches

    def dies(truths, config, epoch, anchors):
        for number, batch in enumerate(original(truths, config, epoch, anchors)):
            if (epoch, number) == (finished, 1):  # in the middle of an epoch: a step of it was already taken
                raise Killed
            yield batch

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "epoch_batches", dies)
        trainer.fit(STAGES)
    assert_same(read_weights(trainer.checkpoint), after[finished - 1])

    resumed = make_trainer(tiny_config, randomize, parts, tmp_path, seed=7)
    assert resumed.fit(STAGES) == log
    assert_same(weights_of(resumed), after[-1])
    assert_same(read_weights(resumed.checkpoint), after[-1])


def test_a_finished_training_is_not_run_again(whole, tiny_config, randomize, parts, monkeypatch):
    folder, _, after, log = whole
    trainer = make_trainer(tiny_config, randomize, parts, folder, seed=7)
    monkeypatch.setattr(trainer, "_run_epoch", None)
    assert trainer.fit(STAGES) == log
    assert_same(weights_of(trainer), after[-1])


def test_a_checkpoint_keeps_the_optimizer_the_sampler_and_the_stage(whole):
    folder, *_ = whole
    state = read_state(folder / "checkpoint.h5")
    assert int(state["stage"]) == 1
    assert int(state["optimizer_0"]) == 4, "two epochs of two steps since the stage began"
    assert state["generator"].tolist() != [100, 0], "the sampler has moved on from its seed"
    assert len([key for key in state if key.startswith("optimizer_")]) > 100


def test_a_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    whole, tiny_config, randomize, parts, tmp_path, eager
):
    folder, _, after, _ = whole
    (tmp_path / "checkpoint.h5").write_bytes((folder / "checkpoint.h5").read_bytes())
    trainer = make_trainer(tiny_config, randomize, parts, tmp_path)
    with pytest.raises(InputError, match=r"diverged in epoch 4.*Lower the learning rate"):
        trainer.fit((*STAGES, Stage("all", 4, float("nan"))))
    assert_same(read_weights(trainer.checkpoint), after[-1])


def test_a_checkpoint_of_another_k_is_refused(whole, tiny_config, randomize, parts, tmp_path):
    folder, *_ = whole
    (tmp_path / "checkpoint.h5").write_bytes((folder / "checkpoint.h5").read_bytes())
    trainer = make_trainer(tiny_config, randomize, parts, tmp_path, NUM_CLASSES=5)
    with pytest.raises(InputError, match=r"checkpoint\.h5 does not fit"):
        trainer.fit(STAGES)


def test_fewer_images_than_a_batch_are_refused(tiny_config, parts, tmp_path):
    model = MaskRCNN("training", tiny_config(IMAGES_PER_GPU=5), tmp_path)
    with pytest.raises(InputError, match=r"4 images.*a batch needs 5"):
        Trainer(model, parts)


def test_validation_scores_the_weights_of_the_epoch(whole, tiny_config, randomize, parts, tmp_path, monkeypatch, eager):
    from unmask_tf.mrcnn import evaluate as evaluation

    seen = []

    def fake(model, dataset):
        seen.append(({n: np.array(v.value) for n, v in named_weights(model.keras_model).items()}, dataset))
        return {"map50": 0.25, "map": 0.125, "per_part": {}, "iou_type": "segm"}

    monkeypatch.setattr(evaluation, "evaluate", fake)
    trainer = make_trainer(tiny_config, randomize, parts, tmp_path, validation="the validation set")
    log = trainer.fit(STAGES[:1])
    assert log[0]["val_map50"] == 0.25 and log[0]["val_map"] == 0.125 and "val_per_part" not in log[0]
    assert len(seen) == 1 and seen[0][1] == "the validation set"
    assert_same(seen[0][0], weights_of(trainer))
    # Looking at the validation set changes nothing in the training.
    assert_same(weights_of(trainer), whole[2][0])


def test_a_profiles_k_is_trained_and_written_with_its_log(
    tiny_config, data_root, taxonomy, detector, tmp_path, monkeypatch, eager
):
    asked = []

    def tiny_preset(name, **overrides):
        asked.append((name, overrides))
        return tiny_config(**overrides)

    monkeypatch.setattr(module, "preset", tiny_preset)
    monkeypatch.setitem(SCHEDULES, "mini", (Stage("heads", 1, 1e-4),))
    detector_config = PartDetectorConfig(preset="mini", weights="k.h5", train_limit=2)
    profile = Profile(name="p", data="d", part_detector=detector_config)
    weights = tmp_path / "k.weights.h5"
    train_from_profile(profile, data_root, weights, taxonomy, tmp_path / "work")
    assert asked == [("mini", {"NUM_CLASSES": 4, "MIRRORED_CLASS_IDS": {1: 2, 2: 1}})]
    (row,) = json.loads((tmp_path / "k.weights.log.json").read_text())
    assert row["epoch"] == 1 and 0 <= row["val_map50"] <= 1
    written = read_weights(weights)
    assert_same(written, read_weights(tmp_path / "work" / "checkpoint.h5"))
    model = MaskRCNN("inference", tiny_config(), tmp_path).keras_model
    assert len(load_weights(model, weights).loaded) == len(written)
    check_parts(weights, taxonomy.parts)
    swapped = [taxonomy.parts[1], taxonomy.parts[0], *taxonomy.parts[2:]]
    with pytest.raises(InputError, match=f"it has '{taxonomy.parts[0]}' where the taxonomy has '{taxonomy.parts[1]}'"):
        check_parts(weights, swapped)
    with pytest.raises(InputError, match="trained on other parts"):
        check_parts(weights, taxonomy.parts[:-1])


@pytest.mark.slow
def test_compiled_stages_train_their_own_layers_and_resume_to_the_same_bits(
    tiny_config, randomize, parts, tmp_path, monkeypatch
):
    """As above, with traced graphs: a stale trace would go on training the first stage's layers."""
    trainer = make_trainer(tiny_config, randomize, parts, tmp_path / "whole")
    first = weights_of(trainer)
    log = trainer.fit(STAGES[:1])
    heads = weights_of(trainer)
    assert (heads["mrcnn_mask/kernel"] != first["mrcnn_mask/kernel"]).any()
    np.testing.assert_array_equal(heads["res2a_branch2a/kernel"], first["res2a_branch2a/kernel"])
    whole = make_trainer(tiny_config, randomize, parts, tmp_path / "at_once")
    log = whole.fit(STAGES)
    final = weights_of(whole)
    assert (final["res2a_branch2a/kernel"] != first["res2a_branch2a/kernel"]).any()
    assert trainer.fit(STAGES) == log
    assert_same(weights_of(trainer), final)
