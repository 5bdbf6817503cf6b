"""What every model of clicks is to training and to checkpoints: features and bags of ids in, a logit out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings import EmbeddingCollection, Method


class ClickConfig(Protocol):
    """Everything of a model but its tables, a frozen dataclass."""

    num_dense: int
    embedding_dim: int

    def to_dict(self) -> dict[str, Any]:
        """The ``model`` entry of a checkpoint (docs/format.md), with the model's ``name``."""
        ...

    @classmethod
    def from_dict(cls, model: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`."""
        ...


class ClickModel(nn.Module, ABC):
    """Embedding tables and the layers around them.

    Attributes:
        config: widths.
        tables: the embedding tables, as planned or compressed by a method.
    """

    name: ClassVar[str]

    def __init__(self, config: ClickConfig, tables: EmbeddingCollection | Method) -> None:
        super().__init__()
        if tables.embedding_dim != config.embedding_dim:
            raise ValueError(
                f"embedding_dim is {config.embedding_dim} in the configuration, "
                f"{tables.embedding_dim} in the tables"
            )
        self.config = config
        self.tables = tables

    @abstractmethod
    def forward(self, dense: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        """Logits of a click.

        Args:
            dense: float32 [B, num_dense].
            ids: int64 [nnz], table by table.
            offsets: int64 [T * B + 1], table-major.

        Returns:
            float32 [B].
        """

    @abstractmethod
    def start_anew(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights outside the tables."""

    @property
    def table_specs(self) -> tuple[TableSpec, ...]:
        """Name, rows and pooling of every table, to compare with a log's."""
        return self.tables.specs

    def model_dict(self) -> dict[str, Any]:
        """The ``model`` entry of a checkpoint."""
        return self.config.to_dict()

    def dense_tensors(self) -> dict[str, Tensor]:
        """The weights outside the tables by name, e.g. ``bottom.0.weight`` [out, in]."""
        return {name: p for name, p in self.named_parameters() if not name.startswith("tables.")}

    def dense_parameters(self) -> list[nn.Parameter]:
        """Parameters with dense gradients: all outside the tables, and the tables' own such."""
        own = [p for name, p in self.named_parameters() if not name.startswith("tables.")]
        return [*own, *self.tables.dense_parameters()]

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Parameters with gradients that are sparse in rows."""
        return self.tables.sparse_parameters()


def config_fields(name: str, model: Mapping[str, Any], expected: Iterable[str]) -> dict[str, Any]:
    """The fields of a checkpoint's ``model`` entry of that name.

    Raises:
        ValueError: it is of another model, or has other fields.
    """
    fields = dict(model)
    found = fields.pop("name", None)
    if found != name:
        raise ValueError(f"model: expected the name {name!r}, got {found!r}")
    if set(fields) != set(expected):
        raise ValueError(f"model: expected the fields {sorted(expected)}, got {sorted(fields)}")
    return fields


def mlp(widths: Sequence[int]) -> nn.ModuleList:
    """Linear layers between these widths, with no weights drawn yet."""
    return nn.ModuleList(nn.utils.skip_init(nn.Linear, *pair) for pair in pairwise(widths))


@torch.no_grad()
def draw_layers(layers: Iterable[nn.Linear], generator: torch.Generator | None) -> None:
    """Normal weights as the reference code of the DLRM paper draws them (facebookresearch/dlrm)."""
    for layer in layers:
        inputs, outputs = layer.in_features, layer.out_features
        layer.weight.normal_(0.0, math.sqrt(2 / (inputs + outputs)), generator=generator)
        layer.bias.normal_(0.0, math.sqrt(1 / outputs), generator=generator)
