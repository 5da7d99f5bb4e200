"""Attacks with every check looking on: gathers the evidence, judges it, and lengthens what had not converged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from unmask_tf.attacks.advertorch_bridge import AttackResult, attack, logits_and_gradients, logits_of
from unmask_tf.attacks.checks import CHECKS, Evidence, gained_by_doubling, succeeded
from unmask_tf.attacks.pixels import lengths
from unmask_tf.attacks.threat_models import Norm, ThreatModel
from unmask_tf.errors import InputError

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
        result: the attacked images and what the attack says of them.
        checks: check name -> whether it holds, in the order of `CHECKS`.
        threat: the threat model that gave `result`: the one asked for, or one with more iterations.
    """

    result: AttackResult
    checks: dict[str, bool]
    threat: ThreatModel


def checked_attack(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    *,
    seed: int,
    targets: np.ndarray | None = None,
    batch_size: int = 32,
    progress: Callable[[float], None] | None = None,
) -> CheckedAttack:
    """Attacks, checks, and where the best iterate is kept, attacks longer until twice the iterations gain little.

    Preset `strong` promises the strongest of its attacks, and how many steps that takes depends on the network. So if
    twice the iterations fool 0.5 points more images, be it a single one (which the check `doubling_gains_little` lets
    pass), they become the attack's, step and seed as they were: up to `LONGEST` times those asked for. What has not
    converged then fails the check. The other presets state their iterations, as the paper does, and get no more.

    Args:
        module: torch module, NCHW float32 in [0, 1] -> logits (N, classes).
        images: floating (N, H, W, 3) in [0, 1].
        labels: true labels, integer (N,).
        threat: attack, budget and effort.
        seed: >= 0.
        targets: the classes to aim at, integer (N,); None: untargeted.
        batch_size: images attacked together.
        progress: called with the fraction done, which never falls. The length is not known before, so a first attack
            ends at 0.85 of it, and each longer one takes 0.85 of the rest.

    Raises:
        InputError: as `attack`.
    """
    longest, runs = LONGEST * threat.iterations if threat.keep_best else threat.iterations, 0
    while True:

        def report(done: int, total: int, before: float = 1.0 - 0.15**runs) -> None:
            if progress is not None:
                progress(before + (1.0 - before) * 0.85 * done / total)

        result = attack(
            module,
            images,
            labels if targets is None else targets,
            threat,
            seed=seed,
            batch_size=batch_size,
            progress=report,
            targeted=targets is not None,
        )
        evidence = gather(module, images, labels, result, threat, seed=seed, targets=targets, batch_size=batch_size)
        converged = gained_by_doubling(evidence) < 0.005 * len(labels)
        if converged or 2 * threat.iterations > longest:
            return CheckedAttack(result=result, checks=_verdicts(evidence), threat=threat)
        threat, runs = replace(threat, iterations=2 * threat.iterations), runs + 1


def check_attack(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    result: AttackResult,
    threat: ThreatModel,
    *,
    seed: int = 0,
    targets: np.ndarray | None = None,
    batch_size: int = 32,
) -> dict[str, bool]:
    """Runs every check of `checks.CHECKS`.

    The cost is four evaluations of the module per image, two short attacks on `FEW_IMAGES`, and the attack with twice
    its iterations on those images that it left right: of a successful attack of 20 iterations, about a tenth.

    Args:
        module: the attacked module, NCHW in [0, 1] -> logits.
        images: the clean images, floating (N, H, W, 3) in [0, 1].
        labels: true labels, integer (N,), also after a targeted attack.
        result: what the attack returned for them.
        threat: the threat model it ran under.
        seed: of the attacks that the checks make.
        targets: the labels that a targeted attack was given, integer (N,); None: it was untargeted.
        batch_size: the attack's.

    Returns:
        Check name -> whether it holds, in the order of `CHECKS`.

    Raises:
        InputError: `images`, `labels` or the module's outputs are unusable (see `attack`), or `result` is of
            other images.
    """
    evidence = gather(module, images, labels, result, threat, seed=seed, targets=targets, batch_size=batch_size)
    return _verdicts(evidence)


def _verdicts(evidence: Evidence) -> dict[str, bool]:
    return {name: bool(check.holds(evidence)) for name, check in CHECKS.items()}


def gather(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    result: AttackResult,
    threat: ThreatModel,
    *,
    seed: int = 0,
    targets: np.ndarray | None = None,
    batch_size: int = 32,
) -> Evidence:
    """The evidence that `check_attack` judges by. Arguments and errors as there."""
    if result.images.shape != np.shape(images):
        raise InputError(f"the result has shape {result.images.shape}, the clean images {np.shape(images)}.")
    if targets is not None and np.shape(targets) != np.shape(labels):
        raise InputError(f"targets have shape {np.shape(targets)}, the labels {np.shape(labels)}; give one an image.")
    targeted, labels = targets is not None, np.asarray(labels)
    wanted = np.asarray(targets) if targeted else labels
    logits, gradients = logits_and_gradients(module, images, wanted, batch_size=batch_size)
    images = np.asarray(images, np.float32)
    attacked_logits = np.full_like(logits, np.nan)
    usable = ((result.images >= 0.0) & (result.images <= 1.0)).all(axis=(1, 2, 3))
    if usable.any():
        attacked_logits[usable] = logits_of(module, result.images[usable], batch_size=batch_size)
    stepped = one_step(images, -gradients if targeted else gradients, threat)

    def again(rows: np.ndarray | slice, changed: ThreatModel) -> AttackResult:
        return attack(module, images[rows], wanted[rows], changed, seed=seed, batch_size=batch_size, targeted=targeted)

    short = replace(threat, iterations=min(FEW_ITERATIONS, threat.iterations), restarts=1)
    repeated = tuple(again(slice(FEW_IMAGES), short).images for _ in range(2))
    doubled = succeeded(attacked_logits, labels, wanted if targeted else None)
    left = ~doubled
    if left.any():
        longer = again(left, replace(threat, iterations=2 * threat.iterations))
        doubled[left] = succeeded(longer.logits, labels[left], wanted[left] if targeted else None)
    return Evidence(
        images=images,
        labels=labels,
        targets=wanted if targeted else None,
        threat=threat,
        attacked=result.images,
        reported_logits=result.logits,
        fooled=result.fooled,
        peak_loss=result.peak_loss,
        iterations=result.iterations,
        logits=logits,
        gradients=gradients,
        attacked_logits=attacked_logits,
        one_step_logits=logits_of(module, stepped, batch_size=batch_size),
        alone_logits=logits_of(module, images[:FEW_IMAGES], batch_size=1),
        repeated=repeated,
        doubled=doubled,
    )


def one_step(images: np.ndarray, gradients: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Clean images (N, H, W, 3) moved by epsilon along the gradient, as the norm measures it, and cut to [0, 1]."""
    if threat.norm is Norm.LINF:
        direction = np.sign(gradients)
    else:
        direction = gradients / np.maximum(lengths(gradients, threat.norm)[:, None, None, None], 1e-300)
    return np.clip(images + threat.epsilon * direction, 0.0, 1.0).astype(np.float32)
