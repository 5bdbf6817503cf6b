"""Processes that are killed in the middle of their work."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable


def seconds_of(work: Callable[[], None]) -> float:
    """How long ``work`` takes here, to choose when to kill it."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def start(work: Callable[[], None]) -> int:
    """Runs ``work`` in a forked process and returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)  # neither pytest's nor the interpreter's clean-up belongs to the child
    return child


def kill(child: int) -> bool:
    """Kills a process that :func:`start` began; False where it had ended by itself."""
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def run_and_kill(work: Callable[[], None], *, after: float) -> bool:
    """Runs ``work`` in a forked process and kills it after some seconds; False where it had ended."""
    child = start(work)
    time.sleep(after)
    return kill(child)
