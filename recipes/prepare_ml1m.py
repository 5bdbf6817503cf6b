"""MovieLens-1M as clicks: an unseen negative by popularity each, the last 10 % of a user for testing.

    python -m recipes.prepare_ml1m --data $SCREC_DATA --out DIR

reads ``ml1m/interactions_time_ordered.parquet``, ``users.dat.gz`` and ``movies.dat.gz`` and writes
``train.parquet``, ``test.parquet`` and ``schema.json``: user, item, gender, age, occupation, zip3 (first
three digits), genres (bag) and history (bag: the user's last ten items, with a table of its own); bags are
pooled by mean. The data is for research only (GroupLens) and may not be redistributed: keep DIR to yourself.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recipes.click_pairs import run_from_command_line, unseen_items, write_part
from screc.data import CategoricalColumn, Schema

HISTORY = 10
TEST_SHARE = 0.1
_USER_FIELDS = ("gender", "age", "occupation", "zip3")


def prepare(data: Path, out: Path, *, seed: int = 0) -> tuple[int, int]:
    """Write the two parts; returns their rows (1,805,652 and 194,766 for the whole log)."""
    source = data / "ml1m"
    user_ids, profiles = _read_users(source / "users.dat.gz")
    movie_ids, genre_offsets, genres, num_genres = _read_movies(source / "movies.dat.gz")
    log = pq.read_table(source / "interactions_time_ordered.parquet", columns=["user_id", "item_id", "pos"])
    users = np.searchsorted(user_ids, log.column("user_id").to_numpy()).astype(np.int64)
    items = np.searchsorted(movie_ids, log.column("item_id").to_numpy()).astype(np.int64)
    places = log.column("pos").to_numpy().astype(np.int64)
    order = np.lexsort((places, users))
    users, items, places = users[order], items[order], places[order]
    lengths = np.bincount(users, minlength=user_ids.size)
    test = places >= lengths[users] - (lengths[users] * TEST_SHARE).astype(np.int64)

    sizes = {"user": user_ids.size, "item": movie_ids.size}
    codes = {}
    for name in _USER_FIELDS:
        values, codes[name] = np.unique(profiles[name], return_inverse=True)
        sizes[name] = values.size
    sizes |= {"genres": num_genres, "history": movie_ids.size}
    bags = ("genres", "history")
    schema = Schema(
        categorical=tuple(
            CategoricalColumn(
                name=name,
                multi_valued=name in bags,
                pooling="mean" if name in bags else "sum",
                num_embeddings=int(size),
            )
            for name, size in sizes.items()
        )
    )
    random = np.random.default_rng(seed)
    # Another interaction's item: proportional to popularity. Future items of the user count as seen.
    negatives = unseen_items(
        users, users, items, movie_ids.size, lambda n: items[random.integers(0, items.size, n)]
    )
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for part, chosen in (("train", ~test), ("test", test)):
        rows = np.flatnonzero(chosen)
        both = np.concatenate([rows, rows])
        item = np.concatenate([items[rows], negatives[rows]])
        label = np.repeat(np.array([1, 0], dtype=np.int8), rows.size)
        columns: dict[str, np.ndarray | pa.Array] = {"label": label, "user": users[both], "item": item}
        columns |= {name: codes[name][users[both]].astype(np.int32) for name in _USER_FIELDS}
        columns["genres"] = _bags_of(item, genre_offsets, genres)
        columns["history"] = _histories(items, places, both)
        written.append(write_part(out / f"{part}.parquet", schema, columns, random.permutation(both.size)))
    schema.save(out / "schema.json")
    return written[0], written[1]


def _read_fields(path: Path) -> list[list[str]]:
    """Lines split at "::", by ascending id."""
    with gzip.open(path, "rt", encoding="latin-1") as stream:
        return sorted((line.rstrip("\n").split("::") for line in stream), key=lambda row: int(row[0]))


def _read_users(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """User ids, ascending, and their profile fields in the same order."""
    rows = _read_fields(path)
    profiles = {
        name: np.array([row[1 + place][:3] for row in rows]) for place, name in enumerate(_USER_FIELDS)
    }
    return np.array([int(row[0]) for row in rows]), profiles


def _read_movies(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Movie ids, ascending; offsets and genre ids of their bags; number of genres."""
    rows = _read_fields(path)
    bags = [row[2].split("|") for row in rows]
    names, genres = np.unique([name for bag in bags for name in bag], return_inverse=True)
    offsets = np.concatenate([[0], np.cumsum([len(bag) for bag in bags])])
    return np.array([int(row[0]) for row in rows]), offsets, genres, names.size


def _bags_of(items: np.ndarray, offsets: np.ndarray, values: np.ndarray) -> pa.Array:
    """The bag of every item, as a list array."""
    lengths = np.diff(offsets)[items]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(ends[-1]) - np.repeat(ends[:-1] - offsets[items], lengths)
    return pa.ListArray.from_arrays(
        pa.array(ends.astype(np.int32)), pa.array(values[places].astype(np.int32))
    )


def _histories(items: np.ndarray, places: np.ndarray, rows: np.ndarray) -> pa.Array:
    """The up to ten items before every row of the log sorted by user and place, oldest first."""
    lengths = np.minimum(places[rows], HISTORY)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    before = np.arange(ends[-1]) - np.repeat(ends[:-1] - rows + lengths, lengths)
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(items[before].astype(np.int32)))


if __name__ == "__main__":
    run_from_command_line(prepare, __doc__, "ml1m/")
