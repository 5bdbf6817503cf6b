"""Deep & Cross Network: explicit crosses of all inputs beside a network (Wang et al., arXiv 1708.05123)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from screc.embeddings import EmbeddingCollection, Method
from screc.models.click_model import ClickModel, config_fields, draw_layers, mlp


@dataclass(frozen=True, slots=True, kw_only=True)
class DcnConfig:
    """Everything of a Deep & Cross Network but its tables.

    Attributes:
        num_dense: number of dense features; 0 for none.
        embedding_dim: d, of every table.
        num_crosses: cross layers.
        deep_mlp: output widths of the deep part's layers.
    """

    num_dense: int
    embedding_dim: int = 16
    num_crosses: int = 3
    deep_mlp: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        object.__setattr__(self, "deep_mlp", tuple(self.deep_mlp))
        if min(self.num_dense, self.num_crosses) < 0 or self.embedding_dim < 1:
            raise ValueError(
                f"num_dense and num_crosses must be at least 0 and embedding_dim at least 1, got "
                f"{self.num_dense}, {self.num_crosses} and {self.embedding_dim}"
            )
        if not self.deep_mlp or any(width < 1 for width in self.deep_mlp):
            raise ValueError(f"deep_mlp: widths must be positive and not empty, got {list(self.deep_mlp)}")

    def to_dict(self) -> dict[str, Any]:
        """The ``model`` entry of a checkpoint."""
        return {
            "name": Dcn.name,
            "num_dense": self.num_dense,
            "embedding_dim": self.embedding_dim,
            "num_crosses": self.num_crosses,
            "deep_mlp": list(self.deep_mlp),
        }

    @classmethod
    def from_dict(cls, model: Mapping[str, Any]) -> DcnConfig:
        """The inverse of :meth:`to_dict`."""
        return cls(**config_fields(Dcn.name, model, cls.__dataclass_fields__))


class Dcn(ClickModel):
    """``x' = x0 (x . w) + b + x``, layer after layer, beside a network; a last layer joins them (section 2).

    Args:
        config: widths.
        tables: the embedding tables, all of ``config.embedding_dim``.
        generator: source of the random numbers of the weights.
    """

    name = "dcn"

    def __init__(
        self,
        config: DcnConfig,
        tables: EmbeddingCollection | Method,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, tables)
        inputs = config.num_dense + tables.num_tables * config.embedding_dim
        self.cross_weights = nn.Parameter(torch.empty(config.num_crosses, inputs))
        self.cross_biases = nn.Parameter(torch.empty(config.num_crosses, inputs))
        self.deep = mlp((inputs, *config.deep_mlp))
        self.top = nn.utils.skip_init(nn.Linear, inputs + config.deep_mlp[-1], 1)
        self.start_anew(generator)

    def start_anew(self, generator: torch.Generator | None = None) -> None:
        draw_layers([*self.deep, self.top], generator)
        with torch.no_grad():
            self.cross_weights.normal_(0.0, math.sqrt(1 / self.cross_weights.shape[1]), generator=generator)
            self.cross_biases.zero_()

    def forward(self, dense: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        inputs = torch.cat([dense, self.tables(ids, offsets).flatten(1)], dim=1)
        crossed, hidden = inputs, inputs
        for weight, bias in zip(self.cross_weights, self.cross_biases, strict=True):
            crossed = inputs * (crossed @ weight)[:, None] + bias + crossed
        for layer in self.deep:
            hidden = torch.relu(layer(hidden))
        return self.top(torch.cat([crossed, hidden], dim=1))[:, 0]
