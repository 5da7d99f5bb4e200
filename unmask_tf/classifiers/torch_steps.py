"""Steps of training on M's torch copy: on a CPU without the minutes that TensorFlow needs to trace a deep network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
import torch

from unmask_tf.classifiers.settings import ClassifierConfig
from unmask_tf.classifiers.torch_port import load_from_torch, to_torch

_KERAS_EPSILON = 1e-7


class TorchSteps:
    """The steps of `KerasSteps` in torch, equal to them up to rounding.

    The copy updates its batch statistics as Keras does (`torch_layers_weighted.BatchNormalization`). Torch's SGD is
    `CoupledSGD`; its AdamW adds epsilon to another term, which is made up for. Layers that are not trainable are left
    alone. A step draws its random numbers (dropout) from the config's seed and its own number.
    """

    def __init__(self, model: keras.Model, config: ClassifierConfig, rate: float) -> None:
        self.model, self.learning_rate, self.seed = model, rate, config.seed
        self.module = to_torch(model).train()
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.taken = 0
        self._model_is_old = False
        if config.optimizer == "adam":
            self.optimizer = torch.optim.AdamW(self.parameters, rate, weight_decay=config.weight_decay, fused=True)
            self._kept = ("step", "exp_avg", "exp_avg_sq")
        else:
            self.optimizer = torch.optim.SGD(
                self.parameters, rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
            )
            self._kept = ("momentum_buffer",) if config.momentum else ()

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """As `Steps.step`."""
        self.taken += 1
        (group,) = self.optimizer.param_groups
        group["lr"] = self.learning_rate
        if "betas" in group:
            # Keras: m a / (sqrt(v) + e) with a = lr sqrt(1 - b2^t) / (1 - b1^t). Torch divides sqrt(v) by that root.
            group["eps"] = _KERAS_EPSILON / math.sqrt(1.0 - group["betas"][1] ** self.taken)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        with _deterministic(self.seed, self.taken):
            self.optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.module(pixels), torch.from_numpy(labels))
            loss.backward()
            self.optimizer.step()
        self._model_is_old = True
        return loss.item()

    def update_model(self) -> None:
        """Copies the weights to the Keras model."""
        if self._model_is_old:
            load_from_torch(self.model, self.module)
            self._model_is_old = False

    def state(self) -> list[np.ndarray]:
        """As `Steps.state`: the number of steps, then each parameter's values."""
        values = [self.optimizer.state[parameter][name] for parameter in self.parameters for name in self._kept]
        return [np.array(self.taken), *(np.array(value.numpy(), order="C") for value in values)]

    def restore(self, values: Sequence[np.ndarray]) -> None:
        """As `Steps.restore`."""
        self.taken, rest = int(values[0]), iter(values[1:])
        for parameter in self.parameters:
            for name in self._kept:
                value = torch.from_numpy(next(rest))
                # In the parameter's own memory format, as torch makes it.
                like = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
                self.optimizer.state[parameter][name] = like.detach().copy_(value)


@contextmanager
def _deterministic(seed: int, step: int) -> Iterator[None]:
    """Deterministic kernels, and random numbers that depend on seed and step; both are left as they were."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(
            int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:7], "big")
        )
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a seventh of a step, to find faults in torch
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.utils.deterministic.fill_uninitialized_memory = before[1]
