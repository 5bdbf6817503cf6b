"""DLRM: a deep learning recommendation model (Naumov et al., arXiv 1906.00091)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from screc.data.log import TableSpec
from screc.embeddings import EmbeddingCollection, Method
from screc.models.click_model import ClickModel, config_fields, draw_layers, mlp
from screc.storage.layout import TableLayout

Interaction = Literal["dot", "cat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DlrmConfig:
    """Everything of a DLRM but its tables.

    Attributes:
        num_dense: number of dense features; 0 for none.
        embedding_dim: d, the length of every feature that interacts.
        bottom_mlp: output widths of the bottom MLP; the last is ``embedding_dim``. Empty if num_dense is 0.
        top_mlp: output widths of the top MLP; the last is 1, the logit.
        interaction: ``"dot"``, the inner products of all pairs of features beside the bottom output, or
            ``"cat"``, all features side by side.
    """

    num_dense: int
    embedding_dim: int = 16
    bottom_mlp: tuple[int, ...] = (512, 256, 64, 16)
    top_mlp: tuple[int, ...] = (512, 256, 1)
    interaction: Interaction = "dot"

    def __post_init__(self) -> None:
        if self.num_dense < 0 or self.embedding_dim < 1:
            raise ValueError(
                f"num_dense must be at least 0 and embedding_dim at least 1, "
                f"got {self.num_dense} and {self.embedding_dim}"
            )
        for name in ("bottom_mlp", "top_mlp"):
            widths = tuple(getattr(self, name))
            object.__setattr__(self, name, widths)
            if any(width < 1 for width in widths):
                raise ValueError(f"{name}: widths must be positive, got {list(widths)}")
        if self.num_dense == 0 and self.bottom_mlp:
            raise ValueError(f"bottom_mlp must be empty when num_dense is 0, got {list(self.bottom_mlp)}")
        if self.num_dense and self.bottom_mlp[-1:] != (self.embedding_dim,):
            raise ValueError(
                f"bottom_mlp must end with embedding_dim ({self.embedding_dim}), got {list(self.bottom_mlp)}"
            )
        if self.top_mlp[-1:] != (1,):
            raise ValueError(f"top_mlp must end with 1, the logit, got {list(self.top_mlp)}")
        if self.interaction not in ("dot", "cat"):
            raise ValueError(f"interaction must be 'dot' or 'cat', got {self.interaction!r}")

    def num_features(self, num_tables: int) -> int:
        """F: the tables and, if there is one, the bottom output."""
        return num_tables + bool(self.num_dense)

    def top_inputs(self, num_tables: int) -> int:
        """Width of the input of the top MLP."""
        features = self.num_features(num_tables)
        if self.interaction == "cat":
            return features * self.embedding_dim
        return features * (features - 1) // 2 + (self.embedding_dim if self.num_dense else 0)

    def to_dict(self) -> dict[str, Any]:
        """The ``model`` entry of a checkpoint (docs/format.md)."""
        return {
            "name": "dlrm",
            "num_dense": self.num_dense,
            "embedding_dim": self.embedding_dim,
            "bottom_mlp": list(self.bottom_mlp),
            "top_mlp": list(self.top_mlp),
            "interaction": self.interaction,
        }

    @classmethod
    def from_dict(cls, model: Mapping[str, Any]) -> DlrmConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: the entry is of another model or its fields are not those of a DLRM.
        """
        return cls(**config_fields("dlrm", model, cls.__dataclass_fields__))


class DLRM(ClickModel):
    """Dense features through a bottom MLP, ids through tables, their interaction through a top MLP.

    Args:
        config: widths and interaction.
        tables: the embedding tables, all of ``config.embedding_dim``: as planned, or compressed by a method.
        generator: source of the random numbers of the MLPs' initialisation.

    Raises:
        ValueError: the tables do not fit the configuration.
    """

    name = "dlrm"

    def __init__(
        self,
        config: DlrmConfig,
        tables: EmbeddingCollection | Method,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, tables)
        inputs = config.top_inputs(tables.num_tables)
        if inputs == 0:
            raise ValueError("a single table without dense features has no pair to interact; use 'cat'")
        self.bottom = mlp((config.num_dense, *config.bottom_mlp))
        self.top = mlp((inputs, *config.top_mlp))
        self.start_anew(generator)
        count = config.num_features(tables.num_tables)
        i, j = torch.tril_indices(count, count, offset=-1)
        self._pairs = i * count + j

    @classmethod
    def build(
        cls,
        config: DlrmConfig,
        specs: Sequence[TableSpec],
        *,
        layouts: Sequence[TableLayout] | None = None,
        band_ids: Mapping[int, Sequence[np.ndarray]] | None = None,
        seed: int = 0,
        init_std: float = 0.05,
    ) -> DLRM:
        """A new model for the tables of a click log.

        Args:
            config: widths and interaction.
            specs: name, rows and pooling of each table.
            layouts: how each table is trained; whole by default.
            band_ids: see :class:`EmbeddingCollection`.
            seed: the same seed gives the same weights.
            init_std: standard deviation of the entries of table rows at the start.

        Raises:
            ValueError: the layouts do not fit the tables or the configuration.
        """
        if layouts is None:
            layouts = [TableLayout.dense(s.name, s.num_embeddings, config.embedding_dim) for s in specs]
        if len(layouts) != len(specs):
            raise ValueError(f"layouts: expected {len(specs)}, one per table, got {len(layouts)}")
        for spec, layout in zip(specs, layouts, strict=True):
            if layout.num_embeddings != spec.num_embeddings:
                raise ValueError(
                    f"layouts: table {spec.name} has {spec.num_embeddings} rows, "
                    f"its layout {layout.num_embeddings}"
                )
        generator = torch.Generator().manual_seed(seed)
        tables = EmbeddingCollection(
            layouts, [s.pooling for s in specs], band_ids=band_ids, init_std=init_std, generator=generator
        )
        return cls(config, tables, generator=generator)

    def forward(self, dense: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
        features = self.tables(ids, offsets)
        if not self.config.num_dense:
            return self._top(self._interact(features))
        bottom = dense
        for layer in self.bottom:
            bottom = torch.relu(layer(bottom))
        interacted = self._interact(torch.cat([bottom[:, None, :], features], dim=1))
        if self.config.interaction == "dot":
            interacted = torch.cat([bottom, interacted], dim=1)
        return self._top(interacted)

    def _interact(self, features: Tensor) -> Tensor:
        if self.config.interaction == "cat":
            return features.flatten(1)
        products = torch.bmm(features, features.transpose(1, 2))
        return products.flatten(1).index_select(1, self._pairs)

    def _top(self, hidden: Tensor) -> Tensor:
        for layer in self.top[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.top[-1](hidden)[:, 0]

    def start_anew(self, generator: torch.Generator | None = None) -> None:
        draw_layers([*self.bottom, *self.top], generator)
