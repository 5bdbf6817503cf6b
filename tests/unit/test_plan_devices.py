"""Plans for devices with memories of their own: every table has a device, and no device is too full."""

from __future__ import annotations

import numpy as np
import pytest
from planning_samples import zipf_statistics

from screc.planning import InfeasibleBudget, check_plan, gpu_node, make_plan, predict, smartssd_array
from screc.planning.devices import _exchanged, _longest_first

TABLES = zipf_statistics(tuple(int(rows) for rows in np.geomspace(20, 20_000, 9)))


@pytest.mark.parametrize("dense_flops", [0, 10**4])
@pytest.mark.parametrize("system", [smartssd_array(3), gpu_node(3)], ids=["smartssd", "gpu"])
def test_every_table_has_a_device(system, dense_flops: int) -> None:
    plan = make_plan(
        TABLES, 16, system, dram_fraction=0.1, dense_flops=dense_flops, time_limit=8, mip_gap=0.02
    )
    check_plan(plan, TABLES)
    assert all(table.device is not None for table in plan.assignment.tables)
    assert plan.lower_bound <= plan.value
    assert plan.reasons
    fixed = system.devices.fixed_role and dense_flops > 0
    assert (plan.assignment.memory > 0) == fixed
    assert plan.assignment.memory + plan.assignment.compute == (3 if fixed else 0)
    # All tables on one device is an assignment, too, and where they fit it a slower one.
    crowded = plan.assignment.model_copy(
        update={"tables": tuple(one.model_copy(update={"device": 0}) for one in plan.assignment.tables)}
    )
    other = predict(plan.layouts, crowded, TABLES, system, plan.options)
    assert other.seconds_per_batch >= plan.value * (1 - 1e-9)


def test_roles_that_are_asked_for_are_kept() -> None:
    plan = make_plan(
        TABLES, 16, smartssd_array(3), dram_fraction=0.1, dense_flops=100, roles=(1, 2), time_limit=8
    )
    assert (plan.assignment.memory, plan.assignment.compute) == (1, 2)
    assert {table.device for table in plan.assignment.tables} == {None}, "one device looks up: all is its"


def test_a_table_that_loads_a_device_too_much_is_dealt_out() -> None:
    one = zipf_statistics((50_000, 10))
    plan = make_plan(one, 16, smartssd_array(4), dram_fraction=1.0, time_limit=8)
    parts = [table for table in plan.assignment.tables if table.table == "t0"]
    assert len(parts) == parts[0].parts == 4
    assert len({table.device for table in parts}) > 1


def test_one_device_of_a_fixed_role_is_refused() -> None:
    with pytest.raises(ValueError, match="its one device has a fixed role"):
        make_plan(TABLES, 16, smartssd_array(1).model_copy(), dram_fraction=0.1, dense_flops=1, roles=None)


def test_nothing_fits() -> None:
    system = gpu_node(2).model_copy(update={"ssd": None})
    private = system.devices.private.model_copy(update={"llc_bytes": 1000})
    system = system.model_copy(update={"devices": system.devices.model_copy(update={"private": private})})
    with pytest.raises(InfeasibleBudget, match="no plan fits 100 bytes of DRAM"):
        make_plan(TABLES, 16, system, dram_bytes=100, tt=False)


def test_dealing_out_is_even() -> None:
    loads = np.random.default_rng(0).random((60, 2))
    owner = _longest_first(loads, 4)
    filled = np.stack([loads[owner == device].sum(axis=0) for device in range(4)])
    better = _exchanged(loads, owner, 4)
    after = np.stack([loads[better == device].sum(axis=0) for device in range(4)])
    assert after.max() <= filled.max() * (1 + 1e-12)
    assert after.max() <= 1.1 * loads.sum(axis=0).max() / 4
    crowded = _exchanged(loads, np.zeros(60, dtype=np.int64), 4)
    assert np.bincount(crowded, minlength=4).min() > 5
