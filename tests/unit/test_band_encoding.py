"""HeldRows against the artifact that packing writes from the same table."""

from __future__ import annotations

import numpy as np
import pytest
from storage_samples import Plan, layout, random_ranks, whole_tables, write_whole
from test_pack import open_store

from screc.storage import Checkpoint, pack
from screc.storage.band_encoding import HeldRows
from screc.storage.band_source import BandSource

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
    source = BandSource(checkpoint.table_tensors(0), trained, planned[0], ranks.tables[0].ids_in_ranks)
    ids = np.random.default_rng(1).integers(0, ROWS, 900)
    found = HeldRows(source).rows(ids)

    pack(checkpoint, ranks, Plan(planned), tmp_path / "a")
    np.testing.assert_array_equal(found, open_store(tmp_path / "a").gather(0, ids))
    assert (found == rows[0][ids]).all() == (bands == BANDS[0])
