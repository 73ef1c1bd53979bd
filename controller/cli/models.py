"""The verbs `vedette train` and `vedette model`: thin calls of `controller.lifecycle` and `controller.registry`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.manifest import Manifest, RejectedVariant, Variant
from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    from runtime.store import ModelStore

__all__ = ["model", "train"]


@click.command()
@click.option(
    "--data", required=True, metavar="URI", help="Dataset: Parquet, image folder, IDX, CIFAR-10, or 'digits'."
)
@click.option("--arch", required=True, help="resnet18-small, tiny, or MODULE:FACTORY.")
@click.option("--epochs", required=True, type=int, help="How often the data is gone through.")
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
def train(*, as_json: bool, resume: bool, **options: Any) -> None:
    """Train a classifier; `vedette model import RUN` publishes it."""
    # GNU OpenMP's threads spin while they wait; beside other work on the same cores that made an epoch 15 times
    # slower. It is read when torch is loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from controller.lifecycle.training.record import TrainingConfig
    from controller.lifecycle.training.run import train as run_training

    config = TrainingConfig(**options)
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


@model.command(name="import")
@click.argument("source")
@click.option("--name", required=True, help="Of the model: lowercase letters, digits, '-' and '_'.")
@click.option("--task", required=True, help="What the model does: classification.")
@click.option("--labels", type=click.Path(path_type=Path), help="Class names, one a line.")
@click.option("--preprocess", metavar="PRESET|FILE", help="How pictures are prepared: imagenet, raw255, ... or JSON.")
@click.option("--activation", metavar="softmax|sigmoid|none", help="Of the output.  [default: found out]")
@click.option("--calibration", metavar="URI", help="Images to calibrate int8 with.")
@click.option("--evaluation", metavar="URI", help="Labelled images to measure accuracy on.")
@click.option("--image-column", help="Of Parquet.  [default: found out]")
@click.option("--label-column", help="Of Parquet.  [default: label]")
@click.option("--precision", metavar="fp32,int8", help="Variants to build.  [default: int8 too, if there is data]")
@click.option("--max-drop", type=float, default=0.5, show_default=True, help="Top-1 points that a variant may lose.")
@store_option
@json_option
def import_command(*, as_json: bool, store: str | None, precision: str | None, **options: Any) -> None:
    """Bring SOURCE (a training run or an .onnx file) through the gate, and publish it."""
    from controller.lifecycle.pipeline import ImportRequest, import_model
    from runtime.store import ModelStore

    precisions = None if precision is None else tuple(part.strip() for part in precision.split(","))
    report = import_model(ImportRequest(precisions=precisions, **options), ModelStore.open(store))
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    result = {**_describe(report.manifest), "notes": list(report.notes)}
    emit(result, as_json=as_json, text=lambda: f"published {report.manifest.reference}\n{_figures(report.manifest)}")


@model.command(name="list")
@store_option
@json_option
def list_command(*, as_json: bool, store: str | None) -> None:
    """List the published models, newest versions."""
    from runtime.store import ModelStore

    opened = ModelStore.open(store)
    published = {name: versions for name in opened.names() if (versions := opened.versions(name))}
    manifests = [opened.manifest(name, versions[-1]) for name, versions in published.items()]
    rows = [
        (m.name, m.version, m.task, len(m.labels), ", ".join(v.id for v in m.variants), m.provenance.created)
        for m in manifests
    ]
    value = [
        {**_describe(m), "versions": published[m.name], "created": m.provenance.created.isoformat()} for m in manifests
    ]
    headers = ("name", "version", "task", "classes", "variants", "created")
    emit(value, as_json=as_json, text=lambda: table(headers, rows) if rows else f"no models in {opened.uri}")


@model.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@store_option
@json_option
def show(*, reference: str, as_json: bool, store: str | None) -> None:
    """Show what is known of a model: its manifest with --json, a summary otherwise."""
    _, manifest = _published(reference, store)
    emit(manifest.model_dump(mode="json", by_alias=True), as_json=as_json, text=lambda: _summary(manifest))


@model.command()
@click.argument("reference", metavar="NAME[@VERSION]")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--variant", "variants", multiple=True, help="Only this variant; may be given again.  [default: all]")
@store_option
@json_option
def pull(*, reference: str, directory: Path, variants: tuple[str, ...], as_json: bool, store: str | None) -> None:
    """Copy a model into a new DIRECTORY, every file verified."""
    opened, manifest = _published(reference, store)
    artifact = opened.pull(manifest.name, manifest.version, directory, variants=variants or None)
    result = {"model": manifest.reference, "directory": str(artifact.root), "digest": artifact.digest}
    emit(result, as_json=as_json, text=f"{manifest.reference} is in {artifact.root} (manifest {artifact.digest})")


@model.command()
@click.argument("reference", metavar="NAME[@VERSION]|PATH")
@store_option
@json_option
def validate(*, reference: str, as_json: bool, store: str | None) -> None:
    """Check every file of a model, put its graphs through the gate again, and prove them on this machine's CPU."""
    from controller.lifecycle.gate import check_graph
    from runtime.errors import ArtifactError
    from runtime.proof import prove_isolated
    from runtime.store import ModelStore, resolve_artifact

    artifact = resolve_artifact(reference, ModelStore.open(store))
    artifact.verify()
    proofs = []
    for variant in artifact.manifest.variants:
        check_graph(artifact.root / variant.file)
        proofs.append(prove_isolated(artifact.root, variant.id, "CPUExecutionProvider"))
    if failed := [proof for proof in proofs if not proof.passed]:
        reasons = "; ".join(f"{proof.variant}: {proof.reason}" for proof in failed)
        raise ArtifactError(f"{artifact.manifest.reference} is not valid: {reasons}")
    result = {
        "model": artifact.manifest.reference,
        "valid": True,
        "proofs": [p.model_dump(mode="json") for p in proofs],
    }
    lines = [f"{proof.variant}: {proof.reason}, max abs difference {proof.max_abs:.3g}" for proof in proofs]
    emit(result, as_json=as_json, text="\n".join([f"{artifact.manifest.reference} is valid", *lines]))


def _published(reference: str, store: str | None) -> tuple[ModelStore, Manifest]:
    """Return the store, and the manifest that *reference* means in it."""
    from runtime.store import ModelStore, parse_reference

    opened = ModelStore.open(store)
    name, version = parse_reference(reference)
    return opened, opened.manifest(name, version if version is not None else opened.latest(name))


def _describe(manifest: Manifest) -> dict[str, Any]:
    """Return what matters most of *manifest*, as JSON values."""
    return {
        "model": manifest.reference,
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "digest": manifest.digest,
        "classes": len(manifest.labels),
        "variants": {v.id: {"size": v.size, "metrics": v.metrics} for v in manifest.variants},
        "rejected": {v.id: {"reason": v.reason, "metrics": v.metrics} for v in manifest.rejected},
    }


def _figures(manifest: Manifest) -> str:
    """Return a table of the variants, those rejected too."""

    def row(variant: Variant | RejectedVariant, size: str, verdict: str) -> tuple[object, ...]:
        metrics = variant.metrics
        top1 = f"{metrics['top1']:.2%}" if "top1" in metrics else "-"
        agreement = f"{metrics['agreement_fp32']:.2%}" if "agreement_fp32" in metrics else "-"
        return variant.id, size, top1, agreement, f"{metrics['latency_ms']:.3f}", verdict

    rows = [row(variant, f"{variant.size / 1e6:.2f} MB", "published") for variant in manifest.variants]
    rows += [row(variant, "-", f"rejected: {variant.reason}") for variant in manifest.rejected]
    return table(("variant", "size", "top-1", "as fp32", "ms, 1 thread", ""), rows)


def _summary(manifest: Manifest) -> str:
    provenance, requires = manifest.provenance, manifest.requires
    facts = {
        "model": f"{manifest.reference} ({manifest.task}, manifest {manifest.digest})",
        "classes": f"{len(manifest.labels)}: {', '.join([*manifest.labels[:8], *['...'][: len(manifest.labels) > 8]])}",
        "input": ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in manifest.variants[0].inputs),
        "made by": f"{provenance.framework}, {provenance.created:%Y-%m-%d %H:%M} UTC",
        "dataset": provenance.dataset or "unknown",
        "needs": f"ONNX Runtime {requires.ort}, {requires.memory_mb} MB of memory, {requires.disk_mb} MB of disk",
    }
    lines = [f"{what:8} {fact}" for what, fact in facts.items()]
    return "\n".join([*lines, "", _figures(manifest)])
