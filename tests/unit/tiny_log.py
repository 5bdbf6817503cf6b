"""A small click log in memory, and a model for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from screc.data.batch import Batch
from screc.data.log import TableSpec
from screc.models import DLRM, DlrmConfig
from screc.storage.layout import Band, TableLayout, TtShape

SPECS = (TableSpec("a", 40, "sum"), TableSpec("b", 25, "mean"), TableSpec("c", 60, "sum"))
NUM_DENSE = 3


class TinyLog:
    """Samples with bags of 0 to 3 ids; the label depends on the first table's ids and the dense features."""

    tables = SPECS
    num_dense = NUM_DENSE

    def __init__(self, num_samples: int = 640, seed: int = 0) -> None:
        self.num_samples: int | None = num_samples
        rng = np.random.default_rng(seed)
        lengths = rng.integers(0, 4, size=(len(SPECS), num_samples))
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
        ids = np.concatenate(
            [rng.integers(0, s.num_embeddings, n.sum()) for s, n in zip(SPECS, lengths, strict=True)]
        ).astype(np.int64)
        dense = rng.normal(size=(num_samples, NUM_DENSE)).astype(np.float32)
        effect = rng.normal(size=60)
        first = np.add.reduceat(np.append(effect[ids], 0), offsets[:-1]) * (np.diff(offsets) > 0)
        logit = dense[:, 0] + first[:num_samples]
        labels = (rng.random(num_samples) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        self.whole = Batch(dense=dense, ids=ids, offsets=offsets, labels=labels)

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """As every click log's."""
        for start in range(skip, self.whole.batch_size, batch_size):
            yield self.whole.rows(start, start + batch_size)


def tiny_model(seed: int = 0, *, banded: bool = False) -> DLRM:
    """A DLRM for :class:`TinyLog`; ``banded`` gives a table of four bands, one in int8 and a tensor train."""
    config = DlrmConfig(num_dense=NUM_DENSE, embedding_dim=4, bottom_mlp=(8, 4), top_mlp=(8, 1))
    if not banded:
        return DLRM.build(config, SPECS, seed=seed)
    bands = (
        Band(start=0, stop=3, format="fp32", memory="dram"),
        Band(start=3, stop=5, format="int8", memory="dram"),
        Band(start=5, stop=20, format="tt", memory="dram", tt=TtShape.balanced(15, 4, 3)),
        Band(start=20, stop=40, format="int4", memory="ssd", scale="table"),
    )
    int8_band = Band(start=0, stop=25, format="int8", memory="dram")
    train_band = Band(start=0, stop=60, format="tt", memory="dram", tt=TtShape.balanced(60, 4, 3))
    layouts = [
        TableLayout(table="a", num_embeddings=40, embedding_dim=4, bands=bands),
        TableLayout(table="b", num_embeddings=25, embedding_dim=4, bands=(int8_band,)),
        TableLayout(table="c", num_embeddings=60, embedding_dim=4, bands=(train_band,)),
    ]
    order = np.random.default_rng(9).permutation(40).astype(np.int64)
    return DLRM.build(
        config, SPECS, layouts=layouts, band_ids={0: [order[:3], order[3:5], order[5:20]]}, seed=seed
    )
