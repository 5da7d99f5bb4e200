"""Is the attack that knows K as strong as it could be: what more effort gains, and the binarisation test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet
from unmask_tf.files import read_json
from unmask_tf.report.adaptive import COLOURS, NAME, attack_name
from unmask_tf.report.adaptive_numbers import effort_numbers
from unmask_tf.report.cells import MODELS, label, setup_labels
from unmask_tf.report.drawing import panels, styled
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import wilson
from unmask_tf.report.table import Number, Table, span

EFFORT, BINARISATION = "adaptive_effort", "binarisation"


def check_tables(results: Results) -> list[Table]:
    """Both tables, as far as there are rows."""
    found = []
    if row_sets := results.find(EFFORT):
        found.append(_effort(row_sets))
    path = results.folder / "rows" / f"{BINARISATION}.json"
    if path.exists():
        bundle = next((name for name in (EFFORT, NAME, "grid") if results.find(name)), EFFORT)
        found.append(_binarisation(read_json(path), str(path), bundle))
    return found


def _effort(row_sets: Sequence[RowSet]) -> Table:
    """Success over steps and runs."""
    rows = []
    for row in effort_numbers(row_sets).to_dict("records"):
        share = Number(row["success_5"], interval=wilson(row["success_5"], row["n"]))
        names = [*setup_labels(row["model"], row["class_set"]), attack_name(row["attack"], row["epsilon_255"])]
        effort = [Number(row[name], digits=0) for name in ("iterations", "restarts")]
        rows.append(
            [*names, *effort, share, Number(row["success_so_far"]), Number(row["success_50"]), Number(row["wrong"])]
        )
    notes = (
        f"{span(r.n for r in row_sets if r.header.attack != 'none')} validation images. So far: by any attack of that "
        "budget with at most as many steps and runs.",
    )
    head = ["M", "CS", "Attack", "Steps", "Runs", "Success, 5 %", "So far", "Success, 50 %", "M wrong"]
    return Table(EFFORT, "What more steps and runs gain", head, rows, notes, EFFORT)


def _binarisation(content: Any, where: str, bundle: str) -> Table:
    """Of how many problems with a known solution the attack finds one."""
    rows, sizes = [], []
    try:
        for run in content:
            for kind, trials in run["trials"].items():
                n = len(trials)
                solved, chance = (sum(t[name] for t in trials) / n for name in ("solved", "by_chance"))
                of_k = sum(t["distance"] > 0 for t in trials) / n
                threat = run["threat"]
                effort = [Number(threat[name], digits=0) for name in ("iterations", "restarts")]
                names = [label(run["model"], MODELS), kind, attack_name(threat["attack"], threat["epsilon_255"])]
                rows.append([*names, *effort, Number(solved, interval=wilson(solved, n)), Number(chance), Number(of_k)])
                sizes.append(n)
    except (AttributeError, TypeError, KeyError, ZeroDivisionError) as error:
        raise InputError(
            f"{where} holds no trials ({error!r}). Delete it, then run: make adaptive EXTRA=--binarisation"
        ) from error
    notes = (
        f"{span(sizes)} validation images, each with a problem whose solution within the budget is known (Zimmermann "
        "et al., NeurIPS 2022). Inverted: the detector's verdict is turned round. By chance: one of as many random "
        "points as there were steps was a solution. K moves: K sees other parts in the known solution.",
    )
    head = ["M", "Test", "Attack", "Steps", "Runs", "Solved", "By chance", "K moves"]
    return Table(BINARISATION, "The binarisation test of the joint attack", head, rows, notes, bundle)


@styled
def figure_effort(table: pd.DataFrame) -> Figure:
    """Success at 5 % false positives on validation images over steps, over runs and over the budget."""
    setups = list(dict.fromkeys(zip(table["model"], table["class_set"], strict=True)))
    figure, grid = panels(len(setups), 3, 9.0, 2.7 * len(setups) + 0.4, share=False)
    for axes_row, setup in zip(grid, setups, strict=True):
        own = table[(table["model"] == setup[0]) & (table["class_set"] == setup[1])]
        for colour, (epsilon, some) in zip(COLOURS, own.groupby("epsilon_255"), strict=False):
            for axis, over, fixed in ((axes_row[0], "iterations", "restarts"), (axes_row[1], "restarts", "iterations")):
                # The curve with the most points: over steps those of one run, over runs those of one number of steps.
                line = max((g for _, g in some.groupby(fixed)), key=len).sort_values(over)
                if len(line) > 1:
                    style = {"color": colour, "markersize": 3, "label": f"ε={epsilon:g}"}
                    axis.plot(line[over], 100 * line["success_so_far"], "o-", **style)
        efforts = own.groupby(["iterations", "restarts"])
        for colour, (effort, line) in zip(COLOURS, efforts, strict=False):
            if len(line) > 2:
                line, label = line.sort_values("epsilon_255"), f"{effort[0]} steps, {effort[1]} runs"
                axes_row[2].plot(
                    line["epsilon_255"], 100 * line["success_5"], "o-", color=colour, markersize=3, label=label
                )
        axes_row[0].set_xscale("log")
        axes_row[0].set_xticks(sorted(set(own["iterations"])), [f"{n:g}" for n in sorted(set(own["iterations"]))])
        axes_row[0].minorticks_off()
        for axis, name in zip(axes_row, ("steps of one run", "runs", "ε (1/255)"), strict=True):
            axis.set(title=f"{' '.join(setup_labels(*setup))}, L∞", ylim=(-3, 103), xlabel=name)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(loc="lower right", fontsize=7)
        axes_row[0].set_ylabel("wrong and not flagged, %")
    return figure
