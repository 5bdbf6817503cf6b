"""The banded table: rows in several formats and tensor trains, as a plan lays them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from screc.embeddings.contract import Pooling, TableModule
from screc.embeddings.rounded import RoundedTable
from screc.embeddings.tensor_train import TensorTrain
from screc.storage.layout import Band, TableLayout
from screc.storage.remap import TableRemap


class BandedTable(TableModule):
    """A table trained in any number of bands, each tensor-train or rows in any format.

    As everywhere (docs/format.md, "Layouts and addressing"), the last band is addressed by the id itself and
    the slots of every earlier band follow the ascending ids of its rows. Rows of the last band that belong to
    an earlier one exist but are never looked up nor trained.

    Args:
        layout: the bands; their memories do not matter while training.
        band_ids: for every band but the last, the ids of its rows, int64 [rows], in any order.
        pooling: ``"sum"`` or ``"mean"``.
        init_std: standard deviation of the entries of every row at the start, whatever the band's format;
            None leaves the bands unset, to be loaded.
        generator: source of the random numbers; torch's global one by default.

    Raises:
        TypeError: ids that are not int64.
        ValueError: ``band_ids`` does not fit the layout, or an id is out of range or given twice.
    """

    def __init__(
        self,
        layout: TableLayout,
        band_ids: Sequence[np.ndarray],
        pooling: Pooling = "sum",
        *,
        init_std: float | None = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, pooling)
        self.band_ids = _sorted_ids(layout, band_ids)
        self._remap = TableRemap(layout.num_embeddings, self.band_ids)
        bands: list[RoundedTable | TensorTrain] = []
        for position, band in enumerate(layout.bands):
            name, slots = f"{layout.table}[{position}]", layout.slots(position)
            if band.tt is not None:
                inner = TensorTrain.layout_of(name, slots, band.tt)
                bands.append(TensorTrain(inner, init_std=init_std, generator=generator))
            else:
                last = position == len(layout.bands) - 1
                unused = np.sort(np.concatenate([*self.band_ids, np.zeros(0, np.int64)])) if last else None
                inner = _alone(name, band, slots, layout.embedding_dim)
                bands.append(RoundedTable(inner, unused=unused, init_std=init_std, generator=generator))
        self.bands = nn.ModuleList(bands)

    @property
    def num_bytes(self) -> int:
        index = sum(self.layout.index_bytes(b) for b in range(len(self.bands)))
        return index + sum(band.num_bytes for band in self.bands)

    def rows(self, ids: Tensor) -> Tensor:
        band_of, slot_of = (torch.from_numpy(a).long() for a in self._remap.locate(ids.numpy()))
        pieces, places = [], []
        for position, band in enumerate(self.bands):
            place = (band_of == position).nonzero()[:, 0]
            if place.numel():
                pieces.append(band.rows(slot_of.index_select(0, place)))
                places.append(place)
        if not pieces:
            return self.bands[0].rows(ids)
        if len(pieces) == 1:
            return pieces[0]
        back = torch.empty(ids.numel(), dtype=torch.int64)
        back[torch.cat(places)] = torch.arange(ids.numel())
        return torch.cat(pieces).index_select(0, back)

    def before_step(self, step: int) -> None:
        for band in self.bands:
            band.before_step(step)

    def tensors(self) -> Mapping[str, np.ndarray]:
        result: dict[str, np.ndarray] = {}
        for position, band in enumerate(self.bands):
            result |= {key.replace("band.0.", f"band.{position}."): a for key, a in band.tensors().items()}
        for position, ids in enumerate(self.band_ids):
            result[f"band.{position}.ids"] = ids
        return result

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        for position, ids in enumerate(self.band_ids):
            stored = tensors.get(f"band.{position}.ids")
            if stored is None or not np.array_equal(stored, ids):
                raise ValueError(
                    f"table {self.layout.table}: tensor 'band.{position}.ids' is "
                    f"{'missing' if stored is None else 'not the set of ids that the table was built with'}"
                )
        for position, band in enumerate(self.bands):
            prefix = f"band.{position}."
            own = {k.replace(prefix, "band.0."): a for k, a in tensors.items() if k.startswith(prefix)}
            band.load(own)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [p for band in self.bands for p in band.sparse_parameters()]

    def dense_parameters(self) -> list[nn.Parameter]:
        return [p for band in self.bands for p in band.dense_parameters()]


def _alone(name: str, band: Band, slots: int, embedding_dim: int) -> TableLayout:
    """The layout of a table that is one band of rows."""
    whole = Band(start=0, stop=slots, format=band.format, scale=band.scale, memory="dram")
    return TableLayout(table=name, num_embeddings=slots, embedding_dim=embedding_dim, bands=(whole,))


def _sorted_ids(layout: TableLayout, band_ids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The ids of the indexed bands, ascending."""
    indexed = len(layout.bands) - 1
    if len(band_ids) != indexed:
        raise ValueError(
            f"table {layout.table}: band_ids has {len(band_ids)} entries, "
            f"expected {indexed}, one per band but the last"
        )
    for position, ids in enumerate(band_ids):
        if len(ids) != layout.bands[position].num_rows:
            raise ValueError(
                f"table {layout.table}: band_ids[{position}] has {len(ids)} ids, "
                f"its band {layout.bands[position].num_rows} rows"
            )
    return [np.sort(ids) for ids in band_ids]
