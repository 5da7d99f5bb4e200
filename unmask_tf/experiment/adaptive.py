"""UnMask against an attacker who knows K: attacks on M alone, on K alone and on both, over a range of budgets.

The paper's attacker knows M and nothing of K; these rows say what becomes of the defence when that is given up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from unmask_tf.attacks import ATTACKS, ThreatModel, threat_model
from unmask_tf.errors import InputError
from unmask_tf.experiment.grid import BENIGN, Grid
from unmask_tf.experiment.setup import Run
from unmask_tf.experiment.step import Step

EPSILONS_255: Mapping[str, tuple[float, ...]] = {"linf": (1, 2, 4, 8, 16), "l2": (150, 300, 600)}
FAMILIES = ("joint", "pgd", "parts", "selective", "orthogonal")
"""Both; M alone, as the paper; K alone; and two other ways to follow both."""
ITERATIONS = 20
RESTARTS = 2
DEFENCES = ("none", "um", "algorithm1")


def adaptive_threat(attack: str, epsilon_255: float, iterations: int = ITERATIONS) -> ThreatModel:
    """The threat model of one cell.

    M alone: one run of steps of 2.5 epsilon / iterations, the last iterate. An attack that knows K: steps of twice that
    length, the best iterate, and a run for each loss; chosen on validation images.
    """
    threat = threat_model(attack, epsilon_255, preset="strong", iterations=iterations)
    if "K" not in threat.spec.knows:
        return replace(threat, restarts=1, keep_best=False)
    return replace(threat, step=2 * threat.step, restarts=RESTARTS)


def adaptive(
    run: Run,
    families: Sequence[str] = FAMILIES,
    iterations: int = ITERATIONS,
    epsilons_255: Mapping[str, Sequence[float]] = EPSILONS_255,
) -> list[Step]:
    """M's, K's and Algorithm 1's answers, attack by attack: benign validation images (whose scores give thresholds),
    benign test images, then every attack at every budget.

    Args:
        run: the run.
        families: attacks without their norm, such as `joint`.
        iterations: steps of one run of an attack.
        epsilons_255: norm -> budgets in units of 1/255.

    Raises:
        InputError: an unknown attack, no iteration, a negative budget, or a part extractor without gradients.
    """
    norms = {family: [norm for norm in EPSILONS_255 if f"{family}_{norm}" in ATTACKS] for family in families}
    if unknown := [family for family, found in norms.items() if not found]:
        known = sorted({name.rpartition("_")[0] for name in ATTACKS})
        raise InputError(f"unknown attacks {', '.join(unknown)}. Choose among: {', '.join(known)}.")
    grid, steps = Grid(run), []
    for setup in grid.setups:
        steps += [grid.answer(*setup, defence, *BENIGN, split="val") for defence in ("none", "um")]
        steps += [grid.answer(*setup, defence, *BENIGN) for defence in DEFENCES]
        for family in families:
            for norm in norms[family]:
                for epsilon in epsilons_255.get(norm, ()):
                    threat = adaptive_threat(f"{family}_{norm}", epsilon, iterations)
                    cell = (threat.attack, float(epsilon))
                    steps += [
                        grid.answer(*setup, defence, *cell, preset="adaptive", threat=threat) for defence in DEFENCES
                    ]
    return steps
