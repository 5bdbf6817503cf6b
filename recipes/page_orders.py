"""Pages and tensor-train prefixes per call under each order of rows (docs/guide/page-order.md).

    python -m recipes.page_orders planted
    python -m recipes.page_orders ml1m --data DIR
    python -m recipes.page_orders users --data FILE

``planted`` draws a log of one table whose rows belong to communities that have nothing to do with their ids.
``ml1m`` reads ``train.parquet`` from DIR, where ``recipes.prepare_ml1m`` wrote it. ``users`` reads a Parquet
file of user_id, item_id and pos: a sample is the items of one user, users in random order.

With ``--louvain`` the order by communities of maximal modularity (Louvain, by networkx; EL-Rec uses Rabbit
Order, which seeks the same) stands beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screc.data import Batch, ClickLog, TableSpec, open_log
from screc.data.log import rebatch
from screc.statistics import PageOrderConfig, measure_co_access
from screc.statistics.block_order import blocks_of

SAMPLES_PER_CALL = (256, 16, 1)
HOT_SHARES = (0.0, 0.05)
NUM_COMMUNITIES, COMMUNITY, POOLING, NOISE = 1000, 100, 20, 0.2


@dataclass(frozen=True)
class BagLog:
    """A click log of one table: a list of bags of row ids, without dense features and labels."""

    bags: Sequence[np.ndarray]
    num_embeddings: int

    num_dense = 0

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """The one table."""
        return (TableSpec("rows", self.num_embeddings),)

    @property
    def num_samples(self) -> int | None:
        """Bags."""
        return len(self.bags)

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """See :class:`screc.data.ClickLog`."""
        offsets = np.cumsum([0, *map(len, self.bags)]).astype(np.int64)
        ids = np.concatenate(self.bags).astype(np.int64)
        return rebatch(
            [Batch(np.zeros((len(self.bags), 0), np.float32), ids, offsets)], batch_size, skip=skip
        )


def planted_bags(samples: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bags int64 [samples, POOLING] of rows of one community each, but for noise; the rows by community.

    Communities are drawn by a power law, rows within one uniformly.
    """
    random = np.random.default_rng(seed)
    rows = NUM_COMMUNITIES * COMMUNITY
    members = random.permutation(rows).reshape(NUM_COMMUNITIES, COMMUNITY)
    weights = 1 / np.arange(1, NUM_COMMUNITIES + 1) ** 0.8
    chosen = random.choice(NUM_COMMUNITIES, samples, p=weights / weights.sum())
    own = members[chosen[:, None], random.integers(0, COMMUNITY, (samples, POOLING))]
    strange = random.random(own.shape) < NOISE
    return np.where(strange, random.integers(0, rows, own.shape), own), members.ravel()


def user_bags(path: Path, *, seed: int = 0) -> tuple[list[np.ndarray], int]:
    """The items of each user, users in random order; and the number of items."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["user_id", "item_id"])
    users, items = (np.unique(column.to_numpy(), return_inverse=True)[1] for column in table.columns)
    order = np.argsort(users, kind="stable")
    bags = np.split(items[order], np.cumsum(np.bincount(users))[:-1])
    random = np.random.default_rng(seed)
    return [bags[user] for user in random.permutation(len(bags))], int(items.max()) + 1


def louvain_order(bags: Sequence[np.ndarray], num_embeddings: int) -> np.ndarray:
    """Rows by communities of maximal modularity, hottest community first, hottest row first in each."""
    import networkx

    counts = np.bincount(np.concatenate(bags), minlength=num_embeddings)
    graph = networkx.Graph()
    graph.add_nodes_from(range(num_embeddings))
    for bag in bags:
        different = np.unique(bag).tolist()
        for place, row in enumerate(different):
            for other in different[place + 1 :]:
                weight = graph.edges[row, other]["weight"] if graph.has_edge(row, other) else 0
                graph.add_edge(row, other, weight=weight + 1)
    parts = networkx.community.louvain_communities(graph, seed=0)
    parts = [sorted(part, key=lambda row: -counts[row]) for part in parts]
    parts.sort(key=lambda part: -counts[part].mean())
    return np.concatenate([np.array(part) for part in parts]).astype(np.uint32)


def report(log: ClickLog, tables: Sequence[str]) -> None:
    """Prints, per size of a call, hot rows kept in front, table and size of block, the blocks per call."""
    for samples in SAMPLES_PER_CALL:
        for hot in HOT_SHARES:
            config = PageOrderConfig(samples_per_call=samples, hot_share=hot)
            for found in measure_co_access(log, config):
                if found.table not in tables:
                    continue
                print(f"{found.table}, {samples} samples a call: {found.rows:.1f} rows, hot {hot:.0%}")
                for reads in found.reads:
                    print(
                        f"  {reads.block} ({reads.block_rows} rows): {reads.fewest:.1f} at least, "
                        f"by id {reads.by_id:.1f}, by frequency {reads.by_frequency:.1f}, "
                        f"by co-access {reads.by_co_access:.1f}",
                        flush=True,
                    )


def report_order(name: str, order: np.ndarray, bags: Sequence[np.ndarray], held_out: int) -> None:
    """Prints the blocks per call of the last bags with rows in a given order."""
    places = np.argsort(order)
    block_rows = {rows: what for what, rows in blocks_of(order.size).items()}
    for samples in SAMPLES_PER_CALL:
        calls = [
            places[np.concatenate(bags[start : start + samples])]
            for start in range(held_out, len(bags) - samples + 1, samples)
        ]
        found = ", ".join(
            f"{what} {np.mean([np.unique(call // rows).size for call in calls]):.1f}"
            for rows, what in block_rows.items()
        )
        print(f"{name}, {samples} samples a call: {found}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", choices=("planted", "ml1m", "users"))
    parser.add_argument("--data", type=Path, help="ml1m: the folder of train.parquet; users: the file")
    parser.add_argument("--louvain", action="store_true", help="also by Louvain communities")
    options = parser.parse_args()
    if options.log != "planted" and options.data is None:
        parser.error(f"{options.log} needs --data")
    if options.log == "ml1m":
        report(open_log(f"parquet:{options.data / 'train.parquet'}"), ("item", "history"))
        return
    if options.log == "users":
        bags, num_embeddings = user_bags(options.data)
    else:
        rows, by_community = planted_bags(200_000)
        bags, num_embeddings = list(rows), by_community.size
        held_out = int(len(bags) * 0.9)
        report_order("rows by their communities", by_community, bags, held_out)
    report(BagLog(bags, num_embeddings), ("rows",))
    if options.louvain:
        counted = int(len(bags) * 0.9)
        report_order("Louvain", louvain_order(bags[:counted], num_embeddings), bags, counted)


if __name__ == "__main__":
    main()
