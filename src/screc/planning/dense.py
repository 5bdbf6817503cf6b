"""The dense part of a DLRM as planning sees it: the widths of its layers and what joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseShape:
    """Shape of the MLPs and the interaction of a DLRM (arXiv 1906.00091).

    Attributes:
        num_dense: dense features of a sample.
        embedding_dim: width of the bottom MLP's output.
        table_dims: embedding dimension of each table.
        bottom, top: output widths of the MLPs; the top's last is 1.
        interaction: ``dot`` or ``cat``.
    """

    num_dense: int
    embedding_dim: int
    table_dims: tuple[int, ...]
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    interaction: str = "dot"

    @classmethod
    def of_model(cls, model: Mapping[str, Any], table_dims: Sequence[int]) -> DenseShape:
        """That of the model dict of checkpoints and artifacts, with tables of these dimensions."""
        return cls(
            num_dense=model["num_dense"],
            embedding_dim=model["embedding_dim"],
            table_dims=tuple(table_dims),
            bottom=tuple(model["bottom_mlp"]),
            top=tuple(model["top_mlp"]),
            interaction=model["interaction"],
        )

    @property
    def top_inputs(self) -> int:
        """Width of the top MLP's input: the bottom MLP's output, and pairs of features or all of them."""
        own = self.embedding_dim if self.num_dense else 0
        if self.interaction == "cat":
            return own + sum(self.table_dims)
        features = len(self.table_dims) + (1 if self.num_dense else 0)
        return own + features * (features - 1) // 2

    @property
    def layers(self) -> dict[str, list[tuple[int, int]]]:
        """(outputs, inputs) of each layer of "bottom" and "top"."""
        widths = {"bottom": (self.num_dense, *self.bottom), "top": (self.top_inputs, *self.top)}
        return {mlp: [(out, into) for into, out in pairwise(widths[mlp])] for mlp in widths}

    @property
    def flops(self) -> int:
        """Multiplications and additions per sample of both MLPs and the interaction."""
        pairs = self.top_inputs - (self.embedding_dim if self.num_dense else 0)
        interaction = 2 * pairs * self.embedding_dim if self.interaction == "dot" else 0
        return interaction + 2 * sum(out * into for mlp in self.layers.values() for out, into in mlp)
