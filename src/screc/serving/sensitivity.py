"""Measuring sensitivity: what each table loses in each format, on a validation sample (planning's accuracy
term, :mod:`screc.planning.sensitivity`).

Rows are put into a format by the code that packs them (:class:`screc.storage.band_encoding.HeldRows`), so
what is measured is what an artifact would serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from screc.data.batch import Batch
from screc.data.log import ClickLog, Progress, TableSpec, check_log, concatenate
from screc.planning.sensitivity import (
    Additivity,
    CheckedLayouts,
    Effect,
    Point,
    Sensitivity,
    TableSensitivity,
)
from screc.serving.paired import Changes, PairedSample, TableLookups
from screc.statistics.access import AccessStatistics
from screc.storage.band_encoding import HeldRows
from screc.storage.band_source import BandSource, trained_whole
from screc.storage.checkpoint import Checkpoint
from screc.storage.layout import Band, Format, TableLayout, TtShape
from screc.storage.row_format import LARGEST_CODE, ROW_FORMATS, ScaleOf

_BATCH = 8192
# Cuts: 16 times powers of this, below half of the rows.
_FIRST_CUT, _CUT_RATIO = 16, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityConfig:
    """What is measured.

    Attributes:
        samples: of the validation log, from its start.
        tt_ranks: TT ranks, where cores of that rank are smaller than the table.
        plans: random plans that the sum over bands is checked on; 0 for none.
        seed: of the random plans.
    """

    samples: int = 100_000
    tt_ranks: tuple[int, ...] = (8, 16, 32, 64)
    plans: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if self.plans < 0:
            raise ValueError(f"plans must not be negative, got {self.plans}")
        if any(rank < 1 for rank in self.tt_ranks):
            raise ValueError(f"tt_ranks must be positive, got {list(self.tt_ranks)}")


@dataclass(frozen=True, slots=True)
class _Form:
    """A way to hold rows."""

    format: Format
    tt_rank: int | None = None
    scale: ScaleOf = "row"

    @property
    def row_by_row(self) -> bool:
        """Whether what becomes of a row does not depend on the other rows of its band."""
        return self.format != "tt" and self.scale == "row"


_ROW_FORMS = tuple(_Form(name) for name in ROW_FORMATS if name != "fp32") + tuple(
    _Form(name, scale="table") for name in LARGEST_CODE
)


def measure_sensitivity(
    checkpoint: Checkpoint,
    log: ClickLog,
    statistics: AccessStatistics,
    config: SensitivityConfig,
    *,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure the rise of log-loss for every table and format, and bands between a few cuts.

    Args:
        checkpoint: a DLRM whose tables were trained whole.
        log: validation samples with labels, other than the model was trained on.
        statistics: the ranks of the rows, as planning will use them.
        config: what is measured.
        keep: a file for tables that are done, so that an interrupted measurement goes on when started again
            with the same arguments; removed at the end.
        progress: called with (steps done, steps in all); a step is one format of one table, or one plan.

    Raises:
        ValueError: the log or the statistics do not fit the model, a table was trained in bands, labels are
            missing or of one kind only.
        DamagedFileError: a file of the checkpoint is not what was written.
    """
    return _Measurement(checkpoint, log, statistics, config, keep, progress).run()


def cut_ranks(num_embeddings: int) -> tuple[int, ...]:
    """The ranks between which a table's rows are replaced: 0, geometric ones, and its end."""
    cuts, cut = [0], _FIRST_CUT
    while cut < num_embeddings / 2:
        cuts.append(cut)
        cut *= _CUT_RATIO
    return (*cuts, num_embeddings)


class _Measurement:
    def __init__(
        self,
        checkpoint: Checkpoint,
        log: ClickLog,
        statistics: AccessStatistics,
        config: SensitivityConfig,
        keep: Path | None,
        progress: Progress | None,
    ) -> None:
        self.checkpoint, self.statistics, self.config = checkpoint, statistics, config
        self.keep, self.progress = keep, progress
        _check_tables(checkpoint, log, statistics)
        for entry in checkpoint.files:
            if entry.path.startswith("tables/"):
                checkpoint.check(entry.path)
        batch = _first_samples(log, config.samples)
        tables = [self._lookups(number, batch) for number in range(len(checkpoint.tables))]
        self.ranks = [
            table.ranks_of(lookups.ids) for table, lookups in zip(statistics.tables, tables, strict=True)
        ]
        self.sample = PairedSample(checkpoint.model, checkpoint.dense(), batch, tables)
        self.forms = [self._forms(number) for number in range(len(tables))]
        self._done, self._to_do = 0, sum(map(len, self.forms)) + config.plans

    def run(self) -> Sensitivity:
        done = self._kept()
        tables: list[TableSensitivity] = []
        for number, statistics in enumerate(self.statistics.tables):
            if number < len(done):
                tables.append(done[number])
                self._advance(len(self.forms[number]))
                continue
            effects = [effect for form in self.forms[number] if (effect := self._effect(number, form))]
            tables.append(TableSensitivity.of(statistics, effects))
            if self.keep is not None:
                self._document(tables).save(self.keep)
        found = self._document(tables)
        if self.config.plans:
            checked = tuple(self._check(found, layouts) for layouts in self._random_layouts())
            found = found.model_copy(update={"additivity": Additivity(checked=checked)})
        if self.keep is not None:
            self.keep.unlink(missing_ok=True)
        return found

    def _document(self, tables: Sequence[TableSensitivity]) -> Sensitivity:
        return Sensitivity(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            base_log_loss=self.sample.log_loss,
            base_auc=self.sample.auc,
            samples=self.sample.num_samples,
            statistics_digest=self.statistics.digest,
            checkpoint_digest=self.checkpoint.digest,
            tables=tuple(tables),
        )

    def _kept(self) -> tuple[TableSensitivity, ...]:
        """The tables that an interrupted measurement of the same things has done."""
        if self.keep is None or not self.keep.is_file():
            return ()
        try:
            kept = Sensitivity.load(self.keep)
        except ValueError:  # of another release
            return ()
        now = self._document(kept.tables)
        if kept.model_copy(update={"created": now.created}) != now:
            return ()
        for table, forms in zip(kept.tables, self.forms, strict=False):
            if {(one.format, one.tt_rank, one.scale) for one in table.effects} != {
                (form.format, form.tt_rank, form.scale) for form in forms
            }:
                return ()
        return kept.tables

    def _lookups(self, number: int, batch: Batch) -> TableLookups:
        ids, places = np.unique(batch.table_ids(number), return_inverse=True)
        rows = self._held(number, [(0, _Form("fp32"))]).rows(ids)
        offsets = batch.table_offsets(number)
        mean = self.checkpoint.tables[number].pooling == "mean"
        return TableLookups(ids=ids, rows=rows, places=places.reshape(-1), offsets=offsets, mean=mean)

    def _forms(self, number: int) -> tuple[_Form, ...]:
        layout = self.checkpoint.tables[number].layout
        rows, dim = layout.num_embeddings, layout.embedding_dim
        ranks = [
            rank
            for rank in sorted(set(self.config.tt_ranks))
            if TtShape.balanced(rows, dim, rank).num_parameters < rows * dim
        ]
        return _ROW_FORMS + tuple(_Form("tt", rank) for rank in ranks)

    def _effect(self, number: int, form: _Form) -> Effect:
        """One table in one format, for every band between two cuts."""
        cuts = cut_ranks(self.statistics.tables[number].num_embeddings)
        bands = self._row_by_row(number, form, cuts) if form.row_by_row else self._bands(number, form, cuts)
        self._advance(1)
        return Effect.of(form.format, cuts, bands, tt_rank=form.tt_rank, scale=form.scale)

    def _bands(self, number: int, form: _Form, cuts: Sequence[int]) -> list[list[Point]]:
        """What each band between two cuts costs, each made and measured for itself."""
        bands: list[list[Point]] = []
        for place, start in enumerate(cuts[:-1]):
            bands.append([])
            for stop in cuts[place + 1 :]:
                rest = [(stop, _Form("fp32"))] if stop < cuts[-1] else []
                held = self._held(number, [(start, form), *rest])
                bands[-1].append(self._point(self._changes(number, held, start, stop)[1]))
        return bands

    def _row_by_row(self, number: int, form: _Form, cuts: Sequence[int]) -> list[list[Point]]:
        """The same of rows that stand for themselves: what the rows from each cut to the next add to those
        after them."""
        held = self._held(number, [(0, form)])
        whole = [np.zeros(self.sample.num_samples) for _ in Changes._fields]
        beyond = [Changes(*(array.copy() for array in whole))]
        for start, stop in zip(cuts[-2::-1], cuts[:0:-1], strict=True):
            samples, changes = self._changes(number, held, start, cuts[-1], moved_before=stop)
            for array, part in zip(whole, changes, strict=True):
                array[samples] = part
            beyond.insert(0, Changes(*(array.copy() for array in whole)))
        return [
            [
                self._point(Changes(*(a - b for a, b in zip(beyond[i], beyond[j], strict=True))))
                for j in range(i + 1, len(cuts))
            ]
            for i in range(len(cuts) - 1)
        ]

    def _changes(
        self, number: int, held: HeldRows, start: int, stop: int, *, moved_before: int | None = None
    ) -> tuple[np.ndarray, Changes]:
        """The samples that ask for a row of a band, and how their loss changes when it is held otherwise.

        ``moved_before`` leaves out samples that ask for none of the ranks below it.
        """
        table = self.sample.tables[number]
        ranks = self.ranks[number]
        replaced = (ranks >= start) & (ranks < stop)
        rows = table.rows.copy()
        rows[replaced] = held.rows(table.ids[replaced])
        samples = table.any_lookup(replaced if moved_before is None else replaced & (ranks < moved_before))
        return samples, self.sample.changes(number, samples, table.delta(rows, samples))

    def _point(self, changes: Changes) -> Point:
        """The means over all samples; those that ``changes`` does not hold are 0."""
        size = self.sample.num_samples
        rise = float(changes.rise.sum()) / size
        squares = float(np.square(changes.rise).sum())
        variance = max(0.0, squares - size * rise * rise) / max(1, size - 1)
        return Point(
            rise=rise,
            standard_error=float(np.sqrt(variance / size)),
            expected=float(changes.expected.sum()) / size,
        )

    def _held(self, number: int, bands: Sequence[tuple[int, _Form]]) -> HeldRows:
        """The rows of a table in bands, each given by its first rank and form; fp32 before the first."""
        return self._held_as(number, _layout(self.checkpoint.tables[number].layout, bands))

    def _held_as(self, number: int, layout: TableLayout) -> HeldRows:
        file, trained = self.checkpoint.table_tensors(number), self.checkpoint.tables[number].layout
        return HeldRows(BandSource(file, trained, layout, self.statistics.tables[number]))

    def _check(self, found: Sensitivity, layouts: Sequence[TableLayout]) -> CheckedLayouts:
        """Measure all tables at once in the layouts of a plan."""
        rows = [
            self._held_as(number, layout).rows(self.sample.tables[number].ids)
            for number, layout in enumerate(layouts)
        ]
        changes, auc = self.sample.with_rows(rows)
        self._advance(1)
        return CheckedLayouts(
            predicted=found.plan_loss(layouts),
            measured=self._point(changes),
            auc_loss=self.sample.auc - auc,
        )

    def _random_layouts(self) -> Iterator[list[TableLayout]]:
        """Random plans: for each a few forms to choose from, for each table one to three bands of them."""
        random = np.random.default_rng(self.config.seed)
        forms = sorted({form for own in self.forms for form in own}, key=str)
        for _ in range(self.config.plans):
            chosen = {forms[place] for place in random.choice(len(forms), size=2, replace=False)}
            yield [
                _random_layout(random, self.checkpoint.tables[number].layout, chosen & set(own))
                for number, own in enumerate(self.forms)
            ]

    def _advance(self, steps: int) -> None:
        self._done += steps
        if self.progress is not None:
            self.progress(self._done, self._to_do)


def _layout(table: TableLayout, bands: Sequence[tuple[int, _Form]]) -> TableLayout:
    """A table in bands, each given by its first rank and form; fp32 before the first."""
    rows = table.num_embeddings
    if bands[0][0] > 0:
        bands = [(0, _Form("fp32")), *bands]
    stops = [start for start, _ in bands[1:]] + [rows]
    made = []
    for (start, form), stop in zip(bands, stops, strict=True):
        slots = rows if stop == rows else stop - start
        tt = TtShape.balanced(slots, table.embedding_dim, form.tt_rank) if form.tt_rank else None
        made.append(Band(start=start, stop=stop, format=form.format, memory="dram", scale=form.scale, tt=tt))
    return TableLayout(
        table=table.table, num_embeddings=rows, embedding_dim=table.embedding_dim, bands=tuple(made)
    )


def _random_layout(random: np.random.Generator, table: TableLayout, forms: set[_Form]) -> TableLayout:
    cuts = np.exp(random.uniform(0, np.log(table.num_embeddings), size=random.integers(0, 3)))
    starts = np.unique(np.concatenate(([0], cuts.astype(np.int64)))).tolist()
    options = [_Form("fp32"), *sorted(forms, key=str)]
    return _layout(table, [(start, options[random.integers(len(options))]) for start in starts])


def _check_tables(checkpoint: Checkpoint, log: ClickLog, statistics: AccessStatistics) -> None:
    """Raise unless the log and the statistics are of the model's tables, and these were trained whole."""
    if checkpoint.model.get("name") != "dlrm":
        raise ValueError(f"model name {checkpoint.model.get('name')!r} is not measured here; use 'dlrm'")
    specs = [TableSpec(t.layout.table, t.layout.num_embeddings, t.pooling) for t in checkpoint.tables]
    check_log(log, specs, checkpoint.model["num_dense"])
    ours = [(spec.name, spec.num_embeddings) for spec in specs]
    theirs = [(table.name, table.num_embeddings) for table in statistics.tables]
    if ours != theirs:
        raise ValueError(
            f"statistics: they are of tables {theirs}, the model has {ours}; collect them with its encoder"
        )
    for table in checkpoint.tables:
        if not trained_whole(table.layout):
            raise ValueError(
                f"table {table.layout.table} was trained in bands, so that there is nothing to replace; "
                "measure the model with whole tables that the plan is made for"
            )


def _first_samples(log: ClickLog, number: int) -> Batch:
    """The first samples of a log as one batch, with labels."""
    batches, samples = [], 0
    for batch in log.batches(_BATCH):
        if batch.labels is None:
            raise ValueError("log: it has no labels, which log-loss is measured with; use a labelled log")
        batches.append(batch.rows(0, number - samples))
        samples += batches[-1].batch_size
        if samples == number:
            break
    if not samples:
        raise ValueError("log: it has no samples to measure on")
    return concatenate(batches)
