"""The batcher's face to asyncio: many queries in flight, one reader of completions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from screc import _native
from screc.serving.engine import Engine
from screc.serving.errors import (
    BadRequestError,
    DeadlineError,
    OverloadedError,
    ServingError,
    UnavailableError,
)
from screc.serving.signature import Query


@dataclass(frozen=True, kw_only=True)
class BatchingConfig:
    """How requests become batches.

    Attributes:
        max_batch: most samples of a batch that several requests are joined to.
        split: most samples of a part of one request; larger ones are shared by several workers.
        queue_delay_s: seconds that a batch which is not full waits for more requests.
        max_queued: most samples that wait; further requests are refused.
        workers: batches at work at a time; 0: one for each thread of the engine, twice as many where rows
            come from SSD, so that one is computed while others wait for the drive.
    """

    max_batch: int = 96
    split: int = 96
    queue_delay_s: float = 0.0
    max_queued: int = 65_536
    workers: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a query that was predicted.

    Attributes:
        probabilities: float32 [B].
        queue_s: seconds before its turn.
        request_s: seconds from coming to going.
    """

    probabilities: np.ndarray
    queue_s: float
    request_s: float


class Batching:
    """One engine's batcher on an event loop. Build it, and call it, on the loop's thread."""

    def __init__(self, engine: Engine, config: BatchingConfig | None = None) -> None:
        config = BatchingConfig() if config is None else config
        workers = config.workers
        if workers == 0 and engine.stats().io_backend != "none":
            workers = 2 * engine.num_threads
        self.native = engine.batcher(
            max_batch=config.max_batch,
            split=config.split,
            queue_delay=config.queue_delay_s,
            max_queued=config.max_queued,
            workers=workers,
        )
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.native.descriptor, self._complete)
        # What native code reads and writes stays here until it says that it is done with it.
        self._pending: dict[int, tuple[asyncio.Future[Answer], Query, np.ndarray]] = {}
        self._closed = False

    async def predict(self, query: Query, timeout_s: float = 0.0) -> Answer:
        """The probabilities of a query's samples.

        Args:
            query: from ``Signature.query``.
            timeout_s: most seconds before its turn; 0: no limit.

        Raises:
            BadRequestError: a dense value, an id or an offset is wrong; the message names it.
            OverloadedError: it would wait too long, or too much waits already; refused at once.
            DeadlineError: it did wait too long.
            UnavailableError: the batcher takes no more.
            ServingError: its rows could not be read.
            asyncio.CancelledError: the task was cancelled; what had not begun is not computed.
        """
        if self._closed:
            raise UnavailableError("the model is being unloaded", retry_after=1)
        out = np.empty(query.batch_size, np.float32)
        try:
            admission = self.native.submit(query.form, out, timeout_s, **query.arrays)
        except (ValueError, TypeError) as error:
            raise BadRequestError(str(error)) from error
        if admission.verdict != "accepted":
            raise _refusal(admission)
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._pending[admission.ticket] = (future, query, out)
        try:
            return await future
        except asyncio.CancelledError:
            self.native.cancel(admission.ticket)
            raise

    def _complete(self) -> None:
        for completion in self.native.take():
            future, _, out = self._pending.pop(completion.ticket)
            if future.done():  # whoever waited has gone
                continue
            outcome = completion.outcome
            if outcome == "done":
                future.set_result(Answer(out, completion.queue_seconds, completion.request_seconds))
            elif outcome == "expired":
                waited = 1e3 * completion.request_seconds
                future.set_exception(DeadlineError(f"the request waited {waited:.0f} ms, longer than it may"))
            elif outcome == "failed":
                future.set_exception(ServingError(f"rows could not be read: {completion.error}"))
            else:
                future.set_exception(UnavailableError("the server is stopping", retry_after=1))

    @property
    def in_flight(self) -> int:
        """Queries that were taken in and have not ended."""
        return len(self._pending)

    async def close(self, timeout_s: float = 30.0) -> bool:
        """Takes no more, lets those in flight end, and frees the workers; whether all ended in time.

        Those that did not are dropped: they fail with :class:`UnavailableError`.
        """
        if self._closed:
            return True
        self._closed = True
        drained = await asyncio.to_thread(self.native.drain, timeout_s)
        await asyncio.to_thread(self.native.stop)
        self._loop.remove_reader(self.native.descriptor)
        self._complete()
        return drained


def _refusal(admission: _native.Admission) -> ServingError:
    wait = admission.predicted_wait
    if admission.verdict == "draining":
        return UnavailableError("the model is being unloaded", retry_after=1)
    what = "too many samples wait" if admission.verdict == "queue full" else "it would come too late"
    return OverloadedError(f"overloaded: {what}; the wait is {1e3 * wait:.0f} ms now", retry_after=wait)
