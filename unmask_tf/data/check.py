"""Checks every image and label of a data folder, and counts them (Table II)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from unmask_tf.data.class_images import list_class_images
from unmask_tf.data.images import IMAGE_SUFFIXES, read_image
from unmask_tf.data.layout import part_files
from unmask_tf.data.parallel import in_processes
from unmask_tf.data.part_instances import PartDataset, read_part_instances
from unmask_tf.data.splits import SPLITS
from unmask_tf.errors import InputError
from unmask_tf.files import sha256
from unmask_tf.progress import Progress
from unmask_tf.taxonomy import Taxonomy

SMALLEST = 32
"""Images with a shorter side than this, in pixels, are noted: M and K see them scaled up."""

_PARTS = "K"
_WIDTH = 120  # of an example, in characters
_SUFFIXES = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "BMP": (".bmp",), "WEBP": (".webp",)}


@dataclass(frozen=True)
class Place:
    """Where an image is used: `group` is `K`, or the folder in which a class set's splits lie; the class of M's."""

    group: str
    split: str
    class_name: str = ""

    def __str__(self) -> str:
        return f"{self.group} {self.split}"


@dataclass(frozen=True)
class Finding:
    """Something wrong (a fault) or worth knowing (a note) about one file."""

    fault: bool
    what: str
    where: str
    file: str
    detail: str = ""


@dataclass
class Report:
    """What a check found.

    Attributes:
        findings: faults and notes.
        files: how many images were read.
        parts: split -> (images, annotated parts) of K's data.
        classes: class set -> split -> images.
    """

    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)
    classes: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def faults(self) -> list[Finding]:
        """The findings that are faults."""
        return [finding for finding in self.findings if finding.fault]

    def add(self, fault: bool, what: str, where: object, file: object, detail: str = "") -> None:
        """Notes a finding."""
        self.findings.append(Finding(fault, what, str(where), str(file), detail))


@dataclass(frozen=True)
class Seen:
    """What one image file is: its size (upright), mode and format, and the SHA-256 of its bytes; or why not."""

    height: int = 0
    width: int = 0
    mode: str = ""
    format: str = ""
    sha256: str = ""
    error: str = ""


def look_at(path: Path) -> Seen:
    """Decodes one image file."""
    try:
        height, width = read_image(path).shape[:2]
        with Image.open(path) as image:
            return Seen(height, width, image.mode, image.format or "", sha256(path))
    except InputError as error:
        return Seen(error=str(error))


def check_data(root: str | Path, taxonomy: Taxonomy, class_sets: Sequence[str], workers: int | None = None) -> Report:
    """Checks a data folder: labels are valid, images decode and have the annotated size, and none is in two splits.

    Two images are the same here if their files are, byte by byte. No test image may be in a training or validation
    split of its group, nor may D's test images be among those that K is trained on.

    Args:
        root: the data folder.
        taxonomy: parts, classes and class sets.
        class_sets: those to check.
        workers: processes; None: one a core, at most four.

    Raises:
        InputError: there is no image, or a process was killed.
    """
    root, report = Path(root), Report()
    places: dict[Path, list[Place]] = defaultdict(list)
    sizes: dict[Path, tuple[int, int]] = {}
    for split in SPLITS:
        _list_parts(root, split, taxonomy, report, places, sizes)
    for class_set in class_sets:
        _list_classes(root, class_set, taxonomy, report, places)
    if not places and not report.faults:
        raise InputError(f"{root} holds no images where they are looked for. dataset/README.md says where.")
    paths = sorted(places)
    report.files = len(paths)
    seen: dict[Path, Seen] = {}
    with Progress(total=len(paths), desc="checking images", unit="image") as bar:
        for path, found in zip(paths, in_processes(look_at, paths, workers, chunk=16), strict=True):
            seen[path] = found
            bar.update()
            _check_image(path.relative_to(root), found, sizes.get(path), places[path][0], report)
    _check_copies(root, seen, places, report)
    return report


def _list_parts(
    root: Path,
    split: str,
    taxonomy: Taxonomy,
    report: Report,
    places: dict[Path, list[Place]],
    sizes: dict[Path, tuple[int, int]],
) -> None:
    """K's images of a split, and what is wrong with their labels."""
    annotations, folder = part_files(root, split)
    here = Place(_PARTS, split)
    if not annotations.is_file() and not folder.is_dir():
        report.add(False, "no part annotations", here, annotations.name, "K is neither trained nor scored on them")
        return
    files = {p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES} if folder.is_dir() else set()
    try:
        dataset = read_part_instances(annotations, folder, taxonomy)
    except InputError as error:
        report.add(True, "labels", here, annotations.name, str(error))
        dataset = PartDataset(taxonomy, ())
    for image in dataset.images:
        sizes[image.path] = image.height, image.width
        if not image.instances:
            report.add(False, "no part on it", here, image.path.name)
    if len(dataset):
        for path in sorted(files - sizes.keys()):
            report.add(False, "not in the annotations", here, path.name)
    report.parts[split] = len(dataset), sum(len(image.instances) for image in dataset.images)
    for path in sorted(files | {image.path for image in dataset.images}):
        places[path].append(here)


def _list_classes(
    root: Path, class_set: str, taxonomy: Taxonomy, report: Report, places: dict[Path, list[Place]]
) -> None:
    """M's images of a class set, and what is wrong with their folders."""
    counts: dict[str, int] = {}
    missing: list[Finding] = []
    for split in SPLITS:
        try:
            names = list_class_images(root, class_set, split, taxonomy=taxonomy)
        except InputError as error:
            missing.append(Finding(True, "class folders", f"{class_set} {split}", root.name, str(error)))
            continue
        counts[split] = len(names)
        for name in names:
            folder = Path(name).parent
            # <root>/<class_set>/<split>/<class>: a class set has a group of its own; the others share theirs.
            group = "/".join(part for part in folder.parts[:-1] if part != split) or "M"
            here = Place(group, split, folder.name)
            if here not in places[root / name]:
                places[root / name].append(here)
    if counts:
        report.classes[class_set] = counts
        report.findings += missing
    else:
        report.add(False, "no images of the class set", class_set, root.name, missing[0].detail)


def _check_image(path: Path, seen: Seen, size: tuple[int, int] | None, where: Place, report: Report) -> None:
    if seen.error:
        report.add(True, "cannot be read", where, path, seen.error)
        return
    if size is not None and size != (seen.height, seen.width):
        detail = f"{seen.width}x{seen.height} pixels, annotated as {size[1]}x{size[0]}"
        report.add(True, "size is not the annotated one", where, path, detail)
    if min(seen.height, seen.width) < SMALLEST:
        report.add(False, f"shorter side below {SMALLEST} pixels", where, path, f"{seen.width}x{seen.height}")
    if seen.mode != "RGB":
        report.add(False, f"mode {seen.mode}, read as RGB", where, path)
    if path.suffix.lower() not in _SUFFIXES.get(seen.format, ()):
        report.add(False, f"a {seen.format} file by another suffix", where, path)


def _check_copies(root: Path, seen: dict[Path, Seen], places: dict[Path, list[Place]], report: Report) -> None:
    """Files with the same bytes: across splits, of two classes, or twice in one."""
    by_hash: dict[str, list[Path]] = defaultdict(list)
    for path, found in seen.items():
        if found.sha256:
            by_hash[found.sha256].append(path)
    for paths in by_hash.values():
        uses = [(place, path.relative_to(root)) for path in paths for place in places[path]]
        for i, (place, path) in enumerate(uses):
            for other, twin in uses[:i]:
                if what := _relation(place, other):
                    fault = what != "twice in its class"
                    report.add(fault, what, place, path, f"the same file as {twin} ({other})")


def _relation(one: Place, other: Place) -> str:
    """What is to be said of one file in two places; empty: nothing."""
    if one.group == other.group:
        if one.split != other.split:
            return "in two splits"
        return "of two classes" if one.class_name != other.class_name else "twice in its class"
    # K sees D's test images when it extracts parts; what M was trained on says nothing about K's score.
    test, train = (one, other) if other.group == _PARTS else (other, one)
    if test.split == "test" and train == Place(_PARTS, "train"):
        return "D's test image trains K"
    return ""


def summary_rows(findings: Iterable[Finding]) -> list[list[str]]:
    """[kind, what, where, how many, an example] of the findings, faults first."""
    groups: dict[tuple[bool, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.fault, finding.what, finding.where].append(finding)
    rows = []
    for (fault, what, where), found in sorted(groups.items(), key=lambda item: (not item[0][0], item[0][1:])):
        example = found[0].file + (f": {found[0].detail}" if found[0].detail else "")
        if len(example) > _WIDTH:
            example = example[: _WIDTH - 3] + "..."
        rows.append(["fault" if fault else "note", what, where, str(len(found)), example])
    return rows
