"""Dense layers in bf16 and int8: every instruction set against NumPy, int8 to the bit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc import _native

# With and without the optional instructions of AVX-512, and AMX also where the machine has none.
VARIANTS = [(isa, True) for isa in _native.supported_isas()]
VARIANTS += [("avx512", False), ("amx-emulated", True)] if "avx512" in _native.supported_isas() else []
each_variant = pytest.mark.parametrize(("isa", "extensions"), VARIANTS)
few = settings(max_examples=25, deadline=None)

WIDTHS = [1, 3, 13, 16, 17, 33, 64, 367, 512]
ROWS = [1, 2, 5, 12, 13, 96, 97]
STORED = {"fp32": np.float32, "bf16": np.uint16, "int8": np.uint8}


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_range(width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = -rng.random(width) * rng.choice([0, 1, 3], width)
    high = rng.random(width) * rng.choice([0, 1, 3], width)
    return np.stack([low, high]).astype(np.float32)


def layer(weight, bias, precision="fp32", span=None, isa=None, extensions=True):
    return _native.Linear(weight, bias, precision, span, isa=isa, extensions=extensions)


def encoded(one: _native.Linear, x: np.ndarray, precision: str) -> np.ndarray:
    out = np.empty(x.shape, STORED[precision])
    assert one.encode(x, out)
    return out


def bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, half to even, as float32."""
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def fused(x: np.ndarray, scale: np.ndarray, add: np.ndarray) -> np.ndarray:
    """x * scale + add rounded once to float32; x are integers or floats of few bits, so float64 holds it."""
    return (x.astype(np.float64) * scale.astype(np.float64) + add.astype(np.float64)).astype(np.float32)


class Int8Oracle:
    """The int8 layer of docs in NumPy: integers in int64, what surrounds them in float64."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, span: np.ndarray) -> None:
        low, high = span
        with np.errstate(divide="ignore"):
            steps = np.float32(255) / (high - low)
        self.inverse = np.where(np.isfinite(steps), steps, 0).astype(np.float32)
        self.zero = np.minimum(255, np.rint(-low * self.inverse)).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            folded = np.where(self.inverse == 0, 0, weight / self.inverse.astype(np.float64))
            self.scale = (np.abs(folded).max(axis=1, initial=0) / 127).astype(np.float32)
            steps = np.where(self.scale[:, None] == 0, 0, folded / self.scale[:, None].astype(np.float64))
        self.weight = np.clip(np.rint(np.nan_to_num(steps)), -127, 127).astype(np.int64)
        self.bias = bias

    def encode(self, x: np.ndarray) -> np.ndarray:
        q = fused(x, self.inverse, self.zero)
        return np.rint(np.clip(q, 0, 255)).astype(np.uint8)

    def forward(self, q: np.ndarray, relu: bool) -> np.ndarray:
        sums = (q.astype(np.int64) - self.zero.astype(np.int64)) @ self.weight.T
        y = fused(sums.astype(np.float32), self.scale, self.bias)
        return np.maximum(y, 0) if relu else y


def int8_case(m: int, k: int, n: int, relu: bool, isa: str, extensions: bool, seed: int = 0) -> None:
    weight, bias, span = random(n, k, seed=seed), random(n, seed=seed + 1), random_range(k, seed=seed + 2)
    one = layer(weight, bias, "int8", span, isa, extensions)
    oracle = Int8Oracle(weight, bias, span)
    x = 2 * random(m, k, seed=seed + 3)
    q = encoded(one, x, "int8")
    np.testing.assert_array_equal(q, oracle.encode(x))
    q = np.random.default_rng(seed).integers(0, 256, (m, k)).astype(np.uint8)
    out = np.full((m + 1, n), 7, np.float32)
    one.forward(q, out[:m], relu=relu)
    np.testing.assert_array_equal(out[:m], oracle.forward(q, relu))
    assert (out[m] == 7).all()
    after = random_range(n, seed=seed + 4)
    following = layer(random(2, n), random(2), "int8", after, isa, extensions)
    again = np.full((m + 1, n), 9, np.uint8)
    one.forward(q, again[:m], relu=relu, next=following)
    wanted = np.empty((m, n), np.uint8)
    following.encode(out[:m].copy(), wanted)
    np.testing.assert_array_equal(again[:m], wanted)
    assert (again[m] == 9).all()


@each_variant
@pytest.mark.parametrize("k", WIDTHS)
@pytest.mark.parametrize("n", WIDTHS)
def test_int8_is_exact(isa, extensions, k, n):
    for m in ROWS if k * n < 40_000 else (1, 13):
        int8_case(m, k, n, m % 2 == 1, isa, extensions, seed=m)


@each_variant
@few
@given(
    m=st.integers(0, 30),
    k=st.integers(1, 150),
    n=st.integers(1, 150),
    relu=st.booleans(),
    seed=st.integers(0, 9),
)
def test_int8_of_any_shape(isa, extensions, m, k, n, relu, seed):
    int8_case(m, k, n, relu, isa, extensions, seed)


@each_variant
def test_int8_at_its_extremes(isa, extensions):
    """The largest sums, and inputs far outside their range."""
    k = 4096
    weight = np.ones((3, k), np.float32) * np.float32([[1], [-1], [0]])
    span = np.stack([np.zeros(k), np.ones(k)]).astype(np.float32)
    one = layer(weight, np.zeros(3, np.float32), "int8", span, isa, extensions)
    q = encoded(one, np.full((2, k), 1e30, np.float32), "int8")
    assert (q == 255).all()
    assert (encoded(one, np.full((1, k), -1e30, np.float32), "int8") == 0).all()
    out = np.empty((2, 3), np.float32)
    one.forward(q, out)
    np.testing.assert_allclose(out, [[k, -k, 0]] * 2, rtol=1e-6)


@each_variant
def test_int8_is_near_the_layer_it_stands_for(isa, extensions):
    k, n = 367, 64
    weight, bias, x = random(n, k) / 19, random(n, seed=1), random(200, k, seed=2) * (0.1 + np.arange(k) / k)
    x = x.astype(np.float32)
    one = layer(weight, bias, "int8", np.stack([x.min(0), x.max(0)]), isa, extensions)
    out = np.empty((200, n), np.float32)
    one.forward(encoded(one, x, "int8"), out)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    assert np.sqrt(np.mean((out - exact) ** 2)) < 0.02 * (exact - bias).std()


def bf16_case(m: int, k: int, n: int, relu: bool, isa: str, extensions: bool, seed: int = 0) -> None:
    weight, bias, x = random(n, k, seed=seed), random(n, seed=seed + 1), random(m, k, seed=seed + 2)
    one = layer(weight, bias, "bf16", isa=isa, extensions=extensions)
    stored = encoded(one, x, "bf16")
    np.testing.assert_array_equal(stored.astype(np.uint32) << 16, bf16(x).view(np.uint32))
    out = np.full((m + 1, n), 7, np.float32)
    one.forward(stored, out[:m], relu=relu)
    a, b = bf16(x).astype(np.float64), bf16(weight).astype(np.float64)
    exact = a @ b.T + bias
    bound = (k + 3) * 2.0**-24 * (np.abs(a) @ np.abs(b).T + np.abs(bias)) + 1e-37
    assert (np.abs(out[:m] - (np.maximum(exact, 0) if relu else exact)) <= bound).all()
    assert (out[m] == 7).all()
    following = layer(random(2, n), random(2), "bf16", isa=isa, extensions=extensions)
    again = np.full((m + 1, n), 9, np.uint16)
    one.forward(stored, again[:m], relu=relu, next=following)
    np.testing.assert_array_equal(again[:m].astype(np.uint32) << 16, bf16(out[:m]).view(np.uint32))
    assert (again[m] == 9).all()


@each_variant
@pytest.mark.parametrize("k", WIDTHS)
@pytest.mark.parametrize("n", WIDTHS)
def test_bf16(isa, extensions, k, n):
    for m in ROWS if k * n < 40_000 else (1, 13):
        bf16_case(m, k, n, m % 2 == 1, isa, extensions, seed=m)


@each_variant
def test_bf16_rounds_half_to_even_and_keeps_what_is_special(isa, extensions):
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0x00000001]
    x = np.array([[*bits, 0x7FFFFFFF, 0x7F800001]], np.uint32).view(np.float32)
    one = layer(np.ones((1, 10), np.float32), np.zeros(1, np.float32), "bf16", None, isa, extensions)
    out = np.empty((1, 10), np.uint16)
    assert not one.encode(x, out)  # infinities and NaN are told
    assert out[0, :8].tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0x7F80, 0xFF80, 0x8000, 0x0000]
    assert np.isnan((out[0, 8:].astype(np.uint32) << 16).view(np.float32)).all()


@each_variant
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("width", [1, 16, 33])
def test_inputs_that_are_not_finite_are_told(isa, extensions, value, precision, width):
    span = np.stack([-np.ones(width), np.ones(width)]).astype(np.float32)
    one = layer(random(3, width), random(3), precision, span, isa, extensions)
    x = random(4, width)
    out = np.empty(x.shape, STORED[precision])
    assert one.encode(x, out)
    for place in {0, width - 1}:
        bad = x.copy()
        bad[2, place] = value
        assert not one.encode(bad, out)


@each_variant
@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("n", [1, 16, 70, 256])
def test_a_row_does_not_depend_on_the_batch(isa, extensions, precision, n):
    x, span = random(101, 75), np.stack([-np.ones(75), np.ones(75)]).astype(np.float32)
    one = layer(random(n, 75, seed=1), random(n, seed=2), precision, span, isa, extensions)
    stored = encoded(one, x, precision)
    whole, pooled, row = (np.empty((m, n), np.float32) for m in (101, 101, 1))
    one.forward(stored, whole)
    one.forward(stored, pooled, pool=_native.ThreadPool(3))
    np.testing.assert_array_equal(whole, pooled)
    for i in (0, 50, 100):
        one.forward(stored[i : i + 1], row)
        np.testing.assert_array_equal(row[0], whole[i])


def test_the_oracle_fuses_exactly():
    """float64 holds the product and nearly the sum; where it rounds twice, exact fractions would tell."""
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**23), 2**23, 300).astype(np.float32)
    scale, add = random(300), random(300, seed=1)
    for result, a, b, c in zip(fused(x, scale, add), x, scale, add, strict=True):
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        error = abs(Fraction(float(result)) - exact)
        nearest = Fraction(float(np.spacing(np.abs(result)))) / 2
        assert error <= nearest


def refused(message: str, *arguments, error=ValueError) -> None:
    with pytest.raises(error, match=message):
        layer(*arguments)


def test_what_cannot_be_packed_is_named():
    weight, bias = random(3, 2), random(3)
    span = np.array([[-1, 0], [1, 2]], np.float32)
    refused("precision 'int4' is unknown; use fp32, bf16 or int8", weight, bias, "int4")
    refused("range: an int8 layer needs the range of its inputs", weight, bias, "int8")
    refused(
        r"range: expected shape \[2, 2\], got \[2, 3\]", weight, bias, "int8", np.zeros((2, 3), np.float32)
    )
    for low, high in ((0.5, 1), (-1, -0.5), (np.nan, 1), (0, np.inf), (-3e38, 3e38)):
        bad = span.copy()
        bad[:, 1] = low, high
        refused(r"range\[1\] = .* must be finite and hold 0", weight, bias, "int8", bad)
    for precision in ("bf16", "int8"):
        broken = weight.copy()
        broken[2, 1] = np.nan
        refused(r"weight\[5\] = nan is not finite", broken, bias, precision, span)
        broken = bias.copy()
        broken[1] = np.inf
        refused(r"bias\[1\] = inf is not finite", weight, broken, precision, span)
    refused("an int8 layer takes at most", np.zeros((1, 40_000), np.float32), bias[:1], "int8",
            np.zeros((2, 40_000), np.float32))  # fmt: skip
    one = layer(weight, bias, "int8", span)
    with pytest.raises(TypeError, match="x: expected dtype uint8"):
        one.forward(random(4, 2), np.empty((4, 3), np.float32))
    two = layer(random(2, 3), bias[:2], "bf16")
    with pytest.raises(TypeError, match="out: expected dtype uint16"):
        one.forward(np.zeros((4, 2), np.uint8), np.empty((4, 3), np.float32), next=two)
    with pytest.raises(ValueError, match="next: takes 2 inputs, expected 3"):
        one.forward(np.zeros((4, 2), np.uint8), np.empty((4, 3), np.uint8), next=one)
