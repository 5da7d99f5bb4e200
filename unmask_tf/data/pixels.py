"""Pixels in [0, 1] and their 8-bit form."""

from __future__ import annotations

import numpy as np

from unmask_tf.errors import InputError


def checked_pixels(images: np.ndarray) -> np.ndarray:
    """`images` as float32.

    Raises:
        InputError: integer images, NaN, or values outside [0, 1].
    """
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(
            f"images have dtype {images.dtype}; expected floating pixels in [0, 1]. Divide 8-bit images by 255."
        )
    images = images.astype(np.float32, copy=False)
    if images.size and not (images.min() >= 0.0 and images.max() <= 1.0):
        raise InputError(
            f"image values lie in [{images.min()}, {images.max()}]; expected [0, 1] and no NaN. Divide 8-bit "
            "images by 255."
        )
    return images


def to_8bit(images: np.ndarray) -> np.ndarray:
    """uint8 images as torchvision's ToPILImage makes them: floor(255 * x), computed in float32.

    k / 255 gives k for every k in 0..255.

    Args:
        images: floating, any shape, in [0, 1].

    Raises:
        InputError: integer images, NaN, or values outside [0, 1].
    """
    return np.floor(checked_pixels(images) * np.float32(255.0)).astype(np.uint8)
