"""The attacked module as Advertorch sees it: every iterate passes here, so the best is kept and faults are found."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from unmask_tf.errors import InputError


class Watched:
    """The module as Advertorch sees it: NCHW in, logits out, with an eye on every iterate.

    Advertorch evaluates each of its iterates through this function, so the best one can be kept here, for any attack
    and at no further cost. `fooled` and `peak_loss` are kept apart from it, and always: by them a check sees whether
    the best iterate is the one returned.

    Attributes:
        gradient_steps: int64 (N,), evaluations with a gradient so far.
        fooled, peak_loss: as in `AttackResult`, so far.
        rows: which images of the batch the next evaluations are about (None: all).
        best: float32 NCHW, each image's best iterate so far (None: `keep_best` is not asked for).
        on_gradient: called with each gradient by the images (NCHW).
    """

    def __init__(self, module: torch.nn.Module, labels: torch.Tensor, targeted: bool, keep_best: bool) -> None:
        self.module, self.labels, self.targeted, self.keep_best = module, labels, targeted, keep_best
        self.gradient_steps = torch.zeros_like(labels)
        self.rows: torch.Tensor | None = None
        self.best: torch.Tensor | None = None
        self.on_gradient: Callable[[torch.Tensor], None] | None = None
        # Highest loss of the iterates that did not fool the model (row 0) and of those that did (row 1).
        self._peaks = torch.full((2, len(labels)), -torch.inf, device=labels.device)
        self._best_fooled = torch.zeros_like(labels, dtype=torch.bool)
        self._best_gain = torch.full(labels.shape, -torch.inf, device=labels.device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        # Convolutions are faster in channels_last; Advertorch itself needs contiguous NCHW.
        logits = self.module(images.contiguous(memory_format=torch.channels_last))
        self._refuse_bad_outputs(images, logits)
        if images.requires_grad:
            images.register_hook(functools.partial(self._see_gradient, images.detach()))
        self.gradient_steps[slice(None) if self.rows is None else self.rows] += torch.is_grad_enabled()
        with torch.no_grad():
            self._watch(images.detach(), logits.detach())
        return logits

    @property
    def fooled(self) -> torch.Tensor:
        return torch.isfinite(self._peaks[1])

    @property
    def peak_loss(self) -> torch.Tensor:
        return torch.where(self.fooled, self._peaks[1], self._peaks[0])

    def _watch(self, images: torch.Tensor, logits: torch.Tensor) -> None:
        rows = torch.arange(len(self.labels), device=logits.device) if self.rows is None else self.rows
        labels = self.labels[rows]
        gain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        fooled = logits.argmax(1) != labels
        if self.targeted:
            gain, fooled = -gain, ~fooled
        for row, counted in enumerate((~fooled, fooled)):
            counted = counted & torch.isfinite(gain)
            self._peaks[row, rows] = torch.maximum(self._peaks[row, rows], torch.where(counted, gain, -torch.inf))
        if self.keep_best:
            self._keep(rows, images, gain, fooled)

    def _keep(self, rows: torch.Tensor, images: torch.Tensor, gain: torch.Tensor, fooled: torch.Tensor) -> None:
        if self.best is None:
            self.best = images.new_zeros((len(self.labels), *images.shape[1:]))
        # With three classes or more a still correct iterate can have the higher loss: being fooled counts first.
        before = self._best_fooled[rows]
        better = (fooled & ~before) | ((fooled == before) & (gain > self._best_gain[rows]))
        # A NaN iterate has a NaN gain, but its argmax could pass for fooled.
        better &= torch.isfinite(gain)
        chosen = rows[better]
        self.best[chosen], self._best_fooled[chosen], self._best_gain[chosen] = (
            images[better],
            fooled[better],
            gain[better],
        )

    def _refuse_bad_outputs(self, images: torch.Tensor, logits: torch.Tensor) -> None:
        if logits.ndim != 2 or len(logits) != len(images):
            raise ValueError(
                f"the attacked module returned shape {tuple(logits.shape)} for {len(images)} images; expected logits "
                f"of shape ({len(images)}, classes). Pass the module that ends in the class logits."
            )
        highest = int(self.labels.max())
        if highest >= logits.shape[1]:
            raise ValueError(
                f"label {highest} is out of range: the attacked module has {logits.shape[1]} classes (0 to "
                f"{logits.shape[1] - 1}). Use labels of the class set that the module was trained on."
            )
        if _modules_fault(images, logits):
            raise InputError(
                "the attacked module returned NaN or infinity for finite images. Its weights are damaged or its "
                "training diverged: train or load it again."
            )
        if images.requires_grad and not logits.requires_grad:
            raise ValueError(
                "the attacked module's output does not depend on the image by differentiable steps, so a gradient "
                "attack is impossible. Remove detach(), no_grad() or integer casts from the module."
            )

    def _see_gradient(self, images: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient by the images, contiguous NCHW as Advertorch's own tensors are: sums of two formats are slow."""
        # torch.sign(NaN) is 0: unnoticed, an LINF attack would stand still and pass the clean image off as attacked.
        if _modules_fault(images, gradient):
            raise ValueError(
                "the attacked module has a gradient that is NaN or infinite on finite images. Look in it for a square "
                "root, division or logarithm at 0."
            )
        gradient = gradient.contiguous()
        if self.on_gradient is not None:
            self.on_gradient(gradient)
        return gradient


def _modules_fault(images: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether finite images gave non-finite values. A NaN iterate is Advertorch's doing, and is repaired later."""
    if torch.isfinite(values).all():
        return False
    return not bool(torch.isfinite(values[torch.isfinite(images).flatten(1).all(1)]).all())
