"""What a run learns from and is judged by, read once; and the batches of an epoch.

Rules:
    * The order and the augmentation of an epoch follow from seed and epoch alone, so that a resumed epoch
      is the same as an uninterrupted one, in every framework.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from controller.lifecycle.heldout import open_with_held_out
from controller.lifecycle.training import augment, samples
from controller.lifecycle.training.learner import Batch
from controller.lifecycle.training.record import TrainingConfig
from runtime.errors import DatasetError
from runtime.manifest import Preprocess

__all__ = ["TrainingData", "cosine", "epoch_batches", "read_data", "steps_per_epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Everything that a run learns from and is judged by."""

    train: samples.Samples
    held_out: samples.Samples
    labels: tuple[str, ...]
    preprocess: Preprocess
    transforms: tuple[str, ...]

    @property
    def image_size(self) -> int:
        """Height and width of the pictures, pixels."""
        return int(self.train.images.shape[1])


def read_data(config: TrainingConfig) -> TrainingData:
    """Read what *config* names, and decide what it leaves open.

    Raises:
        UsageError: The augmentation is not known.
        DatasetError: The data cannot be read, is empty, lacks labels, or has fewer than two images or classes.
    """
    learn, judge = open_with_held_out(
        config.data,
        config.validation,
        seed=config.seed,
        image_column=config.image_column,
        label_column=config.label_column,
    )
    size = config.image_size or samples.choose_image_size(learn)
    train_part = samples.prepare(learn, size, config.out, "training data")
    held_out = samples.prepare(judge, size, config.out, "held-out data")
    labels = samples.labels_of(learn, train_part, held_out)
    if len(train_part) < 2 or len(labels) < 2:
        raise DatasetError(
            f"dataset {config.data} has {len(train_part)} usable images of {len(labels)} classes; "
            "2 images and 2 classes are the least"
        )
    return TrainingData(
        train=train_part,
        held_out=held_out,
        labels=labels,
        preprocess=samples.channel_statistics(train_part),
        transforms=augment.choose(config.augment, labels, gray=train_part.gray),
    )


def cosine(step: int, steps: int) -> float:
    """Return the share of the learning rate at *step* of *steps*: 1 at the start, falling to 0 along a cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches; a single picture left over joins the last one, for batch normalization's sake."""
    return max(1, count // batch_size if count % batch_size <= 1 else math.ceil(count / batch_size))


def epoch_batches(data: TrainingData, config: TrainingConfig, epoch: int) -> Iterator[Batch]:
    """Yield the batches of *epoch*, counted from 0, shuffled and augmented."""
    generator = np.random.default_rng([config.seed, epoch])
    order = generator.permutation(len(data.train))
    steps = steps_per_epoch(len(order), config.batch_size)
    for number, chosen in enumerate(np.array_split(order, steps)):
        chosen.sort()  # the pictures lie in a file: one after another
        images = np.array(data.train.images[chosen])
        for name in data.transforms:
            images = augment.TRANSFORMS[name](images, generator)
        rate = config.learning_rate * cosine(epoch * steps + number, config.epochs * steps)
        yield Batch(images=images, labels=data.train.labels[chosen], rate=rate)
