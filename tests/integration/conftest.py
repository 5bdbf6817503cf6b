"""Helpers of the integration tests: verbs run as a user runs them, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def screc() -> Callable[..., dict[str, Any]]:
    """Run a verb with --json and return what it printed; a failure shows its error."""

    def run(*arguments: object, **environment: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "screc.cli", *map(str, arguments), "--json"]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | environment
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = os.environ.get("SCREC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data sets are not here: set SCREC_DATA to their folder")
    return Path(folder)
