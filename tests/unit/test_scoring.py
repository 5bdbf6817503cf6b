"""Scoring: predictions of a whole log, and the file that they go to."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from screc.data import Batch, TableSpec
from screc.serving import Engine, measure, score
from screc.serving.scoring import _predictions_file

DIM, NUM_DENSE, SAMPLES = 4, 3, 50
SPECS = (TableSpec("a", 30, "sum"), TableSpec("b", 20, "mean"))


class Log:
    """Random samples in memory."""

    def __init__(
        self, *, labels: bool = True, num_samples: int = SAMPLES, fail_at: int | None = None
    ) -> None:
        self.tables, self.num_dense, self.num_samples = SPECS, NUM_DENSE, num_samples
        self.fail_at = fail_at
        rng = np.random.default_rng(0)
        lengths = rng.integers(0, 3, (len(SPECS), num_samples))
        ids = [rng.integers(0, s.num_embeddings, n.sum()) for s, n in zip(SPECS, lengths, strict=True)]
        self.whole = Batch(
            dense=rng.standard_normal((num_samples, NUM_DENSE)).astype(np.float32),
            ids=np.concatenate(ids),
            offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
            labels=rng.integers(0, 2, num_samples).astype(np.float32) if labels else None,
        )

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        for start in range(skip, self.num_samples, batch_size):
            if self.fail_at is not None and start >= self.fail_at:
                raise ValueError("line 7: not a number")
            yield self.whole.rows(start, start + batch_size)


@pytest.fixture(scope="module")
def engine() -> Engine:
    rng = np.random.default_rng(1)

    def layer(name: str, out: int, inputs: int) -> dict[str, np.ndarray]:
        return {
            f"{name}.weight": rng.standard_normal((out, inputs)).astype(np.float32),
            f"{name}.bias": rng.standard_normal(out).astype(np.float32),
        }

    model = {
        "name": "dlrm",
        "num_dense": NUM_DENSE,
        "embedding_dim": DIM,
        "bottom_mlp": [DIM],
        "top_mlp": [1],
        "interaction": "dot",
    }
    tables = [rng.standard_normal((spec.num_embeddings, DIM)).astype(np.float32) for spec in SPECS]
    dense = layer("bottom.0", DIM, NUM_DENSE) | layer("top.0", 1, DIM + 3)
    return Engine.from_arrays(model, dense, tables, poolings=["sum", "mean"], threads=1)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("batch_size", [1, 7, SAMPLES, 1000])
def test_a_npy_file_holds_every_probability(engine: Engine, tmp_path: Path, batch_size: int) -> None:
    log, seen = Log(), []
    out = tmp_path / "new" / "p.npy"
    report = score(engine, log, batch_size=batch_size, out=out, progress=lambda *a: seen.append(a))
    written = np.load(out)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, engine.predict(log.whole))
    assert report.num_samples == SAMPLES
    assert seen[-1] == (SAMPLES, SAMPLES)
    assert names(out.parent) == ["p.npy"]
    # Anybody may map the file: its data are aligned, as the format asks.
    assert np.load(out, mmap_mode="r").offset % 64 == 0


def test_a_text_file_holds_one_number_per_line_that_reads_back_exactly(
    engine: Engine, tmp_path: Path
) -> None:
    log, out = Log(), tmp_path / "p.txt"
    score(engine, log, batch_size=8, out=out)
    lines = out.read_text().splitlines()
    assert len(lines) == SAMPLES
    np.testing.assert_array_equal(np.array(lines, dtype=np.float32), engine.predict(log.whole))


def test_an_empty_log_gives_an_empty_file(engine: Engine, tmp_path: Path) -> None:
    report = score(engine, Log(num_samples=0), out=tmp_path / "p.npy")
    assert np.load(tmp_path / "p.npy").shape == (0,)
    assert (report.num_samples, report.metrics) == (0, None)
    assert report.to_dict()["samples_per_s"] == 0


@pytest.mark.parametrize("name", ["p.npy", "p.txt"])
def test_the_file_appears_only_when_it_is_complete(engine: Engine, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    during: list[bool] = []
    score(engine, Log(), batch_size=10, out=out, progress=lambda *_: during.append(out.exists()))
    assert during == [False] * 5
    before = out.read_bytes()
    with pytest.raises(ValueError, match="line 7"):
        score(engine, Log(fail_at=20), batch_size=10, out=out)
    assert out.read_bytes() == before
    with pytest.raises(ValueError, match="line 7"):
        score(engine, Log(fail_at=20), batch_size=10, out=tmp_path / "other.npy")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(engine, Log(), batch_size=10, out=out, progress=interrupt)
    assert out.read_bytes() == before
    assert names(tmp_path) == [name]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "p.npy"
    out.write_bytes(b"old")

    def fill() -> None:
        with _predictions_file(out) as append:
            append(np.zeros(3, np.float32))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device while writing .*p\.npy; what was there is"):
        fill()
    assert out.read_bytes() == b"old"
    assert names(tmp_path) == ["p.npy"]


def test_without_labels_there_are_no_metrics(engine: Engine) -> None:
    labelled, bare = score(engine, Log()), score(engine, Log(labels=False))
    assert bare.metrics is None
    assert labelled.metrics is not None
    assert labelled.metrics.num_samples == SAMPLES
    assert 0 <= labelled.metrics.auc <= 1
    assert json.loads(json.dumps(bare.to_dict()))["metrics"] is None
    assert labelled.to_dict()["metrics"]["log_loss"] == labelled.metrics.log_loss
    assert bare.store["lookups"] > 0
    assert bare.peak_resident_bytes > 1 << 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_dense": 4}, "log: has 4 dense features, the model takes 3"),
        ({"tables": SPECS[:1]}, "log: has 1 tables, the model 2"),
        (
            {"tables": (SPECS[0], dataclasses.replace(SPECS[1], num_embeddings=19))},
            "log: table b has 19 rows pooled by mean, the model's has 20 pooled by mean",
        ),
        (
            {"tables": (dataclasses.replace(SPECS[0], pooling="mean"), SPECS[1])},
            "log: table a has 30 rows pooled by mean, the model's has 30 pooled by sum",
        ),
    ],
)
def test_a_log_of_another_model_is_refused(
    engine: Engine, tmp_path: Path, change: dict, message: str
) -> None:
    log = Log()
    vars(log).update(change)
    with pytest.raises(ValueError, match=message):
        score(engine, log, out=tmp_path / "p.npy")
    with pytest.raises(ValueError, match=message):
        measure(engine, log, batch_size=1, seconds=0)
    assert names(tmp_path) == []


def test_measuring_takes_every_batch_once_at_least(engine: Engine) -> None:
    result = measure(engine, Log(), batch_size=10, seconds=0)
    assert (result.batch_size, result.calls) == (10, 5)
    assert 0 < result.median_ms <= result.p99_ms
    with pytest.raises(ValueError, match="batch_size: the log has fewer than 51 samples; use a smaller one"):
        measure(engine, Log(), batch_size=51, seconds=0)
