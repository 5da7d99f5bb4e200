"""Model K's average precision on annotated images, part by part (Section IV-A)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask_tf.experiment.kinds.shared import without_nan
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.step import Output, Resources
from unmask_tf.files import write_json

VERSION = 2
SUFFIX = ".json"
FRESH = False
GPU = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What K's evaluation depends on besides its weights, the images and their annotations.

    Attributes:
        config: K's settings (`Config.to_dict`).
        parts: the data's part names, in their order.
        limit: at most this many images, spread over the split; None: all.
    """

    config: Mapping[str, Any]
    parts: tuple[str, ...]
    limit: int | None = None


def cost(settings: Settings, inputs: Mapping[str, Any]) -> float:
    """In forward passes of a ResNet-50 on a 64x64 image."""
    return len(inputs["images"]) * 12.0 * (settings.config["IMAGE_MAX_DIM"] / 128) ** 2


def run(settings: Settings, inputs: Mapping[str, Any], output: Path, resources: Resources) -> dict[str, Any]:
    """Inputs: `weights` (a file, or K's training), `annotations` and `images`. Writes the numbers by name, and
    each part's instances."""
    quiet_and_deterministic(0)
    from unmask_tf.data.part_instances import read_part_instances
    from unmask_tf.mrcnn.config import Config
    from unmask_tf.mrcnn.evaluate import evaluate_parts
    from unmask_tf.taxonomy import Taxonomy

    weights = inputs["weights"].path if isinstance(inputs["weights"], Output) else inputs["weights"]
    dataset = read_part_instances(inputs["annotations"], inputs["images"].root, Taxonomy(settings.parts, {}, {}))
    scores = evaluate_parts(
        Config.from_dict(dict(settings.config)), weights, dataset, limit=settings.limit, progress=resources.progress
    )
    shown = dataset.spread(settings.limit).images
    instances = Counter(instance.part for image in shown for instance in image.instances)
    more = {"instances": instances, "weights_sha256": resources.input_keys["weights"]}
    write_json(output, without_nan(scores) | more)
    return {"said": f"mAP at IoU 0.5 {scores['map50']:.3f} on {scores['n_images']} images"}
