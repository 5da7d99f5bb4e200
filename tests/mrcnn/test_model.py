"""K assembled: detection is the same in any batch, with or without masks; the training graph sums its losses."""

import numpy as np
import pytest

from unmask_tf.mrcnn.detections import paste_mask
from unmask_tf.mrcnn.ground_truth import load_ground_truth
from unmask_tf.mrcnn.losses import LOSSES
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.samples import Passes, Ready
from unmask_tf.mrcnn.weights import named_weights


@pytest.fixture(scope="module")
def batch_of_four(detector, photographs):
    return detector.detect(photographs)


def test_detections_are_boxes_in_the_image_with_class_score_and_mask(batch_of_four):
    assert sum(len(result["rois"]) for result in batch_of_four) >= 8, "too few detections to test anything"
    assert len({int(i) for result in batch_of_four for i in result["class_ids"]}) > 1
    for result in batch_of_four:
        count = len(result["rois"])
        assert result["rois"].shape == (count, 4) and result["rois"].dtype == np.int32
        assert result["class_ids"].shape == (count,) and result["class_ids"].dtype == np.int32
        assert result["scores"].shape == (count,) and result["scores"].dtype == np.float32
        assert result["masks"].shape == (64, 64, count) and result["masks"].dtype == bool
        assert (result["rois"][:, :2] < result["rois"][:, 2:]).all()
        assert result["rois"].min() >= 0 and result["rois"].max() <= 64
        assert set(result["class_ids"]) <= {1, 2, 3}
        assert (np.diff(result["scores"]) <= 0).all() and 0 < result["scores"].min() <= result["scores"].max() <= 1
        for index, (y1, x1, y2, x2) in enumerate(result["rois"]):
            outside = result["masks"][..., index].copy()
            outside[y1:y2, x1:x2] = False
            assert not outside.any()
    assert any(result["masks"].any() for result in batch_of_four)


def test_every_detection_gets_the_mask_of_its_own_row_and_class(detector, photographs, batch_of_four):
    raw = np.asarray(detector.keras_model.predict_on_batch(detector._inputs(photographs)[0])["mrcnn_mask"])
    assert raw.shape == (4, 6, 28, 28, 4)
    differences = 0
    for image, result in enumerate(batch_of_four):
        for row, (box, class_id) in enumerate(zip(result["rois"], result["class_ids"], strict=True)):
            expected = paste_mask(raw[image, row, :, :, class_id], box, (64, 64))
            assert (result["masks"][..., row] == expected).all()
            others = [raw[image, 0, :, :, class_id], raw[0, row, :, :, class_id], raw[image, row, :, :, 0]]
            differences += np.array([(paste_mask(other, box, (64, 64)) != expected).any() for other in others])
    assert (differences > 0).all(), "another row, image or class would have been noticed"


def test_a_batch_of_four_detects_what_four_batches_of_one_detect(detector, photographs, batch_of_four):
    for image, expected in zip(photographs, batch_of_four, strict=True):
        (alone,) = detector.detect([image])
        np.testing.assert_array_equal(alone["rois"], expected["rois"])
        np.testing.assert_array_equal(alone["class_ids"], expected["class_ids"])
        np.testing.assert_allclose(alone["scores"], expected["scores"], atol=1e-5)
        assert np.mean(alone["masks"] != expected["masks"]) < 1e-3


def test_detect_boxes_is_detect_without_masks(detector, photographs, batch_of_four):
    for boxes, full in zip(detector.detect_boxes(photographs), batch_of_four, strict=True):
        assert boxes.keys() == {"rois", "class_ids", "scores"}
        np.testing.assert_array_equal(boxes["rois"], full["rois"])
        np.testing.assert_array_equal(boxes["class_ids"], full["class_ids"])
        np.testing.assert_allclose(boxes["scores"], full["scores"], atol=1e-6)


def test_detect_boxes_never_runs_the_mask_head(detector, photographs):
    detector.detect_boxes(photographs)
    names = {layer.name for layer in detector._detector.layers}
    assert "mrcnn_bbox_fc" in names
    assert not [name for name in names if name.startswith("mrcnn_mask") or name == "roi_align_mask"]


def test_images_of_several_sizes_are_detected_in_one_batch(detector, eager):
    sizes = [(48, 64), (90, 30), (200, 150)]
    images = [np.random.RandomState(i).randint(0, 256, (*size, 3)).astype(np.uint8) for i, size in enumerate(sizes)]
    results = detector.detect(images)
    assert sum(len(result["rois"]) for result in results) > 2
    for (height, width), result in zip(sizes, results, strict=True):
        assert result["masks"].shape[:2] == (height, width)
        assert (result["rois"] <= [height, width, height, width]).all() and (result["rois"] >= 0).all()


def test_where_nothing_is_detected_the_arrays_are_empty(tiny_config, photographs, tmp_path, eager):
    model = MaskRCNN("inference", tiny_config(DETECTION_MIN_CONFIDENCE=1.1), tmp_path)
    (result,) = model.detect(photographs[:1])
    assert result["rois"].shape == (0, 4) and result["masks"].shape == (64, 64, 0)
    assert len(result["class_ids"]) == len(result["scores"]) == 0
    assert len(model.detect_boxes(photographs[:1])[0]["rois"]) == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([np.zeros((64, 64), np.uint8)], r"\(64, 64\)"),
        ([np.zeros((64, 64, 4), np.uint8)], r"\(64, 64, 4\)"),
        ([np.zeros((64, 64, 3), np.float32)], "float32"),
        ([], "no images"),
    ],
    ids=["grey", "alpha", "float", "none"],
)
def test_bad_images_are_refused(detector, images, words):
    with pytest.raises(ValueError, match=words):
        detector.detect(images)
    with pytest.raises(ValueError, match=words):
        detector.detect_boxes(images)


def test_an_unknown_mode_is_refused(tiny_config, tmp_path):
    with pytest.raises(ValueError, match=r"'test'.*training.*inference"):
        MaskRCNN("test", tiny_config(), tmp_path)


def test_anchors_of_a_canvas_are_computed_once(detector):
    first = detector.anchors((64, 64, 3))
    assert first.shape == (3 * (256 + 64 + 16 + 4 + 1), 4) and first.dtype == np.float32
    assert detector.anchors((64, 64)) is first
    assert detector.anchors((64, 128)) is not first


@pytest.fixture(scope="module")
def trainer_graph(tiny_config, randomize, tmp_path_factory):
    config = tiny_config(LOSS_WEIGHTS=dict(zip(LOSSES, (1.0, 2.0, 3.0, 4.0, 5.0), strict=True)), WEIGHT_DECAY=0.1)
    model = MaskRCNN("training", config, tmp_path_factory.mktemp("graph"))
    randomize(model.keras_model, 1)
    return model


def first_batch(config, parts):
    truths = [load_ground_truth(parts, i, config) for i in range(len(parts))]
    return next(Passes(Ready(truths, config), config).batches(0))


def test_a_training_graph_does_not_detect(trainer_graph, photographs):
    with pytest.raises(ValueError, match="mode='inference'"):
        trainer_graph.detect(photographs)


def test_both_graphs_have_the_same_weights(trainer_graph, detector):
    shapes = [{n: v.shape for n, v in named_weights(m.keras_model).items()} for m in (trainer_graph, detector)]
    assert shapes[0] == shapes[1]


def test_the_training_graph_gives_five_finite_losses(trainer_graph, parts):
    outputs = trainer_graph.keras_model(first_batch(trainer_graph.config, parts), training=False)
    assert tuple(outputs) == LOSSES
    for name, loss in outputs.items():
        assert loss.shape == () and 0 < float(loss) < 100, name


def test_the_total_is_the_weighted_sum_of_the_losses_and_the_weight_decay(trainer_graph):
    graph = trainer_graph.keras_model
    total = graph.compute_loss(y_pred={name: np.float32(10**i) for i, name in enumerate(LOSSES)})
    decayed = [v for v in graph.trainable_variables if v.name in ("kernel", "bias")]
    assert len(decayed) == len([v for v in graph.trainable_variables if v.name not in ("gamma", "beta")])
    decay = sum(0.1 * np.mean(np.square(v.numpy())) for v in decayed)
    assert decay > 0.01
    assert float(total) == pytest.approx(1 + 20 + 300 + 4000 + 50000 + decay, rel=1e-6)
    assert {m.name: float(m.result()) for m in graph.metrics if m.name in LOSSES} == pytest.approx(
        {name: 10**i for i, name in enumerate(LOSSES)}
    )


def test_a_batch_of_box_only_parts_has_no_mask_loss_but_all_others(trainer_graph, parts):
    batch = first_batch(trainer_graph.config, parts)
    batch["input_gt_has_mask"][:] = False
    outputs = trainer_graph.keras_model(batch, training=False)
    assert float(outputs["mrcnn_mask_loss"]) == 0
    assert all(float(outputs[name]) > 0 for name in LOSSES if name != "mrcnn_mask_loss")


def test_train_bn_false_trains_on_the_moving_statistics(tiny_config, parts, randomize, tmp_path):
    """A graph called for training must not turn batch normalisation to the batch's own statistics."""
    model = MaskRCNN("training", tiny_config(TRAIN_BN=False), tmp_path)
    graph = model.keras_model
    randomize(graph, 1)
    batch = first_batch(model.config, parts)
    sampler = graph.get_layer("proposal_targets").seed_generator.state
    start = np.array(sampler.value)
    statistics = {n: np.array(v.value) for n, v in named_weights(graph).items() if "moving" in n}
    training = {name: float(loss) for name, loss in graph(batch, training=True).items()}
    sampler.assign(start)
    assert training == {name: float(loss) for name, loss in graph(batch, training=False).items()}
    for name, value in statistics.items():
        np.testing.assert_array_equal(named_weights(graph)[name], value, err_msg=name)
