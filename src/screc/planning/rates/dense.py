"""The dense part: MLPs and interaction of a DLRM in the engine, its bags empty."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from screc import _native
from screc.planning.dense import DenseShape
from screc.planning.rates.clock import Clock
from screc.planning.system import DenseRate
from screc.storage.dense_precision import PRECISIONS, Precision, layer_precision

# The DLRM of Criteo Kaggle in the reference implementation, arXiv 1906.00091.
SHAPE = DenseShape(
    num_dense=13, embedding_dim=16, table_dims=(16,) * 26, bottom=(512, 256, 64, 16), top=(512, 256, 1)
)
# Rates differ between sizes: a fifteenth of its flops, and five times as many.
_SHAPES = (
    DenseShape(num_dense=13, embedding_dim=16, table_dims=(16,) * 26, bottom=(64, 16), top=(64, 1)),
    SHAPE,
    DenseShape(
        num_dense=13,
        embedding_dim=128,
        table_dims=(128,) * 26,
        bottom=(512, 256, 128),
        top=(1024, 1024, 512, 256, 1),
    ),
)
# Samples of each thread.
_SAMPLES = (1, 8, 64, 512, 2048)
_PART = 0.004


def measure_dense(clock: Clock, threads: int) -> tuple[DenseRate, ...]:
    """Models of three sizes in every precision, at growing numbers of samples for each thread."""
    cases = itertools.product(_SHAPES, PRECISIONS, _SAMPLES)
    return tuple(
        dense_rate(clock, shape, samples * threads, precision, threads, _PART)
        for shape, precision, samples in cases
    )


def dense_rate(
    clock: Clock, shape: DenseShape, batch_size: int, precision: Precision, threads: int, part: float
) -> DenseRate:
    """The dense part of a sample in batches of this size."""
    store = _native.RowStore(threads=threads)
    for dim in shape.table_dims:
        store.add_dram_band(store.add_table(1, dim), np.zeros((1, dim), np.float32), None)
    engine = random_engine(store, shape, precision)
    run = batches_of(engine, shape, [np.zeros(0, np.int64)], np.zeros(len(shape.table_dims) * batch_size + 1))
    seconds, spread = clock.time(f"dense part in {precision}, {batch_size} samples", part, run)
    return DenseRate(
        precision=precision,
        samples=max(1, round(batch_size / threads)),
        flops=shape.flops,
        ns=threads * 1e9 * seconds / batch_size,
        spread=spread,
    )


def random_engine(
    store: _native.RowStore, shape: DenseShape, precision: Precision = "fp32"
) -> _native.Engine:
    """An engine of this shape over a store's tables; activations neither die nor grow in its layers."""
    random = np.random.default_rng(0)

    def layer(outputs: int, inputs: int) -> tuple[np.ndarray, np.ndarray, str, np.ndarray | None]:
        weight = random.standard_normal((outputs, inputs), dtype=np.float32) * np.float32((2 / inputs) ** 0.5)
        chosen = layer_precision(precision, outputs, inputs)
        span = np.array([[-4.0], [4.0]], np.float32).repeat(inputs, axis=1) if chosen == "int8" else None
        return weight, np.zeros(outputs, np.float32), chosen, span

    layers: dict[str, Any] = {mlp: [layer(*one) for one in shape.layers[mlp]] for mlp in shape.layers}
    if not shape.num_dense:
        layers["bottom"] = []
    return _native.Engine(
        store, shape.num_dense, shape.embedding_dim, layers["bottom"], layers["top"], shape.interaction
    )


def batches_of(
    engine: _native.Engine,
    shape: DenseShape,
    ids: Sequence[np.ndarray],
    offsets: np.ndarray,
    batches: int = 1,
) -> Callable[[], None]:
    """A call that predicts a stream of batches, as ``screc.serving.Engine.predict_stream`` does.

    Args:
        engine: the engine.
        shape: its model's.
        ids: of the batches, taken in turn from call to call.
        offsets: of every batch, table-major.
        batches: in a call.
    """
    offsets = offsets.astype(np.int64)
    size = (len(offsets) - 1) // len(shape.table_dims)
    dense = np.random.default_rng(0).standard_normal((size, shape.num_dense), dtype=np.float32)
    outs = [np.empty(size, np.float32) for _ in range(2)]
    turn = 0

    def run() -> None:
        nonlocal turn
        pending = None
        for number in range(batches):
            turn += 1
            one = _native.Submitted(engine, dense, ids[turn % len(ids)], offsets, outs[number % 2])
            if pending is not None:
                pending.collect()
            pending = one
        pending.collect()

    return run
