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
    bands: tuple[tuple[int, str], ...]  # (rows, format and whose scale) in rank order

    def make(self, pooling: str) -> TableModule:
        total, start, bands = sum(rows for rows, _ in self.bands), 0, []
        for place, (rows, kind) in enumerate(self.bands):
            name, _, scale = kind.partition("/")
            slots = total if place == len(self.bands) - 1 else rows
            placement = {"format": name, "memory": "dram", "scale": scale or "row"}
            shape = TtShape.balanced(slots, 8, tt_rank=4) if name == "tt" else None
            bands.append(Band(start=start, stop=start + rows, tt=shape, **placement))
            start += rows
        layout = TableLayout(table="t", num_embeddings=total, embedding_dim=8, bands=tuple(bands))
        order = np.random.default_rng(5).permutation(total).astype(np.int64)
        ids = [order[band.start : band.stop] for band in bands[:-1]]
        return BandedTable(layout, ids, pooling, init_std=0.5, generator=seeded())


class TestHotTrainCold(BandedContract):
    bands = ((5, "fp32"), (30, "tt"), (25, "fp32"))


class TestHotTrain(BandedContract):
    bands = ((7, "fp32"), (53, "tt"))


class TestTwoTrains(BandedContract):
    bands = ((20, "tt"), (3, "fp32"), (11, "fp32"), (26, "tt"))


class TestSingleBand(BandedContract):
    bands = ((40, "fp32"),)


class TestRoundedBands(BandedContract):
    bands = ((5, "fp16"), (9, "int8"), (20, "tt"), (26, "int4"))


class TestBandsOfOneScale(BandedContract):
    bands = ((12, "int4/table"), (7, "bf16"), (30, "int8/table"))


class TestOneRoundedBand(BandedContract):
    bands = ((40, "int8/table"),)


@pytest.mark.parametrize("cls", [FullTable, TensorTrain])
def test_single_band_tables_refuse_other_layouts(cls: type) -> None:
    bands = (
        Band(start=0, stop=2, format="fp32", memory="dram"),
        Band(start=2, stop=9, format="fp32", memory="ssd"),
    )
    layout = TableLayout(table="clicks", num_embeddings=9, embedding_dim=4, bands=bands)
    with pytest.raises(ValueError, match=f"table clicks: {cls.__name__} takes a layout of one"):
        cls(layout)
