"""A Keras model as one torch module that executes the same graph.

Advertorch differentiates torch modules, and torch is markedly faster at input gradients on the CPU. The port copies
weights instead of sharing them: `load_from_keras` brings a module up to date after a training step.
"""

from __future__ import annotations

import keras
import torch
from torch import Tensor, nn

from unmask_tf.classifiers import torch_layers as plain
from unmask_tf.classifiers import torch_layers_weighted as weighted
from unmask_tf.classifiers.torch_plan import Call, make_plan
from unmask_tf.errors import InputError

_MODULES: dict[str, type[plain.PortedLayer]] = {
    "Conv2D": weighted.Convolution,
    "DepthwiseConv2D": weighted.Convolution,
    "Dense": weighted.Dense,
    "BatchNormalization": weighted.BatchNormalization,
    "Rescaling": weighted.Affine,
    "Normalization": weighted.Affine,
    "Activation": plain.Activation,
    "ReLU": plain.ReLU,
    "Softmax": plain.Softmax,
    "ZeroPadding2D": plain.ZeroPadding,
    "MaxPooling2D": plain.Pooling,
    "AveragePooling2D": plain.Pooling,
    "GlobalAveragePooling2D": plain.GlobalPooling,
    "GlobalMaxPooling2D": plain.GlobalPooling,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Concatenate"), plain.Merge),
    "ReverseChannels": plain.ReverseChannels,
    "Reshape": plain.Reshape,
    "Flatten": plain.Reshape,
    "Dropout": plain.Dropout,
    "Identity": plain.Identity,
}


def to_torch(model: keras.Model, fold_batch_norm: bool = False) -> nn.Module:
    """Ports a functional or sequential Keras model (nested ones included).

    Args:
        model: one input float32 (N, H, W, 3), one output.
        fold_batch_norm: fold each batch normalisation into the convolution before it where nothing else reads that
            convolution, and make the other rewrites of `torch_plan`. Exact up to rounding, a quarter faster, for
            inference only: training mode is refused.

    Returns:
        A module in evaluation mode on the CPU, from float32 (N, 3, H, W) to what the Keras model returns
        (four-dimensional outputs are NCHW). The parameters of trainable layers require gradients; train mode updates
        the batch statistics as Keras does.

    Raises:
        InputError: names the first layer that has no torch twin.
    """
    return KerasGraph(model, fold_batch_norm).eval()


def load_from_keras(module: nn.Module, model: keras.Model) -> None:
    """Copies all variables of `model` into `module`, which `to_torch` made from a model of the same architecture.

    Raises:
        InputError: the architectures differ.
    """
    module.pull(model)


def load_from_torch(model: keras.Model, module: nn.Module) -> None:
    """Copies all values of `module` into the variables of `model`, the other way round.

    Raises:
        InputError: the architectures differ, or the module's batch normalisations are folded.
    """
    module.push(model)


class KerasGraph(nn.Module):
    """Executes a Keras graph; `steps` is the order of calls, `ported` holds each layer's module once."""

    def __init__(self, model: keras.Model, fold_batch_norm: bool) -> None:
        super().__init__()
        self.fold_batch_norm = fold_batch_norm
        self.architecture = model.name
        plan = make_plan(model, fold_batch_norm)
        positions: dict[int, int] = {}
        self.ported = nn.ModuleList()
        for call in plan.calls:
            if _identity(call) not in positions:
                positions[_identity(call)] = len(self.ported)
                self.ported.append(self._module(call))
        slots = {plan.input: 0}
        last_reader: dict[int, int] = {}
        self.steps: list[tuple[int, tuple[int, ...], int, tuple[int, ...]]] = []
        for index, call in enumerate(plan.calls):
            slots[call.output] = index + 1
            last_reader.update({slots[tensor]: index for tensor in call.inputs})
        self.output_slot = slots[plan.output]
        for index, call in enumerate(plan.calls):
            inputs = tuple(slots[tensor] for tensor in call.inputs)
            # Dropping a tensor after its last use keeps inference in as little memory as Keras needs.
            done = tuple(slot for slot in set(inputs) if last_reader[slot] == index and slot != self.output_slot)
            self.steps.append((positions[_identity(call)], inputs, index + 1, done))
        self.pull(model)

    def _module(self, call: Call) -> nn.Module:
        kind = _module_class(call)
        if kind is None:
            raise plain.unsupported(call.layers[0])
        if kind is KerasGraph:
            return kind(call.layers[0], self.fold_batch_norm)
        module = kind(*call.layers, **call.options)
        # Subsampling stands for no layer, and holds nothing.
        return module.requires_grad_(call.layers[0].trainable) if call.layers else module

    def train(self, mode: bool = True) -> KerasGraph:
        if mode and self.fold_batch_norm:
            raise InputError(
                f"the torch copy of '{self.architecture}' has its batch normalisations folded and cannot train. "
                "Make it with fold_batch_norm=False."
            )
        return super().train(mode)

    def forward(self, pixels: Tensor) -> Tensor:
        """Runs the graph on (N, C, H, W)."""
        if pixels.ndim == 4:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        tensors = {0: pixels}
        for module, inputs, output, done in self.steps:
            tensors[output] = self.ported[module](*(tensors[slot] for slot in inputs))
            for slot in done:
                del tensors[slot]
        return tensors[self.output_slot]

    def pull(self, model: keras.Model) -> None:
        """Copies the Keras model's variables into this module."""
        self._copy(model, "pull")

    def push(self, model: keras.Model) -> None:
        """Copies this module's values into the Keras model's variables."""
        if self.fold_batch_norm:
            raise InputError(
                f"the torch copy of '{self.architecture}' has its batch normalisations folded: they cannot be "
                "separated again. Make it with fold_batch_norm=False."
            )
        self._copy(model, "push")

    def _copy(self, model: keras.Model, direction: str) -> None:
        """Layers are matched by their place in the graph, since Keras renames equal layers."""
        calls = make_plan(model, self.fold_batch_norm).calls
        if len(calls) != len(self.steps):
            raise self._mismatch(model, f"in length: {len(calls)} layers, expected {len(self.steps)}")
        copied = set()
        for (position, *_), call in zip(self.steps, calls, strict=True):
            module = self.ported[position]
            where = f"at layer '{call.layers[0].name}'" if call.layers else "in its strides"
            if type(module) is not _module_class(call):
                raise self._mismatch(model, where)
            if position not in copied:
                try:
                    getattr(module, direction)(*call.layers)
                except ValueError as error:
                    raise self._mismatch(model, f"{where}: {error}") from error
                copied.add(position)

    def _mismatch(self, model: keras.Model, where: str) -> InputError:
        return InputError(
            f"the Keras model '{model.name}' differs from '{self.architecture}', of which the torch copy was made, "
            f"{where}. Make a new copy with to_torch."
        )


def _identity(call: Call) -> int:
    """Equal for two calls of one layer."""
    return id(call.layers[0]) if call.layers else call.output


def _module_class(call: Call) -> type[nn.Module] | None:
    """The class that stands for what is called; functions of keras.ops have none."""
    if not call.layers:
        return plain.Subsampling
    return KerasGraph if isinstance(call.layers[0], keras.Model) else _MODULES.get(call.kind)
