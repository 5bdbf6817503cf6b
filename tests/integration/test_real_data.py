"""Real logs from the raw files to predictions through the verbs, as docs/guide/real-data.md shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from screc.data import ClickLog, FeatureEncoder, Schema, open_log
from screc.planning import Plan, reference_system
from screc.statistics.metrics import area_under_curve
from screc.storage import Checkpoint
from screc.training import load_model, predict

TOLERANCE = 1e-5
AUC_TOLERANCE = 0.0005
Verbs = Callable[..., dict[str, Any]]


def walk(
    screc: Verbs,
    root: Path,
    training: str,
    held_out: str,
    *,
    dram: str,
    model: tuple,
    training_options: tuple,
) -> dict[str, Any]:
    """Every verb once, from ``training`` to predictions of ``held_out``; the reports by verb."""
    full, planned, statistics, plan = (root / n for n in ("full", "planned", "statistics", "plan.json"))
    reference_system().save(root / "system.json")
    log = ("--data", training, "--test", held_out, *training_options)
    reports = {"full": screc("train", *log, *model, "--out", full)}
    reports["profile"] = screc("profile", "--data", training, "--model", full, "--out", statistics)
    reports["plan"] = screc(
        *("plan", "--statistics", statistics, "--model", full, "--dram", dram, "--out", plan),
        *("--system", root / "system.json"),
    )
    reports["planned"] = screc(
        "train", *log, "--like", full, "--plan", plan, "--statistics", statistics, "--out", planned
    )
    reports["pack"] = screc(
        "pack", planned, "--plan", plan, "--statistics", statistics, "--out", root / "artifact"
    )
    reports["verify"] = screc("verify", root / "artifact")
    reports["predict"] = screc(
        "predict", root / "artifact", "--data", held_out, "--out", root / "predictions.npy"
    )
    return reports


def held_out_log(root: Path, held_out: str) -> ClickLog:
    """The held-out log through the planned model's own encoder, where it has one."""
    encoder = Checkpoint.open(root / "planned").assets / "encoder"
    return open_log(held_out, FeatureEncoder.load(encoder) if encoder.is_dir() else None)


def check_equal_to_pytorch(root: Path, held_out: str, reports: dict[str, Any]) -> None:
    """The artifact's predictions and AUC are those of the planned model in PyTorch."""
    log = held_out_log(root, held_out)
    batches = list(log.batches(4096))
    theirs = predict(load_model(root / "planned"), log)
    ours = np.load(root / "predictions.npy")
    assert ours.shape == theirs.shape == (sum(batch.batch_size for batch in batches),)
    assert np.abs(ours - theirs).max() <= TOLERANCE
    auc = area_under_curve(theirs, np.concatenate([batch.labels for batch in batches]))
    assert abs(reports["predict"]["metrics"]["auc"] - auc) <= AUC_TOLERANCE
    assert abs(reports["planned"]["evaluation"]["auc"] - auc) <= AUC_TOLERANCE
    store = reports["predict"]["store"]
    lookups = sum(batch.ids.size for batch in batches)
    assert store["dram_rows"] + store["tt_rows"] + store["ssd_rows"] == store["lookups"] == lookups


def check_within_budget(root: Path, reports: dict[str, Any], share: float) -> None:
    """Less DRAM than asked for, and rows on SSD for the rest."""
    plan = Plan.load(root / "plan.json")
    rows = sum(layout.num_embeddings * layout.embedding_dim * 4 for layout in plan.layouts)
    assert reports["pack"]["dram_bytes"] <= plan.budget.dram_bytes <= share * rows + 1
    assert reports["pack"]["ssd_bytes"] > 0
    assert reports["verify"]["pages"] > 0
    assert reports["predict"]["store"]["ssd_rows"] > 0


@pytest.mark.parametrize(
    ("kind", "folder", "training", "held_out", "samples", "dense"),
    [
        ("criteo", "criteo_dac_8k", "train.tsv.gz", "[dt]e[vs]*.tsv.gz", 409 + 391, 13),
        ("avazu", "avazu_9k", "train.csv.gz", "[dt]e[vs]*.csv.gz", 480 + 432, 0),
    ],
)
def test_raw_text(
    real_data: Path,
    screc: Verbs,
    tmp_path: Path,
    kind: str,
    folder: str,
    training: str,
    held_out: str,
    samples: int,
    dense: int,
) -> None:
    held_out = f"{kind}:{real_data / folder / held_out}"
    reports = walk(
        *(screc, tmp_path, f"{kind}:{real_data / folder / training}", held_out),
        dram="25%",
        model=("--dim", 8, "--bottom", 32, "--top", 32),
        training_options=("--batch-size", 256, "--threads", 1),
    )
    assert Checkpoint.open(tmp_path / "full").model["num_dense"] == dense
    assert reports["predict"]["num_samples"] == samples
    assert reports["full"]["evaluation"]["auc"] > 0.55, "the log is too small to ask for more"
    check_within_budget(tmp_path, reports, 0.25)
    check_equal_to_pytorch(tmp_path, held_out, reports)


@pytest.mark.slow
def test_frappe(real_data: Path, screc: Verbs, tmp_path: Path) -> None:
    from recipes.prepare_frappe import prepare

    assert prepare(real_data, tmp_path / "data") == (230_886, 57_723)
    held_out = f"parquet:{tmp_path / 'data' / 'test.parquet'}"
    reports = walk(
        *(screc, tmp_path, f"parquet:{tmp_path / 'data' / 'train.parquet'}", held_out),
        dram="25%",
        model=("--top", "256,128"),
        training_options=("--batch-size", 1024, "--epochs", 2, "--table-lr", 0.05, "--threads", 1),
    )
    assert reports["full"]["evaluation"]["auc"] >= 0.97
    check_within_budget(tmp_path, reports, 0.25)
    check_equal_to_pytorch(tmp_path, held_out, reports)


@pytest.mark.slow
def test_ml1m_bags(real_data: Path, screc: Verbs, tmp_path: Path) -> None:
    """Bags of genres and of the last items, pooled by mean, on the first samples of the prepared log."""
    from recipes.prepare_ml1m import prepare

    prepare(real_data, tmp_path / "data")
    (tmp_path / "some").mkdir()
    for part, rows in (("train", 60_000), ("test", 10_000)):
        first = pq.read_table(tmp_path / "data" / f"{part}.parquet").slice(0, rows)
        pq.write_table(first, tmp_path / "some" / f"{part}.parquet")
    schema = Schema.load(tmp_path / "data" / "schema.json")
    schema.save(tmp_path / "some" / "schema.json")
    held_out = f"parquet:{tmp_path / 'some' / 'test.parquet'}"
    reports = walk(
        *(screc, tmp_path, f"parquet:{tmp_path / 'some' / 'train.parquet'}", held_out),
        dram="25%",
        model=("--top", "64,32"),
        training_options=("--batch-size", 512, "--table-lr", 0.05, "--threads", 1),
    )
    tables = Checkpoint.open(tmp_path / "planned").tables
    assert [table.pooling for table in tables[-2:]] == ["mean", "mean"]
    batch = next(held_out_log(tmp_path, held_out).batches(1000))
    assert batch.ids.size > 10 * 1000, "the history has many items"
    assert reports["full"]["evaluation"]["auc"] > 0.5, "too few samples to ask for more"
    check_within_budget(tmp_path, reports, 0.25)
    check_equal_to_pytorch(tmp_path, held_out, reports)
