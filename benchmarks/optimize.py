"""What it brings to make a graph smaller: steps of the optimizers, a folded normalization, start-up, channels.

python benchmarks/optimize.py [--seconds 10] [--only steps,folding,start,channels]

    steps       nodes, bytes and time before and after what every import does (onnxscript, onnxslim)
    folding     a normalization in front of the first convolution, and folded into it. ONNX Runtime does not do it
    start       time until a session is there: of the graph with all optimizations, and of ONNX Runtime's own graph for
                this machine (`vedette model optimize --for cpu`) with none
    channels    ResNet18 for small pictures and the tiny network, random weights, 30 % of the channels gone: as many as
                asked for, and rounded to a multiple of 8 and of 16

One thread, one picture. What is compared takes turns, in an order drawn anew for each: what runs twice in a row finds
its weights in the cache. Milliseconds are medians of processor time of the thread that runs the graph, which for one
thread is what a clock would show if nobody else used the machine. There are several sessions of every graph, since
where one finds its memory matters, too: ``noise`` is how far those of one graph are apart at most, as a share, and a
difference that is not clearly larger is none.

Needs the models of Vedette's test data (VEDETTE_TEST_DATA).
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from record import RESULTS, TEST_DATA, environment, keep

from controller.lifecycle.export import export_by_dynamo
from controller.lifecycle.gate.checks import gate_batches
from controller.lifecycle.graph import at_most_published_versions, load_graph
from controller.lifecycle.look.complexity import measure_complexity
from controller.lifecycle.look.target import noise
from controller.lifecycle.optimize.normalization import fold_normalization
from controller.lifecycle.optimize.offline import write_offline
from controller.lifecycle.optimize.portable import optimize_graph
from controller.lifecycle.optimize.steps import count_nodes
from controller.lifecycle.pixel_input import embed_normalization
from controller.lifecycle.training.architectures import build
from controller.lifecycle.training.data import read_data
from controller.lifecycle.training.pruning import cut_channels
from controller.lifecycle.training.record import TrainingConfig
from controller.lifecycle.training.torch_learner import TorchLearner
from runtime.manifest import Preprocess
from runtime.session import GraphOptimization, Session, SessionOptions
from runtime.terminal import table

PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxscript", "onnxslim", "torch", "torch-pruning")
MODELS = TEST_DATA / "models"
ONE_THREAD = SessionOptions(intra_op_threads=1)
AS_IT_IS = SessionOptions(intra_op_threads=1, graph_optimization=GraphOptimization.DISABLED)
SESSIONS = 4  # of each graph
LEAST, WARM = 7, 2  # turns
SIDE = 32  # pixels, of the networks that are pruned

IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=1 / 255)
SCALED = Preprocess(scale=1 / 255)
CENTRED = Preprocess(mean=(0.5,), std=(0.5,), scale=1 / 255)

Row = dict[str, Any]


def in_turns(what: Mapping[str, Sequence[Callable[[], object]]], seconds: float) -> tuple[dict[str, float], float]:
    """Return the median milliseconds of each of *what*, which is there several times, and the noise."""
    draw = random.Random(0)  # noqa: S311  # an order, no secret
    calls = [(name, place) for name, alike in what.items() for place in range(len(alike))]
    times: dict[tuple[str, int], list[float]] = {one: [] for one in calls}
    until, turn = time.monotonic() + seconds, 0
    while turn < LEAST + WARM or time.monotonic() < until:
        draw.shuffle(calls)
        for name, place in calls:
            began = time.thread_time()
            what[name][place]()
            if turn >= WARM:
                times[name, place].append(1000 * (time.thread_time() - began))
        turn += 1
    medians = {name: [statistics.median(times[name, place]) for place in range(len(what[name]))] for name in what}
    apart = max(max(alike) / min(alike) - 1 for alike in medians.values())
    return {name: statistics.mean(alike) for name, alike in medians.items()}, apart


def runs(graphs: Mapping[str, onnx.ModelProto], scratch: Path, seconds: float) -> tuple[dict[str, float], float]:
    """Return the milliseconds of a run of each of *graphs*, which take the same, and the noise."""
    calls: dict[str, list[Callable[[], object]]] = {name: [] for name in graphs}
    for place in range(SESSIONS):
        for number, name in enumerate(graphs if place % 2 else reversed(graphs)):
            path = scratch / f"{number}.onnx"
            onnx.save(graphs[name], path)
            session = Session(path, options=ONE_THREAD)
            calls[name].append(partial(session.run, noise(session, session.batch or 1)))
    return in_turns(calls, seconds)


def steps(scratch: Path, seconds: float) -> list[Row]:
    """Measure what every import does."""
    rows = []
    for path in sorted(MODELS.glob("*.onnx")):
        source = at_most_published_versions(load_graph(path))
        found = optimize_graph(source, lambda one: [noise(one, count) for count in gate_batches(one.image)])
        row: Row = {"model": path.stem, "kept": ", ".join(one.step for one in found.steps if one.kept) or "-"}
        row |= {"nodes": found.before.nodes, "nodes after": found.after.nodes}
        row |= {"bytes": found.before.bytes, "bytes after": found.after.bytes}
        if found.model is not source:
            times, apart = runs({"before": source, "after": found.model}, scratch, seconds)
            row |= {"ms": times["before"], "ms after": times["after"], "noise": apart}
        rows.append(row)
    return rows


def patches() -> onnx.ModelProto:
    """Return the first layer of a ViT-Ti/16 and little else: its convolution pads nothing."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 192, 16, 16), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(192, 10)).eval()
    return export_by_dynamo(model, torch.zeros(2, 3, 224, 224), ["logits"])[0]


def folding(scratch: Path, seconds: float) -> list[Row]:
    """Measure a normalization in its place and folded."""

    def model(name: str) -> onnx.ModelProto:
        return at_most_published_versions(load_graph(MODELS / f"{name}.onnx"))

    mobilenet = model("mobilenet_v2")
    cases = {
        "patches of a ViT, mean and std": embed_normalization(patches(), IMAGENET),
        "mobilenet_v2, scale": embed_normalization(mobilenet, SCALED),
        "mobilenet_v2, -1 to 1": embed_normalization(mobilenet, CENTRED),
        "mobilenet_v2, mean and std": embed_normalization(mobilenet, IMAGENET),
        "deimv2_atto, scale": embed_normalization(model("deimv2_atto"), SCALED),
        "u2netp, scale": embed_normalization(model("u2netp"), SCALED),
        "movenet_lightning, its own": model("movenet_lightning_nhwc"),
    }
    rows = []
    for name, graph in cases.items():
        folded = fold_normalization(graph)
        row: Row = {"model": name, "nodes fewer": count_nodes(graph) - count_nodes(folded)}
        if folded is not graph:
            times, apart = runs({"before": graph, "folded": folded}, scratch, seconds)
            row |= {"ms": times["before"], "ms folded": times["folded"], "noise": apart}
        rows.append(row)
    return rows


def start(scratch: Path, seconds: float) -> list[Row]:
    """Measure the time until a session is there."""
    rows = []
    for name in ("mobilenet_v2", "u2netp", "yolox_nano", "deimv2_atto"):
        source = MODELS / f"{name}.onnx"
        offline, built_for = write_offline(source, "cpu", scratch / f"{name}.onnx")
        calls = {
            "portable": [partial(Session, source, options=ONE_THREAD)] * SESSIONS,
            "offline": [partial(Session, offline, options=AS_IT_IS)] * SESSIONS,
        }
        times, apart = in_turns(calls, seconds)
        rows.append({"model": name, **times, "noise": apart, "built for": str(built_for)})
    return rows


def channels(scratch: Path, seconds: float) -> list[Row]:
    """Measure networks with channels gone."""
    rows = []
    for arch in ("resnet18-small", "tiny"):
        config = TrainingConfig(data="digits#train", arch=arch, epochs=1, out=scratch, image_size=SIDE)
        data = read_data(config)
        torch.manual_seed(0)
        whole = build(arch, len(data.labels), SIDE)
        models = {"whole": whole}
        for round_to in (1, 8, 16):
            learner = TorchLearner(config=config, preprocess=data.preprocess, model=copy.deepcopy(whole))
            options: dict[str, Any] = {"ratio": 0.3, "importance": "group-norm", "steps": 1, "round_to": round_to}
            models[f"rounded to {round_to}"] = cut_channels(learner, data, **options).model
        example = torch.zeros(2, 3, SIDE, SIDE)
        graphs = {name: export_by_dynamo(one.eval(), example, ["logits"])[0] for name, one in models.items()}
        times, apart = runs(graphs, scratch, seconds)
        for name, graph in graphs.items():
            size = measure_complexity(graph)
            first = sorted({one.out_channels for one in models[name].modules() if isinstance(one, torch.nn.Conv2d)})
            row: Row = {"network": arch, "channels": f"{name}: {', '.join(map(str, first))}"}
            row |= {"MACs": size.macs, "parameters": size.parameters, "ms": times[name], "noise": apart}
            rows.append(row)
    return rows


PARTS: Mapping[str, Callable[[Path, float], list[Row]]] = {
    "steps": steps,
    "folding": folding,
    "start": start,
    "channels": channels,
}


def shown(value: object) -> object:
    """Return *value* as it stands in a table."""
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else value


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="for each comparison")
    parser.add_argument("--only", default=",".join(PARTS), help="which parts, with commas between them")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if not (MODELS / "mobilenet_v2.onnx").exists():
        print(f"no models in {MODELS} (VEDETTE_TEST_DATA)")
        return
    document: dict[str, Any] = environment(PACKAGES, threads=1, seconds=given.seconds)
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="vedette-benchmark-") as scratch:
            rows = PARTS[name](Path(scratch), given.seconds)
        headers = list(dict.fromkeys(key for row in rows for key in row))
        print(f"\n{name}\n{table(headers, [[shown(row.get(key)) for key in headers] for row in rows])}", flush=True)
        document[name] = rows
    if wanted == list(PARTS):
        keep(document, RESULTS / "optimize.json")


if __name__ == "__main__":
    main()
