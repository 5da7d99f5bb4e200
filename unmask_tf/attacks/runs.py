"""Attacks run batch by batch; what becomes of an image does not depend on its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from unmask_tf.attacks.protocol import AttackResult, Target
from unmask_tf.attacks.results import joined, taken
from unmask_tf.attacks.threat_models import ThreatModel

Found = np.ndarray | AttackResult
"""What an attack returns: its images, or all that it says of them."""


def images_of(found: Found) -> np.ndarray:
    """float32 (N, H, W, 3), the attacked images."""
    return found.images if isinstance(found, AttackResult) else found


def run_attack(
    target: Target,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    *,
    seed: int,
    ids: Sequence[str],
    targeted: bool = False,
    batch_size: int = 32,
    progress: Callable[[float], None] | None = None,
) -> Found:
    """Runs the attack of a threat model on all images.

    Args:
        target: the system under attack.
        images: float32 (N, H, W, 3) in [0, 1], at least one.
        labels: int64 (N,); true labels, or the targets if `targeted`.
        threat: attack, budget and effort.
        seed: >= 0.
        ids: one stable name per image, on which its random numbers depend.
        batch_size: images attacked together.
        progress: called with the fraction done, in (0, 1].

    Raises:
        ValueError: numbers of images, labels and ids differ, or the attack returned other shapes than it was given.
        As the attack itself.
    """
    further = {"targeted": True} if targeted else {}
    found = []
    for part in _batches(len(images), batch_size, progress):
        some = threat.spec.run(target, images[part], labels[part], threat, seed, [ids[i] for i in part], **further)
        if np.shape(images_of(some)) != images[part].shape:
            raise ValueError(
                f"{threat.attack} returned images of shape {np.shape(images_of(some))} for {images[part].shape}."
            )
        found.append(some)
    if isinstance(found[0], AttackResult):
        return joined(found)
    return np.concatenate(found).astype(np.float32, copy=False)


def run_longer(
    target: Target,
    images: np.ndarray,
    labels: np.ndarray,
    threat: ThreatModel,
    found: Found,
    rows: np.ndarray,
    *,
    seed: int,
    ids: Sequence[str],
    targeted: bool = False,
    batch_size: int = 32,
    progress: Callable[[float], None] | None = None,
) -> Found:
    """The attack with twice the iterations on some of the images: gone on with where it can, else run anew.

    Args:
        found: what the attack found for all images.
        rows: integers (k,), at least one: which images.

    Other arguments and errors: as `run_attack`. Returns what is found for the k images.
    """
    images, labels, ids = images[rows], labels[rows], [ids[row] for row in rows]
    extend = threat.spec.extend
    if extend is None or not isinstance(found, AttackResult) or not found.stopped:
        longer = replace(threat, iterations=2 * threat.iterations)
        options = {"seed": seed, "ids": ids, "targeted": targeted, "batch_size": batch_size, "progress": progress}
        return run_attack(target, images, labels, longer, **options)
    further = {"targeted": True} if targeted else {}
    return joined(
        [
            extend(target, images[part], labels[part], threat, taken(found, rows[part]), **further)
            for part in _batches(len(rows), batch_size, progress)
        ]
    )


def _batches(count: int, batch_size: int, progress: Callable[[float], None] | None) -> Iterator[np.ndarray]:
    """Positions of each batch; a batch counts as done when the next one is asked for."""
    for start in range(0, count, batch_size):
        part = np.arange(start, min(start + batch_size, count))
        yield part
        if progress is not None:
            progress(min(start + batch_size, count) / count)
