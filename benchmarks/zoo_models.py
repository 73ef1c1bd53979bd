"""Architectures of torchvision, timm and Keras Applications with random weights that keep every layer alive.

Rules:
    * Seeded by the architecture's name. Nothing is downloaded.
    * No weight is left at zero or near it: what libraries set so (the last normalization of a block, layer scale,
      position embeddings) would hide whole branches from a comparison.
    * Every layer of torch knows what reaches it of pictures like the gate's, in the order in which it passes: a
      convolution or a matrix gives numbers near one, centred where it has a bias (D. Mishkin and J. Matas, "All you
      need is a good init", ICLR 2016); a batch normalization has their statistics, off by up to a fifth, so that none
      is the identity. Activations neither vanish nor explode, and different pictures get different answers.
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
EXAMPLES = 8  # pictures that the statistics are taken from
PATCHES = 8  # of colour, along each edge of a picture: pictures of noise alone are the same grey where they are small
LEAST_VARYING = 0.1  # of a layer's numbers: less than this share is not blown up to one
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
    pictures = _pictures(size)
    with torch.no_grad():
        if library == "keras":
            _enliven_keras(model, 255 * pictures.permute(0, 2, 3, 1))
        else:
            _enliven_torch(model.eval(), 2 * pictures - 1)
    return model


def _pictures(size: int) -> torch.Tensor:
    """Return patches of colour under noise, (n, 3, size, size) in [0, 1]."""
    patches = nn.functional.interpolate(torch.rand(EXAMPLES, 3, PATCHES, PATCHES), (size, size))
    return (patches + torch.rand(EXAMPLES, 3, size, size)) / 2


def _around_one(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor).uniform_(0.8, 1.2)


def _enliven_torch(model: nn.Module, pictures: torch.Tensor) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and float(parameter.abs().max()) < NEAR_ZERO:
            parameter.normal_(0, 0.02)
        elif parameter.ndim < 2 and name.endswith("bias"):
            parameter.normal_(0, 0.05)
        elif parameter.ndim < 2 and (float(parameter.std(unbiased=False)) < NEAR_ZERO):
            parameter.copy_(_around_one(parameter))
    known: set[nn.Module] = set()

    def fit(layer: nn.Module, taken: tuple[torch.Tensor, ...]) -> None:
        if layer not in known:  # a network may go through a layer twice
            known.add(layer)
            FITTED[next(kind for kind in FITTED if isinstance(layer, kind))](layer, taken[0])

    hooks = [layer.register_forward_pre_hook(fit) for layer in model.modules() if isinstance(layer, tuple(FITTED))]
    model(pictures)
    for hook in hooks:
        hook.remove()


def _fit_norm(norm: Any, taken: torch.Tensor) -> None:
    variance, mean = torch.var_mean(taken, [axis for axis in range(taken.ndim) if axis != 1], correction=0)
    norm.running_var.copy_(variance.clamp(min=NEAR_ZERO) * _around_one(variance))
    norm.running_mean.copy_(mean + variance.sqrt() * (_around_one(mean) - 1))


def _fit_product(layer: Any, taken: torch.Tensor) -> None:
    given = layer.forward(taken)
    size = given.square().mean().sqrt().clamp(min=NEAR_ZERO)
    if layer.bias is None:
        layer.weight.div_(size)
        return
    channel = given.ndim - 1 if isinstance(layer, nn.Linear) else 1
    others = [axis for axis in range(given.ndim) if axis != channel]
    varying = given.var(others, correction=0).mean().sqrt()
    layer.weight.div_(torch.maximum(varying, LEAST_VARYING * size))
    layer.bias.add_(layer.bias - layer.forward(taken).mean(others))  # its own, and the centre


FITTED: Mapping[type[nn.Module], Callable[[Any, torch.Tensor], None]] = {
    nn.modules.batchnorm._BatchNorm: _fit_norm,  # noqa: SLF001 - the base of all of them
    nn.Conv2d: _fit_product,
    nn.Linear: _fit_product,
}


def _enliven_keras(model: Any, pictures: torch.Tensor) -> None:
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
    model(pictures, training=True)
    for norm in norms:
        mean, variance = norm.moving_mean.value, norm.moving_variance.value
        mean.add_(variance.sqrt() * (_around_one(mean) - 1))
        variance.clamp_(min=NEAR_ZERO).mul_(_around_one(variance))
