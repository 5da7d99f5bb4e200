"""Where the paper's numbers come from: M's accuracy without a defence, under the presets of the attacks.

The presets differ in the step size alone (`strong` also keeps the best iterate and restarts), so the study tells what
the released step of 2.0 does to each attack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import ATTACKS, attack_label, cell_rank, label, rank, setup_labels
from unmask_tf.report.published import read_published
from unmask_tf.report.results import need
from unmask_tf.report.soundness import attacks, by_check, longer_attacks, mark, meaning, unsound, warned
from unmask_tf.report.statistics import accuracies, attacked
from unmask_tf.report.text import beside, markdown, number, write_files

PRESETS = ("released", "written", "eq1", "strong")


def by_preset(row_sets: Iterable[RowSet]) -> dict[str, list[RowSet]]:
    """Preset -> its row sets of attacked images, and those of the benign images, which all presets share."""
    presets: dict[str, list[RowSet]] = {}
    for r in row_sets:
        presets.setdefault(r.header.threat.get("preset", ""), []).append(r)
    benign = presets.pop("", [])
    return {name: benign + presets[name] for name in sorted(presets, key=lambda name: rank(name, PRESETS))}


def study_table(found: Mapping[str, Sequence[RowSet]]) -> pd.DataFrame:
    """One row per attacked cell, in the paper's order: n, accuracies without an attack (`benign`) and by preset."""
    numbers = {preset: accuracies(under).droplevel("defence") for preset, under in found.items()}
    benign = {key[:2]: value for under in numbers.values() for key, value in under.items() if key[2] == "none"}
    sizes = {r.header.cell: r.n for under in found.values() for r in under}
    table = pd.DataFrame({preset: attacked(under) for preset, under in numbers.items()})
    table = table.reindex(sorted(table.index, key=cell_rank))
    table.insert(0, "benign", [benign.get(cell[:2], float("nan")) for cell in table.index])
    table.insert(0, "n", [sizes[cell] for cell in table.index])
    return table


def study_markdown(found: Mapping[str, Sequence[RowSet]], profile: str) -> str:
    """The study as Markdown: the table, its means, and what the checks say of each preset."""
    table, paper, rows = study_table(found), read_published().accuracy, []
    verdicts = {preset: unsound(under) for preset, under in found.items()}
    for cell, row in zip(table.index, table.to_dict("records"), strict=True):
        key = (*cell, "none")
        papers = {"released": paper.get(key)}
        shown = [beside(row[preset], papers.get(preset), mark=mark(verdicts[preset], key)) for preset in found]
        rows.append([*setup_labels(*cell[:2]), attack_label(*cell[2:]), str(row["n"]), number(row["benign"]), *shown])
    by_attack = table.groupby(level="attack", sort=False)[list(found)].mean()
    parts = [
        f"# Where the paper's numbers come from: profile `{profile}`\n",
        "M's accuracy without a defence. `released`: step 2.0, the authors' code (in parentheses the paper's number); "
        "`written`: step 2/255, the paper's text; `eq1`: step ε, its Equation 1; `strong`: step 2.5 ε / iterations, "
        "best iterate, restarts. A † marks an unsound attack (docs/attack_checks.md).\n",
        markdown(["M", "CS", "Attack", "n", "No attack", *found], rows, left=3),
        "## Means over models, class sets and strengths\n",
        markdown(["Attack", *found], [[label(a, ATTACKS), *map(number, row)] for a, *row in by_attack.itertuples()], 1),
        "## What the checks say\n",
        "".join(_verdict(preset, under) for preset, under in found.items()),
    ]
    return "\n".join(parts)


def _verdict(preset: str, under: Sequence[RowSet]) -> str:
    found, failed = attacks(under), unsound(under)
    repaired = sum(r.header.nan_images for r in found.values())
    text = f"- `{preset}`: {len(found) - len(failed)} of {len(found)} attacks are sound, {len(warned(under))} gave a "
    text += f"warning; NaN repaired in {repaired} images.\n" if repaired else "warning.\n"
    names = by_check(failed, found).items()
    lines = [longer_attacks(under), *(f"{name} ({meaning(name)}): {', '.join(where)}." for name, where in names)]
    return text + "".join(f"  {line}\n" for line in lines if line)


def study(folder: Path) -> str:
    """Writes study.md and study.csv into `<results>/<profile>`; returns the Markdown.

    Raises:
        InputError: there is no study, it is damaged, or the folder cannot be written.
    """
    found = by_preset(need(folder, "study"))
    text = study_markdown(found, folder.name)
    write_files(folder, {"study.md": text, "study.csv": study_table(found).reset_index()})
    return text
