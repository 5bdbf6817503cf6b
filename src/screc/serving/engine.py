"""The engine: predictions of a DLRM whose tables live in a row store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from screc import _native
from screc.data.batch import Batch
from screc.data.log import TableSpec
from screc.serving.arithmetic import Arithmetic, stored_arithmetic
from screc.serving.calibration import arithmetic_of, calibrate
from screc.storage import Artifact, RowStore
from screc.storage.artifact import load_artifact
from screc.storage.dense_precision import Precision, check_precision
from screc.storage.mapping import DataFlow, TableCores, set_mapping
from screc.storage.row_format import RowFormat, row_bytes
from screc.storage.row_store import CachePolicy

_POOLINGS = ("sum", "mean")
_MODEL_FIELDS = ("num_dense", "embedding_dim", "bottom_mlp", "top_mlp", "interaction")


class Roles(NamedTuple):
    """Threads that look rows up and threads that run the dense part: the memory-centric and compute-centric
    cores of SCRec (arXiv 2504.00520). 0 and 0, "mixed": every thread does both in turn."""

    memory: int = 0
    compute: int = 0

    def __str__(self) -> str:
        return f"{self.memory}+{self.compute}" if self.memory else "mixed"


class Engine:
    """Runs a DLRM (arXiv 1906.00091) on this machine's cores, its dense layers in float32, bfloat16 or int8.

    Build one with :meth:`open` from an artifact, or with :meth:`from_arrays`. Safe to share between threads:
    calls take turns, and each uses all of the engine's threads.

    Attributes:
        tables: name, rows and pooling of every table, in the order of a batch's.
        num_dense: dense features of a sample.
        assets: the artifact's files for reading input (the feature encoder); None without an artifact.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        dense: Mapping[str, np.ndarray],
        store: _native.RowStore,
        tables: Sequence[TableSpec],
        *,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        """Join a model's dense weights to a native row store.

        Args:
            model: the model dict of checkpoints and artifacts: ``name`` "dlrm", ``num_dense``,
                ``embedding_dim``, ``bottom_mlp``, ``top_mlp``, ``interaction``.
            dense: float32 tensors ``bottom.{i}.weight`` [out, in] and ``bottom.{i}.bias`` [out], and likewise
                ``top``.
            store: the tables, in the model's order.
            tables: what the store holds, in the same order.
            arithmetic: what each dense layer multiplies in; float32 by default.

        Raises:
            ValueError: a tensor is missing or its shape does not fit the model; the message names it.
        """
        if model.get("name") != "dlrm":
            raise ValueError(f"model name {model.get('name')!r} is not served here; use 'dlrm'")
        for field in _MODEL_FIELDS:
            if field not in model:
                raise ValueError(f"model: field {field} is missing; a DLRM has {', '.join(_MODEL_FIELDS)}")
        self._model, self._dense, self._store = model, dense, store
        self._arithmetic = Arithmetic() if arithmetic is None else arithmetic
        self.tables = tuple(tables)
        self.num_dense: int = model["num_dense"]
        self.assets: Path | None = None
        self._native = _native.Engine(
            store,
            model["num_dense"],
            model["embedding_dim"],
            _layers("bottom", model["bottom_mlp"], dense, self._arithmetic),
            _layers("top", model["top_mlp"], dense, self._arithmetic),
            model["interaction"],
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        threads: int = 0,
        io: str = "auto",
        queue_depth: int = 256,
        cache_bytes: int | None = None,
        cache_policy: CachePolicy | None = None,
        strategies: str | Mapping[str, str] = "gather",
    ) -> Engine:
        """Open an artifact for serving, in the precision that it was packed for.

        Args:
            path: the artifact's directory.
            threads: threads that share each call, the caller included; 0 means one per available core, parted
                into roles, and given tables, as the artifact's plan says.
            io: how SSD bands are read, "auto" or a back end that ``screc.storage.RowStore.open`` accepts.
            queue_depth: reads in flight at once.
            cache_bytes: DRAM for a cache of rows that stand on SSD; None takes what the artifact's plan keeps
                for it (0 without a plan).
            cache_policy: which rows stay in it, as ``screc.storage.RowStore.open`` takes it; None takes the
                plan's ("sketch" without a plan).
            strategies: how rows of small tables are fetched, as ``screc.storage.RowStore.open`` takes it.

        Raises:
            FileNotFoundError: there is no artifact at ``path``.
            ValueError: the artifact is damaged (the message names the file) or is not a DLRM.
            OSError: a page file is damaged or cannot be opened, or ``io`` is refused here.
        """

        def load(artifact: Artifact) -> Engine:
            plan = artifact.plan or {}
            options = plan.get("options", {})
            store = RowStore.open(
                artifact,
                io=io,
                queue_depth=queue_depth,
                threads=threads,
                cache_bytes=options.get("row_cache_bytes", 0) if cache_bytes is None else cache_bytes,
                cache_policy=cache_policy or options.get("row_cache_policy", "sketch"),
                strategies=strategies,
            )
            tables = [
                TableSpec(table.layout.table, table.layout.num_embeddings, table.pooling)
                for table in artifact.tables
            ]
            arithmetic = stored_arithmetic(artifact.precision, artifact.ranges())
            engine = cls(artifact.model, artifact.dense(), store.native, tables, arithmetic=arithmetic)
            engine.assets = artifact.assets
            roles = _planned_roles(plan)
            if roles is not None and threads == 0:
                engine.roles = roles
            mapping = _planned_mapping(plan, engine.num_threads)
            if mapping and threads == 0:
                engine.set_mapping(mapping)
            return engine

        return load_artifact(path, load)

    @classmethod
    def from_arrays(
        cls,
        model: Mapping[str, Any],
        dense: Mapping[str, np.ndarray],
        tables: Sequence[np.ndarray],
        *,
        poolings: Sequence[str] | None = None,
        row_format: RowFormat = "fp32",
        precision: Precision = "fp32",
        calibration: Batch | None = None,
        threads: int = 0,
    ) -> Engine:
        """An engine over tables in memory, without an artifact.

        Args:
            model: as in the constructor.
            dense: as in the constructor.
            tables: float32 [num_embeddings, embedding_dim] each, C-contiguous; used in place, not copied,
                where ``row_format`` is fp32.
            poolings: "sum" or "mean" for each table; all "sum" by default.
            row_format: what the rows are held in; int8 and int4 rows each have a scale of their own.
            precision: of the dense layers that gain by it. Its accuracy is not checked here, as it is when an
                artifact is packed.
            calibration: for int8, a few thousand samples like those to come.
            threads: as in :meth:`open`.

        Raises:
            ValueError: a shape, pooling or tensor does not fit; the message names it.
        """
        chosen = ["sum"] * len(tables) if poolings is None else list(poolings)
        if len(chosen) != len(tables):
            raise ValueError(f"poolings has {len(chosen)} entries for {len(tables)} tables")
        store = _native.RowStore(threads=threads)
        specs = []
        for number, (rows, pooling) in enumerate(zip(tables, chosen, strict=True)):
            if rows.ndim != 2:
                raise ValueError(f"tables[{number}]: expected 2 dimensions, got shape {list(rows.shape)}")
            if pooling not in _POOLINGS:
                raise ValueError(f"poolings[{number}]: expected 'sum' or 'mean', got {pooling!r}")
            table = store.add_table(rows.shape[0], rows.shape[1], pooling == "mean")
            held = rows if row_format == "fp32" else _held_as(rows, row_format, number)
            store.add_dram_band(table, held, None, format=row_format)
            specs.append(TableSpec(str(number), rows.shape[0], pooling))
        check_precision("precision", precision)
        engine = cls(model, dense, store, specs)
        if precision == "fp32":
            return engine
        if precision == "bf16":
            return engine.with_arithmetic(arithmetic_of(engine, precision, {}))
        if calibration is None:
            raise ValueError("calibration: int8 needs samples to take the ranges of its layers' inputs from")
        return engine.with_arithmetic(arithmetic_of(engine, precision, calibrate(engine, [calibration])))

    def with_arithmetic(self, arithmetic: Arithmetic) -> Engine:
        """The same model over the same rows, its dense layers in another arithmetic.

        Raises:
            ValueError: a range does not fit its layer; the message names it.
        """
        engine = Engine(self._model, self._dense, self._store, self.tables, arithmetic=arithmetic)
        engine.assets = self.assets
        return engine

    def predict(self, batch: Batch) -> np.ndarray:
        """Probability of each sample, float32 [B].

        A sample's probability does not depend on the batch it is part of.

        Raises:
            TypeError: an array of the batch has the wrong dtype.
            ValueError: a shape, an offset, an id or a dense value is wrong; the message names it.
        """
        out = np.empty(batch.dense.shape[0], dtype=np.float32)
        self._native.predict(batch.dense, batch.ids, batch.offsets, out)
        return out

    def predict_stream(
        self, batches: Iterable[Batch], *, ahead: int = 1
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batch after batch with its probabilities, float32 [B], in order.

        The look-ups of the next ``ahead`` batches, SSD reads above all, go on while one is computed. Batches
        must not change before their probabilities are there.

        Raises:
            as :meth:`predict`, when the batch in question is reached; those before it have been given.
        """
        if not 1 <= ahead <= 4:
            raise ValueError(f"ahead must be from 1 to 4 batches, got {ahead}")
        pending: deque[tuple[_native.Submitted, Batch, np.ndarray]] = deque()
        for batch in batches:
            out = np.empty(batch.dense.shape[0], dtype=np.float32)
            submitted = _native.Submitted(self._native, batch.dense, batch.ids, batch.offsets, out)
            pending.append((submitted, batch, out))
            if len(pending) > ahead:
                yield _collected(*pending.popleft())
        while pending:
            yield _collected(*pending.popleft())

    def replay(self, batches: Sequence[Batch], arrivals: np.ndarray, *, clients: int = 4) -> np.ndarray:
        """How long requests at given times take when native threads send them, seconds, float64 [R].

        Request i is ``batches[i % len(batches)]`` and is due ``arrivals[i]`` seconds after the start.
        Whichever client is free takes the next; one that comes while all are busy waits, and latencies count
        from when requests were due. Predictions are not kept. Returns when all are answered, whatever signal
        comes.

        Args:
            batches: the requests, taken in turn.
            arrivals: float64 [R], seconds, not decreasing. All 0: every client sends its next request at
                once, so that ``R / latencies.max()`` is the peak rate.
            clients: threads that send, from 1 to 256. They look out awake for what is due soon.

        Raises:
            TypeError, ValueError: as :meth:`predict` for a batch, which the message names by its number; or
                there is no batch, or ``arrivals`` or ``clients`` is out of range.
        """
        latencies = np.empty(len(arrivals), dtype=np.float64)
        arrays = [(batch.dense, batch.ids, batch.offsets) for batch in batches]
        self._native.replay(arrays, arrivals, clients, latencies)
        return latencies

    def batcher(
        self, *, max_batch: int, split: int, queue_delay: float, max_queued: int, workers: int
    ) -> _native.Batcher:
        """A batcher of queries over this engine: ``screc.serving.batching`` is its face.

        Args:
            max_batch, split, max_queued: samples; see ``screc.serving.batching.BatchingConfig``.
            queue_delay: seconds.
            workers: batches at work at a time; 0: one for each thread.

        Raises:
            ValueError: an option is out of range; the message names it.
        """
        return _native.Batcher(
            self._native,
            max_batch=max_batch,
            split=split,
            queue_delay=queue_delay,
            max_queued=max_queued,
            workers=workers,
        )

    @property
    def roles(self) -> Roles:
        """Which threads do what; setting it takes effect at once.

        Raises:
            ValueError: set to one positive and one zero number of threads.
            RuntimeError: set while a :meth:`predict_stream` is under way.
        """
        return Roles(*self._native.roles)

    @roles.setter
    def roles(self, roles: tuple[int, int]) -> None:
        self._native.set_roles(*roles)

    def choose_roles(self, batches: Sequence[Batch], *, rounds: int = 5) -> dict[Roles, float]:
        """Measures every way to part the threads into memory and compute on ``batches``, keeps the fastest.

        Returns:
            Seconds for all batches by roles, the least over the rounds.
        """
        threads = self.num_threads
        ways = [Roles(), *(Roles(memory, threads - memory) for memory in range(1, threads))]
        seconds = dict.fromkeys(ways, float("inf"))
        for _ in range(rounds):
            for roles in seconds:
                self.roles = roles
                begin = time.perf_counter()
                for _ in self.predict_stream(batches):
                    pass
                seconds[roles] = min(seconds[roles], time.perf_counter() - begin)
        self.roles = min(seconds, key=seconds.__getitem__)
        return seconds

    @property
    def data_flow(self) -> DataFlow:
        """Which threads look what up: each a part of the samples in all tables, or, "asymmetric", all samples
        in the tables that :meth:`set_mapping` gave its core. Setting it takes effect at once; predictions are
        the same.

        Raises:
            ValueError: set to something else.
            RuntimeError: set to "asymmetric" without a mapping, or while a :meth:`predict_stream` is under
                way.
        """
        return self._native.data_flow

    @data_flow.setter
    def data_flow(self, flow: DataFlow) -> None:
        self._native.data_flow = flow

    def set_mapping(self, mapping: Sequence[TableCores]) -> None:
        """Give tables to cores, and look up in the asymmetric data flow from now on; an empty mapping: in the
        symmetric one.

        The mapping is the row store's: engines over the same rows (:meth:`with_arithmetic`) share it.

        Raises:
            KeyError, ValueError: as ``screc.storage.RowStore.set_mapping``.
            RuntimeError: a :meth:`predict_stream` is under way.
        """
        self.data_flow = "symmetric"
        set_mapping(self._store, mapping, [table.name for table in self.tables])
        if mapping:
            self.data_flow = "asymmetric"

    def choose_data_flow(self, batches: Sequence[Batch], *, rounds: int = 5) -> dict[DataFlow, float]:
        """Measures both data flows on ``batches``, one after the other, and keeps the faster.

        Returns:
            Seconds for all batches by data flow, the least over the rounds.

        Raises:
            RuntimeError: as :attr:`data_flow`.
        """
        seconds: dict[DataFlow, float] = {"symmetric": float("inf"), "asymmetric": float("inf")}
        for _ in range(rounds):
            for flow in seconds:
                self.data_flow = flow
                begin = time.perf_counter()
                for batch in batches:
                    self.predict(batch)
                seconds[flow] = min(seconds[flow], time.perf_counter() - begin)
        self.data_flow = min(seconds, key=seconds.__getitem__)
        return seconds

    def layer_inputs(self, batch: Batch, layer: str) -> np.ndarray:
        """The inputs of one dense layer for every sample, float32 [B, inputs].

        Raises:
            TypeError, ValueError: as :meth:`predict`; or there is no such layer, or this engine is not all
                float32.
        """
        out = np.empty((batch.dense.shape[0], self.weight(layer).shape[1]), dtype=np.float32)
        self._native.layer_inputs(batch.dense, batch.ids, batch.offsets, self.layers.index(layer), out)
        return out

    def weight(self, layer: str) -> np.ndarray:
        """A dense layer's weight, float32 [outputs, inputs].

        Raises:
            ValueError: there is no such layer.
        """
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} is not one of {', '.join(self.layers)}")
        return self._dense[f"{layer}.weight"]

    @property
    def layers(self) -> tuple[str, ...]:
        """The dense layers in the order in which they are computed: "bottom.0", ..., "top.0", ..."""
        return tuple(
            f"{name}.{i}" for name in ("bottom", "top") for i in range(len(self._model[f"{name}_mlp"]))
        )

    @property
    def precisions(self) -> dict[str, Precision]:
        """What each dense layer multiplies in."""
        return {layer: self._arithmetic.layers.get(layer, "fp32") for layer in self.layers}

    @property
    def store(self) -> _native.RowStore:
        """The rows that it looks up, for gathering them beside predictions."""
        return self._store

    def stats(self) -> _native.StoreStats:
        """What the row store has done since it was opened: look-ups, where they were served, bytes read."""
        return self._store.stats()

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._native.isa

    @property
    def num_threads(self) -> int:
        """Threads that share each call, the caller included."""
        return self._native.num_threads


def _planned_roles(plan: Mapping[str, Any]) -> Roles | None:
    """The roles that a plan gives the threads, if it parts them."""
    if plan.get("version") == 1:
        roles = plan.get("options", {}).get("roles")
        return None if roles is None else Roles(*roles)
    assignment = plan.get("assignment", {})
    roles = Roles(assignment.get("memory", 0), assignment.get("compute", 0))
    return roles if roles.memory else None


def _planned_mapping(plan: Mapping[str, Any], cores: int) -> list[TableCores]:
    """Whose each table is by the plan; nothing where that is for more cores than there are."""
    mapping = [TableCores.model_validate(entry) for entry in plan.get("mapping") or ()]
    return mapping if all(core < cores for entry in mapping for core in entry.cores) else []


def _collected(submitted: _native.Submitted, batch: Batch, out: np.ndarray) -> tuple[Batch, np.ndarray]:
    submitted.collect()
    return batch, out


def _held_as(rows: np.ndarray, row_format: RowFormat, number: int) -> np.ndarray:
    """Rows in another format, uint8 [n, row_bytes] on huge pages."""
    size = row_bytes(row_format, rows.shape[1])
    held = _native.empty(len(rows) * size).reshape(len(rows), size)
    try:
        _native.encode_rows(rows, row_format, held)
    except ValueError as error:
        raise ValueError(f"tables[{number}]: {error}") from error
    return held


def _layers(
    name: str, widths: Sequence[int], dense: Mapping[str, np.ndarray], arithmetic: Arithmetic
) -> list[tuple[np.ndarray, np.ndarray, str, np.ndarray | None]]:
    """(weight, bias, precision, range) of one MLP's layers, once their number and widths are the model's."""
    layers = []
    for i, width in enumerate(widths):
        for tensor in (f"{name}.{i}.weight", f"{name}.{i}.bias"):
            if tensor not in dense:
                raise ValueError(f"dense tensor {tensor} is missing; {name}_mlp is {list(widths)}")
        weight, bias = dense[f"{name}.{i}.weight"], dense[f"{name}.{i}.bias"]
        if weight.shape[:1] != (width,):
            raise ValueError(
                f"{name}.{i}.weight has shape {list(weight.shape)}, {name}_mlp says {width} outputs"
            )
        precision = arithmetic.layers.get(f"{name}.{i}", "fp32")
        layers.append((weight, bias, precision, arithmetic.ranges.get(f"{name}.{i}")))
    return layers
