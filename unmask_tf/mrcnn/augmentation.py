"""Augmentation of training images: a function of the user's, or an imgaug augmenter, on image and masks alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from unmask_tf.mrcnn.ground_truth import Augment

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
        TypeError: it is something else.
    """
    known = augmentation is None or augmentation == FLIP
    if not (known or hasattr(augmentation, "to_deterministic") or callable(augmentation)):
        raise TypeError(
            f"augmentation is {augmentation!r}. Give None, '{FLIP}', an imgaug augmenter, or a function "
            "(image, masks, rng) -> (image, masks)."
        )


def augment_by(augmentation: Any, rng: np.random.RandomState, name: str) -> Augment | None:
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
                raise ValueError(
                    f"the augmentation turned the {what} of {name} from shape {before.shape} to {np.shape(after)}. "
                    "It must keep the size; pad or crop back."
                )
        return np.asarray(changed).astype(image.dtype), np.asarray(changed_masks).astype(bool)

    return apply
