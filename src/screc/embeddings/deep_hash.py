"""Deep hash embedding: a network makes rows of hash codes, nothing is stored by id (arXiv 2010.10784)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from screc.embeddings.budget import largest_within
from screc.embeddings.hashing import mix
from screc.embeddings.method import Brief, ByteCount, register
from screc.embeddings.per_table import PerTable, Rows, WholeRows

_HIDDEN = 5  # layers before the last (section 3.2)


class DecodedRows(Rows):
    """``num_hashes`` numbers in [-1, 1) by hash, through five hidden layers with Mish.

    The paper normalises every hidden layer over the batch. Here it is over the layer's units: a row must not
    depend on the other rows that it is looked up with.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_hashes: int,
        width: int,
        *,
        salt: int,
        init_std: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.num_hashes = num_hashes
        self.register_buffer("salt", torch.tensor(salt))
        layers: list[nn.Module] = []
        for inputs in (num_hashes, *[width] * (_HIDDEN - 1)):
            layers += [nn.utils.skip_init(nn.Linear, inputs, width), nn.LayerNorm(width), nn.Mish()]
        layers.append(nn.utils.skip_init(nn.Linear, width, embedding_dim))
        self.network = nn.Sequential(*layers)
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                last = layer is self.network[-1]
                std = init_std / math.sqrt(width) * 2 if last else math.sqrt(2 / layer.in_features)
                nn.init.normal_(layer.weight, 0.0, std, generator=generator)
                nn.init.zeros_(layer.bias)

    def rows(self, ids: Tensor) -> Tensor:
        number = torch.arange(self.num_hashes, device=ids.device)
        codes = mix(ids[:, None] * self.num_hashes + number, self.salt) >> 40  # 24 bits, with their sign
        return self.network(codes.to(self.network[0].weight.dtype) / (1 << 23))

    def bytes_when_served(self) -> ByteCount:
        return ByteCount(parameters=4 * sum(p.numel() for p in self.parameters()))


def decoder_numbers(embedding_dim: int, num_hashes: int, width: int) -> int:
    """Parameters of a decoder of this width."""
    first = (num_hashes + 1) * width
    hidden = (_HIDDEN - 1) * (width + 1) * width
    return first + hidden + 2 * _HIDDEN * width + (width + 1) * embedding_dim


@register
class DeepHash(PerTable):
    """One network a table, all of the same width; tables that it would not make smaller stay whole."""

    name = "dhe"

    @classmethod
    def fit(cls, brief: Brief, *, num_hashes: int = 1024) -> DeepHash:
        """See :meth:`Method.fit`; the option is ``num_hashes``, k in the paper."""
        if num_hashes < 1:
            raise ValueError(f"num_hashes must be at least 1, got {num_hashes}")
        sizes = [spec.num_embeddings * brief.embedding_dim for spec in brief.specs]

        def numbers(width: int) -> list[int]:
            decoder = decoder_numbers(brief.embedding_dim, num_hashes, width)
            return [min(whole, decoder) for whole in sizes]

        width = largest_within(lambda w: 4 * sum(numbers(w)), brief.budget, 1, 1 << 14, method=cls.name)
        tables: list[Rows] = []
        for spec, whole, taken in zip(brief.specs, sizes, numbers(width), strict=True):
            if taken == whole:
                tables.append(
                    WholeRows(spec.num_embeddings, brief.embedding_dim, brief.init_std, brief.generator)
                )
                continue
            salt = brief.salt()
            tables.append(
                DecodedRows(
                    brief.embedding_dim,
                    num_hashes,
                    width,
                    salt=salt,
                    init_std=brief.init_std,
                    generator=brief.generator,
                )
            )
        return cls(brief.specs, brief.embedding_dim, tables)
