"""Artifacts of a model of random rows, written without a checkpoint, whose page files are shared.

``screc.storage.pack`` reads a checkpoint and writes every file of an artifact anew. Where one model is
placed by dozens of plans that is most of a benchmark's time and disk. Here rows are made when they are
needed, and the page file of a table in one format, which holds all of its rows by their ids whatever the
plan keeps in DRAM, is written once and hard-linked into every artifact. What comes out is opened and
checked as any artifact is. Rows are those of the model; the cores of tensor trains are random.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.workload import RandomTables, Workload, dense_tensors
from screc import _native
from screc.planning import Plan
from screc.statistics import AccessStatistics
from screc.storage.artifact import (
    DENSE_FILE,
    FORMAT,
    TABLES_FILE,
    VERSION,
    Manifest,
    PackedTable,
    dram_specs,
    index_kinds,
    index_specs,
    pages_file,
    write_manifest,
)
from screc.storage.checksum import FileEntry
from screc.storage.layout import PAGE_BYTES, PageGeometry, TableLayout, TtShape
from screc.storage.remap import bitmap_index, hash_index, slot_order
from screc.storage.row_format import EncodingError, RowFormat, decode_rows, encode_rows
from screc.storage.tensors import write_arrays, write_tensors

_CHUNK_ROWS = 1 << 18
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SharedPages:
    """A page file of all rows of a table: where it is, and what an artifact says of it."""

    path: Path
    crc32c: int
    error: float | None


class GeneratedModel:
    """The model: its tables' rows, and artifacts of it under ``directory``.

    Args:
        workload: its shape; table i is called ``t{i}``.
        statistics: give the order of each table's rows.
        directory: where page files are shared.
        seed: of the dense weights.
    """

    def __init__(
        self, workload: Workload, statistics: AccessStatistics, directory: Path, *, seed: int
    ) -> None:
        self.workload, self.statistics, self.directory = workload, statistics, directory
        self.tables = RandomTables(workload.rows, workload.embedding_dim)
        self.layers = workload.layers(np.random.default_rng(seed))

    # ------------------------------------------------------------------------------------------------
    # writing

    def write(self, plan: Plan, out: Path, *, progress: Progress | None = None) -> None:
        """Writes the artifact of a plan; one that is there already is kept."""
        if out.exists():
            return
        for layout in plan.layouts:
            if any(band.scale != "row" or band.order != "id" for band in layout.bands):
                raise ValueError(
                    f"table {layout.table}: generated rows have scales of their own, by their ids"
                )
        part = out.with_name(f"{out.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        (part / "pages").mkdir(parents=True)
        writer = _TablesWriter(self, plan)
        files = [
            write_arrays(part / DENSE_FILE, dense_tensors(*self.layers)),
            write_tensors(part / TABLES_FILE, writer.specs, writer.produce),
        ]
        for table, layout in enumerate(plan.layouts):
            for band, placed in enumerate(layout.bands):
                if placed.memory == "ssd":
                    assert placed.format != "tt"
                    pages = self.pages(table, band, placed.format, progress=progress)
                    name = pages_file(table, band)
                    os.link(pages.path, part / name)
                    files.append(FileEntry(path=name, bytes=pages.path.stat().st_size, crc32c=pages.crc32c))
                    writer.errors[table, band] = pages.error
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            model=self.workload.model,
            tables=tuple(
                PackedTable(
                    layout,
                    "sum",
                    index_kinds(layout),
                    tuple(writer.errors.get((table, band)) for band in range(len(layout.bands))),
                )
                for table, layout in enumerate(plan.layouts)
            ),
            files=tuple(files),
            plan=plan.to_dict(),
        )
        write_manifest(part, manifest)
        part.rename(out)

    def pages(
        self, table: int, band: int, row_format: RowFormat, *, progress: Progress | None = None
    ) -> SharedPages:
        """The page file of all rows of a table as band number ``band``; written when first asked for."""
        path = self.directory / f"{table}.{band}.{row_format}.pages"
        note = path.with_suffix(".json")
        if not note.exists():
            if progress is not None:
                progress(f"pages of table {table} as {row_format}, band {band}")
            path.parent.mkdir(parents=True, exist_ok=True)
            crc32c, error = self._write_pages(path, table, band, row_format)
            note.write_text(json.dumps({"crc32c": crc32c, "error": error}))
        return SharedPages(path, **json.loads(note.read_text()))

    def drop_pages(self, keep: set[tuple[int, int, RowFormat]]) -> None:
        """Removes the shared page files of all other (table, band, format)."""
        names = {f"{table}.{band}.{row_format}" for table, band, row_format in keep}
        for path in self.directory.glob("*.*.*.*"):
            if path.stem not in names:
                path.unlink()

    def _write_pages(
        self, path: Path, table: int, band: int, row_format: RowFormat
    ) -> tuple[int, float | None]:
        rows, dim = self.workload.rows[table], self.workload.embedding_dim
        geometry = PageGeometry.of(encode_rows(np.zeros((1, dim), np.float32), row_format).shape[1])
        step = max(1, _CHUNK_ROWS // geometry.rows_per_page) * geometry.rows_per_page
        checksum, page, error = 0, 0, EncodingError()
        with open(path, "wb") as file:
            for start in range(0, rows, step):
                exact = self.tables.rows(table, np.arange(start, min(start + step, rows)))
                encoded = _encoded(exact, row_format, error)
                pages = np.empty((geometry.num_pages(len(exact)), PAGE_BYTES), np.uint8)
                _native.fill_pages(encoded, table, band, page, pages)
                file.write(memoryview(pages).cast("B"))
                checksum = _native.crc32c(pages, checksum)
                page += len(pages)
            file.flush()
            os.fsync(file.fileno())
        return checksum, None if row_format == "fp32" else error.relative

    # ------------------------------------------------------------------------------------------------
    # reading

    def ids(self, layout: TableLayout, table: int, band: int) -> np.ndarray:
        """The ids of a band but the last, in the order of its slots."""
        placed = layout.bands[band]
        ids = self.statistics.tables[table].ids_in_ranks(placed.start, placed.stop)
        return slot_order(layout.num_embeddings, ids, ranked=placed.tt is None)

    def served_rows(self, layout: TableLayout, table: int, ids: np.ndarray) -> np.ndarray:
        """What an artifact with this layout has to answer for ids int64 [n], float32 [n, dim]."""
        starts = [band.start for band in layout.bands]
        bands = np.searchsorted(starts, self.statistics.tables[table].ranks_of(ids), side="right") - 1
        out = np.empty((len(ids), layout.embedding_dim), np.float32)
        for number, placed in enumerate(layout.bands):
            here = np.flatnonzero(bands == number)
            if placed.tt is not None:
                slots = ids[here]
                if number < len(layout.bands) - 1:  # by ascending ids, as tensor trains are addressed
                    slots = np.searchsorted(self.ids(layout, table, number), slots)
                rebuilt = np.empty((len(here), layout.embedding_dim), np.float32)
                _native.tt_rows(random_cores(placed.tt, table, number), slots, rebuilt)
                out[here] = rebuilt
            else:
                assert placed.format != "tt"
                encoded = encode_rows(self.tables.rows(table, ids[here]), placed.format)
                out[here] = decode_rows(encoded, placed.format, layout.embedding_dim)
        return out


class _TablesWriter:
    """Produces the tensors of one artifact's tables, one after the other."""

    def __init__(self, model: GeneratedModel, plan: Plan) -> None:
        self._model, self._layouts = model, plan.layouts
        self.specs = {
            name: spec
            for table, layout in enumerate(plan.layouts)
            for name, spec in dram_specs(table, layout).items()
        }
        self.errors: dict[tuple[int, int], float | None] = {}
        self._index: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None

    def produce(self, name: str) -> np.ndarray | Iterator[np.ndarray]:
        """The tensor of this name."""
        first, second, kind, *rest = name.split(".")
        table, band = int(first), int(second)
        layout = self._layouts[table]
        if kind == "rows":
            return self._rows(table, band)
        if kind == "tt":
            shape = layout.bands[band].tt
            assert shape is not None
            return random_cores(shape, table, band)[int(rest[0])]
        if self._index is None or self._index[0] != (table, band):
            ids = self._model.ids(layout, table, band)
            if index_kinds(layout)[band] == "bitmap":
                arrays = bitmap_index(ids, layout.num_embeddings)
            else:
                arrays = hash_index(ids, np.arange(len(ids), dtype=np.uint32))
            named = dict(zip(index_specs(layout, band), arrays, strict=True))
            self._index = ((table, band), named)
        return self._index[1][rest[0]]

    def _rows(self, table: int, band: int) -> Iterator[np.ndarray]:
        layout = self._layouts[table]
        row_format = layout.bands[band].format
        assert row_format != "tt"
        last = band == len(layout.bands) - 1
        ids = np.arange(layout.num_embeddings) if last else self._model.ids(layout, table, band)
        error = EncodingError()
        for start in range(0, len(ids), _CHUNK_ROWS):
            exact = self._model.tables.rows(table, ids[start : start + _CHUNK_ROWS])
            yield exact if row_format == "fp32" else _encoded(exact, row_format, error)
        self.errors[table, band] = None if row_format == "fp32" else error.relative


def _encoded(exact: np.ndarray, row_format: RowFormat, error: EncodingError) -> np.ndarray:
    """Rows as uint8 [n, row_bytes]; counts what the format loses."""
    if row_format == "fp32":
        return exact.view(np.uint8)
    encoded = encode_rows(exact, row_format)
    error.add(exact, decode_rows(encoded, row_format, exact.shape[1]))
    return encoded


def random_cores(shape: TtShape, table: int, band: int) -> list[np.ndarray]:
    """Cores whose rows have about the deviation of the exact ones; the same every time."""
    generator = np.random.default_rng([table, band, *shape.ranks])
    # The variance of a rebuilt number: the product of the cores' variances and of the inner ranks.
    variance = (0.1**2 / math.prod(shape.ranks)) ** (1 / shape.num_cores)
    return [
        (variance**0.5 * generator.standard_normal(shape.core_shape(core))).astype(np.float32)
        for core in range(shape.num_cores)
    ]
