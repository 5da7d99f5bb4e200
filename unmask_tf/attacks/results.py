"""Arithmetic of attack results: what counts as success, and parts of a result put together (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unmask_tf.attacks.protocol import AttackResult, Stop

_OF_EACH_IMAGE = ("images", "logits", "fooled", "peak_loss", "nan", "iterations")


def succeeded(logits: np.ndarray, labels: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
    """bool (N,): the model is wrong (targeted: answers the target). A NaN output is no success."""
    answers = logits.argmax(axis=1)
    return np.isfinite(logits).all(axis=1) & (answers != labels if targets is None else answers == targets)


def gain(logits: np.ndarray, labels: np.ndarray, targets: np.ndarray | None = None) -> np.ndarray:
    """float64 (N,): what an attack maximises, the cross-entropy of the label or minus that of the target."""
    logits = logits.astype(np.float64)
    wanted = labels if targets is None else targets
    shifted = logits - logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(axis=1)) - np.take_along_axis(shifted, wanted[:, None], axis=1)[:, 0]
    return loss if targets is None else -loss


def system_values(logits: np.ndarray, distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 (N,): how good attacked images are against the whole system, higher is better and 1 the best there is.

    Where M is wrong, 1 - d of its answer; else below -1, more the further M is from another answer.

    Args:
        logits: M's, (N, C).
        distances: d = 1 - JS of the parts that K sees and each class's, (N, C).
        labels: true labels, int (N,).
    """
    at, answers = np.arange(len(labels)), logits.argmax(axis=1)
    others = logits.astype(np.float64).copy()
    others[at, labels] = -np.inf
    margin = others.max(axis=1) - logits[at, labels]
    return np.where(answers != labels, 1.0 - distances[at, answers], -1.0 + np.tanh(0.1 * np.minimum(margin, 0.0)))


def joined(results: Sequence[AttackResult]) -> AttackResult:
    """The results of consecutive images as one."""
    fields = {name: np.concatenate([getattr(result, name) for result in results]) for name in _OF_EACH_IMAGE}
    if all(result.best_iteration is not None for result in results):
        fields["best_iteration"] = np.concatenate([result.best_iteration for result in results])
    firsts = np.cumsum([0, *(len(result.images) for result in results)])
    stopped = []
    for restart in range(max(len(result.stopped) for result in results)):
        stops = [
            replace(result.stopped[restart], rows=result.stopped[restart].rows + first)
            for result, first in zip(results, firsts, strict=False)
            if restart < len(result.stopped)
        ]
        momenta = [stop.momentum for stop in stops]
        stopped.append(
            Stop(
                np.concatenate([stop.rows for stop in stops]),
                np.concatenate([stop.delta for stop in stops]),
                None if momenta[0] is None else np.concatenate(momenta),
            )
        )
    return AttackResult(**fields, stopped=tuple(stopped))


def taken(result: AttackResult, rows: np.ndarray) -> AttackResult:
    """The result of some of its images, in the order of `rows` (integers, none twice)."""
    place = np.full(len(result.images), -1)
    place[rows] = np.arange(len(rows))
    stopped = []
    for stop in result.stopped:
        kept = place[stop.rows] >= 0
        momentum = None if stop.momentum is None else stop.momentum[kept]
        stopped.append(Stop(place[stop.rows][kept], stop.delta[kept], momentum))
    fields = {name: getattr(result, name)[rows] for name in _OF_EACH_IMAGE}
    return AttackResult(**fields, stopped=tuple(stopped))


def continued(
    first: AttackResult, then: AttackResult, labels: np.ndarray, *, targeted: bool, keep_best: bool
) -> AttackResult:
    """The result of a run and of its continuation, as of one run.

    Args:
        first, then: of the same images; `then` went on from where `first` stopped.
        labels: true labels, or the targets if `targeted`.
        keep_best: each image's better form is kept (the model is fooled first, then the higher loss), not the last.
    """
    better = np.ones(len(labels), bool)
    if keep_best:
        given = (labels, labels) if targeted else (labels,)
        before, after = (succeeded(result.logits, *given) for result in (first, then))
        higher = gain(then.logits, *given) > gain(first.logits, *given)
        better = (after & ~before) | ((after == before) & higher)

    def chosen(name: str) -> np.ndarray:
        one, other = getattr(then, name), getattr(first, name)
        return np.where(better.reshape(-1, *[1] * (one.ndim - 1)), one, other)

    # The peak is that of the iterates that fooled the model, where any did.
    peak = np.where(first.fooled, first.peak_loss, then.peak_loss)
    same = first.fooled == then.fooled
    return AttackResult(
        images=chosen("images"),
        logits=chosen("logits"),
        fooled=first.fooled | then.fooled,
        peak_loss=np.where(same, np.maximum(first.peak_loss, then.peak_loss), peak),
        nan=first.nan | then.nan,
        iterations=first.iterations + then.iterations,
        stopped=then.stopped,
    )
