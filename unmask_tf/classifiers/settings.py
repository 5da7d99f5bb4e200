"""Settings of the trainings of M, benign and adversarial."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unmask_tf.errors import InputError


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


@dataclass(frozen=True, kw_only=True)
class AdversarialTrainingConfig:
    """Adversarial training (Equation 4) by Linf PGD. The defaults are the released settings.

    Attributes:
        epsilon_255: Linf budget in units of 1/255.
        step: step size in pixel units of [0, 1]; the released code used 2.0.
        iterations: PGD iterations per batch.
        epochs: epochs of adversarial training, at most.
        patience: epochs in a row without gain after which it stops: neither the accuracy on attacked validation images
            nor its mean with the benign accuracy was the best so far. None: it runs all epochs, as released.
        from_benign: start from the benignly trained M instead of its initial weights.
        learning_rate: of the SGD that trains on the attacked batches.
    """

    epsilon_255: float = 4.0
    step: float = 2.0
    iterations: int = 7
    epochs: int = 30
    patience: int | None = None
    from_benign: bool = False
    learning_rate: float = 1e-3


RECIPES: dict[str, AdversarialTrainingConfig] = {
    "released": AdversarialTrainingConfig(),
    "madry": AdversarialTrainingConfig(step=2.0 / 255.0),
}
"""Whose adversarial training: `released`, the authors' code, or `madry`, the step it was meant to have (Madry et al.,
2018). Seven iterations and a budget of 4/255 both; they differ in the step."""


def with_recipe(
    settings: AdversarialTrainingConfig, recipe: str, epsilon_255: float | None = None
) -> AdversarialTrainingConfig:
    """A profile's adversarial training with the attack of a recipe; epochs, patience, start and rate stay.

    Args:
        settings: the profile's.
        recipe: a name in `RECIPES`.
        epsilon_255: Linf budget in units of 1/255; None: the recipe's.

    Raises:
        InputError: there is no such recipe.
    """
    if recipe not in RECIPES:
        raise InputError(f"unknown recipe '{recipe}' of adversarial training. Choose one of: {', '.join(RECIPES)}.")
    attack = RECIPES[recipe]
    return replace(
        settings,
        epsilon_255=attack.epsilon_255 if epsilon_255 is None else float(epsilon_255),
        step=attack.step,
        iterations=attack.iterations,
    )
