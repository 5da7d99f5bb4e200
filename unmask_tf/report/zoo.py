"""The table of shipped weights in mask_rcnn_weights/README.md, from hashes, training logs and committed rows.

A metric stands there only where the rows are of that very file: of K by its SHA-256, of M by its threshold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_text
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import attacked
from unmask_tf.report.table import MISSING, Table, markdown, number

ABOUT = "zoo.json"
"""File -> what it is, its data, its command, and the profile whose committed rows have its test."""
_BLOCK = re.compile(r"(<!-- zoo: begin -->\n).*?(<!-- zoo: end -->)", re.S)


def zoo_table(weights: Path, reference: Path) -> Table:
    """A row per file of SHA256SUMS.

    Args:
        weights: the folder of the shipped weights.
        reference: results/reference.

    Raises:
        InputError: a file, its log, or an entry in zoo.json is missing or damaged.
    """
    about, rows = read_json(weights / ABOUT), []
    for line in (weights / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        sha256, name = line.split()
        if name not in about:
            raise InputError(f"{weights / ABOUT} says nothing of {name}, which SHA256SUMS lists. Add an entry.")
        entry, path = about[name], weights / name
        log_name = f"{name.removesuffix('.h5').removesuffix('.weights')}.log.json"
        log, results = read_json(weights / log_name), Results(reference / entry["results"])
        model_k = name.startswith("unmask_k_")
        validation = _of_k(log[-1], "val_") if model_k else _validation_of_m(log)
        test = _test_of_k(results, sha256) if model_k else _test_of_m(results, path)
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        named = f"`{name}`, {size}, SHA-256 `{sha256[:12]}`"
        rows.append([named, entry["what"], entry["data"], validation, test, f"[log]({log_name})", entry["command"]])
    head = ["File", "What", "Data", "Validation", "Test", "Log", "Command"]
    return Table("zoo", "", head, rows)


def _of_k(numbers: Mapping[str, Any], prefix: str = "") -> str:
    return f"mAP at IoU 0.5 {number(numbers[f'{prefix}map50'], 3)}, COCO's {number(numbers[f'{prefix}map'], 3)}"


def _test_of_k(results: Results, sha256: str) -> str:
    found = results.model_k()
    if found is None or found.get("weights_sha256") != sha256:
        return MISSING
    of = "boxes" if found["iou_type"] == "bbox" else "masks"
    return f"{_of_k(found)}, {of} of {found['n_images']} images"


def _validation_of_m(log: list[Mapping[str, Any]]) -> str:
    return f"accuracy {number(max(epoch['val_accuracy'] for epoch in log), 3)}"


def _test_of_m(results: Results, path: Path) -> str:
    """Accuracies of M alone and of Algorithm 1, without an attack and under attack (a mean over the attacks)."""
    with h5py.File(path, "r") as file:
        own = json.loads(file.attrs["unmask_tf"])
    key = own["architecture"], own["class_set"]
    whole = [r for r in results.grid if r.header.cell[:2] == key and r.header.defence == "algorithm1"]
    if not whole or any(r.header.threshold["value"] != own["threshold"] for r in whole):
        return MISSING
    numbers = results.accuracy.xs(key, level=("model", "class_set"))
    under = attacked(numbers).groupby(level="defence").mean()
    benign = numbers.xs(("none", 0), level=("attack", "epsilon_255"))
    parts = [f"{what} {number(benign[name])}, {number(under[name])} under attack" for name, what in _SHOWN.items()]
    return f"{'; '.join(parts)}; of {whole[0].n} images"


_SHOWN = {"none": "M", "algorithm1": "Alg. 1"}


def write_zoo(weights: Path, reference: Path) -> Path:
    """Renews the table between the markers of `zoo` in the folder's README.md; returns its path.

    Raises:
        InputError: as `zoo_table`; README.md has no such markers.
    """
    path = weights / "README.md"
    text, table = path.read_text(encoding="utf-8"), markdown(zoo_table(weights, reference))
    if not _BLOCK.search(text):
        raise InputError(f"{path} has no place for the table: <!-- zoo: begin --> and <!-- zoo: end -->.")
    write_text(path, _BLOCK.sub(lambda found: f"{found[1]}{table}{found[2]}", text))
    return path
