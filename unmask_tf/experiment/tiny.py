"""The smallest real run, from data to rows in a minute or two: it proves nothing but that every step works together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unmask_tf.config import PROFILES
from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.experiment.setup import Run, prepare


def tiny_run(folder: Path, *, architectures: Sequence[str] = ("mobilenet_v2",), k_weights: Path | None = None) -> Run:
    """A run of few and easy images, one epoch, two short attacks and the shipped K of profile mini.

    Args:
        folder: data and results go there.
        architectures: M's.
        k_weights: another K.
    """
    build_dataset(folder / "data", SyntheticConfig(parts_images=(1, 1, 2), class_images=(6, 2, 2)))
    whole = prepare("mini", data=folder / "data", results=folder / "results", k_weights=k_weights)
    mini = PROFILES["mini"]
    return replace(
        whole,
        profile=replace(
            whole.profile,
            architectures=tuple(architectures),
            classifier=replace(mini.classifier, epochs=1, batch_size=6),
            adversarial_training=replace(mini.adversarial_training, epochs=1),
            attack=replace(
                mini.attack,
                iterations=3,
                attacks=("pgd_linf", "mia_l2"),
                epsilons_255={"linf": (8,), "l2": (300,)},
            ),
        ),
    )
