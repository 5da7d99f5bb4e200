"""PGD without a random start as ART, Foolbox and torchattacks make it, behind one signature.

Each function takes a torch module, images float32 (N, 3, H, W) in [0, 1], labels int64 (N,), the norm (`linf` or `l2`),
budget and step in pixel units, and the number of iterations; all images form one batch. Each returns images of the same
shape. The libraries are imported only by the function that needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

Attack = Callable[[torch.nn.Module, np.ndarray, np.ndarray, str, float, float, int], np.ndarray]


def art(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    norm: str,
    epsilon: float,
    step: float,
    iterations: int,
) -> np.ndarray:
    """ART (Adversarial Robustness Toolbox): step, box, ball."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = module(torch.from_numpy(images[:1])).shape[1]
    estimator = PyTorchClassifier(
        module,
        loss=torch.nn.CrossEntropyLoss(reduction="sum"),
        input_shape=images.shape[1:],
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        estimator,
        norm=math.inf if norm == "linf" else 2,
        eps=epsilon,
        eps_step=step,
        max_iter=iterations,
        num_random_init=0,
        batch_size=len(images),
        verbose=False,
    )
    return attack.generate(images, labels)


def foolbox(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    norm: str,
    epsilon: float,
    step: float,
    iterations: int,
) -> np.ndarray:
    """Foolbox: step, ball, box. In its usual call, which also says whom it fooled."""
    from foolbox import PyTorchModel
    from foolbox.attacks import L2ProjectedGradientDescentAttack, LinfProjectedGradientDescentAttack

    kind = LinfProjectedGradientDescentAttack if norm == "linf" else L2ProjectedGradientDescentAttack
    attack = kind(abs_stepsize=step, steps=iterations, random_start=False)
    model = PyTorchModel(module, bounds=(0, 1), device="cpu")
    _, clipped, _ = attack(model, torch.from_numpy(images), torch.from_numpy(labels), epsilons=epsilon)
    return clipped.numpy()


def torchattacks(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    norm: str,
    epsilon: float,
    step: float,
    iterations: int,
) -> np.ndarray:
    """torchattacks: step, ball, box."""
    import torchattacks as library

    if norm == "linf":
        attack = library.PGD(module, eps=epsilon, alpha=step, steps=iterations, random_start=False)
    else:
        attack = library.PGDL2(module, eps=epsilon, alpha=step, steps=iterations, random_start=False)
    return attack(torch.from_numpy(images), torch.from_numpy(labels)).numpy()


OTHERS: dict[str, Attack] = {"art": art, "foolbox": foolbox, "torchattacks": torchattacks}
