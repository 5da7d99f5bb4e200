"""A Keras model as one torch module that executes the same graph.

Advertorch differentiates torch modules, and torch is markedly faster at input gradients on the CPU. The port copies
weights instead of sharing them: `load_from_keras` brings a module up to date after a training step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import keras
import torch
from torch import Tensor, nn

from unmask_tf.classifiers import torch_layers as plain
from unmask_tf.classifiers import torch_layers_weighted as weighted
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


@dataclass(frozen=True)
class _Call:
    """One call of a layer (or of a convolution with the batch normalisation folded into it) in the Keras graph.

    Attributes:
        layers: the Keras layer, and the folded normalisation if there is one.
        inputs, output: ids of the tensors it reads and makes.
    """

    layers: tuple
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True)
class _Plan:
    """The calls of a single-input, single-output Keras graph in an order in which they can run."""

    calls: tuple[_Call, ...]
    input: int
    output: int


def to_torch(model: keras.Model, fold_batch_norm: bool = False) -> nn.Module:
    """Ports a functional or sequential Keras model (nested ones included).

    Args:
        model: one input float32 (N, H, W, 3), one output.
        fold_batch_norm: fold each batch normalisation into the convolution before it where nothing else reads that
            convolution. Exact up to rounding, faster, for inference only: training mode is refused.

    Returns:
        A module in evaluation mode on the CPU, from float32 (N, 3, H, W) to what the Keras model returns
        (four-dimensional outputs are NCHW). Its parameters require gradients, as usual; train mode updates the batch
        statistics as Keras does.

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
        plan = _plan(model, fold_batch_norm)
        positions: dict[int, int] = {}
        self.ported = nn.ModuleList()
        for call in plan.calls:
            if id(call.layers[0]) not in positions:
                positions[id(call.layers[0])] = len(self.ported)
                self.ported.append(self._module(call.layers))
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
            self.steps.append((positions[id(call.layers[0])], inputs, index + 1, done))
        self.pull(model)

    def _module(self, layers: tuple) -> nn.Module:
        kind = _module_class(layers[0])
        if kind is None:
            raise plain.unsupported(layers[0])
        return kind(layers[0], self.fold_batch_norm) if kind is KerasGraph else kind(*layers)

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
        calls = _plan(model, self.fold_batch_norm).calls
        if len(calls) != len(self.steps):
            raise self._mismatch(model, f"in length: {len(calls)} layers, expected {len(self.steps)}")
        copied = set()
        for (position, *_), call in zip(self.steps, calls, strict=True):
            module, layer = self.ported[position], call.layers[0]
            if type(module) is not _module_class(layer):
                raise self._mismatch(model, f"at layer '{layer.name}'")
            if position not in copied:
                try:
                    getattr(module, direction)(*call.layers)
                except ValueError as error:
                    raise self._mismatch(model, f"at layer '{layer.name}': {error}") from error
                copied.add(position)

    def _mismatch(self, model: keras.Model, where: str) -> InputError:
        return InputError(
            f"the Keras model '{model.name}' differs from '{self.architecture}', of which the torch copy was made, "
            f"{where}. Make a new copy with to_torch."
        )


def _module_class(operation) -> type[nn.Module] | None:
    """The class that stands for a Keras operation; functions of keras.ops have none."""
    if isinstance(operation, keras.Model):
        return KerasGraph
    return _MODULES.get(type(operation).__name__) if isinstance(operation, keras.layers.Layer) else None


def _plan(model: keras.Model, fold_batch_norm: bool) -> _Plan:
    graph = getattr(model, "_functional", model)  # what a Sequential model wraps
    if not hasattr(graph, "_nodes_by_depth"):
        raise plain.unsupported(model, "a subclassed model has no graph of layers")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise plain.unsupported(
            model, f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs instead of one each"
        )
    calls = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            # `training` as recorded gives way to the mode in which the whole model is called.
            options = {name: value for name, value in node.arguments.kwargs.items() if name != "training"}
            arguments = keras.tree.flatten((node.arguments.args, options))
            extra = [value for value in arguments if value is not None and not keras.backend.is_keras_tensor(value)]
            if extra or len(node.outputs) != 1:
                raise plain.unsupported(node.operation, f"called with {extra}" if extra else "several outputs")
            inputs = tuple(id(tensor) for tensor in node.input_tensors)
            calls.append(_Call((node.operation,), inputs, id(node.outputs[0])))
    output = id(graph.outputs[0])
    if fold_batch_norm:
        calls = _fold(calls, output)
    return _Plan(tuple(calls), id(graph.inputs[0]), output)


def _fold(calls: list[_Call], output: int) -> list[_Call]:
    """Joins each batch normalisation to the convolution it alone reads."""
    readers = Counter(tensor for call in calls for tensor in call.inputs)
    uses = Counter(id(call.layers[0]) for call in calls)
    producers = {call.output: index for index, call in enumerate(calls)}
    joined: list[_Call | None] = list(calls)
    for index, call in enumerate(calls):
        norm = call.layers[0]
        position = producers.get(call.inputs[0])
        if not isinstance(norm, keras.layers.BatchNormalization) or position is None:
            continue
        convolution = calls[position].layers[0]
        if (
            type(convolution) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
            and convolution.activation is keras.activations.linear
            and readers[call.inputs[0]] == 1
            and call.inputs[0] != output
            and uses[id(convolution)] == uses[id(norm)] == 1
        ):
            joined[position] = None
            joined[index] = _Call((convolution, norm), calls[position].inputs, call.output)
    return [call for call in joined if call is not None]
