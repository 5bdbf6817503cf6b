"""The part of a training run that belongs to the compression method of the model's tables."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from screc.data.batch import Batch
from screc.data.log import check_log
from screc.embeddings import Method
from screc.models import ClickModel

if TYPE_CHECKING:
    from screc.data.log import ClickLog

_ARCHITECTURE_LR = 1e-3


class MethodStages:
    """When each stage of a method begins, and the samples that its searches use.

    Args:
        method: of the model's tables.
        total: samples of the whole run; None where the log does not know its length.
        batch_size: of the batches for searches.
        validation: where they come from.

    Raises:
        ValueError: the method has several stages and the length of the run is not known, or it searches and
            there is no validation log, or one of unknown length.
    """

    def __init__(
        self, method: Method, *, total: int | None, batch_size: int, validation: ClickLog | None
    ) -> None:
        stages = method.stages
        if len(stages) > 1 and total is None:
            raise ValueError(
                f"log: method {method.name!r} trains in {len(stages)} stages, for which the number of "
                "samples must be known; this log does not tell it"
            )
        if any(stage.searches for stage in stages) and (validation is None or not validation.num_samples):
            raise ValueError(
                f"validation: method {method.name!r} searches on it; give a log that knows its number of "
                "samples"
            )
        shares = [stage.share / sum(stage.share for stage in stages) for stage in stages]
        begins = itertools.accumulate(shares[:-1], initial=0.0)
        self.method = method
        self._begins = [round(begin * (total or 0)) for begin in begins]
        self._total = total
        self._batch_size, self._validation = batch_size, validation
        self._batches: Iterator[Batch] = iter(())
        parameters = method.architecture_parameters()
        self.optimizer = torch.optim.Adam(parameters, lr=_ARCHITECTURE_LR) if parameters else None

    @classmethod
    def of(
        cls, model: ClickModel, *, samples: int | None, batch_size: int, validation: ClickLog | None
    ) -> MethodStages | None:
        """The stages of a model's method; None for tables that no method compresses."""
        if validation is not None:
            check_log(validation, model.table_specs, model.config.num_dense)
        if not isinstance(model.tables, Method):
            return None
        return cls(model.tables, total=samples, batch_size=batch_size, validation=validation)

    def at(self, samples: int) -> int:
        """Number of the stage that a run is in after so many samples, of which the method is told."""
        self.method.progress = min(1.0, samples / self._total) if self._total else 0.0
        return bisect_right(self._begins, samples) - 1

    def searches(self, stage: int) -> bool:
        """Whether the stage trains the architecture too."""
        return self.method.stages[stage].searches and self.optimizer is not None

    def validation_batch(self, samples: int) -> Batch:
        """The next samples for a search, after so many; from the first again after the last."""
        batch = next(self._batches, None)
        if batch is None:
            log = self._validation
            assert log is not None  # checked when this was made
            assert log.num_samples
            self._batches = log.batches(self._batch_size, skip=samples % log.num_samples)
            batch = next(self._batches)
        return batch
