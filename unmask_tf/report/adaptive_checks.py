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


Curve = tuple[str, str, Sequence[float], Sequence[float]]
"""Colour, label, x and y in percent."""


def _curves(table: pd.DataFrame) -> dict[str, list[Curve]]:
    """What is drawn of one M and class set: over what -> its curves of two points and more."""
    found: dict[str, list[Curve]] = {"steps of one run": [], "runs": [], "ε (1/255)": []}
    for colour, (epsilon, some) in zip(COLOURS, table.groupby("epsilon_255"), strict=False):
        for name, over, fixed in (("steps of one run", "iterations", "restarts"), ("runs", "restarts", "iterations")):
            # The one with the most points: over steps that of one run, over runs that of one number of steps.
            line = max((group for _, group in some.groupby(fixed)), key=len).sort_values(over)
            found[name].append((colour, f"ε={epsilon:g}", line[over], 100 * line["success_so_far"]))
    for colour, ((steps, runs), some) in zip(COLOURS, table.groupby(["iterations", "restarts"]), strict=False):
        line = some.sort_values("epsilon_255")
        found["ε (1/255)"].append((colour, f"{steps} steps, {runs} runs", line["epsilon_255"], 100 * line["success_5"]))
    # Over budgets only what was run at more of them than efforts are compared at.
    least = {"ε (1/255)": 3}
    return {name: [c for c in curves if len(c[2]) >= least.get(name, 2)] for name, curves in found.items()}


@styled
def figure_effort(table: pd.DataFrame) -> Figure:
    """Success at 5 % false positives on validation images over steps, over runs and over the budget, as far as there
    are rows; a row per M and class set."""
    setups = {setup: _curves(own) for setup, own in table.groupby(["model", "class_set"], sort=False)}
    shown = [name for name in ("steps of one run", "runs", "ε (1/255)") if any(c[name] for c in setups.values())]
    columns = max(1, len(shown))
    figure, grid = panels(len(setups), columns, 3.0 * columns + 0.4, 2.7 * len(setups) + 0.4, share=False)
    for axes_row, (setup, curves) in zip(grid, setups.items(), strict=True):
        for axis, name in zip(axes_row, shown, strict=False):
            for colour, label_, x, y in curves[name]:
                axis.plot(x, y, "o-", color=colour, markersize=3, label=label_)
            if name != "ε (1/255)":
                ticks = sorted({value for curve in curves[name] for value in curve[2]})
                axis.set_xscale("log")
                axis.set_xticks(ticks, [f"{value:g}" for value in ticks])
                axis.minorticks_off()
            axis.set(title=f"{' '.join(setup_labels(*setup))}, L∞", ylim=(-3, 103), xlabel=name)
            if curves[name]:
                axis.legend(loc="lower right", fontsize=7)
        axes_row[0].set_ylabel("wrong and not flagged, %")
    return figure
