"""Random views of annotated photographs, for training: a window, its resolution, its colours, its noise.

K is asked about what a classifier sees: squares of some 150 pixels around one object, enlarged to K's canvas, in 8-bit
form, with the faint pattern of an attack. Photographs are larger and sharper, and show their objects in other sizes.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from unmask_tf.mrcnn import boxes as box_math

Instances = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Class ids (N,), pixel boxes (N, 4), masks (H, W, N), has-mask (N,)."""

_SMALLEST_WINDOW = 24
_MOST_MARGIN = 1.6
_COLOURS = 0.25


def random_window(
    size: tuple[int, int], class_ids: np.ndarray, boxes: np.ndarray, most: float, rng: np.random.RandomState
) -> tuple[int, int, int, int]:
    """A window (y1, x1, y2, x2) on an image, square where the image allows it.

    A third of the windows is the whole image; a third lies around a random part (of a random class, so that rare parts
    are seen as often), with the image's longer side divided by a number from [1, most]; a third lies around all parts,
    with sides up to `_MOST_MARGIN` times theirs.

    Args:
        size: (height, width) of the image.
        class_ids: (N,).
        boxes: pixel boxes (N, 4), y1, x1, y2, x2.
        most: the strongest zoom, >= 1.
        rng: draws all of it.
    """
    kind = rng.randint(3)
    if kind == 0 or not len(boxes):
        return 0, 0, size[0], size[1]
    if kind == 1:
        side = max(size) / rng.uniform(1.0, most)
        chosen = rng.choice(np.flatnonzero(class_ids == rng.choice(np.unique(class_ids))))
        low, high = np.repeat(boxes[chosen].reshape(2, 2).mean(0)[None], 2, axis=0)
    else:
        low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
        side = float((high - low).max()) * rng.uniform(1.0, _MOST_MARGIN)
    window = np.minimum(size, max(_SMALLEST_WINDOW, round(side)))
    # The window holds [low, high), which is not larger than it, and lies inside the image.
    first = np.maximum(0, np.ceil(high).astype(int) - window)
    last = np.minimum(np.array(size) - window, np.floor(low).astype(int))
    first = np.minimum(first, np.array(size) - window)
    top, left = first + np.floor(rng.uniform(size=2) * (np.maximum(last, first) - first + 1)).astype(int)
    return int(top), int(left), int(top + window[0]), int(left + window[1])


def cut_out(image: np.ndarray, instances: Instances, window: tuple[int, int, int, int]) -> tuple[np.ndarray, Instances]:
    """Image uint8 (H, W, 3) and instances inside a window.

    Parts of which less than half of the box lies in the window are dropped, the others are cut off at its edge.
    """
    class_ids, boxes, masks, has_mask = instances
    top, left, bottom, right = window
    cut = np.clip(boxes, [top, left, top, left], [bottom, right, bottom, right])
    keep = np.flatnonzero(2 * box_math.area(cut) >= box_math.area(boxes))
    masks = masks[top:bottom, left:right, keep]
    return image[top:bottom, left:right], (
        class_ids[keep],
        cut[keep] - np.array([top, left, top, left], boxes.dtype),
        masks,
        has_mask[keep] & masks.any(axis=(0, 1)),
    )


def _noise(shape: tuple[int, ...], rng: np.random.RandomState) -> np.ndarray:
    """Noise of standard deviation 1, float32 (H, W, 3): of two one is independent from pixel to pixel, the other, like
    an attack's, constant on squares of two pixels."""
    size = 1 + rng.randint(2)
    coarse = rng.normal(size=(-(-shape[0] // size), -(-shape[1] // size), shape[2])).astype(np.float32)
    return coarse.repeat(size, axis=0).repeat(size, axis=1)[: shape[0], : shape[1]]


def degraded(image: np.ndarray, sides: tuple[int, int], noise: float, rng: np.random.RandomState) -> np.ndarray:
    """The image as a camera of fewer pixels, in another light, would have taken it: uint8 (H, W, 3), of the same size.

    Brightness and contrast change by up to a quarter. Of two images one is shrunk, so that its longer side has a number
    of pixels from `sides`, gets noise there, and is enlarged again; one of larger sides stays sharp.

    Args:
        image: uint8 (H, W, 3).
        sides: (least, most) pixels of the longer side.
        noise: most standard deviation of the noise, in levels of 0..255.
        rng: draws all of it.
    """
    height, width = image.shape[:2]
    contrast, brightness = rng.uniform(1 - _COLOURS, 1 + _COLOURS, 2)
    shrunk, side, strength = rng.randint(2), rng.randint(sides[0], sides[1] + 1), rng.uniform(0, noise)
    pixels = Image.fromarray(np.ascontiguousarray(image))
    if shrunk and side < max(height, width):
        scale = side / max(height, width)
        pixels = pixels.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)
    values = np.asarray(pixels, np.float32)
    middle = values.mean()
    values = (contrast * (values - middle) + middle) * brightness
    if shrunk:
        values += strength * _noise(values.shape, rng)
    pixels = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(pixels)


def random_view(
    image: np.ndarray,
    instances: Instances,
    rng: np.random.RandomState,
    *,
    zoom: float | None,
    sides: tuple[int, int] | None,
    noise: float,
) -> tuple[np.ndarray, Instances]:
    """A random window of an image, degraded; `zoom` None leaves the window out, `sides` None the degrading."""
    if zoom is not None:
        image, instances = cut_out(image, instances, random_window(image.shape[:2], *instances[:2], zoom, rng))
    if sides is not None:
        image = degraded(image, sides, noise, rng)
    return image, instances
