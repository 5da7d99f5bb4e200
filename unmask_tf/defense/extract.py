"""Extractors of robust features: images in, parts with scores and boxes out (Section III-B, step 2).

`EXTRACTORS` lists them. To add one, put a factory into it under a name of its own::

    EXTRACTORS["mine"] = lambda weights, taxonomy, settings: MyExtractor(weights, taxonomy, **settings)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unmask_tf.errors import InputError
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.engines import REFERENCE
from unmask_tf.mrcnn.part_names import fold
from unmask_tf.taxonomy import UNMASK, Taxonomy

Box = tuple[int, int, int, int]
"""y1, x1, y2, x2 in pixels of the image; (y2, x2) lies outside."""


@dataclass(frozen=True)
class PartSeen:
    """A part that was seen in an image.

    Attributes:
        score: the highest of its detections, 0 to 1.
        boxes: of all its detections, by falling score; at least one.
    """

    score: float
    boxes: tuple[Box, ...]


Extraction = Mapping[str, PartSeen]
"""What was seen in an image: part name -> score and boxes. Its set of keys is f_r of Algorithm 1."""


class Extractor(Protocol):
    """Model K as the defence sees it."""

    def extract(self, images: np.ndarray) -> list[Extraction]:
        """The parts seen in each of the images, uint8 (N, H, W, 3) RGB."""


ExtractorFactory = Callable[[Path | None, Taxonomy, Mapping[str, Any]], Extractor]
"""Makes an extractor of a weights file (None where it needs none), the parts to name, and its settings, which are plain
data."""


class PartExtractor:
    """Mask R-CNN as an extractor: all detections of K, without masks.

    K is built once, with its batch normalisation folded into its convolutions (the same function up to rounding).

    Args:
        config: K's configuration; DETECTION_MIN_CONFIDENCE is the score a part needs (0 as released: any), and where
            the weights carry scores of their own for the parts (`part_scores`), the higher of the two.
        weights: K's weights, a Matterport-layout `.h5`.
        taxonomy: names K's class indices (position + 1).
        batch_size: images per network call; the last batch is padded, so that K compiles once.
        engine: what computes K (`mrcnn.engines.choose`): `auto` is float32, by OpenVINO where that is installed.

    Raises:
        ValueError: an option out of range, or a taxonomy of another size than K's.
        InputError: weights that do not fit, or that name other parts than the taxonomy, or an engine that is not
            installed.
    """

    def __init__(
        self,
        config: Config,
        weights: str | Path,
        taxonomy: Taxonomy = UNMASK,
        batch_size: int = 8,
        *,
        engine: str = "auto",
    ) -> None:
        # Here, so that the table of extractors can be read without TensorFlow.
        from unmask_tf.mrcnn.fast import FastDetector
        from unmask_tf.mrcnn.part_names import held_out_scores, part_scores
        from unmask_tf.mrcnn.weights import check_parts

        if len(taxonomy.parts) + 1 != config.NUM_CLASSES:
            raise ValueError(
                f"K has {config.NUM_CLASSES} outputs, but the taxonomy has {len(taxonomy.parts)} parts and a "
                "background. Use the taxonomy K was trained with."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. Choose at least 1.")
        self.taxonomy, self.batch_size = taxonomy, batch_size
        self.model = FastDetector(config, weights, engine)
        check_parts(weights, taxonomy.parts)
        scores = part_scores(weights)
        self._needed = np.array([0.0, *(scores.get(part, 0.0) for part in taxonomy.parts)])
        self._needed_by_fold = np.pad(held_out_scores(weights), ((0, 0), (1, 0)))

    def extract(
        self, images: np.ndarray | Sequence[np.ndarray], names: Sequence[str] | None = None
    ) -> list[Extraction]:
        """Parts of RGB images: uint8 (N, H, W, 3), or a list of uint8 (H, W, 3) of any sizes.

        Args:
            images: the images.
            names: of images that the scores of K's parts were chosen on (`class/file`): each is judged by the scores
                chosen without it, where the weights carry such scores.

        Raises:
            ValueError: not uint8 or not of this shape.
        """
        _check(images)
        found: dict[int, Extraction] = {}
        for rows in self._batches(images):
            padded = rows + rows[-1:] * (self.batch_size - len(rows))
            results = self.model.detect_boxes([images[i] for i in padded])
            for row, result in zip(rows, results, strict=False):
                found[row] = self._parts(result, self._scores_for(names[row] if names is not None else None))
        return [found[row] for row in range(len(images))]

    def _scores_for(self, name: str | None) -> np.ndarray:
        """The score that each of K's outputs needs."""
        return self._needed if name is None or not len(self._needed_by_fold) else self._needed_by_fold[fold(name)]

    def _parts(self, result: Mapping[str, np.ndarray], needed: np.ndarray) -> Extraction:
        """One image's detections by part, in the taxonomy's order."""
        order = np.argsort(-np.asarray(result["scores"]), kind="stable")
        by_class: dict[int, list[int]] = {}
        for row in order[result["scores"][order] >= needed[result["class_ids"][order]]].tolist():
            by_class.setdefault(int(result["class_ids"][row]), []).append(row)
        return {
            self.taxonomy.parts[class_id - 1]: PartSeen(
                float(result["scores"][rows[0]]), tuple(tuple(box) for box in result["rois"][rows].tolist())
            )
            for class_id, rows in sorted(by_class.items())
        }

    def _batches(self, images: np.ndarray | Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Row numbers in batches of one canvas size."""
        groups: dict[tuple[int, int], list[int]] = {}
        for row, image in enumerate(images):
            groups.setdefault(self.model.canvas(*image.shape[:2]), []).append(row)
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]


def _check(images: np.ndarray | Sequence[np.ndarray]) -> None:
    if isinstance(images, np.ndarray):
        bad = images if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 else None
        what = "images"
    else:
        wrong = (
            i
            for i, image in enumerate(images)
            if not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[-1] != 3
            or image.size == 0
        )
        number = next(wrong, None)
        bad, what = (None, "") if number is None else (images[number], f"image {number} of the list")
    if bad is not None:
        dtype, shape = getattr(bad, "dtype", type(bad).__name__), np.shape(bad)
        raise ValueError(
            f"K needs uint8 images of shape (N, H, W, 3), or a list of (H, W, 3), but got {dtype} {shape} ({what}). "
            "Turn pixels in [0, 1] into 8-bit form with floor(255 * x)."
        )


def _mask_rcnn(weights: Path | None, taxonomy: Taxonomy, settings: Mapping[str, Any]) -> Extractor:
    """Settings: `config`, of `Config.to_dict`; `batch_size`, images per network call; `engine`, by default TensorFlow's
    float32, with which the tables are made."""
    if weights is None:
        raise InputError("the part extractor mask_rcnn needs the weights of a trained K. Name the file.")
    unknown = settings.keys() - {"config", "batch_size", "engine"}
    if unknown:
        raise ValueError(f"mask_rcnn has no settings {sorted(unknown)}; it has config, batch_size and engine.")
    config, engine = Config.from_dict(settings["config"]), settings.get("engine", REFERENCE)
    return PartExtractor(config, weights, taxonomy, settings.get("batch_size", 8), engine=engine)


EXTRACTORS: dict[str, ExtractorFactory] = {"mask_rcnn": _mask_rcnn}
