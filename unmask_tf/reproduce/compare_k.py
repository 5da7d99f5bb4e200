"""Two K's on the same test images, such as the released one and ours: mAP, part sets, UnMask's accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unmask_tf.data.class_images import load_class_images
from unmask_tf.defense.alignment import defend, jaccard
from unmask_tf.errors import InputError
from unmask_tf.files import sha256, write_text
from unmask_tf.reproduce.artefacts import (
    BENIGN,
    WEIGHTS_FOLDER,
    Attacked,
    Run,
    digest,
    key_of,
    read_parts,
    write_parts,
)
from unmask_tf.reproduce.cells import attack_label, class_set_label, model_label
from unmask_tf.reproduce.tables import MISSING, aligned, markdown, number


@dataclass(frozen=True, kw_only=True)
class Row:
    """Both K's on the images of one cell.

    Attributes:
        class_set, model, attack, epsilon_255: the cell; benign images have attack `none`, no model and epsilon 0.
        n: images.
        same: images in which both saw the same set of parts.
        overlap: mean Jaccard similarity of the two sets.
        given, ours: images that UnMask classified rightly by each K (Table IV's column UM).
    """

    class_set: str
    model: str
    attack: str
    epsilon_255: float
    n: int
    same: int
    overlap: float
    given: int
    ours: int


@dataclass(frozen=True, kw_only=True)
class KComparison:
    """What `compare_k` found.

    Attributes:
        given, ours: the weights' file names, with the architecture.
        map_given, map_ours: K's evaluation on the test split; None where the data has no part annotations.
        rows: one per cell.
    """

    given: str
    ours: str
    map_given: Mapping[str, Any] | None
    map_ours: Mapping[str, Any] | None
    rows: tuple[Row, ...]


class _Detector:
    """A K of one weights file; it is built when it is first needed."""

    def __init__(self, run: Run, weights: Path, canvas: int | None, profile_preset: bool) -> None:
        from unmask_tf.mrcnn.architecture import config_of_weights
        from unmask_tf.mrcnn.config import preset

        self.weights, self.taxonomy, self.run = weights, run.taxonomy, replace(run, k_weights=weights)
        self.config = config_of_weights(weights, run.taxonomy, canvas)
        if profile_preset:
            own = preset(run.profile.part_detector.preset, NUM_CLASSES=len(run.taxonomy.parts) + 1)
            if own.BACKBONE == self.config.BACKBONE:
                self.config = own  # the canvas and threshold that the profile's own results were made with
        self.hash = sha256(weights)
        self.batch_size = 8 if self.config.IMAGE_MAX_DIM <= 256 else 2
        self._extractor: Any = None

    @property
    def title(self) -> str:
        return (
            f"{self.weights.name} ({self.config.BACKBONE}, canvas {self.config.IMAGE_MAX_DIM}, scores from "
            f"{self.config.DETECTION_MIN_CONFIDENCE:g})"
        )

    def parts(self, images: np.ndarray, where: tuple, files: list[str]) -> list[frozenset[str]]:
        """Part sets of a cell's images, remembered below results/<profile>/compare_k."""
        names = ("BACKBONE", "IMAGE_MIN_DIM", "IMAGE_MAX_DIM", "RPN_ANCHOR_SCALES", "DETECTION_MIN_CONFIDENCE")
        key = digest(self.run.parts_key(*where), {name: getattr(self.config, name) for name in names})
        inside = self.run.parts_path(*where).relative_to(self.run.folder / "parts")
        path = self.run.folder / "compare_k" / self.hash[:12] / inside
        if key_of(path) == key:
            return read_parts(path)[0]
        if self._extractor is None:
            from unmask_tf.defense.extract import PartExtractor

            self._extractor = PartExtractor(self.config, self.weights, self.taxonomy, self.batch_size)
        parts = self._extractor.extract(images, progress=True)
        write_parts(path, key, files, parts, 0.0)
        return parts

    def evaluate(self) -> dict[str, Any] | None:
        """mAP on the test images with part annotations, every score counting."""
        root = self.run.data.root
        if not (root / "parts_test.json").is_file():
            return None
        from unmask_tf.data.part_instances import read_part_instances
        from unmask_tf.mrcnn.evaluate import evaluate
        from unmask_tf.mrcnn.model import MaskRCNN

        dataset = read_part_instances(root / "parts_test.json", root / "images" / "test", self.taxonomy)
        lenient = copy(self.config)
        lenient.DETECTION_MIN_CONFIDENCE = 0.0
        model = MaskRCNN("inference", lenient, self.run.folder)
        model.load_weights(self.weights)
        return evaluate(model, dataset, limit=self.run.profile.limit, batch_size=self.batch_size)


def our_weights(run: Run) -> Path:
    """K's weights of the profile, shipped or trained here, other than the run's (which are the given ones).

    Raises:
        InputError: there are none.
    """
    name, given = run.profile.part_detector.weights, sha256(run.k_weights)
    places = (WEIGHTS_FOLDER / name, run.folder / "models" / name)
    for path in places:
        if path.is_file() and sha256(path) != given:
            return path
    raise InputError(
        f"there is no K of ours to compare {run.k_weights} with: neither {places[0]} nor {places[1]} is there and "
        f"another file. Train one: make train-k PROFILE={run.profile.name} K_WEIGHTS={places[1]}, or name yours: "
        "EXTRA='--ours file'."
    )


def _cells(run: Run) -> Iterator[tuple[str, str | None, str, float]]:
    """Benign images of every class set, and what is attacked already in the run's folder."""
    for class_set in run.profile.class_sets:
        yield class_set, None, *BENIGN
        for architecture in run.profile.architectures:
            for attack, epsilon in run.profile.attack.cells():
                where = (class_set, architecture, "none", attack, epsilon)
                if key_of(run.attacked_path(*where)) == run.attacked_key(*where):
                    yield class_set, architecture, attack, epsilon


def compare_k(run: Run, ours: Path | None = None, canvas: int | None = None) -> KComparison:
    """Evaluates the run's K (`run.k_weights`, the given one) and ours on the same test split.

    Prints the comparison and writes compare_k.md and compare_k.csv into the run's folder. Part sets once extracted are
    kept there and read again.

    Args:
        run: data, taxonomy, profile and limit; its folder may hold attacked images, which are then compared too.
        ours: our weights; None: the profile's.
        canvas: side of the given K's canvas; None: as its architecture has it.

    Raises:
        InputError: a file is missing or does not fit the taxonomy, or there is no K of ours.
    """
    given = _Detector(run, run.k_weights, canvas, profile_preset=False)
    own = _Detector(run, Path(ours) if ours is not None else our_weights(run), None, profile_preset=True)
    rows = []
    for class_set, architecture, attack, epsilon in _cells(run):
        test = load_class_images(
            run.data.root,
            class_set,
            "test",
            taxonomy=run.taxonomy,
            size=run.profile.classifier.input_size,
            limit=run.profile.limit,
        )
        images = test.images
        if architecture is not None:
            path = run.attacked_path(class_set, architecture, "none", attack, epsilon)
            images = Attacked.read(path).images_8bit
        where = (class_set, architecture, attack, epsilon)
        sets = [k.parts(images, where, list(test.files)) for k in (given, own)]
        truth = [test.classes[label] for label in test.labels]
        right = [sum(a == b for a, b in zip(truth, defend(s, run.taxonomy, class_set), strict=True)) for s in sets]
        rows.append(
            Row(
                class_set=class_set,
                model=architecture or "",
                attack=attack,
                epsilon_255=epsilon,
                n=len(truth),
                same=sum(a == b for a, b in zip(*sets, strict=True)),
                overlap=float(np.mean([1.0 if a == b else jaccard(a, b) for a, b in zip(*sets, strict=True)])),
                given=right[0],
                ours=right[1],
            )
        )
    result = KComparison(
        given=given.title, ours=own.title, map_given=given.evaluate(), map_ours=own.evaluate(), rows=tuple(rows)
    )
    write_text(run.folder / "compare_k.md", to_markdown(result, run.profile.name))
    write_text(run.folder / "compare_k.csv", to_csv(result))
    print(to_text(result), end="")
    return result


_MAPS = {
    "map50": "mAP at IoU 0.5",
    "map": "mAP, IoU 0.50 to 0.95",
    "map50_bbox": "boxes: mAP at IoU 0.5",
    "map_bbox": "boxes: mAP, IoU 0.50 to 0.95",
}


def _map_rows(result: KComparison) -> list[tuple[str, float, float]]:
    if result.map_given is None or result.map_ours is None:
        return []
    return [(name, result.map_given[name], result.map_ours[name]) for name in _MAPS]


def _tables(result: KComparison) -> tuple[list[list[str]], list[list[str]]]:
    maps = [[_MAPS[name], number(given, 3), number(ours, 3)] for name, given, ours in _map_rows(result)]
    rows = [
        [
            class_set_label(row.class_set),
            model_label(row.model) or MISSING,
            attack_label(row.attack, row.epsilon_255) if row.attack != "none" else "no attack",
            str(row.n),
            f"{100 * row.same / row.n:.1f} %",
            number(row.overlap, 3),
            number(row.given / row.n),
            number(row.ours / row.n),
        ]
        for row in result.rows
    ]
    return maps, rows


_MAP_HEADER = ("K on the test split", "given", "ours")
_ROW_HEADER = ("CS", "M", "Images", "n", "Same parts", "Jaccard", "UM given", "UM ours")
_NOTE = (
    "Same parts: images in which both K's saw the same set. Jaccard: mean similarity of the two sets. UM: accuracy of "
    "UnMask by that K alone, as in Table IV. For mAP every score counts.\n"
)
_NO_MAP = "The data has no part annotations of a test split (parts_test.json), so there is no mAP.\n"


def to_text(result: KComparison) -> str:
    """The comparison for the console."""
    maps, rows = _tables(result)
    head = f"given: {result.given}\nours:  {result.ours}\n\n"
    table = aligned(_MAP_HEADER, maps, left=1) if maps else _NO_MAP
    return head + table + "\n" + aligned(_ROW_HEADER, rows, left=3) + "\n" + _NOTE


def to_markdown(result: KComparison, profile: str) -> str:
    """The comparison as Markdown."""
    maps, rows = _tables(result)
    head = f"# Two K's on the same images: profile `{profile}`\n\n- given: {result.given}\n- ours: {result.ours}\n\n"
    table = markdown(_MAP_HEADER, maps, left=1) if maps else _NO_MAP
    return head + table + "\n" + markdown(_ROW_HEADER, rows, left=3) + "\n" + _NOTE


def to_csv(result: KComparison) -> str:
    """The numbers as CSV; fractions with four decimals, empty where a column does not apply."""
    lines = ["kind,class_set,model,attack,epsilon_255,n,given,ours,same_parts,jaccard"]
    lines += [f"{name},,,,,,{given:.4f},{ours:.4f},," for name, given, ours in _map_rows(result)]
    lines += [
        f"um,{r.class_set},{r.model},{r.attack},{r.epsilon_255:g},{r.n},{r.given / r.n:.4f},{r.ours / r.n:.4f},"
        f"{r.same / r.n:.4f},{r.overlap:.4f}"
        for r in result.rows
    ]
    return "\n".join(lines) + "\n"
