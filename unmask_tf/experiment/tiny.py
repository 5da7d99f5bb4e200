"""The smallest real run, from data to rows within a minute: it proves nothing but that all steps work together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.experiment.setup import Run, prepare


def tiny_run(folder: Path, **wishes: Any) -> Run:
    """A run of few images, one epoch, short attacks and the shipped K of profile mini.

    Args:
        folder: data and results go there.
        wishes: as `prepare`'s; by default MobileNetV2, PGD-Linf and MI-FGSM in L2.
    """
    build_dataset(folder / "data", SyntheticConfig(parts_images=(1, 1, 2), class_images=(6, 2, 2)))
    wishes = {"architectures": ("mobilenet_v2",), "attacks": ("pgd_linf", "mia_l2"), **wishes}
    run = prepare("mini", data=folder / "data", results=folder / "results", **wishes)
    profile = run.profile
    return replace(
        run,
        profile=replace(
            profile,
            classifier=replace(profile.classifier, epochs=1, batch_size=6),
            attack=replace(profile.attack, iterations=3, epsilons_255={"linf": (8,), "l2": (300,)}),
        ),
    )
