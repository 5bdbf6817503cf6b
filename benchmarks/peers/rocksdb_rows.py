"""Rows in RocksDB (rocksdict), a log-structured merge tree; layers in torch.

Its best settings for this: sorted tables written directly and ingested, so that each key lies in exactly one
file of the last level; no compression (float rows do not compress); one block read per row, found by an index
that is kept in memory and, within the block, by a hash of the key; a block cache of the size that the
comparison allows and direct reads, so that the page cache does not add to it; one ``get`` of many keys per
thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers import AbsentError
from benchmarks.peers.stored_rows import StoredRowsDlrm, pairs_in_order
from benchmarks.workload import Layers

try:
    from rocksdict import (
        AccessType,
        BlockBasedOptions,
        Cache,
        DataBlockIndexType,
        DBCompressionType,
        IngestExternalFileOptions,
        Options,
        Rdict,
        SstFileWriter,
    )
except ImportError as error:
    raise AbsentError("rocksdict is not installed: pip install rocksdict") from error

_CHUNKS_PER_FILE = 16
_BLOCK_BYTES = 4096
_BLOOM_BITS = 10.0


def _options(cache_bytes: int, *, direct: bool) -> Options:
    blocks = BlockBasedOptions()
    blocks.set_block_size(_BLOCK_BYTES)
    blocks.set_bloom_filter(_BLOOM_BITS, False)
    blocks.set_data_block_index_type(DataBlockIndexType.binary_and_hash())
    blocks.set_block_cache(Cache(cache_bytes))
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.none())
    options.set_block_based_table_factory(blocks)
    options.set_use_direct_reads(direct)
    options.set_max_open_files(-1)
    # Every key exists, so filters of the last level would only cost memory.
    options.set_optimize_filters_for_hits(True)
    return options


class RocksdbDlrm(StoredRowsDlrm):
    """DLRM over a RocksDB that :meth:`build` wrote.

    Args:
        directory: of the database.
        dim, num_tables, bottom, top, threads: as in :class:`StoredRowsDlrm`.
        cache_bytes: of the block cache.
        direct: read past the page cache.
    """

    def __init__(
        self,
        directory: Path,
        dim: int,
        num_tables: int,
        bottom: Layers,
        top: Layers,
        *,
        threads: int,
        cache_bytes: int,
        direct: bool = True,
    ) -> None:
        super().__init__(dim, num_tables, bottom, top, threads=threads)
        self._database = Rdict(
            str(directory),
            options=_options(cache_bytes, direct=direct),
            access_type=AccessType.read_only(),
        )

    @staticmethod
    def build(directory: Path, tables: Iterable[np.ndarray]) -> None:
        """Write the tables (float32 [rows, dim] each; asked for one at a time)."""
        options = _options(2**20, direct=False)
        directory.parent.mkdir(parents=True, exist_ok=True)
        database = Rdict(str(directory), options=options)
        move = IngestExternalFileOptions()
        move.set_move_files(True)
        writer, path, count = None, None, 0

        def ingest() -> None:
            writer.finish()
            database.ingest_external_file([str(path)], opts=move)

        for number, (keys, rows) in enumerate(pairs_in_order(tables)):
            if number % _CHUNKS_PER_FILE == 0:
                if writer is not None:
                    ingest()
                path = directory.parent / f"{directory.name}.{count}.sst"
                writer, count = SstFileWriter(options), count + 1
                writer.open(str(path))
            for key, row in zip(keys, rows, strict=True):
                writer[key] = row
        if writer is not None:
            ingest()
        database.close()

    def _read(self, keys: Sequence[bytes]) -> list[bytes | memoryview | None]:
        return self._database.get(list(keys))

    def close(self) -> None:
        """See :meth:`StoredRowsDlrm.close`."""
        super().close()
        self._database.close()
