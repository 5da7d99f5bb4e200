"""Puts an attack that knows M and K to problems whose solution is known (`attacks.binarisation`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unmask_tf.experiment.kinds.attack import KnowingSettings, white_box
from unmask_tf.experiment.kinds.shared import forward_cost, load_m
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.step import Files, Resources
from unmask_tf.files import write_json

VERSION = 1
SUFFIX = ".json"
FRESH = False
GPU = True

Settings = KnowingSettings


def cost(settings: Settings, inputs: Mapping[str, Any]) -> float:
    """In forward passes of a ResNet-50 on a 64x64 image."""
    steps = settings.threat.iterations * settings.threat.restarts
    each = 8.0 * forward_cost(settings.architecture, settings.size)
    return 2.0 * len(inputs["images"]) * (150.0 + steps * each)


def run(settings: Settings, inputs: Mapping[str, Any], output: Path, resources: Resources) -> dict[str, Any]:
    """Inputs as those of `attack`. Writes `{"normal": [trial, ...], "inverted": [...]}`, an entry an image."""
    quiet_and_deterministic(settings.seed)
    import numpy as np

    from unmask_tf.attacks import Target
    from unmask_tf.attacks.binarisation import binarisation_trial
    from unmask_tf.data.class_images import read_class_images

    files: Files = inputs["images"]
    clean = read_class_images(files.root, files.names, settings.classes, settings.size)
    model = load_m(inputs["model"], settings.classes, resources, resources.input_keys["model"])
    # One image at a time: a larger batch would be filled up with copies.
    target = Target(model, white_box(settings, inputs, resources, batch_size=1))
    trials: dict[str, list[dict[str, Any]]] = {"normal": [], "inverted": []}
    for number, (image, name) in enumerate(zip(clean.images, clean.files, strict=True)):
        pixels = image.astype(np.float32) / np.float32(255)
        for kind, found in trials.items():
            trial = binarisation_trial(
                target, pixels, settings.threat, inverted=kind == "inverted", seed=settings.seed, name=name
            )
            found.append({"image": name, **asdict(trial)})
        resources.progress((number + 1) / len(clean.images))
    threat = {**asdict(settings.threat), "norm": settings.threat.norm.value}
    write_json(output, {"threat": threat, "model": settings.architecture, "trials": trials})
    solved = {kind: sum(t["solved"] for t in found) for kind, found in trials.items()}
    return {"said": f"{solved['normal']} and inverted {solved['inverted']} of {len(files)} solved"}
