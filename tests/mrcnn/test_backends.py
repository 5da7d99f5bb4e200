"""K on Keras' other backends: Matterport's golden network and training steps, on PyTorch and on JAX.

A backend is chosen once per process, so each case runs in one of its own (backend_probe.py).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import golden_files as golden
import numpy as np
import pytest

from unmask_tf.mrcnn.losses import LOSSES

PROBE = Path(__file__).with_name("backend_probe.py")
ROOT = PROBE.parents[2]
CASES = {case["name"]: case for case in golden.facts()["network"]}


def _missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


BACKENDS = [
    pytest.param("torch", marks=pytest.mark.skipif(_missing("torch"), reason="PyTorch is not installed")),
    # JAX compiles for a minute.
    pytest.param("jax", marks=[pytest.mark.slow, pytest.mark.skipif(_missing("jax"), reason="JAX is not installed")]),
]
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, np.ndarray]]:
    """Results of backend_probe.py by backend and case, computed once."""

    @cache
    def run(backend: str, case: str) -> dict[str, np.ndarray]:
        path = tmp_path_factory.mktemp("probe") / f"{backend}-{case}.npz"
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": search, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            [sys.executable, str(PROBE), case, str(path)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(path) as file:
            results = {key: file[key] for key in file.files}
        assert str(results["backend"]) == backend
        return results

    return run


def test_rpn_and_heads_are_matterports(backend: str, probe: Callable) -> None:
    out, stored = probe(backend, "network"), golden.arrays("network_square")
    for ours, theirs in (
        *(("rpn_class", "rpn_class"), ("rpn_bbox", "rpn_bbox"), ("rois", "proposals")),
        *(("mrcnn_class", "mrcnn_class"), ("mrcnn_bbox", "mrcnn_bbox"), ("detections", "detections")),
    ):
        np.testing.assert_allclose(out[f"network_{ours}"][0], stored[theirs], rtol=0, atol=1e-4, err_msg=ours)


@pytest.mark.parametrize("name", ["square", "padded"])
def test_detect_finds_what_matterports_detect_finds_in_a_batch_of_two(backend: str, probe: Callable, name: str) -> None:
    out, shape = probe(backend, "network"), tuple(CASES[name]["mask_shape"])
    result = {key: out[f"{name}_{key}"] for key in ("rois", "class_ids", "scores")}
    golden.assert_found({**result, "masks": golden.bits(out[f"{name}_masks"], shape)}, name)


@pytest.mark.parametrize("name", ["square", "padded"])
@pytest.mark.parametrize(("way", "tolerance"), [("without_masks", 1e-5), ("folded", 1e-4)])
def test_detection_without_masks_finds_the_same(
    backend: str, probe: Callable, way: str, tolerance: float, name: str
) -> None:
    out = probe(backend, "network")
    assert out[f"{name}_{way}_class_ids"].tolist() == out[f"{name}_class_ids"].tolist()
    assert np.abs(out[f"{name}_{way}_rois"] - out[f"{name}_rois"]).max() <= 1
    np.testing.assert_allclose(out[f"{name}_{way}_scores"], out[f"{name}_scores"], rtol=0, atol=tolerance)


def test_three_training_steps_are_matterports(backend: str, probe: Callable) -> None:
    out, expected = probe(backend, "training"), golden.facts()["train_steps"]["stages"]["all"]
    assert expected["metrics"] == ["loss", *LOSSES]
    np.testing.assert_allclose(out["losses"], np.array(expected["steps"])[:, 1:], rtol=0, atol=1e-4)
    golden.assert_moved_alike("train_steps", "all", dict(zip(out["names"], out["moved"], strict=True)))


@pytest.mark.parametrize("name", ["square", "padded"])
def test_the_gradients_of_an_attack_on_k_are_tensorflows(backend: str, probe: Callable, name: str) -> None:
    out, expected = probe(backend, "gradient"), probe("tensorflow", "gradient")
    for key in ("strongest", "margins"):
        np.testing.assert_allclose(out[f"{name}_{key}"], expected[f"{name}_{key}"], rtol=0, atol=1e-3)
    for loss in ("soft_jaccard", "hinges"):
        np.testing.assert_allclose(out[f"{name}_{loss}"], expected[f"{name}_{loss}"], rtol=1e-4)
        ours, theirs = (found[f"{name}_{loss}_gradient"].ravel() for found in (out, expected))
        assert np.linalg.norm(theirs) > 0
        assert np.linalg.norm(ours - theirs) < 0.1 * np.linalg.norm(theirs)  # ReLUs at their kinks differ
