from __future__ import annotations

import numpy as np
import pytest
import torch

from screc.embeddings import TensorTrain
from screc.storage.layout import TtShape


def reference_row(tensors: dict[str, np.ndarray], shape: TtShape, row: int) -> np.ndarray:
    """The row by the definition in docs/format.md, one index at a time."""
    digits = []
    for factor in reversed(shape.row_factors):
        digits.insert(0, row % factor)
        row //= factor
    product = np.ones((1, 1))
    for k, digit in enumerate(digits):
        core = tensors[f"band.0.tt.{k}"].astype(np.float64)
        product = np.einsum("mr,rqs->mqs", product, core[:, digit]).reshape(-1, core.shape[3])
    return product[:, 0]


@pytest.mark.parametrize(
    "shape",
    [
        TtShape(row_factors=(3, 4, 5), col_factors=(2, 2, 4), ranks=(1, 3, 5, 1)),
        TtShape(row_factors=(6, 7), col_factors=(3, 2), ranks=(1, 4, 1)),
        TtShape(row_factors=(2, 3, 2, 4), col_factors=(1, 2, 2, 3), ranks=(1, 2, 4, 3, 1)),
        TtShape(row_factors=(1, 8), col_factors=(4, 1), ranks=(1, 1, 1)),
    ],
)
def test_rows_follow_the_definition(shape: TtShape) -> None:
    table = TensorTrain(TensorTrain.layout_of("t", shape.num_rows, shape), init_std=1.0)
    tensors = dict(table.tensors())
    expected = np.stack([reference_row(tensors, shape, row) for row in range(shape.num_rows)])
    rows = table.rows(torch.arange(shape.num_rows)).detach().numpy()
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    # Any subset in any order, repetitions too, gives the same rows.
    some = torch.tensor([shape.num_rows - 1, 0, 5, 5, 1])
    np.testing.assert_allclose(table.rows(some).detach().numpy(), expected[some], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tt_rank", [1, 8, 32])
@pytest.mark.parametrize("num_cores", [2, 3, 4])
def test_initial_rows_have_the_given_deviation(tt_rank: int, num_cores: int) -> None:
    shape = TtShape.balanced(20_000, 16, tt_rank, num_cores)
    deviations = []
    for seed in range(8 if tt_rank == 1 else 2):
        generator = torch.Generator().manual_seed(seed)
        layout = TensorTrain.layout_of("t", 20_000, shape)
        table = TensorTrain(layout, init_std=0.05, generator=generator)
        with torch.no_grad():
            deviations.append(table.rows(torch.arange(20_000)).std().item())
    # The trap of scaling without regard to the TT rank misses this by factors of 10 to 400.
    assert np.sqrt(np.mean(np.square(deviations))) == pytest.approx(0.05, rel=0.1)


def test_core_entries_keep_away_from_zero() -> None:
    shape = TtShape.balanced(1000, 16, 8)
    table = TensorTrain(TensorTrain.layout_of("t", 1000, shape), init_std=0.1)
    for core in table.cores:
        magnitude = core.detach().abs()
        assert magnitude.min() > 0.3 * magnitude.mean()
        assert (core > 0).float().mean().item() == pytest.approx(0.5, abs=0.2)


def test_shared_prefixes_do_not_change_gradients() -> None:
    shape = TtShape.balanced(100, 4, 3)
    table = TensorTrain(TensorTrain.layout_of("t", 100, shape), init_std=1.0)
    ids = torch.arange(100)
    table.rows(ids).square().sum().backward()
    together = [core.grad.clone() for core in table.cores]
    table.zero_grad()
    for row in ids:
        table.rows(row[None]).square().sum().backward()
    for one, other in zip(together, table.cores, strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-4, atol=1e-4)
