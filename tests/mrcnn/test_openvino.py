"""K on OpenVINO finds what K finds on TensorFlow."""

import gc

import numpy as np
import pytest

from unmask_tf.defense.extract import PartExtractor
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.engines import capabilities
from unmask_tf.mrcnn.fast import FastDetector, rewritten_detector
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.weights import save_weights

openvino = pytest.importorskip("openvino")


def same_boxes(found, expected, atol=1e-4):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a["class_ids"].tolist() == b["class_ids"].tolist()
        np.testing.assert_allclose(a["scores"], b["scores"], atol=atol)
        np.testing.assert_allclose(a["rois"], b["rois"], atol=1)


def made(config, randomize, folder, seed=1):
    model = MaskRCNN("inference", config, folder)
    randomize(model.keras_model, seed)
    save_weights(model.keras_model, folder / "k.h5")
    return config, folder / "k.h5"


@pytest.fixture(scope="module")
def k(tiny_config, randomize, tmp_path_factory):
    """(config, weights file, detector on TensorFlow, detector on OpenVINO)."""
    config, weights = made(tiny_config(), randomize, tmp_path_factory.mktemp("openvino"))
    detectors = FastDetector(config, weights), FastDetector(config, weights, "openvino")
    gc.collect()  # so that a network that points into TensorFlow's memory would be found out
    return config, weights, *detectors


def test_the_same_boxes_whatever_the_batch(k, photographs):
    _, _, reference, detector = k
    expected = reference.detect_boxes(photographs)
    assert sum(len(found["class_ids"]) for found in expected) > 8
    same_boxes(detector.detect_boxes(photographs), expected)
    same_boxes([detector.detect_boxes([image])[0] for image in photographs], expected)


def test_what_is_returned_is_not_overwritten_by_the_next_call(k, photographs):
    detector = k[3]
    first = detector.detect_boxes(photographs[:1])[0]
    kept = first["scores"].copy()
    detector.detect_boxes(photographs[1:2])
    assert first["scores"].tolist() == kept.tolist()


def test_images_of_several_sizes(tiny_config, randomize, tmp_path, photographs, taxonomy):
    config, weights = made(tiny_config(IMAGE_RESIZE_MODE="pad64"), randomize, tmp_path)
    images = [photographs[0], np.tile(photographs[1], (1, 2, 1)), photographs[2], np.tile(photographs[3], (2, 1, 1))]
    sets = [
        [{part: len(seen.boxes) for part, seen in found.items()} for found in extractor.extract(images)]
        for extractor in (PartExtractor(config, weights, taxonomy, 2, engine=e) for e in ("tensorflow", "openvino"))
    ]
    assert sets[0] == sets[1]
    assert all(sets[0]) and sets[0][0] != sets[0][2]


@pytest.mark.parametrize("more", [{"PER_CLASS_DETECTIONS": True}, {"BACKBONE": "mobilenet_v2"}])
def test_other_settings(tiny_config, randomize, tmp_path, photographs, more):
    config, weights = made(tiny_config(**more, TRAIN_BN=False), randomize, tmp_path)
    expected = FastDetector(config, weights).detect_boxes(photographs)
    assert any(len(found["class_ids"]) for found in expected)
    same_boxes(FastDetector(config, weights, "openvino").detect_boxes(photographs), expected)


def test_a_wrong_weight_would_be_seen(k, randomize, tmp_path, tiny_config, photographs):
    config, weights = made(tiny_config(), randomize, tmp_path, seed=2)
    with pytest.raises(AssertionError):
        same_boxes(FastDetector(config, weights, "openvino").detect_boxes(photographs), k[2].detect_boxes(photographs))


def test_bfloat16_is_near_and_float32_is_not_rounded(k, photographs):
    from unmask_tf.mrcnn.openvino_network import OpenVinoDetections

    if "BF16" not in capabilities():
        pytest.skip("this processor has no bfloat16")
    config, weights, reference, detector = k
    molded, _, _ = reference.molded(photographs)
    exact = np.array(detector._function._features(molded)[0])
    rounded = OpenVinoDetections(rewritten_detector(config, weights), "bf16")._features(molded)[0]
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_a_quantized_k_is_near_the_one_it_was_made_of(k, photographs):
    pytest.importorskip("nncf")
    from unmask_tf.mrcnn.quantize import quantize

    config, weights, reference, detector = k
    with pytest.raises(InputError, match="make quantize-k"):
        FastDetector(config, weights, "openvino_int8")
    with pytest.raises(ValueError, match="no images|none were given"):
        quantize(config, weights, [])
    folder = quantize(config, weights, photographs)
    assert folder == weights.with_suffix(".int8")
    quantized = FastDetector(config, weights, "openvino_int8")
    molded, _, _ = reference.molded(photographs)
    exact, rounded = (np.array(d._function._features(molded)[0]) for d in (detector, quantized))
    assert 0 < np.abs(rounded - exact).mean() < 0.1 * np.abs(exact).mean()
    assert [len(found["scores"]) for found in quantized.detect_boxes(photographs)]
