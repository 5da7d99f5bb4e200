"""A trained M in use: its logits by Keras, and its torch copy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from unmask_tf.classifiers.build import load_classifier
from unmask_tf.classifiers.train import predict_logits


class Classifier:
    """M for scoring and attacking.

    Args:
        model: from float32 (N, S, S, 3) pixels in [0, 1] to logits. It is not to be trained further: the torch copy is
            made once.
        batch_size: images evaluated at a time; every batch is filled up to it, so that the model compiles once and an
            image's logits do not depend on how many images there are.
    """

    def __init__(self, model: keras.Model, *, batch_size: int = 32) -> None:
        self.model, self.batch_size = model, batch_size

    @classmethod
    def load(cls, path: str | Path, *, classes: Sequence[str] | None = None, batch_size: int = 32) -> Classifier:
        """A saved M; arguments and errors as `load_classifier`."""
        return cls(load_classifier(path, classes=classes)[0], batch_size=batch_size)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits by Keras, float32 (N, classes), of images uint8 (N, S, S, 3), or float32 in [0, 1]."""
        return predict_logits(self.model, images, self.batch_size)

    def torch_module(self) -> Any:
        """The same function as a torch.nn.Module with folded normalisations: (N, 3, S, S) in [0, 1] -> logits."""
        return self._torch_module

    @cached_property
    def _torch_module(self) -> Any:
        from unmask_tf.classifiers.torch_port import to_torch

        return to_torch(self.model, fold_batch_norm=True)
