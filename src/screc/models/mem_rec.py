"""MEM-REC: one vector for all ids of a sample beside the dense features (arXiv 2305.07205)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from screc.embeddings import EmbeddingCollection, Method
from screc.models.click_model import ClickModel, config_fields, draw_layers, mlp


@dataclass(frozen=True, slots=True, kw_only=True)
class MemRecConfig:
    """Everything of a MEM-REC model but its tables.

    Attributes:
        num_dense: number of dense features; 0 for none.
        embedding_dim: of the tables: a token's length and one more, its weight.
        bottom_mlp: output widths of the bottom MLP; empty if num_dense is 0.
        top_mlp: output widths of the top MLP; the last is 1, the logit.
    """

    num_dense: int
    embedding_dim: int = 17
    bottom_mlp: tuple[int, ...] = (512, 256, 64, 16)
    top_mlp: tuple[int, ...] = (512, 256, 1)

    def __post_init__(self) -> None:
        if self.num_dense < 0 or self.embedding_dim < 2:
            raise ValueError(
                f"num_dense must be at least 0 and embedding_dim at least 2 (a token and its weight), got "
                f"{self.num_dense} and {self.embedding_dim}"
            )
        for name in ("bottom_mlp", "top_mlp"):
            widths = tuple(getattr(self, name))
            object.__setattr__(self, name, widths)
            if any(width < 1 for width in widths):
                raise ValueError(f"{name}: widths must be positive, got {list(widths)}")
        if bool(self.num_dense) != bool(self.bottom_mlp):
            raise ValueError("bottom_mlp must be empty when num_dense is 0, and only then")
        if self.top_mlp[-1:] != (1,):
            raise ValueError(f"top_mlp must end with 1, the logit, got {list(self.top_mlp)}")

    def to_dict(self) -> dict[str, Any]:
        """The ``model`` entry of a checkpoint."""
        return {
            "name": MemRecModel.name,
            "num_dense": self.num_dense,
            "embedding_dim": self.embedding_dim,
            "bottom_mlp": list(self.bottom_mlp),
            "top_mlp": list(self.top_mlp),
        }

    @classmethod
    def from_dict(cls, model: Mapping[str, Any]) -> MemRecConfig:
        """The inverse of :meth:`to_dict`."""
        return cls(**config_fields(MemRecModel.name, model, cls.__dataclass_fields__))


class MemRecModel(ClickModel):
    """``z = (sum of tokens) (sum of weights)`` over all ids of a sample, then MLPs (section 3).

    Which table an id is of is told by its hash alone, and features do not interact in pairs. Made for the
    method ``mem-rec`` with ``pooled=True``; of other tables' rows the last number is taken for the weight.

    Args:
        config: widths.
        tables: the embedding tables, all of ``config.embedding_dim``.
        generator: source of the random numbers of the weights.
    """

    name = "mem_rec"

    def __init__(
        self,
        config: MemRecConfig,
        tables: EmbeddingCollection | Method,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, tables)
        self.bottom = mlp((config.num_dense, *config.bottom_mlp))
        from_dense = config.bottom_mlp[-1] if config.bottom_mlp else 0
        self.top = mlp((from_dense + config.embedding_dim - 1, *config.top_mlp))
        self.start_anew(generator)

    def start_anew(self, generator: torch.Generator | None = None) -> None:
        draw_layers([*self.bottom, *self.top], generator)

    def forward(self, dense: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        pooled = self.tables(ids, offsets).sum(dim=1)
        hidden = pooled[:, :-1] * pooled[:, -1:]
        if self.config.num_dense:
            bottom = dense
            for layer in self.bottom:
                bottom = torch.relu(layer(bottom))
            hidden = torch.cat([bottom, hidden], dim=1)
        for layer in self.top[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.top[-1](hidden)[:, 0]
