"""What the manifest says of a model beside its files: classes, activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import onnx

from controller.lifecycle.graph import output_operator
from runtime.errors import UsageError

__all__ = ["Activation", "activation_of", "class_labels", "read_labels"]

Activation = Literal["softmax", "sigmoid", "none"]

# What can stand between a classifier's last operator and its output without changing what the numbers mean.
TRANSPARENT = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "QuantizeLinear", "DequantizeLinear")
BY_LAST_OPERATOR: Mapping[str, Activation] = {
    "Softmax": "none",
    "Sigmoid": "none",
    "LogSoftmax": "softmax",  # softmax of log-probabilities gives the probabilities back
}


def activation_of(graph: onnx.ModelProto, asked: str | None = None) -> Activation:
    """Return what turns the output of *graph* to probabilities: what was *asked*, else found from its last operator.

    Raises:
        UsageError: *asked* is no activation.
    """
    if asked is None:
        return BY_LAST_OPERATOR.get(output_operator(graph, TRANSPARENT), "softmax")
    for activation in get_args(Activation):
        if asked == activation:
            known: Activation = activation
            return known
    raise UsageError(f"activation {asked!r} is not known; expected {', '.join(get_args(Activation))}")


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names in the text file *path*, one a line, in index order; empty lines at its end do not count.

    Raises:
        UsageError: It is not there, not UTF-8, or has no lines.
    """
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise UsageError(f"labels file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"labels file {path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not names:
        raise UsageError(f"labels file {path} is empty; expected one class name a line")
    return tuple(name.strip() for name in names)


def class_labels(shape: Sequence[int], given: tuple[str, ...] | None, own: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the class names of a model: those *given*, else its *own*, else ``class_0`` and so on.

    Args:
        shape: Of what the model gave for some images, (n, classes) up to trailing dimensions of 1.
        given: By the caller.
        own: By the source.

    Raises:
        UsageError: The output is no classifier's, or the number of names is not that of its classes.
    """
    if len(shape) < 2 or any(size != 1 for size in shape[2:]):
        raise UsageError(f"the model's first output has shape {list(shape)}; a classifier gives [N, classes]")
    classes = shape[1]
    names = given or own or tuple(f"class_{index}" for index in range(classes))
    if len(names) != classes:
        whose = "the labels file" if given else "the source"
        raise UsageError(f"{whose} names {len(names)} classes, the model has {classes}")
    return names
