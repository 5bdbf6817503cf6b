"""The verb that compares compression methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from screc.verbs.options import Json, app, console_for, finish

_Number = TypeVar("_Number", int, float)


def _list(text: str, kind: Callable[[str], _Number], example: str) -> tuple[_Number, ...]:
    try:
        return tuple(kind(number) for number in text.split(",") if number.strip())
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list of numbers such as {example}") from None


def _whole(text: str) -> tuple[int, ...]:
    return _list(text, int, "512,256,64")


def _numbers(text: str) -> tuple[float, ...]:
    return _list(text, float, "10,100,1000")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@app.command()
def compare(
    data: Annotated[str, typer.Option(help="Log to train on, of row ids: parquet:FILE or synthetic:rows=.")],
    out: Annotated[Path, typer.Option(help="Directory of the results; what is there is not measured again.")],
    test: Annotated[str | None, typer.Option(help="Log that methods are compared on.")] = None,
    validation: Annotated[
        str | None, typer.Option(help="Log for early stopping and searches; else the last tenth of --data.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods, with options as in cafe:decay=0.99; empty for all.")
    ] = "",
    budgets: Annotated[str, typer.Option(help="How many times smaller than float32 rows.")] = "10,100,1000",
    seeds: Annotated[str, typer.Option(help="Of weights, hashes and order.")] = "0",
    models: Annotated[str, typer.Option(help="dlrm, wide_deep, dcn.")] = "dlrm",
    dim: Annotated[int, typer.Option(help="Embedding dimension.")] = 16,
    bottom: Annotated[str, typer.Option(help="Hidden widths of DLRM's bottom MLP.")] = "512,256,64",
    top: Annotated[str, typer.Option(help="Hidden widths of the layers after the tables.")] = "512,256",
    batch_size: Annotated[int, typer.Option(help="Samples per step.")] = 2048,
    epochs: Annotated[int, typer.Option(help="Most passes over the log.")] = 1,
    patience: Annotated[int, typer.Option(help="Passes without a better validation AUC before a stop.")] = 2,
    dense_lr: Annotated[float, typer.Option(help="Learning rate of layers and TT cores (Adam).")] = 1e-3,
    table_lr: Annotated[float, typer.Option(help="Learning rate of table rows (Adagrad).")] = 0.02,
    shuffle: Annotated[int, typer.Option(help="Samples shuffled together; 0 = the log's order.")] = 0,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Multiply matrices in bfloat16 while training.")
    ] = False,
    day_samples: Annotated[
        int, typer.Option(help="The log is a stream of such days, each tested before it is trained on.")
    ] = 0,
    jobs: Annotated[int, typer.Option(help="Cells at a time, each on one thread.")] = 1,
    as_json: Json = False,
) -> None:
    """Train and compare compression methods; Ctrl-C keeps what is done, the same command goes on."""
    from screc.training.compare import Grid, Settings, run_grid, write_report

    console = console_for(as_json)
    grid = Grid(
        settings=Settings(
            data=data,
            test=test,
            validation=validation,
            dim=dim,
            bottom=_whole(bottom),
            top=_whole(top),
            batch_size=batch_size,
            epochs=epochs,
            patience=patience,
            dense_lr=dense_lr,
            table_lr=table_lr,
            shuffle=shuffle,
            bf16=bf16,
            day_samples=day_samples,
        ),
        models=_names(models),
        methods=_names(methods),
        budgets=_numbers(budgets),
        seeds=_whole(seeds),
    )
    run_grid(grid, out, jobs=jobs, console=console)
    comparison = write_report(out, console=console)
    console.print(f"written: {out}/report.md, table.csv, compare.json and pictures")
    finish(as_json, comparison.to_dict())
