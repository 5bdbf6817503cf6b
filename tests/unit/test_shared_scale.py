"""The scale that all rows of a band share: never worse than one that spans all values, and near the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from row_formats import LEVELS, decode, encode

from screc.storage.shared_scale import BandValues, shared_scale, spanning_scale

each_format = pytest.mark.parametrize("fmt", sorted(LEVELS))


def values_of(rows: np.ndarray, step: int = 1000, **options: int) -> BandValues:
    band = BandValues(rows.shape[1], **options)
    for start in range(0, len(rows), step):
        band.add(rows[start : start + step])
    return band


def lost(rows: np.ndarray, fmt: str, scale: tuple[float, float]) -> float:
    """The sum of squared errors with a shared scale."""
    decoded = decode(encode(rows, fmt, scale), fmt, rows.shape[1], scale)
    return float(np.square(rows.astype(np.float64) - decoded).sum())


def spanning(rows: np.ndarray, fmt: str) -> tuple[float, float]:
    return spanning_scale(fmt, float(rows.min()), float(rows.max()))


def relative(rows: np.ndarray, fmt: str) -> float:
    scale = shared_scale(values_of(rows), fmt)
    return (lost(rows, fmt, scale) / float(np.square(rows, dtype=np.float64).sum())) ** 0.5


def shapes() -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(1, 12), st.integers(1, 9))


def any_rows() -> st.SearchStrategy[np.ndarray]:
    """Rows of any sizes, of few distinct values, and far from zero."""
    wide = arrays.arrays(np.float32, shapes(), elements=st.floats(-(2.0**100), 2.0**100, width=32))
    near = arrays.arrays(np.float32, shapes(), elements=st.floats(100, 101, width=32))
    few = arrays.arrays(np.float32, shapes(), elements=st.sampled_from([-3.5, -0.3, 0.0, 0.1, 2.0, 500.0]))
    return st.one_of(wide, near, few)


@settings(max_examples=300, deadline=None)
@given(rows=any_rows(), fmt=st.sampled_from(sorted(LEVELS)))
def test_it_never_loses_more_than_a_scale_that_spans_all_values(rows: np.ndarray, fmt: str) -> None:
    scale = shared_scale(values_of(rows), fmt)
    assert lost(rows, fmt, scale) <= lost(rows, fmt, spanning(rows, fmt)) * (1 + 1e-12)


@settings(max_examples=200, deadline=None)
@given(
    codes=arrays.arrays(np.int8, shapes(), elements=st.integers(-8, 7)),
    step=st.floats(2.0**-20, 2.0**20, width=32),
    fmt=st.sampled_from(sorted(LEVELS)),
)
def test_even_levels_come_back_as_near_as_float32_allows(codes: np.ndarray, step: float, fmt: str) -> None:
    rows = codes.astype(np.float32) * np.float32(step)
    scale = shared_scale(values_of(rows), fmt)
    decoded = decode(encode(rows, fmt, scale), fmt, rows.shape[1], scale)
    assert np.abs(decoded - rows).max() <= 4e-6 * step


@pytest.mark.parametrize("least", [-8, -7])
def test_rows_trained_for_symmetric_int4_codes_are_exact(least: int) -> None:
    codes = np.random.default_rng(0).integers(least, 8, (200, 8)).astype(np.float32)
    for step in (0.25, 2.0**-9):
        rows = codes * np.float32(step)
        assert lost(rows, "int4", shared_scale(values_of(rows), "int4")) == 0
    assert relative(codes * np.float32(0.013), "int4") < 1e-6


@each_format
@pytest.mark.parametrize("value", [0.0, -3.7, 1e30])
def test_a_constant_band_is_exact(value: float, fmt: str) -> None:
    rows = np.full((9, 4), value, np.float32)
    assert shared_scale(values_of(rows), fmt) == (0.0, rows[0, 0])


def test_normal_rows_lose_what_the_best_uniform_step_loses() -> None:
    # Max, "Quantizing for minimum distortion" (1960), table II: 16 levels lose 0.01154 of the variance.
    rows = np.random.default_rng(0).standard_normal((20_000, 16)).astype(np.float32)
    assert relative(rows, "int4") == pytest.approx(0.01154**0.5, rel=0.01)
    assert lost(rows, "int4", spanning(rows, "int4")) > 2 * lost(
        rows, "int4", shared_scale(values_of(rows), "int4")
    )


@each_format
@pytest.mark.parametrize("shape", ["normal", "laplace", "exponential", "bimodal", "outliers"])
def test_it_is_near_the_best_of_many_spans(shape: str, fmt: str) -> None:
    random = np.random.default_rng(1)
    flat = {
        "normal": lambda: random.standard_normal(6000),
        "laplace": lambda: random.laplace(size=6000),
        "exponential": lambda: random.exponential(size=6000) + 10,
        "bimodal": lambda: random.normal(random.choice([-5, 5], 6000), 0.4),
        "outliers": lambda: random.standard_normal(6000) * np.where(np.arange(6000) % 1000, 1, 20),
    }[shape]()
    rows = flat.reshape(-1, 6).astype(np.float32)
    found = lost(rows, fmt, shared_scale(values_of(rows), fmt))
    shares = np.concatenate([[0], np.geomspace(1e-4, 0.1, 14)])
    lows, highs = np.quantile(flat, shares), np.quantile(flat, 1 - shares)
    others = [((high - low) / LEVELS[fmt], low) for low in lows for high in highs]
    assert found <= 1.03 * min(lost(rows, fmt, scale) for scale in others)


def test_the_pieces_that_rows_come_in_do_not_matter() -> None:
    rows = np.random.default_rng(2).standard_normal((3000, 7)).astype(np.float32)
    expected = values_of(rows, 3000, sample_values=1000).weighted()
    for step in (1, 37, 1024):
        for found, wanted in zip(values_of(rows, step, sample_values=1000).weighted(), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("count", "dim"), [(3000, 7), (143, 7), (20, 600), (9, 5000)])
def test_a_large_band_is_sampled_evenly_and_its_ends_are_kept(count: int, dim: int) -> None:
    rows = np.random.default_rng(3).standard_normal((count, dim)).astype(np.float32)
    band = values_of(rows, 100, sample_values=1000)  # and 62 at either end
    values, weights = band.weighted()
    everything = np.sort(rows.reshape(-1))
    assert band.bounds == (everything[0], everything[-1])
    np.testing.assert_array_equal(values[:62], everything[:62])
    np.testing.assert_array_equal(values[-62:], everything[-62:])
    assert (np.diff(values) >= 0).all()
    assert weights.sum() == pytest.approx(rows.size)
    assert len(values) <= max(1000, dim) + 124
    every = -(-count // max(1, 1000 // dim))
    every = 1 << (every - 1).bit_length()
    sample = np.sort(rows[::every].reshape(-1))
    inside = sample[(sample >= everything[61]) & (sample <= everything[-62])]
    np.testing.assert_array_equal(values[62:-62], inside)


@each_format
def test_outliers_that_a_sample_misses_count(fmt: str) -> None:
    rows = np.random.default_rng(4).standard_normal((5000, 8)).astype(np.float32)
    rows[1::1000] *= 1e4  # 40 values, none of them in the sample, that carry nearly all squares
    found = lost(rows, fmt, shared_scale(values_of(rows, sample_values=1000), fmt))
    assert found <= 1.01 * lost(rows, fmt, spanning(rows, fmt))
