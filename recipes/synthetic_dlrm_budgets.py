"""What a DRAM budget costs in AUC: plans of several budgets, their models trained in the planned form.

``python -m recipes.synthetic_dlrm_budgets --out run/budgets`` trains a DLRM with full tables on the generated
click log, measures how sensitive each table is to each format, and for every budget plans, packs the full
model as planned, trains another in the planned form, packs that, and predicts the held-out samples from both
artifacts. What is finished is kept in ``--out`` and skipped when the command is given again.
docs/guide/sensitivity.md holds the measured table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from recipes.synthetic_dlrm_references import ReferencesConfig
from screc.data import SyntheticClickLog, SyntheticConfig
from screc.models import DLRM
from screc.planning import Plan, Sensitivity, SystemSpec, make_plan, plot_plan, probe, sensitivity_summary
from screc.serving import Engine, SensitivityConfig, measure_sensitivity, score
from screc.statistics import AccessStatistics
from screc.storage import Checkpoint, pack, replace_file
from screc.storage.row_format import RowFormat
from screc.training import TrainingConfig, train

_Bar = Callable[[int, int | None], None]
BUDGETS = (0.02, 0.05, 0.10, 0.25)


@dataclass(frozen=True, kw_only=True)
class BudgetsConfig:
    """What is planned and measured.

    Attributes:
        data: the click log and the model.
        validation_rows: samples after the held-out ones that sensitivity is measured on.
        row_format: of all rows, each with a scale of its own.
        max_tt_share: largest share of look-ups that tensor trains may answer.
        batch_size: samples per call that plans are made for.
        threads: of training; 0 means one per available core.
    """

    data: ReferencesConfig = field(default_factory=lambda: ReferencesConfig(bf16_matmul=False))
    validation_rows: int = 200_000
    row_format: RowFormat = "int4"
    max_tt_share: float = 0.02
    batch_size: int = 2048
    threads: int = 0

    def validation(self) -> SyntheticClickLog:
        """The samples that sensitivity is measured on."""
        data = self.data
        return SyntheticClickLog(
            SyntheticConfig(
                num_rows=self.validation_rows,
                seed=data.seed,
                scale=data.scale,
                first_row=data.rows + data.held_out_rows,
            )
        )


class Budgets:
    """The runs of one configuration in a directory.

    Args:
        config: what is measured.
        out: holds everything.
        console: for progress and the table.
        system: the host that plans are for; None probes this one.
    """

    def __init__(
        self, config: BudgetsConfig, out: Path, console: Console, system: SystemSpec | None = None
    ) -> None:
        self.config, self.out, self.console = config, out, console
        out.mkdir(parents=True, exist_ok=True)
        self._file = out / "budgets.json"
        self.results: dict[str, Any] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self.system = system or self._probed()
        self.statistics = self._counted()

    def run(self, budgets: tuple[float, ...] = BUDGETS) -> None:
        """Measure the budgets that are not yet in budgets.json."""
        if "full" not in self.results:
            model = DLRM.build(self.config.data.model, self.config.data.log().tables)
            self._note("full", self._trained(model, self.out / "full"))
        sensitivity = self._sensitivity()
        sensitivity_summary(sensitivity, self.console)
        for budget in budgets:
            key = f"{budget:g}"
            if key in self.results:
                continue
            self._note(key, self._measure(budget, self.out / key, sensitivity))
            line = self.results[key]
            self.console.print(
                f"{budget:.0%} of DRAM: AUC {line['trained']['auc']:.5f} trained as planned, "
                f"{line['packed']['auc']:.5f} only packed so, {self.results['full']['auc']:.5f} in full"
            )

    def _measure(self, budget: float, out: Path, sensitivity: Sensitivity) -> dict[str, Any]:
        out.mkdir(exist_ok=True)
        plan = self._plan(budget)
        plan.save(out / "plan.json")
        plot_plan(plan, out / "plan.svg")
        result: dict[str, Any] = {
            "dram_bytes": plan.predicted.dram_bytes,
            "ssd_bytes": plan.predicted.ssd_bytes,
            "tt_bytes": plan.predicted.tt_bytes,
            "formats": _formats(plan),
            "predicted_loss": sensitivity.plan_loss(plan.layouts),
            "packed": self._served(self.out / "full", plan, out / "artifact"),
        }
        model = DLRM.build(
            self.config.data.model,
            self.config.data.log().tables,
            layouts=plan.layouts,
            band_ids=self.statistics.band_ids(plan.layouts),
        )
        in_torch = self._trained(model, out / "trained")
        result["trained"] = self._served(out / "trained", plan, out / "artifact")
        result["trained"]["auc_in_torch"] = in_torch["auc"]
        shutil.rmtree(out / "trained")
        return result

    def _plan(self, budget: float) -> Plan:
        dense = Checkpoint.open(self.out / "full").dense()
        return make_plan(
            self.statistics,
            self.config.data.model.embedding_dim,
            self.system,
            dram_fraction=budget,
            batch_size=self.config.batch_size,
            dense_flops=2 * sum(weight.size for weight in dense.values() if weight.ndim == 2),
            row_formats=self.config.row_format,
            max_tt_share=self.config.max_tt_share,
        )

    def _served(self, checkpoint: Path, plan: Plan, artifact: Path) -> dict[str, float]:
        """Quality of an artifact's predictions of the held-out samples; the artifact is removed."""
        with _progress(self.console, "packing") as bar:
            pack(checkpoint, self.statistics, plan, artifact, progress=bar)
        with _progress(self.console, "predicting") as bar:
            metrics = score(Engine.open(artifact), self.config.data.held_out(), progress=bar).metrics
        shutil.rmtree(artifact)
        assert metrics is not None
        return {"auc": metrics.auc, "log_loss": metrics.log_loss}

    def _trained(self, model: DLRM, out: Path) -> dict[str, float]:
        training = TrainingConfig(num_threads=self.config.threads or len(os.sched_getaffinity(0)))
        with _progress(self.console, f"training {out.parent.name}/{out.name}") as bar:
            report = train(
                model,
                self.config.data.log(),
                training,
                out=out,
                evaluation=self.config.data.held_out(),
                progress=lambda state: bar(state.samples, state.total_samples),
            )
        if report.interrupted or report.evaluation is None:
            raise KeyboardInterrupt
        return {"auc": report.evaluation.auc, "log_loss": report.evaluation.log_loss}

    def _probed(self) -> SystemSpec:
        file = self.out / "system.json"
        if not file.is_file():
            with _progress(self.console, "probing") as bar:
                probe(self.out, progress=lambda _, *step: bar(*step)).save(file)
        return SystemSpec.load(file)

    def _counted(self) -> AccessStatistics:
        file = self.out / "statistics"
        if not file.is_file():
            with _progress(self.console, "counting") as bar:
                AccessStatistics.collect(self.config.data.log(), progress=bar).save(file)
        return AccessStatistics.load(file)

    def _sensitivity(self) -> Sensitivity:
        file = self.out / "sensitivity.json"
        if not file.is_file():
            with _progress(self.console, "measuring sensitivity") as bar:
                measure_sensitivity(
                    Checkpoint.open(self.out / "full"),
                    self.config.validation(),
                    self.statistics,
                    SensitivityConfig(samples=self.config.validation_rows),
                    keep=self.out / "sensitivity.part",
                    progress=bar,
                ).save(file)
        return Sensitivity.load(file)

    def _note(self, key: str, result: dict[str, Any]) -> None:
        self.results[key] = result
        with replace_file(self._file) as temporary:
            temporary.write_text(json.dumps(self.results, indent=1) + "\n")

    def lines(self) -> list[tuple[str, ...]]:
        """Budget, where the rows went, and AUC lost by packing alone and after training as planned."""
        full = self.results["full"]["auc"]
        found = sorted((float(key), line) for key, line in self.results.items() if key != "full")
        return [
            (
                f"{budget:.0%}",
                ", ".join(f"{name} {share:.1%}" for name, share in line["formats"].items()),
                f"{1e6 * line['predicted_loss']:.1f}",
                f"{line['packed']['auc'] - full:+.5f}",
                f"{line['trained']['auc'] - full:+.5f}",
            )
            for budget, line in found
        ]

    def markdown(self) -> str:
        """The table for docs/guide/sensitivity.md."""
        head = "| DRAM | share of rows | predicted rise of log-loss, 1e-6 | AUC, packed | AUC, trained |"
        return "\n".join([head, "|---|---|---|---|---|", *(f"| {' | '.join(x)} |" for x in self.lines())])


def _formats(plan: Plan) -> dict[str, float]:
    """The share of all rows in each format and memory, most first."""
    rows: dict[str, int] = {}
    for layout in plan.layouts:
        for band in layout.bands:
            name = f"{band.format}{'/t' if band.scale == 'table' else ''} {band.memory}"
            rows[name] = rows.get(name, 0) + band.num_rows
    total = sum(rows.values())
    return {name: number / total for name, number in sorted(rows.items(), key=lambda item: -item[1])}


@contextmanager
def _progress(console: Console, title: str) -> Iterator[_Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total=None: bars.update(task, completed=done, total=total)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("run/budgets"), help="directory for everything")
    parser.add_argument("--system", type=Path, help="system spec; without one this host is probed")
    parser.add_argument("--threads", type=int, default=0, help="of training")
    arguments = parser.parse_args()
    console, began = Console(), time.perf_counter()
    system = SystemSpec.load(arguments.system) if arguments.system else None
    try:
        budgets = Budgets(BudgetsConfig(threads=arguments.threads), arguments.out, console, system)
        budgets.run()
    except KeyboardInterrupt:
        print("interrupted; give the same command to go on", file=sys.stderr)
        return 130
    headings = ("DRAM", "share of rows", "predicted rise, 1e-6", "AUC, packed", "AUC, trained")
    table = Table(
        *headings, title=f"held-out samples, AUC against full ({budgets.results['full']['auc']:.5f})"
    )
    for line in budgets.lines():
        table.add_row(*line)
    console.print(table)
    (arguments.out / "budgets.md").write_text(budgets.markdown() + "\n")
    console.print(f"written: {arguments.out}/budgets.json, budgets.md; {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
