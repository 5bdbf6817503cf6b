"""Parquet logs: types, skipping, malformed rows, and writing logs out and reading them back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screc.data import (
    CategoricalColumn,
    DenseColumn,
    Schema,
    fit_encoder,
    open_log,
    write_criteo,
    write_parquet,
)
from screc.data import parquet as parquet_module
from screc.data.reader import open_reader

SCHEMA = Schema(
    dense=(DenseColumn(name="x", transform="none"),),
    categorical=(CategoricalColumn(name="c"), CategoricalColumn(name="bag", multi_valued=True)),
)


def _table(count: int, **changes) -> pa.Table:
    columns = {
        "label": [i % 2 for i in range(count)],
        "x": [float(i) for i in range(count)],
        "c": [f"v{i % 7}" for i in range(count)],
        "bag": [[f"w{k}" for k in range(i % 3)] for i in range(count)],
        "unused": [None] * count,
    }
    return pa.table(columns | changes)


@pytest.mark.parametrize("skip", [0, 1, 39, 40, 41, 100, 119, 120, 500])
def test_skip_at_and_between_row_groups(tmp_path, monkeypatch, skip) -> None:
    monkeypatch.setattr(parquet_module, "_CHUNK_ROWS", 16)
    pq.write_table(_table(80), tmp_path / "a.parquet", row_group_size=20)
    pq.write_table(_table(40), tmp_path / "b.parquet", row_group_size=40)
    SCHEMA.save(tmp_path / "schema.json")
    encoder = fit_encoder(f"parquet:{tmp_path}")
    wanted = [*range(80), *range(40)][skip:]
    for on_error in ("raise", "skip"):
        log = open_log(f"parquet:{tmp_path}", encoder, on_error=on_error)
        found = [x for batch in log.batches(7, skip=skip) for x in batch.dense[:, 0].tolist()]
        assert found == wanted
    assert open_log(f"parquet:{tmp_path}", encoder).num_samples == 120
    assert log.num_samples is None


def test_types_that_fit(tmp_path) -> None:
    count = 4
    SCHEMA.save(tmp_path / "schema.json")
    tables = [
        _table(count),
        _table(count, label=[False, True, False, True], x=pa.array([0, 1, 2, 3], pa.int16())),
        _table(count, label=[0.0, 1.0, 0.0, 1.0], c=pa.array(["v0", "v1", "v2", "v3"]).dictionary_encode()),
        _table(count, bag=pa.array([[], ["w0"], ["w0", "w1"], None], pa.large_list(pa.large_string()))),
    ]
    pq.write_table(tables[0], tmp_path / "0.parquet")
    encoder = fit_encoder(f"parquet:{tmp_path}/0.parquet")
    for place, table in enumerate(tables):
        pq.write_table(table, tmp_path / f"{place}.parquet")
        (batch,) = open_log(f"parquet:{tmp_path}/{place}.parquet", encoder).batches(10)
        assert batch.labels.tolist() == [0, 1, 0, 1]
        assert batch.dense[:, 0].tolist() == [0, 1, 2, 3]
        assert batch.table_ids(0).tolist() == [1, 2, 3, 4]
        assert batch.table_ids(1).tolist()[:3] == [1, 1, 2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"c": [1.5, 2.5]}, TypeError, "column 'c' has type double, which cannot be categories"),
        ({"c": [["a"], ["b"]]}, TypeError, "column 'c' has type list"),
        ({"bag": ["a", "b"]}, TypeError, "column 'bag' has type string, which cannot be a multi-valued"),
        ({"x": ["1", "2"]}, TypeError, "column 'x' has type string, which cannot be a dense column"),
        ({"label": ["0", "1"]}, TypeError, "column 'label' has type string, which cannot be a label"),
        ({"label": [0, 2]}, ValueError, "row 1: column 'label': expected 0 or 1, got 2"),
        ({"label": [None, 1]}, ValueError, "row 0: column 'label': expected 0 or 1, got None"),
        ({"label": [0.5, 1.0]}, ValueError, "row 0: column 'label': expected 0 or 1, got 0.5"),
        ({"x": [1.0, float("-inf")]}, ValueError, "row 1: column 'x': expected a finite number, got -inf"),
    ],
)
def test_malformed_columns_are_named(tmp_path, changes, error, message) -> None:
    pq.write_table(_table(2, **changes), tmp_path / "a.parquet")
    with pytest.raises(error, match=message) as caught:
        list(open_reader(f"parquet:{tmp_path}/a.parquet", schema=SCHEMA).chunks())
    assert "a.parquet" in str(caught.value)


def test_missing_columns_files_and_schemas(tmp_path) -> None:
    pq.write_table(_table(2).drop_columns(["c"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"schema\.json does not exist"):
        open_reader(f"parquet:{tmp_path}")
    with pytest.raises(ValueError, match=r"no column 'c'; the file has label, x, bag, unused"):
        open_reader(f"parquet:{tmp_path}", schema=SCHEMA)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 this is not Parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: not a readable Parquet file"):
        open_reader(f"parquet:{tmp_path}", schema=SCHEMA)


def test_damaged_pages_are_named(tmp_path) -> None:
    pq.write_table(_table(5000), tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet: damaged Parquet file"):
        list(open_reader(f"parquet:{tmp_path}", schema=SCHEMA).chunks())


def test_bad_rows_are_skipped_and_counted(tmp_path) -> None:
    labels = [0, 3, 1, None, 1]
    x = [0.0, 1.0, float("inf"), 3.0, float("nan")]
    pq.write_table(_table(5, label=labels, x=x), tmp_path / "a.parquet")
    SCHEMA.save(tmp_path / "schema.json")
    encoder = fit_encoder(f"parquet:{tmp_path}", on_error="skip")
    log = open_log(f"parquet:{tmp_path}", encoder, on_error="skip")
    (batch,) = log.batches(10)
    assert log.skipped == 3
    assert batch.labels.tolist() == [0, 1]
    assert batch.dense[:, 0].tolist() == [0, 0]  # NaN is a missing value


def test_columns_without_any_value(tmp_path) -> None:
    SCHEMA.save(tmp_path / "schema.json")
    pq.write_table(_table(3, x=[None] * 3, c=[None] * 3, bag=[None] * 3), tmp_path / "a.parquet")
    encoder = fit_encoder(f"parquet:{tmp_path}")
    (batch,) = open_log(f"parquet:{tmp_path}", encoder).batches(10)
    assert batch.dense[:, 0].tolist() == [0, 0, 0]
    assert batch.ids.tolist() == [1, 1, 1]
    assert [t.num_embeddings for t in encoder.tables] == [2, 1]


def test_written_log_reads_back(tmp_path) -> None:
    log = open_log("synthetic:rows=3000,scale=0.01")
    seen = []
    write_parquet(log, tmp_path / "log.parquet", progress=seen.append)
    assert seen == [3000]
    back = open_log(f"parquet:{tmp_path}/log.parquet")
    assert back.tables == log.tables
    assert back.num_samples == 3000
    for a, b in zip(log.batches(700), back.batches(700), strict=True):
        assert np.array_equal(a.ids, b.ids)
        assert np.array_equal(a.offsets, b.offsets)
        assert np.array_equal(a.dense, b.dense)
        assert np.array_equal(a.labels, b.labels)


def test_written_bags_read_back(tmp_path) -> None:
    SCHEMA.save(tmp_path / "schema.json")
    pq.write_table(_table(50), tmp_path / "raw.parquet")
    log = open_log(f"parquet:{tmp_path}/raw.parquet", fit_encoder(f"parquet:{tmp_path}/raw.parquet"))
    (tmp_path / "ids").mkdir()
    schema = write_parquet(log, tmp_path / "ids" / "log.parquet")
    assert [c.multi_valued for c in schema.categorical] == [False, True]
    (first,), (second,) = log.batches(50), open_log(f"parquet:{tmp_path}/ids").batches(50)
    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.offsets, second.offsets)


def test_synthetic_as_criteo_text(tmp_path) -> None:
    log = open_log("synthetic:rows=2000,scale=0.01")
    write_criteo(log, tmp_path / "log.tsv")
    encoder = fit_encoder(f"criteo:{tmp_path}/log.tsv")
    (first,), (second,) = log.batches(2000), open_log(f"criteo:{tmp_path}/log.tsv", encoder).batches(2000)
    assert np.array_equal(first.labels, second.labels)
    for table in range(26):
        pairs = set(zip(first.table_ids(table).tolist(), second.table_ids(table).tolist(), strict=True))
        assert len(pairs) == np.unique(first.table_ids(table)).size == np.unique(second.table_ids(table)).size
    # The same numbers but for the affine standardisation.
    for column in range(13):
        assert np.corrcoef(first.dense[:, column], second.dense[:, column])[0, 1] > 0.999999


def test_empty_logs_are_refused(tmp_path) -> None:
    SCHEMA.save(tmp_path / "schema.json")
    pq.write_table(_table(1).slice(0, 0), tmp_path / "raw.parquet")
    encoder = fit_encoder(f"parquet:{tmp_path}/raw.parquet")
    log = open_log(f"parquet:{tmp_path}/raw.parquet", encoder)
    assert list(log.batches(5)) == []
    with pytest.raises(ValueError, match="no samples to write"):
        write_parquet(log, tmp_path / "out.parquet")
