"""Predicted misses of a row cache against a simulation of its policy."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from planning_samples import zipf_table

from screc.planning.row_cache import ColdBand, missed_rows

BATCH, ROW_BYTES = 64, 16
TABLES = [
    zipf_table(f"t{number}", rows, samples=40_000, seed=number) for number, rows in enumerate((3000, 800, 20))
]
STARTS = (100, 0, 5)


def bands(starts: tuple[int, ...] = STARTS) -> list[ColdBand]:
    return [
        ColdBand(table.curve, BATCH * table.mean_pooling, start, table.num_embeddings, ROW_BYTES)
        for table, start in zip(TABLES, starts, strict=True)
    ]


def batches(count: int, seed: int = 0):
    """Different (table, rank) on SSD that each batch asks for, drawn from the tables' curves."""
    generator = np.random.default_rng(seed)
    shares = [np.append(table.counts, np.zeros(table.num_embeddings - table.num_seen)) for table in TABLES]
    for _ in range(count):
        wanted = set()
        for number, share in enumerate(shares):
            ranks = generator.choice(len(share), BATCH, p=share / share.sum())
            wanted |= {(number, int(rank)) for rank in ranks if rank >= STARTS[number]}
        yield sorted(wanted)


def simulated_lru(entries: int, warm: int = 300, counted: int = 400) -> np.ndarray:
    """Misses of each table per batch."""
    held: OrderedDict[tuple[int, int], None] = OrderedDict()
    misses = np.zeros(len(TABLES))
    for number, wanted in enumerate(batches(warm + counted)):
        missed = [row for row in wanted if row not in held]
        for row in wanted:
            if row in held:
                held.move_to_end(row)
        for row in missed:
            if len(held) == entries:
                held.popitem(last=False)
            held[row] = None
            if number >= warm:
                misses[row[0]] += 1
    return misses / counted


@pytest.mark.parametrize("entries", [150, 400, 1500])
def test_lru_misses_are_those_of_a_simulation(entries: int) -> None:
    predicted = missed_rows(bands(), entries * (ROW_BYTES + 22), "lru")
    measured = simulated_lru(entries)
    assert sum(predicted) == pytest.approx(measured.sum(), rel=0.03)
    assert predicted[0] == pytest.approx(measured[0], rel=0.04)
    assert predicted[1] == pytest.approx(measured[1], rel=0.06)


@pytest.mark.parametrize("entries", [1, 30, 200, 1000])
def test_the_best_set_misses_what_is_outside_it(entries: int) -> None:
    predicted = missed_rows(bands(), entries * (ROW_BYTES + 16), "sketch")
    chance = {
        (number, rank): -np.expm1(-BATCH * table.mean_pooling * table.counts[rank] / table.num_lookups)
        for number, table in enumerate(TABLES)
        for rank in range(STARTS[number], table.num_seen)
    }
    outside = sorted(chance.values(), reverse=True)[entries:]
    assert sum(predicted) == pytest.approx(sum(outside))
    assert sum(predicted) <= sum(missed_rows(bands(), entries * (ROW_BYTES + 22), "lru"))


@pytest.mark.parametrize("policy", ["lru", "sketch"])
def test_ends_of_the_range(policy: str) -> None:
    wanted = [band.wanted() for band in bands()]
    assert missed_rows(bands(), 0, policy) == pytest.approx(wanted)
    assert missed_rows(bands(), 1 << 40, policy) == pytest.approx([0, 0, 0], abs=1e-12)
    assert missed_rows([], 100, policy) == []
    last = wanted
    for entries in (10, 100, 1000, 3000):
        found = missed_rows(bands(), entries * 40, policy)
        assert sum(found) <= sum(last)
        last = found


def test_rows_of_another_length_have_a_cache_of_their_own() -> None:
    own = bands()
    other = ColdBand(own[0].curve, own[0].lookups, 100, own[0].stop, 64)
    total = sum(band.num_rows * band.row_bytes for band in (*own, other))
    part = sum(band.num_rows * band.row_bytes for band in own)
    both = missed_rows([*own, other], 40_000, "lru")
    assert both[:3] == pytest.approx(missed_rows(own, round(40_000 * part / total), "lru"), rel=1e-3)
    alone = missed_rows([other], round(40_000 * (1 - part / total)), "lru")
    assert both[3] == pytest.approx(alone[0], rel=1e-3)
