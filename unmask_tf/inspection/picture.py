"""One picture of an image that was looked at, after the paper's Figure 1: photograph, parts, alignment, verdict.

Colours are Okabe and Ito's, and the groups also differ by their lines: what agrees is solid blue, what K sees
unexpectedly is dashed vermilion, and what it does not see is grey text.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from unmask_tf.defense.unmask import Verdict
from unmask_tf.files import atomic_path
from unmask_tf.inspection.system import Look

AGREES, UNEXPECTED, MISSING = "#0072B2", "#D55E00", "#8A8A8A"
_INK, _BAR = "#222222", "#C9C9C9"
_STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": "#555555", "axes.linewidth": 0.8}
_DPI = 110
_BOXES = 3  # drawn of a part: more than that hide the photograph
_LABELS = 17  # one above the other in a margin
_THUMBNAIL = 480
_HEIGHT, _PHOTO, _VIEW = 7.6, 3.0, 5.7  # inches
_ALIGNED = 62  # letters of a line of part names


def draw(look: Look, name: str, threshold: float, attack: str = "", captions: Sequence[str] = ()) -> Figure:
    """The picture: the photograph, what the system makes of it, and beside that of the attacked image, if there is one.

    Args:
        look: the image.
        name: the file's.
        threshold: t, a distance.
        attack: says how it was attacked.
        captions: lines below the photograph: who looked.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        views = [("As it is", look.seen, look.benign)]
        if look.verdict is not None and look.attacked is not None:
            views.append((f"Attacked: {attack}", look.attacked, look.verdict))
        width = _PHOTO + _VIEW * len(views)
        figure = Figure(figsize=(width, _HEIGHT), facecolor="white")
        FigureCanvasAgg(figure)
        _draw_photo(figure, look, name, captions, width)
        for i, (title, pixels, verdict) in enumerate(views):
            _draw_view(figure, (_PHOTO + i * _VIEW) / width, _VIEW / width, title, pixels, verdict, threshold)
        return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes a PNG.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    return path


def _axis(figure: Figure, left: float, width: float, bottom: float, height: float) -> Axes:
    """Left and width are shares of the figure, bottom and height inches."""
    return figure.add_axes((left, bottom / _HEIGHT, width, height / _HEIGHT))


def _draw_photo(figure: Figure, look: Look, name: str, captions: Sequence[str], width: float) -> None:
    """The whole photograph with the square that M and K see, and what the attack added to that."""
    left, wide = 0.2, 2.5
    figure.text(left / width, 7.25 / _HEIGHT, _shortened(name, 30), fontsize=11, weight="bold", color=_INK)
    height, breadth = look.photo.shape[:2]
    high = wide * min(1.25, max(0.4, height / breadth))
    axis = _axis(figure, left / width, wide / width, 7.1 - high, high)
    scale = min(1.0, _THUMBNAIL / max(height, breadth))
    small = Image.fromarray(look.photo).resize((max(1, round(breadth * scale)), max(1, round(height * scale))))
    axis.imshow(np.asarray(small), extent=(0, breadth, height, 0), interpolation="bilinear")
    axis.set(anchor="NW")
    axis.set_axis_off()
    side = min(height, breadth)
    style = {"fill": False, "edgecolor": "white", "linewidth": 1.2, "linestyle": (0, (4, 2)), "clip_on": False}
    square = Rectangle(((breadth - side) / 2, (height - side) / 2), side, side, **style)
    square.set_path_effects([withStroke(linewidth=2.6, foreground=_INK)])
    axis.add_patch(square)
    size = len(look.seen)
    lines = [f"{breadth} x {height} pixels. M and K see the marked", f"square, at {size} x {size} pixels.", *captions]
    style = {"fontsize": 8, "color": "#555555", "va": "top", "linespacing": 1.4}
    figure.text(left / width, (6.95 - high) / _HEIGHT, "\n".join(lines), **style)
    if look.attacked is not None:
        difference = look.attacked - look.seen / np.float32(255)
        largest = float(np.abs(difference).max())
        gain = 0.5 / largest if largest else 0.0
        axis = _axis(figure, left / width, 2.1 / width, 0.5, 2.1)
        axis.imshow(0.5 + gain * difference, interpolation="nearest")
        axis.set_axis_off()
        added = f"What the attack added, x{gain:.0f}" if gain else "The attack added nothing."
        figure.text(left / width, 2.85 / _HEIGHT, added, **style)


def _draw_view(
    figure: Figure, left: float, width: float, title: str, pixels: np.ndarray, verdict: Verdict, threshold: float
) -> None:
    """What M says, K's boxes, the aligned parts, the similarities and the verdict."""
    inch = width / _VIEW
    colour = UNEXPECTED if verdict.adversarial else AGREES
    centre = left + 2.75 * inch
    figure.text(centre, 7.25 / _HEIGHT, title, fontsize=11, weight="bold", color=_INK, ha="center")
    figure.text(centre, 6.92 / _HEIGHT, judgement(verdict), fontsize=10.5, weight="bold", color=colour, ha="center")
    axis = _axis(figure, left + 1.0 * inch, 3.5 * inch, 3.25, 3.5)
    axis.imshow(pixels, interpolation="bilinear")
    axis.set_axis_off()
    _draw_parts(axis, verdict, len(pixels))
    _write_parts(_axis(figure, left + 0.35 * inch, 4.95 * inch, 1.9, 1.2), verdict)
    _draw_similarities(_axis(figure, left + 1.0 * inch, 3.2 * inch, 0.5, 1.15), verdict, threshold)


def judgement(verdict: Verdict) -> str:
    """The verdict in words."""
    if not verdict.adversarial:
        return f"M says {verdict.predicted_class}: benign"
    corrected = f"the parts say {verdict.final_class}" if verdict.final_class else "the parts fit no class"
    return f"M says {verdict.predicted_class}: adversarial; {corrected}"


def _draw_parts(axis: Axes, verdict: Verdict, side: int) -> None:
    """K's boxes, and in the margins the part's name with the highest score."""
    halo = [withStroke(linewidth=3.0, foreground="white")]
    margins: dict[bool, list[tuple[float, str]]] = {True: [], False: []}  # height and part; left first
    for part, seen in verdict.extraction.items():
        for i, (y1, x1, y2, x2) in enumerate(seen.boxes[:_BOXES]):
            box = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, **_line(part, verdict))
            box.set(linewidth=1.4 if i == 0 else 0.7, path_effects=halo if i == 0 else [])
            axis.add_patch(box)
        y1, x1, y2, x2 = seen.boxes[0]
        left = x1 + x2 < side
        if len(margins[left]) == _LABELS:
            left = not left
        margins[left].append(((y1 + y2) / 2, part))
    for left, labels in margins.items():
        labels.sort()
        places = spread([height for height, _ in labels], side / _LABELS, 0.0, side)
        for (height, part), place in zip(labels, places, strict=True):
            seen, colour = verdict.extraction[part], _line(part, verdict)["edgecolor"]
            start, end, text = (
                (seen.boxes[0][1], -0.03 * side, -0.05 * side) if left else (seen.boxes[0][3], 1.01 * side, 1.03 * side)
            )
            axis.plot([start - 0.5, end], [height, place], color=colour, linewidth=0.6, clip_on=False)
            style = {"fontsize": 7.5, "ha": "right" if left else "left", "va": "center"}
            axis.text(text, place, f"{part} {seen.score:.2f}", color=colour, **style)
    axis.set_xlim(-0.5, side - 0.5)
    axis.set_ylim(side - 0.5, -0.5)


def _line(part: str, verdict: Verdict) -> dict[str, Any]:
    """Colour and line of a part's box."""
    if part in verdict.expected_parts:
        return {"edgecolor": AGREES, "linestyle": "-"}
    return {"edgecolor": UNEXPECTED, "linestyle": (0, (3, 1.5))}


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, as near to the wanted ones (rising) as can be in least squares.

    They lie in [low, high] where they all fit into it; otherwise they start at `low`.
    """
    # Without the gaps they need only rise: neighbours that do not are pooled to their mean.
    pools: list[list[float]] = []
    for i, value in enumerate(wanted):
        pools.append([value - i * gap])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [_mean(pool) for pool in pools for _ in pool]
    highest = high - (len(wanted) - 1) * gap
    return [max(low, min(value, highest)) + i * gap for i, value in enumerate(level)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _write_parts(axis: Axes, verdict: Verdict) -> None:
    """Expected against extracted parts, group by group."""
    axis.set(xlim=(0, 1), ylim=(1, 0))
    axis.set_axis_off()
    seen, expected = verdict.extracted_parts, verdict.expected_parts
    groups = [
        (f"Expected of a {verdict.predicted_class} and seen", expected & seen, AGREES),
        ("Expected, not seen", expected - seen, MISSING),
        ("Seen, not expected", seen - expected, UNEXPECTED),
    ]
    line = 0.0
    for title, parts, colour in groups:
        text = f"{title} ({len(parts)}): {', '.join(sorted(parts)) or '-'}"
        lines = textwrap.wrap(text, _ALIGNED + 14)
        axis.text(0, line, "\n".join(lines), color=colour, fontsize=8.5, va="top", linespacing=1.3)
        line += 0.14 * len(lines) + 0.06


def _draw_similarities(axis: Axes, verdict: Verdict, threshold: float) -> None:
    """The Jaccard similarity with every class's parts; M's is compared with the threshold."""
    names, limit = list(verdict.scores), 1.0 - threshold
    colour = UNEXPECTED if verdict.adversarial else AGREES
    halo = [withStroke(linewidth=2.0, foreground="white")]
    for i, name in enumerate(names):
        own, corrected = name == verdict.predicted_class, verdict.adversarial and name == verdict.final_class
        axis.barh(i, verdict.scores[name], 0.62, color=colour if own else AGREES if corrected else _BAR)
        note = f"{verdict.scores[name]:.2f}{'  what M says' * own}{'  corrected class' * corrected}"
        style = {"fontsize": 8, "color": _INK, "weight": "bold" if own or corrected else "normal", "va": "center"}
        axis.text(verdict.scores[name] + 0.012, i, note, path_effects=halo, **style)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(length=0, labelsize=8)
    above, label = max(limit, 0.0), "this threshold doubts no image"
    if limit >= 0:
        axis.axvspan(0, limit, color=UNEXPECTED, alpha=0.10, linewidth=0, zorder=0)
        axis.axvline(limit, color=_INK, linestyle="--", linewidth=1.0, zorder=1.5)
        label = f"threshold {limit:.2f}: M is doubted at or below it"
    axis.text(above, -0.62, label, fontsize=7.5, color=_INK, va="bottom", ha="left" if above < 0.5 else "right")
    axis.set_xlabel("similarity of the seen parts with each class's (Jaccard)", fontsize=8)


def _shortened(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 4]}...{text[-1:]}"
