"""Real models of the tasks beside detection say what their makers' own code says."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from artifact_of import artifact_of
from PIL import Image

from runtime.drawing.skeleton import COCO_KEYPOINTS
from runtime.images import read
from runtime.manifest import Postprocess, Preprocess, Resize, Task
from runtime.predictor import Predictor
from runtime.session import SessionOptions
from runtime.tasks import Prediction

pytestmark = pytest.mark.integration

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255}
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VOC = 21  # classes, the first is the background
BIRD, DOG = 3, 12  # of VOC

Build = Callable[..., Predictor]


@pytest.fixture
def build(test_data, tmp_path: Path) -> Build:
    """Make the predictor of a real model, with two threads."""

    def make(
        file: str, task: Task, preprocess: Preprocess, postprocess: Postprocess, labels: Sequence[str] = ()
    ) -> Predictor:
        model = test_data(f"models/{file}")
        artifact = artifact_of(
            {"fp32": model}, tmp_path / "artifact", preprocess, postprocess, task=task, labels=tuple(labels)
        )
        return Predictor(artifact, provider="cpu", options=SessionOptions(intra_op_threads=2))

    return make


def predict_all(predictor: Predictor, pictures: Sequence[npt.NDArray[np.uint8]], size: int) -> Iterator[Prediction]:
    """Yield the predictions for *pictures*, in batches of *size*."""
    for start in range(0, len(pictures), size):
        yield from predictor.predict(pictures[start : start + size])


def test_mobilenet_knows_as_many_photographs_as_published(build: Build, test_data) -> None:
    folder = test_data("images/imagenet300")
    names = test_data("images/imagenet_labels.txt").read_text().splitlines()
    truth = {row["file"]: int(row["index"]) for row in csv.DictReader((folder / "labels.csv").read_text().splitlines())}
    predictor = build(
        "mobilenet_v2.onnx",
        "classification",
        Preprocess(resize=Resize(size=256), crop=(224, 224), **IMAGENET),
        Postprocess(kind="classification"),
        names,
    )
    pictures = [read(folder / name).pixels for name in truth]
    found = predict_all(predictor, pictures, 30)
    right = [one.label_id == label for one, label in zip(found, truth.values(), strict=True)]
    assert np.mean(right) == pytest.approx(0.839, abs=0.03)  # 0.839 is that of 1,000; one deviation of 300 is 0.021


@pytest.fixture(scope="module")
def cifar(test_data) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int64]]:
    """The 10,000 test pictures of CIFAR-10, and their labels."""
    table = pq.read_table(test_data("images/cifar10_test.parquet"))
    return [read(row["bytes"]).pixels for row in table["img"].to_pylist()], table["label"].to_numpy()


@pytest.mark.parametrize(
    ("file", "preprocess", "accuracy"),
    [
        ("resnet8_cifar10_nhwc.onnx", Preprocess(), 0.8719),
        # int8 in: pixel - 128; int8 out: a softmax in steps of 1/256.
        ("resnet8_cifar10_nhwc_int8.onnx", Preprocess(mean=(128.0,)), 0.8707),
    ],
)
def test_resnet8_has_its_published_accuracy(
    build: Build, cifar, file: str, preprocess: Preprocess, accuracy: float
) -> None:
    pictures, labels = cifar
    postprocess = Postprocess(kind="classification", activation="none", top_k=10)
    predictor = build(file, "classification", preprocess, postprocess, CIFAR)
    found = list(predict_all(predictor, pictures, 250))
    assert len(found) == 10_000
    assert np.mean([one.label_id for one in found] == labels) == pytest.approx(accuracy, abs=5e-5)
    sums = [sum(entry.score for entry in one.top_k) for one in found]
    np.testing.assert_allclose(sums, 1, atol=10 * 0.5 / 256)  # ten probabilities, each rounded to a step


def agreement(found: npt.NDArray[np.integer], expected: npt.NDArray[np.integer]) -> float:
    """Return Coral's own measure of two masks: equal pixels, counted once, of the pixels of both."""
    equal = np.count_nonzero(found == expected)
    return equal / (found.size + expected.size - equal)


def iou(found: npt.NDArray[np.bool_], expected: npt.NDArray[np.bool_]) -> float:
    return np.count_nonzero(found & expected) / np.count_nonzero(found | expected)


@pytest.fixture
def coral(test_data) -> Callable[[str], npt.NDArray[np.uint8]]:
    """Read one of Coral's test pictures, as it is in the file."""
    return lambda name: np.asarray(Image.open(test_data(f"images/coral/{name}")))


def test_deeplab_segments_as_well_as_coral_asks(build: Build, test_data, coral) -> None:
    lines = test_data("images/coral/pascal_voc_segmentation_labels.txt").read_text().splitlines()
    predictor = build(
        "deeplabv3_pascal_uint8_nhwc.onnx",
        "segmentation",
        Preprocess(resize=Resize(mode="exact", size=(513, 513))),
        Postprocess(kind="semantic", activation="none"),
        lines[:VOC],
    )
    bird, dog = predictor.predict([coral("bird_segmentation.bmp"), coral("dog_segmentation.bmp")])
    # pycoral, tests/segment_test.py: more than 0.90 for this model and picture.
    assert agreement(bird.mask, coral("bird_segmentation_mask.bmp")) > 0.90
    assert [one.label for one in bird.classes] == ["background", "bird"]
    # The dog's mask is a U-Net's: 0 is the pet, 1 is not, 2 is a border that either may have. Coral asks 0.86 of it.
    trimap = coral("dog_segmentation_mask.bmp")
    assert dog.mask.shape == trimap.shape
    assert agreement((dog.mask == DOG)[trimap != 2], (trimap == 0)[trimap != 2]) > 0.90
    assert {one.label for one in dog.classes} == {"background", "dog"}


def test_u2net_finds_the_bird(build: Build, coral) -> None:
    predictor = build(
        "u2netp.onnx",
        "segmentation",
        Preprocess(resize=Resize(mode="exact", size=(320, 320)), **IMAGENET),
        Postprocess(kind="saliency", activation="none"),
    )
    (found,) = predictor.predict([coral("bird_segmentation.bmp")])
    bird = coral("bird_segmentation_mask.bmp") == BIRD
    assert iou(found.mask >= 128, bird) >= 0.95
    assert found.coverage == pytest.approx(bird.mean(), abs=0.01)


def test_movenet_finds_the_keypoints_where_coral_does(build: Build, test_data, coral) -> None:
    predictor = build(
        "movenet_lightning_nhwc.onnx",
        "pose",
        Preprocess(resize=Resize(mode="exact", size=(192, 192))),
        Postprocess(kind="movenet", activation="none", keypoints=COCO_KEYPOINTS),
    )
    picture = coral("squat.bmp")
    (found,) = predictor.predict([picture])
    (pose,) = found.poses
    reference = test_data("images/coral/movenet_single_pose_lightning_ptq_reference.csv").read_text().splitlines()
    expected = [(float(row["keypoint_x"]), float(row["keypoint_y"])) for row in csv.DictReader(reference)]
    height, width = picture.shape[:2]
    points = np.array([(point.x / width, point.y / height) for point in pose.keypoints])
    np.testing.assert_allclose(points, expected, atol=0.03)
    assert pose.score == pytest.approx(np.mean([point.score for point in pose.keypoints]))
    assert 0 <= pose.x1 < pose.x2 <= width
    assert 0 <= pose.y1 < pose.y2 <= height
