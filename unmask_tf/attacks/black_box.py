"""Attacks without a gradient: random noise, and Square, which sees no more of the system than what it answers.

Both return images of 8 bits. Square is that of Andriushchenko et al. (ECCV 2020) in LINF, whose loss is here the
system's own decision: M's answer, and the distance d of the parts that K detects. An attacker can ask for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmask_tf.attacks.pixels import grey_levels, inside, whole_levels
from unmask_tf.attacks.protocol import ATTACKS, Attack, Norm, Target, random_seed
from unmask_tf.attacks.results import system_values
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.errors import InputError

FIRST_SHARE = 0.8
"""Share of an image that the first squares cover, as in AutoAttack."""
_HALVINGS = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]) / 10000
"""After which share of the queries a square's area is halved (ibid., Section 5)."""


def noise(
    target: Target, images: np.ndarray, labels: np.ndarray, budget: ThreatModel, seed: int, ids: Sequence[str]
) -> np.ndarray:
    """One random corner of the budget: each value moved by epsilon (LINF), or a random direction of that length (L2).

    Raises:
        InputError: images that are not of 8 bits.
    """
    delta = np.empty_like(images)
    for row, name in enumerate(ids):
        draw = np.random.default_rng(random_seed(seed, name)).standard_normal(images.shape[1:])
        delta[row] = np.sign(draw) if budget.norm is Norm.LINF else draw / np.sqrt((draw**2).sum())
    delta = inside(images, np.float32(budget.epsilon) * delta, budget)
    return grey_levels(whole_levels(images), delta, budget).astype(np.float32) / np.float32(255)


def square(
    target: Target, images: np.ndarray, labels: np.ndarray, budget: ThreatModel, seed: int, ids: Sequence[str]
) -> np.ndarray:
    """Random search by squares of one colour; a change stays where the system's answer becomes better.

    `budget.iterations` counts the queries of an image, the first one of random stripes included.

    Raises:
        InputError: the target has no K, or images that are not of 8 bits.
    """
    if target.parts is None:
        raise InputError(f"{budget.attack} asks M and K, but the system under attack has no K. Name its weights.")
    levels, epsilon = whole_levels(images), np.float32(budget.epsilon)
    rngs = [np.random.default_rng(random_seed(seed, name)) for name in ids]
    stripes = [rng.choice([-epsilon, epsilon], (1, *images.shape[2:])) for rng in rngs]
    delta = np.broadcast_to(np.stack(stripes), images.shape).copy()
    best, value = images.copy(), np.full(len(images), -np.inf)
    for query in range(budget.iterations):
        left = np.flatnonzero(value < 1.0)
        if not len(left):
            break
        trial = delta[left]
        if query:
            side = _side(query / budget.iterations, images.shape[1:3])
            for changed, row in zip(trial, left, strict=True):
                _paint(changed, side, epsilon, rngs[row])
        pixels = grey_levels(levels[left], inside(images[left], trial, budget), budget)
        tried = pixels.astype(np.float32) / np.float32(255)
        distances = target.parts.distances(target.parts.seen(pixels))
        found = system_values(target.logits(tried), distances, labels[left])
        better = found > value[left]
        rows = left[better]
        delta[rows], best[rows], value[rows] = trial[better], tried[better], found[better]
    return best


def _side(done: float, size: tuple[int, int]) -> int:
    """Side of the square after a share of the queries, at least 1 pixel and at most the image's shorter side."""
    share = FIRST_SHARE / 2.0 ** int((done > _HALVINGS).sum())
    return int(np.clip(round(np.sqrt(share * size[0] * size[1])), 1, min(size)))


def _paint(delta: np.ndarray, side: int, epsilon: np.float32, rng: np.random.Generator) -> None:
    """Puts a square of one colour, each channel by plus or minus epsilon, into a perturbation (H, W, 3)."""
    top, left = (int(rng.integers(0, length - side + 1)) for length in delta.shape[:2])
    window = delta[top : top + side, left : left + side]
    colour = rng.choice([-epsilon, epsilon], delta.shape[2])
    while (window == colour).all():
        colour = rng.choice([-epsilon, epsilon], delta.shape[2])
    window[:] = colour


ATTACKS.update(
    noise_linf=Attack(norm=Norm.LINF, knows=frozenset(), run=noise, iterative=False),
    noise_l2=Attack(norm=Norm.L2, knows=frozenset(), run=noise, iterative=False),
    # What it uses of M and K are their answers; the evaluation has to give it both.
    square_linf=Attack(norm=Norm.LINF, knows=frozenset({"M", "K"}), run=square),
)
