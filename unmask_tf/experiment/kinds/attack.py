"""Attacks M on its images and checks the attack (Section II-A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py

from unmask_tf.attacks import ATTACKS
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.experiment.kinds.shared import forward_cost, load_m
from unmask_tf.experiment.quiet import quiet_and_deterministic
from unmask_tf.experiment.step import Files, Output, Resources, canonical

VERSION = 1
SUFFIX = ".h5"
FRESH = False
GPU = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What attacked images depend on besides M and the clean images.

    Attributes:
        threat: the attack and its effort, resolved from the preset.
        preset: the preset's name, for reports.
        architecture, classes, size: M's: its name, its class names in label order, its input's side.
        seed: of random starts, which are drawn per image.
        batch_size: images attacked together.
    """

    threat: ThreatModel
    preset: str
    architecture: str
    classes: tuple[str, ...]
    size: int
    seed: int
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class KnowingSettings(Settings):
    """What an attack that knows K depends on besides.

    Attributes:
        k_config: K's settings (`Config.to_dict`).
        parts: the taxonomy's part names, in their order.
        expected: (class, expected parts) in the class set's own order.
        search: which search it is (`attacks.adaptive.SEARCHES`); other attacks' keys do not depend on it.
    """

    k_config: Mapping[str, Any]
    parts: tuple[str, ...]
    expected: tuple[tuple[str, tuple[str, ...]], ...]
    search: int


def cost(settings: Settings, inputs: Mapping[str, Any]) -> float:
    """In forward passes of a ResNet-50 on a 64x64 image."""
    steps = settings.threat.iterations * settings.threat.restarts + 6
    each = 2.5 * forward_cost(settings.architecture, settings.size)
    if isinstance(settings, KnowingSettings):
        # Towards each other class, through K as well.
        each = (len(settings.classes) - 1) * (each + 5.0 * (settings.k_config["IMAGE_MAX_DIM"] / 128) ** 2)
    return len(inputs["images"]) * steps * each


def entry(settings: Settings) -> Any:
    """The attack's function in `ATTACKS`."""
    return ATTACKS[settings.threat.attack].run if settings.threat.attack in ATTACKS else None


def run(settings: Settings, inputs: Mapping[str, Any], output: Path, resources: Resources) -> dict[str, Any]:
    """Inputs: `model` (a trained M), `images`, and for an attack that knows K its `weights` (a file, or K's training).
    Writes the attacked images in their float form."""
    quiet_and_deterministic(settings.seed)
    import numpy as np

    from unmask_tf.attacks import Target
    from unmask_tf.attacks.evidence import checked_attack
    from unmask_tf.data.class_images import read_class_images

    files: Files = inputs["images"]
    clean = read_class_images(files.root, files.names, settings.classes, settings.size)
    model = load_m(inputs["model"], settings.classes, resources, resources.input_keys["model"])
    attacked = checked_attack(
        Target(model, white_box(settings, inputs, resources)),
        clean.images.astype(np.float32) / np.float32(255),
        clean.labels,
        settings.threat,
        seed=settings.seed,
        ids=clean.files,
        batch_size=settings.batch_size,
        progress=resources.progress,
    )
    with h5py.File(output, "w") as file:
        # Neighbouring bytes of one significance compress; the images come back bit by bit.
        file.create_dataset(
            "images",
            data=attacked.images,
            chunks=(1, *attacked.images.shape[1:]),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
        )
    best = attacked.best_iteration
    fooled = float(np.mean(attacked.logits.argmax(axis=1) != clean.labels))
    threat = {
        **asdict(attacked.threat),
        "norm": attacked.threat.norm.value,
        "preset": settings.preset,
        "knows": sorted(attacked.threat.spec.knows),
        "iterations_asked": settings.threat.iterations,
        **({} if best is None else {"best_iteration_median": float(np.median(best))}),
    }
    return {
        "threat": threat,
        "checks": {**attacked.by_construction, **attacked.checks},
        "nan_images": attacked.nan_images,
        "seed": settings.seed,
        "said": f"M is right on {1 - fooled:.0%}",
    }


def white_box(settings: Settings, inputs: Mapping[str, Any], resources: Resources, batch_size: int = 16) -> Any:
    """K for an attack that knows it, kept in the worker's memory; None for any other."""
    if not isinstance(settings, KnowingSettings):
        return None
    from unmask_tf.defense.white_box import WhiteBox
    from unmask_tf.mrcnn.config import Config
    from unmask_tf.taxonomy import Taxonomy

    weights = inputs["weights"].path if isinstance(inputs["weights"], Output) else inputs["weights"]
    config, classes = dict(settings.k_config), dict(settings.expected)
    taxonomy = Taxonomy(settings.parts, classes, {"all": tuple(classes)})
    source = (resources.input_keys["weights"], canonical(config), settings.parts, settings.expected, batch_size)
    make = lambda: WhiteBox(Config.from_dict(config), weights, taxonomy, "all", batch_size)  # noqa: E731
    return resources.memory.get("white_box", source, make)
