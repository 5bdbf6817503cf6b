"""Comparisons: cells that are measured once, failures that stop nothing, fronts, reports."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from screc.embeddings import METHODS
from screc.training.compare import Cell, Comparison, Grid, Settings, run_grid, write_report
from screc.training.compare.cell import count_lookups, measure_cell
from screc.training.compare.grid import parse_method, to_dict
from screc.training.compare.table import COLUMNS

SMALL = {"bottom": (8,), "top": (8,), "dim": 4, "batch_size": 256}
SETTINGS = Settings(
    data="synthetic:rows=3000,scale=0.0001",
    test="synthetic:rows=1000,scale=0.0001,first=3000",
    **SMALL,
)


def measured(cell: Cell, settings: Settings = SETTINGS) -> dict[str, Any]:
    train, first_day, _ = settings.logs()
    return measure_cell(settings, cell, count_lookups(first_day if settings.day_samples else train))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small grid, one of whose methods cannot be so small and one of whose options is wrong."""
    out = tmp_path_factory.mktemp("grid")
    grid = Grid(settings=SETTINGS, methods=("hash", "mde", "cafe:importance=colour"), budgets=(20,))
    assert run_grid(grid, out, jobs=2) == 4
    return out


def test_a_grid_is_measured_once_and_may_be_extended(directory: Path) -> None:
    files = {file: file.stat().st_mtime_ns for file in (directory / "cells").iterdir()}
    assert len(files) == 4
    grid = Grid(settings=SETTINGS, methods=("hash", "mde"), budgets=(20,), seeds=(0, 1))
    todo = [f"{cell.key}.json" for cell in grid.cells() if cell.seed == 1]
    assert run_grid(grid, directory) == len(todo) == 3
    assert {file for file in files if file.stat().st_mtime_ns != files[file]} == set()
    for name in todo:
        (directory / "cells" / name).unlink()


def test_a_budget_out_of_reach_and_a_failure_are_rows(directory: Path) -> None:
    rows = {(row["method"], row["budget_ratio"]): row for row in Comparison.read(directory).rows}
    assert rows["hash", 20]["status"] == "done"
    unreachable = rows["mde", 20]
    assert unreachable["status"] == "unreachable"
    failed = rows["cafe:importance=colour", 20]
    assert failed["status"] == "failed"
    assert "colour" in failed["error"]
    reached = measured(Cell(model="dlrm", method="mde", ratio=2, seed=0))
    least = unreachable["smallest_bytes"]
    assert (
        measured(Cell(model="dlrm", method="mde", ratio=reached["full_bytes"] / least, seed=0))["status"]
        == "done"
    )


def test_the_table_has_every_cell_and_counts_all_bytes(directory: Path) -> None:
    comparison = write_report(directory)
    with (directory / "table.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    assert tuple(rows[0]) == COLUMNS
    for row in comparison.rows:
        if row["status"] == "done":
            kinds = ("parameter_bytes", "remap_bytes", "code_bytes", "sketch_bytes")
            assert row["bytes"] == sum(row[kind] for kind in kinds)
            assert 0.4 < row["auc"] < 1
            assert row["lookup_us"] > 0
            assert row["train_s_per_epoch"] > 0
    page = (directory / "report.md").read_text()
    assert "smallest budget that works" in page
    assert "auc-dlrm.svg" in page
    assert (directory / "auc-dlrm.svg").read_text().rstrip().endswith("</svg>")
    assert (directory / "latency-dlrm.svg").is_file()
    stored = json.loads((directory / "compare.json").read_text())
    assert stored["mixed"] == {"on_front": {}, "against": {}}


def test_the_same_cell_gives_the_same_numbers(directory: Path) -> None:
    cell = Cell(model="dlrm", method="hash", ratio=20, seed=0)
    stored = json.loads((directory / "cells" / f"{cell.key}.json").read_text())
    again = measured(cell)
    for name in ("auc", "log_loss", "ratio", "serving_bytes"):
        assert again[name] == stored[name]


def test_other_settings_are_refused(directory: Path) -> None:
    other = Settings(data=SETTINGS.data, test=SETTINGS.test, **SMALL | {"dim": 8})
    with pytest.raises(ValueError, match=r"dim is 8, but .* holds results with 4"):
        run_grid(Grid(settings=other, methods=("hash",)), directory)


def test_a_killed_run_loses_only_what_was_running(tmp_path: Path) -> None:
    """Interrupted as by Ctrl-C after the first cell: that one stays, nothing half-written does."""
    command = [sys.executable, "-m", "screc.cli", "compare", "--data", SETTINGS.data, "--test", SETTINGS.test]
    command += ["--methods", "hash,qr,robe", "--budgets", "2,3,4", "--dim", "4", "--top", "8", "--bottom=8"]
    process = subprocess.Popen([*command, "--out", str(tmp_path)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "cells").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    files = list((tmp_path / "cells").iterdir())
    assert 0 < len(files) < 10
    for file in files:
        assert json.loads(file.read_text())["status"] == "done"


@pytest.mark.parametrize("model", ["dlrm", "wide_deep", "dcn"])
def test_every_model_trains(model: str) -> None:
    result = measured(Cell(model=model, method="hash", ratio=4, seed=0))
    assert result["status"] == "done"
    assert result["ratio"] >= 4


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_runs_or_names_its_smallest_budget(method: str) -> None:
    result = measured(Cell(model="dlrm", method=method, ratio=1 if method == "full" else 2.5, seed=0))
    assert result["status"] == "done" or result["smallest_bytes"] > result["budget_bytes"]


def test_training_stops_when_the_validation_samples_say_so() -> None:
    settings = Settings(
        data="synthetic:rows=600,scale=0.0001",
        test=SETTINGS.test,
        epochs=40,
        table_lr=0.5,
        dense_lr=0.05,
        **SMALL,
    )
    result = measured(Cell(model="dlrm", method="hash", ratio=2, seed=0), settings)
    assert result["best_epoch"] + settings.patience == result["epochs"] < 40


def test_a_method_with_stages_is_judged_in_its_last_one() -> None:
    settings = Settings(
        data="synthetic:rows=900,scale=0.0001", test=SETTINGS.test, epochs=10, patience=1, **SMALL
    )
    result = measured(Cell(model="dlrm", method="kmeans", ratio=2, seed=0), settings)
    assert result["best_epoch"] >= 7


def test_a_stream_is_tested_before_it_is_trained_on() -> None:
    settings = Settings(data="synthetic:rows=3000,scale=0.0001,day=700,drift=0.3", day_samples=700, **SMALL)
    result = measured(Cell(model="dlrm", method="hot-cold", ratio=2, seed=0), settings)
    assert len(result["days"]) == 4
    assert result["auc"] == pytest.approx(sum(day["auc"] for day in result["days"]) / 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test": None}, "test: give the log"),
        ({"day_samples": 10}, "leave test, epochs and shuffle out"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"shuffle": -1}, "must not be negative"),
    ],
)
def test_bad_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.from_dict(to_dict(SETTINGS) | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "fm"}, "models: unknown 'fm'; there are dcn, dlrm"),
        ({"method": "hsah"}, "methods: unknown 'hsah'; there are adapt"),
        ({"method": "hash:salt"}, "expected NAME:OPTION=VALUE, got 'hash:salt'"),
        ({"ratio": 0}, "budgets: must be positive"),
        ({"seed": -1}, "seeds: must not be negative"),
    ],
)
def test_bad_cells(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cell(**{"model": "dlrm", "method": "hash", "ratio": 2, "seed": 0} | values)


def test_options_of_methods() -> None:
    assert parse_method("cafe:importance=frequency:decay=0.9") == (
        "cafe",
        {"importance": "frequency", "decay": 0.9},
    )
    assert parse_method("memcom:bias=true") == ("memcom", {"bias": True})
    assert parse_method("qr") == ("qr", {})


def test_logs_must_agree() -> None:
    settings = Settings(data=SETTINGS.data, test="synthetic:rows=10,scale=0.001")
    with pytest.raises(ValueError, match="test: its tables are not those of data"):
        settings.logs()
    with pytest.raises(ValueError, match="fewer than two days"):
        Settings(data=SETTINGS.data, day_samples=2000).logs()


def made_up(method: str, ratio: float, auc: float, size: int, seed: int = 0) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS) | {"model": "dlrm", "method": method, "budget_ratio": ratio, "seed": seed}
    row |= {"status": "done", "auc": auc, "log_loss": 0.5, "ratio": 1000 / size, "bytes": size}
    return row | {"lookup_us": 1.0 + auc, "train_s_per_epoch": 1.0, "peak_memory_bytes": 1}


def test_the_front_and_the_verdict_on_mixed() -> None:
    rows = [
        made_up("hash", 10, 0.70, 100),
        made_up("hash", 100, 0.60, 10),
        made_up("qr", 10, 0.72, 90),
        made_up("cafe", 100, 0.65, 9),
        made_up("cafe", 1000, 0.64, 2),
        made_up("mixed", 10, 0.7196, 95),
        made_up("mixed", 100, 0.6, 9),
        made_up("mixed", 100, 0.62, 9, seed=1),
    ]
    comparison = Comparison({"data": "made up", "test": "x"}, rows)
    assert [(p.method, p.bytes) for p in comparison.front("dlrm")] == [("qr", 90), ("cafe", 9), ("cafe", 2)]
    verdicts = comparison.on_front()["dlrm"]
    # 0.0004 below qr, which is within the tolerance; hash at 100 bytes is larger and does not count.
    assert verdicts["10"]["on_front"] is True
    assert verdicts["10"]["best_single"] == "qr"
    # The mean of its seeds, 0.61, is below cafe's 0.65 at no more bytes.
    assert verdicts["100"]["on_front"] is False
    assert comparison.to_dict()["mixed"]["on_front"] == {"dlrm": {"10": True, "100": False}}
    # Here a worse AUC is looked up faster, and the smallest is not the fastest.
    assert [p.method for p in comparison.fast_front("dlrm")] == ["hash", "mixed", "cafe"]
