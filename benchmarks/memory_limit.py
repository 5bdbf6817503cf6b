"""Worker processes whose memory, page cache included, is limited by a control group of their own."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A memory control group (version 1 or 2) with a limit; removed by :meth:`close`.

    Raises:
        OSError: this process may not make control groups (it takes root, and a writable hierarchy).
    """

    def __init__(self, name: str, limit_bytes: int) -> None:
        second = (_ROOT / "cgroup.controllers").exists()
        self.path = (_ROOT if second else _ROOT / "memory") / f"screc-{os.getpid()}-{name}"
        if second:
            (_ROOT / "cgroup.subtree_control").write_text("+memory")
        self.path.mkdir()
        (self.path / ("memory.max" if second else "memory.limit_in_bytes")).write_text(str(limit_bytes))
        if second:
            (self.path / "memory.swap.max").write_text("0")
        self._peak = self.path / ("memory.peak" if second else "memory.max_usage_in_bytes")

    def enter(self, pid: int) -> None:
        """Moves a process into the group."""
        (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def peak_bytes(self) -> int | None:
        """The most memory its processes have used, page cache included; None where it is not told."""
        return int(self._peak.read_text()) if self._peak.exists() else None

    def close(self) -> None:
        """Removes the group; its processes must have ended."""
        self.path.rmdir()


class Worker:
    """An arm of a benchmark in a process of its own: ``make(**arguments)`` runs there and gives the function
    that each :meth:`call` calls.

    Args:
        name: of the arm.
        make: an importable function.
        arguments: its keyword arguments, picklable.
        limit_bytes: memory of the process, page cache included; None for no limit.

    Raises:
        OSError: the limit cannot be set.
    """

    def __init__(
        self,
        name: str,
        make: Callable[..., Callable[..., Any]],
        arguments: dict[str, Any],
        *,
        limit_bytes: int | None = None,
    ) -> None:
        self.name = name
        self._group = None if limit_bytes is None else MemoryGroup(name, limit_bytes)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()
        if self._group is not None:
            self._group.enter(self._process.pid or 0)
        self._pipe.send("begin")  # nothing is loaded before the limit holds
        self._answer()

    def call(self, *arguments: Any) -> Any:
        """The function's result in the worker. Raises RuntimeError with the worker's traceback."""
        self._pipe.send(arguments)
        return self._answer()

    @property
    def peak_bytes(self) -> int | None:
        """The most memory it has used, page cache included; None without a limit."""
        return None if self._group is None else self._group.peak_bytes

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        if self._group is not None:
            self._group.close()

    def _answer(self) -> Any:
        try:
            failed, value = self._pipe.recv()
        except EOFError:
            self._process.join(30)
            raise RuntimeError(f"{self.name}: the worker ended with code {self._process.exitcode}") from None
        if failed:
            raise RuntimeError(f"{self.name}: {value}")
        return value


def _serve(pipe: Connection, make: Callable[..., Callable[..., Any]], arguments: dict[str, Any]) -> None:
    try:
        pipe.recv()
        function = make(**arguments)
        pipe.send((False, None))
        while True:
            pipe.send((False, function(*pipe.recv())))
    except EOFError:
        return
    except Exception:
        pipe.send((True, traceback.format_exc()))
