"""Where a run keeps its artefacts, and when one is still good: each carries a digest of all it depends on.

Below results/<profile>/:

    models/<class_set>/<architecture>_<none|at>.weights.h5 and .json
    attacked/<class_set>/<architecture>_<none|at>/<attack>_<epsilon>.npz
    parts/<class_set>/benign.json, parts/<class_set>/<architecture>/<attack>_<epsilon>.json
    records/*.json, model_k.json, tables and figures
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unmask_tf.attacks.checks import CHECKS
from unmask_tf.config import Profile, profile
from unmask_tf.errors import InputError
from unmask_tf.files import atomic_path, read_json, sha256, write_json
from unmask_tf.mrcnn.part_names import part_names
from unmask_tf.reproduce.records import CellKey
from unmask_tf.taxonomy import UNMASK, Taxonomy

ROOT = Path(__file__).parents[2]
WEIGHTS_FOLDER = ROOT / "mask_rcnn_weights"
BENIGN = ("none", 0)


def digest(*values: Any) -> str:
    """Twelve hex digits over JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class DataFolder:
    """A data folder and what is in it.

    Attributes:
        root: the folder.
        identity: digest of its content: of the drawing for the embedded dataset, else of file names and sizes.
        counts: (split, class) -> number of class images.
        part_images: split -> number of images with part annotations.
    """

    root: Path
    identity: str
    counts: Counter[tuple[str, str]] = field(repr=False)
    part_images: Counter[str] = field(repr=False)


def scan(root: Path, identity: str | None = None) -> DataFolder:
    """Lists a data folder; `identity` replaces the digest of names and sizes where the content is known better."""
    listing, counts, part_images = hashlib.sha256(), Counter(), Counter()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        for name in sorted(files):
            if name.startswith("."):
                continue
            listing.update(f"{(relative / name).as_posix()} {os.path.getsize(Path(folder) / name)}\n".encode())
            if len(relative.parts) >= 2 and relative.parts[-2] == "images":
                part_images[relative.parts[-1]] += 1
            elif len(relative.parts) >= 2:
                counts[relative.parts[-2], relative.parts[-1]] += 1
    return DataFolder(root, identity or listing.hexdigest()[:12], counts, part_images)


@dataclass(frozen=True)
class Run:
    """One run of a profile: its settings, its data and its folder.

    Attributes:
        profile: with the user's limit in it.
        data: the data folder.
        taxonomy: parts, classes and class sets.
        folder: results/<profile>.
        k_weights: K's weights file; it may not exist yet.
    """

    profile: Profile
    data: DataFolder
    taxonomy: Taxonomy
    folder: Path
    k_weights: Path

    @property
    def models(self) -> list[tuple[str, str]]:
        """(class set, architecture) pairs in table order."""
        return [(c, a) for c in self.profile.class_sets for a in self.profile.architectures]

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.folder / "records"

    def cell(self, class_set: str, architecture: str, defence: str, attack: str, epsilon: float) -> CellKey:
        """The key of one cell's record."""
        return CellKey(self.profile.name, class_set, architecture, defence, attack, epsilon)

    def test_images(self, class_set: str) -> int:
        """Test images of a class set under the limit, as far as the folder's listing tells."""
        return self.count("test", class_set, self.profile.limit)

    def count(self, split: str, class_set: str, limit: int | None = None) -> int:
        """Images of a class set's split; at most limit // classes of each class."""
        labels = self.taxonomy.labels(class_set)
        each = [self.data.counts[split, name] for name in labels]
        return sum(each if limit is None else (min(n, limit // len(labels)) for n in each))

    def model_path(self, class_set: str, architecture: str, defence: str) -> Path:
        """Weights of M (`none`) or of the adversarially trained M (`at`); its history lies beside it."""
        return self.folder / "models" / class_set / f"{architecture}_{defence}.weights.h5"

    def history_path(self, class_set: str, architecture: str, defence: str) -> Path:
        """Training history of M, with its key; written after the weights."""
        return self.folder / "models" / class_set / f"{architecture}_{defence}.json"

    def attacked_path(self, class_set: str, architecture: str, target: str, attack: str, epsilon: float) -> Path:
        """Attacked images and M's verdicts; attack `none` holds the benign verdicts."""
        return self.folder / "attacked" / class_set / f"{architecture}_{target}" / f"{attack}_{epsilon:g}.npz"

    def parts_path(self, class_set: str, architecture: str | None, attack: str, epsilon: float) -> Path:
        """K's part sets of attacked images, or of the benign ones (which no M has touched)."""
        folder = self.folder / "parts" / class_set
        return folder / "benign.json" if attack == "none" else folder / str(architecture) / f"{attack}_{epsilon:g}.json"

    def initial_weights(self, architecture: str) -> str:
        """M's initial weights: the data folder's own ImageNet file if it brings one, else the profile's."""
        own = self.data.root / "weights" / f"{architecture}_imagenet.weights.h5"
        return str(own) if own.is_file() else self.profile.classifier.weights

    def model_key(self, class_set: str, architecture: str, defence: str) -> str:
        """Digest of all that M's weights depend on."""
        settings = [
            self.data.identity,
            class_set,
            self.taxonomy.labels(class_set),
            architecture,
            asdict(self.profile.classifier),
        ]
        return digest("m", *settings, asdict(self.profile.adversarial_training) if defence == "at" else None)

    def attacked_key(self, class_set: str, architecture: str, target: str, attack: str, epsilon: float) -> str:
        """Digest of all that attacked images depend on."""
        settings = asdict(self.profile.attack)
        for grid in ("attacks", "epsilons_linf_255", "epsilons_l2_255"):
            del settings[grid]  # a cell does not depend on what else is in the grid
        model = self.model_key(class_set, architecture, target)
        # With other checks the old verdicts on an attack are no longer whole.
        checks = [] if attack == "none" else list(CHECKS)
        return digest("attacked", model, settings, attack, epsilon, self.profile.limit, checks)

    def parts_key(self, class_set: str, architecture: str | None, attack: str, epsilon: float) -> str:
        """Digest of all that K's part sets depend on."""
        if attack == "none":
            labels, size = self.taxonomy.labels(class_set), self.profile.classifier.input_size
            images = digest(self.data.identity, labels, size, self.profile.limit)
        else:
            images = self.attacked_key(class_set, str(architecture), "none", attack, epsilon)
        return digest("parts", images, self.k_hash, self.profile.part_detector.preset, self.taxonomy.parts)

    @property
    def train_k_key(self) -> str:
        """Digest of all that K's training depends on."""
        return digest("train-k", self.data.identity, asdict(self.profile.part_detector), self.taxonomy.parts)

    @property
    def model_k_key(self) -> str:
        """Digest of all that model_k.json depends on."""
        preset = self.profile.part_detector.preset
        return digest("k", self.k_hash, self.data.identity, preset, self.profile.limit, self.taxonomy.parts)

    @property
    def config_hash(self) -> str:
        """Stands in each record: digest of the profile, the limit, the data, the taxonomy and K's weights."""
        classes = {name: sorted(parts) for name, parts in self.taxonomy.classes.items()}
        sets = {name: self.taxonomy.members(name) for name in self.profile.class_sets}
        return digest(self.profile.hash(), self.data.identity, self.k_hash, self.taxonomy.parts, classes, sets)

    @cached_property
    def k_hash(self) -> str:
        """SHA-256 of K's weights.

        Raises:
            InputError: the file is missing, or not the one that SHA256SUMS beside it lists.
        """
        return verified_sha256(self.k_weights)


def prepare(
    profile_name: str,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    k_weights: str | Path | None = None,
    results: str | Path | None = None,
    need_k_weights: bool = True,
) -> Run:
    """Checks a run's input and makes the embedded dataset where the profile uses it.

    Args:
        profile_name: a name in `config.PROFILES`.
        data: the user's data folder; None: dataset/<profile.data>.
        limit: most test images of a class set.
        k_weights: K's weights; None: the profile's, in mask_rcnn_weights/, or where those are shipped and of other
            parts than the data's, what `train-k` makes of the data in the run's folder.
        results: root of results; None: results/ of the checkout.
        need_k_weights: refuse a `k_weights` that does not exist.

    Raises:
        InputError: unknown profile or class set, missing folder or file, or a limit below 1.
    """
    settings = profile(profile_name)
    if limit is not None:
        if limit < 1:
            raise InputError(f"limit is {limit}. Give the most test images of a class set, 1 or more.")
        settings = replace(settings, limit=limit)
    folder = Path(results) if results is not None else ROOT / "results"
    weights = Path(k_weights) if k_weights is not None else WEIGHTS_FOLDER / settings.part_detector.weights
    if k_weights is not None and need_k_weights and not weights.is_file():
        raise InputError(f"K's weights {weights} do not exist. Check the path, or leave the option out.")
    root = Path(data) if data is not None else ROOT / "dataset" / settings.data
    identity = None
    if data is None and settings.synthetic is not None:
        from unmask_tf.data.synthetic import build_dataset

        build_dataset(root, settings.synthetic)
        identity = read_json(root / "manifest.json")["hash"][:12]
    elif not root.is_dir():
        raise InputError(
            f"the data folder {root} does not exist. Name yours (make DATA=folder, or --data folder); "
            "dataset/README.md says what belongs in it."
        )
    taxonomy = read_taxonomy(root)
    for class_set in settings.class_sets:
        if limit is not None and limit < len(taxonomy.members(class_set)):
            raise InputError(
                f"limit is {limit}, but class set '{class_set}' has {len(taxonomy.members(class_set))} classes. "
                "Give at least one image a class."
            )
    if k_weights is None and _of_other_parts(weights, taxonomy):
        weights = folder / settings.name / "models" / weights.name
    return Run(settings, scan(root, identity), taxonomy, folder / settings.name, weights)


def _of_other_parts(weights: Path, taxonomy: Taxonomy) -> bool:
    """Whether these are shipped weights of a K that knows other parts than the data has."""
    if listed_sha256(weights) is None:
        return False
    try:
        held = part_names(weights)
    except OSError:  # missing or damaged: said where the file is used
        return False
    return bool(held) and held != taxonomy.parts


def read_taxonomy(folder: Path) -> Taxonomy:
    """The taxonomy.json of a data or results folder; the paper's taxonomy where there is none."""
    path = folder / "taxonomy.json"
    return Taxonomy.from_json(path) if path.is_file() else UNMASK


def verified_sha256(weights: Path) -> str:
    """SHA-256 of a weights file, compared with the SHA256SUMS beside it where that lists it.

    Raises:
        InputError: the file is missing or differs.
    """
    if not weights.is_file():
        raise InputError(f"K's weights {weights} do not exist. Run `make train-k`, or name yours (K_WEIGHTS=file).")
    actual, expected = sha256(weights), listed_sha256(weights)
    if expected not in (None, actual):
        raise InputError(
            f"{weights} is not the file that SHA256SUMS beside it lists (SHA-256 {actual}, expected {expected}). "
            "Restore it, or give your own weights another place (K_WEIGHTS=file)."
        )
    return actual


def listed_sha256(weights: Path) -> str | None:
    """What the SHA256SUMS beside a weights file says of it. A listed file is shipped: no training may replace it."""
    sums = weights.parent / "SHA256SUMS"
    for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else ():
        expected, _, name = line.partition(" ")
        if name.strip().lstrip("*") == weights.name:
            return expected
    return None


@dataclass(frozen=True, eq=False)
class Attacked:
    """Attacked images of one cell and what M says of them.

    Attributes:
        images_8bit: uint8 (N, S, S, 3), floor(255 * x).
        labels, prediction_float, prediction_8bit: int64 (N,), true label and M's label of the float and 8-bit forms.
        checks: attack check -> passed; empty for benign images.
        nan_images: images the attack had to repair.
        wall_s: seconds it took.
        iterations: gradient steps of one run of the attack; 0: benign images, or not recorded.
    """

    images_8bit: np.ndarray
    labels: np.ndarray
    prediction_float: np.ndarray
    prediction_8bit: np.ndarray
    checks: dict[str, bool]
    nan_images: int
    wall_s: float
    iterations: int = 0

    def write(self, path: Path, key: str) -> None:
        """Writes one .npz, atomically."""
        content = {**vars(self), "checks": json.dumps(self.checks, sort_keys=True), "key": key}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **content)

    @classmethod
    def read(cls, path: Path) -> Attacked:
        """Reads what `write` wrote.

        Raises:
            InputError: the file is missing or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                content = {name: file[name] for name in file.files if name != "key"}
            content["checks"] = json.loads(str(content["checks"]))
            return cls(**{n: v.item() if getattr(v, "shape", None) == () else v for n, v in content.items()})
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read {path}: {error}. Delete it, then run again.") from error


def write_parts(path: Path, key: str, files: list[str], parts: list[frozenset[str]], wall_s: float) -> None:
    """Writes K's part sets of some images, atomically."""
    write_json(path, {"key": key, "files": files, "parts": [sorted(p) for p in parts], "wall_s": wall_s})


def read_parts(path: Path) -> tuple[list[frozenset[str]], float]:
    """K's part sets, and the seconds they took."""
    content = read_json(path)
    return [frozenset(parts) for parts in content["parts"]], content["wall_s"]


def key_of(path: Path) -> str | None:
    """The key an artefact (.npz or .json) was written under; None where it is missing or unreadable."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return str(file["key"])
        return read_json(path).get("key")
    except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile, InputError):
        return None
