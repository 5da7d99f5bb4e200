"""What a results folder `<results>/<profile>` holds: bundles of rows and K's evaluation, in its folder `rows`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet, read_bundle
from unmask_tf.files import read_json

_TARGETS = {
    "grid": "reproduce PROFILE={}",
    "study": "study PROFILE={}",
    "line_search": "adversarial-training PROFILE={}",
    "adaptive": "adaptive PROFILE={}",
    "compare_k": "compare PROFILE={} K_WEIGHTS=file",
    "model_k": "evaluate-k PROFILE={}",
    "model_k_ours": "compare PROFILE={} K_WEIGHTS=file",
    "model_k_given": "compare PROFILE={} K_WEIGHTS=file",
}


def how_to_make(folder: Path, name: str) -> str:
    """The command that makes a bundle."""
    return f"make {_TARGETS[name].format(folder.name)}"


def find(folder: Path, name: str) -> list[RowSet]:
    """The row sets of a bundle; none where it has not been made.

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
    if found := find(folder, name):
        return found
    raise InputError(f"{folder / 'rows' / name}.json is not there yet. Run: {how_to_make(folder, name)}")


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
        value = content.get(key) if isinstance(content, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            again = how_to_make(folder, name)
            raise InputError(f"{path}: '{key}' is {value!r}, not a number in [0, 1]. Delete it, then run: {again}")
    return content
