"""The checkpoint: a trained model as a directory, written whole or not at all (docs/format.md)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from .atomic import identity, read_unreplaced, replace_directory
from .checksum import DamagedFileError, FileEntry
from .frozen import Frozen
from .layout import TableLayout
from .manifest import Pooling, check_version, parse_manifest, write_json
from .tensors import TensorFile, TensorSpec, write_arrays, write_tensors

MODEL_FILE = "model.json"
DENSE_FILE = "dense.safetensors"
ASSETS = "assets"
FORMAT, VERSION = "screc-checkpoint", 1

T = TypeVar("T")


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class StoredTable:
    """A table of a checkpoint.

    Attributes:
        layout: the bands it was trained with.
        pooling: how the rows of a bag become one, "sum" or "mean".
        known_rows: of a sparse table, the rows that are stored of its last band; all others are its default
            row. None where every row is stored.
    """

    layout: TableLayout
    pooling: Pooling
    known_rows: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StoredTable:
        known, last = self.known_rows, self.layout.bands[-1]
        if known is None:
            return self
        if last.tt is not None:
            raise ValueError(
                f"table {self.layout.table}: known_rows counts rows, and its last band is a tensor train"
            )
        if not 0 <= known <= last.num_rows:
            raise ValueError(
                f"table {self.layout.table}: known_rows is {known}, its last band has {last.num_rows} rows"
            )
        return self


class _Manifest(Frozen):
    format: Literal["screc-checkpoint"]
    version: Literal[1]
    model: dict[str, Any]
    tables: tuple[StoredTable, ...]
    training: dict[str, Any]
    files: tuple[FileEntry, ...]


def table_file(table: int) -> str:
    """Path of a table's tensors inside the checkpoint."""
    return f"tables/{table:03d}.safetensors"


def tensor_specs(layout: TableLayout, known_rows: int | None = None) -> dict[str, TensorSpec]:
    """The tensors of a table file, by docs/format.md."""
    specs: dict[str, TensorSpec] = {}
    f32, i64 = np.dtype(np.float32), np.dtype(np.int64)
    last = len(layout.bands) - 1
    for number, band in enumerate(layout.bands):
        if band.tt is not None:
            for core in range(band.tt.num_cores):
                shape = band.tt.core_shape(core)
                specs[f"band.{number}.tt.{core}"] = TensorSpec(shape, f32)
        else:
            rows = layout.slots(number) if number != last or known_rows is None else known_rows
            specs[f"band.{number}.rows"] = TensorSpec((rows, layout.embedding_dim), f32)
        if band.scale == "table":
            specs[f"band.{number}.scale"] = TensorSpec((2,), f32)
        if number != last:
            specs[f"band.{number}.ids"] = TensorSpec((band.num_rows,), i64)
    if known_rows is not None:
        specs[f"band.{last}.ids"] = TensorSpec((known_rows,), i64)
        specs[f"band.{last}.default"] = TensorSpec((layout.embedding_dim,), f32)
    return specs


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint opened for reading.

    Attributes:
        path: its directory.
        model: the model's description, as training wrote it.
        tables: one entry per embedding table.
        training: what training recorded about itself.
        files: every file with its size and checksum.
        identity: tells this checkpoint from one that replaces it at the same path.
    """

    path: Path
    model: dict[str, Any]
    tables: tuple[StoredTable, ...]
    training: dict[str, Any]
    files: tuple[FileEntry, ...]
    identity: tuple[int, ...] = field(repr=False)

    @classmethod
    def open(cls, path: Path | str) -> Checkpoint:
        """Opens a checkpoint: checks its description, the assets, and that every file is there with its size.

        The checksums of large files cost a read of them; :meth:`check` compares that of one file.

        Raises:
            FileNotFoundError: there is no checkpoint at ``path``.
            DamagedFileError: a file is missing, cut or malformed; the message names it.
            ValueError: the checkpoint has another version.
        """
        path = Path(path)
        return read_unreplaced(path / MODEL_FILE, lambda: cls._read(path))

    @classmethod
    def _read(cls, path: Path) -> Checkpoint:
        description = path / MODEL_FILE
        known = identity(description)
        if not description.is_file():
            raise FileNotFoundError(f"{path} is not a checkpoint: it has no {MODEL_FILE}; give its directory")
        data = description.read_bytes()
        check_version(description, data, FORMAT, VERSION)
        manifest = parse_manifest(_Manifest, description, data)
        listed = {entry.path for entry in manifest.files}
        for needed in (DENSE_FILE, *(table_file(i) for i in range(len(manifest.tables)))):
            if needed not in listed:
                raise DamagedFileError(description, f"does not list {needed}")
        for entry in manifest.files:
            entry.check_size(path)
            if entry.path.startswith(f"{ASSETS}/"):
                entry.check(path)
        return cls(path, manifest.model, manifest.tables, manifest.training, manifest.files, known)

    def unreplaced(self, read: Callable[[], T]) -> T:
        """``read()``, which opens files of the checkpoint, if they are still this checkpoint's: training may
        have gone on and written the next.

        Raises:
            ReplacedError: another checkpoint has taken this one's place.
        """
        return read_unreplaced(self.path / MODEL_FILE, read, known=self.identity)

    @property
    def assets(self) -> Path:
        """Directory of the files the model needs to read its input; it may not exist."""
        return self.path / ASSETS

    @property
    def digest(self) -> str:
        """SHA-256 over the files' names, sizes and checksums (hexadecimal); says which model was measured."""
        known = sorted((entry.path, entry.bytes, entry.crc32c) for entry in self.files)
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def dense(self) -> dict[str, np.ndarray]:
        """The weights outside the tables, read and checked.

        Raises:
            DamagedFileError: the file is not what was written.
        """
        self.check(DENSE_FILE)
        file = TensorFile(self.path / DENSE_FILE)
        return {name: np.array(file[name]) for name in file.names}

    def table_tensors(self, table: int) -> TensorFile:
        """The tensors of one table as a file of memory maps, its header checked against the layout.

        Raises:
            DamagedFileError: a tensor is missing or has another shape or dtype than the layout says.
        """
        file = TensorFile(self.path / table_file(table))
        _check_specs(file.path, {name: file.spec(name) for name in file.names}, self.tables[table])
        return file

    def table(self, table: int) -> Mapping[str, np.ndarray]:
        """The tensors of one table, memory-mapped and read-only (keys as in docs/format.md)."""
        file = self.table_tensors(table)
        return {name: file[name] for name in file.names}

    def check(self, file: str) -> None:
        """Reads one file (path inside the checkpoint) and compares its size and checksum.

        Raises:
            DamagedFileError: they differ.
            KeyError: the checkpoint lists no such file.
        """
        for entry in self.files:
            if entry.path == file:
                entry.check(self.path)
                return
        raise KeyError(f"{self.path} lists no file '{file}'")


def write_checkpoint(
    path: Path | str,
    *,
    model: dict[str, Any],
    tables: Sequence[StoredTable],
    dense: Mapping[str, np.ndarray],
    table_tensors: Callable[[int], Mapping[str, np.ndarray]],
    training: dict[str, Any],
    assets: Path | None = None,
    extra: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Writes a checkpoint; one at ``path`` is replaced only when the new one is complete and on disk.

    Args:
        path: the directory.
        model: the model's description (JSON values).
        tables: layout and pooling of every table.
        dense: float32 weights outside the tables.
        table_tensors: gives the tensors of table i (keys as in docs/format.md); called once per table in
            order, so that only one table has to be in memory.
        training: what training records about itself (JSON values).
        assets: a directory copied to ``assets/``.
        extra: writers of further files by path inside the checkpoint, for example optimiser state; each is
            called with the path to write.

    Raises:
        ValueError: tensors that do not match a layout, or two tables of one name, or a path in
            ``extra`` that is taken or leads outside.
        FileExistsError: ``path`` holds something other than a checkpoint.
        OSError: the disk is full; the old checkpoint is unchanged.
    """
    names = [table.layout.table for table in tables]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"tables: two tables are named '{twice}'; give every table its own name")
    reserved = {MODEL_FILE, DENSE_FILE, *(table_file(i) for i in range(len(tables)))}
    for name in extra or {}:
        FileEntry(path=name, bytes=0, crc32c=0)  # validates the path
        if name in reserved or name.split("/")[0] == ASSETS:
            raise ValueError(f"extra: '{name}' is a file of the checkpoint itself; choose another name")
    with replace_directory(path, holding=MODEL_FILE) as directory:
        files = [write_arrays(directory / DENSE_FILE, dense)]
        (directory / "tables").mkdir()
        for number, table in enumerate(tables):
            tensors = table_tensors(number)
            file = directory / table_file(number)
            specs = {name: TensorSpec.of(array) for name, array in tensors.items()}
            try:
                _check_specs(file, specs, table)
            except DamagedFileError as error:
                raise ValueError(f"table {table.layout.table}: the tensor file {error.fault}") from None
            entry = write_tensors(file, specs, tensors.__getitem__)
            files.append(entry.model_copy(update={"path": table_file(number)}))
            del tensors
        if assets is not None:
            shutil.copytree(assets, directory / ASSETS)
            files += [
                FileEntry.of(directory, f) for f in sorted((directory / ASSETS).rglob("*")) if f.is_file()
            ]
        for name, write in (extra or {}).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            write(directory / name)
            files.append(FileEntry.of(directory, directory / name))
        manifest = _Manifest(
            format=FORMAT,
            version=VERSION,
            model=model,
            tables=tuple(tables),
            training=training,
            files=tuple(files),
        )
        write_json(directory / MODEL_FILE, manifest)


def _check_specs(path: Path, found: Mapping[str, TensorSpec], table: StoredTable) -> None:
    expected = tensor_specs(table.layout, table.known_rows)
    for name, spec in expected.items():
        if name not in found:
            raise DamagedFileError(path, f"lacks tensor '{name}' of its layout")
        if found[name].shape != spec.shape or found[name].dtype != spec.dtype:
            raise DamagedFileError(
                path,
                f"has tensor '{name}' as {found[name].dtype} {list(found[name].shape)}, its layout says "
                f"{spec.dtype} {list(spec.shape)}",
            )
    for name in found:
        if name not in expected:
            raise DamagedFileError(path, f"has tensor '{name}' that its layout does not know")
