"""Pictures for notebooks: scenes with part masks, boxes, anchors, perturbations, the matrix V, similarities, the ROC.

Images are RGB, uint8 or float in [0, 1]; boxes are (y1, x1, y2, x2) in the image's pixels, half-open. Figures are made
without pyplot, so that nothing depends on its backend and no figure stays alive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from unmask_tf.data.synthetic import Scene, overlay
from unmask_tf.data.synthetic_shapes import hsv
from unmask_tf.taxonomy import Taxonomy

_LEVEL_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000")
_NO_LEVEL = "#E8000B"
_SMALL = 6


def grid(rows: int, columns: int, side: float = 2.4) -> tuple[Figure, np.ndarray]:
    """A figure of rows x columns panels, each `side` inches wide and high, and its axes: object (rows, columns)."""
    figure = Figure(figsize=(side * columns, side * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def show(axis: Axes, image: np.ndarray, title: str = "") -> None:
    """Shows an image (H, W, 3) without ticks; float values are cut to [0, 1]."""
    axis.imshow(image if image.dtype == np.uint8 else np.clip(image, 0, 1), interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, fontsize=8)


def part_colour(part: str, taxonomy: Taxonomy) -> tuple[float, float, float]:
    """RGB in [0, 1] of a part, the same in every picture and in `data.synthetic.overlay`."""
    position = taxonomy.parts.index(part)
    red, green, blue = hsv(position * 0.381966, 0.75 if position % 2 else 0.95, 1.0)
    return red / 255, green / 255, blue / 255


def draw_masks(
    axis: Axes, image: np.ndarray, masks: np.ndarray, names: Sequence[str], taxonomy: Taxonomy, title: str = ""
) -> None:
    """Shows an image with its part masks in colour, small parts above large ones, and a legend of the parts.

    Without a mask the image is shown as it is.

    Args:
        image: uint8 (H, W, 3).
        masks: bool (H, W, N).
        names: N part names.
        taxonomy: fixes the colours.
    """
    parts = tuple((name, masks[..., i]) for i, name in enumerate(names))
    show(axis, overlay(Scene(image, parts), taxonomy) if parts else image, title)
    present = sorted(set(names), key=taxonomy.parts.index)
    if present:
        handles = [Patch(color=part_colour(name, taxonomy), label=name) for name in present]
        axis.legend(handles=handles, fontsize=_SMALL, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def draw_boxes(
    axis: Axes,
    boxes: np.ndarray,
    names: Sequence[str],
    taxonomy: Taxonomy,
    scores: Sequence[float] | None = None,
) -> None:
    """Draws boxes with their part's name, and score where given, over what the axis shows.

    Args:
        boxes: (N, 4), pixels.
        names: N part names.
        taxonomy: fixes the colours.
        scores: N numbers in [0, 1], or None.
    """
    top, height = min(axis.get_ylim()), abs(axis.get_ylim()[1] - axis.get_ylim()[0])
    for i, (box, name) in enumerate(zip(boxes, names, strict=True)):
        colour = part_colour(name, taxonomy)
        axis.add_patch(_rectangle(box, colour, 1.2))
        text = name if scores is None else f"{name} {scores[i]:.2f}"
        # White on a dark plate can be read on every colour of part and image.
        plate = {"facecolor": "black", "edgecolor": colour, "alpha": 0.6, "pad": 0.6, "linewidth": 0.5}
        # Above the box, or inside it where the image's upper edge would cut the text off.
        side = "bottom" if box[0] - top > 0.06 * height else "top"
        axis.text(box[1], box[0], text, color="white", fontsize=_SMALL - 1, va=side, bbox=plate, clip_on=True)


def draw_anchors(axis: Axes, boxes: np.ndarray, levels: Sequence[int] | None = None) -> None:
    """Draws anchors or proposals as bare boxes; the view grows where they reach beyond the image.

    Args:
        boxes: (N, 4), pixels.
        levels: N pyramid levels (2 for P2); they get a colour and an entry in the legend. None: one colour.
    """
    for i, box in enumerate(boxes):
        colour = _NO_LEVEL if levels is None else _LEVEL_COLOURS[(levels[i] - 2) % len(_LEVEL_COLOURS)]
        axis.add_patch(_rectangle(box, colour, 0.8))
    if len(boxes):
        top, left, bottom, right = *boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)
        (x1, x2), (y2, y1) = axis.get_xlim(), axis.get_ylim()
        axis.set_xlim(min(x1, left - 1), max(x2, right))
        axis.set_ylim(max(y2, bottom), min(y1, top - 1))
    if levels is not None:
        shown = sorted(set(levels))
        handles = [Patch(color=_LEVEL_COLOURS[(n - 2) % len(_LEVEL_COLOURS)], label=f"P{n}") for n in shown]
        axis.legend(handles=handles, fontsize=_SMALL, loc="upper right")


def perturbation_panel(
    before: np.ndarray, after: np.ndarray, before_titles: Sequence[str], after_titles: Sequence[str]
) -> Figure:
    """A row per image: before, the amplified difference on grey, after.

    The difference is stretched until its largest value is black or white; the title tells the factor and the
    difference's norms in the paper's units (1/255).

    Args:
        before, after: (N, H, W, 3), both uint8 or both float in [0, 1].
        before_titles, after_titles: N titles each.
    """
    figure, axes = grid(len(before), 3)
    for row, clean, attacked, *titles in zip(axes, before, after, before_titles, after_titles, strict=True):
        scale = 255.0 if clean.dtype == np.uint8 else 1.0
        difference = attacked / scale - clean / scale
        largest = float(np.abs(difference).max())
        gain = 0.5 / largest if largest else 1.0
        norms = f"L∞ {255 * largest:.1f}, L2 {255 * np.linalg.norm(difference):.0f}"
        show(row[0], clean, titles[0])
        show(row[1], 0.5 + gain * difference, f"x{gain:.1f}: {norms}")
        show(row[2], attacked, titles[1])
    return figure


def draw_matrix(axis: Axes, taxonomy: Taxonomy, class_names: Sequence[str], highlight: Sequence[str] = ()) -> None:
    """Draws V (Table I): a row per part, a column per class, a filled cell where the class has the part.

    Args:
        taxonomy: holds V.
        class_names: the columns.
        highlight: classes whose columns are drawn dark.
    """
    matrix = taxonomy.matrix(tuple(class_names)).T.astype(float)
    strong = np.array([1.0 if name in highlight else 0.45 for name in class_names])
    axis.imshow(matrix * strong, cmap="Blues", vmin=0, vmax=1.2, aspect="auto", interpolation="nearest")
    axis.set_xticks(range(len(class_names)), class_names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(taxonomy.parts)), taxonomy.parts, fontsize=7)
    axis.set_xticks(np.arange(len(class_names)) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(taxonomy.parts)) - 0.5, minor=True)
    axis.grid(which="minor", color="#DDDDDD", linewidth=0.5)
    axis.tick_params(which="both", length=0)


def draw_bars(axis: Axes, values: Mapping[str, float], title: str = "", strong: Sequence[str] = ()) -> None:
    """Draws numbers in [0, 1], such as similarities with each class, as bars with their values.

    Args:
        values: name -> number, from top to bottom.
        strong: names whose bars are drawn dark.
    """
    colours = [_LEVEL_COLOURS[0] if name in strong else _LEVEL_COLOURS[1] for name in values]
    axis.barh(list(values), list(values.values()), color=colours)
    for i, value in enumerate(values.values()):
        axis.text(value + 0.02, i, f"{value:.2f}", va="center", fontsize=8)
    axis.set(xlim=(0, 1.15), xticks=(0, 0.5, 1))
    axis.set_title(title, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.invert_yaxis()


def draw_scores(axis: Axes, scores: np.ndarray, labels: np.ndarray, threshold: float, bins: int = 20) -> None:
    """Draws the distances d of benign and attacked images as histograms, with the threshold t between them.

    Args:
        scores: float (N,) in [0, 1].
        labels: (N,), 1 attacked, 0 benign.
    """
    kinds = ((0, "benign", _LEVEL_COLOURS[1]), (1, "attacked", _LEVEL_COLOURS[4]))
    for kind, name, colour in kinds:
        axis.hist(scores[labels == kind], np.linspace(0, 1, bins + 1), color=colour, alpha=0.6, label=name)
    axis.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"t = {threshold:.2f}")
    axis.set(xlim=(0, 1), xlabel="distance d = 1 - similarity", ylabel="images")
    axis.legend(fontsize=8, frameon=False)


def draw_roc(axis: Axes, fpr: np.ndarray, tpr: np.ndarray, points: Mapping[str, tuple[float, float]]) -> None:
    """Draws a ROC, and points on it by name.

    Args:
        fpr, tpr: float (K,), of `defense.alignment.roc_curve`.
        points: name -> (fpr, tpr).
    """
    axis.plot([0, 1], [0, 1], linestyle=":", color="#777777")
    axis.plot(fpr, tpr, color=_LEVEL_COLOURS[0])
    for (name, (x, y)), colour in zip(points.items(), _LEVEL_COLOURS[3:], strict=False):
        axis.plot(x, y, "o", color=colour, label=f"{name}: FPR {x:.1%}, TPR {y:.1%}")
    axis.set(xlabel="benign images flagged (FPR)", ylabel="attacks found (TPR)", aspect="equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(PercentFormatter(1.0))
    axis.legend(fontsize=8, loc="lower right")


def _rectangle(box: Sequence[float], colour: object, width: float) -> Rectangle:
    # imshow puts the middle of pixel (0, 0) at (0, 0), so its edge lies at -0.5.
    y1, x1, y2, x2 = (float(v) for v in box)
    return Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width)
