"""Builds K's part of a data folder from PASCAL-Part: split manifest, images, and COCO JSON of each split."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from unmask_tf.data.pascal_part_coco import Conversion, Entry, Summary, convert, write_coco
from unmask_tf.data.placing import check_folder, place_images
from unmask_tf.data.splits import K_FRACTIONS, K_SEED, SPLITS, make_split, released_split, shares, write_manifest
from unmask_tf.errors import InputError

K_MANIFEST = "splits/k.json"
_SHOWN = 20  # faults that an error message names


def build_parts(
    root: Path,
    annotations: Path,
    how: Conversion,
    *,
    skip: bool = False,
    released: Path | None = None,
    fractions: Mapping[str, float] = K_FRACTIONS,
    seed: int = K_SEED,
    workers: int | None = None,
) -> Summary:
    """Writes `parts_<split>.json`, `images/<split>/` and `splits/k.json`; files without parts of the 44 are left out.

    Interrupted, it goes on where it was. Nothing of an earlier build is touched before all files are converted.

    Args:
        root: the data folder.
        annotations: folder of `.mat` files.
        how: the conversion's settings.
        skip: go on without what is wrong; else it is an error.
        released: folder of the released `train.json`, `val.json`, `test.json`, whose split is then taken; images
            in none of them are left out.
        fractions, seed: of the split, otherwise.
        workers: processes; None: one a core, at most four.

    Raises:
        InputError: there are no annotations, something is wrong and `skip` is False, or the folder holds other data.
    """
    files = sorted(annotations.glob("*.mat"))
    if not files:
        raise InputError(f"{annotations} holds no .mat files. Name PASCAL-Part's folder Annotations_Part.")
    given = None if released is None else released_split(released)
    kept = root / ".pascal-part"
    entries, summary = convert(files, how, kept, workers), Summary()
    for entry in entries:
        summary.add(entry)
    if summary.faults and not skip:
        shown = "\n".join(f"  {message}" for _, _, message in summary.faults[:_SHOWN])
        more = f"\n  ... and {len(summary.faults) - _SHOWN} more" if len(summary.faults) > _SHOWN else ""
        raise InputError(
            f"{len(summary.faults)} faults in {annotations}; mend them, or leave out what they concern (--skip):\n"
            f"{shown}{more}"
        )
    found = {entry["file_name"]: entry for entry in entries if entry["parts"]}
    if not found:
        raise InputError(f"no file of {annotations} has a part of the 44 and its photograph in {how.images}.")
    summary.in_no_split = len(found) - _write(root, found, how, given, fractions, seed)
    shutil.rmtree(kept, ignore_errors=True)
    return summary


def _write(
    root: Path,
    found: Mapping[str, Entry],
    how: Conversion,
    given: Mapping[str, tuple[str, ...]] | None,
    fractions: Mapping[str, float],
    seed: int,
) -> int:
    """Writes everything; returns how many images the splits have."""
    manifest = root / K_MANIFEST
    if given is None:
        splits = make_split(found, fractions, seed)
        stored = {"seed": seed, "fractions": fractions}
    else:
        splits = {split: tuple(name for name in given[split] if name in found) for split in SPLITS}
        if not any(splits.values()):
            raise InputError("the released split names none of these images. Check both folders.")
        stored = {"seed": None, "fractions": shares(splits)}
    plan = {f"{split}/{name}": Path(how.images) / name for split, names in splits.items() for name in names}
    written = [root / f"parts_{split}.json" for split in SPLITS]
    if not manifest.is_file():
        check_folder(root / "images", plan)
        for path in written:
            if path.exists():
                raise InputError(f"{path} is from no build. Choose another data folder, or move it away.")
    for path in written:
        path.unlink(missing_ok=True)
    write_manifest(manifest, splits, **stored)
    place_images(root / "images", plan)
    kind = "RLE" if how.polygons is None else f"polygons, tolerance {how.polygons:g}"
    info = {"description": f"PASCAL-Part, 44 parts; {kind}" + (", named as released" if how.as_released else "")}
    for path, names in zip(written, splits.values(), strict=True):
        write_coco(path, (found[name] for name in names), info)
    return len(plan)
