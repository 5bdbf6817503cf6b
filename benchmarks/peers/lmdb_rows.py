"""Rows in LMDB, a B+ tree that is mapped into memory; layers in torch.

Its best settings for this: keys appended in order (full pages), no readahead, values handed out as views of
the mapping, ``cursor.getmulti`` with the keys in order within one read transaction per thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers import AbsentError
from benchmarks.peers.stored_rows import StoredRowsDlrm, pairs_in_order
from benchmarks.workload import Layers

try:
    import lmdb
except ImportError as error:
    raise AbsentError("lmdb is not installed: pip install lmdb") from error


class LmdbDlrm(StoredRowsDlrm):
    """DLRM over an LMDB environment that :meth:`build` wrote.

    Args:
        directory: of the environment.
        dim, num_tables, bottom, top, threads: as in :class:`StoredRowsDlrm`.
    """

    def __init__(
        self, directory: Path, dim: int, num_tables: int, bottom: Layers, top: Layers, *, threads: int
    ) -> None:
        super().__init__(dim, num_tables, bottom, top, threads=threads)
        self._environment = lmdb.open(
            str(directory), readonly=True, lock=False, readahead=False, max_spare_txns=threads
        )

    @staticmethod
    def build(directory: Path, tables: Iterable[np.ndarray], *, max_bytes: int) -> None:
        """Write the tables (float32 [rows, dim] each).

        Args:
            directory: made if it is not there.
            tables: asked for one at a time.
            max_bytes: upper bound of the file's size: a row takes its own bytes and about 24 more.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with lmdb.open(
            str(directory), map_size=max_bytes, sync=False, metasync=False, lock=False, writemap=True
        ) as environment:
            for keys, rows in pairs_in_order(tables):
                with environment.begin(write=True) as transaction:
                    transaction.cursor().putmulti(zip(keys, rows, strict=True), append=True)
            environment.sync(True)

    def _read(self, keys: Sequence[bytes]) -> list[bytes | memoryview | None]:
        with self._environment.begin(buffers=True) as transaction, transaction.cursor() as cursor:
            # Copied before the transaction ends: the views are not valid after it.
            return [bytes(row) for _, row in cursor.getmulti(keys)]

    def close(self) -> None:
        """See :meth:`StoredRowsDlrm.close`."""
        super().close()
        self._environment.close()
