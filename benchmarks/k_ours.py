"""This project's K at work for bench_k.py and bench_k_training.py."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")  # as every stage of the project runs

import k_served
import numpy as np

from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.engines import QUANTIZED, int8_folder
from unmask_tf.taxonomy import UNMASK

ROOT = Path(__file__).resolve().parents[1]
Answer = Callable[[dict[str, Any]], dict[str, Any]]


def _seeded() -> Any:
    """tests/golden/weights.py: seeded weights under which detections vary from image to image."""
    spec = importlib.util.spec_from_file_location("seeded_weights", ROOT / "tests" / "golden" / "weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _config(settings: dict[str, Any]) -> Config:
    return Config(**settings["config"])


def build_preparation(settings: dict[str, Any]) -> Answer:
    """Writes seeded weights for the configuration and, where `batch` names a file, one training batch."""
    from unmask_tf.mrcnn.model import MaskRCNN
    from unmask_tf.mrcnn.weights import named_weights, save_weights

    seeded, config = _seeded(), _config(settings)
    if not Path(settings["weights"]).is_file():
        graph = MaskRCNN("inference", config, settings["folder"]).keras_model
        for name, variable in named_weights(graph).items():
            variable.assign(seeded.weight(*name.split("/"), variable.shape))
        save_weights(graph, settings["weights"])
    if settings.get("batch"):
        np.savez(settings["batch"], **_training_batch(seeded, config))
    return lambda request: {}


def _training_batch(seeded: Any, config: Config) -> dict[str, np.ndarray]:
    """Drawn images with twelve instances each, as inputs of Matterport's training graph."""
    from unmask_tf.mrcnn import boxes as box_math
    from unmask_tf.mrcnn.anchors import pyramid_anchors
    from unmask_tf.mrcnn.image import compose_meta, mold_image
    from unmask_tf.mrcnn.targets import build_rpn_targets, minimize_masks

    side, most = config.IMAGE_MAX_DIM, config.MAX_GT_INSTANCES
    anchors, rows = pyramid_anchors(config, config.IMAGE_SHAPE), []
    for number in range(config.BATCH_SIZE):
        masks, rng = seeded.blobs(number, side, side, 12), np.random.RandomState(number)
        boxes, ids = box_math.from_masks(masks), rng.randint(1, config.NUM_CLASSES, 12).astype(np.int32)
        match, deltas = build_rpn_targets(anchors, ids, boxes, config, rng)
        padding = ((0, most - 12),)
        shape = (side, side, 3)
        rows.append(
            {
                "images": mold_image(seeded.picture(number, side, side), config),
                "metas": compose_meta(number, shape, shape, (0, 0, side, side), 1, np.ones(config.NUM_CLASSES, int)),
                "rpn_match": match[:, None],
                "rpn_bbox": deltas,
                "gt_class_ids": np.pad(ids, padding),
                "gt_boxes": np.pad(boxes, (*padding, (0, 0))),
                "gt_masks": np.pad(minimize_masks(boxes, masks, config.MINI_MASK_SHAPE), ((0, 0), (0, 0), *padding)),
            }
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def build_detection(settings: dict[str, Any]) -> Answer:
    """Answers {"rows": [i, ...]} with the seconds that detecting took and the class ids found in each image."""
    options = dict(settings["options"])
    if options.pop("keep_freed_memory", False):
        from unmask_tf.memory import keep_freed_memory

        keep_freed_memory()
    from unmask_tf.defense.extract import PartExtractor
    from unmask_tf.mrcnn.model import MaskRCNN

    archive = np.load(settings["images"])
    images = [archive[f"image_{i}"] for i in range(len(archive.files))]
    config = _config(settings)
    if options.get("engine") == QUANTIZED and not int8_folder(settings["weights"]).is_dir():
        from unmask_tf.mrcnn.quantize import quantize

        quantize(config, settings["weights"], images[:2])  # seeded weights, and speed alone: two images do
    if options.pop("masks", False):
        model = MaskRCNN("inference", config, settings["folder"])
        model.load_weights(settings["weights"])

        def detect(chosen: list[np.ndarray]) -> list[list[int]]:
            return [sorted({int(i) for i in found["class_ids"]}) for found in model.detect(chosen)]

    else:
        extractor = PartExtractor(config, settings["weights"], **options)
        index = {part: i + 1 for i, part in enumerate(UNMASK.parts)}

        def detect(chosen: list[np.ndarray]) -> list[list[int]]:
            return [sorted(index[part] for part in parts) for parts in extractor.extract(chosen)]

    detect([images[0][:, ::-1]])

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        start, worked = time.perf_counter(), time.process_time()
        found = detect([images[i] for i in request["rows"]])
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - worked, "found": found}

    return answer


def build_training(settings: dict[str, Any]) -> Answer:
    """Answers any request with the seconds of one training step, and its loss."""
    from unmask_tf.mrcnn import boxes as box_math
    from unmask_tf.mrcnn.fit import make_optimizer, set_trainable
    from unmask_tf.mrcnn.model import MaskRCNN

    config = _config(settings)
    if settings.get("keep_freed_memory"):
        from unmask_tf.memory import keep_freed_memory

        keep_freed_memory()
    model = MaskRCNN("training", config, settings["folder"])
    model.load_weights(settings["weights"])
    graph = model.keras_model
    set_trainable(graph, settings["layers"])
    graph.compile(optimizer=make_optimizer(config, config.LEARNING_RATE), jit_compile=False)
    batch = np.load(settings["batch"])
    inputs = {
        "input_image": batch["images"],
        "input_active_class_ids": np.ones((config.BATCH_SIZE, config.NUM_CLASSES), np.float32),
        "input_rpn_match": batch["rpn_match"][..., 0],
        "input_rpn_bbox": batch["rpn_bbox"].astype(np.float32),
        "input_gt_class_ids": batch["gt_class_ids"],
        "input_gt_boxes": np.where(
            batch["gt_class_ids"][..., None] > 0,
            box_math.normalize(batch["gt_boxes"], tuple(config.IMAGE_SHAPE[:2])),
            np.float32(0),
        ),
        "input_gt_masks": batch["gt_masks"],
        "input_gt_has_mask": batch["gt_class_ids"] > 0,
    }
    graph.train_on_batch(inputs)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        logs = graph.train_on_batch(inputs, return_dict=True)
        losses = [float(value) for name, value in logs.items() if name.endswith("_loss")]
        return {"seconds": time.perf_counter() - start, "loss": sum(losses)}

    return answer


if __name__ == "__main__":
    tasks = {"preparation": build_preparation, "detection": build_detection, "training": build_training}
    k_served.serve(lambda settings: tasks[settings["task"]](settings))
