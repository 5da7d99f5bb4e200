"""The training loop: its log, its stages, progress, validation, and going on after a kill to the same bits."""

import json

import numpy as np
import pytest

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.checkpoints import NOTHING, read_checkpoint
from unmask_tf.mrcnn.fit import fit
from unmask_tf.mrcnn.graphs import build_training_model
from unmask_tf.mrcnn.ground_truth import load_ground_truth
from unmask_tf.mrcnn.losses import LOSSES
from unmask_tf.mrcnn.samples import Passes, Ready
from unmask_tf.mrcnn.schedules import Stage
from unmask_tf.mrcnn.weights import load_weights, named_weights, read_state, read_weights

STAGES = (Stage("heads", 1, 1e-2), Stage("all", 3, 1e-3))


class Killed(BaseException):
    """The process dies here."""


class Dies:
    """A source whose process dies at a batch, given as (epoch, number)."""

    def __init__(self, source, at):
        self.source, self.steps, self.at = source, source.steps, at

    def batches(self, epoch):
        for number, batch in enumerate(self.source.batches(epoch)):
            if (epoch, number) == self.at:
                raise Killed
            yield batch


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config()


@pytest.fixture(scope="module")
def source(parts, config):
    return Passes(Ready([load_ground_truth(parts, i, config) for i in range(len(parts))], config), config)


@pytest.fixture
def graph(config, randomize):
    """A training graph that starts from the weights that `whole` starts from."""
    made = build_training_model(config)
    randomize(made, 1)
    return made


def weights_of(graph):
    return {name: np.array(variable.value) for name, variable in named_weights(graph).items()}


@pytest.fixture(scope="module")
def whole(config, source, randomize, tmp_path_factory):
    """A training that was never interrupted: (folder, first weights, weights after each epoch, log)."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        folder, graph, after = tmp_path_factory.mktemp("whole"), build_training_model(config), []
        randomize(graph, 1)
        first = weights_of(graph)
        log = fit(graph, config, STAGES, source, folder / "mask_rcnn_{epoch:04d}.h5", progress=lambda share: None)
        after = [read_weights(folder / f"mask_rcnn_{epoch:04d}.h5") for epoch in (1, 2, 3)]
        assert_same(after[-1], weights_of(graph))
    finally:
        tf.config.run_functions_eagerly(False)
    return folder, first, after, log


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_every_epoch_is_logged_with_its_stage_and_finite_losses(whole):
    folder, _, _, log = whole
    assert [(row["epoch"], row["layers"], row["learning_rate"]) for row in log] == [
        (1, "heads", 1e-2),
        (2, "all", 1e-3),
        (3, "all", 1e-3),
    ]
    for row in log:
        assert row.keys() == {"epoch", "layers", "learning_rate", "loss", *LOSSES}
        assert all(np.isfinite(row[name]) and row[name] > 0 for name in ("loss", *LOSSES))
    assert json.loads((folder / "log.json").read_text()) == log


def test_the_heads_stage_leaves_the_backbone_as_it_was_statistics_included(whole):
    _, first, after, _ = whole
    for name, value in after[0].items():
        if name.startswith(("conv1", "bn_conv1", "res", "bn")):
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
def test_a_killed_training_resumes_to_the_same_bits(whole, finished, graph, config, source, randomize, tmp_path, eager):
    _, _, after, log = whole
    path = tmp_path / "checkpoint.h5"
    with pytest.raises(Killed):  # in the middle of an epoch: a step of it was already taken
        fit(graph, config, STAGES, Dies(source, (finished, 1)), path, progress=lambda share: None)
    assert_same(read_weights(path), after[finished - 1])

    randomize(graph, 7)
    load_weights(graph, path)
    resumed = fit(graph, config, STAGES, source, path, resume=read_checkpoint(path), progress=lambda share: None)
    assert resumed == log
    assert_same(weights_of(graph), after[-1])
    assert_same(read_weights(path), after[-1])


def test_a_finished_training_is_not_run_again(whole, graph, config, source, tmp_path):
    folder, first, _, log = whole
    done = read_checkpoint(folder / "mask_rcnn_0003.h5")
    assert fit(graph, config, STAGES, Dies(source, (0, 0)), tmp_path / "k.h5", resume=done) == log
    assert list(tmp_path.iterdir()) == []
    assert_same(weights_of(graph), first)


def test_a_checkpoint_keeps_log_stage_and_optimizer(whole):
    folder, _, _, log = whole
    path = folder / "mask_rcnn_0003.h5"
    checkpoint = read_checkpoint(path)
    assert (checkpoint.epoch, checkpoint.log, checkpoint.stage) == (3, tuple(log), STAGES[1])
    state = read_state(path)
    assert int(state["optimizer_0"]) == 4, "two epochs of two steps since the stage began"
    assert len([key for key in state if key.startswith("optimizer_")]) > 100


def test_a_file_of_weights_alone_is_a_checkpoint_of_nothing(detector, tmp_path):
    from unmask_tf.mrcnn.weights import save_weights

    save_weights(detector.keras_model, tmp_path / "k.h5")
    assert read_checkpoint(tmp_path / "k.h5") == NOTHING


def test_progress_is_told_after_every_step_and_goes_on_where_a_kill_left_it(
    whole, graph, config, source, tmp_path, eager
):
    told = []
    with pytest.raises(Killed):
        fit(graph, config, STAGES, Dies(source, (1, 1)), tmp_path / "k.h5", progress=told.append)
    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    told.clear()
    fit(
        graph,
        config,
        STAGES,
        source,
        tmp_path / "k.h5",
        resume=read_checkpoint(tmp_path / "k.h5"),
        progress=told.append,
    )
    assert told == pytest.approx([3 / 6, 4 / 6, 5 / 6, 1])


def test_a_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    whole, graph, config, source, tmp_path, eager
):
    folder, _, after, _ = whole
    path = tmp_path / "checkpoint.h5"
    path.write_bytes((folder / "mask_rcnn_0003.h5").read_bytes())
    load_weights(graph, path)
    stages = (*STAGES, Stage("all", 4, float("nan")))
    with pytest.raises(InputError, match=r"diverged in epoch 4.*Lower the learning rate"):
        fit(graph, config, stages, source, path, resume=read_checkpoint(path))
    assert_same(read_weights(path), after[-1])


def test_validation_sees_the_weights_of_the_epoch_and_changes_nothing(whole, graph, config, source, tmp_path, eager):
    seen = []

    def validate():
        seen.append(weights_of(graph))
        return {"map50": np.float32(0.25)}

    log = fit(graph, config, STAGES[:1], source, tmp_path / "k.h5", validate=validate)
    assert log[0]["val_map50"] == 0.25 and {k: v for k, v in log[0].items() if k != "val_map50"} == whole[3][0]
    assert len(seen) == 1
    assert_same(seen[0], whole[2][0])
    assert_same(weights_of(graph), whole[2][0])


@pytest.mark.slow
def test_compiled_stages_train_their_own_layers_and_resume_to_the_same_bits(config, source, randomize, tmp_path):
    """As above, with traced graphs: a stale trace would go on training the first stage's layers."""
    graph, path = build_training_model(config), tmp_path / "k.h5"
    randomize(graph, 1)
    first = weights_of(graph)
    fit(graph, config, STAGES[:1], source, path)
    heads = weights_of(graph)
    assert (heads["mrcnn_mask/kernel"] != first["mrcnn_mask/kernel"]).any()
    np.testing.assert_array_equal(heads["res2a_branch2a/kernel"], first["res2a_branch2a/kernel"])
    whole = build_training_model(config)
    randomize(whole, 1)
    log = fit(whole, config, STAGES, source, tmp_path / "at_once.h5")
    final = weights_of(whole)
    assert (final["res2a_branch2a/kernel"] != first["res2a_branch2a/kernel"]).any()
    assert fit(graph, config, STAGES, source, path, resume=read_checkpoint(path)) == log
    assert_same(weights_of(graph), final)
