"""Where a data folder keeps what: our own layout, and that of the released UnMaskDataset."""

from __future__ import annotations

from pathlib import Path

RELEASED_PARTS = "VOC2010"


def part_files(root: str | Path, split: str) -> tuple[Path, Path]:
    """K's annotations and image folder of a split; they need not exist.

    `parts_<split>.json` and `images/<split>/`, unless only the released `VOC2010/<split>.json` and
    `VOC2010/Images/<split>/` are there.
    """
    root = Path(root)
    own = root / f"parts_{split}.json", root / "images" / split
    released = root / RELEASED_PARTS / f"{split}.json", root / RELEASED_PARTS / "Images" / split
    return released if released[0].is_file() and not own[0].is_file() else own
