"""Options as people write them, what-ifs, and the verb `plan` that shows, explains and compares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planning_samples import zipf_statistics
from test_cli import screc

from screc.planning import Plan, PlanRequest, make_plan, planned_rate, reference_system

OPTIONS = {"dram": "10%", "batch-size": "512", "formats": "fp32,int8", "tt-ranks": "4,8"}


def request_of(**changes: str) -> PlanRequest:
    statistics = zipf_statistics((60_000, 900))
    return PlanRequest.of(statistics, dim=16, options=OPTIONS | changes)


def test_a_request_plans_what_its_options_say() -> None:
    request = request_of()
    made = request.plan(reference_system())
    expected = make_plan(
        request.statistics,
        16,
        reference_system(),
        dram_bytes=6 * 60_900 * 16 * 4 // 60,
        batch_size=512,
        row_formats=("fp32", "int8"),
        tt_ranks=(4, 8),
    )
    assert made.layouts == expected.layouts
    assert made.options == expected.options
    rate = planned_rate(made.to_dict())
    assert rate is not None
    assert rate.samples_per_s == pytest.approx(512 / made.predicted.seconds_per_batch)
    assert planned_rate(None) is None
    assert planned_rate({"version": 1}) is None


def test_a_what_if_changes_one_option() -> None:
    request = request_of()
    other = (
        request.changed(["dram=1MB", "ssd=no"]) if "ssd" in request.options else request.changed(["dram=1MB"])
    )
    assert other.options == request.options | {"dram": "1MB"}
    made = other.plan(reference_system())
    assert made.budget.dram_bytes == 10**6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("dram", "not OPTION=VALUE"),
        ("colour=red", "option of batch-size, dram, formats, tt-ranks"),
        ("batch-size=many", "batch-size: 'many' is not a number"),
        ("tt-ranks=a", "tt-ranks: 'a' is not a list"),
        ("dram=lots", "budget 'lots'"),
    ],
)
def test_bad_changes_are_named(change: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        request_of().changed([change])


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="ssd: must be yes or no, got 'maybe'"):
        request_of(ssd="maybe")
    with pytest.raises(ValueError, match=r"roles: '2' is not"):
        request_of(roles="2")
    with pytest.raises(ValueError, match="unknown 'colour'"):
        request_of(colour="red")
    baseline = PlanRequest.of(
        zipf_statistics((500,)), dim=4, method="greedy-size", options={"dram": "50%", "tt": "no"}
    )
    with pytest.raises(ValueError, match="tt: is not for method 'greedy-size'"):
        baseline.plan(reference_system())


def test_the_verb_explains_compares_and_asks_what_if(tmp_path: Path) -> None:
    statistics = tmp_path / "statistics"
    zipf_statistics((60_000, 900)).save(statistics)
    reference_system().save(tmp_path / "system.json")
    common = ["plan", "--statistics", statistics, "--system", tmp_path / "system.json", "--json"]
    plan, other = tmp_path / "plan.json", tmp_path / "other.json"

    def json_of(*arguments: object) -> dict:
        result = screc(*arguments)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    asked = json_of(*common, "--dram", "10%", "--out", plan, "--what-if", "dram=3%", "--what-if", "ssd=yes")
    assert asked["plan"] == Plan.load(plan).to_dict()
    numbers = {one["label"]: one for one in asked["what_if"]["numbers"]}
    assert numbers["DRAM"]["second"] < numbers["DRAM"]["first"]
    json_of(*common, "--dram", "3%", "--out", other)
    compared = json_of("plan", "--compare", plan, other, "--json")
    assert compared["tables"] == asked["what_if"]["tables"]
    explained = json_of("plan", "--read", plan, "--statistics", statistics, "--explain", "t0", "--json")
    assert explained["alternatives"][0]["name"] == "as planned"
    picture = tmp_path / "plan.png"
    shown = json_of("plan", "--read", plan, "--plot", picture, "--json")
    assert shown == asked["plan"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = screc("plan", "--read", plan, "--explain", "t9")
    assert result.returncode == 1
    assert "no table 't9'; there are t0, t1" in result.stderr
