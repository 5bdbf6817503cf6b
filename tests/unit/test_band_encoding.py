"""HeldRows against the artifact packed from the same table, and what tensor trains are fitted by."""

from __future__ import annotations

import numpy as np
import pytest
from storage_samples import Plan, Ranks, layout, random_ranks, whole_tables, write_whole
from test_pack import open_store

from screc.statistics import TableStatistics
from screc.storage import Checkpoint, pack
from screc.storage.band_encoding import HeldRows, band_cores
from screc.storage.band_source import BandSource
from screc.storage.tt_fit import fit_tt

ROWS, DIM = 600, 8
BANDS = [
    [(600, "dram/fp32")],
    [(600, "ssd/bf16")],
    [(600, "dram/int4/table")],
    [(10, "dram/fp32"), (600, "tt")],
    [(10, "dram/int8"), (100, "tt"), (300, "dram/int4/table"), (600, "ssd/int8/table")],
]


@pytest.mark.parametrize("bands", BANDS, ids=lambda bands: " ".join(kind for _, kind in bands))
def test_held_rows_are_those_of_the_artifact(bands: list[tuple[int, str]], tmp_path) -> None:
    planned = [layout("t", ROWS, DIM, *bands)]
    rows, ranks = whole_tables(planned), random_ranks(planned)
    checkpoint = Checkpoint.open(write_whole(tmp_path / "c", planned, rows))
    trained = checkpoint.tables[0].layout
    source = BandSource(checkpoint.table_tensors(0), trained, planned[0], ranks.tables[0])
    ids = np.random.default_rng(1).integers(0, ROWS, 900)
    found = HeldRows(source).rows(ids)

    pack(checkpoint, ranks, Plan(planned), tmp_path / "a")
    np.testing.assert_array_equal(found, open_store(tmp_path / "a").gather(0, ids))
    assert (found == rows[0][ids]).all() == (bands == BANDS[0])


@pytest.mark.parametrize("band", [1, 2])
def test_a_tensor_train_is_fitted_by_what_its_rows_count(band, tmp_path) -> None:
    """In a band with an index and in a last one, whose slots are ids; rows never seen count as expected."""
    planned = [layout("t", ROWS, DIM, (10, "dram/fp32"), (100, "tt"), (600, "tt"))]
    rows = whole_tables(planned)
    generator = np.random.default_rng(3)
    counts = generator.permutation(3000 // (1 + np.arange(ROWS)) ** 2)
    assert (counts == 0).any()
    table = TableStatistics.from_counts("t", ROWS, np.arange(ROWS), counts, num_samples=100)
    checkpoint = Checkpoint.open(write_whole(tmp_path / "c", planned, rows))
    source = BandSource(checkpoint.table_tensors(0), checkpoint.tables[0].layout, planned[0], table)

    placed = planned[0].bands[band]
    weights = source.weights(band)
    ids = table.ids_in_ranks(placed.start, placed.stop)
    expected = np.zeros(ROWS)
    expected[ids] = ROWS * np.diff(table.smoothed_curve.share(np.arange(placed.start, placed.stop + 1)))
    slots = np.arange(ROWS) if band == 2 else np.sort(ids)
    np.testing.assert_allclose(weights, expected[slots], rtol=1e-5)
    assert (weights > 0).sum() == placed.num_rows

    assert placed.tt is not None
    fit = fit_tt(rows[0][slots], len(slots), placed.tt, weights=weights)
    assert band_cores(source, band).error == pytest.approx(fit.error, rel=1e-6)
    pack(checkpoint, Ranks([table]), Plan(planned), tmp_path / "a")
    found = open_store(tmp_path / "a").gather(0, ids)
    wrong = np.linalg.norm(found - rows[0][ids], axis=1)
    used = expected[ids]
    total = (used * (rows[0][ids] ** 2).sum(axis=1)).sum()
    assert np.sqrt((used * wrong**2).sum() / total) == pytest.approx(fit.error, rel=1e-3)


def test_without_statistics_rows_count_alike(tmp_path) -> None:
    planned = [layout("t", ROWS, DIM, (600, "tt"))]
    checkpoint = Checkpoint.open(write_whole(tmp_path / "c", planned, whole_tables(planned)))
    source = BandSource(checkpoint.table_tensors(0), checkpoint.tables[0].layout, planned[0], None)
    np.testing.assert_array_equal(source.weights(0), np.ones(ROWS, np.float32))
