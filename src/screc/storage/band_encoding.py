"""What the rows of a band become: the scale they share, the cores that stand for them, the values read back.

Packing writes it; :class:`HeldRows` gives the values without writing anything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from screc import _native

from .band_source import BandSource
from .remap import TableRemap
from .row_format import Scale, decode_rows, encode_rows
from .shared_scale import BandValues, shared_scale
from .tt_fit import TtFit, fit_tt

_CHUNK_BYTES = 8 << 20


def band_scale(source: BandSource, band: int) -> Scale | None:
    """What the rows of a band share; None where each has its own or none is needed. The scale that they were
    trained with, if they were; else one pass over them."""
    layout, placed = source.layout, source.layout.bands[band]
    if placed.scale == "row":
        return None
    assert placed.format != "tt"
    if (trained := source.trained_scale(band)) is not None:
        return trained
    values = BandValues(layout.embedding_dim)
    step = max(1, _CHUNK_BYTES // (4 * layout.embedding_dim))
    # By slots, not as stored: an order of pages is no reason for another scale.
    for slots in source.stored_slots(band, step):
        values.add(source.rows(band, slots)[source.used(band, slots)])
    if source.default is not None and band == len(layout.bands) - 1:
        values.add(source.default[None])
    return shared_scale(values, placed.format)


def encode_band(
    source: BandSource, band: int, slots: np.ndarray, rows: np.ndarray, scale: Scale | None
) -> np.ndarray:
    """Rows float32 [n, dim] of slots [n] in their band's format, uint8 [n, row_bytes].

    Raises:
        ValueError: a value that the format cannot hold; the message names table, band and row (by its slot,
            or its id in a last band).
    """
    row_format = source.layout.bands[band].format
    assert row_format != "tt"
    try:
        return encode_rows(rows, row_format, scale)
    except ValueError:
        for slot, row in zip(slots, rows, strict=True):
            try:
                encode_rows(row[None], row_format, scale, first_row=int(slot))
            except ValueError as refused:
                raise ValueError(f"table {source.layout.table}, band {band}: {refused}") from refused
        raise AssertionError("one of the rows was refused") from None


def encode_default(source: BandSource, band: int, scale: Scale | None) -> np.ndarray:
    """A sparse table's default row as its last band holds rows: float32 [dim], or uint8 [row_bytes].

    Raises:
        ValueError: a value that the format cannot hold; the message names the table.
    """
    row_format, default = source.layout.bands[band].format, source.default
    assert default is not None
    assert row_format != "tt"
    if row_format == "fp32":
        return default
    try:
        return encode_rows(default[None], row_format, scale)[0]
    except ValueError as refused:
        raise ValueError(f"table {source.layout.table}, its default row: {refused}") from refused


def band_cores(source: BandSource, band: int, *, progress: Callable[[int, int], None] | None = None) -> TtFit:
    """The cores of a tensor-train band whose rows were trained as themselves, fitted to them by what each
    counts (:meth:`BandSource.weights`)."""
    shape = source.layout.bands[band].tt
    assert shape is not None
    assert not source.taken_over
    return fit_tt(
        lambda slots: source.rows(band, slots),
        source.layout.slots(band),
        shape,
        weights=source.weights(band),
        progress=progress,
    )


class HeldRows:
    """The rows of one table as an artifact packed from the same source would give them.

    Scales and cores are made when a row of their band is first asked for.
    """

    def __init__(self, source: BandSource) -> None:
        self._source = source
        layout = source.layout
        indexed = [source.ids(band) for band in range(len(layout.bands) - 1)]
        self._remap = TableRemap(layout.num_embeddings, indexed)
        self._scales: dict[int, Scale | None] = {}
        self._cores: dict[int, list[np.ndarray]] = {}

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The rows of ids int64 [n], float32 [n, dim].

        Raises:
            ValueError: an id is out of range, or a row cannot be held in its band's format.
        """
        out = np.empty((len(ids), self._source.layout.embedding_dim), np.float32)
        bands, slots = self._remap.locate(ids)
        for band in np.unique(bands).tolist():
            here = np.flatnonzero(bands == band)
            out[here] = self._band_rows(band, slots[here])
        return out

    def _band_rows(self, band: int, slots: np.ndarray) -> np.ndarray:
        source, placed = self._source, self._source.layout.bands[band]
        if placed.format == "tt":
            if band not in self._cores:
                taken_over = source.taken_over
                self._cores[band] = source.cores(band) if taken_over else list(band_cores(source, band).cores)
            out = np.empty((len(slots), source.layout.embedding_dim), np.float32)
            _native.tt_rows(self._cores[band], slots, out)
            return out
        rows = source.rows(band, slots)
        if placed.format == "fp32":
            return rows
        if band not in self._scales:
            self._scales[band] = band_scale(source, band)
        scale = self._scales[band]
        encoded = encode_band(source, band, slots, rows, scale)
        return decode_rows(encoded, placed.format, source.layout.embedding_dim, scale)
