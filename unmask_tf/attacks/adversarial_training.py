"""Adversarial training of M (Section II-B, Equation 4): every training batch is replaced by its attacked form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from unmask_tf.attacks.advertorch_bridge import attack
from unmask_tf.attacks.threat_models import ThreatModel
from unmask_tf.classifiers.settings import AdversarialTrainingConfig, ClassifierConfig
from unmask_tf.classifiers.torch_port import load_from_keras, to_torch
from unmask_tf.classifiers.train import train_classifier
from unmask_tf.data.class_images import ImageSet

BatchPerturbation = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(images float32 (N, S, S, 3) in [0, 1], labels integer (N,)) -> attacked images of the same shape and range."""


def training_threat(config: AdversarialTrainingConfig) -> ThreatModel:
    """LINF PGD with a random start, as configured. Released: epsilon 4/255, 7 iterations, step 2.0.

    With the released step every iterate is a corner of the budget, so this is not the adversarial training of Madry et
    al.; a step of 2/255 is (`config.RECIPES`).
    """
    return ThreatModel(
        attack="pgd_linf",
        epsilon_255=config.epsilon_255,
        step=config.step,
        iterations=config.iterations,
        random_start=True,
    )


def make_perturb(at_config: AdversarialTrainingConfig, *, seed: int = 0) -> Callable[[keras.Model], BatchPerturbation]:
    """The `perturb` argument of `train_classifier`.

    Given the Keras model in training, it returns a function that attacks a batch with the model's present weights, on
    a torch copy in inference mode. An image's random start is seeded by a digest of `seed`, its pixels and the model's
    last trainable weight: a resumed training attacks as an uninterrupted one would, with no counter to save, and the
    same image gets another start as soon as the model has moved.

    Args:
        at_config: the attack's budget, step and iterations.
        seed: root seed of the random starts.

    Raises:
        InputError, ValueError: the configuration is out of range; from the inner function: as `attack`.
    """
    threat = training_threat(at_config)

    def perturb(model: keras.Model) -> BatchPerturbation:
        module = to_torch(model, fold_batch_norm=True)
        last_weight = model.trainable_variables[-1]

        def attacked(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
            load_from_keras(module, model)
            images, labels = np.asarray(images), np.asarray(labels)
            start = _digest(seed, keras.ops.convert_to_numpy(last_weight))
            return attack(module, images, labels, threat, seed=start).images

        return attacked

    return perturb


def adversarial_train(
    model: keras.Model,
    train: ImageSet,
    val: ImageSet,
    classifier_config: ClassifierConfig,
    at_config: AdversarialTrainingConfig,
    workdir: Path,
    *,
    on_epoch: Callable[[list[dict]], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict]:
    """Trains M on attacked batches (Equation 4) and keeps its best epoch on benign and attacked validation images.

    The epoch kept is the one with the best mean of both accuracies. With `at_config.patience` the training ends once
    neither that mean nor the attacked accuracy has risen for so many epochs: the attacked accuracy alone could be lost
    for good while the mean still gains by the benign one, and the mean stands still while robustness is still bought
    with benign accuracy. The last record says whether it ended so (`stopped`).

    Args:
        model: M with the weights to start from (the benignly trained ones if `at_config.from_benign`).
        train, val: uint8 image sets.
        classifier_config: everything but epochs and learning rate, which are `at_config`'s.
        at_config: the attack, epochs, patience and learning rate.
        workdir: folder of the checkpoints; an interrupted training continues from it.
        on_epoch, progress: as `train_classifier`.

    Returns:
        One record per epoch, as `train_classifier`.
    """
    return train_classifier(
        model,
        train,
        val,
        classifier_config,
        workdir,
        perturb=make_perturb(at_config, seed=classifier_config.seed),
        epochs=at_config.epochs,
        patience=at_config.patience,
        learning_rate=at_config.learning_rate,
        describe="adversarial training " + json.dumps(asdict(at_config), sort_keys=True),
        on_epoch=on_epoch,
        progress=progress,
    )


def _digest(seed: int, weight: np.ndarray) -> int:
    digest = hashlib.sha256(str(seed).encode() + np.ascontiguousarray(weight).tobytes())
    return int.from_bytes(digest.digest()[:8], "big")
