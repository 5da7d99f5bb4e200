"""Small torch modules whose attacks can be worked out by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from unmask_tf.attacks.module import logits_of
from unmask_tf.attacks.protocol import Target


class Linear2(nn.Module):
    """Logits (w . x, 0) with w given in NHWC order; the loss of label 1 grows along +w, that of label 0 along -w."""

    def __init__(self, weight_nhwc: np.ndarray) -> None:
        super().__init__()
        weight = torch.tensor(np.asarray(weight_nhwc), dtype=torch.float32)
        self.weight = nn.Parameter(weight.permute(2, 0, 1).contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.weight).sum(dim=(1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], dim=1)


class OfMean(nn.Module):
    """Logits as a function of each image's mean value."""

    def __init__(self, logits_of_mean) -> None:
        super().__init__()
        self.logits_of_mean = logits_of_mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits_of_mean(x.mean(dim=(1, 2, 3)))


class Gated(nn.Module):
    """Like Linear2, but a value at or below 0.2 has no influence: its gradient is exactly zero."""

    def __init__(self, weight_nhwc: np.ndarray) -> None:
        super().__init__()
        self.inner = Linear2(weight_nhwc)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(torch.relu(x - 0.2))


class OfModule:
    """A classifier that is scored by a torch module; the attack may be shown another one."""

    def __init__(self, module: nn.Module, shown: nn.Module | None = None) -> None:
        self.module, self.shown = module, module if shown is None else shown

    def logits(self, images: np.ndarray) -> np.ndarray:
        return logits_of(self.module, images)

    def torch_module(self) -> nn.Module:
        return self.shown


def target_of(module: nn.Module, shown: nn.Module | None = None) -> Target:
    """A target whose M is `module`, and whose torch copy is it too, or `shown`."""
    return Target(OfModule(module, shown))


def conv_net(classes: int = 3, seed: int = 0) -> nn.Module:
    """A small convolutional net with batch normalisation and dropout; seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )


def grey_level_images(count: int, size: int = 8, seed: int = 0) -> np.ndarray:
    """Random float32 images (N, S, S, 3) whose values are k / 255, as decoded photographs have them."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3))
    return (levels / 255.0).astype(np.float32)
