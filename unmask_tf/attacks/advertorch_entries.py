"""The entries of Advertorch's attacks (Section II-A). Torch and Advertorch are loaded when one of them runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmask_tf.attacks.protocol import ATTACKS, Attack, AttackResult, Norm, Target
from unmask_tf.attacks.threat_models import ThreatModel


@dataclass(frozen=True)
class Advertorch:
    """Runs a class of `advertorch.attacks` on M's torch copy."""

    advertorch_class: str

    def __call__(
        self,
        target: Target,
        images: np.ndarray,
        labels: np.ndarray,
        budget: ThreatModel,
        seed: int,
        ids: Sequence[str],
        targeted: bool = False,
    ) -> AttackResult:
        from unmask_tf.attacks.advertorch_bridge import attack

        return attack(target.module, images, labels, budget, seed=seed, ids=ids, targeted=targeted)

    def extend(
        self,
        target: Target,
        images: np.ndarray,
        labels: np.ndarray,
        budget: ThreatModel,
        result: AttackResult,
        targeted: bool = False,
    ) -> AttackResult:
        from unmask_tf.attacks.advertorch_bridge import extend

        return extend(target.module, images, labels, budget, result, targeted=targeted)


def advertorch_attack(
    advertorch_class: str, norm: Norm, *, random_start: bool = False, iterative: bool = True
) -> Attack:
    """An entry for another class of `advertorch.attacks` whose budget is one of `Norm`.

    L1PGDAttack, LinfBasicIterativeAttack, GradientSignAttack, ...: each is given those of our arguments that it knows.
    """
    run = Advertorch(advertorch_class)
    return Attack(
        norm=norm,
        knows=frozenset({"M"}),
        run=run,
        gradient=True,
        iterative=iterative,
        random_start=random_start,
        extend=run.extend if iterative else None,
    )


ATTACKS.update(
    pgd_linf=advertorch_attack("LinfPGDAttack", Norm.LINF, random_start=True),
    pgd_l2=advertorch_attack("L2PGDAttack", Norm.L2, random_start=True),
    mia_linf=advertorch_attack("LinfMomentumIterativeAttack", Norm.LINF),
    mia_l2=advertorch_attack("L2MomentumIterativeAttack", Norm.L2),
)
