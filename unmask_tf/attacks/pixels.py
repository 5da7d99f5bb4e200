"""Pixel arithmetic of the attacks (numpy only): range, 8-bit form, and projection to budget and box."""

from __future__ import annotations

import numpy as np

from unmask_tf.attacks.threat_models import Norm, ThreatModel
from unmask_tf.errors import InputError

ROUNDING = 1e-6
"""Most by which float32 rounding takes an image over budget or box, pixel units (times epsilon where epsilon > 1)."""


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


def project(clean: np.ndarray, adversarial: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Takes rounding errors out of an adversarial image: float32 (N, H, W, 3), within budget and box.

    LINF edges are the float32 numbers nearest to clean +- epsilon. Rounding them inward would cost a whole grey level
    in about a sixth of the pixels once the image is cut to 8 bits (floor(255 x) of k/255 less one ulp is k - 1).
    """
    exact = clean.astype(np.float64)
    epsilon = float(threat.epsilon)
    tolerance = ROUNDING * max(1.0, epsilon)
    boxed = np.clip(adversarial, np.float32(0.0), np.float32(1.0))
    excess = float(np.abs(boxed - adversarial).max())
    if threat.norm is Norm.LINF:
        lower, upper = (exact - epsilon).astype(np.float32), (exact + epsilon).astype(np.float32)
        result = np.clip(boxed, np.clip(lower, 0.0, 1.0), np.clip(upper, 0.0, 1.0))
        excess = max(excess, float(np.abs(result - boxed).max()))
    else:
        delta = boxed.astype(np.float64) - exact
        length = np.sqrt((delta**2).sum(axis=(1, 2, 3), keepdims=True))
        excess = max(excess, float(length.max()) - epsilon)
        shrunk = (exact + delta * np.minimum(1.0, epsilon / np.maximum(length, 1e-300))).astype(np.float32)
        result = np.where(length > epsilon, shrunk, boxed)
    if not excess < tolerance:
        raise RuntimeError(
            f"{threat.attack} left its budget of {epsilon} or the box [0, 1] by {excess}; rounding explains "
            f"{tolerance}."
        )
    return result
