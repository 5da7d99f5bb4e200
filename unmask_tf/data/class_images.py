"""Images sorted into one folder per class, for model M and the attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unmask_tf.data.images import IMAGE_SUFFIXES, read_image
from unmask_tf.errors import InputError
from unmask_tf.taxonomy import RELEASED_NAMES, Taxonomy


@dataclass(frozen=True)
class ImageSet:
    """Labelled square images, ordered by label, then by file name.

    Attributes:
        images: uint8 (N, S, S, 3), RGB.
        labels: int64 (N,), positions in `classes`.
        files: paths relative to the data root, with forward slashes.
        classes: class names in label order, which is alphabetical.
    """

    images: np.ndarray
    labels: np.ndarray
    files: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def list_class_images(
    root: str | Path, class_set: str, split: str, *, taxonomy: Taxonomy, limit: int | None = None
) -> tuple[str, ...]:
    """Paths of one split of a class set, relative to `root` with forward slashes, by label, then by file name.

    They come from the first of these folders that exists: `<root>/classes/<split>/`, `<root>/<class_set>/<split>/`
    (either of the set's names: the released data calls cs3a `cs3-1`), `<root>/<split>/`; each holds one folder per
    class. Folders of other classes are ignored.

    Args:
        root: the data folder.
        class_set: a class set of the taxonomy; released names are accepted.
        split: `train`, `val` or `test`.
        taxonomy: names the set's classes.
        limit: at most this many; each class keeps its first limit // classes files in sorted order.

    Raises:
        InputError: `limit` is too small, or a folder is missing or holds no image.
    """
    root = Path(root)
    classes = taxonomy.labels(class_set)
    if limit is not None and limit < len(classes):
        raise InputError(f"limit is {limit}; keep at least one image for each of the {len(classes)} classes.")
    folder = _split_folder(root, class_set, split, classes)
    per_class = None if limit is None else limit // len(classes)
    paths = [path for name in classes for path in _class_files(folder / name, classes)[:per_class]]
    return tuple(path.relative_to(root).as_posix() for path in paths)


def read_class_images(root: str | Path, names: Sequence[str], classes: Sequence[str], size: int) -> ImageSet:
    """Reads images that `list_class_images` listed; an image's class is the name of its folder.

    Args:
        root: the data folder.
        names: paths relative to it.
        classes: class names in label order.
        size: side S of the images, pixels; see `resize_and_crop`.

    Raises:
        InputError: `size` is too small, a folder is not a class, or a file is damaged.
    """
    if size < 1:
        raise InputError(f"the image size is {size}; it must be at least 1 pixel.")
    images, labels = np.empty((len(names), size, size, 3), np.uint8), np.empty(len(names), np.int64)
    for i, name in enumerate(names):
        folder = Path(name).parent.name
        if folder not in classes:
            raise InputError(f"{Path(root) / name} lies in no folder of a class ({', '.join(classes)}).")
        images[i], labels[i] = resize_and_crop(read_image(Path(root) / name), size), list(classes).index(folder)
    return ImageSet(images, labels, tuple(names), tuple(classes))


def load_class_images(
    root: str | Path, class_set: str, split: str, *, taxonomy: Taxonomy, size: int, limit: int | None = None
) -> ImageSet:
    """`list_class_images`, then `read_class_images`; arguments and errors as there."""
    names = list_class_images(root, class_set, split, taxonomy=taxonomy, limit=limit)
    return read_class_images(root, names, taxonomy.labels(class_set), size)


def resize_and_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Scales the shorter side to `size` (bilinear, antialiased), then crops the centre square.

    Section IV-A's input, with the rounding of torchvision's Resize and CenterCrop on PIL images: the longer side is
    truncated to whole pixels, the crop's offset rounded half to even. An image of the final size is returned unchanged.

    Args:
        image: uint8 (H, W, 3).
        size: side of the result, pixels.

    Returns:
        uint8 (size, size, 3).
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    if width <= height:
        new_width, new_height = size, int(size * height / width)
    else:
        new_width, new_height = int(size * width / height), size
    if (new_width, new_height) != (width, height):
        resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
        image = np.asarray(resized)
    top, left = round((new_height - size) / 2.0), round((new_width - size) / 2.0)
    return image[top : top + size, left : left + size]


def _split_folder(root: Path, class_set: str, split: str, classes: tuple[str, ...]) -> Path:
    names = {class_set, RELEASED_NAMES.get(class_set, class_set)}
    names |= {released for released, name in RELEASED_NAMES.items() if name in names}
    candidates = [root / "classes" / split, *(root / name / split for name in sorted(names)), root / split]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise InputError(
        f"no images of the class set '{class_set}', split '{split}', in {root}. Expected one folder per class "
        f"({', '.join(classes)}) in one of: {', '.join(str(candidate) for candidate in candidates)}."
    )


def _class_files(folder: Path, classes: tuple[str, ...]) -> list[Path]:
    """Image files of one class, sorted by name."""
    if not folder.is_dir():
        raise InputError(
            f"the class folder {folder} is missing. Expected one folder for each of {', '.join(classes)} "
            f"in {folder.parent}."
        )
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not entries:
        raise InputError(f"the class folder {folder} is empty. Put the images of '{folder.name}' there.")
    files = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not files:
        raise InputError(
            f"the class folder {folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}), only files such as "
            f"{entries[0].name}. Convert the files or rename them."
        )
    return files
