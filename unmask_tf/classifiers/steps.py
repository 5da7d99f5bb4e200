"""One step of training: Keras' own, behind what every kind of step can do (`torch_steps` has another)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import keras
import numpy as np

from unmask_tf.classifiers.checkpoint import assign
from unmask_tf.classifiers.settings import ClassifierConfig


class Steps(Protocol):
    """Training steps of a Keras model, and the optimizer's state between them.

    Attributes:
        model: the model in training; its variables are up to date after `update_model`.
        learning_rate: of the next step.
    """

    model: keras.Model
    learning_rate: float

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One step on images float32 (N, S, S, 3) in [0, 1] and labels int64 (N,); returns the loss before it."""

    def update_model(self) -> None:
        """Brings the Keras model's variables up to date."""

    def state(self) -> list[np.ndarray]:
        """Copies of the optimizer's values, in an order that depends on the model alone."""

    def restore(self, values: Sequence[np.ndarray]) -> None:
        """Sets the optimizer to what `state` returned."""


@keras.saving.register_keras_serializable(package="unmask_tf")
class CoupledSGD(keras.optimizers.SGD):
    """SGD as PyTorch has it: g += decay * w; v = momentum * v + g; w -= rate * v.

    Keras' own `weight_decay` shrinks the weights beside the momentum (decoupled), and its velocity holds the learning
    rate of the step it came from. The decay takes in all trainable weights, biases and normalisation included, as in
    the released code.
    """

    def __init__(self, learning_rate: float, momentum: float, l2: float, **arguments) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, **arguments)
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        ops = keras.ops
        gradient = ops.cast(gradient, variable.dtype) + self.l2 * ops.convert_to_tensor(variable)
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            gradient = self.momentum * ops.convert_to_tensor(velocity) + gradient
            self.assign(velocity, gradient)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * gradient)

    def get_config(self):
        config = super().get_config()
        return {name: config[name] for name in ("name", "learning_rate", "momentum")} | {"l2": self.l2}


class KerasSteps:
    """Steps by the model's own `train_on_batch`."""

    def __init__(self, model: keras.Model, config: ClassifierConfig, rate: float) -> None:
        self.model = model
        self.optimizer = (
            keras.optimizers.AdamW(rate, weight_decay=config.weight_decay)
            if config.optimizer == "adam"
            else CoupledSGD(rate, config.momentum, config.weight_decay)
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=self.optimizer, loss=loss, jit_compile="auto")
        self.optimizer.build(model.trainable_variables)

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return float(self.optimizer.learning_rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.optimizer.learning_rate = rate

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """As `Steps.step`."""
        self.model.reset_metrics()  # else some Keras releases return the mean since compilation
        return float(self.model.train_on_batch(images, labels))

    def update_model(self) -> None:
        """There is nothing to do: the steps are the model's own."""

    def state(self) -> list[np.ndarray]:
        """As `Steps.state`."""
        return [np.array(keras.ops.convert_to_numpy(value)) for value in self.optimizer.variables]

    def restore(self, values: Sequence[np.ndarray]) -> None:
        """As `Steps.restore`."""
        assign(self.optimizer.variables, values)
