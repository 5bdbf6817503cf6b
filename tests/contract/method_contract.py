"""What every compression method must do, as a mixin for test classes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from screc.data.log import TableSpec
from screc.embeddings import BudgetError, Method, make_method
from screc.embeddings.budget import full_bytes

SPECS = (
    TableSpec("clicks", 3000),
    TableSpec("country", 7),
    TableSpec("history", 900, "mean"),
    TableSpec("one", 1),
)
DIM = 8


def zipf_counts() -> list[np.ndarray]:
    """Look-ups of each id of the tables, a few ids most of them."""
    generator = np.random.default_rng(0)
    return [generator.permutation(1000 // np.arange(1, s.num_embeddings + 1) + 1) for s in SPECS]


def batch(seed: int, size: int = 40) -> tuple[Tensor, Tensor]:
    """Bags of 0 to 3 ids of every table, with repetitions."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 4, (len(SPECS), size), generator=generator)
    offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int64)
    torch.cumsum(lengths.flatten(), 0, out=offsets[1:])
    ids = [
        torch.randint(0, spec.num_embeddings, (int(total),), generator=generator)
        for spec, total in zip(SPECS, lengths.sum(dim=1), strict=True)
    ]
    return torch.cat(ids), offsets


def dense_gradients(method: Method) -> list[Tensor]:
    return [
        torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad.clone()
        for p in method.parameters()
    ]


def step(method: Method, seed: int, lr: float = 0.1) -> float:
    """One step of plain gradient descent towards a fixed random target, with all hooks; its loss."""
    device = method._starts.device
    ids, offsets = (tensor.to(device) for tensor in batch(seed, size=200))
    target = torch.randn(200, len(SPECS), DIM, generator=torch.Generator().manual_seed(9)).to(device)
    parameters = [p for p in (*method.sparse_parameters(), *method.dense_parameters()) if p.requires_grad]
    method.zero_grad()
    loss = (method(ids, offsets) - target).square().sum(dim=(1, 2)).mean()
    extra = method.extra_loss()
    (loss if extra is None else loss + extra).backward()
    method.after_backward()
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter -= lr * (parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad)
    method.after_step()
    return float(loss.detach())


class MethodContract:
    """Subclasses give ``name``, ``ratios`` that the method reaches on these tables, and its ``options``."""

    name: ClassVar[str]
    ratios: ClassVar[tuple[float, ...]]
    options: ClassVar[dict[str, Any]] = {}
    #: The gradient is that of what is looked up (false where it is passed straight through rounding).
    exact_gradients: ClassVar[bool] = True

    def make(self, ratio: float | None = None, seed: int = 0, **options: Any) -> Method:
        torch.set_num_threads(1)
        return make_method(
            self.name,
            SPECS,
            DIM,
            ratio=self.ratios[0] if ratio is None else ratio,
            counts=zipf_counts(),
            seed=seed,
            **self.options | options,
        )

    def test_keeps_every_budget_it_claims(self) -> None:
        whole = full_bytes(SPECS, DIM)
        for ratio in self.ratios:
            method = self.make(ratio)
            assert method.footprint().serving.total <= whole / ratio
            assert method.ratio >= ratio * (1 - 1e-9)
            if method.trains_within_budget:
                assert method.footprint().training.total <= whole / ratio

    def test_counts_at_least_its_parameters(self) -> None:
        method = self.make()
        parameters = sum(p.numel() * p.element_size() for p in method.parameters())
        assert method.footprint().training.total >= parameters

    def test_names_the_smallest_budget_and_reaches_it(self) -> None:
        with pytest.raises(BudgetError, match=r"smallest budget that works is \d+ bytes") as caught:
            make_method(self.name, SPECS, DIM, budget=0, counts=zipf_counts(), **self.options)
        smallest = caught.value.smallest_bytes
        method = make_method(self.name, SPECS, DIM, budget=smallest, counts=zipf_counts(), **self.options)
        assert method.footprint().serving.total <= smallest
        with pytest.raises(BudgetError):
            make_method(self.name, SPECS, DIM, budget=smallest - 1, counts=zipf_counts(), **self.options)

    def test_pools_as_embedding_bag(self) -> None:
        method, (ids, offsets) = self.make(), batch(1)
        pooled = method(ids, offsets)
        assert pooled.shape == (40, len(SPECS), DIM)
        for table, spec in enumerate(SPECS):
            own = offsets[table * 40 : table * 40 + 41]
            expected = torch.nn.functional.embedding_bag(
                ids[own[0] : own[-1]],
                method.every_row(table),
                own - own[0],
                mode=spec.pooling,
                include_last_offset=True,
            )
            torch.testing.assert_close(pooled[:, table], expected)
            with torch.inference_mode():
                torch.testing.assert_close(
                    method.bags(table, ids[own[0] : own[-1]], own - own[0]), expected.detach()
                )

    def test_weighs_look_ups(self) -> None:
        method = self.make()
        ids, offsets = torch.tensor([5, 2, 5]), torch.tensor([0, 2, 2, 3])
        weights = torch.tensor([0.5, -1.0, 3.0])
        rows = method.every_row(0)
        expected = torch.stack([0.5 * rows[5] - rows[2], torch.zeros(DIM), 3 * rows[5]])
        torch.testing.assert_close(method.bags(0, ids, offsets, weights=weights), expected)
        with pytest.raises(ValueError, match="only sums can be weighted"):
            method.bags(2, ids, offsets, weights=weights)

    def test_gradients_equal_those_of_dense_rows(self) -> None:
        method, (ids, offsets) = self.make(), batch(2)
        if not list(method.parameters()):
            pytest.skip("it updates its rows itself")
        weights = torch.randn(40, len(SPECS), DIM, generator=torch.Generator().manual_seed(3))
        (method(ids, offsets) * weights).sum().backward()
        ours = dense_gradients(method)
        assert any(bool(gradient.abs().sum() > 0) for gradient in ours)
        method.zero_grad()
        total = torch.zeros(())
        for table, spec in enumerate(SPECS):
            own = offsets[table * 40 : table * 40 + 41]
            pooled = torch.nn.functional.embedding_bag(
                ids[own[0] : own[-1]],
                method.every_row(table),
                own - own[0],
                mode=spec.pooling,
                include_last_offset=True,
            )
            total = total + (pooled * weights[:, table]).sum()
        total.backward()
        for one, other in zip(ours, dense_gradients(method), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    def test_gradients_equal_finite_differences(self) -> None:
        if not self.exact_gradients:
            pytest.skip("its gradients are passed straight through a rounding")
        method, (ids, offsets) = self.make().double(), batch(4, size=6)
        weights = torch.randn(
            6, len(SPECS), DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64
        )

        def loss() -> Tensor:
            return (method(ids, offsets) * weights).sum()

        loss().backward()
        gradients = dense_gradients(method)
        generator = torch.Generator().manual_seed(6)
        for parameter, gradient in zip(method.parameters(), gradients, strict=True):
            if not parameter.requires_grad or not parameter.numel():
                continue
            direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                parameter += 1e-6 * direction
                above = float(loss())
                parameter -= 2e-6 * direction
                below = float(loss())
                parameter += 1e-6 * direction
            assert (above - below) / 2e-6 == pytest.approx(
                float((gradient * direction).sum()), rel=1e-4, abs=1e-6
            )

    def test_dense_gradients_where_they_are_asked_for(self) -> None:
        method, (ids, offsets) = self.make(), batch(2)
        method.sparse = False
        method(ids, offsets).sum().backward()
        assert all(p.grad is None or not p.grad.is_sparse for p in method.parameters())

    def test_parameters_are_split_by_their_gradients(self) -> None:
        method, (ids, offsets) = self.make(), batch(2, size=400)
        parts = (
            method.sparse_parameters(),
            method.dense_parameters(),
            method.architecture_parameters(),
        )
        every = [id(p) for part in parts for p in part]
        assert len(set(every)) == len(every)
        assert set(every) == {id(p) for p in method.parameters()}
        method(ids, offsets).sum().backward()
        assert all(p.grad is None or p.grad.is_sparse for p in parts[0])
        assert all(p.grad is None or not p.grad.is_sparse for p in parts[1])

    def test_learns(self) -> None:
        method = self.make()
        for stage in method.stages:
            method.begin(stage)
            losses = [step(method, seed=number % 5) for number in range(60)]
            assert np.isfinite(losses).all()
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
        method.finish()
        assert bool(torch.isfinite(method(*batch(1))).all())
        assert method.footprint().serving.total <= full_bytes(SPECS, DIM) / self.ratios[0]

    def test_the_seed_decides_everything(self) -> None:
        ones, others = self.make(seed=3), self.make(seed=3)
        for _ in range(3):
            step(ones, 1)
            step(others, 1)
        for table in range(len(SPECS)):
            assert torch.equal(ones.every_row(table), others.every_row(table))
        assert not torch.equal(self.make(seed=4).every_row(0), self.make(seed=3).every_row(0))

    def test_its_state_is_all_of_it(self) -> None:
        trained, fresh = self.make(seed=3), self.make(seed=4)
        for number in range(5):
            step(trained, number)
        state = {key: value.clone() for key, value in trained.state_dict().items()}
        fresh.load_state_dict(state)
        for table in range(len(SPECS)):
            assert torch.equal(trained.every_row(table), fresh.every_row(table))
        step(trained, 7)
        step(fresh, 7)
        for table in range(len(SPECS)):
            assert torch.equal(trained.every_row(table), fresh.every_row(table))

    def test_empty_batches_and_bags(self) -> None:
        method = self.make()
        nothing = torch.empty(0, dtype=torch.int64)
        assert method(nothing, torch.zeros(1, dtype=torch.int64)).shape == (0, len(SPECS), DIM)
        pooled = method(nothing, torch.zeros(3 * len(SPECS) + 1, dtype=torch.int64))
        assert pooled.shape == (3, len(SPECS), DIM)
        assert not pooled.any()
        pooled.sum().backward()

    def test_names_bad_ids(self) -> None:
        method = self.make()
        offsets = torch.arange(len(SPECS) + 1)
        with pytest.raises(
            ValueError, match=r"ids\[1\] = 7 is out of range for table 1 \(country\) with 7 rows"
        ):
            method(torch.tensor([0, 7, 0, 0]), offsets)
        with pytest.raises(ValueError, match=r"ids\[0\] = -1 is out of range"):
            method(torch.tensor([-1, 0, 0, 0]), offsets)
        with pytest.raises(TypeError, match=r"ids: expected torch\.int64"):
            method(torch.tensor([0, 0, 0, 0], dtype=torch.int32), offsets)

    def test_refuses_unknown_options(self) -> None:
        with pytest.raises((TypeError, ValueError), match="colour"):
            self.make(colour="red")
