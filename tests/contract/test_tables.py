from __future__ import annotations

import numpy as np
import pytest
import torch
from table_contract import TableContract

from screc.embeddings import BandedTable, FullTable, TableModule, TensorTrain
from screc.storage.layout import Band, TableLayout, TtShape


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


class TestFullTable(TableContract):
    def make(self, pooling: str) -> TableModule:
        return FullTable(TableLayout.dense("t", 50, 8), pooling, init_std=0.5, generator=seeded())


class TestTensorTrain(TableContract):
    def make(self, pooling: str) -> TableModule:
        shape = TtShape.balanced(60, 8, tt_rank=4)
        layout = TensorTrain.layout_of("t", 57, shape)
        return TensorTrain(layout, pooling, init_std=0.5, generator=seeded())


class TestTensorTrainOfTwoCores(TableContract):
    def make(self, pooling: str) -> TableModule:
        shape = TtShape(row_factors=(7, 9), col_factors=(2, 3), ranks=(1, 5, 1))
        layout = TensorTrain.layout_of("t", 63, shape)
        return TensorTrain(layout, pooling, init_std=0.5, generator=seeded())


class BandedContract(TableContract):
    bands: tuple[tuple[int, bool], ...]  # (rows, tensor train?) in rank order

    def make(self, pooling: str) -> TableModule:
        total, start, bands = sum(rows for rows, _ in self.bands), 0, []
        for place, (rows, compressed) in enumerate(self.bands):
            slots = total if place == len(self.bands) - 1 else rows
            shape = TtShape.balanced(slots, 8, tt_rank=4) if compressed else None
            bands.append(
                Band(
                    start=start,
                    stop=start + rows,
                    format="tt" if compressed else "fp32",
                    memory="dram",
                    tt=shape,
                )
            )
            start += rows
        layout = TableLayout(table="t", num_embeddings=total, embedding_dim=8, bands=tuple(bands))
        order = np.random.default_rng(5).permutation(total).astype(np.int64)
        ids = [order[band.start : band.stop] for band in bands[:-1]]
        return BandedTable(layout, ids, pooling, init_std=0.5, generator=seeded())


class TestHotTrainCold(BandedContract):
    bands = ((5, False), (30, True), (25, False))


class TestHotTrain(BandedContract):
    bands = ((7, False), (53, True))


class TestTwoTrains(BandedContract):
    bands = ((20, True), (3, False), (11, False), (26, True))


class TestSingleBand(BandedContract):
    bands = ((40, False),)


@pytest.mark.parametrize("cls", [FullTable, TensorTrain])
def test_single_band_tables_refuse_other_layouts(cls: type) -> None:
    bands = (
        Band(start=0, stop=2, format="fp32", memory="dram"),
        Band(start=2, stop=9, format="fp32", memory="ssd"),
    )
    layout = TableLayout(table="clicks", num_embeddings=9, embedding_dim=4, bands=bands)
    with pytest.raises(ValueError, match=f"table clicks: {cls.__name__} takes a layout of one"):
        cls(layout)
