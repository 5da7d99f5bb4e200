"""Where the paper's numbers come from: M's accuracy without a defence, under the presets of the attacks.

The presets differ in the step size alone (`strong` also keeps the best iterate and restarts), so the study tells what
the released step of 2.0 does to each attack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from unmask_tf.attacks.checks import WARNINGS
from unmask_tf.experiment.rows import RowSet
from unmask_tf.files import write_text
from unmask_tf.report.cells import ATTACKS, CELL, attack_label, cell_rank, in_order, label, rank, setup_labels
from unmask_tf.report.published import read_published
from unmask_tf.report.results import need
from unmask_tf.report.soundness import attacks, by_check, longer_attacks, mark, meaning, unsound
from unmask_tf.report.statistics import lookup
from unmask_tf.report.text import beside, csv, markdown, number

PRESETS = ("released", "written", "eq1", "strong")


def by_preset(row_sets: Iterable[RowSet]) -> dict[str, list[RowSet]]:
    """Preset -> its row sets of attacked images, and those of the benign images, which all share."""
    row_sets = in_order(row_sets)
    benign = [r for r in row_sets if r.header.attack == "none"]
    presets = {r.header.threat.get("preset", "") for r in row_sets if r.header.attack != "none"}
    return {
        preset: benign + [r for r in row_sets if r.header.threat.get("preset") == preset]
        for preset in sorted(presets, key=lambda name: rank(name, PRESETS))
    }


def study_table(found: Mapping[str, Sequence[RowSet]]) -> pd.DataFrame:
    """One row per attacked cell, in the paper's order: `CELL`, n, accuracies without an attack and by preset."""
    rows: dict[tuple, dict] = {}
    benign = {r.header.cell[:2]: r.accuracy for rs in found.values() for r in rs if r.header.attack == "none"}
    for preset, under in found.items():
        for (cell, _), r in attacks(under).items():
            row = {**dict(zip(CELL, cell, strict=True)), "n": r.n, "benign": benign.get(cell[:2], float("nan"))}
            rows.setdefault(cell, row)[preset] = r.accuracy
    return pd.DataFrame([rows[cell] for cell in sorted(rows, key=cell_rank)], columns=[*CELL, "n", "benign", *found])


def study_markdown(found: Mapping[str, Sequence[RowSet]], profile: str) -> str:
    """The study as Markdown: the table, its means, and what the checks say of each preset."""
    table, paper = study_table(found), lookup(read_published().numbers, "accuracy")
    verdicts = {preset: unsound(under) for preset, under in found.items()}
    rows = []
    for row in table.to_dict("records"):
        cell = tuple(row[name] for name in CELL)
        shown = [
            beside(row[p], paper.get((cell, "none")) if p == "released" else None, mark=mark(verdicts[p], cell, "none"))
            for p in found
        ]
        rows.append([*setup_labels(*cell[:2]), attack_label(*cell[2:]), str(row["n"]), number(row["benign"]), *shown])
    means = [
        [label(attack, ATTACKS), *(number(table.loc[table["attack"] == attack, preset].mean()) for preset in found)]
        for attack in dict.fromkeys(table["attack"])
    ]
    parts = [
        f"# Where the paper's numbers come from: profile `{profile}`\n",
        "M's accuracy without a defence. `released`: step 2.0, the authors' code (in parentheses the paper's number); "
        "`written`: step 2/255, the paper's text; `eq1`: step ε, its Equation 1; `strong`: step 2.5 ε / iterations, "
        "best iterate, restarts. A † marks an unsound attack (docs/attack_checks.md).\n",
        markdown(["M", "CS", "Attack", "n", "No attack", *found], rows, left=3),
        "## Means over models, class sets and strengths\n",
        markdown(["Attack", *found], means, left=1),
        "## What the checks say\n",
        "".join(_verdict(preset, under) for preset, under in found.items()),
    ]
    return "\n".join(parts)


def _verdict(preset: str, under: Sequence[RowSet]) -> str:
    found, failed = attacks(under), unsound(under)
    warned = sum(any(not r.header.checks.get(name, True) for name in WARNINGS) for r in found.values())
    repaired = sum(r.header.nan_images for r in found.values())
    text = f"- `{preset}`: {len(found) - len(failed)} of {len(found)} attacks are sound, {warned} gave a warning"
    text += f"; NaN repaired in {repaired} images.\n" if repaired else ".\n"
    lines = [longer_attacks(under)] + [
        f"{n} ({meaning(n)}): {', '.join(w)}." for n, w in by_check(failed, found).items()
    ]
    return text + "".join(f"  {line}\n" for line in lines if line)


def study(folder: Path) -> str:
    """Writes study.md and study.csv into `<results>/<profile>`; returns the Markdown.

    Raises:
        InputError: there is no study, it is damaged, or the folder cannot be written.
    """
    found = by_preset(need(folder, "study"))
    text = study_markdown(found, folder.name)
    write_text(folder / "study.md", text)
    write_text(folder / "study.csv", csv(study_table(found)))
    return text
