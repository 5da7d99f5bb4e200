"""Where training's batches come from.

Two kinds of `Images` give ground truth one by one: `Ready` from memory, `Loaded` from a `PartDataset` (a random view of
each image, if asked) or from a Matterport-style `Dataset` with augmentation. Two kinds of `Source` make batches of
them: `Passes` shows every image once an epoch (or those with rare parts more often), `Stream` an endless sequence of
passes cut into epochs of any length.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from unmask_tf.data.part_instances import PartDataset
from unmask_tf.errors import InputError
from unmask_tf.mrcnn.anchors import pyramid_anchors
from unmask_tf.mrcnn.augmentation import FLIP, augment_by, check_augmentation
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.ground_truth import GroundTruth, mirror, place_ground_truth, training_batch
from unmask_tf.mrcnn.views import Instances

View = Callable[[np.ndarray, Instances, np.random.RandomState], tuple[np.ndarray, Instances]]
"""Image and instances to what training shows of them, such as `views.random_view`."""

Batch = dict[str, np.ndarray]
"""Inputs of the training graph, by name."""


class Source(Protocol):
    """Training's batches: `steps` an epoch, each a function of (SEED, epoch, its number) alone."""

    steps: int

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch (0 is the first), in order."""


class Images(Protocol):
    """Images as ground truth on the canvas."""

    def __len__(self) -> int: ...

    def load(self, position: int, rng: np.random.RandomState) -> GroundTruth:
        """Ground truth of the image at `position`; whatever is random about it is drawn by `rng`."""


class Ready:
    """Ground truths that are held in memory; half of the images are mirrored."""

    def __init__(self, truths: Sequence[GroundTruth], config: Config) -> None:
        self.truths, self.config = truths, config

    def __len__(self) -> int:
        return len(self.truths)

    def load(self, position: int, rng: np.random.RandomState) -> GroundTruth:
        truth = self.truths[position]
        return mirror(truth, self.config) if rng.randint(2) else truth


class Loaded:
    """The images of a dataset, each loaded when it is asked for.

    Args:
        dataset: a `Dataset` (or anything with `image_ids`, `image_info`, `source_class_ids`, `load_image` and
            `load_mask`), prepared; or a `PartDataset`.
        config: K's settings.
        augmentation: None, "fliplr", an imgaug augmenter, or a function (see `MaskRCNN.train`).
        no_augmentation_sources: sources whose images stay as they are.
        view: what is shown of each image; None: the whole image.

    Raises:
        TypeError: `dataset` is not a dataset, or `augmentation` none of these.
        ValueError: the dataset is not prepared, has no images, or other classes than NUM_CLASSES.
    """

    def __init__(
        self,
        dataset: Any,
        config: Config,
        augmentation: Any = None,
        no_augmentation_sources: Sequence[str] = (),
        view: View | None = None,
    ) -> None:
        check_augmentation(augmentation)
        self.dataset, self.config, self.augmentation, self.view = dataset, config, augmentation, view
        self.untouched = frozenset(no_augmentation_sources or ())
        self._empty: set[int] = set()
        if isinstance(dataset, PartDataset):
            self.ids, classes = list(range(len(dataset))), len(dataset.taxonomy.parts) + 1
        elif hasattr(dataset, "load_mask") and hasattr(dataset, "image_ids"):
            self.ids, classes = [int(i) for i in dataset.image_ids], getattr(dataset, "num_classes", None)
            if not self.ids and dataset.image_info:
                raise ValueError(
                    f"the dataset has {len(dataset.image_info)} images, but is not prepared. Call its prepare() first."
                )
        else:
            raise TypeError(
                f"{type(dataset).__name__} is not a dataset to train on. Give a PartDataset or an "
                "unmask_tf.mrcnn.Dataset."
            )
        if not self.ids:
            raise ValueError("the dataset has no images. Add some (add_image) before prepare().")
        if classes != config.NUM_CLASSES:
            raise ValueError(
                f"the dataset has {classes} classes with the background, but NUM_CLASSES is {config.NUM_CLASSES}. "
                "Set NUM_CLASSES to the dataset's, or add the missing classes."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, position: int, rng: np.random.RandomState) -> GroundTruth:
        """Ground truth of the image at `position`; `rng` draws its view, its crop and its augmentation.

        Raises:
            ValueError: the dataset or the augmentation gives arrays of a wrong shape or type.
            InputError: an image cannot be read.
        """
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
        if self.view is not None:
            image, instances = self.view(image, instances, rng)
        augmentation = None if source in self.untouched else self.augmentation
        augment = augment_by(augmentation, rng, name)
        truth = place_ground_truth(image, *instances, self.config, rng, augment)
        if augmentation == FLIP and rng.randint(2):
            truth = mirror(truth, self.config)
        return replace(truth, active=active)

    def _own(self, image_id: int, name: str) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Image, and class ids, boxes, masks and has-mask flags as a user's dataset gives them, checked."""
        image = np.asarray(self.dataset.load_image(image_id))
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype.kind not in "ui":
            raise ValueError(
                f"{name}: load_image returned {image.dtype} of shape {image.shape}; uint8 (H, W, 3) was expected."
            )
        if image.dtype != np.uint8:
            if image.min() < 0 or image.max() > 255:
                raise ValueError(f"{name}: load_image returned pixels from {image.min()} to {image.max()}; give uint8.")
            image = image.astype(np.uint8)
        masks, class_ids = (np.asarray(value) for value in self.dataset.load_mask(image_id))
        if len(class_ids) == 0:
            masks = np.zeros((*image.shape[:2], 0), bool)
        if masks.shape != (*image.shape[:2], len(class_ids)):
            raise ValueError(
                f"{name}: load_mask returned masks {masks.shape} and {len(class_ids)} class ids for an image of "
                f"shape {image.shape}; masks must be (H, W, instances)."
            )
        if len(class_ids) and np.abs(class_ids).max() >= self.config.NUM_CLASSES:
            raise ValueError(
                f"{name}: load_mask returned the class id {class_ids[np.abs(class_ids).argmax()]}, but there are only "
                f"{self.config.NUM_CLASSES} classes."
            )
        masks = masks.astype(bool)
        # As in Matterport's, an instance without a pixel does not count.
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
            InputError: no image shows an instance of any class.
        """
        for other in (position, *rng.permutation(len(self)).tolist()):
            if other in self._empty:
                continue
            truth = self.load(other, rng)
            if (truth.class_ids > 0).any():
                return truth
            if self.augmentation is None and self.view is None and self.config.IMAGE_RESIZE_MODE != "crop":
                self._empty.add(other)  # it will be empty every time
        raise InputError("no image of the dataset shows an instance of any class. Check load_mask or the annotations.")


class Passes:
    """Every image once an epoch, in an order of its own; images without a part are shown too, as negatives.

    The last images, if they do not fill a batch, are left out for the epoch.

    Args:
        images: what to show.
        config: BATCH_SIZE, SEED, and the sizes of a batch.
        repeats: how often to show each image an epoch, on average (see `rare_repeats`); None: once.

    Raises:
        InputError: the images do not fill one batch.
    """

    def __init__(self, images: Images, config: Config, repeats: Sequence[float] | None = None) -> None:
        self.images, self.config = images, config
        self.repeats = None if repeats is None else np.asarray(repeats, np.float64)
        shown = len(images) if self.repeats is None else int(self.repeats.sum())
        self.steps = shown // config.BATCH_SIZE
        self._anchors = pyramid_anchors(config, config.IMAGE_SHAPE)
        if not self.steps:
            raise InputError(
                f"K has {len(images)} images to train on, but a batch needs {config.BATCH_SIZE}. "
                "Check the training annotations, or lower IMAGES_PER_GPU."
            )

    def batches(self, epoch: int) -> Iterator[Batch]:
        size, seed = self.config.BATCH_SIZE, self.config.SEED
        order = self._order(np.random.RandomState([seed, epoch]))

        def prepare(number: int) -> Batch:
            rng = np.random.RandomState([seed, epoch, number])
            truths = [self.images.load(i, rng) for i in order[number * size : (number + 1) * size]]
            return training_batch(truths, self._anchors, self.config, rng)

        return prepared(prepare, 0, self.steps, workers=1)

    def _order(self, rng: np.random.RandomState) -> np.ndarray:
        """Positions of the images of an epoch."""
        if self.repeats is None:
            return rng.permutation(len(self.images))
        # Each image comes the whole number of times below or above its share.
        until = np.cumsum(self.repeats) * (self.steps * self.config.BATCH_SIZE / self.repeats.sum())
        until[-1] = self.steps * self.config.BATCH_SIZE
        counts = np.diff(np.floor(np.append(0.0, until) + rng.uniform()).astype(int))
        return rng.permutation(np.repeat(np.arange(len(counts)), counts))


def rare_repeats(dataset: PartDataset, share: float) -> np.ndarray:
    """How often to show each image an epoch, so that rare parts are met oftener: float (images,), at least 1.

    The repeat factor of LVIS (Gupta et al., 2019): a part in a share f of the images asks for sqrt(share / f), and the
    rarest part of an image decides.
    """
    shown = [{instance.part for instance in image.instances} for image in dataset.images]
    frequency = {part: sum(part in parts for parts in shown) / len(shown) for part in set().union(*shown)}
    return np.array([max([1.0, *(math.sqrt(share / frequency[part]) for part in parts)]) for parts in shown])


class Stream:
    """An endless sequence of passes over the images, each in a new order, cut into epochs of `steps` batches.

    An image without an instance is replaced by another. An imgaug augmenter draws from its own state, so with it the
    batches do not follow from the seed.

    Args:
        images: what to show.
        config: BATCH_SIZE, SEED, and the sizes of a batch.
        steps: batches an epoch.
        stream: another number gives another sequence.
        workers: threads that prepare batches; None: up to four.
    """

    def __init__(self, images: Loaded, config: Config, steps: int, stream: int = 0, workers: int | None = None) -> None:
        if workers is None:
            # An imgaug augmenter has one random state, so its images are drawn one after another.
            workers = 1 if hasattr(images.augmentation, "to_deterministic") else min(4, os.cpu_count() or 1)
        self.images, self.config, self.steps, self.stream, self.workers = images, config, steps, stream, workers
        self._anchors = pyramid_anchors(config, config.IMAGE_SHAPE)

    def batches(self, epoch: int) -> Iterator[Batch]:
        images, size, seed = self.images, self.config.BATCH_SIZE, self.config.SEED

        @lru_cache(maxsize=4)
        def order(number: int) -> np.ndarray:
            return np.random.RandomState([seed, self.stream, 0, number]).permutation(len(images))

        def prepare(number: int) -> Batch:
            rng = np.random.RandomState([seed, self.stream, 1, number])
            slots = range(number * size, (number + 1) * size)
            truths = [images.load_object(int(order(s // len(images))[s % len(images)]), rng) for s in slots]
            return training_batch(truths, self._anchors, self.config, rng)

        return prepared(prepare, epoch * self.steps, self.steps, self.workers)


def prepared(prepare: Callable[[int], Batch], first: int, count: int, workers: int) -> Iterator[Batch]:
    """`prepare(first)` to `prepare(first + count - 1)`; the next ones are made while the network works."""
    last = first + count
    with ThreadPoolExecutor(workers) as pool:
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
