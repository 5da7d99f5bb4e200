"""Settings of the training of M."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Training of M (Section IV-A). The defaults are the released settings.

    Attributes:
        input_size: side of M's square input, pixels.
        weights: `imagenet`, `random`, or the path of a Keras weights file.
        trainer: what makes the steps, equal up to rounding: `keras`, or `torch` on M's copy. On a CPU torch is the
            faster, since it does not trace the network first; the copy makes no use of an accelerator.
        optimizer: `sgd` (with momentum, as released) or `adam` (AdamW).
        schedule: of the learning rate: `constant` (as released), or `cosine` (a linear rise over the first tenth, then
            half a cosine to zero).
        batch_norm_momentum: Keras convention; 0.9 is PyTorch's default 0.1.
        mirror: mirror training images left to right with probability one half.
        freeze_batch_norm: keep batch normalisation in inference mode while training.
    """

    input_size: int = 150
    weights: str = "imagenet"
    epochs: int = 30
    batch_size: int = 32
    trainer: str = "keras"
    optimizer: str = "sgd"
    schedule: str = "constant"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 2e-4
    batch_norm_momentum: float = 0.9
    mirror: bool = True
    freeze_batch_norm: bool = False
    seed: int = 5
