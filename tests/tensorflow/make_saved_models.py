"""Makes SavedModels, with TensorFlow alone: `make_saved_models.py DIGITS.npz OUT`.

``digits`` learns the digits and prints, as JSON, which share of the others it gets right; the others are wrong in
one way each, as their names say.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

STEPS, RATE = 300, 0.05


class Classifier(tf.Module):
    """A convolution and a linear layer; it gives logits by name, and the classes beside them."""

    def __init__(self) -> None:
        """Draw the weights."""
        generator = np.random.default_rng(3)
        self.kernel = tf.Variable(generator.normal(0, 0.3, (3, 3, 3, 8)).astype(np.float32))
        self.linear = tf.Variable(generator.normal(0, 0.1, (8 * 4 * 4, 10)).astype(np.float32))

    def logits(self, image: tf.Tensor) -> tf.Tensor:
        """Return logits (n, 10) for float32 *image* (n, 8, 8, 3), 0 to 1."""
        features = tf.nn.relu(tf.nn.conv2d(image, self.kernel, 2, "SAME"))
        return tf.reshape(features, (-1, 8 * 4 * 4)) @ self.linear

    def learn(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Learn all of *images* in every step, by Adam."""
        first, second = ([tf.Variable(tf.zeros_like(v)) for v in self.variables] for _ in range(2))
        for step in range(1, STEPS + 1):
            with tf.GradientTape() as tape:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self.logits(images))
                loss = tf.reduce_mean(losses)
            for variable, slope, m, v in zip(
                self.variables, tape.gradient(loss, self.variables), first, second, strict=True
            ):
                m.assign(0.9 * m + 0.1 * slope)
                v.assign(0.99 * v + 0.01 * slope**2)
                variable.assign_sub(RATE * (m / (1 - 0.9**step)) / (tf.sqrt(v / (1 - 0.99**step)) + 1e-7))


class Normalized(tf.Module):
    """Two convolutions, one with a bias and one with batch normalization, and a linear layer; random weights."""

    def __init__(self) -> None:
        """Draw the weights."""
        generator = np.random.default_rng(5)
        shapes = {"first": (3, 3, 3, 8), "bias": (8,), "second": (3, 3, 8, 8), "linear": (8, 10)}
        self.weights = {
            name: tf.Variable(generator.normal(0, 0.4, shape).astype(np.float32)) for name, shape in shapes.items()
        }
        self.statistics = [tf.Variable(generator.uniform(0.5, 1.5, 8).astype(np.float32)) for _ in range(4)]

    def scores(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return scores (n, 10) for float32 *image* (n, 8, 8, 3)."""
        first = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(image, self.weights["first"], 1, "SAME"), self.weights["bias"]))
        second = tf.nn.conv2d(first, self.weights["second"], 1, "SAME")
        second, *_ = tf.compat.v1.nn.fused_batch_norm(second, *self.statistics, is_training=False)
        return {"scores": tf.reduce_mean(tf.nn.relu(first + second), [1, 2]) @ self.weights["linear"]}


def signature(module: tf.Module, answer: Any, *specs: tf.TensorSpec) -> Any:
    """Return *answer* as a function of *specs*, kept by *module*."""
    function = tf.function(answer, input_signature=specs)
    module.functions = [*getattr(module, "functions", []), function]
    return function


def save(out: Path, module: tf.Module, **signatures: Any) -> None:
    """Save *module* with *signatures*."""
    tf.saved_model.save(module, str(out), signatures=signatures)


def main(digits: Path, out: Path) -> None:
    """Make all of them below *out*."""
    with np.load(digits) as data:
        parts = {name: data[name] for name in ("train", "train_labels", "test", "test_labels")}
    model = Classifier()
    model.learn(parts["train"], parts["train_labels"])
    pictures = tf.TensorSpec([None, 8, 8, 3], tf.float32, name="image")
    serving = signature(model, lambda image: {"scores": model.logits(image)}, pictures)
    other = signature(model, lambda image: {"mean": tf.reduce_mean(image, [1, 2])}, pictures)
    save(out / "digits", model, serving_default=serving, other=other)
    save(out / "without_default", model, one=serving, two=other)
    table = tf.Module()
    rows = signature(table, lambda row: {"scores": row * 2.0}, tf.TensorSpec([None, 4], tf.float32))
    save(out / "no_pictures", table, serving_default=rows)
    code = tf.Module()

    def singular(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": tf.linalg.svd(image[..., 0], compute_uv=False)}

    save(out / "no_such_operator", code, serving_default=signature(code, singular, pictures))
    normalized = Normalized()
    save(out / "normalized", normalized, serving_default=signature(normalized, normalized.scores, pictures))
    right = tf.argmax(model.logits(parts["test"]), axis=1).numpy() == parts["test_labels"]
    print(json.dumps({"right": float(right.mean()), "tensorflow": tf.__version__}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
