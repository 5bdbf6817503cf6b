"""Encoding, decoding and pooling rows of every format, on every instruction set, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from row_formats import CODECS, LEVELS, decode, encode

from screc import _native

each_isa = pytest.mark.parametrize("isa", _native.supported_isas())
each_codec = pytest.mark.parametrize(("fmt", "shared"), CODECS)
DIMS = [*range(1, 71), 127, 128, 129, 255, 256, 511, 512]
SHARED = (0.037, -1.9)


def native_encode(rows: np.ndarray, fmt: str, scale: tuple[float, float] | None = None) -> np.ndarray:
    size = _native.row_bytes(fmt, rows.shape[1], scale is None)
    out = np.full((len(rows), size), 0xAA, np.uint8)
    _native.encode_rows(rows, fmt, out, scale=scale)
    return out


def native_decode(raw: np.ndarray, fmt: str, dim: int, scale=None, isa=None) -> np.ndarray:
    memory = np.full(len(raw) * dim + 64, 7.0, np.float32)
    out = memory[: len(raw) * dim].reshape(len(raw), dim)
    _native.decode_rows(raw, fmt, out, scale=scale, isa=isa)
    assert (memory[len(raw) * dim :] == 7).all()
    return out


def scale_of(fmt: str, shared: bool) -> tuple[float, float] | None:
    if not shared:
        return None
    return SHARED if fmt == "int8" else (0.29, -2.1)


def random_rows(n: int, dim: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    sizes = 10.0 ** generator.integers(-4, 3, (n, 1))
    return (generator.standard_normal((n, dim)) * sizes).astype(np.float32)


@pytest.mark.parametrize(
    ("fmt", "dim", "own", "expected"),
    [
        ("fp32", 7, True, 28),
        ("fp16", 7, True, 14),
        ("bf16", 7, False, 14),
        ("int8", 7, True, 11),
        ("int8", 7, False, 7),
        ("int4", 7, True, 8),
        ("int4", 8, False, 4),
    ],
)
def test_row_bytes(fmt: str, dim: int, own: bool, expected: int) -> None:
    assert _native.row_bytes(fmt, dim, own) == expected


@each_codec
def test_encoding_is_that_of_numpy_to_the_bit(fmt: str, shared: bool) -> None:
    scale = scale_of(fmt, shared)
    for dim in DIMS:
        rows = random_rows(30, dim, dim)
        raw = native_encode(rows, fmt, scale)
        np.testing.assert_array_equal(raw, encode(rows, fmt, scale))
        np.testing.assert_array_equal(native_decode(raw, fmt, dim, scale), decode(raw, fmt, dim, scale))


@each_isa
@each_codec
def test_decoding_is_that_of_numpy_to_the_bit(isa: str, fmt: str, shared: bool) -> None:
    scale = scale_of(fmt, shared)
    for dim in DIMS:
        raw = encode(random_rows(13, dim, dim), fmt, scale)
        np.testing.assert_array_equal(native_decode(raw, fmt, dim, scale, isa), decode(raw, fmt, dim, scale))


@each_isa
@pytest.mark.parametrize("fmt", ["fp16", "bf16"])
def test_every_16_bit_value_comes_back(isa: str, fmt: str) -> None:
    raw = np.arange(65536, dtype=np.uint16).reshape(-1, 64).view(np.uint8)
    got = native_decode(raw, fmt, 64, isa=isa)
    want = decode(raw, fmt, 64)
    np.testing.assert_array_equal(got, want)  # NaN equals NaN
    finite = np.isfinite(want).all(1)
    np.testing.assert_array_equal(native_encode(got[finite], fmt), raw[finite])
    assert np.isnan(native_decode(native_encode(got, fmt), fmt, 64)[np.isnan(want)]).all()


@settings(max_examples=200, deadline=None)
@given(rows=arrays.arrays(np.float32, (1, 8), elements=st.floats(-65504, 65504, width=32)))
def test_fp16_rounds_to_nearest_even(rows: np.ndarray) -> None:
    np.testing.assert_array_equal(native_encode(rows, "fp16"), encode(rows, "fp16"))


def test_fp16_rounds_every_half_way_value_to_even() -> None:
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float64)
    above = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    between = ((halves + above) / 2).astype(np.float32)
    for x in (
        between,
        np.nextafter(between, np.float32(0)),
        np.nextafter(between, np.float32(1e9)),
        -between,
    ):
        row = x.reshape(1, -1)
        np.testing.assert_array_equal(native_encode(row, "fp16"), encode(row, "fp16"))


@settings(max_examples=300, deadline=None)
@given(
    rows=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=st.floats(-6e4, 6e4, width=32)
    ),
    fmt=st.sampled_from(sorted(LEVELS)),
)
def test_rows_with_their_own_scale_come_back_within_half_of_it(rows: np.ndarray, fmt: str) -> None:
    raw = native_encode(rows, fmt)
    np.testing.assert_array_equal(raw, encode(rows, fmt))
    scale = np.ascontiguousarray(raw[:, :2]).view(np.float16).astype(np.float64)
    error = np.abs(native_decode(raw, fmt, rows.shape[1]).astype(np.float64) - rows)
    rounding = np.abs(rows).max(1, keepdims=True) * 2.0**-22 + 1e-43  # of fp32, its subnormals too
    assert (error <= scale / 2 + rounding).all()
    # The scale is no more than rounding makes it.
    spread = rows.astype(np.float64).max(1) - rows.min(1) + np.abs(rows.astype(np.float64)).min(1) * 2.0**-9
    assert (scale[:, 0] <= (spread + 1e-6) / LEVELS[fmt] * (1 + 2.0**-9) + 2.0**-23).all()


@pytest.mark.parametrize("fmt", ["int8", "int4"])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -3.25, 65504.0, -65504.0, 6e-8, 100.03, -0.1])
def test_a_constant_row_is_as_good_as_its_bias(fmt: str, value: float) -> None:
    rows = np.full((2, 9), value, np.float32)
    got = native_decode(native_encode(rows, fmt), fmt, 9)
    rounded = rows.astype(np.float16).astype(np.float32)
    assert (np.abs(got - rows) <= np.abs(rounded - rows)).all()


@settings(max_examples=100, deadline=None)
@given(data=st.data(), dim=st.integers(1, 70))
def test_int4_codes_are_packed_to_the_bit(data: st.DataObject, dim: int) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 15), min_size=dim, max_size=dim)), np.uint8)
    raw = native_encode(codes[None].astype(np.float32), "int4", (1.0, 0.0))
    assert raw.shape == (1, (dim + 1) // 2)
    for c, code in enumerate(codes):
        assert raw[0, c // 2] >> (4 * (c % 2)) & 15 == code
    if dim % 2:
        assert raw[0, -1] >> 4 == 0
    for isa in _native.supported_isas():
        np.testing.assert_array_equal(native_decode(raw, "int4", dim, (1.0, 0.0), isa)[0], codes)


def test_a_shared_scale_clips_to_its_codes_and_may_be_zero() -> None:
    rows = np.array([[-9.0, 0.0, 0.24, 0.26, 9.0, 0.125, 0.375]], np.float32)
    got = native_decode(native_encode(rows, "int4", (0.25, 0.0)), "int4", 7, (0.25, 0.0))
    np.testing.assert_array_equal(got, [[0, 0, 0.25, 0.25, 3.75, 0, 0.5]])
    got = native_decode(native_encode(rows, "int8", (0.0, 2.5)), "int8", 7, (0.0, 2.5))
    np.testing.assert_array_equal(got, np.full((1, 7), 2.5))
    far = np.array([[-3.4e38, 3.4e38]], np.float32)  # their distance from the bias is infinite
    for fmt, scale, expected in (
        ("int4", (1e-30, -1e38), [0, 15]),
        ("int8", (1e-40, 3.4e38), [0, 0]),
        ("int8", (0.5, -3.4e38), [0, 255]),
    ):
        raw = native_encode(far, fmt, scale)
        codes = [raw[0, 0] & 15, raw[0, 0] >> 4] if fmt == "int4" else raw[0]
        np.testing.assert_array_equal(codes, expected)


@each_isa
@each_codec
@pytest.mark.parametrize("mean", [False, True])
def test_pooling_is_the_sum_of_decoded_rows(isa: str, fmt: str, shared: bool, mean: bool) -> None:
    for dim in DIMS:
        check_pooling(isa, fmt, scale_of(fmt, shared), mean, dim)


def check_pooling(isa: str, fmt: str, scale: tuple[float, float] | None, mean: bool, dim: int) -> None:
    raw = encode(random_rows(40, dim, dim), fmt, scale)
    values = decode(raw, fmt, dim, scale).astype(np.float64)
    lengths = np.array([0, 1, 2, 3, 4, 5, 7, 0, 33, 1, 0])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.random.default_rng(dim).integers(0, 40, offsets[-1])
    memory = np.full(len(lengths) * dim + 64, np.nan, np.float32)
    memory[len(lengths) * dim :] = 7
    out = memory[: len(lengths) * dim].reshape(len(lengths), dim)
    stored = raw.view(np.float32) if fmt == "fp32" else raw
    _native.pool_rows(stored, ids, offsets, out, mean=mean, format=fmt, scale=scale, isa=isa)
    assert (memory[len(lengths) * dim :] == 7).all()
    if fmt in LEVELS:  # codes and biases are summed apart
        bias = scale[1] if scale else np.ascontiguousarray(raw[:, 2:4]).view(np.float16).astype(np.float64)
        sizes = np.abs(values - bias) + np.abs(bias)
    else:
        sizes = np.abs(values)
    for b, length in enumerate(lengths):
        bag = ids[offsets[b] : offsets[b + 1]]
        divisor = length if mean and length else 1
        bound = (length + 3) * 2.0**-24 * sizes[bag].sum(0) / divisor
        assert (np.abs(out[b] - values[bag].sum(0) / divisor) <= bound).all()
        if length == 1:
            np.testing.assert_array_equal(out[b], values[bag[0]])
        alone = np.empty((1, dim), np.float32)
        _native.pool_rows(
            stored, bag, np.array([0, length]), alone, mean=mean, format=fmt, scale=scale, isa=isa
        )
        np.testing.assert_array_equal(alone[0], out[b])


@pytest.mark.parametrize(
    ("fmt", "row", "message"),
    [
        ("fp16", [1.0, 65520.0], r"rows\[102\] holds 65520, which fp16 rows cannot hold"),
        ("bf16", [1.0, -3.4e38], r"rows\[102\] holds -3.39999"),
        ("int8", [0.0, np.nan], r"rows\[102\] holds nan, which int8"),
        ("int4", [-np.inf, 0.0], r"rows\[102\] holds -inf, which int4"),
        ("int8", [7e4, 7e4], r"rows\[102\] has the bias 70000 beyond fp16's 65504"),
        ("int4", [0.0, 1e6], r"rows\[102\] has the scale 66666.* beyond fp16's 65504.*use fp32"),
    ],
)
def test_values_that_a_format_cannot_hold_are_named(fmt: str, row: list[float], message: str) -> None:
    rows = np.zeros((4, 2), np.float32)
    rows[2] = row
    out = np.empty((4, _native.row_bytes(fmt, 2)), np.uint8)
    with pytest.raises(ValueError, match=message):
        _native.encode_rows(rows, fmt, out, first_row=100)


def test_infinities_and_nan_survive_16_bits() -> None:
    rows = np.array([[np.inf, -np.inf, np.nan]], np.float32)
    for fmt in ("fp16", "bf16"):
        np.testing.assert_array_equal(native_decode(native_encode(rows, fmt), fmt, 3), rows)


def test_bad_arguments_are_named() -> None:
    rows, out = np.zeros((3, 5), np.float32), np.zeros((3, 9), np.uint8)
    with pytest.raises(ValueError, match="format: 'int2' is unknown; use fp32, fp16, bf16, int8 or int4"):
        _native.encode_rows(rows, "int2", out)
    with pytest.raises(ValueError, match="scale: fp16 rows have none"):
        _native.encode_rows(rows, "fp16", out, scale=(1.0, 0.0))
    with pytest.raises(ValueError, match="scale: expected a finite scale >= 0"):
        _native.encode_rows(rows, "int8", out, scale=(-1.0, 0.0))
    with pytest.raises(ValueError, match=r"out: expected shape \[3, 9\], got \[3, 8\]"):
        _native.encode_rows(rows, "int8", np.zeros((3, 8), np.uint8))
    with pytest.raises(
        ValueError, match=r"rows: int8 rows of 6 columns take 10 bytes, scale and bias included"
    ):
        _native.decode_rows(out, "int8", np.zeros((3, 6), np.float32))
    with pytest.raises(TypeError, match="rows: expected dtype uint8"):
        _native.pool_rows(rows, np.arange(1), np.array([0, 1]), np.zeros((1, 5), np.float32), format="int8")
    with pytest.raises(ValueError, match="dim: must be at least 1, got 0"):
        _native.row_bytes("int8", 0)
