"""Sanity checks of an attack that was run: is its result legal, and was the attack given a fair chance?

An attack that fails one of these says little about the model. Each check is one small function of the `Evidence`;
one entry in `CHECKS` adds another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from unmask_tf.attacks.advertorch_bridge import AttackResult, logits_and_gradients, logits_of
from unmask_tf.attacks.pixels import ROUNDING
from unmask_tf.attacks.threat_models import Norm, ThreatModel
from unmask_tf.data.pixels import to_8bit
from unmask_tf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the checks look at.

    Attributes:
        images: clean images, float32 (N, H, W, 3) in [0, 1].
        labels: true labels, integer (N,).
        attacked: attacked images, float32 (N, H, W, 3).
        predictions: the attack's own predictions on `attacked`, (N,).
        iterations: gradient steps that every image received.
        threat: the threat model.
        logits: the model's outputs on `images`, (N, classes).
        gradients: of the cross-entropy by `images`, float32 (N, H, W, 3).
        attacked_logits: the model's outputs on `attacked`, (N, classes); NaN where `attacked` was not evaluable.
    """

    images: np.ndarray
    labels: np.ndarray
    attacked: np.ndarray
    predictions: np.ndarray
    iterations: int
    threat: ThreatModel
    logits: np.ndarray
    gradients: np.ndarray
    attacked_logits: np.ndarray


def finite(evidence: Evidence) -> bool:
    """No NaN and no infinity in the attacked images."""
    return bool(np.isfinite(evidence.attacked).all())


def box_kept(evidence: Evidence) -> bool:
    """Attacked images lie in [0, 1], exactly."""
    return bool((evidence.attacked >= 0.0).all() and (evidence.attacked <= 1.0).all())


def budget_kept(evidence: Evidence) -> bool:
    """|attacked - clean| <= epsilon in the attack's norm, up to float32 rounding."""
    epsilon = evidence.threat.epsilon
    return _within(evidence.attacked, evidence, epsilon + ROUNDING * max(1.0, epsilon))


def budget_kept_in_8bit(evidence: Evidence) -> bool:
    """The 8-bit form, which K sees, keeps the budget up to the one grey level that cutting to 8 bits costs.

    That is epsilon + 1/255 for LINF and epsilon + sqrt(d)/255 for L2 with d values per image.
    """
    if not (finite(evidence) and box_kept(evidence)):
        return False
    cut = 1.0 / 255.0
    if evidence.threat.norm is Norm.L2:
        cut *= float(np.sqrt(evidence.images[0].size))
    epsilon = evidence.threat.epsilon
    seen = to_8bit(evidence.attacked) / 255.0
    return _within(seen, evidence, epsilon + cut + ROUNDING * max(1.0, epsilon))


def outputs_are_logits(evidence: Evidence) -> bool:
    """The model returns logits: a softmax before the cross-entropy would flatten the gradients."""
    distributions = (evidence.logits >= 0.0).all() and np.allclose(evidence.logits.sum(axis=1), 1.0, atol=1e-4)
    return not bool(distributions)


def gradients_nonzero(evidence: Evidence) -> bool:
    """Every clean image has a finite gradient that is not zero throughout (else a gradient attack stands still)."""
    gradients = evidence.gradients.reshape(len(evidence.gradients), -1)
    return bool(np.isfinite(gradients).all() and (gradients != 0.0).any(axis=1).all())


def step_shorter_than_budget(evidence: Evidence) -> bool:
    """step < 2 epsilon: a longer step jumps between the corners of the budget, whatever went before."""
    return evidence.threat.step < 2.0 * evidence.threat.epsilon


def steps_reach_budget(evidence: Evidence) -> bool:
    """iterations * step >= 1.25 epsilon: fewer or shorter steps cannot use the budget."""
    threat = evidence.threat
    return threat.iterations * threat.step >= 1.25 * threat.epsilon


def all_iterations_run(evidence: Evidence) -> bool:
    """Every image received all iterations of all restarts."""
    return evidence.iterations == evidence.threat.iterations * evidence.threat.restarts


def labels_match_model(evidence: Evidence) -> bool:
    """The model is right on clean images more often than chance; a shuffled label order would not be.

    Without it an untargeted attack "succeeds" before it starts.
    """
    right = evidence.logits.argmax(axis=1) == evidence.labels
    return bool(right.mean() > 1.0 / evidence.logits.shape[1])


def predictions_reproduced(evidence: Evidence) -> bool:
    """Evaluating the attacked images anew gives the predictions that the attack reported.

    A reported class may fall short of the highest logit by 1e-4 of it, which another batch size explains.
    """
    logits = evidence.attacked_logits
    highest = logits.max(axis=1)
    reported = np.take_along_axis(logits, evidence.predictions[:, None], axis=1)[:, 0]
    return bool((reported >= highest - 1e-4 * np.maximum(1.0, np.abs(highest))).all())


CHECKS: dict[str, Callable[[Evidence], bool]] = {
    check.__name__: check
    for check in (
        finite,
        box_kept,
        budget_kept,
        budget_kept_in_8bit,
        outputs_are_logits,
        gradients_nonzero,
        step_shorter_than_budget,
        steps_reach_budget,
        all_iterations_run,
        labels_match_model,
        predictions_reproduced,
    )
}
"""Every check by its name, in the order in which a report lists them."""


def check_attack(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    result: AttackResult,
    threat: ThreatModel,
    *,
    batch_size: int = 32,
) -> dict[str, bool]:
    """Runs every check; costs about three evaluations of the module per image.

    The released step of 2.0 fails `step_shorter_than_budget` for both LINF attacks. That is a finding about the
    released attack, not about the result: PGD then forgets each iterate and returns the last corner it jumped to.

    Args:
        module: the attacked module, NCHW in [0, 1] -> logits.
        images: the clean images, floating (N, H, W, 3) in [0, 1].
        labels: true labels, integer (N,), also after a targeted attack.
        result: what the attack returned for them.
        threat: the threat model it ran under.
        batch_size: images evaluated together.

    Returns:
        Check name -> whether it holds, in the order of `CHECKS`.

    Raises:
        InputError: `images`, `labels` or the module's outputs are unusable (see `attack`), or `result` is of
            other images.
    """
    if result.images.shape != np.shape(images):
        raise InputError(f"the result has shape {result.images.shape}, the clean images {np.shape(images)}.")
    logits, gradients = logits_and_gradients(module, images, labels, batch_size=batch_size)
    attacked_logits = np.full_like(logits, np.nan)
    usable = ((result.images >= 0.0) & (result.images <= 1.0)).all(axis=(1, 2, 3))
    if usable.any():
        attacked_logits[usable] = logits_of(module, result.images[usable], batch_size=batch_size)
    evidence = Evidence(
        images=np.asarray(images, np.float32),
        labels=np.asarray(labels),
        attacked=result.images,
        predictions=result.predictions,
        iterations=result.iterations,
        threat=threat,
        logits=logits,
        gradients=gradients,
        attacked_logits=attacked_logits,
    )
    return {name: bool(check(evidence)) for name, check in CHECKS.items()}


def sound(checks: Mapping[str, bool]) -> bool:
    """True iff there are checks and all of them hold."""
    return bool(checks) and all(checks.values())


def _within(attacked: np.ndarray, evidence: Evidence, radius: float) -> bool:
    delta = np.asarray(attacked, np.float64) - evidence.images.astype(np.float64)
    if evidence.threat.norm is Norm.LINF:
        lengths = np.abs(delta).max(axis=(1, 2, 3))
    else:
        lengths = np.sqrt((delta**2).sum(axis=(1, 2, 3)))
    return bool((lengths <= radius).all())
