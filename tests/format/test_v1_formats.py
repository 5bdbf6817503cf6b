"""Row formats of format version 1: the bytes decode to the same rows, whichever release reads them."""

from pathlib import Path

import numpy as np
import pytest

from screc.storage import Artifact, RowStore, TensorFile, verify

HERE = Path(__file__).parent / "v1_formats"


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    file = TensorFile(HERE / "answers.safetensors")
    return {name: np.array(file[name]) for name in file.names}


def test_it_is_whole_and_describes_itself():
    assert verify(HERE / "artifact").ok
    assert sum(file.stat().st_size for file in HERE.rglob("*") if file.is_file()) < 60_000
    bands = [table.layout.bands for table in Artifact.open(HERE / "artifact").tables]
    assert [[(b.format, b.memory, b.scale) for b in own] for own in bands] == [
        [("fp16", "dram", "row")],
        [("bf16", "ssd", "row")],
        [("int8", "dram", "row"), ("int8", "ssd", "row")],
        [("int4", "dram", "row"), ("int4", "ssd", "row")],
        [("int8", "dram", "table"), ("int4", "ssd", "table")],
        [("fp32", "dram", "row"), ("int8", "dram", "row"), ("fp16", "ssd", "row")],
    ]


def test_every_row_and_every_bag_is_the_same(answers):
    store = RowStore.open(HERE / "artifact", threads=1)
    for table in range(6):
        expected = answers[f"rows.{table}"]
        np.testing.assert_array_equal(store.gather(table, np.arange(len(expected))), expected)
    found = store.lookup(answers["ids"], answers["offsets"], 3)
    np.testing.assert_array_equal(found, answers["pooled"])


def test_the_bytes_are_those_of_the_documentation(answers):
    tensors = Artifact.open(HERE / "artifact").load_tables()
    assert {name: tensors[name].shape for name in ("0.0.rows", "2.0.rows", "3.0.rows", "4.0.rows")} == {
        "0.0.rows": (9, 10),
        "2.0.rows": (7, 7),
        "3.0.rows": (7, 8),
        "4.0.rows": (5, 6),
    }
    np.testing.assert_array_equal(tensors["4.0.scale"], np.array([1, -4], np.float32))
    np.testing.assert_array_equal(tensors["4.1.scale"], np.array([1, -4], np.float32))
    np.testing.assert_array_equal(tensors["0.0.rows"].view("<f2"), answers["rows.0"])
    raw = tensors["3.0.rows"]  # scale and bias, then codes, the even column in the low nibble
    header = np.ascontiguousarray(raw[:, :4]).view("<f2").astype(np.float32)
    codes = np.stack([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=2).reshape(7, 8)
    assert (codes[:, 7] == 0).all()
    rows = header[:, 1:] + header[:, :1] * codes[:, :7]
    assert {tuple(row) for row in rows} <= {tuple(row) for row in answers["rows.3"].astype(np.float32)}
