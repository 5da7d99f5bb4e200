"""The record of one cell of the experiment: its schema, and reading, writing and merging records."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from unmask_tf.attacks import checks as attack_checks
from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_text
from unmask_tf.reproduce.cells import DEFENCES, cell_order

SCHEMA = "unmask-record-1"

# A name becomes a part of the record's file name, in which "__" separates.
_NAME = re.compile(r"(?!.*__)[A-Za-z0-9][A-Za-z0-9_.-]*(?<!_)")


@dataclass(frozen=True)
class CellKey:
    """Names one cell.

    Attributes:
        profile: profile name.
        class_set: class set name.
        model: M's architecture.
        defence: `none` (M), `at` (adversarially trained M) or `um` (UnMask in front of M).
        attack: attack name, or `none` for the benign row.
        epsilon_255: attack budget in units of 1/255; 0 for the benign row.

    Raises:
        InputError: a value is outside these.
    """

    profile: str
    class_set: str
    model: str
    defence: str
    attack: str
    epsilon_255: float

    def __post_init__(self) -> None:
        for name in ("profile", "class_set", "model", "attack"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise InputError(f"{name} is {value!r}. Use letters, digits, '.', '-' and single '_'.")
        if self.defence not in DEFENCES:
            raise InputError(f"defence is {self.defence!r}. Choose one of: {', '.join(DEFENCES)}.")
        epsilon = _number("epsilon_255", self.epsilon_255, low=0)
        if (self.attack == "none") != (epsilon == 0):
            raise InputError(f"attack '{self.attack}' with epsilon {epsilon:g}: only the benign row is ('none', 0).")
        object.__setattr__(self, "epsilon_255", int(epsilon) if epsilon.is_integer() else epsilon)

    @property
    def file_name(self) -> str:
        """`<class_set>__<model>__<defence>__<attack>_<epsilon>.json`."""
        return f"{self.class_set}__{self.model}__{self.defence}__{self.attack}_{self.epsilon_255}.json"

    def path(self, folder: str | Path) -> Path:
        """The record's path in a folder of records."""
        return Path(folder) / self.file_name

    @property
    def order(self) -> tuple:
        """Sort key: the paper's row and column order."""
        return (
            self.profile,
            cell_order((self.model, self.class_set, self.attack, self.epsilon_255)),
            DEFENCES.index(self.defence),
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one cell. Sequences may be given as any iterable (numpy arrays too) and are kept as tuples.

    Attributes:
        key: the cell.
        config_hash: hash of the profile's configuration.
        n: images of the class set's test split.
        correct: images whose class is right after the defence.
        seeds: name -> seed of every random choice.
        versions: package -> version.
        wall_s: seconds the cell took.
        checks: attack check -> passed.
        nan_images: images for which the attack gave NaN and was repaired.
        iterations: gradient steps of one run of the attack, more than the profile's where `strong` needed them; None:
            the benign row, or not recorded.
        labels, predictions: class name per image, the true one and the final answer (None: no answer), or None.
        accuracy_float, accuracy_8bit: M's accuracy on the float and on the 8-bit form (defences none and at), or None.
        similarities: s = JS(V[M(x)], f_r) per image (defence um), or None.
        detection_scores, detection_labels: d and 1 (adversarial) or 0 (benign) of the images of the detection protocol
            (defence um under attack; empty where no attack succeeded), or None.

    Raises:
        InputError: a value is missing, of the wrong type or inconsistent with another.
    """

    key: CellKey
    config_hash: str
    n: int
    correct: int
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    wall_s: float = 0.0
    checks: Mapping[str, bool] = field(default_factory=dict)
    nan_images: int = 0
    iterations: int | None = None
    labels: tuple[str, ...] | None = None
    predictions: tuple[str | None, ...] | None = None
    accuracy_float: float | None = None
    accuracy_8bit: float | None = None
    similarities: tuple[float, ...] | None = None
    detection_scores: tuple[float, ...] | None = None
    detection_labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.config_hash, str) or not self.config_hash:
            raise InputError(f"config_hash is {self.config_hash!r}. Give the profile's hash.")
        for name, low, high in (("n", 1, None), ("correct", 0, self.n), ("nan_images", 0, self.n)):
            self._set(name, _integer(name, getattr(self, name), low=low, high=high))
        if self.iterations is not None:
            self._set("iterations", _integer("iterations", self.iterations, low=1))
        self._set("wall_s", _number("wall_s", self.wall_s, low=0))
        self._set("seeds", _mapping("seeds", self.seeds, _integer))
        self._set("versions", _mapping("versions", self.versions, _text))
        self._set("checks", _mapping("checks", self.checks, _flag))
        for name in ("accuracy_float", "accuracy_8bit"):
            if getattr(self, name) is not None:
                self._set(name, _number(name, getattr(self, name), low=0, high=1))
        self._check_rows()
        self._check_detection()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_rows(self) -> None:
        self._set("labels", _sequence("labels", self.labels, _text))
        self._set("predictions", _sequence("predictions", self.predictions, _text_or_none))
        self._set("similarities", _sequence("similarities", self.similarities, _fraction))
        for name in ("labels", "predictions", "similarities"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != self.n:
                raise InputError(f"{name} has {len(rows)} rows for n = {self.n} images.")
        if self.labels is not None and self.predictions is not None:
            right = sum(label == answer for label, answer in zip(self.labels, self.predictions, strict=True))
            if right != self.correct:
                raise InputError(f"correct is {self.correct}, but {right} predictions equal their labels.")

    def _check_detection(self) -> None:
        self._set("detection_scores", _sequence("detection_scores", self.detection_scores, _fraction))
        self._set("detection_labels", _sequence("detection_labels", self.detection_labels, _integer))
        scores, labels = self.detection_scores, self.detection_labels
        if (scores is None) != (labels is None):
            raise InputError("detection_scores and detection_labels must be given together.")
        if scores is None:
            return
        if self.key.defence != "um" or self.key.attack == "none":
            raise InputError(f"a detection belongs to defence um under attack, not to {self.key.file_name}.")
        if len(scores) != len(labels) or set(labels) - {0, 1} or 2 * sum(labels) != len(labels):
            raise InputError(
                f"{len(scores)} detection scores do not fit {len(labels)} labels, of which half must be 1 "
                "(adversarial) and half 0 (their benign twins)."
            )
        if len(scores) > 2 * self.n:
            raise InputError(f"{len(scores)} detection scores are more than two for each of n = {self.n} images.")

    @property
    def accuracy(self) -> float:
        """correct / n."""
        return self.correct / self.n

    @property
    def sound(self) -> bool:
        """The attack was checked and failed no check but those that only warn. A benign row has no attack to check.

        Checks between cells are not in a record (`soundness.py` makes them).
        """
        return (self.key.attack == "none" and not self.checks) or attack_checks.sound(self.checks)

    @property
    def pairs(self) -> int:
        """Successful attacks that enter the detection, each with its benign twin."""
        return len(self.detection_scores or ()) // 2

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values; `accuracy`, `sound` and `pairs` stand in it for its readers."""
        content: dict[str, Any] = {"schema": SCHEMA, **{f.name: getattr(self.key, f.name) for f in fields(CellKey)}}
        content |= {f.name: getattr(self, f.name) for f in fields(self) if f.name != "key"}
        return content | {name: getattr(self, name) for name in _DERIVED}


_DERIVED = ("accuracy", "sound", "pairs")


def write(record: Record, folder: str | Path) -> Path:
    """Writes the record atomically under its key's file name in `folder`, and returns the path.

    One line per field: readable, comparable by diff, and the same bytes for the same record.

    Raises:
        InputError: the disk is full or the folder cannot be written; an earlier record stays as it was.
    """
    lines = [f" {json.dumps(name)}: {_compact(value)}" for name, value in sorted(record.to_json().items())]
    path = record.key.path(folder)
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)


def read(path: str | Path) -> Record:
    """Reads and validates one record.

    Raises:
        InputError: the file is missing, truncated, no record, inconsistent, or lies under another cell's name; the
            message names the file.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    expected = {"schema", *_DERIVED, *(f.name for f in fields(CellKey)), *(f.name for f in fields(Record))} - {"key"}
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path} is not a record of this program (schema '{SCHEMA}'). Delete it, then run again.")
    content = {"iterations": None, **content}  # which the first records of this schema do not have
    if set(content) != expected:
        wrong = sorted(set(content) ^ expected)
        raise InputError(f"{path}: missing or unknown fields: {', '.join(wrong)}. Delete it, then run again.")
    try:
        key = CellKey(**{f.name: content[f.name] for f in fields(CellKey)})
        record = Record(key=key, **{f.name: content[f.name] for f in fields(Record) if f.name != "key"})
    except InputError as error:
        raise InputError(f"{path}: {error} Delete it, then run again.") from error
    for name in _DERIVED:
        if content[name] != getattr(record, name):
            raise InputError(
                f"{path}: {name} is {content[name]}, but its other fields give {getattr(record, name)}. "
                "Delete it, then run again."
            )
    if path.name != key.file_name:
        raise InputError(f"{path} holds the record of the cell {key.file_name}. Rename it or delete it.")
    return record


def read_all(folder: str | Path, config_hash: str | None = None) -> list[Record]:
    """All records of a folder, in the paper's order.

    Args:
        folder: the folder of records.
        config_hash: the configuration they must stem from; None: any, but one and the same.

    Raises:
        InputError: no records, an invalid one, or records of different configurations or profiles.
    """
    # A hidden file is the leftover of a write that was killed.
    paths = sorted(p for p in Path(folder).glob("*.json") if not p.name.startswith("."))
    if not paths:
        raise InputError(f"{folder} holds no records. Run the experiment first, or check the path.")
    records = sorted((read(path) for path in paths), key=lambda record: record.key.order)
    _refuse_mix(records, str(folder), config_hash)
    return records


def _refuse_mix(records: Sequence[Record], where: str, config_hash: str | None) -> None:
    for kind, value_of in (("configurations", lambda r: r.config_hash), ("profiles", lambda r: r.key.profile)):
        first_of = {value_of(record): record.key.file_name for record in reversed(records)}
        if len(first_of) > 1:
            examples = "; ".join(f"{value} in {name}" for value, name in sorted(first_of.items()))
            raise InputError(
                f"{where} mixes records of {len(first_of)} {kind}: {examples}. Delete the old ones, or give each its "
                "own folder."
            )
    if records and config_hash is not None and records[0].config_hash != config_hash:
        raise InputError(
            f"{where} holds records of configuration {records[0].config_hash}, but this run's is {config_hash}. "
            "Delete the folder, or write to another one."
        )


def merge(*parts: Iterable[Record]) -> list[Record]:
    """Joins records of runs that shared the cells out, in the paper's order.

    A cell computed twice is kept once, the first time; the copies must agree in all but `wall_s` and `versions`.

    Raises:
        InputError: two records of a cell disagree, or configurations or profiles mix.
    """
    merged: dict[CellKey, Record] = {}
    for record in (record for part in parts for record in part):
        first = merged.setdefault(record.key, record)
        if replace(record, wall_s=first.wall_s, versions=first.versions) != first:
            raise InputError(
                f"two records of the cell {record.key.file_name} disagree (accuracy {first.accuracy:.4f} and "
                f"{record.accuracy:.4f}). Find out which run is right, and delete the other's record."
            )
    records = sorted(merged.values(), key=lambda record: record.key.order)
    _refuse_mix(records, "the merge", None)
    return records


def _integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    # numpy integers count; bools and 3.0 do not.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputError(f"{name} is {value!r}; a whole number was expected.")
    value = value.__index__()
    if (low is not None and value < low) or (high is not None and value > high):
        raise InputError(f"{name} is {value}; it must lie in [{low}, {'...' if high is None else high}].")
    return value


def _number(name: str, value: Any, low: float | None = None, high: float | None = None) -> float:
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise InputError(f"{name} is {value!r}; a number was expected.")
    value = float(value)
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        raise InputError(f"{name} is {value}; it must lie in [{low}, {'...' if high is None else high}].")
    return value


def _fraction(name: str, value: Any) -> float:
    return _number(name, value, low=0, high=1)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} holds {value!r}; a text was expected.")
    return str(value)


def _text_or_none(name: str, value: Any) -> str | None:
    return None if value is None else _text(name, value)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, str) or value not in (True, False):
        raise InputError(f"{name} holds {value!r}; true or false was expected.")
    return bool(value)


def _mapping(name: str, value: Any, convert: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {value!r}; a mapping was expected.")
    return {_text(name, key): convert(f"{name}.{key}", item) for key, item in value.items()}


def _sequence(name: str, value: Any, convert: Any) -> tuple | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {value!r}; a list was expected.")
    return tuple(convert(name, item) for item in value)
