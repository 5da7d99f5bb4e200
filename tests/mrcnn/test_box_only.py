"""Parts annotated by boxes alone: read, trained on and scored without a single mask."""

import json

import keras
import numpy as np
import pytest

from unmask_tf.data.part_instances import read_part_instances
from unmask_tf.mrcnn.anchors import pyramid_anchors
from unmask_tf.mrcnn.evaluate import evaluate
from unmask_tf.mrcnn.fit import make_optimizer
from unmask_tf.mrcnn.ground_truth import load_ground_truth, training_batch
from unmask_tf.mrcnn.losses import LOSSES
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import named_weights


@pytest.fixture(scope="module")
def boxes_alone(data_root, taxonomy, tmp_path_factory):
    """The drawn training images with their annotations' segmentations taken out of the file."""
    folder = tmp_path_factory.mktemp("boxes")
    content = json.loads((data_root / "parts_train.json").read_text())
    assert any(annotation.pop("segmentation", None) for annotation in content["annotations"])
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    (folder / "parts.json").write_text(json.dumps(content))
    return read_part_instances(folder / "parts.json", data_root / "images" / "train", taxonomy)


def test_training_moves_all_but_the_mask_head(boxes_alone, tiny_config, randomize, tmp_path, eager):
    keras.utils.set_random_seed(0)
    config = tiny_config(WEIGHT_DECAY=0.0)
    graph = MaskRCNN("training", config, tmp_path).keras_model
    randomize(graph, 1)
    truths = [load_ground_truth(boxes_alone, i, config) for i in range(2)]
    assert not any(truth.has_mask.any() for truth in truths) and all(len(truth.boxes) for truth in truths)
    batch = training_batch(truths, pyramid_anchors(config, config.IMAGE_SHAPE), config, np.random.RandomState(0))
    graph.compile(optimizer=make_optimizer(config, 1e-3), jit_compile=False)
    before = {name: np.array(v.value) for name, v in named_weights(graph).items() if name.endswith("kernel")}
    logs = graph.train_on_batch(batch, return_dict=True)
    assert logs["mrcnn_mask_loss"] == 0
    assert all(np.isfinite(logs[name]) and logs[name] > 0 for name in LOSSES if name != "mrcnn_mask_loss")
    still = {name for name, value in before.items() if np.array_equal(value, named_weights(graph)[name].value)}
    mask_head = {"mrcnn_mask", "mrcnn_mask_deconv", *(f"mrcnn_mask_conv{i}" for i in range(1, 5))}
    assert {name.split("/")[0] for name in still if name.startswith(("mrcnn_", "rpn_"))} == mask_head


def test_detections_are_scored_by_boxes(boxes_alone, detector, eager):
    scores = evaluate(detector, boxes_alone)
    assert scores["iou_type"] == "bbox" and scores["n_images"] == 4
    for name in ("map50", "map", "per_part", "voc_map50", "voc_per_part", "image_map50"):
        assert scores[name] == scores[f"{name}_bbox"]


def test_a_detector_that_returns_the_boxes_scores_one(boxes_alone):
    class Knows:
        def detect_boxes(self, images):
            found = []
            for image in images:
                (index,) = [i for i in range(len(boxes_alone)) if np.array_equal(boxes_alone.load_image(i), image)]
                ids, boxes, _, has_mask = boxes_alone.load_instances(index)
                assert not has_mask.any()
                found.append({"rois": boxes, "class_ids": ids, "scores": np.full(len(ids), 0.9)})
            return found

    scores = evaluate(Knows(), boxes_alone)
    for name in ("map50", "map", "voc_map50", "image_map50"):
        assert scores[name] == pytest.approx(1.0), name
    assert set(scores["per_part"]) == set(scores["voc_per_part"]) == {"vehicle_left", "vehicle_right", "wheel"}
