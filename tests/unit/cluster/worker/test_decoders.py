"""Which decoder a worker asks first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from color_model import LABELS
from picture_files import encoded

from cluster.cli.options import job_options
from cluster.output.commit import OutputDirectory
from cluster.planning import plan_job
from cluster.worker.decoders import AUTO, CPU, chosen_decoder
from cluster.worker.shard_worker import ShardWorker
from cluster.worker.spec import Threads
from runtime.errors import ProviderError, UsageError
from runtime.images import ACCELERATED, decoders
from runtime.images.base import Raster
from runtime.images.jpeg import with_simplejpeg


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that decodes JPEGs of more than ten rows."""

    def run(encoded) -> Raster | None:
        return with_simplejpeg(encoded) if encoded.image.format == "JPEG" and encoded.image.height > 10 else None

    one = replace(ACCELERATED["nvimagecodec"], run=run, unavailable=str)
    monkeypatch.setitem(decoders.ACCELERATED, "nvimagecodec", one)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(ACCELERATED["nvimagecodec"], unavailable=lambda: "no GPU")
    monkeypatch.setitem(decoders.ACCELERATED, "nvimagecodec", one)


def test_the_command_line_knows_them_all():
    import click

    (option,) = [one for one in click.command()(job_options(lambda **_: None)).params if one.name == "decoder"]
    assert list(option.type.choices) == [CPU, AUTO, *ACCELERATED]


def test_the_cpu_is_the_default_and_needs_nothing(absent):
    assert chosen_decoder("cpu") == ("cpu", None)


def test_one_that_is_there_is_taken_by_name_or_by_itself(there):
    assert chosen_decoder("nvimagecodec") == chosen_decoder("auto") == ("nvimagecodec", None)


def test_one_that_is_not_there_is_an_error_by_name_and_a_remark_otherwise(absent):
    assert chosen_decoder("auto") == ("cpu", "decoder nvimagecodec cannot be used: no GPU")
    with pytest.raises(ProviderError, match="decoder nvimagecodec cannot be used: no GPU"):
        chosen_decoder("nvimagecodec")
    with pytest.raises(UsageError, match="decoder 'dali' is not known; expected cpu, auto, nvimagecodec"):
        chosen_decoder("dali")


def write(path: Path) -> None:
    import numpy as np

    def jpeg(color: int, side: int) -> bytes:
        pixels = np.full((side, side, 3), 20, np.uint8)
        pixels[..., color] = 200
        return encoded(pixels, "JPEG", quality=95)

    images = [jpeg(number % 3, 16 if number % 2 else 8) for number in range(12)]
    images[5] = images[5][:-40]
    pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "number": range(12)}), path)


def test_the_commit_counts_what_decoded_and_bad_rows_keep_their_reason(there, options, tmp_path):
    write(tmp_path / "in.parquet")
    found = {}
    for name in ("cpu", "nvimagecodec"):
        job = plan_job(options(keep=("number",), decoder=name, output=str(tmp_path / name)))
        output: OutputDirectory = job.output
        output.claim(job.record)
        commit = ShardWorker(job.models, job.spec, Threads()).run(job.shards[0])
        rows = pq.read_table(Path(output.uri) / commit.data.path).to_pylist()
        found[name] = ([(row["number"], row["label"], row["score"]) for row in rows], commit.reasons, commit.decoders)
    assert found["cpu"][:2] == found["nvimagecodec"][:2]
    assert found["cpu"][0][0][:2] == (0, LABELS[0])
    assert found["cpu"][1] == {"truncated": 1}
    assert found["cpu"][2] == {"simplejpeg": 11}
    assert found["nvimagecodec"][2] == {"simplejpeg": 6, "nvimagecodec": 5}
