"""Which numbers come from an unsound attack: the checks in the headers, and those between cells.

Two checks need more than one attack, so no single cell can make them: they are made here. An attack on the benign M
also marks the numbers of every defence that stands behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from unmask_tf.attacks.checks import CHECKS, WARNINGS, few
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import (
    DEFENCES,
    Cell,
    attack_label,
    cell_rank,
    in_order,
    label,
    rank,
    setup_labels,
    target,
)
from unmask_tf.report.text import markdown

BETWEEN_CELLS: dict[str, str] = {
    "monotone_in_epsilon": "a smaller epsilon, or none, fools at least 0.5 points more images",
    "pgd_and_mi_agree": "the other of PGD and MI, of the same norm and epsilon, fools at least 2 points more images",
}
"""The checks between cells, and what a failure means. One image is never held against an attack (`checks.few`)."""

# What a step of many budgets brings about, as the released attacks have it: iterates that forget one another.
_BY_THE_STEP = frozenset(
    {"loss_rises", "as_strong_as_one_step", "doubling_gains_little", "best_iterate_returned", *BETWEEN_CELLS}
)
NOT_CHECKED = "not_checked"
_TWINS = {"pgd": "mia", "mia": "pgd"}

# An attack: its cell, and whose M it attacked (`cells.target`).
Attack = tuple[Cell, str]


def evidence_checks() -> tuple[str, ...]:
    """The checks whose success says something of an attack: those that do not hold by construction."""
    return tuple(CHECKS)


def meaning(check: str) -> str:
    """What it means if a check fails, in a few words; empty for a name that is not known."""
    return BETWEEN_CELLS.get(check) or (CHECKS[check].failure if check in CHECKS else "")


def attacks(row_sets: Iterable[RowSet]) -> dict[Attack, RowSet]:
    """Each attack once, in the paper's order, with the first of the row sets that stand on it."""
    found: dict[Attack, RowSet] = {}
    for r in in_order(row_sets):
        if r.header.attack != "none":
            found.setdefault((r.header.cell, target(r.header.defence)), r)
    return found


def own_failures(row_set: RowSet) -> list[str]:
    """The checks that the attack itself failed, but for those that only warn; `not_checked` if it has no evidence."""
    checks = row_set.header.checks
    if not set(checks) & set(evidence_checks()):
        return [NOT_CHECKED]
    return [name for name, holds in checks.items() if not holds and name not in WARNINGS]


def unsound(row_sets: Iterable[RowSet]) -> dict[Attack, list[str]]:
    """The attacks that are not sound, with the names of the checks they failed, their own and those between cells."""
    row_sets = list(row_sets)
    found = attacks(row_sets)
    # Without an attack every M stands as it is.
    fooled = {(r.header.cell, target(r.header.defence)): r for r in in_order(row_sets) if r.header.attack == "none"}
    fooled |= found
    verdicts = {}
    for attack, r in found.items():
        if names := own_failures(r) + _between_cells(attack, fooled):
            verdicts[attack] = sorted(names)
    return verdicts


def _between_cells(attack: Attack, known: Mapping[Attack, RowSet]) -> list[str]:
    """The checks between cells that the attack failed: the weaker of two is the one at fault."""
    (model, class_set, name, epsilon), whose = attack
    family, _, norm = name.partition("_")
    smaller = [
        (cell, t) for cell, t in known if t == whose and cell[:3] == (model, class_set, name) and cell[3] < epsilon
    ]
    smaller.append(((model, class_set, "none", 0), whose))
    twin = ((model, class_set, f"{_TWINS.get(family)}_{norm}", epsilon), whose)
    failed = []
    for check, others, points in (("monotone_in_epsilon", smaller, 0.5), ("pgd_and_mi_agree", [twin], 2.0)):
        if any(_weaker(known[attack], known[other], points) for other in others if other in known):
            failed.append(check)
    return failed


def _weaker(a: RowSet, b: RowSet, points: float) -> bool:
    """Whether the attack of `a` fools fewer images than that of `b`, by more than few."""
    return a.n == b.n and not few(int(b.fooled.sum()) - int(a.fooled.sum()), a.n, points)


def mark(verdicts: Mapping[Attack, object], cell: Cell, defence: str) -> str:
    """A dagger for a number of an unsound attack."""
    return "†" if (cell, target(defence)) in verdicts else ""


def longer_attacks(row_sets: Iterable[RowSet]) -> str:
    """A sentence on the attacks that were given more gradient steps than asked for, or nothing."""
    threats = [r.header.threat for r in attacks(row_sets).values()]
    asked = [(t["iterations"], t["iterations_asked"]) for t in threats if t.get("iterations_asked") is not None]
    longer = [(given, wanted) for given, wanted in asked if given > wanted]
    if not longer:
        return ""
    return (
        f"{len(longer)} of {len(threats)} attacks had not converged after {min(w for _, w in longer)} gradient steps "
        f"and were given up to {max(given for given, _ in longer)}."
    )


def verdict_line(row_sets: Iterable[RowSet]) -> str:
    """How many attacks there were and how many of them are sound, in one sentence."""
    found, verdicts = attacks(row_sets), unsound(row_sets)
    checks = f"{len(evidence_checks())} checks of their own and {len(BETWEEN_CELLS)} between attacks"
    if not verdicts:
        return f"{len(found)} attacks were run; each passed {checks}."
    return f"{len(found) - len(verdicts)} of {len(found)} attacks passed {checks}; {len(verdicts)} did not (†)."


def released_finding(row_sets: Iterable[RowSet]) -> str:
    """The sentence that tells the paper's released attacks from a run that went wrong, where it applies."""
    found = attacks(row_sets)
    explained = [
        attack
        for attack, names in unsound(row_sets).items()
        if found[attack].header.threat.get("preset") == "released" and set(names) <= _BY_THE_STEP
    ]
    if not explained:
        return ""
    return (
        "As released: a finding about the paper's attacks, not a fault of this run. Their step of 2.0 is not scaled to "
        "[0, 1] pixels, so an iterate keeps little of the one before; `make study` compares the other presets."
    )


def checks_markdown(row_sets: Iterable[RowSet]) -> str:
    """The report's section on the checks: a row per check that failed or warned, what it means, and where."""
    found, verdicts = attacks(row_sets), unsound(row_sets)
    warned = {a: [n for n, holds in r.header.checks.items() if not holds and n in WARNINGS] for a, r in found.items()}
    rows = [
        [name, verdict, meaning(name), ", ".join(where)]
        for verdict, by_attack in (("failed", verdicts), ("warning", warned))
        for name, where in by_check(by_attack, found).items()
    ]
    text = verdict_line(row_sets) + "\n"
    if rows:
        text += "\n" + markdown(["Check", "Verdict", "It means", "Where"], rows, left=4)
    return text + "".join(f"\n{line}\n" for line in (released_finding(row_sets), longer_attacks(row_sets)) if line)


def by_check(names: Mapping[Attack, Iterable[str]], found: Iterable[Attack]) -> dict[str, list[str]]:
    """Check -> the attacks concerned, each with its models where not all of them are."""
    total = Counter(cell[2:] for cell, _ in found)
    where: dict[str, dict[tuple[str, float], list[str]]] = {}
    for (cell, whose), listed in sorted(names.items(), key=lambda item: cell_rank(item[0][0])):
        place = " ".join([*setup_labels(*cell[:2]), label(whose, DEFENCES)])
        for name in listed:
            where.setdefault(name, {}).setdefault(cell[2:], []).append(place)
    return {
        name: [
            attack_label(*attack) + ("" if len(places) == total[attack] else f" ({'; '.join(places)})")
            for attack, places in sorted(where[name].items(), key=lambda item: cell_rank(("", "", *item[0])))
        ]
        for name in sorted(where, key=lambda name: rank(name, (*CHECKS, *BETWEEN_CELLS)))
    }
