"""The open loop: sends requests when they are due, over non-blocking connections, and notes how each ended.

A client shares its machine with what it measures, so this loop does next to nothing for a request: its bytes
were made before, and it costs one system call to send, one to receive and two to wait. One thread, and no
event-loop framework.
"""

from __future__ import annotations

import gc
import re
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from screc.serving.load.trace import Outcome, Trace

# Between the call and the first arrival: connections are made in it.
_LEAD_S = 0.02
_PENDING = 255


_DIGITS = re.compile(r"[0-9]+")

Ended = tuple[int, Outcome, bytes]
"""A request's number, how it ended, and its answer's body or what went wrong."""


class Connection(Protocol):
    """A non-blocking connection that carries encoded requests."""

    def fileno(self) -> int:
        """Of its socket."""
        ...

    @property
    def room(self) -> int:
        """Requests that may be sent on it now."""
        ...

    @property
    def spent(self) -> bool:
        """Whether it carries nothing, and never will again."""
        ...

    @property
    def unsent(self) -> bool:
        """Whether bytes wait until the socket takes more."""
        ...

    def send(self, number: int, request: bytes) -> None:
        """Sends a request, or as much of it as the socket takes.

        Raises:
            OSError: the connection is broken.
        """
        ...

    def flush(self) -> None:
        """Sends more of what waits.

        Raises:
            OSError: the connection is broken.
        """
        ...

    def receive(self) -> list[Ended]:
        """What has come.

        Raises:
            OSError: the connection is broken, or was closed.
        """
        ...

    def abandon(self, number: int) -> bool:
        """Forgets a request that is in flight; whether the connection can still be used."""
        ...

    def in_flight(self) -> list[int]:
        """Numbers of the requests sent and not ended."""
        ...

    def close(self) -> None:
        """Closes the socket."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How requests are sent.

    Attributes:
        timeout_s: a request without an answer this long after it was due is late, and given up.
        connections: the most that are open at a time. A request that is due while all are busy waits for one,
            and its wait counts.
        in_flight: the most requests without an answer, of those sent; the others wait likewise.
    """

    timeout_s: float = 10.0
    connections: int = 256
    in_flight: int = 65_536

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout: must be positive, got {self.timeout_s}")
        if self.connections < 1:
            raise ValueError(f"connections: must be at least 1, got {self.connections}")
        if self.in_flight < 1:
            raise ValueError(f"in_flight: must be at least 1, got {self.in_flight}")


def drive(
    connect: Callable[[], Connection],
    requests: Sequence[bytes],
    arrivals: np.ndarray,
    pace: Pace,
    *,
    answered: Callable[[int, bytes], None] | None = None,
) -> Trace:
    """Sends request i, ``requests[i % len(requests)]``, ``arrivals[i]`` seconds after the start.

    No coordinated omission: latencies count from when a request was due, not from when it could be sent; both
    are kept. Arrivals that are all 0 keep every connection busy: a closed loop, for the peak rate.

    Args:
        connect: makes a connection, which may still be on its way.
        requests: encoded.
        arrivals: float64 [R], seconds, not decreasing.
        pace: timeout and connections.
        answered: called with the number and the body of each answer, between requests: keep it short.

    Raises:
        OSError: the host is unknown. A server that is not there, or goes, only fails requests.
        ValueError: there are no requests.
    """
    if not len(requests):
        raise ValueError("requests: there are none to send")
    with _without_collector():
        loop = _Loop(connect, requests, arrivals, pace, answered)
        try:
            loop.run()
        finally:
            loop.close()
    return loop.trace()


class _Loop:
    def __init__(
        self,
        connect: Callable[[], Connection],
        requests: Sequence[bytes],
        arrivals: np.ndarray,
        pace: Pace,
        answered: Callable[[int, bytes], None] | None,
    ) -> None:
        count = len(arrivals)
        self._connect, self._requests, self._pace, self._answered = connect, requests, pace, answered
        self._due: list[float] = arrivals.tolist()
        self._sent = [float("nan")] * count
        self._ended = [float("nan")] * count
        self._outcome = bytearray([_PENDING]) * count
        self._left = count
        self._carrier: dict[int, Connection] = {}
        self._backlog: deque[int] = deque()
        self._open: dict[int, Connection] = {}
        self._free: list[Connection] = []  # with room; the last used first, whose socket is warm
        self._listed: set[int] = set()  # descriptors of those in `free`
        self._writing: set[int] = set()  # descriptors whose writability is waited for
        self._poll = select.epoll()
        self._faults: dict[str, int] = {}
        self._add(connect())
        self._start = time.perf_counter() + _LEAD_S

    def run(self) -> None:
        due, count, timeout = self._due, len(self._due), self._pace.timeout_s
        backlog, outcome, start, clock = self._backlog, self._outcome, self._start, time.perf_counter
        coming = oldest = 0
        while self._left:
            now = clock() - start
            while coming < count and due[coming] <= now:
                backlog.append(coming)
                coming += 1
            while oldest < coming and (outcome[oldest] != _PENDING or due[oldest] + timeout <= now):
                if outcome[oldest] == _PENDING:
                    self._give_up(oldest, now)
                oldest += 1
            if backlog:
                self._send_due()
            if not self._left:
                break
            until = due[oldest] + timeout if oldest < coming else float("inf")
            if coming < count:
                until = min(until, due[coming])
            # epoll counts in milliseconds, select in microseconds.
            wait = until - (clock() - start)
            if wait > 0:
                select.select((self._poll,), (), (), wait)
            for descriptor, event in self._poll.poll(0):
                self._serve(descriptor, event)

    def _send_due(self) -> None:
        backlog, free, requests = self._backlog, self._free, self._requests
        size, clock, start = len(requests), time.perf_counter, self._start
        while backlog and len(self._carrier) < self._pace.in_flight:
            if not free:
                if len(self._open) >= self._pace.connections:
                    return
                if not self._add_another():
                    continue
            connection = free[-1]
            if connection.room == 0:
                free.pop()
                self._listed.discard(connection.fileno())
                continue
            number = backlog.popleft()
            if self._outcome[number] != _PENDING:  # given up while it waited
                continue
            self._sent[number] = clock() - start
            self._carrier[number] = connection
            try:
                connection.send(number, requests[number % size])
            except OSError as error:
                self._drop(connection, error)
                if self._outcome[number] == _PENDING:
                    self._end(number, Outcome.FAILED, b"")
                continue
            if connection.unsent:
                self._watch_writing(connection)

    def _serve(self, descriptor: int, event: int) -> None:
        connection = self._open.get(descriptor)
        if connection is None:
            return
        try:
            if event & select.EPOLLOUT:
                connection.flush()
                if not connection.unsent:
                    self._writing.discard(descriptor)
                    self._poll.modify(descriptor, select.EPOLLIN)
            if event & ~select.EPOLLOUT:
                for number, outcome, body in connection.receive():
                    self._end(number, outcome, body)
                if connection.unsent:
                    self._watch_writing(connection)
        except OSError as error:
            self._drop(connection, error)
            return
        if connection.spent:
            self._drop(connection, None)
        elif connection.room and descriptor not in self._listed:
            self._listed.add(descriptor)
            self._free.append(connection)

    def _end(self, number: int, outcome: Outcome, body: bytes) -> None:
        self._carrier.pop(number, None)
        if self._outcome[number] != _PENDING:
            return
        self._ended[number] = time.perf_counter() - self._start
        self._outcome[number] = outcome
        self._left -= 1
        if outcome == Outcome.OK:
            if self._answered:
                self._answered(number, body)
        else:
            self._note(body)

    def _note(self, body: bytes) -> None:
        """Counts what went wrong, by its first words; numbers in them are left out."""
        text = _DIGITS.sub("#", body[:120].decode("utf-8", "replace"))
        if text and (text in self._faults or len(self._faults) < 20):
            self._faults[text] = self._faults.get(text, 0) + 1

    def _give_up(self, number: int, now: float) -> None:
        self._outcome[number] = Outcome.LATE
        self._ended[number] = now
        self._left -= 1
        connection = self._carrier.pop(number, None)
        if connection is not None and not connection.abandon(number):
            self._drop(connection, None)

    def _drop(self, connection: Connection, error: OSError | None) -> None:
        """Forgets a broken connection; what it carried has failed."""
        descriptor = connection.fileno()
        self._open.pop(descriptor, None)
        self._writing.discard(descriptor)
        if descriptor in self._listed:
            self._listed.discard(descriptor)
            self._free.remove(connection)
        self._poll.unregister(descriptor)
        lost = connection.in_flight()
        connection.close()
        for number in lost:
            self._end(number, Outcome.FAILED, str(error or "the connection was given up").encode())

    def _add_another(self) -> bool:
        try:
            self._add(self._connect())
        except OSError as error:
            self._end(self._backlog.popleft(), Outcome.FAILED, str(error).encode())
            return False
        return True

    def _add(self, connection: Connection) -> None:
        descriptor = connection.fileno()
        self._open[descriptor] = connection
        self._poll.register(descriptor, select.EPOLLIN)
        if connection.unsent:
            self._watch_writing(connection)
        self._listed.add(descriptor)
        self._free.append(connection)

    def _watch_writing(self, connection: Connection) -> None:
        descriptor = connection.fileno()
        if descriptor not in self._writing:
            self._writing.add(descriptor)
            self._poll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()
        self._poll.close()

    def trace(self) -> Trace:
        due = np.array(self._due)
        return Trace(
            due=due,
            latencies=np.array(self._ended) - due,
            lags=np.array(self._sent) - due,
            outcomes=np.frombuffer(bytes(self._outcome), np.uint8),
            faults=dict(self._faults),
        )


@contextmanager
def _without_collector():
    """Python's cycle collector would stop the loop for milliseconds; the loop makes no cycles."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
