"""Which numbers come from an unsound attack: the checks in each record, and those between records.

Two checks need more than one attack, so no single cell can make them: they are made here, whenever tables are. What
an attack on M failed also marks UnMask's numbers, which stand on the same attacked images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from unmask_tf.attacks.checks import CHECKS, WARNINGS, few
from unmask_tf.config import PROFILES
from unmask_tf.reproduce.cells import (
    DEFENCE_LABELS,
    Cell,
    attack_label,
    cell_of,
    cell_order,
    class_set_label,
    model_label,
)
from unmask_tf.reproduce.records import Record

BETWEEN_CELLS: dict[str, str] = {
    "monotone_in_epsilon": "a smaller epsilon, or none, fools at least 0.5 points more images",
    "pgd_and_mi_agree": "the other of PGD and MI, of the same norm and epsilon, fools at least 2 points more images",
}
"""The checks between cells, and what a failure means. One image is never held against an attack (`checks.few`)."""

# What a step of many budgets brings about, as the released attacks have it: iterates that forget one another.
_BY_THE_STEP = frozenset(
    {"loss_rises", "as_strong_as_one_step", "doubling_gains_little", "best_iterate_returned", *BETWEEN_CELLS}
)

# (cell, defence) -> names of checks.
Names = dict[tuple[Cell, str], tuple[str, ...]]


def failed_checks(records: Sequence[Record]) -> Names:
    """The checks that an attack failed, in and between records, for the cells that are not sound.

    An attack without any check is not sound either; it has no names.
    """
    between = _between_cells(records)
    found: Names = {}
    for record in records:
        cell = cell_of(vars(record.key))
        names = [n for n, holds in record.checks.items() if not holds and n not in WARNINGS]
        names += between.get((cell, _target(record)), [])
        if names or not record.sound:
            found[cell, record.key.defence] = tuple(sorted(names))
    return found


def warned_checks(records: Sequence[Record]) -> Names:
    """The checks that only warn and did, per cell."""
    return {
        (cell_of(vars(record.key)), record.key.defence): names
        for record in records
        if (names := tuple(sorted(n for n, holds in record.checks.items() if not holds and n in WARNINGS)))
    }


def longer_attacks(records: Sequence[Record]) -> str:
    """A sentence (without its full stop) on the attacks given more gradient steps than their profile's, or nothing."""
    attacks = [r for r in records if r.key.defence != "um" and r.iterations is not None]
    profile = PROFILES.get(attacks[0].key.profile) if attacks else None
    longer = [r.iterations for r in attacks if profile is not None and r.iterations > profile.attack.iterations]
    if profile is None or not longer:
        return ""
    return (
        f"{len(longer)} of {len(attacks)} attacks had not converged after {profile.attack.iterations} gradient steps "
        f"and were given up to {max(longer)}"
    )


def _target(record: Record) -> str:
    """Which M was attacked: UnMask stands behind the attack on the benign M."""
    return "at" if record.key.defence == "at" else "none"


def _between_cells(records: Sequence[Record]) -> dict[tuple[Cell, str], list[str]]:
    """(cell, attacked M) -> checks between cells that the attack failed. The weaker attack is the one at fault."""
    attacked = {(cell_of(vars(r.key)), r.key.defence): r for r in records if r.key.defence != "um"}
    found: dict[tuple[Cell, str], list[str]] = {}
    for (cell, target), record in attacked.items():
        model, class_set, attack, epsilon = cell
        if attack == "none":
            continue
        smaller = [attacked.get(((model, class_set, "none", 0), target))]
        smaller += [other for (c, t), other in attacked.items() if t == target and c[:3] == cell[:3] and c[3] < epsilon]
        family, _, norm = attack.partition("_")
        twin = {"pgd": "mia", "mia": "pgd"}.get(family)
        twins = [attacked.get(((model, class_set, f"{twin}_{norm}", epsilon), target))]
        for name, others, points in (("monotone_in_epsilon", smaller, 0.5), ("pgd_and_mi_agree", twins, 2.0)):
            if any(_lacks(record, other, points) for other in others if other is not None):
                found.setdefault((cell, target), []).append(name)
    return found


def _lacks(record: Record, other: Record, points: float) -> bool:
    """Whether the attack of `record` fools fewer images than that of `other`, by more than few."""
    if record.n != other.n:
        return False  # a table of both is refused
    return not few(record.correct - other.correct, record.n, points)


def meaning(check: str) -> str:
    """What it means if a check fails, in a few words; empty for a name of an older version."""
    return BETWEEN_CELLS.get(check) or (CHECKS[check].failure if check in CHECKS else "")


def unsound_notes(records: Sequence[Record]) -> list[str]:
    """One sentence per failed check, naming the attacks concerned; then what the released step explains."""
    failed = failed_checks(records)
    notes = []
    for name, listed in _by_check(records, failed):
        reason = (f"failed {name}" if name else "was not checked") + (f" ({meaning(name)})" if meaning(name) else "")
        notes.append(f"unsound, so it says little of robustness: the attack {reason}: {', '.join(listed)}.")
    return notes + _finding(records, failed)


def _finding(records: Sequence[Record], failed: Names) -> list[str]:
    """The line that tells the paper's released attacks from a run that went wrong."""
    profile = PROFILES.get(records[0].key.profile) if records else None
    if profile is None or profile.attack.preset != "released":
        return []
    explained = [names for names in failed.values() if names and set(names) <= _BY_THE_STEP]
    if not explained:
        return []
    return [
        "As released: a finding about the paper's attacks, not a fault of this run. Their step of 2.0 is not scaled to "
        "[0, 1] pixels, so an iterate keeps little of the one before; `make study` sets the other presets beside them."
    ]


def checks_markdown(records: Sequence[Record]) -> str:
    """The report's section on the checks: a row per check that failed or warned, what it means, and where."""
    failed, warned = failed_checks(records), warned_checks(records)
    attacks = [r for r in records if r.key.attack != "none" and r.key.defence != "um"]
    if not failed and not warned:
        return f"{len(attacks)} attacks were run; each passed every check.\n"
    unsound = sum((cell_of(vars(r.key)), r.key.defence) in failed for r in attacks)
    rows = ["| Check | Verdict | It means | Where |", "| --- | --- | --- | --- |"]
    for verdict, found in (("failed", failed), ("warning", warned)):
        for name, listed in _by_check(records, found):
            rows.append(f"| {name or 'not checked'} | {verdict} | {meaning(name)} | {', '.join(listed)} |")
    return (
        f"{len(attacks)} attacks were run, {unsound} of them unsound. Each passed {len(CHECKS)} checks of its own and "
        f"{len(BETWEEN_CELLS)} between attacks, but for these:\n\n"
        + "\n".join(rows)
        + "\n"
        + "".join(f"\n{line}\n" for line in _finding(records, failed))
    )


def _by_check(records: Sequence[Record], found: Names) -> list[tuple[str, list[str]]]:
    """Per check the attacks concerned, each with its models where not all of them are; "" stands for no check at all.

    UnMask's numbers stand on the attacks on the benign M, so only attacks are listed, where there are any.
    """
    attacks = [r for r in records if r.key.attack != "none"]
    attacks = [r for r in attacks if r.key.defence != "um"] or attacks
    total = Counter((r.key.attack, r.key.epsilon_255) for r in attacks)
    where: dict[str, dict[tuple[str, float], list[str]]] = {}
    for record in sorted(attacks, key=lambda r: r.key.order):
        cell, defence = cell_of(vars(record.key)), record.key.defence
        place = f"{model_label(cell[0])} {class_set_label(cell[1])} {DEFENCE_LABELS[defence]}"
        for name in found[cell, defence] or ("",) if (cell, defence) in found else ():
            where.setdefault(name, {}).setdefault(cell[2:], []).append(place)
    order = [*CHECKS, *BETWEEN_CELLS]
    return [
        (
            name,
            [
                attack_label(*attack) + ("" if len(places) == total[attack] else f" ({'; '.join(places)})")
                for attack, places in sorted(where[name].items(), key=lambda item: cell_order(("", "", *item[0])))
            ],
        )
        for name in sorted(where, key=lambda n: (order.index(n) if n in order else len(order), n))
    ]
