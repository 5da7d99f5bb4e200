"""Numbers and tables as text: Markdown, the console, CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from unmask_tf.files import write_text

MISSING = "-"
ENDS = ("", "_low", "_high")
"""Of the names of a number and the ends of its interval."""
# (header, rows, how many columns are aligned left) -> a table
Table = Callable[[Sequence[str], Iterable[Sequence[str]], int], str]


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with fixed decimals, or a dash where there is none."""
    if value is None or np.isnan(value):
        return MISSING
    # NumPy's own numbers round 0.925 to 0.92. Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(float(value), digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def beside(ours: float | None, paper: float | None, digits: int = 2, mark: str = "") -> str:
    """`0.31† (0.29)`: our number with its mark, the paper's in parentheses where it has one."""
    text = number(ours, digits) + mark
    return text if paper is None or np.isnan(paper) else f"{text} ({number(paper, digits)})"


def with_interval(row: Mapping[str, float], name: str, digits: int = 2, sign: bool = False) -> str:
    """`-0.85 [-0.95, -0.70]`, from a number and its `_low` and `_high`; without an interval the number alone."""
    value, low, high = (number(row[name + end], digits, sign) for end in ENDS)
    return value if low == MISSING else f"{value} [{low}, {high}]"


def span(values: Iterable[float], digits: int = 0) -> str:
    """`1 to 6`, or `6` where all are the same; a dash for none."""
    texts = [number(value, digits) for value in sorted(values)] or [MISSING]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---" if i < left else "---:" for i in range(len(header))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2) -> str:
    """A plain-text table for the console, aligned as `markdown` aligns."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    cells = ([f"{c:{'<' if i < left else '>'}{widths[i]}}" for i, c in enumerate(line)] for line in lines)
    return "".join("  ".join(line).rstrip() + "\n" for line in cells)


def csv(frame: pd.DataFrame) -> str:
    """The frame as CSV with four decimals and an empty field for a missing number: same frame, same bytes."""
    budgets = {name: [f"{value:.10g}" for value in frame[name]] for name in frame if name == "epsilon_255"}
    return frame.assign(**budgets).to_csv(index=False, float_format="%.4f", lineterminator="\n")


def write_files(folder: Path, contents: Mapping[str, str | pd.DataFrame]) -> list[Path]:
    """Writes texts, and frames as CSV, by file name; returns their paths.

    Raises:
        InputError: the folder cannot be written.
    """
    for name, content in contents.items():
        write_text(folder / name, content if isinstance(content, str) else csv(content))
    return [folder / name for name in contents]
