"""K's network on OpenVINO: everything up to the RPN's outputs, and the class head. What lies between stays here.

OpenVINO has no counterpart of TensorFlow's suppression by overlaps, and its proposals would differ in ties. Proposals,
region alignment and the final suppression are therefore the layers of rpn.py, roi_align.py and detections.py, on
TensorFlow, as in the reference; they take a few per cent of the time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

NETWORKS = ("features", "head")


@dataclass(frozen=True)
class Halves:
    """K's detector, cut into what OpenVINO computes and what it does not.

    Attributes:
        features: molded images (B, H, W, 3) to P2..P5, RPN probabilities (B, A, 2) and deltas (B, A, 4).
        head: aligned regions (B * N, pool, pool, C) to class probabilities (B, N, classes), deltas (B, N, classes, 4).
        proposals, align, detection: layers without weights, and without the graph that they came from.
    """

    features: keras.Model
    head: keras.Model
    proposals: Any
    align: Any
    detection: Any


def halves(network: keras.Model) -> Halves:
    """Cuts a detector, of inputs image, anchors and window, with one output, the detections."""
    proposals, align, detection = (
        network.get_layer(name) for name in ("ROI", "roi_align_classifier", "mrcnn_detection")
    )
    features = keras.Model(network.inputs[0], [*align.input[2:], *proposals.input[:2]])
    head = keras.Model(align.output, detection.input[1:3])
    # New layers: the old ones would keep the whole graph, with all weights, in memory.
    between = (type(layer).from_config(layer.get_config()) for layer in (proposals, align, detection))
    return Halves(features, head, *between)


def convert(network: keras.Model) -> dict[str, Any]:
    """A detector's networks as `openvino.Model`, by name; the batch, and what other sizes are open, stay open."""
    import openvino
    import tensorflow as tf

    cut, converted = halves(network), {}
    for name in NETWORKS:
        model = getattr(cut, name)
        function = tf.function(lambda x, model=model: model(x, training=False), jit_compile=False)
        concrete = function.get_concrete_function(tf.TensorSpec((None, *model.input_shape[1:])))
        # Where sizes are open, OpenVINO would count inner values among the outputs.
        outputs = [tensor.name for tensor in concrete.outputs]
        # Shared, the weights would lie in TensorFlow's variables, which end with `network`.
        converted[name] = openvino.convert_model(concrete, output=outputs, share_weights=False)
    return converted


def read(folder: Path) -> dict[str, Any]:
    """Converted networks by name, from a folder that `write` made."""
    import openvino

    core = openvino.Core()
    return {name: core.read_model(folder / f"{name}.xml") for name in NETWORKS}


def write(networks: dict[str, Any], folder: Path) -> None:
    """Writes converted networks."""
    import openvino

    folder.mkdir(parents=True, exist_ok=True)
    for name, network in networks.items():
        openvino.save_model(network, folder / f"{name}.xml", compress_to_fp16=False)


def inference(network: Any, precision: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A converted network as a function of its input; what it returns is valid until the next call.

    Args:
        precision: OpenVINO's name of a floating-point type, `f32` or `bf16`. Quantised operations stay so.
    """
    import openvino

    # Pinned threads of several workers would all sit on the same cores.
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        options["INFERENCE_NUM_THREADS"] = int(threads)
    request = openvino.Core().compile_model(network, "CPU", options).create_infer_request()

    def infer(x: np.ndarray) -> list[np.ndarray]:
        found = request.infer([x], share_inputs=True, share_outputs=True)
        return [found[i] for i in range(len(found))]

    return infer


class OpenVinoDetections:
    """K's detections (B, count, 6) of molded images (B, H, W, 3), anchors (B, A, 4) and windows (B, 4).

    Args:
        network: the rewritten detector (`fast.rewrite`); it is not needed afterwards.
        precision: as of `inference`.
        networks: instead of `network`'s own, converted; it then only gives the layers in between.
    """

    def __init__(self, network: keras.Model, precision: str, networks: Mapping[str, Any] | None = None) -> None:
        import tensorflow as tf

        networks = networks or convert(network)
        self._features, self._head = (inference(networks[name], precision) for name in NETWORKS)
        cut = halves(network)
        proposals, align, detection = cut.proposals, cut.align, cut.detection
        self._one_at_a_time = threading.Lock()

        def regions(image: Any, anchors: Any, probabilities: Any, deltas: Any, *pyramid: Any) -> tuple[Any, Any]:
            rois = proposals([probabilities, deltas, anchors])
            return rois, align([rois, image, *pyramid])

        self._regions = tf.function(regions, jit_compile=False)
        self._detection = tf.function(lambda *inputs: detection(list(inputs)), jit_compile=False)

    def regions(self, molded: np.ndarray, anchors: np.ndarray) -> tuple[Any, np.ndarray]:
        """Proposals (B, N, 4) of molded images, and the head's input (B * N, pool, pool, C)."""
        import tensorflow as tf

        *pyramid, probabilities, deltas = self._features(np.ascontiguousarray(molded, np.float32))
        inputs = (molded, np.float32(anchors), probabilities, deltas, *pyramid)
        rois, aligned = self._regions(*(tf.convert_to_tensor(x) for x in inputs))
        return rois, aligned.numpy()

    def __call__(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        import tensorflow as tf

        molded, anchors, windows = inputs
        with self._one_at_a_time:
            rois, aligned = self.regions(molded, anchors)
            probabilities, deltas = (tf.convert_to_tensor(x) for x in self._head(aligned))
            return self._detection(rois, probabilities, deltas, tf.convert_to_tensor(np.float32(windows))).numpy()
