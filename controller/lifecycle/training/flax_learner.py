"""Training with Flax: nnx modules, which learn by optax's AdamW.

Rules:
    * Everything that changes (weights, statistics, random states, the optimizer's) is one tree of arrays; a step is a
      compiled function from one to the next.
    * Files are ``.npz``, an array for each path in the tree: they hold no code, and NumPy alone reads them.

AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019. Label smoothing: Szegedy et al.,
"Rethinking the Inception Architecture", 2016.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from controller.errors import TrainingError
from controller.lifecycle.importers.jax_model import load_nnx, weights_of
from controller.lifecycle.importers.jax_weights import read_weights
from controller.lifecycle.training.data import TrainingData
from controller.lifecycle.training.flax_architectures import build
from controller.lifecycle.training.learner import Batch
from controller.lifecycle.training.record import RunRecord, TrainingConfig
from controller.lifecycle.training.run import load_best, run_training
from controller.lifecycle.training.samples import Pixels
from runtime.files import replace_bytes
from runtime.manifest import Preprocess

__all__ = ["FlaxLearner", "load_run", "train"]

PROGRESS = "progress"  # entry of a checkpoint beside the tree's: JSON

Tree = Any


def train(config: TrainingConfig, *, resume: bool = False) -> RunRecord:
    """Train as `controller.lifecycle.training.run.train` says, with Flax."""
    return run_training(config, _make, resume=resume)


def _make(config: TrainingConfig, data: TrainingData) -> FlaxLearner:
    model = build(config.arch, len(data.labels), data.image_size, config.seed)
    if config.weights is not None:
        weights = Path(config.weights)
        load_nnx(model, read_weights(weights), weights)
    return FlaxLearner(config=config, preprocess=data.preprocess, model=model)


@dataclass(slots=True, kw_only=True)
class FlaxLearner:
    """An nnx module that learns by AdamW.

    Attributes:
        config: What was asked for.
        preprocess: What brings pixels to where the model wants them.
        model: Its weights are those of the beginning: what was learned is in the tree.
    """

    config: TrainingConfig
    preprocess: Preprocess
    model: nnx.Module
    _tree: Tree = field(init=False)
    _optimizer: optax.GradientTransformation = field(init=False)
    _step: Any = field(init=False)
    _scores: Any = field(init=False)

    def __post_init__(self) -> None:
        # The learning rate is the loop's: updates are multiplied by it in the step.
        self._optimizer = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(self.config.weight_decay))
        self.model.eval()  # type: ignore[no-untyped-call]  # flax's own is untyped
        answering = nnx.graphdef(self.model)
        self.model.train()  # type: ignore[no-untyped-call]  # likewise
        learning = nnx.graphdef(self.model)
        weights, rest = nnx.state(self.model, nnx.Param), nnx.state(self.model, nnx.Not(nnx.Param))
        self._tree = (weights, rest, self._optimizer.init(weights))
        self._step = jax.jit(lambda *given: self._learned(learning, *given))
        self._scores = jax.jit(lambda tree, images: nnx.merge(answering, *tree[:2])(self._normalized(images)))

    @property
    def framework(self) -> str:
        """The framework with its version."""
        return f"flax {flax.__version__}"

    @property
    def device(self) -> str:
        """Where it computes."""
        return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())

    def _normalized(self, images: jax.Array) -> jax.Array:
        mean, std = jnp.asarray(self.preprocess.mean), jnp.asarray(self.preprocess.std)
        return (images.astype(jnp.float32) * self.preprocess.scale - mean) / std

    def _learned(
        self, structure: Any, tree: Tree, images: jax.Array, labels: jax.Array, rate: jax.Array
    ) -> tuple[Tree, jax.Array]:
        """Return the tree after a step, and the loss before it."""
        weights, rest, optimizer = tree

        def loss_of(weights: Tree) -> tuple[jax.Array, Tree]:
            model = nnx.merge(structure, weights, rest, copy=True)  # what is traced outside cannot change in here
            logits = model(self._normalized(images))
            wanted = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), self.config.label_smoothing)
            loss = optax.softmax_cross_entropy(logits, wanted).mean()
            return loss, nnx.state(model, nnx.Not(nnx.Param))

        (loss, rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights)
        updates, optimizer = self._optimizer.update(gradients, optimizer, weights)
        weights = jax.tree.map(lambda weight, update: weight - rate * update, weights, updates)
        return (weights, rest, optimizer), loss

    def fit(self, batches: Iterator[Batch]) -> Iterator[tuple[float, int]]:
        """Learn the *batches* of one epoch, and yield the loss of each."""
        for batch in batches:
            self._tree, loss = self._step(self._tree, batch.images, batch.labels, batch.rate)
            yield float(loss), len(batch.labels)

    def scores(self, images: Pixels) -> npt.NDArray[np.float32]:
        """Return logits (n, classes) for uint8 *images* (n, h, w, 3)."""
        return np.asarray(self._scores(self._tree, images), np.float32)

    def save_best(self, path: Path) -> None:
        """Write weights and statistics to *path*, atomically."""
        nnx.update(self.model, *self._tree[:2])
        _save(path, {name: np.asarray(value) for name, value in weights_of(self.model).items()})

    def save_last(self, path: Path, progress: Mapping[str, Any]) -> None:
        """Write *progress* and the tree to *path*, atomically."""
        text = np.frombuffer(json.dumps(progress).encode(), np.uint8)
        _save(path, {PROGRESS: text, **{name: _plain(leaf) for name, leaf in self._leaves()}})

    def _leaves(self) -> Iterator[tuple[str, jax.Array]]:
        for path, leaf in jax.tree_util.tree_flatten_with_path(self._tree)[0]:
            yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf

    def read_last(self, path: Path) -> Mapping[str, Any]:
        """Return what is in *path*.

        Raises:
            TrainingError: It is absent, corrupt, or no checkpoint of this model.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content: dict[str, Any] = {name: arrays[name] for name in arrays.files}
        except FileNotFoundError:
            raise TrainingError(f"{path} is absent: the run in {path.parent} has no such checkpoint") from None
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingError(f"{path} is no usable checkpoint: {error}") from None
        if PROGRESS not in content:
            raise TrainingError(f"{path} is no checkpoint of a run; it holds {', '.join(sorted(content))}")
        return {**json.loads(content.pop(PROGRESS).tobytes()), "tree": content}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go back to the state of *content*."""
        stored = content["tree"]
        leaves = [_like(leaf, stored[name]) for name, leaf in self._leaves()]
        self._tree = jax.tree.unflatten(jax.tree.structure(self._tree), leaves)


def _is_key(leaf: jax.Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _plain(leaf: jax.Array) -> npt.NDArray[Any]:
    """Return *leaf* as NumPy holds it: a key of random numbers is its bits."""
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _like(leaf: jax.Array, stored: npt.NDArray[Any]) -> jax.Array:
    """Return what `_plain` made of a leaf such as *leaf*."""
    if _is_key(leaf):
        key: jax.Array = jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(leaf))
        return key
    return jnp.asarray(stored)


def _save(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its one other keyword is in no tree
    replace_bytes(path, buffer.getvalue())


def load_run(directory: Path) -> nnx.Module:
    """Return the model with the best weights that the Flax run in *directory* left.

    Raises:
        TrainingError: There is no finished run, or its files are not the ones that it wrote.
    """
    return load_best(directory, build, lambda model, weights, _record: load_nnx(model, read_weights(weights), weights))[
        0
    ]
