"""The recipes that prepare Frappe and MovieLens-1M, on made files of the same shape and on the real ones."""

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screc.data import open_log

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _recipes_importable(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _made_frappe(folder: Path) -> pa.Table:
    random = np.random.default_rng(0)
    count = 1000
    columns = {
        "user": random.integers(0, 40, count),
        "item": random.integers(0, 60, count),
        "cnt": [1] * count,
    }
    for name in ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country"):
        columns[name] = [f"{name}-{i}" for i in random.integers(0, 3, count)]
    columns["city"] = random.integers(0, 9, count)
    (folder / "frappe").mkdir(parents=True)
    pq.write_table(pa.table(columns), folder / "frappe" / "frappe.parquet")
    return pa.table(columns)


def _made_ml1m(folder: Path) -> list[list[int]]:
    """Histories by user; user 3 is one and item ids have gaps, as in the real files."""
    random = np.random.default_rng(1)
    movies = [2 * i + 1 for i in range(80)]
    histories = [random.choice(movies, size, replace=False).tolist() for size in (25, 11, 1, 40)]
    target = folder / "ml1m"
    target.mkdir(parents=True)
    rows = [(u + 1, m, p) for u, history in enumerate(histories) for p, m in enumerate(history)]
    random.shuffle(rows)
    users, items, places = zip(*rows, strict=True)
    table = {"user_id": users, "item_id": items, "pos": places}
    pq.write_table(pa.table({k: pa.array(v, pa.uint16()) for k, v in table.items()}),
                   target / "interactions_time_ordered.parquet")  # fmt: skip
    lines = ["1::F::1::10::48067", "2::M::56::16::48072-1234", "3::M::25::15::55117", "4::F::25::7::02460"]
    (target / "users.dat.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    genres = ["Comedy", "Drama|Comedy", "Drama|War|Action"]
    movie_lines = [f"{m}::Op\xe9ra {m}::{genres[i % 3]}" for i, m in enumerate(movies)]
    (target / "movies.dat.gz").write_bytes(gzip.compress(("\n".join(movie_lines) + "\n").encode("latin-1")))
    return histories


def test_frappe_made(tmp_path) -> None:
    from recipes.prepare_frappe import FIELDS, prepare

    raw = _made_frappe(tmp_path)
    assert prepare(tmp_path, tmp_path / "out") == (2400, 600)
    users = np.unique(raw["user"].to_numpy(), return_inverse=True)[1]
    items = np.unique(raw["item"].to_numpy(), return_inverse=True)[1]
    seen = set(zip(users.tolist(), items.tolist(), strict=True))
    for part, count in (("train", 2400), ("test", 600)):
        log = open_log(f"parquet:{tmp_path}/out/{part}.parquet")
        assert tuple(t.name for t in log.tables) == FIELDS
        (batch,) = log.batches(10_000)
        batch.validate([t.num_embeddings for t in log.tables], 0)
        assert batch.batch_size == count
        assert batch.labels.sum() == count / 3
        pairs = zip(batch.table_ids(0).tolist(), batch.table_ids(1).tolist(), strict=True)
        for pair, label in zip(pairs, batch.labels.tolist(), strict=True):
            assert (pair in seen) == bool(label)
    first = (tmp_path / "out" / "train.parquet").read_bytes()
    prepare(tmp_path, tmp_path / "again")
    assert (tmp_path / "again" / "train.parquet").read_bytes() == first
    prepare(tmp_path, tmp_path / "other", seed=1)
    assert (tmp_path / "other" / "train.parquet").read_bytes() != first


def test_ml1m_made(tmp_path) -> None:
    from recipes.prepare_ml1m import prepare

    histories = _made_ml1m(tmp_path)
    tests = [int(len(h) * 0.1) for h in histories]
    train = sum(len(h) for h in histories) - sum(tests)
    assert prepare(tmp_path, tmp_path / "out") == (2 * train, 2 * sum(tests))
    movies = {movie: i for i, movie in enumerate(range(1, 161, 2))}
    known = [[movies[m] for m in history] for history in histories]
    sizes = {
        "user": 4,
        "item": 80,
        "gender": 2,
        "age": 3,
        "occupation": 4,
        "zip3": 3,
        "genres": 4,
        "history": 80,
    }
    for part in ("train", "test"):
        log = open_log(f"parquet:{tmp_path}/out/{part}.parquet")
        assert {t.name: t.num_embeddings for t in log.tables} == sizes
        assert [t.pooling for t in log.tables] == ["sum"] * 6 + ["mean"] * 2
        (batch,) = log.batches(10_000)
        batch.validate(list(sizes.values()), 0)
        bags = [np.split(batch.table_ids(t), batch.table_offsets(t)[1:-1]) for t in range(8)]
        positives = set()
        for row in range(batch.batch_size):
            user, item = int(bags[0][row][0]), int(bags[1][row][0])
            history = known[user]
            assert (item in history) == bool(batch.labels[row])
            assert len(bags[6][row]) == item % 3 + 1
            if batch.labels[row]:
                place = history.index(item)
                positives.add((user, item))
                assert bags[7][row].tolist() == history[max(0, place - 10) : place]
                assert (place >= len(history) - tests[user]) == (part == "test")
        assert 2 * len(positives) == batch.batch_size


def test_a_user_who_has_seen_all(monkeypatch) -> None:
    from recipes import click_pairs

    monkeypatch.setattr(click_pairs, "_MAX_ROUNDS", 50)
    users, items = np.zeros(3, dtype=np.int64), np.arange(3)
    random = np.random.default_rng(0)
    with pytest.raises(ValueError, match="user 0: no unseen item found"):
        click_pairs.unseen_items(users[:1], users, items, 3, lambda n: random.integers(0, 3, n))


@pytest.mark.parametrize(
    ("name", "rows", "ids"), [("frappe", (230_886, 57_723), 5382), ("ml1m", (1_805_652, 194_766), 14_532)]
)
def test_real(tmp_path, name, rows, ids) -> None:
    root = os.environ.get("SCREC_DATA")
    if not root or not (Path(root) / name).exists():
        pytest.skip(f"SCREC_DATA does not point at a directory with {name}")
    import importlib

    prepare = importlib.import_module(f"recipes.prepare_{name}").prepare
    assert prepare(Path(root), tmp_path) == rows
    log = open_log(f"parquet:{tmp_path}/test.parquet")
    assert sum(t.num_embeddings for t in log.tables) == ids
    assert log.num_samples == rows[1]
