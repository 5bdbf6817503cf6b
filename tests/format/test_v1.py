"""Artifacts of format version 1 open and give the same answers, whichever release reads them."""

from pathlib import Path

import numpy as np
import pytest

from screc.storage import Artifact, RowStore, TensorFile, verify

V1 = Path(__file__).parent / "v1"


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    file = TensorFile(V1 / "answers.safetensors")
    return {name: np.array(file[name]) for name in file.names}


def test_it_is_whole():
    report = verify(V1 / "artifact")
    assert report.ok, [str(damage) for damage in report.damages]
    assert sum(file.stat().st_size for file in V1.rglob("*") if file.is_file()) < 50_000


def test_it_describes_itself():
    artifact = Artifact.open(V1 / "artifact")
    assert artifact.model == {"name": "golden", "numbers": [1, 2.5]}
    assert artifact.plan == {"note": "the plan that made the golden artifact"}
    assert [table.pooling for table in artifact.tables] == ["sum", "sum", "mean", "mean", "sum"]
    assert artifact.tables[0].indices == ("hash", "bitmap", None)
    assert artifact.tables[4].indices == ("bitmap", "bitmap", None)
    assert (artifact.assets / "note.txt").read_text() == "assets are opaque\n"
    weight = artifact.dense()["bottom.0.weight"]
    np.testing.assert_array_equal(weight, np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize("io", ["auto", "pread"])
def test_every_row_is_the_same(answers, io):
    store = RowStore.open(V1 / "artifact", io=io, threads=1)
    assert store.tables == ("mixed", "tt-last", "long", "plain", "ssd-first")
    for table in range(5):
        expected = answers[f"rows.{table}"]
        np.testing.assert_array_equal(store.gather(table, np.arange(len(expected))), expected)


def test_every_bag_is_the_same(answers):
    store = RowStore.open(V1 / "artifact", threads=1)
    found = store.lookup(answers["ids"], answers["offsets"], 2)
    np.testing.assert_array_equal(found, answers["pooled"])
