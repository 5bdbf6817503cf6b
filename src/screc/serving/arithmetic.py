"""What each dense layer of a model multiplies in, and how an artifact records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from screc.storage.dense_precision import Precision, check_precision
from screc.storage.frozen import Frozen


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """The precision of each layer, and for int8 the range of its inputs.

    Attributes:
        layers: precision by layer ("bottom.0", ..., "top.2"); layers that are not named are float32.
        ranges: for each int8 layer float32 [2, inputs]: the least and the largest value that each input is
            represented up to, with 0 between them.
    """

    layers: Mapping[str, Precision] = field(default_factory=dict)
    ranges: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer, precision in self.layers.items():
            check_precision(f"layer {layer}", precision)
            if precision == "int8" and layer not in self.ranges:
                raise ValueError(f"layer {layer} is int8 and has no range of inputs; calibrate the model")


class Accuracy(Frozen):
    """One precision on the sample.

    Attributes:
        auc, log_loss: of its predictions.
        auc_loss: float32's AUC minus this one's.
        log_loss_rise: this log-loss minus float32's.
        samples_per_s: in the engine, on the host that measured.
    """

    auc: float
    log_loss: float
    auc_loss: float
    log_loss_rise: float
    samples_per_s: float


class PrecisionReport(Frozen):
    """The ``precision`` of an artifact's manifest.

    Attributes:
        precision: what the dense part is computed in.
        layers: the precision of each layer; the rest of a bf16 or int8 model stays float32 where it gains
            nothing by less.
        num_samples: samples of the sample.
        accuracy: what each precision gave on it.
    """

    precision: Precision
    layers: dict[str, Precision]
    num_samples: int
    accuracy: dict[Precision, Accuracy]


def stored_arithmetic(document: Mapping[str, Any] | None, ranges: Mapping[str, np.ndarray]) -> Arithmetic:
    """The arithmetic that an artifact records; float32 where it records none."""
    if document is None:
        return Arithmetic()
    return Arithmetic(layers=PrecisionReport.model_validate(document).layers, ranges=ranges)
