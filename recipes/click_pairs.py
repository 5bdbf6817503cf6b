"""Clicks from interactions: sampled negatives, the train and test parts, the recipes' command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from screc.data import Schema

_MAX_ROUNDS = 10_000


def unseen_items(
    users: np.ndarray,
    seen_users: np.ndarray,
    seen_items: np.ndarray,
    num_items: int,
    draw: Callable[[int], np.ndarray],
) -> np.ndarray:
    """One item for every entry of ``users`` that this user has no interaction with, by rejection.

    Args:
        users: int64 [n].
        seen_users: int64 [m], with seen_items the (user, item) pairs to keep away from.
        seen_items: int64 [m].
        num_items: items are 0 .. num_items - 1.
        draw: gives that many item proposals, int64.

    Raises:
        ValueError: a user has seen every item that ``draw`` gives.
    """
    seen = np.unique(seen_users * num_items + seen_items)
    items = np.empty(users.size, dtype=np.int64)
    todo = np.arange(users.size)
    for _ in range(_MAX_ROUNDS):
        proposals = draw(todo.size)
        keys = users[todo] * num_items + proposals
        places = np.minimum(np.searchsorted(seen, keys), seen.size - 1)
        rejected = seen[places] == keys
        items[todo[~rejected]] = proposals[~rejected]
        todo = todo[rejected]
        if not todo.size:
            return items
    raise ValueError(f"user {users[todo[0]]}: no unseen item found; the user has seen (nearly) all")


def write_part(
    path: Path, schema: Schema, columns: Mapping[str, np.ndarray | pa.Array], order: np.ndarray
) -> int:
    """Write one Parquet file of the schema's columns with rows in the given order; returns the rows."""
    take = pa.array(order)
    names = list(schema.columns)
    arrays = [
        pa.array(columns[name]) if isinstance(columns[name], np.ndarray) else columns[name] for name in names
    ]
    pq.write_table(pa.table(arrays, names=names).take(take), path, row_group_size=65_536)
    return order.size


def run_from_command_line(prepare: Callable[..., tuple[int, int]], description: str, source: str) -> None:
    """Call ``prepare(data, out, seed=seed)`` with what the command line says, and print the rows it wrote."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help=f"directory that holds {source}")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    train, test = prepare(arguments.data, arguments.out, seed=arguments.seed)
    print(f"{arguments.out}: {train:,} training rows, {test:,} test rows")
