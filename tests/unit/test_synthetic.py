"""The generator: identity of bits, calibration, the best possible AUC, skew."""

import hashlib

import numpy as np
import pytest

from screc.data import CRITEO_KAGGLE_ROWS, SyntheticClickLog, SyntheticConfig, bayes_auc, open_log
from screc.data.synthetic import CHUNK_ROWS, Teacher, table_rows, teacher


def _joined(log: SyntheticClickLog, batch_size: int, skip: int = 0) -> tuple[np.ndarray, ...]:
    """ids [T, n], dense, labels, probability of the whole log."""
    ids, dense, labels, probability = [], [], [], []
    for batch, p in log.batches_with_probability(batch_size, skip=skip):
        ids.append(batch.ids.reshape(batch.num_tables, -1))
        dense.append(batch.dense)
        labels.append(batch.labels)
        probability.append(p)
    return (
        np.concatenate(ids, axis=1),
        np.concatenate(dense),
        np.concatenate(labels),
        np.concatenate(probability),
    )


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, ...]:
    """200,000 rows of seed 1 at the default scale."""
    return _joined(SyntheticClickLog(SyntheticConfig(num_rows=200_000)), 65_536)


def test_table_sizes() -> None:
    assert len(CRITEO_KAGGLE_ROWS) == 26
    assert sum(CRITEO_KAGGLE_ROWS) == 33_762_577
    assert table_rows(1.0) == CRITEO_KAGGLE_ROWS
    assert sum(table_rows(0.05)) == 1_694_491
    assert table_rows(0.05)[2] == 506_562
    assert table_rows(2.0)[2] == 2 * CRITEO_KAGGLE_ROWS[2]
    assert table_rows(2.0)[19] == 8


def test_same_seed_same_bits() -> None:
    first, second = Teacher(5, 0.02), Teacher(5, 0.02)
    assert first.intercept == second.intercept
    one, two, other = first.chunk(3), second.chunk(3), first.chunk(4)
    for name in ("ids", "counts", "dense", "logits", "uniform"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    assert not np.array_equal(Teacher(6, 0.02).chunk(3).ids, one.ids)


def test_the_recipe_never_changes() -> None:
    """Published figures depend on these rows; a change of the recipe must be deliberate."""
    digest = hashlib.sha256()
    for ids, counts, labels in open_log("synthetic:rows=1000,seed=1").raw(1000):
        for part in (ids.astype("<i8"), counts.astype("<i8"), labels.astype("<f4")):
            digest.update(part.tobytes())
    assert digest.hexdigest()[:16] == "010123632da7b28f"


def test_batch_size_skip_and_first_row_do_not_change_rows(sample) -> None:
    start, count = CHUNK_ROWS - 700, 1500  # across the border of two chunks
    wanted = [part[..., start : start + count] if i == 0 else part[start : start + count]
              for i, part in enumerate(sample)]  # fmt: skip
    moved = SyntheticClickLog(SyntheticConfig(num_rows=count, first_row=start))
    skipping = SyntheticClickLog(SyntheticConfig(num_rows=start + count))
    for found in (_joined(moved, 64), _joined(moved, 999), _joined(skipping, 512, skip=start)):
        for a, b in zip(found, wanted, strict=True):
            assert np.array_equal(a, b)


def test_skip_draws_no_chunk_in_between(monkeypatch) -> None:
    drawn = []
    original = Teacher.chunk
    monkeypatch.setattr(Teacher, "chunk", lambda self, n, *rest: drawn.append(n) or original(self, n, *rest))
    log = SyntheticClickLog(SyntheticConfig(num_rows=1_000_000_000, scale=0.02))
    drawn.clear()
    next(log.batches(10, skip=900_000_000))
    assert drawn == [900_000_000 // CHUNK_ROWS]
    assert list(log.batches(10, skip=1_000_000_000)) == []


def test_batches_are_valid() -> None:
    log = open_log("synthetic:rows=2500,seed=2,scale=0.01")
    sizes = []
    for batch in log.batches(1000):
        batch.validate([t.num_embeddings for t in log.tables], log.num_dense)
        assert (np.diff(batch.offsets) == 1).all()
        sizes.append(batch.batch_size)
    assert sizes == [1000, 1000, 500]


def test_click_rate_and_bayes_auc(sample) -> None:
    _, _, labels, probability = sample
    assert abs(probability.mean() - 0.25) < 0.003
    assert abs(labels.mean() - probability.mean()) < 0.004
    assert 0.80 < bayes_auc(probability) < 0.82
    # The labels are drawn from these probabilities: every tenth of them is calibrated.
    order = np.argsort(probability)
    for part in np.array_split(order, 10):
        assert abs(labels[part].mean() - probability[part].mean()) < 0.015


@pytest.mark.parametrize(("seed", "scale"), [(2, 0.05), (3, 0.01), (1, 1.0)])
def test_every_seed_and_scale_is_calibrated(seed, scale) -> None:
    log = SyntheticClickLog(SyntheticConfig(num_rows=CHUNK_ROWS, seed=seed, scale=scale))
    probability = _joined(log, CHUNK_ROWS)[3]
    assert abs(probability.mean() - 0.25) < 0.005
    assert 0.79 < bayes_auc(probability) < 0.83


def test_teacher_is_the_same_at_every_scale() -> None:
    small, large = teacher(1, 0.01), teacher(1, 1.0)
    assert small.pairs == large.pairs
    for a, b in zip(small.fields, large.fields, strict=True):
        assert (a.exponent, a.strength, a.bias_key) == (b.exponent, b.strength, b.bias_key)


def test_ids_follow_a_bounded_zipf_law(sample) -> None:
    ids = sample[0]
    for f in (2, 11, 20):  # the largest fields
        field = teacher(1, 0.05).fields[f]
        _, counts = np.unique(ids[f], return_counts=True)
        share = counts.max() / ids.shape[1]
        assert 0.05 < share < 0.16
        # P(rank 0) = (1 - 2^(1-s)) / (1 - (N+1)^(1-s)).
        power = 1 - field.exponent
        expected = (1 - 2.0**power) / (1 - (field.rows + 1.0) ** power)
        assert abs(share - expected) < 0.005
        assert (counts == 1).sum() > 0.5 * counts.size


def test_small_fields_see_all_their_ids(sample) -> None:
    ids, sizes = sample[0], table_rows(0.05)
    for f in (5, 8, 16, 19):
        assert np.unique(ids[f]).tolist() == list(range(sizes[f]))


def test_scatter_is_a_permutation() -> None:
    for field in teacher(1, 0.05).fields:
        ranks = np.arange(field.rows)
        assert np.unique((ranks * field.multiplier + field.addend) % field.rows).size == field.rows


def test_teacher_weights_have_unit_variance() -> None:
    field = teacher(1, 0.05).fields[2]
    ids = np.arange(200_000)
    biases, latents = field.biases(ids), field.latents(ids)
    assert abs(biases.mean()) < 0.01
    assert abs(biases.std() - 1) < 0.01
    assert np.abs(biases).max() <= 2 * np.sqrt(3) + 1e-9
    assert latents.shape == (200_000, 4)
    assert np.allclose(latents.mean(axis=0), 0, atol=0.01)
    assert np.allclose(latents.std(axis=0), 1, atol=0.01)
    assert abs(np.corrcoef(biases, latents[:, 0])[0, 1]) < 0.01
    other = teacher(1, 0.05).fields[3].biases(ids)
    assert abs(np.corrcoef(biases, other)[0, 1]) < 0.01


def test_biases_by_hand() -> None:
    """splitmix64 in plain integers, four lanes of 16 bits, half their sum scaled to unit variance."""
    field, mask = teacher(1, 0.05).fields[2], (1 << 64) - 1
    for number in (0, 1, 12345, 506_561):
        x = (number * 0x9E3779B97F4A7C15 + field.bias_key) & mask
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        x ^= x >> 31
        lanes = [((x >> shift & 0xFFFF) - 32767.5) / 32767.5 * np.sqrt(3) for shift in (0, 16, 32, 48)]
        assert field.biases(np.array([number]))[0] == pytest.approx(sum(lanes) / 2)


def test_dense_is_standardised(sample) -> None:
    dense = sample[1]
    assert np.allclose(dense.mean(axis=0), 0, atol=0.02)
    assert np.allclose(dense.std(axis=0), 1, atol=0.02)


def test_bayes_auc_by_hand() -> None:
    assert bayes_auc(np.array([0.0, 1.0])) == 1.0
    assert bayes_auc(np.array([0.5, 0.5])) == pytest.approx(0.5)
    p = np.random.default_rng(0).random(50)
    wins = total = 0.0
    for a in p:
        for b in p:
            wins += a * (1 - b) * (1.0 if a > b else 0.5 if a == b else 0.0)
            total += a * (1 - b)
    assert bayes_auc(p) == pytest.approx(wins / total)
    for bad in ([], [-0.1, 0.5], [0.5, 1.1], [np.nan, 0.2], [0.0, 0.0], [1.0]):
        with pytest.raises(ValueError, match="probability"):
            bayes_auc(np.array(bad))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=1", "rows=N is required"),
        ("rows=10,colour=1", "got 'colour=1'"),
        ("rows=10,rows=11", "'rows' is given twice"),
        ("rows=ten", "'rows' must be a whole number, got 'ten'"),
        ("rows=10,scale=x", "'scale' must be a number, got 'x'"),
        ("rows=0", "num_rows: must be at least 1, got 0"),
        ("rows=10,seed=-1", "seed: must be in"),
        ("rows=10,scale=0", "scale: must be above 0"),
        ("rows=10,scale=nan", "scale: must be above 0"),
        ("rows=10,first=-1", "first_row: must be in"),
    ],
)
def test_bad_configurations(text, message) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticConfig.parse(text)


def test_parse() -> None:
    found = SyntheticConfig.parse("rows=1_000,seed=4,scale=0.5,first=7")
    assert found == SyntheticConfig(num_rows=1000, seed=4, scale=0.5, first_row=7)


def test_drift_changes_who_is_popular_and_nothing_else() -> None:
    """From day to day the given share of ranks pass to other ids; what an id means for the label stays."""
    still = SyntheticClickLog(SyntheticConfig(num_rows=60_000, scale=0.002))
    moving = SyntheticClickLog(SyntheticConfig(num_rows=60_000, scale=0.002, day_rows=20_000, drift=0.25))
    before, after = _joined(still, 20_000), _joined(moving, 20_000)
    days = [slice(0, 20_000), slice(20_000, 40_000), slice(40_000, 60_000)]
    large = [f for f, spec in enumerate(still.tables) if spec.num_embeddings > 1000]
    stayed = [np.mean([(before[0][f, day] == after[0][f, day]).mean() for f in large]) for day in days]
    assert stayed[0] == 1
    # Of the ranks, a quarter and a half have passed on; look-ups weigh the hottest ranks most.
    assert 0.5 < stayed[1] < 0.95
    assert stayed[2] < stayed[1]
    np.testing.assert_array_equal(before[1], after[1])  # the dense features
    field = still.teacher.fields[2]
    ids = np.unique(after[0][2])
    assert np.array_equal(field.biases(ids), moving.teacher.fields[2].biases(ids))
    # Seen from anywhere, the same rows.
    part = SyntheticConfig(num_rows=5000, scale=0.002, day_rows=20_000, drift=0.25, first_row=39_000)
    np.testing.assert_array_equal(_joined(SyntheticClickLog(part), 999)[0], after[0][:, 39_000:44_000])


def test_drift_moves_the_share_of_ranks_that_it_says() -> None:
    field = teacher(1, 0.05).fields[2]
    ranks = np.arange(100_000)
    assert (field._handed_on(ranks, np.full(100_000, 0.2)) > 0).mean() == pytest.approx(0.2, abs=0.01)
    assert (field._handed_on(ranks, np.full(100_000, 0.0)) == 0).all()
    for drift, day, message in ((0.1, 0, "say how long a day is"), (1.5, 10, r"drift in \[0, 1\]")):
        with pytest.raises(ValueError, match=message):
            SyntheticConfig(num_rows=10, drift=drift, day_rows=day)
