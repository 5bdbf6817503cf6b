"""Plans of other objectives than throughput, and plans by measured sensitivity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from planning_samples import made_up_sensitivity, zipf_statistics

from screc.planning import (
    InfeasibleBudget,
    SolverError,
    check_plan,
    column_generation,
    make_plan,
    reference_system,
)

SYSTEM = reference_system()
SMALL = zipf_statistics((900, 40, 5000, 3))
LOSSES = made_up_sensitivity(SMALL)
BYTES = sum(64 * table.num_embeddings for table in SMALL.tables)


def test_less_loss_allowed_is_never_faster() -> None:
    whole = LOSSES.plan_loss(
        make_plan(SMALL, 16, SYSTEM, dram_fraction=0.05, sensitivity=LOSSES, max_loss=1.0).layouts
    )
    assert whole > 0
    seconds = []
    for part in (0.0, 1e-3, 0.1, 1.0):
        most = part * whole
        plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.05, sensitivity=LOSSES, max_loss=most)
        check_plan(plan, SMALL, sensitivity=LOSSES)
        assert plan.predicted.loss == pytest.approx(LOSSES.plan_loss(plan.layouts))
        assert plan.predicted.loss <= most * (1 + 1e-6)
        assert plan.sensitivity_digest == LOSSES.digest
        seconds.append(plan.value)
    assert all(later <= sooner * (1 + 2e-3) for sooner, later in itertools.pairwise(seconds))
    assert seconds[-1] < seconds[0] / 2
    formats = {band.format for layout in plan.layouts for band in layout.bands}
    assert formats - {"fp32", "tt"}, "formats are chosen by what they lose"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensitivity": LOSSES}, "max_loss must be given with a sensitivity, .* got None"),
        ({"sensitivity": LOSSES, "max_loss": -1.0}, r"max_loss must be given .* got -1\.0"),
        ({"max_loss": 1e-3}, r"max_loss 0\.001 needs a sensitivity"),
        (
            {"sensitivity": LOSSES, "max_loss": 0.1, "max_tt_share": 0.1},
            r"max_tt_share 0\.1 stands in for a sensitivity",
        ),
        ({"objective": "speed"}, "objective must be one of throughput, latency, memory, got 'speed'"),
        ({"objective": "memory"}, "samples_per_second goes with objective 'memory'"),
        ({"samples_per_second": 1.0}, "samples_per_second goes with objective 'memory'"),
        ({"objective": "memory", "samples_per_second": 0.0}, "samples_per_second must be positive"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(SMALL, 16, SYSTEM, dram_fraction=0.1, **options)


def test_a_table_that_was_not_measured() -> None:
    other = made_up_sensitivity(zipf_statistics((900, 40)))
    with pytest.raises(ValueError, match="sensitivity: table t2 was not measured"):
        make_plan(SMALL, 16, SYSTEM, dram_fraction=0.1, sensitivity=other, max_loss=0.1)


def test_least_memory_reaches_the_rate() -> None:
    fastest = make_plan(SMALL, 16, SYSTEM, dram_fraction=1.0)
    rate = 1024 / fastest.predicted.seconds_per_batch
    sizes = []
    for part in (0.01, 0.3, 0.999):
        plan = make_plan(
            SMALL,
            16,
            SYSTEM,
            dram_fraction=1.0,
            objective="memory",
            samples_per_second=part * rate,
            mip_gap=0.0,
        )
        assert 1024 / plan.predicted.seconds_per_batch >= part * rate * (1 - 1e-6)
        assert plan.value == plan.predicted.dram_bytes
        assert plan.lower_bound <= plan.value
        sizes.append(plan.value)
        # With a byte less there is no plan that is as fast.
        if plan.gap == 0 and plan.value > 0:
            less = make_plan(SMALL, 16, SYSTEM, dram_bytes=int(plan.value) - 1, mip_gap=0.0)
            assert less.predicted.seconds_per_batch > 1024 / (part * rate) * (1 - 1e-6)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    with pytest.raises(InfeasibleBudget, match="look-ups"):
        make_plan(SMALL, 16, SYSTEM, dram_fraction=1.0, objective="memory", samples_per_second=100 * rate)


def test_latency_counts_the_wait_for_the_first_read() -> None:
    plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.2, objective="latency", batch_size=1)
    other = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.2, batch_size=1)
    assert plan.value == plan.predicted.latency_seconds
    assert plan.value <= other.predicted.latency_seconds * (1 + 2e-3)
    assert plan.lower_bound <= plan.value


def test_a_plan_says_what_a_limit_is_worth() -> None:
    plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.1)
    dram = next(one for one in plan.resources if one.name == "DRAM")
    assert dram.used == plan.predicted.dram_bytes
    assert dram.limit == plan.budget.dram_bytes
    assert dram.price > 0


def test_a_value_below_the_bound_is_not_believed(monkeypatch) -> None:
    true = column_generation._Search._value
    monkeypatch.setattr(column_generation._Search, "_value", lambda self, columns: 0.5 * true(self, columns))
    with pytest.raises(SolverError, match="below the Lagrangian bound"):
        make_plan(SMALL, 16, SYSTEM, dram_fraction=0.1)


def test_a_bound_holds_for_plans_made_otherwise() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        fraction = float(random.uniform(0.01, 0.9))
        plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=fraction, mip_gap=0.0)
        loose = make_plan(SMALL, 16, SYSTEM, dram_fraction=fraction, mip_gap=0.5)
        assert loose.value >= plan.lower_bound * (1 - 1e-9)
        assert plan.value >= loose.lower_bound * (1 - 1e-9)
