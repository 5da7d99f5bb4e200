"""UnMask against an attacker who knows K: how often an attack succeeds, and what the system is still worth.

An attack on an image succeeds where M is wrong and the image is not flagged. Thresholds come from benign validation
images of the same M and K, at 5 % and 50 % false positives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from unmask_tf.defense.alignment import auc, benign_threshold, detect, detection_pairs
from unmask_tf.errors import InputError
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import BENIGN, cell_rank, setup_labels
from unmask_tf.report.drawing import panels, styled
from unmask_tf.report.results import Results
from unmask_tf.report.statistics import wilson
from unmask_tf.report.table import Number, Table, number, span

NAME = "adaptive"
RATES = (0.05, 0.5)
"""False positive rates."""
FAMILIES = {
    "joint": "M and K, joint",
    "selective": "M and K, selective",
    "orthogonal": "M and K, orthogonal",
    "parts": "K alone",
    "pgd": "M alone",
    "any": "the worst of all",
}
NORMS = {"linf": "L∞", "l2": "L2"}
_COLOURS = dict(zip(FAMILIES, ("#D55E00", "#E69F00", "#CC79A7", "#009E73", "#0072B2", "#000000"), strict=True))


def adaptive_numbers(row_sets: Iterable[RowSet]) -> pd.DataFrame:
    """One row per M, class set, attack and budget.

    Columns: `n`; `m`, `um`, `algorithm1`: accuracies of M, of K alone and of the whole system; `success_5` and
    `success_50`: wrong and not flagged at that rate of false positives; `reject_5`: right or flagged; `auc` of the
    released protocol (NaN where M is never wrong); `median_iteration` of the attack's best iterate. Attack `any` counts
    an image where any attack of that norm and budget succeeded on it.

    Raises:
        InputError: benign images, or a defence's answers, are missing.
    """
    by_cell = {(r.header.split, *r.header.cell, r.header.defence): r for r in row_sets}
    found, together = [], {}
    for key in sorted({key[1:5] for key in by_cell if key[0] == "test"}, key=cell_rank):
        model, class_set, attack, epsilon = key
        try:
            um, whole = by_cell[("test", *key, "um")], by_cell[("test", *key, "algorithm1")]
            validation, twins = (by_cell[(split, model, class_set, *BENIGN, "um")] for split in ("val", "test"))
        except KeyError as missing:
            raise InputError(f"the rows of {missing.args[0]} are missing. Run: make adaptive") from missing
        row = {"model": model, "class_set": class_set, "attack": attack, "epsilon_255": epsilon, "n": um.n}
        row |= {"m": np.mean(~um.fooled), "um": np.mean(um.right), "algorithm1": np.mean(whole.right)}
        for rate in RATES:
            success = um.fooled & ~detect(um.rows["score"], _threshold(validation, rate))
            row[f"success_{100 * rate:g}"] = np.mean(success)
            if rate == RATES[0]:
                row["reject_5"] = np.mean(~success)
            if attack != "none":
                budget = (model, class_set, f"any_{_norm(attack)}", epsilon, rate)
                together.setdefault(budget, []).append(success)
        row["auc"] = _auc(um, twins)
        row["median_iteration"] = um.header.threat.get("best_iteration_median", np.nan)
        found.append(row)
    return pd.DataFrame(found + _worst(together))


def _worst(together: Mapping[tuple, Sequence[np.ndarray]]) -> list[dict]:
    rows: dict[tuple, dict] = {}
    for (*cell, rate), successes in together.items():
        either = np.logical_or.reduce(successes)
        row = rows.setdefault(
            tuple(cell), dict(zip(("model", "class_set", "attack", "epsilon_255"), cell, strict=True))
        )
        row |= {"n": len(either), f"success_{100 * rate:g}": np.mean(either)}
        if rate == RATES[0]:
            row["reject_5"] = np.mean(~either)
    return list(rows.values())


def _threshold(validation: RowSet, rate: float) -> float:
    return benign_threshold(validation.rows["score"].to_numpy(), rate)[0]


def _auc(attacked: RowSet, twins: RowSet) -> float:
    benign = twins.rows.set_index("image")["score"].reindex(attacked.rows["image"])
    columns = attacked.rows["score"], benign, attacked.rows["model_answer"], attacked.rows["true"]
    scores, labels = detection_pairs(*(column.to_numpy() for column in columns))
    return auc(scores, labels) if len(labels) and attacked.header.attack != "none" else float("nan")


def _norm(attack: str) -> str:
    return attack.rpartition("_")[2]


def _label(attack: str, epsilon: float) -> str:
    family, _, norm = attack.rpartition("_")
    if attack == "none":
        return "No attack"
    return f"{FAMILIES.get(family, family)}, {NORMS.get(norm, norm)} ε={epsilon:g}"


def adaptive_tables(results: Results) -> list[Table]:
    """What the attacks reach, and what the thresholds flag of benign images; none where there are no such rows."""
    if not (row_sets := results.find(NAME)):
        return []
    numbers, families, norms = adaptive_numbers(row_sets), [*FAMILIES], [*NORMS]
    family = numbers["attack"].map(lambda a: families.index(f) if (f := a.rpartition("_")[0]) in families else -1)
    norm = numbers["attack"].map(lambda a: norms.index(n) if (n := _norm(a)) in norms else -1)
    order = ["model", "class_set", "norm", "family", "epsilon_255"]
    rows = []
    for row in numbers.assign(family=family, norm=norm).sort_values(order, kind="stable").to_dict("records"):
        names = [*setup_labels(row["model"], row["class_set"]), _label(row["attack"], row["epsilon_255"])]
        shares = [Number(row["success_5"], interval=wilson(row["success_5"], row["n"]))]
        shares += [Number(row[name]) for name in ("success_50", "m", "um", "algorithm1", "reject_5", "auc")]
        rows.append([*names, *shares, Number(row["median_iteration"], digits=0)])
    sizes = span(r.n for r in row_sets if r.header.split == "test")
    steps = span(r.header.threat["iterations"] for r in row_sets if r.header.threat)
    notes = (
        f"{sizes} test images. An attack succeeds on an image where M is wrong and the image is not flagged, at 5 % or "
        "50 % false positives; in brackets Wilson's 95 % intervals. M right, UM and Alg. 1 are accuracies: of M, of K "
        "alone, and of the whole system; right or flagged is that of a system that may refuse. AUC: the attacked "
        "images that M gets wrong against their benign twins. Steps: the median after which the image that was kept "
        f"was found, all runs counted; a run has {steps}.",
        "Tramèr (ICML 2022) shows that a detector that is robust at ε gives a classifier that is robust at ε/2, though "
        "by an impractical construction: a claim of detection much above what robust classifiers reach at half the "
        "budget would be implausible.",
    )
    head = ["M", "CS", "Attack", "Success, 5 %", "Success, 50 %", "M right", "UM", "Alg. 1", "Right or flagged"]
    title = "UnMask against an attacker who knows K"
    return [Table(NAME, title, [*head, "AUC", "Steps"], rows, notes, NAME), _thresholds(row_sets)]


def _thresholds(row_sets: Sequence[RowSet]) -> Table:
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
        for rate in RATES:
            threshold, measured = benign_threshold(validation.rows["score"].to_numpy(), rate)
            shown = "none: nothing is flagged" if threshold > 1 else number(threshold, 3)
            test = detect(scored[("test", *setup)].rows["score"], threshold).mean()
            flagged = [Number(100 * share, digits=1) for share in (measured, test)]
            rows.append([*setup_labels(*setup), f"{rate:.0%}", shown, *flagged])
    head = ["M", "CS", "At most", "Threshold", "Flagged, validation (%)", "Flagged, test (%)"]
    return Table(f"{NAME}_thresholds", "Thresholds and the benign images that they flag", head, rows, (), NAME)


@styled
def figure_adaptive(table: pd.DataFrame) -> Figure:
    """Success at 5 % false positives over the budget, one line an attack; a row per M and class set."""
    setups = list(dict.fromkeys(zip(table["model"], table["class_set"], strict=True)))
    figure, grid = panels(len(setups), 2, 7.2, 2.7 * len(setups) + 0.6, share=False)
    for axes_row, setup in zip(grid, setups, strict=True):
        own = table[(table["model"] == setup[0]) & (table["class_set"] == setup[1])]
        for axis, norm in zip(axes_row, NORMS, strict=True):
            budgets = sorted(own[own["attack"].map(_norm) == norm]["epsilon_255"].unique())
            for family, name in FAMILIES.items():
                line = own[own["attack"] == f"{family}_{norm}"].sort_values("epsilon_255")
                if not len(line) or family == "any":
                    continue
                at, colour = [budgets.index(e) for e in line["epsilon_255"]], _COLOURS[family]
                axis.plot(at, 100 * line["success_5"], "o-", color=colour, markersize=3, label=name)
                low, high = zip(*map(wilson, line["success_5"], line["n"]), strict=True)
                axis.fill_between(at, 100 * np.array(low), 100 * np.array(high), color=colour, alpha=0.12, lw=0)
            axis.set_xticks(range(len(budgets)), [f"{e:g}" for e in budgets])
            axis.set(title=f"{' '.join(setup_labels(*setup))}, {NORMS[norm]}", ylim=(-3, 103), xlabel="ε (1/255)")
        axes_row[0].set_ylabel("wrong and not flagged, %")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(1, min(5, len(labels))), columnspacing=1.2)
    return figure
