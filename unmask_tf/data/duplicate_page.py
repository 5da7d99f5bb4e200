"""A page of near-duplicate pairs, with thumbnails, for a person to judge."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from unmask_tf.data.images import read_image
from unmask_tf.files import write_bytes, write_text

MAX_PICTURED = 500
_SIDE = 200


def write_page(folder: str | Path, pairs: Iterable[tuple[Path, Path, int]], title: str) -> list[Path]:
    """Writes pairs.csv (all pairs) and index.html (the nearest `MAX_PICTURED`, with thumbnails inside the file).

    The thumbnails show the user's photographs: keep the folder out of version control.

    Args:
        folder: where to write.
        pairs: two image files and the number of bits in which their hashes differ.
        title: heading of the page.
    """
    pairs = sorted(pairs, key=lambda pair: (pair[2], pair[0], pair[1]))
    table = io.StringIO()
    csv.writer(table).writerows([("bits", "first", "second"), *((bits, str(a), str(b)) for a, b, bits in pairs)])
    paths = [Path(folder) / "pairs.csv", Path(folder) / "index.html"]
    write_bytes(paths[0], table.getvalue().encode("utf-8"))
    write_text(paths[1], _html(pairs[:MAX_PICTURED], len(pairs), title))
    return paths


def _html(pairs: Sequence[tuple[Path, Path, int]], count: int, title: str) -> str:
    rows = "".join(f"<tr><td>{bits}</td>{_cell(a)}{_cell(b)}</tr>\n" for a, b, bits in pairs)
    shown = f", the nearest {len(pairs)} of which are shown" if len(pairs) < count else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        "<style>td{padding:.5em;vertical-align:top;font:small sans-serif}</style>"
        f"<h1>{escape(title)}</h1><p>{count} pairs{shown}; the first column is the number of bits that differ.</p>"
        f"<table>\n{rows}</table></html>\n"
    )


def _cell(path: Path) -> str:
    image, file = Image.fromarray(read_image(path)), io.BytesIO()
    size = f"{image.width} x {image.height}"
    image.thumbnail((_SIDE, _SIDE))
    image.save(file, "JPEG", quality=80)
    picture = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<td><img alt="" src="data:image/jpeg;base64,{picture}"><br>{escape(str(path))}<br>{size}</td>'
