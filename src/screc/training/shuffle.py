"""Seeded shuffling of a click log within windows, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from screc.data.batch import Batch
from screc.data.log import concatenate

if TYPE_CHECKING:
    from screc.data.log import ClickLog


def take(batch: Batch, samples: np.ndarray) -> Batch:
    """The given samples of a batch, int64 [n], in their order."""
    size, tables = batch.batch_size, batch.num_tables
    begins = batch.offsets[:-1].reshape(tables, size)[:, samples].ravel()
    ends = batch.offsets[1:].reshape(tables, size)[:, samples].ravel()
    lengths = ends - begins
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    places = np.repeat(begins - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Batch(
        dense=batch.dense[samples],
        ids=batch.ids[places],
        offsets=offsets,
        labels=None if batch.labels is None else batch.labels[samples],
    )


def shuffled_batches(
    log: ClickLog, batch_size: int, *, window: int, seed: int, epoch: int, skip: int = 0
) -> Iterator[Batch]:
    """Batches of a log, shuffled within consecutive windows of samples.

    The order depends on nothing but the log, ``batch_size``, ``window``, ``seed`` and ``epoch``; with
    ``skip`` it goes on as if the samples passed over had been read.

    Args:
        log: the samples.
        batch_size: samples per batch; the last may have fewer.
        window: samples per window, rounded up to whole batches; held in memory. 0 keeps the log's order.
        seed: of the shuffle.
        epoch: passes over the log made before.
        skip: samples to pass over, a multiple of ``batch_size``.

    Raises:
        TypeError, ValueError: the log gave a malformed batch (:meth:`Batch.validate`).
    """
    if not window:
        yield from _sound_batches(log, batch_size, skip)
        return
    window = -(-window // batch_size) * batch_size
    number, inside = divmod(skip, window)
    pending: list[Batch] = []
    for batch in _sound_batches(log, batch_size, number * window):
        pending.append(batch)
        if sum(b.batch_size for b in pending) >= window:
            yield from _shuffled(pending, batch_size, (seed, epoch, number), inside)
            pending, inside, number = [], 0, number + 1
    if pending:
        yield from _shuffled(pending, batch_size, (seed, epoch, number), inside)


def _sound_batches(log: ClickLog, batch_size: int, skip: int) -> Iterator[Batch]:
    """The log's batches that have samples, once they are known to be well-formed."""
    sizes = [table.num_embeddings for table in log.tables]
    for batch in log.batches(batch_size, skip=skip):
        batch.validate(sizes, log.num_dense)
        if batch.batch_size:
            yield batch


def _shuffled(
    batches: list[Batch], batch_size: int, key: tuple[int, int, int], inside: int
) -> Iterator[Batch]:
    together = concatenate(batches)
    order = np.random.default_rng(key).permutation(together.batch_size)
    for start in range(inside, order.size, batch_size):
        yield take(together, order[start : start + batch_size])
