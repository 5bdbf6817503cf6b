"""Rounding to a grid of integers: to nearest with the gradient passed straight through, and by chance."""

from __future__ import annotations

import torch
from torch import Tensor


def round_through(values: Tensor) -> Tensor:
    """Nearest integers; the gradient is that of the values themselves (straight-through, arXiv 1308.3432)."""
    return values + (values.round() - values).detach()


def round_by_chance(values: Tensor, generator: torch.Generator) -> Tensor:
    """The integer above with the probability of the fraction, else the one below: right on average."""
    chances = torch.rand(values.shape, generator=generator, dtype=values.dtype).to(values.device)
    return torch.floor(values + chances)


def largest_code(bits: int) -> int:
    """The largest integer of a symmetric grid of so many bits: 7 for 4."""
    return (1 << (bits - 1)) - 1


def scaled_gradient(values: Tensor, factor: Tensor | float) -> Tensor:
    """The values, with a gradient times ``factor``."""
    return (values - values * factor).detach() + values * factor
