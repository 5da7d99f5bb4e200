"""Reads PASCAL-Part's annotations: one `.mat` file per image with objects, their masks and their parts' masks.

`anno` holds (imname, objects), an object (class, class_ind, mask, parts), a part (part_name, mask); masks are uint8, 0
or 1, of the image's size (Chen et al., Detect What You Can, CVPR 2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from unmask_tf.errors import InputError


@dataclass(frozen=True)
class RawPart:
    """One part under PASCAL-Part's own name, such as `lfuleg` or `wheel_2`; mask bool (H, W)."""

    name: str
    mask: np.ndarray


@dataclass(frozen=True)
class RawObject:
    """One object: its class under PASCAL-Part's own name, and its parts."""

    name: str
    parts: tuple[RawPart, ...]


@dataclass(frozen=True)
class Annotation:
    """One file; height and width in pixels are those of its masks."""

    image: str
    height: int
    width: int
    objects: tuple[RawObject, ...]


def read_annotation(path: str | Path) -> Annotation:
    """Reads one `.mat` file.

    Raises:
        InputError: the file is missing, damaged or of another form, belongs to another image than its name says, or its
            masks differ in size.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist. Check the path, or restore the file.")
    try:
        content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
        found = content["anno"]
        image, objects = str(found.imname), [_object(entry) for entry in np.atleast_1d(found.objects)]
    except MemoryError:
        raise
    except Exception as error:  # loadmat raises whatever its readers meet in a damaged file.
        raise InputError(
            f"{path} is damaged, or no annotation of PASCAL-Part ({type(error).__name__}: {error}). Restore it."
        ) from error
    if Path(image).stem != path.stem:
        raise InputError(f"{path} says that it annotates the image '{image}'. Give it back its own name.")
    sizes = {shape for _, shape in objects} | {part.mask.shape for entry, _ in objects for part in entry.parts}
    if len(sizes) != 1:
        shown = ", ".join(f"{shape[1]}x{shape[0]}" for shape in sorted(sizes)) or "none"
        raise InputError(f"{path} has masks of different sizes ({shown}). Restore it.")
    height, width = sizes.pop()
    return Annotation(path.stem, height, width, tuple(entry for entry, _ in objects))


def _object(entry: Any) -> tuple[RawObject, tuple[int, int]]:
    """An object, and its mask's shape."""
    parts = tuple(RawPart(str(part.part_name), _mask(part.mask)) for part in np.atleast_1d(entry.parts))
    return RawObject(str(getattr(entry, "class")), parts), _mask(entry.mask).shape


def _mask(value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "bu" or value.max(initial=0) > 1:
        raise ValueError("a mask is no matrix of 0 and 1")
    return value.astype(bool)
