"""What an attacker who knows K minimises: losses of the margins of K's proposals (`mrcnn.part_presence`).

Each takes margins (B, R, P) and `wanted` float (B, P), 1 for a part that is to be seen and -1 for one that is not, and
gives losses (B,). Keras operations alone, so that a gradient goes through.
"""

from __future__ import annotations

from typing import Any

from keras import ops

SLACK = 0.5
"""By how much a margin must be right before its part has no weight any more, in units of logits."""
SUPPORT = 3
"""Proposals that pull a wanted part up: its best one changes from step to step."""
_WIDTH = 2.0  # of the step from absent to present in the soft Jaccard similarity


def hinges(margins: Any, wanted: Any) -> Any:
    """Sum over the parts that are not right: of a wanted one its best proposal, of an unwanted one all that show it."""
    lacking = ops.relu(SLACK - ops.max(margins, axis=1))
    showing = ops.sum(ops.relu(SLACK + margins), axis=1)
    return ops.sum(ops.where(wanted > 0, lacking, showing), axis=-1)


def soft_jaccard(margins: Any, wanted: Any) -> Any:
    """1 - J of the wanted parts and the seen ones, a part's presence being a sigmoid of its highest margin.

    A wanted part's is half that, half the same of the mean of its `SUPPORT` highest margins. Where none is wanted: the
    number of parts seen.
    """
    highest = ops.top_k(ops.transpose(margins, (0, 2, 1)), min(SUPPORT, margins.shape[1]))[0]
    seen, supported = ops.sigmoid(highest[..., 0] / _WIDTH), ops.sigmoid(ops.mean(highest, axis=-1) / _WIDTH)
    expected = ops.cast(wanted > 0, seen.dtype)
    both, others = ops.sum(0.5 * (seen + supported) * expected, axis=-1), ops.sum(seen * (1.0 - expected), axis=-1)
    count = ops.sum(expected, axis=-1)
    return ops.where(count > 0, 1.0 - both / ops.maximum(count + others, 1e-6), others)
