"""Tensor trains: rows rebuilt from cores by the row store, as serving does."""

from __future__ import annotations

import numpy as np

from screc import _native
from screc.planning.rates.clock import Clock
from screc.planning.rates.rows import bags_of
from screc.planning.system import TtRate
from screc.storage.layout import TtShape

_TT_RANKS = (4, 8, 16, 32, 64)
_DIMS = (16, 64, 128)
_ROWS = 10_000_000
_LOOKUPS = 16_384
_PART = 0.006


def measure_trains(clock: Clock, threads: int) -> tuple[TtRate, ...]:
    """Single look-ups of uniform ids in a table of ten million rows: what a call's look-ups share is rebuilt
    once."""
    random = np.random.default_rng(0)
    rates = []
    for dim in _DIMS:
        for tt_rank in _TT_RANKS:
            shape = TtShape.balanced(_ROWS, dim, tt_rank)
            cores = [
                random.standard_normal(shape.core_shape(core), dtype=np.float32)
                for core in range(shape.num_cores)
            ]
            store = _native.RowStore(threads=threads)
            store.add_tt_band(store.add_table(shape.num_rows, dim), cores, None)
            run, lookups = bags_of(store, shape.num_rows, dim, _LOOKUPS, 1)
            seconds, spread = clock.time(f"tensor-train rows, TT rank {tt_rank}, dim {dim}", _PART, run)
            rates.append(
                TtRate(
                    tt_rank=tt_rank,
                    embedding_dim=dim,
                    flops_per_row=shape.flops_per_row,
                    ns=threads * 1e9 * seconds / lookups,
                    spread=spread,
                )
            )
    return tuple(rates)
