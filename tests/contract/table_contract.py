"""What every kind of embedding table must do, as a mixin for test classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from screc.embeddings import TableModule


def every_row(table: TableModule) -> Tensor:
    """All rows [N, d], differentiable in the table's parameters."""
    return table.rows(torch.arange(table.num_embeddings))


def random_bags(table: TableModule, num_bags: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bags of 0 to 5 ids with repetitions, the first and the last one empty."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 6, (num_bags,), generator=generator)
    lengths[0] = lengths[-1] = 0
    offsets = torch.zeros(num_bags + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    ids = torch.randint(0, table.num_embeddings, (int(offsets[-1]),), generator=generator)
    return ids, offsets


def dense_gradients(table: TableModule) -> list[Tensor]:
    return [
        torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad.clone()
        for p in table.parameters()
    ]


class TableContract:
    """Subclasses give ``make(pooling)``: a table of the same initial rows each time."""

    def make(self, pooling: str) -> TableModule:
        raise NotImplementedError

    @pytest.fixture(params=["sum", "mean"])
    def table(self, request: pytest.FixtureRequest) -> TableModule:
        torch.set_num_threads(1)
        return self.make(request.param)

    def test_equals_embedding_bag(self, table: TableModule) -> None:
        ids, offsets = random_bags(table, 40, seed=1)
        expected = torch.nn.functional.embedding_bag(
            ids, every_row(table), offsets, mode=table.pooling, include_last_offset=True
        )
        torch.testing.assert_close(table(ids, offsets), expected)
        with torch.inference_mode():
            torch.testing.assert_close(table(ids, offsets), expected)

    def test_gradients_equal_dense_autograd(self, table: TableModule) -> None:
        ids, offsets = random_bags(table, 40, seed=2)
        weights = torch.randn(40, table.embedding_dim, generator=torch.Generator().manual_seed(3))
        (table(ids, offsets) * weights).sum().backward()
        ours = dense_gradients(table)
        assert any(gradient.abs().sum() > 0 for gradient in ours)
        table.zero_grad()
        expected = torch.nn.functional.embedding_bag(
            ids, every_row(table), offsets, mode=table.pooling, include_last_offset=True
        )
        (expected * weights).sum().backward()
        for one, other in zip(ours, dense_gradients(table), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_gradients_accumulate(self, table: TableModule) -> None:
        ids, offsets = random_bags(table, 10, seed=4)
        table(ids, offsets).sum().backward()
        once = dense_gradients(table)
        table(ids, offsets).sum().backward()
        for one, two in zip(once, dense_gradients(table), strict=True):
            torch.testing.assert_close(2 * one, two)

    def test_parameters_are_split_by_their_gradients(self, table: TableModule) -> None:
        sparse, dense = table.sparse_parameters(), table.dense_parameters()
        assert {id(p) for p in (*sparse, *dense)} == {id(p) for p in table.parameters()}
        assert len(sparse) + len(dense) == len(list(table.parameters()))
        offsets = torch.arange(table.num_embeddings + 1)
        table(torch.arange(table.num_embeddings), offsets).sum().backward()
        assert all(p.grad is not None and p.grad.is_sparse for p in sparse)
        assert all(p.grad is not None and not p.grad.is_sparse for p in dense)

    @pytest.mark.parametrize("num_bags", [0, 1, 7])
    @pytest.mark.parametrize("training", [True, False])
    def test_empty_bags(self, table: TableModule, num_bags: int, training: bool) -> None:
        ids = torch.empty(0, dtype=torch.int64)
        with torch.set_grad_enabled(training):
            pooled = table(ids, torch.zeros(num_bags + 1, dtype=torch.int64))
        assert pooled.shape == (num_bags, table.embedding_dim)
        assert not pooled.any()
        if training:
            pooled.sum().backward()

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(
        ("ids", "offsets", "error", "message"),
        [
            ([0, -1], [0, 2], ValueError, r"ids\[1\] = -1 is out of range for \d+ rows"),
            ([0, 10**9], [0, 2], ValueError, r"ids\[1\] = 1000000000 is out of range"),
            ([0, 1], [0, 1], ValueError, r"offsets: must run from 0 to the number of ids \(2\), got 0 to 1"),
            ([0, 1], [1, 2], ValueError, "got 1 to 2"),
            ([0, 1], [0, 2, 1, 2], ValueError, r"offsets\[2\] = 1 is below offsets\[1\] = 2"),
            ([0, 1], [], ValueError, "offsets: expected one entry per bag and a last one"),
            ([[0, 1]], [0, 1], ValueError, r"ids: expected 1 dimension, got shape \[1, 2\]"),
        ],
    )
    def test_bad_bags(
        self,
        table: TableModule,
        ids: list[int],
        offsets: list[int],
        error: type[Exception],
        message: str,
        training: bool,
    ) -> None:
        with torch.set_grad_enabled(training), pytest.raises(error, match=message):
            table(torch.tensor(ids, dtype=torch.int64), torch.tensor(offsets, dtype=torch.int64))

    def test_bad_dtypes(self, table: TableModule) -> None:
        ids, offsets = torch.tensor([0, 1]), torch.tensor([0, 2])
        with pytest.raises(TypeError, match=r"ids: expected torch.int64, got torch.int32"):
            table(ids.int(), offsets)
        with pytest.raises(TypeError, match=r"offsets: expected torch.int64, got torch.float32"):
            table(ids, offsets.float())

    def test_bad_pooling(self) -> None:
        with pytest.raises(ValueError, match=r"pooling must be 'sum' or 'mean', got 'max'"):
            self.make("max")

    def test_tensors_round_trip(self, table: TableModule) -> None:
        stored = {key: array.copy() for key, array in table.tensors().items()}
        before = every_row(table).detach().clone()
        with torch.no_grad():
            for parameter in table.parameters():
                parameter.add_(1.0)
        assert not torch.equal(every_row(table), before)
        for array in stored.values():
            array.flags.writeable = False
        table.load(stored)
        assert torch.equal(every_row(table), before)
        for key, array in table.tensors().items():
            np.testing.assert_array_equal(array, stored[key])

    def test_tensors_are_those_of_the_layout(self, table: TableModule) -> None:
        from screc.storage.checkpoint import tensor_specs

        specs = tensor_specs(table.layout)
        tensors = table.tensors()
        assert set(tensors) == set(specs)
        for key, array in tensors.items():
            assert array.shape == specs[key].shape
            assert array.dtype == specs[key].dtype

    def test_load_refuses_what_does_not_fit(self, table: TableModule) -> None:
        tensors = dict(table.tensors())
        key = next(k for k in tensors if not k.endswith("ids"))
        with pytest.raises(ValueError, match=f"tensor '.*{key.split('.', 2)[2]}' is .*expected float32"):
            table.load({**tensors, key: tensors[key][:1, :1]})
        with pytest.raises(ValueError, match="expected float32"):
            table.load({**tensors, key: tensors[key].astype(np.float64)})
        del tensors[key]
        with pytest.raises(ValueError, match="is missing"):
            table.load(tensors)

    def test_bytes_cover_parameters(self, table: TableModule) -> None:
        parameters = sum(p.numel() * 4 for p in table.parameters())
        index = sum(table.layout.index_bytes(b) for b in range(len(table.layout.bands)))
        assert table.num_bytes == parameters + index

    def test_same_seed_same_rows(self) -> None:
        assert torch.equal(every_row(self.make("sum")), every_row(self.make("sum")))
