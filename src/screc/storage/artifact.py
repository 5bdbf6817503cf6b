"""The artifact: what serving opens, one checksummed directory (docs/format.md, "Artifact")."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from screc import _native

from .atomic import identity, read_unreplaced
from .checksum import DamagedFileError, FileEntry
from .frozen import Frozen
from .layout import IndexKind, TableLayout, hash_capacity, index_kind
from .manifest import Pooling, check_version, parse_manifest, write_json
from .tensors import TensorFile, TensorSpec

MANIFEST_FILE = "manifest.json"
DIGEST_FILE = "manifest.sha256"
DENSE_FILE = "dense.safetensors"
TABLES_FILE = "tables.safetensors"
RANGES_FILE = "ranges.safetensors"
ASSETS = "assets"
_HUGE_PAGE = 2**21
FORMAT, VERSION = "screc-artifact", 1

T = TypeVar("T")

_F32, _I64, _U8, _U32, _U64 = (np.dtype(name) for name in ("<f4", "<i8", "u1", "<u4", "<u8"))


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PackedTable:
    """A table of an artifact.

    Attributes:
        layout: its bands and where they live.
        pooling: "sum" or "mean".
        indices: for each band the form of its index, None for a last one without.
        fit_errors: for each band the relative Frobenius error of its fit or of its row format, None where
            rows are float32 or cores were taken over.
    """

    layout: TableLayout
    pooling: Pooling
    indices: tuple[IndexKind | None, ...]
    fit_errors: tuple[float | None, ...]

    @model_validator(mode="after")
    def _consistent(self) -> PackedTable:
        expected = index_kinds(self.layout)
        if self.indices != expected:
            raise ValueError(
                f"table {self.layout.table}: indices are {self.indices}, its layout needs {expected}"
            )
        if len(self.fit_errors) != len(self.layout.bands):
            raise ValueError(f"table {self.layout.table}: fit_errors needs one entry per band")
        for number, (band, error) in enumerate(zip(self.layout.bands, self.fit_errors, strict=True)):
            if band.tt is None and (error is None) != (band.format == "fp32"):
                raise ValueError(
                    f"table {self.layout.table}, band {number}: fit_errors has {error} for {band.format} rows"
                )
            if error is not None and not 0 <= error < math.inf:
                raise ValueError(f"table {self.layout.table}, band {number}: fit_errors has {error}")
        return self


class ArtifactUpdates(Frozen):
    """What compaction has made of an artifact: how often updated rows have been written into it, and the
    SHA-256 (hexadecimal) of the manifest that was packed."""

    origin: str = Field(pattern="^[0-9a-f]{64}$")
    generation: int = Field(ge=1)


class Manifest(Frozen):
    """manifest.json."""

    format: Literal["screc-artifact"]
    version: Literal[1]
    model: dict[str, Any]
    tables: tuple[PackedTable, ...]
    files: tuple[FileEntry, ...]
    plan: dict[str, Any] | None
    precision: dict[str, Any] | None = None
    updates: ArtifactUpdates | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DensePrecision:
    """What the layers outside the tables are computed in, as whoever serves them decided.

    Attributes:
        document: JSON values, kept in the manifest.
        ranges: float32 [2, inputs] for each calibrated layer: the least and the largest value of each input.
    """

    document: dict[str, Any]
    ranges: Mapping[str, np.ndarray]


def index_kinds(layout: TableLayout) -> tuple[IndexKind | None, ...]:
    """The form of each band's index; None for a last band that is addressed by the id."""
    indexed = (index_kind(layout.num_embeddings, band.num_rows) for band in layout.bands[:-1])
    return (*indexed, None if layout.bands[-1].order == "id" else "order")


def pages_file(table: int, band: int) -> str:
    """Path of an SSD band's pages inside the artifact."""
    return f"pages/{table}.{band}.pages"


def index_specs(layout: TableLayout, band: int) -> dict[str, TensorSpec]:
    """The index arrays of a band by their last name, as the store takes them; empty for one without."""
    kind = index_kinds(layout)[band]
    if kind is None:
        return {}
    if kind == "order":
        return {"slots": TensorSpec((layout.num_embeddings,), _U32)}
    return _index_specs(kind, layout.num_embeddings, layout.bands[band].num_rows)


def written_kind(layout: TableLayout, band: int) -> IndexKind | None:
    """The form of the index of a band's written page groups; None where all were written."""
    written = layout.bands[band].written
    return None if written is None else index_kind(layout.page_groups(band), written)


def written_specs(layout: TableLayout, band: int) -> dict[str, TensorSpec]:
    """The arrays of that index by their last name, as the store takes them."""
    kind, written = written_kind(layout, band), layout.bands[band].written
    if kind is None or written is None:
        return {}
    return _index_specs(kind, layout.page_groups(band), written)


def _index_specs(kind: IndexKind, limit: int, count: int) -> dict[str, TensorSpec]:
    """A bitmap or hash index of ``count`` numbers below ``limit``."""
    if kind == "bitmap":
        words = -(-limit // 64)
        return {"bits": TensorSpec((words,), _U64), "directory": TensorSpec((-(-words // 8) + 1,), _U32)}
    capacity = hash_capacity(count)
    return {"keys": TensorSpec((capacity,), _I64), "slots": TensorSpec((capacity,), _U32)}


def dram_specs(table: int, layout: TableLayout) -> dict[str, TensorSpec]:
    """The tensors of one table in tables.safetensors: rows, cores, scales and indices of its bands, and its
    default row where a band has holes."""
    specs = {}
    for number, band in enumerate(layout.bands):
        prefix = f"{table}.{number}"
        if band.tt is not None:
            for core in range(band.tt.num_cores):
                specs[f"{prefix}.tt.{core}"] = TensorSpec(band.tt.core_shape(core), _F32)
        elif band.memory == "dram" and band.format == "fp32":
            specs[f"{prefix}.rows"] = TensorSpec((layout.slots(number), layout.embedding_dim), _F32)
        elif band.memory == "dram":
            specs[f"{prefix}.rows"] = TensorSpec((layout.slots(number), layout.row_bytes(number)), _U8)
        if band.scale == "table":
            specs[f"{prefix}.scale"] = TensorSpec((2,), _F32)
        for name, spec in index_specs(layout, number).items():
            specs[f"{prefix}.index.{name}"] = spec
        for name, spec in written_specs(layout, number).items():
            specs[f"{prefix}.pages.{name}"] = spec
        if band.written is not None:
            specs[f"{prefix}.default"] = (
                TensorSpec((layout.embedding_dim,), _F32)
                if band.format == "fp32"
                else TensorSpec((layout.row_bytes(number),), _U8)
            )
    return specs


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact opened for reading.

    Attributes:
        path: its directory.
        model: the model's description, as training wrote it.
        tables: one entry per embedding table.
        plan: the plan that placed the rows, as JSON values, or None.
        precision: what the layers outside the tables are computed in, as JSON values; None means float32.
        files: every file but the manifest and its digest.
        identity: tells this artifact from one that replaces it at the same path.
        origin: SHA-256 (hexadecimal) of the manifest that was packed.
        generation: how often updated rows have been written into it since.
    """

    path: Path
    model: dict[str, Any]
    tables: tuple[PackedTable, ...]
    plan: dict[str, Any] | None
    precision: dict[str, Any] | None
    files: tuple[FileEntry, ...]
    identity: tuple[int, ...] = field(repr=False)
    origin: str = field(repr=False)
    generation: int

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Opens an artifact: checks the manifest, that every file is there with its size, and the assets.

        The checksums of tensors are compared when they are loaded, those of pages at each read;
        :func:`screc.storage.verify` compares all.

        Raises:
            FileNotFoundError: there is no artifact at ``path``.
            DamagedFileError: a file is missing, cut or changed; the message names it.
            ValueError: the artifact has another version.
        """
        path = Path(path)

        def read() -> Artifact:
            before = identity(path / MANIFEST_FILE)
            data = read_manifest(path)
            check_digest(path, data)
            artifact = cls.parse(path, data, before)
            for entry in artifact.files:
                entry.check_size(path)
                if entry.path.startswith(f"{ASSETS}/"):
                    entry.check(path)
            return artifact

        return read_unreplaced(path / MANIFEST_FILE, read)

    @classmethod
    def parse(cls, path: Path, data: bytes, known: tuple[int, ...] = ()) -> Artifact:
        """The artifact that manifest bytes describe; no other file is looked at."""
        source = path / MANIFEST_FILE
        check_version(source, data, FORMAT, VERSION)
        manifest = parse_manifest(Manifest, source, data)
        listed = {entry.path: entry for entry in manifest.files}
        if len(listed) != len(manifest.files):
            raise DamagedFileError(source, "lists a file twice")
        needed: dict[str, int | None] = {DENSE_FILE: None, TABLES_FILE: None}
        for number, table in enumerate(manifest.tables):
            for position, band in enumerate(table.layout.bands):
                if band.memory == "ssd":
                    needed[pages_file(number, position)] = table.layout.band_bytes(position)
        for name, size in needed.items():
            if name not in listed:
                raise DamagedFileError(source, f"does not list {name}")
            if size is not None and listed[name].bytes != size:
                raise DamagedFileError(source, f"gives {name} {listed[name].bytes} bytes, its layout {size}")
        updates = manifest.updates
        return cls(
            path=path,
            model=manifest.model,
            tables=manifest.tables,
            plan=manifest.plan,
            precision=manifest.precision,
            files=manifest.files,
            identity=known,
            origin=hashlib.sha256(data).hexdigest() if updates is None else updates.origin,
            generation=0 if updates is None else updates.generation,
        )

    def unreplaced(self, read: Callable[[], T]) -> T:
        """``read()``, which opens files of the artifact, if they are still this artifact's.

        Raises:
            ReplacedError: another artifact has taken this one's place.
        """
        return read_unreplaced(self.path / MANIFEST_FILE, read, known=self.identity)

    @property
    def assets(self) -> Path:
        """Directory of the files the model needs to read its input; it may not exist."""
        return self.path / ASSETS

    def pages_path(self, table: int, band: int) -> Path:
        """The file of an SSD band's pages."""
        return self.path / pages_file(table, band)

    def entry(self, file: str) -> FileEntry:
        """Size and checksum of a file by its path inside the artifact.

        Raises:
            KeyError: the artifact lists no such file.
        """
        for entry in self.files:
            if entry.path == file:
                return entry
        raise KeyError(f"{self.path} lists no file '{file}'")

    def dense(self) -> dict[str, np.ndarray]:
        """The weights outside the tables, read and checked.

        Raises:
            DamagedFileError: the file is not what was written.
            ReplacedError: another artifact has taken this one's place.
        """
        return self.unreplaced(lambda: self._load(TensorFile(self.path / DENSE_FILE)))

    def ranges(self) -> dict[str, np.ndarray]:
        """The input ranges of calibrated layers by layer, float32 [2, inputs]; empty where there are none.

        Raises:
            DamagedFileError: the file is not what was written.
            ReplacedError: another artifact has taken this one's place.
        """
        if all(entry.path != RANGES_FILE for entry in self.files):
            return {}
        return self.unreplaced(lambda: self._load(TensorFile(self.path / RANGES_FILE)))

    def load_tables(self) -> dict[str, np.ndarray]:
        """Every DRAM tensor of the tables (names as in docs/format.md), read once into memory and checked.

        The arrays live in buffers of huge pages; nothing stays mapped.

        Raises:
            DamagedFileError: the file is not what was written, or its tensors do not fit the layouts.
        """
        return self._load(self.tables_file())

    def tables_file(self) -> TensorFile:
        """tables.safetensors as memory maps, its header checked against the layouts.

        Raises:
            DamagedFileError: its tensors do not fit the layouts.
        """
        expected = {}
        for number, table in enumerate(self.tables):
            expected.update(dram_specs(number, table.layout))
        file = TensorFile(self.path / TABLES_FILE)
        _check_expected(file, expected)
        return file

    def _load(self, file: TensorFile) -> dict[str, np.ndarray]:
        entry = self.entry(file.path.name)
        entry.check_size(self.path)
        # Checksummed as it arrives in memory: the file is read once, and what is served was checked.
        with open(file.path, "rb") as header:
            checksum = _native.crc32c(header.read(file.data_start))
        arrays = {}
        buffers = _buffers([file.spec(tensor).num_bytes for tensor in file.names])
        for tensor, buffer in zip(file.names, buffers, strict=True):
            spec = file.spec(tensor)
            array = buffer.view(spec.dtype).reshape(spec.shape)
            file.read_into(tensor, array)
            checksum = _native.crc32c(buffer, checksum)
            arrays[tensor] = array
        entry.check_crc32c(self.path, checksum)
        return arrays


def _buffers(sizes: list[int]) -> list[np.ndarray]:
    """Memory for arrays of these sizes in bytes, in huge pages; small ones stand side by side.

    Many small tables, each on pages of its own, would crowd each other out of the core's address
    translations, and, all beginning at a page's start, out of the same lines of its cache.
    """
    places = [-(-size // 64) * 64 if size < _HUGE_PAGE else 0 for size in sizes]
    shared = sum(places)
    if shared > _HUGE_PAGE // 2:
        shared = -(-shared // _HUGE_PAGE) * _HUGE_PAGE
    arena, start, buffers = _native.empty(shared), 0, []
    for size, place in zip(sizes, places, strict=True):
        buffers.append(_native.empty(size) if size >= _HUGE_PAGE else arena[start : start + size])
        start += place
    return buffers


def load_artifact(path: Path | str, load: Callable[[Artifact], T]) -> T:
    """``load`` of the artifact at ``path``: all of it from one artifact, even where it is replaced meanwhile.

    Raises:
        ReplacedError: it was replaced again and again.
    """
    path = Path(path)
    return read_unreplaced(path / MANIFEST_FILE, lambda: load(Artifact.open(path)))


def read_manifest(path: Path) -> bytes:
    """The manifest's bytes.

    Raises:
        FileNotFoundError: ``path`` holds no artifact.
    """
    if not (path / MANIFEST_FILE).is_file():
        raise FileNotFoundError(f"{path} is not an artifact: it has no {MANIFEST_FILE}; give its directory")
    return (path / MANIFEST_FILE).read_bytes()


def check_digest(path: Path, manifest: bytes) -> None:
    """Raises :class:`DamagedFileError` unless manifest.sha256 is that of the manifest."""
    file = path / DIGEST_FILE
    if not file.is_file():
        raise DamagedFileError(file, "is missing")
    if file.read_bytes() != _digest_line(manifest):
        raise DamagedFileError(path / MANIFEST_FILE, f"does not match {DIGEST_FILE}: one of them was changed")


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Writes manifest.json and manifest.sha256 into the directory ``path``."""
    data = write_json(path / MANIFEST_FILE, manifest)
    (path / DIGEST_FILE).write_bytes(_digest_line(data))


def _digest_line(data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {MANIFEST_FILE}\n".encode()


def _check_expected(file: TensorFile, expected: dict[str, TensorSpec]) -> None:
    if set(file.names) != set(expected):
        wrong = sorted(set(file.names) ^ set(expected))
        raise DamagedFileError(file.path, f"does not hold the tensors of its layouts (see {wrong[:5]})")
    for name, spec in expected.items():
        found = file.spec(name)
        if found.shape != spec.shape or found.dtype != spec.dtype:
            raise DamagedFileError(
                file.path,
                f"has tensor '{name}' as {found.dtype} {list(found.shape)}, its layout says "
                f"{spec.dtype} {list(spec.shape)}",
            )
