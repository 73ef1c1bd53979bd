"""The container files fit the code: no engine runs here, so what they promise is checked piece by piece.

hadolint and the compose schema are part of `make lint`.
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

ROOT = Path(__file__).parents[3]
CONTAINERS = ROOT / "infra" / "containers"
DOCKERFILES = sorted(CONTAINERS.glob("Dockerfile.*"))
COMPOSE = yaml.safe_load((CONTAINERS / "compose.yaml").read_text(encoding="utf-8"))
PROGRAMS = {"vedette": "runtime.cli:vedette", "vedette-agent": "edge_agent.cli:agent"}
WHEEL_NEEDS = ("cluster", "controller", "edge_agent", "runtime", "pyproject.toml", "README.md", "LICENSE")


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return (instruction, rest) of each logical line, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]


def of_kind(dockerfile: Path, kind: str) -> list[str]:
    return [rest for word, rest in instructions(dockerfile) if word == kind]


def parse_as_program(words: list[str]) -> click.Context:
    """Let the program that *words* name parse the rest, as it would before it acts; wrong words raise."""
    module, _, name = PROGRAMS[words[0]].partition(":")
    command, rest = getattr(importlib.import_module(module), name), words[1:]
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, click.Context(found, parent=context)
    return command.make_context(command.name, list(rest))


def by_name(paths: list[Path]) -> list[Any]:
    return [pytest.param(path, id=path.suffix[1:]) for path in paths]


def test_there_is_an_image_for_controller_worker_and_agent() -> None:
    assert [path.suffix for path in DOCKERFILES] == [".agent", ".controller", ".worker"]


def test_all_images_have_one_base_of_one_version() -> None:
    bases = {rest.split(" ")[0] for path in DOCKERFILES for rest in of_kind(path, "FROM")}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", bases.pop())


@pytest.mark.parametrize("dockerfile", by_name(DOCKERFILES))
def test_an_image_runs_as_a_number_that_is_not_root(dockerfile: Path) -> None:
    last_stage = instructions(dockerfile)[
        [word for word, _ in instructions(dockerfile)].index("USER") - len(instructions(dockerfile)) :
    ]
    assert last_stage[0][1] == "${USER_ID}"
    assert "RUN" not in [word for word, _ in last_stage]
    (default,) = [rest for rest in of_kind(dockerfile, "ARG") if rest.startswith("USER_ID=")]
    assert int(default.removeprefix("USER_ID=")) > 0


@pytest.mark.parametrize("dockerfile", by_name(DOCKERFILES))
def test_an_image_takes_only_what_is_pinned_and_nothing_by_address(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    assert of_kind(dockerfile, "ADD") == []
    assert not re.search(r"\b(curl|git clone)\b|RUN.*\bhttps?://", text)
    (wheels,) = [rest for rest in of_kind(dockerfile, "RUN") if rest.startswith("pip wheel")]
    assert "--constraint constraints.txt" in wheels
    (install,) = [rest for rest in of_kind(dockerfile, "RUN") if "pip install" in rest]
    assert "--no-index" in install


@pytest.mark.parametrize("dockerfile", by_name(DOCKERFILES))
def test_an_image_is_built_with_extras_that_exist(dockerfile: Path) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (extras,) = re.findall(r'"\.\[([^\]]+)\]"', dockerfile.read_text(encoding="utf-8"))
    defaults = dict(rest.split("=") for rest in of_kind(dockerfile, "ARG") if "=" in rest)
    named = [re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], extra) for extra in extras.split(",")]
    assert set(named) <= set(known)


@pytest.mark.parametrize("dockerfile", by_name([path for path in DOCKERFILES if path.suffix != ".worker"]))
def test_what_an_image_runs_is_a_command_of_ours(dockerfile: Path) -> None:
    (entrypoint,), (arguments,) = of_kind(dockerfile, "ENTRYPOINT"), of_kind(dockerfile, "CMD")
    context = parse_as_program([*json.loads(entrypoint), *json.loads(arguments)])
    assert context.command.name in {"serve", "run"}


def test_the_controllers_health_is_asked_where_it_listens() -> None:
    (controller,) = [path for path in DOCKERFILES if path.suffix == ".controller"]
    (check,) = of_kind(controller, "HEALTHCHECK")
    (arguments,) = of_kind(controller, "CMD")
    (url,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", check)
    assert f"0.0.0.0:{url[0]}" in json.loads(arguments)
    routes = importlib.import_module("controller.api.system_routes").router.routes
    assert url[1] in {f"/api/v1{route.path}" for route in routes}


def test_the_build_context_holds_what_the_wheel_is_made_of_and_no_more() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    kept = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert kept == {*WHEEL_NEEDS, "constraints.txt"}
    assert all((ROOT / name).exists() for name in kept)
    assert fnmatch.filter(ignore, "**/__pycache__")


def test_the_composition_names_files_that_exist() -> None:
    for service in COMPOSE["services"].values():
        if build := service.get("build"):
            context = (CONTAINERS / build["context"]).resolve()
            assert context == ROOT
            assert (context / build["dockerfile"]) in DOCKERFILES
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (CONTAINERS / source).is_file()
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"]


@pytest.mark.parametrize(("service", "program"), [("controller", "vedette"), ("agent", "vedette-agent")])
def test_what_the_composition_runs_is_a_command_of_ours(service: str, program: str) -> None:
    context = parse_as_program([program, *COMPOSE["services"][service]["command"]])
    if service == "controller":
        assert context.params["broker"] == "mqtt://mosquitto:1883"
        assert shlex.split(context.params["broker_reload_command"]) == ["bash", "-c", "kill -HUP 1"]


def test_the_controller_writes_mosquittos_files_where_mosquitto_reads_them() -> None:
    from controller.broker.mosquitto import Files
    from runtime.home import Home

    services = COMPOSE["services"]
    mounts = {
        name: dict(volume.split(":")[:2] for volume in services[name]["volumes"])
        for name in ("controller", "mosquitto")
    }
    written = Files(Home(Path(mounts["controller"]["controller"])).controller / "broker" / "mosquitto")
    assert Path(mounts["controller"]["broker"]) == written.directory
    configuration = (CONTAINERS / "mosquitto.conf").read_text(encoding="utf-8").splitlines()
    read = dict(line.split(" ", 1) for line in configuration if line and not line.startswith("#"))
    assert Path(read["password_file"]) == Path(mounts["mosquitto"]["broker"]) / written.passwords.name
    assert Path(read["acl_file"]) == Path(mounts["mosquitto"]["broker"]) / written.acl.name
    assert services["controller"]["build"]["args"]["USER_ID"] == services["mosquitto"]["user"].split(":")[0]
