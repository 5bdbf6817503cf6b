"""Wide & Deep: a linear model beside a network (Cheng et al., arXiv 1606.07792)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from screc.embeddings import EmbeddingCollection, Method
from screc.models.click_model import ClickModel, config_fields, draw_layers, mlp


@dataclass(frozen=True, slots=True, kw_only=True)
class WideDeepConfig:
    """Everything of a Wide & Deep model but its tables.

    Attributes:
        num_dense: number of dense features; 0 for none.
        embedding_dim: d, of every table.
        deep_mlp: output widths of the deep part's hidden layers.
    """

    num_dense: int
    embedding_dim: int = 16
    deep_mlp: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        object.__setattr__(self, "deep_mlp", tuple(self.deep_mlp))
        if self.num_dense < 0 or self.embedding_dim < 1 or any(width < 1 for width in self.deep_mlp):
            raise ValueError(
                f"num_dense must be at least 0, embedding_dim and widths at least 1, got {self.num_dense}, "
                f"{self.embedding_dim} and {list(self.deep_mlp)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The ``model`` entry of a checkpoint."""
        return {
            "name": WideDeep.name,
            "num_dense": self.num_dense,
            "embedding_dim": self.embedding_dim,
            "deep_mlp": list(self.deep_mlp),
        }

    @classmethod
    def from_dict(cls, model: Mapping[str, Any]) -> WideDeepConfig:
        """The inverse of :meth:`to_dict`."""
        return cls(**config_fields(WideDeep.name, model, cls.__dataclass_fields__))


class WideDeep(ClickModel):
    """The sum of a linear model and of a network's logit.

    The linear part is of the dense features. One of the ids themselves would be a table of one number an id
    beside those that are compressed, larger than most of what methods make of them; benchmarks of compressed
    tables leave it out, and so does this.

    Args:
        config: widths.
        tables: the embedding tables, all of ``config.embedding_dim``.
        generator: source of the random numbers of the weights.
    """

    name = "wide_deep"

    def __init__(
        self,
        config: WideDeepConfig,
        tables: EmbeddingCollection | Method,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, tables)
        inputs = config.num_dense + tables.num_tables * config.embedding_dim
        self.wide = nn.utils.skip_init(nn.Linear, config.num_dense, 1) if config.num_dense else None
        self.deep = mlp((inputs, *config.deep_mlp, 1))
        self.start_anew(generator)

    def start_anew(self, generator: torch.Generator | None = None) -> None:
        draw_layers(([self.wide] if self.wide is not None else []) + list(self.deep), generator)

    def forward(self, dense: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        hidden = torch.cat([dense, self.tables(ids, offsets).flatten(1)], dim=1)
        for layer in self.deep[:-1]:
            hidden = torch.relu(layer(hidden))
        logits = self.deep[-1](hidden)[:, 0]
        return logits if self.wide is None else logits + self.wide(dense)[:, 0]
