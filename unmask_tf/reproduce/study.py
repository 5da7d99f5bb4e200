"""Where the paper's numbers come from: M's accuracy without a defence, under the four presets of the attacks.

The presets differ in the step size alone (`strong` also keeps the best iterate and restarts), so the study tells what
the released step of 2.0 does to each attack. Below results/<profile>/study/<preset>/ lie the attacked images and the
records; the models, and the attacks under the profile's own preset, are the run's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from unmask_tf.attacks.checks import CHECKS
from unmask_tf.attacks.threat_models import PRESETS
from unmask_tf.errors import InputError
from unmask_tf.files import write_text
from unmask_tf.reproduce import records
from unmask_tf.reproduce.artefacts import BENIGN, Run, digest, key_of
from unmask_tf.reproduce.cells import (
    CELL_COLUMNS,
    Cell,
    attack_label,
    by_cell,
    cell_of,
    cell_order,
    class_set_label,
    model_label,
)
from unmask_tf.reproduce.published import Published
from unmask_tf.reproduce.records import Record
from unmask_tf.reproduce.run import Unit, attack_cost, plan, run_units
from unmask_tf.reproduce.soundness import failed_checks, longer_attacks, meaning, warned_checks
from unmask_tf.reproduce.stages import Progress, Stages
from unmask_tf.reproduce.tables import beside, markdown, number

COLUMNS = (*CELL_COLUMNS, "n", "benign", *PRESETS)


@dataclass(frozen=True)
class PresetRun(Run):
    """A run with another preset: its own attacks and records, the other run's models and benign verdicts.

    Attributes:
        base: the run whose models are attacked.
    """

    base: Run

    @classmethod
    def of(cls, base: Run, preset: str) -> PresetRun:
        """The run under a preset, in the study's folder."""
        profile = replace(base.profile, attack=replace(base.profile.attack, preset=preset))
        return cls(profile, base.data, base.taxonomy, base.folder / "study" / preset, base.k_weights, base)

    @property
    def config_hash(self) -> str:
        """As the run's, but for K, which takes no part."""
        sets = {name: self.taxonomy.members(name) for name in self.profile.class_sets}
        return digest("study", self.profile.hash(), self.data.identity, sets, list(CHECKS))

    def model_path(self, class_set: str, architecture: str, defence: str) -> Path:
        return self.base.model_path(class_set, architecture, defence)

    def _shared(self, attack: str) -> bool:
        return attack == "none" or self.profile.attack.preset == self.base.profile.attack.preset

    def attacked_path(self, class_set: str, architecture: str, target: str, attack: str, epsilon: float) -> Path:
        source = self.base if self._shared(attack) else super()
        return source.attacked_path(class_set, architecture, target, attack, epsilon)

    def attacked_key(self, class_set: str, architecture: str, target: str, attack: str, epsilon: float) -> str:
        source = self.base if self._shared(attack) else super()
        return source.attacked_key(class_set, architecture, target, attack, epsilon)


def units(run: Run, stages: Stages | None = None) -> list[Unit]:
    """All units of the study: M's training where it is missing, the attacks model by model, the records."""
    stages = stages or Stages(run)
    presets = [PresetRun.of(run, preset) for preset in PRESETS]
    return [*plan(run, stages, ("train-m-benign",)), *_attacks(run, presets, stages), *_records(run, presets, stages)]


def _attacks(run: Run, presets: Sequence[PresetRun], stages: Stages) -> Iterator[Unit]:
    for class_set, architecture in run.models:
        images = run.test_images(class_set)
        cells = [(presets[0], *BENIGN)] + [(p, *cell) for p in presets for cell in run.profile.attack.cells()]
        for preset, attack, epsilon in cells:
            where = (class_set, architecture, "none", attack, epsilon)
            path, key = preset.attacked_path(*where), preset.attacked_key(*where)
            name = "" if attack == "none" else f" {preset.profile.attack.preset} {attack} eps {epsilon}"
            yield Unit(
                "attack",
                f"{class_set} {architecture}{name}",
                attack_cost(run, architecture, images) / (1 if name else run.profile.attack.iterations),
                partial(_written_under, path, key),
                partial(_attack, stages, preset, where),
            )


def _written_under(path: Path, key: str) -> bool:
    return key_of(path) == key


def _attack(stages: Stages, run: Run, where: tuple, progress: Progress) -> str:
    stages.run = run  # the models that it keeps are the same for every preset
    return stages.attack(*where, progress)


def _records(run: Run, presets: Sequence[PresetRun], stages: Stages) -> Iterator[Unit]:
    for preset in presets:
        for class_set, architecture in run.models:
            for attack, epsilon in (BENIGN, *run.profile.attack.cells()):
                cell = preset.cell(class_set, architecture, "none", attack, epsilon)
                yield Unit(
                    "record",
                    cell.file_name,
                    0.1,
                    partial(_recorded, preset, cell),
                    lambda progress, preset=preset, cell=cell: _record(stages, preset, cell),
                )


def _recorded(run: PresetRun, cell: records.CellKey) -> bool:
    where = (cell.class_set, cell.model, "none", cell.attack, cell.epsilon_255)
    try:
        known = records.read(cell.path(run.records)).config_hash == run.config_hash
    except InputError:
        return False
    return known and _written_under(run.attacked_path(*where), run.attacked_key(*where))


def _record(stages: Stages, run: PresetRun, cell: records.CellKey) -> str:
    stages.run = run
    return stages.record(cell)


def run_study(run: Run, published: Published, stages: Stages | None = None) -> Path:
    """Makes what is missing of the study, writes study.csv and study.md into the run's folder, and prints the table.

    Returns:
        The path of study.md.

    Raises:
        InputError: from any stage; finished units are kept.
    """
    run_units(run, units(run, stages), before={})
    found = {}
    for preset in PRESETS:
        under = PresetRun.of(run, preset)
        cells = [(c, a, *cell) for c, a in run.models for cell in (BENIGN, *run.profile.attack.cells())]
        found[preset] = [
            records.read(under.cell(class_set, architecture, "none", attack, epsilon).path(under.records))
            for class_set, architecture, attack, epsilon in cells
        ]
    table = study_table(found)
    write_text(run.folder / "study.csv", study_csv(table))
    path = run.folder / "study.md"
    write_text(path, study_markdown(found, published))
    print(study_markdown(found, published), end="")
    return path


def study_table(found: Mapping[str, Sequence[Record]]) -> pd.DataFrame:
    """One row per attacked cell: accuracies, as fractions, without an attack and under each preset.

    Args:
        found: preset -> records of M without a defence.

    Returns:
        Columns `COLUMNS`, rows in the paper's order; NaN where a preset lacks the cell.
    """
    rows: dict[Cell, dict] = {}
    benign = {(r.key.model, r.key.class_set): r.accuracy for rs in found.values() for r in rs if r.key.attack == "none"}
    for preset, under in found.items():
        for record in under:
            cell = cell_of(vars(record.key))
            if record.key.attack != "none":
                row = rows.setdefault(cell, dict(zip(CELL_COLUMNS, cell, strict=True)))
                row |= {"n": record.n, "benign": benign.get(cell[:2], float("nan")), preset: record.accuracy}
    frame = pd.DataFrame([rows[cell] for cell in sorted(rows, key=cell_order)], columns=list(COLUMNS))
    return frame.astype({name: float for name in ("benign", *PRESETS)})


def study_csv(table: pd.DataFrame) -> str:
    """The table as CSV with four decimals."""
    as_text = table.assign(epsilon_255=[f"{epsilon:.10g}" for epsilon in table["epsilon_255"]])
    return as_text.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def study_markdown(found: Mapping[str, Sequence[Record]], published: Published) -> str:
    """The study as Markdown: the table, its means, and what the checks say of each preset."""
    table, paper = study_table(found), by_cell(published.table4)
    failed = {preset: failed_checks(under) for preset, under in found.items()}
    rows = []
    for cell, row in by_cell(table).items():
        shown = [
            beside(
                row[preset],
                paper.get(cell, {}).get("none") if preset == "released" else None,
                mark="†" if (cell, "none") in failed[preset] else "",
            )
            for preset in PRESETS
        ]
        labels = [model_label(cell[0]), class_set_label(cell[1]), attack_label(*cell[2:])]
        rows.append([*labels, str(row["n"]), number(row["benign"]), *shown])
    profile = next(iter(found.values()))[0].key.profile
    parts = [
        f"# Where the paper's numbers come from: profile `{profile}`\n",
        "M's accuracy without a defence. `released`: step 2.0, the authors' code (in parentheses the paper's number); "
        "`written`: step 2/255, the paper's text; `eq1`: step ε, its Equation 1; `strong`: step 2.5 ε / iterations, "
        "best iterate, restarts. A † marks an unsound attack (docs/attack_checks.md).\n",
        markdown(["M", "CS", "Attack", "n", "No attack", *PRESETS], rows, left=3),
        "## Means over models, class sets and strengths\n",
        markdown(["Attack", *PRESETS], _means(table), left=1),
        "## What the checks say\n",
        _verdicts(found),
    ]
    return "\n".join(parts)


def _means(table: pd.DataFrame) -> list[list[str]]:
    attacks = list(dict.fromkeys(table["attack"]))
    of = {attack: table[table["attack"] == attack][list(PRESETS)].mean() for attack in attacks}
    names = {attack: attack_label(attack, 0).removesuffix(" ε=0") for attack in attacks}
    return [[names[attack], *(number(of[attack][preset]) for preset in PRESETS)] for attack in attacks]


def _verdicts(found: Mapping[str, Sequence[Record]]) -> str:
    lines = []
    for preset, under in found.items():
        attacks = sum(record.key.attack != "none" for record in under)
        unsound = failed_checks(under)
        names = sorted({name for where in unsound.values() for name in where})
        warned = {cell for (cell, _) in warned_checks(under)}
        text = f"- `{preset}`: {attacks - len(unsound)} of {attacks} attacks are sound, {len(warned)} were warned of"
        repaired = sum(record.nan_images for record in under)
        text += f"; NaN repaired in {repaired} images" if repaired else ""
        longer = longer_attacks(under)
        text += f".\n  {longer}" if longer else ""
        for name in names:
            where = [cell for (cell, _), found_names in unsound.items() if name in found_names]
            listed = dict.fromkeys(attack_label(*cell[2:]) for cell in sorted(where, key=cell_order))
            text += f".\n  {name} ({meaning(name)}): {', '.join(listed)}"
        lines.append(text + ".\n")
    return "".join(lines)
