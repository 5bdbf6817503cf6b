"""The bands of the mixed method: what is worth most within a budget, and rows as few bits hold them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from screc.data.log import TableSpec
from screc.embeddings import BudgetError, Mixed, make_method
from screc.embeddings.mixed_bands import LOSS, Bands, Worth, _Table, plan_bands, scale_groups


def zipf(rows: int, seed: int = 0) -> np.ndarray:
    counts = (20_000 / np.arange(1, rows + 1) ** 1.1).astype(np.int64)
    return np.random.default_rng(seed).permutation(counts)


COUNTS = [zipf(5000), zipf(300), zipf(3), zipf(2000, 1) // 50]


def total(plan: list[Bands]) -> int:
    return sum(bands.total_bytes(16) for bands in plan)


def value(plan: list[Bands], worth: Worth) -> float:
    return sum(_Table(c, worth, 16).value(b) for c, b in zip(COUNTS, plan, strict=True))


def test_plans_fit_and_more_bytes_are_worth_more() -> None:
    full, worth, last = 64 * sum(map(len, COUNTS)), Worth(), -np.inf
    for ratio in (3000, 1000, 300, 100, 30, 10, 4):
        plan = plan_bands(COUNTS, 16, int(full / ratio))
        assert total(plan) <= full / ratio
        assert value(plan, worth) >= last
        last = value(plan, worth)
        for counts, bands in zip(COUNTS, plan, strict=True):
            assert bands.num_own + (bands.shared > 0) <= len(counts)
            assert bands.shared or bands.num_own == len(counts)


def test_no_simple_plan_of_its_size_is_worth_more() -> None:
    """Every cut of one table into 4-bit own rows and one shared row, and 4 or 2 bits for all, is beaten."""
    counts, worth = [COUNTS[0]], Worth()
    table = _Table(counts[0], worth, 16)
    for budget in (600, 3000, 20_000):
        plan = plan_bands(counts, 16, budget)
        simple = [
            Bands(num_embeddings=5000, own=((bits, rows),), shared=1)
            for bits, rows in itertools.product(LOSS, range(1, 4999, 7))
        ] + [Bands(num_embeddings=5000, shared=rows) for rows in range(1, 60)]
        best = max((table.value(one) for one in simple if one.total_bytes(16) <= budget), default=0.0)
        assert table.value(plan[0]) >= 0.97 * best


def test_the_hottest_have_most_bits() -> None:
    plan = plan_bands(COUNTS, 16, int(64 * sum(map(len, COUNTS)) / 100))
    for bands in plan:
        bits = [one for one, _ in bands.own]
        assert bits == sorted(bits, reverse=True)
    assert plan[2].num_own == 3  # a small table stays whole
    assert plan[2].own[0][0] == 8


def test_rows_seen_once_are_shared_however_many_bytes_there_are() -> None:
    counts = [np.array([100, 50, 1, 1, 0, 0, 1, 0] * 50)]
    (bands,) = plan_bands(counts, 16, 10**9)
    assert bands.num_own == 100
    assert bands.shared >= 1


def test_the_smallest_plan_and_bad_arguments() -> None:
    with pytest.raises(BudgetError, match="smallest budget that works is") as caught:
        plan_bands(COUNTS, 16, 10)
    plan = plan_bands(COUNTS, 16, caught.value.smallest_bytes)
    assert total(plan) == caught.value.smallest_bytes
    with pytest.raises(ValueError, match="formats must be of 8, 4, 3, 2 bits, got"):
        plan_bands(COUNTS, 16, 10_000, formats=[5])
    with pytest.raises(ValueError, match="half_learned and seldom must not be negative"):
        Worth(seldom=-1)


def test_groups_of_a_scale() -> None:
    assert scale_groups(0) == []
    assert scale_groups(64) == [64]
    assert scale_groups(1000) == [64, 256, 680]


@torch.no_grad()
def test_rows_are_what_few_bits_hold() -> None:
    """Every looked-up row is a small whole number (or a half more) of steps, within the codes of its bits."""
    specs = [TableSpec(f"t{i}", len(c)) for i, c in enumerate(COUNTS)]
    method = make_method("mixed", specs, 16, ratio=60, counts=COUNTS, seed=1)
    assert isinstance(method, Mixed)
    method.finish()
    for table, (bands, counts) in enumerate(zip(method.bands, COUNTS, strict=True)):
        rows = method.every_row(table).detach()
        hottest = np.argsort(-counts, kind="stable")
        first = 0
        for bits, count in bands.own:
            for size in scale_groups(count):
                own = rows[torch.from_numpy(hottest[first : first + size].copy())]
                assert len(own.unique()) <= 2**bits
                first += size
        cold = rows[torch.from_numpy(hottest[first:].copy())]
        assert len(cold.unique(dim=0)) <= max(1, bands.shared)


def test_of_many_bits_the_rows_are_nearly_themselves() -> None:
    specs = [TableSpec("t", 300)]
    method = make_method("mixed", specs, 16, budget=10**6, counts=[zipf(300) + 5], seed=1)
    assert isinstance(method, Mixed)
    method.finish()
    order = torch.from_numpy(np.argsort(-(zipf(300) + 5), kind="stable").copy())
    rows = method.every_row(0).detach()[order]
    assert (rows - method.weight.detach()).abs().amax() <= method.scales.amax() / 2 + 1e-6
