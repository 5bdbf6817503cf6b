"""Every compression method under the contract."""

from __future__ import annotations

from method_contract import MethodContract

from screc.embeddings import METHODS


class TestWholeTables(MethodContract):
    name = "full"
    ratios = (1, 0.5)


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


class TestDqrm(MethodContract):
    name = "dqrm"
    ratios = (7, 2, 3.9, 15)
    options = {"period": 3}  # noqa: RUF012
    exact_gradients = False


class TestLearnedStep(MethodContract):
    name = "lsq"
    ratios = (7, 2, 3.9, 15)
    exact_gradients = False


class TestLearnedClip(MethodContract):
    name = "pact"
    ratios = (7, 2, 3.9, 15)
    exact_gradients = False


class TestIntegerRows(MethodContract):
    name = "int"
    ratios = (3.9, 2 - 1e-3)
    exact_gradients = False
    options = {"lr": 0.1, "limit": 2.0}  # noqa: RUF012


class TestAdaptiveSteps(MethodContract):
    name = "alpt"
    ratios = (2.6, 1.5)
    exact_gradients = False
    options = {"lr": 0.1, "limit": 2.0}  # noqa: RUF012


class TestDeepLight(MethodContract):
    name = "deeplight"
    ratios = (4, 1.2, 6)


class TestLearnedThreshold(MethodContract):
    name = "pep"
    ratios = (4, 1.2, 6)


class TestProductCodes(MethodContract):
    name = "dpq"
    ratios = (4, 2, 6)
    exact_gradients = False


class TestMultiGranularCodes(MethodContract):
    name = "mgqe"
    ratios = (4, 2, 6)
    exact_gradients = False


class TestClustered(MethodContract):
    name = "kmeans"
    ratios = (10, 2, 30)


class TestTtRec(MethodContract):
    name = "tt-rec"
    ratios = (10, 2, 40)


class TestTtRecOfTwoCores(MethodContract):
    name = "tt-rec"
    ratios = (6,)
    options = {"num_cores": 2, "whole_below": 100}  # noqa: RUF012


class TestAdaptEmb(MethodContract):
    name = "adapt"
    ratios = (4, 2, 6)


class TestCafe(MethodContract):
    name = "cafe"
    ratios = (10, 2, 100, 500)


class TestCafeByFrequency(MethodContract):
    name = "cafe"
    ratios = (20,)
    options = {"importance": "frequency"}  # noqa: RUF012


def test_every_method_is_held_to_the_contract() -> None:
    assert {cls.name for cls in MethodContract.__subclasses__()} == set(METHODS)
