"""What people are shown of plans: one table with its alternatives, two plans side by side, pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from planning_samples import zipf_statistics
from rich.console import Console

from screc.planning import (
    Plan,
    compare_plans,
    comparison_summary,
    make_plan,
    plot_plan,
    reference_system,
    table_alternatives,
    table_summary,
)
from screc.statistics import AccessStatistics

ROWS = (60_000, 900, 20_000)


@pytest.fixture(scope="module")
def statistics() -> AccessStatistics:
    return zipf_statistics(ROWS)


@pytest.fixture(scope="module")
def plan(statistics: AccessStatistics) -> Plan:
    return planned(statistics, 0.1)


def planned(statistics: AccessStatistics, fraction: float) -> Plan:
    return make_plan(
        statistics,
        16,
        reference_system(),
        dram_fraction=fraction,
        row_formats=("fp32", "int8"),
        dense_flops=100_000,
    )


def shown(show) -> str:  # type: ignore[no-untyped-def]
    console = Console(width=180, record=True, file=io.StringIO())
    show(console)
    return console.export_text()


def test_alternatives_are_costed_beside_the_planned_layout(plan: Plan, statistics: AccessStatistics) -> None:
    found = {one.name: one for one in table_alternatives(plan, "t0", statistics)}
    planned_one, number = found["as planned"], 0
    assert planned_one.device_seconds == pytest.approx(plan.predicted.tables[number].device_seconds)
    assert planned_one.dram_bytes == plan.layouts[number].dram_bytes
    assert found["whole: DRAM fp32"].dram_bytes == 4 * 16 * 60_000
    assert found["whole: DRAM fp32"].pages == 0
    assert found["whole: SSD int8"].dram_bytes == 0
    assert found["whole: SSD int8"].pages > 0
    for rank in plan.options.tt_ranks:
        assert f"whole: DRAM TT r{rank}" in found
    # The plan's choice is what its budget pays for: nothing open to it is both faster and smaller.
    for one in found.values():
        worse = one.device_seconds >= planned_one.device_seconds * (1 - 1e-9)
        assert worse or one.dram_bytes > planned_one.dram_bytes or "TT" in one.name
    with pytest.raises(KeyError, match="no table 'x'; there are t0, t1, t2"):
        table_alternatives(plan, "x", statistics)


def test_a_table_is_explained_band_by_band(plan: Plan, statistics: AccessStatistics) -> None:
    text = shown(lambda c: table_summary(plan, "t0", c, table_alternatives(plan, "t0", statistics)))
    assert "60,000 rows x 16" in text
    for band in plan.layouts[0].bands:
        assert f"{band.start:,}-{band.stop - 1:,}" in text
    assert "What it could have become" in text
    assert "whole: DRAM fp32" in text
    assert "could have become" not in shown(lambda c: table_summary(plan, "t0", c))
    with pytest.raises(KeyError, match="no table"):
        table_summary(plan, "x", Console(quiet=True))


def test_two_plans_are_compared(plan: Plan, statistics: AccessStatistics) -> None:
    other = planned(statistics, 0.03)
    found = compare_plans(plan, other)
    numbers = {one.label: one for one in found.numbers}
    assert numbers["DRAM"].first == plan.predicted.dram_bytes
    assert numbers["DRAM"].second == other.predicted.dram_bytes
    assert numbers["a batch"].ratio == pytest.approx(
        other.predicted.seconds_per_batch / plan.predicted.seconds_per_batch
    )
    assert numbers["samples a second"].first == pytest.approx(1024 / plan.predicted.seconds_per_batch)
    changed = {one.table for one in found.tables}
    assert changed == {one.table for one, two in zip(plan.layouts, other.layouts, strict=True) if one != two}
    assert found.same_statistics
    json.dumps(found.to_dict())
    text = shown(lambda c: comparison_summary(found, ("10 %", "3 %"), c))
    assert "10 %" in text
    assert "laid out differently" in text
    assert "of different statistics" not in text
    same = compare_plans(plan, plan)
    assert not same.tables
    assert "laid out the same" in shown(lambda c: comparison_summary(same, ("a", "b"), c))
    stranger = planned(zipf_statistics((500, 60_000)), 0.5)
    text = shown(lambda c: comparison_summary(compare_plans(plan, stranger), ("a", "b"), c))
    assert "different statistics" in text


def test_pictures_of_many_tables_gather_the_small_ones(tmp_path: Path) -> None:
    statistics = zipf_statistics(tuple(range(100, 160)), samples=2000)
    made = make_plan(statistics, 4, reference_system(), dram_fraction=1.0)
    plot_plan(made, tmp_path / "plan.svg")
    text = (tmp_path / "plan.svg").read_text()
    assert "21 more tables" in text
    assert "t59  (159)" in text
    assert "ms per batch of 1024" in text


def test_the_schema_in_the_docs_is_that_of_plans() -> None:
    written = json.loads((Path(__file__).parents[2] / "docs" / "plan.schema.json").read_text())
    assert written == Plan.model_json_schema()
