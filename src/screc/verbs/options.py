"""What the verbs share: the application, options that several have, and how they print."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

app = typer.Typer(
    name="screc",
    help="Train, plan, pack and serve recommendation models whose embedding tables do not fit in memory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class OnError(StrEnum):
    """What a reader does at a malformed line."""

    RAISE = "raise"
    SKIP = "skip"


class Interaction(StrEnum):
    """How a DLRM's features meet."""

    DOT = "dot"
    CAT = "cat"


class Encoding(StrEnum):
    """How raw categories become rows."""

    VOCABULARY = "vocabulary"
    HASH = "hash"


class WantedPrecision(StrEnum):
    """What a packed model's dense layers are computed in."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    AUTO = "auto"


class PageOrdering(StrEnum):
    """Which rows share a page on SSD."""

    ID = "id"
    FREQUENCY = "frequency"
    CO_ACCESS = "co-access"


class Method(StrEnum):
    """Whose plan: the program's, or that of a planner of the literature to compare it with."""

    MIP = "mip"
    GREEDY_SIZE = "greedy-size"
    GREEDY_LOOKUPS = "greedy-lookups"
    RECSHARD = "recshard"
    THREE_TIER = "three-tier"
    TT_ONLY = "tt-only"
    LRU = "lru"


class Flow(StrEnum):
    """Which threads look what up: each a part of the samples, or its core's tables."""

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"


class RowScale(StrEnum):
    """What has a scale of its own: each int8 or int4 row, or each band of them."""

    ROW = "row"
    TABLE = "table"


class Optimizer(StrEnum):
    """The optimisers of the training room."""

    SGD = "sgd"
    ADAGRAD = "adagrad"
    ADAM = "adam"


Data = Annotated[
    str,
    typer.Option(
        help="criteo:FILE, avazu:FILE, parquet:FILE, synthetic:rows=...,scale=... or meta-reuse:rows=..."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Threads = Annotated[int, typer.Option(help="Threads; 0 = every core.")]
BadLines = Annotated[OnError, typer.Option(help="At a malformed line.")]
Io = Annotated[str, typer.Option(help="SSD reads: auto, io_uring or pread.")]


def console_for(as_json: bool) -> Console:
    """People's output: standard output, or standard error where a program reads the JSON."""
    return Console(stderr=as_json)


def finish(as_json: bool, value: Any) -> None:
    """Print a report (a dict or a dataclass) for programs."""
    if as_json:
        plain = _finite(asdict(value) if is_dataclass(value) else value)
        print(json.dumps(plain, indent=1, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    """null for numbers that are not defined (the AUC of one label): JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Any]:
    """A progress bar as ``report(done, total)`` with total None while unknown."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Into a file, a bar that comes and goes would leave an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)

        def report(done: int, total: int | None = None) -> None:
            bars.update(task, completed=done, total=total)

        yield report


def open_data(source: str, assets: Path | None, on_error: OnError) -> Any:
    """The click log, through the feature encoder that a model keeps in its assets (if it has one)."""
    from screc.data import open_log

    encoder = None
    if assets and (assets / "encoder").is_dir():
        from screc.data import FeatureEncoder  # brings pyarrow, which a log of row ids has no need of

        encoder = FeatureEncoder.load(assets / "encoder")
    return open_log(source, encoder, on_error=on_error.value)


def widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(",") if width.strip())
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of widths such as 512,256,64") from None
