"""The recipe of a model of terabytes, at a size that takes seconds."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from recipes.terabyte_artifact import FormulaModel, RunConfig, run
from screc.serving import Engine
from screc.storage import Artifact, Checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, RunConfig, dict]:
    out = tmp_path_factory.mktemp("terabyte")
    config = RunConfig(tables=3, table_rows=200_000_000, samples=512, served=1000, dram_bytes=2_000_000)
    return out, config, run(config, out, Console(file=io.StringIO()))


def test_it_is_as_large_as_it_says_and_takes_little(made) -> None:
    out, config, report = made
    pages = [file.stat() for file in (out / "artifact" / "pages").iterdir()]
    assert sum(file.st_size for file in pages) == report["logical_bytes"] > 160e9
    assert sum(file.st_blocks * 512 for file in pages) <= report["disk_bytes"] < 100e6
    assert report["written_bytes"] == 4096 * report["verified_pages"]
    assert report["dram_bytes"] <= config.dram_bytes
    checkpoint = Checkpoint.open(out / "model")
    assert sum(table.known_rows for table in checkpoint.tables) == report["known_rows"]


def test_rows_were_compared_and_predictions_are_close(made) -> None:
    out, config, report = made
    assert report["rows_compared"] > 3 * report["known_rows"]
    assert 0 < report["rows_default"] < report["rows_compared"]
    assert 0 < report["default_rows"] < report["ssd_rows"] < report["lookups"]
    assert report["max_abs_difference"] < 1e-6
    predicted = np.load(out / "predictions.npy")
    assert predicted.shape == (config.served,)
    assert 0.01 < predicted.std() < 0.5


def test_the_formula_tells_rows_apart(made) -> None:
    """A comparison with it could fail: rows differ between ids, tables and seeds."""
    _, config, _ = made
    known = [np.array([3, 2**33]), np.array([3])]
    model = FormulaModel(config, known)
    rows = model.rows(0, np.array([3, 2**33, 4]))
    assert len({row.tobytes() for row in (*rows, model.known_rows(1, np.array([3]))[0])}) == 4
    np.testing.assert_array_equal(rows[2], model.default_row(0))
    assert np.abs(rows[:2]).max() < 0.125
    assert 0.06 < rows[:2].std() < 0.085


def test_the_verbs_serve_it(made, screc) -> None:
    """As a user would, and the model that they serve is that of the formula."""
    out, config, _ = made
    source = f"meta-reuse:rows=500,tables=3,table_rows=200000000,seed=1,first={config.samples}"
    report = screc("predict", out / "artifact", "--data", source, "--out", out / "p.npy")
    assert report["num_samples"] == 500
    assert report["store"]["default_rows"] > 0
    found = np.load(out / "p.npy")
    np.testing.assert_allclose(found, np.load(out / "predictions.npy")[:500], atol=1e-6)
    known = [np.array(Checkpoint.open(out / "model").table(t)["band.0.ids"]) for t in range(3)]
    (batch,) = config.trace(config.samples, 500).batches(500)
    np.testing.assert_allclose(FormulaModel(config, known).predict(batch), found, atol=1e-6)
    assert screc("verify", out / "artifact")["damages"] == []


def test_a_plan_of_the_verbs_keeps_room_for_the_pages(made, screc, tmp_path) -> None:
    out, config, _ = made
    source = "meta-reuse:rows=512,tables=3,table_rows=200000000,seed=1"
    screc("profile", "--data", source, "--out", tmp_path / "s")
    from recipes.terabyte_artifact import server

    server().save(tmp_path / "system.json")
    arguments = ["--statistics", tmp_path / "s", "--system", tmp_path / "system.json", "--no-tt"]
    plan = ["plan", "--dram", "2MB", "--model", out / "model", "--out", tmp_path / "plan.json"]
    screc(*plan, *arguments)
    packing = ["pack", out / "model", "--plan", tmp_path / "plan.json", "--statistics", tmp_path / "s"]
    report = screc(*packing, "--out", tmp_path / "a")
    assert report["dram_bytes"] <= 2_000_000
    assert report["written_bytes"] < report["ssd_bytes"] / 1000
    layouts = [table.layout for table in Artifact.open(tmp_path / "a").tables]
    assert all(layout.bands[-1].written is not None for layout in layouts)  # 0: all known rows stand before
    (batch,) = config.trace(config.samples, 100).batches(100)
    found = Engine.open(tmp_path / "a").predict(batch)
    np.testing.assert_allclose(found, np.load(out / "predictions.npy")[:100], atol=1e-6)


def test_its_command_line(tmp_path) -> None:
    command = [sys.executable, "-m", "recipes.terabyte_artifact", "--out", tmp_path, "--tables", "2"]
    command += ["--table-rows", "100000000", "--samples", "64"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[2]
    )
    assert result.returncode == 0, result.stderr
    assert "rows compared, all equal" in result.stdout
