"""What a batch job can be asked for: the options that `vedette batch run` and `submit` share.

Rules:
    * An option of a job is spelled here and nowhere else. Where the job runs (`--local`, `--address`)
      and what becomes of its plan (`--dry-run`) are each verb's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["JOB_OPTIONS", "job_option_names", "job_options"]

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

JOB_OPTIONS: tuple[Decorator, ...] = (
    click.option(
        "--model",
        required=True,
        multiple=True,
        help="NAME, NAME@VERSION, or the path of an artifact; several, each with the option, answer in one pass.",
    ),
    click.option(
        "--input", "input_", required=True, metavar="URI", help="Parquet, image folder, IDX, CIFAR archive, digits."
    ),
    click.option(
        "--output", required=True, metavar="URI", help="Directory to write; it belongs to this job from then on."
    ),
    click.option("--image-column", metavar="COLUMN", help="Holds the images; found out if there is only one."),
    click.option(
        "--keep",
        multiple=True,
        metavar="COLS",
        help="Input columns to pass through: COLUMN or COLUMN=NAME, separated by commas; where the output has a column "
        "of that name itself, COLUMN is kept as input_COLUMN.",
    ),
    click.option(
        "--evaluate",
        metavar="COLUMN",
        help="Judge the answers by this column, which is kept: classes (names or indices), objects or masks, as the "
        "task needs them.",
    ),
    click.option(
        "--partition-by",
        metavar="COLUMN",
        help="Write a folder for each value of this input column of text, integers, booleans or dates, which is kept.",
    ),
    click.option(
        "--max-partitions",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
        help="End the job at more values of --partition-by.",
    ),
    click.option("--filter", "filter_", metavar="EXPR", help="Rows to take: COLUMN OP LITERAL [and ...]."),
    click.option(
        "--sample",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="FRACTION",
        help="Part of the rows to take, each by chance, before --filter [default: all].",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of --sample."),
    click.option(
        "--limit", type=click.IntRange(min=1), metavar="N", help="Take the first N rows, of the sample if there is one."
    ),
    click.option(
        "--workers",
        default="auto",
        show_default=True,
        metavar="SPEC",
        help="auto (one an accelerator, else one a core), N, or by execution provider: cuda=4,cpu=16.",
    ),
    click.option("--provider", default="auto", show_default=True, help="Execution provider to run on."),
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        help="Images an inference [default: found out as the job begins].",
    ),
    click.option(
        "--threads",
        metavar="SESSION:DECODE",
        help="Threads of each worker, within an inference and to decode [default: found out].",
    ),
    click.option(
        "--decoder",
        type=click.Choice(["cpu", "auto", "nvimagecodec"]),
        default="cpu",
        show_default=True,
        help="What decodes: the CPU, NVIDIA's nvImageCodec on a GPU, or that one where it can be used.",
    ),
    click.option(
        "--decode-actors",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="So many processes on nodes without an accelerator decode for the workers; pixels then cross the network.",
    ),
    click.option(
        "--worker-memory",
        type=click.IntRange(min=1),
        default=1024,
        show_default=True,
        metavar="MIB",
        help="Bound on the images in each worker's buffers; model and libraries come on top.",
    ),
    click.option(
        "--fetch-concurrency",
        type=click.IntRange(min=1),
        default=16,
        show_default=True,
        help="Images that a worker fetches at a time, where a column names them by URL.",
    ),
    click.option(
        "--shard-rows", type=click.IntRange(min=1), help="At most so many rows a shard [default: by input size]."
    ),
    click.option(
        "--file-bytes",
        type=click.IntRange(min=0),
        default=128 * 1024**2,
        show_default=True,
        metavar="BYTES",
        help="Join the files of shards up to so many bytes a file; 0 leaves one file a shard.",
    ),
    click.option("--max-bad-rows", type=click.IntRange(min=0), help="End the job at more bad rows [default: never]."),
    click.option(
        "--max-retries", type=click.IntRange(min=0), default=3, show_default=True, help="Further tries of a shard."
    ),
    click.option(
        "--stall-timeout",
        type=click.FloatRange(min=1),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="Give a shard up that makes no progress for so long.",
    ),
    click.option(
        "--shard-timeout",
        type=click.FloatRange(min=1),
        metavar="SECONDS",
        help="Give a try of a shard up that takes longer [default: never].",
    ),
    click.option("--store", metavar="URI", help="Artifact store that --model names a model of."),
)
"""In the order in which `--help` lists them."""


def job_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option of a job to the command that *function* is."""
    for option in reversed(JOB_OPTIONS):
        function = option(function)
    return function


def job_option_names() -> frozenset[str]:
    """Return the names of a job's options, without dashes before them."""
    added = click.command()(job_options(lambda **_: None)).params
    return frozenset(parameter.opts[0].lstrip("-") for parameter in added)
