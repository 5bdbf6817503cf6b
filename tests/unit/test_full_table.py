from __future__ import annotations

import pytest
import torch

from screc.embeddings import FullTable
from screc.storage.layout import TableLayout


def test_initial_rows_have_the_given_deviation() -> None:
    table = FullTable(TableLayout.dense("t", 5000, 16), init_std=0.05)
    assert table.weight.std().item() == pytest.approx(0.05, rel=0.02)
    assert table.weight.mean().item() == pytest.approx(0, abs=0.001)


def test_given_weight_is_used_in_place() -> None:
    weight = torch.arange(12.0).view(3, 4)
    table = FullTable(TableLayout.dense("t", 3, 4), weight=weight)
    assert table.weight.data_ptr() == weight.data_ptr()
    assert table.tensors()["band.0.rows"].ctypes.data == weight.data_ptr()
    torch.testing.assert_close(table(torch.tensor([2, 0]), torch.tensor([0, 2])), weight[2:3] + weight[0:1])


def test_given_weight_must_fit() -> None:
    layout = TableLayout.dense("t", 3, 4)
    with pytest.raises(ValueError, match=r"float32 \[4, 3\], expected torch.float32 \[3, 4\]"):
        FullTable(layout, weight=torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"weight is torch.float64"):
        FullTable(layout, weight=torch.zeros(3, 4, dtype=torch.float64))


def test_gradient_holds_each_row_once() -> None:
    table = FullTable(TableLayout.dense("t", 10, 2))
    table(torch.tensor([7, 3, 7, 7]), torch.tensor([0, 1, 4])).sum().backward()
    gradient = table.weight.grad
    assert gradient is not None
    assert gradient._indices().tolist() == [[3, 7]]
    assert gradient._values().tolist() == [[1.0, 1.0], [3.0, 3.0]]
