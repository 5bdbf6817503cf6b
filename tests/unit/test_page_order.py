"""Page orders: rows that are read together share pages, every id keeps a slot, and the rows stay the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import zipf_statistics
from storage_samples import Plan, layout, random_ranks, whole_tables, write_whole

from recipes.page_orders import BagLog
from screc import _native
from screc.data import open_log
from screc.planning import PlanError, check_page_orders, make_plan, reference_system
from screc.statistics import AccessStatistics, PageOrderConfig, make_page_orders, measure_co_access
from screc.statistics.coaccess import CoAccessSample, co_access_order
from screc.storage import Artifact, Band, PageOrder, RowStore, TableLayout, pack, verify


class EndlessLog(BagLog):
    """A log that does not know its length."""

    @property
    def num_samples(self) -> None:
        return None


def communities(
    samples: int, *, rows: int = 3000, size: int = 30, pooling: int = 8, noise: float = 0.1, seed: int = 0
) -> list[np.ndarray]:
    """Bags of rows of one community each, which has nothing to do with their ids, and some noise."""
    rng = np.random.default_rng(seed)
    members = rng.permutation(rows).reshape(-1, size)
    draw = np.random.default_rng(seed + 1)
    own = members[draw.integers(0, len(members), samples)]
    ids = np.take_along_axis(own, draw.integers(0, size, (samples, pooling)), axis=1)
    strange = draw.random(ids.shape) < noise
    return list(np.where(strange, draw.integers(0, rows, ids.shape), ids))


def pages_read(bags: list[np.ndarray], slots: np.ndarray, rows_per_page: int) -> float:
    return float(np.mean([len(np.unique(slots[bag] // rows_per_page)) for bag in bags]))


def slots_of(order: np.ndarray) -> np.ndarray:
    return PageOrder("t", "co-access", order).slots().astype(np.int64)


def flat(bags: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    samples = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    return np.concatenate(bags).astype(np.uint32), samples


# ----------------------------------------------------------------------------------------------------
# the order


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_id_has_one_slot(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 60))
    bags = data.draw(st.lists(st.lists(st.integers(0, rows - 1), max_size=6), max_size=20))
    ids = np.array([i for bag in bags for i in bag], np.uint32)
    samples = np.repeat(np.arange(len(bags)), [len(bag) for bag in bags])
    first = np.array(data.draw(st.permutations(range(rows))), np.uint32)
    order = co_access_order(
        ids,
        samples,
        first,
        data.draw(st.integers(1, 9)),
        samples_per_call=data.draw(st.integers(1, 5)),
        hot_rows=(hot := data.draw(st.integers(0, rows))),
        iterations=data.draw(st.integers(0, 5)),
        threads=data.draw(st.integers(1, 2)),
    )
    assert order.dtype == np.uint32
    assert sorted(order) == list(range(rows))
    assert (order[:hot] == first[:hot]).all()
    # Rows that came with no other keep the first order, at the end.
    if not bags:
        assert (order == first).all()


def test_planted_communities_are_found() -> None:
    bags, rows, per_page = communities(4000), 3000, 15
    counted, held_out = bags[:3600], bags[3600:]
    frequency = np.argsort(-np.bincount(np.concatenate(counted), minlength=rows), kind="stable")
    order = co_access_order(*flat(counted), frequency.astype(np.uint32), per_page)
    before = pages_read(held_out, np.arange(rows), per_page)
    after = pages_read(held_out, slots_of(order), per_page)
    # Seven of eight rows come from 2 pages of one community: 2 + 0.8 strangers, instead of 7 to 8 pages.
    rng = np.random.default_rng(0)
    planted = slots_of(rng.permutation(rows).astype(np.uint32))
    best = pages_read(held_out, planted, per_page)
    assert before > 7
    assert best < 3
    assert after < 1.1 * best
    assert after < 0.45 * pages_read(held_out, slots_of(frequency.astype(np.uint32)), per_page)


def test_one_lookup_per_sample_is_grouped_by_call() -> None:
    """Calls that ask for one community after the other, one row per sample."""
    bags = communities(2000, pooling=10, noise=0.0)
    ids, samples = flat(bags)
    single = np.arange(ids.size)
    first = np.arange(3000, dtype=np.uint32)
    by_call = co_access_order(ids, single, first, 15, samples_per_call=10)
    assert pages_read(bags, slots_of(by_call), 15) < 0.45 * pages_read(bags, np.arange(3000), 15)
    assert (by_call == co_access_order(ids, samples, first, 15)).all()


def test_the_order_does_not_depend_on_threads() -> None:
    arguments = (*flat(communities(600)), np.arange(3000, dtype=np.uint32), 7)
    one = co_access_order(*arguments, threads=1)
    assert (one == co_access_order(*arguments, threads=3)).all()


def test_more_lookups_than_fit_are_thinned_by_whole_calls() -> None:
    sample = CoAccessSample(4, 100)
    for start in range(0, 4000, 40):
        samples = np.repeat(np.arange(start, start + 40), 2)
        sample.add(samples * 10, samples)
    ids, samples = sample.result()
    assert 50 < ids.size <= 100
    assert (ids == samples * 10).all()
    calls, sizes = np.unique(samples // 4, return_counts=True)
    assert set(sizes) == {8}
    assert len(set(np.diff(calls))) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": [0, 1, 1]}, r"order\[2\] is 1; every row from 0 to 2"),
        ({"order": [0, 1, 3]}, r"order\[2\] is 3"),
        ({"order": [0, 1]}, r"rows\[2\] is 2, there are 2 rows"),
        ({"rows": [0, 1]}, r"groups: expected shape \[2\], got \[3\]"),
        ({"groups": [0, 1, 2]}, r"groups\[2\] is 2, there are 2 groups"),
        ({"rows_per_page": 0}, "rows_per_page: must be at least 1, got 0"),
        ({"iterations": -1}, "iterations: must not be negative"),
        ({"num_groups": -1}, "num_groups: must not be negative"),
    ],
)
def test_the_native_order_refuses_wrong_input(change: dict, words: str) -> None:
    arguments = {"rows": [0, 1, 2], "groups": [0, 1, 1], "num_groups": 2, "rows_per_page": 1}
    arguments |= {"iterations": 1, "order": [0, 1, 2]} | change
    arguments = {k: np.array(v, np.uint32) if isinstance(v, list) else v for k, v in arguments.items()}
    with pytest.raises(ValueError, match=words):
        _native.order_by_co_access(**arguments)


# ----------------------------------------------------------------------------------------------------
# choosing an order from a log


def ssd_layout(rows: int, dim: int = 64, hot: int = 0) -> TableLayout:
    cuts = [(hot, "dram")] if hot else []
    return layout("rows", rows, dim, *cuts, (rows, "ssd"))


def test_reads_are_measured_on_what_was_not_counted() -> None:
    bags = communities(4000)
    log = EndlessLog(bags, 3000)
    config = PageOrderConfig(samples_per_call=20)
    made = make_page_orders(
        "co-access", [ssd_layout(3000, hot=100)], AccessStatistics.collect(log), log, config
    )
    (order,), (reads,) = made.orders, made.reads
    hot = AccessStatistics.collect(log).tables[0].ids_in_ranks(0, 100)
    assert set(order.ids[-100:]) == set(hot)
    cold = [np.setdiff1d(np.concatenate(bags[i : i + 20]), hot) for i in range(3600, 4000, 20)]
    assert reads.calls == 20
    assert reads.rows == pytest.approx(np.mean([len(call) for call in cold]))
    assert reads.fewest == pytest.approx(np.mean([-(-len(call) // 15) for call in cold]))
    assert reads.by_id == pytest.approx(pages_read(cold, np.arange(3000), 15))
    assert reads.pages == reads.by_co_access == pytest.approx(pages_read(cold, slots_of(order.ids), 15))
    assert reads.chosen == order.kind == "co-access"
    assert reads.index_bytes == 4 * 3000
    assert reads.by_co_access < 0.7 * reads.by_id
    assert reads.fewest <= reads.by_co_access


def test_blocks_of_every_size_are_measured_on_what_was_not_counted() -> None:
    bags = communities(4000)
    log = BagLog(bags, 3000)
    config = PageOrderConfig(samples_per_call=20, hot_share=0.05)
    (found,) = measure_co_access(log, config)
    counted = np.bincount(np.concatenate(bags[:3600]), minlength=3000)
    frequency = np.argsort(-counted, kind="stable").astype(np.uint32)
    together = co_access_order(*flat(bags[:3600]), frequency, 15, hot_rows=150, samples_per_call=20)
    calls = [np.concatenate(bags[i : i + 20]) for i in range(3600, 4000, 20)]
    assert found.calls == 20
    assert found.rows == pytest.approx(np.mean([np.unique(call).size for call in calls]))
    assert {reads.block: reads.block_rows for reads in found.reads} == {
        "256-byte rows": 15,
        "64-byte rows": 63,
        "TT prefix": 16,  # of 14 x 14 x 16 rows
    }
    for reads in found.reads:
        rows = reads.block_rows
        assert reads.fewest == pytest.approx(np.mean([-(-np.unique(call).size // rows) for call in calls]))
        assert reads.by_id == pytest.approx(pages_read(calls, np.arange(3000), rows))
        assert reads.by_frequency == pytest.approx(pages_read(calls, slots_of(frequency), rows))
        assert reads.by_co_access == pytest.approx(pages_read(calls, slots_of(together), rows))
    assert found.reads[0].by_co_access < 0.7 * found.reads[0].by_id
    with pytest.raises(ValueError, match="log: 30 samples are too few"):
        measure_co_access(log, config, limit=30)
    assert measure_co_access(BagLog(bags, 3000), config, limit=1000)[0].calls == 5
    assert measure_co_access(BagLog([np.array([1])] * 400, 999), config) == ()


def test_a_table_without_a_saving_keeps_the_order_of_its_ids() -> None:
    rng = np.random.default_rng(0)
    log = BagLog(list(rng.integers(0, 3000, (20_000, 4))), 3000)
    statistics = AccessStatistics.collect(log)
    config = PageOrderConfig(samples_per_call=50)
    made = make_page_orders("co-access", [ssd_layout(3000)], statistics, log, config)
    assert made.orders == ()
    assert made.reads[0].chosen == "id"
    assert made.reads[0].pages == made.reads[0].by_id
    assert made.reads[0].index_bytes == 0


def test_frequency_needs_no_log() -> None:
    log = BagLog([np.array([7, 7, 3]), np.array([7, 9])], 10)
    statistics = AccessStatistics.collect(log)
    made = make_page_orders("frequency", [ssd_layout(10, hot=1)], statistics)
    assert made.orders[0].ids.tolist() == [3, 9, 0, 1, 2, 4, 5, 6, 8, 7]
    assert made.reads == ()
    assert make_page_orders("id", [ssd_layout(10)], statistics).orders == ()
    # One row to a page, or rows in DRAM: there is nothing to order.
    assert make_page_orders("frequency", [ssd_layout(10, dim=600)], statistics).orders == ()
    assert make_page_orders("frequency", [layout("rows", 10, 4, (10, "dram"))], statistics).orders == ()


def test_orders_that_cannot_be_made_are_refused() -> None:
    log = BagLog([np.array([1, 2])] * 300, 10)
    statistics, layouts = AccessStatistics.collect(log), [ssd_layout(10)]
    with pytest.raises(ValueError, match="log: co-access is counted from a log"):
        make_page_orders("co-access", layouts, statistics)
    with pytest.raises(ValueError, match="log: 300 samples are too few to count calls of 256"):
        make_page_orders("co-access", layouts, statistics, log)
    with pytest.raises(ValueError, match="statistics: they are of other tables"):
        make_page_orders("co-access", [ssd_layout(11)], statistics, log)
    for arguments in (([ssd_layout(10, hot=2)], None, log), (layouts, None, None)):
        with pytest.raises(ValueError, match="statistics: needed to know"):
            make_page_orders("frequency", *arguments)
    with pytest.raises(ValueError, match="log: its tables are not those"):
        make_page_orders("co-access", layouts, statistics, BagLog(log.bags, 11))
    for wrong in ({"samples_per_call": 0}, {"held_out_share": 1.0}, {"min_saving": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PageOrderConfig(**wrong)


# ----------------------------------------------------------------------------------------------------
# packing and serving


def random_order(one: TableLayout, seed: int = 5) -> PageOrder:
    ids = np.random.default_rng(seed).permutation(one.num_embeddings).astype(np.uint32)
    return PageOrder(one.table, "co-access", ids)


def test_rows_are_the_same_in_any_order(tmp_path: Path) -> None:
    layouts = [
        layout("cut", 3000, 8, (10, "dram"), (900, "dram"), (3000, "ssd")),
        layout("whole", 500, 30, (500, "ssd")),
        layout("left", 100, 4, (100, "ssd")),
        layout("long", 12, 1500, (2, "ssd"), (12, "ssd")),
    ]
    tables, ranks = whole_tables(layouts), random_ranks(layouts)
    checkpoint = write_whole(tmp_path / "model", layouts, tables)
    pack(checkpoint, ranks, Plan(layouts), tmp_path / "by-id")
    orders = [random_order(layouts[0]), random_order(layouts[1]), random_order(layouts[3])]
    report = pack(checkpoint, ranks, Plan(layouts), tmp_path / "ordered", page_orders=orders)
    plain, ordered = (RowStore.open(tmp_path / name) for name in ("by-id", "ordered"))
    for number, one in enumerate(layouts):
        ids = np.random.default_rng(1).permutation(one.num_embeddings)
        assert (ordered.gather(number, ids) == tables[number][ids]).all()
        assert (ordered.gather(number, ids) == plain.gather(number, ids)).all()
    assert ordered.dram_bytes == plain.dram_bytes + 4 * (3000 + 500 + 12) == report.dram_bytes
    artifact = Artifact.open(tmp_path / "ordered")
    assert [table.indices[-1] for table in artifact.tables] == ["order", "order", None, "order"]
    assert artifact.tables[0].layout.bands[-1].order == "co-access"
    assert verify(tmp_path / "ordered").ok


def test_rows_stand_in_the_pages_in_their_order(tmp_path: Path) -> None:
    one = layout("t", 40, 30, (40, "ssd"))
    tables = whole_tables([one])
    order = random_order(one)
    checkpoint = write_whole(tmp_path / "model", [one], tables)
    pack(checkpoint, None, Plan([one]), tmp_path / "a", page_orders=[order])
    pages = np.fromfile(tmp_path / "a" / "pages" / "0.0.pages", np.uint8).reshape(-1, 4096)
    rows = pages[:, 32 : 32 + 33 * 120].copy().view(np.float32).reshape(-1, 30)[:40]
    assert (rows == tables[0][order.ids]).all()
    # A call that asks for the rows of one page reads one page.
    store = RowStore.open(tmp_path / "a")
    store.gather(0, order.ids[:33].astype(np.int64))
    assert store.stats().pages_read == 1


@pytest.mark.parametrize(("row_format", "scale"), [("fp16", "row"), ("int8", "row"), ("int4", "table")])
def test_encoded_rows_are_the_same_in_any_order(row_format: str, scale: str, tmp_path: Path) -> None:
    bands = (
        Band(start=0, stop=20, format="fp32", memory="dram"),
        Band(start=20, stop=3000, format=row_format, scale=scale, memory="ssd"),
    )
    one = TableLayout(table="t", num_embeddings=3000, embedding_dim=13, bands=bands)
    tables, ranks = whole_tables([one]), random_ranks([one])
    checkpoint = write_whole(tmp_path / "model", [one], tables)
    plain = pack(checkpoint, ranks, Plan([one]), tmp_path / "by-id")
    ordered = pack(checkpoint, ranks, Plan([one]), tmp_path / "ordered", page_orders=[random_order(one)])
    assert ordered.fit_errors[0].error == pytest.approx(plain.fit_errors[0].error, rel=1e-9)
    rows = [RowStore.open(tmp_path / name).gather(0, np.arange(3000)) for name in ("by-id", "ordered")]
    assert (rows[0] == rows[1]).all()
    assert verify(tmp_path / "ordered").ok


def test_a_row_that_its_format_cannot_hold_is_named_by_its_id(tmp_path: Path) -> None:
    band = Band(start=0, stop=300, format="fp16", memory="ssd")
    one = TableLayout(table="t", num_embeddings=300, embedding_dim=4, bands=(band,))
    tables = whole_tables([one])
    tables[0][123, 2] = 1e6
    checkpoint = write_whole(tmp_path / "model", [one], tables)
    with pytest.raises(ValueError, match=r"table t, band 0: .*\b123\b"):
        pack(checkpoint, None, Plan([one]), tmp_path / "a", page_orders=[random_order(one)])


def test_orders_have_to_fit_the_plan(tmp_path: Path) -> None:
    statistics = zipf_statistics((5000, 300))
    made = make_plan(statistics, 16, reference_system(), dram_bytes=100_000, tt=False)
    last = made.layouts[0].bands[-1]
    assert last.memory == "ssd"
    order = make_page_orders("frequency", made.layouts, statistics).orders[0]
    room = made.budget.dram_bytes - sum(layout.dram_bytes for layout in made.layouts)
    assert room < order.index_bytes
    with pytest.raises(PlanError, match=r"page orders of 1 tables take 20000 bytes .* plan with 80000"):
        check_page_orders(made, [order])
    smaller = make_plan(statistics, 16, reference_system(), dram_bytes=80_000, tt=False)
    larger = smaller.model_copy(update={"budget": smaller.budget.model_copy(update={"dram_bytes": 100_000})})
    check_page_orders(larger, [order])


def test_the_verb_packs_in_order_and_reports(tmp_path: Path) -> None:
    source = "synthetic:rows=2000,seed=1,scale=0.001"
    statistics = AccessStatistics.collect(open_log(source))
    statistics.save(tmp_path / "statistics")
    made = make_plan(statistics, 4, reference_system(), dram_fraction=0.05, tt=False)
    roomy = made.budget.model_copy(update={"dram_bytes": made.budget.dram_bytes + 4_000_000})
    made.model_copy(update={"budget": roomy}).save(tmp_path / "plan.json")
    write_whole(tmp_path / "model", made.layouts, whole_tables(made.layouts))
    arguments = [
        "pack",
        tmp_path / "model",
        "--out",
        tmp_path / "a",
        "--plan",
        tmp_path / "plan.json",
        "--json",
    ]
    arguments += ["--page-order", "co-access", "--statistics", tmp_path / "statistics"]
    arguments += ["--order-from", source, "--order-batch-size", 100]
    command = [sys.executable, "-m", "screc.cli", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "pages per call: " in result.stderr
    found = json.loads(result.stdout)
    assert {reads["table"] for reads in found["page_reads"]} == {
        layout.table for layout in made.layouts if layout.bands[-1].memory == "ssd"
    }
    chosen = {reads["table"]: reads["chosen"] for reads in found["page_reads"]}
    assert set(chosen.values()) & {"frequency", "co-access"}
    for table in Artifact.open(tmp_path / "a").tables:
        assert table.layout.bands[-1].order == chosen.get(table.layout.table, "id")
    paid = sum(reads["index_bytes"] for reads in found["page_reads"])
    assert found["dram_bytes"] == sum(layout.dram_bytes for layout in made.layouts) + paid


def test_a_layout_that_names_an_order_is_packed_by_id_without_one(tmp_path: Path) -> None:
    one = layout("t", 40, 30, (40, "ssd")).with_order("frequency")
    assert one.index_bytes(0) == 160
    checkpoint = write_whole(tmp_path / "model", [one], whole_tables([one]))
    assert pack(checkpoint, None, Plan([one]), tmp_path / "a").index_bytes == 0


def test_wrong_orders_are_refused(tmp_path: Path) -> None:
    for ids, error in (([0, 1, 1], ValueError), ([0, 1, 3], ValueError)):
        with pytest.raises(error, match="table t: the page order must hold every id from 0 to 2 once"):
            PageOrder("t", "co-access", np.array(ids, np.uint32))
    with pytest.raises(TypeError, match="uint32"):
        PageOrder("t", "co-access", np.arange(3))
    with pytest.raises(ValueError, match="needs no page order"):
        PageOrder("t", "id", np.arange(3, dtype=np.uint32))
    with pytest.raises(ValueError, match="only pages on ssd have one"):
        layout("t", 10, 4, (10, "dram")).with_order("co-access")
    first = Band(start=0, stop=2, format="fp32", memory="ssd", order="frequency")
    bands = (first, Band(start=2, stop=9, format="fp32", memory="ssd"))
    with pytest.raises(ValueError, match="only the rows of the last band"):
        TableLayout(table="t", num_embeddings=9, embedding_dim=64, bands=bands)
    one = layout("t", 10, 4, (10, "ssd"))
    checkpoint = write_whole(tmp_path / "model", [one], whole_tables([one]))
    order = random_order(one)
    for orders, words in (
        ([order, order], "two are of the same table"),
        ([random_order(layout("u", 10, 4, (10, "ssd")))], "there is no table u"),
        ([random_order(layout("t", 11, 4, (11, "ssd")))], "the page order has 11 ids, the table 10 rows"),
    ):
        with pytest.raises(ValueError, match=words):
            pack(checkpoint, None, Plan([one]), tmp_path / "a", page_orders=orders)
    assert not (tmp_path / "a").exists()


def test_the_store_takes_only_permutations() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)

    def store_with(slots: list[int], dtype: type = np.uint32) -> _native.RowStore:
        store = _native.RowStore(threads=1)
        store.add_table(4, 3)
        store.add_dram_band(0, rows, ("order", np.array(slots, dtype)))
        return store

    out = np.empty((4, 3), np.float32)
    store = store_with([2, 0, 3, 1])
    store.gather(0, np.arange(4), out)
    assert (out == rows[[2, 0, 3, 1]]).all()
    with pytest.raises(ValueError, match="table 0 is complete"):
        store.add_dram_band(0, rows)
    with pytest.raises(ValueError, match=r"index: slots\[3\] is 0; an order gives every slot from 0 to 3"):
        store_with([2, 0, 3, 0])
    with pytest.raises(ValueError, match=r"index: slots\[2\] is 4"):
        store_with([2, 0, 4, 1])
    with pytest.raises(ValueError, match=r"index: an order of 4 ids has slots \[4\], got \[3\]"):
        store_with([2, 0, 1])
    with pytest.raises(TypeError, match="index slots"):
        store_with([2, 0, 3, 1], np.int64)


def test_verification_finds_an_order_that_is_none(tmp_path: Path) -> None:
    one = layout("t", 300, 4, (300, "ssd"))
    checkpoint = write_whole(tmp_path / "model", [one], whole_tables([one]))
    order = random_order(one)
    order.ids[0] = order.ids[1]  # after its check
    pack(checkpoint, None, Plan([one]), tmp_path / "a", page_orders=[order])
    (damage,) = verify(tmp_path / "a").damages
    assert "has a wrong order index for table t, band 0" in damage.fault
    with pytest.raises(ValueError, match="index: slots"):
        RowStore.open(tmp_path / "a")
