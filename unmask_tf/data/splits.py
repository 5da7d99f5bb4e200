"""Seeded splits, fixed once on disk as a manifest.

The released code shuffled an unsorted directory listing, so its seed did not fix its split; here the names are sorted
first, and the result is stored.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_json

SPLITS = ("train", "val", "test")
K_FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
M_FRACTIONS = {"train": 0.5, "val": 0.1, "test": 0.4}
"""Shares and seeds of the released code, for PASCAL-Part's images (K) and VOC's (M)."""
K_SEED, M_SEED = 100, 4


@dataclass(frozen=True)
class SplitManifest:
    """A split as stored: split name -> file names, and the seed and fractions that made it (seed None: a given split,
    such as the released one, whose fractions are then what they came to)."""

    splits: Mapping[str, tuple[str, ...]]
    seed: int | None
    fractions: Mapping[str, float]


def make_split(names: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, tuple[str, ...]]:
    """Splits names at random; every name is in exactly one split.

    The names are sorted, then shuffled by `random.Random(seed)`, so that their given order does not matter. Split k
    ends at round(n * (sum of the first k fractions)), halves rounded up.

    Args:
        names: distinct names, in any order.
        fractions: split name -> share, in the order in which they are cut off; they sum to 1.
        seed: seed of the shuffle.

    Returns:
        split name -> its names, sorted.

    Raises:
        InputError: there are no names, a name occurs twice, or the fractions are not shares.
    """
    ordered = sorted(names)
    for first, second in itertools.pairwise(ordered):
        if first == second:
            raise InputError(f"the name '{first}' occurs twice among those to split. List every file once.")
    if not ordered:
        raise InputError("there are no names to split. Check the folder or list they come from.")
    _check_fractions(fractions)
    random.Random(seed).shuffle(ordered)
    splits: dict[str, tuple[str, ...]] = {}
    start, share = 0, 0.0
    for split, fraction in fractions.items():
        share += fraction
        # 0.3 + 0.6 is a little less than 0.9: without this rounding, such errors decide how an exact half is rounded.
        stop = math.floor(round(share * len(ordered), 6) + 0.5)
        splits[split] = tuple(sorted(ordered[start:stop]))
        start = stop
    return splits


def write_manifest(
    path: str | Path, splits: Mapping[str, Iterable[str]], *, seed: int | None, fractions: Mapping[str, float]
) -> None:
    """Writes {"names": {split: [names]}, "seed": int or null, "fractions": [[split, share], ...]} atomically.

    The fractions are a list because their order decides the split.

    Raises:
        InputError: two splits share a name, or the fractions do not belong to the splits.
    """
    content = {
        "names": {split: sorted(names) for split, names in splits.items()},
        "seed": seed,
        "fractions": [[split, fraction] for split, fraction in fractions.items()],
    }
    _parse(content, Path(path))
    write_json(path, content)


def read_manifest(path: str | Path, root: str | Path | None = None) -> SplitManifest:
    """Reads a manifest and checks that its splits are disjoint.

    Args:
        path: the manifest.
        root: if given, every name must be a file or folder in it.

    Raises:
        InputError: the file is missing or damaged, a name is in two splits, or a name is missing from `root`.
    """
    path = Path(path)
    manifest = _parse(read_json(path), path)
    if root is not None:
        for split, names in manifest.splits.items():
            for name in names:
                if not (Path(root) / name).exists():
                    raise InputError(
                        f"{path} puts '{name}' into '{split}', but {Path(root) / name} does not exist. "
                        "Restore it, or make the split again."
                    )
    return manifest


def released_split(folder: str | Path) -> dict[str, tuple[str, ...]]:
    """The split of released part annotations: the image files that `train.json`, `val.json` and `test.json` name.

    Raises:
        InputError: a file is missing or no COCO JSON, or an image is in two splits.
    """
    splits: dict[str, tuple[str, ...]] = {}
    home: dict[str, str] = {}
    for split in SPLITS:
        path = Path(folder) / f"{split}.json"
        content = read_json(path)
        try:
            names = sorted(Path(entry["file_name"]).name for entry in content["images"])
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} is no COCO JSON: its 'images' lack a file_name ({error!r}).") from error
        for name in names:
            if home.setdefault(name, split) != split:
                raise InputError(f"{path} names '{name}', which {home[name]}.json names as well. Restore the files.")
        splits[split] = tuple(names)
    return splits


def shares(splits: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """Split -> its share of all names, for the manifest of a given split."""
    counts = {split: len(tuple(names)) for split, names in splits.items()}
    total = sum(counts.values())
    return {split: count / total for split, count in counts.items()} if total else {}


def _parse(content: Any, path: Path) -> SplitManifest:
    if not isinstance(content, dict) or not {"names", "seed", "fractions"} <= content.keys():
        raise InputError(f"{path} lacks 'names', 'seed' or 'fractions'. Make the split again.")
    names, seed, fractions = content["names"], content["seed"], content["fractions"]
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise InputError(f"{path} has the seed {seed!r}; give a whole number, or null for a given split.")
    try:
        fractions = dict(fractions)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} has the fractions {fractions!r}; give a list of [split, share].") from error
    if not isinstance(names, dict) or names.keys() != fractions.keys():
        raise InputError(f"{path}: 'names' and 'fractions' must list the same splits. Make the split again.")
    _check_fractions(fractions)
    home: dict[str, str] = {}
    for split, members in names.items():
        if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
            raise InputError(f"{path}: the split '{split}' is not a list of names. Make the split again.")
        for name in members:
            if name in home:
                raise InputError(f"{path} has '{name}' in '{home[name]}' and in '{split}'. Keep it in one of them.")
            home[name] = split
    return SplitManifest({split: tuple(names[split]) for split in fractions}, seed, fractions)


def _check_fractions(fractions: Mapping[str, float]) -> None:
    for split, fraction in fractions.items():
        if not isinstance(fraction, (int, float)) or isinstance(fraction, bool) or not 0 <= fraction <= 1:
            raise InputError(f"the split '{split}' has the fraction {fraction!r}; give a share between 0 and 1.")
    if not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-9):
        raise InputError(f"the fractions {dict(fractions)} sum to {sum(fractions.values())}, not to 1. Correct them.")
