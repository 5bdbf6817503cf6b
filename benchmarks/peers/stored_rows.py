"""What the peers with rows in files share: keys, pooling of the rows that were read, layers in torch.

They are the obvious ways to keep tables larger than DRAM: :mod:`memmap_rows`, :mod:`lmdb_rows` and
:mod:`rocksdb_rows`. Each is built once by ``build`` and then opened for reading.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks.peers.torch_dense import TorchDense
from benchmarks.workload import Layers
from screc.data import Batch

BUILD_ROWS = 1 << 18
_TABLE_SHIFT = 40


def keys_of(table: int, ids: np.ndarray) -> np.ndarray:
    """Keys of rows, big-endian uint64 [n]: tables one after the other, ids in order, as bytes compare."""
    return (ids.astype(np.uint64) | np.uint64(table << _TABLE_SHIFT)).astype(">u8")


def as_bytes(array: np.ndarray) -> list[bytes]:
    """One bytes object for each row of a C-contiguous array (each element of a vector)."""
    width = array.itemsize * (array.shape[1] if array.ndim == 2 else 1)
    return array.reshape(len(array), -1).view(f"V{width}").ravel().tolist()


def pairs_in_order(tables: Iterable[np.ndarray]) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """(keys, rows) of all tables in the order of the keys, some hundred thousand at a time.

    Args:
        tables: float32 [rows, dim] each; each is let go of before the next is asked for.
    """
    for table, rows in enumerate(tables):
        for begin in range(0, len(rows), BUILD_ROWS):
            part = np.ascontiguousarray(rows[begin : begin + BUILD_ROWS])
            yield as_bytes(keys_of(table, np.arange(begin, begin + len(part)))), as_bytes(part)


class StoredRowsDlrm(abc.ABC):
    """DLRM whose rows come from a key-value store, by key.

    Every distinct row of a batch is asked for once, keys in order, shared out over the threads.

    Args:
        dim: columns of the tables.
        num_tables: T.
        bottom, top: (weight [out, in], bias [out]) per layer.
        threads: readers.
    """

    def __init__(self, dim: int, num_tables: int, bottom: Layers, top: Layers, *, threads: int) -> None:
        self._dim, self._num_tables, self._threads = dim, num_tables, threads
        self._dense = TorchDense(bottom, top, num_tables, torch.float32)
        self._pool = ThreadPoolExecutor(threads)

    @abc.abstractmethod
    def _read(self, keys: Sequence[bytes]) -> list[bytes | memoryview | None]:
        """Rows of keys that ascend, in their order; None or nothing for one that is missing."""

    def close(self) -> None:
        """Stop the readers and close the store."""
        self._pool.shutdown()

    def inputs(self, batch: Batch) -> Batch:
        """The batch itself."""
        return batch

    def pooled(self, batch: Batch) -> np.ndarray:
        """Sums of the bags, float32 [B, T, dim].

        Raises:
            KeyError: a row is not in the store.
        """
        keys = np.concatenate([keys_of(t, batch.table_ids(t)) for t in range(self._num_tables)])
        distinct, places = np.unique(keys.astype(np.uint64), return_inverse=True)
        rows = self._rows(as_bytes(distinct.astype(">u8")))
        sizes = np.diff(batch.offsets)
        if (sizes == 1).all():
            pooled = rows[places]
        else:
            pooled = np.zeros((len(sizes), self._dim), dtype=np.float32)
            filled = sizes > 0
            pooled[filled] = np.add.reduceat(rows[places], batch.offsets[:-1][filled])
        return pooled.reshape(self._num_tables, -1, self._dim).transpose(1, 0, 2)

    def _rows(self, keys: list[bytes]) -> np.ndarray:
        share = -(-len(keys) // self._threads)
        parts = [keys[begin : begin + share] for begin in range(0, len(keys), max(share, 1))]
        values = [row for part in self._pool.map(self._read, parts) for row in part]
        if len(values) != len(keys) or None in values:
            raise KeyError(f"{len(keys)} rows were asked for, some of them are not in the store")
        return np.frombuffer(b"".join(values), dtype=np.float32).reshape(len(keys), self._dim)

    @torch.inference_mode()
    def predict(self, inputs: Batch) -> torch.Tensor:
        """Probabilities [B]."""
        return self._dense(torch.from_numpy(inputs.dense), torch.from_numpy(self.pooled(inputs)))
