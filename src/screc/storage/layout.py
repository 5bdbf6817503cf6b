"""The layout of a table: its bands, what each costs in bytes, and the tensor-train shape of a band."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from .frozen import Frozen
from .row_format import LARGEST_CODE, RowFormat, ScaleOf, row_bytes

Format = RowFormat | Literal["tt"]
# llc: fast memory of a device's own that holds what it is told to (an FPGA's on-chip memory, a GPU's).
# Nothing that is packed here uses it.
Memory = Literal["llc", "dram", "ssd"]
PageOrderKind = Literal["id", "frequency", "co-access"]

# Scale and bias in float32.
SHARED_SCALE_BYTES = 8
# An int64 key and a uint32 slot, in two arrays so that nothing is lost to padding.
_HASH_BYTES_PER_ENTRY = 12
_ORDER_BYTES_PER_ID = 4


class TtShape(Frozen):
    """Shape of a tensor-train band (TT-Rec, arXiv 2101.11714, section 3).

    Core k is float32 [ranks[k], row_factors[k], col_factors[k], ranks[k + 1]]; a row's digits in the mixed
    radix ``row_factors`` (first core most significant) choose one slice per core; the row is their product.
    """

    row_factors: tuple[int, ...]
    col_factors: tuple[int, ...]
    ranks: tuple[int, ...]

    @model_validator(mode="after")
    def _consistent(self) -> TtShape:
        cores = len(self.row_factors)
        if cores < 2 or len(self.col_factors) != cores or len(self.ranks) != cores + 1:
            raise ValueError(
                f"row_factors, col_factors and ranks need n >= 2, n and n + 1 entries, got {cores}, "
                f"{len(self.col_factors)} and {len(self.ranks)}"
            )
        if self.ranks[0] != 1 or self.ranks[-1] != 1:
            raise ValueError(f"ranks must begin and end with 1, got {list(self.ranks)}")
        if min(self.row_factors + self.col_factors + self.ranks) < 1:
            raise ValueError("row_factors, col_factors and ranks must be positive")
        return self

    @property
    def num_cores(self) -> int:
        """Number of cores."""
        return len(self.row_factors)

    @property
    def num_rows(self) -> int:
        """Rows that the cores can address; at least the rows of the band."""
        return math.prod(self.row_factors)

    @property
    def embedding_dim(self) -> int:
        """Length of a rebuilt row."""
        return math.prod(self.col_factors)

    def core_shape(self, core: int) -> tuple[int, int, int, int]:
        """Shape of one core, [r_k, p_k, q_k, r_{k+1}]."""
        return self.ranks[core], self.row_factors[core], self.col_factors[core], self.ranks[core + 1]

    @property
    def num_parameters(self) -> int:
        """Float32 numbers in all cores."""
        return sum(math.prod(self.core_shape(core)) for core in range(self.num_cores))

    @property
    def flops_per_row(self) -> int:
        """Multiply-adds x 2 to rebuild one row, cores taken from the left."""
        flops, columns = 0, self.col_factors[0]
        for core in range(1, self.num_cores):
            flops += 2 * columns * self.ranks[core] * self.col_factors[core] * self.ranks[core + 1]
            columns *= self.col_factors[core]
        return flops

    @property
    def exact(self) -> bool:
        """Whether cores of this shape can rebuild any rows: no rank is less than its unfolding can have."""
        sizes = [rows * columns for rows, columns in zip(self.row_factors, self.col_factors, strict=True)]
        return all(
            self.ranks[cut] >= min(math.prod(sizes[:cut]), math.prod(sizes[cut:]))
            for cut in range(1, self.num_cores)
        )

    @classmethod
    def balanced(cls, num_rows: int, embedding_dim: int, tt_rank: int, num_cores: int = 3) -> TtShape:
        """The most even factors: ``prod(row_factors) >= num_rows``, ``prod(col_factors) == embedding_dim``.

        Inner ranks are ``tt_rank``, cut where an unfolding of the table cannot have that rank.
        """
        rows = _even_cover(num_rows, num_cores)
        columns = _even_factors(embedding_dim, num_cores)
        ranks = [1]
        for cut in range(1, num_cores):
            left = math.prod(rows[:cut]) * math.prod(columns[:cut])
            right = math.prod(rows[cut:]) * math.prod(columns[cut:])
            ranks.append(min(tt_rank, left, right))
        return cls(row_factors=rows, col_factors=columns, ranks=(*ranks, 1))


def _even_cover(target: int, parts: int) -> tuple[int, ...]:
    """Ascending, nearly equal factors whose product is at least ``target``, with little to spare."""
    factors: list[int] = []
    for left in range(parts, 0, -1):
        factor = max(1, math.floor(target ** (1 / left) + 1e-9)) if left > 1 else max(1, target)
        factors.append(factor)
        target = -(-target // factor)
    return tuple(sorted(factors))


def _even_factors(number: int, parts: int) -> tuple[int, ...]:
    """Ascending integers with the given product, as even as the divisors allow."""
    if parts == 1:
        return (number,)
    best: tuple[int, ...] | None = None
    for first in range(1, math.floor(number ** (1 / parts) + 1e-9) + 1):
        if number % first == 0:
            rest = _even_factors(number // first, parts - 1)
            factors = tuple(sorted((first, *rest)))
            if best is None or factors[-1] - factors[0] < best[-1] - best[0]:
                best = factors
    assert best is not None  # 1 always divides
    return best


class Band(Frozen):
    """A contiguous range of ranks [start, stop) of one table and its placement.

    ``scale`` says whether each int8 or int4 row has its own scale and bias or all rows of the band share one
    ("table"); other formats have none.
    ``order`` is that of the rows in the pages of a last band on SSD; any but the ids' costs an index.
    ``written`` is the number of page groups (:class:`PageGeometry`) that were written of a sparse table's
    last band on SSD; None where all were.
    """

    start: int = Field(ge=0)
    stop: int
    format: Format
    memory: Memory
    device: str = "cpu"
    scale: ScaleOf = "row"
    tt: TtShape | None = None
    order: PageOrderKind = "id"
    written: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Band:
        if self.stop <= self.start:
            raise ValueError(f"band [{self.start}, {self.stop}) is empty; drop it")
        if (self.format == "tt") != (self.tt is not None):
            raise ValueError("tt must be given for bands of format 'tt' and only for them")
        if self.format == "tt" and self.memory == "ssd":
            raise ValueError(f"a tt band lives in dram or llc, got memory '{self.memory}'")
        if self.scale == "table" and self.format not in LARGEST_CODE:
            raise ValueError(f"only int8 and int4 bands have a scale to share, this one is {self.format}")
        if self.order != "id" and self.memory != "ssd":
            raise ValueError(f"order: only pages on ssd have one, got '{self.order}' in {self.memory}")
        if self.written is not None and (self.memory != "ssd" or self.order != "id"):
            raise ValueError(
                "written: only pages on ssd in the order of the ids can have holes, got order "
                f"'{self.order}' in {self.memory}"
            )
        return self

    @property
    def num_rows(self) -> int:
        """Ranks in the band."""
        return self.stop - self.start


class TableLayout(Frozen):
    """One table as bands in rank order.

    The last band is addressed by the id itself and has room for every id of the table, so that its (cold)
    rows need no index unless their pages are to stand in another order (``Band.order``); each earlier band
    carries an index from id to slot (:func:`index_kind`).
    """

    table: str
    num_embeddings: int = Field(ge=1)
    embedding_dim: int = Field(ge=1)
    bands: tuple[Band, ...]

    @model_validator(mode="after")
    def _covers(self) -> TableLayout:
        expected = 0
        for band in self.bands:
            if band.start != expected:
                raise ValueError(f"table {self.table}: band starts at rank {band.start}, expected {expected}")
            expected = band.stop
        if expected != self.num_embeddings:
            raise ValueError(
                f"table {self.table}: bands cover {expected} of {self.num_embeddings} rows; cover all"
            )
        for position, band in enumerate(self.bands):
            if band.order != "id" and position != len(self.bands) - 1:
                raise ValueError(
                    f"table {self.table}: order of band {position} is '{band.order}'; only the rows of the "
                    "last band can be ordered"
                )
            if band.written is not None:
                self._check_written(position)
            if band.tt is None:
                continue
            if band.tt.embedding_dim != self.embedding_dim:
                raise ValueError(
                    f"table {self.table}: tt.col_factors give dimension {band.tt.embedding_dim}, "
                    f"the table has {self.embedding_dim}"
                )
            needed = self.slots(position)
            if band.tt.num_rows < needed:
                raise ValueError(
                    f"table {self.table}: tt.row_factors address {band.tt.num_rows} rows, "
                    f"the band needs {needed}"
                )
        return self

    def _check_written(self, position: int) -> None:
        written = self.bands[position].written
        assert written is not None
        if position != len(self.bands) - 1:
            raise ValueError(
                f"table {self.table}: band {position} has pages that were not written; only the last can"
            )
        if written > (groups := self.page_groups(position)):
            raise ValueError(f"table {self.table}: {written} of {groups} page groups were written")

    def slots(self, band: int) -> int:
        """Rows that the band has room for: its own, or the whole table for the last band."""
        return self.num_embeddings if band == len(self.bands) - 1 else self.bands[band].num_rows

    def row_bytes(self, band: int) -> int:
        """Bytes of a row as the band holds it; the band is no tensor train."""
        placed = self.bands[band]
        if placed.format == "tt":
            raise ValueError(f"table {self.table}, band {band}: a tensor train holds cores, not rows")
        return row_bytes(placed.format, self.embedding_dim, placed.scale)

    def band_bytes(self, band: int) -> int:
        """Bytes of the band's rows or cores in its memory (SSD bands in whole 4 KiB pages), without index
        and shared scale."""
        placed = self.bands[band]
        if placed.tt is not None:
            return 4 * placed.tt.num_parameters
        if placed.memory == "ssd":
            return PageGeometry.of(self.row_bytes(band)).file_bytes(self.slots(band))
        return self.row_bytes(band) * self.slots(band)

    def page_groups(self, band: int) -> int:
        """Page groups of an SSD band, written or not."""
        return PageGeometry.of(self.row_bytes(band)).num_groups(self.slots(band))

    def written_bytes(self, band: int) -> int:
        """Bytes of an SSD band's pages that were written; the others are holes of its file."""
        geometry, written = PageGeometry.of(self.row_bytes(band)), self.bands[band].written
        groups = self.page_groups(band) if written is None else written
        return groups * geometry.pages_per_row * PAGE_BYTES

    def index_bytes(self, band: int) -> int:
        """Bytes of what finds the band's rows: the id-to-slot index, which a last band has only in
        another order than the ids'; the index of its written pages, and the default row, if it has
        holes. It stands in DRAM, or beside its band in llc."""
        placed = self.bands[band]
        if band < len(self.bands) - 1:
            return index_bytes(self.num_embeddings, placed.num_rows)
        if placed.order != "id":
            return _ORDER_BYTES_PER_ID * self.num_embeddings
        if placed.written is None:
            return 0
        return index_bytes(self.page_groups(band), placed.written) + self.row_bytes(band)

    @property
    def llc_bytes(self) -> int:
        """Fast memory that bands in llc take: rows, cores, indices and shared scales."""
        return sum(
            self.band_bytes(b) + self._beside_bytes(b)
            for b, band in enumerate(self.bands)
            if band.memory == "llc"
        )

    @property
    def dram_bytes(self) -> int:
        """DRAM the table takes when served: rows, cores, indices and shared scales."""
        return sum(
            (self.band_bytes(b) if band.memory == "dram" else 0) + self._beside_bytes(b)
            for b, band in enumerate(self.bands)
            if band.memory != "llc"
        )

    @property
    def ssd_bytes(self) -> int:
        """SSD bytes of the table, holes included."""
        return sum(self.band_bytes(b) for b, band in enumerate(self.bands) if band.memory == "ssd")

    @property
    def ssd_written_bytes(self) -> int:
        """SSD bytes of the table without holes."""
        return sum(self.written_bytes(b) for b, band in enumerate(self.bands) if band.memory == "ssd")

    def _beside_bytes(self, band: int) -> int:
        """Bytes of what a band needs besides its rows or cores."""
        return self.index_bytes(band) + (SHARED_SCALE_BYTES if self.bands[band].scale == "table" else 0)

    def with_order(self, order: PageOrderKind) -> TableLayout:
        """The same layout with its last band's rows in this order."""
        return self._with_last(order=order)

    def with_written(self, groups: int | None) -> TableLayout:
        """The same layout with this many page groups of its last band written; None: all."""
        return self._with_last(written=groups)

    def _with_last(self, **changes: object) -> TableLayout:
        last = Band(**{**dict(self.bands[-1]), **changes})
        return TableLayout(**{**dict(self), "bands": (*self.bands[:-1], last)})

    @classmethod
    def dense(cls, table: str, num_embeddings: int, embedding_dim: int) -> TableLayout:
        """The layout with every row fp32 in DRAM."""
        band = Band(start=0, stop=num_embeddings, format="fp32", memory="dram")
        return cls(table=table, num_embeddings=num_embeddings, embedding_dim=embedding_dim, bands=(band,))


IndexKind = Literal["bitmap", "hash", "order"]


def index_kind(num_embeddings: int, num_rows: int) -> IndexKind:
    """The smaller index for ``num_rows`` of ``num_embeddings`` ids."""
    smaller = _bitmap_bytes(num_embeddings) <= _hash_bytes(num_rows)
    return "bitmap" if smaller else "hash"


def index_bytes(num_embeddings: int, num_rows: int) -> int:
    """DRAM bytes of the smaller index, exactly as the store holds it (docs/format.md, "Indices")."""
    return min(_bitmap_bytes(num_embeddings), _hash_bytes(num_rows))


def index_sizes(num_embeddings: int, num_rows: np.ndarray) -> np.ndarray:
    """:func:`index_bytes` for each of ``num_rows``, int64 [n]."""
    capacity = np.maximum(4, -(-num_rows * 4 // 3))
    return np.minimum(_bitmap_bytes(num_embeddings), _HASH_BYTES_PER_ENTRY * capacity)


def hash_capacity(num_rows: int) -> int:
    """Slots of the open-addressing table: the rows at a load of at most 3/4, at least 4."""
    return max(4, -(-num_rows * 4 // 3))


def _hash_bytes(num_rows: int) -> int:
    return _HASH_BYTES_PER_ENTRY * hash_capacity(num_rows)


def _bitmap_bytes(num_embeddings: int) -> int:
    words = -(-num_embeddings // 64)
    return 8 * words + 4 * (-(-words // 8) + 1)


PAGE_BYTES = 4096
PAGE_HEADER_BYTES = 32


@dataclass(frozen=True, slots=True)
class PageGeometry:
    """Where the rows of an SSD band stand: whole rows per page, or whole pages per row for long rows.

    A **page group** is what is written together: a page, or the pages of one long row.
    """

    row_bytes: int
    rows_per_page: int
    pages_per_row: int

    @classmethod
    def of(cls, row_bytes: int) -> PageGeometry:
        """The geometry of rows of ``row_bytes`` bytes."""
        payload = PAGE_BYTES - PAGE_HEADER_BYTES
        if row_bytes <= payload:
            return cls(row_bytes, payload // row_bytes, 1)
        return cls(row_bytes, 1, -(-row_bytes // payload))

    def num_groups(self, num_rows: int) -> int:
        """Page groups that hold ``num_rows`` rows."""
        return -(-num_rows // self.rows_per_page)

    def num_pages(self, num_rows: int) -> int:
        """Pages that hold ``num_rows`` rows."""
        return self.num_groups(num_rows) * self.pages_per_row

    def file_bytes(self, num_rows: int) -> int:
        """File size for ``num_rows`` rows."""
        return self.num_pages(num_rows) * PAGE_BYTES
