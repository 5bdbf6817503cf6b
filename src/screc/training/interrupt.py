"""Stopping between steps: signals that wait until the work in hand is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While entered, SIGINT and SIGTERM set :attr:`requested` instead of ending the process.

    A signal while the next item of :meth:`items` is awaited ends the iteration; one at any other time only
    sets the flag. A second signal raises :class:`KeyboardInterrupt` at once. Outside the main thread signals
    cannot be caught and nothing changes.

    Attributes:
        requested: a signal has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._awaiting = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested or self._awaiting:
            raise KeyboardInterrupt
        self.requested = True

    def items(self, source: Iterable[T]) -> Iterator[T]:
        """The items of ``source`` until a signal comes; an item that was being read then is dropped."""
        iterator = iter(source)
        while not self.requested:
            try:
                try:
                    self._awaiting = True
                    item = next(iterator)
                finally:
                    self._awaiting = False
            except StopIteration:
                return
            except KeyboardInterrupt:
                self._awaiting = False
                self.requested = True
                return
            yield item
