"""The rules of the walls: import floors, light imports, file sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "screc"
FLOORS = {
    "_native": 0,
    "data": 1,
    "storage": 1,
    "statistics": 2,
    "embeddings": 2,
    "models": 3,
    "planning": 3,
    "training": 4,
    "serving": 4,
    "simulation": 4,
    "verbs": 5,
    "cli": 6,
}
TORCH_ROOMS = {"embeddings", "models", "training"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(source: Path) -> set[str]:
    """Absolute names of everything a file imports, inside functions too."""
    package = ("screc", *source.relative_to(PACKAGE).parent.parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("source", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(source: Path) -> None:
    room = source.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = imported_modules(source)
    rooms = {name.split(".")[1] for name in names if name.startswith("screc.")} & FLOORS.keys()
    if room == "__init__":
        assert not rooms, "screc/__init__.py must stay light"
        return
    above = {other for other in rooms - {room} if FLOORS[other] >= FLOORS[room]}
    assert not above, f"{room} (floor {FLOORS[room]}) imports {sorted(above)}"
    if room not in TORCH_ROOMS:
        lazily_allowed = room in ("cli", "verbs")  # the verb `train` loads the training room when called
        assert lazily_allowed or not any(name.split(".")[0] == "torch" for name in names)


def test_the_check_sees_imports(tmp_path: Path) -> None:
    """The floor test would notice an import written either way, at any depth."""
    source = PACKAGE / "storage" / "layout.py"
    assert "pydantic" in imported_modules(source)
    probe = ast.parse("def f():\n    from screc.training import loop\n    import torch.nn")
    assert len([n for n in ast.walk(probe) if isinstance(n, ast.Import | ast.ImportFrom)]) == 2


@pytest.mark.parametrize(
    "module",
    [
        "screc",
        "screc.data",
        "screc.storage",
        "screc.statistics",
        "screc.planning",
        "screc.serving",
        "screc.cli",
    ],
)
def test_imports_without_torch(module: str) -> None:
    """A room outside training works where torch is not installed."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"import {module}\n"
        "heavy = [m for m in ('pyarrow', 'matplotlib', 'highspy') if m in sys.modules]\n"
        f"assert {module!r} in ('screc.planning', 'screc.cli') or not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_file_holds_two_concepts() -> None:
    tracked = [
        *PACKAGE.rglob("*.py"),
        *(path for path in (ROOT / "native").rglob("*") if path.suffix in {".cc", ".h"}),
        *(path for folder in ("tests", "benchmarks", "recipes") for path in (ROOT / folder).rglob("*.py")),
    ]
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in tracked}
    assert lengths, "no sources found"
    assert not {str(path): lines for path, lines in lengths.items() if lines > 800}


def test_the_compiled_module_matches_its_golden_stub(tmp_path: Path) -> None:
    """A changed binding shows up as a changed stub: `make stub` writes it anew."""
    written = tmp_path / "_native.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-m", "screc._native", "-o", str(written)]
    subprocess.run(command, check=True, capture_output=True)
    assert written.read_text() == (PACKAGE / "_native.pyi").read_text()
