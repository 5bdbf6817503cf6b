"""Sparse tables of format version 1: the same known rows and default rows, whichever release reads them."""

from pathlib import Path

import numpy as np
import pytest

from screc.storage import Artifact, RowStore, TensorFile, verify

HERE = Path(__file__).parent / "v1_sparse"


def test_it_is_whole_and_describes_itself():
    report = verify(HERE / "artifact")
    assert report.ok, report.damages
    assert (report.pages, report.holes) == (8, 17)
    layouts = [table.layout for table in Artifact.open(HERE / "artifact").tables]
    assert [layout.bands[-1].written for layout in layouts] == [3, 1, 2, 1, 0]
    assert [layout.page_groups(len(layout.bands) - 1) for layout in layouts] == [7, 5, 3, 3, 2]
    names = TensorFile(HERE / "artifact" / "tables.safetensors").names
    assert {"0.1.pages.bits", "0.1.pages.directory", "0.1.default", "4.0.default"} <= set(names)


@pytest.mark.parametrize("io", ["auto", "pread"])
def test_every_row_is_the_same(io):
    store, answers = (
        RowStore.open(HERE / "artifact", io=io, threads=1),
        TensorFile(HERE / "answers.safetensors"),
    )
    assert store.tables == ("pages", "long", "int8", "shared", "nothing")
    for table in range(5):
        expected = answers[f"rows.{table}"]
        np.testing.assert_array_equal(store.gather(table, np.arange(len(expected))), expected)
    # Rows 39 and 41 share the page of row 40; rows 15 and 29 stand in no page.
    assert store.gather("pages", np.array([39, 41, 15, 29]))[:, :2].tolist() == [[1.0, 0.0]] * 4
