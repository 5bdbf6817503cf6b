"""Files with their sizes and checksums, and the error that a damaged one raises."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pydantic import ConfigDict, Field, field_validator

from screc import _native

from .frozen import Frozen


class DamagedFileError(ValueError):
    """A file is not what its writer wrote; the message names the file, the fault and what to do."""

    def __init__(self, path: Path | str, fault: str) -> None:
        super().__init__(f"{path} {fault}; restore it from a copy or write it again")
        self.path = Path(path)
        self.fault = fault


class FileEntry(Frozen):
    """A file of a directory: path relative to it ('/'-separated), size in bytes, CRC32C of all of them."""

    model_config = ConfigDict(strict=True)

    path: str
    bytes: int = Field(ge=0)
    crc32c: int = Field(ge=0, lt=2**32)

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        pure = PurePosixPath(path)
        if not path or pure.is_absolute() or ".." in pure.parts or str(pure) != path:
            raise ValueError(f"path '{path}' must be relative, normalised and inside the directory")
        return path

    @classmethod
    def of(cls, root: Path, file: Path) -> FileEntry:
        """Reads a file below ``root`` and describes it."""
        return cls(
            path=file.relative_to(root).as_posix(),
            bytes=file.stat().st_size,
            crc32c=_native.crc32c_file(file),
        )

    def check_size(self, root: Path) -> None:
        """Raises :class:`DamagedFileError` unless the file exists below ``root`` with its size."""
        file = root / self.path
        if not file.is_file():
            raise DamagedFileError(file, "is missing")
        size = file.stat().st_size
        if size != self.bytes:
            raise DamagedFileError(file, f"has {size} bytes, expected {self.bytes}")

    def check(self, root: Path) -> None:
        """Raises :class:`DamagedFileError` unless the file has its size and checksum; reads all of it."""
        self.check_size(root)
        self.check_crc32c(root, _native.crc32c_file(root / self.path))

    def check_crc32c(self, root: Path, found: int) -> None:
        """Raises :class:`DamagedFileError` unless ``found`` is the file's checksum."""
        if found != self.crc32c:
            raise DamagedFileError(
                root / self.path, f"is damaged: its CRC32C is {found:08x}, expected {self.crc32c:08x}"
            )
