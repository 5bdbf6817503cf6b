"""Every compression method under the contract."""

from __future__ import annotations

from method_contract import MethodContract

from screc.embeddings import METHODS


class TestHash(MethodContract):
    name = "hash"
    ratios = (10, 2, 100, 900)


class TestEqualCapHash(MethodContract):
    name = "hash-cap"
    ratios = (10, 2, 100, 900)


class TestQuotientRemainder(MethodContract):
    name = "qr"
    ratios = (10, 2, 20)


class TestQuotientRemainderSum(MethodContract):
    name = "qr"
    ratios = (10,)
    options = {"composition": "sum"}  # noqa: RUF012


def test_every_method_is_held_to_the_contract() -> None:
    assert {cls.name for cls in MethodContract.__subclasses__()} == set(METHODS)
