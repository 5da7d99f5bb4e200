"""A function's gradient by its first argument, on Keras' own backend: TensorFlow, PyTorch or JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

Function = Callable[..., tuple[Any, Any]]
"""Tensors -> (losses (B,), anything else), by Keras' operations."""


def compiled(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A function of tensors to a tensor, as one of arrays to an array; compiled where the backend does that."""
    run = _COMPILED[keras.backend.backend()](function)
    return lambda *inputs: keras.ops.convert_to_numpy(run(*inputs))


def with_gradient(function: Function) -> Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A function of arrays to `function`'s losses, its other result, and the gradient of the losses' sum by the first
    array; compiled where the backend does that."""
    run = _WITH_GRADIENT[keras.backend.backend()](function)
    return lambda *inputs: tuple(keras.ops.convert_to_numpy(value) for value in run(*inputs))


def _tensorflow(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    run = tf.function(function, jit_compile=False, reduce_retracing=True)
    return lambda *inputs: run(*(tf.convert_to_tensor(value) for value in inputs))


def _tensorflow_gradient(function: Function) -> Callable[..., Any]:
    import tensorflow as tf

    def run(first: Any, *rest: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(first)
            losses, other = function(first, *rest)
        return losses, other, tape.gradient(losses, first)

    return _tensorflow(run)


def _torch(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def run(*inputs: np.ndarray) -> Any:
        with torch.no_grad():
            return function(*(keras.ops.convert_to_tensor(value) for value in inputs))

    return run


def _torch_gradient(function: Function) -> Callable[..., Any]:
    import torch

    def run(*inputs: np.ndarray) -> Any:
        first, *rest = (keras.ops.convert_to_tensor(value) for value in inputs)
        with torch.enable_grad():
            losses, other = function(first.requires_grad_(True), *rest)
            (gradient,) = torch.autograd.grad(losses.sum(), first)
        return losses, other, gradient

    return run


def _jax(function: Callable[..., Any]) -> Callable[..., Any]:
    import jax

    return jax.jit(function)


def _jax_gradient(function: Function) -> Callable[..., Any]:
    import jax

    def total(*inputs: Any) -> Any:
        losses, other = function(*inputs)
        return losses.sum(), (losses, other)

    run = jax.jit(jax.value_and_grad(total, has_aux=True))

    def unpacked(*inputs: np.ndarray) -> Any:
        (_, (losses, other)), gradient = run(*inputs)
        return losses, other, gradient

    return unpacked


_COMPILED = {"tensorflow": _tensorflow, "torch": _torch, "jax": _jax}
_WITH_GRADIENT = {"tensorflow": _tensorflow_gradient, "torch": _torch_gradient, "jax": _jax_gradient}
