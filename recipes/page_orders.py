"""Pages per call under each order of rows, with all rows of a table on SSD (docs/guide/page-order.md).

    python -m recipes.page_orders planted
    python -m recipes.page_orders ml1m --data DIR

``planted`` draws a log of one table whose rows belong to communities that have nothing to do with their ids.
``ml1m`` reads ``train.parquet`` from DIR, where ``recipes.prepare_ml1m`` wrote it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screc.data import Batch, ClickLog, TableSpec, open_log
from screc.data.log import rebatch
from screc.statistics import PageOrderConfig, make_page_orders
from screc.storage import Band, TableLayout

DIM = 64
SAMPLES_PER_CALL = (256, 16, 1)
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


def ssd_layout(table: str, num_embeddings: int) -> TableLayout:
    """All rows of a table on SSD."""
    band = Band(start=0, stop=num_embeddings, format="fp32", memory="ssd")
    return TableLayout(table=table, num_embeddings=num_embeddings, embedding_dim=DIM, bands=(band,))


def report(log: ClickLog, tables: Sequence[str]) -> None:
    """Prints a line per table and size of a call."""
    layouts = [
        ssd_layout(table.name, table.num_embeddings)
        if table.name in tables
        else TableLayout.dense(table.name, table.num_embeddings, DIM)
        for table in log.tables
    ]
    for samples in SAMPLES_PER_CALL:
        config = PageOrderConfig(samples_per_call=samples)
        for reads in make_page_orders("co-access", layouts, None, log, config).reads:
            print(
                f"{reads.table}, {samples} samples a call: {reads.rows:.1f} rows, "
                f"{reads.fewest:.1f} pages at least; by id {reads.by_id:.1f}, by frequency {reads.by_frequency:.1f}, "
                f"by co-access {reads.by_co_access:.1f}",
                flush=True,
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", choices=("planted", "ml1m"))
    parser.add_argument("--data", type=Path, help="for ml1m: the folder of train.parquet")
    options = parser.parse_args()
    if options.log == "ml1m":
        if options.data is None:
            parser.error("ml1m needs --data")
        report(open_log(f"parquet:{options.data / 'train.parquet'}"), ("item", "history"))
        return
    bags, by_community = planted_bags(200_000)
    places = np.argsort(by_community) // (4064 // (4 * DIM))
    held_out = np.split(places[bags[180_000:]], range(256, 20_000 - 255, 256))
    pages = np.mean([len(np.unique(call)) for call in held_out if len(call) == 256])
    print(f"rows by their communities, 256 samples a call: {pages:.1f} pages")
    report(BagLog(list(bags), by_community.size), ("rows",))


if __name__ == "__main__":
    main()
