"""A few thousand requests that nobody should send; ``recipes.fuzz_server`` sends as many as it is told to."""

from __future__ import annotations

from recipes.fuzz_server import run


def test_no_request_harms_the_server() -> None:
    seen = run(3000, seed=7)
    assert {"http 200", "http 400", "grpc OK", "grpc INVALID_ARGUMENT"} <= seen.keys()
    assert seen.total() == 3000
