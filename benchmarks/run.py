"""``python benchmarks/run.py JOB [--json FILE]``: run one job, print its table, write its report.

Ours and the peers run interleaved in one process on the same cores; the report holds medians, spreads and a
flat map of ratios such as ``kaggle.zipf.b1.vs_eager_fp32`` (above 1 = ours is faster).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import jobs
from benchmarks.machine import PEER_ENVIRONMENT, describe


def main() -> int:
    names = sorted(module.name for module in pkgutil.iter_modules(jobs.__path__))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=names)
    parser.add_argument("--json", type=Path, help="write the report here")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few rounds: a check that the job runs"
    )
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in PEER_ENVIRONMENT.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | PEER_ENVIRONMENT)

    job = importlib.import_module(f"benchmarks.jobs.{arguments.job}")
    report = {"job": arguments.job, "quick": arguments.quick, "machine": describe()}
    report |= job.run(quick=arguments.quick)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
        print(f"report: {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
