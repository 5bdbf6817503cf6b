"""The remap and the indices that are stored, against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.storage import TableRemap, index_bytes, index_kind
from screc.storage.layout import hash_capacity
from screc.storage.remap import _CHUNK_IDS, bitmap_index, hash_index, slot_order

MASK = (1 << 64) - 1


def splitmix64(x: int) -> int:
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def look_up_hash(keys, slots, row: int) -> int | None:
    """docs/format.md, "hash"."""
    capacity = len(keys)
    place = splitmix64(row) * capacity >> 64
    for _ in range(capacity):
        if keys[place] == -1:
            return None
        if keys[place] == row:
            return int(slots[place])
        place = (place + 1) % capacity
    return None


def look_up_bitmap(bits, directory, row: int) -> int | None:
    """docs/format.md, "bitmap"."""
    if not int(bits[row // 64]) >> (row % 64) & 1:
        return None
    first = row // 512 * 8
    ones = sum(int(word).bit_count() for word in bits[first : row // 64])
    return int(directory[row // 512]) + ones + (int(bits[row // 64]) & ((1 << row % 64) - 1)).bit_count()


def split(rng, num_embeddings: int, *sizes: int) -> list[np.ndarray]:
    order, bands, start = rng.permutation(num_embeddings), [], 0
    for size in sizes:
        bands.append(order[start : start + size])
        start += size
    return bands


def test_locate_finds_every_row_once():
    rng = np.random.default_rng(0)
    bands = split(rng, 1000, 10, 300, 0, 1)
    remap = TableRemap(1000, bands)
    band, slot = remap.locate(np.arange(1000))
    assert (band.dtype, slot.dtype) == (np.int8, np.int64)
    expected = {int(row): (b, s) for b, ids in enumerate(bands) for s, row in enumerate(ids)}
    for row in range(1000):
        assert (band[row], slot[row]) == expected.get(row, (4, row))
    shuffled = rng.integers(0, 1000, 5000)
    np.testing.assert_array_equal(remap.locate(shuffled)[0], band[shuffled])
    np.testing.assert_array_equal(remap.locate(shuffled)[1], slot[shuffled])


def test_locate_at_the_edges():
    band, slot = TableRemap(5, []).locate(np.array([4, 0, 4]))
    assert (band.tolist(), slot.tolist()) == ([0, 0, 0], [4, 0, 4])
    band, slot = TableRemap(5, [np.arange(5)[::-1].copy()]).locate(np.array([4, 0]))
    assert (band.tolist(), slot.tolist()) == ([0, 0], [0, 4])
    band, slot = TableRemap(5, [np.array([1])]).locate(np.empty(0, np.int64))
    assert band.size == slot.size == 0


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ([[0, 5]], r"band_ids\[0\]\[1\] = 5 is out of range for 5 rows"),
        ([[0], [1, -1]], r"band_ids\[1\]\[1\] = -1 is out of range"),
        ([[3, 1, 3]], "id 3 is in band 0 and again in band 0"),
        ([[0, 1], [2, 1]], "id 1 is in band 0 and again in band 1"),
        ([[[1]]], r"band_ids\[0\]: expected 1 dimension, got shape \[1, 1\]"),
    ],
)
def test_wrong_bands_are_named(bands, message):
    with pytest.raises(ValueError, match=message):
        TableRemap(5, [np.array(ids, np.int64) for ids in bands])


def test_wrong_ids_are_named():
    remap = TableRemap(5, [np.array([1])])
    with pytest.raises(ValueError, match=r"ids\[2\] = 5 is out of range for 5 rows"):
        remap.locate(np.array([0, 4, 5]))
    with pytest.raises(ValueError, match=r"ids\[0\] = -1 is out of range for 5 rows"):
        remap.locate(np.array([-1, 7]))
    for wrong in (np.array([1], np.int32), [1]):
        with pytest.raises(TypeError, match="ids: expected an int64 array, got"):
            remap.locate(wrong)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_indices_find_their_ids_and_no_others(num_embeddings, share, seed):
    rng = np.random.default_rng(seed)
    count = max(1, int(share * num_embeddings))
    ids = rng.permutation(num_embeddings)[:count]
    slots = rng.permutation(count).astype(np.uint32)
    keys, key_slots = hash_index(ids, slots)
    ascending = np.sort(ids)
    bits, directory = bitmap_index(ascending, num_embeddings)
    by_hash = dict(zip(ids.tolist(), slots.tolist(), strict=True))
    by_bit = {int(row): slot for slot, row in enumerate(ascending)}
    for row in range(num_embeddings):
        assert look_up_hash(keys, key_slots, row) == by_hash.get(row)
        assert look_up_bitmap(bits, directory, row) == by_bit.get(row)
    smaller = {"hash": keys.nbytes + key_slots.nbytes, "bitmap": bits.nbytes + directory.nbytes}
    assert smaller[index_kind(num_embeddings, count)] == index_bytes(num_embeddings, count)
    assert min(smaller.values()) == index_bytes(num_embeddings, count)
    assert (keys.dtype, key_slots.dtype, bits.dtype, directory.dtype) == ("<i8", "<u4", "<u8", "<u4")
    assert len(keys) == hash_capacity(count)


def test_a_bitmap_longer_than_one_piece():
    """Pieces of the id space are built one after the other."""
    num_embeddings = 2 * _CHUNK_IDS + 777
    ids = np.array([0, 511, 512, _CHUNK_IDS - 1, _CHUNK_IDS, 2 * _CHUNK_IDS + 3, num_embeddings - 1])
    bits, directory = bitmap_index(ids, num_embeddings)
    assert [look_up_bitmap(bits, directory, int(row)) for row in ids] == list(range(len(ids)))
    for row in (1, 510, _CHUNK_IDS + 1, num_embeddings - 2):
        assert look_up_bitmap(bits, directory, row) is None
    assert directory[-1] == len(ids)
    assert bits.size == -(-num_embeddings // 64)


def test_slot_order_is_by_rank_only_where_a_hash_may_follow_it():
    few, many = np.array([9, 2, 5]), np.random.default_rng(0).permutation(1000)[:500]
    assert index_kind(1000, 3) == "hash"
    assert index_kind(1000, 500) == "bitmap"
    assert slot_order(1000, few, ranked=True).tolist() == [9, 2, 5]
    assert slot_order(1000, few, ranked=False).tolist() == [2, 5, 9]
    assert (np.diff(slot_order(1000, many, ranked=True)) > 0).all()
