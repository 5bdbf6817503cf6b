"""From a click log to predictions through the verbs; the packed model against PyTorch, sample by sample."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screc.data import open_log
from screc.planning import BASELINES, Plan, reference_system
from screc.serving import Engine
from screc.storage import TableCores
from screc.training import load_model, predict

TRAIN = "synthetic:rows=40000,seed=3,scale=0.01"
HELD_OUT = "synthetic:rows=100000,seed=3,scale=0.01,first=40000"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, screc: Callable[..., dict[str, Any]]) -> Path:
    """Every verb once: full model, statistics, plan with three memories, planned model, both artifacts."""
    root = tmp_path_factory.mktemp("walk")
    reference_system().save(root / "system.json")
    screc("train", "--data", TRAIN, "--out", root / "full", "--batch-size", 1024)
    screc("profile", "--data", TRAIN, "--out", root / "statistics", "--plot", root / "access.svg")
    screc(
        *("plan", "--statistics", root / "statistics", "--model", root / "full", "--dram", "10%"),
        *("--system", root / "system.json", "--max-tt-share", 0.02, "--out", root / "plan.json"),
        *("--plot", root / "plan.svg"),
    )
    screc(
        *("train", "--data", TRAIN, "--like", root / "full", "--plan", root / "plan.json"),
        *("--statistics", root / "statistics", "--out", root / "planned", "--batch-size", 1024),
    )
    screc("pack", root / "full", "--out", root / "all_dram")
    screc(
        *("pack", root / "planned", "--plan", root / "plan.json", "--statistics", root / "statistics"),
        *("--out", root / "packed"),
    )
    return root


def test_the_plan_uses_all_three_memories(walk: Path) -> None:
    plan = Plan.load(walk / "plan.json")
    kinds = {(band.format, band.memory) for layout in plan.layouts for band in layout.bands}
    assert kinds == {("fp32", "dram"), ("tt", "dram"), ("fp32", "ssd")}
    assert plan.predicted.dram_bytes <= plan.budget.dram_bytes


@pytest.mark.parametrize(("model", "artifact"), [("full", "all_dram"), ("planned", "packed")])
@pytest.mark.parametrize("io", ["auto", "pread"])
def test_the_engine_equals_pytorch(
    walk: Path, screc: Callable[..., dict[str, Any]], model: str, artifact: str, io: str
) -> None:
    out = walk / f"{artifact}-{io}.npy"
    report = screc("predict", walk / artifact, "--data", HELD_OUT, "--out", out, "--io", io)
    ours = np.load(out)
    theirs = predict(load_model(walk / model), open_log(HELD_OUT))
    assert ours.shape == (100_000,)
    assert np.abs(ours - theirs).max() <= TOLERANCE
    store = report["store"]
    assert store["dram_rows"] + store["tt_rows"] + store["ssd_rows"] == store["lookups"] == 100_000 * 26
    if artifact == "packed":
        assert min(store["dram_rows"], store["tt_rows"], store["ssd_rows"]) > 0
        assert 0 < store["pages_read"] <= store["page_requests"]


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_every_instruction_set_predicts_the_same(
    walk: Path, screc: Callable[..., dict[str, Any]], isa: str
) -> None:
    from screc import _native

    if isa not in _native.supported_isas():
        pytest.skip(f"this machine has no {isa}")
    log = "synthetic:rows=5000,seed=3,scale=0.01,first=40000"
    out = walk / f"{isa}.npy"
    screc("predict", walk / "packed", "--data", log, "--out", out, SCREC_ISA=isa)
    theirs = predict(load_model(walk / "planned"), open_log(log))
    assert np.abs(np.load(out) - theirs).max() <= TOLERANCE


def test_verify_and_bench_accept_the_artifact(walk: Path, screc: Callable[..., dict[str, Any]]) -> None:
    assert screc("verify", walk / "packed")["pages"] > 0
    report = screc("bench", walk / "packed", "--data", HELD_OUT, "--batch-sizes", "1,64", "--seconds", 0.1)
    # The plan's own batch size is measured too, for what it had predicted.
    assert [result["batch_size"] for result in report["results"]] == [1, 64, 1024]
    predicted = report["predicted"]
    assert predicted["batch_size"] == 1024
    assert predicted["samples_per_s"] > 0
    assert predicted["measured_samples_per_s"] == report["results"][-1]["samples_per_s"]
    assert all(result["samples_per_s"] > 0 for result in report["results"])


def test_a_mapping_goes_from_the_plan_to_the_engine(
    walk: Path, screc: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    screc(
        *(
            "plan",
            "--statistics",
            walk / "statistics",
            "--model",
            walk / "full",
            "--dram",
            "100%",
            "--no-ssd",
        ),
        *("--no-tt", "--system", walk / "system.json", "--data-flow", "asymmetric"),
        *("--out", tmp_path / "plan.json"),
    )
    plan = Plan.load(tmp_path / "plan.json")
    assert "data flow is" in plan.reasons[-1]
    everyones = tuple(TableCores(table=layout.table, cores=(0,)) for layout in plan.layouts)
    plan.model_copy(update={"mapping": everyones}).save(tmp_path / "plan.json")
    screc("pack", walk / "full", "--plan", tmp_path / "plan.json", "--out", tmp_path / "packed")
    engine = Engine.open(tmp_path / "packed")
    assert engine.data_flow == "asymmetric"
    assert Engine.open(tmp_path / "packed", threads=1).data_flow == "symmetric"
    report = screc(
        *("bench", tmp_path / "packed", "--data", HELD_OUT, "--batch-sizes", "64", "--seconds", 0.1),
    )
    assert set(report["data_flows"]) == {"symmetric", "asymmetric"}


def test_pictures_are_drawn(walk: Path) -> None:
    for name in ("access.svg", "plan.svg"):
        assert (walk / name).read_text().lstrip().startswith("<?xml")


@pytest.mark.parametrize("method", BASELINES)
def test_plans_of_the_literature_are_packed_and_served(
    walk: Path, screc: Callable[..., dict[str, Any]], tmp_path: Path, method: str
) -> None:
    screc(
        *("plan", "--statistics", walk / "statistics", "--model", walk / "full", "--dram", "20%"),
        *("--system", walk / "system.json", "--method", method, "--out", tmp_path / "plan.json"),
    )
    plan = Plan.load(tmp_path / "plan.json")
    screc(
        *("pack", walk / "full", "--plan", tmp_path / "plan.json", "--statistics", walk / "statistics"),
        *("--out", tmp_path / "packed"),
    )
    log = "synthetic:rows=5000,seed=3,scale=0.01,first=40000"
    report = screc("predict", tmp_path / "packed", "--data", log, "--out", tmp_path / "out.npy")
    store = report["store"]
    assert store["lookups"] == 5000 * 26
    held = sum(layout.dram_bytes for layout in plan.layouts) + store["cache_bytes"]
    assert store["dram_bytes"] == held <= plan.budget.dram_bytes
    assert (store["cache_hits"] > 0) == (method == "lru")
    ours = np.load(tmp_path / "out.npy")
    theirs = predict(load_model(walk / "full"), open_log(log))
    trains = any(band.tt is not None for layout in plan.layouts for band in layout.bands)
    assert trains == (method in ("three-tier", "tt-only"))
    assert trains or np.abs(ours - theirs).max() <= TOLERANCE


def test_a_plan_of_the_literature_has_no_options_of_the_program(walk: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "screc.cli", "plan", "--statistics", str(walk / "statistics")]
    command += ["--dram", "20%", "--system", str(walk / "system.json"), "--method", "recshard"]
    for option, value, words in (
        ("--row-cache", "1MB", "row-cache: is not for method 'recshard'"),
        ("--roles", "1+1", "roles: is not for method 'recshard'"),
        ("--formats", "fp32,int8", "formats: method 'recshard' takes one, got fp32, int8"),
    ):
        result = subprocess.run(
            [*command, option, value], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert result.returncode in (1, 2)
        assert words in result.stderr
        assert not list(tmp_path.iterdir())


def test_packing_another_plan_than_the_trained_one_is_refused(walk: Path, screc: Callable[..., Any]) -> None:
    screc(
        *("plan", "--statistics", walk / "statistics", "--model", walk / "full", "--dram", "50%"),
        *("--system", walk / "system.json", "--no-tt", "--out", walk / "other.json"),
    )
    with pytest.raises(AssertionError, match="plan"):
        screc(
            *("pack", walk / "planned", "--plan", walk / "other.json", "--statistics", walk / "statistics"),
            *("--out", walk / "other"),
        )
    assert not (walk / "other").exists()


def test_all_but_training_works_without_torch(walk: Path, tmp_path: Path) -> None:
    """What `pip install screc` without extras gives."""
    log = "synthetic:rows=2000,seed=3,scale=0.01"
    plan = ("--statistics", walk / "statistics", "--plan", walk / "plan.json")
    verbs = (
        ("profile", "--data", log, "--out", tmp_path / "statistics"),
        (
            *("plan", "--statistics", walk / "statistics", "--dim", 16, "--dram", "20%"),
            *("--system", walk / "system.json", "--out", tmp_path / "plan.json"),
        ),
        ("pack", walk / "planned", *plan, "--out", tmp_path / "artifact"),
        ("verify", tmp_path / "artifact"),
        ("predict", tmp_path / "artifact", "--data", log, "--out", tmp_path / "p.npy"),
        ("bench", tmp_path / "artifact", "--data", log, "--batch-sizes", "64", "--seconds", 0.1),
    )
    code = "import sys; sys.modules['torch'] = None; from screc.cli import main; main()"
    for verb in verbs:
        command = [sys.executable, "-c", code, *map(str, verb), "--json"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        json.loads(result.stdout, parse_constant=pytest.fail)
    assert np.load(tmp_path / "p.npy").shape == (2000,)
