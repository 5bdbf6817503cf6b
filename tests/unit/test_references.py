"""The recipe of reference AUCs: id maps, ratios, rounding, and what a restart measures again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from recipes import synthetic_dlrm_references as references
from recipes.synthetic_dlrm_references import (
    ARMS,
    Arm,
    References,
    ReferencesConfig,
    RemappedLog,
    hashed_ids,
    hot_cold_ids,
    quantised_ratio,
    rounded_rows,
    rows_per_field,
    rows_with_cap,
    tt_layouts,
)
from screc.data import TableSpec
from screc.models import DlrmConfig
from screc.statistics import AccessStatistics
from tests.unit.tiny_log import TinyLog

CONFIG = ReferencesConfig(
    rows=3000,
    held_out_rows=1000,
    scale=0.0005,
    model=DlrmConfig(num_dense=13, embedding_dim=4, bottom_mlp=(4,), top_mlp=(4, 1)),
)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch) -> None:
    monkeypatch.setattr(references.os, "sched_getaffinity", lambda _: {0})
    torch.set_num_threads(1)


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_hashed_ids_are_in_range_even_and_deterministic() -> None:
    ids = hashed_ids(100_000, 50, 3)
    assert ids.dtype == np.int64
    assert np.array_equal(ids, hashed_ids(100_000, 50, 3))
    counts = np.bincount(ids, minlength=50)
    assert counts.size == 50
    assert abs(counts - 2000).max() < 300  # 6.7 standard deviations
    assert (ids != hashed_ids(100_000, 50, 4)).mean() > 0.9, "every table has a hash of its own"
    assert not hashed_ids(7, 1, 0).any()
    assert hashed_ids(7, 7, 0).tolist() == list(range(7))


def test_rows_at_a_ratio() -> None:
    rows = [1000, 26, 3, 1]
    assert rows_per_field(rows, 10) == [100, 3, 1, 1]
    assert rows_per_field(rows, 10_000) == [1, 1, 1, 1]
    assert rows_with_cap(rows, 10) == [73, 26, 3, 1]  # 103 of 1030 rows
    assert rows_with_cap(rows, 1) == rows
    assert rows_with_cap(rows, 10_000) == [1, 1, 1, 1], "every table keeps a row"


def test_hot_rows_keep_their_own_and_cold_ones_share() -> None:
    log = TinyLog(num_samples=400)
    statistics = AccessStatistics.collect(log)
    maps, sizes = hot_cold_ids(statistics, 5)  # 125 rows: 25, of which 17.5 hot and 7.5 cold
    again, _ = hot_cold_ids(statistics, 5)
    total_hot, kept = 0, []
    for table, ids, other, size in zip(statistics.tables, maps, again, sizes, strict=True):
        assert np.array_equal(ids, other)
        assert ids.min() == 0
        assert ids.max() < size
        counts = np.bincount(ids, minlength=size)
        alone = int(np.argmax(counts > 1))
        total_hot += alone
        assert np.array_equal(np.sort(ids[table.ids[:alone]]), np.arange(alone)), "the most frequent are hot"
        assert (ids[table.ids[alone:]] >= alone).all()
        kept.append((table.counts[:alone].min(initial=10**9), table.counts[alone:].max(initial=0)))
    assert total_hot == 18
    assert min(hot for hot, _ in kept) >= max(cold for _, cold in kept), "hot across all tables"
    assert 18 + 3 <= sum(sizes) <= 25


def test_a_budget_of_all_rows_keeps_all() -> None:
    statistics = AccessStatistics.collect(TinyLog(num_samples=50))
    maps, sizes = hot_cold_ids(statistics, 1)
    assert sum(sizes) <= 125
    assert all(ids.max() < size for ids, size in zip(maps, sizes, strict=True))


def test_remapped_bags() -> None:
    log = TinyLog(num_samples=30)
    sizes = [3, 25, 1]
    maps = [
        hashed_ids(s.num_embeddings, n, t) for t, (s, n) in enumerate(zip(log.tables, sizes, strict=True))
    ]
    remapped = RemappedLog(log, maps, sizes)
    assert remapped.tables == (TableSpec("a", 3, "sum"), TableSpec("b", 25, "mean"), TableSpec("c", 1, "sum"))
    assert (remapped.num_samples, remapped.num_dense) == (30, 3)
    pairs = list(zip(log.batches(8, skip=3), remapped.batches(8, skip=3), strict=True))
    assert [batch.batch_size for _, batch in pairs] == [8, 8, 8, 3]
    for before, after in pairs:
        after.validate(sizes, 3)
        assert np.array_equal(before.labels, after.labels)
        for table, ids in enumerate(maps):
            assert np.array_equal(after.table_ids(table), ids[before.table_ids(table)])
    with pytest.raises(ValueError, match=r"table c needs 60 ids in \[0, 1\), got \[60\] from 0 to 59"):
        RemappedLog(log, [*maps[:2], np.arange(60)], sizes)
    with pytest.raises(ValueError, match="2 maps and 3 sizes for 3 tables"):
        RemappedLog(log, maps[:2], sizes)


def test_rounded_rows() -> None:
    rows = np.random.default_rng(0).normal(0, 0.05, (200, 16)).astype(np.float32)
    rows[0] = 0.25
    errors = []
    for bits in (8, 4, 2):
        rounded = rounded_rows(rows, bits)
        assert rounded.dtype == np.float32
        assert max(np.unique(row).size for row in rounded) <= 2**bits
        assert (rounded[0] == 0.25).all(), "a constant row stays"
        step = (rows.max(1) - rows.min(1)) / (2**bits - 1)
        errors.append(abs(rounded - rows).max())
        # Half a step, and what float16 takes from the smallest entry and from every step.
        assert (abs(rounded - rows).max(1) <= step * (0.5 + 2**bits * 2**-10) + 2e-4).all()
    assert errors == sorted(errors)
    assert [round(quantised_ratio(16, bits), 2) for bits in (8, 4, 2)] == [3.2, 5.33, 8.0]


def test_only_large_tables_become_tensor_trains() -> None:
    specs = (TableSpec("small", 10_000), TableSpec("large", 10_001))
    small, large = tt_layouts(specs, 16, 8)
    assert small.bands[0].format == "fp32"
    assert large.bands[0].tt is not None
    assert max(large.bands[0].tt.ranks) == 8


def test_results_ratios_and_a_restart(tmp_path, monkeypatch) -> None:
    arms = [
        Arm("bayes", 0),
        Arm("full", 0),
        Arm("dense"),
        Arm("int", 4),
        Arm("hash", 10),
        Arm("hot_cold", 100),
    ]
    assert set(arms) < set(ARMS)
    console = quiet()
    first = References(CONFIG, tmp_path, console)
    first.run(arms)
    total = sum(spec.num_embeddings for spec in CONFIG.log().tables)
    results = first.results
    assert results["dense-0"]["ratio"] == total / 26
    assert results["hash-10"]["ratio"] == pytest.approx(10, rel=0.01)
    assert results["hot_cold-100"]["ratio"] == pytest.approx(100, rel=0.1)
    assert results["int-4"]["ratio"] == quantised_ratio(4, 4)
    assert results["bayes-0"]["auc"] > 0.75
    assert results["int-4"]["auc"] == pytest.approx(results["full-0"]["auc"], abs=0.01)
    assert "hash per field, 10x: AUC" in console.file.getvalue()

    stored = (tmp_path / "references.json").read_bytes()
    monkeypatch.setattr(references, "train", lambda *_, **__: pytest.fail("a finished arm was trained again"))
    second = References(CONFIG, tmp_path, quiet())
    second.run(arms)
    assert second.results == json.loads(stored)["arms"]
    assert (tmp_path / "references.json").read_bytes() == stored
    assert second.markdown() == first.markdown()
    lines = second.markdown().splitlines()
    assert len(lines) == 2 + len(arms)
    assert lines[3].startswith("| full, model seed 0 | 1.0 | 0.")
    second.plot(tmp_path / "a.svg")
    second.plot(tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").stat().st_size < 200_000


def test_only_what_is_missing_is_measured(tmp_path) -> None:
    one = References(CONFIG, tmp_path, quiet())
    one.run([Arm("bayes", 0)])
    console = quiet()
    References(CONFIG, tmp_path, console).run([Arm("bayes", 0), Arm("bayes", 1)])
    assert "analytic" not in console.file.getvalue()
    assert "2/2 Bayes, drawn labels" in console.file.getvalue()


def test_another_configuration_is_refused(tmp_path) -> None:
    References(CONFIG, tmp_path, quiet()).run([Arm("bayes", 0)])
    other = ReferencesConfig(rows=2000, held_out_rows=1000, scale=0.0005, model=CONFIG.model)
    with pytest.raises(
        ValueError, match=r"references\.json is of another configuration; choose another --out"
    ):
        References(other, tmp_path, quiet())


def test_an_interrupted_arm_is_not_recorded(tmp_path, monkeypatch) -> None:
    class Stopped:
        interrupted, evaluation = True, None

    monkeypatch.setattr(references, "train", lambda *_, **__: Stopped())
    with pytest.raises(KeyboardInterrupt):
        References(CONFIG, tmp_path, quiet()).run([Arm("bayes", 0), Arm("full", 0)])
    stored = json.loads((tmp_path / "references.json").read_text())
    assert list(stored["arms"]) == ["bayes-0"]


def test_every_arm_has_a_place_in_the_table(tmp_path) -> None:
    some = References(CONFIG, Path(tmp_path), quiet())
    some.results = {arm.key: {"ratio": 1.0, "auc": 0.5} for arm in ARMS}
    assert len({arm.title for arm in ARMS}) == len(some.rows()) == len(ARMS)
