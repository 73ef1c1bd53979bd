"""The rules of the house: light modules stay light, names are what they say, commands explain themselves."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("runtime", "controller", "cluster", "edge_agent")
LIGHT = ("runtime", "edge_agent")
HEAVY = {"torch", "ray", "fastapi", "sqlalchemy"}
LONGEST_MODULE = 400  # lines, about (DESIGN.md, layout)

# Imports every module of the packages named, and says what each one promises and what was loaded on the way.
SURVEY = """
import importlib, json, pkgutil, sys
modules = {}
for package in sys.argv[1:]:
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    for name in [package, *(info.name for info in found)]:
        if not name.endswith(".__main__") and ".migrations." not in name:  # those run when they are imported
            module = importlib.import_module(name)
            names = getattr(module, "__all__", None)
            modules[name] = {
                "documented": bool((module.__doc__ or "").strip()),
                "absent": [one for one in names or () if not hasattr(module, one)],
                "twice": sorted({one for one in names or () if list(names).count(one) > 1}),
                "undeclared": [
                    key for key, value in vars(module).items()
                    if names is None and not key.startswith("_") and getattr(value, "__module__", None) == name
                ],
            }
print(json.dumps({"modules": modules, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""

WITHOUT_JSON = {"vedette-agent run", "vedette model view"}  # run until they are stopped
OF_ANOTHER_INTERPRETER = {"tensorflow"}  # `--importer-python` names one that has it


def survey(packages: tuple[str, ...]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SURVEY, *packages], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def modules() -> dict[str, dict[str, Any]]:
    return survey(PACKAGES)["modules"]


def walk(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below *group*, groups too, with the words that call it."""
    context = click.Context(group, info_name=path)
    for verb in group.list_commands(context):
        command = group.get_command(context, verb)
        assert command is not None, f"{path} lists {verb} and does not have it"
        yield f"{path} {verb}", command
        if isinstance(command, click.Group):
            yield from walk(command, f"{path} {verb}")


@pytest.fixture(scope="module")
def commands() -> dict[str, click.Command]:
    vedette = importlib.import_module("runtime.cli").vedette
    agent = importlib.import_module("edge_agent.cli").agent
    return {**dict(walk(vedette, "vedette")), **dict(walk(agent, "vedette-agent"))}


@pytest.mark.parametrize("package", LIGHT)
def test_light_packages_load_nothing_heavy(package: str) -> None:
    found = survey((package,))
    assert len(found["modules"]) > 10
    assert not HEAVY & set(found["loaded"])


def test_the_siblings_are_all_there(modules: dict[str, dict[str, Any]]) -> None:
    assert {name.partition(".")[0] for name in modules} == set(PACKAGES)


def test_every_module_says_what_it_is(modules: dict[str, dict[str, Any]]) -> None:
    assert not [name for name, facts in modules.items() if not facts["documented"]]


def test_public_names_exist_once(modules: dict[str, dict[str, Any]]) -> None:
    assert not [f"{name}.{absent}" for name, facts in modules.items() for absent in facts["absent"]]
    assert not [f"{name}.{twice}" for name, facts in modules.items() for twice in facts["twice"]]


def test_what_a_module_defines_for_others_is_declared(modules: dict[str, dict[str, Any]]) -> None:
    assert not [f"{name}.{public}" for name, facts in modules.items() for public in facts["undeclared"]]


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_what_is_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {canonicalize_name(Requirement(text).name) for text in requirements}
    brought_by = packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in imported_names(path)
        if (top := name.partition(".")[0]) not in {*sys.stdlib_module_names, *PACKAGES, *OF_ANOTHER_INTERPRETER}
        and declared.isdisjoint(map(canonicalize_name, brought_by.get(top, ())))
    }
    assert not undeclared


def test_modules_stay_small() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert not [f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST_MODULE]


def test_every_command_and_option_explains_itself(commands: dict[str, click.Command]) -> None:
    silent = [name for name, command in commands.items() if not command.get_short_help_str()]
    silent += [
        f"{name} {option.opts[0]}"
        for name, command in commands.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert not silent


def test_every_command_with_a_result_prints_it_as_json(commands: dict[str, click.Command]) -> None:
    plain = {
        name
        for name, command in commands.items()
        if not isinstance(command, click.Group) and not any("--json" in option.opts for option in command.params)
    }
    assert plain == WITHOUT_JSON
