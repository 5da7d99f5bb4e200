"""The binarisation test (Zimmermann et al., NeurIPS 2022): problems whose solution is known, so a fair attack finds it.

Around an image x a point x* on the budget's boundary is drawn, and M's last layer is replaced by one that tells x* from
many points well inside the budget. So x* is a misclassified image within the budget, and an attack that does not find
one fails for reasons of its own. K is brought in by the parts that it sees in x*:

- normal: the second class expects those parts; an image counts if K's parts are near them, and x itself is not;
- inverted: the second class expects the parts of x, and the detector's verdict is turned round: an image counts if it
  would be flagged, so K has to be led away from what it saw.

Both thresholds lie halfway between x and x*, as M's does. Images are of 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unmask_tf.attacks.module import logits_of
from unmask_tf.attacks.pixels import grey_levels, whole_levels
from unmask_tf.attacks.protocol import AttackResult, Norm, Target, TargetParts, random_seed
from unmask_tf.attacks.runs import images_of, run_attack
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.errors import InputError

INNER = 100
"""Points inside the budget that the last layer is trained on."""
CANDIDATES = 16
"""Points of the boundary of which the one is taken whose parts differ most from x's."""
DEPTH = 0.95
"""The inner points keep within this share of the budget."""


@dataclass(frozen=True)
class Trial:
    """What came of one image.

    Attributes:
        solved: the attack found an image that counts.
        by_chance: one of as many random points as the attack took steps counts: the problem was too easy.
        distance: d between the parts of x and of x*; 0: K saw the same in all candidates, and M alone was tested.
        iterations: steps that the attack took, all restarts together.
    """

    solved: bool
    by_chance: bool
    distance: float
    iterations: int


def binarisation_trial(
    target: Target, image: np.ndarray, budget: ThreatModel, *, inverted: bool, seed: int, name: str
) -> Trial:
    """Sets up the problem around an image and lets an attack that knows M and K solve it.

    Args:
        target: the system; its M needs a torch copy whose last module is a linear layer, and it needs K.
        image: float32 (H, W, 3) of 8 bits, in [0, 1].
        budget: attack (LINF) and effort.
        inverted: the detector's verdict is turned round.
        seed, name: what random points depend on.

    Raises:
        ValueError: the target has no K, or the norm is not LINF.
        InputError: the image is not of 8 bits, or M's features do not tell it from others around it.
    """
    if target.parts is None or budget.norm is not Norm.LINF:
        raise ValueError("the binarisation test is for attacks on M and K in LINF.")
    rng = np.random.default_rng(random_seed(seed, f"{name}\nbinarisation"))
    corners = _points(image, budget, rng, CANDIDATES, corner=True)
    seen = target.parts.seen(np.concatenate([whole_levels(image[None]).astype(np.uint8), _pixels(corners)]))
    apart = 1.0 - _jaccard(seen[1:], seen[0])
    chosen = int(apart.argmax())
    hidden, own, other = corners[chosen], seen[0], seen[1 + chosen]
    module = _binarised(target.module, _points(image, budget, rng, INNER, corner=False), image, hidden)
    half = 0.5 * float(apart[chosen])
    # Normal: nearer to the parts of x* than halfway. Inverted: at least halfway from those of x.
    parts = _Parts(target.parts, own, other, inverted, 1.0 - half if inverted else half)
    problem = Target(_OfModule(module), parts)

    def counts(images: np.ndarray) -> np.ndarray:
        wrong = logits_of(module, images).argmax(axis=1) == 1
        return wrong & (parts.distances(target.parts.seen(_pixels(images)))[:, 1] == 0.0)

    if not counts(hidden[None])[0]:
        raise InputError(
            "the hidden image does not solve its own problem: M's features depend on how they are rounded."
        )
    found = run_attack(problem, image[None], np.zeros(1, np.int64), budget, seed=seed, ids=[name])
    tries = budget.iterations * budget.restarts
    chance = counts(_points(image, budget, rng, tries, corner=True))
    steps = int(found.iterations[0]) if isinstance(found, AttackResult) else tries
    return Trial(bool(counts(images_of(found))[0]), bool(chance.any()), float(apart[chosen]), steps)


class _Parts:
    """K with two classes: 0, the image's own, and 1, that of the hidden image (`protocol.TargetParts`).

    The distance of class 1 falls the more of its parts are seen, or inverted, the fewer of class 0's; from `enough` on
    the detector is satisfied, and it is 0.
    """

    def __init__(self, parts: TargetParts, own: np.ndarray, other: np.ndarray, inverted: bool, enough: float) -> None:
        self.parts, self.own, self.inverted, self.enough = parts, own, inverted, enough
        self.expected = np.stack([own, np.zeros_like(own) if inverted else other])

    def gradients(self, *arguments: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.parts.gradients(*arguments)

    def seen(self, images: np.ndarray) -> np.ndarray:
        return self.parts.seen(images)

    def distances(self, seen: np.ndarray) -> np.ndarray:
        from_own = 1.0 - _jaccard(seen, self.own)
        second = 1.0 - from_own if self.inverted else 1.0 - _jaccard(seen, self.expected[1])
        return np.stack([from_own, np.where(second <= self.enough, 0.0, second)], axis=1)

    def best_fit(self, seen: np.ndarray) -> np.ndarray:
        return self.distances(seen).argmin(axis=1)


class _OfModule:
    """A classifier that is a torch module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def logits(self, images: np.ndarray) -> np.ndarray:
        return logits_of(self._module, images)

    def torch_module(self) -> torch.nn.Module:
        return self._module


class _Features(torch.nn.Module):
    """What a module gives its last layer: float32 (N, F)."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self._last = [child for child in module.modules() if not list(child.children())][-1]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        hook = self._last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            self.module(pixels)
        finally:
            hook.remove()
        return caught[-1].flatten(1)


class _Binary(torch.nn.Module):
    """Two logits (-z, z) of features, z = w . (features - centre) + b: float32 keeps small differences so."""

    def __init__(self, features: _Features, centre: np.ndarray, weight: np.ndarray) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("centre", torch.from_numpy(centre.astype(np.float32)))
        self.register_buffer("weight", torch.from_numpy(weight.astype(np.float32)))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        score = (self.features(pixels) - self.centre) @ self.weight + self.bias
        return torch.stack([-score, score], dim=1)


def _binarised(module: torch.nn.Module, inner: np.ndarray, image: np.ndarray, hidden: np.ndarray) -> _Binary:
    """M whose last layer says 1 of the hidden image and 0 of the inner points, halfway between the nearest of them.

    The layer is a ridge regression, scaled to the range of logits: z is 5 for the hidden image and -5 for the nearest.

    Raises:
        InputError: M's features do not tell the points apart.
    """
    features = _Features(module)
    images = np.concatenate([hidden[None], image[None], inner])
    points = logits_of(features, images).astype(np.float64)
    centre = points.mean(axis=0)
    rows, wanted = points - centre, np.r_[1.0, -np.ones(len(points) - 1)]
    gram = rows @ rows.T
    ridge = 1e-6 * np.trace(gram) / len(gram)
    weight = rows.T @ np.linalg.solve(gram + max(ridge, 1e-30) * np.eye(len(gram)), wanted)
    binary = _Binary(features, centre, weight).eval()
    scores = logits_of(binary, images)[:, 1]
    gap = float(scores[0] - scores[1:].max())
    if not gap > 0:
        raise InputError("M's last features cannot tell an image from others around it: they are too few, or constant.")
    binary.weight *= 10.0 / gap
    binary.bias -= 10.0 / gap * 0.5 * float(scores[0] + scores[1:].max())
    return binary


def _points(image: np.ndarray, budget: ThreatModel, rng: np.random.Generator, count: int, corner: bool) -> np.ndarray:
    """Random images of 8 bits (count, H, W, 3): corners of the budget, or points well inside it."""
    shape = (count, *image.shape)
    if corner:
        delta = rng.choice(np.array([-1.0, 1.0], np.float32), shape) * np.float32(budget.epsilon)
    else:
        delta = rng.uniform(-1.0, 1.0, shape).astype(np.float32) * np.float32(DEPTH * budget.epsilon)
    return grey_levels(whole_levels(image[None]), delta, budget).astype(np.float32) / np.float32(255)


def _pixels(images: np.ndarray) -> np.ndarray:
    return np.rint(images * 255.0).astype(np.uint8)


def _jaccard(seen: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Similarity of part sets bool (N, P) and one (P,); two empty ones are the same here."""
    both, either = (seen & expected).sum(axis=1), (seen | expected).sum(axis=1)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))
