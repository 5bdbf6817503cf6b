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


class TestRobe(MethodContract):
    name = "robe"
    ratios = (10, 2, 100, 1000, 7000)


class TestRobeOfSingleNumbers(MethodContract):
    name = "robe"
    ratios = (10,)
    options = {"block": 1}  # noqa: RUF012


class TestMEmCom(MethodContract):
    name = "memcom"
    ratios = (4, 2, 7)


class TestMEmComWithBias(MethodContract):
    name = "memcom"
    ratios = (3,)
    options = {"bias": True}  # noqa: RUF012


class TestDeepHash(MethodContract):
    name = "dhe"
    ratios = (10, 2, 40)
    options = {"num_hashes": 32}  # noqa: RUF012


class TestProjection(MethodContract):
    name = "jl"
    ratios = (10, 2, 100, 900)


class TestMixedDimension(MethodContract):
    name = "mde"
    ratios = (4, 2, 7)


class TestHotCold(MethodContract):
    name = "hot-cold"
    ratios = (10, 2, 100, 3000)


class TestHotColdPerTable(MethodContract):
    name = "hot-cold"
    ratios = (10, 500)
    options = {"cold": "per-table"}  # noqa: RUF012


class TestMemRec(MethodContract):
    name = "mem-rec"
    ratios = (10, 2, 1000)


class TestMemRecOfThreeTokens(MethodContract):
    name = "mem-rec"
    ratios = (10,)
    options = {"num_tokens": 3}  # noqa: RUF012


class TestTensorRing(MethodContract):
    name = "tensor-ring"
    ratios = (10, 2, 40)


def test_every_method_is_held_to_the_contract() -> None:
    assert {cls.name for cls in MethodContract.__subclasses__()} == set(METHODS)
