from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import killed_run
import numpy as np
import pytest
import torch
from tiny_log import TinyLog, tiny_model

from screc.data.batch import Batch
from screc.data.log import ClickLog
from screc.models import DLRM
from screc.storage.checkpoint import Checkpoint
from screc.training import (
    DivergedError,
    TrainingConfig,
    TrainingProgress,
    evaluate,
    load_model,
    predict,
    save_model,
    train,
)
from screc.training.shuffle import shuffled_batches, take

CONFIG = TrainingConfig(batch_size=32, num_threads=1, dense_lr=0.01, table_lr=0.1)


class SignallingLog(TinyLog):
    """Sends itself a signal (or raises) while batch ``at`` is read, or after it was handed out."""

    def __init__(self, at: int, *, reading: bool, signals: tuple[int, ...] = (signal.SIGINT,)) -> None:
        super().__init__()
        self.at, self.reading, self.signals, self.count = at, reading, signals, 0

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        for batch in super().batches(batch_size, skip=skip):
            if self.reading and self.count == self.at:
                self._send()
            self.count += 1
            yield batch

    def _send(self) -> None:
        for number in self.signals:
            os.kill(os.getpid(), number)


def signal_in_step(at: int, number: int = signal.SIGINT):  # type: ignore[no-untyped-def]
    """A progress callback that sends a signal during step ``at``."""

    def progress(event: TrainingProgress) -> None:
        if event.samples == at * CONFIG.batch_size:
            os.kill(os.getpid(), number)

    return progress


def files_of(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def same_result(one: Path, other: Path) -> None:
    """Both checkpoints hold the same bits; the number of threads is not part of the result."""
    ours, others = files_of(one), files_of(other)
    assert set(ours) == set(others)
    for name in ours:
        assert ours[name] == others[name], name


def test_learns(tmp_path: Path) -> None:
    log, config = TinyLog(4000), dataclasses.replace(CONFIG, epochs=3)
    before = evaluate(tiny_model(), log)
    report = train(tiny_model(), log, config, out=tmp_path / "out", evaluation=log)
    assert report.evaluation is not None
    assert report.evaluation.auc > 0.75 > before.auc
    assert report.evaluation.normalized_entropy < 0.9
    assert (report.interrupted, report.epochs, report.samples, report.steps) == (False, 3, 12_000, 375)
    assert 0 < report.train_loss < math.log(2) + 0.1
    assert report.samples_per_second == pytest.approx(12_000 / report.seconds)
    assert "trained on 12000 samples in 3 epochs" in report.message
    assert evaluate(load_model(tmp_path / "out"), log) == report.evaluation


@pytest.mark.parametrize("banded", [False, True])
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("optimizers", [("adam", "adagrad"), ("adagrad", "adam"), ("sgd", "sgd")])
def test_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, banded: bool, window: int, optimizers: tuple[str, str]
) -> None:
    config = dataclasses.replace(
        CONFIG,
        epochs=2,
        shuffle_window=window,
        dense_optimizer=optimizers[0],
        table_optimizer=optimizers[1],
        log_every=1,
    )
    train(tiny_model(banded=banded), TinyLog(), config, out=tmp_path / "whole")
    # Interrupted in the first epoch, at its end and in the second; fresh objects each time.
    for stop in (7, 20, 33):
        report = train(
            tiny_model(seed=stop if stop > 7 else 0, banded=banded),
            TinyLog(),
            config,
            out=tmp_path / "parts",
            progress=signal_in_step(stop),
        )
        assert report.interrupted
        assert report.samples == stop * 32
        assert "run again with the same arguments to resume" in report.message
    report = train(tiny_model(seed=5, banded=banded), TinyLog(), config, out=tmp_path / "parts")
    assert not report.interrupted
    assert report.samples == 1280
    same_result(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_reading(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    log = SignallingLog(5, reading=True, signals=(number,))
    report = train(tiny_model(), log, CONFIG, out=tmp_path / "out", evaluation=TinyLog())
    assert report.interrupted
    assert report.samples == 5 * 32
    assert report.evaluation is None
    assert signal.getsignal(number) == before
    train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "out")
    train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "whole")
    same_result(tmp_path / "whole", tmp_path / "out")


def test_second_signal_stops_at_once(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, log_every=1)

    def twice(event: TrainingProgress) -> None:
        if event.samples == 64:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_model(), TinyLog(), config, out=tmp_path / "out", progress=twice)
    assert not (tmp_path / "out").exists()


def test_periodic_checkpoints_do_not_change_the_result(tmp_path: Path) -> None:
    train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "whole")
    config = dataclasses.replace(CONFIG, checkpoint_every_samples=100, log_every=1)
    positions: list[int] = []

    def look(event: TrainingProgress) -> None:
        path = tmp_path / "often"
        at = Checkpoint.open(path).training["position"]["samples"] if path.exists() else 0
        if at and at not in positions:
            positions.append(at)

    train(tiny_model(), TinyLog(), config, out=tmp_path / "often", progress=look)
    assert positions == [128, 256, 384, 512]
    for name, data in files_of(tmp_path / "whole").items():
        if name != "model.json":  # holds the configuration
            assert files_of(tmp_path / "often")[name] == data


def test_more_epochs_go_on(tmp_path: Path) -> None:
    two = dataclasses.replace(CONFIG, epochs=2)
    train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "out")
    report = train(tiny_model(), TinyLog(), two, out=tmp_path / "out")
    assert (report.epochs, report.samples) == (2, 1280)
    train(tiny_model(), TinyLog(), two, out=tmp_path / "whole")
    same_result(tmp_path / "whole", tmp_path / "out")
    with pytest.raises(ValueError, match=r"epochs is 1, but the run in .* has made 2"):
        train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "out")


def test_finished_run_is_left_alone(tmp_path: Path) -> None:
    first = train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "out")
    written = (tmp_path / "out" / "model.json").stat().st_mtime_ns
    model = tiny_model(seed=7)
    again = train(model, TinyLog(), CONFIG, out=tmp_path / "out", evaluation=TinyLog())
    assert (tmp_path / "out" / "model.json").stat().st_mtime_ns == written
    assert again.train_loss == first.train_loss
    assert again.evaluation == evaluate(load_model(tmp_path / "out"), TinyLog())


def test_assets_survive_a_resume_that_does_not_give_them(tmp_path: Path) -> None:
    assets = tmp_path / "encoder"
    assets.mkdir()
    (assets / "schema.json").write_text("{}")
    often = dataclasses.replace(CONFIG, checkpoint_every_samples=64, log_every=1)
    out = tmp_path / "out"
    train(tiny_model(), TinyLog(), often, out=out, assets=assets, progress=signal_in_step(3))
    train(tiny_model(), TinyLog(), often, out=out)
    assert (Checkpoint.open(out).assets / "schema.json").read_text() == "{}"


def test_resume_refuses_another_run(tmp_path: Path) -> None:
    train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "out")
    for name, value in (("batch_size", 64), ("table_lr", 0.2), ("seed", 3), ("shuffle_window", 5)):
        other = dataclasses.replace(CONFIG, **{name: value})
        with pytest.raises(ValueError, match=rf"{name} is {value}, but the run in .* was started with"):
            train(tiny_model(), TinyLog(), other, out=tmp_path / "out")
    with pytest.raises(ValueError, match="differs in layout or pooling"):
        train(tiny_model(banded=True), TinyLog(), CONFIG, out=tmp_path / "out")
    report = train(tiny_model(banded=True), TinyLog(), CONFIG, out=tmp_path / "out", resume=False)
    assert report.samples == 640


def test_model_saved_without_training_cannot_be_resumed(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path / "out")
    with pytest.raises(ValueError, match="was not written by training and cannot be resumed"):
        train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "out")


def test_trains_outside_the_main_thread(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(train, tiny_model(), TinyLog(), CONFIG, out=tmp_path / "thread")
        assert future.result().samples == 640
    train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "main")
    same_result(tmp_path / "main", tmp_path / "thread")


def test_unknown_optimizer(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, table_optimizer="lion")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown 'lion'; choose one of sgd, adagrad, adam"):
        train(tiny_model(), TinyLog(), config, out=tmp_path / "out")


def test_foreign_directory_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    log = SignallingLog(0, reading=True, signals=(signal.SIGKILL,))
    with pytest.raises(FileExistsError, match="is not a checkpoint; choose another path"):
        train(tiny_model(), log, CONFIG, out=tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def diverging(model: DLRM) -> DLRM:
    """The same model with weights so large that the loss is not finite."""
    with torch.no_grad():
        model.tables.weight.fill_(1e30)
    return model


def test_divergence_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DivergedError, match=r"the loss is nan at step 1 \(sample 0\); nothing was saved"):
        train(diverging(tiny_model()), TinyLog(), CONFIG, out=out)
    assert not out.exists()
    good = dataclasses.replace(CONFIG, checkpoint_every_samples=128, log_every=1)
    model = tiny_model()

    def spoil(event: TrainingProgress) -> None:
        if event.samples == 192:
            diverging(model)

    with pytest.raises(DivergedError, match=r"at step 7 \(sample 192\); .*keeps the last good checkpoint"):
        train(model, TinyLog(), good, out=out, progress=spoil)
    assert Checkpoint.open(out).training["position"]["samples"] == 128
    assert np.isfinite(predict(load_model(out), TinyLog())).all()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = tiny_model()

    def spoil(event: TrainingProgress) -> None:
        with torch.no_grad():
            model.tables.weight[3, 1] = math.nan

    config = dataclasses.replace(CONFIG, checkpoint_every_samples=64, log_every=2)
    with pytest.raises(DivergedError, match="a weight is not finite"):
        train(model, TinyLog(), config, out=tmp_path / "out", progress=spoil)
    assert not (tmp_path / "out").exists()


def test_progress(tmp_path: Path) -> None:
    events: list[TrainingProgress] = []
    config = dataclasses.replace(CONFIG, epochs=2, log_every=6)
    report = train(tiny_model(), TinyLog(), config, out=tmp_path / "out", progress=events.append)
    assert [e.samples for e in events] == [192 * i for i in range(1, 7)]
    assert [e.epoch for e in events] == [0, 0, 0, 1, 1, 1]
    assert {e.total_samples for e in events} == {1280}
    assert all(e.samples_per_second > 0 for e in events)
    # 36 of 40 steps were told, in equal parts.
    assert np.mean([e.loss for e in events]) == pytest.approx(report.train_loss, rel=0.1)


def test_threads_are_put_back(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    try:
        train(tiny_model(), TinyLog(), CONFIG, out=tmp_path / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("banded", [False, True])
def test_bf16_stays_near_float32(tmp_path: Path, banded: bool) -> None:
    reports = [
        train(
            tiny_model(banded=banded),
            TinyLog(),
            dataclasses.replace(CONFIG, bf16_matmul=bf16),
            out=tmp_path / f"{bf16}",
            evaluation=TinyLog(),
        )
        for bf16 in (False, True)
    ]
    assert reports[0].train_loss != reports[1].train_loss
    assert reports[1].train_loss == pytest.approx(reports[0].train_loss, abs=0.01)
    assert load_model(tmp_path / "True").tables.weight.dtype == torch.float32


def test_log_must_fit_the_model(tmp_path: Path) -> None:
    class Other(TinyLog):
        pass

    log = Other()
    log.num_dense = 4
    with pytest.raises(ValueError, match="log: has 4 dense features, the model takes 3"):
        train(tiny_model(), log, CONFIG, out=tmp_path / "out")
    log = Other()
    log.tables = TinyLog.tables[:2]
    with pytest.raises(ValueError, match="log: has 2 tables, the model 3"):
        evaluate(tiny_model(), log)
    log.tables = (*TinyLog.tables[:2], dataclasses.replace(TinyLog.tables[2], num_embeddings=61))
    with pytest.raises(ValueError, match="table c has 61 rows pooled by sum, the model's has 60"):
        predict(tiny_model(), log)


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("dense", lambda a: a * np.float32(np.nan), r"dense\[0, 0\] is nan; fill or drop"),
        ("ids", lambda a: a + 40, r"ids: \d+ is out of range for table 0 with 40 rows"),
        ("ids", lambda a: a - 1, r"ids: -1 is out of range for table \d with \d+ rows"),
        ("ids", lambda a: a.astype(np.int32), r"ids: expected int64, got int32"),
        ("offsets", lambda a: a[:-32], r"offsets: expected 3 tables x 32 samples \+ 1 = 97 entries, got 65"),
        ("offsets", lambda a: np.append(0, a[:0:-1]), r"offsets: must run from 0 to the number of ids"),
        ("labels", lambda a: a + 1, r"labels\[\d+\] = 2.0 is neither 0 nor 1"),
        ("labels", lambda a: None, r"labels: the samples from 0 on have none"),
    ],
)
@pytest.mark.parametrize("window", [0, 100])
def test_bad_batches(tmp_path: Path, field: str, change, message: str, window: int) -> None:  # type: ignore[no-untyped-def]
    class Changed(TinyLog):
        def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
            for batch in super().batches(batch_size, skip=skip):
                yield dataclasses.replace(batch, **{field: change(getattr(batch, field))})

    config = dataclasses.replace(CONFIG, shuffle_window=window)
    with pytest.raises((TypeError, ValueError), match=message):
        train(tiny_model(), Changed(), config, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("window", [0, 100])
def test_batches_without_samples_change_nothing(tmp_path: Path, window: int) -> None:
    class Gaps(TinyLog):
        def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
            for batch in super().batches(batch_size, skip=skip):
                yield batch.rows(0, 0)
                yield batch

    config = dataclasses.replace(CONFIG, shuffle_window=window)
    train(tiny_model(), TinyLog(), config, out=tmp_path / "one")
    train(tiny_model(), Gaps(), config, out=tmp_path / "other", evaluation=Gaps())
    same_result(tmp_path / "one", tmp_path / "other")


def test_empty_log(tmp_path: Path) -> None:
    log = TinyLog()
    log.whole = log.whole.rows(0, 0)
    with pytest.raises(ValueError, match="log: it gave no samples to train on"):
        train(tiny_model(), log, CONFIG, out=tmp_path / "out")
    with pytest.raises(ValueError, match="no samples to evaluate"):
        evaluate(tiny_model(), log)
    assert predict(tiny_model(), log).shape == (0,)


def test_predictions_do_not_depend_on_the_batch_size_nor_need_labels() -> None:
    log = TinyLog(100)
    expected = predict(tiny_model(), log, 100)
    log.whole = dataclasses.replace(log.whole, labels=None)
    np.testing.assert_allclose(predict(tiny_model(), log, 7), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="labels: the samples from 0 on have none"):
        evaluate(tiny_model(), log)


def test_read_only_batches_do_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    log = TinyLog(20)
    for array in (log.whole.dense, log.whole.ids, log.whole.offsets, log.whole.labels):
        array.flags.writeable = False
    evaluate(tiny_model(), log)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"shuffle_window": -1}, "shuffle_window must not be negative"),
        ({"num_threads": -1}, "num_threads must not be negative"),
    ],
)
def test_bad_configuration(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def samples_of(batches: Iterator[Batch]) -> list[tuple]:
    """Every sample as a comparable value."""
    result = []
    for batch in batches:
        for b in range(batch.batch_size):
            one = batch.rows(b, b + 1)
            result.append(
                (one.dense.tobytes(), one.ids.tobytes(), one.offsets.tobytes(), float(one.labels[0]))
            )
    return result


def test_take_equals_one_by_one() -> None:
    whole = TinyLog(30).whole
    order = np.array([29, 3, 3, 0])
    assert samples_of(iter([take(whole, order)])) == [
        samples_of(iter([whole.rows(i, i + 1)]))[0] for i in order
    ]


@pytest.mark.parametrize("window", [1, 100, 96, 5000])
def test_shuffle_permutes_within_windows(window: int) -> None:
    log: ClickLog = TinyLog(330)
    plain = samples_of(log.batches(32))
    shuffled = samples_of(shuffled_batches(log, 32, window=window, seed=1, epoch=0))
    assert shuffled != plain
    size = -(-window // 32) * 32
    for start in range(0, 330, size):
        assert sorted(shuffled[start : start + size]) == sorted(plain[start : start + size])
    for skip in range(0, 330, 32):
        rest = shuffled_batches(log, 32, window=window, seed=1, epoch=0, skip=skip)
        assert samples_of(rest) == shuffled[skip:]
    assert samples_of(shuffled_batches(log, 32, window=window, seed=1, epoch=1)) != shuffled
    assert samples_of(shuffled_batches(log, 32, window=window, seed=2, epoch=0)) != shuffled


@pytest.mark.slow
def test_killed_at_any_moment_it_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    # Imports torch once; the runs are forked from it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run"])
    out, rng, kills, last = tmp_path / "out", random.Random(0), 0, 0
    while True:
        process = context.Process(target=killed_run.run, args=(out,))
        process.start()
        # The first dozen get less time than a run takes, the others enough.
        process.join(rng.uniform(0.0, 0.2) if kills < 12 else 60)
        process.kill()
        process.join()
        if out.exists():
            position = Checkpoint.open(out).training["position"]["samples"]
            assert position >= last
            last = position
            assert np.isfinite(predict(load_model(out), TinyLog(64))).all()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert last == 8 * 640
    killed_run.run(tmp_path / "whole")
    same_result(tmp_path / "whole", out)
    train(tiny_model(), TinyLog(), CONFIG, out=out, resume=False)
    # What killed processes left behind went with the next write.
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["out", "whole"]
    assert kills >= 10
