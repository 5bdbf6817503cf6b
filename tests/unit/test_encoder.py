"""Feature encoders: ids, missing values, bags, dense transforms, and their files."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.data import CategoricalColumn, DenseColumn, FeatureEncoder, Schema, fit_encoder, open_log
from screc.data.encoder import HashIds, VocabularyIds
from screc.data.vocabulary import ValueCounter, Vocabulary

SCHEMA = Schema(
    dense=(DenseColumn(name="count"), DenseColumn(name="price", transform="none")),
    categorical=(
        CategoricalColumn(name="city"),
        CategoricalColumn(name="tags", multi_valued=True, pooling="mean"),
    ),
)
ROWS = {
    "label": [1, 0, 1, 0, 0],
    "count": [0.0, -3.0, None, 6.5, 1.0],
    "price": [1.5, -2.0, 0.25, None, 7.0],
    "city": ["rome", None, "oslo", "rome", ""],
    "tags": [["a", "b"], [], None, ["a", None, "", "c"], ["c"]],
}


@pytest.fixture
def folder(tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "log.parquet")
    SCHEMA.save(tmp_path / "schema.json")
    return tmp_path


def _only_batch(source, encoder):
    (batch,) = open_log(source, encoder).batches(100)
    return batch


def test_vocabulary_by_hand(folder) -> None:
    source = f"parquet:{folder}/log.parquet"
    encoder = fit_encoder(source)
    assert encoder.num_dense == 2
    # Frequency first, then bytes: "" twice, "rome" twice, "oslo" once; a, c twice, b once.
    assert [(t.name, t.num_embeddings, t.pooling) for t in encoder.tables] == [
        ("city", 4, "sum"),
        ("tags", 4, "mean"),
    ]
    batch = _only_batch(source, encoder)
    assert batch.table_ids(0).tolist() == [2, 1, 3, 2, 1]
    assert batch.table_ids(1).tolist() == [1, 3, 1, 2, 2]
    assert batch.table_offsets(1).tolist() == [0, 2, 2, 2, 4, 5]
    assert batch.labels.tolist() == ROWS["label"]
    expected = np.array([[0, 1.5], [0, -2], [0, 0.25], [np.log1p(6.5), 0], [np.log(2), 7]], dtype=np.float32)
    assert np.array_equal(batch.dense, expected)
    batch.validate([4, 4], 2)


def test_min_count_and_cap(folder) -> None:
    source = f"parquet:{folder}/log.parquet"
    rare = fit_encoder(source, min_count=2)
    assert [t.num_embeddings for t in rare.tables] == [3, 3]
    assert _only_batch(source, rare).table_ids(0).tolist() == [2, 1, 0, 2, 1]
    # Missing keeps an id although it was seen less than five times.
    assert [t.num_embeddings for t in fit_encoder(source, min_count=5).tables] == [2, 1]
    assert [t.num_embeddings for t in fit_encoder(source, rows={"city": 2}).tables] == [2, 4]
    assert [t.num_embeddings for t in fit_encoder(source, rows=1).tables] == [1, 1]
    assert [t.num_embeddings for t in fit_encoder(source, limit=1).tables] == [2, 3]


def test_unseen_values_are_unknown(folder) -> None:
    encoder = fit_encoder(f"parquet:{folder}/log.parquet", limit=1)
    batch = encoder.encode_records([{"city": "paris", "tags": ["a", "z"], "count": 3}, {"city": "rome"}])
    assert batch.table_ids(0).tolist() == [0, 1]
    assert batch.table_ids(1).tolist() == [1, 0]
    assert batch.table_offsets(1).tolist() == [0, 2, 2]
    assert batch.labels is None
    assert encoder.encode_records([]).batch_size == 0
    with pytest.raises(ValueError, match=r"column 'city': .*; give one type of value per column"):
        encoder.encode_records([{"city": 1}, {"city": "rome"}])
    assert batch.dense[0].tolist() == [np.float32(np.log(4)), 0]


def test_hash_ids(folder) -> None:
    source = f"parquet:{folder}/log.parquet"
    encoder = fit_encoder(source, kind="hash", rows={"city": 50, "tags": 1})
    assert [t.num_embeddings for t in encoder.tables] == [50, 1]
    batch = _only_batch(source, encoder)
    city = batch.table_ids(0)
    assert city[1] == city[4] == 0
    assert city[0] == city[3] > 0
    assert city[2] > 0
    assert batch.table_ids(1).tolist() == [0] * 5
    other = _only_batch(source, fit_encoder(source, kind="hash", rows=10_000, seed=1)).table_ids(0)
    again = _only_batch(source, fit_encoder(source, kind="hash", rows=10_000, seed=2)).table_ids(0)
    assert other[0] != again[0]


def test_columns_collide_differently() -> None:
    values = pa.array([b"%d" % i for i in range(1000)], type=pa.large_binary())
    first, second = HashIds(100, 11).ids(values), HashIds(100, 12).ids(values)
    assert (first == second).mean() < 0.05
    assert first.min() == 1
    assert first.max() == 99


@pytest.mark.parametrize("kind", ["vocabulary", "hash"])
def test_save_and_load(folder, kind) -> None:
    source = f"parquet:{folder}/log.parquet"
    encoder = fit_encoder(source, kind=kind, rows=40, seed=9)
    encoder.save(folder / "encoder")
    loaded = FeatureEncoder.load(folder / "encoder")
    assert loaded.schema == encoder.schema
    assert loaded.tables == encoder.tables
    first, second = _only_batch(source, encoder), _only_batch(source, loaded)
    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.dense, second.dense)


def test_identity_round_trip(tmp_path) -> None:
    schema = Schema(
        categorical=(
            CategoricalColumn(name="u", num_embeddings=5),
            CategoricalColumn(name="v", multi_valued=True, num_embeddings=3),
        )
    )
    schema.save(tmp_path / "schema.json")
    pq.write_table(pa.table({"u": [4, 0], "v": [[2, None], None]}), tmp_path / "a.parquet")
    log = open_log(f"parquet:{tmp_path}")
    (batch,) = log.batches(10)
    assert batch.ids.tolist() == [4, 0, 2]
    assert batch.offsets.tolist() == [0, 1, 2, 3, 3]
    assert batch.labels is None
    encoder = FeatureEncoder.identity(schema)
    encoder.save(tmp_path / "encoder")
    assert FeatureEncoder.load(tmp_path / "encoder").tables == log.tables
    for bad, message in ((5, "column 'u': id 5 is out of range for 5 rows"), (-1, "id -1 is out of range")):
        with pytest.raises(ValueError, match=message):
            encoder.encode(pa.record_batch({"u": [bad], "v": [[0]]}))
    with pytest.raises(ValueError, match="column 'u': a row id is missing"):
        encoder.encode_records([{"v": [1]}])
    with pytest.raises(ValueError, match="column 'u': num_embeddings is not set"):
        FeatureEncoder.identity(Schema(categorical=(CategoricalColumn(name="u"),)))


def test_integers_and_text_encode_alike() -> None:
    vocabulary = Vocabulary(pa.array(["17", "-3", "true"]))
    schema = Schema(categorical=(CategoricalColumn(name="x"),))
    encoder = FeatureEncoder(schema, [VocabularyIds(vocabulary)])
    text = pa.array(["17", "-3"])
    large = text.cast(pa.large_string())
    for values in (pa.array([17, -3]), text, text.cast(pa.binary()), text.dictionary_encode(), large):
        assert encoder.encode(pa.record_batch({"x": values})).ids.tolist() == [1, 2]
    assert encoder.encode(pa.record_batch({"x": [True, False]})).ids.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"city": ["a"], "count": [1.0], "price": [1.0]}, ValueError, "column 'tags' is missing"),
        ({"tags": ["a"]}, TypeError, "column 'tags': multi-valued, expected lists"),
        ({"city": [1.5]}, TypeError, "column 'city': expected integers, strings or booleans, got double"),
        ({"city": [["a"]]}, TypeError, "column 'city': .*set multi_valued for lists"),
        ({"tags": [[1.5]]}, TypeError, "column 'tags': expected integers, strings"),
        ({"count": ["many"]}, TypeError, "dense column 'count': expected numbers"),
        ({"price": [1e300]}, ValueError, "dense column 'price': 1e[+]300 is not a finite float32"),
        ({"price": [float("inf")]}, ValueError, "dense column 'price': inf"),
        ({"label": pa.array([None], pa.int8())}, ValueError, "column 'label': some samples"),
    ],
)
def test_bad_chunks(columns, error, message) -> None:
    encoder = FeatureEncoder(SCHEMA, [HashIds(5, 0), HashIds(5, 0)])
    good = {"count": [1.0], "price": [1.0], "city": ["a"], "tags": [["a"]]}
    if "column 'tags' is missing" in message:
        good = {}
    with pytest.raises(error, match=message):
        encoder.encode(pa.record_batch(good | columns))


def test_fit_messages(folder) -> None:
    source = f"parquet:{folder}/log.parquet"
    with pytest.raises(ValueError, match="kind: expected"):
        fit_encoder(source, kind="embedding")
    with pytest.raises(ValueError, match="min_count: must be at least 1"):
        fit_encoder(source, min_count=0)
    with pytest.raises(ValueError, match="limit: must be at least 1"):
        fit_encoder(source, limit=0)
    with pytest.raises(ValueError, match="hashing column 'city' needs a number of rows"):
        fit_encoder(source, kind="hash")
    with pytest.raises(ValueError, match="rows: no categorical column 'town'"):
        fit_encoder(source, rows={"town": 3})
    with pytest.raises(ValueError, match="column 'city' needs at least 1 row, got 0"):
        fit_encoder(source, rows=0)
    with pytest.raises(ValueError, match="there is nothing to encode"):
        fit_encoder("synthetic:rows=10")
    with pytest.raises(ValueError, match="expected one per categorical column"):
        FeatureEncoder(SCHEMA, [])


def test_damaged_files_are_named(folder) -> None:
    encoder = fit_encoder(f"parquet:{folder}/log.parquet")
    target = folder / "encoder"
    encoder.save(target)
    with pytest.raises(FileNotFoundError):
        FeatureEncoder.load(folder / "none")
    path = target / "encoder.json"
    good = json.loads(path.read_text())
    changes = [
        lambda v: v.update(version=2),
        lambda v: v["columns"].pop(),
        lambda v: v["columns"][0].update(rows=9),
        lambda v: v["columns"][0].update(rows=0),
        lambda v: v["columns"][0].update(kind="magic"),
        lambda v: v["columns"][0].update(file="../encoder/vocabulary.000.parquet"),
        lambda v: v["columns"][0].pop("file"),
        lambda v: v.pop("schema"),
    ]
    for change in changes:
        value = json.loads(json.dumps(good))
        change(value)
        path.write_text(json.dumps(value))
        with pytest.raises(ValueError, match=r"encoder\.json"):
            FeatureEncoder.load(target)
    path.write_text("[1")
    with pytest.raises(ValueError, match="not valid JSON"):
        FeatureEncoder.load(target)
    path.write_text(json.dumps(good))
    (target / "vocabulary.000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"encoder\.json: damaged"):
        FeatureEncoder.load(target)


@settings(max_examples=50, deadline=None)
@given(
    columns=st.lists(st.lists(st.binary(max_size=10), max_size=30), min_size=1, max_size=4),
    min_count=st.integers(1, 3),
    asked=st.lists(st.binary(max_size=10), max_size=10),
)
def test_vocabulary_against_a_dictionary(columns, min_count, asked) -> None:
    counter, counts = ValueCounter(), {}
    for values in columns:
        encoded = pa.array(values, type=pa.large_binary()).dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        counter.add(encoded.dictionary, np.bincount(codes, minlength=len(encoded.dictionary)))
        for value in values:
            counts[value] = counts.get(value, 0) + 1
    kept = sorted((v for v in counts if counts[v] >= min_count or not v), key=lambda v: (-counts[v], v))
    vocabulary = counter.vocabulary(min_count=min_count)
    assert vocabulary.values.to_pylist() == kept
    wanted = {value: place + 1 for place, value in enumerate(kept)}
    asked += kept
    found = vocabulary.lookup(pa.array(asked, type=pa.large_binary()))
    assert found.tolist() == [wanted.get(value, 0) for value in asked]


def test_order_of_the_log_does_not_matter(tmp_path) -> None:
    rows = pa.table(ROWS)
    SCHEMA.save(tmp_path / "schema.json")
    pq.write_table(rows, tmp_path / "a.parquet")
    pq.write_table(rows.take([4, 2, 0, 1, 3]), tmp_path / "b.parquet")
    first = fit_encoder(f"parquet:{tmp_path}/a.parquet")
    second = fit_encoder(f"parquet:{tmp_path}/b.parquet")
    for a, b in zip(first.rules, second.rules, strict=True):
        assert a.vocabulary.values.equals(b.vocabulary.values)


def test_duplicate_values_are_refused() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        Vocabulary(pa.array(["a", "b", "a"]))
