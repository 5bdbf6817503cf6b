"""The JSON that describes a directory: read strictly, with errors that name the file and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from .checksum import DamagedFileError

Pooling = Literal["sum", "mean"]

_Model = TypeVar("_Model", bound=BaseModel)


def parse_manifest(model: type[_Model], path: Path, data: bytes) -> _Model:
    """Parses and validates a description.

    Raises:
        DamagedFileError: it is not JSON or misses, mistypes or adds a field; the message names the field.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"field '{field}': " if field else ""
        raise DamagedFileError(path, f"is malformed: {where}{first['msg']}") from None


def check_version(path: Path, data: bytes, format_name: str, version: int) -> None:
    """Raises when the description is of another kind or from a newer release.

    Raises:
        DamagedFileError: it is not a JSON object.
        ValueError: it has another format or version; the message says what to do.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"is malformed: {error}") from None
    if not isinstance(found, dict) or found.get("format") != format_name:
        kind = found.get("format") if isinstance(found, dict) else None
        raise ValueError(f"{path} has format {kind!r}, expected '{format_name}'; give the right directory")
    if found.get("version") != version:
        raise ValueError(
            f"{path} has version {found.get('version')!r}, this release reads version {version}; "
            "use the release that wrote it or write it again"
        )


def write_json(path: Path, model: BaseModel) -> bytes:
    """Writes a description and returns its bytes.

    Raises:
        ValueError: a number is not finite, or a value is not JSON.
    """
    try:
        text = json.dumps(model.model_dump(), indent=1, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path.name}: {error}; only finite numbers and plain JSON values can be written"
        ) from None
    path.write_bytes(text.encode())
    return text.encode()
