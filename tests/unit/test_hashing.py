"""Byte-string hashing against a plain reading of its definition."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.data.hashing import hash_bytes, mix, mix_integers

_MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def _reference(value: bytes, seed: int) -> int:
    state = _mix((len(value) + mix_integers(seed)) & _MASK)
    for start in range(0, len(value), 8):
        word = int.from_bytes(value[start : start + 8], "little")
        state = _mix(((word ^ state) + 0x9E3779B97F4A7C15) & _MASK)
    return state


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.binary(max_size=40), max_size=20), seed=st.integers(0, 1 << 63), cut=st.integers(0, 5)
)
def test_matches_the_definition(values, seed, cut) -> None:
    wanted = [_reference(value, seed) for value in values[cut:]]
    for kind in (pa.binary(), pa.large_binary()):
        assert hash_bytes(pa.array(values, type=kind)[cut:], seed).tolist() == wanted


def test_strings_hash_as_their_bytes() -> None:
    text = ["", "a", "äöü", "a longer value than one word"]
    encoded = pa.array([t.encode() for t in text])
    assert hash_bytes(pa.array(text), 7).tolist() == hash_bytes(encoded, 7).tolist()


def test_the_hash_never_changes() -> None:
    """Models in use depend on these numbers."""
    found = hash_bytes(pa.array([b"", b"68fd1e64", b"a value of many words"]), 0).tolist()
    assert found == [5197578548964807871, 6939452204357695854, 9961015679367314203]


def test_spread() -> None:
    values = pa.array([b"%08x" % i for i in range(100_000)])
    hashes = hash_bytes(values, 1)
    assert np.unique(hashes).size == 100_000
    buckets = np.bincount((hashes % np.uint64(100)).astype(np.int64), minlength=100)
    assert buckets.min() > 800
    assert buckets.max() < 1200
    assert (hashes != hash_bytes(values, 2)).all()


def test_mix_integers_depends_on_order() -> None:
    assert mix_integers(1, 2) != mix_integers(2, 1)
    assert mix_integers(1) == mix_integers(1)
    assert int(mix(np.array([12345], dtype=np.uint64))[0]) == _mix(12345)
    with pytest.raises(TypeError):
        mix_integers("1")
