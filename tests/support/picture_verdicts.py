"""The verdict on every file of a folder of pictures, as Markdown tables.

python tests/support/picture_verdicts.py FOLDER [DOCUMENT]

prints the tables, or puts them into DOCUMENT, between its two comments ``<!-- verdicts -->`` and
``<!-- end of verdicts -->``. `docs/images.md` was made so; a test holds it to what the code does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from runtime.errors import ImageError
from runtime.images import read

__all__ = ["MARKED", "SUFFIXES", "picture_files", "row", "tables"]

SUFFIXES = frozenset(
    {".bmp", ".gif", ".icc", ".jpg", ".jpeg", ".pgm", ".png", ".ppm", ".scan", ".tif", ".tiff", ".webp"}
)
MARKED = re.compile(r"(?<=<!-- verdicts -->\n).*?(?=<!-- end of verdicts -->)", re.DOTALL)


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures below *folder*, and what others might take for one, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def row(path: Path) -> str:
    """Return the verdict on the file at *path* as a row: file, verdict, width and height, decoder."""
    try:
        decoded = read(path.read_bytes())
    except ImageError as error:
        return f"| {path.name} | `{error.reason}` | | |"
    height, width = decoded.size
    return f"| {path.name} | read | {width}x{height} | {decoded.decoder} |"


def tables(folder: Path) -> str:
    """Return a table for each folder below *folder* that has pictures."""
    return "\n".join(_lines(folder))


def _lines(folder: Path) -> Iterator[str]:
    for parent, paths in groupby(picture_files(folder), key=lambda path: path.parent):
        yield f"\n### {parent.relative_to(folder)}\n"
        yield "| File | Verdict | Size, upright | Decoder |\n|---|---|---|---|"
        yield from (row(path) for path in paths)
    yield ""


def main() -> None:
    """Print the tables, or put them into a document."""
    folder, *documents = map(Path, sys.argv[1:])
    found = tables(folder)
    for document in documents:
        text, count = MARKED.subn(lambda _: f"{found}\n", document.read_text(encoding="utf-8"))
        if not count:
            raise SystemExit(f"{document} has no <!-- verdicts --> ... <!-- end of verdicts -->")
        document.write_text(text, encoding="utf-8")
    if not documents:
        sys.stdout.write(found)


if __name__ == "__main__":
    main()
