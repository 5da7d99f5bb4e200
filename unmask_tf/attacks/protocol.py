"""What an attack is: an entry of `ATTACKS`, run against a `Target` (no Keras, no torch in here).

One entry adds an attack, from outside the package too:

    def noise(target, images, labels, budget, seed, ids):
        ...
        return attacked_images

    ATTACKS["noise"] = Attack(norm=Norm.LINF, knows=frozenset(), run=noise)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np


class Norm(str, Enum):
    """The norm that bounds a perturbation: LINF bounds each pixel value, L2 and L1 the whole image."""

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"


class TargetClassifier(Protocol):
    """M as attacks see it (`classifiers.classifier.Classifier`)."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8, or float32 in [0, 1], (N, H, W, 3) -> float32 (N, classes)."""

    def torch_module(self) -> Any:
        """The same function as a torch.nn.Module: float32 (N, 3, H, W) in [0, 1] -> logits (N, classes)."""


class TargetParts(Protocol):
    """K as attacks that know it see it (`defense.white_box.WhiteBox`): C classes in M's label order, P parts.

    Attributes:
        expected: bool (C, P), the matrix V.
    """

    expected: np.ndarray

    def gradients(
        self, images: np.ndarray, loss: Callable[..., Any], *arguments: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `mrcnn.part_presence.PartPresence.gradients`: losses, gradients, and the parts' highest margins."""

    def seen(self, images: np.ndarray) -> np.ndarray:
        """The detector's own part sets: uint8 (N, H, W, 3) -> bool (N, P)."""

    def distances(self, seen: np.ndarray) -> np.ndarray:
        """d = 1 - JS of part sets bool (N, P) and every class: float (N, C)."""

    def best_fit(self, seen: np.ndarray) -> np.ndarray:
        """The class that K alone answers, int (N,); -1: none."""


@dataclass(frozen=True)
class Target:
    """The system under attack. An attack may use of it what its entry's `knows` says.

    Attributes:
        classifier: M.
        parts: K, for attacks that know it.
    """

    classifier: TargetClassifier
    parts: TargetParts | None = None

    def logits(self, images: np.ndarray) -> np.ndarray:
        """M's logits, float32 (N, classes): what Table IV is scored by, and so every success."""
        return self.classifier.logits(images)

    @property
    def module(self) -> Any:
        """M's torch copy (a torch.nn.Module), for gradients; it is made when it is first asked for."""
        return self.classifier.torch_module()


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """Attacked images and what the attack says of them.

    Attributes:
        images: float32 (N, H, W, 3) in [0, 1], within the budget.
        logits: float32 (N, classes), the attack's own evaluation of `images`.
        fooled: bool (N,), some iterate was misclassified (or hit its target), whether it is the one returned or not.
        peak_loss: float32 (N,), the highest loss of an iterate: of those that fooled the model where any did
            (targeted: the highest negative loss of the target).
        nan: bool (N,), the attack's own code returned NaN for the image, which was then attacked again.
        iterations: int64 (N,), gradient steps that each image received, all restarts together (0 where epsilon is 0).
        stopped: where each run stopped; what `Attack.extend` goes on from.
        best_iteration: int64 (N,), steps taken before the image that is returned; None: not told.
    """

    images: np.ndarray
    logits: np.ndarray
    fooled: np.ndarray
    peak_loss: np.ndarray
    nan: np.ndarray
    iterations: np.ndarray
    stopped: tuple[Stop, ...] = ()
    best_iteration: np.ndarray | None = None

    @property
    def predictions(self) -> np.ndarray:
        """int64 (N,), argmax of the logits."""
        return self.logits.argmax(axis=1)


@dataclass(frozen=True)
class Stop:
    """The last iterates of one restart: the perturbations of those images that took part in it.

    Attributes:
        rows: int64 (k,), which images.
        delta: float32 (k, H, W, 3).
        momentum: float32 (k, H, W, 3), the accumulated gradients; None for attacks without.
    """

    rows: np.ndarray
    delta: np.ndarray
    momentum: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Attack:
    """An entry of `ATTACKS`.

    Attributes:
        norm: norm of its budget.
        knows: what of the system it may use: `M`, `K`, both, or nothing.
        run: `(target, images, labels, budget, seed, ids) -> images`, all positional. `images` float32 (n, H, W, 3) in
            [0, 1], `labels` int64 (n,), `budget` a `ThreatModel`, `ids` n strings. It sees some of the images at a
            time: what becomes of an image must not depend on the others, so chance is drawn from (`seed`, the image's
            id), best by `random_seed`. It returns the attacked images, or an `AttackResult`, by which more can be
            checked. Targeted attacks are also given `targeted=True`, and the classes to aim at as `labels`.
        gradient: it takes steps along a gradient, so that step, iterations and best iterate mean something.
        iterative: it takes a number of steps; else it takes one, of length epsilon.
        random_start: it starts from a random point of the budget, so that restarts make sense.
        extend: `(target, images, labels, budget, result) -> AttackResult`: the attack with twice the iterations, got
            from `result`, that of the budget's own. None: it is run anew.
    """

    norm: Norm
    knows: frozenset[str]
    run: Callable[..., np.ndarray | AttackResult]
    gradient: bool = False
    iterative: bool = True
    random_start: bool = False
    extend: Callable[..., AttackResult] | None = None

    def __post_init__(self) -> None:
        if not self.knows <= {"M", "K"}:
            raise ValueError(f"an attack knows 'M', 'K', both or nothing, got {sorted(self.knows)}.")


ATTACKS: dict[str, Attack] = {}
"""Every attack by its name; the paper's four are put in by `advertorch_entries`."""


def random_seed(seed: int, image_id: str, restart: int = 0) -> int:
    """The seed in [0, 2^63) of an image's random numbers: a digest of what they may depend on, and of nothing else."""
    digest = hashlib.sha256(f"{seed}\n{restart}\n{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def pixel_ids(images: np.ndarray) -> list[str]:
    """Ids for images (N, H, W, 3) that have no names: a digest of each one's pixels."""
    return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in images]
