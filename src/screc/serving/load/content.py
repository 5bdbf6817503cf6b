"""What requests ask: samples of a click log, or random ones with Zipf-distributed ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from screc.data.batch import Batch
from screc.data.log import ClickLog, TableSpec

_LOG_CHUNK = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a model takes.

    Attributes:
        name: of the model, as its server knows it.
        num_dense: dense features of a sample.
        tables: in order.
    """

    name: str
    num_dense: int
    tables: tuple[TableSpec, ...]


class Samples(Protocol):
    """Where the samples of requests come from."""

    def take(self, size: int) -> Batch:
        """The next ``size`` samples."""
        ...


class ZipfSamples:
    """Normal dense features, and bags of ids whose ranks follow a Zipf law, scattered over the tables.

    Args:
        shape: of the model.
        exponent: of the law, above 0; 1.05 is near public click logs.
        pooling: ids of every bag.
        seed: the same gives the same samples.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, shape: ModelShape, *, exponent: float = 1.05, pooling: int = 1, seed: int = 0) -> None:
        if not 0 < exponent < 10:
            raise ValueError(f"zipf: the exponent must be above 0 and below 10, got {exponent}")
        if pooling < 1:
            raise ValueError(f"pooling: must be at least 1, got {pooling}")
        self._shape, self._pooling = shape, pooling
        # The closed form below has a pole at 1; a step beside it makes no difference that could be seen.
        self._power = 1 - (exponent if abs(exponent - 1) > 1e-6 else 1 + 1e-6)
        self._generator = np.random.default_rng(seed)

    def take(self, size: int) -> Batch:
        """The next ``size`` samples."""
        count = size * self._pooling
        ids = np.empty((len(self._shape.tables), count), np.int64)
        for column, table in zip(ids, self._shape.tables, strict=True):
            rows = table.num_embeddings
            uniform = self._generator.random(count)
            ranks = (1 + uniform * ((rows + 1.0) ** self._power - 1)) ** (1 / self._power) - 1
            ranks = np.minimum(ranks.astype(np.int64), rows - 1)
            column[:] = (ranks * 2_654_435_761 + 12_345) % rows  # no row keeps its rank as its id
        return Batch(
            dense=self._generator.standard_normal((size, self._shape.num_dense), dtype=np.float32),
            ids=ids.ravel(),
            offsets=np.arange(0, ids.size + 1, self._pooling, dtype=np.int64),
        )


class LogSamples:
    """Samples of a click log, one query after the other; from its start again when it ends.

    Raises:
        ValueError: the log has other tables, or another number of dense features, than the model; or it is
            shorter than a query.
    """

    def __init__(self, log: ClickLog, shape: ModelShape) -> None:
        if log.num_dense != shape.num_dense:
            raise ValueError(
                f"log: has {log.num_dense} dense features, model {shape.name!r} takes {shape.num_dense}"
            )
        if len(log.tables) != len(shape.tables):
            raise ValueError(
                f"log: has {len(log.tables)} tables, model {shape.name!r} has {len(shape.tables)}"
            )
        for own, wanted in zip(log.tables, shape.tables, strict=True):
            if own.num_embeddings > wanted.num_embeddings:
                raise ValueError(
                    f"log: table {own.name!r} has {own.num_embeddings} rows, that of the model "
                    f"{wanted.num_embeddings}; use the log, or the encoder, that the model was trained with"
                )
        self._log = log
        self._chunks = iter(())
        self._chunk: Batch | None = None
        self._used = 0

    def take(self, size: int) -> Batch:
        """The next ``size`` samples."""
        if size > _LOG_CHUNK:
            raise ValueError(f"size: queries from a log have at most {_LOG_CHUNK} samples, got {size}")
        restarted = False
        while self._chunk is None or self._used + size > self._chunk.batch_size:
            self._chunk, self._used = next(self._chunks, None), 0
            if self._chunk is None:
                if restarted:
                    raise ValueError(f"log: has no {size} samples in a row, which a query asks for")
                self._chunks, restarted = self._read(), True
        self._used += size
        return self._chunk.rows(self._used - size, self._used)

    def _read(self) -> Iterator[Batch]:
        return self._log.batches(_LOG_CHUNK)


def queries(samples: Samples, sizes: Sequence[int] | np.ndarray) -> list[Batch]:
    """One batch for each size."""
    return [samples.take(int(size)) for size in sizes]
