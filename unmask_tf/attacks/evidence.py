"""Attacks with every check looking on: gathers the evidence, judges it, and lengthens what had not converged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from unmask_tf.attacks.checks import BY_CONSTRUCTION, Evidence, gained_by_doubling, sound, verdicts
from unmask_tf.attacks.module import logits_and_gradients, logits_of
from unmask_tf.attacks.pixels import lengths
from unmask_tf.attacks.protocol import AttackResult, Norm, Target, pixel_ids
from unmask_tf.attacks.results import joined, succeeded, taken
from unmask_tf.attacks.runs import Found, images_of, run_attack, run_longer
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.data.pixels import checked_pixels

FEW_IMAGES = 8
"""Images that are attacked twice for `deterministic`, and evaluated alone for `outputs_independent_of_batch`."""
FEW_ITERATIONS = 2
"""Iterations of those attacks: the random start and the model's noise show in the first."""

LONGEST = 8
"""Most by which `checked_attack` multiplies the iterations of an attack that keeps its best iterate."""


@dataclass(frozen=True, kw_only=True)
class CheckedAttack:
    """What `checked_attack` returns.

    Attributes:
        images: the attacked images, float32 (N, H, W, 3).
        logits: M's logits of them by Keras, float32 (N, classes); NaN for an image that is not within [0, 1].
        checks: the checks that are evidence and apply, name -> whether it holds, in the order of `checks.CHECKS`.
        by_construction: the same of those that hold by construction.
        threat: the threat model that gave `images`: the one asked for, or one with more iterations.
        nan_images: how many images the attack's own code returned as NaN and were attacked again.
        best_iteration: as in `AttackResult`, where the attack tells.
    """

    images: np.ndarray
    logits: np.ndarray
    checks: dict[str, bool]
    by_construction: dict[str, bool]
    threat: ThreatModel
    nan_images: int
    best_iteration: np.ndarray | None = None

    @property
    def sound(self) -> bool:
        """Every check holds but for those that only warn."""
        return sound(self.checks | self.by_construction)


def checked_attack(
    target: Target,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    *,
    seed: int,
    ids: Sequence[str] | None = None,
    targets: np.ndarray | None = None,
    batch_size: int = 32,
    progress: Callable[[float], None] | None = None,
) -> CheckedAttack:
    """Attacks, checks, and where the best iterate is kept, attacks longer until twice the iterations gain little.

    Preset `strong` promises the strongest of its attacks, and how many steps that takes depends on the network. So if
    twice the iterations fool 0.5 points more images, be it a single one (which the check `doubling_gains_little` lets
    pass), they become the attack's, step and starts as they were: up to `LONGEST` times those asked for. What has not
    converged then fails the check. The other presets state their iterations, as the paper does, and get no more.

    Beyond the attack itself, an image costs three evaluations by Keras and one gradient, and an image that was left
    right the iterations once more: twice the iterations are the same path gone on with (`Attack.extend`). What becomes
    of an image depends on M, the image, its label, the threat model that is finally used, `seed` and its id, and not on
    the other images; how long the attack is, is decided for all images together.

    Args:
        target: the system under attack.
        images: floating (N, H, W, 3) in [0, 1].
        labels: true labels, integer (N,).
        threat: attack, budget and effort.
        seed: >= 0.
        ids: one stable name per image (its path in the data, say), on which its random numbers depend; None: a digest
            of its pixels.
        targets: the classes to aim at, integer (N,); None: untargeted.
        batch_size: images attacked together.
        progress: called with the fraction done, which never falls. The length is not known before, so the attack takes
            half of it, the check by twice the iterations half of the rest, and so on.

    Raises:
        ValueError, TypeError: the arguments do not fit each other, or the attack returned other shapes than it was
            given.
        InputError: images that are not floating or not in [0, 1]; M returns NaN or infinity.
    """
    cell = _Cell(target, images, labels, threat, seed=seed, ids=ids, targets=targets, batch_size=batch_size)
    phases = 0

    def report(done: float) -> None:
        if progress is not None:
            progress(1.0 - 0.5**phases + 0.5 ** (phases + 1) * done)

    found = cell.run(report)
    longest = LONGEST * threat.iterations if threat.keep_best else threat.iterations
    while True:
        phases += 1
        evidence, longer = cell.gather(found, report)
        converged = longer is None or gained_by_doubling(evidence) < 0.005 * len(cell.labels)
        if converged or 2 * cell.threat.iterations > longest:
            break
        phases += 1
        found = cell.lengthened(found, longer, report)
    if progress is not None:
        progress(1.0)
    holds = verdicts(evidence)
    return CheckedAttack(
        images=evidence.attacked,
        logits=evidence.attacked_logits,
        checks={name: value for name, value in holds.items() if name not in BY_CONSTRUCTION},
        by_construction={name: value for name, value in holds.items() if name in BY_CONSTRUCTION},
        threat=cell.threat,
        nan_images=int(found.nan.sum()) if isinstance(found, AttackResult) else 0,
        best_iteration=found.best_iteration if isinstance(found, AttackResult) else None,
    )


def check_attack(
    target: Target,
    images: np.ndarray,
    labels: np.ndarray,
    found: Found,
    threat: ThreatModel,
    *,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    targets: np.ndarray | None = None,
    batch_size: int = 32,
) -> dict[str, bool]:
    """The verdicts on an attack that was run.

    Args:
        found: what the attack returned for the images: images, or an `AttackResult`.
        threat: the threat model it ran under.
        targets: the labels that a targeted attack was given, integer (N,); None: it was untargeted.

    Other arguments and errors: as `checked_attack`.

    Returns:
        Check name -> whether it holds, of every check that applies, in the order of `checks.CHECKS`.
    """
    return verdicts(
        gather(target, images, labels, found, threat, seed=seed, ids=ids, targets=targets, batch_size=batch_size)
    )


def gather(
    target: Target, images: np.ndarray, labels: np.ndarray, found: Found, threat: ThreatModel, **options: Any
) -> Evidence:
    """The evidence that `check_attack` judges by. Arguments and errors as there."""
    cell = _Cell(target, images, labels, threat, **{"seed": 0, **options})
    if np.shape(images_of(found)) != cell.images.shape:
        raise ValueError(f"the result has shape {np.shape(images_of(found))}, the clean images {cell.images.shape}.")
    return cell.gather(found)[0]


class _Cell:
    """Some images under one threat model: what is known before the attack, and the attack and its checks."""

    def __init__(
        self,
        target: Target,
        images: np.ndarray,
        labels: np.ndarray,
        threat: ThreatModel,
        *,
        seed: int,
        ids: Sequence[str] | None = None,
        targets: np.ndarray | None = None,
        batch_size: int = 32,
    ) -> None:
        self.target, self.threat, self.targets = target, threat, targets
        self.images, self.labels = np.ascontiguousarray(checked_pixels(images)), np.asarray(labels)
        _same_lengths(self.images, self.labels, targets)
        if seed < 0 or batch_size < 1:
            raise ValueError(f"seed ({seed}) must be at least 0 and batch_size ({batch_size}) at least 1.")
        self.ids = pixel_ids(self.images) if ids is None else list(ids)
        if len(self.ids) != len(self.images):
            raise ValueError(f"there are {len(self.ids)} ids for {len(self.images)} images; give each image one.")
        self.wanted = self.labels if targets is None else np.asarray(targets)
        self.options = {"seed": seed, "batch_size": batch_size, "targeted": targets is not None}
        self.logits = target.logits(self.images)
        self.of_gradients = self._of_gradients() if threat.spec.gradient and "M" in threat.spec.knows else {}

    def _of_gradients(self) -> dict[str, np.ndarray]:
        """Evidence on M's torch copy, which only an attack along a gradient looks at."""
        module, size = self.target.module, self.options["batch_size"]
        logits, gradients = logits_and_gradients(module, self.images, self.wanted, batch_size=size)
        direction = gradients if self.targets is None else -gradients
        return {
            "module_logits": logits,
            "gradients": gradients,
            "alone_logits": logits_of(module, self.images[:FEW_IMAGES], batch_size=1),
            "one_step_logits": self.target.logits(one_step(self.images, direction, self.threat)),
        }

    def run(self, progress: Callable[[float], None]) -> Found:
        """The attack on all images."""
        where = (self.target, self.images, self.wanted, self.threat)
        return run_attack(*where, ids=self.ids, progress=progress, **self.options)

    def gather(
        self, found: Found, progress: Callable[[float], None] | None = None
    ) -> tuple[Evidence, tuple[np.ndarray, Found] | None]:
        """The evidence, and which images (integers) twice the iterations were tried on, with what they found."""
        attacked = images_of(found)
        attacked_logits = self._logits(attacked)
        reported = {}
        if isinstance(found, AttackResult):
            reported = {"reported_logits": found.logits}
            reported |= {name: getattr(found, name) for name in ("fooled", "peak_loss", "iterations")}
        doubled, longer, spec = None, None, self.threat.spec
        # What an attack on M and K gains by more steps cannot be told from M's answers alone.
        if spec.gradient and spec.iterative and "K" not in spec.knows:
            doubled = succeeded(attacked_logits, self.labels, self.targets)
            left = np.flatnonzero(~doubled)
            longer = (left, self._longer(found, left, progress) if len(left) else None)
            if len(left):
                doubled[left] = succeeded(
                    self._logits(images_of(longer[1])), self.labels[left], _some(self.targets, left)
                )
        evidence = Evidence(
            images=self.images,
            labels=self.labels,
            targets=self.targets,
            threat=self.threat,
            attacked=attacked,
            logits=self.logits,
            attacked_logits=attacked_logits,
            repeated=self._repeated(),
            doubled=doubled,
            **self.of_gradients,
            **reported,
        )
        return evidence, longer

    def lengthened(self, found: Found, longer: tuple[np.ndarray, Found], progress: Callable[[float], None]) -> Found:
        """The attack with twice the iterations on all images: on those where they were not tried it is gone on with."""
        left, of_left = longer
        rest = np.setdiff1d(np.arange(len(self.images)), left)
        parts = [of_left, self._longer(found, rest, progress)] if len(rest) else [of_left]
        self.threat = replace(self.threat, iterations=2 * self.threat.iterations)
        order = np.argsort(np.concatenate([left, rest]))
        return taken(joined(parts), order) if isinstance(found, AttackResult) else np.concatenate(parts)[order]

    def _logits(self, images: np.ndarray) -> np.ndarray:
        """M's logits by Keras; NaN for an image that is not within [0, 1]."""
        logits = np.full((len(images), self.logits.shape[1]), np.nan, np.float32)
        usable = ((images >= 0.0) & (images <= 1.0)).all(axis=(1, 2, 3))
        if usable.any():
            logits[usable] = self.target.logits(images[usable])
        return logits

    def _longer(self, found: Found, rows: np.ndarray, progress: Callable[[float], None] | None) -> Found:
        where = (self.target, self.images, self.wanted, self.threat)
        return run_longer(*where, found, rows, ids=self.ids, progress=progress, **self.options)

    def _repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """The attack on the first images, twice; shortened where it goes by steps."""
        short, some = self.threat, slice(FEW_IMAGES)
        if short.spec.gradient:
            short = replace(short, iterations=min(FEW_ITERATIONS, short.iterations), restarts=1)
        where = (self.target, self.images[some], self.wanted[some], short)
        first, second = (images_of(run_attack(*where, ids=self.ids[some], **self.options)) for _ in range(2))
        return first, second


def one_step(images: np.ndarray, gradients: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Clean images (N, H, W, 3) moved by epsilon along the gradient, as the norm measures it, and cut to [0, 1]."""
    if threat.norm is Norm.LINF:
        direction = np.sign(gradients)
    else:
        direction = gradients / np.maximum(lengths(gradients, threat.norm)[:, None, None, None], 1e-300)
    return np.clip(images + threat.epsilon * direction, 0.0, 1.0).astype(np.float32)


def _some(values: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if values is None else values[rows]


def _same_lengths(images: np.ndarray, labels: np.ndarray, targets: np.ndarray | None) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(f"images have shape {images.shape}; expected at least one image as (N, H, W, 3).")
    for name, values in (("labels", labels), ("targets", targets)):
        if values is not None and (np.shape(values) != images.shape[:1] or not np.issubdtype(values.dtype, np.integer)):
            raise ValueError(
                f"{name} have shape {np.shape(values)} and dtype {values.dtype}; expected integers of shape "
                f"({len(images)},)."
            )
