"""Which numbers come from an unsound attack: the checks in the headers, and those between cells.

Two checks need more than one attack, so no single cell can make them: they are made here. An attack on the benign M
also marks the numbers of every defence that stands behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from unmask_tf.attacks.checks import BY_CONSTRUCTION, CHECKS, WARNINGS, few
from unmask_tf.experiment.rows import RowSet
from unmask_tf.report.cells import (
    DEFENCES,
    attack_label,
    attacks_in_order,
    cell_rank,
    in_order,
    label,
    ranked,
    setup_labels,
    target,
)
from unmask_tf.report.table import Table, span

BETWEEN_CELLS = {
    "monotone_in_epsilon": "a smaller epsilon, or none, fools at least 0.5 points more images",
    "pgd_and_mi_agree": "the other of PGD and MI, of the same norm and epsilon, fools at least 2 points more images",
}
"""The checks between cells, and what a failure means. One image is never held against an attack (`checks.few`)."""

# What a step of many budgets brings about, as the released attacks have it: iterates that forget one another.
_BY_THE_STEP = {"loss_rises", "as_strong_as_one_step", "doubling_gains_little", "best_iterate_returned", *BETWEEN_CELLS}
_TWINS = {"pgd": "mia", "mia": "pgd"}
LEGEND = "† The attack failed a check, so the number says little of robustness; the report names the checks."

# An attack: model, class_set, attack, epsilon_255, and whose M was attacked (`cells.target`).
Attack = tuple[str, str, str, float, str]


def evidence_checks() -> tuple[str, ...]:
    """The checks whose success says something of an attack: those that do not hold by construction."""
    return tuple(name for name in CHECKS if name not in BY_CONSTRUCTION)


def meaning(check: str) -> str:
    """What it means if a check fails, in a few words; empty for a name that is not known."""
    return BETWEEN_CELLS.get(check) or (CHECKS[check].failure if check in CHECKS else "")


def attacks(row_sets: Iterable[RowSet], benign: bool = False) -> dict[Attack, RowSet]:
    """Each attack once (or no attack), in the paper's order, with the first of the row sets that stand on it."""
    found: dict[Attack, RowSet] = {}
    for r in in_order(row_sets):
        if benign == (r.header.attack == "none"):
            found.setdefault((*r.header.cell, target(r.header.defence)), r)
    return found


def own_failures(row_set: RowSet) -> list[str]:
    """The checks that the attack itself failed, but for those that only warn; `not_checked` if it has no evidence."""
    checks = row_set.header.checks
    if not set(checks) & set(evidence_checks()):
        return ["not_checked"]
    return [name for name, holds in checks.items() if not holds and name not in WARNINGS]


def unsound(row_sets: Iterable[RowSet]) -> dict[Attack, list[str]]:
    """The attacks that are not sound, with the names of the checks they failed, their own and those between cells."""
    row_sets = list(row_sets)
    found = attacks(row_sets)
    known = {a: (r.n, int(r.fooled.sum())) for a, r in (attacks(row_sets, benign=True) | found).items()}
    return {a: sorted(names) for a, r in found.items() if (names := own_failures(r) + _between_cells(a, known))}


def _between_cells(attack: Attack, known: Mapping[Attack, tuple[int, int]]) -> list[str]:
    """The checks between cells that the attack failed: the weaker of two is the one at fault.

    Args:
        known: attack (or none) -> images, and how many of them fool M.
    """
    *setup, name, epsilon, whose = attack
    family, _, norm = name.partition("_")
    smaller = [a for a in known if a[:3] == attack[:3] and a[4] == whose and a[3] < epsilon]
    smaller.append((*setup, "none", 0, whose))
    twin = (*setup, f"{_TWINS.get(family)}_{norm}", epsilon, whose)
    n, fooled = known[attack]

    def weaker(others: Iterable[Attack], points: float) -> bool:
        same = (known[a] for a in others if a in known and known[a][0] == n)
        return any(not few(more - fooled, n, points) for _, more in same)

    return ["monotone_in_epsilon"] * weaker(smaller, 0.5) + ["pgd_and_mi_agree"] * weaker([twin], 2.0)


def mark(verdicts: Mapping[Attack, object], key: tuple) -> str:
    """A dagger for a number, by its cell and defence, of an unsound attack."""
    *cell, defence = key
    return "†" if (*cell, target(defence)) in verdicts else ""


def longer_attacks(row_sets: Iterable[RowSet]) -> str:
    """A sentence on the attacks that were given more gradient steps than asked for, or nothing."""
    threats = [r.header.threat for r in attacks(row_sets).values()]
    longer = [t for t in threats if t.get("iterations_asked") is not None and t["iterations"] > t["iterations_asked"]]
    if not longer:
        return ""
    asked, given = min(t["iterations_asked"] for t in longer), max(t["iterations"] for t in longer)
    counts = f"{len(longer)} of {len(threats)} attacks"
    return f"{counts} had not converged after {asked} gradient steps and were given up to {given}."


def verdict_line(row_sets: Iterable[RowSet]) -> str:
    """How many attacks there were and how many of them are sound, in one sentence."""
    found, verdicts = attacks(row_sets), unsound(row_sets)
    checks = f"passed {len(evidence_checks())} checks of their own and {len(BETWEEN_CELLS)} between attacks"
    others = "; the others did not (†)." if verdicts else "."
    return f"{len(found) - len(verdicts)} of {len(found)} attacks {checks}{others}"


def released_finding(row_sets: Iterable[RowSet]) -> str:
    """The sentence that tells the paper's released attacks from a run that went wrong, where it applies."""
    found = attacks(row_sets)
    explained = (a for a, names in unsound(row_sets).items() if set(names) <= _BY_THE_STEP)
    if not any(found[a].header.threat.get("preset") == "released" for a in explained):
        return ""
    return (
        "As released: a finding about the paper's attacks, not a fault of this run. Their step of 2.0 is not scaled to "
        "[0, 1] pixels, so an iterate keeps little of the one before; `make study` compares the other presets."
    )


def threats_table(row_sets: Sequence[RowSet]) -> Table:
    """How each attack was run and what it knew, from the headers."""
    threats: dict[tuple, list[Mapping]] = {}
    for attack, r in attacks(row_sets).items():
        threats.setdefault(attack[2:4], []).append(r.header.threat)
    rows = []
    for attack in attacks_in_order(threats):
        given = {
            n: [t[n] for t in threats[attack] if n in t] for n in ("preset", "step", "iterations", "restarts", "knows")
        }
        numbers = span(given["step"], 4), span(given["iterations"]), span(given["restarts"])
        knows = sorted({name for names in given["knows"] for name in names})
        rows.append([attack_label(*attack), ", ".join(sorted(set(given["preset"]))), " and ".join(knows), *numbers])
    head = ["Attack", "Preset", "Knows", "Step ([0, 1] pixels)", "Iterations", "Restarts"]
    return Table("attacks", "The attacks", head, rows, sentences(row_sets))


def checks_table(row_sets: Sequence[RowSet]) -> Table:
    """A row per check that failed or warned, what it means, and where."""
    found = attacks(row_sets)
    rows = [
        [check, verdict, meaning(check), ", ".join(where)]
        for verdict, by_attack in (("failed", unsound(row_sets)), ("warning", warned(row_sets)))
        for check, where in by_check(by_attack, found).items()
    ]
    head = ["Check", "Verdict", "It means", "Where"]
    return Table("checks", "Checks of the attacks", head, rows)


def sentences(row_sets: Iterable[RowSet]) -> list[str]:
    """How many attacks are sound, and what explains the others."""
    lines = verdict_line(row_sets), released_finding(row_sets), longer_attacks(row_sets)
    return [line for line in lines if line]


def warned(row_sets: Iterable[RowSet]) -> dict[Attack, list[str]]:
    """The attacks that a check warns of, with the names of those checks."""
    checks = {a: r.header.checks for a, r in attacks(row_sets).items()}
    return {a: names for a, c in checks.items() if (names := [n for n in WARNINGS if not c.get(n, True)])}


def by_check(names: Mapping[Attack, Iterable[str]], found: Iterable[Attack]) -> dict[str, list[str]]:
    """Check -> the attacks concerned, each with its models where not all of them are."""
    total = Counter(attack[2:4] for attack in found)
    where: dict[str, dict[tuple, list[str]]] = {}
    for attack in sorted(names, key=cell_rank):
        place = " ".join([*setup_labels(*attack[:2]), label(attack[4], DEFENCES)])
        for name in names[attack]:
            where.setdefault(name, {}).setdefault(attack[2:4], []).append(place)
    return {
        name: [
            attack_label(*a) + ("" if len(where[name][a]) == total[a] else f" ({'; '.join(where[name][a])})")
            for a in attacks_in_order(where[name])
        ]
        for name in ranked(where, (*CHECKS, *BETWEEN_CELLS))
    }
