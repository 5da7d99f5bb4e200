"""Figures 2 to 5 from records alone: the same records give the same PNG bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unmask_tf.defense.alignment import auc, roc_curve
from unmask_tf.files import atomic_path
from unmask_tf.reproduce.cells import (
    CLASS_SET_ORDER,
    DEFENCE_LABELS,
    DEFENCES,
    MODEL_ORDER,
    attack_label,
    axes,
    by_cell,
    cell_of,
    class_set_label,
    model_label,
    order_of,
)
from unmask_tf.reproduce.line_search import BENIGN, Point, by_setup, choose, read_searches
from unmask_tf.reproduce.line_search_tables import stem
from unmask_tf.reproduce.published import Published
from unmask_tf.reproduce.records import Record
from unmask_tf.reproduce.tables import beside, class_set_means, table4

# Okabe and Ito's palette: told apart with every common colour blindness. CS5a is dark orange and CS3b light blue, as
# in the paper.
_CLASS_SET_COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00")
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#000000", "#7F7F7F")
_DEFENCE_COLOURS = {"none": "#999999", "at": "#E69F00", "um": "#0072B2"}
# Light to dark with rising epsilon.
_EPSILON_COLOURS = ("#DCE9F5", "#B3D0E8", "#7FB3D9", "#4A90C2", "#1F6AA5", "#0B3C68")
_MODEL_LINES = ("-", (0, (4, 1.5)))
_OTHER_LINES = ((0, (1, 1)), (0, (4, 1.5, 1, 1.5)))

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.9,
    "legend.fancybox": False,
}
_DPI = 150
_PAPER = "paper"


def figure2(points: Sequence[Point], path: str | Path, published: Published) -> None:
    """Writes Figure 2: validation accuracy of M over the epsilon of its adversarial training.

    A row per architecture; columns: benign images, PGD-Linf (mean over its strengths), the mean of both; a line per
    class set, with a ring on the chosen epsilon. The paper's choice is the vertical line. (Its Figure 2 comes without
    numbers in the text; what it plots follows from Section IV-A.)

    Args:
        points: a line search's records, at least one.
        path: the PNG to write.
        published: the paper's numbers.

    Raises:
        InputError: the file cannot be written.
    """
    setups = by_setup(points)
    models = list(dict.fromkeys(model for _, model in setups))
    colours = _styles([name for name, _ in setups], CLASS_SET_ORDER, _CLASS_SET_COLOURS, _OTHER_COLOURS)
    pgd = [vector for vector in points[0].vectors if vector[0] == "pgd_linf"]
    columns = {"Benign": lambda p: p.accuracy(BENIGN)}
    if pgd:
        columns["PGD-L∞"] = lambda p: float(np.mean([p.accuracy(vector) for vector in pgd]))
        columns["Mean of both"] = lambda p: (columns["Benign"](p) + columns["PGD-L∞"](p)) / 2
    epsilons = sorted({p.epsilon_255 for p in points})

    with _style():
        figure = _new_figure(3.0 * len(columns) + 0.6, 2.6 * len(models) + 0.5)
        grid = figure.subplots(len(models), len(columns), sharex=True, sharey=True, squeeze=False)
        for axes_row, model in zip(grid, models, strict=True):
            for axis, (title, value) in zip(axes_row, columns.items(), strict=True):
                if published.selected_epsilon in epsilons:
                    at = epsilons.index(published.selected_epsilon)
                    axis.axvline(at, color="#777777", linestyle=":", linewidth=1.4, label="the paper's choice")
                for (class_set, own), group in setups.items():
                    if own != model:
                        continue
                    x, y = [epsilons.index(p.epsilon_255) for p in group], [100 * value(p) for p in group]
                    axis.plot(
                        x, y, color=colours[class_set], marker="o", markersize=4, label=class_set_label(class_set)
                    )
                    chosen = [p.epsilon_255 for p in group].index(choose(group).epsilon_255)
                    axis.plot(x[chosen], y[chosen], "o", markersize=10, fillstyle="none", color=colours[class_set])
                axis.set_title(f"{model_label(model)}: {title}", fontsize=9.5)
                axis.set(ylim=(-3, 103), xlim=(-0.4, len(epsilons) - 0.6))
                axis.set_xticks(range(len(epsilons)), [f"{e:g}" for e in epsilons])
        for axis in grid[-1]:
            axis.set_xlabel("ε of adversarial training (1/255)")
        for axis in grid[:, 0]:
            axis.set_ylabel("Validation accuracy (%)")
        grid[0, 0].plot([], [], "o", markersize=10, fillstyle="none", color="#777777", label="our choice")
        _legend_above(figure, grid[0, 0])
        _save(figure, path)


def figure3(points: Sequence[Point], path: str | Path, published: Published) -> None:
    """Writes Figure 3: validation accuracy without attack and under each, a bar per epsilon of adversarial training.

    A panel per class set and architecture, titled with the chosen epsilon and the paper's; a dot stands over the best
    bars of each attack, where not all are equal. Arguments and errors as `figure2`.
    """
    setups = by_setup(points)
    epsilons, vectors = sorted({p.epsilon_255 for p in points}), [BENIGN, *points[0].vectors]
    shades = np.linspace(0, len(_EPSILON_COLOURS) - 1, len(epsilons)).round().astype(int)
    width = 0.84 / len(epsilons)

    with _style():
        figure = _new_figure(max(7.0, 1.15 * len(vectors) + 1), 2.7 * len(setups) + 0.5)
        grid = figure.subplots(len(setups), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axis, ((class_set, model), group) in zip(grid, setups.items(), strict=True):
            heights = np.full((len(epsilons), len(vectors)), np.nan)
            for p in group:
                heights[epsilons.index(p.epsilon_255)] = [100 * p.accuracy(vector) for vector in vectors]
            for i, epsilon in enumerate(epsilons):
                at = np.arange(len(vectors)) + (i - (len(epsilons) - 1) / 2) * width
                colour = _EPSILON_COLOURS[shades[i]]
                axis.bar(at, heights[i], width * 0.94, color=colour, edgecolor="#555555", linewidth=0.4)
                axis.plot([], [], "s", color=colour, markeredgecolor="#555555", label=f"ε={epsilon:g}")
                best = (heights[i] == np.nanmax(heights, axis=0)) & (heights[i] > np.nanmin(heights, axis=0))
                axis.plot(at[best], heights[i][best] + 4, "o", color="black", markersize=2.8)
            axis.plot([], [], "o", color="black", markersize=2.8, label="best")
            chosen = f"{choose(group).epsilon_255:g}"
            axis.set_title(
                f"{class_set_label(class_set)} {model_label(model)}: chosen ε={chosen} (the paper: "
                f"{published.selected_epsilon:g})",
                fontsize=9.5,
            )
            axis.set(ylim=(0, 110), xlim=(-0.6, len(vectors) - 0.4), yticks=range(0, 101, 20))
            axis.set_ylabel("Validation accuracy (%)")
            axis.grid(axis="x", visible=False)
        grid[-1].set_xticks(range(len(vectors)), [attack_label(*v).replace(" ε", "\nε") for v in vectors])
        _legend_above(figure, grid[0])
        _save(figure, path)


def figure4(records: Sequence[Record], path: str | Path, published: Published) -> None:
    """Writes Figure 4: accuracy per class set, averaged over attacks, strengths and models, per defence.

    Bars are ours; a black tick is the paper's mean over the same cells, where the paper has the class set.

    Args:
        records: the run's records.
        path: the PNG to write.
        published: the paper's numbers.

    Raises:
        InputError: the file cannot be written.
    """
    table = table4(records)
    ours = class_set_means(table)
    # The paper's mean over the cells we have, so that a partial grid is not set against the whole one.
    wanted = by_cell(table)
    paper = class_set_means(published.table4[[cell_of(r) in wanted for r in published.table4.to_dict("records")]])

    with _style():
        figure = _new_figure(max(4.6, 1.6 + 1.5 * len(ours)), 3.9)
        axis = figure.add_subplot()
        width = 0.27
        for j, defence in enumerate(DEFENCES):
            at = np.arange(len(ours)) + (j - 1) * width
            heights = [_or_nan(getattr(m, defence)) for m in ours.values()]
            axis.bar(at, heights, width * 0.92, color=_DEFENCE_COLOURS[defence], label=DEFENCE_LABELS[defence])
            texts = ["" if np.isnan(height) else f"{height:.0f}" for height in heights]
            ticks = [_or_nan(getattr(paper[name], defence)) if name in paper else np.nan for name in ours]
            # A number stands above the higher of bar and tick, so that neither covers it.
            for x, height, tick, text in zip(at, heights, ticks, texts, strict=True):
                if text:
                    axis.text(x, np.nanmax([height, tick]) + 1.5, text, ha="center", va="bottom", fontsize=8.5)
            half = width * 0.46
            axis.hlines(ticks, at - half, at + half, colors="black", linewidth=1.6, zorder=3)
        if paper:
            axis.plot([], [], color="black", linewidth=1.6, label=_PAPER)
        axis.set_xticks(np.arange(len(ours)), [class_set_label(name) for name in ours])
        axis.set_ylim(0, 108)
        axis.set_yticks(range(0, 101, 20))
        axis.set_xlabel("Class set")
        axis.set_ylabel("Accuracy under attack (%)")
        axis.set_xlim(-0.75, len(ours) - 0.25)
        axis.grid(axis="x", visible=False)
        # Lines would come before bars.
        handles, labels = axis.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: labels[i] == _PAPER)
        axis.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=4,
            columnspacing=1.4,
            handlelength=1.4,
        )
        _save(figure, path)


def figure5(records: Sequence[Record], path: str | Path, published: Published) -> None:
    """Writes Figure 5: ROC of the detection, a panel per attack and budget, a line per class set and model.

    Legends give the AUC and, where the paper has published it, the paper's in parentheses. A panel without a
    successful attack says so.

    Args:
        records: the run's records.
        path: the PNG to write.
        published: the paper's numbers.

    Raises:
        InputError: the file cannot be written.
    """
    scored = {cell_of(vars(r.key)): r for r in records if r.detection_scores is not None}
    paper = by_cell(published.auc)
    setups, attacks = axes(scored)
    colours = _styles([s[1] for s in setups], CLASS_SET_ORDER, _CLASS_SET_COLOURS, _OTHER_COLOURS)
    lines = _styles([s[0] for s in setups], MODEL_ORDER, _MODEL_LINES, _OTHER_LINES)

    with _style():
        columns = min(4, max(1, len(attacks)))
        rows = max(1, -(-len(attacks) // columns))
        figure = _new_figure(3.5 * columns + 0.3, 3.5 * rows + 0.3)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axis in grid.flat[len(attacks) :]:
            axis.set_visible(False)
        for i, (axis, attack) in enumerate(zip(grid.flat, attacks, strict=False)):
            axis.plot([0, 1], [0, 1], linestyle=":", color="#777777", linewidth=1.2)
            for model, class_set in setups:
                cell = (model, class_set, *attack)
                record = scored.get(cell)
                if record is None or not record.pairs:
                    continue
                fpr, tpr, _ = roc_curve(record.detection_scores, record.detection_labels)
                area = auc(record.detection_scores, record.detection_labels)
                axis.plot(
                    fpr,
                    tpr,
                    color=colours[class_set],
                    linestyle=lines[model],
                    linewidth=1.6,
                    label=f"{class_set_label(class_set)} {model_label(model)}  "
                    + beside(area, paper.get(cell, {}).get("auc"), digits=3),
                )
            axis.set_title(attack_label(*attack), fontsize=10)
            axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
            axis.set_xticks(np.linspace(0, 1, 6))
            axis.set_yticks(np.linspace(0, 1, 6))
            if i % columns == 0:
                axis.set_ylabel("True positive rate")
            if i + columns >= len(attacks):
                axis.set_xlabel("False positive rate")
                axis.tick_params(labelbottom=True)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="lower right", fontsize=7, title="AUC (paper)", title_fontsize=7, alignment="right")
            else:
                axis.text(0.5, 0.5, "no successful attack", ha="center", va="bottom", color="#777777")
        _save(figure, path)


def write_figures(records: Sequence[Record], folder: str | Path, published: Published) -> list[Path]:
    """Writes figure4.png and figure5.png into `folder`; returns their paths."""
    paths = [Path(folder) / "figure4.png", Path(folder) / "figure5.png"]
    figure4(records, paths[0], published)
    figure5(records, paths[1], published)
    return paths


def write_line_search_figures(folder: str | Path, published: Published) -> list[Path]:
    """Writes figure2.png and figure3.png of every variant of the line search in results/<profile>; returns their paths.

    Raises:
        InputError: a record is damaged, or a file cannot be written.
    """
    paths = []
    for variant, points in read_searches(Path(folder)).items():
        for name, draw in (("figure2", figure2), ("figure3", figure3)):
            paths.append(Path(folder) / f"{stem(name, variant)}.png")
            draw(points, paths[-1], published)
    return paths


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


def _styles(names: Sequence[str], known: Sequence[str], own: Sequence, others: Sequence) -> dict[str, Any]:
    """A fixed style per known name, and the other styles, in turn, for the rest."""
    rest = sorted({name for name in names if name not in known}, key=lambda name: order_of(name, known))
    styles = {name: own[known.index(name)] for name in names if name in known}
    return styles | {name: others[i % len(others)] for i, name in enumerate(rest)}


@contextmanager
def _style() -> Iterator[None]:
    # A user's own matplotlibrc must not change the picture.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _new_figure(width: float, height: float) -> Figure:
    # Not by pyplot, which would choose a backend and keep the figure alive.
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend_above(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(1, len(labels)), columnspacing=1.2)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_path(path) as temporary:
        # The default metadata names matplotlib's version.
        figure.savefig(temporary, format="png", metadata={"Software": None})
