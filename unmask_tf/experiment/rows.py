"""The one schema of results: a row an image, and a header that says how the rows came about (numpy and pandas only).

A row set belongs to one (class set, M, defence, attack, budget). Every table, figure and claim is made from row sets
and the published numbers alone; what a report says of a run stands in the headers, never in today's settings.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unmask_tf.errors import InputError
from unmask_tf.files import read_json, sha256_of, write_bytes, write_json

SCHEMA = "unmask-rows-1"
COLUMNS = ("image", "true", "answer", "model_answer", "similarity", "score", "flagged", "parts")
_TEXTS = ("image", "true", "answer", "model_answer", "parts")


@dataclass(frozen=True, kw_only=True)
class Header:
    """How a row set came about.

    Attributes:
        key: of the step that made it.
        data: name of the data: `mini`, `photos`, `paper`, or the user's folder's name.
        split: whose images the rows are about: `test`, or `val` for the line search.
        class_set: name of the class set.
        classes: class -> expected parts (a row of V), in the class set's own order.
        model: M's name in `CLASSIFIERS`.
        defence: name in `DEFENCES`.
        attack: name in `ATTACKS`; `none` for benign images.
        epsilon_255: budget in units of 1/255; 0 for benign images.
        threat: the resolved threat model (norm, step, iterations, decay, random_start, restarts, keep_best), `preset`
            and `knows`; empty for benign images.
        checks: check of the attack -> whether it holds; empty for benign images.
        nan_images: images whose attack gave NaN and was repaired.
        training: of the M that answers: `recipe` (none, released, madry), `epsilon_255`, `step`, `iterations`,
            `epochs`, `best_epoch`, `stopped`, `val_accuracy`, `val_attacked_accuracy` as far as they apply.
        extractor: part extractor's name in `EXTRACTORS` and its weights' SHA-256 (or the key of their training), as
            `name sha256`; empty without parts.
        threshold: `value`, `fpr` aimed at, `fpr_measured`, `split` and `n` that chose it; empty where none is used.
        accuracy_8bit: M's accuracy on the 8-bit form of the images; None where it was not measured.
        seeds, versions: name -> seed of each random choice; package -> version.
        seconds: what the step took.
    """

    key: str
    data: str
    split: str
    class_set: str
    classes: Mapping[str, Sequence[str]]
    model: str
    defence: str
    attack: str
    epsilon_255: float
    threat: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, bool] = field(default_factory=dict)
    nan_images: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)
    extractor: str = ""
    threshold: Mapping[str, Any] = field(default_factory=dict)
    accuracy_8bit: float | None = None
    seeds: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def cell(self) -> tuple[str, str, str, float]:
        """(model, class_set, attack, epsilon_255)."""
        return self.model, self.class_set, self.attack, self.epsilon_255


@dataclass(frozen=True, eq=False)
class RowSet:
    """The rows of one cell.

    Attributes:
        header: how they came about.
        rows: frame with `COLUMNS`, in the order of the images. `image` is its path in the data folder; `true`,
            `answer` and `model_answer` (M's own, on the same pixels) are class names, an answer is None where there is
            none; `similarity` s = JS(V[M(x)], parts) and `score` (high: suspicious; d = 1 - s for UnMask) are float
            or NaN; `flagged` is whether the image is judged adversarial (False where nothing is judged); `parts` are
            part names joined by spaces in alphabetical order, or None where no parts were extracted.

    Raises:
        InputError: rows and header contradict each other.
    """

    header: Header
    rows: pd.DataFrame

    def __post_init__(self) -> None:
        rows, where = self.rows, f"the rows of {describe(self.header)}"
        if tuple(rows.columns) != COLUMNS:
            raise InputError(f"{where} have the columns {list(rows.columns)}; {list(COLUMNS)} were expected.")
        if not len(rows) or rows["image"].duplicated().any():
            raise InputError(f"{where} are none, or name an image twice. Run the experiment again.")
        strange = set(rows["true"]) - set(self.header.classes)
        strange |= set(rows["answer"].dropna()) - set(self.header.classes)
        if strange:
            raise InputError(f"{where} name classes that the class set does not have: {sorted(strange)}.")
        if (self.header.attack == "none") != (self.header.epsilon_255 == 0):
            raise InputError(f"{where}: only benign images, attack `none`, have a budget of 0.")

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.rows)

    @property
    def right(self) -> np.ndarray:
        """bool (n,): the answer is the true class."""
        return (self.rows["answer"] == self.rows["true"]).to_numpy()

    @property
    def correct(self) -> int:
        """Images whose answer is right."""
        return int(self.right.sum())

    @property
    def accuracy(self) -> float:
        """correct / n."""
        return self.correct / self.n

    @property
    def fooled(self) -> np.ndarray:
        """bool (n,): M itself is wrong."""
        return (self.rows["model_answer"] != self.rows["true"]).to_numpy()

    def part_sets(self) -> list[frozenset[str]]:
        """Extracted part names per image."""
        return [frozenset(text.split()) if isinstance(text, str) else frozenset() for text in self.rows["parts"]]


def describe(header: Header) -> str:
    """A row set in a few words, for messages."""
    return f"{header.class_set} {header.model} {header.defence} under {header.attack} {header.epsilon_255:g}"


def frame(
    images: Sequence[str],
    true: Sequence[str],
    answer: Sequence[str | None],
    model_answer: Sequence[str],
    similarity: Sequence[float] | None = None,
    score: Sequence[float] | None = None,
    flagged: Sequence[bool] | None = None,
    parts: Sequence[Iterable[str]] | None = None,
) -> pd.DataFrame:
    """Rows from their columns, one value an image; None: the column does not apply."""
    n = len(images)
    return pd.DataFrame(
        {
            "image": list(images),
            "true": list(true),
            "answer": list(answer),
            "model_answer": list(model_answer),
            "similarity": np.full(n, np.nan) if similarity is None else np.asarray(similarity, np.float64),
            "score": np.full(n, np.nan) if score is None else np.asarray(score, np.float64),
            "flagged": np.zeros(n, bool) if flagged is None else np.asarray(flagged, bool),
            "parts": [None] * n if parts is None else [" ".join(sorted(seen)) for seen in parts],
        }
    ).astype({name: object for name in _TEXTS})


def to_csv(rows: pd.DataFrame) -> bytes:
    """Rows as CSV: the same rows give the same bytes, and `from_csv` gives back the same rows.

    An absent answer is an empty field, an empty set of parts a single `-`.
    """
    text = rows.assign(
        flagged=rows["flagged"].astype(int),
        parts=[p if p is None or p else "-" for p in rows["parts"]],
    )
    return text.to_csv(index=False, lineterminator="\n").encode()


def from_csv(content: bytes, where: str) -> pd.DataFrame:
    """What `to_csv` wrote (perhaps with further columns before it).

    Raises:
        InputError: it is damaged.
    """
    try:
        rows = pd.read_csv(
            io.BytesIO(content),
            # Numbers too are read as text, since `float` gives back every bit.
            dtype={name: object for name in (*_TEXTS, "similarity", "score")},
            keep_default_na=False,
            na_values={name: [""] for name in (*COLUMNS,)},
        )
        absent = {name: rows[name].astype(object).where(rows[name].notna(), None) for name in _TEXTS}
        absent["parts"] = pd.Series([p if p != "-" else "" for p in absent["parts"]], dtype=object)
        return rows.assign(**absent).astype({"similarity": float, "score": float, "flagged": bool})
    except (ValueError, KeyError, UnicodeDecodeError) as error:
        raise InputError(f"{where} does not hold rows ({error}). Delete it, then run again.") from error


def header_to_json(header: Header) -> dict[str, Any]:
    """A header as JSON values; classes as pairs, since their order decides ties and JSON's names have none."""
    return {**asdict(header), "classes": [[name, list(parts)] for name, parts in header.classes.items()]}


def header_from_json(content: Any, where: str) -> Header:
    """A header from its JSON values.

    Raises:
        InputError: a field is missing, unknown or of another kind.
    """
    known = {f.name for f in fields(Header)}
    if not isinstance(content, dict) or set(content) != known:
        wrong = sorted(set(content) ^ known) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{where}: missing or unknown fields of a row set: {wrong}. Delete it, then run again.")
    header = Header(**{**content, "classes": dict(content["classes"])})
    if not isinstance(header.epsilon_255, (int, float)) or not math.isfinite(header.epsilon_255):
        raise InputError(f"{where}: epsilon_255 is {header.epsilon_255!r}. Delete it, then run again.")
    return header


def write_bundle(folder: Path, name: str, row_sets: Sequence[RowSet]) -> None:
    """Writes the row sets of an experiment as `<name>.csv` (all rows; `set` counts the row sets) and `<name>.json`.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    tables = [rows.rows.assign(set=i)[["set", *COLUMNS]] for i, rows in enumerate(row_sets)]
    content = to_csv(pd.concat(tables, ignore_index=True))
    write_bytes(folder / f"{name}.csv", content)
    # The header is written last and names the rows it belongs to: a write that is killed in between is noticed.
    headers = [header_to_json(rows.header) for rows in row_sets]
    write_json(folder / f"{name}.json", {"schema": SCHEMA, "rows_sha256": sha256_of(content), "sets": headers})


def read_bundle(folder: Path, name: str) -> list[RowSet]:
    """The row sets of an experiment, in the order in which they were written.

    Raises:
        InputError: there are none, or a file is damaged or does not belong to the other.
    """
    path, rows_path = folder / f"{name}.json", folder / f"{name}.csv"
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path} does not hold results of this program (schema '{SCHEMA}'). Run the experiment again.")
    try:
        text = rows_path.read_bytes()
    except OSError as error:
        raise InputError(f"{rows_path} cannot be read: {error.strerror}. Run the experiment again.") from error
    if sha256_of(text) != content.get("rows_sha256"):
        raise InputError(
            f"{rows_path} does not belong to {path.name}: it was changed or cut. Run the experiment again."
        )
    table = from_csv(text, str(rows_path))
    parts = {number: rows for number, rows in table.groupby("set", sort=False)}
    return [
        RowSet(header_from_json(header, str(path)), parts[number][list(COLUMNS)].reset_index(drop=True))
        for number, header in enumerate(content["sets"])
    ]


def merge(*parts: Iterable[RowSet]) -> list[RowSet]:
    """Joins row sets of runs that shared the cells out; a cell that both have is kept once.

    Raises:
        InputError: two row sets of one step differ.
    """
    merged: dict[str, RowSet] = {}
    for rows in (rows for part in parts for rows in part):
        first = merged.setdefault(rows.header.key, rows)
        if not first.rows.equals(rows.rows):
            raise InputError(
                f"two runs of {describe(rows.header)} disagree ({first.correct} and {rows.correct} of {rows.n} right). "
                "Find out which one is right, and leave the other out."
            )
    return list(merged.values())
