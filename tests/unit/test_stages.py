"""Compression methods in the training loop: hooks, stages, searches, and runs that are interrupted."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from test_training import CONFIG, same_result
from tiny_log import TinyLog, tiny_model
from torch import Tensor, nn

from screc.embeddings import HashRows, make_method
from screc.embeddings.method import Stage, Wanted
from screc.models import DLRM
from screc.training import TrainingProgress, TrainingReport, evaluate, load_model, train
from screc.training.loop import Progress


class Searched(HashRows):
    """Hashed rows times a factor that is found on validation samples, then trained again with it."""

    name = "searched"
    stages: ClassVar = (
        Stage(name="search", share=1, searches=True),
        Stage(name="retrain", share=3, fresh=True),
    )

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        self.factor = nn.Parameter(torch.ones(()))
        self.calls: list[str] = []

    def rows(self, wanted: Wanted) -> Tensor:
        return super().rows(wanted) * self.factor

    def begin(self, stage: Stage) -> None:
        self.calls.append(stage.name)
        if stage.fresh:
            with torch.no_grad():
                self.weight.normal_(0.0, 0.05, generator=torch.Generator().manual_seed(0))

    def extra_loss(self) -> Tensor:
        return 1e-3 * self.weight.square().sum()

    def after_backward(self) -> None:
        assert self.weight.grad is not None
        self.calls.append("backward")

    def after_step(self) -> None:
        self.calls.append("step")

    def finish(self) -> None:
        self.calls.append("finish")

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self.factor]


def model_of(method: str | type[HashRows], seed: int = 0) -> DLRM:
    model = tiny_model()
    dim = model.config.embedding_dim
    if isinstance(method, str):
        tables = make_method(method, model.table_specs, dim, ratio=2, seed=seed)
    else:
        rows = [max(1, spec.num_embeddings // 2) for spec in model.table_specs]
        tables = method(model.table_specs, dim, rows, generator=torch.Generator().manual_seed(seed))
        tables.sparse = False  # its extra loss is dense
    return DLRM(model.config, tables, generator=torch.Generator().manual_seed(seed))


class Dense(Searched):
    """The same with all of its weights in the dense optimiser."""

    def sparse_parameters(self) -> list[nn.Parameter]:
        return []


@pytest.mark.parametrize("method", ["hash", "qr", "robe", "jl"])
def test_a_method_trains_as_planned_tables_do(tmp_path: Path, method: str) -> None:
    log, config = TinyLog(4000), dataclasses.replace(CONFIG, epochs=3)
    model = model_of(method)
    report = train(model, log, config, out=tmp_path / "out", evaluation=log)
    assert report.evaluation is not None
    assert report.evaluation.auc > 0.65
    # The checkpoint holds the rows as look-ups give them: whoever knows nothing of the method can read it.
    assert evaluate(load_model(tmp_path / "out"), log).auc == pytest.approx(report.evaluation.auc, abs=1e-6)


def test_stages_come_in_order_and_hooks_around_every_step(tmp_path: Path) -> None:
    log = TinyLog(640)
    model = model_of(Dense)
    factor = model.tables.factor.detach().clone()
    train(model, log, CONFIG, out=tmp_path / "out", validation=TinyLog(100))
    calls = model.tables.calls
    assert [c for c in calls if c not in ("backward", "step")] == ["search", "retrain", "finish"]
    assert calls.index("retrain") == 1 + 2 * 5  # a quarter of 20 steps
    assert calls[1:11] == ["backward", "step"] * 5
    assert len(calls) == 3 + 2 * 20
    assert model.tables.factor != factor


def stop_at(steps: int) -> Progress:
    def progress(event: TrainingProgress) -> None:
        if event.samples == steps * CONFIG.batch_size:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.parametrize("method", ["hash", Dense])
def test_interrupted_runs_end_with_the_same_bits(tmp_path: Path, method: str | type[HashRows]) -> None:
    config = dataclasses.replace(CONFIG, log_every=1)

    def run(name: str, seed: int, progress: Progress | None = None) -> TrainingReport:
        return train(
            model_of(method, seed),
            TinyLog(640),
            config,
            out=tmp_path / name,
            validation=TinyLog(100),
            progress=progress,
        )

    run("whole", 0)
    for steps in (3, 5, 8):  # while searching, at the turn of the stages, while retraining
        # Random numbers of the method are its state: another seed makes no difference once it is loaded.
        assert run("parts", 0 if steps == 3 else 9, stop_at(steps)).interrupted
    assert not run("parts", 9).interrupted
    same_result(tmp_path / "whole", tmp_path / "parts")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation: method 'searched' searches on it"):
        train(model_of(Searched), TinyLog(64), CONFIG, out=tmp_path / "out")

    endless = TinyLog(64)
    endless.num_samples = None
    with pytest.raises(ValueError, match="log: method 'searched' trains in 2 stages"):
        train(model_of(Searched), endless, CONFIG, out=tmp_path / "out", validation=TinyLog(64))
    train(model_of("hash"), TinyLog(64), CONFIG, out=tmp_path / "hash")
    with pytest.raises(ValueError, match=r"method\.safetensors is of another method"):
        train(model_of("robe"), TinyLog(64), CONFIG, out=tmp_path / "hash")
    train(tiny_model(), TinyLog(64), CONFIG, out=tmp_path / "planned")
    with pytest.raises(ValueError, match="holds no state of a compression method"):
        train(model_of("hash"), TinyLog(64), CONFIG, out=tmp_path / "planned")
    assert np.isfinite(evaluate(load_model(tmp_path / "hash"), TinyLog(64)).log_loss)
