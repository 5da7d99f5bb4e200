"""What a results folder `<results>/<profile>` holds: bundles of rows, K's evaluation and the gallery, in `rows/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet, read_bundle
from unmask_tf.files import read_json
from unmask_tf.report.overlap import Overlap, our_overlap
from unmask_tf.report.soundness import Attack, unsound
from unmask_tf.report.statistics import Detection, accuracies, aucs, detections
from unmask_tf.report.table import Table, write_table

_TARGETS = {
    "grid": "reproduce PROFILE={}",
    "study": "study PROFILE={}",
    "line_search": "adversarial-training PROFILE={}",
    "adaptive": "adaptive PROFILE={}",
    "adaptive_robust": "adaptive PROFILE={0} K_PRESET={0}_robust",
    "adaptive_madry": "adaptive PROFILE={} EXTRA='--m-recipe madry'",
    "adaptive_robust_madry": "adaptive PROFILE={0} K_PRESET={0}_robust EXTRA='--m-recipe madry'",
    "adaptive_effort": "adaptive PROFILE={} EXTRA=--effort",
    "compare_k": "compare PROFILE={} K_WEIGHTS=file",
    "model_k": "evaluate-k PROFILE={}",
    "gallery": "evaluate PROFILE={}",
}


class Results:
    """The results of one run; each bundle is read once, when it is first asked for.

    Args:
        folder: `<results>/<profile>`.
        bundles: name -> row sets that are used instead of files.
    """

    def __init__(self, folder: Path, bundles: Mapping[str, Sequence[RowSet]] | None = None) -> None:
        self.folder, self._bundles = Path(folder), {name: list(found) for name, found in (bundles or {}).items()}

    def how_to_make(self, name: str) -> str:
        """The command that makes a bundle."""
        return f"make {_TARGETS[name].format(self.folder.name)}"

    def find(self, name: str) -> list[RowSet]:
        """The row sets of a bundle; none where it has not been made.

        Raises:
            InputError: the bundle is damaged.
        """
        if name not in self._bundles:
            rows, names = self.folder / "rows", [name]
            if name == "line_search":  # each recipe's is a bundle of its own
                names = sorted(path.stem for path in rows.glob("line_search_*.json"))
            # The header is written last: without it the bundle is not finished.
            found = [n for n in names if (rows / f"{n}.json").exists()]
            self._bundles[name] = [row_set for n in found for row_set in read_bundle(rows, n)]
        return self._bundles[name]

    def need(self, name: str) -> list[RowSet]:
        """As `find`, but the bundle has to be there.

        Raises:
            InputError: it is not there, or damaged.
        """
        if found := self.find(name):
            return found
        path = self.folder / "rows" / f"{name}.json"
        raise InputError(f"{path} is not there yet. Run: {self.how_to_make(name)}")

    @property
    def grid(self) -> list[RowSet]:
        """The row sets of Table IV."""
        return self.need("grid")

    def data(self, bundle: str = "grid") -> str:
        """Of what profile and data a bundle's numbers are, for captions."""
        names = sorted({f"`{r.header.data}`" for r in self.find(bundle)})
        return f"profile `{self.folder.name}`, data {' and '.join(names)}"

    def write(self, tables: Iterable[Table]) -> list[Path]:
        """Writes tables as Markdown, CSV and LaTeX into the folder; returns the files.

        Raises:
            InputError: the folder cannot be written.
        """
        return [path for table in tables for path in write_table(table, self.folder, self.data(table.bundle))]

    @cached_property
    def accuracy(self) -> pd.Series:
        return accuracies(self.grid)

    @cached_property
    def detections(self) -> list[Detection]:
        return detections(self.grid)

    @cached_property
    def auc(self) -> pd.Series:
        return aucs(self.detections)

    @cached_property
    def overlap(self) -> Overlap | None:
        return our_overlap(self.grid)

    @cached_property
    def unsound(self) -> dict[Attack, list[str]]:
        return unsound(self.grid)

    def model_k(self, name: str = "model_k") -> dict[str, Any] | None:
        """K's evaluation, `map50` and `map` as fractions and more; None where it has not been made.

        Raises:
            InputError: the file is damaged, or lacks one of the two numbers.
        """
        path = self.folder / "rows" / f"{name}.json"
        if not path.exists():
            return None
        content = read_json(path)
        for key in ("map50", "map"):
            value = content.get(key) if isinstance(content, dict) else None
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InputError(
                    f"{path}: '{key}' is {value!r}, not a number in [0, 1]. Delete it, then run: "
                    f"{self.how_to_make('compare_k' if name != 'model_k' else name)}"
                )
        return content

    @cached_property
    def gallery(self) -> list[dict[str, Any]]:
        """The cases of rows/gallery.json that belong to the grid's rows; none where it has not been made.

        Raises:
            InputError: the file is damaged.
        """
        path = self.folder / "rows" / "gallery.json"
        if not path.exists():
            return []
        content = read_json(path)
        cases = content.get("cases") if isinstance(content, dict) else None
        if not isinstance(cases, list):
            raise InputError(f"{path} holds no cases. Delete it, then run: {self.how_to_make('gallery')}")
        known = {r.header.key for r in self.grid}
        return [case for case in cases if case["key"] in known]
