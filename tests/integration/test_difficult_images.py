"""Every file of the shared images: a verdict, the same as in the guide, and the pixels that Pillow gives.

`docs/images.md` holds the table of the difficult ones, made by `tests/support/picture_verdicts.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from picture_checks import as_pillow
from picture_verdicts import MARKED, picture_files, tables

from runtime.errors import ImageError
from runtime.images import decode, read

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::UserWarning")]

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "images.md"
FUZZER = ROOT / "tests" / "fuzz"

NO_FORMAT_OF_OURS = frozenset({".icc", ".pgm", ".ppm", ".scan"})
PILLOW_LETS_PASS = frozenset({"xcsn0g01.png"})  # a wrong checksum of the pixels
TOLERANCE = {".jpg": 1, ".jpeg": 1}  # grey levels; elsewhere none


@pytest.fixture(scope="module")
def difficult(test_data: Callable[[str], Path]) -> Path:
    return test_data("images/difficult")


@pytest.fixture(scope="module")
def photographs(test_data: Callable[[str], Path]) -> list[Path]:
    return [path for name in ("imagenet300", "coco12", "coral") for path in picture_files(test_data(f"images/{name}"))]


def test_the_guide_holds_the_verdict_on_every_difficult_file(difficult: Path) -> None:
    found = MARKED.search(GUIDE.read_text(encoding="utf-8"))
    assert found is not None
    assert [line for line in found[0].splitlines() if line] == [line for line in tables(difficult).splitlines() if line]


def test_every_difficult_file_is_decoded_as_pillow_decodes_it_or_refused(difficult: Path) -> None:
    verdicts: Counter[str] = Counter()
    for path in picture_files(difficult):
        data = path.read_bytes()
        try:
            found = decode(data)
        except ImageError as error:
            verdicts[error.reason] += 1
            assert path.suffix in NO_FORMAT_OF_OURS or path.name in PILLOW_LETS_PASS or pillow_refuses(data), path
            continue
        verdicts["read"] += 1
        assert_like_pillow(found, data, path)
    assert verdicts["read"] > 180
    assert set(verdicts) == {"read", "truncated", "not_an_image", "unsupported"}


def test_no_photograph_is_refused_and_all_are_decoded_as_pillow_decodes_them(photographs: list[Path]) -> None:
    decoders: Counter[str] = Counter()
    for path in photographs:
        data = path.read_bytes()
        found = read(path)
        decoders[found.decoder] += 1
        assert_like_pillow(found.pixels, data, path)
    assert decoders.total() > 300
    assert decoders["simplejpeg"] > 0.9 * decoders.total()


@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_every_exif_orientation_gives_the_same_upright_picture(difficult: Path, shape: str) -> None:
    folder = difficult / "exif-orientation-examples"
    upright = decode((folder / f"{shape}_1.jpg").read_bytes()).astype(int)
    for orientation in range(9):  # 0 is no valid orientation: the picture stays as it is
        turned = decode((folder / f"{shape}_{orientation}.jpg").read_bytes())
        assert turned.shape == upright.shape, orientation
        assert turned.flags.c_contiguous
        assert np.abs(turned - upright).mean() < 4, orientation  # JPEG noise; a wrong turn is above 50


@pytest.mark.parametrize("seed", [20, 21])
def test_three_thousand_mutants_fail_nowhere(tmp_path: Path, seed: int) -> None:
    """What `python tests/fuzz` does with 100,000; here in short, and with its summary checked."""
    command = [sys.executable, str(FUZZER), "--count", "1500", "--seed", str(seed), "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^inputs +1500,", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^accepted +[1-9]", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^failed +0$", done.stdout, re.MULTILINE), done.stdout


def assert_like_pillow(found: np.ndarray, data: bytes, path: Path) -> None:
    expected = as_pillow(data)
    assert found.shape == expected.shape, path
    assert np.abs(found.astype(int) - expected).max() <= TOLERANCE.get(path.suffix.lower(), 0), path


def pillow_refuses(data: bytes) -> bool:
    try:
        as_pillow(data)
    except Exception:  # noqa: BLE001 - whatever it raises
        return True
    return False
