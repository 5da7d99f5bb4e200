"""Runs a golden case on the Keras backend that KERAS_BACKEND names, in a process of its own (a backend is chosen once).

KERAS_BACKEND=torch python tests/mrcnn/backend_probe.py network|training|gradient out.npz
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import golden_files as golden
import keras
import numpy as np

from unmask_tf.attacks.part_losses import hinges, soft_jaccard
from unmask_tf.mrcnn.fast import FastDetector
from unmask_tf.mrcnn.fit import make_optimizer
from unmask_tf.mrcnn.graphs import build_inference_model
from unmask_tf.mrcnn.losses import LOSSES
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.part_presence import PartPresence
from unmask_tf.mrcnn.weights import named_weights, save_weights


def network() -> dict[str, np.ndarray]:
    """The cases `square` and `padded` as one batch: the network's outputs, and what `detect`, `detect_boxes` and the
    folded detector find."""
    cases = {case["name"]: case for case in golden.facts()["network"]}
    model = MaskRCNN("inference", golden.network_config(cases["square"]), "unused")
    golden.seed_weights(model.keras_model)
    graph, found = model.keras_model, {}

    class Recorder:
        def predict_on_batch(self, inputs: Any) -> Any:
            found.update({name: np.asarray(value) for name, value in graph.predict_on_batch(inputs).items()})
            return found

    images = [golden.picture(cases[name]) for name in ("square", "padded")]
    model.keras_model = Recorder()
    results = model.detect(images)
    model.keras_model = graph
    out = {f"network_{name}": value for name, value in found.items() if name != "mrcnn_mask"}
    with tempfile.TemporaryDirectory() as folder:
        save_weights(graph, Path(folder) / "k.h5")
        folded = FastDetector(model.config, Path(folder) / "k.h5").detect_boxes(images)
    without_masks = model.detect_boxes(images)
    for number, name in enumerate(("square", "padded")):
        out.update({f"{name}_{key}": value for key, value in results[number].items() if key != "masks"})
        out[f"{name}_masks"] = np.packbits(results[number]["masks"])
        out.update({f"{name}_without_masks_{key}": value for key, value in without_masks[number].items()})
        out.update({f"{name}_folded_{key}": value for key, value in folded[number].items()})
    return out


def training() -> dict[str, np.ndarray]:
    """Three steps on the case `train_steps`, all layers: losses, and digests of the change of every weight."""
    rate = golden.facts()["train_steps"]["stages"]["all"]["learning_rate"]
    graph, batch = golden.training_case("train_steps")
    golden.seed_weights(graph)
    start = {name: np.array(keras.ops.convert_to_numpy(v.value)) for name, v in named_weights(graph).items()}
    graph.compile(optimizer=make_optimizer(golden.config(), rate), jit_compile=False)
    steps = []
    for _ in range(3):
        graph.reset_metrics()
        logs = graph.train_on_batch(batch, return_dict=True)
        steps.append([float(logs[name]) for name in LOSSES])
    digests = {
        name: golden.weights.digest(name, keras.ops.convert_to_numpy(v.value) - start[name])
        for name, v in named_weights(graph).items()
    }
    return {"losses": np.array(steps), "names": np.array(list(digests)), "moved": np.array(list(digests.values()))}


def gradient() -> dict[str, np.ndarray]:
    """The cases `square` and `padded`, one by one, attacked through K: losses, margins and gradients by the image."""
    cases = {case["name"]: case for case in golden.facts()["network"]}
    config, out = golden.network_config(cases["square"]), {}
    graph = build_inference_model(config)
    golden.seed_weights(graph)
    with tempfile.TemporaryDirectory() as folder:
        save_weights(graph, Path(folder) / "k.h5")
        presence = PartPresence(config, Path(folder) / "k.h5", batch_size=1)
    wanted = np.where(np.arange(config.NUM_CLASSES - 1) % 2, 1.0, -1.0).astype(np.float32)[None]
    for name in ("square", "padded"):
        image = golden.picture(cases[name])[None].astype(np.float32) / np.float32(255)
        for loss in (soft_jaccard, hinges):
            values, gradients, strongest = presence.gradients(image, loss, wanted)
            out[f"{name}_{loss.__name__}"], out[f"{name}_{loss.__name__}_gradient"] = values, gradients
        out[f"{name}_strongest"], out[f"{name}_margins"] = strongest, presence.margins(image)
    return out


if __name__ == "__main__":
    results = {"network": network, "training": training, "gradient": gradient}[sys.argv[1]]()
    np.savez(sys.argv[2], backend=keras.backend.backend(), **results)
