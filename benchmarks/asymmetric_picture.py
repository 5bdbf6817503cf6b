"""``python -m benchmarks.asymmetric_picture REPORT OUT``: job ``asymmetric``'s report as a picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.jobs.asymmetric import ASYMMETRIC, HEADLINE_BATCH, fastest_symmetric
from benchmarks.table_sets import DISTRIBUTIONS


def draw(report: dict, out: Path) -> None:
    """Measured times by distribution for each set, and the gains that are computed for more cores."""
    results, computed = report["results"], report["computed_not_measured"]
    sets = list(dict.fromkeys(row["set"] for row in computed))
    figure, axes = plt.subplots(1, len(sets) + 1, figsize=(4 * (len(sets) + 1), 3.6), layout="constrained")
    places = np.arange(len(DISTRIBUTIONS))
    for axis, name in zip(axes, sets, strict=False):
        points = [results[f"asymmetric.{name}.b{HEADLINE_BATCH}.{kind}"] for kind in DISTRIBUTIONS]
        axis.bar(
            places - 0.2, [fastest_symmetric(point) for point in points], 0.4, label="symmetric, fastest"
        )
        axis.bar(places + 0.2, [point[ASYMMETRIC] for point in points], 0.4, label="asymmetric")
        axis.set_xticks(places, [kind.replace("_", " ") for kind in DISTRIBUTIONS])
        axis.set_title(f"{name}, B = {HEADLINE_BATCH}, measured")
        axis.set_ylabel("us a sample, whole predictions")
    axes[0].legend()
    for name in sets:
        rows = [row for row in computed if row["set"] == name]
        gains = [row["vs_symmetric"]["trace"] for row in rows]
        axes[-1].plot([row["cores"] for row in rows], gains, "o--", label=name)
    axes[-1].axhline(1.0, color="grey", linewidth=0.8)
    axes[-1].set_xscale("log", base=2)
    axes[-1].set_xticks([row["cores"] for row in computed], [str(row["cores"]) for row in computed])
    axes[-1].set_xlabel("cores, private caches of 2 MiB")
    axes[-1].set_ylabel("symmetric / asymmetric time")
    axes[-1].set_title("trace, computed, not measured")
    axes[-1].legend()
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(json.loads(arguments.report.read_text()), arguments.out)


if __name__ == "__main__":
    main()
