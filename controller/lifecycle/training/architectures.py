"""Architectures of torch: the built-in ones, and any ``MODULE:FACTORY``.

Rules:
    * A factory is called as ``factory(num_classes=...)`` and returns a `torch.nn.Module` that maps
      float32 (n, 3, size, size) to logits (n, num_classes).
    * The built-in ones are written here, for small images: torchvision and timm are used when they
      are named (``torchvision.models:resnet50``), never required.

ResNet: He et al., "Deep Residual Learning for Image Recognition", 2015. For images of a few dozen
pixels its 7x7 stride-2 stem and max-pool throw most of the picture away, so the stem is 3x3 here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controller.lifecycle.training.frameworks import check_logits, make, resolve

__all__ = ["ResNet", "build", "resnet18_small", "tiny"]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.residual(features) + self.shortcut(features))
        return activated


class ResNet(nn.Module):
    """A residual network with a 3x3 stem and without max-pool, for images of 8 to about 96 pixels.

    Args:
        num_classes: Number of logits.
        widths: Channels of each stage; every stage but the first halves the resolution.
        depths: Basic blocks in each stage.
    """

    def __init__(self, num_classes: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(3, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        ]
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for block in range(depth):
                layers.append(_BasicBlock(channels, width, stride=2 if stage and not block else 1))
                channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, num_classes) for float32 *images* (n, 3, height, width)."""
        logits: Tensor = self.head(self.features(images).mean(dim=(2, 3)))
        return logits


def resnet18_small(num_classes: int) -> nn.Module:
    """Return a ResNet18 with a small stem."""
    return ResNet(num_classes, widths=(64, 128, 256, 512), depths=(2, 2, 2, 2))  # 11.2 M parameters


def tiny(num_classes: int) -> nn.Module:
    """Return a residual network that a CPU trains in seconds."""
    return ResNet(num_classes, widths=(32, 64, 128), depths=(1, 1, 1))  # 0.3 M parameters


def build(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Return a new model of architecture *name*, and see that it fits.

    Args:
        name: Of a built-in one, or ``MODULE:FACTORY``.
        num_classes: Number of logits.
        image_size: Height and width of its inputs, pixels.

    Raises:
        UsageError: There is no such architecture, its factory does not take ``num_classes``, or what
            it makes does not map (n, 3, image_size, image_size) to (n, num_classes).
    """
    arguments = {"num_classes": num_classes}
    model = make(name, resolve("torch", name), arguments, lambda made: isinstance(made, nn.Module), "a torch.nn.Module")
    module: nn.Module = model.eval()
    with torch.no_grad():
        check_logits(name, num_classes, image_size, lambda: module(torch.zeros(2, 3, image_size, image_size)))
    return module
