"""Threat models: which attack, in which norm, with which budget, step and effort.

Units: a budget written by a user is `epsilon_255`, in units of 1/255 as in the paper's tables; everything the attacks
compute with (`epsilon`, `step`) is in pixel units, where an image lies in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import NewType

from unmask_tf.attacks.protocol import ATTACKS, Attack, Norm
from unmask_tf.errors import InputError

PixelUnits = NewType("PixelUnits", float)
"""A length in pixel space where black is 0 and white is 1."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How step and effort follow from the budget.

    Attributes:
        step: (epsilon, iterations) -> step, all in pixel units.
        keep_best: return the best iterate instead of the last one.
        restarts: runs from different random starts (attacks without a random start run once).
    """

    step: Callable[[PixelUnits, int], float]
    keep_best: bool = False
    restarts: int = 1


PRESETS: dict[str, Preset] = {
    # The released code passes the step 2.0 to an image in [0, 1]: it was meant as 2/255.
    "released": Preset(step=lambda epsilon, iterations: 2.0),
    "written": Preset(step=lambda epsilon, iterations: 2.0 / 255.0),
    "eq1": Preset(step=lambda epsilon, iterations: epsilon),
    "strong": Preset(step=lambda epsilon, iterations: 2.5 * epsilon / iterations, keep_best=True, restarts=5),
}
"""`released`: the authors' code. `written`: the paper's text (Section IV). `eq1`: Equation 1. `strong`: the usual
practice of robustness evaluation (step 2.5 epsilon / iterations, restarts, best iterate kept); an experiment gives it
more iterations where it has not converged (`evidence.checked_attack`)."""

DECAY = 1.0
"""Momentum decay mu of Equation 2 (Section IV: mu = 1)."""


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """One attack at one strength.

    Attributes:
        attack: a name in `ATTACKS`.
        epsilon_255: budget in units of 1/255 (per pixel value for LINF, of the whole image for L2 and L1).
        step: length of one step, pixel units of [0, 1].
        iterations: gradient steps of one run.
        decay: momentum decay mu (momentum attacks only).
        random_start: start from a random point of the budget.
        restarts: runs, each from its own random start, those after the first on what is not fooled yet; more than one
            needs `keep_best`.
        keep_best: return each image's best iterate (misclassified first, then highest loss), not the last one.

    Raises:
        InputError: the attack is unknown, or the budget out of range.
        ValueError: anything else is out of range or contradicts another.
    """

    attack: str
    epsilon_255: float
    step: float
    iterations: int = 20
    decay: float = DECAY
    random_start: bool = False
    restarts: int = 1
    keep_best: bool = False

    def __post_init__(self) -> None:
        _known("attack", self.attack, ATTACKS)
        _not_negative("epsilon_255", self.epsilon_255, "a budget in units of 1/255, such as 8 or 300")
        _not_negative("step", self.step, "a step in pixel units of [0, 1], such as 2/255", ValueError)
        _not_negative("decay", self.decay, "a momentum decay, such as 1.0", ValueError)
        _at_least_one("iterations", self.iterations, ValueError)
        _at_least_one("restarts", self.restarts, ValueError)
        if self.restarts > 1 and not (self.random_start and self.keep_best):
            raise ValueError(
                f"restarts = {self.restarts} has no effect without random_start and keep_best. "
                "Set both, or restarts = 1."
            )

    @property
    def spec(self) -> Attack:
        """The attack's entry in `ATTACKS`."""
        return ATTACKS[self.attack]

    @property
    def norm(self) -> Norm:
        """Norm of the budget."""
        return self.spec.norm

    @property
    def epsilon(self) -> PixelUnits:
        """Budget in pixel units of [0, 1]."""
        return PixelUnits(self.epsilon_255 / 255.0)


def threat_model(attack: str, epsilon_255: float, *, preset: str = "released", iterations: int = 20) -> ThreatModel:
    """The threat model of one cell of the grid.

    A preset's step, restarts and best iterate are for attacks along a gradient (`Attack.gradient`); any other attack
    gets its budget, the iterations (1 if it is not iterative), a step of 0 and a single run.

    Args:
        attack: a name in `ATTACKS`.
        epsilon_255: budget in units of 1/255, >= 0.
        preset: a name in `PRESETS`.
        iterations: gradient steps of one run, >= 1 (the paper: 20).

    Raises:
        InputError: unknown attack or preset, negative or non-finite budget, fewer than one iteration.
    """
    _known("attack", attack, ATTACKS)
    _known("preset", preset, PRESETS)
    _not_negative("epsilon_255", epsilon_255, "a budget in units of 1/255, such as 8 or 300")
    _at_least_one("iterations", iterations)
    spec, effort = ATTACKS[attack], PRESETS[preset]
    epsilon = PixelUnits(epsilon_255 / 255.0)
    step = effort.step(epsilon, iterations) if spec.iterative else epsilon
    return ThreatModel(
        attack=attack,
        epsilon_255=float(epsilon_255),
        step=float(step) if spec.gradient else 0.0,
        iterations=iterations if spec.iterative else 1,
        random_start=spec.random_start,
        # Without a random start every run would be the same.
        restarts=effort.restarts if spec.random_start and spec.gradient else 1,
        keep_best=effort.keep_best and spec.gradient,
    )


def _known(what: str, name: str, table: dict) -> None:
    if name not in table:
        raise InputError(f"unknown {what} {name!r}. Choose one of: {', '.join(table)}.")


def _not_negative(what: str, value: float, example: str, error: type[Exception] = InputError) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise error(f"{what} must be a finite number >= 0, got {value!r}. Give {example}.")


def _at_least_one(what: str, value: int, error: type[Exception] = InputError) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise error(f"{what} must be an integer >= 1, got {value!r}.")
