"""The training loop of model K: stages, epochs, a log row and a checkpoint after each, and going on after a kill."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from unmask_tf.errors import InputError
from unmask_tf.files import write_json
from unmask_tf.mrcnn.checkpoints import NOTHING, Checkpoint, write_checkpoint
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.samples import Source
from unmask_tf.mrcnn.schedules import LAYER_SETS, Stage


def fit(
    graph: keras.Model,
    config: Config,
    stages: Sequence[Stage],
    source: Source,
    checkpoint: str | Path,
    *,
    resume: Checkpoint = NOTHING,
    validate: Callable[[], Mapping[str, float]] | None = None,
    callbacks: keras.callbacks.CallbackList | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Trains K through stages.

    Batches and sampled ROIs follow from the seed and the epoch, and a checkpoint keeps the optimizer. So a training
    that was killed ends with the weights, bit by bit, that it would have had. A new stage starts a new optimizer.

    Args:
        graph: K's training graph, with the weights to start from.
        config: its settings.
        stages: those that are finished are passed over.
        source: the batches.
        checkpoint: path of the checkpoints, written after every epoch; `{epoch:04d}` in it, if there, is filled in.
            The log goes to `log.json` beside them.
        resume: what the checkpoint held that the weights come from.
        validate: called after every epoch; what it measures stands in the log, with `val_` before the names.
        callbacks: Keras callbacks; `graph.stop_training` ends the training after the epoch.
        progress: called after every step with the share of the whole training that is done, up to 1; None: a bar and
            a line an epoch are printed instead.

    Returns:
        The log, one row per finished epoch: `epoch`, `layers`, `learning_rate`, the mean losses, and the validation.

    Raises:
        ValueError: no layer matches a stage's `layers`.
        InputError: a loss is not finite.
    """
    callbacks = keras.callbacks.CallbackList(model=graph) if callbacks is None else callbacks
    epoch, log, last = resume.epoch, list(resume.log), stages[-1].until
    graph.stop_training = False
    callbacks.on_train_begin()
    for stage in stages:
        if epoch >= stage.until or graph.stop_training:
            continue
        _begin(graph, config, stage, resume)
        while epoch < stage.until and not graph.stop_training:
            callbacks.on_epoch_begin(epoch)
            row = _run_epoch(graph, source, epoch, last, callbacks, progress)
            if validate is not None:
                row.update({f"val_{name}": float(value) for name, value in validate().items()})
            epoch += 1
            log.append({"epoch": epoch, "layers": stage.layers, "learning_rate": float(stage.learning_rate), **row})
            path = Path(str(checkpoint).replace("{epoch:04d}", f"{epoch:04d}"))
            write_checkpoint(path, graph, log, stage)
            write_json(path.parent / "log.json", log)
            if progress is None:
                tqdm.write(f"epoch {epoch}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
            callbacks.on_epoch_end(epoch - 1, row)
    callbacks.on_train_end()
    return log


def _begin(graph: keras.Model, config: Config, stage: Stage, resume: Checkpoint) -> None:
    """Makes the graph ready for a stage; the optimizer goes on where the checkpoint was written in this stage."""
    set_trainable(graph, stage.layers)
    graph.compile(optimizer=make_optimizer(config, stage.learning_rate), jit_compile=False)
    graph.optimizer.build(graph.trainable_variables)
    if stage == resume.stage:
        resume.restore(graph.optimizer)


def _run_epoch(
    graph: keras.Model,
    source: Source,
    epoch: int,
    last: int,
    callbacks: keras.callbacks.CallbackList,
    progress: Callable[[float], None] | None,
) -> dict[str, float]:
    """The mean losses over one epoch's steps."""
    rows: list[dict[str, Any]] = []
    graph.get_layer("proposal_targets").sample_from(epoch * source.steps)
    bar = tqdm(desc=f"K epoch {epoch + 1}/{last}", total=source.steps, unit="step", leave=False, disable=bool(progress))
    with bar:
        for step, batch in enumerate(source.batches(epoch)):
            callbacks.on_train_batch_begin(step)
            logs = graph.train_on_batch(batch, return_dict=True)
            callbacks.on_train_batch_end(step, logs)
            rows.append(logs)
            bar.update()
            bar.set_postfix(loss=f"{float(logs['loss']):.3f}")
            if progress is not None:
                progress((epoch + (step + 1) / source.steps) / last)
            if graph.stop_training:
                break
    row = mean_losses(rows)
    if not all(np.isfinite(value) for value in row.values()):
        raise InputError(f"K's training diverged in epoch {epoch + 1}: {row}. Lower the learning rate and run again.")
    return row


def validation_losses(graph: keras.Model, source: Source, callbacks: keras.callbacks.CallbackList) -> dict[str, float]:
    """The mean losses on the first epoch of a source, with the same sampled ROIs each time."""
    rows: list[dict[str, Any]] = []
    graph.get_layer("proposal_targets").sample_from(1 << 31)  # beyond every training step
    callbacks.on_test_begin()
    for step, batch in enumerate(source.batches(0)):
        callbacks.on_test_batch_begin(step)
        logs = graph.test_on_batch(batch, return_dict=True)
        callbacks.on_test_batch_end(step, logs)
        rows.append(logs)
    row = mean_losses(rows)
    callbacks.on_test_end(row)
    return row


def mean_losses(batches: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each loss's mean over the batches: Keras reports every batch by itself."""
    return {name: float(np.mean([float(logs[name]) for logs in batches])) for name in batches[0]}


def set_trainable(model: keras.Model, layers: str) -> int:
    """Makes exactly the layers whose whole name matches trainable (nested models are searched); returns their number.

    Args:
        model: K's training graph.
        layers: a key of LAYER_SETS or a regular expression.

    Raises:
        ValueError: no layer matches.
    """
    pattern, count = re.compile(LAYER_SETS.get(layers, layers)), 0
    for layer in _weighted_layers(model):
        layer.trainable = bool(pattern.fullmatch(layer.name))
        count += layer.trainable
    if not count:
        raise ValueError(f"no layer matches '{layers}'. Choose one of {', '.join(LAYER_SETS)} or a regular expression.")
    return count


def _weighted_layers(model: keras.Model) -> list[Any]:
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layer.trainable = True  # this sets every layer inside, so it comes first
            found += _weighted_layers(layer)
        elif layer.weights:
            found.append(layer)
    return found


def make_optimizer(config: Config, learning_rate: float) -> keras.optimizers.Optimizer:
    """Matterport's SGD (Keras 2's `clipnorm` clips by the global norm), or Adam."""
    clip = config.GRADIENT_CLIP_NORM
    if config.OPTIMIZER == "adam":
        return keras.optimizers.Adam(learning_rate, global_clipnorm=clip)
    return keras.optimizers.SGD(learning_rate, momentum=config.LEARNING_MOMENTUM, global_clipnorm=clip)
