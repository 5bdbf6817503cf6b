"""The eight models of DeepRecSys (arXiv 2001.02772, table 1) as loads on our engine.

    python -m recipes.deeprecsys_shapes --scale 0.1 --out run/deeprecsys.json

For each: the highest Poisson load of queries of log-normal size whose p95 is within the paper's latency
target, on this machine's cores. Shapes are those of the paper's program. The engine runs DLRM-like models, so
only the three RMC are served as they are. Of the others the look-ups and dense layers are there in their
sizes, and what is missing is named (``Shape.missing``): their figures say what such a load costs, no more.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from screc.serving import Engine
from screc.serving.load import EngineTarget, LoadConfig, LoadGenerator, Search, Sla, ZipfSamples

SIZES = "lognormal:5.1,0.2"
PERCENTILE = 95.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One model.

    Attributes:
        name: the paper's.
        rows: rows of each table.
        dim: columns of every table.
        pooling: ids of every bag.
        num_dense: dense features.
        bottom, top: output widths of the layers.
        sla_ms: the paper's latency target.
        missing: what our engine does not compute of it; empty: it is served as it is.
    """

    name: str
    rows: tuple[int, ...]
    dim: int
    pooling: int
    num_dense: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    sla_ms: float
    missing: str = ""

    def scaled(self, scale: float) -> tuple[int, ...]:
        """Rows of each table, times ``scale``."""
        return tuple(max(1, round(count * scale)) for count in self.rows)

    def engine(self, scale: float, *, threads: int = 0, seed: int = 0) -> Engine:
        """An engine of random weights."""
        generator = np.random.default_rng(seed)
        features = len(self.rows) + bool(self.num_dense)
        dense: dict[str, np.ndarray] = {}
        bottom = (*self.bottom, self.dim) if self.num_dense else ()
        for name, widths in (
            ("bottom", (self.num_dense, *bottom)),
            ("top", (features * self.dim, *self.top)),
        ):
            for number, (inputs, outputs) in enumerate(pairwise(widths)):
                weight = generator.standard_normal((outputs, inputs), dtype=np.float32)
                dense[f"{name}.{number}.weight"] = weight * np.float32(np.sqrt(2 / inputs))
                dense[f"{name}.{number}.bias"] = np.zeros(outputs, np.float32)
        model = {
            "name": "dlrm",
            "num_dense": self.num_dense,
            "embedding_dim": self.dim,
            "bottom_mlp": list(bottom),
            "top_mlp": list(self.top),
            "interaction": "cat",
        }
        tables = [
            0.1 * generator.standard_normal((count, self.dim), dtype=np.float32)
            for count in self.scaled(scale)
        ]
        return Engine.from_arrays(model, dense, tables, threads=threads)


_WIDE = "its dense features pass a layer to the tables' width; in the paper they are joined as they are"

SHAPES = (
    Shape(
        name="DLRM-RMC1", rows=(4_000_000,) * 8, dim=32, pooling=80, num_dense=128, bottom=(64,),
        top=(256, 64, 1), sla_ms=100,
    ),
    Shape(
        name="DLRM-RMC2", rows=(500_000,) * 32, dim=64, pooling=120, num_dense=256, bottom=(128,),
        top=(128, 64, 1), sla_ms=400,
    ),
    Shape(
        name="DLRM-RMC3", rows=(2_000_000,) * 10, dim=32, pooling=20, num_dense=2560, bottom=(1024, 256),
        top=(512, 256, 1), sla_ms=100,
    ),
    Shape(
        name="NCF", rows=(140_000, 140_000, 28_000, 28_000), dim=64, pooling=1, num_dense=0, bottom=(),
        top=(256, 128, 64, 64, 1), sla_ms=5,
        missing="the product of matrix factorisation: all four tables go through the layers",
    ),
    Shape(
        name="WnD", rows=(1_000_000,) * 27, dim=32, pooling=1, num_dense=512, bottom=(),
        top=(1024, 512, 256, 1), sla_ms=25, missing=_WIDE,
    ),
    Shape(
        name="MT-WnD", rows=(500_000,) * 41 + (5_000_000,) * 2, dim=32, pooling=1, num_dense=512, bottom=(),
        top=(1024, 512, 512, 256, 128, 1), sla_ms=25,
        missing=f"all tasks but one; {_WIDE}",
    ),
    Shape(
        name="DIN", rows=(1_000_000, 100_000, 10_000_000, 10_000_000), dim=32, pooling=64, num_dense=0,
        bottom=(), top=(200, 80, 1), sla_ms=100,
        missing="attention: its 250 look-ups of behaviour are four bags of 64, added up",
    ),
    Shape(
        name="DIEN", rows=(500_000,) * 41 + (5_000_000,) * 2, dim=32, pooling=1, num_dense=512, bottom=(),
        top=(200, 80, 1), sla_ms=35, missing=f"the recurrent layers; {_WIDE}",
    ),
)  # fmt: skip
"""The eight; widths as in the paper's program, whose bottom ends in the tables' width."""


def run(
    *, scale: float = 0.1, seconds: float = 2.0, names: tuple[str, ...] = (), threads: int = 0
) -> dict[str, object]:
    """Measures the highest load of every shape (or of those named); prints a table.

    Args:
        scale: of the tables' rows; at 1 they take 2 to 4 GB each.
        seconds: of every try.
        names: of shapes; none: all.
        threads: of the engine; 0: all cores.

    Raises:
        ValueError: there is no shape of such a name.
    """
    known = {shape.name: shape for shape in SHAPES}
    if unknown := set(names) - set(known):
        raise ValueError(f"there is no shape {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    console = Console()
    view = Table("model", "p95 within", "queries/s", "samples/s", "served", title=f"queries of {SIZES}")
    results: dict[str, object] = {}
    for shape in [known[name] for name in names or known]:
        target = EngineTarget(shape.engine(scale, threads=threads), shape.name)
        samples = ZipfSamples(target.shape, pooling=shape.pooling)
        config = LoadConfig(sizes=SIZES, pool=max(32, 1024 // shape.pooling))
        generator = LoadGenerator(target, config, samples)
        sla = Sla(latency_s=shape.sla_ms / 1e3, percentile=PERCENTILE)
        found = generator.capacity(sla, Search(trial_s=seconds, confirm_s=seconds))
        results[shape.name] = asdict(shape) | {
            "rows": list(shape.scaled(scale)),
            "queries_per_s": found.rate,
            "samples_per_s": found.samples_rate,
        }
        view.add_row(
            shape.name,
            f"{shape.sla_ms:g} ms",
            f"{found.rate:,.0f}",
            f"{found.samples_rate:,.0f}",
            "in its size" if shape.missing else "as it is",
        )
    console.print(view)
    for shape in SHAPES:
        if shape.missing and shape.name in results:
            console.print(f"{shape.name}: without {shape.missing}")
    return {"scale": scale, "sizes": SIZES, "percentile": PERCENTILE, "results": results}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=0.1, help="of the tables' rows")
    parser.add_argument("--seconds", type=float, default=2.0, help="of every try")
    parser.add_argument("--shape", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON")
    given = parser.parse_args()
    report = run(scale=given.scale, seconds=given.seconds, names=tuple(given.shape), threads=given.threads)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
