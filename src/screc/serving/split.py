"""Into how large parts a request is cut: the hill climb of DeepRecSys (arXiv 2001.02772), its DeepRecSched.

Small parts let several cores work on one request, large parts let each core work with wide loops; which is
better depends on the model, the machine and what latency is promised. For each size, from the largest down,
the highest load is looked for at which the 95th percentile of latencies keeps the promise; the climb ends
where it falls.
"""

from __future__ import annotations

import select
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from screc import _native
from screc.data.batch import Batch
from screc.serving.batching import BatchingConfig, make_batcher
from screc.serving.engine import Engine
from screc.serving.signature import Signature

SPLITS = (512, 384, 256, 192, 128, 96, 64, 48, 32)
_PERCENTILE = 95
# Below the promise by less than this, the load stays as it is.
_SLACK = 0.10
_STEPS = 50
_WINDOW = 64  # queries


@dataclass(frozen=True, kw_only=True)
class SplitTrial:
    """One size of parts.

    Attributes:
        split: samples of a part at most.
        queries_per_s: the highest load that keeps the promise.
    """

    split: int
    queries_per_s: float


@dataclass(frozen=True, kw_only=True)
class SplitChoice:
    """What the climb found.

    Attributes:
        split: the best size.
        trials: all that were tried, in order.
    """

    split: int
    trials: tuple[SplitTrial, ...]


def climb(splits: Sequence[int], load_of: Callable[[int], float]) -> SplitChoice:
    """Tries sizes in order until one is worse than the one before it; the best is chosen.

    Args:
        splits: in the order in which they are tried.
        load_of: the highest load of a size, in queries per second.

    Raises:
        ValueError: there are no sizes.
    """
    trials: list[SplitTrial] = []
    for split in splits:
        trials.append(SplitTrial(split=split, queries_per_s=load_of(split)))
        if len(trials) > 1 and trials[-1].queries_per_s < trials[-2].queries_per_s:
            break
    if not trials:
        raise ValueError("splits: is empty; give at least one size")
    best = max(trials, key=lambda trial: trial.queries_per_s)
    return SplitChoice(split=best.split, trials=tuple(trials))


def highest_load(
    latency_of: Callable[[float], float], sla_s: float, first_gap_s: float, *, updates: int = 128
) -> float:
    """The load at which a latency settles just below a limit.

    After every window of queries the mean gap between them goes one of 50 steps up where the window's
    latency was over the limit, down where it was well below. The median of the later half is the answer.

    Args:
        latency_of: the 95th percentile, in seconds, of a window of queries that come with this mean gap.
        sla_s: the limit.
        first_gap_s: where to begin; gaps from a quarter of it to 20 times it are tried.
        updates: windows.

    Returns:
        Queries per second.
    """
    gaps = np.geomspace(first_gap_s / 4, first_gap_s * 20, _STEPS)
    place = int(np.searchsorted(gaps, first_gap_s))
    tried: list[float] = []
    for _ in range(updates):
        tried.append(float(gaps[place]))
        latency = latency_of(tried[-1])
        if latency > sla_s:
            place = min(place + 1, _STEPS - 1)
        elif latency < sla_s / (1 + _SLACK):
            place = max(place - 1, 0)
    return 1 / statistics.median(tried[updates // 2 :])


def random_queries(signature: Signature, count: int, *, seed: int = 0) -> list[Batch]:
    """Queries of DeepRecSys's sizes (log-normal, median 164, at most 1024) with uniform ids, one a table.

    That is what is asked of a model of which nothing else is known: uniform ids miss every cache, so nothing
    is promised that real ones would not keep.
    """
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(5.1, 0.2, count).astype(np.int64), 1, 1024)
    batches = []
    for size in sizes:
        ids = [rng.integers(0, table.num_embeddings, size) for table in signature.tables]
        batches.append(
            Batch(
                dense=rng.standard_normal((size, signature.num_dense), dtype=np.float32),
                ids=np.concatenate(ids) if ids else np.empty(0, np.int64),
                offsets=np.arange(len(ids) * size + 1, dtype=np.int64),
            )
        )
    return batches


def choose_split(
    engine: Engine,
    config: BatchingConfig,
    *,
    sla_s: float,
    queries: Sequence[Batch] | None = None,
    splits: Sequence[int] = SPLITS,
    updates: int = 128,
    seed: int = 0,
) -> SplitChoice:
    """Measures sizes of parts on this machine and takes the best: some seconds for each.

    Args:
        engine: nobody else should use it meanwhile.
        config: of the batcher, whose split is chosen here.
        sla_s: what the 95th percentile of latencies keeps to.
        queries: what is asked, in turn; by default :func:`random_queries`.
        splits: sizes to try, in order.
        updates: windows of 64 queries for each size.
        seed: of arrivals and of the default queries.

    Raises:
        ValueError: the limit is not positive, or there are no sizes.
    """
    if not sla_s > 0:
        raise ValueError(f"sla: must be a positive time, got {sla_s} s")
    signature = Signature(engine.tables, engine.num_dense)
    asked = random_queries(signature, 256, seed=seed) if queries is None else list(queries)
    for batch in asked[:32]:
        engine.predict(batch)
    begin = time.perf_counter()
    for batch in asked[:64]:
        engine.predict(batch)
    gap = (time.perf_counter() - begin) / min(64, len(asked))

    def load_of(split: int) -> float:
        batcher = make_batcher(engine, replace(config, split=split))
        load = _Load(batcher, signature, asked, sla_s, seed)
        try:
            return highest_load(load.latency_of, sla_s, gap / 0.7, updates=updates)
        finally:
            load.finish()

    return climb(splits, load_of)


class _Load:
    """An open loop of queries with exponential gaps, straight on a batcher."""

    def __init__(
        self,
        batcher: _native.Batcher,
        signature: Signature,
        queries: Sequence[Batch],
        sla_s: float,
        seed: int,
    ) -> None:
        self._batcher, self._queries, self._sla_s = batcher, queries, sla_s
        self._form = signature.query(
            {"dense": queries[0].dense, "ids": queries[0].ids, "offsets": queries[0].offsets}
            if signature.num_dense
            else {"ids": queries[0].ids, "offsets": queries[0].offsets},
            {},
        ).form
        self._rng = np.random.default_rng(seed)
        self._number = 0
        self._in_flight: dict[int, tuple[float, np.ndarray]] = {}
        self._due = time.perf_counter()

    def latency_of(self, gap_s: float) -> float:
        """The 95th percentile of the next 64 queries that end, counted from when they were due."""
        latencies: list[float] = []
        while len(latencies) < _WINDOW:
            now = time.perf_counter()
            if now >= self._due:
                self._submit(now - self._due, latencies)
                self._due += self._rng.exponential(gap_s)
                continue
            if select.select([self._batcher.descriptor], [], [], self._due - now)[0]:
                self._collect(latencies)
        return float(np.percentile(latencies, _PERCENTILE, method="higher"))

    def _submit(self, late_s: float, latencies: list[float]) -> None:
        batch = self._queries[self._number % len(self._queries)]
        self._number += 1
        out = np.empty(batch.batch_size, np.float32)
        # One that cannot be in time any more is given up, so that no backlog outlives its window.
        admission = self._batcher.submit(
            self._form, out, 4 * self._sla_s, dense=batch.dense, ids=batch.ids, offsets=batch.offsets
        )
        if admission.verdict == "accepted":
            self._in_flight[admission.ticket] = (late_s, out)
        else:
            latencies.append(float("inf"))

    def _collect(self, latencies: list[float]) -> None:
        for completion in self._batcher.take():
            late_s, _ = self._in_flight.pop(completion.ticket)
            done = completion.outcome == "done"
            latencies.append(late_s + completion.request_seconds if done else float("inf"))

    def finish(self) -> None:
        """Lets what is in flight end."""
        self._batcher.drain(60.0)
        self._batcher.stop()
        self._in_flight.clear()
