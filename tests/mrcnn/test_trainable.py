"""Which layers a stage trains, and by which optimizer."""

import keras
import numpy as np
import pytest

from unmask_tf.mrcnn.fit import make_optimizer, set_trainable
from unmask_tf.mrcnn.graphs import build_training_model


@pytest.fixture(scope="module")
def graph(tiny_config):
    return build_training_model(tiny_config())


def trainable(graph):
    set_of = set()
    for layer in graph.layers:
        for inner in layer.layers if isinstance(layer, keras.Model) else [layer]:
            if inner.trainable_variables:
                set_of.add(inner.name)
    return set_of


@pytest.mark.parametrize(
    ("layers", "frozen"),
    [
        ("heads", ("conv1", "bn_conv1", "res2", "bn2", "res3", "bn3", "res4", "bn4", "res5", "bn5")),
        ("5+", ("conv1", "bn_conv1", "res2", "bn2", "res3", "bn3", "res4", "bn4")),
        ("4+", ("conv1", "bn_conv1", "res2", "bn2", "res3", "bn3")),
        ("3+", ("conv1", "bn_conv1", "res2", "bn2")),
        ("all", ()),
    ],
)
def test_a_stage_trains_exactly_its_layers(graph, layers, frozen):
    set_trainable(graph, "all")
    every = trainable(graph)
    assert {
        "conv1",
        "bn_conv1",
        "res4b_branch2c",
        "fpn_p2",
        "rpn_conv_shared",
        "mrcnn_mask",
        "mrcnn_class_bn1",
    } <= every
    count = set_trainable(graph, layers)
    assert trainable(graph) == {name for name in every if not name.startswith(frozen or ("none",))}
    assert count == len(trainable(graph))
    set_trainable(graph, "all")
    assert trainable(graph) == every, "a stage can be undone"


def test_a_stage_may_be_a_regular_expression(graph):
    assert set_trainable(graph, r"rpn_.*|mrcnn_mask") == 4
    assert trainable(graph) == {"rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred", "mrcnn_mask"}


def test_a_stage_without_layers_is_refused_with_the_choices(graph):
    with pytest.raises(ValueError, match=r"'haeds'.*heads, 3\+, 4\+, 5\+, all"):
        set_trainable(graph, "haeds")


def test_gradients_are_clipped_by_their_global_norm_and_gather_momentum(tiny_config):
    optimizer = make_optimizer(tiny_config(OPTIMIZER="sgd"), 0.1)
    weights = [keras.Variable([0.0]), keras.Variable([0.0])]
    # The norm of (30, 40) is 50: both shrink to a tenth.
    for _ in range(2):
        optimizer.apply([np.array([30.0], np.float32), np.array([40.0], np.float32)], weights)
    # First step .1 * (3, 4), the second adds .9 of it.
    np.testing.assert_allclose([float(w.value[0]) for w in weights], [-0.3 * 2.9, -0.4 * 2.9], rtol=1e-5)


def test_the_optimizer_is_matterports_sgd_unless_adam_is_asked_for(tiny_config):
    sgd, adam = (make_optimizer(tiny_config(OPTIMIZER=name), 0.01) for name in ("sgd", "adam"))
    assert isinstance(sgd, keras.optimizers.SGD) and float(sgd.momentum) == 0.9
    assert isinstance(adam, keras.optimizers.Adam)
    assert float(sgd.learning_rate) == float(adam.learning_rate) == pytest.approx(0.01)
