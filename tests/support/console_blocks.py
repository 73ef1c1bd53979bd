"""Commands in Markdown, as a reader would type them.

Rules:
    * Commands stand in fenced ``console`` blocks, behind ``$ ``; a line ending in a backslash goes on
      in the next one, and lines behind ``> `` belong to the command above. Other lines are output.
    * A comment above a block says what is special about it:
      ``<!-- test: skip because REASON -->``      not run; a test file named in REASON must exist
      ``<!-- test: background -->``               its last command is a server: it is left running
      ``<!-- test: background until "TEXT" -->``  the same; go on when it has printed TEXT
      ``<!-- test: expect exit N -->``            its last command ends with N, not with 0
    * Nothing slips through: a shell block in another language, a comment that is not understood and
      a comment with no block below it are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["Command", "DocumentError", "Skip", "read_commands"]

SHELLS = frozenset({"bash", "sh", "shell", "shell-session", "shellsession", "zsh"})
_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w-]*)")
_COMMENT = re.compile(r"^\s*<!--\s*test:\s*(?P<text>.*?)\s*-->\s*$")
_TEST_FILE = re.compile(r"\btests/[\w/.-]+\.py\b")


class DocumentError(Exception):
    """A document's commands cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A block is not run."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A block's last command is a server."""

    until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """A block's last command fails on purpose."""

    code: str  # decimal digits


Directive = Skip | Background | Expect


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command, and what is expected of it."""

    line: int  # in the document, from 1
    text: str
    expect: int = 0
    background: bool = False
    until: str | None = None


_DIRECTIVES: Mapping[re.Pattern[str], type[Directive]] = {
    re.compile(r"skip because (?P<reason>\S.*)"): Skip,
    re.compile(r'background(?: until "(?P<until>[^"]+)")?'): Background,
    re.compile(r"expect exit (?P<code>\d+)"): Expect,
}


def read_commands(document: Path, root: Path) -> list[Command]:
    """Return the commands of *document* that are to be run, in order.

    Args:
        document: A Markdown file.
        root: Where the paths of test files in reasons for skipping start.

    Raises:
        DocumentError: A rule of this module is broken; the text names the line.
    """
    commands: list[Command] = []
    for line, directives, lines in _blocks(document):
        skips = [one for one in directives if isinstance(one, Skip)]
        for skip in skips:
            _check_reason(skip, root, f"{document}:{line}")
        found = list(_split(lines, line, document))
        if not skips:
            commands += [*found[:-1], _apply(found[-1], directives)]
    return commands


def _blocks(document: Path) -> Iterator[tuple[int, list[Directive], list[str]]]:
    """Yield (line of the first command, directives above, lines) of each ``console`` block."""
    pending: list[Directive] = []
    lines = iter(enumerate(document.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if fence := _FENCE.match(line):
            body = [text for _, text in _until_closed(lines, fence, f"{document}:{number}")]
            if fence["language"] in SHELLS:
                raise DocumentError(
                    f"{document}:{number}: a {fence['language']} block; write ```console, so that it runs"
                )
            if fence["language"] == "console":
                yield number + 1, pending, body
                pending = []
        elif comment := _COMMENT.match(line):
            pending.append(_directive(comment["text"], f"{document}:{number}"))
            continue
        if line.strip() and pending:
            raise DocumentError(f"{document}:{number}: expected a console block below the test comment, found {line!r}")
    if pending:
        raise DocumentError(f"{document}: no console block below the last test comment")


def _until_closed(lines: Iterator[tuple[int, str]], fence: re.Match[str], where: str) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if line.strip().startswith(fence["fence"]) and not line.strip().strip(fence["fence"][0]):
            return
        yield number, line.removeprefix(fence["indent"])
    raise DocumentError(f"{where}: the block is never closed")


def _directive(text: str, where: str) -> Directive:
    for pattern, kind in _DIRECTIVES.items():
        if match := pattern.fullmatch(text):
            return kind(**match.groupdict())
    raise DocumentError(
        f"{where}: test comment {text!r} is not understood; expected 'skip because REASON', "
        "'background', 'background until \"TEXT\"' or 'expect exit N'"
    )


def _check_reason(skip: Skip, root: Path, where: str) -> None:
    for path in _TEST_FILE.findall(skip.reason):
        if not (root / path).is_file():
            raise DocumentError(f"{where}: skipped because of {path}, which does not exist")


def _split(lines: list[str], first: int, document: Path) -> Iterator[Command]:
    """Yield the commands among the *lines* of a block."""
    command: Command | None = None
    goes_on = False
    for number, line in enumerate(lines, first):
        if line.startswith("$ ") and not goes_on:
            if command:
                yield command
            command = Command(line=number, text=line[2:])
            goes_on = line.endswith("\\")
        elif command is None:
            raise DocumentError(f"{document}:{number}: expected a command behind '$ ', found {line!r}")
        elif goes_on or line.startswith("> "):
            command = replace(command, text=f"{command.text}\n{line.removeprefix('> ')}")
            goes_on = line.endswith("\\")
    if command is None:
        raise DocumentError(f"{document}:{first}: a console block without a command")
    yield command


def _apply(command: Command, directives: list[Directive]) -> Command:
    for directive in directives:
        match directive:
            case Background(until=until):
                command = replace(command, background=True, until=until)
            case Expect(code=code):
                command = replace(command, expect=int(code))
            case Skip():
                pass
    return command
