"""From the command line to a request, and from a request to the driver's call: nothing is lost on the way."""

from __future__ import annotations

import shlex

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.options import job_option_names, job_options
from cluster.cli.run import run
from cluster.jobs.ray_jobs import reason_of
from cluster.jobs.request import driver_call, given_options, input_uri, job_id
from runtime.errors import UsageError
from runtime.protocol.jobs import JobRequest

ALWAYS = ["--model", "m", "--input", "i", "--output", "o"]


def options_of(*arguments):
    @click.command()
    @job_options
    @click.option("--priority", type=int)
    def command(**_):
        return given_options(click.get_current_context(), job_option_names())

    return command.main([*ALWAYS, *arguments], standalone_mode=False)


def call(options, models=("./models/m@1",), **extra):
    request = JobRequest(models=["m@1"], input="/in dir", output="/out", options=options)
    words = shlex.split(driver_call(request, models, extra))
    assert words[:3] == ["python", "-m", "cluster.jobs.driver"]
    return words[3:]


def parsed(arguments):
    """Return what `vedette batch run` makes of *arguments*."""
    return run.make_context("run", list(arguments)).params


def test_what_was_not_given_is_left_to_the_driver():
    assert options_of() == {}


def test_what_was_given_travels_by_name():
    given_ = options_of(
        "--keep", "a,b", "--keep", "c=d", "--batch-size", "16", "--filter", "x >= -1", "--priority", "3"
    )
    assert given_ == {"keep": ["a,b", "c=d"], "batch-size": 16, "filter": "x >= -1"}


@given(
    keep=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), max_size=3),
    filter_=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    size=st.integers(1, 999),
)
def test_the_driver_is_called_with_what_was_asked_for(keep, filter_, size):
    found = parsed(call({"keep": keep, "filter": filter_, "batch-size": size}))
    assert (found["keep"], found["filter_"], found["batch_size"]) == (tuple(keep), filter_, size)
    assert (found["input_"], found["output"]) == ("/in dir", "/out")
    assert "./models/m@1" in found["model"]


def test_a_flag_is_given_or_not_and_a_store_travels():
    assert "--some-flag" in call({"some-flag": True})
    assert not [word for word in call({"some-flag": False}) if "flag" in word]
    assert parsed(call({}, store="s3://models"))["store"] == "s3://models"


@pytest.mark.parametrize("option", ["output", "input", "model", "store", "address", "local", "dry-run"])
def test_where_a_job_reads_writes_and_runs_is_not_among_its_options(option):
    with pytest.raises(UsageError, match=f"a job's options hold {option};"):
        call({option: "x"})


def test_what_is_there_becomes_absolute_and_a_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    assert input_uri("rows") == str(tmp_path / "rows")
    assert input_uri("rows#test") == f"{tmp_path / 'rows'}#test"
    assert input_uri("digits#test") == "digits#test"
    assert input_uri("s3://bucket/rows") == "s3://bucket/rows"


def test_an_output_has_one_job():
    assert job_id("/out") == job_id("/out") != job_id("/out2")
    assert job_id("/out").startswith("batch-")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Job failed:\nbatch: 3 rows\nvedette batch run: error: disk full\n", "disk full"),
        ("vedette: error: first\nvedette batch run: error: second", "second"),
        ("Runtime env  setup\nfailed", "Runtime env setup failed"),
        ("", ""),
    ],
)
def test_the_reason_is_our_own_error_if_there_is_one(message, reason):
    assert reason_of(message) == reason
