"""Builds M's and D's part of a data folder: `classes/<split>/<class>/` from several sources, and their split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from unmask_tf.data.build_parts import K_MANIFEST
from unmask_tf.data.class_sources import Images
from unmask_tf.data.placing import check_folder, place_images
from unmask_tf.data.splits import M_FRACTIONS, M_SEED, SPLITS, make_split, read_manifest, write_manifest
from unmask_tf.errors import InputError

M_MANIFEST = "splits/m.json"


@dataclass
class Built:
    """What was built.

    Attributes:
        counts: split -> class -> images.
        left_out: images of the test share that were left out: K was trained on them, or there is a test source.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: int = 0


def build_classes(
    root: Path,
    sources: Mapping[str, Images],
    test_sources: Mapping[str, Images],
    classes: Iterable[str],
    *,
    fractions: Mapping[str, float] = M_FRACTIONS,
    seed: int = M_SEED,
) -> Built:
    """Writes `classes/<split>/<class>/<source>_<file>` and `splits/m.json`.

    Every class of every source is split by itself, by sorted names and seed. Test images that K is trained on (as
    `splits/k.json` says) are left out, so that neither K nor M has seen a test image.

    Args:
        root: the data folder.
        sources: source's name -> its images, which are split.
        test_sources: the same, for images that are all for the test split; the other sources' test share is then left
            out, as in the paper, which tests on Flickr alone.
        classes: those that must have images in each split.
        fractions, seed: of the split.

    Raises:
        InputError: a split has no image of a class, or the folder holds other images.
    """
    manifest, k_manifest = root / M_MANIFEST, root / K_MANIFEST
    trained = set(read_manifest(k_manifest).splits["train"]) if k_manifest.is_file() else set()
    plan: dict[str, Path] = {}
    built = Built()
    for source, images in sources.items():
        for class_name, files in images.items():
            names = {path.name: path for path in files}
            if len(names) < len(files):
                raise InputError(f"two images of '{class_name}' in {source} have the same name. Rename one.")
            for split, chosen in (make_split(names, fractions, seed) if names else {}).items():
                for name in chosen:
                    if split == "test" and (test_sources or (source == "voc" and name in trained)):
                        built.left_out += 1
                    else:
                        plan[f"{split}/{class_name}/{source}_{name}"] = names[name]
    for source, images in test_sources.items():
        for class_name, files in images.items():
            plan |= {f"test/{class_name}/{source}_{path.name}": path for path in files}
    classes = sorted(set(classes))
    for split in SPLITS:
        built.counts[split] = {name: sum(target.startswith(f"{split}/{name}/") for target in plan) for name in classes}
        for name, count in built.counts[split].items():
            if not count:
                raise InputError(f"there is no {split} image of '{name}'. Add a source, or choose other fractions.")
    if not manifest.is_file():
        check_folder(root / "classes", plan)
    splits = {split: [name for name in plan if name.startswith(f"{split}/")] for split in SPLITS}
    write_manifest(manifest, splits, seed=seed, fractions=fractions)
    place_images(root / "classes", plan)
    return built
