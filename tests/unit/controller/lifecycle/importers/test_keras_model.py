"""Models of Keras, opened in this process: what they say, what they convert to, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from controller.errors import ExportError
from controller.lifecycle.importers import factory
from controller.lifecycle.importers.keras_model import open_source
from controller.lifecycle.importers.source import Job
from controller.lifecycle.importers.torch_module import ModuleSource
from controller.lifecycle.keras_backend import load_keras
from runtime.errors import UsageError

# Keras asks torch for arrays in the way of NumPy 1, and calls its own HDF5 format legacy; it says
# itself that a model is not built.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*HDF5 file:UserWarning"),
]

ROUNDING = {"mixed_float16": 1e-2, "mixed_bfloat16": 5e-2, "float16": 1e-2, "float64": 1e-5}
"""By dtype policy: what its answers may differ from those of float32, relative to the largest."""


@pytest.fixture(scope="module")
def keras() -> Any:
    return load_keras()


def randomized(model: Any) -> Any:
    """Give *model* weights as a training leaves them: none near zero, nor at its start."""
    generator = np.random.default_rng(5)
    for weight in model.weights:
        draw = {
            "moving_variance": lambda shape: generator.uniform(0.5, 1.5, shape),
            "gamma": lambda shape: generator.uniform(0.7, 1.3, shape),
            "kernel": lambda shape: generator.normal(0, np.prod(shape[:-1]) ** -0.5, shape),
        }.get(weight.path.rpartition("/")[2], lambda shape: generator.normal(0, 0.2, shape))
        weight.assign(draw(weight.shape))
    return model


def small(keras: Any, *first: Any, shape: tuple[int | None, ...] = (8, 8, 3)) -> Any:
    layers = keras.layers
    last = (layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(3))
    return randomized(keras.Sequential([layers.Input(shape), *first, *last]))


def saved(model: Any, path: Path) -> Job:
    model.save(path)
    return Job(source=str(path))


def worst_difference(source: ModuleSource, shape: tuple[int, int, int], scale: float = 1) -> float:
    """Convert *source*, and compare graph and source on batches that it was not exported with."""
    session = onnxruntime.InferenceSession(source.convert("dynamo").SerializeToString())
    assert session.get_inputs()[0].shape == ["N", *shape]
    generator, differences = np.random.default_rng(1), []
    for count in (1, 3):
        batch = (generator.normal(0, 1, (count, *shape)) * scale).astype(np.float32)
        answers = source.run(batch)
        assert np.abs(answers[0]).max() > 0.05
        found = session.run(None, {session.get_inputs()[0].name: batch})
        differences += [np.abs(ours - theirs).max() for ours, theirs in zip(found, answers, strict=True)]
    return float(max(differences))


def test_model_of_keras_applications_answers_as_keras_does(keras: Any, tmp_path: Path) -> None:
    options = {"weights": None, "classes": 7, "classifier_activation": None}
    model = keras.applications.MobileNet((32, 32, 3), alpha=0.25, **options)  # benchmarks/zoo.py has the others
    source = open_source(saved(randomized(model), tmp_path / "model.keras"))
    assert source.facts.framework == f"keras {keras.__version__}"
    assert source.facts.preprocess is None
    assert worst_difference(source, (32, 32, 3)) < 1e-4


def test_model_that_normalizes_takes_raw_pixels_and_says_so(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    colours = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.09, 0.01])
    first = keras.Sequential([layers.RandomFlip(), layers.Rescaling(1 / 255), colours])
    source = open_source(saved(small(keras, first), tmp_path / "model.keras"))
    raw = {"color": "RGB", "scale": 1.0, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    assert source.facts.preprocess == raw
    assert source.facts.warnings[0].startswith("the model normalizes its pictures itself (rescaling")
    assert source.facts.warnings[0].endswith("they are prepared as preset raw255 says")
    assert worst_difference(source, (8, 8, 3), scale=100) < 1e-4


def test_normalization_of_scaled_pixels_is_no_sign_of_raw_ones(keras: Any, tmp_path: Path) -> None:
    fitted = keras.layers.Normalization(mean=[0.4], variance=[0.04])
    source = open_source(saved(small(keras, fitted, shape=(8, 8, 1)), tmp_path / "model.keras"))
    assert source.facts.preprocess is None
    assert "would make 1273 of a white pixel" in source.facts.warnings[0]


def test_rescaling_inside_the_network_says_nothing(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    inside = small(keras, layers.Conv2D(3, 1), layers.Rescaling(0.5))
    assert open_source(saved(inside, tmp_path / "model.keras")).facts.preprocess is None


def test_h5_of_any_size_needs_one_and_keeps_its_channel(keras: Any, tmp_path: Path) -> None:
    job = saved(small(keras, shape=(None, None, 1)), tmp_path / "model.h5")
    with pytest.raises(UsageError, match="--image-size is needed for"):
        open_source(job)
    source = open_source(Job(source=job.source, image_size=(8, 12)))
    assert source.facts.framework == f"keras {keras.__version__}"
    assert worst_difference(source, (8, 12, 1)) < 1e-4


@pytest.mark.parametrize("policy", ROUNDING)
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_model_of_another_dtype_policy_is_imported_in_float32(
    keras: Any, tmp_path: Path, policy: str, suffix: str
) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        layers = keras.layers
        inner = keras.Sequential([layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()])
        model = small(keras, layers.Rescaling(1 / 255), inner)
        pixels = np.random.default_rng(3).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
        trained = keras.ops.convert_to_numpy(keras.ops.cast(model(pixels), "float32"))
        job = saved(model, tmp_path / f"model.{suffix}")
    finally:
        keras.config.set_dtype_policy("float32")
    source = open_source(job)
    assert source.facts.warnings[-1] == f"the dtype policy of its layers was {policy}; they are imported as float32"
    weights = source.convert("dynamo").graph.initializer
    assert {weight.data_type for weight in weights} <= {TensorProto.FLOAT, TensorProto.INT64}
    assert worst_difference(source, (8, 8, 3), scale=100) < 1e-5
    answer = source.run(pixels)[0]
    assert answer.dtype == np.float32
    assert np.abs(answer - trained).max() < ROUNDING[policy] * np.abs(trained).max()


def test_outputs_keep_their_names(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    pixels = layers.Input((8, 8, 3))
    pooled = layers.GlobalAveragePooling2D()(pixels)
    first, second = layers.Dense(3, name="boxes")(pooled), layers.Dense(2, name="scores")(pooled)
    listed = open_source(saved(keras.Model(pixels, [first, second]), tmp_path / "listed.keras"))
    named = open_source(saved(keras.Model(pixels, {"one": first, "two": second}), tmp_path / "named.keras"))
    for source, names in ((listed, ["boxes", "scores"]), (named, ["one", "two"])):
        outputs = source.convert("dynamo").graph.output
        assert [value.name for value in outputs] == names
        assert [value.type.tensor_type.shape.dim[1].dim_value for value in outputs] == [3, 2]


def test_file_that_keras_cannot_open_is_refused_by_name(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers

    @keras.saving.register_keras_serializable("theirs")
    class Twice(layers.Layer):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            return x * 2

    own = saved(small(keras, Twice()), tmp_path / "own.keras")
    keras.saving.get_custom_objects().clear()
    code = saved(small(keras, layers.Lambda(lambda x: x)), tmp_path / "code.keras")
    unbuilt = saved(keras.Sequential([layers.Flatten(), layers.Dense(2)]), tmp_path / "unbuilt.keras")
    vector = saved(keras.Sequential([layers.Input((784,)), layers.Dense(2)]), tmp_path / "vector.keras")
    small(keras).save_weights(tmp_path / "only.weights.h5")
    for name in ("damaged.keras", "damaged.h5"):
        (tmp_path / name).write_bytes(b"no model")
    cases = {
        own: r"needs the class 'Twice', which Keras does not have; import .* MODULE:FACTORY --weights .*own\.keras",
        code: "has a Lambda layer, whose code is not run",
        unbuilt: "was saved before the model was built",
        vector: r"takes \(None, 784\); expected pictures",
        Job(source=str(tmp_path / "only.weights.h5")): "holds weights without a model",
        Job(source=str(tmp_path / "damaged.keras")): "is no .keras file",
        Job(source=str(tmp_path / "damaged.h5")): "Keras does not read",
    }
    for job, says in cases.items():
        with pytest.raises(ExportError, match=says):
            open_source(job)


def test_factory_of_a_keras_model_takes_the_weights_of_a_file(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_factory.py").write_text(
        "from keras import layers, Sequential\n"
        "def make(): return Sequential([layers.Input((8, 8, 3)), layers.Conv2D(4, 3), "
        "layers.GlobalAveragePooling2D(), layers.Dense(3)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    job = saved(small(keras), tmp_path / "model.keras")
    source = factory.open_source(Job(source="own_factory:make", weights=Path(job.source)))
    batch = np.random.default_rng(2).normal(size=(2, 8, 8, 3)).astype(np.float32)
    assert np.array_equal(source.run(batch)[0], open_source(job).run(batch)[0])
    assert source.facts.warnings == ()
    bare = factory.open_source(Job(source="own_factory:make"))
    assert "the weights are those that own_factory:make leaves" in bare.facts.warnings[0]
    wrong = saved(small(keras, keras.layers.Conv2D(5, 3)), tmp_path / "wrong.keras")
    with pytest.raises(ExportError, match="does not fit the model"):
        factory.open_source(Job(source="own_factory:make", weights=Path(wrong.source)))
