"""Stages of training: which layers train until when, at which rate; and the schedules of the presets."""

from __future__ import annotations

from dataclasses import dataclass

# Matterport's names for sets of layers.
LAYER_SETS = {
    "heads": r"(mrcnn_.*)|(rpn_.*)|(fpn_.*)",
    "3+": r"(res3.*)|(bn3.*)|(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|(mrcnn_.*)|(rpn_.*)|(fpn_.*)",
    "4+": r"(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|(mrcnn_.*)|(rpn_.*)|(fpn_.*)",
    "5+": r"(res5.*)|(bn5.*)|(mrcnn_.*)|(rpn_.*)|(fpn_.*)",
    "all": r".*",
}


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        layers: a key of LAYER_SETS, or a regular expression that a layer's whole name matches.
        until: epochs finished at its end, those of earlier stages included (as Matterport's `epochs`).
        learning_rate: of all its epochs.
    """

    layers: str
    until: int
    learning_rate: float


SCHEDULES: dict[str, tuple[Stage, ...]] = {
    "mini": (Stage("all", 9, 1e-3), Stage("all", 12, 1e-4)),
    "photos": (
        Stage("heads", 1, 1e-3),
        Stage("all", 8, 3e-4),
        Stage("all", 10, 1e-4),
        Stage("all", 11, 2e-5),
        Stage("all", 15, 1e-4),
        Stage("all", 16, 2e-5),
    ),
    "mini_robust": (Stage("all", 10, 1e-3), Stage("all", 14, 1e-4)),
    "paper": (Stage("heads", 20, 1e-3), Stage("4+", 32, 1e-3), Stage("all", 40, 1e-4)),
}
"""By preset. `paper` is the released one; `mini_robust` goes on from a trained K, `photos` attacks its batches in its
last two stages."""
