from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.pool.marker import marker_of, marking


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return marker_of("/out", tmp_path)


def die_with(marker: Path) -> None:
    held = "with marking(pathlib.Path(sys.argv[1])): os._exit(7)"
    code = f"import os, sys, pathlib\nfrom cluster.pool.marker import marking\n{held}"
    assert subprocess.run([sys.executable, "-c", code, str(marker)], check=False).returncode == 7


def test_a_death_is_known_until_an_orderly_end(marker):
    with marking(marker) as died:
        assert not died
    die_with(marker)
    with marking(marker) as died:
        assert died
    with marking(marker) as died:
        assert not died


def test_an_error_is_an_orderly_end(marker):
    with pytest.raises(ZeroDivisionError), marking(marker):
        raise ZeroDivisionError
    with marking(marker) as died:
        assert not died


def test_who_runs_beside_a_living_one_hears_of_no_death(marker):
    with marking(marker), marking(marker) as died:
        assert not died
    assert not marker.exists()
