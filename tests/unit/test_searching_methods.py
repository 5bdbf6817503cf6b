"""What methods that look for rows, lengths and likenesses find."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from screc import _native
from screc.data.log import TableSpec
from screc.embeddings import AutoDim, Method, make_method
from screc.embeddings.auto_srh import frequency_groups
from screc.embeddings.dedup import most_alike
from screc.embeddings.tt_cached import write_back

ONE = [TableSpec("t", 400)]


def train(method: Method, steps: int, important: torch.Tensor) -> None:
    """Look up all ids evenly; the gradient of the important ones is large."""
    offsets = torch.arange(101)
    for step in range(steps):
        ids = torch.randint(0, 400, (100,), generator=torch.Generator().manual_seed(step))
        weight = torch.where(torch.isin(ids, important), 30.0, 0.1)
        method.zero_grad()
        (method(ids, offsets)[:, 0].sum(dim=1) * weight).sum().backward()
        method.after_backward()
        method.after_step()


def test_ada_embed_gives_the_rows_to_those_that_matter() -> None:
    method = make_method("ada-embed", ONE, 16, budget=8 * 400 + 64 * 10, check_every=5, seed=1)
    important = torch.arange(0, 400, 40)
    train(method, 60, important)
    assert (method.pointers[important] >= 0).all()
    assert (method.pointers >= 0).sum() == 10
    assert sorted(method.pointers[important].tolist()) == list(range(10))
    others = torch.arange(400)[~torch.isin(torch.arange(400), important)]
    assert not method.every_row(0)[others].any()


def test_ada_embed_leaves_rows_alone_while_little_would_change() -> None:
    method = make_method("ada-embed", ONE, 16, budget=8 * 400 + 64 * 40, check_every=1000, seed=1)
    method.scores[:40] = torch.where(method.pointers[:40] >= 0, 2.0, 1.0)
    held = (method.pointers >= 0).nonzero()[:, 0]
    method.scores.zero_()
    method.scores[held] = 2.0
    newcomer = int((method.pointers < 0).nonzero()[0])
    method.scores[newcomer] = 3.0
    before = method.pointers.clone()
    method._check()  # one of forty rows would go: less than a twentieth
    assert torch.equal(method.pointers, before)
    method.scores[held[:10]] = 0.5
    method.scores[(method.pointers < 0).nonzero()[:10, 0]] = 3.0
    method._check()
    assert (method.pointers != before).sum() == 20


def test_auto_srh_groups_by_frequency() -> None:
    counts = np.array([5, 100, 5, 7, 1, 1, 90, 80])
    groups = frequency_groups(counts, 4)
    assert groups[1] == groups[6] == 0
    assert groups[0] == groups[2]
    assert groups[4] == groups[5] == groups.max()
    assert frequency_groups(np.ones(5, np.int64), 6).tolist() == [0] * 5


def test_auto_srh_merges_its_factors() -> None:
    method = make_method("auto-srh", ONE, 4, ratio=1.1, counts=[np.arange(400)[::-1].copy()], seed=1)
    with torch.no_grad():
        method.factors.uniform_(0.0, 1.0)
    kept = method.kept
    before = method.every_row(0).detach()
    method.finish()
    after = method.every_row(0).detach()
    assert int((after != 0).sum()) == kept
    largest = before.flatten().abs().topk(kept).indices
    torch.testing.assert_close(after.flatten()[largest], before.flatten()[largest])
    method.finish()  # once more changes nothing
    torch.testing.assert_close(method.every_row(0).detach(), after)


def test_auto_dim_chooses_the_likeliest_lengths_that_fit() -> None:
    specs = [TableSpec("large", 1000), TableSpec("small", 10)]
    method = make_method("auto-dim", specs, 8, budget=4 * 2 * (1000 + 8) + 4 * 8 * 10, seed=1)
    assert isinstance(method, AutoDim)
    assert method.lengths == [1, 2, 4, 8]
    with torch.no_grad():
        method.mixture.copy_(torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 1.0]]))
    method.begin(method.stages[1])
    # The large table would have had 8, but only 2 fit beside the small one's 8.
    assert method.chosen.tolist() == [1, 3]
    assert method.footprint().serving.total <= method.budget
    rows = method.every_row(0)
    assert torch.linalg.matrix_rank(rows.detach(), tol=1e-4) == 2


def test_opt_embed_drops_rows_and_cuts_what_matters_least() -> None:
    method = make_method("opt-embed", ONE, 8, ratio=8, seed=1)
    with torch.no_grad():
        method.weight[:300] *= 0.01
        method.thresholds.fill_(0.1)
    method.matters[0] = torch.arange(8, 0, -1).float()
    method.begin(method.stages[1])
    assert not method.stays[:300].any()
    assert method.stays[300:].float().mean() > 0.9
    assert 1 <= int(method.lengths[0]) < 8
    assert method.footprint().serving.total <= 4 * 8 * 400 / 8
    rows = method.every_row(0).detach()
    assert not rows[:300].any()
    assert not rows[:, int(method.lengths[0]) :].any()


def test_dedup_finds_blocks_that_are_alike() -> None:
    random = torch.Generator().manual_seed(0)
    kept = torch.randn(50, 24, generator=random)
    names = torch.randint(0, 50, (500,), generator=random)
    blocks = kept[names] + 1e-3 * torch.randn(500, 24, generator=random)
    found, _ = most_alike(blocks, kept, torch.randn(24, 12, generator=random), 0.01)
    assert (found == names).float().mean() > 0.98


def test_dedup_keeps_rows_that_have_copies() -> None:
    method = make_method("dedup", ONE, 8, budget=4 * 50 + 8 * 8 * 4 * 10, block_rows=8, seed=1)
    assert method.kept.shape[0] == 80
    with torch.no_grad():
        blocks = method.weight.view(50, -1)
        blocks[10:] = blocks[:10].repeat(4, 1) * 0.9999
    before = method.every_row(0).detach()
    method.begin(method.stages[1])
    torch.testing.assert_close(method.every_row(0).detach(), before, rtol=1e-3, atol=1e-3)


def test_the_filter_against_a_model() -> None:
    """Least recently seen of four goes; the threshold and the kept score decide who enters the sketch."""
    threshold, kept = 6.0, 2.0
    random = np.random.default_rng(3)
    ids = np.minimum(random.zipf(1.3, 3000), 300).astype(np.int64)
    scores = random.exponential(1.0, 3000).astype(np.float32)
    native = _native.RecencyFilter(1)
    model: dict[int, np.float32] = {}  # in the order in which they were seen
    leaving = []
    for one, score in zip(ids.tolist(), scores, strict=True):
        total = model.pop(one, np.float32(0)) + score
        if total >= threshold:
            leaving.append((one, total))
            continue
        if len(model) == 4:
            oldest = next(iter(model))
            displaced = model.pop(oldest)
            if displaced >= kept:
                leaving.append((oldest, displaced))
        model[one] = total
    found = []
    for start in range(0, 3000, 700):
        part = native.insert(ids[start : start + 700], scores[start : start + 700], threshold, kept)
        found += list(zip(part[0].tolist(), part[1], strict=True))
    # A newcomer at the threshold displaces someone first, as one below it does.
    assert {one for one, _ in found} >= {one for one, _ in leaving if scores.max() < threshold}
    copied = _native.RecencyFilter(1)
    copied.restore(native.state())
    np.testing.assert_array_equal(copied.state(), native.state())
    with pytest.raises(ValueError, match="expected 72 bytes, got 5"):
        copied.restore(np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match="entry 0 is id -1"):
        native.insert(np.array([-1]), np.ones(1, np.float32), 1.0, 1.0)
    with pytest.raises(ValueError, match="num_buckets: must be at least 1"):
        _native.RecencyFilter(0)


@pytest.mark.parametrize("name", ["cafe-ml", "cafe-plus"])
def test_cafes_give_the_rows_to_those_that_matter(name: str) -> None:
    method = make_method(name, ONE, 4, ratio=6, threshold=20.0, seed=2)
    important = torch.arange(0, 400, 50)
    train(method, 60, important)
    hot = method._hot_rows(torch.arange(400)) >= 0
    assert hot[important.numpy()].sum() >= min(7, method.num_hot - 1)
    assert hot.sum() == hot[important.numpy()].sum()


def test_an_id_rises_to_the_middle_and_to_the_top_without_a_jump() -> None:
    method = make_method("cafe-ml", ONE, 4, ratio=5, importance="frequency", threshold=10.0, seed=1)
    ids, offsets = torch.tensor([7]), torch.tensor([0, 1])
    levels = []
    for _ in range(12):
        before = method.every_row(0).detach().clone()
        method(ids, offsets).sum().backward()
        method.after_step()
        torch.testing.assert_close(method.every_row(0).detach(), before)
        levels.append((bool(method._is_medium(ids)), bool(method._hot_rows(ids)[0] >= 0)))
        with torch.no_grad():
            method.second.add_(0.01) if levels[-1][0] and len(levels) == 5 else None
    assert levels[0] == (False, False)
    assert levels[4] == (True, False)
    assert levels[-1] == (False, True)


def test_a_row_that_leaves_the_cache_is_written_back() -> None:
    method = make_method(
        "tt-rec-cached", [TableSpec("t", 2000)], 8, ratio=10, whole_below=10, threshold=3.0, seed=1
    )
    table = method.trains.tables[0]
    ids = torch.tensor([3, 700, 1500])
    learned = 0.05 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    target = table.rows(ids).detach() + learned
    before = float((table.rows(ids).detach() - target).square().sum())
    others = torch.arange(100, 140)
    kept = table.rows(others).detach()
    write_back(table, ids, target)
    assert float((table.rows(ids).detach() - target).square().sum()) < 0.1 * before
    # Rows that share slices with them move too, by far less than those that were meant.
    assert float((table.rows(others).detach() - kept).square().mean()) < 0.25 * float(learned.square().mean())


def test_a_cached_row_starts_as_the_trains_have_it_and_comes_back_when_it_cools() -> None:
    method = make_method(
        "tt-rec-cached", [TableSpec("t", 2000)], 8, ratio=10, whole_below=10, threshold=3.0, decay=0.1, seed=1
    )
    ids, offsets = torch.tensor([42]), torch.tensor([0, 1])
    before = method.every_row(0).detach().clone()
    for _ in range(3):
        method(ids, offsets).sum().backward()
        method.after_step()
    assert method._sketch.num_lent == 1
    torch.testing.assert_close(method.every_row(0).detach(), before)
    with torch.no_grad():
        method.weight += 0.2
    learned = method.every_row(0)[42].detach()
    assert (learned - before[42]).abs().min() > 0.1
    method._given_back(*method._sketch.decay(0.1))
    assert method._sketch.num_lent == 0
    after = method.every_row(0)[42].detach()
    assert (after - learned).norm() < 0.3 * (before[42] - learned).norm()


@pytest.mark.parametrize("name", ["cafe-ml", "cafe-plus", "tt-rec-cached"])
def test_copies_have_a_sketch_of_their_own(name: str) -> None:
    method = make_method(name, [TableSpec("t", 20_000)], 4, ratio=6, threshold=2.0, seed=2)
    ids, offsets = torch.arange(0, 400), torch.arange(401)
    for _ in range(4):
        method(ids, offsets).sum().backward()
        method.after_step()
    copied = copy.deepcopy(method)
    assert torch.equal(copied.every_row(0), method.every_row(0))
    for one in (method, copied):
        one(ids + 400, offsets).sum().backward()
        one.after_step()
    assert torch.equal(copied.get_extra_state(), method.get_extra_state())
    copied(ids, offsets).sum().backward()
    copied.after_step()
    assert not torch.equal(copied.get_extra_state(), method.get_extra_state())
