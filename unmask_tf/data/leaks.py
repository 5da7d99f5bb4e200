"""Leaks between splits: images of a test split that are near an image that something was trained or chosen on.

UnMask is K and M together, so a number on test images is spoilt if either has seen them:

- **M's test image near a training or validation image of that M, or of K.** Tables III and IV are measured on it: M
  classifies it, K extracts its parts, and thresholds are chosen on validation images.
- **K's test image near a training or validation image of K.** K's average precision is measured on it.
- **K's test image near a training or validation image of M.** M's test squares are cut from K's test photographs, so M
  has probably seen the photograph of a test square. Only the photograph's whole can show it.

K's test images near M's test images are no leak: that M's squares come from them is the design. Neither are two class
sets of the released layout, `cs3-1` and `cs5-1`, with each other: their M's are different models. Training images near
validation images are reported, but are no leak of a test split; they make the thresholds chosen there too hopeful.

Perceptual hashes compare whole pictures: two squares cut from different places of one photograph are not found, nor are
mirrored copies.

The released data drew K's split and M's split of the same photographs independently, so there M's test images are K's
training images; a run on it reports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmask_tf.data.images import IMAGE_SUFFIXES
from unmask_tf.data.near_duplicates import THRESHOLD, near_pairs, perceptual_hashes
from unmask_tf.errors import InputError

SPLITS = ("train", "val", "test")
K_FOLDERS = ("images", "VOC2010/Images")
"""Where a data folder keeps K's images, by split: ours, and the released layout."""


@dataclass(frozen=True)
class SplitImage:
    """An image of a split; `owner` is K, or the folder of M's images: `classes`, or a class set of the release."""

    path: Path
    split: str
    owner: str


@dataclass(frozen=True)
class Leaks:
    """What was found.

    Attributes:
        images: all that were compared.
        leaks: test image, image of another split, bits that differ; nearest first.
        remarks: training and validation images that are near each other, likewise.
        damaged: files that cannot be read, and why.
    """

    images: Sequence[SplitImage]
    leaks: list[tuple[SplitImage, SplitImage, int]]
    remarks: list[tuple[SplitImage, SplitImage, int]]
    damaged: dict[Path, str]


def split_images(root: str | Path) -> list[SplitImage]:
    """The images of K and M in a data folder, in any of the layouts that dataset/README.md names.

    Raises:
        InputError: there are none.
    """
    root = Path(root)
    owners = {root / folder: "K" for folder in K_FOLDERS}
    others = (folder for folder in [root, *sorted(root.iterdir())] if folder.is_dir() and folder not in owners)
    owners |= {folder: folder.name for folder in others}
    found = [
        SplitImage(path, split, owner)
        for folder, owner in owners.items()
        for split in SPLITS
        for path in sorted((folder / split).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise InputError(
            f"{root} holds no images in folders train, val and test (images/train, classes/test/car and so on). "
            "dataset/README.md says what belongs in it."
        )
    return found


def find_leaks(root: str | Path, threshold: int = THRESHOLD) -> Leaks:
    """Compares the splits of a data folder by perceptual hash; the module's docstring says what is a leak.

    Args:
        root: the data folder.
        threshold: two images are near if at most so many of their hashes' 256 bits differ.

    Raises:
        InputError: there are no images.
    """
    everything = split_images(root)
    hashes, damaged = perceptual_hashes([image.path for image in everything])
    kept = [i for i, image in enumerate(everything) if image.path not in damaged]
    images, hashes = [everything[i] for i in kept], hashes[kept]
    of = {split: np.flatnonzero([image.split == split for image in images]) for split in SPLITS}

    def near(split: str, others: Sequence[str]) -> list[tuple[SplitImage, SplitImage, int]]:
        there = np.concatenate([of[other] for other in others])
        pairs = near_pairs(hashes[of[split]], hashes[there], threshold)
        found = [(images[of[split][i]], images[there[j]], int(bits)) for i, j, bits in pairs]
        together = [pair for pair in found if pair[0].owner == pair[1].owner or "K" in (pair[0].owner, pair[1].owner)]
        return sorted(together, key=lambda pair: pair[2])

    return Leaks(images, near("test", ("train", "val")), near("val", ("train",)), damaged)
