"""Trains model K on images with part annotations (Section IV-A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask_tf.experiment.kinds.shared import without_nan
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.step import Resources

VERSION = 3
SUFFIX = ".h5"
FRESH = True
GPU = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What K's training depends on besides its images, annotations and initial weights.

    Attributes:
        config: K's settings (`Config.to_dict`), mirrored classes included.
        schedule: its stages: layers, last epoch, learning rate.
        parts: the data's part names, in their order.
        train_limit: at most this many training images, spread over the split; None: all.
    """

    config: Mapping[str, Any]
    schedule: tuple[Any, ...]
    parts: tuple[str, ...]
    train_limit: int | None = None


def cost(settings: Settings, inputs: Mapping[str, Any]) -> float:
    """In forward passes of a ResNet-50 on a 64x64 image."""
    return len(inputs["images"]) * 240.0 * (settings.config["IMAGE_MAX_DIM"] / 128) ** 2


def run(settings: Settings, inputs: Mapping[str, Any], output: Path, resources: Resources) -> dict[str, Any]:
    """Inputs: `annotations` and `images`, `val_annotations` and `val_images`, and `initial` (weights to start from)
    where there are some. Writes K's weights in Matterport's layout, with the parts' names, and perhaps their scores,
    in them."""
    quiet_and_deterministic(settings.config["SEED"])
    from unmask_tf.data.part_instances import read_part_instances
    from unmask_tf.mrcnn.config import Config
    from unmask_tf.mrcnn.fast import FastDetector
    from unmask_tf.mrcnn.part_scores import choose_part_scores
    from unmask_tf.mrcnn.train import train_parts
    from unmask_tf.mrcnn.weights import parts_state, save_weights
    from unmask_tf.taxonomy import Taxonomy

    taxonomy = Taxonomy(settings.parts, {}, {})
    train, val = (
        read_part_instances(inputs[f"{split}annotations"], inputs[f"{split}images"].root, taxonomy)
        for split in ("", "val_")
    )
    config = Config.from_dict(dict(settings.config))
    model, log = train_parts(
        config,
        settings.schedule,
        train.spread(settings.train_limit),
        val,
        resources.workdir,
        initial_weights=inputs.get("initial"),
        progress=resources.progress,
    )
    save_weights(model, output, parts_state(settings.parts))
    scores = None
    if config.PART_SCORES:
        detector = FastDetector(config.replace(DETECTION_MIN_CONFIDENCE=0.05), output)
        scores = choose_part_scores(detector, val)
        save_weights(model, output, parts_state(settings.parts, scores))
    found = f"validation mAP at IoU 0.5 {log[-1]['val_map50']:.3f}" if "val_map50" in log[-1] else "trained"
    return {"log": without_nan(log), "part_scores": scores, "said": f"{found} after {len(log)} epochs"}
