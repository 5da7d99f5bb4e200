"""A description of a data folder in the Croissant format (MLCommons), made and validated by mlcroissant."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from unmask_tf.data.images import IMAGE_SUFFIXES
from unmask_tf.data.layout import part_files
from unmask_tf.data.splits import SPLITS
from unmask_tf.errors import InputError
from unmask_tf.files import read_json, sha256, write_json
from unmask_tf.taxonomy import RELEASED_NAMES, Taxonomy

_CITE = (
    "@inproceedings{freitas2020unmask, title={UnMask: Adversarial Detection and Defense Through Robust Feature "
    "Alignment}, author={Freitas, Scott and Chen, Shang-Tse and Wang, Zijie J. and Chau, Duen Horng}, "
    "booktitle={IEEE International Conference on Big Data}, year={2020}}"
)
_LICENCES = [
    "Photographs of PASCAL VOC and Flickr: Flickr's terms of use and each photograph's own licence",
    "Photographs of ImageNet: non-commercial research and education",
]
_TYPES = {"image_id": "INTEGER", "category_id": "INTEGER", "bbox": "FLOAT", "object": "TEXT"}
"""The described fields of a part annotation; `bbox` is [x, y, width, height] in pixels."""


def write_croissant(root: str | Path, taxonomy: Taxonomy, path: str | Path | None = None) -> list[str]:
    """Describes a data folder's files, part annotations and class images, and validates the description.

    Args:
        root: the data folder.
        taxonomy: its parts, classes and class sets.
        path: the JSON-LD file; None: `croissant.json` in the data folder. File names in it are relative to that folder.

    Returns:
        What mlcroissant warns of, such as missing recommended fields.

    Raises:
        InputError: the folder holds nothing to describe, or mlcroissant finds an error.
    """
    import mlcroissant as mlc

    logging.getLogger("absl").setLevel(logging.ERROR)  # it repeats the warnings that are returned
    root = Path(root)
    path = root / "croissant.json" if path is None else Path(path)
    try:
        described = _metadata(root, taxonomy)
        write_json(path, described.to_json())
        return sorted(mlc.Dataset(jsonld=path).metadata.ctx.issues.warnings)
    except mlc.ValidationError as error:
        raise InputError(f"mlcroissant refuses the description of {root}: {error}") from error


def _metadata(root: Path, taxonomy: Taxonomy) -> Any:
    import mlcroissant as mlc

    files: list[Any] = []
    records: list[Any] = []
    for split in SPLITS:
        annotations, folder = part_files(root, split)
        if annotations.is_file() and folder.is_dir():
            files += [_file(root, annotations, f"parts_{split}.json"), *_images(root, folder, f"images_{split}")]
            records.append(_annotations(annotations, split))
    for folder in _class_folders(root, taxonomy):
        name = "_".join(folder.relative_to(root).parts)
        if found := _images(root, folder, f"{name}_images", "*/"):
            files += found
            records.append(_class_images(found[0], name))
    if not records:
        raise InputError(f"{root} holds no data to describe. dataset/README.md says what belongs in it.")
    more = ("taxonomy.json", "splits/k.json", "splits/m.json")
    files += [_file(root, root / name, name) for name in more if (root / name).is_file()]
    built = max(
        path.stat().st_mtime for path in [root, *(root / f.content_url for f in files if isinstance(f, mlc.FileObject))]
    )
    return mlc.Metadata(
        name=root.resolve().name,
        description=(
            f"Photographs with the parts of their objects ({len(taxonomy.parts)} kinds of parts), and photographs of "
            f"single classes for the class sets {', '.join(taxonomy.class_sets)}; laid out for UnMask."
        ),
        url="https://github.com/safreita1/unmask",
        license=_LICENCES,
        cite_as=_CITE,
        version="1.0.0",
        date_published=datetime.fromtimestamp(int(built)),
        distribution=files,
        record_sets=records,
    )


def _file(root: Path, path: Path, name: str) -> Any:
    import mlcroissant as mlc

    return mlc.FileObject(
        id=name,
        name=name,
        content_url=path.relative_to(root).as_posix(),
        content_size=f"{path.stat().st_size} B",
        encoding_formats=["application/json"],
        sha256=sha256(path),
    )


def _images(root: Path, folder: Path, name: str, below: str = "") -> list[Any]:
    """The file set of a folder's images, or none without any; `below` is a pattern of the folders between."""
    import mlcroissant as mlc

    suffixes = sorted({path.suffix for path in folder.glob(f"{below}*") if path.suffix.lower() in IMAGE_SUFFIXES})
    if not suffixes:
        return []
    types = {"image/" + suffix[1:].lower().replace("jpg", "jpeg") for suffix in suffixes}
    patterns = [f"{folder.relative_to(root).as_posix()}/{below}*{suffix}" for suffix in suffixes]
    return [mlc.FileSet(id=name, name=name, encoding_formats=sorted(types), includes=patterns)]


def _annotations(path: Path, split: str) -> Any:
    """K's part annotations of a split: one record an annotation."""
    import mlcroissant as mlc

    annotations = read_json(path)["annotations"]
    name = f"parts_{split}"
    fields = [
        mlc.Field(
            id=f"{name}/{field}",
            name=field,
            data_types=[getattr(mlc.DataType, kind)],
            repeated=True if field == "bbox" else None,
            source=mlc.Source(file_object=f"{name}.json", extract=mlc.Extract(json_path=f"$.annotations[*].{field}")),
        )
        for field, kind in _TYPES.items()
        if annotations and all(field in annotation for annotation in annotations)
    ]
    return mlc.RecordSet(id=name, name=name, description=f"Parts in K's {split} images (COCO)", fields=fields)


def _class_images(files: Any, name: str) -> Any:
    """Images of M and D: one record an image, with its class."""
    import mlcroissant as mlc

    path = mlc.Source(
        file_set=files.id,
        extract=mlc.Extract(file_property=mlc.FileProperty.fullpath),
        transforms=[mlc.Transform(regex=r".*/([^/]+)/[^/]+$")],
    )
    content = mlc.Source(file_set=files.id, extract=mlc.Extract(file_property=mlc.FileProperty.content))
    fields = [
        mlc.Field(id=f"{name}/class", name="class", data_types=[mlc.DataType.TEXT], source=path),
        mlc.Field(id=f"{name}/image", name="image", data_types=[mlc.DataType.IMAGE_OBJECT], source=content),
    ]
    return mlc.RecordSet(id=name, name=name, description=f"Images of single classes: {name}", fields=fields)


def _class_folders(root: Path, taxonomy: Taxonomy) -> list[Path]:
    """The folders of M's splits, in whichever layout: each holds one folder a class."""
    tops = {"classes", "", *taxonomy.class_sets, *RELEASED_NAMES}
    classes = {name for class_set in taxonomy.class_sets for name in taxonomy.members(class_set)}
    folders = [root / top / split for top in sorted(tops) for split in SPLITS]
    return [folder for folder in folders if any((folder / name).is_dir() for name in classes)]
