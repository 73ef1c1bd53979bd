"""Architectures of torchvision, timm and Keras Applications with random weights that keep every layer alive.

Rules:
    * Seeded by the architecture's name. Nothing is downloaded.
    * No weight is left at zero or near it: what libraries set so (the last normalization of a block, layer scale,
      position embeddings) would hide whole branches from a comparison.
    * Batch normalization knows the statistics of what reaches it, changed by up to a fifth at random: activations
      neither vanish nor explode, and no normalization is the identity.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from controller.lifecycle.keras_backend import load_keras

__all__ = ["BUILDERS", "LIBRARIES", "build"]

CLASSES = 100
EXAMPLES = 4  # pictures that the statistics are taken from
NEAR_ZERO = 1e-3
SEGMENTING = ("lraspp", "deeplabv3", "fcn")
LIBRARIES = ("torchvision", "timm", "keras")

TORCHVISION_OPERATORS = (
    "nms",
    "qnms",
    "roi_align",
    "_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "deform_conv2d",
    "_deform_conv2d_backward",
)
"""What the compiled part of torchvision, made for a torch with CUDA, would register: without these names torchvision is
not imported. No network here calls one."""

_OPERATORS = torch.library.Library("torchvision", "DEF")
for _operator in TORCHVISION_OPERATORS:
    _OPERATORS.define(f"{_operator}(Tensor input) -> Tensor")

import timm  # noqa: E402 - it loads torchvision, which wants its operators
import torchvision  # noqa: E402


def _torchvision(name: str, size: int) -> nn.Module:
    options: dict[str, Any] = {"weights": None, "num_classes": CLASSES}
    if name.startswith(SEGMENTING):
        options["weights_backbone"] = None
    if name.startswith(("inception", "googlenet")):
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit"):
        options["image_size"] = size
    model: nn.Module = torchvision.models.get_model(name, **options)
    return model


def _timm(name: str, size: int) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, img_size=size)
    except TypeError:  # a network of convolutions, which takes any size
        model = timm.create_model(name, pretrained=False, num_classes=CLASSES)
    return model


def _keras(name: str, size: int) -> Any:
    make = getattr(load_keras().applications, name)
    return make(weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None)


BUILDERS: Mapping[str, Callable[[str, int], Any]] = {"torchvision": _torchvision, "timm": _timm, "keras": _keras}


def build(library: str, name: str, size: int) -> Any:
    """Return the architecture *name* of *library*, alive, for pictures of *size* pixels."""
    seed = zlib.crc32(f"{library}/{name}".encode())
    torch.manual_seed(seed)
    if library == "keras":
        load_keras().utils.set_random_seed(seed)
    model = BUILDERS[library](name, size)
    channels_last = library == "keras"
    example = torch.rand(EXAMPLES, size, size, 3) if channels_last else torch.rand(EXAMPLES, 3, size, size)
    with torch.no_grad():
        if channels_last:
            _enliven_keras(model, example * 255)
        else:
            _enliven_torch(model.eval(), 2 * example - 1)
    return model


def _around_one(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor).uniform_(0.8, 1.2)


def _enliven_torch(model: nn.Module, example: torch.Tensor) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and float(parameter.abs().max()) < NEAR_ZERO:
            parameter.normal_(0, 0.02)
        elif parameter.ndim < 2 and name.endswith("bias"):
            parameter.normal_(0, 0.05)
        elif parameter.ndim < 2 and (float(parameter.std(unbiased=False)) < NEAR_ZERO):
            parameter.copy_(_around_one(parameter))
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001 - the base of all of them
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    model(example)
    for norm in norms:
        norm.eval()
        if norm.running_mean is None or norm.running_var is None:
            continue
        norm.running_mean.mul_(_around_one(norm.running_mean))
        norm.running_var.clamp_(min=NEAR_ZERO).mul_(_around_one(norm.running_var))


def _enliven_keras(model: Any, example: torch.Tensor) -> None:
    layers = [layer for layer in model._flatten_layers() if not getattr(layer, "layers", None)]  # noqa: SLF001 - models within models
    norms = [layer for layer in layers if isinstance(layer, load_keras().layers.BatchNormalization)]
    for layer in layers:
        for weight in layer.trainable_weights:
            value = weight.value
            if value.ndim < 2 and weight.name in {"bias", "beta"}:
                value.normal_(0, 0.05)
            elif value.ndim < 2:
                value.copy_(_around_one(value))
    for norm in norms:
        norm.momentum = 0.0
    model(example, training=True)
    for norm in norms:
        norm.moving_mean.value.mul_(_around_one(norm.moving_mean.value))
        norm.moving_variance.value.clamp_(min=NEAR_ZERO).mul_(_around_one(norm.moving_variance.value))
