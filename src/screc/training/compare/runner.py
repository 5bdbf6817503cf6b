"""Running the cells of a comparison: each in a process of its own, a few at a time, and only once."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from screc.storage.atomic import replace_file
from screc.training.compare.cell import count_lookups
from screc.training.compare.grid import Cell, Grid, Settings, to_dict
from screc.training.compare.table import CELLS, SETTINGS, read_result

_COUNTS = "counts.npz"


def run_grid(grid: Grid, out: Path | str, *, jobs: int = 1, console: Console | None = None) -> int:
    """Measure the cells of a grid that are not yet in a directory.

    Every cell is one file there, written whole: a run that was stopped goes on where it was, and a grid may
    be extended. A cell that failed is kept with its error and tried again by the next run; it does not stop
    the others.

    Args:
        grid: what to measure.
        out: directory of the results.
        jobs: cells at a time, each on one thread.
        console: for progress; none by default.

    Returns:
        Cells that were measured now.

    Raises:
        ValueError: ``out`` holds results of other settings, or the logs do not fit.
        KeyboardInterrupt: stopped by Ctrl-C; cells that were running are lost, all others kept.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    out = Path(out)
    cells = list(dict.fromkeys(grid.cells()))
    _check_settings(grid.settings, out)
    todo = [cell for cell in cells if not _is_done(out, cell)]
    if not todo:
        return 0
    counts = _counted(grid.settings, out)
    (out / CELLS).mkdir(exist_ok=True)
    console = console or Console(quiet=True)
    try:
        with _Bars(console, done=len(cells) - len(todo), total=len(cells)) as bars:
            _run(grid.settings, todo, out, counts, jobs, bars)
    except KeyboardInterrupt:
        console.print(f"interrupted; what is done is in {out}, the same command goes on")
        raise
    return len(todo)


def _check_settings(settings: Settings, out: Path) -> None:
    """Compare the settings with those of the directory, or write them there."""
    file, ours = out / SETTINGS, json.loads(json.dumps(to_dict(settings)))
    if file.is_file():
        theirs = json.loads(file.read_text())
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"{name} is {value!r}, but {out} holds results with {theirs.get(name)!r}; use the same, "
                    "or another directory"
                )
        return
    settings.logs()  # what cannot be read fails before anything is written
    out.mkdir(parents=True, exist_ok=True)
    with replace_file(file) as temporary:
        temporary.write_text(json.dumps(ours, indent=1) + "\n")


def _is_done(out: Path, cell: Cell) -> bool:
    result = read_result(out / CELLS / f"{cell.key}.json")
    return result is not None and result["status"] != "failed"


def _counted(settings: Settings, out: Path) -> Path:
    """File of the look-ups of each id: of the training samples, in a stream of its first day."""
    file = out / _COUNTS
    if not file.is_file():
        train, first_day, _ = settings.logs()
        counts = count_lookups(first_day if settings.day_samples else train)
        with replace_file(file) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **{f"table_{n}": array for n, array in enumerate(counts)})
    return file


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[str]
    errors: IO[str]
    bar: TaskID


def _run(settings: Settings, cells: Sequence[Cell], out: Path, counts: Path, jobs: int, bars: _Bars) -> None:
    waiting, running = iter(cells), selectors.DefaultSelector()
    try:
        for cell in _first(waiting, jobs):
            _start(settings, cell, out, counts, running, bars)
        while running.get_map():
            for key, _ in running.select():
                one: _Running = key.data
                line = one.process.stdout.readline()  # type: ignore[union-attr]
                if line:
                    bars.moved(one.bar, line)
                    continue
                running.unregister(key.fileobj)
                bars.ended(one.cell, one.bar, _result(one, out))
                for cell in _first(waiting, 1):
                    _start(settings, cell, out, counts, running, bars)
    finally:
        for key in list(running.get_map().values()):
            key.data.process.kill()
            key.data.process.wait()


def _first(cells: Iterator[Cell], count: int) -> Iterator[Cell]:
    for _ in range(count):
        cell = next(cells, None)
        if cell is None:
            return
        yield cell


def _start(
    settings: Settings, cell: Cell, out: Path, counts: Path, running: selectors.BaseSelector, bars: _Bars
) -> None:
    # Not to a pipe: nobody would read it while the process runs.
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-m", "screc.training.compare.cell"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        bufsize=1,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for this process alone, which then ends the others
    )
    asked = {
        "settings": to_dict(settings),
        "cell": to_dict(cell),
        "counts": str(counts.resolve()),
        "result": str((out / CELLS / f"{cell.key}.json").resolve()),
    }
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
    except BrokenPipeError:
        pass  # it has ended; its result says why
    assert process.stdout is not None
    running.register(process.stdout, selectors.EVENT_READ, _Running(cell, process, errors, bars.began(cell)))


def _result(one: _Running, out: Path) -> dict[str, Any]:
    """What a cell that has ended found, or why it found nothing; the latter is written here."""
    code = one.process.wait()
    one.errors.seek(0)
    lines = one.errors.read().strip().splitlines()
    one.errors.close()
    file = out / CELLS / f"{one.cell.key}.json"
    result = read_result(file) if code == 0 else None
    if result is None:
        ended = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        result = {"cell": to_dict(one.cell), "status": "failed", "error": lines[-1] if lines else ended}
        with replace_file(file) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    return result


class _Bars:
    """A bar for the grid and one for every cell that runs; a line for every cell that has ended."""

    def __init__(self, console: Console, *, done: int, total: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._console, self._done, self._total = console, done, total
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._grid = self._bars.add_task("cells", completed=done, total=total)

    def __enter__(self) -> _Bars:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def began(self, cell: Cell) -> TaskID:
        return self._bars.add_task(f"  {cell.method} {cell.ratio:g}x seed {cell.seed}", total=1)

    def moved(self, bar: TaskID, line: str) -> None:
        done, _, total = line.partition(" ")
        if done.isdecimal() and total.strip().isdecimal():
            self._bars.update(bar, completed=int(done), total=int(total))

    def ended(self, cell: Cell, bar: TaskID, result: dict[str, Any]) -> None:
        self._bars.remove_task(bar)
        self._done += 1
        self._bars.update(self._grid, completed=self._done)
        if result["status"] == "done":
            found = f"AUC {result['auc']:.5f} at {result['ratio']:,.1f}x, {result['seconds']:.0f} s"
        elif result["status"] == "unreachable":
            least = result["full_bytes"] / result["smallest_bytes"]
            found = f"cannot be that small; {result['smallest_bytes']:,} bytes work ({least:,.1f}x)"
        else:
            found = f"[red]failed[/red]: {result['error']}"
        self._console.print(
            f"{self._done}/{self._total} {cell.model} {cell.method} {cell.ratio:g}x seed {cell.seed}: {found}"
        )
