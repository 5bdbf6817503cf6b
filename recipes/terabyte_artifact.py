"""A model of terabytes on one host: look-ups -> profile -> plan -> checkpoint -> artifact -> predictions.

    python -m recipes.terabyte_artifact --out run-tb

The tables have billions of rows each, and a generated trace with the reuse of Meta's published one touches
some hundred thousand of them. There is no training: every touched row gets the values of a formula, so that
every row that is served can be compared with it, bit by bit. All other rows are the table's default row. The
artifact is what a trained model of this size would be packed into: its files have their full size, and holes
where no row is known (docs/guide/terabytes.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from screc.data import Batch, ReuseTraceConfig, ReuseTraceLog
from screc.data.hashing import mix, mix_integers
from screc.planning import (
    SystemSpec,
    format_bytes,
    make_plan,
    plan_summary,
    reference_system,
    sparse_index_bytes,
)
from screc.serving import Engine, score
from screc.serving.scoring import peak_resident_bytes
from screc.statistics import AccessStatistics
from screc.storage import RowStore, StoredTable, TableLayout, pack, verify, write_checkpoint

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROWS_PER_STEP = 1 << 16


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Sizes of the run; the defaults are 6.6 TB in four files of more than 2^40 bytes each.

    Attributes:
        tables, table_rows, embedding_dim: of the model.
        samples: of the trace that is profiled; its rows are the known ones.
        served: samples after these that are predicted; some of their rows are not known.
        dram_bytes: for hot rows and indices.
        top_mlp: widths of the top MLP; there is no bottom one, for the trace has no dense features.
        batch_size: samples per call.
        seed: of the trace, the rows and the weights.
    """

    tables: int = 4
    table_rows: int = 6_000_000_000
    embedding_dim: int = 64
    samples: int = 65_536
    served: int = 16_384
    dram_bytes: int = 64_000_000
    top_mlp: tuple[int, ...] = (64, 1)
    batch_size: int = 1024
    seed: int = 1

    def trace(self, first: int, samples: int) -> ReuseTraceLog:
        """Samples [first, first + samples) of the trace."""
        return ReuseTraceLog(
            ReuseTraceConfig(
                num_rows=samples,
                tables=self.tables,
                table_rows=self.table_rows,
                seed=self.seed,
                first_row=first,
            )
        )


class FormulaModel:
    """A DLRM without training: the rows of known ids are a hash of table, id and column.

    Args:
        config: sizes and seed.
        known: the ids of each table that have a row of their own, int64, ascending.
    """

    def __init__(self, config: RunConfig, known: list[np.ndarray]) -> None:
        self.config, self.known = config, known
        pairs = config.tables * (config.tables - 1) // 2
        widths = (pairs, *config.top_mlp)
        rng = np.random.default_rng(config.seed)
        self.dense: dict[str, np.ndarray] = {}
        for layer, (inputs, outputs) in enumerate(pairwise(widths)):
            weight = rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)
            self.dense[f"top.{layer}.weight"] = weight.astype(np.float32)
            self.dense[f"top.{layer}.bias"] = (rng.standard_normal(outputs) / 4).astype(np.float32)

    def default_row(self, table: int) -> np.ndarray:
        """The row of every id that is not known, float32 [dim]: not zeros, which a hole reads as."""
        return np.full(self.config.embedding_dim, (table + 1) / 64, np.float32)

    def known_rows(self, table: int, ids: np.ndarray) -> np.ndarray:
        """The rows of known ids, float32 [n, dim]: multiples of 2^-26 in [-1/8, 1/8)."""
        keys = np.arange(self.config.embedding_dim, dtype=np.uint64) * np.uint64(1 << 40)
        keys += np.uint64(mix_integers(self.config.seed, table))
        hashed = mix(ids.astype(np.uint64)[:, None] * _GOLDEN + keys) >> np.uint64(40)
        return (hashed.astype(np.float32) - np.float32(1 << 23)) * np.float32(2**-26)

    def rows(self, table: int, ids: np.ndarray) -> np.ndarray:
        """The rows of any ids int64 [n], float32 [n, dim]."""
        known = self.known[table]
        place = np.minimum(np.searchsorted(known, ids), known.size - 1)
        return np.where((known[place] == ids)[:, None], self.known_rows(table, ids), self.default_row(table))

    def predict(self, batch: Batch) -> np.ndarray:
        """The probabilities of a batch in float64, by numpy: sums, inner products of all pairs, MLP."""
        features = []
        for table in range(self.config.tables):
            rows, offsets = self.rows(table, batch.table_ids(table)), batch.table_offsets(table)
            sums = np.concatenate((np.zeros((1, rows.shape[1])), np.cumsum(rows, axis=0, dtype=np.float64)))
            features.append(sums[offsets[1:]] - sums[offsets[:-1]])
        stacked = np.stack(features, axis=1)
        left, right = np.tril_indices(self.config.tables, -1)
        hidden = np.einsum("bpd,bpd->bp", stacked[:, left], stacked[:, right])
        for layer in range(len(self.config.top_mlp)):
            if layer:
                hidden = np.maximum(hidden, 0)
            hidden = (
                hidden @ self.dense[f"top.{layer}.weight"].astype(np.float64).T
                + self.dense[f"top.{layer}.bias"]
            )
        return 1 / (1 + np.exp(-hidden[:, 0]))

    def stored(self, names: list[str]) -> list[StoredTable]:
        """The tables as a checkpoint describes them."""
        rows, dim = self.config.table_rows, self.config.embedding_dim
        return [
            StoredTable(TableLayout.dense(name, rows, dim), "sum", ids.size)
            for name, ids in zip(names, self.known, strict=True)
        ]

    def write(self, path: Path, names: list[str]) -> None:
        """The checkpoint."""
        model = {
            "name": "dlrm",
            "num_dense": 0,
            "embedding_dim": self.config.embedding_dim,
            "bottom_mlp": [],
            "top_mlp": list(self.config.top_mlp),
            "interaction": "dot",
        }
        write_checkpoint(
            path,
            model=model,
            tables=self.stored(names),
            dense=self.dense,
            table_tensors=lambda table: {
                "band.0.ids": self.known[table],
                "band.0.rows": self.known_rows(table, self.known[table]),
                "band.0.default": self.default_row(table),
            },
            training={},
        )


def run(config: RunConfig, out: Path, console: Console) -> dict[str, Any]:
    """Run every stage into ``out``; returns the report that ``out/report.json`` holds.

    Raises:
        RuntimeError: a row or a prediction is not what the formula says.
    """
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    trace = config.trace(0, config.samples)
    names = [table.name for table in trace.tables]

    with _stage(console, seconds, "profile") as progress:
        counted = AccessStatistics.collect(trace, progress=progress)
    if not all(table.exact for table in counted.tables):
        raise RuntimeError("the trace touches more rows than can be counted exactly; give fewer samples")
    model = FormulaModel(config, [np.sort(table.ids) for table in counted.tables])
    fp32 = 4 * config.embedding_dim * config.tables * config.table_rows
    num_known = sum(ids.size for ids in model.known)
    console.print(
        f"  {config.tables} tables of {config.table_rows:,} rows x {config.embedding_dim}, "
        f"{format_bytes(fp32)} in fp32; {counted.num_lookups:,} look-ups touch {num_known:,} rows"
    )
    with _stage(console, seconds, "plan"):
        plan = make_plan(
            counted,
            config.embedding_dim,
            server(),
            dram_bytes=config.dram_bytes - sparse_index_bytes(model.stored(names)),
            batch_size=config.batch_size,
            tt=False,  # cores cannot tell a row that nobody knows
        )
    plan.save(out / "plan.json")
    plan_summary(plan, console)
    with _stage(console, seconds, "checkpoint"):
        model.write(out / "model", names)
    with _stage(console, seconds, "pack") as progress:
        packed = pack(out / "model", counted, plan, out / "artifact", progress=progress)
    on_disk = sum(file.stat().st_blocks * 512 for file in (out / "artifact").rglob("*"))
    console.print(
        f"  {format_bytes(packed.ssd_bytes)} of pages, {format_bytes(packed.written_bytes)} written, "
        f"{format_bytes(on_disk)} on disk; {format_bytes(packed.dram_bytes)} in DRAM"
    )
    with _stage(console, seconds, "verify") as progress:
        verified = verify(out / "artifact", progress)
    if not verified.ok:
        raise RuntimeError(f"damaged as packed: {[str(damage) for damage in verified.damages[:3]]}")
    with _stage(console, seconds, "open"):
        engine = Engine.open(out / "artifact")
    with _stage(console, seconds, "rows"):
        rows = check_rows(model, out / "artifact", config)
    with _stage(console, seconds, "predict") as progress:
        served = config.trace(config.samples, config.served)
        scored = score(
            engine, served, batch_size=config.batch_size, out=out / "predictions.npy", progress=progress
        )
    predicted, start, difference = np.load(out / "predictions.npy"), 0, 0.0
    for batch in served.batches(config.batch_size):
        expected = model.predict(batch)
        found = predicted[start : start + batch.batch_size]
        difference = max(difference, float(np.abs(found - expected).max()))
        start += batch.batch_size
    if difference > 1e-5 or predicted.std() < 1e-3:
        raise RuntimeError(f"predictions differ from the formula's by up to {difference:.1e}")
    store = scored.store
    report = {
        "config": asdict(config),
        "fp32_bytes": fp32,
        "logical_bytes": packed.ssd_bytes,
        "written_bytes": packed.written_bytes,
        "disk_bytes": on_disk,
        "dram_bytes": packed.dram_bytes,
        "index_bytes": packed.index_bytes,
        "known_rows": num_known,
        "seconds": seconds,
        "verified_bytes": verified.bytes,
        "verified_pages": verified.pages,
        "holes": verified.holes,
        **rows,
        "samples_per_s": scored.to_dict()["samples_per_s"],
        "lookups": store["lookups"],
        "ssd_rows": store["ssd_rows"],
        "default_rows": store["default_rows"],
        "pages_read": store["pages_read"],
        "io": store["io_backend"],
        "direct_io": store["direct_io"],
        "max_abs_difference": difference,
        "peak_resident_bytes": peak_resident_bytes(),
    }
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    _print_report(report, console)
    return report


def check_rows(model: FormulaModel, artifact: Path, config: RunConfig) -> dict[str, Any]:
    """Compares rows over the whole range of ids with the formula: every known one, those beside them, as many
    from all over the table, and those about the powers of two where integers of some width end.

    Returns:
        Rows compared, and pages read per second of all look-ups but the formula's own time.
    """
    rng, last = np.random.default_rng(config.seed), config.table_rows - 1
    store = RowStore.open(artifact)
    compared, spent = 0, 0.0
    powers = 2 ** np.arange(20, 62)
    edges = np.append(powers[powers <= last], last)
    for table, known in enumerate(model.known):
        anywhere = rng.integers(0, config.table_rows, known.size)
        near = np.minimum(known + 1, last)
        ids = rng.permutation(np.concatenate((known, anywhere, near, [0, 1], edges, edges - 1)))
        for start in range(0, ids.size, _ROWS_PER_STEP):
            some = ids[start : start + _ROWS_PER_STEP]
            began = time.perf_counter()
            found = store.gather(table, some)
            spent += time.perf_counter() - began
            wrong = np.flatnonzero((found != model.rows(table, some)).any(axis=1))
            if wrong.size:
                raise RuntimeError(f"table {table}, row {some[wrong[0]]} is not what the formula says")
            compared += some.size
    stats = store.stats()
    return {
        "rows_compared": compared,
        "rows_default": stats.default_rows,
        "row_pages_read": stats.pages_read,
        "reads_per_s": stats.pages_read / spent,
        "rows_per_s": compared / spent,
    }


def server() -> SystemSpec:
    """The server that is planned for: the rates of the reference system, and drives that hold the tables."""
    system = reference_system()
    return system.model_copy(
        update={
            "source": "reference, with 4 drives of 3.84 TB",
            "shared": system.shared.model_copy(update={"ssd_bytes": 4 * 3_840_000_000_000}),
        }
    )


def _print_report(report: dict[str, Any], console: Console) -> None:
    table = Table("", "", title="served from one host", show_header=False)
    table.add_row("rows in fp32", format_bytes(report["fp32_bytes"]))
    table.add_row("page files, logical", format_bytes(report["logical_bytes"]))
    table.add_row("of these written", format_bytes(report["written_bytes"]))
    table.add_row("artifact on disk", format_bytes(report["disk_bytes"]))
    table.add_row("DRAM of the tables", format_bytes(report["dram_bytes"]))
    table.add_row("peak resident memory", format_bytes(report["peak_resident_bytes"]))
    table.add_row("rows compared, all equal", f"{report['rows_compared']:,}")
    table.add_row("of these without a page", f"{report['rows_default']:,}")
    table.add_row("reads", f"{report['reads_per_s']:,.0f} pages/s ({report['io']})")
    table.add_row("predictions", f"{report['samples_per_s']:,.0f} samples/s")
    table.add_row("largest difference of one", f"{report['max_abs_difference']:.1e}")
    for stage, spent in report["seconds"].items():
        table.add_row(f"{stage}, s", f"{spent:.1f}")
    console.print(table)


@contextmanager
def _stage(
    console: Console, seconds: dict[str, float], name: str
) -> Iterator[Callable[[int, int | None], None]]:
    """Times a stage and shows its progress."""
    columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
    began = time.perf_counter()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total=None: bars.update(task, completed=done, total=total)
    seconds[name] = time.perf_counter() - began
    console.print(f"[bold]{name}[/bold] {seconds[name]:.1f} s")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for everything, 3 GB by default")
    parser.add_argument("--tables", type=int, default=RunConfig.tables)
    parser.add_argument("--table-rows", type=int, default=RunConfig.table_rows)
    parser.add_argument(
        "--samples", type=int, default=RunConfig.samples, help="of the trace that is profiled"
    )
    options = parser.parse_args()
    config = RunConfig(tables=options.tables, table_rows=options.table_rows, samples=options.samples)
    try:
        run(config, options.out, Console())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
