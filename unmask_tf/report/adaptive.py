"""UnMask against an attacker who knows K: tables and curves of `adaptive_numbers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from unmask_tf.defense.alignment import detect
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.adaptive_numbers import (
    RATES,
    WORST,
    adaptive_numbers,
    distances,
    family_of,
    margins,
    norm_of,
    threshold_of,
)
from unmask_tf.report.cells import BENIGN, setup_labels
from unmask_tf.report.drawing import panels, styled
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import wilson
from unmask_tf.report.table import Number, Table, number, span

NAME = "adaptive"
BUNDLES = {
    (robust, recipe): "_".join([NAME, *["robust"] * robust, *([] if recipe == "none" else [recipe])])
    for recipe in ("none", "released", "madry")
    for robust in (False, True)
}
"""(Another K than the profile's, training of M) -> bundle of rows; `NAME` is that of the profile's K and M."""
SYSTEMS = "adaptive_systems"
FAMILIES = {
    "joint": "M and K, joint",
    "margin": "M and K, joint, by the margin",
    "selective": "M and K, selective",
    "orthogonal": "M and K, orthogonal",
    "transfer": "another M and K, joint",
    "parts": "K alone",
    "pgd": "M alone",
    "apgd_ce": "M alone, APGD-CE",
    "apgd_dlr": "M alone, APGD-DLR",
    "square": "answers alone, Square",
    "noise": "random noise",
    WORST: "the worst of all",
}
MARGIN = {"margin_5": "Success, margin", "margin_algorithm1": "Alg. 1, margin"}
NORMS = {"linf": "L∞", "l2": "L2"}
COLOURS = (
    "#D55E00",
    "#44AA99",
    "#E69F00",
    "#CC79A7",
    "#882255",
    "#009E73",
    "#0072B2",
    "#56B4E9",
    "#332288",
    "#999933",
    "#777777",
)
_LINES = dict(zip(FAMILIES, COLOURS, strict=False))


def attack_name(attack: str, epsilon: float) -> str:
    """`M and K, joint, L∞ ε=4`."""
    family, norm = family_of(attack), norm_of(attack)
    if attack == "none":
        return "No attack"
    return f"{FAMILIES.get(family, family)}, {NORMS.get(norm, norm)} ε={epsilon:g}"


def adaptive_tables(results: Results) -> list[Table]:
    """What the attacks reach, what the thresholds flag of benign images, and trainings side by side; none without such
    rows."""
    tables, found = [], {}
    for (robust, recipe), name in BUNDLES.items():
        if row_sets := results.find(name):
            trained = ["K"] * robust + ["M"] * (recipe != "none")
            of_these = f", {' and '.join(trained)} trained against attacks" if trained else ""
            tables += [_attacks(row_sets, name, of_these), _thresholds(row_sets, name, of_these)]
            found[robust, recipe] = row_sets
    return tables + _systems(found)


def bundle_name(robust: bool, recipe: str) -> str:
    """The bundle of the profile's K, or of another one, beside M's trained by a recipe."""
    return BUNDLES[robust, recipe]


def _attacks(row_sets: Sequence[RowSet], table: str, of_k: str) -> Table:
    numbers, families, norms = adaptive_numbers(row_sets), [*FAMILIES], [*NORMS]
    family = numbers["attack"].map(lambda a: families.index(f) if (f := family_of(a)) in families else -1)
    norm = numbers["attack"].map(lambda a: norms.index(n) if (n := norm_of(a)) in norms else -1)
    order = ["model", "class_set", "norm", "family", "epsilon_255"]
    rows = []
    for row in numbers.assign(family=family, norm=norm).sort_values(order, kind="stable").to_dict("records"):
        names = [*setup_labels(row["model"], row["class_set"]), attack_name(row["attack"], row["epsilon_255"])]
        shares = [Number(row["success_5"], interval=wilson(row["success_5"], row["n"]))]
        shares += [Number(row[name]) for name in ("success_50", "wrong", "um", "algorithm1", "reject_5", "auc")]
        shares += [Number(row[name]) for name in MARGIN]
        rows.append([*names, *shares, Number(row["median_iteration"], digits=0)])
    sizes = span(r.n for r in row_sets if r.header.split == "test")
    steps = span(r.header.threat["iterations"] for r in row_sets if "K" in r.header.threat.get("knows", ()))
    notes = (
        f"{sizes} test images. An attack succeeds on an image where M is wrong and the image is not flagged, at 5 % or "
        "50 % false positives; in brackets Wilson's 95 % intervals. M wrong: flagged or not. UM and Alg. 1 are "
        "accuracies: of K alone, and of the whole system; right or flagged is that of a system that may refuse. AUC: "
        "the attacked images that M gets wrong against their benign twins. Steps: the median after which the image "
        f"that was kept was found, all runs counted; a run has {steps}. The worst of all counts an image where any of "
        "the attacks succeeded on it, within the budget or a smaller one. By the margin: success at 5 %, and Alg. 1, "
        "of a detector that asks how much better another class fits than M's, instead of how well M's fits.",
        *_plausible(numbers),
    )
    head = ["M", "CS", "Attack", "Success, 5 %", "Success, 50 %", "M wrong", "UM", "Alg. 1", "Right or flagged"]
    title = f"UnMask against an attacker who knows K{of_k}"
    return Table(table, title, [*head, "AUC", *MARGIN.values(), "Steps"], rows, notes, table)


def _plausible(numbers: pd.DataFrame) -> list[str]:
    """Tramèr's bound, beside what was measured at each budget and its half."""
    worst = numbers[numbers["attack"].map(family_of) == WORST].set_index(
        ["model", "class_set", "attack", "epsilon_255"]
    )
    pairs = []
    for (model, class_set, attack, epsilon), row in worst.iterrows():
        half = (model, class_set, attack, epsilon / 2)
        if half in worst.index:
            names = f"{' '.join(setup_labels(model, class_set))}, {NORMS.get(norm_of(attack), attack)}"
            right = 1.0 - worst.loc[half, "wrong"]
            pairs.append(f"{names} ε={epsilon:g}: {number(row['reject_5'], 2)}, and {number(right, 2)} at half of it")
    text = (
        "Tramèr (ICML 2022) shows that a detector that is robust at ε gives a classifier that is robust at ε/2, though "
        "by an impractical construction: a claim of detection much above what robust classifiers reach at half the "
        "budget would be implausible."
    )
    return [
        text + (f" Right or flagged at ε, and M right at ε/2, in the worst case: {'; '.join(pairs)}." * bool(pairs))
    ]


def _thresholds(row_sets: Sequence[RowSet], table: str, of_k: str) -> Table:
    """What the thresholds flag of benign validation and test images."""
    rows = []
    scored = {
        (r.header.split, *r.header.cell[:2]): r
        for r in row_sets
        if r.header.cell[2:] == BENIGN and r.header.defence == "um"
    }
    for (split, *setup), validation in scored.items():
        if split != "val":
            continue
        for name, scores_of, rate in [("d", distances, rate) for rate in RATES] + [("margin", margins, RATES[0])]:
            threshold = threshold_of(validation, rate, scores_of)
            shown = "none: nothing is flagged" if threshold > 1 else number(threshold, 3)
            of_m = [scores_of(r)[~r.fooled] for r in (validation, scored[("test", *setup)])]
            flagged = [Number(100 * np.mean(detect(scores, threshold)), digits=1) for scores in of_m]
            rows.append([*setup_labels(*setup), name, f"{rate:.0%}", shown, *flagged])
    head = ["M", "CS", "Score", "At most", "Threshold", "Flagged, validation (%)", "Flagged, test (%)"]
    title = f"Thresholds and the benign images that they flag{of_k}"
    notes = ("Of the images that M answers rightly; a wrong answer that is flagged is no false alarm.",)
    return Table(f"{table}_thresholds", title, head, rows, notes, table)


def _systems(bundles: Mapping[tuple[bool, str], Sequence[RowSet]]) -> list[Table]:
    """M and K with and without training against attacks, side by side, at the budgets that all of them met; none where
    neither was trained so."""
    numbers = {key: _by_system(row_sets) for key, row_sets in bundles.items()}
    setups = set.intersection(*({cell[:2] for cell in found} for found in numbers.values())) if numbers else set()
    if len(numbers) < 2 or not setups:
        return []
    common = set.intersection(*(set(found) for found in numbers.values()))
    rows = []
    for cell in sorted(common, key=lambda cell: (*cell[:2], [*NORMS].index(cell[2]) if cell[2] else -1, cell[3])):
        model, class_set, norm, epsilon = cell
        for (robust, recipe), found in numbers.items():
            row = found[cell]
            shares = [Number(row[name], interval=wilson(row[name], row["n"])) for name in ("algorithm1", "right")]
            trained = [f"AT, {row['epochs']} epochs" if recipe != "none" else "-", "AT" if robust else "-"]
            names = [*setup_labels(model, class_set), f"{NORMS[norm]} ε={epsilon:g}" if norm else "No attack"]
            by_margin = [Number(row[name]) for name in MARGIN]
            rows.append([*names, *trained, Number(row["success_5"]), Number(row["reject_5"]), *shares, *by_margin])
    notes = (
        "The worst case of all attacks within the budget, for each system by itself: success (M wrong, not flagged), "
        "right or flagged, Alg. 1, and M without K; at the end success and Alg. 1 by the margin. AT: trained against "
        "attacks; -: not. In brackets Wilson's 95 % intervals.",
    )
    head = ["M", "CS", "Budget", "M trained", "K trained", "Success, 5 %", "Right or flagged", "Alg. 1", "M alone"]
    head += MARGIN.values()
    return [Table(SYSTEMS, "Training M, K, or both against attacks", head, rows, notes, NAME)]


def _by_system(row_sets: Sequence[RowSet]) -> dict[tuple[str, str, str, float], dict[str, Any]]:
    """(model, class set, norm, budget) -> worst case over all attacks, with the `epochs` of M's training. Without an
    attack the norm is empty."""
    epochs = {r.header.cell[:2]: r.header.training.get("epochs", 0) for r in row_sets}
    found = {}
    for row in adaptive_numbers(row_sets).to_dict("records"):
        if row["attack"] == "none" or family_of(row["attack"]) == WORST:
            norm, setup = "" if row["attack"] == "none" else norm_of(row["attack"]), (row["model"], row["class_set"])
            found[(*setup, norm, row["epsilon_255"])] = {**row, "right": 1.0 - row["wrong"], "epochs": epochs[setup]}
    return found


@styled
def figure_adaptive(table: pd.DataFrame) -> Figure:
    """Success at 5 % false positives over the budget, one line an attack; a row per M and class set."""
    setups = list(dict.fromkeys(zip(table["model"], table["class_set"], strict=True)))
    figure, grid = panels(len(setups), 2, 7.2, 2.7 * len(setups) + 0.6, share=False)
    for axes_row, setup in zip(grid, setups, strict=True):
        own = table[(table["model"] == setup[0]) & (table["class_set"] == setup[1])]
        for axis, norm in zip(axes_row, NORMS, strict=True):
            budgets = sorted(own[own["attack"].map(norm_of) == norm]["epsilon_255"].unique())
            for family, name in FAMILIES.items():
                line = own[own["attack"] == f"{family}_{norm}"].sort_values("epsilon_255")
                if not len(line) or family == WORST:
                    continue
                at, colour = [budgets.index(e) for e in line["epsilon_255"]], _LINES[family]
                axis.plot(at, 100 * line["success_5"], "o-", color=colour, markersize=3, label=name)
                low, high = zip(*map(wilson, line["success_5"], line["n"]), strict=True)
                axis.fill_between(at, 100 * np.array(low), 100 * np.array(high), color=colour, alpha=0.12, lw=0)
            axis.set_xticks(range(len(budgets)), [f"{e:g}" for e in budgets])
            axis.set(title=f"{' '.join(setup_labels(*setup))}, {NORMS[norm]}", ylim=(-3, 103), xlabel="ε (1/255)")
        axes_row[0].set_ylabel("wrong and not flagged, %")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(1, min(4, len(labels))), columnspacing=1.2)
    return figure
