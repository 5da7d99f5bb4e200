"""Between a photograph and the network's canvas: resizing, padding, normalising, and the image's meta vector."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from unmask_tf.mrcnn.config import Config


@dataclass(frozen=True)
class Placement:
    """Where an image lies on its canvas.

    Attributes:
        window: (y1, x1, y2, x2) of the image on the canvas, pixels, half-open.
        scale: canvas pixels per image pixel.
        padding: ((top, bottom), (left, right), (0, 0)), canvas pixels.
        crop: (y, x, height, width) in crop mode, else None.
    """

    window: tuple[int, int, int, int]
    scale: float
    padding: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    crop: tuple[int, int, int, int] | None = None


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize of (H, W, C) to float64 (height, width, C): scikit-image's `resize` (from 0.19 on), no smoothing.

    Samples outside the image count as 0, so the outermost pixels fade when the image grows, but no result other than
    0 itself leaves the image's range.
    """
    zoom = [height / image.shape[0], width / image.shape[1]]
    low, high = image.min(), image.max()
    resized = np.empty((height, width, image.shape[2]))

    def resize(channel: int) -> None:
        pixels = image[..., channel].astype(np.float64)
        plane = ndimage.zoom(pixels, zoom, order=1, mode="grid-constant", cval=0.0, grid_mode=True)
        outside = plane == 0
        resized[..., channel] = np.where(outside, 0.0, np.clip(plane, low, high, out=plane))

    # One channel at a time: scipy would interpolate between channels too, to no effect in twice the time.
    if image.shape[2] == 1:
        resize(0)
    else:
        with ThreadPoolExecutor(min(image.shape[2], os.cpu_count() or 1)) as pool:
            list(pool.map(resize, range(image.shape[2])))
    return resized


def _scale(height: int, width: int, config: Config) -> float:
    """Canvas pixels per image pixel in the modes square, pad64 and crop."""
    scale = max(1.0, config.IMAGE_MIN_DIM / min(height, width)) if config.IMAGE_MIN_DIM else 1.0
    scale = max(scale, config.IMAGE_MIN_SCALE)
    limited = config.IMAGE_MAX_DIM and config.IMAGE_RESIZE_MODE == "square"
    if limited and round(max(height, width) * scale) > config.IMAGE_MAX_DIM:
        scale = config.IMAGE_MAX_DIM / max(height, width)
    return scale


def canvas_size(height: int, width: int, config: Config) -> tuple[int, int]:
    """(height, width) of the canvas that `resize_image` gives an image, found without resizing it."""
    if config.IMAGE_RESIZE_MODE == "none":
        return height, width
    if config.IMAGE_RESIZE_MODE != "pad64":
        return int(config.IMAGE_SHAPE[0]), int(config.IMAGE_SHAPE[1])
    scale = _scale(height, width, config)
    if scale != 1:
        height, width = round(height * scale), round(width * scale)
    return height + -height % 64, width + -width % 64


def resize_image(
    image: np.ndarray, config: Config, rng: np.random.RandomState | None = None
) -> tuple[np.ndarray, Placement]:
    """Scales and pads an image (H, W, 3) onto the network's canvas, in the mode IMAGE_RESIZE_MODE.

    Modes: `none`; `square` (pad to IMAGE_MAX_DIM squared); `pad64` (pad to multiples of 64); `crop` (random
    IMAGE_MIN_DIM squared crop, for training).

    Returns:
        The canvas in the image's dtype, and the image's placement on it.
    """
    mode, height, width = config.IMAGE_RESIZE_MODE, image.shape[0], image.shape[1]
    if mode == "none":
        return image, Placement((0, 0, height, width), 1.0, ((0, 0), (0, 0), (0, 0)))
    if mode not in ("square", "pad64", "crop"):
        raise ValueError(f"IMAGE_RESIZE_MODE is '{mode}'. Choose none, square, pad64 or crop.")
    scale = _scale(height, width, config)
    dtype = image.dtype
    if scale != 1:
        image = resize_bilinear(image, round(height * scale), round(width * scale))
    height, width = image.shape[:2]

    if mode == "crop":
        rng = rng or np.random.RandomState(config.SEED)
        side = config.IMAGE_MIN_DIM
        y, x = rng.randint(0, height - side + 1), rng.randint(0, width - side + 1)
        placement = Placement((0, 0, side, side), scale, ((0, 0), (0, 0), (0, 0)), (y, x, side, side))
        return image[y : y + side, x : x + side].astype(dtype), placement
    if mode == "square":
        vertical, horizontal = config.IMAGE_MAX_DIM - height, config.IMAGE_MAX_DIM - width
    else:
        vertical, horizontal = -height % 64, -width % 64
    top, left = vertical // 2, horizontal // 2
    padding = ((top, vertical - top), (left, horizontal - left), (0, 0))
    window = (top, left, top + height, left + width)
    return np.pad(image, padding).astype(dtype), Placement(window, scale, padding)


def resize_masks(masks: np.ndarray, placement: Placement) -> np.ndarray:
    """Scales and pads masks (H, W, N) as their image was: nearest neighbour, same dtype."""
    if placement.scale != 1:
        zoom = [placement.scale, placement.scale, 1]
        masks = ndimage.zoom(masks.astype(np.uint8), zoom, order=0).astype(masks.dtype)
    if placement.crop is not None:
        y, x, height, width = placement.crop
        return masks[y : y + height, x : x + width]
    return np.pad(masks, placement.padding)


def mold_image(image: np.ndarray, config: Config) -> np.ndarray:
    """RGB pixels 0..255 (..., 3) to the network's float32 input: the mean pixel is subtracted."""
    # Subtracted in float64 and rounded once, as the original does.
    return np.subtract(image, config.MEAN_PIXEL, out=np.empty(np.shape(image), np.float32), casting="unsafe")


def unmold_image(molded: np.ndarray, config: Config) -> np.ndarray:
    """The inverse of `mold_image`: uint8."""
    return (molded + np.asarray(config.MEAN_PIXEL)).round().clip(0, 255).astype(np.uint8)


def compose_meta(
    image_id: int,
    original_shape: Sequence[int],
    image_shape: Sequence[int],
    window: Sequence[int],
    scale: float,
    active_class_ids: np.ndarray,
) -> np.ndarray:
    """The image's meta vector: id, original shape (3), canvas shape (3), window (4), scale, active classes."""
    return np.array([image_id, *original_shape, *image_shape, *window, scale, *active_class_ids])


def mold_inputs(images: Sequence[np.ndarray], config: Config) -> tuple[np.ndarray, np.ndarray, list[Placement]]:
    """Prepares RGB uint8 images (each (H, W, 3)) for the network.

    Returns:
        molded images float32 (N, height, width, 3), metas float64 (N, IMAGE_META_SIZE), placements.

    Raises:
        ValueError: an image is not uint8 (H, W, 3), there is none, or the canvases differ in size.
    """
    if len(images) == 0:
        raise ValueError("K was given no images. Pass at least one.")
    molded, metas, placements = [], [], []
    for image in images:
        dtype, shape = getattr(image, "dtype", type(image).__name__), np.shape(image)
        if dtype != np.uint8 or len(shape) != 3 or shape[-1] != 3 or 0 in shape:
            raise ValueError(
                f"K needs RGB images uint8 of shape (height, width, 3), but got {dtype} {shape}. "
                "Convert it to RGB, and pixels in [0, 1] to 8-bit form with floor(255 * x)."
            )
        canvas, placement = resize_image(image, config)
        molded.append(mold_image(canvas, config))
        metas.append(
            compose_meta(
                0, image.shape, canvas.shape, placement.window, placement.scale, np.zeros(config.NUM_CLASSES, np.int32)
            )
        )
        placements.append(placement)
    shapes = {canvas.shape for canvas in molded}
    if len(shapes) > 1:
        raise ValueError(
            f"the images of one batch need one canvas size, but got {sorted(shapes)}. "
            "Use IMAGE_RESIZE_MODE 'square', or pass images of one size."
        )
    return np.stack(molded), np.stack(metas), placements


def resizing(old: int, new: int) -> np.ndarray:
    """The matrix (new, old) by which `resize_bilinear` resizes an axis."""
    return ndimage.zoom(np.eye(old), [new / old, 1], order=1, mode="grid-constant", cval=0.0, grid_mode=True)


def along(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Images (N, H, W, C) with a matrix (h, H) along their rows and one (w, W) along their columns: (N, h, w, C)."""
    images = np.tensordot(images, rows, axes=(1, 1))  # (N, W, C, h)
    return np.tensordot(images, columns, axes=(1, 1)).transpose(0, 2, 3, 1)
