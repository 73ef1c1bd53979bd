"""The verbs that look at a model: `vedette model inspect`, `benchmark`, `profile`, `compare` and `view`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.errors import UsageError
from runtime.terminal import emit, json_option

if TYPE_CHECKING:
    from controller.lifecycle.look.target import Target

__all__ = ["VERBS"]

reference_argument = click.argument("reference", metavar="NAME[@VERSION]|DIR|FILE.onnx")
variant_option = click.option("--variant", "variants", multiple=True, help="Only this one; may be given again.")
store_option = click.option("--store", metavar="URI", help="Artifact store.  [default: under VEDETTE_HOME]")


def _targets(reference: str, variants: tuple[str, ...], store: str | None) -> tuple[Target, ...]:
    from controller.lifecycle.look.target import find_targets
    from runtime.store import ModelStore

    return find_targets(reference, variants, ModelStore.open(store))


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{option} is {text!r}; expected whole numbers with commas between them") from None


@click.command()
@reference_argument
@variant_option
@store_option
@json_option
def inspect(*, reference: str, variants: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Show what is in a graph: inputs, outputs, versions, operators, parameters, MACs, size, metadata."""
    from controller.lifecycle.look.inspection import inspect as look_into

    found = [look_into(target) for target in _targets(reference, variants, store)]
    emit([one.as_json() for one in found], as_json=as_json, text=lambda: "\n\n".join(one.as_text() for one in found))


@click.command()
@reference_argument
@variant_option
@click.option("--provider", "providers", multiple=True, default=("cpu",), show_default=True, help="May be given again.")
@click.option("--batch", default="1,8", show_default=True, metavar="N,...", help="Pictures in a run.")
@click.option("--threads", default="1,0", show_default=True, metavar="N,...", help="In an operator; 0: one a core.")
@click.option("--seconds", type=float, default=2.0, show_default=True, help="For each measurement.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="PNG file to draw.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
@store_option
@json_option
def benchmark(
    *,
    reference: str,
    variants: tuple[str, ...],
    store: str | None,
    plot: Path | None,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a model here: providers x batches x threads x variants, each in a process of its own."""
    import json

    from controller.lifecycle.look import benchmark as measuring

    rows = measuring.benchmark(
        _targets(reference, variants, store),
        providers=options["providers"],
        batches=_numbers(options["batch"], "--batch"),
        threads=_numbers(options["threads"], "--threads"),
        seconds=options["seconds"],
    )
    result = [row.as_json() for row in rows]
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        measuring.draw(rows, plot)
    emit(result, as_json=as_json, text=lambda: measuring.as_table(rows))


@click.command()
@reference_argument
@click.option("--variant", help="Which one.  [default: the first]")
@click.option("--provider", default="cpu", show_default=True, help="Execution provider.")
@click.option("--batch", type=int, default=1, show_default=True, help="Pictures in a run.")
@click.option("--threads", type=int, default=0, show_default=True, help="In an operator; 0: one a core.")
@click.option("--runs", type=int, default=20, show_default=True, help="To take the mean of.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="profile.json",
    show_default=True,
    help="File for the trace, in Chrome's format.",
)
@store_option
@json_option
def profile(*, reference: str, variant: str | None, store: str | None, as_json: bool, **options: Any) -> None:
    """Show where a graph's time goes, by operator and by node, and keep the trace."""
    from controller.lifecycle.look.profile import profile as run_profile

    target = _targets(reference, (variant,) if variant else (), store)[0]
    found = run_profile(target, **options)
    emit(found.as_json(), as_json=as_json, text=found.as_text)


def _one(reference: str, store: str | None) -> Target:
    """Return the graph that ``MODEL[#VARIANT]`` means, the first one if no variant is named."""
    model, _, variant = reference.partition("#")
    return _targets(model, (variant,) if variant else (), store)[0]


@click.command()
@click.argument("first", metavar="FIRST[#VARIANT]")
@click.argument("second", metavar="SECOND[#VARIANT]")
@click.option("--data", metavar="URI", help="Pictures, labelled for accuracy.  [default: synthetic ones]")
@click.option("--image-column", help="Of Parquet.  [default: found out]")
@click.option("--label-column", help="Of Parquet.  [default: label]")
@store_option
@json_option
def compare(*, first: str, second: str, data: str | None, store: str | None, as_json: bool, **columns: Any) -> None:
    """Show how SECOND differs from FIRST: answers, accuracy, latency, and layer by layer.

    Both are models, artifact directories or .onnx files: digits@1 digits@2, or 'digits#fp32' 'digits#int8-u8s8'.
    """
    from controller.lifecycle.look.compare import compare as find_differences
    from runtime.datasets import open_dataset

    opened = None if data is None else open_dataset(data, **columns)
    found = find_differences(_one(first, store), _one(second, store), opened)
    emit(found.as_json(), as_json=as_json, text=found.as_text)


@click.command()
@reference_argument
@click.option("--variant", help="Which one.  [default: the first]")
@click.option("--port", type=int, default=0, help="Of the page on localhost.  [default: a free one]")
@click.option("--browse/--no-browse", default=True, help="Open a browser.")
@store_option
def view(*, reference: str, variant: str | None, port: int, browse: bool, store: str | None) -> None:
    """Show a graph in Netron on localhost, where Netron is installed; Ctrl-C ends it."""
    from controller.lifecycle.look.view import serve

    target = _targets(reference, (variant,) if variant else (), store)[0]
    with serve(target, port=port, browse=browse) as served:
        click.echo(f"{target} is at {served.address}; Ctrl-C ends it", err=True)
        served.wait()


VERBS = (inspect, benchmark, profile, compare, view)
