"""The training loop: one pass after another over a click log, interruptible and resumable at any step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from screc.data.batch import Batch
from screc.data.log import check_log
from screc.embeddings import EmbeddingCollection
from screc.models import ClickModel
from screc.statistics.metrics import Metrics
from screc.storage.checkpoint import Checkpoint
from screc.training.checkpointing import load_optimizers, load_weights, save_model
from screc.training.evaluation import batch_tensors, evaluate, label_tensor
from screc.training.interrupt import Interrupt
from screc.training.optimizers import OptimizerName, dense_optimizer, table_optimizer
from screc.training.shuffle import shuffled_batches
from screc.training.stages import MethodStages

if TYPE_CHECKING:
    from screc.data.log import ClickLog


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a model is trained.

    Attributes:
        batch_size: samples per step.
        epochs: passes over the log.
        dense_optimizer: ``"sgd"``, ``"adagrad"`` or ``"adam"``, for MLPs and tensor-train cores.
        dense_lr: its learning rate.
        table_optimizer: the same choice, for table rows.
        table_lr: its learning rate.
        seed: of the shuffle.
        num_threads: threads of torch; 0 leaves them as they are.
        bf16_matmul: multiply matrices in bfloat16 while training; weights, tables, evaluation stay float32.
            Faster on processors with instructions for it (avx512_bf16, amx_bf16), slower on others.
        shuffle_window: samples that are shuffled together; 0 trains in the log's order.
        checkpoint_every_samples: samples between checkpoints; 0 writes only the last one.
        log_every: steps between calls of the progress callback.
    """

    batch_size: int = 2048
    epochs: int = 1
    dense_optimizer: OptimizerName = "adam"
    dense_lr: float = 1e-3
    table_optimizer: OptimizerName = "adagrad"
    table_lr: float = 0.02
    seed: int = 0
    num_threads: int = 0
    bf16_matmul: bool = False
    shuffle_window: int = 0
    checkpoint_every_samples: int = 0
    log_every: int = 100

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "num_threads", "shuffle_window", "checkpoint_every_samples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


# A run may go on with these changed: they do not say which samples come when, nor how a step is made.
_FREE = frozenset({"epochs", "num_threads", "checkpoint_every_samples", "log_every"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """What the progress callback is told.

    Attributes:
        epoch: passes completed.
        samples: samples trained on in all.
        total_samples: samples of the whole run, or None where the log does not know its length.
        loss: mean log-loss since the last call, before the updates of its batches.
        samples_per_second: since the last call.
    """

    epoch: int
    samples: int
    total_samples: int | None
    loss: float
    samples_per_second: float


Progress = Callable[[TrainingProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReport:
    """What a call of :func:`train` did.

    Attributes:
        checkpoint: the directory of the checkpoint; None where none was asked for.
        interrupted: the run was stopped by a signal before its end.
        epochs: passes completed, in all runs.
        samples: samples trained on, in all runs.
        steps: steps made, in all runs.
        train_loss: mean log-loss of the batches before their updates, in all runs; NaN if none.
        seconds: time of this run, without evaluation.
        samples_per_second: of this run.
        evaluation: metrics on the evaluation log; None if none was given or the run was interrupted.
        message: one sentence for people; says how to resume an interrupted run.
    """

    checkpoint: Path | None
    interrupted: bool
    epochs: int
    samples: int
    steps: int
    train_loss: float
    seconds: float
    samples_per_second: float
    evaluation: Metrics | None
    message: str


class DivergedError(RuntimeError):
    """The loss or a weight is no longer finite; the message names the step and what to do."""


@dataclass(slots=True)
class _Position:
    """Where a run stands; everything that a resumed run needs beside weights and optimiser state."""

    epoch: int = 0
    epoch_samples: int = 0
    samples: int = 0
    steps: int = 0
    loss_sum: float = 0.0
    stage: int = -1  # of the tables' method
    validated: int = 0  # samples of its searches
    finished: bool = False  # it has made its served form


def train(
    model: ClickModel,
    log: ClickLog,
    config: TrainingConfig,
    *,
    out: Path | str | None,
    evaluation: ClickLog | None = None,
    validation: ClickLog | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    after_epoch: Callable[[], bool] | None = None,
    assets: Path | None = None,
) -> TrainingReport:
    """Train a model and write it to a checkpoint.

    SIGINT (Ctrl-C) and SIGTERM finish the step, write a checkpoint with the exact position and return; a
    second one stops at once. Started again with the same arguments the run goes on there, and on one thread
    ends with the same bits as if it had never stopped.

    Args:
        model: trained in place; when resuming, its weights are replaced by the checkpoint's.
        log: the samples; must give the same ones in the same order each time.
        config: how to train.
        out: directory of the checkpoint; None writes none, and what is interrupted is lost.
        evaluation: evaluated at the end.
        validation: samples for the searching stages of a compression method, read over and over.
        resume: go on with a checkpoint at ``out`` if there is one; False replaces it.
        progress: called every ``config.log_every`` steps.
        after_epoch: called after every pass; True ends the run there.
        assets: a directory that goes into the checkpoint (the feature encoder).

    Raises:
        ValueError: the log does not fit the model, a batch is malformed or without labels, or the checkpoint
            at ``out`` is of another model or another configuration.
        FileExistsError: ``out`` holds something other than a checkpoint.
        DivergedError: the loss or a weight is not finite; the checkpoint before stays.
    """
    check_log(log, model.table_specs, model.config.num_dense)
    run = _Run(model, log, config, None if out is None else Path(out), assets, progress, validation)
    run.after_epoch = after_epoch
    if run.out is None:
        pass
    elif (run.out / "model.json").is_file():
        if resume:
            run.resume()
    elif run.out.is_file() or (run.out.is_dir() and any(run.out.iterdir())):
        # Found now rather than after an hour of training.
        raise FileExistsError(f"{run.out} exists and is not a checkpoint; choose another path or remove it")
    before, began = run.position.samples, time.perf_counter()
    with _threads(config.num_threads):
        with Interrupt() as interrupt:
            run.train(interrupt)
        seconds = time.perf_counter() - began
        metrics = None
        if evaluation is not None and not interrupt.requested:
            metrics = evaluate(model, evaluation)
    at = run.position
    saved = f"saved to {run.out}" if run.out else "not saved"
    if interrupt.requested:
        resumed = "; run again with the same arguments to resume" if run.out else ""
        message = (
            f"interrupted after {at.samples} samples (in epoch {at.epoch + 1} of {config.epochs}); "
            f"{saved}{resumed}"
        )
    else:
        message = f"trained on {at.samples} samples in {at.epoch} epochs; {saved}"
    return TrainingReport(
        checkpoint=run.out,
        interrupted=interrupt.requested,
        epochs=at.epoch,
        samples=at.samples,
        steps=at.steps,
        train_loss=at.loss_sum / at.samples if at.samples else math.nan,
        seconds=seconds,
        samples_per_second=(at.samples - before) / seconds,
        evaluation=metrics,
        message=message,
    )


class _Run:
    def __init__(
        self,
        model: ClickModel,
        log: ClickLog,
        config: TrainingConfig,
        out: Path | None,
        assets: Path | None,
        progress: Progress | None,
        validation: ClickLog | None,
    ) -> None:
        self.model, self.log, self.config, self.out = model, log, config, out
        self.assets, self.progress = assets, progress
        self.after_epoch: Callable[[], bool] | None = None
        self.position = _Position()
        self.optimizers = self._new_optimizers()
        samples = log.num_samples
        self.stages = MethodStages.of(
            model,
            samples=None if samples is None else samples * config.epochs,
            batch_size=config.batch_size,
            validation=validation,
        )
        self._saved = _Position()
        self._told = (0, 0.0, time.perf_counter())

    def _new_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        dense, sparse = self.model.dense_parameters(), self.model.sparse_parameters()
        config = self.config
        optimizers: dict[str, torch.optim.Optimizer] = {
            "dense": dense_optimizer(config.dense_optimizer, dense, config.dense_lr)
        }
        tables = table_optimizer(config.table_optimizer, sparse, config.table_lr)
        if tables is not None:
            optimizers["tables"] = tables
        return optimizers

    def resume(self) -> None:
        """Take over weights, optimiser state and position of the checkpoint at ``out``."""
        assert self.out is not None
        checkpoint = Checkpoint.open(self.out)
        stored = checkpoint.training.get("config")
        if stored is None or "position" not in checkpoint.training:
            raise ValueError(
                f"{self.out} was not written by training and cannot be resumed; "
                "choose another directory or replace it with resume=False"
            )
        for name, value in dataclasses.asdict(self.config).items():
            if name not in _FREE and stored.get(name) != value:
                raise ValueError(
                    f"{name} is {value!r}, but the run in {self.out} was started with {stored.get(name)!r}; "
                    "use the same to resume, or replace it with resume=False"
                )
        position = _Position(**checkpoint.training["position"])
        if self.config.epochs < position.epoch:
            raise ValueError(
                f"epochs is {self.config.epochs}, but the run in {self.out} has made {position.epoch}"
            )
        for stage in range(position.stage + 1):
            self._begin(stage)  # what has other shapes from then on
        load_weights(self.model, checkpoint)
        load_optimizers(self._all_optimizers(), checkpoint)
        self.position = position
        self._saved = dataclasses.replace(position)
        if self.assets is None and checkpoint.assets.is_dir():
            self.assets = checkpoint.assets

    def train(self, interrupt: Interrupt) -> None:
        """Train to the end or to the interrupt, and save."""
        at, every = self.position, self.config.checkpoint_every_samples
        self._told = (at.samples, at.loss_sum, time.perf_counter())
        while at.epoch < self.config.epochs and not interrupt.requested:
            for batch in interrupt.items(self._batches()):
                self._step(batch)
                if every and at.samples - self._saved.samples >= every:
                    self.save()
            if not interrupt.requested:
                if at.epoch_samples == 0:
                    raise ValueError("log: it gave no samples to train on")
                at.epoch, at.epoch_samples = at.epoch + 1, 0
                if self.after_epoch is not None and self.after_epoch():
                    break
        if self.stages is not None and not interrupt.requested and not at.finished:
            self.stages.method.finish()
            at.finished = True
        if self._saved != at:
            self.save()

    def _begin(self, stage: int) -> None:
        """Enter a stage of the tables' method."""
        assert self.stages is not None
        entered = self.stages.method.stages[stage]
        self.stages.method.begin(entered)
        if entered.fresh:
            self.model.start_anew(torch.Generator().manual_seed(self.config.seed + stage))
            self.optimizers = self._new_optimizers()
        self.position.stage = stage

    def _all_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        searching = None if self.stages is None else self.stages.optimizer
        return self.optimizers if searching is None else {**self.optimizers, "architecture": searching}

    def _batches(self) -> Iterator[Batch]:
        return shuffled_batches(
            self.log,
            self.config.batch_size,
            window=self.config.shuffle_window,
            seed=self.config.seed,
            epoch=self.position.epoch,
            skip=self.position.epoch_samples,
        )

    def _step(self, batch: Batch) -> None:
        at = self.position
        method = None if self.stages is None else self.stages.method
        if self.stages is not None:
            for stage in range(at.stage + 1, self.stages.at(at.samples) + 1):
                self._begin(stage)
        if isinstance(self.model.tables, EmbeddingCollection):
            self.model.tables.before_step(at.steps)
        # Not torch.set_float32_matmul_precision: it converts at every use and gains little.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.bf16_matmul):
            logits = self.model(*batch_tensors(batch)).float()
        labels = label_tensor(batch, at.epoch_samples)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        extra = None if method is None else method.extra_loss()
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        (loss if extra is None else loss + extra).backward()
        if method is not None:
            method.after_backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        if method is not None:
            method.after_step()
        if self.stages is not None and self.stages.searches(at.stage):
            self._search(self.stages)
        at.steps += 1
        at.samples += batch.batch_size
        at.epoch_samples += batch.batch_size
        at.loss_sum += value * batch.batch_size
        if self.progress is not None and at.steps % self.config.log_every == 0:
            self._tell(self.progress)

    def _search(self, stages: MethodStages) -> None:
        """A step of the architecture's parameters on validation samples."""
        assert stages.optimizer is not None
        batch = stages.validation_batch(self.position.validated)
        logits = self.model(*batch_tensors(batch)).float()
        stages.optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, label_tensor(batch, 0)).backward()
        stages.optimizer.step()
        self.position.validated += batch.batch_size

    def _tell(self, progress: Progress) -> None:
        at, now = self.position, time.perf_counter()
        samples, loss_sum, then = self._told
        length = self.log.num_samples
        progress(
            TrainingProgress(
                epoch=at.epoch,
                samples=at.samples,
                total_samples=None if length is None else length * self.config.epochs,
                loss=(at.loss_sum - loss_sum) / (at.samples - samples),
                samples_per_second=(at.samples - samples) / (now - then),
            )
        )
        self._told = (at.samples, at.loss_sum, now)

    def save(self) -> None:
        """Write the checkpoint; refuses weights that are not finite, so that it is always a good one."""
        for parameter in (*self.model.dense_parameters(), *self.model.sparse_parameters()):
            # The sum is not finite if any weight is not, and needs no memory.
            if not math.isfinite(parameter.detach().sum().item()):
                raise self._diverged("a weight is not finite")
        if self.out is not None:
            save_model(
                self.model,
                self.out,
                training={
                    "config": dataclasses.asdict(self.config),
                    "position": dataclasses.asdict(self.position),
                },
                assets=self.assets,
                optimizers=self._all_optimizers(),
            )
        self._saved = dataclasses.replace(self.position)

    def _diverged(self, what: str) -> DivergedError:
        found = self.out is not None and self.out.exists()
        kept = f"{self.out} keeps the last good checkpoint" if found else "nothing was saved"
        return DivergedError(
            f"{what} at step {self.position.steps + 1} (sample {self.position.samples}); {kept}; "
            f"lower dense_lr ({self.config.dense_lr}) or table_lr ({self.config.table_lr}), "
            "or look for extreme dense values in the log"
        )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """torch's number of threads for the length of a run; 0 leaves it."""
    before = torch.get_num_threads()
    try:
        if number:
            torch.set_num_threads(number)
        yield
    finally:
        torch.set_num_threads(before)
