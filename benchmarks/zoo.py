"""The gate, tried on many architectures: torchvision, timm and Keras Applications, with random weights that are alive.

    make zoo                                                     all of them, going on where it stopped
    build/zoo/bin/python benchmarks/zoo.py --only resnet18       those whose names hold this text

Each architecture is built, converted by the routes of its importer, the better first, and put through the whole gate in
a process of its own: checker, shape inference, ONNX Runtime (and the oldest one that is claimed, where
`build/oldest-ort` is there), batches of 1 and 3, parity with the framework. What came of it is a line of the journal;
the table is made of the journal. Random weights say nothing of accuracy, and this measures none.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from record import RESULTS, environment, keep

ROOT = Path(__file__).parents[1]
JOURNAL = ROOT / "build" / "zoo" / "journal.jsonl"
OLDEST = ROOT / "build" / "oldest-ort" / "bin" / "python"
TIMEOUT = 420.0  # seconds for one architecture
REASON = 300  # characters
HEADING = """# The gate on a zoo of architectures

Of {planned} architectures {run} ran and {passed} passed ({share:.1%} of those that ran). {left}Made by
`make zoo`, figures in `zoo.json`.

Random weights that are alive, in fp32, so that different pictures get different answers. Parity is the largest absolute
difference from the framework, for batches of 1 and 3. ONNX Runtime: {runtimes}. Routes are torch's two exporters; Keras
runs on torch.

| Library | Architecture | Pixels | Parameters | Nodes | Route | Parity | Verdict |
|---|---|---|---|---|---|---|---|"""
PRELOADED = [
    "zoo_models",
    "torch.onnx",
    "onnxscript",
    "controller.lifecycle.importers.keras_model",
    "controller.lifecycle.variants.reference",
]
"""What takes seconds to load is loaded once: every process is forked from one that has it."""

ARCHITECTURES: Mapping[tuple[str, int], str] = {  # (library, pixels): names
    ("torchvision", 64): "alexnet densenet121 efficientnet_b0 googlenet mnasnet0_5 mobilenet_v2 mobilenet_v3_small "
    "regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 vgg11_bn "
    "convnext_tiny swin_t swin_v2_t lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large",
    ("torchvision", 96): "inception_v3",
    ("timm", 64): "resnet10t resnet26d skresnet18 resnest14d mobilenetv4_conv_small mobilenetv3_small_050 "
    "efficientnet_lite0 tf_efficientnetv2_b0 ghostnet_050 hardcorenas_a lcnet_050 mixnet_s mobileone_s0 repvgg_a0 "
    "regnety_002 dla34 dpn48b eca_nfnet_l0 ese_vovnet19b_dw convnextv2_atto hgnetv2_b0 repvit_m0_9 tinynet_e "
    "rexnet_100 semnasnet_075 inception_next_atto mambaout_femto starnet_s1 mobilevitv2_050 efficientvit_b0",
    ("timm", 224): "edgenext_xx_small levit_128s mobilevit_xxs poolformer_s12 pvt_v2_b0 coat_lite_tiny "
    "deit_tiny_patch16_224 vit_tiny_patch16_224 eva02_tiny_patch14_224 xcit_nano_12_p16_224 mixer_s32_224 "
    "gmlp_ti16_224 resmlp_12_224 tiny_vit_5m_224",
    ("keras", 96): "MobileNet MobileNetV2 MobileNetV3Small EfficientNetB0 ResNet50V2 Xception ConvNeXtTiny",
}


def _entries(only: str) -> list[tuple[str, str, int]]:
    listed = [(library, name, size) for (library, size), names in ARCHITECTURES.items() for name in names.split()]
    return [entry for entry in listed if only in entry[1]]


def _judge(library: str, name: str, size: int) -> dict[str, Any]:
    """Put one architecture through the gate, in this process, and return what came of it."""
    import torch
    from zoo_models import build

    from controller.errors import ExportError
    from controller.lifecycle.gate.oldest import OldestRuntime
    from controller.lifecycle.graph import opset_of
    from controller.lifecycle.importers import keras_model, torch_module
    from controller.lifecycle.importers.base import ImportedModel, convert_by_first
    from controller.lifecycle.importers.source import Job
    from controller.lifecycle.variants.reference import build_reference
    from runtime.manifest import Preprocess, Resize

    torch.set_num_threads(1)
    model = build(library, name, size)
    maker = keras_model if library == "keras" else torch_module
    source = maker.open_built(model, Job(source="zoo_models:build", image_size=(size, size)))
    said = source.facts.preprocess or {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "scale": 1 / 255}
    preprocess = Preprocess.model_validate(said).model_copy(
        update={"resize": Resize(mode="exact", size=(size, size)), "crop": (size, size)}
    )
    oldest = OldestRuntime.open(OLDEST) if OLDEST.exists() else None
    refused: dict[str, str] = {}
    graph, route, left = convert_by_first(source.convert, source.facts.routes, refused)
    imported = ImportedModel(
        graph=graph,
        reference=source.run,
        values=source.values,
        framework=source.facts.framework,
        source_sha256=source.facts.source_sha256,
        route=route,
        refused=refused,
        routes=left,
        convert=source.convert,
    )
    with tempfile.TemporaryDirectory() as scratch:
        while True:
            try:
                built = build_reference(imported, preprocess, Path(scratch), oldest)
                break
            except ExportError as error:
                imported = imported.by_next_route(error)
    return {
        "passed": True,
        "route": imported.route,
        "refused": dict(imported.refused),
        "parity": built.parity,
        "opset": opset_of(imported.graph),
        "nodes": len(imported.graph.graph.node),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "notes": list(built.notes),
        "oldest": oldest.version if oldest is not None else None,
    }


def _tell(entry: tuple[str, str, int], answer: Connection) -> None:
    """Send what came of *entry*: in the process of its own."""
    warnings.simplefilter("ignore")
    gc.disable()  # one model, and the process ends: what is collected over and over is the exporter's heap
    try:
        result = _judge(*entry)
    except Exception as error:  # noqa: BLE001 - the verdict on an architecture, whatever its code raises
        result = {"passed": False, "reason": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    answer.send(result)


def _in_child(entry: tuple[str, str, int], processes: ForkServerContext) -> dict[str, Any]:
    library, name, size = entry
    start = time.monotonic()
    answer, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_tell, args=(entry, sender))
    process.start()
    sender.close()
    try:
        late = not answer.poll(TIMEOUT)
        result = {"passed": False, "reason": f"it did not end within {TIMEOUT:g} s"} if late else answer.recv()
    except EOFError:
        process.join()
        result = {"passed": False, "reason": f"its process ended with {process.exitcode}"}
    process.kill()
    process.join()
    return {"library": library, "name": name, "size": size, "seconds": round(time.monotonic() - start, 1), **result}


def _read(journal: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = journal.read_text().splitlines() if journal.exists() else []
    return {(one["library"], one["name"]): one for one in map(json.loads, lines)}


def _run(entries: Sequence[tuple[str, str, int]], journal: Path) -> None:
    """Judge those of *entries* that the journal does not have as passed, each in a process of its own."""
    done = {key for key, one in _read(journal).items() if one["passed"]}
    journal.parent.mkdir(parents=True, exist_ok=True)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    for number, entry in enumerate(entries, 1):
        if entry[:2] in done:
            continue
        result = _in_child(entry, processes)
        with journal.open("a") as file:
            file.write(json.dumps(result) + "\n")
        verdict = f"{result['route']}, parity {result['parity']:.1e}" if result["passed"] else result["reason"]
        print(f"{number}/{len(entries)} {entry[0]} {entry[1]}: {verdict} ({result['seconds']:.0f} s)", flush=True)


def _report(results: Sequence[Mapping[str, Any]], left: Sequence[str], newest: str) -> str:
    """Return the table of *results*, gated by ONNX Runtime *newest*; *left* are the names of those that did not run."""
    passed = sum(one["passed"] for one in results)
    heading = HEADING.format(
        planned=len(results) + len(left),
        run=len(results),
        passed=passed,
        share=passed / max(1, len(results)),
        left=f"Not run: {', '.join(left)}. " if left else "",
        runtimes=" and ".join([*sorted({one["oldest"] for one in results if one.get("oldest")}), newest]),
    )
    lines = [heading]
    for one in results:
        start = f"| {one['library']} | {one['name']} | {one['size']} "
        if not one["passed"]:
            lines.append(f"{start}| | | | | refused: {_cell(one['reason'])} |")
            continue
        first = "; ".join(f"{route} refused: {_cell(why)}" for route, why in one["refused"].items())
        alike = any("prove" in note for note in one["notes"])
        verdict = "; ".join(filter(None, ["passed", first, "answers alike" if alike else ""]))
        size = f"{one['parameters'] / 1e6:.1f} M | {one['nodes']}"
        lines.append(f"{start}| {size} | {one['route']} | {one['parity']:.1e} | {verdict} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split())[:REASON].replace("|", "\\|")


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="architectures whose names hold this text")
    parser.add_argument("--report", action="store_true", help="make the table of what the journal has, and run nothing")
    parser.add_argument("--journal", type=Path, default=JOURNAL, help="where lines are kept, and read")
    arguments = parser.parse_args()
    if find_spec("torchvision") is None or find_spec("timm") is None:
        print("the zoo needs torchvision and timm, in an environment of their own: make zoo")
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    entries = _entries(arguments.only)
    if not arguments.report:
        _run(entries, arguments.journal)
    journal = _read(arguments.journal)
    results = [journal[entry[:2]] for entry in entries if entry[:2] in journal]
    passed = sum(one["passed"] for one in results)
    if not arguments.only:
        facts = environment(("torch", "torchvision", "timm", "keras", "onnx", "onnxruntime", "onnxscript"))
        left = [name for library, name, _ in entries if (library, name) not in journal]
        counts = {"planned": len(entries), "run": len(results), "passed": passed, "not_run": left}
        keep({**facts, **counts, "results": results}, RESULTS / "zoo.json")
        (RESULTS / "zoo.md").write_text(_report(results, left, facts["versions"]["onnxruntime"]))
    print(f"{passed} of {len(results)} architectures pass the gate")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
