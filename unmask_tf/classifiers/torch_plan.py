"""The order in which a Keras graph's layers run in torch, and the rewrites that make inference on it cheaper.

All rewrites leave the function as it is, up to rounding: a batch normalisation goes into the convolution before it, a
zero padding into the layer after it, a rectifier into the layer before it, and positions of a feature map that no later
layer reads are not computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import keras

from unmask_tf.classifiers.torch_layers import unsupported

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D")
_ELEMENTWISE_MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum")
# Layers that rectify what they have just made in its place. None of them needs its output for its gradient.
_RECTIFIED = (*_CONVOLUTIONS, "BatchNormalization", "Add")


@dataclass(frozen=True)
class Call:
    """One call of a layer, or of several joined ones, in a graph.

    Attributes:
        layers: the Keras layer, then the batch normalisation folded into it if there is one; empty for a rewrite's own
            operation (subsampling).
        inputs, output: ids of the tensors it reads and makes.
        options: keyword arguments of the torch module beyond what the layers say.
    """

    layers: tuple
    inputs: tuple[int, ...]
    output: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Class name of the layer; empty for subsampling and for what is not a layer."""
        return type(self.layers[0]).__name__ if self.layers and _is_layer(self.layers[0]) else ""


@dataclass(frozen=True)
class Plan:
    """The calls of a single-input, single-output Keras graph in an order in which they can run."""

    calls: tuple[Call, ...]
    input: int
    output: int


def make_plan(model: keras.Model, fold_batch_norm: bool) -> Plan:
    """Lists the calls of a Keras graph; with `fold_batch_norm`, after all rewrites.

    Raises:
        InputError: the model is no graph, has several inputs or outputs, or calls a layer with further arguments.
    """
    graph = getattr(model, "_functional", model)  # what a Sequential model wraps
    if not hasattr(graph, "_nodes_by_depth"):
        raise unsupported(model, "a subclassed model has no graph of layers")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise unsupported(model, f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs instead of one each")
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
                raise unsupported(node.operation, f"called with {extra}" if extra else "several outputs")
            inputs = tuple(id(tensor) for tensor in node.input_tensors)
            calls.append(Call((node.operation,), inputs, id(node.outputs[0])))
    first, last = id(graph.inputs[0]), id(graph.outputs[0])
    if fold_batch_norm:
        rewriting = _Rewriting(calls, last)
        rewriting.fold_normalisations()
        rewriting.join_paddings()
        rewriting.join_rectifiers()
        rewriting.skip_unread_positions()
        calls = rewriting.calls()
    return Plan(tuple(calls), first, last)


class _Rewriting:
    """A graph under rewriting: the calls by the id of what they make, in order."""

    def __init__(self, calls: Iterable[Call], output: int) -> None:
        self.by_output = {call.output: call for call in calls}
        self.result = output
        # A layer called twice keeps one torch module, which can take only one set of options.
        self.shared = {key for key, uses in Counter(id(call.layers[0]) for call in calls).items() if uses > 1}
        self._new_ids = count(-1, -1)

    def calls(self) -> list[Call]:
        return list(self.by_output.values())

    def readers(self, tensor: int) -> list[Call]:
        return [call for call in self.by_output.values() for source in call.inputs if source == tensor]

    def fold_normalisations(self) -> None:
        """Joins each batch normalisation to the convolution that it alone reads."""
        for norm in self._of_kind("BatchNormalization"):
            before = self._producer_for_it_alone(norm)
            if before is not None and before.kind in _CONVOLUTIONS and _linear(before):
                self._join(before, norm, layers=(*before.layers, norm.layers[0]))

    def join_rectifiers(self) -> None:
        """Lets a convolution, normalisation or addition rectify its result in place."""
        for call in self._of_kind("Activation", "ReLU"):
            before = self._producer_for_it_alone(call)
            if before is None or before.kind not in _RECTIFIED or "rectifier" in before.options:
                continue
            name = _rectifier(call.layers[0])
            if name is not None and (before.kind not in _CONVOLUTIONS or _linear(before)):
                self._join(before, call, options={**before.options, "rectifier": name})

    def join_paddings(self) -> None:
        """Lets a convolution pad its input itself, and a maximum over rectified pixels do without their zeros."""
        for padding in self._of_kind("ZeroPadding2D"):
            readers, pads = self.readers(padding.output), padding.layers[0].padding
            if len(readers) != 1 or padding.output == self.result or self._is_shared(padding, readers[0]):
                continue
            (reader,) = readers
            if reader.layers[0].padding != "valid" if hasattr(reader.layers[0], "padding") else True:
                continue
            if reader.kind == "MaxPooling2D":
                # Where a window holds nothing but zeros, the gradient may fall on another one of them, but a rectifier
                # passes none on from there.
                source = self.by_output.get(padding.inputs[0])
                before = source is not None and source.kind in ("Activation", "ReLU") and _rectifier(source.layers[0])
                fits = all(a == b <= size // 2 for (a, b), size in zip(pads, reader.layers[0].pool_size, strict=True))
                if not (before and fits):
                    continue
            elif reader.kind not in _CONVOLUTIONS:
                continue
            self._join(padding, reader, layers=reader.layers, options={**reader.options, "pads": pads})

    def skip_unread_positions(self) -> None:
        """Moves the stride of 1x1 convolutions up the graph.

        A ResNet's stage begins with 1x1 convolutions of stride 2: of the stage before, three quarters of the last
        block's positions are read by nobody.
        """
        for tensor in list(self.by_output):
            readers = self.readers(tensor)
            strides = {self._stride_of_pointwise(call) for call in readers}
            if len(strides) == 1 and tensor != self.result and None not in strides and strides != {(1, 1)}:
                source = self._subsampled(tensor, strides.pop(), readers)
                for call in readers:
                    self.by_output[call.output] = replace(
                        call, inputs=(source,), options={**call.options, "strides": (1, 1)}
                    )

    def _subsampled(self, tensor: int, strides: tuple[int, int], readers: list[Call]) -> int:
        """The id of `tensor` at every stride-th position, as `readers` want it, computed as far up as possible."""
        call = self.by_output.get(tensor)
        only = len(self.readers(tensor)) == len(readers) and tensor != self.result
        if call is not None and only and not self._is_shared(call):
            pointwise = self._stride_of_pointwise(call)
            if pointwise == (1, 1) or call.kind in (*_ELEMENTWISE_MERGES, "Activation", "ReLU", "BatchNormalization"):
                inputs = {source: self._subsampled(source, strides, [call]) for source in dict.fromkeys(call.inputs)}
                self.by_output[tensor] = replace(call, inputs=tuple(inputs[source] for source in call.inputs))
                return tensor
            if call.kind in _CONVOLUTIONS and tuple(call.layers[0].strides) == (1, 1) and "strides" not in call.options:
                self.by_output[tensor] = replace(call, options={**call.options, "strides": strides})
                return tensor
        new = next(self._new_ids)
        ordered: dict[int, Call] = {} if call is not None else {new: Call((), (tensor,), new, {"strides": strides})}
        for key, value in self.by_output.items():
            ordered[key] = value
            if key == tensor:
                ordered[new] = Call((), (tensor,), new, {"strides": strides})
        self.by_output = ordered
        return new

    def _stride_of_pointwise(self, call: Call) -> tuple[int, int] | None:
        """Stride of a 1x1 convolution that neither pads nor is called twice; None for everything else."""
        if call.kind not in _CONVOLUTIONS or self._is_shared(call) or "pads" in call.options:
            return None
        layer = call.layers[0]
        return tuple(call.options.get("strides", layer.strides)) if tuple(layer.kernel_size) == (1, 1) else None

    def _of_kind(self, *kinds: str) -> list[Call]:
        return [call for call in self.by_output.values() if call.kind in kinds]

    def _is_shared(self, *calls: Call) -> bool:
        return any(id(call.layers[0]) in self.shared for call in calls if call.layers)

    def _producer_for_it_alone(self, call: Call) -> Call | None:
        """What makes the input of `call`, if nothing else reads that and neither layer is called twice."""
        before = self.by_output.get(call.inputs[0])
        if before is None or before.output == self.result or self._is_shared(before, call):
            return None
        return before if len(self.readers(before.output)) == 1 else None

    def _join(self, before: Call, after: Call, **changes: Any) -> None:
        """Replaces two calls, of which the second alone reads the first, by one at the place of the second."""
        del self.by_output[before.output]
        self.by_output[after.output] = replace(before, output=after.output, **changes)


def _is_layer(operation) -> bool:
    return isinstance(operation, keras.layers.Layer)


def _linear(call: Call) -> bool:
    return call.layers[0].activation is keras.activations.linear


def _rectifier(layer) -> str | None:
    """`relu` or `relu6` if that is what the layer computes."""
    if isinstance(layer, keras.layers.ReLU):
        plain = layer.threshold == 0 and layer.negative_slope == 0
        return {None: "relu", 6: "relu6"}.get(layer.max_value) if plain else None
    name = getattr(layer.activation, "__name__", None)
    return name if name in ("relu", "relu6") else None
