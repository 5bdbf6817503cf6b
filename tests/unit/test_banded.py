from __future__ import annotations

import numpy as np
import pytest
import torch

from screc.embeddings import BandedTable, EmbeddingCollection
from screc.storage.layout import Band, TableLayout, TtShape


def layout(total: int = 100, hot: int = 10, middle: int = 40) -> TableLayout:
    bands = (
        Band(start=0, stop=hot, format="fp32", memory="dram"),
        Band(start=hot, stop=hot + middle, format="tt", memory="dram", tt=TtShape.balanced(middle, 8, 4)),
        Band(start=hot + middle, stop=total, format="fp32", memory="ssd"),
    )
    return TableLayout(table="ads", num_embeddings=total, embedding_dim=8, bands=bands)


def ids_of(bands: TableLayout, seed: int = 0) -> list[np.ndarray]:
    order = np.random.default_rng(seed).permutation(bands.num_embeddings).astype(np.int64)
    return [order[band.start : band.stop] for band in bands.bands[:-1]]


def test_slots_follow_ascending_ids_and_the_last_band_the_id() -> None:
    given = ids_of(layout())
    table = BandedTable(layout(), given)
    tensors = table.tensors()
    hot = np.sort(given[0])
    np.testing.assert_array_equal(tensors["band.0.ids"], hot)
    rows = table.rows(torch.arange(100)).detach().numpy()
    np.testing.assert_array_equal(rows[hot], tensors["band.0.rows"])
    cold = np.setdiff1d(np.arange(100), np.concatenate(given))
    np.testing.assert_array_equal(rows[cold], tensors["band.2.rows"][cold])
    middle = np.sort(given[1])
    with torch.no_grad():
        np.testing.assert_array_equal(rows[middle], table.bands[1].rows(torch.arange(40)).numpy())


def test_every_band_starts_with_the_same_deviation() -> None:
    big = layout(total=30_000, hot=3000, middle=9000)
    given = ids_of(big)
    table = BandedTable(big, given, init_std=0.05, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for ids in given:
            rows = table.rows(torch.from_numpy(np.sort(ids)))
            assert rows.std().item() == pytest.approx(0.05, rel=0.1)


def test_unused_slots_of_the_last_band_get_no_gradient() -> None:
    given = ids_of(layout())
    table = BandedTable(layout(), given)
    table(torch.arange(100), torch.arange(101)).sum().backward()
    touched = table.bands[2].weight.grad._indices()[0].numpy()
    np.testing.assert_array_equal(touched, np.setdiff1d(np.arange(100), np.concatenate(given)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda ids: ids[:1], ValueError, "table ads: band_ids has 1 entries, expected 2"),
        (lambda ids: [ids[0][:9], ids[1]], ValueError, r"band_ids\[0\] has 9 ids, its band 10 rows"),
        (lambda ids: [ids[0].astype(np.int32), ids[1]], TypeError, r"band_ids\[0\]: expected an int64"),
        (lambda ids: [np.append(ids[0][:9], 100), ids[1]], ValueError, "100 is out of range for 100 rows"),
        (lambda ids: [np.append(ids[0][:9], ids[0][0]), ids[1]], ValueError, "every id belongs to one band"),
        (lambda ids: [np.append(ids[0][:9], ids[1][0]), ids[1]], ValueError, "every id belongs to one band"),
    ],
)
def test_bad_band_ids(change, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BandedTable(layout(), change(ids_of(layout())))


def test_load_refuses_other_ids() -> None:
    table = BandedTable(layout(), ids_of(layout()))
    other = BandedTable(layout(), ids_of(layout(), seed=1))
    with pytest.raises(ValueError, match=r"tensor 'band.0.ids' is not the set of ids"):
        table.load(other.tensors())
    tensors = dict(table.tensors())
    del tensors["band.1.ids"]
    with pytest.raises(ValueError, match=r"tensor 'band.1.ids' is missing"):
        table.load(tensors)


def collection(pooling: tuple[str, ...] = ("sum", "mean", "sum", "mean")) -> EmbeddingCollection:
    """Two tables trained whole around a banded one and a tensor train."""
    from screc.embeddings import TensorTrain

    layouts = [
        TableLayout.dense("a", 30, 8),
        layout(),
        TensorTrain.layout_of("b", 50, TtShape.balanced(50, 8, 4)),
        TableLayout.dense("c", 5, 8),
    ]
    generator = torch.Generator().manual_seed(2)
    return EmbeddingCollection(layouts, pooling, band_ids={1: ids_of(layouts[1])}, generator=generator)


def whole(pooling: tuple[str, ...] = ("sum", "mean", "sum")) -> EmbeddingCollection:
    layouts = [TableLayout.dense(f"t{n}", n, 8) for n in (30, 1, 12)]
    return EmbeddingCollection(layouts, pooling, generator=torch.Generator().manual_seed(2))


def bags(tables: EmbeddingCollection, size: int, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(3)
    lengths = rng.integers(0 if longest > 1 else 1, longest + 1, size=(tables.num_tables, size))
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
    parts = [rng.integers(0, n, row.sum()) for n, row in zip(tables.num_embeddings, lengths, strict=True)]
    return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(offsets)


@pytest.mark.parametrize("make", [collection, whole])
@pytest.mark.parametrize("longest", [1, 4])
@pytest.mark.parametrize("size", [1, 9])
@pytest.mark.parametrize("training", [True, False])
def test_collection_equals_its_tables(make, longest: int, size: int, training: bool) -> None:
    tables = make()
    ids, offsets = bags(tables, size, longest)
    with torch.set_grad_enabled(training):
        pooled = tables(ids, offsets)
        assert pooled.shape == (size, tables.num_tables, 8)
        for t in range(tables.num_tables):
            own = offsets[t * size : (t + 1) * size + 1]
            expected = tables.table(t)(ids[own[0] : own[-1]], own - own[0])
            torch.testing.assert_close(pooled[:, t], expected)


@pytest.mark.parametrize("make", [collection, whole])
def test_collection_gradients(make) -> None:
    tables = make()
    size = 6
    ids, offsets = bags(tables, size, 3)
    weights = torch.randn(size, tables.num_tables, 8, generator=torch.Generator().manual_seed(4))
    (tables(ids, offsets) * weights).sum().backward()
    start = 0
    for t in range(tables.num_tables):
        table = tables.table(t)
        if table.layout.bands[0].tt is not None or len(table.layout.bands) > 1:
            continue  # held by the table contract
        own = offsets[t * size : (t + 1) * size + 1]
        (table(ids[own[0] : own[-1]], own - own[0]) * weights[:, t]).sum().backward()
        rows = table.num_embeddings
        expected = table.weight.grad.to_dense()
        torch.testing.assert_close(tables.weight.grad.to_dense()[start : start + rows], expected)
        start += rows


def test_collection_tables_are_views() -> None:
    tables = whole()
    with torch.no_grad():
        tables.table(1).weight.fill_(3.0)
    assert (tables.weight[30] == 3.0).all()
    assert tables.num_bytes == 43 * 8 * 4
    assert [p.shape for p in tables.parameters()] == [(43, 8)]


@pytest.mark.parametrize("make", [collection, whole])
def test_collection_refuses_bad_input(make) -> None:
    tables = make()
    count = tables.num_tables
    ids, offsets = torch.zeros(count, dtype=torch.int64), torch.arange(count + 1)
    tables(ids, offsets)
    ids[-1] = tables.num_embeddings[-1]  # would be read from beyond the shared weights
    with pytest.raises(ValueError, match=rf"is out of range for table {count - 1} \("):
        tables(ids, offsets)
    ids[-1], ids[0] = 0, 30  # would be read from the next table
    with pytest.raises(ValueError, match=r"ids\[0\] = 30 is out of range for table 0 \(\w+\) with 30 rows"):
        tables(ids, offsets)
    with pytest.raises(ValueError, match="expected a multiple of"):
        tables(ids[:2] * 0, torch.tensor([0, 1, 2]))
    with pytest.raises(TypeError, match="ids: expected torch"):
        tables(ids.int(), offsets)


def test_collection_refuses_bad_tables() -> None:
    one = TableLayout.dense("a", 3, 4)
    with pytest.raises(ValueError, match="expected at least one table"):
        EmbeddingCollection([], [])
    with pytest.raises(ValueError, match=r"same embedding_dim, got \[4, 8\]"):
        EmbeddingCollection([one, TableLayout.dense("b", 3, 8)], ["sum", "sum"])
    with pytest.raises(ValueError, match="pooling: expected 1 entries"):
        EmbeddingCollection([one], [])
    with pytest.raises(ValueError, match=r"pooling\[0\] must be 'sum' or 'mean', got 'max'"):
        EmbeddingCollection([one], ["max"])
    with pytest.raises(ValueError, match=r"table 0 \(ads\) has several bands; give their ids"):
        EmbeddingCollection([layout()], ["sum"])


@pytest.mark.parametrize("make", [collection, whole])
def test_collection_of_an_empty_batch(make) -> None:
    tables = make()
    empty = torch.zeros(0, dtype=torch.int64)
    assert tables(empty, torch.zeros(1, dtype=torch.int64)).shape == (0, tables.num_tables, 8)
