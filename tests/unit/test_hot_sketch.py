"""The sketch of hot ids against a model in Python, and what CAFE does with it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from screc import _native
from screc.data.log import TableSpec, open_log
from screc.embeddings import make_method


def placed(ids: np.ndarray, buckets: int) -> np.ndarray:
    x = ids.astype(np.uint64)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return np.array([int(h) * buckets >> 64 for h in x])


class ModelSketch:
    """The rules of CAFE, section 3, one slot after another."""

    def __init__(self, buckets: int, rows: int, threshold: float) -> None:
        self.buckets = [[] for _ in range(buckets)]  # [id, score, row, taken over], scores descending
        self.free, self.threshold = list(range(rows))[::-1], np.float32(threshold)

    def insert(self, ids: np.ndarray, scores: np.ndarray) -> list[tuple[int, int]]:
        pending = []
        for one, score, place in zip(ids, scores, placed(ids, len(self.buckets)), strict=True):
            bucket = self.buckets[place]
            slot = next((s for s in bucket if s[0] == one), None)
            if slot is None and len(bucket) < 4:
                slot = [one, np.float32(0), -1, np.float32(0)]
                bucket.append(slot)
            elif slot is None:
                slot = bucket[-1]
                if slot[2] != -1:
                    continue
                slot[0], slot[3] = one, slot[1]
            slot[1] = np.float32(slot[1] + score)
            at = bucket.index(slot)
            while at > 0 and slot[1] > bucket[at - 1][1]:
                bucket[at], bucket[at - 1] = bucket[at - 1], bucket[at]
                at -= 1
            if slot[2] == -1 and np.float32(slot[1] - slot[3]) >= self.threshold:
                slot[2], slot[3] = -2, np.float32(0)
                pending.append(slot)
        moves = []
        for slot in pending:
            slot[2] = self.free.pop() if self.free else -1
            if slot[2] >= 0:
                moves.append((int(slot[0]), slot[2]))
        return moves

    def take_back(self) -> list[tuple[int, int]]:
        moves = []
        for bucket in self.buckets:
            for slot in bucket:
                if slot[2] >= 0 and slot[1] < self.threshold:
                    moves.append((int(slot[0]), slot[2]))
                    self.free.append(slot[2])
                    slot[2] = -1
        return moves

    def decay(self, factor: float) -> list[tuple[int, int]]:
        for bucket in self.buckets:
            for slot in bucket:
                slot[1] = np.float32(slot[1] * np.float32(factor))
                slot[3] = np.float32(slot[3] * np.float32(factor))
        return self.take_back()

    def rows(self, ids: np.ndarray) -> list[int]:
        known = {s[0]: s[2] for bucket in self.buckets for s in bucket}
        return [known.get(one, -1) for one in ids]


def zipf_ids(count: int, rows: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.minimum(random.zipf(1.2, count), rows).astype(np.int64) - 1


def pairs(moves: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    return list(zip(*(array.tolist() for array in moves), strict=True))


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize(("buckets", "rows"), [(1, 1), (7, 3), (64, 64), (64, 0)])
def test_it_follows_the_rules(threads: int, buckets: int, rows: int) -> None:
    pool = _native.ThreadPool(threads) if threads else None
    sketch, model = _native.HotSketch(buckets, rows, 3.0), ModelSketch(buckets, rows, 3.0)
    random = np.random.default_rng(2)
    for step in range(30):
        ids = zipf_ids(200, 1000, step)
        scores = random.exponential(1.0, len(ids)).astype(np.float32)
        assert pairs(sketch.insert(ids, scores, pool=pool)) == model.insert(ids, scores)
        if step % 7 == 6:
            assert pairs(sketch.decay(0.5)) == model.decay(0.5)
        every = np.arange(1000)
        found = np.empty(1000, np.int32)
        sketch.query(every, found, pool=pool)
        assert found.tolist() == model.rows(every)
        assert sketch.num_lent == rows - len(model.free)


def test_retuning_keeps_the_hottest() -> None:
    sketch = _native.HotSketch(num_buckets=200, num_rows=20, threshold=1.0)
    ids = np.arange(100)
    sketch.insert(ids, np.linspace(2, 50, 100, dtype=np.float32))
    assert sketch.num_lent == 20
    cooled, _ = sketch.retune()
    assert sketch.threshold > 30
    assert len(cooled) > 0
    sketch.insert(ids, np.full(100, 0.001, np.float32))
    rows = np.empty(100, np.int32)
    sketch.query(ids, rows)
    # Those that a full bucket had no slot for aside, the last twenty have the rows.
    assert (rows[80:] >= 0).sum() >= 18
    assert (rows[:75] == -1).all()
    assert len(sketch.retune()[0]) == 0


def test_its_state_goes_out_and_in() -> None:
    sketch = _native.HotSketch(50, 10, 2.0)
    sketch.insert(zipf_ids(2000, 500, 1), np.ones(2000, np.float32))
    other = _native.HotSketch(50, 10, 9.0)
    other.restore(sketch.state(), sketch.threshold)
    ids, scores = zipf_ids(500, 500, 2), np.ones(500, np.float32)
    np.testing.assert_array_equal(sketch.state(), other.state())
    # Rows that are free are lent in another order, but to the same ids.
    assert sketch.insert(ids, scores)[0].tolist() == other.insert(ids, scores)[0].tolist()
    broken = sketch.state().copy()
    broken.view(np.int32)[3::4] = 7
    with pytest.raises(ValueError, match="lends row 7, out of range or lent twice"):
        other.restore(broken, 1.0)
    with pytest.raises(ValueError, match="expected 3200 bytes, got 64"):
        other.restore(broken[:64], 1.0)


@pytest.mark.parametrize(
    ("ids", "scores", "words"),
    [
        ([1, -2], [1.0, 1.0], "entry 1 is id -2"),
        ([1, 2], [1.0, -1.0], "entry 1 is id 2 with score -1"),
        ([1, 2], [np.nan, 1.0], "entry 0"),
        ([1, 2], [np.inf, 1.0], "entry 0"),
        ([1, 2], [1.0], "scores: expected 2"),
    ],
)
def test_bad_scores_are_named_and_change_nothing(ids: list, scores: list, words: str) -> None:
    sketch = _native.HotSketch(5, 2, 1.0)
    before = sketch.state()
    with pytest.raises(ValueError, match=words):
        sketch.insert(np.array(ids), np.array(scores, np.float32))
    np.testing.assert_array_equal(sketch.state(), before)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="num_buckets: must be at least 1, got 0"):
        _native.HotSketch(0, 1, 1.0)
    with pytest.raises(ValueError, match="threshold: must be positive"):
        _native.HotSketch(1, 1, 0.0)


def test_the_truly_hot_ids_get_the_rows() -> None:
    """Recall of the hot set at CAFE's settings: as many buckets as rows, four slots each."""
    rows = 1000
    sketch = _native.HotSketch(rows, rows, 1.0)
    random = np.random.default_rng(5)
    ranks = np.minimum(random.zipf(1.3, 400_000), 100_000).astype(np.int64)
    names = random.permutation(200_000)
    stream = names[ranks]
    for part in np.array_split(stream, 100):
        ids, counts = np.unique(part, return_counts=True)
        sketch.insert(ids, counts.astype(np.float32))
        sketch.retune()
    counted = np.bincount(stream, minlength=200_000)
    truly = np.argsort(-counted, kind="stable")[:rows]
    found = np.empty(rows, np.int32)
    sketch.query(truly, found)
    assert (found >= 0).mean() >= 0.9


@pytest.mark.parametrize(("ratio", "name", "filtered"), [(10, "cafe", 0.0), (100, "cafe-plus", 0.1)])
def test_recall_of_the_hot_set_on_the_generated_log(ratio: int, name: str, filtered: float) -> None:
    """At CAFE's settings, the hot rows of a tenth or a hundredth of the tables and as many buckets.

    A sketch of few rows has more passers-by in each bucket, which CAFE+ filters.
    """
    log = open_log("synthetic:rows=100000,scale=0.01")
    starts = np.cumsum([0, *(table.num_embeddings for table in log.tables)])
    rows = int(0.7 * 64 * starts[-1] / ratio) // 128
    filtering = int(filtered * rows)
    sketch = _native.HotSketch(rows - filtering, rows, 1.0 if filtering else 2.0)
    entrance = _native.RecencyFilter(filtering) if filtering else None
    counted = np.zeros(starts[-1], np.int64)
    for batch in log.batches(2048):
        whole = batch.ids + np.repeat(starts[:-1], batch.batch_size)
        ids, lookups = np.unique(whole, return_counts=True)
        counted[ids] += lookups
        scores = lookups.astype(np.float32)
        if entrance is not None:
            known = np.empty(len(ids), np.float32)
            sketch.scores(ids, known)
            new = known < 0
            entering, gathered = entrance.insert(ids[new], scores[new], sketch.threshold, 5.0)
            ids = np.concatenate([ids[~new], entering])
            scores = np.concatenate([scores[~new], gathered])
        sketch.insert(ids, scores)
        sketch.retune()
    truly = np.argsort(-counted, kind="stable")[:rows]
    # Which of the ids that are looked up as often as the last one are hot is a matter of taste.
    truly = truly[counted[truly] > counted[truly[-1]]]
    found = np.empty(len(truly), np.int32)
    sketch.query(truly, found)
    assert (found >= 0).mean() >= 0.95


def test_a_new_hot_row_starts_as_its_hashed_one() -> None:
    method = make_method(
        "cafe", [TableSpec("t", 500)], 4, ratio=5, importance="frequency", threshold=3.0, seed=1
    )
    ids, offsets = torch.tensor([7, 7, 9]), torch.tensor([0, 1, 2, 3])
    before = method.every_row(0).detach().clone()
    for _ in range(2):
        method(ids, offsets).sum().backward()
        method.after_step()
    assert method._sketch.num_lent == 1
    torch.testing.assert_close(method.every_row(0).detach(), before)
    # From then on it goes its own way.
    cold = method._cold_rows(torch.tensor([7]))
    with torch.no_grad():
        method.weight[cold] += 1
    torch.testing.assert_close(method.every_row(0)[7].detach(), before[7])
    copied = copy.deepcopy(method)
    torch.testing.assert_close(copied.every_row(0), method.every_row(0))
    with torch.no_grad():
        copied.weight.add_(1)
    torch.testing.assert_close(method.every_row(0)[7].detach(), before[7])


def test_gradients_tell_what_matters() -> None:
    """Of ids that are looked up alike, those with the larger gradients get the rows."""
    method = make_method("cafe", [TableSpec("t", 400)], 4, ratio=10, threshold=20.0, seed=2)
    offsets = torch.arange(101)
    for step in range(40):
        ids = torch.randint(0, 400, (100,), generator=torch.Generator().manual_seed(step))
        weight = torch.where(ids % 40 == 0, 30.0, 0.1)
        (method(ids, offsets)[:, 0].sum(dim=1) * weight).sum().backward()
        method.after_step()
    hot = method._hot_rows(torch.arange(400)) >= 0
    assert hot[::40].sum() >= min(9, method.num_hot - 1)
    assert hot.sum() == hot[::40].sum()
