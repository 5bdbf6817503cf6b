"""Re-batching and the opening of sources."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.data import Batch, CategoricalColumn, ClickLog, FeatureEncoder, Schema, open_log
from screc.data.log import concatenate, parse_source, rebatch


def _batch(bags: list[list[list[int]]], first: int) -> Batch:
    """A batch from bags[table][sample]; dense tells the sample's number, label its parity."""
    size = len(bags[0])
    flat = [bag for table in bags for bag in table]
    offsets = np.concatenate([[0], np.cumsum([len(bag) for bag in flat])]).astype(np.int64)
    ids = np.array([i for bag in flat for i in bag], dtype=np.int64)
    number = np.arange(first, first + size, dtype=np.float32)
    return Batch(dense=number[:, None], ids=ids, offsets=offsets, labels=number % 2)


def _samples(batches: list[Batch]) -> list[tuple]:
    found = []
    for batch in batches:
        for b in range(batch.batch_size):
            bags = []
            for t in range(batch.num_tables):
                offsets = batch.table_offsets(t)
                bags.append(batch.table_ids(t)[offsets[b] : offsets[b + 1]].tolist())
            found.append((float(batch.dense[b, 0]), float(batch.labels[b]), bags))
    return found


_BAG = st.lists(st.integers(0, 99), max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), max_size=6),
    batch_size=st.integers(1, 9),
    skip=st.integers(0, 20),
    data=st.data(),
)
def test_rebatch_keeps_every_sample(sizes, batch_size, skip, data) -> None:
    chunks, first = [], 0
    for size in sizes:
        bags = [data.draw(st.lists(_BAG, min_size=size, max_size=size)) for _ in range(2)]
        chunks.append(_batch(bags, first))
        first += size
    found = list(rebatch(iter(chunks), batch_size, skip=skip))
    assert _samples(found) == _samples(chunks)[skip:]
    assert all(batch.batch_size == batch_size for batch in found[:-1])
    for batch in found:
        batch.validate([100, 100], 1)


def test_rebatch_is_lazy() -> None:
    """Only as many chunks are taken as the batches need: memory does not grow with the log."""
    taken = []

    def chunks():
        for number in range(100):
            taken.append(number)
            yield _batch([[[1]] * 10], number * 10)

    stream = rebatch(chunks(), 15)
    next(stream)
    assert len(taken) == 2
    next(stream)
    assert len(taken) == 3


def test_concatenate_refuses_mixed_labels() -> None:
    labelled = _batch([[[1]]], 0)
    bare = Batch(dense=labelled.dense, ids=labelled.ids, offsets=labelled.offsets)
    assert concatenate([bare, bare]).labels is None
    with pytest.raises(ValueError, match="some parts of the log have labels"):
        concatenate([labelled, bare])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        concatenate([])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size) -> None:
    with pytest.raises(ValueError, match="batch_size: must be at least 1"):
        list(rebatch([], batch_size))
    log = open_log("synthetic:rows=10")
    with pytest.raises(ValueError, match="batch_size: must be at least 1"):
        list(log.batches(batch_size))
    with pytest.raises(ValueError, match="skip: must not be negative"):
        list(log.batches(1, skip=-1))


@pytest.mark.parametrize("source", ["criteo", "criteo:", "kafka:topic", "", "Criteo:a"])
def test_unknown_sources(source) -> None:
    with pytest.raises(ValueError, match="source: expected KIND:WHERE"):
        parse_source(source)


def test_open_log_messages(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_log(f"criteo:{tmp_path}/none.tsv")
    with pytest.raises(FileNotFoundError, match="holds no data file"):
        open_log(f"criteo:{tmp_path}")
    (tmp_path / "a.tsv").write_text("")
    with pytest.raises(ValueError, match=r"raw columns .*fit_encoder"):
        open_log(f"criteo:{tmp_path}/a.tsv")
    with pytest.raises(ValueError, match="on_error: expected"):
        open_log(f"criteo:{tmp_path}/a.tsv", on_error="ignore")
    encoder = FeatureEncoder.identity(Schema(categorical=(CategoricalColumn(name="u", num_embeddings=2),)))
    with pytest.raises(ValueError, match="encoded already"):
        open_log("synthetic:rows=10", encoder)


def test_synthetic_source_is_a_click_log() -> None:
    log = open_log("synthetic:rows=10,seed=3,scale=0.01,first=5")
    assert isinstance(log, ClickLog)
    assert log.num_samples == 10
    assert log.num_dense == 13
    assert len(log.tables) == 26
