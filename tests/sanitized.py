"""A pytest plugin that loads the compiled module from where SCREC_SANITIZED points (make sanitize)."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from pathlib import Path

NAME = "screc._native"
PATH = Path(os.environ["SCREC_SANITIZED"]).resolve()


class SanitizedFinder:
    """Finds the sanitized build before any other finder looks for the ordinary one."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name != NAME:
            return None
        return importlib.util.spec_from_file_location(name, PATH, loader=ExtensionFileLoader(name, str(PATH)))


sys.meta_path.insert(0, SanitizedFinder)  # type: ignore[arg-type]


def pytest_report_header() -> str:
    """Proof that the sanitized module is the one under test."""
    from screc import _native

    assert Path(_native.__file__) == PATH
    return f"native module: {PATH}"
