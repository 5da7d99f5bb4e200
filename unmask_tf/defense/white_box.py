"""K and the alignment as an attacker who knows them uses them (`attacks.protocol.TargetParts`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unmask_tf.defense.alignment import best_fit, detection_scores, similarities
from unmask_tf.defense.extract import PartExtractor
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.engines import REFERENCE
from unmask_tf.mrcnn.part_names import part_scores
from unmask_tf.taxonomy import Taxonomy


class WhiteBox:
    """A Mask R-CNN, its gradients, and the classes that its parts are compared with.

    Args:
        config: K's settings.
        weights: K's weights, a Matterport-layout `.h5`.
        taxonomy: K's parts, V and the class set.
        class_set: M's classes. Columns and class numbers are in label order; the set's own order decides ties.
        batch_size: images per network call.

    Raises:
        ValueError, InputError: as `PartExtractor` and `PartPresence`.
    """

    def __init__(
        self, config: Config, weights: str | Path, taxonomy: Taxonomy, class_set: str, batch_size: int = 16
    ) -> None:
        self.config, self.weights, self.taxonomy, self.batch_size = config, weights, taxonomy, batch_size
        self.labels, self.members = taxonomy.labels(class_set), taxonomy.members(class_set)
        self.expected = np.asarray(taxonomy.matrix(self.labels)).astype(bool)
        self._parts = np.array(taxonomy.parts)

    @cached_property
    def extractor(self) -> PartExtractor:
        """The detector itself, computed as its gradients are."""
        return PartExtractor(self.config, self.weights, self.taxonomy, self.batch_size, engine=REFERENCE)

    @cached_property
    def presence(self) -> Any:
        """Its margins and their gradients (`PartPresence`)."""
        from unmask_tf.mrcnn.part_presence import PartPresence

        scores = part_scores(self.weights)
        needed = [scores.get(part, 0.0) for part in self.taxonomy.parts]
        return PartPresence(self.config, self.weights, needed, self.batch_size)

    def gradients(
        self, images: np.ndarray, loss: Callable[..., Any], *arguments: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `PartPresence.gradients`."""
        return self.presence.gradients(images, loss, *arguments)

    def seen(self, images: np.ndarray) -> np.ndarray:
        """The detector's part sets: uint8 (N, H, W, 3) -> bool (N, P)."""
        found = self.extractor.extract(images)
        return np.array([[part in parts for part in self.taxonomy.parts] for parts in found], bool)

    def distances(self, seen: np.ndarray) -> np.ndarray:
        """d = 1 - JS of part sets bool (N, P) and every class: float64 (N, C), in label order."""
        return detection_scores(similarities(self._sets(seen), self.taxonomy, self.labels))

    def best_fit(self, seen: np.ndarray) -> np.ndarray:
        """The label of the class that K alone answers, int64 (N,); -1: none."""
        answers = best_fit(similarities(self._sets(seen), self.taxonomy, self.members), self.members)
        return np.array([-1 if answer is None else self.labels.index(answer) for answer in answers], np.int64)

    def _sets(self, seen: np.ndarray) -> Sequence[frozenset[str]]:
        return [frozenset(self._parts[row].tolist()) for row in np.asarray(seen, bool)]
