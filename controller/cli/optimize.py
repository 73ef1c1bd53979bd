"""The verb `vedette model optimize`: a graph made smaller, or written for one kind of machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli.shared import custom_ops_option
from runtime.errors import UsageError
from runtime.terminal import emit, json_option, table

if TYPE_CHECKING:
    from controller.lifecycle.look.target import Target
    from controller.lifecycle.optimize.portable import Optimized, Size

__all__ = ["VERBS"]


@click.command()
@click.argument("reference", metavar="NAME[@VERSION]|DIR|FILE.onnx")
@click.option("--variant", help="Which one.  [default: the first]")
@click.option(
    "--fold-normalization", "folds", is_flag=True, help="Fold a normalization into the first convolution, too."
)
@click.option("--for", "provider", metavar="PROVIDER", help="Write ONNX Runtime's own graph for it, of this machine.")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="ONNX file to write, as in out.onnx."
)
@custom_ops_option
@click.option("--store", metavar="URI", help="Artifact store.  [default: under VEDETTE_HOME]")
@json_option
def optimize(
    *,
    reference: str,
    variant: str | None,
    folds: bool,
    provider: str | None,
    out: Path,
    custom_ops: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Write a graph that gives the same with fewer nodes, or, with --for, one that this kind of machine loads sooner.

    `vedette model import` does the first by itself.
    """
    from controller.lifecycle.look.target import find_targets
    from runtime.store import ModelStore

    if out.suffix != ".onnx":
        raise UsageError(f"--out {out} does not end in .onnx")
    if provider is not None and folds:
        raise UsageError("--fold-normalization is for a portable graph; leave it or --for out")
    target = find_targets(reference, (variant,) if variant else (), ModelStore.open(store), custom_ops)[0]
    if provider is None:
        _portable(target, out, folds=folds, as_json=as_json)
    else:
        _offline(target, provider, out, as_json=as_json)


def _portable(target: Target, out: Path, *, folds: bool, as_json: bool) -> None:
    from controller.lifecycle.gate.checks import gate_batches
    from controller.lifecycle.graph import load_graph
    from controller.lifecycle.look.target import noise
    from controller.lifecycle.optimize.portable import optimize_graph
    from controller.lifecycle.optimize.steps import FOLDING, STEPS
    from runtime.files import replace_bytes

    found = optimize_graph(
        load_graph(target.path),
        lambda session: [noise(session, count) for count in gate_batches(session.image)],
        target.custom_ops,
        {**STEPS, **FOLDING} if folds else STEPS,
        timed=True,
    )
    replace_bytes(out, found.model.SerializeToString())
    result = {
        "model": str(target),
        "out": str(out),
        "before": {**asdict(found.before), "latency_ms": found.before_ms},
        "after": {**asdict(found.after), "latency_ms": found.after_ms},
        "steps": [asdict(step) for step in found.steps],
    }
    emit(result, as_json=as_json, text=lambda: f"{_steps(found)}\n{out}: {found.after} instead of {found.before}")


def _steps(found: Optimized) -> str:
    def row(name: str, size: Size | None, latency: float | None, said: str) -> tuple[object, ...]:
        figures = (size.nodes, size.bytes) if size is not None else ("-", "-")
        return name, *figures, "-" if latency is None else f"{latency:.3f}", said

    rows = [row("before", found.before, found.before_ms, "")]
    rows += [
        row(one.step, one.size, one.latency_ms, "kept" if one.kept else f"left out: {one.said}") for one in found.steps
    ]
    return table(("step", "nodes", "bytes", "ms, 1 thread", ""), rows)


def _offline(target: Target, provider: str, out: Path, *, as_json: bool) -> None:
    from controller.lifecycle.optimize.offline import write_offline

    path, built_for = write_offline(target.path, provider, out, target.custom_ops)
    emit(
        {"model": str(target), "out": str(path), **asdict(built_for)},
        as_json=as_json,
        text=f"{path}: for {built_for}; elsewhere it may not load, and it cannot be imported. "
        "Load it with graph optimizations off",
    )


VERBS = (optimize,)
