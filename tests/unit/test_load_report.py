"""Runs as a table and a picture, and the verb."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from screc.serving.load import Capacity, Outcome, Sla, Summary, Trace
from screc.serving.load.durations import parse_seconds
from screc.serving.load.report import plot, table
from tests.integration.served import write_artifact
from tests.unit.test_cli import screc


def run_at(rate: float, refused: int = 0) -> Summary:
    count = 100
    outcomes = np.full(count, Outcome.OK, np.uint8)
    outcomes[:refused] = Outcome.REFUSED
    trace = Trace(
        due=np.arange(count) / rate,
        latencies=np.linspace(1, 5, count) * rate / 1e5,
        lags=np.zeros(count),
        outcomes=outcomes,
    )
    return Summary.of(trace, np.full(count, 200), seconds=count / rate)


RUNS = [run_at(rate, refused) for rate, refused in ((400, 30), (100, 0), (200, 0))]


def test_a_table_has_a_row_for_each_run():
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table([*RUNS, run_at(800, refused=100)]))
    text = console.export_text()
    assert text.count("\n") >= 4
    assert "30" in text


def test_a_picture_of_latencies_over_load(tmp_path):
    path = tmp_path / "load.svg"
    capacity = Capacity(rate=300, confirmed=(), tried=())
    plot(RUNS, path, title="kaggle", sla=Sla(latency_s=0.02), capacity=capacity)
    assert path.read_text().lstrip().startswith("<?xml")
    plot(RUNS[:1], tmp_path / "one.png")
    plot([run_at(800, refused=100)], tmp_path / "none.png")  # nothing was answered
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        plot(RUNS, tmp_path / "load.pdf")
    with pytest.raises(ValueError, match="no runs"):
        plot([], path)


@pytest.mark.parametrize(("text", "seconds"), [("25ms", 0.025), ("1.5s", 1.5), ("200us", 2e-4), ("2 m", 120)])
def test_times_as_people_write_them(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "25", "0ms", "-1s", "1h", "ms", "1.2.3s"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="not a time"):
        parse_seconds(text)


def test_the_verb_measures_an_engine(tmp_path):
    artifact = write_artifact(tmp_path / "ranker")
    common = ("load", artifact, "--in-process", "--size", "20", "--seconds", "0.3")
    picture = tmp_path / "load.svg"
    result = screc(*common, "--rate", "50,200", "--picture", picture, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [run["outcomes"]["ok"] == run["requests"] > 0 for run in report["runs"]] == [True, True]
    assert picture.exists()
    found = screc(*common, "--find-max", "--sla", "1s", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["capacity"]["rate"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("http://127.0.0.1:1", "--rate", "1"), "nobody answers"),
        (("grpc://127.0.0.1:1", "--rate", "1"), "UNAVAILABLE"),
        (("ftp://127.0.0.1:1", "--rate", "1"), "is not http://HOST:PORT"),
        (("http://127.0.0.1:1",), "--rate or --find-max"),
        (("http://127.0.0.1:1", "--rate", "x"), "not a list of rates"),
        (("http://127.0.0.1:1", "--rate", "1", "--sla", "25"), "not a time"),
    ],
)
def test_the_verb_says_what_is_wrong(arguments, message):
    result = screc("load", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
