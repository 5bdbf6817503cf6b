"""Look-up strategies of small tables: which there are, and what each costs here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from screc import _native

#: The strategies of the asymmetric data flow for embedding look-ups (arXiv 2507.01676) in the terms of a
#: CPU; native/store/strategy.h says what each does. Answers are the same to the bit, but for those of
#: ``counts`` in bags of several look-ups, where each row's look-ups are added as one product.
STRATEGIES = ("gather", "private", "stream", "private_stream", "counts")

#: Tables of more bytes are not timed: only ``gather`` would do.
MAX_TIMED_BYTES = 2**20
# What another strategy must save over ``gather`` to be taken: less is within what a measurement tells.
_WORTH = 0.05
_SAMPLES = 1024
_ROUNDS, _CALLS = 8, 6


def lookup_ns(rows: np.ndarray, *, pooling: int = 1, threads: int = 0) -> dict[str, float]:
    """Wall-clock ns per look-up of a table alone by every strategy it can have, all threads together.

    The fastest of a few dozen calls of uniform ids, a thousand bags for each thread; strategies take turns.

    Args:
        rows: float32 [num_embeddings, dim], C-contiguous.
        pooling: look-ups in each bag.
        threads: threads that share each call; 0 means one per available core.
    """
    store = _native.RowStore(threads=threads)
    store.add_table(*rows.shape)
    store.add_dram_band(0, rows, None)
    samples = _SAMPLES * store.stats().num_threads
    ids = np.random.default_rng(0).integers(0, len(rows), samples * pooling)
    offsets = np.arange(samples + 1) * pooling
    out = np.empty((samples, rows.shape[1]), np.float32)
    fastest: dict[str, float] = {}
    for _ in range(_ROUNDS):
        for strategy in STRATEGIES:
            try:
                store.set_strategy(0, strategy)
            except ValueError:  # too large for it
                continue
            for _ in range(_CALLS):
                begun = time.perf_counter()
                store.lookup(ids, offsets, samples, out)
                taken = time.perf_counter() - begun
                fastest[strategy] = min(fastest.get(strategy, taken), taken)
    return {strategy: 1e9 * taken / max(len(ids), 1) for strategy, taken in fastest.items()}


def fastest_strategy(nanoseconds: Mapping[str, float]) -> str:
    """The strategy to take given what each costs: ``gather`` unless another saves at least 5 %."""
    best = min(nanoseconds, key=lambda strategy: nanoseconds[strategy])
    return best if nanoseconds[best] < (1 - _WORTH) * nanoseconds["gather"] else "gather"


def measured_strategy(rows: np.ndarray, *, threads: int = 0) -> str:
    """The strategy that is fastest for a table's single look-ups on this host; some milliseconds."""
    if rows.nbytes > MAX_TIMED_BYTES or rows.dtype != np.float32:
        return "gather"
    return fastest_strategy(lookup_ns(rows, threads=threads))


def set_strategies(
    native: Any,
    strategies: str | Mapping[str, str],
    names: tuple[str, ...],
    single: Mapping[int, np.ndarray],
    *,
    threads: int,
) -> None:
    """Give the tables of a native store their strategies.

    Args:
        native: the store, its tables complete.
        strategies: ``"measured"``; one strategy, for all tables that can have it; or one by table name.
        names: of the tables, in order.
        single: by number, the rows of each table whose only band is in DRAM.
        threads: that the store has.

    Raises:
        KeyError: a name is no table's.
        ValueError: an unknown strategy, or one that the named table cannot have.
    """
    if isinstance(strategies, Mapping):
        for name, strategy in strategies.items():
            if name not in names:
                raise KeyError(f"strategies: no table '{name}'; there are {', '.join(names)}")
            native.set_strategy(names.index(name), strategy)
        return
    if strategies not in (*STRATEGIES, "measured"):
        raise ValueError(f"strategies: {strategies!r} is unknown; use measured, {', '.join(STRATEGIES)}")
    if strategies == "gather":
        return
    for number, rows in single.items():
        if strategies == "measured":
            native.set_strategy(number, measured_strategy(rows, threads=threads))
            continue
        try:
            native.set_strategy(number, strategies)
        except ValueError:
            continue  # too large for it: gathered
