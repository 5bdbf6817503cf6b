"""A run of consecutive samples of a click log, as a log of its own."""

from __future__ import annotations

from collections.abc import Iterator

from screc.data.batch import Batch
from screc.data.log import ClickLog, TableSpec, check_batch_arguments


class LogPart:
    """Samples [first, first + count) of a log.

    Args:
        log: the samples.
        first: number of the first.
        count: how many; None for all that follow.

    Raises:
        ValueError: they are not all there.
    """

    def __init__(self, log: ClickLog, first: int, count: int | None = None) -> None:
        if first < 0 or (count is not None and count < 1):
            raise ValueError(f"first must not be negative and count at least 1, got {first} and {count}")
        whole = log.num_samples
        if whole is not None and first + (count or 1) > whole:
            raise ValueError(
                f"the log has {whole} samples; {count if count else 'those'} from {first} on are not there"
            )
        self.log, self.first = log, first
        self._count = count if count is not None or whole is None else whole - first

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """The log's."""
        return self.log.tables

    @property
    def num_dense(self) -> int:
        """The log's."""
        return self.log.num_dense

    @property
    def num_samples(self) -> int | None:
        """Samples of the part; None where they reach to an end that the log does not know."""
        return self._count

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """See :class:`screc.data.ClickLog`."""
        check_batch_arguments(batch_size, skip)
        left = None if self._count is None else self._count - skip
        if left is not None and left <= 0:
            return
        for batch in self.log.batches(batch_size, skip=self.first + skip):
            if left is None:
                yield batch
                continue
            yield batch if batch.batch_size <= left else batch.rows(0, left)
            left -= batch.batch_size
            if left <= 0:
                return
