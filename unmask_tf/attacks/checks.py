"""Sanity checks of an attack that was run: is its result legal, and was the attack given a fair chance?

Each check is one small function of the `Evidence` (numpy only; `evidence.py` gathers it); one entry in `CHECKS` adds
another, and says to which attacks it applies. An attack that fails a check says little about the model. A check that
only warns points at a setting that is known to spoil attacks; whether it did is for the others to find. A check that
holds by construction guards our own code: that it passes is no evidence, so it is not counted as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from unmask_tf.attacks.pixels import lengths, rounding
from unmask_tf.attacks.protocol import Norm
from unmask_tf.attacks.results import gain, succeeded
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.data.pixels import to_8bit

OUTPUT_TOLERANCE = 1e-4
"""Most by which two float32 evaluations of an image may differ, in units of its largest logit (at least 1).

A sum of k products, added up in another order, differs by about sqrt(k) roundings of 2^-24; k is at most 4608 here
(3 x 3 x 512), so one layer differs by 4e-6. Layers differ independently, so the 121 of DenseNet-121 come to
sqrt(121) x 4e-6 = 4.5e-5; the tolerance is twice that. Trained networks on attacked images differ by 2e-6.
"""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the checks look at, for N images and C classes.

    What an attack did not report, or what means nothing for it, is None.

    Attributes:
        images: clean images, float32 (N, H, W, 3) in [0, 1].
        labels: true labels, integer (N,).
        targets: the classes a targeted attack aimed at, integer (N,); None: untargeted.
        threat: the threat model.
        attacked: attacked images, float32 (N, H, W, 3).
        logits: M's logits of `images` as Table IV's are, by Keras, (N, C).
        attacked_logits: those of `attacked`; NaN where `attacked` was not evaluable.
        one_step_logits: those after one gradient step of length epsilon.
        module_logits: what M's torch copy, which the attack saw, makes of `images`, (N, C).
        alone_logits: the copy's outputs on the first images, evaluated one by one, (k, C).
        gradients: the copy's, of the cross-entropy of the labels (or targets) by `images`, float32 (N, H, W, 3).
        reported_logits, fooled, peak_loss, iterations: what the attack says of itself (`AttackResult`).
        repeated: the first images attacked twice with few iterations, two float32 (k, H, W, 3).
        doubled: bool (N,), fooled by the attack or by twice its iterations.
    """

    images: np.ndarray
    labels: np.ndarray
    targets: np.ndarray | None
    threat: ThreatModel
    attacked: np.ndarray
    logits: np.ndarray
    attacked_logits: np.ndarray
    one_step_logits: np.ndarray | None = None
    module_logits: np.ndarray | None = None
    alone_logits: np.ndarray | None = None
    gradients: np.ndarray | None = None
    reported_logits: np.ndarray | None = None
    fooled: np.ndarray | None = None
    peak_loss: np.ndarray | None = None
    iterations: np.ndarray | None = None
    repeated: tuple[np.ndarray, np.ndarray]
    doubled: np.ndarray | None = None


def few(images: int, total: int, points: float) -> bool:
    """Whether `images` of `total` are less than `points` percent points.

    One image is always few: with fewer than 100 / points images it is the smallest difference there can be, and a
    single image on the edge of the budget must not decide.
    """
    return images <= 1 or images < points / 100.0 * total


def finite(evidence: Evidence) -> bool:
    """No NaN and no infinity in the attacked images."""
    return bool(np.isfinite(evidence.attacked).all())


def box_kept(evidence: Evidence) -> bool:
    """Attacked images lie in [0, 1], exactly."""
    return bool((evidence.attacked >= 0.0).all() and (evidence.attacked <= 1.0).all())


def budget_kept(evidence: Evidence) -> bool:
    """|attacked - clean| <= epsilon in the attack's norm, up to float32 rounding."""
    return _beyond_budget(evidence.attacked, evidence) <= 0.0


def budget_kept_in_8bit(evidence: Evidence) -> bool:
    """The 8-bit form, which K sees, keeps the budget up to the one grey level that cutting to 8 bits costs.

    That is epsilon + 1/255 for LINF, epsilon + sqrt(d)/255 for L2 and epsilon + d/255 for L1 with d values per image.
    """
    if not (finite(evidence) and box_kept(evidence)):
        return False
    values = evidence.images[0].size
    cut = {Norm.LINF: 1.0, Norm.L2: float(np.sqrt(values)), Norm.L1: float(values)}[evidence.threat.norm] / 255.0
    return _beyond_budget(to_8bit(evidence.attacked) / 255.0, evidence) <= cut


def outputs_are_logits(evidence: Evidence) -> bool:
    """The model returns logits: a softmax before the cross-entropy would flatten the gradients."""
    logits = evidence.module_logits
    distributions = (logits >= 0.0).all() and np.allclose(logits.sum(axis=1), 1.0, atol=1e-4)
    return not bool(distributions)


def outputs_independent_of_batch(evidence: Evidence) -> bool:
    """An image alone gives the logits it gives in a batch: no batch statistics, no dropout."""
    return _same_outputs(evidence.alone_logits, evidence.module_logits[: len(evidence.alone_logits)])


def outputs_reproduced(evidence: Evidence) -> bool:
    """Keras, by which M is scored, gives the logits that the attack reported: the torch copy it saw is the same M."""
    return _same_outputs(evidence.reported_logits, evidence.attacked_logits)


def gradients_nonzero(evidence: Evidence) -> bool:
    """Every clean image has a finite gradient that is not zero throughout (else a gradient attack stands still)."""
    gradients = evidence.gradients.reshape(len(evidence.gradients), -1)
    return bool(np.isfinite(gradients).all() and (gradients != 0.0).any(axis=1).all())


def labels_match_model(evidence: Evidence) -> bool:
    """The model is right on clean images more often than guessing is but once in twenty times.

    Else the labels are of another order or of other images, and an untargeted attack "succeeds" before it starts.
    """
    right = int((evidence.logits.argmax(axis=1) == evidence.labels).sum())
    total, classes = evidence.logits.shape
    return _guessed_right_at_least(right, total, 1.0 / classes) < 0.05 or right == total


def step_shorter_than_budget(evidence: Evidence) -> bool:
    """step < 2 epsilon: a longer step jumps between the corners of the budget, whatever went before."""
    return evidence.threat.step < 2.0 * evidence.threat.epsilon


def steps_reach_budget(evidence: Evidence) -> bool:
    """iterations * step >= 1.25 epsilon: fewer or shorter steps cannot use the budget."""
    threat = evidence.threat
    return threat.iterations * threat.step >= 1.25 * threat.epsilon


def all_iterations_run(evidence: Evidence) -> bool:
    """Every image received all iterations, and those that no iterate fooled received them in every restart."""
    runs = np.where(evidence.fooled, 1, evidence.threat.restarts)
    return bool((evidence.iterations >= evidence.threat.iterations * runs).all())


def loss_rises(evidence: Evidence) -> bool:
    """The loss is higher on the attacked images, on average and, up to rounding, for nine images in ten.

    Targeted: the loss of the targets is lower.
    """
    before, after = (_gain(logits, evidence) for logits in (evidence.logits, evidence.attacked_logits))
    if not np.isfinite(after).all():
        return False
    kept = after >= before - 1e-4 * np.maximum(1.0, np.abs(before))
    return bool(after.mean() > before.mean() and kept.mean() >= 0.9)


def as_strong_as_one_step(evidence: Evidence) -> bool:
    """The attack fools at least as many images as one gradient step of length epsilon, but for few (0.5 points)."""
    one_step, attacked = (
        int(succeeded(logits, evidence.labels, evidence.targets).sum())
        for logits in (evidence.one_step_logits, evidence.attacked_logits)
    )
    return few(one_step - attacked, len(evidence.labels), 0.5)


def doubling_gains_little(evidence: Evidence) -> bool:
    """Twice the iterations fool but few more images (less than 0.5 points): the attack had converged.

    Only images that it left right are attacked again, since the others cannot be gained. So what a restless attack
    finds in one run and loses in the next counts as a gain: an attack that kept its best iterate would have had it.
    """
    return few(gained_by_doubling(evidence), len(evidence.labels), 0.5)


def gained_by_doubling(evidence: Evidence) -> int:
    """Number of images that twice the iterations fool and the attack does not."""
    gained = evidence.doubled & ~succeeded(evidence.attacked_logits, evidence.labels, evidence.targets)
    return int(gained.sum())


def best_iterate_returned(evidence: Evidence) -> bool:
    """Where the threat model keeps the best iterate, no iterate was better than the image returned.

    Better is: fools the model, then: has a higher loss (by more than rounding).
    """
    success = succeeded(evidence.reported_logits, evidence.labels, evidence.targets)
    loss, peak = _gain(evidence.reported_logits, evidence), evidence.peak_loss.astype(np.float64)
    reached = loss >= peak - 1e-4 * np.maximum(1.0, np.abs(peak))
    return bool((success == evidence.fooled).all() and reached.all())


def deterministic(evidence: Evidence) -> bool:
    """Two runs with the same seed give the same images, bit by bit."""
    return bool(np.array_equal(*evidence.repeated))


def _always(evidence: Evidence) -> bool:
    return True


def _by_gradient(evidence: Evidence) -> bool:
    """Along M's gradient."""
    return evidence.threat.spec.gradient and _against_m(evidence)


def _in_steps(evidence: Evidence) -> bool:
    return evidence.threat.spec.gradient and evidence.threat.spec.iterative


def _against_m(evidence: Evidence) -> bool:
    return "M" in evidence.threat.spec.knows


def _against_m_alone(evidence: Evidence) -> bool:
    """An attack that aims at K as well may be content with less against M."""
    return evidence.threat.spec.gradient and evidence.threat.spec.knows == {"M"}


def _reporting(evidence: Evidence) -> bool:
    return evidence.reported_logits is not None


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        holds: evidence -> whether the attack passes.
        failure: what it means if it does not, in a few words.
        applies: evidence -> whether the question makes sense for such an attack.
        warns: a failure is a warning only.
        by_construction: the code that runs our attacks makes it true (it projects to budget and box, and refuses NaN).
    """

    holds: Callable[[Evidence], bool]
    failure: str
    applies: Callable[[Evidence], bool] = _always
    warns: bool = False
    by_construction: bool = False


CHECKS: dict[str, Check] = {
    check.holds.__name__: check
    for check in (
        Check(finite, "attacked images hold NaN or infinity", by_construction=True),
        Check(box_kept, "attacked pixels lie outside [0, 1]", by_construction=True),
        Check(budget_kept, "images were moved further than epsilon", by_construction=True),
        Check(budget_kept_in_8bit, "what K sees was moved further than epsilon and a grey level", by_construction=True),
        Check(outputs_are_logits, "M ends in a softmax, which flattens the gradients", _by_gradient),
        Check(
            outputs_independent_of_batch,
            "M's answer depends on the other images of the batch, or on chance",
            _by_gradient,
        ),
        Check(outputs_reproduced, "the attack saw another M than the one that is evaluated", _reporting),
        Check(gradients_nonzero, "some images have no gradient to follow", _by_gradient),
        Check(labels_match_model, "M is no better than guessing on the clean images: wrong labels or wrong weights"),
        Check(
            step_shorter_than_budget,
            "steps of two budgets or more jump between the budget's corners",
            _in_steps,
            warns=True,
        ),
        Check(steps_reach_budget, "all steps together are too short to use the budget", _in_steps, warns=True),
        Check(
            all_iterations_run,
            "some images received fewer steps than were asked for",
            lambda evidence: _against_m_alone(evidence) and _reporting(evidence),
        ),
        Check(loss_rises, "the attack lowers the loss it should raise, or leaves it", _against_m),
        Check(as_strong_as_one_step, "a single step of length epsilon fools more images", _against_m_alone),
        Check(
            doubling_gains_little,
            "twice the iterations fool at least 0.5 points more images: not converged",
            lambda evidence: evidence.doubled is not None,
        ),
        Check(
            best_iterate_returned,
            "a better iterate was found and not returned",
            lambda evidence: evidence.threat.keep_best and _against_m_alone(evidence) and _reporting(evidence),
        ),
        Check(deterministic, "the same seed gives another result"),
    )
}
"""Every check by its name, in the order in which a report lists them."""

WARNINGS = frozenset(name for name, check in CHECKS.items() if check.warns)
"""The checks whose failure does not make an attack unsound."""

BY_CONSTRUCTION = frozenset(name for name, check in CHECKS.items() if check.by_construction)
"""The checks that are no evidence if they hold."""


def verdicts(evidence: Evidence) -> dict[str, bool]:
    """Check name -> whether it holds, for the checks that apply, in the order of `CHECKS`."""
    return {name: bool(check.holds(evidence)) for name, check in CHECKS.items() if check.applies(evidence)}


def sound(checks: Mapping[str, bool]) -> bool:
    """True iff there are checks and all of them hold but for those that only warn."""
    return bool(checks) and all(holds for name, holds in checks.items() if name not in WARNINGS)


def evidence_count(checks: Iterable[str]) -> int:
    """How many of these checks (names, or a dict of verdicts) are evidence: not those that hold by construction."""
    return sum(name not in BY_CONSTRUCTION for name in checks)


def _gain(logits: np.ndarray, evidence: Evidence) -> np.ndarray:
    return gain(logits, evidence.labels, evidence.targets)


def _same_outputs(first: np.ndarray, second: np.ndarray) -> bool:
    scale = np.maximum(1.0, np.abs(second).max(axis=1, keepdims=True))
    return bool((np.abs(first - second) <= OUTPUT_TOLERANCE * scale).all())


def _guessed_right_at_least(right: int, total: int, chance: float) -> float:
    """P(X >= right) of a binomial distribution."""
    # Sums of logarithms: factorials of a thousand images leave float64.
    k = np.arange(total + 1)
    steps = np.log(np.maximum(k, 1))
    factorial = np.cumsum(steps)
    log_p = factorial[total] - factorial[k] - factorial[total - k] + k * np.log(chance)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = log_p + np.where(total - k > 0, (total - k) * np.log1p(-chance), 0.0)
    return float(np.exp(log_p[right:]).sum())


def _beyond_budget(attacked: np.ndarray, evidence: Evidence) -> float:
    """By how much the furthest image is beyond the budget and float32 rounding; NaN where an image holds NaN."""
    threat = evidence.threat
    furthest = lengths(np.asarray(attacked, np.float64) - evidence.images.astype(np.float64), threat.norm).max()
    return float(furthest) - threat.epsilon - rounding(threat, evidence.images[0].size)
