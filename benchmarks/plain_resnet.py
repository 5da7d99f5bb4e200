"""A straightforward torch ResNet-50: contiguous NCHW, eager, every batch normalisation its own operation.

It has Keras Applications' layout (stride in the first 1x1 convolution of a stage, biased convolutions), so that it does
the same arithmetic as the port that it is compared with; nothing in it is tuned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
_EPSILON = 1.001e-5
_MEAN_BGR = (103.939, 116.779, 123.68)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut (He et al. 2016, Figure 5)."""

    def __init__(self, inputs: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, stride), nn.BatchNorm2d(width, _EPSILON)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width, _EPSILON)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width, _EPSILON)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity()
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width, _EPSILON))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.shortcut(x) + self.bn3(self.conv3(y)))


class PlainResNet50(nn.Module):
    """Pixels in [0, 1], float32 (N, 3, H, W) -> logits (N, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN_BGR).reshape(1, 3, 1, 1))
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64, _EPSILON)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        blocks, inputs = [], 64
        for width, count, stride in _STAGES:
            for index in range(count):
                blocks.append(Bottleneck(inputs, width, stride if index == 0 else 1, index == 0))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.flip(1) * 255.0 - self.mean
        x = self.blocks(self.pool(self.relu(self.bn1(self.conv1(x)))))
        return self.head(x.mean((2, 3)))


def weights_of_keras(model) -> dict[str, Tensor]:
    """The state of a PlainResNet50 that computes what a Keras ResNet-50 of `build_classifier` computes."""
    plain, state = PlainResNet50(model.output_shape[-1]), {}
    names = {"conv1": "conv1_conv", "bn1": "conv1_bn", "head": "logits"}
    count = 0
    for stage, (_, blocks, _) in enumerate(_STAGES, 2):
        for block in range(1, blocks + 1):
            for part in (1, 2, 3):
                names[f"blocks.{count}.conv{part}"] = f"conv{stage}_block{block}_{part}_conv"
                names[f"blocks.{count}.bn{part}"] = f"conv{stage}_block{block}_{part}_bn"
            if block == 1:
                names[f"blocks.{count}.shortcut.0"] = f"conv{stage}_block1_0_conv"
                names[f"blocks.{count}.shortcut.1"] = f"conv{stage}_block1_0_bn"
            count += 1
    for ours, theirs in names.items():
        values = [torch.tensor(value) for value in model.get_layer(theirs).get_weights()]
        if values[0].ndim == 4:
            values[0] = values[0].permute(3, 2, 0, 1).contiguous()
        elif values[0].ndim == 2:
            values[0] = values[0].T.contiguous()
        keys = ("weight", "bias", "running_mean", "running_var")[: len(values)]
        state.update({f"{ours}.{key}": value for key, value in zip(keys, values, strict=True)})
    plain.load_state_dict(state, strict=False)
    return plain.state_dict()
