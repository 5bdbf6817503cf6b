"""Byte budgets as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screc.planning import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("123", 123),
        (123, 123),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        (" 1.5GiB ", 3 * 2**29),
        ("2KiB", 2048),
        ("1TB", 10**12),
        (".5KB", 500),
        ("7b", 7),
    ],
)
def test_amounts(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


def test_percentages_are_of_the_whole() -> None:
    assert parse_bytes("10%", whole=2000) == 200
    assert parse_bytes("0.5 %", whole=1000) == 5
    assert parse_bytes("150%", whole=10) == 15
    with pytest.raises(ValueError, match="'10%': a percentage needs tables"):
        parse_bytes("10%")


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "1e3", "five", "10%%", "1,5GB", "nan", "٣MB"])
def test_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount; write it like 500MB") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


def test_wrong_units_and_types() -> None:
    with pytest.raises(ValueError, match="'5 parsecs': unknown unit 'parsecs'"):
        parse_bytes("5 parsecs")
    with pytest.raises(TypeError, match=r"expected text or an int, got 0\.5"):
        parse_bytes(0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        parse_bytes(True)


@given(st.integers(0, 10**18))
def test_whole_bytes_are_exact(count: int) -> None:
    assert parse_bytes(f"{count}B") == count
    assert parse_bytes(f"{count}KiB") == count * 1024


def test_format_bytes() -> None:
    sizes = (0, 999, 1000, 12_345_678, 2_160_000_000, 10**15)
    assert [format_bytes(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1 KB",
        "12.3 MB",
        "2.16 GB",
        "1e+03 TB",
    ]
