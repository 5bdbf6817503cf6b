"""The OpenAPI document is what the server does: requests generated from it, answers checked against it."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from served import running, write_artifact

schemathesis = pytest.importorskip("schemathesis")
GenerationMode = schemathesis.GenerationMode
positive_data_acceptance = importlib.import_module(
    "schemathesis.specs.openapi.checks"
).positive_data_acceptance


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    artifact = write_artifact(tmp_path_factory.mktemp("serve") / "ranker")
    with running({"ranker": artifact}) as server:
        yield schemathesis.openapi.from_url(f"{server.http}/openapi.json")


def test_answers_are_as_documented(api) -> None:
    asked = 0
    for found in api.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:

            @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case) -> None:
                nonlocal asked
                asked += 1
                # A schema cannot say that data must fit their shape and ids their tables.
                case.call_and_validate(excluded_checks=[positive_data_acceptance])

            with contextlib.suppress(Unsatisfiable):  # nothing about it can be wrong
                check()
    assert asked > 100


def test_every_endpoint_is_documented_in_the_guide(tmp_path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "serving.md").read_text()
    with running({"ranker": write_artifact(tmp_path / "ranker")}) as server:
        paths = httpx.get(f"{server.http}/openapi.json").json()["paths"]
    for path, verbs in paths.items():
        if "/versions/" in path:
            continue
        short = path.replace("{name}", "NAME")
        for verb in verbs:
            named = f"{verb.upper()} {short}`" in guide or f"`.../{short.rpartition('/')[2]}`" in guide
            assert named, f"{verb.upper()} {short}"
