"""A server of small models for the tests of serving: real sockets on this machine, real clients."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from screc.data.batch import Batch
from screc.serving import Engine
from screc.serving.server import Addresses, ServerConfig, serve
from screc.storage import StoredTable, TableLayout, pack, write_checkpoint

NUM_DENSE, DIM = 5, 8
ROWS = (50, 7, 400, 1000)
POOLINGS = ("sum", "mean", "sum", "sum")


def write_artifact(path: Path, seed: int = 0) -> Path:
    """A small DLRM with random weights, packed."""
    rng = np.random.default_rng(seed)
    features = len(ROWS) + 1
    widths = {
        "bottom": (NUM_DENSE, 16, DIM),
        "top": (DIM + features * (features - 1) // 2, 12, 1),
    }
    dense = {}
    for name, sizes in widths.items():
        for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            weight = rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)
            dense[f"{name}.{i}.weight"] = weight.astype(np.float32)
            dense[f"{name}.{i}.bias"] = rng.standard_normal(outputs).astype(np.float32)
    model = {
        "name": "dlrm",
        "num_dense": NUM_DENSE,
        "embedding_dim": DIM,
        "bottom_mlp": list(widths["bottom"][1:]),
        "top_mlp": list(widths["top"][1:]),
        "interaction": "dot",
    }
    tables = [rng.standard_normal((rows, DIM)).astype(np.float32) for rows in ROWS]
    checkpoint = path.with_name(path.name + ".checkpoint")
    write_checkpoint(
        checkpoint,
        model=model,
        dense=dense,
        training={"samples": 1},
        tables=[
            StoredTable(TableLayout.dense(f"t{i}", rows, DIM), pooling)
            for i, (rows, pooling) in enumerate(zip(ROWS, POOLINGS, strict=True))
        ],
        table_tensors=lambda table: {"band.0.rows": tables[table]},
    )
    pack(checkpoint, None, None, path)
    return path


def make_batch(size: int, seed: int = 0, longest: int = 3) -> Batch:
    """Random samples with bags of 0 to ``longest`` ids."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, len(ROWS) * size)
    ids = [rng.integers(0, rows, lengths[t * size : (t + 1) * size].sum()) for t, rows in enumerate(ROWS)]
    return Batch(
        dense=rng.standard_normal((size, NUM_DENSE)).astype(np.float32),
        ids=np.concatenate(ids).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def one_each(size: int, seed: int = 0) -> tuple[np.ndarray, Batch]:
    """``categorical`` of random samples, and the same as a batch."""
    rng = np.random.default_rng(seed)
    categorical = np.stack([rng.integers(0, rows, size) for rows in ROWS], axis=1)
    dense = rng.standard_normal((size, NUM_DENSE)).astype(np.float32)
    offsets = np.arange(categorical.size + 1, dtype=np.int64)
    return categorical, Batch(dense=dense, ids=categorical.T.ravel().copy(), offsets=offsets)


def tensors(batch: Batch) -> dict[str, np.ndarray]:
    """A batch as inputs of the protocol."""
    return {"dense": batch.dense, "ids": batch.ids, "offsets": batch.offsets}


def listed(inputs: dict[str, np.ndarray], **more: Any) -> dict[str, Any]:
    """A request in JSON, tensors as lists."""
    return {
        "inputs": [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": "FP32" if array.dtype == np.float32 else "INT64",
                "data": array.tolist(),
            }
            for name, array in inputs.items()
        ],
        **more,
    }


class Running:
    """A server in a thread of its own."""

    def __init__(self, addresses: Addresses, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        self.http, self.grpc = addresses.http, addresses.grpc
        self._loop, self._stop = loop, stop

    def stop(self) -> None:
        """Begins the end, as SIGTERM does."""
        self._loop.call_soon_threadsafe(self._stop.set)


@contextmanager
def running(
    artifacts: dict[str, Path], config: ServerConfig | None = None, directory: Path | None = None
) -> Iterator[Running]:
    """Serves while the block runs; the end must find every request answered."""
    config = replace(config or ServerConfig(), port=0, grpc_port=0)
    up = threading.Event()
    found: dict[str, Any] = {}

    async def main() -> bool:
        stop = asyncio.Event()

        def started(addresses: Addresses) -> None:
            found["running"] = Running(addresses, asyncio.get_running_loop(), stop)
            up.set()

        return await serve(artifacts, config, directory=directory, started=started, stop=stop)

    def run() -> None:
        try:
            found["drained"] = asyncio.run(main())
        except BaseException as error:
            found["error"] = error
        finally:
            up.set()

    thread = threading.Thread(target=run)
    thread.start()
    up.wait(60)
    try:
        if "running" not in found:
            thread.join(60)
            raise found["error"]
        yield found["running"]
    finally:
        if "running" in found:
            found["running"].stop()
        thread.join(60)
    assert not thread.is_alive()
    assert "error" not in found, found["error"]
    assert found["drained"]


def engine_of(path: Path) -> Engine:
    """What the server's answers are compared with."""
    return Engine.open(path, threads=1)
