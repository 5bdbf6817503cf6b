"""Safetensors files: read as memory maps behind strict checks, written in one pass."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screc import _native

from .checksum import DamagedFileError, FileEntry

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# The format's own limit, so that a damaged length cannot ask for all memory.
_MAX_HEADER_BYTES = 100_000_000
_DATA_ALIGNMENT = 64
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of a tensor, and where its bytes stand in the file (0 until it is in one)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int = 0

    @property
    def num_bytes(self) -> int:
        """Size of the tensor's data."""
        return math.prod(self.shape) * self.dtype.itemsize

    @classmethod
    def of(cls, array: np.ndarray) -> TensorSpec:
        """The spec of an array."""
        return cls(tuple(array.shape), np.dtype(array.dtype))


class TensorFile:
    """A safetensors file, opened for reading; a tensor is memory-mapped when it is asked for.

    The header is checked whole: its length, that the tensors follow each other without holes or overlaps up
    to the end of the file, and that each one's bytes match its shape and dtype.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file is not a well-formed safetensors file; the message names it and the fault.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            self.file_bytes = os.fstat(file.fileno()).st_size
            self._specs, self.metadata, self.data_start = _read_header(file, self.file_bytes, self.path)
            self._map: mmap.mmap | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors in the order of their data."""
        return tuple(self._specs)

    def __contains__(self, name: str) -> bool:
        return name in self._specs

    def spec(self, name: str) -> TensorSpec:
        """Shape, dtype and absolute file offset of a tensor.

        Raises:
            KeyError: no tensor has that name.
        """
        try:
            return self._specs[name]
        except KeyError:
            raise KeyError(f"{self.path} has no tensor '{name}'; it has {list(self._specs)[:20]}") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.spec(name).shape

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor as a read-only view of the memory-mapped file."""
        spec = self.spec(name)
        if spec.num_bytes == 0:
            return np.empty(spec.shape, spec.dtype)
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._map) < spec.offset + spec.num_bytes:
            raise DamagedFileError(self.path, "was truncated after it was opened")
        return np.ndarray(spec.shape, spec.dtype, buffer=self._map, offset=spec.offset)

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Reads a tensor into ``out`` (C-contiguous, of its shape and dtype) without a memory map."""
        spec = self.spec(name)
        if tuple(out.shape) != spec.shape or out.dtype != spec.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out: expected C-contiguous {spec.dtype} {list(spec.shape)} for '{name}', "
                f"got {out.dtype} {list(out.shape)}"
            )
        if spec.num_bytes:
            _native.read_into(str(self.path), spec.offset, out.reshape(-1).view(np.uint8))

    def release(self) -> None:
        """Drops the mapped pages from this process (they are read again on use), so that a pass over a huge
        file stays small."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


Chunks = np.ndarray | Iterable[np.ndarray]


def write_tensors(
    path: Path | str,
    specs: Mapping[str, TensorSpec],
    producer: Callable[[str], Chunks],
    *,
    metadata: Mapping[str, str] | None = None,
) -> FileEntry:
    """Writes a safetensors file in one pass: the header, then each tensor as it is produced.

    Data start at a multiple of 64 bytes, and tensors of wider dtypes come first so that each is aligned to
    its own dtype; within one width the order of ``specs`` is kept, and ``producer`` is called in that order.

    Args:
        path: the file to create; not atomic by itself (see :mod:`screc.storage.atomic`).
        specs: shape and dtype of every tensor by name.
        producer: gives a tensor as one array or as chunks whose concatenated bytes are the tensor.
        metadata: strings stored in the header.

    Returns:
        The file's name, size and CRC32C.

    Raises:
        ValueError: a dtype the format lacks, a reserved name, or a producer whose data do not match its spec.
    """
    path = Path(path)
    order = sorted(specs, key=lambda name: -specs[name].dtype.itemsize)
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        spec = specs[name]
        if name == "__metadata__":
            raise ValueError("'__metadata__' is reserved by the format; name the tensor otherwise")
        if spec.dtype not in _NAMES:
            raise ValueError(f"tensor '{name}': dtype {spec.dtype} has no safetensors name; convert it")
        end = position + spec.num_bytes
        header[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _DATA_ALIGNMENT)
    with open(path, "wb") as file:
        checksum = 0
        size = 0

        def write(data: bytes | memoryview) -> None:
            nonlocal checksum, size
            file.write(data)
            checksum = _native.crc32c(data, checksum)
            size += len(data)

        write(len(text).to_bytes(8, "little") + text)
        for name in order:
            written = 0
            produced = producer(name)
            for chunk in (produced,) if isinstance(produced, np.ndarray) else produced:
                if chunk.dtype != specs[name].dtype:
                    raise ValueError(
                        f"tensor '{name}': its spec says {specs[name].dtype}, the data are {chunk.dtype}"
                    )
                flat = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
                for start in range(0, flat.size, _CHUNK_BYTES):
                    write(memoryview(flat[start : start + _CHUNK_BYTES]))
                written += flat.size
            if written != specs[name].num_bytes:
                raise ValueError(
                    f"tensor '{name}': its spec {list(specs[name].shape)} has {specs[name].num_bytes} bytes, "
                    f"{written} were produced"
                )
    return FileEntry(path=path.name, bytes=size, crc32c=checksum)


def write_arrays(
    path: Path | str, arrays: Mapping[str, np.ndarray], *, metadata: Mapping[str, str] | None = None
) -> FileEntry:
    """:func:`write_tensors` for arrays that are at hand."""
    specs = {name: TensorSpec.of(array) for name, array in arrays.items()}
    return write_tensors(path, specs, arrays.__getitem__, metadata=metadata)


def _read_header(file, file_bytes: int, path: Path) -> tuple[dict[str, TensorSpec], dict[str, str], int]:
    def refuse(fault: str) -> DamagedFileError:
        return DamagedFileError(path, fault)

    prefix = file.read(8)
    if len(prefix) < 8:
        raise refuse(f"has {file_bytes} bytes, too few for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > min(_MAX_HEADER_BYTES, file_bytes - 8):
        raise refuse(f"says its header has {length} bytes, the file has {file_bytes}")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise refuse("has no safetensors header")
    try:
        header = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise refuse(f"has an unreadable header: {error}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise refuse("has __metadata__ that is not a map of strings")
    start = 8 + length
    specs = {}
    for name, entry in header.items():
        specs[name] = _parse_entry(name, entry, start, refuse)
    ordered = dict(sorted(specs.items(), key=lambda item: (item[1].offset, item[1].num_bytes)))
    position = start
    for name, spec in ordered.items():
        if spec.offset != position:
            raise refuse(f"has a hole or an overlap before tensor '{name}'")
        position += spec.num_bytes
    if position != file_bytes:
        raise refuse(f"has {file_bytes} bytes, its tensors end at {position}; it was cut or added to")
    return ordered, metadata, start


def _parse_entry(
    name: str, entry: object, start: int, refuse: Callable[[str], DamagedFileError]
) -> TensorSpec:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse(f"tensor '{name}': expected dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for field, numbers in (("shape", shape), ("data_offsets", offsets)):
        # bool is an int in Python but not in the format
        if not isinstance(numbers, list) or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers):
            raise refuse(f"tensor '{name}': {field} {numbers} is not a list of sizes")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise refuse(f"tensor '{name}': dtype {entry['dtype']!r} is not one of {', '.join(_DTYPES)}")
    if len(offsets) != 2:
        raise refuse(f"tensor '{name}': data_offsets {offsets} needs a begin and an end")
    spec = TensorSpec(tuple(shape), _DTYPES[entry["dtype"]], start + offsets[0])
    if offsets[1] - offsets[0] != spec.num_bytes:
        raise refuse(f"tensor '{name}': data_offsets {offsets} do not fit its {spec.num_bytes} bytes")
    return spec


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result
