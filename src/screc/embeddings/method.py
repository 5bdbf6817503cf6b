"""The contract of a compression method: all tables of a model together, within one memory budget.

Every method, whatever its paper, is built from table sizes, a dimension and a budget, looks bags up as
:class:`torch.nn.EmbeddingBag` does, says what it takes in bytes, and is driven by the same hooks of the same
training loop.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.bags import check_bags, check_offsets, pool_bags
from screc.embeddings.budget import full_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCount:
    """Bytes by kind.

    Attributes:
        parameters: rows, cores, networks, scales: what is learned and used by look-ups.
        remap: where an id's row is: indices, pointers, masks.
        codes: discrete codes of the ids.
        sketch: counters and scores that decide who gets a row.
    """

    parameters: int = 0
    remap: int = 0
    codes: int = 0
    sketch: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.remap + self.codes + self.sketch


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a method takes, without optimiser state: while it is trained, and once it is served."""

    training: ByteCount
    serving: ByteCount


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a training run.

    Attributes:
        name: passed to :meth:`Method.begin`.
        share: of the run's steps.
        fresh: the model's other weights and all optimisers start anew (the retraining after a search).
        searches: steps of :meth:`Method.architecture_parameters` on validation batches take turns with those
            of the weights.
    """

    name: str
    share: float = 1.0
    fresh: bool = False
    searches: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Distinct rows that a batch wants, in ascending order of (table, id).

    Attributes:
        ids: int64 [n], each within its table.
        tables: int64 [n], numbers of the tables.
        bounds: T + 1 places; rows ``bounds[t]`` to ``bounds[t + 1]`` are of table t.
        lookups: int64 [n], how often the batch looks each up.
    """

    ids: Tensor
    tables: Tensor
    bounds: tuple[int, ...]
    lookups: Tensor

    def of(self, table: int) -> Tensor:
        """The ids of one table."""
        return self.ids[self.bounds[table] : self.bounds[table + 1]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Brief:
    """What is asked of a method.

    Attributes:
        specs: the tables.
        embedding_dim: length of a row.
        budget: bytes of the served form.
        counts: look-ups of each id in training, int64 [num_embeddings] a table, for methods that need them.
        init_std: standard deviation of the entries of every row at the start.
        generator: source of all random numbers, on the CPU.
    """

    specs: tuple[TableSpec, ...]
    embedding_dim: int
    budget: int
    counts: tuple[np.ndarray, ...] | None = None
    init_std: float = 0.05
    generator: torch.Generator

    @property
    def sizes(self) -> list[int]:
        """Rows of each table."""
        return [spec.num_embeddings for spec in self.specs]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in float32."""
        return 4 * self.embedding_dim

    def salt(self) -> int:
        """A random salt for a hash."""
        return int(torch.randint(1 << 31, (1,), generator=self.generator))

    def known_counts(self, method: str) -> tuple[np.ndarray, ...]:
        """The counts.

        Raises:
            ValueError: there are none; names the method that needs them.
        """
        if self.counts is None:
            raise ValueError(f"counts: {method} needs the look-ups of each id; profile the training log")
        return self.counts


class Method(nn.Module, ABC):
    """T tables of one dimension, compressed together.

    Subclasses set ``name`` and implement :meth:`fit`, :meth:`rows` and :meth:`footprint`; the hooks and
    stages only where they need them. All that the seed or training decides is part of the state dict: salts,
    codes, sketches are buffers. Parameters whose gradients are sparse in rows are listed by
    :meth:`sparse_parameters`; look-ups in them go through :meth:`gather`.

    Attributes:
        specs: the tables.
        embedding_dim: length of a row.
        sparse: whether :meth:`gather` gives sparse gradients (for our optimisers of rows) or dense ones (for
            any optimiser).
        progress: how much of the training run is done, 0 to 1, as the loop tells.
    """

    name: ClassVar[str]
    #: Whether the budget holds while training too, or only once the model is served.
    trains_within_budget: ClassVar[bool] = True
    stages: ClassVar[tuple[Stage, ...]] = (Stage(name="train"),)

    def __init__(self, specs: Sequence[TableSpec], embedding_dim: int) -> None:
        super().__init__()
        if not specs:
            raise ValueError("specs: expected at least one table, got none")
        for spec in specs:
            if spec.num_embeddings < 1:
                raise ValueError(
                    f"table {spec.name}: num_embeddings must be at least 1, got {spec.num_embeddings}"
                )
            if spec.pooling not in ("sum", "mean"):
                raise ValueError(f"table {spec.name}: pooling must be 'sum' or 'mean', got {spec.pooling!r}")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {embedding_dim}")
        self.specs = tuple(specs)
        self.embedding_dim = embedding_dim
        self.sparse = True
        self.progress = 0.0
        sizes = torch.tensor([spec.num_embeddings for spec in specs])
        starts = torch.zeros(len(specs) + 1, dtype=torch.int64)
        torch.cumsum(sizes, 0, out=starts[1:])
        self.register_buffer("_starts", starts, persistent=False)
        self.register_buffer("_sizes", sizes, persistent=False)
        mean = torch.tensor([spec.pooling == "mean" for spec in specs])
        self.register_buffer("_mean", mean, persistent=False)

    # ---- what a method is

    @classmethod
    @abstractmethod
    def fit(cls, brief: Brief, **options: Any) -> Method:
        """The largest of this method whose served form keeps the budget.

        Args:
            brief: tables, budget and seed.
            options: the method's own.

        Raises:
            BudgetError: it cannot be that small; names the smallest budget that works.
            TypeError, ValueError: an option, or counts that are missing where the method needs them.
        """

    @abstractmethod
    def rows(self, wanted: Wanted) -> Tensor:
        """The rows [n, d] of what is wanted, differentiable in the parameters."""

    @abstractmethod
    def footprint(self) -> Footprint:
        """What it takes now."""

    # ---- hooks of the training loop

    def begin(self, stage: Stage) -> None:
        """Called before the first step of every stage."""

    def extra_loss(self) -> Tensor | None:
        """A term added to the loss of the batch that was just looked up."""
        return None

    def after_backward(self) -> None:
        """Called when gradients are there and no optimiser has used them yet."""

    def after_step(self) -> None:
        """Called when all optimisers have made their step."""

    def finish(self) -> None:
        """Called after the last step: makes the form that is served, which look-ups use from then on."""

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Parameters for the optimiser of rows."""
        return []

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Parameters that searching stages train on validation batches."""
        return []

    def dense_parameters(self) -> list[nn.Parameter]:
        """All other parameters, for the optimiser of the MLPs."""
        apart = {id(p) for p in (*self.sparse_parameters(), *self.architecture_parameters())}
        return [p for p in self.parameters() if id(p) not in apart]

    # ---- what all methods share

    @property
    def num_tables(self) -> int:
        """T."""
        return len(self.specs)

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """Rows of each table."""
        return tuple(spec.num_embeddings for spec in self.specs)

    @property
    def ratio(self) -> float:
        """Bytes of all rows in float32 / bytes of the served form."""
        return full_bytes(self.specs, self.embedding_dim) / self.footprint().serving.total

    def gather(self, weight: Tensor, places: Tensor) -> Tensor:
        """``weight[places]`` [n, d]; the gradient is sparse or dense as ``self.sparse`` says."""
        return nn.functional.embedding(places, weight, sparse=self.sparse and weight.requires_grad)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Pooled rows of every sample and table.

        Args:
            ids: int64 [nnz], table by table.
            offsets: int64 [T * B + 1], table-major (:class:`screc.data.batch.Batch`).

        Returns:
            float32 [B, T, d]; zeros for an empty bag.

        Raises:
            TypeError: ``ids`` or ``offsets`` is not int64.
            ValueError: a wrong shape, offset or id.
        """
        check_offsets(ids, offsets)
        size, rest = divmod(offsets.numel() - 1, self.num_tables)
        if rest:
            raise ValueError(
                f"offsets: expected a multiple of {self.num_tables} tables + 1 entries, got {offsets.numel()}"
            )
        bounds = offsets[::size] if size else offsets.expand(self.num_tables + 1)
        counts = bounds.diff()
        self._check_ids(ids, counts)
        whole = ids + torch.repeat_interleave(self._starts[:-1], counts)
        # Rows are float32 also where the layers around them multiply in bfloat16.
        with torch.autocast(ids.device.type, enabled=False):
            rows, inverse = self._distinct(whole)
        features = pool_bags(rows, inverse, offsets).view(self.num_tables, size, self.embedding_dim)
        if bool(self._mean.any()):
            lengths = offsets.diff().view(self.num_tables, size)
            features = features / torch.where(self._mean[:, None], lengths.clamp(min=1), 1)[:, :, None]
        return features.transpose(0, 1)

    def bags(
        self,
        table: int,
        ids: Tensor,
        offsets: Tensor,
        *,
        weights: Tensor | None = None,
        pooling: Literal["sum", "mean"] | None = None,
    ) -> Tensor:
        """Pooled rows of one table's bags, with the semantics of :class:`torch.nn.EmbeddingBag`.

        Args:
            table: its number.
            ids: int64 [nnz].
            offsets: int64 [B + 1].
            weights: float32 [nnz], a factor for every look-up (sums only).
            pooling: the table's own where it is None.

        Returns:
            float32 [B, d].
        """
        check_bags(ids, offsets, self.specs[table].num_embeddings)
        mean = (pooling or self.specs[table].pooling) == "mean"
        rows, inverse = self._distinct(ids + self._starts[table])
        if weights is None:
            return pool_bags(rows, inverse, offsets, mean=mean)
        if mean:
            raise ValueError("weights: only sums can be weighted, this table's pooling is 'mean'")
        if weights.shape != ids.shape:
            raise ValueError(f"weights: expected shape {list(ids.shape)}, got {list(weights.shape)}")
        every = torch.arange(ids.numel(), device=ids.device)
        return pool_bags(rows.index_select(0, inverse) * weights[:, None], every, offsets)

    def every_row(self, table: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows [start, stop) of a table, [n, d]."""
        stop = self.specs[table].num_embeddings if stop is None else stop
        ids = torch.arange(start, stop, device=self._starts.device)
        return self._distinct(ids + self._starts[table])[0]

    def _distinct(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the distinct numbers over all tables, and which of them each entry is."""
        distinct, inverse, lookups = torch.unique(whole, return_inverse=True, return_counts=True)
        tables = torch.bucketize(distinct, self._starts[1:], right=True)
        bounds = torch.searchsorted(distinct, self._starts).tolist()
        wanted = Wanted(distinct - self._starts[tables], tables, tuple(bounds), lookups)
        return self.rows(wanted), inverse

    def _check_ids(self, ids: Tensor, counts: Tensor) -> None:
        wrong = (ids < 0) | (ids >= torch.repeat_interleave(self._sizes, counts))
        if wrong.any():
            where = int(wrong.nonzero()[0])
            table = int((counts.cumsum(0) <= where).sum())
            spec = self.specs[table]
            raise ValueError(
                f"ids[{where}] = {int(ids[where])} is out of range for table {table} ({spec.name}) with "
                f"{spec.num_embeddings} rows"
            )


METHODS: dict[str, type[Method]] = {}
_M = TypeVar("_M", bound=type[Method])


def register(method: _M) -> _M:
    """Class decorator: makes a method known by its ``name``.

    Raises:
        ValueError: another class has the name.
    """
    known = METHODS.setdefault(method.name, method)
    if known is not method:
        raise ValueError(
            f"method {method.name!r} is registered already, by {known.__module__}.{known.__name__}"
        )
    return method


def make_method(
    name: str,
    specs: Sequence[TableSpec],
    embedding_dim: int,
    *,
    budget: int | None = None,
    ratio: float | None = None,
    counts: Sequence[np.ndarray] | None = None,
    seed: int = 0,
    init_std: float = 0.05,
    **options: Any,
) -> Method:
    """A method by name, as large as a budget allows.

    Args:
        name: one of ``METHODS``.
        specs, embedding_dim, counts, init_std: see :class:`Brief`.
        options: the method's own.
        budget: bytes of the served form.
        ratio: the same as a fraction of all rows in float32: 100 means a hundredth. Give one of the two.
        seed: of all random numbers.

    Raises:
        KeyError: there is no such method; names those there are.
        BudgetError, ValueError: as :meth:`Method.fit`.
    """
    if name not in METHODS:
        raise KeyError(f"method: unknown {name!r}; there are {', '.join(sorted(METHODS))}")
    if (budget is None) == (ratio is None):
        raise ValueError("give either budget or ratio")
    if budget is None:
        assert ratio is not None
        if not ratio > 0:
            raise ValueError(f"ratio must be positive, got {ratio}; 100 is a hundredth of all rows")
        budget = int(full_bytes(specs, embedding_dim) / ratio)
    if counts is not None:
        _check_counts(specs, counts)
    brief = Brief(
        specs=tuple(specs),
        embedding_dim=embedding_dim,
        budget=budget,
        counts=None if counts is None else tuple(counts),
        init_std=init_std,
        generator=torch.Generator().manual_seed(seed),
    )
    return METHODS[name].fit(brief, **options)


def _check_counts(specs: Sequence[TableSpec], counts: Sequence[np.ndarray]) -> None:
    if len(counts) != len(specs):
        raise ValueError(f"counts: expected {len(specs)} arrays, one per table, got {len(counts)}")
    for spec, array in zip(specs, counts, strict=True):
        if array.shape != (spec.num_embeddings,):
            raise ValueError(
                f"counts: table {spec.name} has {spec.num_embeddings} rows, its counts shape "
                f"{list(array.shape)}"
            )


def normal_rows(count: int, dim: int, std: float, generator: torch.Generator | None) -> nn.Parameter:
    """Rows drawn from N(0, std^2), [count, dim]."""
    return nn.Parameter(torch.empty(count, dim).normal_(0.0, std, generator=generator))
