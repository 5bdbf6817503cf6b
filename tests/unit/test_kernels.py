"""Every kernel, on every instruction set of this machine, against NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc import _native

ISAS = _native.supported_isas()
each_isa = pytest.mark.parametrize("isa", ISAS)
few = settings(max_examples=40, deadline=None)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(actual: np.ndarray, expected: np.ndarray, magnitude: np.ndarray | float, terms: int) -> None:
    """Within the documented bound: terms * 2^-24 * sum of |terms|, and one rounding of the result."""
    bound = (terms + 2) * 2.0**-24 * magnitude + 1e-37
    assert actual.dtype == np.float32
    assert np.isfinite(actual).all()
    np.testing.assert_array_less(np.abs(actual - expected), bound + np.zeros_like(expected))


def guarded(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """An output of this shape full of NaN, inside a larger array whose other cells must stay as they are."""
    size = math.prod(shape)
    memory = np.full(size + 64, np.nan, dtype=np.float32)
    memory[size:] = 7.0
    return memory[:size].reshape(shape), memory[size:]


def tt_oracle(cores: list[np.ndarray], ids: np.ndarray) -> np.ndarray:
    radix = [core.shape[1] for core in cores]
    digits = np.unravel_index(ids, radix)
    rows = np.ones((len(ids), 1, 1))
    for core, digit in zip(cores, digits, strict=True):
        step = core.astype(np.float64)[:, digit].transpose(1, 0, 2, 3)  # [n, r, q, r']
        rows = np.einsum("nmr,nrqs->nmqs", rows, step)
        rows = rows.reshape(len(ids), -1, core.shape[3])
    return rows[:, :, 0]


def random_cores(rows, columns, ranks, seed=0) -> list[np.ndarray]:
    full = [1, *ranks, 1]
    return [random(full[k], rows[k], columns[k], full[k + 1], seed=seed + k) for k in range(len(rows))]


def test_isas():
    assert ISAS[0] == "scalar"
    assert _native.isa() in ISAS


@each_isa
@few
@given(dim=st.integers(1, 512), n=st.integers(0, 40), seed=st.integers(0, 9))
def test_gather_rows_copies_exactly(isa, dim, n, seed):
    rows = random(23, dim, seed=seed)
    ids = np.random.default_rng(seed).integers(0, 23, n)
    out, guard = guarded(n, dim)
    _native.gather_rows(rows, ids, out, isa=isa)
    assert np.array_equal(out, rows[ids])
    assert (guard == 7).all()


@each_isa
@few
@given(
    dim=st.integers(1, 512),
    lengths=st.lists(st.integers(0, 30), max_size=12),
    mean=st.booleans(),
    seed=st.integers(0, 9),
)
def test_pool_rows(isa, dim, lengths, mean, seed):
    rows = random(50, dim, seed=seed)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    ids = np.random.default_rng(seed).integers(0, 50, offsets[-1])
    out, guard = guarded(len(lengths), dim)
    _native.pool_rows(rows, ids, offsets, out, mean=mean, isa=isa)
    for b, length in enumerate(lengths):
        bag = rows[ids[offsets[b] : offsets[b + 1]]].astype(np.float64)
        scale = length if mean and length else 1
        close(out[b], bag.sum(0) / scale, np.abs(bag).sum(0) / scale, length)
    assert (guard == 7).all()


@each_isa
@pytest.mark.parametrize("dim", [1, 8, 16, 17, 31, 32, 48, 64, 96, 128, 200])
def test_pool_rows_of_one_look_up_is_the_row(isa, dim):
    rows = random(5, dim)
    out = np.empty((3, dim), np.float32)
    _native.pool_rows(rows, np.array([4, 0, 2]), np.array([0, 1, 2, 3]), out, mean=True, isa=isa)
    assert np.array_equal(out, rows[[4, 0, 2]])


@each_isa
@few
@given(data=st.data(), seed=st.integers(0, 9))
def test_tt_rows(isa, data, seed):
    num = data.draw(st.integers(2, 4))
    small = st.integers(1, {2: 24, 3: 9, 4: 5}[num])
    rows = data.draw(st.lists(st.integers(1, 5), min_size=num, max_size=num))
    columns = data.draw(st.lists(small, min_size=num, max_size=num))
    ranks = data.draw(st.lists(st.integers(1, 70), min_size=num - 1, max_size=num - 1))
    cores = random_cores(rows, columns, ranks, seed)
    ids = np.random.default_rng(seed).integers(0, math.prod(rows), 17)
    if data.draw(st.booleans()):
        ids.sort()
    out, guard = guarded(17, math.prod(columns))
    _native.tt_rows(cores, ids, out, isa=isa)
    magnitude = tt_oracle([np.abs(core) for core in cores], ids)
    close(out, tt_oracle(cores, ids), magnitude, sum(ranks) + num)
    assert (guard == 7).all()


TT_COLUMNS = [(4, 4, 4), (2, 2, 4), (4, 4, 8), (2, 4, 4), (4, 8, 8), (8, 16), (16, 4), (16, 16), (8, 8)]
TT_COLUMNS += [
    (4, 4, 4, 4),
    (2, 2, 2, 2),
    (2, 2, 4, 8),
    (12, 2, 4),
    (2, 8, 8),
    (5, 4, 4),
    (4, 5, 4),
    (4, 4, 5),
]


@each_isa
@pytest.mark.parametrize("columns", TT_COLUMNS)
@pytest.mark.parametrize("rank", [4, 8, 13, 16, 32, 64])
def test_tt_rows_of_common_shapes(isa, columns, rank):
    """Sorted slots share their prefix's work, several at a time; the result is that of each alone."""
    ranks = [rank + k for k in range(len(columns) - 1)] if rank == 13 else [rank] * (len(columns) - 1)
    cores = random_cores([7] * len(columns), columns, ranks)
    ids = np.random.default_rng(1).integers(0, 7 ** len(columns), 200)
    ids = np.concatenate([ids, np.sort(ids), np.arange(14)])
    out, guard = guarded(len(ids), math.prod(columns))
    _native.tt_rows(cores, ids, out, isa=isa)
    expected = tt_oracle(cores, ids)
    magnitude = tt_oracle([np.abs(core) for core in cores], ids)
    close(out, expected, magnitude, sum(ranks) + len(columns))
    error = np.linalg.norm(out - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert error.max() < 1e-6
    assert (guard == 7).all()
    pooled = np.empty_like(out)
    _native.tt_rows(cores, ids, pooled, pool=_native.ThreadPool(2), isa=isa)
    assert np.array_equal(pooled, out)
    alone = np.empty((1, out.shape[1]), np.float32)
    for k in (*range(0, 200, 17), *range(200, 230), len(ids) - 1):
        _native.tt_rows(cores, ids[k : k + 1], alone, isa=isa)
        assert np.array_equal(alone[0], out[k])


@each_isa
@pytest.mark.parametrize("rows", [(65536, 65536), (2048, 2048, 2048), (1, 99991, 3), (46341, 46341, 2)])
def test_tt_rows_of_huge_tables(isa, rows):
    """Digits are found by multiplication up to 2^32 rows and by division above; both must be exact."""
    cores = random_cores(rows, [1] * len(rows), [1] * (len(rows) - 1))
    last = math.prod(rows) - 1
    near = [k * unit + e for unit in (rows[-1], last // 2 + 1) for k in (1, 2, 1000) for e in (-1, 0, 1)]
    ids = np.array([0, 1, last, last - 1, *(min(last, i) for i in near)], dtype=np.int64)
    ids = np.concatenate([ids, np.random.default_rng(0).integers(0, last + 1, 500)])
    out = np.empty((len(ids), 1), np.float32)
    _native.tt_rows(cores, ids, out, isa=isa)
    expected = tt_oracle(cores, ids)
    close(out, expected, np.abs(expected), len(rows))


def linear_case(isa, m, k, n, relu, seed=0):
    x, weight, bias = random(m, k, seed=seed), random(n, k, seed=seed + 1), random(n, seed=seed + 2)
    out, guard = guarded(m, n)
    _native.Linear(weight, bias, isa=isa).forward(x, out, relu=relu)
    expected = x.astype(np.float64) @ weight.astype(np.float64).T + bias
    magnitude = np.abs(x).astype(np.float64) @ np.abs(weight).astype(np.float64).T + np.abs(bias)
    close(out, np.maximum(expected, 0) if relu else expected, magnitude, k + 1)
    assert (guard == 7).all()


@each_isa
@few
@given(
    m=st.integers(0, 40),
    k=st.integers(0, 150),
    n=st.integers(1, 150),
    relu=st.booleans(),
    seed=st.integers(0, 9),
)
def test_linear(isa, m, k, n, relu, seed):
    linear_case(isa, m, k, n, relu, seed)


@each_isa
@pytest.mark.parametrize("m", [1, 2, 3, 5, 6, 11, 12, 13, 97])
@pytest.mark.parametrize(("k", "n"), [(13, 512), (512, 256), (64, 16), (367, 65), (256, 1), (7, 4), (9, 129)])
def test_linear_of_common_shapes(isa, m, k, n):
    linear_case(isa, m, k, n, relu=True)


@each_isa
@pytest.mark.parametrize("n", [1, 70, 256])
def test_linear_row_does_not_depend_on_the_batch(isa, n):
    x, layer = random(101, 75), _native.Linear(random(n, 75, seed=1), random(n, seed=2), isa=isa)
    whole, pooled, row = (np.empty((m, n), np.float32) for m in (101, 101, 1))
    layer.forward(x, whole)
    layer.forward(x, pooled, pool=_native.ThreadPool(3))
    assert np.array_equal(whole, pooled)
    for i in (0, 50, 100):
        layer.forward(x[i : i + 1], row)
        assert np.array_equal(row[0], whole[i])


@each_isa
@pytest.mark.parametrize("n", [1, 40])
def test_linear_relu_passes_a_nan(isa, n):
    out = np.zeros((1, n), np.float32)
    x = np.array([[np.nan]], np.float32)
    _native.Linear(np.ones((n, 1), np.float32), np.zeros(n, np.float32), isa=isa).forward(x, out, relu=True)
    assert np.isnan(out).all()


@each_isa
@few
@given(batch=st.integers(0, 6), f=st.integers(1, 45), d=st.integers(1, 70), seed=st.integers(0, 9))
def test_interact(isa, batch, f, d, seed):
    features = random(batch, f, d, seed=seed)
    out, guard = guarded(batch, f * (f - 1) // 2)
    _native.interact(features, out, isa=isa)
    i, j = np.tril_indices(f, -1)
    wide = features.astype(np.float64)
    expected = np.einsum("bid,bjd->bij", wide, wide)[:, i, j]
    magnitude = np.einsum("bid,bjd->bij", np.abs(wide), np.abs(wide))[:, i, j]
    close(out, expected, magnitude, d)
    assert (guard == 7).all()


TILES = [isa for isa in ("amx", "amx-emulated") if (isa if isa == "amx" else "avx512") in ISAS]


@pytest.mark.skipif(not TILES, reason="neither AMX nor AVX-512, which emulates it")
@pytest.mark.parametrize("isa", TILES)
@few
@given(batch=st.integers(0, 9), f=st.integers(1, 70), d=st.integers(1, 70), seed=st.integers(0, 9))
def test_interact_in_bf16(isa, batch, f, d, seed):
    features = random(batch, f, d, seed=seed)
    out, guard = guarded(batch, f * (f - 1) // 2)
    _native.interact(features, out, isa=isa, bf16=True)
    bits = features.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)
    i, j = np.tril_indices(f, -1)
    expected = np.einsum("bid,bjd->bij", rounded, rounded)[:, i, j]
    magnitude = np.einsum("bid,bjd->bij", np.abs(rounded), np.abs(rounded))[:, i, j]
    close(out, expected, magnitude, d)
    assert (guard == 7).all()
    for s in range(batch):  # whatever else is in the call
        alone = np.empty((1, out.shape[1]), np.float32)
        _native.interact(features[s : s + 1], alone, isa=isa, bf16=True)
        assert np.array_equal(alone[0], out[s])


def test_interact_in_bf16_is_refused_where_it_gains_nothing():
    with pytest.raises(ValueError, match="bf16: scalar interacts in float32 only"):
        _native.interact(random(1, 3, 4), np.empty((1, 3), np.float32), isa="scalar", bf16=True)


@each_isa
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 1000])
def test_sigmoid(isa, n):
    x = np.linspace(-60, 60, n).astype(np.float32) + random(n)
    out, guard = guarded(n)
    _native.sigmoid(x, out, isa=isa)
    expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert np.abs(out - expected).max(initial=0) < 2e-7
    assert (guard == 7).all()


@each_isa
def test_sigmoid_of_extremes(isa):
    x = np.array([-np.inf, -1e30, -88, 0, 88, 1e30, np.inf, np.nan], np.float32)
    out = np.empty(8, np.float32)
    _native.sigmoid(x, out, isa=isa)
    np.testing.assert_allclose(out[:-1], [0, 0, 0, 0.5, 1, 1, 1], atol=1e-37)
    assert np.isnan(out[-1])


def test_pool_gives_the_same_answers():
    pool = _native.ThreadPool(3)
    assert pool.num_threads == 3
    rows, features = random(100, 33), random(1000, 9, 5)
    ids = np.random.default_rng(0).integers(0, 100, 5000)
    offsets = np.arange(0, 5001, 2)
    for make in (
        lambda out, pool: _native.gather_rows(rows, ids, out[:, :33], pool=pool),
        lambda out, pool: _native.pool_rows(rows, ids, offsets, out[:2500], pool=pool),
        lambda out, pool: _native.interact(features, out.ravel()[:36000].reshape(1000, 36), pool=pool),
        lambda out, pool: _native.sigmoid(rows.ravel(), out.ravel()[:3300], pool=pool),
    ):
        one, many = np.zeros((5000, 33), np.float32), np.zeros((5000, 33), np.float32)
        make(one, None)
        make(many, pool)
        assert np.array_equal(one, many)
        assert one.any()


@pytest.mark.parametrize("bad", [-1, 10, 2**40])
def test_ids_out_of_range_are_named(bad):
    rows, ids = random(10, 4), np.array([0, 9, bad])
    message = rf"ids\[2\] = {bad} is out of range for 10 rows"
    with pytest.raises(ValueError, match=message):
        _native.gather_rows(rows, ids, np.empty((3, 4), np.float32))
    with pytest.raises(ValueError, match=message):
        _native.pool_rows(rows, ids, np.array([0, 3]), np.empty((1, 4), np.float32))
    cores = [random(1, 2, 2, 3), random(3, 5, 2, 1)]
    with pytest.raises(ValueError, match=message):
        _native.tt_rows(cores, ids, np.empty((3, 4), np.float32))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 3], r"offsets\[0\] = 1, expected 0"),
        ([0, 2, 1, 3], r"offsets\[2\] = 1 is less than the offset before it"),
        ([0, 2], r"offsets\[1\] = 2, expected the number of ids, 3"),
        ([], "offsets: expected at least 1 entry"),
    ],
)
def test_bad_offsets_are_named(offsets, message):
    out = np.empty((max(0, len(offsets) - 1), 4), np.float32)
    with pytest.raises(ValueError, match=message):
        _native.pool_rows(random(10, 4), np.arange(3), np.array(offsets, dtype=np.int64), out)


@pytest.mark.parametrize(
    ("cores", "message"),
    [
        ([(1, 3, 2, 1)], "expected 2 to 8 cores, got 1"),
        ([(2, 3, 2, 2), (2, 3, 2, 1)], r"cores\[0\]: .* begins with TT rank 2, expected 1"),
        ([(1, 3, 2, 2), (3, 3, 2, 1)], r"cores\[1\]: .* begins with TT rank 3, expected 2"),
        ([(1, 3, 2, 2), (2, 3, 2, 2)], r"cores\[1\]: .* must end with TT rank 1"),
        ([(1, 3, 2, 0), (0, 3, 2, 1)], r"cores\[0\]: .* has an empty dimension"),
        ([(1, 3, 2), (2, 3, 2, 1)], r"cores\[0\]: expected 4 dimension"),
    ],
)
def test_bad_cores_are_named(cores, message):
    with pytest.raises(ValueError, match=message):
        _native.tt_rows([random(*shape) for shape in cores], np.arange(2), np.empty((2, 4), np.float32))


def test_bad_arrays_are_named():
    rows, ids, out = random(10, 4), np.arange(3), np.empty((3, 4), np.float32)
    with pytest.raises(TypeError, match="rows: expected dtype float32"):
        _native.gather_rows(rows.astype(np.float64), ids, out)
    with pytest.raises(TypeError, match="ids: expected dtype int64"):
        _native.gather_rows(rows, ids.astype(np.int32), out)
    with pytest.raises(ValueError, match="rows: must be C-contiguous"):
        _native.gather_rows(rows[:, ::2], ids, out)
    with pytest.raises(ValueError, match=r"out: expected shape \[3, 4\], got \[3, 5\]"):
        _native.gather_rows(rows, ids, np.empty((3, 5), np.float32))
    with pytest.raises(ValueError, match=r"bias: expected shape \[10\], got \[9\]"):
        _native.Linear(rows, random(9))
    with pytest.raises(ValueError, match=r"x: expected shape \[3, 4\], got \[3, 6\]"):
        _native.Linear(rows, random(10)).forward(random(3, 6), np.empty((3, 10), np.float32))
    with pytest.raises(ValueError, match=r"out: expected shape \[2, 3\]"):
        _native.interact(random(2, 3, 4), np.empty((2, 4), np.float32))
    with pytest.raises(ValueError, match="instruction set 'sse9' is unknown"):
        _native.sigmoid(random(3), np.empty(3, np.float32), isa="sse9")
    with pytest.raises(ValueError, match="num_threads: must not be negative, got -1"):
        _native.ThreadPool(-1)


def test_empty_is_aligned_and_zero():
    memory = _native.empty(3 << 20)
    assert memory.dtype == np.uint8
    assert memory.shape == (3 << 20,)
    assert memory.ctypes.data % (2 << 20) == 0
    assert not memory.any()
    memory.view(np.float32)[:] = 1.5
    assert memory.flags.writeable
    assert _native.empty(0).size == 0
    with pytest.raises(ValueError, match="num_bytes: must not be negative, got -1"):
        _native.empty(-1)
