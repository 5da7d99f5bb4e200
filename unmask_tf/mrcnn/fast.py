"""K's detector rewritten for speed: no mask head, batch normalisation folded away; computed by the chosen engine.

The architecture stays where it is written, in backbone.py, rpn.py and heads.py: `rewrite` walks the finished graph and
exchanges its layers.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from unmask_tf.memory import return_freed_memory
from unmask_tf.mrcnn import boxes as box_math
from unmask_tf.mrcnn.anchors import normalized_anchors
from unmask_tf.mrcnn.config import Config
from unmask_tf.mrcnn.detections import box_results
from unmask_tf.mrcnn.engines import PRECISIONS, QUANTIZED, REFERENCE, choose, quantized_folder
from unmask_tf.mrcnn.graphs import build_inference_model
from unmask_tf.mrcnn.image import Placement, canvas_size, mold_inputs
from unmask_tf.mrcnn.weights import load_weights


class FixedConvolution(layers.Layer):
    """A convolution or dense layer with its bias and activation, for inference.

    Args:
        kernel: (h, w, in, out), or (h, w, in, multiplier) with `depthwise`, or (in, out) for a dense layer.
        bias: (out,).
        strides, padding, activation: as of `keras.layers.Conv2D`.
        depthwise: filters each channel by itself.
        variable: takes the kernel over, where dtypes agree, instead of a new one.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
        *,
        strides: tuple[int, int] = (1, 1),
        padding: str = "valid",
        activation: Callable[[Any], Any] | None = None,
        depthwise: bool = False,
        variable: keras.Variable | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(trainable=False, **kwargs)
        self.strides, self.padding, self.activation, self.depthwise = strides, padding, activation, depthwise
        if variable is None or variable.dtype != self.variable_dtype:
            variable = self.add_weight(shape=kernel.shape, initializer="zeros", trainable=False, name="kernel")
        self.kernel = variable
        self.bias = self.add_weight(shape=bias.shape, initializer="zeros", trainable=False, name="bias")
        self.kernel.assign(kernel)
        self.bias.assign(bias)
        self.built = True

    def call(self, x: Any) -> Any:
        x, kernel = ops.cast(x, self.compute_dtype), ops.convert_to_tensor(self.kernel)
        covered = self.padding == "valid" and not self.depthwise and tuple(x.shape[1:3]) == tuple(kernel.shape[:2])
        if len(kernel.shape) == 2:
            x = ops.matmul(x, kernel)
        elif covered:
            # The head's 7x7 convolution sees each region whole, so it is one matrix product.
            outputs = kernel.shape[3]
            x = ops.matmul(ops.reshape(x, (-1, int(np.prod(kernel.shape[:3])))), ops.reshape(kernel, (-1, outputs)))
            x = ops.reshape(x, (-1, 1, 1, outputs))
        elif self.depthwise:
            x = ops.depthwise_conv(x, kernel, strides=self.strides, padding=self.padding)
        else:
            x = ops.conv(x, kernel, strides=self.strides, padding=self.padding)
        x = _add_bias(x, ops.convert_to_tensor(self.bias))
        return x if self.activation is None else self.activation(x)


def _add_bias(x: Any, bias: Any) -> Any:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # TensorFlow fuses a BiasAdd with the convolution before it and the ReLU after it; a broadcast sum it does not.
        return tf.nn.bias_add(x, bias)
    return x + bias


class _Passed(layers.Layer):
    """In the place of a normalisation that was folded away."""

    def call(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
        return x


def _normalizations(network: keras.Model) -> dict[int, layers.BatchNormalization]:
    """id of a convolution -> the batch normalisation that is its only reader."""
    found = {}
    for layer in network.layers:
        if not isinstance(layer, layers.BatchNormalization):
            continue
        source = layer.input._keras_history.operation
        linear = getattr(source, "activation", None) in (None, keras.activations.linear)
        if type(source) in (layers.Conv2D, layers.DepthwiseConv2D) and linear and len(source._outbound_nodes) == 1:
            found[id(source)] = layer
    return found


def _kernel_and_bias(layer: Any, norm: layers.BatchNormalization | None) -> tuple[np.ndarray, np.ndarray]:
    """Float32 kernel and bias of a layer, with the moving statistics of its normalisation multiplied in in float64."""
    kernel, depthwise = ops.convert_to_numpy(layer.kernel.value), isinstance(layer, layers.DepthwiseConv2D)
    channels = kernel.shape[-2] * kernel.shape[-1] if depthwise else kernel.shape[-1]
    bias = ops.convert_to_numpy(layer.bias.value) if layer.use_bias else np.zeros(channels, np.float32)
    if norm is None:
        return kernel, bias
    scale = 1.0 / np.sqrt(ops.convert_to_numpy(norm.moving_variance.value).astype(np.float64) + norm.epsilon)
    if norm.scale:
        scale = scale * ops.convert_to_numpy(norm.gamma.value)
    bias = (bias - ops.convert_to_numpy(norm.moving_mean.value).astype(np.float64)) * scale
    if norm.center:
        bias = bias + ops.convert_to_numpy(norm.beta.value)
    kernel = kernel * (scale.reshape(kernel.shape[-2:]) if depthwise else scale)
    return kernel.astype(np.float32), bias.astype(np.float32)


def rewrite(network: keras.Model, consume: bool = False) -> keras.Model:
    """The same function as `network` (K's detector or a part of it), for inference with its present weights.

    Each batch normalisation that follows a convolution is folded into it: exact up to rounding.

    Args:
        network: a functional model.
        consume: takes the network's variables over, so that their memory is needed once; `network` is spoilt by it.
    """
    norms = _normalizations(network)
    folded = {id(norm) for norm in norms.values()}

    def exchange(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return rewrite(layer, consume)
        if id(layer) in folded:
            return _Passed(name=layer.name)
        if type(layer) in (layers.Conv2D, layers.DepthwiseConv2D, layers.Dense):
            kernel, bias = _kernel_and_bias(layer, norms.get(id(layer)))
            shape = {} if isinstance(layer, layers.Dense) else dict(strides=layer.strides, padding=layer.padding)
            return FixedConvolution(
                kernel,
                bias,
                **shape,
                activation=layer.activation,
                depthwise=isinstance(layer, layers.DepthwiseConv2D),
                variable=layer.kernel if consume else None,
                name=layer.name,
            )
        if getattr(layer, "weights", None):
            return layer  # a normalisation that follows no convolution
        # A new one that does the same: the old one would keep its whole graph, with all weights, in memory.
        return type(layer).from_config(layer.get_config())

    return keras.models.clone_model(network, clone_function=exchange)


def compiled(network: keras.Model) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """`network` as a function of its list of inputs; in TensorFlow without XLA, which is slower on the CPU."""
    if keras.backend.backend() != "tensorflow":
        return lambda inputs: keras.ops.convert_to_numpy(network.predict_on_batch(list(inputs)))
    import tensorflow as tf

    function = tf.function(lambda *inputs: network(list(inputs), training=False), jit_compile=False)
    return lambda inputs: function(*(tf.convert_to_tensor(x) for x in inputs)).numpy()


def rewritten_detector(config: Config, weights: str | Path) -> keras.Model:
    """K of a weights file, without masks, rewritten: molded images, anchors and windows to detections.

    Raises:
        InputError: weights that do not fit.
    """
    model = build_inference_model(config)  # the graph with masks is only needed to check the weights file whole
    load_weights(model, weights)
    network = rewrite(keras.Model(model.inputs, model.output["detections"]), consume=True)
    del model
    _collect()
    return network


def _collect() -> None:
    """Frees graphs that nothing uses: they are cycles, and would stay until Python happens to collect."""
    gc.collect()
    return_freed_memory()


class FastDetector:
    """K's boxes, classes and scores, without masks, by a rewritten network.

    Args:
        config: K's settings.
        weights: a Matterport-layout `.h5`.
        engine: of `engines.choose`.

    Attributes:
        choice: the engine in use, and why.

    Raises:
        ValueError: an unknown engine.
        InputError: weights that do not fit, or an engine that is not installed or not prepared.
    """

    def __init__(self, config: Config, weights: str | Path, engine: str = REFERENCE) -> None:
        self.config, self.choice = config, choose(engine)
        engine = self.choice.engine
        if engine == REFERENCE:
            self._function = compiled(rewritten_detector(config, weights))
        else:
            from unmask_tf.mrcnn.openvino_network import OpenVinoDetections, read

            networks = read(quantized_folder(weights)) if engine == QUANTIZED else None
            self._function = OpenVinoDetections(rewritten_detector(config, weights), PRECISIONS[engine], networks)
            _collect()
        self._anchors: dict[tuple[int, int], np.ndarray] = {}

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the canvas of an image of this size; a call takes images of one canvas."""
        return canvas_size(height, width, self.config)

    def detect_boxes(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Detects objects in RGB uint8 images, each (H, W, 3), of one canvas size.

        Returns:
            Per image: `rois` int32 (D, 4) pixel boxes, `class_ids` int32 (D,), `scores` float32 (D,).
        """
        molded, anchors, placements = self.molded(images)
        canvas, windows = molded.shape[1:3], [placement.window for placement in placements]
        detections = self._function([molded, anchors, box_math.normalize(np.array(windows), canvas)])
        return box_results(detections, [image.shape[:2] for image in images], canvas, windows)

    def molded(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[Placement]]:
        """Images on their canvas, float32 (B, H, W, 3), its anchors (B, A, 4), and where each image lies."""
        molded, _, placements = mold_inputs(images, self.config)
        canvas = molded.shape[1:3]
        if canvas not in self._anchors:
            self._anchors[canvas] = normalized_anchors(self.config, canvas)
        return molded, np.repeat(self._anchors[canvas][None], len(images), axis=0), placements
