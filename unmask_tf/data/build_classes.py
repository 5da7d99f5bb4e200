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
        left_out: images of the test share, if there are test sources.
        seen_by_k: images left out because K has them on the other side: in training or validation what M would be
            tested on, or in testing what M would be trained on.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: int = 0
    seen_by_k: int = 0


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

    Every class of every source is split by itself, by sorted names and seed. VOC's images that would be for testing in
    K's split (`splits/k.json`) or in M's, but not in both, are left out: neither K nor M has then seen a test image.

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
    of_k = read_manifest(k_manifest).splits if k_manifest.is_file() else {}
    tested = {name: split == "test" for split, names in of_k.items() for name in names}
    plan: dict[str, Path] = {}
    built = Built()
    for source, images in sources.items():
        for class_name, files in images.items():
            names = {path.name: path for path in files}
            if len(names) < len(files):
                raise InputError(f"two images of '{class_name}' in {source} have the same name. Rename one.")
            for split, chosen in (make_split(names, fractions, seed) if names else {}).items():
                for name in chosen:
                    if split == "test" and test_sources:
                        built.left_out += 1
                    elif source == "voc" and tested.get(name, split == "test") != (split == "test"):
                        built.seen_by_k += 1
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
