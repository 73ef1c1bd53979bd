"""The ways to run a model over images in Parquet that `batch.py` compares: each a function of one setting.

All decode and resize with the functions that Vedette uses, and open the model with the same session options (but for
the plain script, which is what tutorials show). A model of float pixels is given what NumPy normalizes; one of 8 bits
takes the pixels themselves, and has its normalization inside. Seconds count from the moment that the engine begins to
read, with Ray up where it is used, to the moment that the output is written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.images import decode
from runtime.manifest import Preprocess, Resize
from runtime.preprocess import normalize, resize_and_crop

__all__ = ["BATCH", "ENGINES", "IMAGENET", "ON_RAY", "Setting", "opened", "prepared"]

BATCH = 16
IMAGENET = Preprocess(
    resize=Resize(mode="shortest-edge", size=256),
    crop=(224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    scale=1 / 255,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What one run is about; it travels to the child process as JSON."""

    reference: str  # of the published model, for Vedette
    model: str  # .onnx file, for the others: float NCHW, or uint8 NHWC with its normalization inside
    input: str  # Parquet file with the columns image and number
    output: str  # directory to make
    cores: int

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Return what `dump` returned."""
        return cls(**json.loads(text))

    def dump(self) -> str:
        """Return it as JSON."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


def opened(model: str, threads: int) -> Any:
    """Return an ONNX Runtime session with *threads* (0: ONNX Runtime's default) within an operator."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def prepared(data: bytes, *, normalized: bool) -> Array:
    """Return the input of one encoded image: (3, 224, 224) float32, normalized; else (224, 224, 3) uint8."""
    pixels = resize_and_crop(decode(data), IMAGENET)
    return np.ascontiguousarray(normalize(pixels, IMAGENET).transpose(2, 0, 1)) if normalized else pixels


class Classifier:
    """A session, and what it takes."""

    def __init__(self, model: str, threads: int = 1) -> None:
        self._session = opened(model, threads)
        taken = self._session.get_inputs()[0]
        self._name, self.normalized = taken.name, "float" in taken.type

    def prepare(self, data: bytes) -> Array:
        """Return the input of one image."""
        return prepared(data, normalized=self.normalized)

    def labels(self, inputs: Array) -> Array:
        """Return (n,): the best class of each of *inputs*."""
        return np.asarray(self._session.run(None, {self._name: inputs})[0].argmax(axis=1))


class RayDataModel:
    """The callable class that `map_batches` wants; decodes, too, unless that was done before."""

    def __init__(self, model: str) -> None:
        self._classifier = Classifier(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the label of each image of *batch*."""
        inputs = batch.get("input")
        if inputs is None:
            inputs = np.stack([self._classifier.prepare(data) for data in batch["image"]])
        return {"number": batch["number"], "label_id": self._classifier.labels(np.asarray(inputs))}


class Decoding:
    """The function that `map_batches` wants in front, where decoding has tasks of its own."""

    def __init__(self, *, normalized: bool) -> None:
        self._normalized = normalized

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return *batch* with inputs in place of images."""
        inputs = np.stack([prepared(data, normalized=self._normalized) for data in batch["image"]])
        return {"number": batch["number"], "input": inputs}


def _ray_data(setting: Setting, *, apart: bool) -> float:
    import ray

    ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    normalized = Classifier(setting.model).normalized
    started = time.perf_counter()
    rows = ray.data.read_parquet(setting.input, columns=["image", "number"], override_num_blocks=8 * setting.cores)
    if apart:
        rows = rows.map_batches(Decoding(normalized=normalized), batch_size=BATCH)
    # Whole cores for the actors would leave none for the reading tasks (Ray issue 44687).
    answers = rows.map_batches(
        RayDataModel,
        fn_constructor_args=(setting.model,),
        batch_size=BATCH,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=setting.cores),
    )
    answers.write_parquet(setting.output)
    seconds = time.perf_counter() - started
    ray.shutdown()
    return seconds


def _daft(setting: Setting) -> float:
    import daft

    started = time.perf_counter()

    @daft.cls(max_concurrency=setting.cores, use_process=True)
    class Model:
        def __init__(self, model: str) -> None:
            self._classifier = Classifier(model)

        @daft.method.batch(return_dtype=daft.DataType.int64(), batch_size=BATCH)
        def label(self, images: daft.Series) -> Any:
            inputs = np.stack([self._classifier.prepare(data) for data in images.to_pylist()])
            return self._classifier.labels(inputs)

    model = Model(setting.model)
    rows = daft.read_parquet(setting.input).into_batches(4 * BATCH)
    rows = rows.select(rows["number"], model.label(rows["image"]).alias("label_id"))
    rows.write_parquet(setting.output)
    return time.perf_counter() - started


def _torch_loader(setting: Setting) -> float:
    from torch.utils.data import DataLoader, IterableDataset, get_worker_info

    classifier = Classifier(setting.model, setting.cores)
    source, normalized = setting.input, classifier.normalized

    class Rows(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[tuple[int, Array]]:
            worker = get_worker_info()
            file = pq.ParquetFile(source)
            for group in range(worker.id, file.num_row_groups, worker.num_workers):
                table = file.read_row_group(group, columns=["number", "image"])
                for row in table.to_pylist():
                    yield row["number"], prepared(row["image"], normalized=normalized)

    def stacked(rows: list[tuple[int, Array]]) -> tuple[list[int], Array]:
        return [number for number, _ in rows], np.stack([pixels for _, pixels in rows])

    started = time.perf_counter()
    numbers: list[int] = []
    labels = []
    for some, inputs in DataLoader(Rows(), batch_size=BATCH, num_workers=setting.cores, collate_fn=stacked):
        numbers += some
        labels.append(classifier.labels(inputs))
    _write(setting, numbers, labels)
    return time.perf_counter() - started


def _plain(setting: Setting) -> float:
    started = time.perf_counter()
    classifier = Classifier(setting.model, 0)
    table = pq.read_table(setting.input)
    images = table.column("image")
    parts = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    labels = [classifier.labels(np.stack([classifier.prepare(cell.as_py()) for cell in part])) for part in parts]
    _write(setting, table.column("number"), labels)
    return time.perf_counter() - started


def _write(setting: Setting, numbers: Any, labels: list[Array]) -> None:
    Path(setting.output).mkdir(parents=True)
    answers = pa.table({"number": numbers, "label_id": np.concatenate(labels)})
    pq.write_table(answers, Path(setting.output) / "answers.parquet")


def _vedette(setting: Setting, *arguments: str) -> float:
    vedette = str(Path(sys.executable).with_name("vedette"))
    chosen = ("--model", setting.reference, "--input", setting.input, "--output", setting.output, "--keep", "number")
    command = [vedette, "batch", "run", *chosen, "--json", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    summary = json.loads(done.stdout)
    return float(summary["processed_rows"] / summary["rows_per_second"])


ENGINES: Mapping[str, Callable[[Setting], float]] = {
    "vedette-ray": _vedette,
    "vedette-local": lambda setting: _vedette(setting, "--local"),
    "ray-data": lambda setting: _ray_data(setting, apart=False),
    "ray-data-apart": lambda setting: _ray_data(setting, apart=True),
    "daft": _daft,
    "torch-loader": _torch_loader,
    "plain": _plain,
}
"""By name: runs the setting, and returns the seconds."""

ON_RAY = frozenset({"vedette-ray", "ray-data", "ray-data-apart"})
"""Those that run on the Ray cluster that ``RAY_ADDRESS`` names."""
