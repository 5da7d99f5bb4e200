"""Algorithm 1 for any classifier M and any part extractor K."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask_tf.data.pixels import to_8bit
from unmask_tf.defense.alignment import (
    benign_threshold,
    best_fit,
    detect,
    detection_scores,
    margin_scores,
    predicted_similarity,
    similarities,
)
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import Taxonomy

if TYPE_CHECKING:  # it imports Keras, which Algorithm 1 does not need
    from unmask_tf.defense.extract import Extraction, Extractor


@dataclass(frozen=True)
class Verdict:
    """UnMask's answer to one image.

    Attributes:
        predicted_class: M's class, y = M(x).
        extracted_parts: f_r = K(x).
        expected_parts: f_e = V[y].
        similarity: s = JS(f_r, f_e), in [0, 1].
        distance: d = 1 - s.
        adversarial: d >= t; or the margin is, where the detector goes by it.
        final_class: M's class where the image is judged benign, else the best-fitting class; None where the image
            is judged adversarial and no class of the set shares a part with it.
        scores: JS(f_r, V[c]) per class, in the class set's order.
        extraction: the extracted parts with their scores and boxes, as K returned them.
    """

    predicted_class: str
    extracted_parts: frozenset[str]
    expected_parts: frozenset[str]
    similarity: float
    distance: float
    adversarial: bool
    final_class: str | None
    scores: Mapping[str, float]
    extraction: Extraction = field(default_factory=dict, compare=False)

    @property
    def margin(self) -> float:
        """How much better another class fits than M's (`alignment.margin_scores`); -1 where there is no other."""
        others = [fit for name, fit in self.scores.items() if name != self.predicted_class]
        return max(others) - self.similarity if others else -1.0


@dataclass(frozen=True)
class UnMask:
    """Detects attacks on M and corrects M's answer, by the parts that K sees (Algorithm 1).

    The threshold depends on M, K and the images, so it has no default: `calibrate` chooses it on benign images.

    Attributes:
        classifier: M: float32 (N, H, W, 3) RGB in [0, 1] -> logits (N, C), classes in label (alphabetical) order.
        extractor: K.
        taxonomy: holds the expected parts V.
        class_set: M's classes; their order in the taxonomy decides ties.
        threshold: t >= 0; an image at distance t or more is judged adversarial. Above 1, none is. None: not chosen yet.
        batch_size: M is given at most this many images at a time.
        by_margin: the detector goes by the margin to the class that fits best, not by d, and t is a margin, -1 or more.
            It is not the paper's; an attacker who knows K has a harder time with it.

    Raises:
        InputError: the taxonomy has no such class set.
        ValueError: the threshold is NaN or below what it may be, or the batch size is below 1.
    """

    classifier: Callable[[np.ndarray], Any]
    extractor: Extractor
    taxonomy: Taxonomy
    class_set: str
    threshold: float | None = None
    batch_size: int = 32
    by_margin: bool = False

    def __post_init__(self) -> None:
        self.taxonomy.members(self.class_set)
        least, what = (-1, "margin") if self.by_margin else (0, "distance")
        if self.threshold is not None and not self.threshold >= least:
            raise ValueError(f"threshold is {self.threshold}. Give a {what} of {least} or more.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}. Give 1 or more.")

    def calibrate(self, images: np.ndarray, max_fpr: float = 0.05) -> UnMask:
        """Chooses the threshold on benign images: the lowest that flags at most a share `max_fpr` of them.

        Args:
            images: benign images like those to come, as for `predict`; neither M nor K may have been trained on them.
            max_fpr: false positive rate in [0, 1].

        Returns:
            A copy with that threshold. It lies above 1, so that nothing is flagged, where more than this share of the
            images have no expected part in common with what K sees.

        Raises:
            InputError, ValueError: as `predict`; ValueError: `max_fpr` is not a rate.
        """
        _, _, _, score = self._aligned(images)
        return replace(self, threshold=benign_threshold(score, max_fpr)[0])

    def predict(self, images: np.ndarray) -> list[Verdict]:
        """Runs Algorithm 1.

        Args:
            images: (N, H, W, 3) RGB, N >= 1, uint8 or float in [0, 1]. M sees a float image as it is and an 8-bit
                one divided by 255; K sees an 8-bit image as it is and floor(255 * x) of a float one.

        Returns:
            One verdict per image.

        Raises:
            InputError: the images' shape, type or range is wrong.
            ValueError: there is no threshold yet, M's output is not (N, classes of the set) or not finite, or K returns
                another number of part sets or a part that the taxonomy does not have.
        """
        if self.threshold is None:
            raise ValueError("UnMask has no threshold yet. Choose one: unmask = unmask.calibrate(benign_images)")
        predicted, found, fit, score = self._aligned(images)
        members = self.taxonomy.members(self.class_set)
        own = fit[np.arange(len(fit)), [members.index(name) for name in predicted]]
        distance, adversarial = detection_scores(own), detect(score, self.threshold)
        return [
            Verdict(
                predicted_class=predicted[i],
                extracted_parts=frozenset(found[i]),
                expected_parts=self.taxonomy.expected(predicted[i]),
                similarity=float(own[i]),
                distance=float(distance[i]),
                adversarial=bool(adversarial[i]),
                final_class=best if adversarial[i] else predicted[i],
                scores=dict(zip(members, fit[i].tolist(), strict=True)),
                extraction=found[i],
            )
            for i, best in enumerate(best_fit(fit, members))
        ]

    def _aligned(self, images: np.ndarray) -> tuple[list[str], list[Extraction], np.ndarray, np.ndarray]:
        """M's classes, what K sees, JS(f_r, V[c]) per class of the set (N, C), and the detector's scores (N,)."""
        for_m, for_k = _checked_images(images)
        labels, members = self.taxonomy.labels(self.class_set), self.taxonomy.members(self.class_set)
        predicted = [labels[label] for label in self._classify(for_m, len(labels))]
        found = list(self.extractor.extract(for_k))
        if len(found) != len(for_k):
            raise ValueError(f"the extractor returned {len(found)} part sets for {len(for_k)} images.")
        fit = similarities([frozenset(parts) for parts in found], self.taxonomy, members)
        answers = np.array([members.index(name) for name in predicted])
        if self.by_margin:
            return predicted, found, fit, margin_scores(fit, answers)
        return predicted, found, fit, detection_scores(predicted_similarity(fit, answers))

    def _classify(self, images: np.ndarray, classes: int) -> np.ndarray:
        """M's label per image, int64 (N,)."""
        labels = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            logits = _to_numpy(self.classifier(batch))
            if logits.shape != (len(batch), classes):
                raise ValueError(
                    f"the classifier returned shape {logits.shape} for {len(batch)} images; class set "
                    f"'{self.class_set}' has {classes} classes, so ({len(batch)}, {classes}) was expected. "
                    "Give the class set the classifier was trained on."
                )
            if not np.isfinite(logits).all():
                raise ValueError("the classifier returned NaN or infinite logits. Check its weights.")
            labels.append(logits.argmax(axis=1))
        return np.concatenate(labels)


def _to_numpy(logits: Any) -> np.ndarray:
    if not isinstance(logits, np.ndarray):
        # Only Keras knows how to bring back a tensor of every backend, from a device and with a gradient.
        from keras import ops

        logits = ops.convert_to_numpy(logits)
    return logits


def _checked_images(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images as M sees them (float32 in [0, 1]) and as K sees them (uint8).

    Raises:
        InputError: their shape, type or range is wrong.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        hint = " Add the batch axis: images[None]." if images.ndim == 3 else ""
        raise InputError(f"images have shape {images.shape}; (N, height, width, 3) was expected.{hint}")
    if 0 in images.shape:
        raise InputError(f"images have shape {images.shape}: they are empty. Give at least one image.")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255), images
    if images.dtype.kind != "f":
        raise InputError(f"images are {images.dtype}; uint8, or float in [0, 1], was expected.")
    if np.isnan(images).any():
        raise InputError(f"{int(np.isnan(images).any(axis=(1, 2, 3)).sum())} of {len(images)} images hold NaN.")
    if images.min() < 0 or images.max() > 1:
        raise InputError(
            f"float images lie in [{images.min():g}, {images.max():g}]; [0, 1] was expected. "
            "Divide by 255, or give them as uint8."
        )
    return images.astype(np.float32, copy=False), to_8bit(images)
