"""Reads image files, which may be damaged, as 8-bit RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from unmask_tf.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
# Bitmap formats only: EPS, for example, would start an external program.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 1 << 26


def read_image(path: str | Path, *, upright: bool = True) -> np.ndarray:
    """Reads one image file: uint8 (H, W, 3), RGB.

    The EXIF orientation is applied (unless `upright` is False). Grey and palette images become RGB; an alpha channel is
    dropped and its colours kept, as torchvision's image loader does; 16-bit grey keeps its upper 8 bits. An
    animation gives its first frame.

    Raises:
        InputError: the file is missing, unreadable, damaged, not an image, or larger than `MAX_PIXELS` pixels.
    """
    path = Path(path)
    # Another library may have allowed truncated images for the whole process; they would be filled with grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path, formats=_FORMATS) as image:
            _refuse_oversized(path, image.width * image.height)
            image.load()
            return np.ascontiguousarray(_to_rgb(ImageOps.exif_transpose(image) if upright else image))
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Check the path, or restore the file.") from error
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Make it a readable image file.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} has too many pixels ({error}). Scale it down to at most {MAX_PIXELS}.") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an image of a known format ({', '.join(_FORMATS)}). Replace it or delete it."
        ) from error
    except Exception as error:  # Decoders raise OSError, SyntaxError, ValueError, struct.error, ... on damaged files.
        raise InputError(
            f"{path} is damaged or truncated ({error}). Replace it with a whole copy or delete it."
        ) from error


def _refuse_oversized(path: Path, pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise InputError(f"{path} has {pixels} pixels, more than {MAX_PIXELS}. Scale it down, or delete it.")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit values at 255: almost all of the image would turn white.
        grey = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save it with 8 bits per channel")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))
