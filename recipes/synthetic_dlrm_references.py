"""Reference AUCs of the synthetic click log: what each way of making tables smaller costs.

``python -m recipes.synthetic_dlrm_references --out run/references`` trains one DLRM per arm on the same
samples and evaluates it on the same held-out ones. Finished arms are kept in ``references.json`` and skipped
when the command is given again; an arm that was interrupted goes on from its checkpoint.
docs/guide/recipe-g.md holds the measured table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from screc.data import Batch, ClickLog, SyntheticClickLog, SyntheticConfig, TableSpec, bayes_auc
from screc.data.hashing import mix, mix_integers
from screc.embeddings import TensorTrain
from screc.models import DLRM, DlrmConfig
from screc.statistics import AccessStatistics, area_under_curve
from screc.storage import TableLayout, TtShape, replace_file
from screc.training import TrainingConfig, evaluate, load_model, train

_Bar = Callable[[int, int | None], None]
Kind = Literal["bayes", "full", "full_fp32", "dense", "int", "hash", "cap", "hot_cold", "tt"]

_HASH_SALT = 17
_HOT_SHARE = 0.7
_TT_MIN_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class ReferencesConfig:
    """What is measured; a results file belongs to one configuration.

    Attributes:
        rows, held_out_rows: samples to train on and, after them in the same stream, to evaluate on.
        seed: of the click log.
        scale: cardinalities as a share of Criteo-Kaggle's.
        model: widths of the DLRM.
        bf16_matmul: multiply matrices in bfloat16 while training (:class:`TrainingConfig`); one arm trains
            the full tables without, to show that it changes nothing.
    """

    rows: int = 1_000_000
    held_out_rows: int = 200_000
    seed: int = 1
    scale: float = 0.05
    model: DlrmConfig = field(default_factory=lambda: DlrmConfig(num_dense=13))
    bf16_matmul: bool = True

    def log(self) -> SyntheticClickLog:
        """The samples to train on."""
        return SyntheticClickLog(SyntheticConfig(num_rows=self.rows, seed=self.seed, scale=self.scale))

    def held_out(self) -> SyntheticClickLog:
        """The samples to evaluate on."""
        return SyntheticClickLog(
            SyntheticConfig(
                num_rows=self.held_out_rows, seed=self.seed, scale=self.scale, first_row=self.rows
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values of all fields."""
        return {**dataclasses.asdict(self), "model": self.model.to_dict()}


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of the table.

    Attributes:
        kind: the method.
        value: its number: model seed of ``full``, bits of ``int``, nominal ratio of ``hash``, ``cap`` and
            ``hot_cold``, TT rank of ``tt``.
    """

    kind: Kind
    value: int = 0

    @property
    def key(self) -> str:
        """Its name in references.json."""
        return f"{self.kind}-{self.value}"

    @property
    def title(self) -> str:
        """Its name in the table."""
        return {
            "bayes": "Bayes, drawn labels" if self.value else "Bayes, analytic",
            "full": f"full, model seed {self.value}",
            "full_fp32": f"full, model seed {self.value}, float32 products",
            "dense": "dense only (one row per field)",
            "int": f"int{self.value} per row, after training",
            "hash": f"hash per field, {self.value}x",
            "cap": f"hash, equal row cap, {self.value}x",
            "hot_cold": f"hot + cold rows per field, {self.value}x",
            "tt": f"TT rank {self.value}, tables > 10k rows",
        }[self.kind]


def _arms(kind: Kind, *values: int) -> tuple[Arm, ...]:
    return tuple(Arm(kind, value) for value in values)


ARMS = (
    *_arms("bayes", 0, 1),
    *_arms("full", 0, 1),
    *_arms("dense", 0),
    *_arms("int", 8, 4, 3, 2),
    *_arms("hash", 10, 100, 1000, 10_000),
    *_arms("full_fp32", 0),
    *_arms("tt", 16),
    *_arms("cap", 1000, 10_000),
    *_arms("hot_cold", 100, 1000, 10_000),
    *_arms("tt", 8, 32),
)
"""All arms in the order in which they run; the table and the picture sort them by method."""

_KINDS: tuple[Kind, ...] = ("bayes", "full", "full_fp32", "dense", "int", "hash", "cap", "hot_cold", "tt")


class RemappedLog:
    """A click log whose ids go through one map per table.

    Args:
        log: the samples.
        maps: one per table, int64 [rows]: the id that takes the place of each id.
        sizes: rows of the smaller tables.

    Raises:
        ValueError: the maps do not fit the tables, or hold an id outside the smaller table.
    """

    def __init__(self, log: ClickLog, maps: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
        specs = log.tables
        if not len(specs) == len(maps) == len(sizes):
            raise ValueError(f"maps: {len(maps)} maps and {len(sizes)} sizes for {len(specs)} tables")
        for spec, ids, size in zip(specs, maps, sizes, strict=True):
            if ids.shape != (spec.num_embeddings,) or ids.min() < 0 or ids.max() >= size:
                raise ValueError(
                    f"maps: table {spec.name} needs {spec.num_embeddings} ids in [0, {size}), "
                    f"got {list(ids.shape)} from {ids.min()} to {ids.max()}"
                )
        self._log = log
        self._map = np.concatenate(maps)
        self._starts = np.cumsum([0, *(spec.num_embeddings for spec in specs[:-1])])
        self.tables = tuple(
            TableSpec(spec.name, size, spec.pooling) for spec, size in zip(specs, sizes, strict=True)
        )
        self.num_dense = log.num_dense
        self.num_samples = log.num_samples

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """See :class:`screc.data.ClickLog`."""
        for batch in self._log.batches(batch_size, skip=skip):
            counts = np.diff(batch.offsets[:: batch.batch_size])
            ids = self._map[batch.ids + np.repeat(self._starts, counts)]
            yield dataclasses.replace(batch, ids=ids)


def hashed_ids(rows: int, kept: int, table: int) -> np.ndarray:
    """int64 [rows] in [0, kept): a seeded hash of every id of a table; the id itself if all rows are kept."""
    ids = np.arange(rows, dtype=np.int64)
    if kept >= rows:
        return ids
    hashed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hashed += np.uint64(mix_integers(_HASH_SALT, table))
    return (mix(hashed) % np.uint64(kept)).astype(np.int64)


def rows_per_field(rows: Sequence[int], ratio: int) -> list[int]:
    """Rows of every table at a ratio of its own, at least one."""
    return [max(1, round(size / ratio)) for size in rows]


def rows_with_cap(rows: Sequence[int], ratio: int) -> list[int]:
    """``min(rows, cap)`` of every table, with the largest cap whose sum is within ``sum(rows) / ratio``."""
    budget = sum(rows) / ratio
    low, high = 1, max(rows)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(r, middle) for r in rows) <= budget else (low, middle - 1)
    return [min(size, low) for size in rows]


def hot_cold_ids(statistics: AccessStatistics, ratio: int) -> tuple[list[np.ndarray], list[int]]:
    """Maps and sizes of tables whose hot rows are kept and whose cold rows share a few by hash.

    Of the budget sum(rows) / ratio, 70 % are the rows of all tables that the training samples look up most
    (ties by table, then id). The rest is shared among the tables in proportion to their other rows, at least
    one row each.
    """
    tables = statistics.tables
    sizes = np.array([table.num_embeddings for table in tables])
    budget = int(sizes.sum()) / ratio
    counts = np.concatenate([table.counts for table in tables])
    owners = np.repeat(np.arange(len(tables)), [table.num_seen for table in tables])
    hottest = np.argsort(-counts, kind="stable")[: round(_HOT_SHARE * budget)]
    hot = np.bincount(owners[hottest], minlength=len(tables))
    others = sizes - hot
    shares = (1 - _HOT_SHARE) * budget * others / max(1, others.sum())
    cold = np.minimum(others, np.maximum(1, np.floor(shares).astype(np.int64)))
    maps = []
    for number, table in enumerate(tables):
        ids = hashed_ids(table.num_embeddings, max(1, int(cold[number])), number) + int(hot[number])
        ids[table.ids[: hot[number]]] = np.arange(hot[number])
        maps.append(ids)
    return maps, (hot + cold).tolist()


def tt_layouts(specs: Sequence[TableSpec], dim: int, tt_rank: int) -> list[TableLayout]:
    """Tables of more than 10,000 rows as tensor trains of three cores, the others whole."""
    return [
        TensorTrain.layout_of(
            spec.name, spec.num_embeddings, TtShape.balanced(spec.num_embeddings, dim, tt_rank)
        )
        if spec.num_embeddings > _TT_MIN_ROWS
        else TableLayout.dense(spec.name, spec.num_embeddings, dim)
        for spec in specs
    ]


def rounded_rows(rows: np.ndarray, bits: int) -> np.ndarray:
    """Rows [n, d] rounded to ``2^bits`` evenly spaced values between each row's smallest and largest entry.

    Step and smallest entry are rounded to float16, as they would be stored.
    """
    low = rows.min(axis=1, keepdims=True)
    step = ((rows.max(axis=1, keepdims=True) - low) / (2**bits - 1)).astype(np.float16).astype(np.float32)
    low = low.astype(np.float16).astype(np.float32)
    levels = np.rint((rows - low) / np.where(step > 0, step, 1))
    return low + step * np.clip(levels, 0, 2**bits - 1)


def quantised_ratio(dim: int, bits: int) -> float:
    """Bytes of a float32 row over those of its levels, step and smallest entry (float16)."""
    return 32 * dim / (bits * dim + 2 * 16)


class References:
    """The measured arms of one configuration in a directory.

    Args:
        config: what is measured.
        out: holds references.json and, while they are needed, checkpoints.
        console: for progress and the table.

    Raises:
        ValueError: ``out`` holds results of another configuration.
    """

    def __init__(self, config: ReferencesConfig, out: Path, console: Console) -> None:
        self.config, self.out, self.console = config, out, console
        self.results: dict[str, dict[str, Any]] = {}
        out.mkdir(parents=True, exist_ok=True)
        self._file = out / "references.json"
        if self._file.is_file():
            stored = json.loads(self._file.read_text())
            # Through JSON, which knows no tuples.
            if stored["config"] != json.loads(json.dumps(config.to_dict())):
                raise ValueError(
                    f"{self._file} is of another configuration; choose another --out or remove it"
                )
            self.results = stored["arms"]

    def run(self, arms: Sequence[Arm] = ARMS) -> None:
        """Measure the arms that are not yet in references.json."""
        for number, arm in enumerate(arms, start=1):
            if arm.key in self.results:
                continue
            began = time.perf_counter()
            with _progress(self.console, f"{number}/{len(arms)} {arm.title}") as bar:
                result = self._measure(arm, bar)
            seconds = round(time.perf_counter() - began, 1)
            self.results[arm.key] = {"title": arm.title, **result, "seconds": seconds}
            with replace_file(self._file) as temporary:
                contents = {"config": self.config.to_dict(), "arms": self.results}
                temporary.write_text(json.dumps(contents, indent=1) + "\n")
            self.console.print(
                f"{number}/{len(arms)} {arm.title}: AUC {result['auc']:.5f}, "
                f"ratio {_ratio(result)}, {seconds} s"
            )
            if arm != _FULL:  # whose rows the int arms round
                shutil.rmtree(self._checkpoint(arm), ignore_errors=True)
        shutil.rmtree(self.out / "checkpoints", ignore_errors=True)

    def _measure(self, arm: Arm, bar: _Bar) -> dict[str, Any]:
        log, dim = self.config.log(), self.config.model.embedding_dim
        rows = [spec.num_embeddings for spec in log.tables]
        if arm.kind == "bayes":
            return self._bayes(drawn=bool(arm.value))
        if arm.kind == "int":
            return self._rounded(arm.value, bar)
        if arm.kind in ("full", "full_fp32"):
            model = DLRM.build(self.config.model, log.tables, seed=arm.value)
            return {"ratio": 1.0, **self._train(arm, model, log, None, bar)}
        if arm.kind == "tt":
            layouts = tt_layouts(log.tables, dim, arm.value)
            model = DLRM.build(self.config.model, log.tables, layouts=layouts)
            ratio = 4 * dim * sum(rows) / sum(layout.dram_bytes for layout in layouts)
            return {"ratio": ratio, **self._train(arm, model, log, None, bar)}
        if arm.kind == "hot_cold":
            statistics = AccessStatistics.collect(log)
            maps, sizes = hot_cold_ids(statistics, arm.value)
        else:
            if arm.kind == "dense":
                sizes = [1] * len(rows)
            elif arm.kind == "hash":
                sizes = rows_per_field(rows, arm.value)
            else:
                sizes = rows_with_cap(rows, arm.value)
            maps = [hashed_ids(n, kept, t) for t, (n, kept) in enumerate(zip(rows, sizes, strict=True))]
        remapped = RemappedLog(log, maps, sizes)
        model = DLRM.build(self.config.model, remapped.tables)
        return {"ratio": sum(rows) / sum(sizes), **self._train(arm, model, remapped, (maps, sizes), bar)}

    def _bayes(self, *, drawn: bool) -> dict[str, Any]:
        labels, probabilities = [], []
        for batch, probability in self.config.held_out().batches_with_probability(65_536):
            labels.append(batch.labels)
            probabilities.append(probability)
        p = np.concatenate(probabilities)
        return {"ratio": None, "auc": area_under_curve(p, np.concatenate(labels)) if drawn else bayes_auc(p)}

    def _rounded(self, bits: int, bar: _Bar) -> dict[str, Any]:
        if _FULL.key not in self.results or not self._checkpoint(_FULL).is_dir():
            full = DLRM.build(self.config.model, self.config.log().tables, seed=_FULL.value)
            self._train(_FULL, full, self.config.log(), None, bar)
        model = load_model(self._checkpoint(_FULL))
        with torch.no_grad():
            weight = model.tables.weight
            weight.copy_(torch.from_numpy(rounded_rows(weight.numpy(), bits)))
        ratio = quantised_ratio(self.config.model.embedding_dim, bits)
        metrics = evaluate(model, self.config.held_out())
        return {"ratio": ratio, "auc": metrics.auc, "log_loss": metrics.log_loss}

    def _train(
        self,
        arm: Arm,
        model: DLRM,
        log: ClickLog,
        remap: tuple[Sequence[np.ndarray], Sequence[int]] | None,
        bar: _Bar,
    ) -> dict[str, Any]:
        held_out: ClickLog = self.config.held_out()
        if remap is not None:
            held_out = RemappedLog(held_out, *remap)
        training = TrainingConfig(
            num_threads=len(os.sched_getaffinity(0)),
            bf16_matmul=self.config.bf16_matmul and arm.kind != "full_fp32",
        )
        report = train(
            model,
            log,
            training,
            out=self._checkpoint(arm),
            evaluation=held_out,
            progress=lambda state: bar(state.samples, state.total_samples),
        )
        if report.interrupted or report.evaluation is None:
            raise KeyboardInterrupt
        return {"auc": report.evaluation.auc, "log_loss": report.evaluation.log_loss}

    def _checkpoint(self, arm: Arm) -> Path:
        return self.out / "checkpoints" / arm.key

    def rows(self) -> list[tuple[Arm, dict[str, Any]]]:
        """Measured arms and their results, in the order of the table."""
        order = sorted(ARMS, key=lambda a: (_KINDS.index(a.kind), -a.value if a.kind == "int" else a.value))
        return [(arm, self.results[arm.key]) for arm in order if arm.key in self.results]

    def lines(self) -> list[tuple[str, str, str, str]]:
        """Method, real ratio, AUC and its difference to the full tables in points, as text."""
        full = self.results.get(_FULL.key, {}).get("auc", math.nan)
        return [
            (
                arm.title,
                _ratio(result),
                f"{result['auc']:.5f}",
                f"{round(100 * (result['auc'] - full), 2) + 0.0:+.2f}" if arm != _FULL else "",
            )
            for arm, result in self.rows()
        ]

    def markdown(self) -> str:
        """The table for docs/guide/recipe-g.md."""
        head = ["| method | real ratio | AUC | against full (points) |", "|---|---|---|---|"]
        return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in self.lines())]) + "\n"

    def plot(self, path: Path) -> None:
        """Draw AUC over the real ratio, one line per method."""
        import matplotlib
        from matplotlib.figure import Figure

        titles = {
            "int": ("bits per row, after training", "s"),
            "tt": ("tensor train, tables > 10k rows", "D"),
            "hot_cold": ("hot + cold rows per field", "o"),
            "cap": ("hash, equal row cap", "^"),
            "hash": ("hash per field", "v"),
        }
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.add_subplot()
        for kind, (title, marker) in titles.items():
            points = sorted((r["ratio"], r["auc"]) for arm, r in self.rows() if arm.kind == kind)
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, markersize=5, label=title)
        for arm, title in (
            (Arm("bayes", 0), "best possible"),
            (_FULL, "full tables"),
            (Arm("dense"), "dense features only"),
        ):
            if arm.key in self.results:
                auc = self.results[arm.key]["auc"]
                axes.axhline(auc, color="0.45", linewidth=0.9, linestyle="--")
                axes.annotate(
                    f"{title} {auc:.4f}",
                    (1, auc),
                    xycoords=("axes fraction", "data"),
                    xytext=(-4, 3),
                    textcoords="offset points",
                    ha="right",
                    fontsize=8,
                    color="0.3",
                )
        axes.set_xscale("log")
        axes.set_xlabel("bytes of full tables / bytes stored")
        axes.set_ylabel("AUC on held-out samples")
        axes.grid(alpha=0.25)
        handles, _ = axes.get_legend_handles_labels()
        if handles:
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0.0, 0.92))
        with matplotlib.rc_context({"svg.hashsalt": "references"}):  # the same results, the same file
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


_FULL = Arm("full", 0)


def _ratio(result: dict[str, Any]) -> str:
    ratio = result["ratio"]
    if ratio is None:
        return "-"
    return f"{ratio:,.1f}" if ratio < 20 else f"{ratio:,.0f}"


@contextmanager
def _progress(console: Console, title: str) -> Iterator[_Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total=None: bars.update(task, completed=done, total=total)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("run/references"), help="directory for everything")
    parser.add_argument("--fp32", action="store_true", help="multiply matrices in float32 in every arm")
    arguments = parser.parse_args()
    console = Console()
    try:
        references = References(ReferencesConfig(bf16_matmul=not arguments.fp32), arguments.out, console)
        references.run()
    except KeyboardInterrupt:
        print("interrupted; give the same command to go on", file=sys.stderr)
        return 130
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    table = Table("method", "real ratio", "AUC", "against full (points)", title="held-out samples")
    for line in references.lines():
        table.add_row(*line)
    console.print(table)
    (arguments.out / "references.md").write_text(references.markdown())
    references.plot(arguments.out / "references.svg")
    console.print(f"written: {arguments.out}/references.json, references.md, references.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
