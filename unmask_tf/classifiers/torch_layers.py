"""Keras layers as torch modules, one class per layer kind, with Keras' semantics.

Four-dimensional tensors are NCHW (held channels_last in memory) where Keras has NHWC; tensors of other ranks are the
same in both. Every module reads its constants from the Keras layer it stands for. Layers with variables are in
torch_layers_weighted.py.
"""

from __future__ import annotations

import keras
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_tf.errors import InputError

ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "softmax": lambda x: torch.softmax(x, channel_dim(x)),
    "log_softmax": lambda x: torch.log_softmax(x, channel_dim(x)),
    "softplus": F.softplus,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "hard_sigmoid": lambda x: F.relu6(x + 3.0) / 6.0,
    "hard_silu": lambda x: x * F.relu6(x + 3.0) / 6.0,
}

RECTIFIERS = {"relu": F.relu_, "relu6": lambda x: F.relu6(x, inplace=True)}
"""Those of ACTIVATIONS that may overwrite a tensor which nothing else reads."""


def rectified(x: Tensor, rectifier: str | None) -> Tensor:
    """Overwrites `x`, fresh from the layer that calls this, by its rectified values."""
    return x if rectifier is None else RECTIFIERS[rectifier](x)


def channel_dim(x: Tensor) -> int:
    """Where Keras' last axis stands in `x`."""
    return 1 if x.ndim == 4 else x.ndim - 1


def to_keras_order(x: Tensor) -> Tensor:
    """NCHW -> NHWC view; other ranks unchanged."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def to_torch_order(x: Tensor) -> Tensor:
    """NHWC -> NCHW view; other ranks unchanged."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def unsupported(operation, reason: str = "") -> InputError:
    """The error for an operation that has no torch twin here."""
    return InputError(
        f"layer '{operation.name}' of class {type(operation).__name__} cannot be turned into PyTorch"
        f"{': ' + reason if reason else ''}. Add it to classifiers/torch_layers.py or build the model without it."
    )


def activation_name(layer) -> str:
    name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
    if name not in ACTIVATIONS:
        raise unsupported(layer, f"unknown activation '{name}'")
    return name


def _require_channels_last(layer) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise unsupported(layer, "only data_format='channels_last' is known")


def same_pads(x: Tensor, kernel, strides, dilation=(1, 1)) -> list[tuple[int, int]]:
    """(before, after) of H and W under TensorFlow's 'same' padding: the odd pixel goes to the bottom and the right."""
    pads = []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def pad(x: Tensor, pads, fill: float = 0.0) -> Tensor:
    """Pads H and W of NCHW by ((top, bottom), (left, right)) pixels."""
    (top, bottom), (left, right) = pads
    return F.pad(x, (left, right, top, bottom), value=fill) if any((top, bottom, left, right)) else x


class PortedLayer(nn.Module):
    """Base: a layer without variables needs neither `pull` nor `push`."""

    def __init__(self, layer) -> None:
        super().__init__()
        _require_channels_last(layer)

    def pull(self, layer) -> None:
        """Copies the Keras layer's variables into this module."""

    def push(self, layer) -> None:
        """Copies this module's values into the Keras layer's variables."""


class Activation(PortedLayer):
    """Activation by name."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        self.activation = activation_name(layer)

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.activation](x)


class ReLU(PortedLayer):
    """ReLU with Keras' maximum, threshold and negative slope."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        self.maximum, self.threshold, self.slope = layer.max_value, layer.threshold, layer.negative_slope

    def forward(self, x: Tensor) -> Tensor:
        if self.threshold == 0 and self.slope == 0:
            if self.maximum is None:
                return F.relu(x)
            return F.relu6(x) if self.maximum == 6 else F.hardtanh(x, 0.0, float(self.maximum))
        y = torch.where(x >= self.threshold, x, self.slope * (x - self.threshold))
        return y if self.maximum is None else y.clamp(max=self.maximum)


class Softmax(PortedLayer):
    """Softmax over the last Keras axis."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        if layer.axis != -1:
            raise unsupported(layer, f"axis {layer.axis}")

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, channel_dim(x))


class ZeroPadding(PortedLayer):
    """ZeroPadding2D."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        self.padding = layer.padding

    def forward(self, x: Tensor) -> Tensor:
        return pad(x, self.padding)


class Pooling(PortedLayer):
    """MaxPooling2D and AveragePooling2D; with 'same' padding neither counts the padded pixels.

    `pads` (of equal sides) belong to a ZeroPadding2D before a maximum over rectified pixels.
    """

    def __init__(self, layer, pads=((0, 0), (0, 0))) -> None:
        super().__init__(layer)
        self.padding = (pads[0][0], pads[1][0])
        self.maximum = isinstance(layer, keras.layers.MaxPooling2D)
        self.size, self.stride = tuple(layer.pool_size), tuple(layer.strides)
        self.same = layer.padding == "same"

    def forward(self, x: Tensor) -> Tensor:
        pads = same_pads(x, self.size, self.stride) if self.same else ((0, 0), (0, 0))
        if self.maximum:
            return F.max_pool2d(pad(x, pads, float("-inf")), self.size, self.stride, self.padding)
        pooled = F.avg_pool2d(pad(x, pads), self.size, self.stride)
        if not self.same:
            return pooled
        inside = pad(torch.ones_like(x[:1, :1]), pads)
        return pooled / F.avg_pool2d(inside, self.size, self.stride)


class GlobalPooling(PortedLayer):
    """GlobalAveragePooling2D and GlobalMaxPooling2D: (N, C, H, W) -> (N, C), or (N, C, 1, 1) with keepdims."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        self.maximum, self.keepdims = isinstance(layer, keras.layers.GlobalMaxPooling2D), layer.keepdims

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3), keepdim=self.keepdims) if self.maximum else x.mean((2, 3), keepdim=self.keepdims)


class Merge(PortedLayer):
    """Add, Subtract, Multiply, Average, Maximum and Concatenate (over the last Keras axis)."""

    def __init__(self, layer, rectifier: str | None = None) -> None:
        super().__init__(layer)
        self.kind, self.rectifier = type(layer).__name__, rectifier
        if self.kind == "Concatenate" and layer.axis not in (-1, 3):
            raise unsupported(layer, f"axis {layer.axis}")

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.kind == "Concatenate":
            return torch.cat(inputs, channel_dim(inputs[0]))
        combine = {
            "Add": torch.add,
            "Average": torch.add,
            "Subtract": torch.sub,
            "Multiply": torch.mul,
            "Maximum": torch.maximum,
        }[self.kind]
        result = inputs[0]
        for x in inputs[1:]:
            result = combine(result, x)
        result = result / len(inputs) if self.kind == "Average" else result
        return rectified(result, self.rectifier)


class Subsampling(PortedLayer):
    """Every stride-th row and column: what remains of a convolution's stride that was moved up the graph."""

    def __init__(self, strides: tuple[int, int]) -> None:
        nn.Module.__init__(self)
        self.strides = strides

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.strides[0], :: self.strides[1]]

    def pull(self) -> None:
        """There is nothing to copy."""


class ReverseChannels(PortedLayer):
    """RGB to BGR."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(channel_dim(x))


class Reshape(PortedLayer):
    """Reshape and Flatten, which read the tensor in Keras' order."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        self.target = (-1,) if isinstance(layer, keras.layers.Flatten) else tuple(layer.target_shape)

    def forward(self, x: Tensor) -> Tensor:
        return to_torch_order(to_keras_order(x).reshape(x.shape[0], *self.target))


class Dropout(PortedLayer):
    """Dropout, with Keras' noise shape (None: the input's size)."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        self.rate, self.noise_shape = layer.rate, layer.noise_shape

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        size = to_keras_order(x).shape
        shape = [full if n is None else n for n, full in zip(self.noise_shape or size, size, strict=True)]
        kept = F.dropout(torch.ones(shape, device=x.device, dtype=x.dtype), self.rate, True)
        return x * to_torch_order(kept)


class Identity(PortedLayer):
    """A layer that leaves its input as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return x
