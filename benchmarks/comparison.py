"""Arms side by side: checked against a float64 oracle, then timed in turn at every point of a job.

A job's report is made here: timings, ratios (peer's time / ours, above 1 = ours is faster) and fractions of
the machine's limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.interleave import Timing, measure
from benchmarks.limits import Limits
from benchmarks.ours import Form
from benchmarks.workload import SKEWS, Layers, Skew, Workload
from screc.data import Batch
from screc.serving import Engine

CHECK_SAMPLES = 256
# Largest root mean square of (answer - oracle), as a share of the answers' standard deviation, by what is
# rounded; two to three times what a right answer has. Wrong rows or weights give about 1.
_TOLERANCE = {"fp32": 2e-5, "bf16": 0.08, "int8": 0.25}
_ROW_TOLERANCE = {"fp32": 0.0, "bf16": 0.02, "int8": 0.02, "int4": 0.25}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One alternative that is timed.

    Attributes:
        name: for keys, e.g. ``tbe_int8``.
        inputs: a batch in the form that ``predict`` takes; not timed.
        predict: probabilities [B]; timed.
        row_format, precision: of the rows and of the MLPs: how near the answers must be.
        families: names of the ratios that this arm is a candidate for, e.g. ``("tbe",)``.
        form: of our own arms, else None.
        smallest_batch: the arm is left out below it.
    """

    name: str
    inputs: Callable[[Batch], Any]
    predict: Callable[[Any], Any]
    row_format: str = "fp32"
    precision: str = "fp32"
    families: tuple[str, ...] = ()
    form: Form | None = None
    smallest_batch: int = 1


def our_arm(form: Form, engine: Engine) -> Arm:
    """The engine as an arm; it takes batches as they are."""
    return Arm(
        name=form.name,
        inputs=_as_it_is,
        predict=engine.predict,
        row_format=form.row_format,
        precision=form.precision,
        form=form,
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch


@dataclass(frozen=True, slots=True)
class Point:
    """One place where all arms are timed."""

    skew: Skew
    size: int

    def key(self, job: str) -> str:
        """E.g. ``kaggle.zipf.b16``."""
        return f"{job}.{self.skew}.b{self.size}"


def check_batches(workload: Workload, seed: int = 7) -> list[Batch]:
    """Batches for :func:`check`: random ones of both skews, and one whose samples differ in their rows only.

    The last is there since dense features move the answers so much that wrong rows could go unnoticed.
    """
    generator = np.random.default_rng(seed)
    batches = [workload.batch(generator, CHECK_SAMPLES, skew) for skew in SKEWS]
    same = workload.batch(generator, CHECK_SAMPLES, "zipf")
    same.dense[:] = same.dense[0]
    return [*batches, same]


def oracle(
    workload: Workload, tables: Iterable[np.ndarray], bottom: Layers, top: Layers, batches: Sequence[Batch]
) -> list[np.ndarray]:
    """Probabilities of the batches in NumPy and float64; tables are read once each, in order."""
    pooled: list[list[np.ndarray]] = [[] for _ in batches]
    for table, rows in enumerate(tables):
        for batch, parts in zip(batches, pooled, strict=True):
            picked = rows[batch.table_ids(table)].astype(np.float64)
            parts.append(picked.reshape(batch.batch_size, workload.pooling, -1).sum(axis=1))
    answers = []
    i, j = np.tril_indices(len(workload.rows) + 1, -1)
    for batch, parts in zip(batches, pooled, strict=True):
        x = batch.dense.astype(np.float64)
        for weight, bias in bottom:
            x = np.maximum(x @ weight.T.astype(np.float64) + bias, 0)
        features = np.stack([x, *parts], axis=1)
        products = features @ features.transpose(0, 2, 1)
        hidden = np.concatenate([x, products[:, i, j]], axis=1)
        for number, (weight, bias) in enumerate(top):
            hidden = hidden @ weight.T.astype(np.float64) + bias
            if number < len(top) - 1:
                hidden = np.maximum(hidden, 0)
        answers.append(1 / (1 + np.exp(-hidden[:, 0])))
    return answers


def check(arms: Iterable[Arm], batches: Sequence[Batch], answers: Sequence[np.ndarray]) -> dict[str, float]:
    """Compare every arm with the oracle.

    Returns:
        The largest relative error of each arm: root mean square / standard deviation of the answers.

    Raises:
        RuntimeError: an arm's answers are not those of the model; nothing is worth timing then.
    """
    errors = {}
    for arm in arms:
        allowed = _TOLERANCE[arm.precision] + _ROW_TOLERANCE[arm.row_format]
        worst = 0.0
        for batch, right in zip(batches, answers, strict=True):
            answer = np.asarray(arm.predict(arm.inputs(batch)), dtype=np.float64)
            worst = max(worst, float(np.sqrt(((answer - right) ** 2).mean()) / right.std()))
        if not worst <= allowed:
            raise RuntimeError(f"{arm.name}: predictions differ by {worst:.2e}, allowed {allowed:.2e}")
        errors[arm.name] = worst
    return errors


def time_points(
    workload: Workload,
    arms: Sequence[Arm],
    points: Sequence[Point],
    *,
    rounds: int,
    seconds_per_round: float,
    seed: int = 2,
) -> dict[Point, dict[str, Timing]]:
    """Time all arms at every point, on the same batches taken in turn."""
    timings = {}
    for point in points:
        generator = np.random.default_rng([seed, SKEWS.index(point.skew), point.size])
        batches = workload.batches(generator, point.size, point.skew)
        prepared: dict[Callable, list] = {}  # arms of one family share their inputs
        calls = {}
        for arm in arms:
            if point.size >= arm.smallest_batch:
                if arm.inputs not in prepared:
                    prepared[arm.inputs] = [arm.inputs(batch) for batch in batches]
                calls[arm.name] = _in_turn(arm.predict, prepared[arm.inputs])
        timings[point] = measure(calls, rounds=rounds, seconds_per_round=seconds_per_round)
    return timings


def _in_turn(predict: Callable[[Any], Any], inputs: Sequence[Any]) -> Callable[[], object]:
    turn = 0

    def call() -> object:
        nonlocal turn
        turn += 1
        return predict(inputs[turn % len(inputs)])

    return call


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where we stand at one point.

    Attributes:
        ours: name of our fastest eligible arm.
        ratios: family -> (name of its fastest arm, its time / ours); all peers are of "best_peer".
    """

    ours: str
    ratios: dict[str, tuple[str, float]]

    def merge(self, other: Standing) -> Standing:
        """Both groups' families; where both have one, the one that is nearer to us.

        Ratios of different groups can be joined because each is of times that were taken in turn with ours.
        """
        joined = dict(self.ratios)
        for family, (name, ratio) in other.ratios.items():
            if family not in joined or ratio < joined[family][1]:
                joined[family] = (name, ratio)
        return Standing(ours=self.ours, ratios=joined)


def stand(arms: Sequence[Arm], timing: Mapping[str, Timing], eligible: Iterable[Form]) -> Standing:
    """Our fastest eligible form against the fastest arm of each family and against the fastest peer."""
    forms = set(eligible)
    timed = [arm for arm in arms if arm.name in timing]
    ours = min((arm.name for arm in timed if arm.form in forms), key=lambda name: timing[name].median)
    ratios: dict[str, tuple[str, float]] = {}
    for arm in timed:
        if arm.form is None:
            ratio = timing[arm.name].median / timing[ours].median
            families = dict.fromkeys((*arm.families, "best_peer"), (arm.name, ratio))
            ratios = Standing(ours=ours, ratios=ratios).merge(Standing(ours=ours, ratios=families)).ratios
    return Standing(ours=ours, ratios=ratios)


def print_standings(console: Console, standings: Mapping[Point, Standing], families: Sequence[str]) -> None:
    """For each point our arm and its ratios."""
    view = Table("ids", "B", "ours", *(f"vs {family}" for family in families), "best peer")
    for point, standing in standings.items():
        cells = [f"{standing.ratios[f][1]:.2f}x" if f in standing.ratios else "-" for f in families]
        best = standing.ratios.get("best_peer", ("-",))[0]
        view.add_row(point.skew, str(point.size), standing.ours, *cells, best)
    console.print(view)


def results_of(
    job: str,
    workload: Workload,
    arms: Sequence[Arm],
    timings: Mapping[Point, Mapping[str, Timing]],
    limits: Limits | None,
) -> dict[str, dict[str, Any]]:
    """The report's entries: for each point and arm its times, and for ours the limits."""
    forms = {arm.name: arm.form for arm in arms}
    results: dict[str, dict[str, Any]] = {}
    for point, timing in timings.items():
        entries = results[point.key(job)] = {}
        for name, value in timing.items():
            entries[name] = timing_entry(value, point.size)
            form = forms[name]
            if form is not None and limits is not None:
                entries[name] |= limit_entry(limits, workload, point, form, point.size / value.median)
    return results


def ratios_of(job: str, standings: Mapping[Point, Standing]) -> dict[str, float]:
    """The report's flat map, e.g. ``kaggle.zipf.b1.vs_eager_fp32``."""
    return {
        f"{point.key(job)}.vs_{family}": round(ratio, 3)
        for point, standing in standings.items()
        for family, (_, ratio) in standing.ratios.items()
    }


def timing_entry(timing: Timing, batch_size: int) -> dict[str, object]:
    """A timing for the report: milliseconds per call and samples per second."""
    return {
        "median_ms": timing.median * 1e3,
        "rounds_ms": [seconds * 1e3 for seconds in timing.rounds],
        "fastest_ms": timing.fastest * 1e3,
        "spread": timing.spread,
        "calls": timing.calls,
        "samples_per_s": batch_size / timing.median,
    }


def limit_entry(
    limits: Limits, workload: Workload, point: Point, form: Form, samples_per_s: float
) -> dict[str, float | None]:
    """The two limits in samples/s for one of our forms, and how near it comes to the lower one.

    The limit by bytes is None where a cache of this machine's size could hold all rows.
    """
    read, compute = limits.seconds_per_sample(
        workload, point.skew, form.row_bytes(workload.embedding_dim), form.precision
    )
    best = 1 / max(read, compute)
    return {
        "bytes_limit_samples_per_s": 1 / read if read else None,
        "operations_limit_samples_per_s": 1 / compute,
        "best_possible_samples_per_s": best,
        "achieved_fraction": samples_per_s / best,
    }


def wide_console() -> Console:
    """A console that does not cut the tables of a job where the output is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def print_times(console: Console, title: str, timings: Mapping[Point, Mapping[str, Timing]]) -> None:
    """Median milliseconds per call: for each skew a table with a row for each arm."""
    for skew in dict.fromkeys(point.skew for point in timings):
        own = {point: timing for point, timing in timings.items() if point.skew == skew}
        names = list(dict.fromkeys(name for timing in own.values() for name in timing))
        view = Table("ms per call", *(f"B={point.size}" for point in own), title=f"{title}, {skew} ids")
        for name in names:
            cells = [f"{timing[name].median * 1e3:.3f}" if name in timing else "-" for timing in own.values()]
            view.add_row(name, *cells)
        console.print(view)


def print_limits(console: Console, results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Our fastest arm in each entry of the results: both limits, and the achieved fraction of the lower."""
    view = Table(
        *("point", "ours", "samples/s", "bytes limit", "operations limit", "achieved"),
        title="limits, in samples/s (rows that an ideal cache would hold cost no bytes)",
    )
    for key, entries in results.items():
        ours = {name: entry for name, entry in entries.items() if "achieved_fraction" in entry}
        if ours:
            name, entry = max(ours.items(), key=lambda item: item[1]["samples_per_s"])
            read = entry["bytes_limit_samples_per_s"]
            view.add_row(
                *(key, name, f"{entry['samples_per_s']:,.0f}"),
                "-" if read is None else f"{read:,.0f}",
                f"{entry['operations_limit_samples_per_s']:,.0f}",
                f"{entry['achieved_fraction']:.0%}",
            )
    console.print(view)
