"""Where M's images of a class come from: VOC's lists, ImageNet's synset folders, any folder with one folder per class.

The evaluation is on images that show a single class (Section IV-C), so a VOC image that shows two is none of these.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unmask_tf.data.images import IMAGE_SUFFIXES
from unmask_tf.errors import InputError

Images = dict[str, list[Path]]
"""Class -> image files, sorted by name."""

SYNSETS = {
    "bird": ("n01503061",),
    "bottle": ("n02876657",),
    "car": ("n02958343",),
    "dog": ("n02084071",),
    "person": ("n00007846",),
    "train": ("n04468005",),
}
"""ImageNet's own synsets of the paper's classes."""


@dataclass
class VocImages:
    """Single-class images of VOC.

    Attributes:
        images: class -> files.
        several: how many images show several classes.
        conflicts: images left out since their XML file and the lists do not agree.
    """

    images: Images
    several: int = 0
    conflicts: list[str] = field(default_factory=list)


def voc_images(root: str | Path, classes: Iterable[str], subset: str = "trainval") -> VocImages:
    """Images of VOC that show objects of one class only, whichever of VOC's classes the others are.

    What an image shows stands in the lists `ImageSets/Main/<class>_<subset>.txt` (1: shown; 0: shown, but difficult;
    -1: not). Where there is an XML file in `Annotations`, its objects must be of that one class too.

    Args:
        root: folder with ImageSets, JPEGImages and perhaps Annotations, such as `VOC2010`.
        classes: the classes wanted.
        subset: `train`, `val` or `trainval`.

    Raises:
        InputError: a list is missing or damaged, or an image does not exist.
    """
    root, classes = Path(root), sorted(set(classes))
    lists = root / "ImageSets" / "Main"
    shown: dict[str, set[str]] = {}
    found = sorted(lists.glob(f"*_{subset}.txt"))
    for path in found:
        for name in _listed(path):
            shown.setdefault(name, set()).add(path.stem.removesuffix(f"_{subset}"))
    for name in classes:
        if lists / f"{name}_{subset}.txt" not in found:
            raise InputError(f"{lists} has no list {name}_{subset}.txt. Name the folder of VOC (VOC2010).")
    result = VocImages({name: [] for name in classes}, sum(len(held) > 1 for held in shown.values()))
    for name, held in sorted(shown.items()):
        if len(held) > 1 or not held <= set(classes):
            continue
        (class_name,) = held
        annotation = root / "Annotations" / f"{name}.xml"
        if annotation.is_file() and _objects(annotation) != held:
            result.conflicts.append(name)
            continue
        path = root / "JPEGImages" / f"{name}.jpg"
        if not path.is_file():
            raise InputError(f"{lists} lists {name}, but {path} does not exist. Restore it.")
        result.images[class_name].append(path)
    return result


def _listed(path: Path) -> list[str]:
    """Names of the images that show a list's class."""
    names = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in ("1", "0", "-1"):
            raise InputError(f"{path}, line {number}, is {line!r}, not a name and 1, 0 or -1. Restore the file.")
        if words[1] != "-1":
            names.append(words[0])
    return names


def _objects(path: Path) -> set[str]:
    """Classes of a VOC annotation's objects."""
    try:
        return {name.text or "" for name in ET.parse(path).getroot().findall("object/name")}
    except ET.ParseError as error:
        raise InputError(f"{path} is no XML ({error}). Restore it.") from error


def imagenet_images(
    root: str | Path, classes: Iterable[str], synsets: Mapping[str, Iterable[str]] = SYNSETS
) -> tuple[Images, list[str]]:
    """ImageNet's images of classes, from folders named by synset (`n02958343/*.JPEG`); one may be missing.

    Args:
        root: folder of the synset folders.
        classes: the classes wanted.
        synsets: class -> WordNet ids.

    Returns:
        class -> files, for classes with any; and the synset folders that are not there.

    Raises:
        InputError: a class has no synset, or the root has none of the folders.
    """
    root, images, missing = Path(root), {}, []
    for name in sorted(set(classes)):
        if name not in synsets:
            raise InputError(f"no ImageNet synset is known for '{name}'. Give one: --synsets {name}=n01234567.")
        files: list[Path] = []
        for synset in synsets[name]:
            if (root / synset).is_dir():
                files += _image_files(root / synset)
            else:
                missing.append(synset)
        if files:
            images[name] = files
    if not images:
        raise InputError(f"{root} has none of the folders {', '.join(missing)}. Name the folder of ImageNet's synsets.")
    return images, missing


def folder_images(root: str | Path, classes: Iterable[str]) -> Images:
    """Images of classes in a folder with one folder per class; a class may be missing.

    Raises:
        InputError: the root has no folder of any class.
    """
    root = Path(root)
    images = {name: files for name in sorted(set(classes)) if (files := _image_files(root / name))}
    if not images:
        raise InputError(
            f"{root} holds no images in folders named after the classes {', '.join(sorted(set(classes)))}."
        )
    return images


def _image_files(folder: Path) -> list[Path]:
    """Image files of a folder, sorted by name; none where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
