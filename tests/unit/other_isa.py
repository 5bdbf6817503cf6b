"""The instruction set is chosen once in a process: to test another, tests run in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from screc import _native


def run_under(isa: str, file: str, chosen: str) -> None:
    """Run the tests of ``file`` that ``chosen`` names (as pytest's -k) under another instruction set."""
    if isa == _native.isa():
        pytest.skip("runs here")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, file]
    if "SCREC_SANITIZED" in os.environ:
        command += ["-p", "tests.sanitized"]
    environment = {**os.environ, "SCREC_ISA": isa}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
