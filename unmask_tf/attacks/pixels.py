"""Projection of attacked images to budget and box (numpy only)."""

from __future__ import annotations

import numpy as np

from unmask_tf.attacks.threat_models import Norm, ThreatModel
from unmask_tf.errors import InputError

ROUNDING = 1e-6
"""Most by which float32 rounding takes an image over budget or box, pixel units (times epsilon where epsilon > 1)."""


def lengths(delta: np.ndarray, norm: Norm) -> np.ndarray:
    """float64 (N,): length of each perturbation (N, H, W, C) in a norm, pixel units."""
    values = np.abs(np.asarray(delta, np.float64)).reshape(len(delta), -1)
    if norm is Norm.LINF:
        return values.max(axis=1)
    return values.sum(axis=1) if norm is Norm.L1 else np.sqrt((values**2).sum(axis=1))


def rounding(threat: ThreatModel, values: int) -> float:
    """Most by which float32 rounding lengthens a perturbation of so many values; in L1 every value adds its own."""
    return ROUNDING * max(1.0, threat.epsilon) + (values * 2.0**-23 if threat.norm is Norm.L1 else 0.0)


def project(clean: np.ndarray, adversarial: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Takes rounding errors out of an adversarial image: float32 (N, H, W, 3), within budget and box.

    LINF edges are the float32 numbers nearest to clean +- epsilon. Rounding them inward would cost a whole grey level
    in about a sixth of the pixels once the image is cut to 8 bits (floor(255 x) of k/255 less one ulp is k - 1).
    """
    exact = clean.astype(np.float64)
    epsilon = float(threat.epsilon)
    tolerance = rounding(threat, clean[0].size)
    boxed = np.clip(adversarial, np.float32(0.0), np.float32(1.0))
    excess = float(np.abs(boxed - adversarial).max())
    if threat.norm is Norm.LINF:
        lower, upper = (exact - epsilon).astype(np.float32), (exact + epsilon).astype(np.float32)
        result = np.clip(boxed, np.clip(lower, 0.0, 1.0), np.clip(upper, 0.0, 1.0))
        excess = max(excess, float(np.abs(result - boxed).max()))
    else:
        delta = boxed.astype(np.float64) - exact
        length = lengths(delta, threat.norm)[:, None, None, None]
        excess = max(excess, float(length.max()) - epsilon)
        shrunk = (exact + delta * np.minimum(1.0, epsilon / np.maximum(length, 1e-300))).astype(np.float32)
        result = np.where(length > epsilon, shrunk, boxed)
    if not excess < tolerance:
        raise RuntimeError(
            f"{threat.attack} left its budget of {epsilon} or the box [0, 1] by {excess}; rounding explains "
            f"{tolerance}."
        )
    return result


def inside(clean: np.ndarray, delta: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Perturbations (N, H, W, C), float32, brought back into the budget (LINF or L2) and the box."""
    epsilon = np.float32(threat.epsilon)
    if threat.norm is Norm.LINF:
        delta = np.clip(delta, -epsilon, epsilon)
    else:
        length = lengths(delta, threat.norm)[:, None, None, None]
        delta = delta * np.minimum(1.0, epsilon / np.maximum(length, 1e-30)).astype(np.float32)
    return np.clip(delta, -clean, np.float32(1) - clean)


def whole_levels(images: np.ndarray) -> np.ndarray:
    """Grey levels float32 of images in [0, 1] that are of 8 bits.

    Raises:
        InputError: they are not.
    """
    levels = np.rint(images * 255.0)
    if np.abs(images * 255.0 - levels).max() > 1e-3:
        raise InputError("attacks that know K attack images of 8 bits. Give pixels k / 255.")
    return levels.astype(np.float32)


def grey_levels(levels: np.ndarray, delta: np.ndarray, threat: ThreatModel) -> np.ndarray:
    """Perturbed images as uint8 within the budget.

    Args:
        levels: the clean images (N, H, W, C), whole numbers from 0 to 255.
        delta: float32, within budget (LINF or L2) and box, pixel units.
        threat: the budget.
    """
    wish = delta * np.float32(255)
    if threat.norm is Norm.LINF:
        most = np.floor(threat.epsilon_255 + 1e-6)
        return np.clip(levels + np.clip(np.rint(wish), -most, most), 0, 255).astype(np.uint8)
    rounded, budget = np.rint(wish), threat.epsilon_255
    # Rounding may lengthen a perturbation; it is shortened a little until its rounded form fits. To zero always does.
    scale = np.ones(len(wish), np.float32)
    for _ in range(20):
        length = np.sqrt((rounded.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
        long = length > budget
        if not long.any():
            break
        scale[long] *= np.float32(0.999) * (budget / length[long]).astype(np.float32)
        rounded[long] = np.rint(wish[long] * scale[long, None, None, None])
    else:
        rounded[long] = np.trunc(wish[long])
    return np.clip(levels + rounded, 0, 255).astype(np.uint8)
