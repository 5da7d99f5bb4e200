"""Where the paper's numbers come from: M's accuracy without a defence, under the presets of the attacks.

The presets differ in the step size alone (`strong` also keeps the best iterate and restarts), so the study tells what
the released step of 2.0 does to each attack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from unmask_tf.attacks.threat_models import PRESETS
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import ATTACKS, CELL, cell_labels, cell_rank, grouped, label, ranked
from unmask_tf.report.published import read_published
from unmask_tf.report.results import Results
from unmask_tf.report.soundness import LEGEND, attacks, by_check, longer_attacks, mark, meaning, unsound, warned
from unmask_tf.report.statistics import accuracies, share
from unmask_tf.report.table import Number, Table


def by_preset(row_sets: Iterable[RowSet]) -> dict[str, list[RowSet]]:
    """Preset -> its row sets of attacked images, and those of the benign images, which all presets share."""
    presets = grouped(row_sets, lambda r: r.header.threat.get("preset", ""))
    benign = presets.pop("", [])
    return {name: benign + presets[name] for name in ranked(presets, PRESETS)}


def preset_accuracies(row_sets: Iterable[RowSet]) -> dict[str, pd.Series]:
    """Preset -> M's accuracies by (model, class_set, attack, epsilon_255)."""
    return {name: accuracies(under).droplevel("defence") for name, under in by_preset(row_sets).items()}


def study_tables(results: Results) -> list[Table]:
    """Every cell, the means by attack, and what the checks say of each preset; none where there is no study."""
    found, numbers = by_preset(results.find("study")), preset_accuracies(results.find("study"))
    verdicts = {preset: unsound(under) for preset, under in found.items()}
    sizes = {r.header.cell: r.n for under in found.values() for r in under}
    cells = sorted((cell for cell in sizes if cell[2] != "none"), key=cell_rank)
    frame = pd.DataFrame(numbers).reindex(pd.MultiIndex.from_tuples(cells, names=CELL))
    paper, rows = read_published().accuracy, []
    for cell, of in frame.iterrows():
        benign = next(iter(numbers.values())).get((*cell[:2], "none", 0))  # which all presets share
        shown = [
            share(
                of[preset],
                sizes[cell],
                paper.get((*cell, "none")) if preset == "released" else None,
                mark=mark(verdicts[preset], (*cell, "none")),
            )
            for preset in found
        ]
        rows.append([*cell_labels(cell), Number(sizes[cell], digits=0), Number(benign), *shown])
    by_attack = frame.groupby(level="attack", sort=False).mean()
    means = [[label(name, ATTACKS), *map(Number, of)] for name, of in by_attack.iterrows()]
    checks = [
        [preset, check, meaning(check), ", ".join(where)]
        for preset, under in found.items()
        for check, where in by_check(verdicts[preset], attacks(under)).items()
    ]
    notes = (
        "`released`: step 2.0, the authors' code; `written`: step 2/255, the paper's text; `eq1`: step ε, its Equation "
        "1; `strong`: step 2.5 ε / iterations, best iterate, restarts.",
        LEGEND,
    )
    title = "M's accuracy without a defence under the presets of the attacks"
    told = [_verdict(preset, under) for preset, under in found.items()]
    mean_title = f"{title}: means over models, class sets and strengths"
    check_head = ["Preset", "Check", "It means", "Where"]
    return [
        Table("study", title, ["M", "CS", "Attack", "n", "No attack", *found], rows, notes, "study"),
        Table("study_means", mean_title, ["Attack", *found], means, told, "study"),
        Table("study_checks", "Checks that attacks of the presets failed", check_head, checks, (), "study"),
    ]


def _verdict(preset: str, under: Sequence[RowSet]) -> str:
    found, failed = attacks(under), unsound(under)
    repaired = sum(r.header.nan_images for r in found.values())
    text = (
        f"`{preset}`: {len(found) - len(failed)} of {len(found)} attacks are sound, {len(warned(under))} gave a warning"
    )
    text += f"; NaN repaired in {repaired} images." if repaired else "."
    return " ".join(filter(None, (text, longer_attacks(under))))


def write_study(results: Results) -> list[Table]:
    """Writes the study's tables into `<results>/<profile>`; returns them.

    Raises:
        InputError: there is no study, it is damaged, or the folder cannot be written.
    """
    results.need("study")
    tables = [table for table in study_tables(results) if table.rows]
    results.write(tables)
    return tables
