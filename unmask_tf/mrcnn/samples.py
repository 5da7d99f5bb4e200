"""Training images loaded on demand, from a Matterport-style `Dataset` or a `PartDataset`, augmented and batched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from unmask_tf.data.part_instances import PartDataset
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.anchors import pyramid_anchors
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.ground_truth import Augment, GroundTruth, mirror, place_ground_truth, training_batch

FLIP = "fliplr"
# imgaug's augmenters that move pixels; the others change colours, which masks do not have.
_GEOMETRIC = (
    *("Sequential", "SomeOf", "OneOf", "Sometimes"),
    *("Fliplr", "Flipud", "CropAndPad", "Affine", "PiecewiseAffine"),
)


class _MaskHooks:
    """What imgaug asks before each augmenter: only geometric ones may touch masks."""

    def is_activated(self, images: Any, augmenter: Any, parents: Any, default: bool) -> bool:
        return type(augmenter).__name__ in _GEOMETRIC

    def is_propagating(self, images: Any, augmenter: Any, parents: Any, default: bool) -> bool:
        return default

    def preprocess(self, images: Any, augmenter: Any, parents: Any) -> Any:
        return images

    def postprocess(self, images: Any, augmenter: Any, parents: Any) -> Any:
        return images


def check_augmentation(augmentation: Any) -> None:
    """Refuses what is neither None, "fliplr", an imgaug augmenter nor a function.

    Raises:
        InputError: it is something else.
    """
    known = augmentation is None or augmentation == FLIP
    if not (known or hasattr(augmentation, "to_deterministic") or callable(augmentation)):
        raise InputError(
            f"augmentation is {augmentation!r}. Give None, '{FLIP}', an imgaug augmenter, or a function "
            "(image, masks, rng) -> (image, masks)."
        )


def _augment(augmentation: Any, rng: np.random.RandomState, name: str) -> Augment | None:
    """The augmentation of one image, or None where pixels stay (mirroring is done on the finished ground truth)."""
    if augmentation is None or augmentation == FLIP:
        return None

    def apply(image: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if hasattr(augmentation, "to_deterministic"):
            once = augmentation.to_deterministic()  # the same random draw for image and masks
            changed = once.augment_image(image)
            changed_masks = once.augment_image(masks.astype(np.uint8), hooks=_MaskHooks()) if masks.size else masks
        else:
            changed, changed_masks = augmentation(image, masks, rng)
        for what, before, after in (("image", image, changed), ("masks", masks, changed_masks)):
            if np.shape(after) != before.shape:
                raise InputError(
                    f"the augmentation turned the {what} of {name} from shape {before.shape} to {np.shape(after)}. "
                    "It must keep the size; pad or crop back."
                )
        return np.asarray(changed).astype(image.dtype), np.asarray(changed_masks).astype(bool)

    return apply


class Samples:
    """The images of a dataset as ground truth on the canvas, each loaded when it is asked for.

    Args:
        dataset: a `Dataset` (or anything with `image_ids`, `image_info`, `source_class_ids`, `load_image` and
            `load_mask`), prepared; or a `PartDataset`.
        config: K's settings.
        augmentation: None, "fliplr", an imgaug augmenter, or a function (see `MaskRCNN.train`).
        no_augmentation_sources: sources whose images stay as they are.

    Raises:
        InputError: no dataset, not prepared, no images, or other classes than NUM_CLASSES.
    """

    def __init__(
        self, dataset: Any, config: Config, augmentation: Any = None, no_augmentation_sources: Sequence[str] = ()
    ) -> None:
        check_augmentation(augmentation)
        self.dataset, self.config, self.augmentation = dataset, config, augmentation
        self.untouched = frozenset(no_augmentation_sources or ())
        self._empty: set[int] = set()
        if isinstance(dataset, PartDataset):
            self.ids, classes = list(range(len(dataset))), len(dataset.taxonomy.parts) + 1
        elif hasattr(dataset, "load_mask") and hasattr(dataset, "image_ids"):
            self.ids, classes = [int(i) for i in dataset.image_ids], getattr(dataset, "num_classes", None)
            if not self.ids and dataset.image_info:
                raise InputError(
                    f"the dataset has {len(dataset.image_info)} images, but is not prepared. Call its prepare() first."
                )
        else:
            raise InputError(
                f"{type(dataset).__name__} is no dataset to train on. Give a unmask_tf.mrcnn.Dataset or a PartDataset."
            )
        if not self.ids:
            raise InputError("the dataset has no images. Add some (add_image) before prepare().")
        if classes != config.NUM_CLASSES:
            raise InputError(
                f"the dataset has {classes} classes with the background, but NUM_CLASSES is {config.NUM_CLASSES}. "
                "Set NUM_CLASSES to the dataset's, or add the missing classes."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, position: int, rng: np.random.RandomState) -> GroundTruth:
        """Ground truth of the image at `position`; `rng` draws its crop and its augmentation."""
        image_id, active, source = self.ids[position], None, None
        if isinstance(self.dataset, PartDataset):
            name = str(self.dataset.images[image_id].path)
            image, instances = self.dataset.load_image(image_id), self.dataset.load_instances(image_id)
        else:
            info = self.dataset.image_info[image_id]
            source = info["source"]
            name = f"image {image_id} ({info.get('path') or info.get('id')})"
            image, instances = self._own(image_id, name)
            active = np.zeros(self.config.NUM_CLASSES, np.float32)
            known = self.dataset.source_class_ids.get(source, list(range(self.config.NUM_CLASSES)))
            active[known] = 1
        augmentation = None if source in self.untouched else self.augmentation
        augment = _augment(augmentation, rng, name)
        truth = place_ground_truth(image, *instances, self.config, rng, augment)
        if augmentation == FLIP and rng.randint(2):
            truth = mirror(truth, self.config)
        return replace(truth, active=active)

    def _own(self, image_id: int, name: str) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Image, and class ids, boxes, masks and has-mask flags as a user's dataset gives them, checked."""
        image = np.asarray(self.dataset.load_image(image_id))
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype.kind not in "ui":
            raise InputError(
                f"{name}: load_image returned {image.dtype} of shape {image.shape}; uint8 (H, W, 3) was expected."
            )
        if image.dtype != np.uint8:
            if image.min() < 0 or image.max() > 255:
                raise InputError(f"{name}: load_image returned pixels from {image.min()} to {image.max()}; give uint8.")
            image = image.astype(np.uint8)
        masks, class_ids = (np.asarray(value) for value in self.dataset.load_mask(image_id))
        if len(class_ids) == 0:
            masks = np.zeros((*image.shape[:2], 0), bool)
        if masks.shape != (*image.shape[:2], len(class_ids)):
            raise InputError(
                f"{name}: load_mask returned masks {masks.shape} and {len(class_ids)} class ids for an image of "
                f"shape {image.shape}; masks must be (H, W, instances)."
            )
        if len(class_ids) and np.abs(class_ids).max() >= self.config.NUM_CLASSES:
            raise InputError(
                f"{name}: load_mask returned the class id {class_ids[np.abs(class_ids).argmax()]}, but there are only "
                f"{self.config.NUM_CLASSES} classes."
            )
        masks = masks.astype(bool)
        # As in Matterport's, an instance without a pixel is no instance.
        seen = masks.any(axis=(0, 1))
        count = int(seen.sum())
        return image, (
            class_ids[seen].astype(np.int32),
            np.zeros((count, 4), np.int32),
            masks[..., seen],
            np.ones(count, bool),
        )

    def load_object(self, position: int, rng: np.random.RandomState) -> GroundTruth:
        """As `load`, but another image, drawn by `rng`, where this one shows nothing to learn from.

        Raises:
            InputError: no image shows an instance of a class.
        """
        for other in (position, *rng.permutation(len(self)).tolist()):
            if other in self._empty:
                continue
            truth = self.load(other, rng)
            if (truth.class_ids > 0).any():
                return truth
            if self.augmentation is None and self.config.IMAGE_RESIZE_MODE != "crop":
                self._empty.add(other)  # it will be empty every time
        raise InputError("no image of the dataset shows an instance of a class. Check load_mask or the annotations.")


def sample_batches(
    samples: Samples, first: int, count: int, stream: int = 0, workers: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Batches number `first` to `first + count - 1` of an endless sequence of passes, each in a new order.

    Batch n is a function of (SEED, stream, n) alone, but for an imgaug augmenter, which draws from its own state. The
    next batches are prepared while the network works.
    """
    config = samples.config
    anchors = pyramid_anchors(config, config.IMAGE_SHAPE)

    @lru_cache(maxsize=4)
    def order(number: int) -> np.ndarray:
        return np.random.RandomState([config.SEED, stream, 0, number]).permutation(len(samples))

    def prepare(number: int) -> dict[str, np.ndarray]:
        rng = np.random.RandomState([config.SEED, stream, 1, number])
        slots = range(number * config.BATCH_SIZE, (number + 1) * config.BATCH_SIZE)
        truths = [samples.load_object(int(order(s // len(samples))[s % len(samples)]), rng) for s in slots]
        return training_batch(truths, anchors, config, rng)

    if workers is None:
        # An imgaug augmenter has one random state, so its images are drawn one after another.
        workers = 1 if hasattr(samples.augmentation, "to_deterministic") else min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        last = first + count
        waiting = [pool.submit(prepare, number) for number in range(first, min(first + workers + 2, last))]
        try:
            for number in range(first, last):
                batch = waiting.pop(0).result()
                if number + workers + 2 < last:
                    waiting.append(pool.submit(prepare, number + workers + 2))
                yield batch
        finally:
            for future in waiting:
                future.cancel()
