"""Measuring sensitivity, against a DLRM in float64 and against artifacts that are packed and served."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from storage_samples import Plan, layout, write_whole
from test_engine import make_batch, make_model, oracle

from screc.data import Batch, TableSpec
from screc.planning import Sensitivity, plot_sensitivity, sensitivity_summary
from screc.serving import Engine, SensitivityConfig, measure_sensitivity
from screc.serving.paired import PairedSample, TableLookups
from screc.serving.sensitivity import cut_ranks
from screc.statistics import AccessStatistics
from screc.storage import Checkpoint, pack
from screc.storage.layout import TableLayout, TtShape

DIM, ROWS = 8, (700, 90, 30)
CONFIG = SensitivityConfig(samples=1500, tt_ranks=(2, 4, 8), plans=6)


class Log:
    """Samples whose labels follow the model's own probabilities, skewed towards the first ids."""

    def __init__(self, made, num_samples: int = 2000) -> None:
        self.num_dense, self.num_samples = made[0]["num_dense"], num_samples
        self.tables = tuple(
            TableSpec(str(t), len(rows), pooling)
            for t, (rows, pooling) in enumerate(zip(*made[2:], strict=True))
        )
        batch = make_batch(num_samples, self.num_dense, made[2], longest=3, seed=5)
        random = np.random.default_rng(6)
        ids = (batch.ids * random.random(batch.ids.size) ** 3).astype(np.int64)
        batch = dataclasses.replace(batch, ids=ids)
        labels = (random.random(num_samples) < oracle(*made, batch)).astype(np.float32)
        self.whole = dataclasses.replace(batch, labels=labels)

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        for start in range(skip, self.num_samples, batch_size):
            yield self.whole.rows(start, start + batch_size)


def model_of(interaction: str = "dot", num_dense: int = 5, top: tuple[int, ...] = (24, 12)):
    model, dense, _, poolings = make_model(num_dense, DIM, len(ROWS), (16,), top, interaction)
    random = np.random.default_rng(1)
    tables = [random.standard_normal((rows, DIM)).astype(np.float32) for rows in ROWS]
    return model, dense, tables, poolings


def losses(logits_of: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log-loss of each sample from probabilities."""
    return -np.where(labels > 0, np.log(logits_of), np.log1p(-logits_of))


@pytest.fixture(scope="module")
def made():
    return model_of()


@pytest.fixture(scope="module")
def log(made) -> Log:
    return Log(made)


@pytest.fixture(scope="module")
def statistics(log) -> AccessStatistics:
    return AccessStatistics.collect(log)


@pytest.fixture(scope="module")
def checkpoint(made, tmp_path_factory) -> Checkpoint:
    model, dense, tables, _ = made
    whole = [layout(str(t), len(rows), DIM, (len(rows), "dram")) for t, rows in enumerate(tables)]
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    return Checkpoint.open(write_whole(path, whole, tables, model=model, dense=dense))


@pytest.fixture(scope="module")
def found(checkpoint, log, statistics) -> Sensitivity:
    return measure_sensitivity(checkpoint, log, statistics, CONFIG)


@pytest.mark.parametrize("top", [(24, 12), ()])
@pytest.mark.parametrize("num_dense", [5, 0])
@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_changes_are_those_of_a_model_computed_whole(interaction, num_dense, top) -> None:
    made = model_of(interaction, num_dense, top)
    batch = Log(made).whole
    tables = []
    for number, (rows, pooling) in enumerate(zip(*made[2:], strict=True)):
        ids, places = np.unique(batch.table_ids(number), return_inverse=True)
        offsets = batch.table_offsets(number)
        own = {"ids": ids, "rows": rows[ids], "places": places, "offsets": offsets}
        tables.append(TableLookups(**own, mean=pooling == "mean"))
    sample = PairedSample(made[0], made[1], batch, tables)
    before = oracle(*made, batch)
    assert sample.log_loss == pytest.approx(losses(before, batch.labels).mean(), abs=1e-6)

    moved = [rows.copy() for rows in made[2]]
    moved[1][20:] += 0.5
    chosen = np.random.default_rng(0).permutation(tables[1].any_lookup(tables[1].ids >= 20))
    found = sample.changes(1, chosen, tables[1].delta(moved[1][tables[1].ids], chosen))
    after = oracle(made[0], made[1], moved, made[3], batch)
    rise = losses(after, batch.labels) - losses(before, batch.labels)
    np.testing.assert_allclose(found.rise, rise[chosen], atol=2e-5)
    divergence = before * np.log(before / after) + (1 - before) * np.log((1 - before) / (1 - after))
    np.testing.assert_allclose(found.expected, divergence[chosen], atol=2e-5)
    untouched = np.setdiff1d(np.arange(batch.batch_size), chosen)
    assert untouched.size
    assert np.abs(rise[untouched]).max() == 0
    assert np.median(np.abs(rise[chosen])) > 1e-3

    moved[0] *= 1.3
    whole, auc = sample.with_rows([rows[table.ids] for rows, table in zip(moved, tables, strict=True)])
    after = oracle(made[0], made[1], moved, made[3], batch)
    np.testing.assert_allclose(
        whole.rise, losses(after, batch.labels) - losses(before, batch.labels), atol=5e-5
    )
    assert auc != sample.auc


@pytest.mark.parametrize(
    ("table", "place", "cut", "kind"),
    [
        (0, 0, 0, "dram/int4"),
        (0, 2, 256, "dram/int4"),
        (0, 1, 16, "dram/int4/table"),
        (1, 1, 16, "dram/bf16"),
        (0, 1, 16, "tt"),
        (0, 0, 0, "tt"),
    ],
)
def test_a_measured_rise_is_that_of_the_packed_model(
    checkpoint, log, statistics, found, tmp_path, table, place, cut, kind
) -> None:
    whole = [TableLayout.dense(str(t), rows, DIM) for t, rows in enumerate(ROWS)]
    bands = ([(cut, "dram")] if cut else []) + [(ROWS[table], kind)]
    planned = layout(str(table), ROWS[table], DIM, *bands)
    rank = None
    if kind == "tt":
        rank = 4
        shape = TtShape.balanced(ROWS[table], DIM, rank)
        last = planned.bands[-1].model_copy(update={"tt": shape})
        planned = planned.model_copy(update={"bands": (*planned.bands[:-1], last)})
    layouts = [planned if t == table else one for t, one in enumerate(whole)]
    batch = log.whole.rows(0, CONFIG.samples)
    predictions = []
    for name, plan in (("before", whole), ("after", layouts)):
        pack(checkpoint, statistics, Plan(plan), tmp_path / name)
        predictions.append(Engine.open(tmp_path / name, threads=1).predict(batch).astype(np.float64))
    before, after = (losses(one, batch.labels) for one in predictions)
    kind, _, scale = kind.removeprefix("dram/").partition("/")
    effect = found.tables[table].effect(kind, rank, scale or "row")
    assert effect.cuts[place] == cut
    point = effect.measured[place][-1]
    assert point.rise == pytest.approx((after - before).mean(), abs=1e-6)
    assert point.standard_error == pytest.approx((after - before).std() / np.sqrt(len(after)), rel=0.01)
    assert abs(point.rise) > 1e-5
    assert found.base_log_loss == pytest.approx(before.mean(), abs=1e-6)


def test_the_document_is_of_what_was_measured(checkpoint, statistics, found) -> None:
    assert found.samples == CONFIG.samples
    assert found.checkpoint_digest == checkpoint.digest
    found.check(statistics)
    first, _, last = found.tables
    assert first.effect("int8").cuts == (0, 16, 256, 700)
    assert first.knows("tt", 2)
    # Cores of rank 8 would be larger than 30 rows.
    assert [effect.tt_rank for effect in last.effects if effect.format == "tt"] == [2, 4]
    for table in found.tables:
        order = [table.effect(name).whole for name in ("fp16", "int8", "int4")]
        assert order == sorted(order)


def test_losses_add_up(found) -> None:
    checked = found.additivity
    assert len(checked.checked) == CONFIG.plans
    assert checked.correlation > 0.9
    # Cores of a band of few rows rebuild them better than they are predicted to.
    assert 0.1 < checked.ratios.min() <= checked.ratios.max() < 1.5


def test_cuts_are_few_and_geometric() -> None:
    assert cut_ranks(10) == (0, 10)
    assert cut_ranks(33) == (0, 16, 33)
    assert cut_ranks(500_000) == (0, 16, 256, 4096, 65536, 500_000)


def test_an_interrupted_measurement_goes_on(checkpoint, log, statistics, found, tmp_path) -> None:
    config = dataclasses.replace(CONFIG, plans=0)  # the table of 700 rows has 9 effects
    steps = []

    def stop_in_the_second_table(done: int, total: int | None) -> None:
        steps.append((done, total))
        if done == 12:
            raise KeyboardInterrupt

    keep = tmp_path / "s.part"
    arguments = (checkpoint, log, statistics)
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(*arguments, config, keep=keep, progress=stop_in_the_second_table)
    assert len(Sensitivity.load(keep).tables) == 1
    resumed: list[int] = []
    again = measure_sensitivity(*arguments, config, keep=keep, progress=lambda done, _: resumed.append(done))
    assert again.tables == found.tables
    assert resumed[0] > 1
    assert not keep.exists()

    # What was kept of other samples is not taken, nor what cannot be read.
    keep.write_text("half a docu")
    with pytest.raises(KeyboardInterrupt):
        measure_sensitivity(*arguments, config, keep=keep, progress=stop_in_the_second_table)
    fewer: list[int] = []
    other = dataclasses.replace(config, samples=700)
    measure_sensitivity(*arguments, other, keep=keep, progress=lambda done, _: fewer.append(done))
    assert fewer[0] == 1


def test_what_does_not_fit_is_refused(checkpoint, log, statistics, tmp_path) -> None:
    def measure(log=log, statistics=statistics, checkpoint=checkpoint) -> None:
        measure_sensitivity(checkpoint, log, statistics, CONFIG)

    class Changed:
        tables, num_dense, num_samples = log.tables, log.num_dense, None

        def __init__(self, **more) -> None:
            self.whole = dataclasses.replace(log.whole, **more)

        def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
            yield self.whole

    with pytest.raises(ValueError, match="no labels"):
        measure(Changed(labels=None))
    with pytest.raises(ValueError, match="both kinds"):
        measure(Changed(labels=np.ones_like(log.whole.labels)))
    with pytest.raises(ValueError, match="no samples"):
        measure(Log(model_of(), num_samples=0))
    with pytest.raises(ValueError, match="statistics: they are of tables"):
        measure(statistics=AccessStatistics(statistics.tables[:2]))
    bad = [np.full((rows, DIM), np.nan, np.float32) for rows in ROWS]
    whole = [TableLayout.dense(str(t), rows, DIM) for t, rows in enumerate(ROWS)]
    path = write_whole(tmp_path / "nan", whole, bad, model=checkpoint.model, dense=checkpoint.dense())
    with pytest.raises(ValueError, match="table 0, row 0: holds nan"):
        measure(checkpoint=Checkpoint.open(path))
    for field, value in (("samples", 0), ("plans", -1), ("tt_ranks", (0,))):
        with pytest.raises(ValueError, match=field):
            SensitivityConfig(**{field: value})


def test_people_see_it(found, tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(record=True, width=200)
    sensitivity_summary(found, console)
    text = console.export_text()
    for words in ("1,500 samples", "int4/t", "correlation", "tt2"):
        assert words in text
    plot_sensitivity(found, tmp_path / "s.svg")
    assert (tmp_path / "s.svg").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        plot_sensitivity(found, tmp_path / "s.jpeg")
