"""Ours against Matterport's own package, the whole ResNet-50 network: features, detections, weights files, training."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import golden_files as golden
import h5py
import keras
import numpy as np
import pytest

from unmask_tf.mrcnn import boxes, losses
from unmask_tf.mrcnn import model as model_module
from unmask_tf.mrcnn.detections import paste_mask, unmold_boxes
from unmask_tf.mrcnn.image import mold_image
from unmask_tf.mrcnn.model import MaskRCNN, build_training_model
from unmask_tf.mrcnn.rpn import ProposalLayer
from unmask_tf.mrcnn.targets import minimize_masks
from unmask_tf.mrcnn.train import LAYER_SETS, make_optimizer, set_trainable
from unmask_tf.mrcnn.weights import load_weights, named_weights, save_weights

FEATURES = ("res2c_out", "res3d_out", "res4f_out", "res5c_out", "fpn_p2", "fpn_p3", "fpn_p4", "fpn_p5", "fpn_p6")
CASES = {case["name"]: case for case in golden.facts()["network"]}
WHOLE = [pytest.param("square"), pytest.param("padded"), pytest.param("pad64", marks=pytest.mark.slow)]


def _config_of(case: dict[str, Any]):
    return golden.config(
        IMAGE_RESIZE_MODE=case["mode"],
        IMAGE_MIN_DIM=case["min_dim"],
        IMAGE_MAX_DIM=case["max_dim"],
        RPN_ANCHOR_SCALES=tuple(case["anchor_scales"]),
        POST_NMS_ROIS_INFERENCE=case["proposals"],
        DETECTION_MIN_CONFIDENCE=case["min_confidence"],
    )


@pytest.fixture(scope="module")
def square() -> MaskRCNN:
    """The seeded ResNet-50 network on 128x128 canvases."""
    network = MaskRCNN("inference", _config_of(CASES["square"]), "unused")
    golden.seed_weights(network.keras_model)
    return network


@pytest.fixture(scope="module")
def runs(square: MaskRCNN) -> Callable[[str], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Runs a case's image once: the network's tensors and `detect`'s result."""

    @cache
    def run(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        case, network = CASES[name], square
        if case["mode"] != "square":
            network = MaskRCNN("inference", _config_of(case), "unused")
            source = named_weights(square.keras_model)
            for weight, variable in named_weights(network.keras_model).items():
                variable.assign(source[weight].value)
        image = golden.weights.picture(case["seed"], case["height"], case["width"])
        graph, seen = network.keras_model, {}
        features = [graph.get_layer(layer).output for layer in FEATURES]
        tapped = keras.Model(graph.inputs, {**graph.output, **dict(zip(FEATURES, features, strict=True))})

        class Tap:
            def predict_on_batch(self, inputs: Any) -> Any:
                seen.update({key: np.asarray(value)[0] for key, value in tapped.predict_on_batch(inputs).items()})
                return {key: value[None] for key, value in seen.items()}

        network.keras_model = Tap()
        result = network.detect([image])[0]
        network.keras_model = graph
        return seen, result

    return run


def _with_area(detections: np.ndarray) -> np.ndarray:
    return detections[(detections[:, 2] > detections[:, 0]) & (detections[:, 3] > detections[:, 1])]


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of corresponding masks (H, W, N)."""
    union = (first | second).sum(axis=(0, 1))
    return np.where(union > 0, (first & second).sum(axis=(0, 1)) / np.maximum(union, 1), 1.0)


@pytest.mark.parametrize("name", WHOLE)
def test_features_rpn_proposals_and_heads_are_matterports(runs: Any, name: str) -> None:
    case, stored, (out, _) = CASES[name], golden.arrays(f"network_{name}"), runs(name)
    for layer in FEATURES:
        step = max(1, out[layer].shape[0] // 4)
        ours = out[layer][::step, ::step, :: out[layer].shape[2] // 16]
        np.testing.assert_allclose(ours, stored[layer], atol=1e-4, err_msg=layer)
    rpn, roi = case["rpn_step"], case["roi_step"]
    assert len(out["rpn_class"]) == case["anchors"]
    np.testing.assert_allclose(out["rpn_class"][::rpn], stored["rpn_class"], atol=1e-4)
    np.testing.assert_allclose(out["rpn_bbox"][::rpn], stored["rpn_bbox"], atol=1e-4)
    np.testing.assert_allclose(out["rois"], stored["proposals"], atol=1e-4)
    np.testing.assert_allclose(out["mrcnn_class"][::roi], stored["mrcnn_class"], atol=1e-4)
    np.testing.assert_allclose(out["mrcnn_bbox"][::roi], stored["mrcnn_bbox"], atol=1e-4)


@pytest.mark.parametrize("name", WHOLE)
def test_detections_with_area_are_matterports_in_order(runs: Any, name: str) -> None:
    stored, (out, _) = golden.arrays(f"network_{name}"), runs(name)
    theirs, ours = _with_area(stored["detections"]), _with_area(out["detections"])[: len(stored["detections"])]
    ours = ours[: len(theirs)]
    np.testing.assert_array_equal(ours[:, 4], theirs[:, 4])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("name", [pytest.param("padded"), pytest.param("pad64", marks=pytest.mark.slow)])
def test_detections_without_area_count_as_they_do_in_matterports(runs: Any, name: str) -> None:
    stored, (out, _) = golden.arrays(f"network_{name}"), runs(name)
    assert CASES[name]["without_area"] > 0
    np.testing.assert_array_equal(out["detections"][:, 4], stored["detections"][:, 4])
    np.testing.assert_allclose(out["detections"], stored["detections"], atol=1e-4)


@pytest.mark.parametrize("name", WHOLE)
def test_small_masks_are_matterports(runs: Any, name: str) -> None:
    stored, (out, _) = golden.arrays(f"network_{name}"), runs(name)
    # Pair the detections by box, so that this test is about masks alone.
    count = len(stored["mask_28"])
    for row, expected in zip(stored["detections"][:count], stored["mask_28"], strict=True):
        distance = np.abs(out["detections"] - row).max(axis=1)
        if row[2] > row[0] and row[3] > row[1]:
            assert distance.min() < 1e-4
            mask = out["mrcnn_mask"][distance.argmin(), :, :, int(row[4])]
            np.testing.assert_allclose(mask, expected, atol=1e-4)


@pytest.mark.parametrize("name", WHOLE)
def test_detect_finds_what_matterports_detect_finds(runs: Any, name: str) -> None:
    case, stored, (_, result) = CASES[name], golden.arrays(f"network_{name}"), runs(name)
    assert result["class_ids"].tolist() == stored["class_ids"].tolist()
    assert np.abs(result["rois"] - stored["rois"]).max() <= 1
    np.testing.assert_allclose(result["scores"], stored["scores"], atol=1e-4)
    expected = golden.bits(stored["masks"], tuple(case["mask_shape"]))
    same_box = (result["rois"] == stored["rois"]).all(axis=1)
    assert same_box.mean() > 0.95
    assert _overlap(result["masks"], expected)[same_box].min() > 0.99


def test_detections_on_a_scaled_canvas_return_to_the_image_as_matterports() -> None:
    case, stored = CASES["scaled"], golden.arrays("network_scaled")
    original = (case["height"], case["width"])
    found, rows = unmold_boxes(stored["detections"], original, (128, 128), tuple(stored["window"]))
    np.testing.assert_array_equal(found, stored["rois"])
    np.testing.assert_array_equal(stored["detections"][rows, 4], stored["class_ids"])
    count = len(stored["mask_28"])
    assert rows[:count].tolist() == list(range(count))
    pasted = np.stack([paste_mask(stored["mask_28"][i], found[i], original) for i in range(count)], axis=-1)
    expected = golden.bits(stored["masks"], tuple(case["mask_shape"]))[..., :count]
    assert _overlap(pasted, expected).min() > 0.99


def test_a_batch_gives_what_its_images_give_alone(square: MaskRCNN, runs: Any) -> None:
    names = ("square", "padded")
    images = [golden.weights.picture(CASES[n]["seed"], CASES[n]["height"], CASES[n]["width"]) for n in names]
    for result, name in zip(square.detect(images), names, strict=True):
        alone = runs(name)[1]
        assert result["class_ids"].tolist() == alone["class_ids"].tolist()
        assert np.abs(result["rois"] - alone["rois"]).max() <= 1
        np.testing.assert_allclose(result["scores"], alone["scores"], atol=1e-4)


@pytest.mark.parametrize("backbone", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_weights_file_has_the_groups_names_and_shapes_of_matterports(backbone: str, tmp_path: Path) -> None:
    layout = golden.layouts()[backbone]
    network = MaskRCNN("inference", golden.config(BACKBONE=backbone), tmp_path)
    save_weights(network.keras_model, tmp_path / "k.h5")
    with h5py.File(tmp_path / "k.h5", "r") as file:
        # Without these two attributes Keras takes the file for one of Keras 1 and rearranges the kernels.
        theirs, ours = layout["keras_version"], np.asarray(file.attrs["keras_version"]).astype(str).item()
        assert ours.split(".")[0] == theirs.split(".")[0] == "2"
        assert np.asarray(file.attrs["backend"]).astype(str).item() == layout["backend"]
        written = {}
        for layer in (name.decode() for name in file.attrs["layer_names"]):
            names = [name.decode() for name in file[layer].attrs["weight_names"]]
            written[layer] = [[name, list(file[layer][name].shape)] for name in names]
            assert all(file[layer][name].dtype == layout["dtype"] for name in names)
    # The package loads a group by position: the order inside counts, the order of the groups does not.
    assert written == dict(layout["groups"])


@pytest.mark.slow
def test_a_weights_file_in_matterports_layout_loads(tmp_path: Path, square: MaskRCNN) -> None:
    layout = golden.layouts()["resnet50"]
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        # Matterport lists layers without weights too, each with an empty group.
        file.attrs["layer_names"] = np.array([name.encode() for name in layout["training_layer_names"]])
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", layout["keras_version"].encode()
        groups = dict(layout["groups"])
        for layer in layout["training_layer_names"]:
            group, entries = file.create_group(layer), groups.get(layer, [])
            group.attrs["weight_names"] = np.array([name.encode() for name, _ in entries], "S64")
            for name, shape in entries:
                owner, kind = name.split(":")[0].split("/")[-2:]
                group.create_dataset(name, data=golden.weights.weight(owner, kind, shape))
    fresh = MaskRCNN("inference", golden.config(), tmp_path)
    report = load_weights(fresh.keras_model, tmp_path / "theirs.h5")
    assert not report.missing
    assert not report.unexpected
    expected = named_weights(square.keras_model)
    for name, variable in named_weights(fresh.keras_model).items():
        np.testing.assert_array_equal(np.asarray(variable.value), np.asarray(expected[name].value), err_msg=name)


class _GivenProposals(ProposalLayer):
    """Stands in for the RPN's proposals: fixed ROIs, so that the losses depend on no tie and no shuffle."""

    rois: np.ndarray

    def call(self, inputs: list[Any]) -> Any:
        return keras.ops.convert_to_tensor(self.rois[None])


def _training_case(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, np.ndarray]]:
    facts, stored = golden.facts()["train_steps"], golden.arrays("train_steps")
    config = golden.config(TRAIN_ROIS_PER_IMAGE=32, POST_NMS_ROIS_TRAINING=200, MAX_GT_INSTANCES=3)
    padded = np.zeros((200, 4), np.float32)
    padded[: len(stored["rois"])] = boxes.normalize(stored["rois"], (128, 128))
    monkeypatch.setattr(_GivenProposals, "rois", padded, raising=False)
    monkeypatch.setattr(model_module, "ProposalLayer", _GivenProposals)
    graph = build_training_model(config)
    masks = golden.masks_of(facts["mask_seed"], 128, 128, 3)
    deltas = np.zeros((1, config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), np.float32)
    deltas[0, : len(stored["deltas"])] = stored["deltas"]
    batch = {
        "input_image": mold_image(golden.weights.picture(facts["picture_seed"], 128, 128), config)[None],
        "input_active_class_ids": np.ones((1, 45), np.float32),
        "input_rpn_match": stored["match"][None].astype(np.int32),
        "input_rpn_bbox": deltas,
        "input_gt_class_ids": stored["ids"][None],
        "input_gt_boxes": boxes.normalize(stored["boxes"], (128, 128))[None],
        "input_gt_masks": minimize_masks(stored["boxes"], masks, config.MINI_MASK_SHAPE)[None],
        "input_gt_has_mask": np.ones((1, 3), bool),
    }
    return graph, batch


def _gradient_norms(graph: keras.Model, batch: dict[str, np.ndarray]) -> dict[str, float]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        outputs = graph(batch, training=True)
        total = graph.compute_loss(batch, None, outputs)
    variables = graph.trainable_variables
    gradients = tape.gradient(total, [v.value for v in variables])
    names = {id(variable): name for name, variable in named_weights(graph).items()}
    return {names[id(v)]: float(np.linalg.norm(g)) for v, g in zip(variables, gradients, strict=True)}


@pytest.mark.slow
def test_losses_gradients_and_training_steps_are_matterports(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = golden.facts()["train_steps"]
    graph, batch = _training_case(monkeypatch)
    golden.seed_weights(graph)
    start = {name: np.asarray(variable.value) for name, variable in named_weights(graph).items()}
    for stage, expected in facts["stages"].items():
        for name, variable in named_weights(graph).items():
            variable.assign(start[name])
        set_trainable(graph, LAYER_SETS[stage])
        regulariser = float(losses.weight_decay(graph.trainable_variables, facts["weight_decay"]))
        assert regulariser == pytest.approx(expected["regulariser"], rel=1e-4)
        norms = _gradient_norms(graph, batch)
        assert len(norms) == expected["trainable_weights"]
        theirs = {"/".join(n.split(":")[0].split("/")[-2:]): v for n, v in expected["gradient_norms"].items()}
        assert norms == pytest.approx(theirs, rel=2e-3, abs=1e-4)
        graph.compile(optimizer=make_optimizer(golden.config(), facts["learning_rate"]), jit_compile=False)
        for step in expected["steps"]:
            graph.reset_metrics()
            logs = graph.train_on_batch(batch, return_dict=True)
            wanted = dict(zip(expected["metrics"], step, strict=True))
            ours = {name: float(logs[name]) for name in model_module.LOSSES}
            assert ours == pytest.approx({name: wanted[name] for name in ours}, rel=2e-3, abs=1e-4), stage
