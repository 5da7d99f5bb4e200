"""Cases of a finished run to look at: rows/gallery.json, where the images are.

It holds images, so only that of embedded data may leave the machine.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from unmask_tf.defense.alignment import jaccard
from unmask_tf.experiment.kinds.answer import read_rows
from unmask_tf.experiment.kinds.extract import read_parts
from unmask_tf.experiment.kinds.shared import pixels
from unmask_tf.experiment.rows import RowSet
from unmask_tf.experiment.setup import Run
from unmask_tf.experiment.step import Files, Keys, Output, Step, resolve
from unmask_tf.files import HashCache, write_json

if TYPE_CHECKING:
    import numpy as np

CASES = 72
"""At most; every outcome of every attack has its turn, so that failures are shown as openly as successes."""
_SMALL = 96
"""Pixels of a side above which images are compressed more, so that a page of them stays below 10 MB."""


def write_gallery(run: Run, outputs: Mapping[Step, Output]) -> None:
    """Writes rows/gallery.json with cases of UM's answers; nothing where there are none.

    Args:
        run: the finished run.
        outputs: its answers.

    Raises:
        InputError: an image or an output cannot be read, or the folder cannot be written.
    """
    found = {step: read_rows(output) for step, output in outputs.items() if step.kind == "answer"}
    judged = {r.header.cell: r.rows["flagged"] for r in found.values() if r.header.defence == "algorithm1"}
    groups: dict[tuple, list[tuple[str, Step, int]]] = {}
    for step, r in found.items():
        if r.header.defence == "um":
            flagged = judged.get(r.header.cell, r.rows["score"] >= 0.5)
            for i, outcome in enumerate(_outcomes(r, flagged)):
                # A hash orders the images without favour; its order is every run's.
                digest = hashlib.sha256(f"{r.header.cell} {r.rows['image'][i]}".encode()).hexdigest()
                groups.setdefault((*r.header.cell[2:], outcome), []).append((digest, step, i))
    keys = Keys(HashCache(run.folder / ".hashes.json"))
    chosen = _in_turn([sorted(group, key=lambda one: one[0]) for _, group in sorted(groups.items())])
    cases = [_case(run, keys, step, found[step], i) for _, step, i in chosen]
    if cases:
        write_json(run.folder / "rows" / "gallery.json", {"cases": cases})


def _outcomes(r: RowSet, flagged: Iterable[bool]) -> list[tuple[bool, bool, bool]]:
    """Per image: M is fooled, the image is flagged, UM's answer is right."""
    return list(zip(map(bool, r.fooled), map(bool, flagged), map(bool, r.right), strict=True))


def _in_turn(groups: list[list[Any]]) -> list[Any]:
    """`CASES` of the groups, one of each in turn."""
    longest = max(map(len, groups), default=0)
    return [group[i] for i in range(longest) for group in groups if i < len(group)][:CASES]


def _case(run: Run, keys: Keys, step: Step, r: RowSet, i: int) -> dict[str, Any]:
    """One image: what M and K see of it, and what UM makes of it."""
    h, row, settings = r.header, r.rows.iloc[i], step.settings
    files: Files = step.inputs["files"]
    labels = settings.taxonomy.labels(settings.class_set)
    chunk = next(
        s for n, s in step.inputs.items() if n.startswith("parts_") and s.settings.first <= i < s.settings.last
    )
    seen = read_parts(resolve(chunk, run.folder, keys).output.path)[i - chunk.settings.first]
    clean = pixels(Files(files.root, files.names[i : i + 1]), labels, settings.size)[0]
    case = {
        "key": h.key,
        "class_set": h.class_set,
        "model": h.model,
        "attack": h.attack,
        "epsilon_255": h.epsilon_255,
        "image": row["image"],
        "true": row["true"],
        "model_answer": row["model_answer"],
        "answer": row["answer"],
        "score": row["score"],
        "expected": sorted(h.classes[row["model_answer"]]),
        "similarities": {name: jaccard(frozenset(seen), frozenset(parts)) for name, parts in h.classes.items()},
        "parts": [[part, round(of.score, 3), [list(box) for box in of.boxes[:3]]] for part, of in sorted(seen.items())],
        "size": settings.size,
        "clean": _picture(clean),
    }
    if "attack" in step.inputs:
        attacked = pixels(
            resolve(step.inputs["attack"], run.folder, keys).output, labels, settings.size, slice(i, i + 1)
        )
        added = attacked[0] - clean
        largest = float(abs(added).max())
        gain = 0.5 / largest if largest else 1.0
        case |= {"attacked": _picture(attacked[0]), "added": _picture(0.5 + gain * added), "gain": round(gain, 2)}
    return case


def _picture(image: np.ndarray) -> str:
    """An image, float (S, S, 3) in [0, 1], as the data URI of a JPEG."""
    from PIL import Image

    from unmask_tf.data.pixels import to_8bit

    buffer = io.BytesIO()
    fine = {"quality": 90, "subsampling": 0} if len(image) <= _SMALL else {"quality": 75}
    Image.fromarray(to_8bit(image.clip(0, 1))).save(buffer, "JPEG", **fine)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
