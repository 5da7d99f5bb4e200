"""M's torch copy evaluated in inference mode: logits and input gradients of NHWC float32 images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from unmask_tf.attacks.watched import Watched
from unmask_tf.data.pixels import checked_pixels


@contextmanager
def inference(module: torch.nn.Module) -> Iterator[torch.device]:
    """Inference mode without parameter gradients; yields the module's device and restores every flag at the end."""
    training = [(child, child.training) for child in module.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    tensor = next(iter([*module.parameters(), *module.buffers()]), torch.empty(0))
    try:
        module.eval()
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        yield tensor.device
    finally:
        for child, flag in training:
            child.training = flag
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)


def logits_and_gradients(
    module: torch.nn.Module, images: np.ndarray, labels: np.ndarray, *, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, classes) and the gradient of the cross-entropy by the image, float32 (N, H, W, 3).

    Raises:
        As `validated`; InputError: the module returns NaN or infinity.
    """
    images, labels = validated(module, images, labels)
    logits, gradients = [], []
    with inference(module) as device:
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            wanted = torch.from_numpy(labels[part]).to(device)
            pixels = nchw(images[part], device).requires_grad_(True)
            outputs = Watched(module, wanted, False, False)(pixels)
            (gradient,) = torch.autograd.grad(_loss(outputs, wanted), pixels)
            logits.append(outputs.detach().cpu().numpy())
            gradients.append(nhwc(gradient))
    return np.concatenate(logits), np.concatenate(gradients)


def logits_of(module: torch.nn.Module, images: np.ndarray, *, batch_size: int = 32) -> np.ndarray:
    """Logits (N, classes) of floating images (N, H, W, 3) in [0, 1], in inference mode.

    Raises:
        As `validated`; InputError: the module returns NaN or infinity.
    """
    images, labels = validated(module, images, np.zeros(len(images), np.int64))
    logits = []
    with inference(module) as device, torch.no_grad():
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            watched = Watched(module, torch.from_numpy(labels[part]).to(device), False, False)
            logits.append(watched(nchw(images[part], device)).cpu().numpy())
    return np.concatenate(logits)


def nchw(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Images (N, H, W, C) as a contiguous tensor (N, C, H, W)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def nhwc(images: torch.Tensor) -> np.ndarray:
    """A tensor (N, C, H, W) as a contiguous array (N, H, W, C)."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())


def validated(module: torch.nn.Module, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images as contiguous float32 and labels as int64.

    Raises:
        TypeError: `module` is no torch module.
        ValueError: images that are not (N, H, W, 3), or none; labels that are not N integers from 0.
        InputError: images that are not floating or not in [0, 1].
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"the attacked model is a {type(module).__name__}; expected a torch module. Convert it by to_torch."
        )
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images have shape {images.shape}; expected (N, H, W, 3), channels last.")
    if images.size == 0:
        raise ValueError(f"images have shape {images.shape}: there is nothing to attack. Give at least one image.")
    images = np.ascontiguousarray(checked_pixels(images))
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; expected integers of shape ({len(images)},)."
        )
    if labels.min() < 0:
        raise ValueError(f"label {labels.min()} is out of range; labels are class positions from 0.")
    return images, labels.astype(np.int64)


_loss = torch.nn.CrossEntropyLoss(reduction="sum")
