"""What bands cost: against plain sums over rows, random batches and the layouts' own bytes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from planning_samples import made_up_sensitivity, zipf_table

from screc.planning import reference_system
from screc.planning.caches import Traffic, calls_per_batch
from screc.planning.costs import Placement, Rates, TableCosts, tt_sizes
from screc.planning.system import BagRate
from screc.statistics import AccessStatistics, TableStatistics
from screc.storage.layout import PageGeometry, TableLayout, TtShape, index_kind
from screc.storage.row_format import row_bytes

BARE = reference_system()
SYSTEM = BARE.model_copy(
    update={
        "bags": (BagRate(embedding_dim=16, ns=0.5), BagRate(embedding_dim=64, ns=4.0)),
        "ssd": BARE.ssd.model_copy(update={"adjacent": 0.4}),
    }
)
PLACEMENTS = (
    Placement("fp32", "dram"),
    Placement("fp16", "dram"),
    Placement("int8", "dram"),
    Placement("int4", "dram", scale="table"),
    Placement("fp32", "ssd"),
    Placement("int8", "ssd", scale="table"),
    Placement("tt", "dram", 4),
    Placement("fp32", "llc"),
    Placement("tt", "llc", 2),
)


def costs_of(table: TableStatistics, *, dim: int = 16, batch_size: int = 256, **options) -> TableCosts:
    return TableCosts(
        statistics=table,
        embedding_dim=dim,
        rates=Rates(SYSTEM),
        batch_size=batch_size,
        **{"index_part": 1e3, **options},
    )


def smoothed(table: TableStatistics) -> np.ndarray:
    """Probability of every rank."""
    rows, seen, unseen = table.num_embeddings, table.num_seen, table.unseen_share
    result = np.zeros(rows)
    if seen:
        result[:seen] = table.counts / table.num_lookups - unseen / seen
    if seen < rows:
        result[seen:] = unseen / (rows - seen)
    return result


def random_layout(model: TableCosts, random: np.random.Generator) -> TableLayout:
    """Up to five bands of any placement that has enough rows for it."""
    rows = model.num_embeddings
    cuts = np.unique(random.integers(1, rows, random.integers(0, 5))) if rows > 1 else np.zeros(0, int)
    edges = [0, *cuts.tolist(), rows]
    bands = []
    for start, stop in itertools.pairwise(edges):
        ends = np.array([start]), np.array([stop])
        fitting = [p for p in PLACEMENTS if model.possible(p, *ends)[0]]
        bands.append((fitting[random.integers(len(fitting))], start, stop))
    return model.layout(bands)


@pytest.mark.parametrize(("rows", "dim"), [(1, 16), (2, 8), (40, 16), (3000, 64), (700, 1200)])
@pytest.mark.parametrize(("parts", "calls"), [(1, 1), (3, 1), (1, 4)])
def test_costs_equal_sums_over_rows_and_the_layouts_own_bytes(
    rows: int, dim: int, parts: int, calls: int
) -> None:
    table = zipf_table("t", rows * parts, samples=500, pooling=3)
    near = [("private", 0.01), ("llc", 0.3)]
    reaches = {
        row_bytes(f, dim, scale): near
        for f, scale in (("fp32", "row"), ("fp16", "row"), ("int8", "row"), ("int4", "table"))
    } | {64: near}
    part = parts - 1
    model = costs_of(table, dim=dim, reaches=reaches, calls=calls, parts=parts, part=part)
    p = smoothed(table)[part::parts]
    assert model.num_embeddings == rows == p.size
    lookups = 256 * 3 * p.sum()
    assert model.lookups == pytest.approx(lookups)
    ranks = np.arange(rows)
    asked = 256 * 3 * p
    # Look-ups by the place where their row is found: private, llc, dram.
    late, later = (asked * np.exp(-batches * asked) for _, batches in near)
    found = np.stack((asked - late, late - later, later))
    random = np.random.default_rng(0)
    for _ in range(40):
        layout = random_layout(model, random)
        costs = model.of_layout(layout)
        assert costs.llc.sum() == layout.llc_bytes
        assert costs.dram.sum() == layout.dram_bytes
        assert costs.ssd.sum() == layout.ssd_bytes
        for b, band in enumerate(layout.bands):
            inside = (ranks >= band.start) & (ranks < band.stop)
            assert costs.num_bytes[b] == layout.band_bytes(b)
            assert costs.index_bytes[b] == layout.index_bytes(b)
            assert costs.lookups[b] == pytest.approx(asked[inside].sum(), abs=1e-9)
            expected = {"seconds": 0.0, "pages": 0.0, "reads": 0.0, "traffic": 0.0}
            if band.tt is not None:
                ns = max(SYSTEM.tt_ns(band.tt), 1.01 * SYSTEM.row_ns("fp32", dim))
                expected["seconds"] = 1e-9 * ns * asked[inside].sum()
            elif band.memory == "ssd":
                geometry = PageGeometry.of(layout.row_bytes(b))
                groups = -(-layout.slots(b) // geometry.rows_per_page)
                touched = (1 - np.exp(-asked[inside] / calls)).sum()
                pages = calls * groups * (1 - np.exp(-touched / groups)) * geometry.pages_per_row
                further = max(asked[inside].sum() - pages, 0.0)
                ns = SYSTEM.row_ns(band.format, dim, band.scale, "llc")
                expected["seconds"] = 1e-9 * (pages * SYSTEM.page_ns + further * ns)
                expected["pages"], expected["traffic"] = pages, 4096 * pages
                read = pages / calls / geometry.pages_per_row
                beside = pages - calls * read * (1 - read / groups)
                expected["reads"] = pages - (1 - SYSTEM.ssd.adjacent) * beside
            else:
                here = np.stack((asked, 0 * asked, 0 * asked)) if band.memory == "llc" else found
                ns = [SYSTEM.row_ns(band.format, dim, band.scale, w) for w in ("private", "llc", "dram")]
                expected["seconds"] = 1e-9 * (ns @ here)[inside].sum()
                lines = -(-layout.row_bytes(b) // 64) * 64
                expected["traffic"] = lines * here[2][inside].sum()
            if band.stop == rows:
                expected["seconds"] += 1e-9 * 256 * SYSTEM.bag_ns(dim)
            size = layout.index_bytes(b)
            index = 0.0
            if size:
                kind = index_kind(rows, band.num_rows)
                after = ranks >= band.start
                ns = [SYSTEM.index_ns(kind, w) for w in ("private", "llc", "dram")]
                far = later if size > 1e3 else 0 * asked
                here = np.stack((0 * asked, asked - far, far))
                if band.memory == "llc":
                    here = np.stack((asked, 0 * asked, 0 * asked))
                expected["traffic"] += 64 * here[2][after].sum()
                index = 1e-9 * (ns @ here)[after].sum()
            assert costs.index_seconds[b] == pytest.approx(index, rel=1e-6, abs=1e-15)
            assert costs.row_seconds[b] == pytest.approx(expected["seconds"], rel=1e-6, abs=1e-15)
            assert costs.pages[b] == pytest.approx(expected["pages"], rel=1e-6, abs=1e-9)
            assert costs.reads[b] == pytest.approx(expected["reads"], rel=1e-6, abs=1e-9)
            assert costs.traffic[b] == pytest.approx(expected["traffic"], rel=1e-6, abs=1e-6)
            assert costs.loss[b] == pytest.approx(p[inside].sum() if band.tt else 0.0, abs=1e-9)


def test_the_parts_of_a_table_have_all_its_rows_and_look_ups() -> None:
    table = zipf_table("t", 1000, samples=500)
    for parts in (2, 3, 7):
        shards = [costs_of(table, parts=parts, part=part) for part in range(parts)]
        assert sum(shard.num_embeddings for shard in shards) == 1000
        assert sum(shard.num_seen for shard in shards) == table.num_seen
        assert sum(shard.lookups for shard in shards) == pytest.approx(256)
        assert shards[0].lookups > shards[-1].lookups


def test_losses_are_those_of_the_sensitivity() -> None:
    table = zipf_table("t", 1000, samples=500)
    sensitivity = made_up_sensitivity(AccessStatistics((table,))).tables[0]
    model = costs_of(table, sensitivity=sensitivity)
    start, stop = np.array([0, 10]), np.array([10, 1000])
    for placement in (Placement("int8", "dram"), Placement("tt", "dram", 8), Placement("fp32", "ssd")):
        loss = model.evaluate(placement, start, stop).loss
        tt_rank = placement.tt_rank
        np.testing.assert_array_equal(loss, sensitivity.loss(placement.format, tt_rank, start, stop))
    # Where accuracy is measured, a tensor train may be as fast as it is.
    fast = model.evaluate(Placement("tt", "dram", 8), start, stop).row_seconds
    assert (fast < costs_of(table).evaluate(Placement("tt", "dram", 8), start, stop).row_seconds).all()
    half = costs_of(table, sensitivity=sensitivity, parts=2)
    whole = model.evaluate(Placement("int8", "dram"), np.array([0]), np.array([1000])).loss
    assert half.evaluate(Placement("int8", "dram"), np.array([0]), np.array([500])).loss == whole / 2


def test_pages_are_what_random_batches_ask_for() -> None:
    table = zipf_table("t", 20_000, samples=50_000)
    model = costs_of(table, batch_size=512)
    random = np.random.default_rng(1)
    order, p = table.ids_in_ranks(0, 20_000), smoothed(table)
    per_page = PageGeometry.of(64).rows_per_page
    for start in (0, 500, 10_000):
        counted = []
        for _ in range(60):
            ranks = random.choice(20_000, size=512, p=p)
            counted.append(np.unique(order[ranks[ranks >= start]] // per_page).size)
        costs = model.evaluate(Placement("fp32", "ssd"), np.array([start]), np.array([20_000]))
        assert costs.pages[0] == pytest.approx(np.mean(counted), rel=0.05)


def test_cold_bands_cost_something() -> None:
    table = zipf_table("t", 100_000, samples=5_000)
    seen = np.array([table.num_seen])
    costs = costs_of(table).evaluate(Placement("fp32", "ssd"), seen, np.array([100_000]))
    assert costs.pages[0] > 0
    assert costs.seconds[0] > 0


def test_costs_grow_with_the_batch() -> None:
    model = costs_of(zipf_table("t", 5000, samples=2000))
    larger = dataclasses.replace(model, batch_size=512)
    for placement in (Placement("fp32", "dram"), Placement("fp32", "ssd")):
        once, twice = (m.evaluate(placement, np.array([0]), np.array([5000])) for m in (model, larger))
        assert twice.lookups[0] == pytest.approx(2 * once.lookups[0])
    assert once.pages[0] < twice.pages[0] < 2 * once.pages[0]  # a page is read once per batch


@pytest.mark.parametrize("dim", [7, 16, 64])
@pytest.mark.parametrize("tt_rank", [1, 8, 64])
def test_sizes_of_many_tensor_trains_are_those_of_each(dim: int, tt_rank: int) -> None:
    rows = np.unique(np.concatenate((np.arange(1, 70), np.geomspace(70, 3e9, 150).astype(np.int64))))
    parameters, flops, ranks = tt_sizes(rows, dim, tt_rank)
    for number, size in enumerate(rows.tolist()):
        shape = TtShape.balanced(size, dim, tt_rank)
        assert (parameters[number], flops[number]) == (shape.num_parameters, shape.flops_per_row)
        assert ranks[number] == max(shape.ranks)


def test_bands_too_small_for_their_tt_rank_are_not_possible() -> None:
    model = costs_of(zipf_table("t", 1000, samples=500))
    start, stop = np.array([0, 10, 990]), np.array([1000, 11, 1000])
    assert model.possible(Placement("tt", "dram", 8), start, stop).tolist() == [True, False, True]
    assert model.possible(Placement("int8", "dram"), start, stop).all()


def test_a_cache_reaches_as_far_back_as_what_passes_fills_it() -> None:
    tables = [zipf_table("a", 300, samples=400), zipf_table("b", 50, samples=90, seed=1)]
    lookups, sizes = np.array([100.0, 900.0]), np.array([64, 256])
    rate = np.concatenate([n * smoothed(t) for n, t in zip(lookups, tables, strict=True)])
    size = np.repeat(sizes, [300, 50])
    for passing in (0.0, 500.0):
        traffic = Traffic([table.smoothed_curve for table in tables], lookups, passing)
        assert traffic.reach(sizes, 0) == 0
        for capacity in (100, 1000, 12_000, 25_000):
            batches = traffic.reach(sizes, capacity)
            filled = (size * (1 - np.exp(-batches * rate))).sum() + passing * batches
            assert filled == pytest.approx(capacity, rel=0.03)
        assert np.isinf(traffic.reach(sizes, 10**6)) == (passing == 0)
    assert np.isinf(Traffic([tables[0].smoothed_curve], np.array([0.0])).reach(np.array([64]), 10**6))


def test_a_cache_of_what_was_used_last_misses_as_predicted() -> None:
    table = zipf_table("t", 2000, samples=20_000)
    p = smoothed(table) / smoothed(table).sum()
    held = 200
    asked = np.random.default_rng(0).choice(2000, 60_000, p=p)
    cache: dict[int, None] = {}
    misses = 0
    for number, row in enumerate(asked.tolist()):
        if row in cache:
            del cache[row]
        else:
            misses += number >= 10_000
            if len(cache) == held:
                del cache[next(iter(cache))]
        cache[row] = None
    curve = table.smoothed_curve
    reach = Traffic([curve], np.array([100.0])).reach(np.array([64]), 64 * held)
    assert curve.missed(100 * reach, 2000) == pytest.approx(misses / 50_000, rel=0.05)
    assert curve.missed(0, 2000) == pytest.approx(1)
    assert curve.missed(np.inf, np.array([5, 2000])).tolist() == [0, 0]


def test_large_batches_are_served_by_several_calls() -> None:
    kaggle, all_lookups = np.full(26, 16), np.full(64, 64)
    assert calls_per_batch(1024, np.full(26, 1024.0), kaggle) == 1
    assert calls_per_batch(4096, np.full(26, 4096.0), kaggle) == 2  # segments of 2304 samples
    assert calls_per_batch(128, np.full(64, 128.0 * 32), all_lookups) == 2  # 64 MiB of working memory
    assert calls_per_batch(1, np.full(64, 10.0**6), all_lookups) == 1
    assert calls_per_batch(1, np.zeros(1), np.ones(1, dtype=int)) == 1
