"""Tables II, III, IV and the AUCs, from records alone, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unmask_tf.defense.alignment import auc
from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_text
from unmask_tf.reproduce.cells import (
    AUC_COLUMNS,
    CELL_COLUMNS,
    CLASS_SET_ORDER,
    DEFENCE_LABELS,
    DEFENCES,
    TABLE4_COLUMNS,
    Cell,
    attack_label,
    axes,
    by_cell,
    cell_of,
    class_set_label,
    frame_of,
    model_label,
    order_of,
)
from unmask_tf.reproduce.published import Published
from unmask_tf.reproduce.records import Record
from unmask_tf.reproduce.soundness import failed_checks, unsound_notes
from unmask_tf.taxonomy import Taxonomy

MISSING = "-"


def table2(taxonomy: Taxonomy, class_sets: Sequence[str]) -> pd.DataFrame:
    """Table II's columns that follow from the taxonomy.

    Returns:
        Columns class_set, classes, parts (unique), shared (by two or more classes), overlap_percent.

    Raises:
        InputError: unknown class set.
    """
    rows = [
        {
            "class_set": name,
            "classes": len(taxonomy.members(name)),
            "parts": len(taxonomy.unique_parts(name)),
            "shared": len(taxonomy.shared_parts(name)),
            "overlap_percent": taxonomy.overlap(name),
        }
        for name in class_sets
    ]
    return pd.DataFrame(rows, columns=["class_set", "classes", "parts", "shared", "overlap_percent"])


def table4(records: Sequence[Record]) -> pd.DataFrame:
    """Table IV: one row per (model, class set, attack, epsilon), accuracies as fractions; attack `none` is benign.

    Returns:
        Columns `TABLE4_COLUMNS`, rows in the paper's order; NaN where a cell has no record.

    Raises:
        InputError: the defences of a row were scored on different numbers of images.
    """
    rows: dict[Cell, dict[str, Any]] = {}
    for record in records:
        cell = cell_of(vars(record.key))
        row = rows.setdefault(cell, {**dict(zip(CELL_COLUMNS, cell, strict=True)), "n": record.n})
        if row["n"] != record.n:
            raise InputError(
                f"{record.key.file_name} was scored on {record.n} images, another defence of its row on {row['n']}. "
                "Delete the records of that row, then run again."
            )
        row[record.key.defence] = record.accuracy
    return frame_of(rows.values(), TABLE4_COLUMNS)


def auc_table(records: Sequence[Record]) -> pd.DataFrame:
    """AUC of the detection (Figure 5) per attacked cell.

    Returns:
        Columns `AUC_COLUMNS`, rows in the paper's order; n counts the images evaluated, attacked ones and their
        benign twins (Table III); auc is NaN where no attack succeeded.
    """
    return frame_of(
        (
            {
                **dict(zip(CELL_COLUMNS, cell_of(vars(record.key)), strict=True)),
                "n": 2 * record.pairs,
                "auc": auc(record.detection_scores, record.detection_labels) if record.pairs else float("nan"),
            }
            for record in records
            if record.detection_scores is not None
        ),
        AUC_COLUMNS,
    )


@dataclass(frozen=True)
class Means:
    """Means over the attacked cells of Table IV, in percent points; None where no cell has the numbers needed.

    Attributes:
        none, at, um: mean accuracies over the cells that have them.
        um_minus_at, um_minus_none: mean differences over the cells that have both.
    """

    none: float | None
    at: float | None
    um: float | None
    um_minus_at: float | None
    um_minus_none: float | None


def means(table: pd.DataFrame) -> Means:
    """The paper's headline numbers, from a `table4` (ours or the paper's)."""
    attacked = table[table["attack"] != "none"]
    return Means(
        *(_points(attacked[name]) for name in DEFENCES),
        um_minus_at=_points(attacked["um"] - attacked["at"]),
        um_minus_none=_points(attacked["um"] - attacked["none"]),
    )


def _points(values: pd.Series) -> float | None:
    values = values.dropna()
    return 100.0 * float(np.mean(values)) if len(values) else None


def class_set_means(table: pd.DataFrame) -> dict[str, Means]:
    """Figure 4: class set -> means over attacks, strengths and models, in the paper's order."""
    names = sorted(table["class_set"].unique(), key=lambda name: order_of(name, CLASS_SET_ORDER))
    return {name: means(table[table["class_set"] == name]) for name in names}


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with fixed decimals, or a dash where there is none."""
    if value is None or np.isnan(value):
        return MISSING
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def beside(ours: float | None, paper: float | None, digits: int = 2, mark: str = "") -> str:
    """`0.31† (0.29)`: our number with its mark, the paper's in parentheses where it has one."""
    text = number(ours, digits) + mark
    return text if paper is None or np.isnan(paper) else f"{text} ({number(paper, digits)})"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---" if i < left else "---:" for i in range(len(header))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2) -> str:
    """A plain-text table for the console, aligned as `markdown` aligns."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "".join(
        "  ".join(f"{cell:{'<' if i < left else '>'}{widths[i]}}" for i, cell in enumerate(line)).rstrip() + "\n"
        for line in lines
    )


def table4_markdown(records: Sequence[Record], published: Published) -> str:
    """Table IV in the paper's shape: one block of PGD, one of MIA, each beginning with the benign accuracies.

    The paper's number stands in parentheses where the paper has the cell. A dagger marks a number as unsound: its
    attack failed a check; the checks are named below.
    """
    ours, paper, failed = by_cell(table4(records)), by_cell(published.table4), failed_checks(records)
    attacks = [attack for attack in axes(ours)[1] if attack[0] != "none"]
    blocks = [[a for a in attacks if a[0].startswith(family)] for family in ("pgd", "mia")]
    blocks.append([a for a in attacks if not a[0].startswith(("pgd", "mia"))])
    text = "\n".join(
        _block([("none", 0), *block], ours, paper, failed)
        for i, block in enumerate(blocks)
        if block or (i == 0 and not attacks)
    )
    text += "\nOurs, with the paper's number in parentheses where the paper has that model and class set.\n"
    return text + _notes(records)


def _notes(records: Sequence[Record]) -> str:
    return "".join(f"\n† {note}\n" for note in unsound_notes(records))


_LEGEND = "\n† unsound: the attack failed a check, which stands below Table IV.\n"


def _block(attacks: Sequence[tuple[str, float]], ours: Mapping, paper: Mapping, failed: Mapping) -> str:
    header = ["M", "CS"]
    for attack in attacks:
        header += [attack_label(*attack), "", ""]
    rows = [["", "", *(f"**{DEFENCE_LABELS[d]}**" for _ in attacks for d in DEFENCES)]]
    for setup in axes(ours)[0]:
        row = [model_label(setup[0]), class_set_label(setup[1])]
        for attack in attacks:
            cell = (*setup, *attack)
            row += [
                beside(
                    ours.get(cell, {}).get(defence),
                    paper.get(cell, {}).get(defence),
                    mark=_mark(failed, cell, defence),
                )
                for defence in DEFENCES
            ]
        rows.append(row)
    return markdown(header, rows)


def auc_markdown(records: Sequence[Record], published: Published) -> str:
    """AUCs, a row per model and class set, a column per attack and budget; the paper's in parentheses.

    A dagger marks a cell whose attack is unsound.
    """
    ours, paper, failed = by_cell(auc_table(records)), by_cell(published.auc), failed_checks(records)
    setups, attacks = axes(ours)
    rows = []
    for setup in setups:
        row = [model_label(setup[0]), class_set_label(setup[1])]
        for attack in attacks:
            values = (table.get((*setup, *attack), {}).get("auc") for table in (ours, paper))
            row.append(beside(*values, digits=3, mark=_mark(failed, (*setup, *attack))))
        rows.append(row)
    text = markdown(["M", "CS", *(attack_label(*attack) for attack in attacks)], rows)
    return text + (_LEGEND if "†" in text else "")


def _mark(failed: Mapping, cell: Cell, defence: str = "um") -> str:
    return "†" if (cell, defence) in failed else ""


def table3_markdown(records: Sequence[Record], published: Published) -> str:
    """Table III: images evaluated for detection, successful attacks and their benign twins.

    The paper gives one number per class set and attack, of epsilon 16 or 600, without naming the model.
    """
    ours, failed = by_cell(auc_table(records)), failed_checks(records)
    setups, attacks = axes(ours)
    rows = []
    for model, class_set in setups:
        row = [model_label(model), class_set_label(class_set)]
        for attack, epsilon in attacks:
            count = ours.get((model, class_set, attack, epsilon), {}).get("n")
            paper = published.table3.get(class_set, {}).get(attack) if epsilon in (16, 600) else None
            shown = MISSING if count is None else str(count) + _mark(failed, (model, class_set, attack, epsilon))
            row.append(shown + ("" if paper is None else f" ({paper})"))
        rows.append(row)
    text = markdown(["M", "CS", *(attack_label(*attack) for attack in attacks)], rows)
    return text + (_LEGEND if "†" in text else "")


def table2_markdown(records: Sequence[Record], taxonomy: Taxonomy, published: Published) -> str:
    """Table II for the class sets of the records: classes, parts, overlap and test images, the paper's beside them."""
    tested = {record.key.class_set: record.n for record in records}
    class_sets = sorted(tested, key=lambda name: order_of(name, CLASS_SET_ORDER))
    rows = []
    for row in table2(taxonomy, class_sets).to_dict("records"):
        paper = published.table2.get(row["class_set"], {})
        rows.append(
            [
                class_set_label(row["class_set"]),
                beside(row["classes"], paper.get("classes"), digits=0),
                beside(row["parts"], paper.get("parts"), digits=0),
                beside(row["shared"], None, digits=0),
                beside(row["overlap_percent"], paper.get("overlap_percent")),
                beside(tested[row["class_set"]], paper.get("flickr_test"), digits=0),
            ]
        )
    return markdown(["CS", "Classes", "Parts", "Shared parts", "Overlap %", "Test images"], rows, left=1)


def csv(frame: pd.DataFrame) -> str:
    """The frame as CSV with four decimals and an empty field for a missing number: same frame, same bytes."""
    as_text = frame.assign(epsilon_255=[f"{epsilon:.10g}" for epsilon in frame["epsilon_255"]])
    return as_text.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def write_tables(records: Sequence[Record], folder: str | Path, taxonomy: Taxonomy, published: Published) -> list[Path]:
    """Writes table2.md, table3.md, table4.csv, table4.md, auc.csv and auc.md into `folder`; returns their paths."""
    texts = {
        "table2.md": table2_markdown(records, taxonomy, published),
        "table3.md": table3_markdown(records, published),
        "table4.csv": csv(table4(records)),
        "table4.md": table4_markdown(records, published),
        "auc.csv": csv(auc_table(records)),
        "auc.md": auc_markdown(records, published),
    }
    paths = []
    for name, text in texts.items():
        paths.append(Path(folder) / name)
        write_text(paths[-1], text)
    return paths


def read_model_k(results: str | Path) -> dict[str, Any] | None:
    """K's evaluation of a run: results/<profile>/model_k.json, or None where there is none.

    Returns:
        The file's content, with `map50` and `map` as fractions and perhaps `per_part`, part name -> AP at IoU 0.5.

    Raises:
        InputError: the file is damaged, or lacks one of the two numbers.
    """
    path = Path(results) / "model_k.json"
    if not path.exists():
        return None
    content = read_json(path)
    for name in ("map50", "map"):
        value = content.get(name) if isinstance(content, dict) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InputError(f"{path}: '{name}' is {value!r}; a number in [0, 1] was expected. Evaluate K again.")
    return content
