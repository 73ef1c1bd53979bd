"""What the command line leaves unsaid is what a call of the library leaves unsaid."""

from __future__ import annotations

from dataclasses import fields

import click

from cluster.cli.options import job_options
from cluster.planning import BatchOptions


def test_defaults_are_those_of_the_library() -> None:
    given = ["--model", "m", "--input", "i", "--output", "o"]
    said = click.command()(job_options(lambda **options: options)).main(given, standalone_mode=False)
    names = {"model": "models"}
    said = {names.get(name, name.rstrip("_")): value for name, value in said.items()}
    library = BatchOptions(models=("m",), input="i", output="o")
    assert said.keys() <= {field.name for field in fields(library)}
    assert said == {name: getattr(library, name) for name in said}
