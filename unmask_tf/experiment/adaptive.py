"""UnMask against an attacker who knows K: attacks on M alone, on K alone and on both, over a range of budgets.

The paper's attacker knows M and nothing of K; these rows say what becomes of the defence when that is given up. Two
smaller experiments say whether the attack is as strong as it could be: how much more effort gains (`effort`), and
whether it solves problems whose solution is known (`binarisation`). Both look at validation images alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from unmask_tf.attacks import ATTACKS, ThreatModel, threat_model
from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import BENIGN, Grid
from unmask_tf.experiment.setup import Run
from unmask_tf.experiment.step import Step

Budgets = Mapping[str, Sequence[float]]
"""Norm -> budgets in units of 1/255."""

EPSILONS_255: Mapping[str, tuple[float, ...]] = {"linf": (1, 2, 4, 8, 16), "l2": (150, 300, 600)}
FAMILIES = ("joint", "margin", "pgd", "parts", "selective", "orthogonal")
"""Both; both, against a detector by the margin; M alone, as the paper; K alone; and two other ways to follow both."""
TRANSFER = "transfer"
"""The joint attack on another M and the same K: its images are given to this M."""
BATTERY: Mapping[str, Budgets] = {
    **{family: EPSILONS_255 for family in ("joint", "pgd", "parts", "noise", TRANSFER)},
    "margin": {"linf": (2, 4, 8)},
    **{family: {"linf": (4,)} for family in ("selective", "orthogonal", "square")},
}
"""What is run where no attacks are named: at all budgets, or at those where attacks differ."""
ITERATIONS = 40
RESTARTS = 2
QUERIES = 200
"""Of an attack that asks the whole system and follows no gradient."""
DEFENCES = ("none", "um")
"""Whose answers the numbers are made of; those of the whole system follow from them and from the threshold."""

STEPS, STARTS = (10, 20, 40, 100, 200, 400), (1, 2, 4)
"""The efforts that are compared: steps of one run, and runs of `STEPS_OF_STARTS` steps."""
STEPS_OF_STARTS = 40
COMPARED_255 = (2, 4)
FINE_255 = (1, 2, 3, 4)
"""Budgets at which efforts are compared, and those of the curve of the attack as it is set up."""
VALIDATION_IMAGES = 24
BINARISED_255 = 4.0


def adaptive_threat(
    attack: str, epsilon_255: float, iterations: int = ITERATIONS, restarts: int = RESTARTS
) -> ThreatModel:
    """The threat model of one cell.

    M alone: one run of steps of 2.5 epsilon / iterations, the last iterate. An attack that knows K: steps of three
    times that length, the best iterate, and a run for each loss; chosen on validation images.
    """
    threat = threat_model(attack, epsilon_255, preset="strong", iterations=iterations)
    if not threat.spec.gradient:
        return replace(threat, iterations=QUERIES) if threat.spec.iterative and "K" in threat.spec.knows else threat
    if "K" not in threat.spec.knows:
        return replace(threat, restarts=1, keep_best=False)
    return replace(threat, step=3 * threat.step, restarts=restarts)


def adaptive(
    run: Run,
    families: Sequence[str] = (),
    iterations: int = ITERATIONS,
    epsilons_255: Budgets = EPSILONS_255,
    restarts: int = RESTARTS,
    recipe: str = "none",
) -> list[Step]:
    """M's and K's answers, attack by attack: benign validation images (whose scores give thresholds), benign test
    images, then every attack at every budget.

    Args:
        run: the run.
        families: attacks without their norm, such as `joint`, or `transfer`; none: `BATTERY`.
        iterations: steps of one run of an attack.
        epsilons_255: norm -> budgets in units of 1/255.
        restarts: runs of an attack that knows K.
        recipe: training of the M that stands beside K: `none` (benign), or a name in `RECIPES`.

    Raises:
        InputError: an unknown attack or recipe, no iteration, a negative budget, or a part extractor without gradients.
    """
    wanted = {family: epsilons_255 for family in families} or {
        family: {norm: [e for e in epsilons_255.get(norm, ()) if e in own] for norm, own in budgets.items()}
        for family, budgets in BATTERY.items()
    }
    cells = [(family, norm, epsilon) for family in wanted for norm, epsilon in _cells(family, wanted[family])]
    grid, steps = Grid(run, recipe=recipe), []
    for class_set, architecture in grid.setups:
        setup = class_set, architecture
        steps += [grid.answer(*setup, defence, *BENIGN, split="val") for defence in ("none", "um")]
        steps += [grid.answer(*setup, defence, *BENIGN) for defence in DEFENCES]
        for family, norm, epsilon in cells:
            source = None
            if family == TRANSFER and (source := _other(architecture, run.profile.architectures)) is None:
                continue
            attack = f"{'joint' if family == TRANSFER else family}_{norm}"
            threat = adaptive_threat(attack, epsilon, iterations, restarts)
            cell = (f"{family}_{norm}", float(epsilon))
            steps += [
                grid.answer(*setup, defence, *cell, preset="adaptive", threat=threat, source=source)
                for defence in DEFENCES
            ]
    return steps


def _cells(family: str, budgets: Budgets) -> list[tuple[str, float]]:
    """(norm, budget) of a family's attacks.

    Raises:
        InputError: there are none.
    """
    attack = "joint" if family == TRANSFER else family
    norms = [norm for norm in EPSILONS_255 if f"{attack}_{norm}" in ATTACKS]
    if not norms:
        known = sorted({TRANSFER, *(name.rpartition("_")[0] for name in ATTACKS)})
        raise InputError(f"unknown attack {family}. Choose among: {', '.join(known)}.")
    return [(norm, epsilon) for norm in norms for epsilon in budgets.get(norm, ())]


def _other(architecture: str, architectures: Sequence[str]) -> str | None:
    """The architecture after this one, the first after the last; None where there is no other."""
    after = architectures[(architectures.index(architecture) + 1) % len(architectures)]
    return after if after != architecture else None


def effort(run: Run, images: int = VALIDATION_IMAGES) -> list[Step]:
    """K's answers to validation images under the joint attack in LINF: over steps, runs and budgets."""
    threats = [
        *(adaptive_threat("joint_linf", e, steps, 1) for e in COMPARED_255 for steps in STEPS),
        *(adaptive_threat("joint_linf", e, STEPS_OF_STARTS, starts) for e in COMPARED_255 for starts in STARTS),
        *(adaptive_threat("joint_linf", e) for e in FINE_255),
    ]
    grid, found = Grid(run), []
    for setup in grid.setups:
        found.append(grid.answer(*setup, "um", *BENIGN, split="val"))
        for threat in dict.fromkeys(threats):
            cell = (threat.attack, threat.epsilon_255)
            found.append(grid.answer(*setup, "um", *cell, split="val", limit=images, preset="adaptive", threat=threat))
    return found


def binarisation(run: Run, images: int = VALIDATION_IMAGES) -> list[Step]:
    """The binarisation test of the joint attack on validation images, for each M."""
    grid, threat = Grid(run), adaptive_threat("joint_linf", BINARISED_255)
    attacks = [
        grid.attacked(class_set, grid.model(class_set, architecture), threat, "val", images, "adaptive")
        for class_set, architecture in grid.setups
    ]
    return [Step("binarise", step.name, step.settings, step.inputs) for step in attacks]
