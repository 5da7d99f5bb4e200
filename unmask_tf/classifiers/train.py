"""Training of M (Section IV-A): SGD on cross-entropy, the epoch with the best validation accuracy is kept.

A training is a pure function of the initial weights, the images and the settings: every random choice is drawn from
(seed, epoch, batch), and a run that is killed goes on from its last epoch to bit-identical weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from unmask_tf.classifiers.checkpoint import TrainingState, assign, fingerprint, read_checkpoint, write_checkpoint
from unmask_tf.classifiers.settings import ClassifierConfig
from unmask_tf.classifiers.steps import KerasSteps, Steps
from unmask_tf.data.class_images import ImageSet
from unmask_tf.errors import InputError

Perturbation = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(images float32 (N, S, S, 3) in [0, 1], labels int64 (N,)) -> attacked images, same shape and range."""

_SHUFFLE, _FLIP = 0, 1  # so that the two kinds of random choice never share a stream


def train_classifier(
    model: keras.Model,
    train: ImageSet,
    val: ImageSet,
    config: ClassifierConfig,
    workdir: Path,
    *,
    perturb: Callable[[keras.Model], Perturbation] | None = None,
    epochs: int | None = None,
    patience: int | None = None,
    learning_rate: float | None = None,
    schedule: str | None = None,
    describe: str = "",
    on_epoch: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains `model` in place and leaves it with the weights of its best epoch.

    The images of an epoch come in a seeded permutation, each mirrored with probability one half if the
    config says so. Batches all have the
    same size, so that the step compiles once: the last one is filled up with the epoch's first images.

    Args:
        model: from float32 (N, S, S, 3) pixels in [0, 1] to logits; its present weights are the initial ones.
        train, val: uint8 images of the model's size.
        config: settings; `input_size` and `weights` are build_classifier's and not read here. With
            `freeze_batch_norm` the normalisations are made untrainable, and stay so.
        workdir: folder of the checkpoint, which is written after every epoch. A call with the same model, images and
            settings goes on from it; after the last epoch it may be deleted.
        perturb: for adversarial training (Equation 4). `perturb(model)` is called once and gives the function that
            attacks each training batch and the validation images; that function must attack the model's weights at the
            time of the call and be deterministic. The score of an epoch is then the mean of benign and attacked
            validation accuracy, without `perturb` the benign accuracy.
        epochs, learning_rate, schedule: instead of the config's.
        patience: end after so many epochs in a row in which neither the score nor, with `perturb`, the attacked
            validation accuracy was higher than ever before; None: run all epochs.
        describe: distinguishes trainings that differ in `perturb`; its first words stand in the progress bar.
        on_epoch: called with the records so far after each epoch, once its checkpoint is on the disk.
        progress: called with the share of all batches that is done, after each batch.

    Returns:
        One record per epoch: `epoch` (from 1), `loss` (mean over the batches), `val_accuracy`, with `perturb` also
        `val_attacked_accuracy`, and `score`; in the last one also `stopped`, "converged" where patience ended the
        training, else "epochs". Ties of the score go to the earlier epoch.

    Raises:
        ValueError: settings, images and model do not fit each other.
        InputError: there are no images, or the loss is not finite.
    """
    epochs = config.epochs if epochs is None else epochs
    rate = config.learning_rate if learning_rate is None else learning_rate
    schedule = config.schedule if schedule is None else schedule
    _check(model, train, val, config, epochs, patience, rate, schedule)
    workdir = Path(workdir)
    _make_deterministic(config.seed)
    settings = {
        "config": asdict(config),
        "epochs": epochs,
        "patience": patience,
        "learning_rate": rate,
        "schedule": schedule,
        "describe": describe,
        "attacked": perturb is not None,
        "backend": keras.backend.backend(),
    }
    weights = [np.asarray(value) for value in model.get_weights()]
    training = fingerprint(settings, train.images, train.labels, val.images, val.labels, *weights)

    if config.freeze_batch_norm:
        _freeze_batch_norm(model)
    state = read_checkpoint(workdir, training)
    history: list[dict[str, Any]] = []
    best: list[np.ndarray] = []
    best_score = -math.inf
    if state is not None:
        history, best, best_score = state.history, state.best, state.best_score
        assign(model.variables, state.model)

    finished = bool(history) and "stopped" in history[-1]
    attack = perturb(model) if perturb is not None and not finished else None
    trainer = _make_steps(model, config, rate)
    if state is not None:
        trainer.restore(state.optimizer)
    steps = _steps(len(train), config.batch_size)
    label = " ".join([model.name, *describe.split("{")[0].split()])
    bar = tqdm(
        total=epochs * steps,
        initial=len(history) * steps,
        desc=label,
        unit="batch",
        mininterval=1.0,
        disable=progress is not None,  # whoever asks for the progress shows it
    )
    with bar:
        for epoch in range(len(history), len(history) if finished else epochs):
            losses = []
            for batch, (images, labels) in enumerate(_batches(train, config, epoch)):
                if schedule == "cosine":
                    done = (epoch * steps + batch) / (epochs * steps)
                    trainer.learning_rate = rate * _cosine(done, 1 / (epochs * steps))
                if attack is not None:
                    trainer.update_model()
                    images = np.asarray(attack(images, labels), np.float32)
                losses.append(_step(trainer, images, labels, f"epoch {epoch + 1}, batch {batch + 1}"))
                bar.set_postfix(loss=f"{np.mean(losses):.3f}", refresh=False)
                bar.update()
                if progress is not None:
                    progress((epoch * steps + batch + 1) / (epochs * steps))
            trainer.update_model()
            record = {"epoch": epoch + 1, "loss": float(np.mean(losses)), **_validate(model, val, config, attack)}
            history.append(record)
            if _converged(history, patience):
                record["stopped"] = "converged"
            elif epoch + 1 == epochs:
                record["stopped"] = "epochs"
            present = [np.array(keras.ops.convert_to_numpy(value)) for value in model.variables]
            if record["score"] > best_score:
                best, best_score = present, record["score"]
            write_checkpoint(workdir, TrainingState(history, present, trainer.state(), best, best_score), training)
            bar.set_postfix(loss=f"{record['loss']:.3f}", val=f"{record['score']:.3f}")
            if on_epoch is not None:
                on_epoch(list(history))
            if "stopped" in record:
                if progress is not None and epoch + 1 < epochs:
                    progress(1.0)
                break
    assign(model.variables, best)
    return history


def predict_logits(model: keras.Model, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Logits of M in inference mode.

    Args:
        model: from pixels in [0, 1] to logits.
        images: uint8 (N, S, S, 3), or float32 in [0, 1].
        batch_size: images at a time; a smaller batch is filled up, so that the model compiles once.

    Returns:
        float32 (N, classes).
    """
    logits = []
    for start in range(0, len(images), batch_size):
        batch = as_pixels(images[start : start + batch_size])
        missing = batch_size - len(batch)
        padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
        logits.append(np.asarray(model.predict_on_batch(padded))[: len(batch)])
    return np.concatenate(logits) if logits else np.zeros((0, model.output_shape[-1]), np.float32)


def accuracy(model: keras.Model, images: np.ndarray, labels: np.ndarray, batch_size: int = 32) -> float:
    """Share of images whose largest logit is the label's; arguments as `predict_logits`, labels integer (N,)."""
    return float(np.mean(predict_logits(model, images, batch_size).argmax(axis=1) == labels))


def as_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 images as float32 in [0, 1]; float images only change their type."""
    return images.astype(np.float32) / np.float32(255.0) if images.dtype == np.uint8 else images.astype(np.float32)


def _make_steps(model: keras.Model, config: ClassifierConfig, rate: float) -> Steps:
    if config.trainer == "torch":
        from unmask_tf.classifiers.torch_steps import TorchSteps

        return TorchSteps(model, config, rate)
    return KerasSteps(model, config, rate)


def _cosine(done: float, step: float) -> float:
    """Factor of the learning rate: a linear rise over the first tenth of all steps, times half a cosine to zero."""
    return min(1.0, (done + step) / 0.1) * 0.5 * (1.0 + math.cos(math.pi * done))


def _step(steps: Steps, images: np.ndarray, labels: np.ndarray, where: str) -> float:
    loss = steps.step(images, labels)
    if not math.isfinite(loss):
        raise InputError(
            f"the loss of {steps.model.name} is {loss} at {where}. Lower the learning rate (received "
            f"{steps.learning_rate:g}), or check the initial weights."
        )
    return loss


def _steps(images: int, batch_size: int) -> int:
    return math.ceil(images / min(batch_size, images))


def _batches(train: ImageSet, config: ClassifierConfig, epoch: int):
    """Yields (images float32, labels) of one epoch; see `train_classifier`."""
    count, seed = len(train), config.seed
    batch_size = min(config.batch_size, count)
    order = np.random.default_rng((seed, epoch, _SHUFFLE)).permutation(count)
    order = np.concatenate([order, order[: _steps(count, batch_size) * batch_size - count]])
    for batch, start in enumerate(range(0, len(order), batch_size)):
        chosen = order[start : start + batch_size]
        images = as_pixels(train.images[chosen])
        if config.mirror:
            mirrored = np.random.default_rng((seed, epoch, _FLIP, batch)).random(batch_size) < 0.5
            images[mirrored] = images[mirrored, :, ::-1]
        yield images, train.labels[chosen]


def _validate(model, val: ImageSet, config: ClassifierConfig, attack: Perturbation | None) -> dict[str, float]:
    benign = accuracy(model, val.images, val.labels, config.batch_size)
    if attack is None:
        return {"val_accuracy": benign, "score": benign}
    attacked = [
        attack(as_pixels(val.images[start : start + config.batch_size]), val.labels[start : start + config.batch_size])
        for start in range(0, len(val), config.batch_size)
    ]
    robust = accuracy(model, np.concatenate(attacked), val.labels, config.batch_size)
    return {"val_accuracy": benign, "val_attacked_accuracy": robust, "score": (benign + robust) / 2.0}


def _converged(history: list[dict[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no gain; see `train_classifier`."""
    best: dict[str, float] = {}
    without_gain = 0
    for record in history:
        values = {name: record[name] for name in ("score", "val_attacked_accuracy") if name in record}
        gained = any(value > best.get(name, -math.inf) for name, value in values.items())
        without_gain = 0 if gained else without_gain + 1
        best = {name: max(value, best.get(name, -math.inf)) for name, value in values.items()}
    return patience is not None and without_gain >= patience


def _freeze_batch_norm(model: keras.Model) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
        elif isinstance(layer, keras.Model):
            _freeze_batch_norm(layer)


def _make_deterministic(seed: int) -> None:
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _check(
    model: keras.Model,
    train: ImageSet,
    val: ImageSet,
    config: ClassifierConfig,
    epochs: int,
    patience: int | None,
    rate: float,
    schedule: str,
) -> None:
    if epochs < 1 or config.batch_size < 1:
        raise ValueError(f"epochs ({epochs}) and batch_size ({config.batch_size}) must be at least 1.")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1 epoch, or None, received {patience}.")
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"the learning rate must be a positive number, received {rate}.")
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"unknown learning-rate schedule '{schedule}'. Choose 'constant' or 'cosine'.")
    if config.trainer not in ("keras", "torch"):
        raise ValueError(f"unknown trainer '{config.trainer}'. Choose 'keras' or 'torch'.")
    if config.optimizer not in ("sgd", "adam"):
        raise ValueError(f"unknown optimizer '{config.optimizer}'. Choose 'sgd' or 'adam'.")
    for name, images in (("training", train), ("validation", val)):
        if len(images) == 0:
            raise InputError(f"there are no {name} images. Check the data folder.")
        if images.images.shape[1:] != tuple(model.input_shape[1:]):
            raise ValueError(
                f"the {name} images are {images.images.shape[1:]}, but {model.name} expects "
                f"{tuple(model.input_shape[1:])}. Load them with the model's input_size."
            )
        if len(images.classes) != model.output_shape[-1]:
            raise ValueError(
                f"the {name} images have {len(images.classes)} classes ({', '.join(images.classes)}), but {model.name} "
                f"has {model.output_shape[-1]} outputs. Build the model for as many classes."
            )
