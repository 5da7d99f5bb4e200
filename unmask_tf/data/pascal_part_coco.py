"""PASCAL-Part to COCO JSON of the paper's 44 parts, file by file and in several processes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unmask_tf.data.masks import encode_mask, tight_box
from unmask_tf.data.parallel import in_processes
from unmask_tf.data.pascal_part import read_annotation
from unmask_tf.data.pascal_part_names import CLASS_NAMES, part_of
from unmask_tf.data.polygons import mask_polygons
from unmask_tf.errors import InputError
from unmask_tf.files import write_bytes, write_text
from unmask_tf.progress import Progress
from unmask_tf.taxonomy import PARTS

# Part of what finished pieces are known by: raise it whenever `convert_file` gives something else.
_VERSION = 1
_PIECE = 64  # files that are converted and kept together

Entry = dict[str, Any]
"""A converted file: `name, file_name, height, width`, `parts` (a list of `part, object, bbox, area, segmentation`),
`faults` ([kind, message]), `empty` (masks without a pixel) and `dropped` (raw names of parts that are none of
the 44)."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How annotations are converted.

    Attributes:
        images: folder of the photographs, `<name>.jpg`.
        as_released: name parts as the released data do (see `part_of`).
        polygons: None: masks become RLE, which is exact; else polygons with this tolerance in pixels.
    """

    images: str
    as_released: bool = False
    polygons: float | None = None


@dataclass
class Summary:
    """What a conversion found.

    Attributes:
        files, images, masks: annotation files, those with parts of the 44, and their parts.
        by_part: part -> masks.
        dropped: raw part name -> masks that are no part of the 44.
        empty: masks without a pixel, which are left out.
        in_no_split: images with parts that a given split does not name; they are left out.
        faults: (file's name, kind, message).
    """

    files: int = 0
    images: int = 0
    masks: int = 0
    by_part: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    in_no_split: int = 0
    faults: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Counts a converted file."""
        self.files += 1
        self.images += bool(entry["parts"])
        self.masks += len(entry["parts"])
        self.by_part.update(part["part"] for part in entry["parts"])
        self.dropped.update(entry["dropped"])
        self.empty += entry["empty"]
        self.faults += [(entry["name"], kind, message) for kind, message in entry["faults"]]


def convert_file(path: Path, how: Conversion) -> Entry:
    """Converts one `.mat` file. Whatever is wrong with it is among its `faults`; an unknown part is then left out, and
    after any other fault all parts are."""
    entry: Entry = {"name": path.stem, "file_name": f"{path.stem}.jpg", "height": 0, "width": 0}
    entry |= {"parts": [], "faults": [], "empty": 0, "dropped": []}
    photograph = Path(how.images) / entry["file_name"]
    try:
        annotation = read_annotation(path)
        entry |= {"height": annotation.height, "width": annotation.width}
    except InputError as error:
        entry["faults"].append(["annotation", str(error)])
        return entry
    if fault := _fault_of_image(photograph, annotation.height, annotation.width):
        entry["faults"].append(fault)
        return entry
    for found in annotation.objects:
        for raw in found.parts:
            try:
                part = part_of(found.name, raw.name, as_released=how.as_released)
            except InputError as error:
                entry["faults"].append(["unknown part", f"{path}: {error}"])
                continue
            if part is None:
                entry["dropped"].append(raw.name)
            elif not raw.mask.any():
                entry["empty"] += 1
            else:
                owner = CLASS_NAMES.get(found.name, found.name)
                entry["parts"].append({"part": part, "object": owner, **_geometry(raw.mask, how.polygons)})
    return entry


def _fault_of_image(path: Path, height: int, width: int) -> list[str] | None:
    """What is wrong with an annotation's photograph; its pixels are not decoded."""
    try:
        with Image.open(path) as image:
            size = image.size
    except FileNotFoundError:
        return ["missing image", f"{path} does not exist. Restore it."]
    except Exception as error:  # as `read_image`
        return ["unreadable image", f"{path} cannot be read ({error}). Restore it."]
    if size != (width, height):
        return ["size", f"{path} has {size[0]}x{size[1]} pixels, but its annotation {width}x{height}. Restore it."]
    return None


def _geometry(mask: np.ndarray, polygons: float | None) -> dict[str, Any]:
    y1, x1, y2, x2 = tight_box(mask)
    segmentation = encode_mask(mask) if polygons is None else mask_polygons(mask, polygons)
    return {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": int(mask.sum()), "segmentation": segmentation}


def convert(files: Sequence[Path], how: Conversion, kept: Path, workers: int | None = None) -> list[Entry]:
    """Converts annotation files, in their order.

    Args:
        files: `.mat` files.
        how: the settings.
        kept: folder for finished pieces of the work, from which an interrupted conversion goes on.
        workers: processes; None: one a core, at most four.

    Raises:
        InputError: the folder cannot be written, or a process was killed.
    """
    pieces = [list(files[i : i + _PIECE]) for i in range(0, len(files), _PIECE)]
    entries: list[Entry] = []
    with Progress(total=len(files), desc="PASCAL-Part", unit="file") as bar:
        for piece in in_processes(partial(_convert_piece, how=how, kept=kept), pieces, workers):
            entries += piece
            bar.update(len(piece))
    return entries


def _convert_piece(piece: Sequence[Path], *, how: Conversion, kept: Path) -> list[Entry]:
    """The entries of some files; kept on disk unless one has a fault, which the user may mend."""
    states = [(path.name, status.st_size, status.st_mtime_ns) for path in piece for status in [path.stat()]]
    digest = hashlib.sha256(json.dumps([_VERSION, asdict(how), states]).encode()).hexdigest()
    done = kept / f"{digest[:32]}.json"
    try:
        return json.loads(done.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        entries = [convert_file(path, how) for path in piece]
    if not any(entry["faults"] for entry in entries):
        write_bytes(done, json.dumps(entries).encode())
    return entries


def write_coco(path: Path, entries: Iterable[Entry], info: Mapping[str, Any]) -> None:
    """Writes converted files as COCO JSON, atomically; ids count from 1, categories are the parts' positions."""
    position = {part: i for i, part in enumerate(PARTS)}
    images: list[Entry] = []
    annotations: list[Entry] = []
    for image_id, entry in enumerate(entries, start=1):
        images.append({"id": image_id, **{name: entry[name] for name in ("file_name", "height", "width")}})
        for part in entry["parts"]:
            rest = {name: value for name, value in part.items() if name != "part"}
            more = {"image_id": image_id, "category_id": position[part["part"]], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **more, **rest})
    categories = [{"id": i, "name": part, "supercategory": "part"} for part, i in position.items()]
    content = {"info": dict(info), "categories": categories, "images": images, "annotations": annotations}
    write_text(path, json.dumps(content, allow_nan=False) + "\n")
