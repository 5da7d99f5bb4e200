"""What a results folder holds: bundles of rows and K's evaluation, below `<results>/<profile>/rows`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet, read_bundle
from unmask_tf.files import read_json

_TARGETS = {
    "grid": "reproduce",
    "study": "study",
    "line_search": "adversarial-training",
    "compare_k": "compare",
    "model_k": "evaluate-k",
    "model_k_given": "compare",
}


def how_to_make(folder: Path, name: str) -> str:
    """The command that makes a bundle."""
    more = " K_WEIGHTS=file" if _TARGETS[name] == "compare" else ""
    return f"make {_TARGETS[name]} PROFILE={folder.name}{more}"


def find(folder: Path, name: str) -> list[RowSet]:
    """The row sets of a bundle of `<results>/<profile>`; none where it has not been made.

    Raises:
        InputError: the bundle is damaged.
    """
    # The header is written last: without it the bundle is not finished. Each recipe's line search is its own bundle.
    names = sorted(path.stem for path in (folder / "rows").glob(f"{name}_*.json")) if name == "line_search" else [name]
    return [rows for n in names if (folder / "rows" / f"{n}.json").exists() for rows in read_bundle(folder / "rows", n)]


def need(folder: Path, name: str) -> list[RowSet]:
    """As `find`, but the bundle has to be there.

    Raises:
        InputError: it is not there, or damaged.
    """
    found = find(folder, name)
    if not found:
        raise InputError(f"{folder} holds no results of that kind (rows/{name}.json). Run: {how_to_make(folder, name)}")
    return found


def find_model_k(folder: Path, name: str = "model_k") -> dict[str, Any] | None:
    """K's evaluation, `map50` and `map` as fractions and more; None where it has not been made.

    Raises:
        InputError: the file is damaged, or lacks one of the two numbers.
    """
    path = folder / "rows" / f"{name}.json"
    if not path.exists():
        return None
    content = read_json(path)
    for key in ("map50", "map"):
        value = content.get(key) if isinstance(content, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InputError(
                f"{path}: '{key}' is {value!r}; a number in [0, 1] was expected. Delete it, then run: "
                f"{how_to_make(folder, name)}"
            )
    return content
