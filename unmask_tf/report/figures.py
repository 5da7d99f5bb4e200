"""Figures 1 to 5, overlap and confusions, from rows alone: the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unmask_tf.defense.alignment import roc_curve
from unmask_tf.report.adaptive import figure_adaptive
from unmask_tf.report.adaptive_checks import EFFORT, figure_effort
from unmask_tf.report.adaptive_numbers import adaptive_numbers, effort_numbers
from unmask_tf.report.cells import (
    BENIGN,
    CLASS_SETS,
    DEFENCES,
    MODELS,
    attack_label,
    axes,
    defences_of,
    label,
    ranked,
    setup_labels,
)
from unmask_tf.report.drawing import panels, save, styled
from unmask_tf.report.figure1 import figure1, first_case
from unmask_tf.report.line_search import Search, choose, searches
from unmask_tf.report.overlap import FACTORS, MEASURES, Overlap, interval_of, resampled_number
from unmask_tf.report.per_class import confusions
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import Detection, Interval, class_set_intervals, class_set_means, key_of
from unmask_tf.report.table import beside

# Okabe and Ito's palette: told apart with every common colour blindness. CS5a is dark orange and CS3b light blue, as
# in the paper.
_CLASS_SET_COLOURS = dict(zip(CLASS_SETS, ("#0072B2", "#56B4E9", "#D55E00", "#E69F00"), strict=True))
_DEFENCE_COLOURS = dict(zip(DEFENCES, ("#999999", "#E69F00", "#F0D9A0", "#0072B2", "#7FB3D9"), strict=True))
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#000000", "#7F7F7F")
# Light to dark with rising epsilon.
_EPSILON_COLOURS = ("#DCE9F5", "#B3D0E8", "#7FB3D9", "#4A90C2", "#1F6AA5", "#0B3C68")
_MODEL_LINES = dict(zip(MODELS, ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1.5, 1, 1.5))), strict=True))
_OTHER_LINES = ((0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)))
_RING = {"markersize": 10, "fillstyle": "none"}


def _styles(names: Iterable[str], known: dict[str, Any], others: Sequence[Any]) -> dict[str, Any]:
    """A fixed style per known name, and the other styles, in turn, for the rest."""
    rest = sorted(set(names) - set(known))
    return known | {name: others[i % len(others)] for i, name in enumerate(rest)}


def _legend_above(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(1, len(labels)), columnspacing=1.2)


@styled
def figure2(search: Search) -> Figure:
    """Figure 2: validation accuracy of M over the epsilon of its adversarial training.

    A row per M; columns: benign images, PGD-Linf (mean over its budgets), the mean of both; a line per class set, with
    a ring on the chosen epsilon. The paper's choice is the vertical line. (Its Figure 2 comes without numbers in the
    text; what it plots follows from Section IV-A.)
    """
    models = list(dict.fromkeys(model for model, _ in search.accuracy))
    colours = _styles((name for _, name in search.accuracy), _CLASS_SET_COLOURS, _OTHER_COLOURS)
    titles = ["Benign", "PGD-L∞", "Mean of both"]
    if not any("pgd_linf" in frame for frame in search.accuracy.values()):
        titles = titles[:1]
    epsilons, paper = search.epsilons, read_published().selected_epsilon
    figure, grid = panels(len(models), len(titles), 3.0 * len(titles) + 0.6, 2.6 * len(models) + 0.5)
    for axes_row, model in zip(grid, models, strict=True):
        for axis, title in zip(axes_row, titles, strict=True):
            axis.set(title=f"{label(model, MODELS)}: {title}", ylim=(-3, 103), xlim=(-0.4, len(epsilons) - 0.6))
            axis.set_xticks(range(len(epsilons)), [f"{e:g}" for e in epsilons])
            if paper in epsilons:
                at = epsilons.index(paper)
                axis.axvline(at, color="#777777", linestyle=":", linewidth=1.4, label="the paper's choice")
        for (own, class_set), frame in search.accuracy.items():
            if own != model:
                continue
            benign, colour = frame[BENIGN], colours[class_set]
            pgd = frame["pgd_linf"].mean(axis=1) if len(titles) > 1 else benign
            chosen, at = choose([frame])[0], [epsilons.index(epsilon) for epsilon in frame.index]
            for axis, values in zip(axes_row, (benign, pgd, (benign + pgd) / 2), strict=False):
                name = label(class_set, CLASS_SETS)
                axis.plot(at, 100 * values, color=colour, marker="o", markersize=4, label=name)
                axis.plot(epsilons.index(chosen), 100 * values[chosen], "o", color=colour, **_RING)
        axes_row[0].set_ylabel("Validation accuracy (%)")
    for axis in grid[-1]:
        axis.set_xlabel("ε of adversarial training (1/255)")
    grid[0, 0].plot([], [], "o", color="#777777", label="our choice", **_RING)
    _legend_above(figure, grid[0, 0])
    return figure


@styled
def figure3(search: Search) -> Figure:
    """Figure 3: validation accuracy without attack and under each, a bar per epsilon of adversarial training.

    A panel per M and class set, titled with the chosen epsilon and the paper's; a dot stands over the best bars of each
    attack, where not all are equal.
    """
    epsilons, vectors = search.epsilons, list(next(iter(search.accuracy.values())))
    shades = np.linspace(0, len(_EPSILON_COLOURS) - 1, len(epsilons)).round().astype(int)
    width, dot = 0.84 / len(epsilons), {"color": "black", "markersize": 2.8}
    height = 2.7 * len(search.accuracy) + 0.5
    figure, grid = panels(len(search.accuracy), 1, max(7.0, 1.15 * len(vectors) + 1), height)
    for axis, (setup, frame) in zip(grid[:, 0], search.accuracy.items(), strict=True):
        heights = 100 * frame.reindex(index=epsilons, columns=vectors).to_numpy()
        for i, epsilon in enumerate(epsilons):
            at, colour = np.arange(len(vectors)) + (i - (len(epsilons) - 1) / 2) * width, _EPSILON_COLOURS[shades[i]]
            axis.bar(at, heights[i], width * 0.94, color=colour, edgecolor="#555555", linewidth=0.4)
            axis.plot([], [], "s", color=colour, markeredgecolor="#555555", label=f"ε={epsilon:g}")
            best = (heights[i] == np.nanmax(heights, axis=0)) & (heights[i] > np.nanmin(heights, axis=0))
            axis.plot(at[best], heights[i][best] + 4, "o", **dot)
        axis.plot([], [], "o", label="best", **dot)
        chosen, paper = f"{choose([frame])[0]:g}", f"{read_published().selected_epsilon:g}"
        axis.set(title=f"{' '.join(setup_labels(*setup))}: chosen ε={chosen} (the paper: {paper})")
        axis.set(ylim=(0, 110), xlim=(-0.6, len(vectors) - 0.4), yticks=range(0, 101, 20))
        axis.set_ylabel("Validation accuracy (%)")
        axis.grid(axis="x", visible=False)
    grid[-1, 0].set_xticks(range(len(vectors)), [attack_label(*v).replace(" ε", "\nε") for v in vectors])
    _legend_above(figure, grid[0, 0])
    return figure


@styled
def figure4(numbers: pd.Series, intervals: Mapping[tuple[str, str], Interval] | None = None) -> Figure:
    """Figure 4: accuracy per class set, averaged over attacks, budgets and M, per defence.

    Bars are ours, with 95 % intervals; a black tick is the paper's mean over the same cells, where the paper has the
    class set.

    Args:
        numbers: accuracies, as in `statistics`.
        intervals: as `statistics.class_set_intervals` gives them; None: none are drawn.
    """
    published = read_published().accuracy
    ours = class_set_means(numbers)
    # The paper's mean over the cells we have, so that a partial grid is not compared with the whole one.
    paper = class_set_means(published[published.index.isin(numbers.index)])
    paper = paper.reindex(index=ours.index, columns=ours.columns)
    colours, width = _styles(ours, _DEFENCE_COLOURS, _OTHER_COLOURS), 0.81 / max(1, ours.shape[1])
    figure, grid = panels(1, 1, max(4.6, 1.6 + 0.5 * ours.size), 3.9)
    axis, bars, known = grid[0, 0], [], intervals or {}
    for j, defence in enumerate(ours):
        at, ticks = np.arange(len(ours)) + (j - (ours.shape[1] - 1) / 2) * width, paper[defence].to_numpy()
        bars.append(axis.bar(at, ours[defence], width * 0.92, color=colours[defence], label=label(defence, DEFENCES)))
        ends = np.array([known.get((name, defence), (np.nan, np.nan)) for name in ours.index])
        if known:
            axis.vlines(at, ends[:, 0], ends[:, 1], colors="black", linewidth=1.2, zorder=4)
        # A number stands above the highest of bar, tick and interval, so that none covers it.
        for x, height, tick, (_, end) in zip(at, ours[defence], ticks, ends, strict=True):
            if not np.isnan(height):
                top = np.nanmax([height, tick, end])
                axis.text(x, top + 1.5, f"{height:.0f}", ha="center", va="bottom", fontsize=8.5)
        axis.hlines(ticks, at - width * 0.46, at + width * 0.46, colors="black", linewidth=1.6, zorder=3)
    if paper.notna().any(axis=None):
        bars += axis.plot([], [], color="black", linewidth=1.6, label="paper")
    if known:
        bars += axis.plot([], [], "|", color="black", markersize=9, label="95 % interval")
    axis.set_xticks(np.arange(len(ours)), [label(name, CLASS_SETS) for name in ours.index])
    axis.set(ylim=(0, 110), yticks=range(0, 101, 20), xlim=(-0.75, max(1, len(ours)) - 0.25))
    axis.set(xlabel="Class set", ylabel="Accuracy under attack (%)")
    axis.grid(axis="x", visible=False)
    if bars:
        axis.legend(handles=bars, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.4)
    return figure


@styled
def figure5(found: Sequence[Detection]) -> Figure:
    """Figure 5: ROC of the detection, a panel per attack and budget, a line per class set, M and detector.

    Legends give the AUC and, where the paper has published it, the paper's in parentheses. A panel without a
    successful attack says so.
    """
    paper = read_published().auc
    attacks = axes(d.header.cell for d in found)[1]
    colours = _styles((d.header.class_set for d in found), _CLASS_SET_COLOURS, _OTHER_COLOURS)
    lines = _styles((d.header.model for d in found), _MODEL_LINES, _OTHER_LINES)
    widths = dict(zip(defences_of(d.header.defence for d in found), (1.6, 0.8, 2.8), strict=False))
    columns = min(4, max(1, len(attacks)))
    rows = max(1, -(-len(attacks) // columns))
    figure, grid = panels(rows, columns, 3.5 * columns + 0.3, 3.5 * rows + 0.3)
    for axis in grid.flat[len(attacks) :]:
        axis.set_visible(False)
    for i, (axis, attack) in enumerate(zip(grid.flat, attacks, strict=False)):
        axis.plot([0, 1], [0, 1], linestyle=":", color="#777777", linewidth=1.2)
        for d in (d for d in found if d.header.cell[2:] == attack and len(d.labels)):
            h, (fpr, tpr, _) = d.header, roc_curve(d.scores, d.labels)
            names = reversed(setup_labels(h.model, h.class_set))
            by = f" {label(h.defence, DEFENCES)}" if len(widths) > 1 else ""
            text = f"{' '.join(names)}{by}  {beside(d.auc, paper.get(key_of(h)), 3)}"
            style = {
                "color": colours[h.class_set],
                "linestyle": lines[h.model],
                "linewidth": widths.get(h.defence, 0.8),
            }
            axis.plot(fpr, tpr, label=text, **style)
        axis.set(title=attack_label(*attack), xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.set(xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
        if i % columns == 0:
            axis.set_ylabel("True positive rate")
        if i + columns >= len(attacks):
            axis.set_xlabel("False positive rate")
            axis.tick_params(labelbottom=True)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="lower right", fontsize=7, title="AUC (paper)", title_fontsize=7, alignment="right")
        else:
            axis.text(0.5, 0.5, "no successful attack", ha="center", va="bottom", color="#777777")
    return figure


@styled
def figure_overlap(found: Overlap) -> Figure:
    """AUC and UM's accuracy under attack over the overlap of parts, with 95 % intervals and rank correlations.

    A marker per class set and M: its corners count the classes (a dot: two).
    """
    table, setting = found.points, {"linestyle": "none", "markersize": 9}
    markers = {n: (n, 0, 0) if n > 2 else "o" for n in sorted(set(table["classes"]))}
    colours = dict(zip(dict.fromkeys(table["model"]), (_EPSILON_COLOURS[4], *_OTHER_COLOURS), strict=False))
    figure, grid = panels(1, len(MEASURES), 9.6, 4.0, share=False)
    for axis, (measure, title) in zip(grid[0], MEASURES.items(), strict=True):
        highest: dict[str, tuple[float, float]] = {}
        for i, p in enumerate(table.to_dict("records")):
            # Models share a class set's overlap: they stand side by side.
            at = p["overlap"] + 0.8 * (list(colours).index(p["model"]) - (len(colours) - 1) / 2)
            y, colour, marker = found.values[measure][0, i], colours[p["model"]], markers[p["classes"]]
            low, high = interval_of(found.values[measure][:, i]) or (y, y)
            ends = [[abs(y - low)], [abs(high - y)]]
            axis.errorbar(at, y, ends, marker=marker, color=colour, elinewidth=1, **setting)
            highest[p["class_set"]] = p["overlap"], np.nanmax([high, *highest.get(p["class_set"], (0, 0))[1:]])
        for name, place in sorted(highest.items()):
            style = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "fontsize": 8}
            axis.annotate(label(name, CLASS_SETS), place, **style)
        axis.set(xlabel="Part overlap (%)", ylabel=title)
        axis.margins(0.1)
        if row := found.correlations(measure):
            of, than = (resampled_number(row[f]) for f in FACTORS)
            axis.set_title(f"rank correlation with overlap {of},\nwith the number of classes {than}", fontsize=8.5)
    for name, colour in colours.items():
        grid[0, 0].plot([], [], "s", color=colour, label=label(name, MODELS))
    for n, marker in markers.items():
        grid[0, 0].plot([], [], marker=marker, color="#777777", label=f"{n} classes", **setting)
    _legend_above(figure, grid[0, 0])
    return figure


@styled
def figure_classes(found: Mapping[tuple[str, str], pd.DataFrame]) -> Figure:
    """UM's answers under attack by true class, in percent of the class's images over all attacks.

    A row of panels per M, a column per class set.
    """
    rows = list(dict.fromkeys(model for model, _ in found))
    columns = ranked((class_set for _, class_set in found), CLASS_SETS)
    figure, grid = panels(len(rows), len(columns), 2.9 * len(columns) + 0.4, 2.9 * len(rows) + 0.2, share=False)
    for (i, model), (j, class_set) in product(enumerate(rows), enumerate(columns)):
        axis = grid[i, j]
        if (model, class_set) not in found:
            axis.set_visible(False)
            continue
        counts = found[model, class_set]
        shares = 100 * counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for (y, x), value in np.ndenumerate(shares.to_numpy()):
            colour = "white" if value > 60 else "black"
            axis.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axis.set_xticks(range(shares.shape[1]), shares.columns, rotation=40, ha="right")
        axis.set_yticks(range(len(shares)), shares.index)
        axis.set_title(" ".join(setup_labels(model, class_set)))
        axis.grid(visible=False)
    figure.supxlabel("UM's answer under attack (% of the true class)", fontsize=9)
    figure.supylabel("True class", fontsize=9)
    return figure


def write_figures(results: Results) -> list[Path]:
    """Writes what there is of Figures 1 to 5, figure_overlap and figure_classes, as PNG and PDF, into
    `<results>/<profile>`; Figures 2 and 3 of each recipe's line search.

    Raises:
        InputError: there are no results, a bundle is damaged, or the folder cannot be written.
    """
    found: dict[str, Figure] = {}
    for search in searches(results.find("line_search")):
        found |= {f"figure2{search.suffix}": figure2(search), f"figure3{search.suffix}": figure3(search)}
    others = found or results.find("adaptive") or results.find(EFFORT)
    if not others or results.find("grid"):
        if case := first_case(results.gallery):
            found["figure1"] = figure1(case)
        found["figure4"] = figure4(results.accuracy, class_set_intervals(results.grid))
        if results.detections:
            found["figure5"] = figure5(results.detections)
        if (known := results.overlap) is not None:
            found["figure_overlap"] = figure_overlap(known)
        if counted := confusions(results.grid):
            found["figure_classes"] = figure_classes(counted)
    if under_attack := results.find("adaptive"):
        found["figure_adaptive"] = figure_adaptive(adaptive_numbers(under_attack))
    if efforts := results.find(EFFORT):
        found["figure_effort"] = figure_effort(effort_numbers(efforts))
    return [path for name in sorted(found) for path in save(found[name], results.folder, name)]
