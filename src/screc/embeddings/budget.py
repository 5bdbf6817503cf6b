"""Solving for the size of a method that just fits into a memory budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from screc.data.log import TableSpec


class BudgetError(ValueError):
    """A method cannot be as small as asked.

    Attributes:
        smallest_bytes: the least budget that works.
    """

    def __init__(self, message: str, smallest_bytes: int) -> None:
        super().__init__(message)
        self.smallest_bytes = smallest_bytes

    @classmethod
    def below(cls, method: str, budget: int, smallest: int) -> BudgetError:
        """The error for a budget under the smallest size of a method."""
        return cls(
            f"budget: {method} cannot fit these tables into {budget} bytes; the smallest budget that works "
            f"is {smallest} bytes",
            smallest,
        )


def full_bytes(specs: Sequence[TableSpec], embedding_dim: int) -> int:
    """Bytes of every row of every table in float32: what ratios refer to."""
    return 4 * embedding_dim * sum(spec.num_embeddings for spec in specs)


def largest_within(
    cost: Callable[[int], int], budget: int, low: int, high: int, *, method: str = "the method"
) -> int:
    """The largest size in [low, high] whose cost is at most ``budget``.

    Args:
        cost: bytes of a size; never falls as the size grows.
        budget: bytes.
        low, high: sizes to choose from.
        method: named in the error.

    Raises:
        BudgetError: even ``low`` costs more.
    """
    smallest = cost(low)
    if smallest > budget:
        raise BudgetError.below(method, budget, smallest)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle - 1)
    return low
