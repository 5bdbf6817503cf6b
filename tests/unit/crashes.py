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


def run_and_kill(work: Callable[[], None], *, after: float) -> bool:
    """Runs ``work`` in a forked process and kills it after some seconds; False where it had ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)  # neither pytest's nor the interpreter's clean-up belongs to the child
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
