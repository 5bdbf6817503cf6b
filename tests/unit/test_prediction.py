"""What any layouts are predicted to take: stages of devices, shared and private memories, roles, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from planning_samples import made_up_sensitivity, zipf_statistics

from screc.planning import Assignment, PlanOptions, SystemSpec, TableAssignment, predict, reference_system
from screc.planning.prediction import overlapped
from screc.storage.layout import Band, TableLayout, TtShape

SYSTEM = reference_system()
TABLES = zipf_statistics((900, 40, 5000, 3))
OPTIONS = PlanOptions(batch_size=512, dense_flops=10**6)


def layouts(memory: str = "dram") -> list[TableLayout]:
    """One table in four formats, the others whole."""
    mixed = [
        Band(start=0, stop=50, format="fp32", memory=memory),
        Band(start=50, stop=500, format="int8", memory="dram"),
        Band(start=500, stop=2000, format="tt", memory="dram", tt=TtShape.balanced(1500, 16, 8)),
        Band(start=2000, stop=5000, format="int4", memory="ssd"),
    ]
    return [
        *(TableLayout.dense(f"t{n}", rows, 16) for n, rows in enumerate((900, 40))),
        TableLayout(table="t2", num_embeddings=5000, embedding_dim=16, bands=tuple(mixed)),
        TableLayout.dense("t3", 3, 16),
    ]


def changed(system: SystemSpec, **parts: dict) -> SystemSpec:
    data = system.to_dict()
    for name, values in parts.items():
        data[name] = {**data[name], **values} if isinstance(values, dict) else values
    return SystemSpec.from_dict(data)


def test_devices_that_share_everything_take_the_sum_over_all_tables() -> None:
    got = predict(layouts(), None, TABLES, SYSTEM, OPTIONS)
    busy = sum(table.device_seconds for table in got.tables)
    assert busy == pytest.approx(
        sum(band.row_seconds + band.index_seconds for table in got.tables for band in table.bands)
    )
    dense = 1e-9 * SYSTEM.dense_ns(512, 10**6)
    reads = got.pages_per_batch / SYSTEM.pages_per_second(256)
    assert got.pages_per_batch > 0
    assert got.lookup_seconds == pytest.approx(busy / 2)
    assert got.dense_seconds == pytest.approx(dense / 2)
    assert got.ssd_seconds == pytest.approx(reads)
    assert got.seconds_per_batch == pytest.approx(busy / 2 + dense / 2 + reads)  # nothing is hidden here
    assert got.latency_seconds == pytest.approx(got.seconds_per_batch + got.ssd_wait_seconds)
    assert got.dram_bytes == sum(layout.dram_bytes for layout in layouts())
    assert got.lookups_per_batch == pytest.approx(4 * 512)
    assert got.loss is None
    for layout, table in zip(layouts(), got.tables, strict=True):
        assert sum(band.lookup_share for band in table.bands) == pytest.approx(1)
        assert sum(band.rows for band in table.bands) == layout.num_embeddings
    (both,) = got.devices
    assert (both.role, both.first, both.count) == ("both", 0, 2)


def test_roles_part_the_work() -> None:
    shared = Assignment.shared(layouts(), memory=1, compute=1)
    got = predict(layouts(), shared, TABLES, SYSTEM, OPTIONS)
    memory, compute = got.devices
    assert (memory.role, memory.first, compute.role, compute.first) == ("memory", 0, "compute", 1)
    assert memory.lookup_seconds == pytest.approx(sum(table.device_seconds for table in got.tables))
    assert compute.dense_seconds == pytest.approx(1e-9 * SYSTEM.dense_ns(512, 10**6))
    assert got.seconds_per_batch == pytest.approx(max(memory.seconds, compute.seconds))
    assert got.latency_seconds > got.seconds_per_batch


def test_rates_of_fewer_busy_devices_are_used() -> None:
    rows = SYSTEM.to_dict()["rows"]
    alone = changed(SYSTEM, rows=rows + [{**one, "ns": one["ns"] / 2, "busy": 1} for one in rows])
    shared = Assignment.shared(layouts(), memory=1, compute=1)
    slow, fast = (
        predict(layouts(), shared, TABLES, system, OPTIONS).tables[0].device_seconds
        for system in (SYSTEM, alone)
    )
    assert fast == pytest.approx(slow / 2)


@pytest.mark.parametrize("hidden", [0.0, 0.4, 1.0])
def test_overlap_hides_the_shorter_of_drive_and_devices(hidden: float) -> None:
    system = changed(SYSTEM, overlap={"ssd": hidden}, batch_ns=5e4)
    got = predict(layouts(), None, TABLES, system, OPTIONS)
    busy = got.lookup_seconds + got.dense_seconds
    expected = max(busy, got.ssd_seconds) + (1 - hidden) * min(busy, got.ssd_seconds)
    assert got.seconds_per_batch == pytest.approx(expected + 5e-5)
    assert overlapped(2.0, 3.0, hidden) == overlapped(3.0, 2.0, hidden)


def test_dram_traffic_can_be_the_stage() -> None:
    system = changed(SYSTEM, dram_bytes_per_second=1e6)
    got = predict(layouts(), None, TABLES, system, OPTIONS)
    assert got.seconds_per_batch == pytest.approx(got.traffic_seconds)
    assert got.traffic_seconds > got.lookup_seconds


ARRAY = changed(
    SYSTEM,
    devices={
        "kind": "smartssd",
        "count": 3,
        "fixed_role": True,
        "private": {"llc_bytes": 10**6, "dram_bytes": 10**7, "ssd_bytes": 10**9},
    },
    shared={"llc_bytes": 0, "dram_bytes": 0, "ssd_bytes": 0},
)


def assigned(devices: tuple[int | None, ...], *, memory: int = 2, compute: int = 1) -> Assignment:
    names = [layout.table for layout in layouts()]
    tables = (TableAssignment(table=name, device=d) for name, d in zip(names, devices, strict=True))
    return Assignment(memory=memory, compute=compute, tables=tuple(tables))


def test_devices_with_memories_of_their_own_have_their_own_tables() -> None:
    got = predict(layouts("llc"), assigned((0, 0, 1, 0)), TABLES, ARRAY, OPTIONS)
    first, second, compute = got.devices
    busy = [table.device_seconds for table in got.tables]
    assert first.lookup_seconds == pytest.approx(busy[0] + busy[1] + busy[3])
    assert (first.ssd_seconds, first.llc_bytes) == (0, 0)
    assert second.lookup_seconds == pytest.approx(busy[2])
    # Each device has a drive of its own.
    assert second.ssd_seconds == pytest.approx(got.pages_per_batch / ARRAY.pages_per_second(256))
    assert second.llc_bytes == layouts("llc")[2].llc_bytes > 0
    assert second.dram_bytes == layouts("llc")[2].dram_bytes
    assert compute.dense_seconds == pytest.approx(1e-9 * ARRAY.dense_ns(512, 10**6))
    assert got.seconds_per_batch == pytest.approx(max(d.seconds for d in got.devices))


def test_a_table_in_parts() -> None:
    whole = TableLayout.dense("t2", 5000, 16)
    halves = [TableLayout.dense("t2", 2500, 16)] * 2
    others = layouts()[:2] + layouts()[3:]
    names = [layout.table for layout in others]

    def parts(devices: tuple[int, int]) -> Assignment:
        tables = [TableAssignment(table=name, device=0) for name in names]
        tables += [
            TableAssignment(table="t2", device=device, part=part, parts=2)
            for part, device in enumerate(devices)
        ]
        return Assignment(memory=2, compute=1, tables=tuple(tables))

    got = predict([*others, *halves], parts((0, 1)), TABLES, ARRAY, OPTIONS)
    one = predict(
        [*others, whole],
        Assignment(
            memory=2,
            compute=1,
            tables=tuple(TableAssignment(table=name, device=0) for name in (*names, "t2")),
        ),
        TABLES,
        ARRAY,
        OPTIONS,
    )
    assert sum(t.lookups for t in got.tables[-2:]) == pytest.approx(one.tables[-1].lookups)
    assert sum(t.device_seconds for t in got.tables[-2:]) == pytest.approx(one.tables[-1].device_seconds)
    assert got.lookup_seconds < one.lookup_seconds
    cut = parts((0, 1)).model_copy(update={"tables": parts((0, 1)).tables[:-1]})
    with pytest.raises(ValueError, match="table t2: 1 of its 2 parts are assigned"):
        predict([*others, halves[0]], cut, TABLES, ARRAY, OPTIONS)


def test_the_loss_is_the_sensitivitys() -> None:
    sensitivity = made_up_sensitivity(TABLES)
    got = predict(layouts(), None, TABLES, SYSTEM, OPTIONS, sensitivity=sensitivity)
    assert got.loss == pytest.approx(sensitivity.plan_loss(layouts()))
    assert got.loss == pytest.approx(sum(b.loss for t in got.tables for b in t.bands))
    assert got.loss > 0


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (Assignment.shared(layouts()), "table t0: it has no device, and devices here have memories"),
        (assigned((0, 1, 2, 0)), "table t2: device 2 is none of the 2 that look up"),
        (assigned((0, 1, 1, 0), compute=2), "2 memory and 2 compute devices are not the machine's 3"),
        (Assignment.shared(layouts()[:2]), "the assignment is of tables"),
    ],
)
def test_assignments_that_do_not_fit_are_refused(assignment: Assignment, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(layouts(), assignment, TABLES, ARRAY, OPTIONS)


def test_layouts_of_other_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="table other: the statistics do not have it"):
        predict([TableLayout.dense("other", 9, 16)], None, TABLES, SYSTEM, OPTIONS)
    with pytest.raises(ValueError, match="table t0: the layout has 901 rows, the statistics 900"):
        predict([TableLayout.dense("t0", 901, 16)], None, TABLES, SYSTEM, OPTIONS)


def test_no_ssd_and_no_pages() -> None:
    rows = [TableLayout.dense(f"t{n}", size, 16) for n, size in enumerate((900, 40, 5000, 3))]
    got = predict(rows, None, TABLES, reference_system(ssd=False), OPTIONS)
    assert (got.pages_per_batch, got.ssd_seconds, got.ssd_wait_seconds) == (0, 0, 0)
    assert np.isfinite(got.seconds_per_batch)
    with pytest.raises(ValueError, match="on SSD, and the system has none"):
        predict(layouts(), None, TABLES, reference_system(ssd=False), OPTIONS)
