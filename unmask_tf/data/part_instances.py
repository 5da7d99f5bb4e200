"""Part annotations for model K: COCO JSON written, read and validated.

Boxes in the JSON are COCO's [x, y, width, height]; everywhere else (y1, x1, y2, x2), half-open, in pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unmask_tf.data.images import MAX_PIXELS, read_image
from unmask_tf.data.masks import check_segmentation, decode_mask, encode_mask, is_number, tight_box
from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_text
from unmask_tf.taxonomy import Taxonomy

__all__ = [
    "PartDataset",
    "PartImage",
    "PartInstance",
    "decode_mask",
    "encode_mask",
    "read_part_instances",
    "tight_box",
    "write_part_instances",
]

# Annotation tools count the last pixel or round after scaling, so a box may reach one pixel beyond the image and is cut
# off there. More is an error: the annotation then belongs to another image or another scale.
BOX_TOLERANCE = 1.0


@dataclass(frozen=True)
class PartInstance:
    """One annotated part.

    Attributes:
        part: a name of `Taxonomy.parts`.
        box: (y1, x1, y2, x2) in pixels, half-open, inside the image.
        segmentation: COCO RLE, COCO polygons ([[x, y, x, y, ...], ...]), or None if there is only a box.
        object: class of the object that owns the part, if known.
    """

    part: str
    box: tuple[float, float, float, float]
    segmentation: dict | list | None = None
    object: str | None = None


@dataclass(frozen=True)
class PartImage:
    """One annotated image; height and width in pixels, after the EXIF orientation is applied."""

    path: Path
    height: int
    width: int
    instances: tuple[PartInstance, ...] = ()


@dataclass(frozen=True)
class PartDataset:
    """Annotated images in sorted file order; pixels and masks are decoded on demand."""

    taxonomy: Taxonomy
    images: tuple[PartImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    def spread(self, count: int | None) -> PartDataset:
        """At most `count` images, evenly spaced in file order, so that all sources are represented."""
        if count is None or count >= len(self.images):
            return self
        return PartDataset(self.taxonomy, tuple(self.images[i * len(self.images) // count] for i in range(count)))

    def load_image(self, index: int) -> np.ndarray:
        """Pixels of image `index`: uint8 (H, W, 3), RGB.

        Raises:
            InputError: the file is unreadable, or its size is not the annotated one.
        """
        image = self.images[index]
        pixels = read_image(image.path)
        if pixels.shape[:2] != (image.height, image.width):
            raise InputError(
                f"{image.path} has {pixels.shape[1]}x{pixels.shape[0]} pixels, but its annotations say "
                f"{image.width}x{image.height}. Annotate it at its real size, or restore the annotated file."
            )
        return pixels

    def load_instances(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Parts of image `index`.

        A segmentation's box is the mask's tight box. A box without segmentation (or with one too thin to cover a pixel)
        is rounded to at least one whole pixel, and its mask is all False.

        Returns:
            class_ids int32 (N,): position in the taxonomy + 1; boxes int32 (N, 4): y1, x1, y2, x2, half-open pixels;
            masks bool (H, W, N); has_mask bool (N,).

        Raises:
            InputError: a segmentation cannot be decoded.
        """
        image = self.images[index]
        count = len(image.instances)
        position = {part: i + 1 for i, part in enumerate(self.taxonomy.parts)}
        class_ids = np.array([position[instance.part] for instance in image.instances], np.int32)
        boxes = np.zeros((count, 4), np.int32)
        masks = np.zeros((image.height, image.width, count), bool)
        has_mask = np.zeros(count, bool)
        for i, instance in enumerate(image.instances):
            if instance.segmentation is not None:
                try:
                    masks[..., i] = decode_mask(instance.segmentation, image.height, image.width)
                except InputError as error:
                    raise InputError(f"{image.path}, part {i} ({instance.part}): {error}") from error
                has_mask[i] = masks[..., i].any()
            boxes[i] = tight_box(masks[..., i]) if has_mask[i] else _whole_pixels(instance.box, image)
        return class_ids, boxes, masks, has_mask


def read_part_instances(
    json_path: str | Path, image_dir: str | Path, taxonomy: Taxonomy, *, limit: int | None = None
) -> PartDataset:
    """Reads and validates a COCO file of part annotations; pixels and masks are not decoded yet.

    Categories are matched by name, so their ids may be any. Images without annotations are kept as negatives. Boxes
    that extend up to `BOX_TOLERANCE` pixels beyond the image are clipped to it.

    Args:
        json_path: the COCO file.
        image_dir: folder of the images; `file_name` is relative to it.
        taxonomy: names the parts.
        limit: at most this many images, the first in sorted file order.

    Raises:
        InputError: the file is missing or invalid; the message names the annotation or image and the value.
    """
    json_path, image_dir = Path(json_path), Path(image_dir)
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; ask for at least one image of {json_path}.")
    images = _parse(read_json(json_path), json_path, image_dir, taxonomy)
    for image in images:
        if not image.path.is_file():
            raise InputError(f"{json_path} names the image {image.path}, which does not exist. Restore it, or drop it.")
    return PartDataset(taxonomy, images[:limit])


def write_part_instances(json_path: str | Path, images: Sequence[PartImage], taxonomy: Taxonomy) -> None:
    """Writes part annotations as COCO JSON, atomically.

    Masks become compressed RLE, and their tight box is written. A category's id is the part's position in the
    taxonomy; `file_name` is the file's name without its folder.

    Raises:
        InputError: what `read_part_instances` would refuse (missing image files aside).
    """
    json_path = Path(json_path)
    position = {part: i for i, part in enumerate(taxonomy.parts)}
    entries, annotations = [], []
    for image_id, image in enumerate(sorted(images, key=lambda image: image.path.name), start=1):
        entries.append(
            {"id": image_id, "file_name": image.path.name, "height": int(image.height), "width": int(image.width)}
        )
        for instance in image.instances:
            if instance.part not in position:
                raise InputError(f"{image.path}: the part '{instance.part}' is not in the taxonomy.")
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": position[instance.part],
                "iscrowd": 0,
                **_geometry(instance, image),
            }
            if instance.object is not None:
                annotation["object"] = instance.object
            annotations.append(annotation)
    content = {
        "categories": [{"id": i, "name": part, "supercategory": "part"} for part, i in position.items()],
        "images": entries,
        "annotations": annotations,
    }
    _parse(content, json_path, Path(), taxonomy)
    write_text(json_path, json.dumps(content, allow_nan=False) + "\n")


def _geometry(instance: PartInstance, image: PartImage) -> dict[str, Any]:
    """COCO's bbox, area and, if there is a mask, segmentation."""
    y1, x1, y2, x2 = (float(value) for value in instance.box)
    area = (y2 - y1) * (x2 - x1)
    geometry: dict[str, Any] = {}
    if instance.segmentation is not None:
        mask = decode_mask(instance.segmentation, image.height, image.width)
        if mask.any():
            y1, x1, y2, x2 = tight_box(mask)
            area = int(mask.sum())
            geometry["segmentation"] = encode_mask(mask)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, **geometry}


def _whole_pixels(box: tuple[float, float, float, float], image: PartImage) -> tuple[int, int, int, int]:
    """Corners rounded to the nearest pixel edge, moved apart if that leaves no pixel."""
    sides = []
    for low, high, size in ((box[0], box[2], image.height), (box[1], box[3], image.width)):
        start = min(math.floor(low + 0.5), size - 1)
        sides.append((start, max(start + 1, min(math.floor(high + 0.5), size))))
    (y1, y2), (x1, x2) = sides
    return y1, x1, y2, x2


def _parse(content: Any, source: Path, image_dir: Path, taxonomy: Taxonomy) -> tuple[PartImage, ...]:
    """Validates a COCO dictionary and returns its images in sorted file order."""
    if not isinstance(content, dict):
        raise InputError(
            f"{source} holds a {type(content).__name__}, not COCO's object of categories, images, annotations."
        )
    for key in ("categories", "images", "annotations"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{source} lacks the list '{key}' of the COCO format. Add it.")
    names = _category_names(content["categories"], source, taxonomy)
    entries = _image_entries(content["images"], source)
    instances: dict[int, list[PartInstance]] = {image_id: [] for image_id in entries}
    seen: set[int] = set()
    for annotation in content["annotations"]:
        annotation_id = _id(annotation, "id", f"{source}: an annotation")
        where = f"{source}: annotation {annotation_id}"
        if annotation_id in seen:
            raise InputError(f"{where} occurs twice. Give every annotation its own id.")
        seen.add(annotation_id)
        image_id = _id(annotation, "image_id", where)
        if image_id not in entries:
            raise InputError(
                f"{where} belongs to the image {image_id}, which 'images' lacks. Add it or drop the annotation."
            )
        instances[image_id].append(_instance(annotation, entries[image_id], names, where))
    images = (
        PartImage(image_dir / entry["file_name"], entry["height"], entry["width"], tuple(instances[image_id]))
        for image_id, entry in entries.items()
    )
    return tuple(sorted(images, key=lambda image: image.path.as_posix()))


def _category_names(categories: list, source: Path, taxonomy: Taxonomy) -> dict[int, str]:
    names: dict[int, str] = {}
    for category in categories:
        category_id = _id(category, "id", f"{source}: a category")
        name = category.get("name")
        if name not in taxonomy.parts:
            raise InputError(
                f"{source}: category {category_id} is the unknown part {name!r}. "
                f"Add it to the taxonomy, which has: {', '.join(taxonomy.parts)}."
            )
        if category_id in names:
            raise InputError(f"{source}: category id {category_id} occurs twice ('{names[category_id]}', '{name}').")
        names[category_id] = name
    return names


def _image_entries(images: list, source: Path) -> dict[int, dict]:
    if not images:
        raise InputError(f"{source} lists no images. Use a file with at least one.")
    entries: dict[int, dict] = {}
    files: set[PurePosixPath] = set()
    for entry in images:
        image_id = _id(entry, "id", f"{source}: an image")
        where = f"{source}: image {image_id}"
        if image_id in entries:
            raise InputError(f"{where} occurs twice. Give every image its own id.")
        name = entry.get("file_name")
        if not isinstance(name, str) or not name or PurePosixPath(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{where} has the file_name {name!r}; give a path inside the image folder.")
        if PurePosixPath(name) in files:
            raise InputError(f"{where} names the file '{name}', as another image does. List each file once.")
        for side in ("height", "width"):
            value = entry.get(side)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{where} ({name}) has the {side} {value!r}; give its size in pixels.")
        if entry["height"] * entry["width"] > MAX_PIXELS:
            raise InputError(f"{where} ({name}) has more than {MAX_PIXELS} pixels. Scale it down, or correct its size.")
        files.add(PurePosixPath(name))
        entries[image_id] = entry
    return entries


def _id(entry: Any, key: str, where: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where} has the {key} {value!r}; give a whole number.")
    return value


def _instance(annotation: dict, entry: dict, names: dict[int, str], where: str) -> PartInstance:
    category_id = _id(annotation, "category_id", where)
    if category_id not in names:
        raise InputError(f"{where} has the category id {category_id}, which 'categories' lacks. Declare it.")
    if annotation.get("iscrowd"):
        raise InputError(f"{where} is a crowd (iscrowd {annotation['iscrowd']!r}). Annotate single parts, or drop it.")
    owner = annotation.get("object")
    if owner is not None and not isinstance(owner, str):
        raise InputError(f"{where} has the object {owner!r}; give a class name or leave it out.")
    segmentation = annotation.get("segmentation") or None
    if segmentation is not None:
        try:
            check_segmentation(segmentation, entry["height"], entry["width"])
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return PartInstance(names[category_id], _box(annotation.get("bbox"), entry, where), segmentation, owner)


def _box(bbox: Any, entry: dict, where: str) -> tuple[float, float, float, float]:
    """COCO's [x, y, w, h] -> (y1, x1, y2, x2), clipped to the image."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
        raise InputError(f"{where} has the bbox {bbox!r}; give [x, y, width, height] in pixels.")
    x, y, w, h = bbox
    height, width = entry["height"], entry["width"]
    if w <= 0 or h <= 0:
        raise InputError(f"{where} has the bbox {bbox}, which has no area. Give it a width and height, or drop it.")
    y1, x1, y2, x2 = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
    if max(-x, -y, x + w - width, y + h - height) > BOX_TOLERANCE or y1 >= y2 or x1 >= x2:
        raise InputError(
            f"{where} has the bbox {bbox} outside its image '{entry['file_name']}' of {width}x{height} pixels "
            "(width x height). Correct it, or drop the annotation."
        )
    return float(y1), float(x1), float(y2), float(x2)
