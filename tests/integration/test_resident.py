"""A model larger than its DRAM budget is served within it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.jobs.resident import generate_checkpoint
from screc.planning import reference_system

SOURCE = "synthetic:rows=20000,seed=1,scale=1.0"
HELD_OUT = "synthetic:rows=20000,seed=1,scale=1.0,first=20000"
BUDGET = 500_000_000


@pytest.mark.slow
def test_prediction_stays_within_the_budget(tmp_path: Path, screc: Callable[..., dict[str, Any]]) -> None:
    row_bytes = generate_checkpoint(tmp_path / "model", SOURCE)
    assert row_bytes > 4 * BUDGET
    reference_system().save(tmp_path / "system.json")
    screc("profile", "--data", SOURCE, "--out", tmp_path / "statistics")
    plan = screc(
        *("plan", "--statistics", tmp_path / "statistics", "--dim", 16, "--dram", BUDGET, "--no-tt"),
        *("--system", tmp_path / "system.json", "--out", tmp_path / "plan.json"),
    )
    # Most of the budget is used, so that the limit below means something.
    assert 0.8 * BUDGET < plan["predicted"]["dram_bytes"] <= BUDGET
    screc(
        *("pack", tmp_path / "model", "--plan", tmp_path / "plan.json"),
        *("--statistics", tmp_path / "statistics", "--out", tmp_path / "artifact"),
    )
    report = screc("predict", tmp_path / "artifact", "--data", HELD_OUT)
    assert report["num_samples"] == 20_000
    assert report["peak_resident_bytes"] < 1.25 * BUDGET
