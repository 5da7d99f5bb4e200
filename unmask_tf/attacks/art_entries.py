"""Auto-PGD (Croce and Hein, ICML 2020) on M alone, by the Adversarial Robustness Toolbox, an optional package.

`apgd_ce` climbs the cross-entropy, `apgd_dlr` the difference of logits ratio, a margin that no scale of the logits
flattens. ART draws its random starts for a whole batch, so images are attacked one by one, each with its own seed.
Attacked images are cut to 8 bits, because that is what the whole system sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from unmask_tf.attacks.pixels import grey_levels, inside, whole_levels
from unmask_tf.attacks.protocol import ATTACKS, Attack, Norm, Target, random_seed
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.errors import InputError

_ORDERS = {Norm.LINF: np.inf, Norm.L2: 2}


@dataclass(frozen=True)
class AutoPGD:
    """Runs `art.attacks.evasion.AutoProjectedGradientDescent` on M's torch copy.

    Attributes:
        loss: ART's name of the loss.
    """

    loss: str

    def __call__(
        self, target: Target, images: np.ndarray, labels: np.ndarray, budget: ThreatModel, seed: int, ids: Sequence[str]
    ) -> np.ndarray:
        """Raises: InputError: ART is not installed, or images that are not of 8 bits."""
        try:
            from art.attacks.evasion import AutoProjectedGradientDescent
            from art.estimators.classification import PyTorchClassifier
        except ModuleNotFoundError as error:
            raise InputError(
                f"{error.name} is not installed; {budget.attack} needs it. Run: pip install -r requirements-attacks.txt"
            ) from error
        import torch

        from unmask_tf.attacks.module import inference

        levels, found = whole_levels(images), images.copy()
        with inference(target.module):
            model = PyTorchClassifier(
                target.module,
                loss=torch.nn.CrossEntropyLoss(),
                input_shape=(images.shape[3], *images.shape[1:3]),
                nb_classes=target.logits(images[:1]).shape[1],
                clip_values=(0.0, 1.0),
                device_type="gpu" if torch.cuda.is_available() else "cpu",
            )
            attack = AutoProjectedGradientDescent(
                model,
                norm=_ORDERS[budget.norm],
                eps=float(budget.epsilon),
                eps_step=2.0 * float(budget.epsilon),
                max_iter=budget.iterations,
                nb_random_init=1,
                batch_size=1,
                loss_type=self.loss,
                verbose=False,
            )
            for row, name in enumerate(ids):
                with _seeded(random_seed(seed, name)):
                    pixels = attack.generate(images[row : row + 1].transpose(0, 3, 1, 2), labels[row : row + 1])
                found[row] = pixels[0].transpose(1, 2, 0)
        delta = inside(images, found - images, budget)
        return grey_levels(levels, delta, budget).astype(np.float32) / np.float32(255)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """numpy's global generator, which ART draws from, with a seed; afterwards it is as it was."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)


ATTACKS.update(
    {
        f"apgd_{name}_{norm.value}": Attack(norm=norm, knows=frozenset({"M"}), run=AutoPGD(loss))
        for name, loss in (("ce", "cross_entropy"), ("dlr", "difference_logits_ratio"))
        for norm in _ORDERS
    }
)
