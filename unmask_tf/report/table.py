"""Tables: rows of texts and numbers; a number has the paper's beside it, the difference, and a 95 % interval.

One `Table` is written as Markdown, CSV, LaTeX and plain text, and shown in report.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from unmask_tf.files import write_text

MISSING = "-"
_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"∞": r"$\infty$", "ε": r"$\varepsilon$", "†": r"$^\dagger$", "≥": r"$\geq$", "✓": "x"},
}
_TEX_BREAK = r" \\ "
_TEX_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"
_TEX_LINE = 60
"""Longer texts, in characters, are set in several lines."""


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with fixed decimals, or a dash where there is none."""
    if value is None or np.isnan(value):
        return MISSING
    # NumPy's own numbers round 0.925 to 0.92. Adding 0.0 turns a rounded -0.0 into 0.0.
    return f"{round(float(value), digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def beside(ours: float | None, paper: float | None, digits: int = 2) -> str:
    """`0.31 (0.29)`: ours, and the paper's in parentheses where it has one."""
    there = number(paper, digits)
    return number(ours, digits) + (f" ({there})" if there != MISSING else "")


def span(values: Iterable[float], digits: int = 0) -> str:
    """`1 to 6`, or `6` where all are the same; a dash for none."""
    texts = [number(value, digits) for value in sorted(values)] or [MISSING]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


@dataclass(frozen=True)
class Number:
    """A cell.

    Attributes:
        ours, paper: None or NaN: there is none.
        interval: ours' 95 % interval, low and high.
        digits, sign: how it is shown.
        mark: a dagger where the number says little.
    """

    ours: float | None
    paper: float | None = None
    interval: tuple[float, float] | None = None
    digits: int = 2
    sign: bool = False
    mark: str = ""

    @property
    def has_paper(self) -> bool:
        return self.paper is not None and not np.isnan(self.paper)

    @property
    def difference(self) -> float:
        """ours - paper; NaN where one is lacking."""
        return float("nan") if self.ours is None or self.paper is None else float(self.ours - self.paper)

    def __str__(self) -> str:
        """`0.31† [0.22, 0.42]`"""
        show = partial(number, digits=self.digits, sign=self.sign)
        text = show(self.ours) + self.mark
        if self.interval is None or np.isnan(self.interval).any() or text == MISSING:
            return text
        return f"{text} [{', '.join(map(show, self.interval))}]"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files, without a suffix.
        title: what it shows.
        head: titles of the columns.
        rows: a text or a `Number` a column.
        notes: what has to be known to read it.
        bundle: whose rows its numbers are made from, which says of what data they are.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Number]]
    notes: Sequence[str] = ()
    bundle: str = "grid"

    def _columns(self) -> Iterator[tuple[str, list[str | Number], list[Number]]]:
        """Title, cells, and the cells as numbers, of which a column of texts has none."""
        for i, title in enumerate(self.head):
            cells = [row[i] for row in self.rows]
            numeric = any(isinstance(cell, Number) for cell in cells)
            yield title, cells, [c if isinstance(c, Number) else Number(None) for c in cells] if numeric else []

    def texts(self) -> tuple[list[str], list[list[str]], list[bool]]:
        """Header, rows, and which columns hold numbers; the paper's and the differences have columns of their own."""
        found = []
        for title, cells, numbers in self._columns():
            found.append((title, bool(numbers), [str(cell) for cell in cells]))
            if any(n.has_paper for n in numbers):
                found.append((f"{title}: paper", True, [number(n.paper, n.digits, n.sign) for n in numbers]))
                found.append((f"{title}: difference", True, [number(n.difference, n.digits, True) for n in numbers]))
        titles, numeric, texts = zip(*found, strict=True)
        return list(titles), [list(row) for row in zip(*texts, strict=True)], list(numeric)

    def frame(self) -> pd.DataFrame:
        """The numbers unrounded; columns for ours and, where there are any, low, high, paper, difference, mark."""
        found: dict[str, list] = {}
        for title, cells, numbers in self._columns():
            if not numbers:
                found[title] = cells
                continue
            whole = all(n.digits == 0 and n.ours is not None and not np.isnan(n.ours) for n in numbers)
            found[title] = [int(n.ours) if whole else n.ours for n in numbers]
            if any(n.interval for n in numbers):
                for i, end in enumerate(("low", "high")):
                    found[f"{title} {end}"] = [n.interval[i] if n.interval else None for n in numbers]
            if any(n.has_paper for n in numbers):
                found[f"{title} paper"] = [n.paper for n in numbers]
                found[f"{title} difference"] = [n.difference for n in numbers]
            if any(n.mark for n in numbers):
                found[f"{title} mark"] = [n.mark for n in numbers]
        return pd.DataFrame(found)


def markdown(table: Table) -> str:
    """Numbers are aligned right; the notes follow."""
    head, rows, numeric = table.texts()
    lines = [head, ["---:" if right else "---" for right in numeric], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "".join(f"\n{note}\n" for note in table.notes)


def plain(table: Table) -> str:
    """For the console, without the notes."""
    head, rows, numeric = table.texts()
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    cells = (
        [f"{c:{'>' if right else '<'}{w}}" for c, w, right in zip(line, widths, numeric, strict=True)] for line in lines
    )
    return "".join("  ".join(line).rstrip() + "\n" for line in cells)


def latex(table: Table, data: str) -> str:
    """A `table` for LaTeX, no wider than a line; it needs the package graphicx, and its caption tells the data."""

    def escaped(text: str) -> str:
        return "".join(_TEX.get(c, c) for c in text)

    def row(cells: Iterable[str]) -> str:
        return " & ".join(cells) + " \\\\\n"

    def title(text: str) -> str:
        lines = [escaped(line) for line in text.split(": ")]  # `UM: paper` stands in two lines
        return lines[0] if len(lines) == 1 else f"\\shortstack{{{_TEX_BREAK.join(lines)}}}"

    head, rows, numeric = table.texts()
    caption = escaped(f"{table.title} ({data})".replace("`", ""))
    body = "".join(row([escaped(cell) for cell in cells]) for cells in rows)
    longest = [max((len(cells[i]) for cells in rows), default=0) for i in range(len(head))]
    columns = "".join(
        "r" if right else "l" if length <= _TEX_LINE else f"p{{{_TEX_LINE // 2}em}}"
        for right, length in zip(numeric, longest, strict=True)
    )
    return (
        "% \\usepackage{graphicx}\n"
        f"\\begin{{table}}\n\\caption{{{caption}}}\n\\footnotesize\\setlength{{\\tabcolsep}}{{3pt}}\n"
        f"{_TEX_FIT}{{\\begin{{tabular}}{{{columns}}}\n"
        f"\\hline\n{row(map(title, head))}\\hline\n{body}\\hline\n"
        "\\end{tabular}}\n\\end{table}\n"
    )


def csv(table: Table, data: str) -> str:
    """With four decimals and an empty field for a missing number; the first column tells the data."""
    frame = table.frame()
    frame.insert(0, "data", data.replace("`", ""))
    return frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def write_table(table: Table, folder: Path, data: str) -> list[Path]:
    """Writes `<name>.md`, `.csv` and `.tex`; returns their paths.

    Args:
        data: whose numbers these are, for captions.

    Raises:
        InputError: the folder cannot be written.
    """
    texts = {
        "md": f"**{table.title}** ({data})\n\n{markdown(table)}",
        "csv": csv(table, data),
        "tex": latex(table, data),
    }
    for suffix, text in texts.items():
        write_text(folder / f"{table.name}.{suffix}", text)
    return [folder / f"{table.name}.{suffix}" for suffix in texts]
