from __future__ import annotations

import numpy as np
import pytest
import torch

from screc.training.optimizers import (
    OPTIMIZERS,
    dense_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    table_optimizer,
)


def sparse(rows: list[int], values: torch.Tensor, size: int) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), values, (size, values.shape[1]), check_invariants=False
    )


def gradients(steps: int, size: int) -> list[tuple[list[int], torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    result = []
    for step in range(steps):
        count = [5, 1, 0, 8][step % 4]
        # Repeated and unsorted rows: they must be summed before they are squared.
        rows = torch.randint(0, size, (count,), generator=generator).tolist()
        result.append((rows, torch.randn(count, 3, generator=generator)))
    return result


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_equals_the_dense_optimizer(name: str) -> None:
    start = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    ours, dense = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    row, reference = (
        table_optimizer(name, [ours], 0.1),
        {
            "sgd": torch.optim.SGD,
            "adagrad": torch.optim.Adagrad,
        }[name]([dense], lr=0.1),
    )
    for rows, values in gradients(12, 10):
        ours.grad = sparse(rows, values, 10)
        dense.grad = torch.zeros(10, 3).index_add_(0, torch.tensor(rows, dtype=torch.int64), values)
        row.step()
        reference.step()
        torch.testing.assert_close(ours, dense)


def test_adam_equals_torch_sparse_adam() -> None:
    start = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    ours, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    row, reference = table_optimizer("adam", [ours], 0.1), torch.optim.SparseAdam([other], lr=0.1)
    for rows, values in gradients(12, 10):
        if not rows:
            continue  # torch counts a step for no rows at all, we do not
        ours.grad, other.grad = sparse(rows, values, 10), sparse(rows, values, 10)
        row.step()
        reference.step()
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_untouched_rows_stay(name: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(6, 3))
    optimizer = table_optimizer(name, [parameter], 0.1)
    for _ in range(3):
        parameter.grad = sparse([4, 1], torch.ones(2, 3), 6)
        optimizer.step()
    changed = (parameter != 1).any(dim=1)
    assert changed.tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dense_gradient_is_refused(name: str) -> None:
    parameter = torch.nn.Parameter(torch.ones(6, 3))
    optimizer = table_optimizer(name, [parameter], 0.1)
    parameter.grad = torch.ones(6, 3)
    with pytest.raises(TypeError, match=r"takes sparse gradients, got a dense one of shape \[6, 3\]"):
        optimizer.step()


@pytest.mark.parametrize("make", [table_optimizer, dense_optimizer])
def test_bad_arguments(make) -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match="unknown 'lion'; choose one of sgd, adagrad, adam"):
        make("lion", [parameter], 0.1)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="learning rate must be positive"):
            make("sgd", [parameter], rate)


def test_no_tables_no_optimizer() -> None:
    assert table_optimizer("sgd", [], 0.1) is None


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["dense", "table"])
def test_state_round_trip_goes_on_with_the_same_bits(name: str, kind: str) -> None:
    make = {"dense": dense_optimizer, "table": table_optimizer}[kind]

    def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, number: int) -> None:
        rows, values = gradients(4, 10)[number % 4]
        gradient = sparse(rows, values, 10)
        parameter.grad = gradient.to_dense() if kind == "dense" else gradient
        optimizer.step()

    whole = torch.nn.Parameter(torch.ones(10, 3))
    reference = make(name, [whole], 0.1)
    for number in range(4):
        step(whole, reference, number)
    resumed = torch.nn.Parameter(whole.detach().clone())
    other = make(name, [resumed], 0.1)
    stored = {key: array.copy() for key, array in optimizer_tensors(reference).items()}
    load_optimizer_tensors(other, stored)
    for number in range(4, 9):
        step(whole, reference, number)
        step(resumed, other, number)
    assert torch.equal(whole, resumed)


def test_state_of_other_parameters_is_refused() -> None:
    optimizer = table_optimizer("adagrad", [torch.nn.Parameter(torch.ones(2, 2))], 0.1)
    with pytest.raises(ValueError, match=r"'1.sum' belongs to none of 1 parameters"):
        load_optimizer_tensors(optimizer, {"1.sum": np.zeros((2, 2), dtype=np.float32)})
    with pytest.raises(ValueError, match=r"'0.sum' has shape \[3, 2\], its parameter \[2, 2\]"):
        load_optimizer_tensors(optimizer, {"0.sum": np.zeros((3, 2), dtype=np.float32)})
