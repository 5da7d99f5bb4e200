"""`MaskRCNN.train`: Matterport's training call, with images loaded on demand and a checkpoint every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from unmask_tf.errors import InputError
from unmask_tf.files import read_json, write_json
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.model import MaskRCNN
from unmask_tf.mrcnn.samples import Samples, sample_batches
from unmask_tf.mrcnn.train import make_optimizer, mean_losses, set_trainable
from unmask_tf.mrcnn.weights import save_weights

_TRAIN, _VALIDATE = 0, 1  # streams of random numbers


def train(
    model: MaskRCNN,
    train_dataset: Any,
    val_dataset: Any,
    learning_rate: float,
    epochs: int,
    layers: str,
    augmentation: Any = None,
    custom_callbacks: Sequence[keras.callbacks.Callback] | None = None,
    no_augmentation_sources: Sequence[str] | None = None,
) -> keras.callbacks.History:
    """See `MaskRCNN.train`."""
    config, graph = model.config, model.keras_model
    if model.mode != "training":
        raise InputError("training needs a model built with mode='training'.")
    if config.STEPS_PER_EPOCH < 1:
        raise InputError(f"STEPS_PER_EPOCH is {config.STEPS_PER_EPOCH}. An epoch needs at least 1 step.")
    folder = model.log_folder()
    samples = Samples(train_dataset, config, augmentation, no_augmentation_sources or ())
    validation = None if val_dataset is None else Samples(val_dataset, config)
    set_trainable(graph, layers)
    graph.compile(optimizer=make_optimizer(config, learning_rate), jit_compile=False)
    graph.stop_training = False
    history = keras.callbacks.History()
    callbacks = keras.callbacks.CallbackList(
        [history, *(custom_callbacks or ())], model=graph, epochs=epochs, steps=config.STEPS_PER_EPOCH, verbose=0
    )
    log = _earlier(folder.path / "log.json", model.epoch)
    print(f"epochs {model.epoch + 1} to {epochs} of '{folder.name}', layers {layers}, learning rate {learning_rate:g}")
    callbacks.on_train_begin()
    while model.epoch < epochs and not graph.stop_training:
        epoch = model.epoch
        callbacks.on_epoch_begin(epoch)
        row = _train_epoch(graph, samples, config, epoch, epochs, callbacks)
        if validation is not None and config.VALIDATION_STEPS > 0:
            row.update(_validate(graph, validation, config, callbacks))
        save_weights(graph, folder.checkpoint.format(epoch=epoch + 1))
        model.epoch = epoch + 1
        log.append({"epoch": epoch + 1, "layers": layers, "learning_rate": float(learning_rate), **row})
        write_json(folder.path / "log.json", log)
        print(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)
        callbacks.on_epoch_end(epoch, row)
    callbacks.on_train_end()
    return history


def _earlier(path: Path, epoch: int) -> list[dict[str, Any]]:
    """The log's rows up to an epoch: those after it were trained on other weights than the ones loaded."""
    return [row for row in read_json(path) if row["epoch"] <= epoch] if path.is_file() else []


def _seed_sampler(graph: keras.Model, config: Config, count: int) -> None:
    """Lets the ROIs that the graph samples follow from the seed and the step, whatever was sampled before."""
    state = graph.get_layer("proposal_targets").seed_generator.state
    state.assign(np.array([config.SEED, count], state.dtype))


def _train_epoch(
    graph: keras.Model,
    samples: Samples,
    config: Config,
    epoch: int,
    epochs: int,
    callbacks: keras.callbacks.CallbackList,
) -> dict[str, float]:
    steps = config.STEPS_PER_EPOCH
    rows: list[dict[str, Any]] = []
    _seed_sampler(graph, config, epoch * steps)
    with tqdm(total=steps, desc=f"K epoch {epoch + 1}/{epochs}", unit="step", leave=False) as bar:
        for step, batch in enumerate(sample_batches(samples, epoch * steps, steps, _TRAIN)):
            callbacks.on_train_batch_begin(step)
            logs = graph.train_on_batch(batch, return_dict=True)
            callbacks.on_train_batch_end(step, logs)
            rows.append(logs)
            bar.update()
            bar.set_postfix(loss=f"{float(logs['loss']):.3f}")
            if graph.stop_training:
                break
    row = mean_losses(rows)
    if not all(np.isfinite(value) for value in row.values()):
        raise InputError(f"K's training diverged in epoch {epoch + 1}: {row}. Lower the learning rate and run again.")
    return row


def _validate(
    graph: keras.Model, samples: Samples, config: Config, callbacks: keras.callbacks.CallbackList
) -> dict[str, float]:
    """The mean losses on VALIDATION_STEPS batches, the same ones after every epoch."""
    rows: list[dict[str, Any]] = []
    _seed_sampler(graph, config, 1 << 31)
    callbacks.on_test_begin()
    batches: Iterator[dict[str, np.ndarray]] = sample_batches(samples, 0, config.VALIDATION_STEPS, _VALIDATE)
    for step, batch in enumerate(batches):
        callbacks.on_test_batch_begin(step)
        logs = graph.test_on_batch(batch, return_dict=True)
        callbacks.on_test_batch_end(step, logs)
        rows.append(logs)
    row = mean_losses(rows)
    callbacks.on_test_end(row)
    return {f"val_{name}": value for name, value in row.items()}
