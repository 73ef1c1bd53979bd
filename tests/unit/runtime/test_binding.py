"""Runs with tensors on the device; the CPU is one, and a session that waits is the double of one that is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.binding import MOST_SHAPES, SLOTS, BoundRuns, output_shapes
from runtime.errors import ModelError, UsageError
from runtime.manifest import Tensor
from runtime.probe import probe_root
from runtime.providers import find
from runtime.session import Session, SessionOptions

PROBE = probe_root() / "model.fp32.onnx"
PATIENCE = 10  # seconds


class Double:
    """An ONNX Runtime session of the CPU's that notes what is asked of it, and waits in its runs for a sign."""

    def __init__(self, session: Any, *, made: list[Any] | None = None) -> None:
        self._session = session
        self.made: list[Any] = [] if made is None else made  # bindings
        self.runs: list[tuple[Any, str, str]] = []  # binding, thread, number of the graph
        self.inside = 0
        self.most_inside = 0
        self.go = threading.Event()
        self.go.set()

    def io_binding(self) -> Any:
        self.made.append(self._session.io_binding())
        return self.made[-1]

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        number = "" if options is None else options.get_run_config_entry("gpu_graph_id")
        self.runs.append((binding, threading.current_thread().name, number))
        assert self.go.wait(PATIENCE)
        self._session.run_with_iobinding(binding, options)
        self.inside -= 1


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.002)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, 16, 16, 3), dtype=np.uint8)


def doubled(graphs: int | None = None) -> tuple[BoundRuns, Double, Session]:
    session = Session(PROBE)
    double = Double(session._session)
    return BoundRuns(double, session.inputs, session.outputs, "cpu", graphs=graphs), double, session


def bound(path: Path = PROBE) -> tuple[BoundRuns, Session]:
    session = Session(path)
    return BoundRuns(session._session, session.inputs, session.outputs, "cpu"), session


def test_bound_runs_give_what_plain_runs_give() -> None:
    runs, session = bound()
    for count, seed in ((1, 0), (3, 1), (1, 2), (3, 3)):
        batch = pictures(count, seed)
        np.testing.assert_array_equal(runs.run({"images": batch})[0], session.run(batch)[0])


def test_buffers_are_used_again_and_answers_are_the_callers_own() -> None:
    runs, session = bound()
    made: list[Any] = []
    runs._session = Double(session._session, made=made)
    first = runs.run({"images": pictures(2, 0)})[0]
    before = first.copy()
    given = pictures(2, 1)
    second = runs.run({"images": given})[0]
    assert len(made) == 1
    np.testing.assert_array_equal(first, before)
    assert not np.array_equal(first, second)
    given[:] = 0  # nor is the caller's input one of the buffers
    np.testing.assert_array_equal(runs.run({"images": pictures(2, 1)})[0], second)


def test_what_is_not_contiguous_is_bound_too() -> None:
    runs, session = bound()
    turned = pictures(2)[:, ::-1]
    np.testing.assert_array_equal(runs.run({"images": turned})[0], session.run(np.ascontiguousarray(turned))[0])


def test_only_so_many_shapes_are_kept() -> None:
    runs, _ = bound()
    for count in range(1, MOST_SHAPES + 3):
        runs.run({"images": pictures(count)})
    assert len(runs._unused) == MOST_SHAPES


def test_a_session_on_a_device_of_its_own_memory_binds(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from runtime import session as module
    from runtime.providers import find

    monkeypatch.setattr(module, "find", lambda name: dataclasses.replace(find(name), memory="cpu"))
    session = Session(PROBE)
    assert session._bound is not None
    np.testing.assert_array_equal(session.run(pictures(3))[0], bound()[1].run(pictures(3))[0])
    with pytest.raises(ModelError, match=r"inference of uint8 \[1, 8, 8, 3\] failed"):
        session.run(np.zeros((1, 8, 8, 3), np.uint8))


def test_an_output_whose_shape_depends_on_the_data_is_left_to_onnx_runtime(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["a"], ["found"]),
        helper.make_node("Transpose", ["found"], ["rows"], perm=[1, 0]),
        helper.make_node("Cast", ["rows"], ["out"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", 2])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    runs, _ = bound(tmp_path / "m.onnx")
    for value, rows in (([[1, 0], [0, 0]], 1), ([[1, 1], [1, 0]], 3), ([[0, 0], [0, 0]], 0)):
        assert runs.run({"a": np.array(value, np.float32)})[0].shape == (rows, 2)


def tensor(name: str, *shape: int | str) -> Tensor:
    return Tensor(name=name, dtype="float32", shape=shape)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (("N", 4), (3, 4)),
        (("N", "H", "W"), (3, 8, 9)),
        ((1, 4), (1, 4)),
        (("M", 4), None),
        (("?", 4), None),
        ((), ()),
    ],
)
def test_the_shape_of_an_output_follows_from_names(output: Any, expected: Any) -> None:
    inputs = [tensor("images", "N", 3, "H", "W"), tensor("?", "?")]
    given = {"images": (3, 3, 8, 9), "?": (5,)}
    assert output_shapes(inputs, [tensor("out", *output)], given) == {"out": expected}


# Two batches in flight


def test_a_batch_is_copied_to_the_device_while_another_runs() -> None:
    runs, double, session = doubled()
    batches = [pictures(2, seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        double.go.clear()
        answers = [threads.submit(runs.run, {"images": batch}) for batch in batches]
        until(lambda: len(double.made) == SLOTS and double.inside == 1)

        def there() -> list[bytes]:
            return [binding._bound_inputs["images"].numpy().tobytes() for binding in double.made]

        given = [batch.tobytes() for batch in batches]
        until(lambda: len(set(there())) == SLOTS and set(there()) <= set(given))
        time.sleep(0.05)
        assert len(double.made) == SLOTS  # the third and the fourth wait for room
        double.go.set()
        for answer, batch in zip(answers, batches, strict=True):
            np.testing.assert_array_equal(answer.result(PATIENCE)[0], session.run(batch)[0])
    assert double.most_inside == 1
    assert len(double.made) == SLOTS


def test_a_run_that_fails_gives_its_room_back() -> None:
    runs, _, session = doubled()
    for _ in range(SLOTS + 1):
        with pytest.raises(Exception, match="images"):
            runs.run({"images": np.zeros((1, 8, 8, 3), np.uint8)})
    np.testing.assert_array_equal(runs.run({"images": pictures(3)})[0], session.run(pictures(3))[0])


def test_captured_graphs_have_a_thread_of_their_own_and_a_number_each() -> None:
    runs, double, session = doubled(graphs=SLOTS)
    batches = [pictures(2, seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as threads:
        for answer, batch in zip(threads.map(lambda b: runs.run({"images": b}), batches), batches, strict=True):
            np.testing.assert_array_equal(answer[0], session.run(batch)[0])
    assert {thread for _, thread, _ in double.runs} == {"graph_0"}
    numbers = {id(binding): number for binding, _, number in double.runs}
    assert sorted(numbers.values()) == [str(number) for number in range(1, len(double.made) + 1)]
    assert {(id(binding), number) for binding, _, number in double.runs} == set(numbers.items())


def test_where_one_graph_is_kept_there_is_one_slot() -> None:
    runs, double, session = doubled(graphs=1)
    with ThreadPoolExecutor(4) as threads:
        batches = [pictures(2, seed) for seed in range(8)]
        for answer, batch in zip(threads.map(lambda b: runs.run({"images": b}), batches), batches, strict=True):
            np.testing.assert_array_equal(answer[0], session.run(batch)[0])
    assert runs.slots == len(double.made) == 1
    assert {number for *_, number in double.runs} == {""}


class OnThisMachine:
    """The origin of an EP that this machine lacks: it opens sessions of the CPU's, and keeps what it was told."""

    description = "a double"

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []

    def open(self, path: Path, options: Any, _folder: Path | None, extra: dict[str, str]) -> Any:
        import onnxruntime

        self.told.append(dict(extra))
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> OnThisMachine:
    """CUDA as the catalog has it, at the boundary of ONNX Runtime."""
    from runtime import session as module
    from runtime.providers import origin_of

    origin = OnThisMachine()
    monkeypatch.setattr(module, "find", lambda name: replace(found := find(name), memory=found.memory and "cpu"))
    monkeypatch.setattr(module, "origin_of", lambda one: origin if one.memory else origin_of(one))
    return origin


@pytest.mark.parametrize(("provider", "slots"), [("cuda", 2), ("tensorrt", 1)])
def test_a_captured_session_pads_and_has_the_slots_that_its_provider_has_graphs_for(
    gpu: OnThisMachine, provider: str, slots: int
) -> None:
    session = Session(PROBE, provider, SessionOptions(fixed_batch=4, capture_graph=True))
    assert (session.batch, session.in_flight) == (4, slots)
    assert gpu.told == [dict(find(provider).graph_options)]
    np.testing.assert_array_equal(session.run(pictures(4))[0], Session(PROBE).run(pictures(4))[0])


def test_without_a_captured_graph_two_are_in_flight_and_one_where_memory_is_the_cpus(gpu: OnThisMachine) -> None:
    assert Session(PROBE, "cuda").in_flight == SLOTS
    assert Session(PROBE, "tensorrt").in_flight == SLOTS
    assert gpu.told == [{}, {}]
    assert Session(PROBE).in_flight == 1


def test_a_graph_whose_outputs_depend_on_the_data_is_not_captured(gpu: OnThisMachine, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("NonZero", ["a"], ["found"]),
            helper.make_node("Cast", ["found"], ["out"], to=TensorProto.FLOAT),
        ],
        "g",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2, "rows"])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=r"output 'out' of .*m\.onnx leaves rows to the data"):
        Session(tmp_path / "m.onnx", "cuda", SessionOptions(fixed_batch=2, capture_graph=True))
