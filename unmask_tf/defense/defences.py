"""Defences: what answers an image, from M's answer, from the parts seen in it, or from both (Table IV's columns)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from unmask_tf.defense.alignment import (
    benign_threshold,
    best_fit,
    detect,
    detection_scores,
    predicted_similarity,
    similarities,
)
from unmask_tf.taxonomy import Taxonomy

if TYPE_CHECKING:
    from unmask_tf.defense.extract import Extraction  # which imports K, and with it TensorFlow

FALSE_POSITIVE_RATE = 0.05
"""The share of benign validation images that Algorithm 1's threshold may flag."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a defence is given: N images and what is known of them.

    Attributes:
        images: float32 (N, S, S, 3) in [0, 1], attacked or benign.
        model_answers: M's class per image.
        labels: class names in label order, which is that of M's logits.
        taxonomy: holds the expected parts V.
        class_set: the classes to choose among; their order decides ties.
        classify: M: images -> logits (N, classes); None unless the defence's entry asks for it.
        parts: extracted parts per image; None unless the entry asks for them.
        validation: the same for benign validation images; None unless the entry asks for them.
    """

    images: np.ndarray
    model_answers: Sequence[str]
    labels: Sequence[str]
    taxonomy: Taxonomy
    class_set: str
    classify: Callable[[np.ndarray], np.ndarray] | None = None
    parts: Sequence[Extraction] | None = None
    validation: Case | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a defence says of N images.

    Attributes:
        classes: class names; None: no answer, which counts as wrong.
        similarity: s = JS(V[M(x)], parts), float (N,), or None.
        score: of being adversarial, float (N,), high is suspicious; None: the defence detects nothing.
        flagged: bool (N,), judged adversarial; None: nothing is judged.
        threshold: how it was chosen (`value`, `fpr`, `fpr_measured`, `split`, `n`), where there is one.
    """

    classes: Sequence[str | None]
    similarity: np.ndarray | None = None
    score: np.ndarray | None = None
    flagged: np.ndarray | None = None
    threshold: Mapping[str, Any] = field(default_factory=dict)


class Answer(Protocol):
    """A defence's function."""

    def __call__(self, case: Case) -> Answers:
        """Answers every image of the case."""


@dataclass(frozen=True)
class Defence:
    """An entry of `DEFENCES`.

    Attributes:
        answer: the function.
        recipe: training of the M that it stands on, and that the attacker attacks: `none`, or a name in `RECIPES`.
        classify: it asks M again, so `Case.classify` is given.
        parts: it looks at parts.
        validation: it needs benign validation images.
    """

    answer: Answer
    recipe: str = "none"
    classify: bool = False
    parts: bool = False
    validation: bool = False


def trust(case: Case) -> Answers:
    """M's own answer: no defence, or adversarial training where M was trained so."""
    return Answers(classes=case.model_answers)


def align(case: Case) -> Answers:
    """K alone: the class whose expected parts fit best, whatever M says (Table IV's column UM)."""
    fit, similarity = _fit(case)
    members = case.taxonomy.members(case.class_set)
    return Answers(classes=best_fit(fit, members), similarity=similarity, score=detection_scores(similarity))


def algorithm1(case: Case) -> Answers:
    """Algorithm 1: M's answer where parts and M agree, the best-fitting class where the image is judged adversarial.

    The threshold is the lowest that flags at most `FALSE_POSITIVE_RATE` of the benign validation images.
    """
    assert case.validation is not None
    benign = detection_scores(_fit(case.validation)[1])
    threshold, rate = benign_threshold(benign, FALSE_POSITIVE_RATE)
    fit, similarity = _fit(case)
    score = detection_scores(similarity)
    flagged = detect(score, threshold)
    best = best_fit(fit, case.taxonomy.members(case.class_set))
    return Answers(
        classes=[b if f else m for b, f, m in zip(best, flagged, case.model_answers, strict=True)],
        similarity=similarity,
        score=score,
        flagged=flagged,
        threshold={
            "value": threshold,
            "fpr": FALSE_POSITIVE_RATE,
            "fpr_measured": rate,
            "split": "val",
            "n": len(benign),
        },
    )


def _fit(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Similarity with every class of the set, in its order (N, C), and with M's class (N,)."""
    assert case.parts is not None
    members = case.taxonomy.members(case.class_set)
    fit = similarities([frozenset(seen) for seen in case.parts], case.taxonomy, members)
    return fit, predicted_similarity(fit, np.array([members.index(name) for name in case.model_answers], np.int64))


DEFENCES: dict[str, Defence] = {
    "none": Defence(trust),
    "at": Defence(trust, recipe="released"),
    "at_madry": Defence(trust, recipe="madry"),
    "um": Defence(align, parts=True),
    "algorithm1": Defence(algorithm1, parts=True, validation=True),
}
"""Every defence by its name. One entry adds another: its function sees a `Case`."""
