"""Where the rows of a table's bands come from when it is packed: a table trained whole, or band by band."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import numpy as np

from .layout import PageGeometry, TableLayout
from .remap import check_ids, slot_order
from .row_format import Scale
from .sparse import written_groups
from .tensors import TensorFile

_RANKS_PER_STEP = 1 << 20
_COLLECT_AGAIN = "collect the statistics again, or train again if the bands were trained"


def same_bands(stored: TableLayout, planned: TableLayout) -> bool:
    """Whether two layouts cut a table into the same bands, of rows or of the same tensor trains.

    Memories may differ, and so may the formats of rows: a checkpoint holds them in float32 whatever its
    layout says, and packing writes them in the format planned.
    """

    def cuts(layout: TableLayout) -> list[tuple[object, ...]]:
        return [(band.start, band.stop, band.tt) for band in layout.bands]

    return cuts(stored) == cuts(planned)


def trained_whole(stored: TableLayout) -> bool:
    """Whether every row of the table was trained as itself."""
    return len(stored.bands) == 1 and stored.bands[0].tt is None


class RankedTable(Protocol):
    """What packing asks of a table's access statistics."""

    name: str
    num_embeddings: int

    def ids_in_ranks(self, start: int, stop: int) -> np.ndarray:
        """The ids of ranks [start, stop), int64, in rank order."""

    def shares_in_ranks(self, start: int, stop: int) -> np.ndarray:
        """The share of look-ups that each of them is expected to get, float64."""


class BandSource:
    """The rows of one table of a checkpoint by the bands and slots of the layout it is packed into.

    Args:
        file: the table's tensors in the checkpoint.
        stored: the layout it was trained with.
        layout: the layout it is packed into; the bands of ``stored``, or any where it was trained whole.
        ranked: the table's access statistics. Needed to cut a whole table; where the bands are taken over
            they order the rows of hash-indexed bands, which else keep their order.

    Attributes:
        default: of a sparse table, the row of every id without a stored one, float32 [dim]; else None.

    Raises:
        ValueError: ids that are not unique, in range and disjoint, or a default row that is not finite; the
            message names table and band.
    """

    def __init__(
        self, file: TensorFile, stored: TableLayout, layout: TableLayout, ranked: RankedTable | None
    ) -> None:
        self.file, self.layout, self._stored = file, layout, stored
        self.taken_over = same_bands(stored, layout)
        self._ranked = ranked
        self._last = f"band.{len(stored.bands) - 1}"  # of the stored bands: it has room for every id
        self.default = self._known = None
        if f"{self._last}.default" in file:
            self.default = np.array(file[f"{self._last}.default"])
            self._known = file[f"{self._last}.ids"]
            self._check_sparse(self.default, self._known)
        # Ids that earlier bands hold, ascending: finds ids in two bands, and the last band's unused slots.
        self._taken = np.zeros(0, np.int64)
        self._ids: list[np.ndarray] = []
        for band in range(len(layout.bands) - 1):
            ids = self._slot_ids(band)
            self._take(band, ids)
            self._ids.append(ids)

    def ids(self, band: int) -> np.ndarray:
        """The ids of a band but the last, int64 [rows], in the order of its slots."""
        return self._ids[band]

    @cached_property
    def written_groups(self) -> np.ndarray | None:
        """Of a sparse table whose last band is on SSD, the page groups that hold a known row: int64,
        ascending. None where that are all."""
        last = len(self._ids)
        if self._known is None or self.layout.bands[last].memory != "ssd":
            return None
        geometry = PageGeometry.of(self.layout.row_bytes(last))
        groups = written_groups(self._known[~_among(self._known, self._taken)], geometry)
        return None if len(groups) == self.layout.page_groups(last) else groups

    def stored_slots(self, band: int, step: int) -> Iterator[np.ndarray]:
        """The slots of a band that packing stores, int64, ascending, ``step`` at a time: all, or those of
        the page groups that are written, whole groups at a time."""
        num_slots = self.layout.slots(band)
        if band < len(self._ids) or (groups := self.written_groups) is None:
            for start in range(0, num_slots, step):
                yield np.arange(start, min(start + step, num_slots))
            return
        rows_per_page = PageGeometry.of(self.layout.row_bytes(band)).rows_per_page
        together = max(1, step // rows_per_page)
        for start in range(0, len(groups), together):
            slots = groups[start : start + together, None] * rows_per_page + np.arange(rows_per_page)
            yield slots[slots < num_slots]

    def used(self, band: int, slots: np.ndarray) -> np.ndarray:
        """Which slots hold a row of their own, bool [n]: all but the last band's slots of ids in an earlier
        band and, in a sparse table, of ids that have none."""
        if band < len(self._ids):
            return np.ones(len(slots), bool)
        free = ~_among(slots, self._taken)
        return free if self._known is None else free & _among(slots, self._known)

    def weights(self, band: int) -> np.ndarray:
        """What the rows of a tensor-train band count when it is fitted, float32 [slots]: the look-ups that
        each is expected to get, in units of those of a mean row of the table, and no less than a millionth.
        1 for every row without statistics; 0 for slots that hold none. 4 bytes a slot."""
        layout, placed = self.layout, self.layout.bands[band]
        num_slots = layout.slots(band)
        if self._ranked is None:
            weights = np.empty(num_slots, np.float32)
            for start in range(0, num_slots, _RANKS_PER_STEP):
                slots = np.arange(start, min(start + _RANKS_PER_STEP, num_slots))
                weights[slots] = self.used(band, slots)
            return weights
        weights = np.zeros(num_slots, np.float32)
        for start in range(placed.start, placed.stop, _RANKS_PER_STEP):
            stop = min(start + _RANKS_PER_STEP, placed.stop)
            slots = np.asarray(self._ranked.ids_in_ranks(start, stop))
            if band < len(self._ids):
                slots = np.searchsorted(self._ids[band], slots)  # those of tensor trains ascend
            shares = self._ranked.shares_in_ranks(start, stop)
            weights[slots] = np.maximum(shares * layout.num_embeddings, 1e-6)
        return weights

    def rows(self, band: int, slots: np.ndarray) -> np.ndarray:
        """The rows of slots int64 [n], float32 [n, dim]: the default row where an id of a sparse table has
        none, zeros for slots of ids in an earlier band.

        Raises:
            ValueError: a row is not finite; the message names table and row.
        """
        layout, last = self.layout, band == len(self._ids)
        out = np.zeros((len(slots), layout.embedding_dim), np.float32)
        wanted = np.flatnonzero(~_among(slots, self._taken)) if last else np.arange(len(slots))
        ids = slots[wanted] if last else self._ids[band][slots]
        name, places = f"{self._last}.rows", ids
        if self.taken_over and not last:
            name, places = f"band.{band}.rows", np.searchsorted(self.file[f"band.{band}.ids"], ids)
        elif self._known is not None:
            out[wanted] = self.default
            stored = _among(ids, self._known)
            wanted, places = wanted[stored], np.searchsorted(self._known, ids[stored])
        # In the order of the file: it may not be in the page cache.
        order = np.argsort(places, kind="stable")
        out[wanted[order]] = self.file[name][places[order]]
        self.file.release()
        finite = np.isfinite(out).all(axis=1)
        if not finite.all():
            where = int(np.argmin(finite))
            row = slots[where] if last else ids[where]
            raise ValueError(
                f"table {layout.table}, row {row}: holds {_first_bad(out[where])}; a model with such rows "
                "cannot be served, train it again (a lower learning rate helps)"
            )
        return out

    def cores(self, band: int) -> list[np.ndarray]:
        """The cores of a tensor-train band that is taken over.

        Raises:
            ValueError: a core is not finite.
        """
        shape = self.layout.bands[band].tt
        assert shape is not None
        assert self.taken_over
        cores = [np.array(self.file[f"band.{band}.tt.{core}"]) for core in range(shape.num_cores)]
        for number, core in enumerate(cores):
            if not np.isfinite(core).all():
                raise ValueError(
                    f"table {self.layout.table}, band {band}, core {number}: holds {_first_bad(core)}; a "
                    "model with such cores cannot be served, train it again (a lower learning rate helps)"
                )
        return cores

    def trained_scale(self, band: int) -> Scale | None:
        """The scale and bias that a band was trained with; None where its rows were trained otherwise.

        Raises:
            ValueError: they are not a scale and a bias.
        """
        if not self.taken_over:
            return None
        trained, placed = self._stored.bands[band], self.layout.bands[band]
        if (trained.format, trained.scale) != (placed.format, placed.scale):
            return None
        scale, bias = self.file[f"band.{band}.scale"].tolist()
        if not (0 <= scale < math.inf and math.isfinite(bias)):
            raise ValueError(
                f"table {self.layout.table}, band {band}: the scale {scale} and bias {bias} it was trained "
                "with cannot be used; train it again (a lower learning rate helps)"
            )
        return scale, bias

    def _slot_ids(self, band: int) -> np.ndarray:
        layout, placed = self.layout, self.layout.bands[band]
        ranked = placed.tt is None
        if not self.taken_over:
            assert self._ranked is not None  # pack refuses it first
            ids = np.asarray(self._ranked.ids_in_ranks(placed.start, placed.stop))
            if ids.dtype != np.int64 or ids.shape != (placed.num_rows,):
                raise ValueError(
                    f"table {layout.table}: the statistics give {ids.dtype} {list(ids.shape)} for ranks "
                    f"{placed.start} to {placed.stop}; collect them again for this table"
                )
            return slot_order(layout.num_embeddings, ids, ranked=ranked)
        ids = np.array(self.file[f"band.{band}.ids"])
        _check_ascending(ids, f"table {layout.table}: band.{band}.ids")
        if self._ranked is not None and ranked:
            return slot_order(layout.num_embeddings, self._in_rank_order(ids), ranked=True)
        return ids

    def _check_sparse(self, default: np.ndarray, known: np.ndarray) -> None:
        name = f"table {self.layout.table}"
        if not np.isfinite(default).all():
            raise ValueError(f"{name}: its default row holds {_first_bad(default)}; give finite numbers")
        check_ids(known, self.layout.num_embeddings, f"{name}: {self._last}.ids")
        _check_ascending(known, f"{name}: {self._last}.ids")

    def _take(self, band: int, ids: np.ndarray) -> None:
        """Marks a band's ids as taken, once they are known to be valid, unique and free."""
        name = f"table {self.layout.table}, band {band}"
        check_ids(ids, self.layout.num_embeddings, f"{name}: ids")
        ascending = ids if (ids[1:] > ids[:-1]).all() else np.sort(ids)
        twice = ascending[1:] == ascending[:-1]
        if twice.any():
            raise ValueError(f"{name}: id {ascending[np.argmax(twice)]} occurs twice; {_COLLECT_AGAIN}")
        both = _among(ascending, self._taken)
        if both.any():
            raise ValueError(
                f"{name}: id {ascending[np.argmax(both)]} is in an earlier band too; {_COLLECT_AGAIN}"
            )
        self._taken = np.sort(np.concatenate((self._taken, ascending)), kind="stable")

    def _in_rank_order(self, ids: np.ndarray) -> np.ndarray:
        """Ascending ids in the order of their ranks, whichever ranks those are today."""
        assert self._ranked is not None
        found, missing = [], len(ids)
        for start in range(0, self.layout.num_embeddings, _RANKS_PER_STEP):
            stop = min(start + _RANKS_PER_STEP, self.layout.num_embeddings)
            ranked = np.asarray(self._ranked.ids_in_ranks(start, stop))
            place = np.minimum(np.searchsorted(ids, ranked), len(ids) - 1)
            found.append(ranked[ids[place] == ranked])
            missing -= len(found[-1])
            if missing <= 0:
                break
        return np.concatenate(found)


def _among(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Which values (int64 [n]) are in an ascending array, bool [n]."""
    if values.size == 0 or ascending.size == 0:
        return np.zeros(values.size, bool)
    # Values are mostly a short range of ids.
    first, last = np.searchsorted(ascending, (values.min(), values.max() + 1))
    near = ascending[first:last]
    if near.size == 0:
        return np.zeros(values.size, bool)
    return near[np.minimum(np.searchsorted(near, values), near.size - 1)] == values


def _check_ascending(ids: np.ndarray, name: str) -> None:
    wrong = ids[1:] <= ids[:-1]
    if wrong.any():
        where = int(np.argmax(wrong))
        raise ValueError(
            f"{name}[{where + 1}] = {ids[where + 1]} after {ids[where]}; the ids of a stored band ascend"
        )


def _first_bad(values: np.ndarray) -> float:
    return float(values[~np.isfinite(values)].flat[0])
