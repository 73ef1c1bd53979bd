"""The verbs `vedette train` and `vedette model`: thin calls of `controller.lifecycle` and `controller.registry`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from controller.cli import card, look, optimize, prune, quantize
from controller.cli.figures import figures
from controller.cli.shared import controller_option, custom_ops_option, oldest_ort_option
from controller.lifecycle.training.frameworks import FRAMEWORKS, epochs_of
from runtime.manifest import Manifest, Task
from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    from runtime.store import ModelStore

__all__ = ["model", "train"]

MOST_NAMES = 8  # shown of a list
SUPPRESSING = ("yolov8", "yolov5", "yolox", "ssd", "yolov8-seg", "yolov5-seg", "yolov8-pose")
"""Heads whose boxes go through non-maximum suppression."""
THRESHOLDED = (*SUPPRESSING, "detr", "boxes", "boxes-seg", "boxes-pose", "movenet")
"""Heads whose answers depend on the score threshold."""


def _built_in() -> str:
    """Return the built-in architectures, each framework's together."""
    return "; ".join(f"of {name}: {', '.join(row.architectures)}" for name, row in FRAMEWORKS.items())


@click.command()
@click.option(
    "--data", required=True, metavar="URI", help="Dataset: Parquet, image folder, IDX, CIFAR-10, or 'digits'."
)
@click.option("--framework", default="torch", show_default=True, help=f"{', '.join(FRAMEWORKS)}.")
@click.option("--arch", required=True, help=f"MODULE:FACTORY, or {_built_in()}.")
@click.option(
    "--weights", metavar="FILE", help="To begin with, as `model import` takes them.  [default: the arch's own]"
)
@click.option("--epochs", type=int, help="How often the data is gone through; not for sklearn, which fits once.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Directory of the run.")
@click.option("--image-size", type=int, help="Height and width of the input, pixels.  [default: as the data]")
@click.option("--batch-size", type=int, default=64, show_default=True, help="Images a step.")
@click.option(
    "--learning-rate", type=float, default=2e-3, show_default=True, help="At the start; falls along a cosine."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--validation", metavar="URI", help="Held-out data.  [default: the test split, or a tenth of the data]")
@click.option("--augment", default="auto", show_default=True, metavar="auto|none|flip,crop", help="Random changes.")
@click.option("--image-column", help="Of Parquet.  [default: found out]")
@click.option("--label-column", help="Of Parquet.  [default: label]")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in --out.")
@json_option
def train(*, as_json: bool, resume: bool, framework: str, epochs: int | None, **options: Any) -> None:
    """Train a classifier; `vedette model import RUN` publishes it."""
    # GNU OpenMP's threads spin while they wait; beside other work on the same cores that made an epoch 15 times
    # slower. It is read when torch is loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from controller.lifecycle.training.record import TrainingConfig
    from controller.lifecycle.training.run import train as run_training

    config = TrainingConfig(framework=framework, epochs=epochs_of(framework, epochs), **options)
    record = run_training(config, resume=resume)
    if record.best is None:
        raise AssertionError("a finished run has a best epoch")
    result = {"out": str(config.out), **record.model_dump(mode="json", exclude={"preprocess", "run_schema"})}
    emit(
        result,
        as_json=as_json,
        text=f"{config.out}: {record.best.accuracy:.2%} of {record.held_out.rows} held-out images right "
        f"(epoch {record.best.epoch} of {record.epochs_done})",
    )


@click.group()
def model() -> None:
    """Import, publish and look at models."""


store_option = click.option("--store", metavar="URI", help="Artifact store.  [default: under VEDETTE_HOME]")


def _image_size(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Return the (height, width) that ``224`` or ``224x320`` means."""
    if text is None:
        return None
    height, _x, width = text.partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no size; expected pixels as in 224, or height x width as in 224x320"
        ) from None


@model.command(name="import")
@click.argument("source")
@click.option("--name", required=True, help="Of the model: lowercase letters, digits, '-' and '_'.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for MODULE:FACTORY: .pth, .safetensors.")
@click.option("--classes", type=int, help="Number of classes, for MODULE:FACTORY.")
@click.option("--image-size", metavar="N|HxW", callback=_image_size, help="Of a source that does not say, pixels.")
@click.option("--importer-python", type=click.Path(path_type=Path), help="Interpreter that has SOURCE's framework.")
@oldest_ort_option
@click.option("--task", metavar="TASK", help=f"{', '.join(get_args(Task))}.  [default: as the source says]")
@click.option("--head", metavar="KIND", help="In which way it answers: yolov8, detr, ...  [default: recognized]")
@click.option("--labels", type=click.Path(path_type=Path), help="Class names: one a line, numbered lines, or JSON.")
@click.option("--keypoints", type=click.Path(path_type=Path), help="Names of a body's keypoints, like --labels.")
@click.option("--preprocess", metavar="PRESET|FILE", help="How pictures are prepared: imagenet, raw255, ... or JSON.")
@click.option("--activation", metavar="softmax|sigmoid|none", help="Of the scores.  [default: found out]")
@click.option("--score-threshold", type=float, help="Least score of an answer, 0 to 1.  [default: 0.25]")
@click.option("--iou-threshold", type=float, help="Overlap that suppresses a box, 0 to 1.  [default: 0.45]")
@click.option("--multi-label", is_flag=True, help="Every class at or above the threshold is an answer.")
@click.option("--trust-pickle", is_flag=True, help="Read SOURCE though it is a pickle: the code in it is run.")
@custom_ops_option
@click.option("--calibration", metavar="URI", help="Images to calibrate int8 with.")
@click.option("--evaluation", metavar="URI", help="Labelled images to measure accuracy on.")
@click.option("--image-column", help="Of Parquet.  [default: found out]")
@click.option("--label-column", help="Of Parquet.  [default: label]")
@click.option("--precision", metavar="fp32,int8|all", help="Variants to build, by id; int8 is this machine's.")
@click.option("--max-drop", type=float, default=0.5, show_default=True, help="Points that a variant may lose.")
@click.option("--optimize/--no-optimize", default=True, help="Make the graph smaller where no answer changes.")
@store_option
@json_option
def import_command(*, as_json: bool, store: str | None, precision: str | None, **options: Any) -> None:
    """Bring SOURCE through the gate, and publish it.

    SOURCE is a training run, an .onnx file, MODULE:FACTORY, a .pt2 file or TorchScript; docs/import.md lists all.
    What is not ONNX is opened in a process of its own, by the interpreter that --importer-python names, or else
    VEDETTE_IMPORTER_PYTHON, or by this one.

    How the model answers is recognized from its outputs, from a run, and from what the file says of itself;
    the notes say what was recognized. What is not certain is refused.
    """
    from controller.lifecycle.pipeline import ImportRequest, import_model
    from runtime.store import ModelStore

    precisions = None if precision is None else tuple(part.strip() for part in precision.split(","))
    report = import_model(ImportRequest(precisions=precisions, **options), ModelStore.open(store))
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    result = {**_describe(report.manifest, report.manifest.digest), "notes": list(report.notes)}
    emit(result, as_json=as_json, text=lambda: f"published {report.manifest.reference}\n{figures(report.manifest)}")


@model.command(name="list")
@store_option
@json_option
def list_command(*, as_json: bool, store: str | None) -> None:
    """List the published models, newest versions."""
    from runtime.store import ModelStore

    opened = ModelStore.open(store)
    published = {name: versions for name in opened.names() if (versions := opened.versions(name))}
    stored = [opened.manifest_bytes(name, versions[-1]) for name, versions in published.items()]
    manifests = [Manifest.parse(data) for data in stored]
    rows = [
        (m.name, m.version, m.task, len(m.labels), ", ".join(v.id for v in m.variants), m.provenance.created)
        for m in manifests
    ]
    value = [
        {**_describe(m, _digest(data)), "versions": published[m.name], "created": m.provenance.created.isoformat()}
        for m, data in zip(manifests, stored, strict=True)
    ]
    headers = ("name", "version", "task", "classes", "variants", "created")
    emit(value, as_json=as_json, text=lambda: table(headers, rows) if rows else f"no models in {opened.uri}")


@model.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@store_option
@controller_option
@json_option
def show(*, reference: str, as_json: bool, store: str | None, url: str | None) -> None:
    """Show what is known of a model: its manifest with --json, a summary otherwise.

    The summary has what devices said of variants that were published as unproven, if a controller can be asked.
    """
    _, manifest, digest = _published(reference, store)
    value = manifest.model_dump(mode="json", by_alias=True)
    emit(value, as_json=as_json, text=lambda: _summary(manifest, digest, _proofs(manifest, url)))


@model.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--variant", "variants", multiple=True, help="Only this variant; may be given again.  [default: all]")
@store_option
@json_option
def pull(*, reference: str, directory: Path, variants: tuple[str, ...], as_json: bool, store: str | None) -> None:
    """Copy a model into a new DIRECTORY, every file verified."""
    opened, manifest, _ = _published(reference, store)
    artifact = opened.pull(manifest.name, manifest.version, directory, variants=variants or None)
    result = {"model": manifest.reference, "directory": str(artifact.root), "digest": artifact.digest}
    emit(result, as_json=as_json, text=f"{manifest.reference} is in {artifact.root} (manifest {artifact.digest})")


@model.command()
@click.argument("reference", metavar="NAME[@VERSION]|PATH")
@oldest_ort_option
@store_option
@json_option
def validate(*, reference: str, oldest_ort: Path | None, as_json: bool, store: str | None) -> None:
    """Check every file of a model, put its graphs through the gate again, and prove them on this machine's CPU."""
    from controller.lifecycle.gate.checks import check_graph
    from controller.lifecycle.gate.oldest import OldestRuntime, prove_on_oldest
    from runtime.errors import ArtifactError
    from runtime.proof import prove_isolated
    from runtime.store import ModelStore, resolve_artifact

    oldest = None if oldest_ort is None else OldestRuntime.open(oldest_ort)
    artifact = resolve_artifact(reference, ModelStore.open(store))
    artifact.verify()
    proofs = []
    for variant in artifact.manifest.variants:
        check_graph(artifact.root / variant.file, artifact.manifest.custom_ops)
        proofs.append(prove_isolated(artifact.root, variant.id, "CPUExecutionProvider"))
    if failed := [proof for proof in proofs if not proof.passed]:
        reasons = "; ".join(f"{proof.variant}: {proof.reason}" for proof in failed)
        raise ArtifactError(f"{artifact.manifest.reference} is not valid: {reasons}")
    if oldest is not None:
        prove_on_oldest(artifact.root, artifact.manifest, oldest)
    result = {
        "model": artifact.manifest.reference,
        "valid": True,
        "oldest_ort": None if oldest is None else oldest.version,
        "proofs": [p.model_dump(mode="json") for p in proofs],
    }
    lines = [f"{proof.variant}: {proof.reason}, max abs difference {proof.max_abs:.3g}" for proof in proofs]
    lines += [] if oldest is None else [f"ONNX Runtime {oldest.version} gives the same"]
    emit(result, as_json=as_json, text="\n".join([f"{artifact.manifest.reference} is valid", *lines]))


def _published(reference: str, store: str | None) -> tuple[ModelStore, Manifest, str]:
    """Return the store, the manifest that *reference* means in it, and that manifest's digest."""
    from runtime.store import ModelStore, parse_reference

    opened = ModelStore.open(store)
    name, version = parse_reference(reference)
    data = opened.manifest_bytes(name, version if version is not None else opened.latest(name))
    return opened, Manifest.parse(data), _digest(data)


def _digest(stored: bytes) -> str:
    """Return the identity of a published manifest: of its bytes as they are, which another version may have written."""
    return hashlib.sha256(stored).hexdigest()


def _describe(manifest: Manifest, digest: str) -> dict[str, Any]:
    """Return what matters most of *manifest*, as JSON values."""
    return {
        "model": manifest.reference,
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "head": manifest.postprocess.kind,
        "digest": digest,
        "classes": len(manifest.labels),
        "variants": {v.id: {"size": v.size, "unproven": v.unproven, "metrics": v.metrics} for v in manifest.variants},
        "rejected": {v.id: {"reason": v.reason, "metrics": v.metrics} for v in manifest.rejected},
    }


def _proofs(manifest: Manifest, url: str | None) -> list[dict[str, Any]]:
    """Return what devices said of the unproven variants of *manifest*; nothing if there are none, or no controller."""
    from runtime.client import Client
    from runtime.errors import ApiError

    if not any(variant.unproven for variant in manifest.variants):
        return []
    try:
        with Client.find(url) as client:
            found: list[dict[str, Any]] = client.get(f"/models/{manifest.name}/{manifest.version}/proofs")
            return found
    except ApiError:
        if url is not None:
            raise
        return []  # models are looked at without a controller, too


def _answers(manifest: Manifest) -> dict[str, str]:
    """Return how a model answers, and the settings that matter to its head."""
    postprocess = manifest.postprocess
    bound = ", ".join(f"{role} from {output!r}" for role, output in postprocess.outputs.items())
    facts = {"head": f"{postprocess.kind}{f' ({bound})' if bound else ''}, activation {postprocess.activation}"}
    if postprocess.kind in THRESHOLDED or postprocess.multi_label:
        suppresses = postprocess.kind in SUPPRESSING
        iou = f", boxes that overlap by {postprocess.iou_threshold:g} suppressed" if suppresses else ""
        facts["answers"] = f"with a score of {postprocess.score_threshold:g} or more{iou}"
    if postprocess.keypoints:
        facts["keypoints"] = _listed(postprocess.keypoints)
    return facts


def _listed(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join([*names[:MOST_NAMES], *['...'][: len(names) > MOST_NAMES]])}"


def _summary(manifest: Manifest, digest: str, proofs: Sequence[dict[str, Any]]) -> str:
    provenance, requires = manifest.provenance, manifest.requires
    facts = {
        "model": f"{manifest.reference} ({manifest.task}, manifest {digest})",
        **_answers(manifest),
        "classes": _listed(manifest.labels) if manifest.labels else "without names",
        "input": ", ".join(map(str, manifest.variants[0].inputs)),
        "made by": f"{provenance.framework}, {provenance.created:%Y-%m-%d %H:%M} UTC",
        "dataset": provenance.dataset or "unknown",
        "needs": f"ONNX Runtime {requires.ort}, {requires.memory_mb} MB of memory, {requires.disk_mb} MB of disk",
    }
    lines = [f"{what:9} {fact}" for what, fact in facts.items()]
    return "\n".join([*lines, "", figures(manifest, proofs)])


for verb in (*card.VERBS, *look.VERBS, *optimize.VERBS, *prune.VERBS, *quantize.VERBS):
    model.add_command(verb)
