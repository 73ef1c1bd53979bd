"""Cutting a torch model: whole channels by torch-pruning, or single weights by torch's own masks.

Rules:
    * Channels that depend on each other (through additions, normalizations, concatenations) go together. The layer that
      gives the answer keeps all of its outputs.
    * The number of channels that stay is rounded to the nearest multiple of `round_to`, at least one of them; a layer
      that is narrower stays as it is. Kernels compute in blocks of 8 or 16 channels, and a rest costs a block.
    * A layer is cut in as many steps as asked for, with an epoch of training after each but the last.
    * Single weights that were cut stay zero during the training after it.

Torch-pruning: Fang et al., "DepGraph: Towards Any Structural Pruning", 2023. Importance by norm: Li et al., "Pruning
Filters for Efficient ConvNets", 2017; by Taylor expansion: Molchanov et al., "Importance Estimation for Neural Network
Pruning", 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.utils import prune

from controller.errors import TrainingError
from controller.lifecycle.training.data import TrainingData, epoch_batches, steps_per_epoch
from controller.lifecycle.training.learner import Batch
from controller.lifecycle.training.record import TrainingConfig
from controller.lifecycle.training.torch_learner import TorchLearner
from runtime.errors import UsageError
from runtime.terminal import progress

__all__ = ["IMPORTANCE", "MaskedLearner", "cut_channels", "cut_weights", "sparsity"]

TAYLOR_BATCHES = 8
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.Linear


@dataclass(frozen=True, slots=True)
class _Importance:
    """How the importance of channels is estimated.

    Attributes:
        make: Makes torch-pruning's estimator.
        needs_gradients: Whether it looks at those of a few batches.
    """

    make: Callable[[], Any]
    needs_gradients: bool


IMPORTANCE: Mapping[str, _Importance] = {
    "group-norm": _Importance(lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2), needs_gradients=False),
    "taylor": _Importance(torch_pruning.importance.GroupTaylorImportance, needs_gradients=True),
}


@dataclass(slots=True, kw_only=True)
class MaskedLearner(TorchLearner):
    """A model that learns, and keeps those weights at zero that are zero when it begins."""

    masks: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        """Find the zeros."""
        TorchLearner.__post_init__(self)
        self.masks = self._zeros()

    def _zeros(self) -> dict[str, Tensor]:
        return {name: weight.detach() != 0 for name, weight in self._cuttable().items()}

    def _cuttable(self) -> dict[str, Tensor]:
        return {
            f"{name}.weight": module.weight for name, module in self.model.named_modules() if isinstance(module, Layer)
        }

    def fit(self, batches: Iterator[Batch]) -> Iterator[tuple[float, int]]:
        """Learn the *batches* of one epoch, and yield the loss of each."""
        for learned in TorchLearner.fit(self, batches):
            with torch.no_grad():
                for name, weight in self._cuttable().items():
                    weight.mul_(self.masks[name])
            yield learned

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go back to the state of *content*, and to its zeros."""
        TorchLearner.restore(self, content)
        self.masks = self._zeros()


def sparsity(model: nn.Module) -> float:
    """Return the share of zeros among the weights of convolutions and linear layers."""
    weights = [module.weight for module in model.modules() if isinstance(module, Layer)]
    return sum(int((one == 0).sum()) for one in weights) / sum(one.numel() for one in weights)


def cut_weights(model: nn.Module, image_size: int, ratio: float) -> None:
    """Set those weights of *model* to zero that are smallest in all of it, for good.

    Args:
        model: On any device.
        image_size: Height and width of what it takes.
        ratio: Share of the weights, without those of the last layer.
    """
    last = _last_layer(model, _example(model, image_size))
    weights = [(module, "weight") for module in model.modules() if isinstance(module, Layer) and module is not last]
    if not weights:
        raise UsageError("there is nothing to prune: the model has one layer")
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=ratio)
    for module, name in weights:
        prune.remove(module, name)  # type: ignore[no-untyped-call]


def cut_channels(
    learner: TorchLearner, data: TrainingData, *, ratio: float, importance: str, steps: int, round_to: int
) -> TorchLearner:
    """Take channels out of the model of *learner*.

    Args:
        learner: Is used up.
        data: To train with between two steps.
        ratio: Share of each layer's channels, before rounding.
        importance: A key of `IMPORTANCE`.
        steps: In which to do it.
        round_to: What the number of channels left is a multiple of.

    Returns:
        A learner of the same model, now narrower.

    Raises:
        UsageError: Nothing can be cut so.
        TrainingError: The model's own code counts on its widths.
    """
    model, example = learner.model, _example(learner.model, data.image_size)
    last = _last_layer(model, example)
    ratios = _ratios(model, last, ratio, round_to)
    if not any(ratios.values()):
        raise UsageError(
            f"there is nothing to prune: a ratio of {ratio:g} with channels rounded to {round_to} leaves every layer "
            "as it is; give a larger --ratio or a smaller --round-to"
        )
    try:
        pruner = torch_pruning.pruner.BasePruner(
            model,
            example,
            importance=IMPORTANCE[importance].make(),
            pruning_ratio=ratio,
            pruning_ratio_dict=ratios,
            iterative_steps=steps,
            round_to=round_to,
            ignored_layers=[last],
        )
        for step in range(steps):
            if IMPORTANCE[importance].needs_gradients:
                _gather_gradients(learner, data)
            pruner.step()
            model.zero_grad(set_to_none=True)
            learner = replace(learner, model=model)  # what the optimizer knows is of the old shapes
            if step < steps - 1:
                _train_between(learner, data, step, steps)
    except (RuntimeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise TrainingError(
            f"architecture {learner.config.arch!r} cannot be pruned: {' '.join(str(error).split())[:300]}; code that "
            "counts on a number of channels (view, reshape, split) must take it from the tensor"
        ) from error
    return learner


def _example(model: nn.Module, image_size: int) -> Tensor:
    return torch.zeros(2, 3, image_size, image_size, device=next(model.parameters()).device)


def _last_layer(model: nn.Module, example: Tensor) -> nn.Module:
    """Return the layer of *model* that is called last: it gives the answer.

    Raises:
        TrainingError: There is none.
    """
    called: list[nn.Module] = []
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    hooks = [layer.register_forward_hook(lambda module, *_: called.append(module)) for layer in layers]
    model.eval()
    try:
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        raise TrainingError("the model cannot be pruned: it has no convolution and no linear layer")
    return called[-1]


def _ratios(model: nn.Module, last: nn.Module, ratio: float, round_to: int) -> dict[nn.Module, float]:
    """Return by layer what share of its channels goes, so that a multiple of *round_to* stays."""
    ratios: dict[nn.Module, float] = {}
    for module in model.modules():
        if isinstance(module, Layer) and module is not last:
            width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            left = min(width, max(round_to, round(width * (1 - ratio) / round_to) * round_to))
            # Torch-pruning rounds down what stays: half a channel more keeps it from losing a whole block.
            ratios[module] = max(0.0, 1 - (left + 0.5) / width)
    return ratios


def _gather_gradients(learner: TorchLearner, data: TrainingData) -> None:
    """Leave the gradients of a few batches in the model, without learning anything."""
    learner.model.zero_grad(set_to_none=True)
    learner.model.eval()  # the statistics of its normalizations stay
    for batch in islice(epoch_batches(data, learner.config, 0), TAYLOR_BATCHES):
        learner.loss(batch).backward()  # type: ignore[no-untyped-call]  # torch's own is untyped


def _train_between(learner: TorchLearner, data: TrainingData, step: int, steps: int) -> None:
    """Learn one epoch after *step* of *steps*."""
    config: TrainingConfig = replace(learner.config, epochs=steps)  # so that the learning rate falls over the steps
    count = steps_per_epoch(len(data.train), config.batch_size)
    with progress(count, f"recovering from cut {step + 1} of {steps}", "batches") as bar:
        for loss, _pictures in learner.fit(epoch_batches(data, config, step)):
            bar.advance(loss=f"{loss:.3f}")
