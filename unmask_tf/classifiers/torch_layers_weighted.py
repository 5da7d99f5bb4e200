"""The Keras layers that hold variables or constants, as torch modules: convolutions, dense, normalisations.

Every module copies its Keras layer's variables in (`pull`) and writes them back (`push`).
"""

from __future__ import annotations

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_tf.classifiers.torch_layers import (
    ACTIVATIONS,
    RECTIFIERS,
    PortedLayer,
    activation_name,
    pad,
    rectified,
    same_pads,
    to_keras_order,
    to_torch_order,
    unsupported,
)


def tensor_of(value) -> Tensor:
    """A CPU tensor over a Keras variable's value or an array; without a copy where the backend allows. Do not write."""
    value = getattr(value, "value", value)
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if hasattr(value, "read_value"):
        value = value.read_value()  # a TensorFlow variable's own numpy() copies, the tensor read from it does not
    return torch.from_dlpack(np.asarray(value))  # from_numpy warns about arrays that are read-only, as these are


def copy_into(target: Tensor, source: Tensor) -> None:
    """`target.copy_(source)` that refuses to broadcast."""
    if target.shape != source.shape:
        raise ValueError(f"shape {tuple(source.shape)}, expected {tuple(target.shape)}")
    target.copy_(source)


class Convolution(PortedLayer):
    """Conv2D and DepthwiseConv2D, optionally followed by a batch normalisation folded into the kernel.

    `pads` belong to a ZeroPadding2D before it, `rectifier` names an activation after it, `strides` replace the layer's
    (its padding stays as the layer's own strides make it).

    Kernels are (kh, kw, in / groups, out) in Keras and (out, in / groups, kh, kw) here; depthwise ones are
    (kh, kw, C, multiplier) in Keras and (C * multiplier, 1, kh, kw) here.
    """

    def __init__(self, layer, norm=None, *, pads=((0, 0), (0, 0)), strides=None, rectifier=None) -> None:
        super().__init__(layer)
        self.depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        shape = tuple(layer.kernel.shape)
        self.kernel_size, self.dilation, self.pads = shape[:2], tuple(layer.dilation_rate), pads
        self.padding_stride, self.stride = tuple(layer.strides), tuple(strides or layer.strides)
        self.groups = shape[2] if self.depthwise else layer.groups
        if layer.padding not in ("same", "valid"):
            raise unsupported(layer, f"unknown padding '{layer.padding}'")
        self.same = layer.padding == "same"
        self.activation = activation_name(layer)
        self.rectifier = self.activation if self.activation in RECTIFIERS else rectifier
        self.folded = norm is not None
        outputs, inputs = (shape[2] * shape[3], 1) if self.depthwise else (shape[3], shape[2])
        strided = self.stride == (2, 2) and self.dilation == (1, 1) and min(self.kernel_size) > 1
        self._few_channels = strided and self.groups == 1 and inputs < 5
        weight = torch.empty(outputs, inputs, *self.kernel_size)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.empty(outputs)) if layer.use_bias or self.folded else None

    @torch.no_grad()
    def pull(self, layer, norm=None) -> None:
        kernel = tensor_of(layer.kernel)
        bias = tensor_of(layer.bias) if layer.use_bias else None
        if norm is not None:
            scale, shift = affine_of(norm)
            bias = shift if bias is None else bias * scale + shift
            kernel = kernel * (scale.reshape(kernel.shape[2:]) if self.depthwise else scale)
        if self.bias is not None:
            copy_into(self.bias, bias)
        if self.depthwise:
            copy_into(self.weight, kernel.permute(2, 3, 0, 1).reshape(-1, 1, *self.kernel_size))
        else:
            outputs = kernel.shape[-1]
            # Held channels_last, (out, kh * kw * in) is one plain matrix: the transposed copy is then several times
            # faster than a permutation of four axes.
            matrix = self.weight.permute(0, 2, 3, 1).view(outputs, -1)
            copy_into(matrix, kernel.reshape(-1, outputs).T)

    def push(self, layer) -> None:
        weight = self.weight.detach().cpu()
        if self.depthwise:
            shape = tuple(layer.kernel.shape)
            kernel = weight.reshape(shape[2], shape[3], *shape[:2]).permute(2, 3, 0, 1)
        else:
            kernel = weight.permute(2, 3, 1, 0)
        layer.kernel.assign(kernel.contiguous().numpy())
        if self.bias is not None:
            layer.bias.assign(self.bias.detach().cpu().numpy())

    def forward(self, x: Tensor) -> Tensor:
        pads = same_pads(x, self.kernel_size, self.padding_stride, self.dilation) if self.same else self.pads
        if self._few_channels:
            x = self._without_stride(x, pads)
        else:
            padding = (0, 0)
            if all(before == after for before, after in pads):
                padding = (pads[0][0], pads[1][0])
            else:
                x = pad(x, pads)
            x = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return ACTIVATIONS[self.activation](x) if self.rectifier is None else rectified(x, self.rectifier)

    def _without_stride(self, x: Tensor, pads) -> Tensor:
        """The same convolution over blocks of 2x2 pixels: stride 1, four times the channels.

        With the stride, the gradient by an image of three channels costs oneDNN five times as much.
        """
        odd = [k % 2 for k in self.kernel_size]
        after = []
        for n, (before, behind), k, one in zip(x.shape[2:], pads, self.kernel_size, odd, strict=True):
            steps = (n + before + behind - k) // 2
            after.append(2 * steps + k + one - n - before)
        x = F.pad(x, (pads[1][0], after[1], pads[0][0], after[0]))
        weight = F.pad(self.weight, (0, odd[1], 0, odd[0]))
        return F.conv2d(F.pixel_unshuffle(x, 2), F.pixel_unshuffle(weight, 2), self.bias)


def affine_of(norm) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (C,), of a Keras batch normalisation at inference: y = x * scale + shift."""
    mean, variance = tensor_of(norm.moving_mean), tensor_of(norm.moving_variance)
    scale = torch.rsqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * tensor_of(norm.gamma)
    shift = -mean * scale
    return scale, shift + tensor_of(norm.beta) if norm.center else shift


class Dense(PortedLayer):
    """Dense; the kernel is (in, out) in Keras and (out, in) here."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        self.activation = activation_name(layer)
        inputs, outputs = layer.kernel.shape
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if layer.use_bias else None

    @torch.no_grad()
    def pull(self, layer) -> None:
        copy_into(self.weight, tensor_of(layer.kernel).T)
        if self.bias is not None:
            copy_into(self.bias, tensor_of(layer.bias))

    def push(self, layer) -> None:
        layer.kernel.assign(self.weight.detach().cpu().T.contiguous().numpy())
        if self.bias is not None:
            layer.bias.assign(self.bias.detach().cpu().numpy())

    def forward(self, x: Tensor) -> Tensor:
        x = to_torch_order(F.linear(to_keras_order(x), self.weight, self.bias))
        return ACTIVATIONS[self.activation](x)


class BatchNormalization(PortedLayer):
    """Batch normalisation; unlike torch's own, the moving variance follows the biased batch variance.

    A Keras layer with trainable=False stays in inference mode while training, and so does this one.
    """

    def __init__(self, layer, *, rectifier: str | None = None) -> None:
        super().__init__(layer)
        self.rectifier = rectifier
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        rank = layer.input_spec.ndim
        if axis % rank != rank - 1 or rank not in (2, 4) or getattr(layer, "renorm", False):
            raise unsupported(layer, f"axis {layer.axis} of rank {rank}, or renorm")
        (channels,) = layer.moving_mean.shape
        self.momentum, self.epsilon, self.frozen = layer.momentum, layer.epsilon, not layer.trainable
        self.weight = nn.Parameter(torch.ones(channels)) if layer.scale else None
        self.bias = nn.Parameter(torch.zeros(channels)) if layer.center else None
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_variance", torch.ones(channels))

    def _pairs(self, layer):
        pairs = [(self.moving_mean, layer.moving_mean), (self.moving_variance, layer.moving_variance)]
        pairs += [(self.weight, layer.gamma)] if self.weight is not None else []
        return pairs + ([(self.bias, layer.beta)] if self.bias is not None else [])

    @torch.no_grad()
    def pull(self, layer) -> None:
        for ours, theirs in self._pairs(layer):
            copy_into(ours, tensor_of(theirs))

    def push(self, layer) -> None:
        for ours, theirs in self._pairs(layer):
            theirs.assign(ours.detach().cpu().numpy())

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.frozen:
            y = F.batch_norm(
                x, self.moving_mean, self.moving_variance, self.weight, self.bias, False, 0.0, self.epsilon
            )
            return rectified(y, self.rectifier)
        # With momentum 1 torch leaves the batch's own statistics, so that they are computed once.
        mean, variance = torch.zeros_like(self.moving_mean), torch.zeros_like(self.moving_variance)
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.epsilon)
        with torch.no_grad():
            values = x.numel() // x.shape[1]
            self.moving_mean.lerp_(mean, 1.0 - self.momentum)
            self.moving_variance.lerp_(variance * ((values - 1) / values), 1.0 - self.momentum)
        return rectified(y, self.rectifier)


class Affine(PortedLayer):
    """Rescaling and Normalization: x * scale + offset over the last Keras axis."""

    def __init__(self, layer) -> None:
        super().__init__(layer)
        scale, offset = self._constants(layer)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)

    @staticmethod
    def _constants(layer) -> tuple[Tensor, Tensor]:
        if isinstance(layer, keras.layers.Rescaling):
            pair = [torch.as_tensor(np.asarray(value, np.float32)) for value in (layer.scale, layer.offset)]
        else:
            if layer.invert or len(layer.axis) != 1:
                raise unsupported(layer, "invert, or several axes")
            deviation = tensor_of(layer.variance).sqrt().clamp_min(keras.config.epsilon()).flatten()
            pair = [1.0 / deviation, -tensor_of(layer.mean).flatten() / deviation]
        return pair[0].clone(), pair[1].clone()

    @torch.no_grad()
    def pull(self, layer) -> None:
        scale, offset = self._constants(layer)
        copy_into(self.scale, scale)
        copy_into(self.offset, offset)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, 1, 1) if x.ndim == 4 else (-1,)
        return torch.addcmul(self.offset.reshape(shape), x, self.scale.reshape(shape))
