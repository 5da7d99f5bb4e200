"""The score from which K is believed, part by part: where "this part is in the image" is right most often.

K is surer of large, rigid parts than of small, soft ones, so one score for all suits none. Each part's is chosen by F1
on annotated validation images, shown whole, and cut out and shrunk as a classifier's images are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from unmask_tf.data.part_instances import PartDataset
from unmask_tf.mrcnn.evaluate import Detector
from unmask_tf.mrcnn.views import Instances, cut_out

CANDIDATES = np.arange(4, 19) / 20
"""None below .2: annotators leave out much that K rightly finds, so that a low score looks better than it is."""
_MARGIN = 1.25
_SIDE = 160
_TIE = 0.01


def best_scores(scores: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The score of each part from which it counts as seen.

    Args:
        scores: K's highest score of each part in each image, 0 where it sees none (images, parts).
        present: whether the part is annotated there: bool (images, parts).

    Returns:
        (parts,): the middle of those `CANDIDATES` whose F1 is within a hundredth of the best (of all of them, where K
        never sees the part rightly); .5 where the images never show it.
    """
    chosen = np.full(scores.shape[1], 0.5)
    for part in np.flatnonzero(present.any(axis=0)):
        seen = scores[:, part] >= CANDIDATES[:, None]
        both = (seen & present[:, part]).sum(axis=1)
        f1 = 2 * both / (seen.sum(axis=1) + present[:, part].sum())
        good = CANDIDATES[f1 >= f1.max() - _TIE]
        chosen[part] = good[(len(good) - 1) // 2]
    return chosen


def _as_a_classifier_sees_it(image: np.ndarray, instances: Instances) -> tuple[np.ndarray, Instances]:
    """The square around all parts, shrunk; class ids keep their order, boxes are those before the shrinking."""
    boxes = instances[1]
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    size = np.array(image.shape[:2])
    side = np.minimum(size, round(float((high - low).max()) * _MARGIN))
    top, left = np.clip(np.round((low + high - side) / 2).astype(int), 0, size - side)
    image, instances = cut_out(image, instances, (top, left, top + side[0], left + side[1]))
    scale = min(1.0, _SIDE / max(image.shape[:2]))
    height, width = (max(1, round(s * scale)) for s in image.shape[:2])
    pixels = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(pixels), instances


def choose_part_scores(
    model: Detector,
    dataset: PartDataset,
    *,
    batch_size: int = 8,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, float]:
    """Part -> the score from which K is believed (see `best_scores`).

    Args:
        model: K, with a DETECTION_MIN_CONFIDENCE of at most .05.
        dataset: annotated images that K was not trained on.
        batch_size: images at a time; the last batch is padded.
        progress: called after every batch with the share of the images that is done.

    Raises:
        InputError: an image cannot be read.
    """
    parts = dataset.taxonomy.parts
    views = [(i, cut) for i in range(len(dataset)) for cut in (False, True) if not cut or dataset.images[i].instances]
    present = np.zeros((len(views), len(parts)), bool)

    def shown(row: int) -> np.ndarray:
        i, cut = views[row]
        image, instances = dataset.load_image(i), dataset.load_instances(i)
        if cut:
            image, instances = _as_a_classifier_sees_it(image, instances)
        present[row, instances[0] - 1] = True
        return image

    scores = highest_scores(model, len(views), shown, len(parts), batch_size=batch_size, progress=progress)
    return {part: round(float(score), 4) for part, score in zip(parts, best_scores(scores, present), strict=True)}


def highest_scores(
    model: Detector,
    count: int,
    image: Callable[[int], np.ndarray],
    parts: int,
    *,
    batch_size: int = 8,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """K's highest score of each part in each image, 0 where it sees none: (images, parts).

    Args:
        model: K, with a low DETECTION_MIN_CONFIDENCE.
        count: number of images.
        image: number of an image -> uint8 (H, W, 3).
        parts: number of parts.
        batch_size, progress: as of `choose_part_scores`.
    """
    scores = np.zeros((count, parts))
    for start in range(0, count, batch_size):
        images = [image(row) for row in range(start, min(start + batch_size, count))]
        results = model.detect_boxes(images + images[-1:] * (batch_size - len(images)))
        for row, result in enumerate(results[: len(images)], start):
            np.maximum.at(scores[row], result["class_ids"] - 1, result["scores"])
        progress((start + len(images)) / count)
    return scores
