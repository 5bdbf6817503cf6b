"""A damaged page fails the queries that need its rows, and none of those they were joined with."""

from __future__ import annotations

import numpy as np
from storage_samples import Plan, layout, random_ranks
from test_batcher import _OPTIONS, as_batch, form_of, submit, wait_for
from test_engine import make_model

from screc.serving import Engine
from screc.storage import StoredTable, TableLayout, pack, write_checkpoint


def test_a_damaged_page_fails_its_own_queries(tmp_path) -> None:
    model, dense, _, _ = make_model(num_tables=2)
    rng = np.random.default_rng(0)
    tables = [rng.standard_normal((rows, 16)).astype(np.float32) for rows in (30, 1000)]
    write_checkpoint(
        tmp_path / "checkpoint",
        model=model,
        dense=dense,
        training={"samples": 1},
        tables=[
            StoredTable(TableLayout.dense(f"t{i}", len(rows), 16), "sum") for i, rows in enumerate(tables)
        ],
        table_tensors=lambda table: {"band.0.rows": tables[table]},
    )
    layouts = [layout("t0", 30, 16, (30, "dram")), layout("t1", 1000, 16, (1000, "ssd"))]
    pack(tmp_path / "checkpoint", random_ranks(layouts), Plan(layouts), tmp_path / "artifact")
    pages = next(path for path in (tmp_path / "artifact").rglob("*") if path.stat().st_size > 64_000)
    with pages.open("r+b") as file:  # 1,000 rows of 64 bytes are 16 pages; the third holds ids about 150
        file.seek(2 * 4096 + 1000)
        file.write(b"\xff" * 8)
    engine = Engine.open(tmp_path / "artifact", threads=2, io="pread")

    def query(ids: list[int]):
        categorical = np.stack([np.zeros(len(ids), np.int64), np.array(ids)], axis=1)
        return as_batch(rng.standard_normal((len(ids), 13)).astype(np.float32), categorical)

    sound, damaged, other = query([0, 5, 999]), query([1, 150, 2]), query([500])
    batcher = engine.batcher(**(_OPTIONS | {"workers": 1, "queue_delay": 10.0, "max_batch": 7}))
    outs = [np.empty(batch.batch_size, np.float32) for batch in (sound, damaged, other)]
    form = form_of(tables)
    tickets = [
        submit(batcher, form, batch, out).ticket
        for batch, out in zip((sound, damaged, other), outs, strict=True)
    ]
    ended = {one.ticket: one for one in wait_for(batcher, 3)}
    assert batcher.stats().joined_batches == 1
    assert [ended[ticket].outcome for ticket in tickets] == ["done", "failed", "done"]
    assert "page 2" in ended[tickets[1]].error
    np.testing.assert_array_equal(outs[0], engine.predict(sound))
    np.testing.assert_array_equal(outs[2], engine.predict(other))
    assert batcher.stats().failed == 1
