"""Commands that build, check and describe a data folder. Nothing heavy is imported for --help."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unmask_tf.cli_options import comma_list
from unmask_tf.errors import InputError

if TYPE_CHECKING:
    from unmask_tf.data.pascal_part_coco import Summary
    from unmask_tf.taxonomy import Taxonomy

_PATH = click.Path(path_type=Path)
_DATA = click.option("--data", type=_PATH, help="Data folder; default: dataset/unmask.")
_PROFILE = click.option(
    "--profile", default="mini", show_default=True, help="Whose folder in dataset/, without --data."
)
_WORKERS = click.option("--workers", type=int, help="Processes; default: one a core, at most 4; 0: none.")
_SHOWN = 10


def _root(data: Path | None, profile_name: str = "paper") -> Path:
    from unmask_tf.config import profile
    from unmask_tf.experiment.setup import ROOT

    return data or ROOT / "dataset" / profile(profile_name).data


def _taxonomy(root: Path) -> Taxonomy:
    from unmask_tf.experiment.setup import read_taxonomy

    if not root.is_dir():
        raise InputError(
            f"the data folder {root} does not exist. Name yours (make DATA=folder, or --data folder), or build it."
        )
    return read_taxonomy(root)


def _fractions(text: str) -> dict[str, float]:
    """`80/10/10` -> shares of train, val and test."""
    from unmask_tf.data.splits import SPLITS

    try:
        shares = [float(share) / 100 for share in text.split("/")]
        return dict(zip(SPLITS, shares, strict=True))
    except ValueError as error:
        raise InputError(f"the split is '{text}'. Give the percentages of train, val and test: 80/10/10.") from error


@click.command("pascal-part")
@click.option("--voc", type=_PATH, required=True, help="Folder with Annotations_Part and JPEGImages, such as VOC2010.")
@click.option("--annotations", type=_PATH, help="Folder of the .mat files; default: Annotations_Part of --voc.")
@click.option("--images", type=_PATH, help="Folder of the photographs; default: JPEGImages of --voc.")
@_DATA
@click.option(
    "--as-released", is_flag=True, help="Name parts as the released data do: handlebar: hand, headlight: head."
)
@click.option("--polygons", type=float, metavar="TOLERANCE", help="Polygons instead of RLE; pixels, 0: exact.")
@click.option("--skip", is_flag=True, help="Leave out files and parts with faults, and say how many.")
@click.option("--split", "split", default="80/10/10", show_default=True, help="Percentages of train, val and test.")
@click.option("--seed", type=int, default=100, show_default=True, help="Of the split.")
@click.option("--released", type=_PATH, help="Folder with the released train.json, val.json, test.json: their split.")
@_WORKERS
def pascal_part(
    voc: Path,
    annotations: Path | None,
    images: Path | None,
    data: Path | None,
    as_released: bool,
    polygons: float | None,
    skip: bool,
    split: str,
    seed: int,
    released: Path | None,
    workers: int | None,
) -> None:
    """Convert PASCAL-Part to K's annotations: 44 parts as COCO JSON, with a split."""
    from unmask_tf.data.build_parts import build_parts
    from unmask_tf.data.layout import RELEASED_PARTS
    from unmask_tf.data.pascal_part_coco import Conversion

    root = _root(data)
    if polygons is not None and not 0 <= polygons <= 100:
        raise InputError(f"the polygons' tolerance is {polygons}; give pixels, from 0 (exact) to 100.")
    if released is None and all(
        (root / RELEASED_PARTS / f"{name}.json").is_file() for name in ("train", "val", "test")
    ):
        released = root / RELEASED_PARTS
    how = Conversion(images=str(images or voc / "JPEGImages"), as_released=as_released, polygons=polygons)
    summary = build_parts(
        root,
        annotations or voc / "Annotations_Part",
        how,
        skip=skip,
        released=released,
        fractions=_fractions(split),
        seed=seed,
        workers=workers,
    )
    click.echo(_summary_text(summary, root))


def _summary_text(summary: Summary, root: Path) -> str:
    from unmask_tf.data.pascal_part_names import FILES
    from unmask_tf.experiment.setup import ROOT
    from unmask_tf.files import read_json

    dropped = ", ".join(f"{count} {name}" for name, count in summary.dropped.most_common(_SHOWN)) or "none"
    lines = [
        f"[pascal-part] {root}: {summary.images} images with {summary.masks} masks of "
        f"{len(summary.by_part)} parts, from {summary.files} files",
        f"[pascal-part] by part: {', '.join(f'{name} {count}' for name, count in sorted(summary.by_part.items()))}",
        f"[pascal-part] masks of no part of the 44: {dropped}; without a pixel: {summary.empty}",
    ]
    if summary.in_no_split:
        lines.append(f"[pascal-part] {summary.in_no_split} images are in none of the released splits, and left out")
    kinds: dict[str, list[str]] = {}
    for name, kind, message in summary.faults:
        kinds.setdefault(kind, []).append(name)
        lines.append(f"[pascal-part] left out: {message}")
    for kind, names in kinds.items():
        lines.append(f"[pascal-part] {len(names)} left out for: {kind} ({', '.join(dict.fromkeys(names[:_SHOWN]))})")
    if summary.files == FILES:
        paper = read_json(ROOT / "results" / "published.json")["dataset"]
        lines.append(
            f"[pascal-part] the paper: {paper['pascal_part_images']} images with {paper['pascal_part_masks']} masks "
            f"(difference {summary.images - paper['pascal_part_images']:+d} and "
            f"{summary.masks - paper['pascal_part_masks']:+d})"
        )
    return "\n".join(lines)


@click.command("class-images")
@_DATA
@click.option("--voc", type=_PATH, help="VOC's folder, with ImageSets/Main, JPEGImages and Annotations.")
@click.option("--imagenet", type=_PATH, help="Folder of ImageNet's synset folders (n02958343/*.JPEG).")
@click.option("--synsets", default="", help="More synsets, such as car=n02958343+n04285008,cat=n02121620.")
@click.option("--folder", type=_PATH, help="Any folder with one folder of images per class.")
@click.option("--flickr", type=_PATH, help="A folder with one folder per class, all of which becomes the test split.")
@click.option("--class-sets", default="", help="Such as cs3a,cs5a; default: all of the taxonomy's.")
@click.option("--split", "split", default="50/10/40", show_default=True, help="Percentages of train, val and test.")
@click.option("--seed", type=int, default=4, show_default=True, help="Of the split.")
def class_images(
    data: Path | None,
    voc: Path | None,
    imagenet: Path | None,
    synsets: str,
    folder: Path | None,
    flickr: Path | None,
    class_sets: str,
    split: str,
    seed: int,
) -> None:
    """Gather the class sets' images for M and D, from VOC, ImageNet, Flickr and your own folders, with a split."""
    from unmask_tf.data.build_classes import build_classes
    from unmask_tf.data.class_sources import SYNSETS, Images, folder_images, imagenet_images, voc_images
    from unmask_tf.taxonomy import UNMASK

    root = _root(data)
    taxonomy = _taxonomy(root) if root.is_dir() else UNMASK
    names = comma_list(class_sets) or list(taxonomy.class_sets)
    classes = sorted({member for name in names for member in taxonomy.members(name)})
    if not (voc or imagenet or folder):
        raise InputError("there is no source of images. Name one or more: --voc, --imagenet, --folder.")
    sources: dict[str, Images] = {}
    if voc:
        found = voc_images(voc, classes)
        sources["voc"] = found.images
        click.echo(f"[class-images] VOC: {found.several} images show several classes, and are left out")
        if found.conflicts:
            some = ", ".join(found.conflicts[:_SHOWN])
            click.echo(f"[class-images] VOC: in {len(found.conflicts)} images XML and lists disagree: {some}")
    if imagenet:
        sources["imagenet"], missing = imagenet_images(imagenet, classes, _synsets(synsets, SYNSETS))
        if missing:
            click.echo(f"[class-images] ImageNet: {imagenet} has no folder {', '.join(missing)}")
    if folder:
        sources["folder"] = folder_images(folder, classes)
    tests = {"flickr": folder_images(flickr, classes)} if flickr else {}
    built = build_classes(root, sources, tests, classes, fractions=_fractions(split), seed=seed)
    for part, counts in built.counts.items():
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        click.echo(f"[class-images] {part}: {sum(counts.values())} images ({each})")
    if built.left_out:
        click.echo(f"[class-images] {built.left_out} of the test share are left out: the test images are Flickr's")
    if built.seen_by_k:
        click.echo(
            f"[class-images] {built.seen_by_k} are left out: either K or M would see in training what tests the other"
        )


def _synsets(text: str, known: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The known synsets with those of `class=id+id,class=id`."""
    result = dict(known)
    for entry in comma_list(text):
        name, equals, ids = entry.partition("=")
        if not equals or not ids:
            raise InputError(f"the synset '{entry}' is not of the form class=n01234567+n01234568.")
        result[name] = tuple(ids.split("+"))
    return result


@click.command("check-data")
@_PROFILE
@click.option("--data", type=_PATH, help="Data folder; default: the profile's in dataset/.")
@click.option("--class-sets", default="", help="Such as cs3a,cs5a; default: all of the taxonomy's.")
@click.option("--csv", "csv_path", type=_PATH, help="Also write every finding, one a line, to this file.")
@_WORKERS
def check_data(profile: str, data: Path | None, class_sets: str, csv_path: Path | None, workers: int | None) -> int:
    """Check every image and label, look for copies across splits, and count the images (Table II).

    The exit status is 1 if there is a fault.
    """
    from unmask_tf.data.check import check_data as check
    from unmask_tf.data.check import summary_rows
    from unmask_tf.report.dataset_table import table2_on_disk
    from unmask_tf.report.table import Table, plain

    root = _root(data, profile)
    taxonomy = _taxonomy(root)
    names = comma_list(class_sets) or list(taxonomy.class_sets)
    report = check(root, taxonomy, names, workers)
    if report.findings:
        head = ["", "What", "Where", "Files", "For example"]
        click.echo(plain(Table("findings", "What is wrong", head, list(summary_rows(report.findings)))))
    table = table2_on_disk(report.parts, report.classes, taxonomy)
    click.echo(plain(table) + "".join(f"- {note}\n" for note in table.notes))
    if csv_path is not None:
        _write_findings(csv_path, report.findings)
    click.echo(f"[check-data] {root}: {report.files} images, {len(report.faults)} faults")
    return 1 if report.faults else 0


def _write_findings(path: Path, findings: list) -> None:
    import csv
    import io

    from unmask_tf.files import write_text

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "what", "where", "file", "detail"])
    writer.writerows(["fault" if f.fault else "note", f.what, f.where, f.file, f.detail] for f in findings)
    write_text(path, text.getvalue())


@click.command("croissant")
@_PROFILE
@click.option("--data", type=_PATH, help="Data folder; default: the profile's in dataset/.")
@click.option("--out", type=_PATH, help="The file; default: croissant.json in the data folder.")
def croissant(profile: str, data: Path | None, out: Path | None) -> None:
    """Describe a data folder in the Croissant format, and validate the description with mlcroissant."""
    from unmask_tf.data.croissant import write_croissant

    root = _root(data, profile)
    for warning in write_croissant(root, _taxonomy(root), out):
        click.echo(f"[croissant] {warning}")
    click.echo(f"[croissant] {out or root / 'croissant.json'}")


COMMANDS = (pascal_part, class_images, check_data, croissant)
