"""`train_parts`: K trained on annotated parts, from the first weights to the last epoch."""

import json

import keras
import numpy as np
import pytest

from unmask_tf.errors import InputError
from unmask_tf.mrcnn import train as module
from unmask_tf.mrcnn.evaluate import evaluate
from unmask_tf.mrcnn.graphs import build_training_model
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.schedules import Stage
from unmask_tf.mrcnn.train import load_initial_weights, train_parts
from unmask_tf.mrcnn.weights import check_parts, load_weights, named_weights, parts_state, read_weights, save_weights

SCHEDULE = (Stage("heads", 1, 1e-4), Stage("all", 2, 1e-4))


@pytest.fixture(autouse=True)
def no_determinism(monkeypatch):
    """It would stay on for all later tests of the process."""
    monkeypatch.setattr("tensorflow.config.experimental.enable_op_determinism", lambda: None)


def weights_of(graph):
    return {name: np.array(variable.value) for name, variable in named_weights(graph).items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_k_is_trained_validated_and_resumed(tiny_config, parts, detector, taxonomy, tmp_path, eager, monkeypatch):
    config, told = tiny_config(), []
    graph, log = train_parts(config, SCHEDULE, parts, parts, tmp_path / "whole", progress=told.append)
    assert [(row["epoch"], row["layers"]) for row in log] == [(1, "heads"), (2, "all")]
    assert told == pytest.approx([0.25, 0.5, 0.75, 1])
    assert_same(weights_of(graph), read_weights(tmp_path / "whole" / "checkpoint.h5"))
    assert json.loads((tmp_path / "whole" / "log.json").read_text()) == log

    save_weights(graph, tmp_path / "k.h5", parts_state(taxonomy.parts))
    check_parts(tmp_path / "k.h5", taxonomy.parts)
    model = MaskRCNN("inference", config, tmp_path)
    assert len(load_weights(model.keras_model, tmp_path / "k.h5").loaded) == len(named_weights(graph))
    scores = evaluate(model, parts)
    assert {name: log[-1][f"val_{name}"] for name in ("map", "map50")} == {k: scores[k] for k in ("map", "map50")}

    # As if killed after the first epoch: only the first stage is there.
    train_parts(config, SCHEDULE[:1], parts, None, tmp_path / "killed")
    resumed, later = train_parts(config, SCHEDULE, parts, None, tmp_path / "killed")
    assert_same(weights_of(resumed), weights_of(graph))
    assert [row["loss"] for row in later] == [row["loss"] for row in log]
    assert "val_map50" not in later[0]


def test_a_checkpoint_of_another_k_is_refused(tiny_config, parts, detector, tmp_path):
    (tmp_path / "checkpoint.h5").write_bytes(b"")
    save_weights(detector.keras_model, tmp_path / "checkpoint.h5")
    with pytest.raises(InputError, match=r"checkpoint\.h5 does not fit"):
        train_parts(tiny_config(MASK_FEATURES=5), SCHEDULE, parts, None, tmp_path)


def test_data_of_another_number_of_parts_are_refused(tiny_config, parts, tmp_path):
    with pytest.raises(ValueError, match="4 classes with the background, but NUM_CLASSES is 9"):
        train_parts(tiny_config(NUM_CLASSES=9), SCHEDULE, parts, None, tmp_path)


def test_fewer_images_than_a_batch_are_refused(tiny_config, parts, tmp_path):
    with pytest.raises(InputError, match=r"4 images.*a batch needs 5"):
        train_parts(tiny_config(IMAGES_PER_GPU=5), SCHEDULE, parts, None, tmp_path)


def test_ready_images_are_read_once_and_random_views_drawn_each_time(tiny_config, parts):
    still, zooming = (module._images(parts, tiny_config(RANDOM_ZOOM=zoom), quiet=True) for zoom in (None, 3.0))
    rng = np.random.RandomState
    sizes = {len(np.unique(zooming.load(0, rng(seed)).image)) for seed in range(4)}
    assert len(sizes) > 1
    images = {still.load(0, rng(seed)).image.tobytes() for seed in range(8)}
    assert len(images) == 2, "upright and mirrored"


def test_a_graph_starts_from_given_weights_without_their_heads(tiny_config, detector, tmp_path):
    save_weights(detector.keras_model, tmp_path / "start.h5")
    config = tiny_config(NUM_CLASSES=9)
    graph = build_training_model(config)
    before, start = weights_of(graph), read_weights(tmp_path / "start.h5")
    load_initial_weights(graph, config, tmp_path / "start.h5")
    for name, value in weights_of(graph).items():
        heads = ("mrcnn_class_logits/", "mrcnn_bbox_fc/", "mrcnn_mask/")
        np.testing.assert_array_equal(value, (before if name.startswith(heads) else start)[name], err_msg=name)


def test_a_slim_resnet_may_start_from_random_weights_but_a_full_one_may_not(tiny_config, detector):
    before = weights_of(detector.keras_model)
    load_initial_weights(detector.keras_model, tiny_config(), None)
    assert_same(weights_of(detector.keras_model), before)
    with pytest.raises(InputError, match=r"resnet101.*mask_rcnn_coco\.h5"):
        load_initial_weights(detector.keras_model, tiny_config(BACKBONE="resnet101"), None)


def test_mobilenet_starts_from_a_keras_weights_file(tiny_config, tmp_path):
    config = tiny_config(BACKBONE="mobilenet_v2")
    graph = build_training_model(config)
    imagenet = keras.applications.MobileNetV2(weights=None)
    imagenet.save_weights(tmp_path / "m.weights.h5")
    load_initial_weights(graph, config, tmp_path / "m.weights.h5")
    expected = weights_of(imagenet)
    for name, value in weights_of(graph.get_layer("mobilenet_v2")).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_initial_weights(graph, config, tmp_path / "none.weights.h5")
