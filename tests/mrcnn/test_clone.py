"""K's layers are written down by their settings, so that Keras can clone and serialise a K."""

import keras
import numpy as np
import pytest

from unmask_tf.mrcnn.anchors import AnchorLayer
from unmask_tf.mrcnn.backbone import BatchNorm
from unmask_tf.mrcnn.detections import DetectionLayer
from unmask_tf.mrcnn.graphs import build_inference_model, build_training_model
from unmask_tf.mrcnn.ground_truth import load_ground_truth
from unmask_tf.mrcnn.roi_align import PyramidROIAlign
from unmask_tf.mrcnn.rpn import ProposalLayer
from unmask_tf.mrcnn.samples import Passes, Ready
from unmask_tf.mrcnn.targets import DetectionTargetLayer
from unmask_tf.mrcnn.weights import named_weights

LAYERS = [
    AnchorLayer((8, 16), (0.5, 1, 2), ((4, 4), (2, 2)), (16, 32), 1, (64, 64), name="anchors"),
    ProposalLayer(5, 100, 0.7, (0.1, 0.1, 0.2, 0.2), name="ROI"),
    DetectionLayer(6, 0.3, 0.25, (0.1, 0.1, 0.2, 0.2), True, name="mrcnn_detection"),
    DetectionTargetLayer(8, 0.33, (0.1, 0.1, 0.2, 0.2), (28, 28), True, 7, name="proposal_targets"),
    PyramidROIAlign(7, name="roi_align_classifier"),
    BatchNorm(False, name="bn"),
    BatchNorm(None, name="bn"),
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_comes_back_from_its_settings(layer):
    settings = layer.get_config()
    again = type(layer).from_config(settings)
    assert again.get_config() == settings and again.name == layer.name
    read = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(read) is type(layer) and read.get_config() == settings


@pytest.mark.parametrize("backbone", ["resnet_slim", "mobilenet_v2"])
def test_a_cloned_detector_with_the_same_weights_finds_the_same(backbone, tiny_config, randomize, photographs):
    config = tiny_config(BACKBONE=backbone, DETECTION_MAX_INSTANCES=4)
    graph = build_inference_model(config)
    randomize(graph, 1)
    clone = keras.models.clone_model(graph)
    assert {n: v.shape for n, v in named_weights(clone).items()} == {
        n: v.shape for n, v in named_weights(graph).items()
    }
    clone.set_weights(graph.get_weights())
    images = np.stack(photographs).astype(np.float32) - 120
    rng = np.random.RandomState(0)
    corner = rng.uniform(0, 0.6, (4, 50, 2))
    anchors = np.concatenate([corner, corner + 0.3], axis=-1).astype(np.float32)
    inputs = [images, np.resize(anchors, (4, 1023, 4)), np.tile(np.float32([0, 0, 1, 1]), (4, 1))]
    first, second = (model(inputs, training=False) for model in (graph, clone))
    assert np.asarray(first["detections"]).any()
    for name in first:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]), err_msg=name)


def test_a_cloned_training_graph_computes_the_same_losses(tiny_config, randomize, parts, eager):
    config = tiny_config()
    graph = build_training_model(config)
    randomize(graph, 1)
    clone = keras.models.clone_model(graph).prepare(config)
    clone.set_weights(graph.get_weights())
    truths = Ready([load_ground_truth(parts, i, config) for i in range(len(parts))], config)
    batch = next(Passes(truths, config).batches(0))
    first, second = (model(batch, training=False) for model in (graph, clone))
    assert {name: float(loss) for name, loss in first.items()} == {name: float(loss) for name, loss in second.items()}
