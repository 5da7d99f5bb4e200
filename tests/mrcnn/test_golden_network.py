"""Ours against Matterport's own package, whole networks: features, detections, weights files, training.

ResNet-50 and ResNet-101, 45 and 25 classes, square and oblong canvases, one image and two. The package itself was asked
one image at a time: the PyramidROIAlign of PyPI's mrcnn 0.2 packs the crops of all images into a batch of one, so the
reference for a batch of two is two runs with one image each.
"""

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

from unmask_tf.mrcnn import losses
from unmask_tf.mrcnn.detections import paste_mask, unmold_boxes
from unmask_tf.mrcnn.fit import make_optimizer, set_trainable
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.schedules import LAYER_SETS
from unmask_tf.mrcnn.weights import load_weights, named_weights, save_weights

CASES = {case["name"]: case for case in golden.facts()["network"]}
SLOW = {"pad64", "deep_padded", "deep_25", "shallow_25"}
WHOLE = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name, case in CASES.items()
    if case["stored"] != "outputs"
]


@pytest.fixture(scope="module")
def network() -> Callable[[str], MaskRCNN]:
    """The seeded network of a case; cases with the same settings share it."""
    made: dict[str, MaskRCNN] = {}

    def of(name: str) -> MaskRCNN:
        config = golden.network_config(CASES[name])
        key = repr({name: value for name, value in config.to_dict().items() if np.ndim(value) <= 1})
        if key not in made:
            made[key] = MaskRCNN("inference", config, "unused")
            golden.seed_weights(made[key].keras_model)
        return made[key]

    return of


@pytest.fixture(scope="module")
def runs(network: Any) -> Callable[[str], tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Runs a case's image once: the network's tensors and `detect`'s result."""

    @cache
    def run(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        model, names = network(name), CASES[name]["features"]
        graph, seen = model.keras_model, {}
        features = [graph.get_layer(layer).output for layer in names]
        tapped = keras.Model(graph.inputs, {**graph.output, **dict(zip(names, features, strict=True))})

        class Tap:
            def predict_on_batch(self, inputs: Any) -> Any:
                seen.update({key: np.asarray(value)[0] for key, value in tapped.predict_on_batch(inputs).items()})
                return {key: value[None] for key, value in seen.items()}

        model.keras_model = Tap()
        try:
            result = model.detect([golden.picture(CASES[name])])[0]
        finally:
            model.keras_model = graph
        return seen, result

    return run


def _with_area(detections: np.ndarray) -> np.ndarray:
    return detections[(detections[:, 2] > detections[:, 0]) & (detections[:, 3] > detections[:, 1])]


@pytest.mark.parametrize("name", WHOLE)
def test_features_rpn_proposals_and_heads_are_matterports(runs: Any, name: str) -> None:
    case, stored, (out, _) = CASES[name], golden.arrays(f"network_{name}"), runs(name)
    for layer in case["features"]:
        step = max(1, out[layer].shape[0] // 4)
        ours = out[layer][::step, ::step, :: out[layer].shape[2] // 16]
        np.testing.assert_allclose(ours, stored[layer], rtol=0, atol=1e-4, err_msg=layer)
    rpn, roi = case["rpn_step"], case["roi_step"]
    assert len(out["rpn_class"]) == case["anchors"]
    np.testing.assert_allclose(out["rpn_class"][::rpn], stored["rpn_class"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(out["rpn_bbox"][::rpn], stored["rpn_bbox"], rtol=0, atol=1e-4)
    order = golden.in_their_order(golden.rows_equal(stored["proposals"], out["rois"]))
    np.testing.assert_allclose(out["rois"][order], stored["proposals"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(out["mrcnn_class"][order][::roi], stored["mrcnn_class"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(out["mrcnn_bbox"][order][::roi], stored["mrcnn_bbox"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WHOLE)
def test_detections_with_area_are_matterports_in_order(runs: Any, name: str) -> None:
    stored, (out, _) = golden.arrays(f"network_{name}"), runs(name)
    theirs, ours = _with_area(stored["detections"]), _with_area(out["detections"])[: len(stored["detections"])]
    ours = ours[: len(theirs)]
    assert (np.diff(ours[:, 5]) <= 0).all()
    order = golden.in_their_order(golden.rows_equal(theirs, ours))
    np.testing.assert_allclose(ours[order], theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name", [case for case in WHOLE if CASES[case.values[0]]["without_area"]], ids=lambda name: name
)
def test_detections_without_area_count_as_they_do_in_matterports(runs: Any, name: str) -> None:
    stored, (out, _) = golden.arrays(f"network_{name}"), runs(name)
    assert (np.diff(out["detections"][:, 5]) <= 0).all()
    order = golden.in_their_order(golden.rows_equal(stored["detections"], out["detections"]))
    np.testing.assert_allclose(out["detections"][order], stored["detections"], rtol=0, atol=1e-4)


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
    golden.assert_found(runs(name)[1], name)


def test_a_filter_off_by_a_hundredth_exceeds_the_bounds(network: Any) -> None:
    case, stored, model = CASES["square"], golden.arrays("network_square"), network("square")
    kernel = named_weights(model.keras_model)["res4b_branch2b/kernel"]
    before = np.array(kernel.value)
    kernel.assign(before * np.where(np.arange(before.shape[-1]) == 0, 1.01, 1.0))
    out = model.keras_model.predict_on_batch(model._inputs([golden.picture(case)])[0])
    kernel.assign(before)
    for name in ("rpn_class", "rpn_bbox"):
        assert np.abs(np.asarray(out[name])[0, :: case["rpn_step"]] - stored[name]).max() > 3e-4
    assert not golden.rows_equal(stored["detections"], np.asarray(out["detections"])[0]).diagonal().all()


def test_only_neighbours_whose_scores_nearly_tie_may_change_places() -> None:
    theirs = golden.arrays("network_padded")["detections"]
    places = np.arange(len(theirs))
    tie = int(np.diff(theirs[:, 5]).argmax())
    exchanged = np.concatenate([places[:tie], [tie + 1, tie], places[tie + 2 :]])
    assert golden.in_their_order(golden.rows_equal(theirs, theirs[exchanged])).tolist() == exchanged.tolist()
    for other in (np.roll(places, 1), places[::-1], np.concatenate([places[2:4], places[:2], places[4:]])):
        with pytest.raises(AssertionError):
            golden.in_their_order(golden.rows_equal(theirs, theirs[other]))


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
    golden.assert_masks_alike(pasted, expected)


@pytest.mark.parametrize(
    "names", [("square", "padded"), pytest.param(("deep", "deep_padded"), marks=pytest.mark.slow)], ids="+".join
)
def test_a_batch_of_two_gives_what_matterports_gives_for_each_image(network: Any, names: tuple[str, str]) -> None:
    assert network(names[0]) is network(names[1])
    for order in (names, names[::-1]):
        results = network(names[0]).detect([golden.picture(CASES[name]) for name in order])
        for result, name in zip(results, order, strict=True):
            golden.assert_found(result, name)


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
def test_a_weights_file_in_matterports_layout_loads(tmp_path: Path, network: Any) -> None:
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
    expected = named_weights(network("square").keras_model)
    for name, variable in named_weights(fresh.keras_model).items():
        np.testing.assert_array_equal(np.asarray(variable.value), np.asarray(expected[name].value), err_msg=name)


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
@pytest.mark.parametrize("name", ["train_steps", "train_steps_deep"], ids=["resnet50-45", "resnet101-25"])
def test_losses_gradients_and_three_training_steps_are_matterports(name: str) -> None:
    facts = golden.facts()[name]
    graph, batch = golden.training_case(name)
    golden.seed_weights(graph)
    variables = named_weights(graph)
    start = {weight: np.array(variable.value) for weight, variable in variables.items()}
    for stage, expected in facts["stages"].items():
        for weight, variable in variables.items():
            variable.assign(start[weight])
        set_trainable(graph, LAYER_SETS[stage])
        regulariser = float(losses.weight_decay(graph.trainable_variables, facts["weight_decay"]))
        assert regulariser == pytest.approx(expected["regulariser"], rel=1e-4)
        norms = _gradient_norms(graph, batch)
        assert len(norms) == expected["trainable_weights"]
        theirs = {"/".join(n.split(":")[0].split("/")[-2:]): v for n, v in expected["gradient_norms"].items()}
        assert norms == pytest.approx(theirs, rel=2e-3, abs=1e-4)
        graph.compile(optimizer=make_optimizer(golden.config(), expected["learning_rate"]), jit_compile=False)
        for number, step in enumerate(expected["steps"]):
            graph.reset_metrics()
            logs = graph.train_on_batch(batch, return_dict=True)
            wanted = dict(zip(expected["metrics"], step, strict=True))
            ours = {loss: float(logs[loss]) for loss in losses.LOSSES}
            # After the first step, the weights too carry rounding.
            rel = 2e-3 if number else 0
            assert ours == pytest.approx({loss: wanted[loss] for loss in ours}, rel=rel, abs=1e-4), (stage, number)
        moved = {
            weight: golden.weights.digest(weight, np.asarray(variable.value) - start[weight])
            for weight, variable in variables.items()
        }
        golden.assert_moved_alike(name, stage, moved)
