"""Versioned JSON documents that people keep and edit: strict reading, atomic writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from screc.storage import replace_file
from screc.storage.frozen import Frozen


class Document(Frozen):
    """A JSON file with ``format`` and ``version``; subclasses declare both as literals and a ``_title``."""

    format: str
    version: int

    def to_dict(self) -> dict[str, Any]:
        """The document as JSON types."""
        return self.model_dump(mode="json")

    def save(self, path: str | Path) -> None:
        """Write the document; the old file or the new one is there at any time, never half."""
        with replace_file(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a document.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not JSON, another document or version, or a field is unknown, missing or
                wrong; names the file and the fields.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not JSON ({error}); the file is damaged or something else") from error
        return cls.from_dict(data, source=str(path))

    @classmethod
    def from_dict(cls, data: Any, *, source: str = "document") -> Self:
        """The document in parsed JSON; errors as :meth:`load`, naming ``source``."""
        wanted = cls.model_fields["format"].default
        if not isinstance(data, dict) or data.get("format") != wanted:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"{source}: expected a document of format {wanted!r}, found {found!r}")
        version = cls.model_fields["version"].default
        if data.get("version") != version:
            raise ValueError(
                f"{source}: {wanted} version {data.get('version')!r}, this release reads {version}; "
                "make the file again"
            )
        try:
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            raise ValueError(f"{source}: {_reasons(error)}") from error


def _reasons(error: ValidationError, most: int = 5) -> str:
    """Where a document is wrong, one short line per field."""
    words = {"missing": "is missing", "extra_forbidden": "is unknown"}
    reasons = []
    for item in error.errors(include_url=False):
        field = ".".join(str(part) for part in item["loc"]) or "document"
        text = words.get(item["type"]) or f"= {item['input']!r:.80}: {item['msg']}"
        reasons.append(f"field {field} {text}")
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more
